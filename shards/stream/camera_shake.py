"""Clips out of images: each frame is the image, seen by a camera that shook."""

import math

import numpy as np
import numpy.typing as npt

from shards.stream.order import Draws
from shards.stream.transform import Shake, Size

Reals = npt.NDArray[np.float64]
ROTATION, SHIFT, PERSPECTIVE = 20.0, 0.1, 0.08  # degrees; shares of the sides
BRIGHTNESS, TINT = 40.0, 5.0  # grey levels; of 255, hue and saturation
BLUR, BLURRED = (9, 11), 0.25  # pixels; probability


def draw_shakes(num_frames: int, draws: Draws) -> tuple[Shake, ...]:
    """Decide what becomes of an image: T - 1 copies in the published ranges, one left as it is."""
    kept = draws.integer(0, num_frames - 1)
    return tuple(Shake() if t == kept else _draw_shake(draws) for t in range(num_frames))


def _draw_shake(draws: Draws) -> Shake:
    colour = draws.integer(0, 2)  # brightness, tint or both
    return Shake(
        angle=math.radians(draws.uniform(-ROTATION, ROTATION)),
        shift=(draws.uniform(-SHIFT, SHIFT), draws.uniform(-SHIFT, SHIFT)),
        corners=tuple(draws.uniform(-PERSPECTIVE, PERSPECTIVE) for _ in range(8)),
        brightness=draws.uniform(-BRIGHTNESS, BRIGHTNESS) if colour != 1 else 0.0,
        hue=draws.uniform(-TINT, TINT) if colour else 0.0,
        saturation=draws.uniform(-TINT, TINT) if colour else 0.0,
        blur=draws.choice(BLUR) if draws.chance(BLURRED) else 0,
        blur_angle=draws.uniform(0.0, math.pi),
    )


def homography(shake: Shake, size: Size) -> Reals:
    """Where a point (x, y, 1) of the new frame lies in the image, in pixels: `[3, 3]`."""
    height, width = size
    sides = np.array([width, height])
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    moved = (corners + np.array(shake.corners).reshape(4, 2)) * sides
    rows = []
    for (x, y), (u, v) in zip(corners * sides, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    perspective = np.append(np.linalg.solve(np.array(rows), moved.ravel()), 1.0).reshape(3, 3)
    cosine, sine = math.cos(shake.angle), math.sin(shake.angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    offset = sides / 2 - turn @ (sides / 2 + np.array(shake.shift) * sides)
    return np.vstack([np.column_stack([turn, offset]), [0, 0, 1]]) @ perspective


def source_points(shake: Shake, size: Size) -> tuple[Reals, Reals]:
    """Column and row in the image of the middle of each pixel of the frame: `[H, W]` each."""
    height, width = size
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([columns, rows, np.ones(size)], -1) @ homography(shake, size).T
    return points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]


def shake_mask(mask: npt.NDArray[np.bool_], shake: Shake) -> npt.NDArray[np.bool_]:
    """A mask `[H, W]` moved with its image; what comes from beyond it is not the object."""
    if shake == Shake() or not mask.any():
        return mask
    height, width = mask.shape
    u, v = (np.floor(it).astype(np.int64) for it in source_points(shake, (height, width)))
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return mask[v.clip(0, height - 1), u.clip(0, width - 1)] & inside
