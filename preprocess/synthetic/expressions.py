"""Expressions that single out one shape of a scene.

An expression is kept only if it is true of exactly one shape. Its kind says what it takes:

- ``appearance``: size, colour and shape words alone name one shape;
- ``side``: without "on the left" (right, top, bottom) two shapes would fit; the others are in
  the other half, and behind with a margin in every frame;
- ``motion``: without "moving left" (right, up, down, "that stays still") two shapes would fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.synthetic.scenes import Look, Scene, Shape, draw_scene, pick, scene_generator
from preprocess.synthetic.settings import SyntheticSettings

SIDES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, sign
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
ANY_SHAPE = ("shape", "one", "object")
KINDS = ("appearance", "side", "motion")
SIDE_MARGIN = 0.12  # over the frame's side
APPEARANCE_SHARE = 0.62  # of the draws that prefer appearance to side
# How much likelier a choice of words gets with the colour word, and again with the shape word.
WORD_WEIGHT = 3.0

_BESIDE = ("the {} on the {}", "the {} on the {} side", "{} on the {}")
_ABOVE = ("the {} at the {}", "the {} on the {}", "{} at the {}")
_ASIDE = ("the {} moving {}", "the {} moving to the {}", "the {} going {}")
_UP = ("the {} moving {}", "the {} that moves {}", "the {} going {}")
_STILL = ("the {} that stays still", "the {} that is not moving", "the {} standing still")
# Kind to side or motion to sentences, one of which is drawn.
_SENTENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "appearance": {"": ("the {}", "the {}", "the {}", "{}")},
    "side": {"left": _BESIDE, "right": _BESIDE, "top": _ABOVE, "bottom": _ABOVE},
    "motion": {"left": _ASIDE, "right": _ASIDE, "up": _UP, "down": _UP, "still": _STILL},
}


@dataclass(frozen=True)
class Referral:
    """A text that is true of the shape number ``target`` (from 0) and of no other."""

    target: int
    text: str
    kind: str


@dataclass(frozen=True)
class ReferredScene:
    """A scene and its expressions, at least one."""

    scene: Scene
    referrals: list[Referral]


class _Words(NamedTuple):
    """Which words of a look an expression has."""

    size: bool
    colour: bool
    shape: bool


class _Description(NamedTuple):
    """A way to single out a shape.

    Attributes:
        kind: one of `KINDS`.
        words: the words of its look.
        detail: the side or the motion; empty for an appearance.
    """

    kind: str
    words: _Words
    detail: str


def draw_referred_scene(split: str, index: int, settings: SyntheticSettings) -> ReferredScene:
    """Draw one scene and its expressions (at least one).

    Args:
        split: ``train``, ``valid`` (videos), ``image`` (one frame) or ``valid_image``.
        index: number of the scene in its split.
        settings: what to draw.
    """
    rng = scene_generator(settings.seed, split, index)
    num_frames = {"train": settings.num_frames, "valid": settings.valid_frames}.get(split, 1)
    looks_only = False
    if split == "image":
        looks_only = rng.random() >= settings.image_side
    while True:
        scene = draw_scene(
            rng,
            max_shapes=settings.shapes,
            num_frames=num_frames,
            side=settings.side,
            twins=settings.twins,
        )
        referrals = draw_referrals(rng, scene, motion_share=settings.motion)
        if looks_only:
            referrals = [referral for referral in referrals if referral.kind == "appearance"]
        if referrals:
            return ReferredScene(scene, referrals)


def draw_referrals(
    rng: np.random.Generator, scene: Scene, *, motion_share: float, per_shape: int = 2
) -> list[Referral]:
    """Draw up to ``per_shape`` expressions for each shape, their kinds by the shares wanted.

    Args:
        rng: the scene's own generator.
        scene: what is referred to.
        motion_share: probability of the kind motion where a shape can be told apart that way; the
            other two kinds share the rest. A scene of one frame has no motion expressions.
        per_shape: number of draws for each shape; equal texts count once.
    """
    referrals: dict[str, Referral] = {}
    for target, shape in enumerate(scene.shapes):
        by_kind: dict[str, list[_Description]] = {kind: [] for kind in KINDS}
        for description in _true_of_one(scene, target):
            by_kind[description.kind].append(description)
        for _ in range(per_shape):
            preferred = _draw_preference(rng, motion_share)
            possible = [kind for kind in preferred if by_kind[kind]]
            if possible:
                description = _draw_description(rng, by_kind[possible[0]])
                text = _draw_text(rng, shape, description)
                referrals[text] = Referral(target, text, description.kind)
    return list(referrals.values())


def _draw_preference(rng: np.random.Generator, motion_share: float) -> tuple[str, ...]:
    """Draw an order of the kinds to try; motion is first or not tried at all."""
    kinds: tuple[str, ...] = ("side", "appearance")
    if rng.random() < APPEARANCE_SHARE:
        kinds = ("appearance", "side")
    if rng.random() < motion_share:
        kinds = ("motion", *kinds)
    return kinds


def _draw_description(rng: np.random.Generator, descriptions: list[_Description]) -> _Description:
    """Draw one; those with colour and shape words are likelier."""
    num_words = [description.words.colour + description.words.shape for description in descriptions]
    weights = WORD_WEIGHT ** np.array(num_words)
    return descriptions[rng.choice(len(weights), p=weights / weights.sum())]


def _true_of_one(scene: Scene, target: int) -> Iterator[_Description]:
    """Yield all that singles out the target."""
    shape = scene.shapes[target]
    gaps = _side_gaps(scene, target)
    for flags in product((True, False), repeat=3):
        words = _Words(*flags)
        rivals = [
            index
            for index, rival in enumerate(scene.shapes)
            if index != target and _fits(words, shape.look, rival.look)
        ]
        if not rivals:
            yield _Description("appearance", words, "")
            continue
        for side, gap in gaps.items():
            if gap[rivals].min() >= SIDE_MARGIN * scene.side:
                yield _Description("side", words, side)
        rival_motions = {scene.shapes[index].motion for index in rivals}
        if scene.num_frames > 1 and shape.motion not in rival_motions:
            yield _Description("motion", words, shape.motion)


def _fits(words: _Words, look: Look, other_look: Look) -> bool:
    """Tell whether the words of one look that are used fit another look, too."""
    return all(
        word == other_word
        for is_used, word, other_word in zip(words, look, other_look, strict=True)
        if is_used
    )


def _side_gaps(scene: Scene, target: int) -> dict[str, NDArray[np.float64]]:
    """Measure how far a shape is ahead of the others toward each side, in the worst frame.

    Returns:
        for every side of the frame whose half the target is in, mostly: gaps [N] in pixels, none
        to those in the same half.
    """
    gaps = {}
    centres = scene.centres()
    for side, (axis, sign) in SIDES.items():
        distances = sign * centres[..., axis]  # [N, F], smaller is nearer to the side
        middle = sign * scene.side / 2
        if distances[target].mean() < middle:
            in_far_half = distances.mean(axis=1) > middle
            gap = (distances - distances[target]).min(axis=1)
            gaps[side] = np.where(in_far_half, gap, 0.0)
    return gaps


def _draw_text(rng: np.random.Generator, shape: Shape, description: _Description) -> str:
    """Put a description in words; synonyms and the form of the sentence are drawn."""
    words = description.words
    name = []
    if words.size:
        name.append(pick(rng, SIZE_WORDS[shape.size]))
    if words.colour:
        name.append(shape.colour)
    name.append(shape.shape if words.shape else pick(rng, ANY_SHAPE))
    sentence = pick(rng, _SENTENCES[description.kind][description.detail])
    return sentence.format(" ".join(name), description.detail)
