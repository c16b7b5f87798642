"""Masks drawn over frames, and the legend that says which colour is which."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from sgmg.masks.fonts import load_font

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

# distinguishable also with impaired colour vision (Okabe and Ito, 2008)
OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
# from the eighth mask on the same colours at half the brightness
PALETTE = OKABE_ITO + tuple((red // 2, green // 2, blue // 2) for red, green, blue in OKABE_ITO)

MIN_FONT_PX = 9  # smaller letters cannot be read
FONTS_PER_SIDE = 26  # legend lines, without gaps, that would fill the shorter side of a frame
LEGEND_SHADE = (0, 0, 0, 150)  # translucent black: light letters stay readable on any frame


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
        masks: One a colour, [K, H, W]; later masks lie on top.
        colours: RGB, used in turn.
        opacity: Share of the tint in a pixel, 0 to 1; outlines are opaque.

    Returns:
        A new RGB image [H, W, 3].
    """
    picture = frame.astype(np.float32)
    for mask, rgb in zip(masks, cycle(colours), strict=False):
        colour = np.asarray(rgb, np.float32)
        outline = mask & ~ndimage.binary_erosion(mask)
        picture[mask] = (1 - opacity) * picture[mask] + opacity * colour
        picture[outline] = colour
    return picture.round().astype(np.uint8)


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
    size = max(MIN_FONT_PX, min(frame.shape[:2]) // FONTS_PER_SIDE)
    font = load_font(size)
    # all distances are in heights of a letter, so a legend looks alike on any frame
    for index, (line, colour) in enumerate(zip(lines, cycle(colours), strict=False)):
        top = round((0.3 + 1.5 * index) * size)
        width = 1.9 * size + font.getlength(line)
        shade = (0, top - 0.2 * size, width, top + 1.3 * size)
        swatch = (0.3 * size, top, 1.3 * size, top + size)
        pen.rectangle(shade, LEGEND_SHADE)
        pen.rectangle(swatch, colour)
        pen.text((1.6 * size, top - 0.1 * size), line, "white", font)
    return np.asarray(image)
