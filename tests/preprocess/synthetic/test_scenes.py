"""The scenes: as their settings say, moving straight inside the frame."""

from dataclasses import replace

import numpy as np

from preprocess.synthetic.expressions import draw_referred_scene
from tests.preprocess.synthetic.conftest import SETTINGS, draw_scenes


def test_shapes_move_straight_and_visibly_and_stay_inside() -> None:
    for drawn in draw_scenes("train"):
        scene = drawn.scene
        for shape, centres in zip(scene.shapes, scene.centres(), strict=True):
            speed = np.abs(shape.velocity).sum()
            assert (speed == 0) == (shape.motion == "still")
            assert speed == 0 or 5 / 160 <= speed / scene.side <= 9 / 160
            assert (centres > shape.radius).all()
            assert (centres < scene.side - shape.radius).all()


def test_a_scene_depends_on_seed_split_and_number_only() -> None:
    drawn = draw_referred_scene("train", 7, SETTINGS)
    assert draw_referred_scene("train", 7, SETTINGS) == drawn
    assert draw_referred_scene("valid", 7, SETTINGS) != drawn
    assert draw_referred_scene("train", 8, SETTINGS) != drawn
    assert draw_referred_scene("train", 7, replace(SETTINGS, seed=1)) != drawn
