"""Scenes of moving coloured shapes.

A scene is drawn so that language is needed: shapes have few looks, and some are twins, equal in
look.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 62),
    "blue": (44, 78, 214),
    "yellow": (232, 206, 48),
    "purple": (150, 52, 190),
}
ARM = 0.42  # half the width of a cross's arms over their length


def _ring(*radii: float, turn: float = 0.0) -> NDArray[np.float64]:
    """Return corners [V, 2] at these distances from the centre, evenly round it.

    Args:
        radii: of the corners, in the order of their angles.
        turn: of the whole ring, in steps from one corner to the next.
    """
    steps = np.arange(len(radii)) + turn
    angles = np.pi / 2 + 2 * np.pi * steps / len(radii)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.array(radii)[:, None] * directions


def _of_unit_circle(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the polygon [V, 2] scaled to the area of the unit circle."""
    x, y = corners.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # the shoelace formula
    return corners * np.sqrt(np.pi / area)


_HALF_CROSS = np.array(
    [[1, ARM], [ARM, ARM], [ARM, 1], [-ARM, 1], [-ARM, ARM], [-1, ARM]], np.float64
)
# Corners [V, 2] of each kind, x before y (down), at radius 1: equal areas.
SHAPES = {
    "circle": _of_unit_circle(_ring(*[1.0] * 32)),
    "triangle": _of_unit_circle(_ring(1.0, 1.0, 1.0, turn=1.5)),
    "cross": _of_unit_circle(np.concatenate([_HALF_CROSS, -_HALF_CROSS])),
}
SIZES = {"small": (0.08, 0.09), "large": (0.13, 0.15)}  # radius over the frame's side
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
SPEED = (5 / 160, 9 / 160)  # displacement a frame over the frame's side
MAX_RGB_CHANGE = 18  # of a shape's colour, so that no two reds are quite equal
# Shapes are deep in each other if their centres are nearer than this share of both radii, and may
# be so in this share of the frames.
DEEP_DISTANCE = 0.6
MAX_DEEP_SHARE = 0.4
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
    rng: np.random.Generator, *, max_shapes: int, num_frames: int, side: int, twins: float
) -> Scene:
    """Draw 2 to `max_shapes` shapes that stay inside the frame and seldom hide each other.

    Args:
        rng: the scene's own generator.
        max_shapes: largest number of shapes.
        num_frames: length in frames; with 1 every shape is still.
        side: height and width in pixels.
        twins: probability that a further shape looks like an earlier one.
    """
    # The order in which numbers are drawn decides every scene of every seed: leave it as it is.
    while True:
        count = int(rng.integers(2, max_shapes + 1))
        looks = _draw_looks(rng, count=count, twins=twins)
        shapes: list[Shape] = []
        for look in looks:
            # twins differ in motion, else nothing but their sides would tell them apart
            taken = {shape.motion for shape in shapes if shape.look == look}
            shapes.append(_draw_shape(rng, look, taken, num_frames=num_frames, side=side))
        seed = int(rng.integers(2**31))
        scene = Scene(tuple(shapes), num_frames, side, seed)
        if _mostly_apart(scene):
            return scene


def pick(rng: np.random.Generator, words: Iterable[str]) -> str:
    """Draw one of the words, each as likely as the others."""
    choices = tuple(words)
    return choices[int(rng.integers(len(choices)))]


def _draw_looks(rng: np.random.Generator, *, count: int, twins: float) -> list[Look]:
    looks = [_draw_look(rng)]
    while len(looks) < count:
        earlier = looks[int(rng.integers(len(looks)))]
        is_twin = rng.random() < twins
        looks.append(earlier if is_twin else _draw_look(rng))
    return looks


def _draw_look(rng: np.random.Generator) -> Look:
    size = pick(rng, SIZES)
    colour = pick(rng, COLOURS)
    shape = pick(rng, SHAPES)
    return size, colour, shape


def _draw_shape(
    rng: np.random.Generator, look: Look, taken: Collection[str], *, num_frames: int, side: int
) -> Shape:
    """Draw where a shape of a look starts and how it moves.

    Args:
        rng: the scene's own generator.
        look: size, colour and shape.
        taken: motions that it may not have.
        num_frames: length in frames.
        side: height and width in pixels.
    """
    size, colour, shape = look
    if num_frames > 1:
        motion = pick(rng, [name for name in MOTIONS if name not in taken])
    else:
        motion = pick(rng, ["still"])
    radius = side * rng.uniform(*SIZES[size])
    num_steps = max(num_frames - 1, 1)
    extent = radius * float(np.abs(SHAPES[shape]).max())
    # as fast as drawn, but no faster than lets it cross the frame once
    speed = min(side * rng.uniform(*SPEED), (side - 2.2 * extent) / num_steps)
    velocity = speed * np.array(MOTIONS[motion])
    # the middle of the path keeps so far from the edges that the whole path is inside
    reach = extent + np.abs(velocity) * num_steps / 2
    middle = rng.uniform(reach, side - reach)
    start_x, start_y = (middle - velocity * num_steps / 2).tolist()
    velocity_x, velocity_y = velocity.tolist()
    change = rng.integers(-MAX_RGB_CHANGE, MAX_RGB_CHANGE + 1, 3)
    red, green, blue = np.clip(np.array(COLOURS[colour]) + change, 0, 255).tolist()
    return Shape(
        shape=shape,
        colour=colour,
        size=size,
        motion=motion,
        radius=float(radius),
        start=(start_x, start_y),
        velocity=(velocity_x, velocity_y),
        rgb=(red, green, blue),
    )


def _mostly_apart(scene: Scene) -> bool:
    """Tell whether no pair is deep in each other in more than two fifths of the frames."""
    centres = scene.centres()
    radii = np.array([shape.radius for shape in scene.shapes])
    first, second = np.triu_indices(len(radii), k=1)
    distance = np.linalg.norm(centres[first] - centres[second], axis=-1)  # [pairs, F]
    both_radii = (radii[first] + radii[second])[:, None]
    deep_share = (distance < DEEP_DISTANCE * both_radii).mean(axis=1)
    return bool((deep_share <= MAX_DEEP_SHARE).all())
