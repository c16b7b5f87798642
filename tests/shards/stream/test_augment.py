from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream.augment import (
    Augmentation,
    Distortion,
    draw_augmentation,
    size_after_resize,
)
from shards.stream.geometry import image_region
from shards.stream.order import Draws
from shards.stream.transform import (
    ClipTransform,
    Crop,
    Mirror,
)

PRESETS = {
    name: getattr(Augmentation, name)() for name in ("video", "a2d", "image", "none", "synthetic")
}
SIZES = st.sampled_from([(160, 160), (480, 854), (720, 1280), (1280, 720), (375, 500), (90, 320)])


def draw(name: str, size: tuple[int, int], seed: int, num_frames: int = 3) -> ClipTransform:
    return draw_augmentation(PRESETS[name], size, num_frames, Draws(seed, 2, 0))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(PRESETS)), SIZES, st.integers(0, 9999))
def test_records_keep_to_their_sizes(name: str, size: tuple[int, int], seed: int) -> None:
    transform, augmentation = draw(name, size, seed), PRESETS[name]
    height, width = size
    for step in transform.steps:
        if isinstance(step, Crop):
            assert 0 <= step.top <= step.top + step.height <= height
            assert 0 <= step.left <= step.left + step.width <= width
        if not isinstance(step, Mirror):
            height, width = step.height, step.width
    assert transform.size == (height, width)
    if augmentation.max_side:
        assert max(height, width) <= augmentation.max_side
    if name in ("none", "synthetic"):
        assert transform.size == size
    assert len(transform.colours) in (0, 3)
    start, end = image_region(transform)
    assert -1e-6 <= start[0] < end[0] <= size[0] + 1e-6
    left, right = (end[1], start[1]) if transform.mirrored else (start[1], end[1])
    assert -1e-6 <= left < right <= size[1] + 1e-6


def test_presets_draw_what_is_published() -> None:
    video = [draw("video", (480, 854), seed) for seed in range(600)]
    crops = [step for transform in video for step in transform.steps if isinstance(step, Crop)]
    assert 250 < len(crops) < 350
    assert min(min(crop.height, crop.width) for crop in crops) >= 384
    assert max(max(crop.height, crop.width) for crop in crops) <= 600
    assert 250 < sum(transform.mirrored for transform in video) < 350
    assert 270 < sum(c.brightness != 0 for r in video for c in r.colours) / 3 < 330
    permuted = sum(c.channels != (0, 1, 2) for r in video for c in r.colours) / 1800
    assert pytest.approx(permuted, abs=0.03) == 0.2 * 5 / 6
    colours = [c for transform in video for c in transform.colours]
    assert max(abs(c.brightness) for c in colours) > 30
    assert 1.19 < max(c.contrast for c in colours) < 1.2
    assert 0.8 < min(c.saturation for c in colours) < 0.81
    image = [draw("image", (480, 640), seed, 1) for seed in range(200)]
    assert not any(transform.colours for transform in image)
    whole = {
        transform.size for transform in image if len(transform.steps) - transform.mirrored == 1
    }
    assert {min(size) for size in whole} == {*range(480, 600, 32), 600}  # the long side ends at 800
    a2d = [draw("a2d", (240, 320), seed) for seed in range(50)]
    assert all(isinstance(r.steps[0], Mirror) for r in a2d if r.mirrored)
    assert any(r.mirrored for r in a2d)


def test_synthetic_distortion_is_alike_in_all_frames() -> None:
    transforms = [draw("synthetic", (160, 160), seed) for seed in range(50)]
    assert all(len(set(transform.colours)) == 1 for transform in transforms)
    assert len({transform.colours for transform in transforms}) > 10
    assert all(
        colour.channels == (0, 1, 2) for transform in transforms for colour in transform.colours
    )


def test_published_sizes() -> None:
    assert size_after_resize(720, 1280, 512, 640) == (360, 640)
    assert size_after_resize(720, 1280, 288, 640) == (288, 512)
    assert size_after_resize(1280, 720, 360, None) == (640, 360)
    assert size_after_resize(360, 640, 360, 640) == (360, 640)


def test_a_distortion_may_do_nothing() -> None:
    augmentation = replace(
        Augmentation.none(), distortion=Distortion(probability=0.0, permutation=0.0)
    )
    transform = draw_augmentation(augmentation, (10, 10), 2, Draws(0, 2, 0))
    assert len(set(transform.colours)) == 1
