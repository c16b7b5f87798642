"""Scenes of moving coloured shapes, the expressions that single one out, and their drawing.

A scene is drawn so that language is needed: shapes have few looks, some are twins (equal in
look), and an expression is kept only if it is true of exactly one shape. Its kind says what it
takes:

- ``appearance``: size, colour and shape words alone name one shape;
- ``side``: without "on the left" (right, top, bottom) two shapes would fit; the others are in
  the other half, and behind with a margin in every frame;
- ``motion``: without "moving left" (right, up, down, "that stays still") two shapes would fit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, product
from operator import ne
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 62),
    "blue": (44, 78, 214),
    "yellow": (232, 206, 48),
    "purple": (150, 52, 190),
}
ARM = 0.42  # half the width of a cross's arms over their length


def _ring(*radii: float, turn: float = 0.0) -> NDArray[np.float64]:
    """Corners [V, 2] at these distances from the centre, evenly round it."""
    angles = np.pi / 2 + 2 * np.pi * (np.arange(len(radii)) + turn) / len(radii)
    return np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _of_unit_circle(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon [V, 2] scaled to the area of the unit circle."""
    x, y = corners.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return corners * np.sqrt(np.pi / area)


_HALF = np.array([[1, ARM], [ARM, ARM], [ARM, 1], [-ARM, 1], [-ARM, ARM], [-1, ARM]], np.float64)
# Corners [V, 2] of each kind, x before y (down), at radius 1: equal areas.
SHAPES = {
    "circle": _of_unit_circle(_ring(*[1.0] * 32)),
    "triangle": _of_unit_circle(_ring(1.0, 1.0, 1.0, turn=1.5)),
    "cross": _of_unit_circle(np.concatenate([_HALF, -_HALF])),
}
SIZES = {"small": (0.08, 0.09), "large": (0.13, 0.15)}  # radius over the frame's side
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SIDES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, sign
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
ANY_SHAPE = ("shape", "one", "object")
KINDS = ("appearance", "side", "motion")
SPEED = (5 / 160, 9 / 160)  # displacement a frame over the frame's side
SIDE_MARGIN = 0.12  # over the frame's side
STREAMS = {"train": 0, "valid": 1, "image": 2, "valid_image": 3}  # one random stream a split

Look = tuple[str, str, str]  # size, colour, shape


@dataclass(frozen=True)
class Shape:
    """One object of a scene; lengths in pixels, x before y, per frame for the velocity."""

    shape: str
    colour: str
    size: str
    motion: str
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]
    rgb: tuple[int, int, int]

    @property
    def look(self) -> Look:
        """The size, colour and shape words that fit."""
        return self.size, self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """Shapes in drawing order (later ones hide earlier ones) on ground that ``seed`` stands for."""

    shapes: tuple[Shape, ...]
    num_frames: int
    side: int
    seed: int

    def centres(self) -> NDArray[np.float64]:
        """Return the centres [N, F, 2] in pixels, x before y."""
        start = np.array([shape.start for shape in self.shapes])
        velocity = np.array([shape.velocity for shape in self.shapes])
        return start[:, None] + velocity[:, None] * np.arange(self.num_frames)[None, :, None]


