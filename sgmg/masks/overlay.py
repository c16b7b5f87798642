"""Masks drawn over frames, and frames laid out on labelled sheets."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

# distinguishable also with impaired colour vision (Okabe and Ito, 2008)
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
PALETTE += tuple((r // 2, g // 2, b // 2) for r, g, b in PALETTE)


def draw_masks(
    frame: Pixels,
    masks: NDArray[np.bool_],
    colours: Sequence[Colour] = PALETTE,
    *,
    opacity: float = 0.45,
) -> Pixels:
    """Tint each mask and outline it.

    Args:
        frame: RGB, [H, W, 3].
        masks: one a colour, [K, H, W]; later masks lie on top.
        colours: RGB, used in turn.
        opacity: of the tint, 0 to 1; outlines are opaque.

    Returns:
        A new RGB image [H, W, 3].
    """
    out = frame.astype(np.float32)
    for k, mask in enumerate(masks):
        colour = np.asarray(colours[k % len(colours)], np.float32)
        out[mask] = (1 - opacity) * out[mask] + opacity * colour
        out[mask & ~ndimage.binary_erosion(mask)] = colour
    return out.round().astype(np.uint8)


def draw_legend(frame: Pixels, lines: Sequence[str], colours: Sequence[Colour]) -> Pixels:
    """Write lines in the upper left corner, each beside its colour.

    Args:
        frame: RGB, [H, W, 3].
        lines: One a colour; cut where the frame ends.
        colours: RGB, used in turn.

    Returns:
        A new RGB image [H, W, 3].
    """
    image = Image.fromarray(frame)
    pen = ImageDraw.Draw(image, "RGBA")
    size = max(9, min(frame.shape[:2]) // 26)
    font = _font(size)
    for k, (line, colour) in enumerate(zip(lines, cycle(colours), strict=False)):
        top = round((0.3 + 1.5 * k) * size)
        width = 1.9 * size + font.getlength(line)
        pen.rectangle((0, top - 0.2 * size, width, top + 1.3 * size), (0, 0, 0, 150))
        pen.rectangle((0.3 * size, top, 1.3 * size, top + size), colour)
        pen.text((1.6 * size, top - 0.1 * size), line, "white", font)
    return np.asarray(image)


def sheet(
    rows: Sequence[Sequence[Pixels]],
    labels: Sequence[str],
    *,
    height: int = 120,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Lay images out in labelled rows.

    Args:
        rows: RGB images [H, W, 3] of each row, any sizes.
        labels: one a row, written above it.
        height: of every image on the sheet, pixels.
        notes: lines written below.

    Returns:
        The sheet as an RGB image.

    Raises:
        ValueError: rows and labels differ in number, or there are none.
    """
    if not rows or len(rows) != len(labels):
        raise ValueError(f"a sheet needs one label a row: {len(rows)} rows, {len(labels)} labels")
    font, even = _font(14), _font(12, "DejaVuSansMono")  # notes are tables: columns must stand
    gap, caption = 4, 20
    scaled = [[_scale(image, height) for image in row] for row in rows]
    width = max(sum(i.width + gap for i in row) for row in scaled)
    lines = [font.getlength(line) for line in labels] + [even.getlength(line) for line in notes]
    width = max(width, int(max(lines)) + 2 * gap)
    total = len(rows) * (height + caption + gap)
    canvas = Image.new("RGB", (width + gap, total + len(notes) * caption), "white")
    pen = ImageDraw.Draw(canvas)
    for r, (row, label) in enumerate(zip(scaled, labels, strict=True)):
        top = r * (height + caption + gap)
        pen.text((gap, top + 2), label, fill="black", font=font)
        left = gap
        for image in row:
            canvas.paste(image, (left, top + caption))
            left += image.width + gap
    for n, note in enumerate(notes):
        pen.text((gap, total + n * caption + 2), note, fill="black", font=even)
    return canvas


def _font(size: float, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """Letters of Latin, Greek and Cyrillic; `size` in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", f"{name}.ttf"), size)


def _scale(image: Pixels, height: int) -> Image.Image:
    picture = Image.fromarray(image)
    return picture.resize((max(1, round(picture.width * height / picture.height)), height))
