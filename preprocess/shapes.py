"""Scenes of moving coloured shapes, the expressions that single one out, and their drawing.

A scene is drawn so that language is needed: shapes come as twins (equal in look) or share colour or kind,
and an expression is kept only if it is true of exactly one shape. Its kind says what it takes:

- ``appearance``: size, colour and shape words alone name one shape;
- ``side``: without "on the left" (right, top, bottom) two shapes would fit; the order along that axis
  holds with a margin in every frame;
- ``motion``: without "moving left" (right, up, down, "that stays still") two shapes would fit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

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
# Half-planes at equal angles: a convex shape is where all of them hold. The factor is the distance of the
# edges from the centre for a unit radius, chosen so that the kinds have about equal areas.
SHAPES = {"circle": (0, 1.0), "square": (4, 0.886), "triangle": (3, 0.778)}
SIZES = {"small": (0.062, 0.072), "large": (0.115, 0.132)}  # radius over the frame's side
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SIDES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, sign
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
ANY_SHAPE = ("shape", "one", "object")
KINDS = ("appearance", "side", "motion")
SPEED = (5 / 160, 9 / 160)  # displacement a frame over the frame's side
SIDE_MARGIN = 0.12  # over the frame's side
STREAMS = {"train": 0, "valid": 1, "image": 2, "valid_image": 3}  # one random stream a split


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
    def look(self) -> tuple[str, str, str]:
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


def draw_scene(rng: np.random.Generator, *, num_frames: int, side: int, twins: float) -> Scene:
    """Draw 2 to 4 shapes that stay inside the frame and seldom hide each other.

    Args:
        rng: the scene's own generator.
        num_frames: length in frames; with 1 every shape is still.
        side: height and width in pixels.
        twins: probability that a further shape looks like the one before it.
    """
    while True:
        looks = _draw_looks(rng, count=int(rng.integers(2, 5)), twins=twins)
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


def _draw_looks(
    rng: np.random.Generator, *, count: int, twins: float
) -> list[tuple[str, str, str]]:
    def draw() -> tuple[str, str, str]:
        return _pick(rng, SIZES), _pick(rng, COLOURS), _pick(rng, SHAPES)

    looks = [draw()]
    while len(looks) < count:
        size, colour, shape = looks[int(rng.integers(len(looks)))]
        if rng.random() >= twins:
            new_size, new_colour, new_shape = draw()
            keep = rng.random(3) < (0.5, 0.4, 0.6)
            size = size if keep[0] else new_size
            colour = colour if keep[1] else new_colour
            shape = shape if keep[2] else new_shape
        looks.append((size, colour, shape))
    return looks


def _draw_shape(
    rng: np.random.Generator,
    look: tuple[str, str, str],
    taken: set[str],
    *,
    num_frames: int,
    side: int,
) -> Shape:
    size, colour, shape = look
    free = [motion for motion in MOTIONS if motion not in taken] if num_frames > 1 else ["still"]
    motion = _pick(rng, free)
    radius = side * rng.uniform(*SIZES[size])
    steps = max(num_frames - 1, 1)
    speed = min(side * rng.uniform(*SPEED), (side - 2.2 * radius) / steps)
    velocity = speed * np.array(MOTIONS[motion])
    reach = 1.1 * radius + np.abs(velocity) * steps / 2  # so that the whole path is inside
    middle = rng.uniform(reach, side - reach)
    start = middle - velocity * steps / 2
    rgb = np.clip(np.array(COLOURS[colour]) + rng.integers(-18, 19, 3), 0, 255)
    return Shape(
        shape=shape,
        colour=colour,
        size=size,
        motion=motion,
        radius=float(radius),
        start=(float(start[0]), float(start[1])),
        velocity=(float(velocity[0]), float(velocity[1])),
        rgb=(int(rgb[0]), int(rgb[1]), int(rgb[2])),
    )


def _mostly_apart(scene: Scene) -> bool:
    """Tell whether no pair is deep in each other in more than a quarter of the frames."""
    centres = scene.centres()
    radii = np.array([shape.radius for shape in scene.shapes])
    first, second = np.triu_indices(len(radii), k=1)
    distance = np.linalg.norm(centres[first] - centres[second], axis=-1)
    deep = distance < 0.75 * (radii[first] + radii[second])[:, None]
    return bool((deep.mean(axis=1) <= 0.25).all())


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
        motion_share: probability of the kind motion where a shape can be told apart that way; the other
            two kinds share the rest. A scene of one frame has no motion expressions.
        per_shape: number of draws for each shape; equal texts count once.
    """
    found: dict[str, Referral] = {}
    for target in range(len(scene.shapes)):
        options: dict[str, list[tuple[float, str]]] = {kind: [] for kind in KINDS}
        for kind, weight, text in _true_of_one(rng, scene, target):
            options[kind].append((weight, text))
        for _ in range(per_shape):
            still_kinds = ("appearance", "side") if rng.random() < 0.5 else ("side", "appearance")
            wanted = ("motion", *still_kinds) if rng.random() < motion_share else still_kinds
            kind = next((kind for kind in wanted if options[kind]), None)
            if kind is None:
                continue
            weights = np.array([weight for weight, _ in options[kind]])
            text = options[kind][rng.choice(len(weights), p=weights / weights.sum())][1]
            found[text] = Referral(target, text, kind)
    return list(found.values())


