"""Masks and boxes move with their frames."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream.augment import draw_augmentation
from shards.stream.geometry import gather_maps, image_region, transform_boxes
from shards.stream.order import Draws
from shards.stream.styles import named_style
from shards.stream.targets import mask_box, target_boxes, transform_masks
from shards.stream.transform import ClipTransform, Crop, Mirror, Resize


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["youtube-vos", "a2d", "synthetic"]), st.integers(0, 9999))
def test_masks_boxes_and_pixels_move_alike(name: str, seed: int) -> None:
    """The moved box is the box of the moved mask, and the image region agrees, to a few pixels."""
    size = (240, 426)
    mask = np.zeros(size, bool)
    mask[60:180, 90:330] = True
    transform = draw_augmentation(named_style(name).augmentation, size, 3, Draws(seed, 2, 0))
    rows, columns = gather_maps(transform)
    (moved,) = transform_masks([mask], [mask_box(mask)], transform)
    assert moved.shape == transform.size
    np.testing.assert_array_equal(moved, mask[rows][:, columns])
    boxes, visible = target_boxes([mask_box(mask)], transform)
    moved_box = mask_box(moved)
    if not visible[0] or moved_box is None:
        return
    centre, extent = boxes[0, :2], boxes[0, 2:]
    scale = np.array(transform.size[::-1])
    expected = np.concatenate([(centre - extent / 2) * scale, (centre + extent / 2) * scale])
    slack = 2 + 2 * max(transform.size[0] / size[0], 600 / size[0])
    assert np.abs(expected - moved_box).max() <= slack
    start, end = image_region(transform)
    y = start[0] + (np.arange(transform.size[0]) + 0.5) * (end[0] - start[0]) / transform.size[0]
    x = start[1] + (np.arange(transform.size[1]) + 0.5) * (end[1] - start[1]) / transform.size[1]
    assert np.abs(y - 0.5 - rows).max() <= 2
    assert np.abs(x - 0.5 - columns).max() <= 2


def test_a_crop_cuts_boxes_and_hides_what_is_outside() -> None:
    transform = ClipTransform((100, 200), (Crop(10, 20, 50, 60), Resize(100, 120), Mirror()))
    boxes = np.array([[30, 20, 50, 40], [0, 0, 19, 9], [70, 50, 150, 90]], np.float32)
    moved = transform_boxes(boxes, transform)
    assert moved.tolist() == [[60, 20, 100, 60], [120, 0, 120, 0], [0, 80, 20, 100]]
    masks = np.zeros((4, 100, 200), bool)
    masks[0, 20:41, 30:51] = masks[1, 0:10, 0:20] = masks[3, 30:40, 40] = True
    boxes_cxcywh, visible = target_boxes([mask_box(mask) for mask in masks], transform)
    assert visible.tolist() == [True, False, False, False]  # the last has no width
    np.testing.assert_allclose(boxes_cxcywh[0], [80 / 120, 0.4, 40 / 120, 0.4], rtol=1e-6)
    assert not boxes_cxcywh[1:].any()
