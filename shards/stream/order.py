"""The order of an epoch as a pure function, and the random streams that belong to its positions.

Nothing is stored and nothing is streamed: which item stands at a position follows from the seed,
the epoch and the position alone, and so does every number drawn for it. Ranks, workers and restarts
therefore cannot change a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from shards.errors import ShardError

Ints = npt.NDArray[np.int64]
T = TypeVar("T")

ORDER, CLIP, AUGMENTATION, REPLACEMENT, COMPANIONS = range(5)
_NEARBY_POSITIONS = 32  # neighbours may meet in one batch
_SWAP_TRIES = 8


class Draws:
    """Random draws of one purpose at one position: Philox, counted, never carried over.

    Numbers are made from the generator's raw words, whose values NumPy keeps for good.

    Args:
        seed: Seed of the run; any whole number.
        purpose: One of the constants of this file; purposes do not disturb one another.
        epoch: Counted from 0.
        position: Position in the epoch, or another number that tells streams of a purpose apart.
        attempt: 0, or the number of the replacement of this position's item.
    """

    def __init__(
        self, seed: int, purpose: int, epoch: int, position: int = 0, attempt: int = 0
    ) -> None:
        """Start the stream at its beginning."""
        key = np.array([seed % 2**64, purpose], np.uint64)
        counter = np.array([0, attempt, position, epoch], np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A real number in [low, high)."""
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.integer(0, len(options) - 1)]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in random order."""
        # the first steps of a Fisher-Yates shuffle
        shuffled = list(options)
        for i in range(count):
            j = self.integer(i, len(shuffled) - 1)
            shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
        return shuffled[:count]

    def permutation(self, length: int) -> Ints:
        """The numbers 0 to length - 1 in random order."""
        return np.argsort(self._bits.random_raw(length), kind="stable")


@dataclass(frozen=True)
class Items:
    """What one shard set offers for training, an item a row.

    Attributes:
        video: `[N]` number of the video in its set.
        expression: `[N]` number of the expression in its video.
        target_frame: `[N]` frame of the video that the clip is made around.
        shard: `[N]` number of the shard the video lies in.
    """

    video: Ints
    expression: Ints
    target_frame: Ints
    shard: Ints

    def __len__(self) -> int:
        """Number of items."""
        return len(self.video)


def quotas(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """How many clips of each set an epoch takes.

    An epoch is as long as all sets together. Without weights each item comes once an epoch; with
    weights a set's permutations follow one another, so that over the epochs no item is favoured.

    Args:
        sizes: Items of each set.
        weights: Share of each set, in any unit.

    Raises:
        ValueError: If the weights do not fit the sets.
    """
    if weights is None:
        return list(sizes)
    if len(weights) != len(sizes) or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(
            f"{len(sizes)} shard sets need as many weights >= 0, not all 0; got {list(weights)}"
        )
    ends = np.round(np.cumsum(weights) / sum(weights) * sum(sizes)).astype(int)
    return [int(quota) for quota in np.diff(ends, prepend=0)]


def epoch_order(
    sets: Sequence[Items], takes: Sequence[int], seed: int, epoch: int, *, block_shards: int = 0
) -> tuple[Ints, Ints]:
    """Which item stands at each position of an epoch.

    Args:
        sets: The shard sets of the mixture.
        takes: Clips of each set an epoch, from `quotas`.
        seed: Seed of the run.
        epoch: Counted from 0.
        block_shards: Shards of a set that are read at a time, which keeps reads local; 0: all.

    Returns:
        Set `[N]` and item within the set `[N]` of every position, N the sum of `takes`.
    """
    total = sum(takes)
    # Sorting one random key a clip mixes the sets evenly and leaves each set's own order as it is.
    set_indices = np.repeat(np.arange(len(sets)), takes)
    # Streams 0, 1, .. of ORDER belong to the sets, the next one to their mixture.
    set_indices = set_indices[Draws(seed, ORDER, epoch, len(sets)).permutation(total)]
    item_indices = np.empty(total, np.int64)
    for set_index, (items, take) in enumerate(zip(sets, takes, strict=True)):
        item_indices[set_indices == set_index] = _set_order(
            items, take, seed, epoch, set_index, block_shards
        )
    return set_indices, item_indices


def _set_order(
    items: Items, take: int, seed: int, epoch: int, set_index: int, block_shards: int
) -> Ints:
    """The next `take` items of a set: a window on its endless row of permutations."""
    if take == 0:
        return np.empty(0, np.int64)
    first = epoch * take
    last = (epoch + 1) * take - 1
    rounds = range(first // len(items), last // len(items) + 1)
    permutations = [
        _permute(items, Draws(seed, ORDER, round_index, set_index), block_shards)
        for round_index in rounds
    ]
    start = first - rounds[0] * len(items)
    return np.concatenate(permutations)[start : start + take]


def _permute(items: Items, draws: Draws, block_shards: int) -> Ints:
    """All items of a set in random order, a block of shards after another."""
    shuffled = draws.permutation(len(items))
    num_shards = int(items.shard.max()) + 1
    if not 0 < block_shards < num_shards:
        return shuffled
    block_of_shard = draws.permutation(num_shards) // block_shards
    blocks = block_of_shard[items.shard[shuffled]]
    order = shuffled[np.argsort(blocks, kind="stable")]
    ends = np.cumsum(np.bincount(blocks))
    for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        block = order[start:end]
        block[:] = block[_spread(items.video[block], (end - start) / len(items), draws)]
    return order


def _spread(videos: Ints, share: float, draws: Draws) -> Ints:
    """Thin out neighbours of one video in a block to their number in a full permutation.

    A block holds all items of its videos, so two of a video meet 1 / share times too often. Such
    items change places with others of the block, where neither meets its video, until enough did.

    Args:
        videos: `[n]` video of each position of the block.
        share: Size of the block by the size of the set.
        draws: The stream to use.

    Returns:
        `[n]` which position to take each from.
    """
    spread_videos = videos.copy()
    source = np.arange(len(videos))

    def meetings(video: int, position: int) -> int:
        first = max(0, position - _NEARBY_POSITIONS)
        nearby = spread_videos[first : position + _NEARBY_POSITIONS + 1]
        return int((nearby == video).sum())

    # for each distance, the positions whose video also stands that far before them
    distances = range(1, min(_NEARBY_POSITIONS, len(videos) - 1) + 1)
    repeats = [
        np.flatnonzero(videos[distance:] == videos[:-distance]) + distance for distance in distances
    ]
    pairs = sum(len(positions) for positions in repeats)
    excess = pairs - round(share * pairs)
    crowded = np.unique(np.concatenate(repeats)) if repeats else source[:0]
    for position in crowded[draws.permutation(len(crowded))]:
        if excess <= 0:
            break
        for _ in range(_SWAP_TRIES):
            partner = draws.integer(0, len(videos) - 1)
            video = spread_videos[position]
            partner_video = spread_videos[partner]
            if meetings(video, partner) or meetings(partner_video, position):
                continue
            # each counts itself once, which is no meeting
            excess -= meetings(video, position) + meetings(partner_video, partner) - 2
            for array in (spread_videos, source):
                array[[position, partner]] = array[[partner, position]]
            break
    return source


def rank_slots(position: int, batch_size: int, rank: int, world_size: int) -> range:
    """The positions of a global batch that belong to one process.

    Args:
        position: First position of the global batch.
        batch_size: Clips of all processes together.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: If the processes cannot have equal shares.
    """
    if batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot be shared by {world_size} processes (this is "
            f"rank {rank}); choose a batch size that they divide"
        )
    share = batch_size // world_size
    return range(position + rank * share, position + (rank + 1) * share)


@dataclass(frozen=True)
class State:
    """Where a stream stands; small, plain, and tied to the data and settings it was made with.

    Attributes:
        manifests: Hash of all manifests.
        settings: Hash of the settings that shape the stream.
        seed: Seed of the run.
        epoch: Counted from 0.
        position: The next one to deliver.
    """

    manifests: str
    settings: str
    seed: int
    epoch: int
    position: int

    @classmethod
    def restore(cls, saved: dict[str, Any], current: "State") -> "State":
        """Check a saved state against the stream it is to continue.

        Raises:
            ShardError: If it belongs to other shards, settings or another seed.
        """
        try:
            state = cls(**saved)
        except TypeError as error:
            raise ShardError(f"this is not the state of a loader ({error}); start anew") from None
        reasons = {
            "manifests": "is of other shards (a manifest changed); use those, or start anew",
            "settings": "is of other sampling settings; use those, or start anew",
            "seed": f"has the seed {state.seed}, this loader {current.seed}; use the same",
        }
        for name, reason in reasons.items():
            if getattr(state, name) != getattr(current, name):
                raise ShardError(f"the saved state {reason}")
        return state
