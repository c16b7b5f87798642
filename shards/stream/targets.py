"""Targets of an expression: masks and boxes of its objects, moved with their frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from shards.format.rle import BoolArray, decode_mask
from shards.format.schema import Frame
from shards.stream.camera_shake import shake_mask
from shards.stream.geometry import IndexArray, gather_maps, transform_boxes
from shards.stream.transform import ClipTransform, Size

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
EMPTY_BOX: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class ExpressionTargets:
    """Where the objects of one expression are in a clip.

    Attributes:
        masks: `[T, h, w]`, of the new size.
        boxes_cxcywh: `[T, 4]`, normalised.
        visible: `[T]`, the box has width and height.
    """

    masks: BoolArray
    boxes_cxcywh: npt.NDArray[np.float32]
    visible: BoolArray


def expression_targets(
    frames: Sequence[Frame], objects: Sequence[str], transform: ClipTransform
) -> ExpressionTargets | None:
    """Make the targets of an expression, or None if the new frames show nothing of its objects.

    Args:
        frames: The clip's T frames with their masks.
        objects: Ids of the objects that the expression names.
        transform: What happens to the clip.

    Raises:
        ShardError: If a mask is broken.
    """
    masks = [target_mask(frame, objects, transform.source) for frame in frames]
    if transform.shakes:
        masks = [
            shake_mask(mask, shake) for mask, shake in zip(masks, transform.shakes, strict=True)
        ]
    boxes_px = [mask_box(mask) for mask in masks]
    boxes_cxcywh, visible = target_boxes(boxes_px, transform)
    if not visible.any():
        return None
    return ExpressionTargets(
        masks=transform_masks(masks, boxes_px, transform),
        boxes_cxcywh=boxes_cxcywh,
        visible=visible,
    )


def target_mask(frame: Frame, objects: Sequence[str], size: Size) -> BoolArray:
    """Unite the masks of the named objects in one frame; empty where nobody annotated.

    Args:
        frame: A frame with its masks.
        objects: Ids of the objects.
        size: Height and width of the masks, in pixels.

    Returns:
        `[H, W]`.

    Raises:
        ShardError: If a mask is broken.
    """
    masks = frame.masks or {}
    named_masks = [decode_mask(mask) for name, mask in masks.items() if name in objects]
    if not named_masks:
        return np.zeros(size, bool)
    # A single mask comes as it was decoded, column by column: see `transform_masks`.
    return reduce(np.logical_or, named_masks)


def mask_box(mask: BoolArray) -> Box | None:
    """Find the box of a mask as published: smallest and largest column and row, without + 1.

    Args:
        mask: `[H, W]`.

    Returns:
        (x1, y1, x2, y2) in pixels, or None for an empty mask.
    """
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def target_boxes(
    boxes_px: Sequence[Box | None], transform: ClipTransform
) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """Move boxes of masks with their frames.

    Args:
        boxes_px: Boxes of the masks of the T source frames, from `mask_box`.
        transform: What happens to the clip.

    Returns:
        `[T, 4]` cxcywh normalised, zeros where not visible (published and mirrored: 1, 0, 0, 0),
        and `[T]` visible: the box has width and height.
    """
    corners = np.array([box or EMPTY_BOX for box in boxes_px], np.float32)
    has_mask = np.array([box is not None for box in boxes_px])
    boxes = transform_boxes(corners, transform)
    upper_left = boxes[:, :2]
    lower_right = boxes[:, 2:]
    visible = has_mask & (lower_right > upper_left).all(1)
    centres = (upper_left + lower_right) / 2
    sides = lower_right - upper_left
    height, width = transform.size
    boxes_cxcywh = np.concatenate([centres, sides], axis=1)
    boxes_cxcywh /= np.array([width, height, width, height], np.float32)
    absent_box = np.zeros(4, np.float32)
    if transform.published and transform.mirrored:
        # The published code mirrors the empty box of an absent object, too: to the right edge.
        absent_box[0] = 1.0
    return np.where(visible[:, None], boxes_cxcywh, absent_box), visible


def transform_masks(
    masks: Sequence[BoolArray], boxes_px: Sequence[Box | None], transform: ClipTransform
) -> BoolArray:
    """Move masks with their frames, all steps in one gather; resizes take the nearest pixel.

    Args:
        masks: T of `[H, W]`.
        boxes_px: Boxes of the masks, from `mask_box`; nothing outside of them is looked at.
        transform: What happens to the clip.

    Returns:
        `[T, h, w]`.
    """
    rows, columns = gather_maps(transform)
    new_masks = np.zeros((len(masks), len(rows), len(columns)), bool)
    for new_mask, mask, box in zip(new_masks, masks, boxes_px, strict=True):
        if box is None:
            continue
        x1, y1, x2, y2 = box
        new_rows = _indices_within(rows, y1, y2)
        new_columns = _indices_within(columns, x1, x2)
        # Decoded masks lie in memory column by column, so whole columns are gathered first.
        gathered = mask.T[columns[new_columns]].take(rows[new_rows], axis=1)
        new_mask[new_rows, new_columns] = gathered.T
    return new_masks


def _indices_within(sources: IndexArray, low: int, high: int) -> slice:
    """Find where a map that only rises, or only falls, has values from `low` to `high`."""
    (indices,) = np.nonzero((sources >= low) & (sources <= high))
    if not len(indices):
        return slice(0)
    return slice(int(indices[0]), int(indices[-1]) + 1)
