"""The expressions: each is true of one shape, and of a kind that it takes."""

from collections import Counter

import numpy as np
import pytest

from preprocess.synthetic.scenes import COLOURS, SHAPES, Scene
from tests.preprocess.synthetic.conftest import draw_scenes

SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
MOTIONS = {"left", "right", "up", "down", "still"}
SIDES = {"left", "right", "top", "bottom"}


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
    alike = {target for target in range(len(scene.shapes)) if looks_like(scene, target, words)}
    if kind == "appearance":
        return alike, alike
    if kind == "motion":
        motion = "still" if "not" in words else (set(words) & MOTIONS).pop()
        return {target for target in alike if measured_motion(scene, target) == motion}, alike
    side = (set(words) & SIDES).pop()
    distances = scene.centres()[..., int(side in ("top", "bottom"))]
    middle = scene.side / 2
    if side in ("right", "bottom"):
        distances = -distances
        middle = -middle
    ahead = set()
    for target in alike:
        rivals = alike - {target}
        if (
            distances[target].mean() < middle
            and all((distances[rival] - distances[target] > 8).all() for rival in rivals)
            and all(distances[rival].mean() > middle for rival in rivals)
        ):
            ahead.add(target)
    return ahead, alike


@pytest.mark.parametrize("split", ["train", "valid", "image"])
def test_an_expression_is_true_of_its_shape_alone_and_its_kind_is_needed(split: str) -> None:
    for drawn in draw_scenes(split):
        for referral in drawn.referrals:
            true_of, alike = fitting(drawn.scene, referral.text, referral.kind)
            assert true_of == {referral.target}, referral
            assert (len(alike) > 1) == (referral.kind != "appearance"), referral


def test_the_shares_of_kinds_and_the_vocabulary_are_as_wanted() -> None:
    scenes = draw_scenes("train", 400)
    referrals = [(drawn.scene, referral) for drawn in scenes for referral in drawn.referrals]
    kinds = Counter(referral.kind for _, referral in referrals)
    assert 0.32 < kinds["motion"] / len(referrals) < 0.48
    assert min(kinds["appearance"], kinds["side"]) / len(referrals) > 0.20
    assert len(referrals) > 4 * 400
    vocabulary = {word for _, referral in referrals for word in referral.text.split()}
    assert len(vocabulary) <= 40
    have_twin = []
    for scene, referral in referrals:
        if referral.kind == "motion":
            looks = [shape.look for shape in scene.shapes]
            have_twin.append(looks.count(looks[referral.target]) > 1)
    assert np.mean(have_twin) > 0.4  # nothing but motion tells these apart, or a side
