"""From scores of single expressions to the tables of a benchmark. Nothing here knows a data set."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgmg.evaluation.metrics import RankedMasks, average_precision, box_precision, overlap_summary

MOST_VIDEOS = 60  # a table names each video up to so many
LENGTHS = {4: "up to 4 words", 8: "5 to 8 words", 999: "more than 8 words"}
AREAS = {0.02: "object below 2 % of the frame", 0.1: "object 2 to 10 %", 1: "object above 10 %"}
MOTION = re.compile(
    r"\b((mov|walk|run|jump|turn|fly|rid|driv|climb|danc|fall|roll|rotat|spin|chas|follow|leav|com|"
    r"go|throw|juggl|swing|slid|crawl|swim|shak|approach|enter)\w?(s|es|ed|ing)|motion)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one expression (and frame, where single frames count); JSON-able.

    Args:
        video: Name.
        expression: Id within the video.
        text: The words.
        kind: Tag, such as the annotator.
        frame: Its name where single frames count.
        area: Share of the frame that the object takes, on average where it is to be seen.
        folder: Of its masks.
        label: Value of its pixels in a label map, 0 where masks are binary.
        scores: `j`, `f` (0 to 1) and others, or `intersections` and `unions` in pixels.
        ranked: Fields of `RankedMasks`, `boxes` and `truth_box`, where candidates are ranked.
    """

    video: str
    expression: str
    text: str
    kind: str
    frame: str = ""
    area: float
    folder: str
    label: int = 0
    scores: Mapping[str, float]
    ranked: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def quality(self) -> float:
        """Mean of J and F, or IoU; 0 to 1."""
        if "j" in self.scores:
            return (self.scores["j"] + self.scores["f"]) / 2
        return self.scores["intersections"] / self.scores["unions"]


def averages(rows: Sequence[Row]) -> dict[str, float]:
    """Scores of a group, per cent, by the names that tables show; NaN counts for nothing."""
    columns = {name: np.array([row.scores[name] for row in rows]) for name in rows[0].scores}
    if "unions" in columns:
        return {name: 100 * value for name, value in overlap_summary(**columns).items()}
    means = {
        name: 100 * float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
        for name, values in columns.items()
    }
    j, f = means.pop("j"), means.pop("f")
    return {"J": j, "F": f, "J&F": (j + f) / 2, **means}


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """The benchmark's numbers, per cent; `appearance+side` and `motion` where kinds are these."""
    scores = averages(rows)
    if rows[0].ranked:
        codes = [RankedMasks(*(row.ranked[n] for n in ("rles", "scores", "truth"))) for row in rows]
        precision = average_precision(codes)
        if all("boxes" in row.ranked for row in rows):
            names = ("boxes", "scores", "truth_box")
            precision |= box_precision(*(torch.tensor([r.ranked[n] for r in rows]) for n in names))
        return {n: 100 * value for n, value in precision.items() if value >= 0} | scores
    scores["shuffled"] = scores.pop("control", float("nan"))
    for name, kinds in (("appearance+side", {"appearance", "side"}), ("motion", {"motion"})):
        if some := [row for row in rows if row.kind in kinds]:
            scores[name] = averages(some)["J&F"]
    return scores


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown lines: each video if they are few, each kind, all."""
    videos, kinds, groups = defaultdict(list), defaultdict(list), {"all": rows}
    for row in rows:
        videos[row.video].append(row)
        if row.kind:
            kinds[f"kind {row.kind}"].append(row)
    return _lines({**(videos if len(videos) <= MOST_VIDEOS else {}), **kinds, **groups})


def inspection(rows: Sequence[Row]) -> list[str]:
    """The same by length of the expression, size of the object and presence of motion words."""
    groups: dict[str, list[Row]] = {
        name: [] for name in (*LENGTHS.values(), *AREAS.values(), "motion word", "no motion word")
    }
    for row in rows:
        for classes, value in ((LENGTHS, len(row.text.split())), (AREAS, row.area)):
            groups[next(name for limit, name in classes.items() if value <= limit)].append(row)
        groups["motion word" if MOTION.search(row.text) else "no motion word"].append(row)
    return _lines({name: some for name, some in groups.items() if some})


def _lines(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    means = {name: averages(rows) for name, rows in groups.items()}
    lines = [["", "expressions", *next(iter(means.values()))]]
    for name, scores in means.items():
        lines.append([name, str(len(groups[name])), *(f"{x:.1f}" for x in scores.values())])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    for line in lines:
        line[:] = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
    return [f"| {' | '.join(line)} |" for line in lines]


def write_report(out: Path, rows: Sequence[Row]) -> list[str]:
    """Write `expressions.csv`, `summary.json`, `summary.txt` and `table.md`.

    Args:
        out: Folder.
        rows: At least one.

    Returns:
        Lines for the terminal; the last is the summary.
    """
    names = ("video", "expression", "text", "kind", "frame", "area")
    with (out / "expressions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, *rows[0].scores])
        writer.writeheader()
        writer.writerows({n: getattr(row, n) for n in names} | dict(row.scores) for row in rows)
    scores, lines = summarise(rows), table(rows)
    (out / "summary.json").write_text(json.dumps(scores, indent=1) + "\n")
    summary = " ".join(f"{n} {x:.1f}" for n, x in scores.items() if n not in {"J", "F"})
    (out / "summary.txt").write_text(summary + "\n")
    parts = [*lines, "", *inspection(rows), "", summary]
    (out / "table.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    return [*lines, summary]
