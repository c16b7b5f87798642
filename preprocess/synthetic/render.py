"""Pictures and masks of a scene."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess.synthetic.scenes import SHAPES, Scene, Shape

NOISE_REACH = 6  # of a frame, in grey levels
GRAIN_REACH = 10  # of the ground
NOISE_SLACK_PX = 16  # the noise of a frame is a window of one picture, larger by this


def render(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene.

    Returns:
        frames [F, H, W, 3] in RGB, and labels [F, H, W]: 0 for ground, else shape number + 1.
    """
    # The order in which numbers are drawn decides the bytes of every frame: leave it as it is.
    rng = np.random.default_rng(scene.seed)
    side = scene.side
    ground = _draw_ground(rng, side)
    labels = np.zeros((scene.num_frames, side, side), np.uint8)
    noise_side = side + NOISE_SLACK_PX
    noise = _draw_noise(rng, (noise_side, noise_side, 3), NOISE_REACH)
    frames = np.empty((scene.num_frames, side, side, 3), np.uint8)
    for frame, centres in enumerate(scene.centres().transpose(1, 0, 2)):
        picture = ground.copy()
        for label, (shape, centre) in enumerate(zip(scene.shapes, centres, strict=True), start=1):
            _paint(picture, labels[frame], shape, centre, label)
        row, column = rng.integers(0, NOISE_SLACK_PX + 1, 2)
        picture += noise[row : row + side, column : column + side]
        frames[frame] = np.clip(picture, 0, 255, out=picture).astype(np.uint8)
    return frames, labels


def _draw_ground(rng: np.random.Generator, side: int) -> NDArray[np.int16]:
    """Return muted, blotchy, grainy ground [H, W, 3]."""
    num_cells = int(rng.integers(4, 12))
    blotches = rng.uniform(-28, 28, (num_cells, num_cells, 3))
    brightness = rng.uniform(85, 165, 3).mean()
    tint = rng.uniform(-18, 18, 3)
    # two sums: floating point would round one differently
    coarse = blotches + brightness
    coarse += tint
    picture = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    smooth = picture.resize((side, side), Image.Resampling.BICUBIC)
    grain = _draw_noise(rng, (side, side, 1), GRAIN_REACH)
    return np.asarray(smooth, np.int16) + grain


def _draw_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], reach: int
) -> NDArray[np.int8]:
    """Return whole numbers around 0, from -reach to reach."""
    # bytes cost a tenth of what drawing numbers in a range does
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
    # only the window that the shape may reach is computed
    reach = shape.radius * np.abs(SHAPES[shape.shape]).max() + 1
    left, top = (max(int(coordinate - reach), 0) for coordinate in centre)
    right, bottom = (min(int(coordinate + reach) + 1, side) for coordinate in centre)
    x = np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(centre[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - np.float32(centre[1])
    distance = _signed_distance(shape.shape, shape.radius, x, y)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]  # a pixel on the outline is half covered
    light = (0.62 + 0.38 * np.clip(-0.5 * distance, 0, 1))[..., None]
    window = picture[top:bottom, left:right]
    window[:] = window + cover * (light * np.array(shape.rgb, np.float32) - window)
    labels[top:bottom, left:right][distance < 0] = label


def _signed_distance(
    kind: str, radius: float, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the distance to the outline, negative inside, for centred coordinates in pixels.

    Args:
        kind: name of the shape.
        radius: in pixels.
        x: [W].
        y: [H, 1].
    """
    if kind == "circle":
        return np.hypot(x, y) - np.float32(radius)
    corners = (SHAPES[kind] * radius).astype(np.float32)
    squared = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    inside = np.zeros(squared.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx = x2 - x1
        dy = y2 - y1
        # where on the edge, from 0 to 1, the point is that lies nearest
        along = (((x - x1) * dx + (y - y1) * dy) / (dx**2 + dy**2)).clip(0, 1)
        squared = np.minimum(squared, (x - x1 - along * dx) ** 2 + (y - y1 - along * dy) ** 2)
        if y1 != y2:
            # a point is inside if a ray to its left crosses an odd number of edges
            crossing = x1 + (y - y1) * dx / dy
            inside ^= ((y1 > y) != (y2 > y)) & (x < crossing)
    distance = np.sqrt(squared)
    return np.where(inside, -distance, distance)


def outline(shape: Shape, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners [V, 2] of a shape in pixels, x before y; a circle has 32."""
    return centre + shape.radius * SHAPES[shape.shape]
