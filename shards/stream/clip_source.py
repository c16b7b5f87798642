"""From a position of an epoch to its clip: item, frames, what was drawn for it, targets."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shards.errors import DamageError, ShardError
from shards.format.rle import BoolArray, decode_mask
from shards.format.schema import Expression, Frame
from shards.format.shard_set import ShardSet, VideoRow
from shards.stream import order
from shards.stream.augment import Augmentation, draw_augmentation
from shards.stream.camera_shake import shake_mask
from shards.stream.quarantine import Place, Quarantine
from shards.stream.sampling import ClipSampling, clip_frames, list_items
from shards.stream.transform import (
    Box,
    Record,
    mask_box,
    mirror_words,
    transform_boxes,
    transform_masks,
)

MAX_ATTEMPTS = 100
T = TypeVar("T")
At = tuple[int, int, int]  # epoch, position, attempt


@dataclass(frozen=True)
class Choice:
    """What a position is to show, before anything of it is read.

    Attributes:
        number: Of the set.
        video: Its number in the set.
        row: Of the index.
        expression: Of the video.
        target_frame: Frame of the video that the clip is made around.
        frames: T frame numbers.
    """

    number: int
    video: int
    row: VideoRow
    expression: Expression
    target_frame: int
    frames: list[int]


@dataclass(frozen=True)
class Clip:
    """One clip before its frames are decoded.

    Attributes:
        epoch: Counted from 0.
        position: In the epoch.
        key: Of the video.
        places: Of each frame, for the quarantine.
        images: T encoded frames.
        record: What was drawn.
        expressions: E sentences, the item's own first.
        masks: `[E, T, h, w]`, of the new size.
        boxes_cxcywh: `[E, T, 4]`, normalised.
        visible: `[E, T]`, the box has width and height.
        annotated: `[T]`, the frame carries ground truth.
        target_frame: Index in the clip of the frame it was made around; -1 if absent.
    """

    epoch: int
    position: int
    key: str
    places: tuple[Place, ...]
    images: tuple[bytes, ...]
    record: Record
    expressions: tuple[str, ...]
    masks: BoolArray
    boxes_cxcywh: npt.NDArray[np.float32]
    visible: BoolArray
    annotated: BoolArray
    target_frame: int


class ClipSource:
    """The clips of a mixture of shard sets, by epoch and position; safe for several threads.

    Args:
        sets: The shard sets.
        weights: Share of each in an epoch; None: each item comes once.
        num_frames: T.
        seed: Of order, sampling and augmentation.
        sampling: How clips are cut from videos.
        augmentation: What may happen to them.
        expressions: Most sentences of a clip: the item's own and others of its video.
        block_shards: Shards of a set read at a time, see `order.epoch_order`.
        max_damage: Frames and shards that may be damaged before `clip` raises.

    Attributes:
        made: Clips made so far.
        quarantine: What was found damaged.

    Raises:
        ValueError: If the weights do not fit the sets.
        ShardError: If a set offers no clip.
    """

    def __init__(
        self,
        sets: Sequence[ShardSet],
        *,
        num_frames: int,
        seed: int,
        weights: Sequence[float] | None = None,
        sampling: ClipSampling,
        augmentation: Augmentation,
        expressions: int = 1,
        block_shards: int = 0,
        max_damage: int = 0,
    ) -> None:
        """List all items."""
        self.sets, self.seed, self.num_frames = sets, seed, num_frames
        self._expressions = expressions
        self.sampling, self.augmentation, self._block_shards = sampling, augmentation, block_shards
        self.items = [list_items(s.videos, sampling, num_frames) for s in sets]
        for shard_set, items in zip(sets, self.items, strict=True):
            if not len(items):
                raise ShardError(
                    f"{shard_set.url}: no expression has a visible object to learn from; "
                    "train on a split with masks"
                )
        self._takes = order.quotas([len(items) for items in self.items], weights)
        self._kept: tuple[int, tuple[order.Ints, order.Ints]] | None = None
        self._lock = threading.Lock()
        self.made, self.quarantine = 0, Quarantine(max_damage)

    def __len__(self) -> int:
        """Clips of an epoch."""
        return sum(self._takes)

    def order(self, epoch: int) -> tuple[order.Ints, order.Ints]:
        """Set and item of every position of an epoch; kept until another epoch is asked for."""
        with self._lock:
            if self._kept is None or self._kept[0] != epoch:
                made = order.epoch_order(
                    self.items, self._takes, self.seed, epoch, block_shards=self._block_shards
                )
                self._kept = (epoch, made)
            return self._kept[1]

    def clip(self, epoch: int, position: int) -> Clip:
        """Make the clip of one position, a pure function of seed, settings and shards.

        An item that shows nothing of its object, or is damaged, gives way to another of its set,
        drawn from a stream of this position. Positions behind the epoch's end repeat its first
        items.

        Raises:
            ShardError: If `MAX_ATTEMPTS` items show no object, or too much is damaged.
        """
        clip = self._first(self._try_item, epoch, position)
        with self._lock:
            self.made += 1
        return clip

    def put_aside(self, place: Place, problem: str) -> None:
        """Quarantine a frame; raises ShardError if too much is damaged."""
        shard_set, row = self.sets[place[0]], self.sets[place[0]].videos[place[1]]
        where = f"shard {row.shard}, video {row.key}, frame {row.frame_names[place[2]]}"
        self.quarantine.add(place, f"{shard_set.url}, {where}: {problem}")

    def choice(self, epoch: int, position: int) -> Choice:
        """What a position will show if nothing is damaged and no crop hides it; reads nothing.

        Raises:
            ShardError: If `MAX_ATTEMPTS` items show no object.
        """
        return self._first(self._choose, epoch, position)

    def _first(self, make: Callable[[int, int, At], T | None], epoch: int, position: int) -> T:
        """What an item or, where that gives None, one of its replacements makes."""
        which, items = self.order(epoch)
        number, item = int(which[position % len(self)]), int(items[position % len(self)])
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                draws = order.Draws(self.seed, order.REPLACEMENT, epoch, position, attempt)
                item = draws.integer(0, len(self.items[number]) - 1)
            if (made := make(number, item, (epoch, position, attempt))) is not None:
                return made
        raise ShardError(
            f"{self.sets[number].url}: {MAX_ATTEMPTS} clips in a row show no object or are "
            "damaged; crop less, or check the set"
        )

    def _choose(self, number: int, item: int, at: At) -> Choice | None:
        """Draw the frames of an item; None if none of them shows the object."""
        items = self.items[number]
        video = int(items.video[item])
        target_frame = int(items.target_frame[item])
        row = self.sets[number].videos[video]
        expression = row.expressions[int(items.expression[item])]
        draws = order.Draws(self.seed, order.CLIP, *at)
        length = len(row.annotated)
        chosen = clip_frames(self.sampling, length, target_frame, self.num_frames, draws)
        named = [row.visible[name] for name in expression.objects if name in row.visible]
        if not any(seen[chosen].any() for seen in named):
            return None
        return Choice(number, video, row, expression, target_frame, chosen)

    def _try_item(self, number: int, item: int, at: At) -> Clip | None:
        """Draw and read one item; None if it is damaged or shows nothing of its object."""
        choice = self._choose(number, item, at)
        if choice is None:
            return None
        places = tuple((number, choice.video, frame) for frame in choice.frames)
        shard = (number, -1, choice.row.shard)
        if self.quarantine.holds((shard, *places)):
            return None
        draws = order.Draws(self.seed, order.AUGMENTATION, *at)
        size = (choice.row.height, choice.row.width)
        image = len(choice.row.annotated) == 1
        record = draw_augmentation(self.augmentation, size, self.num_frames, draws, image=image)
        try:
            return self._read(choice, places, record, at)
        except DamageError as error:
            place = shard if error.part is None else (number, choice.video, error.part)
            self.quarantine.add(place, str(error))
            self.quarantine.holds([place])
            return None

    def _read(
        self, choice: Choice, places: tuple[Place, ...], record: Record, at: At
    ) -> Clip | None:
        """Read what was chosen; None if nothing of the object is left to be seen."""
        shard_set, row, expression = self.sets[choice.number], choice.row, choice.expression
        frames = shard_set.read(choice.video, choice.frames)
        size, targets = (row.height, row.width), []
        for spoken in (expression, *self._companions(row, expression, at)):
            sources = [target_mask(frame, spoken.objects, size) for frame in frames]
            if record.shakes:
                sources = list(map(shake_mask, sources, record.shakes))
            found = [mask_box(source) for source in sources]
            boxes, visible = target_boxes(found, record)
            if visible.any():
                masks = transform_masks(sources, found, record)
                targets.append((self._words(spoken.text, record), masks, boxes, visible))
            elif spoken is expression:
                return None
        target_frame = -1
        if choice.target_frame in choice.frames:
            target_frame = choice.frames.index(choice.target_frame)
        texts, *arrays = zip(*targets, strict=True)
        masks, boxes, visible = map(np.stack, arrays)
        return Clip(
            epoch=at[0],
            position=at[1],
            key=row.key,
            places=places,
            images=tuple(frame.image for frame in frames),
            record=record,
            expressions=texts,
            masks=masks,
            boxes_cxcywh=boxes,
            visible=visible,
            annotated=np.array([frame.masks is not None for frame in frames]),
            target_frame=target_frame,
        )

    def _companions(self, row: VideoRow, expression: Expression, at: At) -> list[Expression]:
        """Other expressions of the item's video, drawn without repeats, as many as are wanted."""
        others = [it for it in row.expressions if it is not expression]
        count = min(self._expressions - 1, len(others))
        draws = order.Draws(self.seed, order.COMPANIONS, *at)
        return [others[i] for i in draws.sample(range(len(others)), count)] if count else []

    def _words(self, text: str, record: Record) -> str:
        """The sentence as training wants it, mirrored with its clip."""
        if self.augmentation.lower:
            text = " ".join(text.lower().split())
        if record.mirrored:
            text = mirror_words(text, published=self.augmentation.published)
        return text


