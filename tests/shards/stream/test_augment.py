from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream.augment import Augmentation, Distortion, draw_augmentation, resized
from shards.stream.clip_source import target_boxes
from shards.stream.order import Draws
from shards.stream.transform import (
    Crop,
    Mirror,
    Record,
    Resize,
    gather_maps,
    image_region,
    mask_box,
    mirror_words,
    transform_boxes,
    transform_masks,
)

PRESETS = {
    name: getattr(Augmentation, name)() for name in ("video", "a2d", "image", "none", "synthetic")
}
SIZES = st.sampled_from([(160, 160), (480, 854), (720, 1280), (1280, 720), (375, 500), (90, 320)])


def draw(name: str, size: tuple[int, int], seed: int, num_frames: int = 3) -> Record:
    return draw_augmentation(PRESETS[name], size, num_frames, Draws(seed, 2, 0))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(PRESETS)), SIZES, st.integers(0, 9999))
def test_records_keep_to_their_sizes(name: str, size: tuple[int, int], seed: int) -> None:
    record, augmentation = draw(name, size, seed), PRESETS[name]
    height, width = size
    for step in record.steps:
        if isinstance(step, Crop):
            assert 0 <= step.top <= step.top + step.height <= height
            assert 0 <= step.left <= step.left + step.width <= width
        if not isinstance(step, Mirror):
            height, width = step.height, step.width
    assert record.size == (height, width)
    if augmentation.max_side:
        assert max(height, width) <= augmentation.max_side
    if name in ("none", "synthetic"):
        assert record.size == size
    assert len(record.colours) in (0, 3)
    start, end = image_region(record)
    assert -1e-6 <= start[0] < end[0] <= size[0] + 1e-6
    left, right = (end[1], start[1]) if record.mirrored else (start[1], end[1])
    assert -1e-6 <= left < right <= size[1] + 1e-6


def test_presets_draw_what_is_published() -> None:
    video = [draw("video", (480, 854), seed) for seed in range(600)]
    crops = [step for record in video for step in record.steps if isinstance(step, Crop)]
    assert 250 < len(crops) < 350
    assert min(min(crop.height, crop.width) for crop in crops) >= 384
    assert max(max(crop.height, crop.width) for crop in crops) <= 600
    assert 250 < sum(record.mirrored for record in video) < 350
    assert 270 < sum(c.brightness != 0 for r in video for c in r.colours) / 3 < 330
    permuted = sum(c.channels != (0, 1, 2) for r in video for c in r.colours) / 1800
    assert pytest.approx(permuted, abs=0.03) == 0.2 * 5 / 6
    colours = [c for record in video for c in record.colours]
    assert max(abs(c.brightness) for c in colours) > 30
    assert 1.19 < max(c.contrast for c in colours) < 1.2
    assert 0.8 < min(c.saturation for c in colours) < 0.81
    image = [draw("image", (480, 640), seed, 1) for seed in range(200)]
    assert not any(record.colours for record in image)
    whole = {record.size for record in image if len(record.steps) - record.mirrored == 1}
    assert {min(size) for size in whole} == {*range(480, 600, 32), 600}  # the long side ends at 800
    a2d = [draw("a2d", (240, 320), seed) for seed in range(50)]
    assert all(isinstance(r.steps[0], Mirror) for r in a2d if r.mirrored)
    assert any(r.mirrored for r in a2d)


def test_synthetic_distortion_is_alike_in_all_frames() -> None:
    records = [draw("synthetic", (160, 160), seed) for seed in range(50)]
    assert all(len(set(record.colours)) == 1 for record in records)
    assert len({record.colours for record in records}) > 10
    assert all(colour.channels == (0, 1, 2) for record in records for colour in record.colours)


def test_published_sizes() -> None:
    assert resized(720, 1280, 512, 640) == (360, 640)
    assert resized(720, 1280, 288, 640) == (288, 512)
    assert resized(1280, 720, 360, None) == (640, 360)
    assert resized(360, 640, 360, 640) == (360, 640)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["video", "a2d", "synthetic"]), st.integers(0, 9999))
def test_masks_boxes_and_pixels_move_alike(name: str, seed: int) -> None:
    """The moved box is the box of the moved mask, and the image region agrees, to a few pixels."""
    size = (240, 426)
    mask = np.zeros(size, bool)
    mask[60:180, 90:330] = True
    record = draw(name, size, seed)
    rows, columns = gather_maps(record)
    (moved,) = transform_masks([mask], [mask_box(mask)], record)
    assert moved.shape == record.size
    np.testing.assert_array_equal(moved, mask[rows][:, columns])
    boxes, visible = target_boxes([mask_box(mask)], record)
    found = mask_box(moved)
    if not visible[0] or found is None:
        return
    centre, extent = boxes[0, :2], boxes[0, 2:]
    scale = np.array(record.size[::-1])
    expected = np.concatenate([(centre - extent / 2) * scale, (centre + extent / 2) * scale])
    slack = 2 + 2 * max(record.size[0] / size[0], 600 / size[0])
    assert np.abs(expected - found).max() <= slack
    start, end = image_region(record)
    y = start[0] + (np.arange(record.size[0]) + 0.5) * (end[0] - start[0]) / record.size[0]
    x = start[1] + (np.arange(record.size[1]) + 0.5) * (end[1] - start[1]) / record.size[1]
    assert np.abs(y - 0.5 - rows).max() <= 2
    assert np.abs(x - 0.5 - columns).max() <= 2


def test_a_crop_cuts_boxes_and_hides_what_is_outside() -> None:
    record = Record((100, 200), (Crop(10, 20, 50, 60), Resize(100, 120), Mirror()))
    boxes = np.array([[30, 20, 50, 40], [0, 0, 19, 9], [70, 50, 150, 90]], np.float32)
    moved = transform_boxes(boxes, record)
    assert moved.tolist() == [[60, 20, 100, 60], [120, 0, 120, 0], [0, 80, 20, 100]]
    masks = np.zeros((4, 100, 200), bool)
    masks[0, 20:41, 30:51] = masks[1, 0:10, 0:20] = masks[3, 30:40, 40] = True
    boxes_cxcywh, visible = target_boxes([mask_box(mask) for mask in masks], record)
    assert visible.tolist() == [True, False, False, False]  # the last has no width
    np.testing.assert_allclose(boxes_cxcywh[0], [80 / 120, 0.4, 40 / 120, 0.4], rtol=1e-6)
    assert not boxes_cxcywh[1:].any()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("the left dog, right of a bright light", "the right dog, left of a bright light"),
        ("leftmost Left LEFT-hand rightward", "rightmost Right RIGHT-hand leftward"),
        ("a left-handed man moving leftwards", "a right-handed man moving rightwards"),
        ("cleft copyright lefty righteous", "cleft copyright lefty righteous"),
        ("the bottom-left one (on the right)", "the bottom-right one (on the left)"),
    ],
)
def test_words_follow_the_mirror(before: str, after: str) -> None:
    assert mirror_words(before) == after
    assert mirror_words(after) == before


def test_published_words_swap_anywhere() -> None:
    assert mirror_words("bright left cleft", published=True) == "bleft right cright"


def test_a_distortion_may_do_nothing() -> None:
    augmentation = replace(
        Augmentation.none(), distortion=Distortion(probability=0.0, permutation=0.0)
    )
    record = draw_augmentation(augmentation, (10, 10), 2, Draws(0, 2, 0))
    assert len(set(record.colours)) == 1
