"""The fonts that pictures are labelled with."""

from pathlib import Path

import matplotlib
from PIL import ImageFont

PROPORTIONAL = "DejaVuSans"
MONOSPACE = "DejaVuSansMono"


def load_font(size_px: float, name: str = PROPORTIONAL) -> ImageFont.FreeTypeFont:
    """Load a font with Latin, Greek and Cyrillic letters.

    Pillow's own font has Latin letters only; matplotlib, which is there anyway, ships DejaVu.
    """
    path = Path(matplotlib.get_data_path(), "fonts/ttf", f"{name}.ttf")
    return ImageFont.truetype(path, size_px)