def target_mask(frame: Frame, objects: Sequence[str], size: tuple[int, int]) -> BoolArray:
    """Union of the masks of the named objects in one frame; empty where nobody annotated.

    Args:
        frame: With its masks.
        objects: Ids.
        size: Height and width of the masks, in pixels.

    Returns:
        `[H, W]`.

    Raises:
        ShardError: If a mask is broken.
    """
    found = [decode_mask(mask) for name, mask in (frame.masks or {}).items() if name in objects]
    return reduce(np.logical_or, found) if found else np.zeros(size, bool)


def target_boxes(
    found: Sequence[Box | None], record: Record
) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """Boxes of masks, moved with their frames.

    Args:
        found: T boxes of the masks of the source frames.
        record: What happens to them.

    Returns:
        `[T, 4]` cxcywh normalised, zeros where not visible (published and mirrored: 1, 0, 0, 0),
        and `[T]` visible: the box has width and height.
    """
    corners = np.array([box or (0, 0, 0, 0) for box in found], np.float32)
    boxes = transform_boxes(corners, record)
    low, high = boxes[:, :2], boxes[:, 2:]
    visible = np.array([box is not None for box in found]) & (high > low).all(1)
    height, width = record.size
    centred = np.concatenate([(low + high) / 2, high - low], axis=1)
    centred /= np.array([width, height, width, height], np.float32)
    absent = np.zeros(4, np.float32)
    absent[0] = record.published and record.mirrored
    return np.where(visible[:, None], centred, absent), visible