def _true_of_one(
    rng: np.random.Generator, scene: Scene, target: int
) -> Iterator[tuple[str, float, str]]:
    """Yield (kind, weight, text) of every set of words that singles out the target."""
    me = scene.shapes[target]
    centres = scene.centres()
    for with_size, with_colour, with_shape in product((True, False), repeat=3):
        used = np.array((with_size, with_colour, with_shape))
        fits = [
            index
            for index, other in enumerate(scene.shapes)
            if all(a == b for a, b, use in zip(me.look, other.look, used, strict=True) if use)
        ]
        weight = (1.0 if with_size else 1.5) * (3.0 if with_shape else 1.0)
        words = [_pick(rng, SIZE_WORDS[me.size])] if with_size else []
        words += [me.colour] if with_colour else []
        words += [me.shape if with_shape else _pick(rng, ANY_SHAPE)]
        name = " ".join(words)
        if len(fits) == 1:
            article = "the " if rng.random() < 0.8 or not with_shape else ""
            yield "appearance", weight, article + name
            continue
        others = [index for index in fits if index != target]
        for side in SIDES:
            if _is_on_side(centres, target, others, side, scene.side):
                yield "side", weight, _side_text(rng, name, side)
        if scene.num_frames > 1 and all(scene.shapes[i].motion != me.motion for i in others):
            yield "motion", weight, _motion_text(rng, name, me.motion)


def _is_on_side(
    centres: NDArray[np.float64], target: int, others: list[int], side: str, length: int
) -> bool:
    """Tell whether the target is first along the side's axis in every frame, by a margin."""
    axis, sign = SIDES[side]
    place = sign * (centres[..., axis] - length / 2)  # negative: in that half of the frame
    gap = (place[others] - place[target]).min()
    return bool(gap >= SIDE_MARGIN * length and place[target].mean() < 0)


def _side_text(rng: np.random.Generator, name: str, side: str) -> str:
    if side in ("left", "right"):
        forms = ("the {} on the {}", "the {} on the {} side", "{} on the {}")
    else:
        forms = ("the {} at the {}", "the {} on the {}", "{} at the {}")
    return _pick(rng, forms).format(name, side)


def _motion_text(rng: np.random.Generator, name: str, motion: str) -> str:
    forms = {
        "left": ("the {} moving {}", "the {} moving to the {}", "the {} going {}"),
        "up": ("the {} moving {}", "the {} that moves {}", "the {} going {}"),
        "still": ("the {} that stays {}", "the {} that is not moving", "the {} standing {}"),
    }[{"right": "left", "down": "up"}.get(motion, motion)]
    return _pick(rng, forms).format(name, motion)


def render(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene.

    Returns:
        frames [F, H, W, 3] in RGB, and labels [F, H, W]: 0 for ground, else shape number + 1.
    """
    rng = np.random.default_rng(scene.seed)
    side, num_frames = scene.side, scene.num_frames
    ground = _draw_ground(rng, side)
    labels = np.zeros((num_frames, side, side), np.uint8)
    noise = rng.integers(
        -7, 8, (2 * side, 2 * side, 3), np.int8
    )  # a frame's noise is a window of it
    frames = np.empty((num_frames, side, side, 3), np.uint8)
    for frame, centres in enumerate(scene.centres().transpose(1, 0, 2)):
        picture = ground.copy()
        for index, (shape, centre) in enumerate(zip(scene.shapes, centres, strict=True)):
            _paint(picture, labels[frame], shape, centre, index + 1)
        row, column = rng.integers(0, side, 2)
        picture += noise[row : row + side, column : column + side]
        frames[frame] = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
    return frames, labels


def _draw_ground(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return muted, blotchy, grainy ground [H, W, 3]."""
    cells = int(rng.integers(4, 12))
    blotches = rng.uniform(-28, 28, (cells, cells, 3)) + rng.uniform(85, 165, 3).mean()
    blotches += rng.uniform(-18, 18, 3)
    soft = Image.fromarray(np.clip(blotches, 0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-14, 15, (side, side, 1), np.int8)
    return np.asarray(soft, np.float32) + grain


def _paint(
    picture: NDArray[np.float32],
    labels: NDArray[np.uint8],
    shape: Shape,
    centre: NDArray[np.float64],
    label: int,
) -> None:
    """Blend one shape, darker at its rim, into a picture [H, W, 3] and its label map [H, W]."""
    side = len(labels)
    reach = 1.7 * shape.radius + 1
    left, top = (max(int(c - reach), 0) for c in centre)
    right, bottom = (min(int(c + reach) + 1, side) for c in centre)
    x = np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])
    distance = _signed_distance(shape.shape, shape.radius, x, y)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    light = (0.62 + 0.38 * np.clip(-0.5 * distance, 0, 1))[..., None]
    window = picture[top:bottom, left:right]
    window += cover * (light * np.array(shape.rgb, np.float32) - window)
    labels[top:bottom, left:right][distance < 0] = label


def _signed_distance(
    kind: str, radius: float, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the distance to a shape's outline, negative inside, for centred coordinates in pixels."""
    edges, apothem = SHAPES[kind]
    if edges == 0:
        return np.hypot(x, y) - np.float32(radius)
    angles = np.pi / 2 + 2 * np.pi * np.arange(edges) / edges  # the first edge is the lower one
    planes = [np.float32(np.cos(a)) * x + np.float32(np.sin(a)) * y for a in angles]
    return np.max(planes, axis=0) - np.float32(apothem * radius)


def outline(shape: Shape, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners [V, 2] of a shape in pixels, x before y; a circle has 32."""
    edges, apothem = SHAPES[shape.shape]
    count = edges or 32
    angles = np.pi / 2 + 2 * np.pi * (np.arange(count) + 0.5) / count
    reach = shape.radius * (apothem / np.cos(np.pi / count) if edges else 1.0)
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
