"""What a rank will read in an epoch, without reading it."""

import math
from collections import Counter
from typing import NamedTuple

from shards.commands.arguments import Urls
from shards.format.shard_set import ShardSet
from shards.storage.storage import coalesce
from shards.stream import order
from shards.stream.augment import Augmentation
from shards.stream.clip_source import ClipSelection, ClipSource
from shards.stream.styles import named_style


class ClipCost(NamedTuple):
    """What a clip takes from where its set lies."""

    num_bytes: int
    num_requests: int


def plan(
    urls: Urls,
    style: str = "youtube-vos",
    num_frames: int = 5,
    batch_size: int = 2,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
    steps: int = 4,
) -> str:
    """Tell what a rank will read: an epoch's total, and the clips of its first steps.

    Args:
        urls: Folders or URLs of the sets.
        style: How clips are cut from videos: a name in `shards.stream.styles`.
        num_frames: Of a clip.
        batch_size: Clips of a step on all ranks together.
        rank: The rank to plan for, counted from 0.
        world_size: Number of ranks.
        seed: The run's seed, which decides order and choice of clips.
        epoch: Counted from 0.
        steps: Steps to list.
    """
    sets = [ShardSet.open(url, check_shards=False) for url in urls]
    source = ClipSource(
        sets,
        num_frames=num_frames,
        seed=seed,
        sampling=named_style(style).sampling,
        augmentation=Augmentation.none(),
    )
    num_bytes = 0
    num_requests = 0
    num_clips = 0
    shards_read = Counter[str]()
    lines = [" step position      bytes  requests  video, frames, words"]
    for step, start in enumerate(range(0, len(source), batch_size)):
        slots = order.rank_slots(start, batch_size, rank, world_size)
        num_clips += len(slots)
        for position in slots:
            # the same selection that a loader makes, from the index alone
            selection = source.selection(epoch, position)
            shard_set = sets[selection.set_index]
            cost = clip_cost(shard_set, selection)
            num_bytes += cost.num_bytes
            num_requests += cost.num_requests
            shards_read[shard_set.manifest.shards[selection.row.shard].name] += 1
            if step < steps:
                clip = f"{selection.row.key}  {selection.frames}  {selection.expression.text}"
                lines.append(
                    f"{step:5d} {position:8d}  {cost.num_bytes:9,d}  {cost.num_requests:8d}  {clip}"
                )
    num_steps = math.ceil(len(source) / batch_size)
    index_bytes = sum(
        shard.index_bytes for shard_set in sets for shard in shard_set.manifest.shards
    )
    lines.append(
        f"epoch {epoch}, rank {rank} of {world_size}: {num_clips:,} clips in "
        f"{num_steps:,} steps, {num_bytes:,} bytes in {num_requests:,} "
        f"requests ({num_bytes // num_clips:,} and {num_requests / num_clips:.2f} a clip) and "
        f"{index_bytes:,} bytes of index, from {len(shards_read)} shards"
    )
    return "\n".join(lines)


def clip_cost(shard_set: ShardSet, selection: ClipSelection) -> ClipCost:
    """Return the bytes and requests that a clip will take from where its set lies."""
    frames = sorted(set(selection.frames))
    spans, _ = shard_set.spans(selection.row, frames)
    # the requests that `Storage.fetch` makes of these members
    starts, ends, _ = coalesce(spans, shard_set.gap(selection.row))
    return ClipCost(num_bytes=sum(ends) - sum(starts), num_requests=len(starts))
