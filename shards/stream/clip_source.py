"""From a position of an epoch to its clip: item, frames, what was drawn for it, targets."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from shards.errors import DamageError, ShardError
from shards.format.rle import BoolArray
from shards.format.schema import Expression
from shards.format.shard_set import ShardSet, VideoRow
from shards.stream import order
from shards.stream.augment import Augmentation, draw_augmentation
from shards.stream.expressions import prepare_expression
from shards.stream.quarantine import FrameKey, PartKey, Quarantine, ShardKey
from shards.stream.sampling import ClipSampling, clip_frames, list_items, visible_frames
from shards.stream.targets import expression_targets
from shards.stream.transform import ClipTransform

MAX_ATTEMPTS = 100
T = TypeVar("T")


class StreamPosition(NamedTuple):
    """What tells the random streams of a clip apart from all others.

    Attributes:
        epoch: Counted from 0.
        position: Position in the epoch.
        attempt: 0 for the item of the position, else the number of its replacement.
    """

    epoch: int
    position: int
    attempt: int


@dataclass(frozen=True)
class ClipSelection:
    """What a position is to show, before anything of it is read.

    Attributes:
        set_index: Which shard set.
        video_index: Which video of the set.
        row: Index row of the video.
        expression: Expression of the video that the clip is about.
        target_frame: Frame of the video that the clip is made around.
        frames: T frame numbers.
    """

    set_index: int
    video_index: int
    row: VideoRow
    expression: Expression
    target_frame: int
    frames: list[int]

    @property
    def frame_keys(self) -> tuple[FrameKey, ...]:
        """Keys of the T frames, for the quarantine."""
        return tuple(FrameKey(self.set_index, self.video_index, frame) for frame in self.frames)

    @property
    def shard_key(self) -> ShardKey:
        """Key of the shard the video lies in, for the quarantine."""
        return ShardKey(self.set_index, self.row.shard)

    @property
    def target_index(self) -> int:
        """Index of the target frame in the clip; -1 if absent."""
        if self.target_frame not in self.frames:
            return -1
        return self.frames.index(self.target_frame)


@dataclass(frozen=True)
class Clip:
    """One clip before its frames are decoded.

    Attributes:
        epoch: Counted from 0.
        position: Position in the epoch.
        key: Key of the video.
        frame_keys: Keys of the T frames, for the quarantine.
        images: T encoded frames.
        transform: What was drawn for the clip.
        expressions: E expressions, the item's own first.
        masks: `[E, T, h, w]`, of the new size.
        boxes_cxcywh: `[E, T, 4]`, normalised.
        visible: `[E, T]`, the box has width and height.
        annotated: `[T]`, the frame carries ground truth.
        target_frame: Index in the clip of the frame it was made around; -1 if absent.
    """

    epoch: int
    position: int
    key: str
    frame_keys: tuple[FrameKey, ...]
    images: tuple[bytes, ...]
    transform: ClipTransform
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
        num_frames: Frames of a clip, T.
        seed: Seed of order, sampling and augmentation.
        sampling: How clips are cut from videos.
        augmentation: What may happen to them.
        expressions: Most expressions of a clip: the item's own and others of its video.
        block_shards: Shards of a set read at a time, see `order.epoch_order`.
        max_damage: Frames and shards that may be damaged before `clip` raises.

    Attributes:
        num_clips_made: Clips made so far.
        quarantine: Frames and shards that are damaged.

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
        self.sets = sets
        self.seed = seed
        self.num_frames = num_frames
        self.sampling = sampling
        self.augmentation = augmentation
        self._max_expressions = expressions
        self._block_shards = block_shards
        self.items = [list_items(shard_set.videos, sampling, num_frames) for shard_set in sets]
        for shard_set, items in zip(sets, self.items, strict=True):
            if not len(items):
                raise ShardError(
                    f"{shard_set.storage}: no expression has a visible object to learn from; "
                    "train on a split with masks"
                )
        self._quotas = order.quotas([len(items) for items in self.items], weights)
        self._cached_epoch: int | None = None
        self._cached_order: tuple[order.Ints, order.Ints] | None = None
        self._lock = threading.Lock()
        self.num_clips_made = 0
        self.quarantine = Quarantine(max_damage)

    def __len__(self) -> int:
        """Clips of an epoch."""
        return sum(self._quotas)

    def epoch_order(self, epoch: int) -> tuple[order.Ints, order.Ints]:
        """Return set and item of every position of an epoch, `[N]` each.

        The arrays are kept until another epoch is asked for, as clips of one epoch are asked for
        one by one.
        """
        with self._lock:
            if self._cached_order is None or self._cached_epoch != epoch:
                self._cached_order = order.epoch_order(
                    self.items, self._quotas, self.seed, epoch, block_shards=self._block_shards
                )
                self._cached_epoch = epoch
            return self._cached_order

    def clip(self, epoch: int, position: int) -> Clip:
        """Make the clip of one position, a pure function of seed, settings and shards.

        An item that shows nothing of its object, or is damaged, gives way to another of its set,
        drawn from a stream of this position. Positions behind the epoch's end repeat its first
        items.

        Raises:
            ShardError: If `MAX_ATTEMPTS` items show no object, or too much is damaged.
        """
        clip = self._first_usable(self._try_item, epoch, position)
        with self._lock:
            self.num_clips_made += 1
        return clip

    def selection(self, epoch: int, position: int) -> ClipSelection:
        """Select what a position shows if nothing is damaged and no crop hides it; reads nothing.

        Raises:
            ShardError: If `MAX_ATTEMPTS` items show no object.
        """
        return self._first_usable(self._select, epoch, position)

    def put_aside(self, frame: FrameKey, problem: str) -> None:
        """Quarantine a frame.

        Raises:
            ShardError: If too much is damaged.
        """
        shard_set = self.sets[frame.set_index]
        row = shard_set.videos[frame.video_index]
        name = row.frame_names[frame.frame_index]
        self.quarantine.add(
            frame,
            f"{shard_set.storage}, shard {row.shard}, video {row.key}, frame {name}: {problem}",
        )

    def _first_usable(
        self, make: Callable[[int, int, StreamPosition], T | None], epoch: int, position: int
    ) -> T:
        """Return what the item of a position makes or, if that is None, one of its replacements.

        Args:
            make: Makes something of set, item and stream, or None if the item is of no use.
            epoch: Counted from 0.
            position: Position in the epoch.
        """
        set_indices, item_indices = self.epoch_order(epoch)
        # The last step of an epoch may run past its end: it repeats the first clips.
        index = position % len(self)
        set_index = int(set_indices[index])
        item = int(item_indices[index])
        for attempt in range(MAX_ATTEMPTS):
            if attempt > 0:
                draws = order.Draws(self.seed, order.REPLACEMENT, epoch, position, attempt)
                item = draws.integer(0, len(self.items[set_index]) - 1)
            result = make(set_index, item, StreamPosition(epoch, position, attempt))
            if result is not None:
                return result
        raise ShardError(
            f"{self.sets[set_index].storage}: {MAX_ATTEMPTS} clips in a row show no object or are "
            "damaged; crop less, or check the set"
        )

    def _draws(self, purpose: int, stream: StreamPosition) -> order.Draws:
        """Start a random stream of one purpose."""
        return order.Draws(self.seed, purpose, stream.epoch, stream.position, stream.attempt)

    def _select(self, set_index: int, item: int, stream: StreamPosition) -> ClipSelection | None:
        """Draw the frames of an item; None if none of them shows the object."""
        items = self.items[set_index]
        video_index = int(items.video[item])
        target_frame = int(items.target_frame[item])
        row = self.sets[set_index].videos[video_index]
        expression = row.expressions[int(items.expression[item])]
        draws = self._draws(order.CLIP, stream)
        length = len(row.annotated)
        frames = clip_frames(self.sampling, length, target_frame, self.num_frames, draws)
        if not visible_frames(row, expression)[frames].any():
            return None
        return ClipSelection(
            set_index=set_index,
            video_index=video_index,
            row=row,
            expression=expression,
            target_frame=target_frame,
            frames=frames,
        )

    def _try_item(self, set_index: int, item: int, stream: StreamPosition) -> Clip | None:
        """Draw and read one item; None if it is damaged or shows nothing of its object."""
        selection = self._select(set_index, item, stream)
        if selection is None:
            return None
        if self.quarantine.holds_any((selection.shard_key, *selection.frame_keys)):
            self.quarantine.count_replaced()
            return None
        row = selection.row
        transform = draw_augmentation(
            self.augmentation,
            (row.height, row.width),
            self.num_frames,
            self._draws(order.AUGMENTATION, stream),
            image=len(row.annotated) == 1,
        )
        try:
            return self._read(selection, transform, stream)
        except DamageError as error:
            part: PartKey = selection.shard_key
            if error.part is not None:
                part = FrameKey(set_index, selection.video_index, error.part)
            self.quarantine.add(part, str(error))
            self.quarantine.count_replaced()
            return None

    def _read(
        self, selection: ClipSelection, transform: ClipTransform, stream: StreamPosition
    ) -> Clip | None:
        """Read what was selected; None if nothing of the object is left to be seen."""
        row = selection.row
        frames = self.sets[selection.set_index].read(selection.video_index, selection.frames)
        own_targets = expression_targets(frames, selection.expression.objects, transform)
        if own_targets is None:
            return None
        expressions = [selection.expression]
        targets = [own_targets]
        for companion in self._draw_companions(row, selection.expression, stream):
            companion_targets = expression_targets(frames, companion.objects, transform)
            # A companion whose object a crop hides is left out; others do not replace it.
            if companion_targets is not None:
                expressions.append(companion)
                targets.append(companion_targets)
        return Clip(
            epoch=stream.epoch,
            position=stream.position,
            key=row.key,
            frame_keys=selection.frame_keys,
            images=tuple(frame.image for frame in frames),
            transform=transform,
            expressions=tuple(
                prepare_expression(
                    expression.text,
                    lower=self.augmentation.lower,
                    mirrored=transform.mirrored,
                    published=self.augmentation.published,
                )
                for expression in expressions
            ),
            masks=np.stack([target.masks for target in targets]),
            boxes_cxcywh=np.stack([target.boxes_cxcywh for target in targets]),
            visible=np.stack([target.visible for target in targets]),
            annotated=np.array([frame.masks is not None for frame in frames]),
            target_frame=selection.target_index,
        )

    def _draw_companions(
        self, row: VideoRow, own: Expression, stream: StreamPosition
    ) -> list[Expression]:
        """Draw further expressions of the item's video without repeats, as many as are wanted."""
        candidates = [expression for expression in row.expressions if expression is not own]
        count = min(self._max_expressions - 1, len(candidates))
        if count == 0:
            return []
        indices = self._draws(order.COMPANIONS, stream).sample(range(len(candidates)), count)
        return [candidates[index] for index in indices]
