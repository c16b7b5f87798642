"""Tables of text for a terminal."""

from collections.abc import Iterable, Sequence


def format_table(lines: Iterable[Sequence[object]]) -> str:
    """Lay out cells in columns, with a rule below the first line; ends with an empty line."""
    cells = [[str(cell) for cell in line] for line in lines]
    columns = list(zip(*cells, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    rows = []
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        rows.append("  ".join(padded))
    rule = "-" * len(rows[0])
    return "\n".join([rows[0], rule, *rows[1:], ""])
