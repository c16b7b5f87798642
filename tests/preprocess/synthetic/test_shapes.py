"""The synthetic scenes: drawn as told, and every expression true of one shape, of a kind needed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from preprocess.synthetic.shapes import COLOURS, SHAPES, Scene, outline, render
from preprocess.synthetic.write import SyntheticSettings, draw

SETTINGS = SyntheticSettings()
SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
MOTIONS = {"left", "right", "up", "down", "still"}


def scenes(split: str, count: int = 150) -> list[tuple[Scene, list]]:
    return [draw(split, index, SETTINGS) for index in range(count)]


def measured_motion(scene: Scene, target: int) -> str:
    centres = scene.centres()[target]
    x, y = centres[-1] - centres[0]
    if abs(x) + abs(y) < 1:
        return "still"
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def looks_like(scene: Scene, target: int, words: list[str]) -> bool:
    shape = scene.shapes[target]
    return (
        {word for word in words if word in COLOURS} <= {shape.colour}
        and {word for word in words if word in SHAPES} <= {shape.shape}
        and {SIZES[word] for word in words if word in SIZES} <= {shape.size}
    )


def fitting(scene: Scene, text: str, kind: str) -> tuple[set[int], set[int]]:
    """Read a text; return which shapes it is true of in every frame, and which look alike."""
    words = text.split()
    alike = {i for i in range(len(scene.shapes)) if looks_like(scene, i, words)}
    if kind == "appearance":
        return alike, alike
    if kind == "motion":
        motion = "still" if "not" in words else (set(words) & MOTIONS).pop()
        return {i for i in alike if measured_motion(scene, i) == motion}, alike
    side = (set(words) & {"left", "right", "top", "bottom"}).pop()
    places = scene.centres()[..., int(side in ("top", "bottom"))]
    places = places if side in ("left", "top") else -places
    middle = scene.side / 2 if side in ("left", "top") else -scene.side / 2
    ahead = {
        i
        for i in alike
        if places[i].mean() < middle
        and all((places[j] - places[i] > 8).all() for j in alike - {i})
        and all(places[j].mean() > middle for j in alike - {i})
    }
    return ahead, alike


@pytest.mark.parametrize("split", ["train", "valid", "image"])
def test_an_expression_is_true_of_its_shape_alone_and_its_kind_is_needed(split: str) -> None:
    for scene, referrals in scenes(split):
        for it in referrals:
            true_of, alike = fitting(scene, it.text, it.kind)
            assert true_of == {it.target}, it
            assert (len(alike) > 1) == (it.kind != "appearance"), it


def test_the_shares_of_kinds_and_the_vocabulary_are_as_wanted() -> None:
    everything = [(scene, it) for scene, referrals in scenes("train", 400) for it in referrals]
    kinds = Counter(it.kind for _, it in everything)
    assert 0.32 < kinds["motion"] / len(everything) < 0.48
    assert min(kinds["appearance"], kinds["side"]) / len(everything) > 0.20
    assert len(everything) > 4 * 400
    assert len({word for _, it in everything for word in it.text.split()}) <= 40
    twins = [
        any(
            scene.shapes[it.target].look == other.look
            for other in scene.shapes[: it.target] + scene.shapes[it.target + 1 :]
        )
        for scene, it in everything
        if it.kind == "motion"
    ]
    assert np.mean(twins) > 0.4  # nothing but motion tells these apart, or a side


def test_shapes_move_straight_and_visibly_and_stay_inside() -> None:
    for scene, _ in scenes("train"):
        for shape, centres in zip(scene.shapes, scene.centres(), strict=True):
            speed = np.abs(shape.velocity).sum()
            assert (speed == 0) == (shape.motion == "still")
            assert speed == 0 or 5 / 160 <= speed / scene.side <= 9 / 160
            assert (centres > shape.radius).all()
            assert (centres < scene.side - shape.radius).all()


def test_what_is_drawn_is_where_and_what_the_scene_says() -> None:
    checked = 0
    for scene, _ in scenes("train", 30):
        frames, labels = render(scene)
        assert frames.shape == (8, scene.side, scene.side, 3)
        last = len(scene.shapes) - 1  # drawn last, so nothing hides it
        shape = scene.shapes[last]
        for frame, label, centre in zip(frames, labels, scene.centres()[last], strict=True):
            rows, columns = np.nonzero(label == last + 1)
            corners = outline(shape, centre).clip(0.5, scene.side - 0.5)
            np.testing.assert_allclose(
                [columns.min() + 0.5, columns.max() + 0.5, rows.min() + 0.5, rows.max() + 0.5],
                [
                    corners[:, 0].min(),
                    corners[:, 0].max(),
                    corners[:, 1].min(),
                    corners[:, 1].max(),
                ],
                atol=2,
            )
            inside = frame[rows, columns].mean(axis=0)
            distances = {name: np.abs(inside - rgb).sum() for name, rgb in COLOURS.items()}
            assert min(distances, key=lambda name: distances[name]) == shape.colour
            checked += 1
    assert checked == 240


def test_sizes_are_clearly_apart() -> None:
    areas: dict[str, list[int]] = {"small": [], "large": []}
    for scene, _ in scenes("image", 60):
        _, labels = render(scene)
        areas[scene.shapes[-1].size].append(int((labels == len(scene.shapes)).sum()))
    assert max(areas["small"]) * 1.8 < min(areas["large"])


def test_some_shapes_hide_others_but_seldom_wholly() -> None:
    covered = []
    for scene, _ in scenes("train", 60):
        labels = render(scene)[1]
        for number, shape in enumerate(scene.shapes, start=1):
            alone = render(replace(scene, shapes=(shape,)))[1] > 0
            covered += (1 - (labels == number).sum(axis=(1, 2)) / alone.sum(axis=(1, 2))).tolist()
    assert 0.04 < np.mean(np.array(covered) > 0.1) < 0.15
    assert np.mean(np.array(covered) > 0.9) < 0.02


def test_a_scene_depends_on_seed_split_and_number_only() -> None:
    assert draw("train", 7, SETTINGS) == draw("train", 7, SETTINGS)
    others = [
        draw("valid", 7, SETTINGS),
        draw("train", 8, SETTINGS),
        draw("train", 7, SyntheticSettings(seed=1)),
    ]
    assert draw("train", 7, SETTINGS) not in others
