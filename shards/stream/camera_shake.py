"""Clips made of images: each frame is the image, seen by a camera that shook.

The pixels of a shaken frame are made in `reshape.py`; nothing here needs torch.
"""

import math

import numpy as np
import numpy.typing as npt

from shards.format.rle import BoolArray
from shards.stream.order import Draws
from shards.stream.transform import Shake, Size

FloatArray = npt.NDArray[np.float64]

# The published ranges; each is drawn evenly from -MAX to MAX.
MAX_ROTATION_DEG = 20.0
MAX_SHIFT = 0.1  # share of a side
MAX_CORNER_SHIFT = 0.08  # share of a side
MAX_BRIGHTNESS = 40.0  # grey levels
MAX_TINT = 5.0  # hue and saturation, of 255
BLUR_LENGTHS_PX = (9, 11)
BLUR_PROBABILITY = 0.25

# what a shake does to colours
ONLY_BRIGHTNESS = 0
ONLY_TINT = 1
BRIGHTNESS_AND_TINT = 2


def draw_shakes(num_frames: int, draws: Draws) -> tuple[Shake, ...]:
    """Decide what becomes of an image: T - 1 copies in the published ranges, one left as it is."""
    unchanged_frame = draws.integer(0, num_frames - 1)
    shakes = []
    for frame in range(num_frames):
        shake = Shake() if frame == unchanged_frame else _draw_shake(draws)
        shakes.append(shake)
    return tuple(shakes)


def _draw_shake(draws: Draws) -> Shake:
    """Decide one shake; a number that is not used is not drawn."""
    # The order of these draws decides clips: do not change it.
    colour_change = draws.integer(ONLY_BRIGHTNESS, BRIGHTNESS_AND_TINT)
    angle = math.radians(draws.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    shift_x = draws.uniform(-MAX_SHIFT, MAX_SHIFT)
    shift_y = draws.uniform(-MAX_SHIFT, MAX_SHIFT)
    corners = tuple(draws.uniform(-MAX_CORNER_SHIFT, MAX_CORNER_SHIFT) for _ in range(8))
    brightness = 0.0
    if colour_change != ONLY_TINT:
        brightness = draws.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    hue = 0.0
    saturation = 0.0
    if colour_change != ONLY_BRIGHTNESS:
        hue = draws.uniform(-MAX_TINT, MAX_TINT)
        saturation = draws.uniform(-MAX_TINT, MAX_TINT)
    blur = 0
    if draws.chance(BLUR_PROBABILITY):
        blur = draws.choice(BLUR_LENGTHS_PX)
    blur_angle = draws.uniform(0.0, math.pi)
    return Shake(
        angle=angle,
        shift=(shift_x, shift_y),
        corners=corners,
        brightness=brightness,
        hue=hue,
        saturation=saturation,
        blur=blur,
        blur_angle=blur_angle,
    )


def homography(shake: Shake, size: Size) -> FloatArray:
    """Compute where a point (x, y, 1) of the new frame lies in the image, in pixels: `[3, 3]`."""
    height, width = size
    sides = np.array([width, height])
    unit_corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    corners = unit_corners * sides
    moved_corners = (unit_corners + np.array(shake.corners).reshape(4, 2)) * sides
    perspective = _perspective(corners, moved_corners)
    # The camera turns around the middle of the image, behind the perspective.
    cosine = math.cos(shake.angle)
    sine = math.sin(shake.angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    offset = sides / 2 - rotation @ (sides / 2 + np.array(shake.shift) * sides)
    affine = np.vstack([np.column_stack([rotation, offset]), [0, 0, 1]])
    return affine @ perspective


def _perspective(corners: FloatArray, moved_corners: FloatArray) -> FloatArray:
    """Solve for the projective map `[3, 3]` that moves four corners `[4, 2]`, its last entry 1.

    A point (x, y) goes to (u, v) with u = (a x + b y + c) / (g x + h y + 1) and v = (d x + e y + f)
    / (g x + h y + 1): each corner gives two linear equations in a to h.
    """
    equations = []
    for (x, y), (u, v) in zip(corners, moved_corners, strict=True):
        equations.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        equations.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    coefficients = np.linalg.solve(np.array(equations), moved_corners.ravel())
    return np.append(coefficients, 1.0).reshape(3, 3)


def source_points(shake: Shake, size: Size) -> tuple[FloatArray, FloatArray]:
    """Compute column and row in the image of the middle of each new pixel: `[H, W]` each."""
    height, width = size
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([columns, rows, np.ones(size)], -1) @ homography(shake, size).T
    depth = points[..., 2]
    return points[..., 0] / depth, points[..., 1] / depth


def shake_mask(mask: BoolArray, shake: Shake) -> BoolArray:
    """Move a mask `[H, W]` with its image; what comes from beyond it is not the object."""
    if shake == Shake() or not mask.any():
        return mask
    height, width = mask.shape
    x, y = source_points(shake, (height, width))
    columns = np.floor(x).astype(np.int64)
    rows = np.floor(y).astype(np.int64)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return mask[rows.clip(0, height - 1), columns.clip(0, width - 1)] & inside
