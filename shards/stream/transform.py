"""A clip's augmentation as a small record, and what follows from it for boxes, masks and words.

Everything here is a pure function of the record, so that frames, masks, boxes and words follow the
same change, on the CPU as on a GPU, and a clip can be replayed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
Box = tuple[int, int, int, int]

_SIDE = re.compile(
    r"(?<![a-z])(left|right)(?=(?:most|side|wards?|-?hand(?:ed)?)?(?![a-z]))", re.IGNORECASE
)


@dataclass(frozen=True)
class Resize:
    """Resize to `height` x `width` pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Crop:
    """Keep `height` x `width` pixels from row `top` and column `left`."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Mirror:
    """Swap left and right."""


Step = Resize | Crop | Mirror


@dataclass(frozen=True)
class Colour:
    """Colour change of one frame; 0 and 1 change nothing.

    Attributes:
        brightness: Added, in grey levels.
        contrast: Factor.
        saturation: Factor of the HSV saturation.
        channels: Where red, green and blue come from.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    channels: tuple[int, int, int] = (0, 1, 2)


@dataclass(frozen=True)
class Shake:
    """How a frame of a clip made of an image differs from it, before all else; by default not.

    Attributes:
        angle: Of the camera, in radians.
        shift: Of the image to the right and down, as shares of its sides.
        corners: How far each corner of the view moves (x, y; clockwise from the upper left),
            likewise.
        brightness: Added, in grey levels.
        hue: Added, of 255 for the whole circle.
        saturation: Added, of 255.
        blur: Length of the motion in pixels; 0: none.
        blur_angle: Its direction, in radians.
    """

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    corners: tuple[float, ...] = (0.0,) * 8
    brightness: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    blur: int = 0
    blur_angle: float = 0.0


@dataclass(frozen=True)
class Record:
    """All that was drawn for one clip.

    Attributes:
        source: Height and width of the frames before.
        steps: Changes of geometry, in order, the same for all frames.
        colours: One a frame; empty: none.
        published: With the oversights that `Augmentation` names.
        shakes: One a frame where an image makes a clip; empty: none.
    """

    source: Size
    steps: tuple[Step, ...]
    colours: tuple[Colour, ...] = ()
    published: bool = False
    shakes: tuple[Shake, ...] = ()

    def frame(self, number: int) -> "Record":
        """What happens to the pixels of one frame."""
        return replace(self, shakes=(self.shakes[number],)) if self.shakes else self

    @property
    def mirrored(self) -> bool:
        """Whether left and right changed places."""
        return any(isinstance(step, Mirror) for step in self.steps)

    @property
    def size(self) -> Size:
        """Height and width after."""
        size = self.source
        for step in self.steps:
            if not isinstance(step, Mirror):
                size = (step.height, step.width)
        return size


def image_region(record: Record) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of the source that fills the new frame, for one resize from a region of interest.

    Returns:
        Source (y, x), in pixels, of the new frame's first and last corner; mirrored, they run back.
    """
    # source = scale * new + offset, for y and x
    scale_y, scale_x, offset_y, offset_x = 1.0, 1.0, 0.0, 0.0
    height, width = record.source
    for step in record.steps:
        if isinstance(step, Mirror):
            offset_x += scale_x * width
            scale_x = -scale_x
            continue
        if isinstance(step, Crop):
            offset_y += scale_y * step.top
            offset_x += scale_x * step.left
        else:
            scale_y *= height / step.height
            scale_x *= width / step.width
        height, width = step.height, step.width
    return (offset_y, offset_x), (offset_y + scale_y * height, offset_x + scale_x * width)


def transform_masks(
    masks: Sequence[npt.NDArray[np.bool_]], boxes: Sequence[Box | None], record: Record
) -> npt.NDArray[np.bool_]:
    """Move masks with their frames, all steps in one gather.

    Resizes take the nearest; their scale is a float32, as published, else a few pixels differ.

    Args:
        masks: T of `[H, W]`.
        boxes: What `mask_box` says of each; nothing outside of them is looked at.
        record: What happens.

    Returns:
        `[T, h, w]`.
    """
    rows, columns = gather_maps(record)
    moved = np.zeros((len(masks), len(rows), len(columns)), bool)
    for new, mask, box in zip(moved, masks, boxes, strict=True):
        if box is not None:
            y, x = _reach(rows, box[1], box[3]), _reach(columns, box[0], box[2])
            new[y, x] = mask.T[columns[x]].take(rows[y], axis=1).T  # as masks lie in memory
    return moved


def _reach(source: npt.NDArray[np.int64], low: int, high: int) -> slice:
    """Where a map that only rises, or only falls, gives `low` to `high`."""
    (there,) = np.nonzero((source >= low) & (source <= high))
    return slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0)


def gather_maps(record: Record) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Source row of each new row, source column of each new column."""
    rows, columns = np.arange(record.source[0]), np.arange(record.source[1])
    for step in record.steps:
        if isinstance(step, Mirror):
            columns = columns[::-1]
        elif isinstance(step, Crop):
            rows = rows[step.top : step.top + step.height]
            columns = columns[step.left : step.left + step.width]
        else:
            rows = rows[_nearest(len(rows), step.height)]
            columns = columns[_nearest(len(columns), step.width)]
    return rows, columns


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    """Nearest source index of each new index."""
    scale = np.float32(old) / np.float32(new)
    return np.minimum((np.arange(new, dtype=np.float32) * scale).astype(np.int64), old - 1)


def transform_boxes(
    boxes_xyxy_px: npt.NDArray[np.float32], record: Record
) -> npt.NDArray[np.float32]:
    """Move boxes with their frames; a crop cuts them, down to no width or height outside.

    Args:
        boxes_xyxy_px: `[T, 4]` in pixels of the source.
        record: What happens.

    Returns:
        `[T, 4]` in pixels of the new frames.
    """
    boxes = np.array(boxes_xyxy_px, np.float32)
    height, width = record.source
    for step in record.steps:
        if isinstance(step, Mirror):
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            continue
        if isinstance(step, Crop):
            boxes[:, [0, 2]] = (boxes[:, [0, 2]] - step.left).clip(0, step.width)
            boxes[:, [1, 3]] = (boxes[:, [1, 3]] - step.top).clip(0, step.height)
        else:
            boxes[:, [0, 2]] *= step.width / width
            boxes[:, [1, 3]] *= step.height / height
        height, width = step.height, step.width
    return boxes


def mask_box(mask: npt.NDArray[np.bool_]) -> Box | None:
    """Box of a mask as published: smallest and largest column and row number, without + 1.

    Args:
        mask: `[H, W]`.

    Returns:
        (x1, y1, x2, y2) in pixels, or None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def mirror_words(text: str, *, published: bool = False) -> str:
    """Let left and right change places in a sentence whose clip is mirrored.

    Whole words only, with the forms leftmost, leftside, leftward(s), left-hand, left-handed (also
    without hyphen) and their like; capitals stay. Other senses of the words are not told apart.

    Args:
        text: The sentence.
        published: Swap inside of any word, as the published code does.
    """
    if published:
        return text.replace("left", "\0").replace("right", "left").replace("\0", "right")
    return _SIDE.sub(_other_side, text)


def _other_side(match: re.Match[str]) -> str:
    """The other side, in the same capitals."""
    found = match.group()
    other = {"left": "right", "right": "left"}[found.lower()]
    if found.isupper():
        return other.upper()
    return other.capitalize() if found[0].isupper() else other