def scene_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator of one scene: its own stream for every seed, split and index."""
    return np.random.default_rng([seed, STREAMS[split], index])


def draw_scene(
    rng: np.random.Generator, *, most: int, num_frames: int, side: int, twins: float
) -> Scene:
    """Draw 2 to `most` shapes that stay inside the frame and seldom hide each other.

    Args:
        rng: the scene's own generator.
        most: largest number of shapes.
        num_frames: length in frames; with 1 every shape is still.
        side: height and width in pixels.
        twins: probability that a further shape looks like an earlier one.
    """
    while True:
        looks = _draw_looks(rng, count=int(rng.integers(2, most + 1)), twins=twins)
        shapes: list[Shape] = []
        for look in looks:
            taken = {shape.motion for shape in shapes if shape.look == look}
            shapes.append(_draw_shape(rng, look, taken, num_frames=num_frames, side=side))
        scene = Scene(tuple(shapes), num_frames, side, int(rng.integers(2**31)))
        if _mostly_apart(scene):
            return scene


def _pick(rng: np.random.Generator, words: Iterable[str]) -> str:
    """Draw one of the words, each as likely as the others."""
    words = tuple(words)
    return words[int(rng.integers(len(words)))]


def _draw_looks(rng: np.random.Generator, *, count: int, twins: float) -> list[Look]:
    def draw() -> Look:
        return _pick(rng, SIZES), _pick(rng, COLOURS), _pick(rng, SHAPES)

    looks = [draw()]
    while len(looks) < count:
        like = looks[int(rng.integers(len(looks)))]
        looks.append(like if rng.random() < twins else draw())
    return looks


def _draw_shape(
    rng: np.random.Generator, look: Look, taken: set[str], *, num_frames: int, side: int
) -> Shape:
    size, colour, shape = look
    free = [motion for motion in MOTIONS if motion not in taken] if num_frames > 1 else ["still"]
    motion = _pick(rng, free)
    radius = side * rng.uniform(*SIZES[size])
    steps = max(num_frames - 1, 1)
    extent = radius * float(np.abs(SHAPES[shape]).max())
    speed = min(side * rng.uniform(*SPEED), (side - 2.2 * extent) / steps)
    velocity = speed * np.array(MOTIONS[motion])
    reach = extent + np.abs(velocity) * steps / 2  # so that the whole path is inside
    middle = rng.uniform(reach, side - reach)
    start = middle - velocity * steps / 2
    rgb = np.clip(np.array(COLOURS[colour]) + rng.integers(-18, 19, 3), 0, 255)
    pairs: Iterator[Any] = (tuple(it.tolist()) for it in (start, velocity, rgb))
    return Shape(shape, colour, size, motion, float(radius), *pairs)


def _mostly_apart(scene: Scene) -> bool:
    """Tell whether no pair is deep in each other in more than two fifths of the frames."""
    centres = scene.centres()
    radii = np.array([shape.radius for shape in scene.shapes])
    first, second = np.triu_indices(len(radii), k=1)
    distance = np.linalg.norm(centres[first] - centres[second], axis=-1)
    deep = distance < 0.6 * (radii[first] + radii[second])[:, None]
    return bool((deep.mean(axis=1) <= 0.4).all())


@dataclass(frozen=True)
class Referral:
    """A text that is true of the shape number ``target`` (from 0) and of no other."""

    target: int
    text: str
    kind: str


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
    found: dict[str, Referral] = {}
    for target in range(len(scene.shapes)):
        options: dict[str, list[tuple[_Words, str]]] = {kind: [] for kind in KINDS}
        for kind, words, tail in _true_of_one(scene, target):
            options[kind].append((words, tail))
        for _ in range(per_shape):
            plain = ("appearance", "side") if rng.random() < 0.62 else ("side", "appearance")
            wanted = ("motion", *plain) if rng.random() < motion_share else plain
            kind = next((it for it in wanted if options[it]), "")
            if kind:
                said = np.array([colour + noun for (_, colour, noun), _ in options[kind]])
                weights = 3.0**said
                words, tail = options[kind][rng.choice(len(weights), p=weights / weights.sum())]
                text = _text(rng, scene.shapes[target], words, kind, tail)
                found[text] = Referral(target, text, kind)
    return list(found.values())


_Words = tuple[bool, ...]  # whether size, colour and shape are said


def _true_of_one(scene: Scene, target: int) -> Iterator[tuple[str, _Words, str]]:
    """Yield (kind, words, side or motion) of all that singles out the target."""
    me = scene.shapes[target]
    gaps = _side_gaps(scene, target)
    for words in product((True, False), repeat=3):
        rivals = [
            index
            for index, other in enumerate(scene.shapes)
            if index != target
            and not any(compress(map(ne, me.look, other.look), words))  # no said word tells them
        ]
        if not rivals:
            yield "appearance", words, ""
            continue
        for side, gap in gaps.items():
            if gap[rivals].min() >= SIDE_MARGIN * scene.side:
                yield "side", words, side
        if scene.num_frames > 1 and all(scene.shapes[i].motion != me.motion for i in rivals):
            yield "motion", words, me.motion


def _side_gaps(scene: Scene, target: int) -> dict[str, NDArray[np.float64]]:
    """Measure how far a shape is ahead of the others toward each side, in the worst frame.

    Returns:
        for every side of the frame whose half the target is in, mostly: gaps [N] in pixels, none
        to those in the same half.
    """
    gaps = {}
    centres = scene.centres()
    for side, (axis, sign) in SIDES.items():
        place = sign * centres[..., axis]
        if place[target].mean() < sign * scene.side / 2:
            apart = place.mean(axis=1) > sign * scene.side / 2
            gaps[side] = np.where(apart, (place - place[target]).min(axis=1), 0.0)
    return gaps


_BESIDE = ("the {} on the {}", "the {} on the {} side", "{} on the {}")
_ABOVE = ("the {} at the {}", "the {} on the {}", "{} at the {}")
_ASIDE = ("the {} moving {}", "the {} moving to the {}", "the {} going {}")
_UP = ("the {} moving {}", "the {} that moves {}", "the {} going {}")
_STILL = ("the {} that stays still", "the {} that is not moving", "the {} standing still")
_FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "appearance": {"": ("the {}", "the {}", "the {}", "{}")},
    "side": {"left": _BESIDE, "right": _BESIDE, "top": _ABOVE, "bottom": _ABOVE},
    "motion": {"left": _ASIDE, "right": _ASIDE, "up": _UP, "down": _UP, "still": _STILL},
}


def _text(rng: np.random.Generator, shape: Shape, words: _Words, kind: str, tail: str) -> str:
    size, colour, noun = words
    name = [_pick(rng, SIZE_WORDS[shape.size])] if size else []
    name += [shape.colour] if colour else []
    name += [shape.shape if noun else _pick(rng, ANY_SHAPE)]
    return _pick(rng, _FORMS[kind][tail]).format(" ".join(name), tail)


def render(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene.

    Returns:
        frames [F, H, W, 3] in RGB, and labels [F, H, W]: 0 for ground, else shape number + 1.
    """
    rng = np.random.default_rng(scene.seed)
    side, num_frames = scene.side, scene.num_frames
    ground = _draw_ground(rng, side)
    labels = np.zeros((num_frames, side, side), np.uint8)
    slack = 16  # the noise of a frame is a window of one larger picture
    noise = _draw_noise(rng, (side + slack, side + slack, 3), 6)
    frames = np.empty((num_frames, side, side, 3), np.uint8)
    for frame, centres in enumerate(scene.centres().transpose(1, 0, 2)):
        picture = ground.copy()
        for index, (shape, centre) in enumerate(zip(scene.shapes, centres, strict=True)):
            _paint(picture, labels[frame], shape, centre, index + 1)
        row, column = rng.integers(0, slack + 1, 2)
        picture += noise[row : row + side, column : column + side]
        frames[frame] = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
    return frames, labels


