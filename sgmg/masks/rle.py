"""COCO run lengths of masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask [H, W], ready for JSON."""
    code: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return code | {"counts": code["counts"].decode()}
