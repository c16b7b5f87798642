"""Geometry of a `ClipTransform` on coordinates: source indices, boxes and the region of an image.

Pixels of frames take the same steps in `reshape.py`, masks in `targets.py`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shards.stream.transform import ClipTransform, Crop, Mirror

Corner = tuple[float, float]  # y, x in pixels
IndexArray = npt.NDArray[np.int64]


class Region(NamedTuple):
    """Part of an image by two corners (y, x), in pixels."""

    start: Corner
    end: Corner


def image_region(transform: ClipTransform) -> Region:
    """Find the part of the source that fills the new frame, for one resize from it.

    Returns:
        Source coordinates of the new frame's first and last corner; if it is mirrored, x runs back.
    """
    # source = scale * new + offset, for y and x
    scale_y = 1.0
    scale_x = 1.0
    offset_y = 0.0
    offset_x = 0.0
    height, width = transform.source
    for step in transform.steps:
        if isinstance(step, Mirror):
            offset_x += scale_x * width
            scale_x = -scale_x
            continue
        if isinstance(step, Crop):
            offset_y += scale_y * step.top
            offset_x += scale_x * step.left
        else:
            scale_y *= height / step.height
            scale_x *= width / step.width
        height, width = step.height, step.width
    return Region(
        start=(offset_y, offset_x),
        end=(offset_y + scale_y * height, offset_x + scale_x * width),
    )


def gather_maps(transform: ClipTransform) -> tuple[IndexArray, IndexArray]:
    """Find the source row of each new row `[h]`, and the source column of each new column `[w]`."""
    height, width = transform.source
    rows = np.arange(height)
    columns = np.arange(width)
    for step in transform.steps:
        if isinstance(step, Mirror):
            columns = columns[::-1]
        elif isinstance(step, Crop):
            rows = rows[step.top : step.top + step.height]
            columns = columns[step.left : step.left + step.width]
        else:
            rows = rows[_nearest(len(rows), step.height)]
            columns = columns[_nearest(len(columns), step.width)]
    return rows, columns


def _nearest(old_length: int, new_length: int) -> IndexArray:
    """Find the nearest source index of each new index.

    The scale is a float32, as published; in float64 a few pixels differ.
    """
    scale = np.float32(old_length) / np.float32(new_length)
    indices = (np.arange(new_length, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(indices, old_length - 1)


def transform_boxes(
    boxes_xyxy_px: npt.NDArray[np.float32], transform: ClipTransform
) -> npt.NDArray[np.float32]:
    """Move boxes with their frames; a crop cuts them, down to no width or height outside.

    Args:
        boxes_xyxy_px: `[T, 4]` in pixels of the source.
        transform: What happens to the clip.

    Returns:
        `[T, 4]` in pixels of the new frames.
    """
    boxes = np.array(boxes_xyxy_px, np.float32)
    height, width = transform.source
    for step in transform.steps:
        if isinstance(step, Mirror):
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            continue
        if isinstance(step, Crop):
            boxes[:, [0, 2]] = (boxes[:, [0, 2]] - step.left).clip(0, step.width)
            boxes[:, [1, 3]] = (boxes[:, [1, 3]] - step.top).clip(0, step.height)
        else:
            boxes[:, [0, 2]] *= step.width / width
            boxes[:, [1, 3]] *= step.height / height
        height, width = step.height, step.width
    return boxes
