"""The pictures: shapes are where and what the scene says, and masks are what is visible."""

from dataclasses import replace

import numpy as np

from preprocess.synthetic.render import outline, render
from preprocess.synthetic.scenes import COLOURS
from tests.preprocess.synthetic.conftest import draw_scenes


def test_what_is_drawn_is_where_and_what_the_scene_says() -> None:
    num_checked = 0
    for drawn in draw_scenes("train", 30):
        scene = drawn.scene
        frames, labels = render(scene)
        assert frames.shape == (8, scene.side, scene.side, 3)
        last = len(scene.shapes) - 1  # drawn last, so nothing hides it
        shape = scene.shapes[last]
        for frame, label, centre in zip(frames, labels, scene.centres()[last], strict=True):
            rows, columns = np.nonzero(label == last + 1)
            x, y = outline(shape, centre).clip(0.5, scene.side - 0.5).T
            np.testing.assert_allclose(
                [columns.min() + 0.5, columns.max() + 0.5, rows.min() + 0.5, rows.max() + 0.5],
                [x.min(), x.max(), y.min(), y.max()],
                atol=2,
            )
            inside = frame[rows, columns].mean(axis=0)
            distances = {name: np.abs(inside - rgb).sum() for name, rgb in COLOURS.items()}
            assert min(distances, key=lambda name: distances[name]) == shape.colour
            num_checked += 1
    assert num_checked == 240


def test_sizes_are_clearly_apart() -> None:
    areas: dict[str, list[int]] = {"small": [], "large": []}
    for drawn in draw_scenes("image", 60):
        scene = drawn.scene
        _, labels = render(scene)
        areas[scene.shapes[-1].size].append(int((labels == len(scene.shapes)).sum()))
    assert max(areas["small"]) * 1.8 < min(areas["large"])


def test_some_shapes_hide_others_but_seldom_wholly() -> None:
    hidden_shares: list[float] = []
    for drawn in draw_scenes("train", 60):
        scene = drawn.scene
        _, labels = render(scene)
        for number, shape in enumerate(scene.shapes, start=1):
            _, labels_alone = render(replace(scene, shapes=(shape,)))
            area = (labels == number).sum(axis=(1, 2))
            area_alone = (labels_alone > 0).sum(axis=(1, 2))
            hidden_shares += (1 - area / area_alone).tolist()
    assert 0.04 < np.mean(np.array(hidden_shares) > 0.1) < 0.15
    assert np.mean(np.array(hidden_shares) > 0.9) < 0.02
