"""COCO's run lengths of masks."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


class CocoRle(TypedDict):
    """A mask as COCO's compressed run lengths, ready for JSON.

    Attributes:
        size: Height and width in pixels.
        counts: Run lengths, column by column, in COCO's ASCII code.
    """

    size: list[int]
    counts: str


def encode_mask(mask: NDArray[np.bool_]) -> CocoRle:
    """Compress a mask [H, W] without loss."""
    # pycocotools 2.0.11 reads memory column by column, so it takes Fortran order only
    encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    height, width = encoded["size"]
    return CocoRle(size=[height, width], counts=encoded["counts"].decode("ascii"))


def box_xyxy_px(rle: CocoRle) -> list[float]:
    """Corners ``[x1, y1, x2, y2]`` of the pixels of a mask; the far edges are counted in."""
    left, top, width, height = coco_mask.toBbox(rle).tolist()
    return [left, top, left + width, top + height]
