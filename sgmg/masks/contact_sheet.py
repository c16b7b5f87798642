"""Contact sheets: images laid out in labelled rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sgmg.masks.fonts import MONOSPACE, load_font

Pixels = NDArray[np.uint8]

GAP_PX = 4  # between images and around labels
LINE_PX = 20  # a label above its row, or a line of the notes
LABEL_FONT_PX = 14
NOTE_FONT_PX = 12


def contact_sheet(
    rows: Sequence[Sequence[Pixels]],
    labels: Sequence[str],
    *,
    height: int = 120,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Lay images out in labelled rows.

    Args:
        rows: RGB images [H, W, 3] of each row, any sizes.
        labels: One a row, written above it.
        height: Every image is scaled to this height, in pixels.
        notes: Lines written below the last row.

    Returns:
        The sheet as an RGB image.

    Raises:
        ValueError: Rows and labels differ in number, or there are none.
    """
    if not rows or len(rows) != len(labels):
        raise ValueError(f"a sheet needs one label a row: {len(rows)} rows, {len(labels)} labels")
    label_font = load_font(LABEL_FONT_PX)
    note_font = load_font(NOTE_FONT_PX, MONOSPACE)  # notes are tables: columns must stand
    pictures = [[_scale_to_height(image, height) for image in row] for row in rows]

    row_height = LINE_PX + height + GAP_PX
    row_widths = [sum(picture.width + GAP_PX for picture in row) for row in pictures]
    text_widths = [label_font.getlength(label) for label in labels]
    text_widths += [note_font.getlength(note) for note in notes]
    width = max(*row_widths, int(max(text_widths)) + 2 * GAP_PX)
    notes_top = len(rows) * row_height

    size = (width + GAP_PX, notes_top + len(notes) * LINE_PX)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for index, (row, label) in enumerate(zip(pictures, labels, strict=True)):
        top = index * row_height
        pen.text((GAP_PX, top + 2), label, fill="black", font=label_font)
        left = GAP_PX
        for picture in row:
            canvas.paste(picture, (left, top + LINE_PX))
            left += picture.width + GAP_PX
    for index, note in enumerate(notes):
        top = notes_top + index * LINE_PX
        pen.text((GAP_PX, top + 2), note, fill="black", font=note_font)
    return canvas


def _scale_to_height(image: Pixels, height: int) -> Image.Image:
    """Resize an RGB image [H, W, 3], keeping its shape; at least one pixel wide."""
    picture = Image.fromarray(image)
    width = round(picture.width * height / picture.height)
    return picture.resize((max(1, width), height))