def _draw_ground(rng: np.random.Generator, side: int) -> NDArray[np.int16]:
    """Return muted, blotchy, grainy ground [H, W, 3]."""
    cells = int(rng.integers(4, 12))
    blotches = rng.uniform(-28, 28, (cells, cells, 3)) + rng.uniform(85, 165, 3).mean()
    blotches += rng.uniform(-18, 18, 3)
    soft = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(soft, np.int16) + _draw_noise(rng, (side, side, 1), 10)


def _draw_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], reach: int
) -> NDArray[np.int8]:
    """Return whole numbers around 0, from -reach to reach."""
    raw = np.frombuffer(rng.bytes(int(np.prod(shape))), np.int8).reshape(shape)
    return raw // np.int8(128 // reach)


def _paint(
    picture: NDArray[np.int16],
    labels: NDArray[np.uint8],
    shape: Shape,
    centre: NDArray[np.float64],
    label: int,
) -> None:
    """Blend one shape, darker at its rim, into a picture [H, W, 3] and its label map [H, W]."""
    side = len(labels)
    reach = shape.radius * np.abs(SHAPES[shape.shape]).max() + 1
    left, top = (max(int(c - reach), 0) for c in centre)
    right, bottom = (min(int(c + reach) + 1, side) for c in centre)
    x = np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])
    distance = _signed_distance(shape.shape, shape.radius, x, y)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    light = (0.62 + 0.38 * np.clip(-0.5 * distance, 0, 1))[..., None]
    window = picture[top:bottom, left:right]
    window[:] = window + cover * (light * np.array(shape.rgb, np.float32) - window)
    labels[top:bottom, left:right][distance < 0] = label


def _signed_distance(
    kind: str, radius: float, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the distance to the outline, negative inside, for centred coordinates in pixels.

    Args:
        kind: of shape.
        radius: in pixels.
        x: [W].
        y: [H, 1].
    """
    if kind == "circle":
        return np.hypot(x, y) - np.float32(radius)
    corners = (SHAPES[kind] * radius).astype(np.float32)
    distance = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    inside = np.zeros(distance.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = x2 - x1, y2 - y1
        along = (((x - x1) * dx + (y - y1) * dy) / (dx**2 + dy**2)).clip(0, 1)
        distance = np.minimum(distance, (x - x1 - along * dx) ** 2 + (y - y1 - along * dy) ** 2)
        if y1 != y2:  # a ray to the left of a point crosses the edge
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * dx / dy)
    return np.where(inside, -np.sqrt(distance), np.sqrt(distance))


def outline(shape: Shape, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners [V, 2] of a shape in pixels, x before y; a circle has 32."""
    return centre + shape.radius * SHAPES[shape.shape]
