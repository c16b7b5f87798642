"""COCO's run lengths."""

import json

import numpy as np
from pycocotools import mask as coco_mask

from sgmg.masks.rle import box_xyxy_px, encode_mask


def test_a_mask_comes_back_through_json() -> None:
    mask = np.random.default_rng(0).random((7, 11)) > 0.5
    rle = json.loads(json.dumps(encode_mask(mask)))
    assert rle["size"] == [7, 11]
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)


def test_a_box_counts_the_far_edges_in() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:7, 10:15] = True
    assert box_xyxy_px(encode_mask(mask)) == [10, 3, 15, 7]
