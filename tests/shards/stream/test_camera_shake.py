"""Clips made of images: drawn first, the mask moves with the pixels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import ClipLoader, ClipStyle
from shards.stream.augment import Augmentation
from shards.stream.camera_shake import draw_shakes, homography, shake_mask, source_points
from shards.stream.order import AUGMENTATION, Draws
from shards.stream.reshape import shake_image
from shards.stream.sampling import ClipSampling, list_items
from shards.stream.transform import Shake
from tests.shards.sample_videos import build_toy

SIZE = (48, 64)


def test_copies_stay_in_the_published_ranges_and_one_is_the_image() -> None:
    drawn = [draw_shakes(5, Draws(3, AUGMENTATION, 0, position)) for position in range(200)]
    assert all(sum(shake == Shake() for shake in shakes) == 1 for shakes in drawn)
    unchanged_frames = {shakes.index(Shake()) for shakes in drawn}
    assert unchanged_frames == set(range(5))
    moved = [shake for shakes in drawn for shake in shakes if shake != Shake()]
    bounds = {
        "angle": math.radians(20), "brightness": 40, "hue": 5, "saturation": 5, "blur": 11,
    }  # fmt: skip
    for name, bound in bounds.items():
        values = np.abs([getattr(shake, name) for shake in moved])
        assert 0.95 * bound < values.max() <= bound, name
    assert {shake.blur for shake in moved} == {0, 9, 11}
    assert np.mean([shake.blur > 0 for shake in moved]) == pytest.approx(0.25, abs=0.05)
    assert np.abs([shake.shift for shake in moved]).max() == pytest.approx(0.1, rel=0.05)
    assert np.abs([shake.corners for shake in moved]).max() == pytest.approx(0.08, rel=0.05)
    assert all(shake.brightness or shake.hue for shake in moved)


def test_corners_and_turns_are_what_they_say() -> None:
    matrix = homography(Shake(corners=(0.1, 0, 0, 0, 0, 0, 0, 0.05)), SIZE)
    for point, goal in (((0, 0), (6.4, 0)), ((64, 48), (64, 48)), ((0, 48), (0, 50.4))):
        u, v, w = matrix @ (*point, 1)
        assert (u / w, v / w) == pytest.approx(goal)
    u, v = source_points(Shake(angle=math.pi / 2), (48, 48))
    assert (u[0, 0], v[0, 0]) == pytest.approx((47.5, 0.5))
    u, v = source_points(Shake(shift=(0.25, 0.0)), SIZE)
    assert (u[0, 16], v[0, 16]) == pytest.approx((0.5, 0.5))


def test_the_mask_moves_with_the_pixels() -> None:
    mask = np.zeros(SIZE, bool)
    mask[12:30, 20:45] = True
    image = torch.from_numpy(mask)[..., None].expand(-1, -1, 3).byte() * 200
    for shake in draw_shakes(6, Draws(0, AUGMENTATION, 0)):
        still = Shake(shake.angle, shake.shift, shake.corners)
        shaken = shake_image(image, still)[..., 0].numpy() > 100
        moved = shake_mask(mask, still)
        assert (shaken != moved).mean() < 0.01
        if shake != Shake():
            assert (moved != mask).mean() > 0.01
    assert shake_image(image, Shake(brightness=30.0))[0, 0].tolist() == [30, 30, 30]
    blurred = shake_image(image, Shake(blur=9, blur_angle=0.0)).float()
    assert 0 < blurred[20, 18, 0] < 200  # along the rows only
    assert blurred[10, 30, 0] == 0
    red = torch.full((4, 4, 3), 60, dtype=torch.uint8)
    red[..., 0] = 200
    tinted = shake_image(red, Shake(saturation=5.0))[0, 0].tolist()
    assert tinted[0] == 200
    assert tinted[1] == pytest.approx(60 - 200 * 5 / 255, abs=1)


def test_images_become_clips_and_videos_stay(tmp_path: Path) -> None:
    build_toy(tmp_path, [f"toy-{number:02d}" for number in (0, 3, 6, 9)])  # 1, 4, 1 and 4 frames
    style = ClipStyle(sampling=ClipSampling.joint(), augmentation=Augmentation(shake=True))
    loader = ClipLoader([str(tmp_path)], num_frames=3, batch_size=1, style=style)
    shaken: dict[str, bool] = {}
    for batch in loader:
        clip = loader.source.clip(0, batch.positions[0])
        frames = batch.frames[0]
        if clip.transform.shakes:
            assert clip.transform.source == clip.transform.size
            assert clip.transform.shakes.count(Shake()) == 1
            assert len({frame.numpy().tobytes() for frame in frames}) == 3
        shaken.setdefault(batch.keys[0], bool(clip.transform.shakes))
    loader.close()
    assert shaken == {"toy-00": True, "toy-03": False, "toy-06": True, "toy-09": False}
    rows = list(loader.sets[0].videos)
    flat = ClipSampling(flattest=0.99)  # all four are flatter; only images are left out
    assert {rows[i].key for i in list_items(rows, flat, 3).video} == {"toy-03", "toy-09"}
