"""Eight masks in one byte map do what each mask does alone."""

import numpy as np
import pytest
from scipy import ndimage

from sgmg.evaluation.packed_masks import count_pixels, dilate, outline, pack_masks

MASKS = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(8, 21, 34)), (0, 2, 2)) > 0.1


def test_bit_t_of_a_pixel_is_its_value_in_mask_t() -> None:
    packed = pack_masks(MASKS)
    for index, mask in enumerate(MASKS):
        assert np.array_equal((packed >> index) & 1, mask)
    assert count_pixels(packed) == MASKS.sum((1, 2)).tolist()


def test_masks_that_are_missing_are_empty() -> None:
    assert count_pixels(pack_masks(MASKS[:3]))[3:] == [0] * 5


@pytest.mark.parametrize("radius", [0, 1, 4, 40])
def test_dilation_is_by_a_disk(radius: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    alone = np.stack([ndimage.binary_dilation(mask, disk) for mask in MASKS])
    assert np.array_equal(dilate(pack_masks(MASKS), radius), pack_masks(alone))


def test_one_mask_does_not_touch_another() -> None:
    together = outline(pack_masks(MASKS))
    for index, mask in enumerate(MASKS):
        alone = outline(pack_masks(mask[None]))
        assert np.array_equal((together >> index) & 1, alone)
