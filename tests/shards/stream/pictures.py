"""Pictures for the tests of pixels."""

import numpy as np
from PIL import Image

SIZE = (48, 64)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth picture, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))
