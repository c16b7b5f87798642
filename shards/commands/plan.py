"""What a rank will read, and how fast a set gives clips."""

import time
from collections import Counter
from typing import Annotated, Literal, get_args

import tyro

from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from shards.storage.storage import coalesce
from shards.stream import order
from shards.stream.augment import Augmentation
from shards.stream.clip_source import Choice, ClipSource
from shards.stream.sampling import ClipSampling

Urls = Annotated[tuple[str, ...], tyro.conf.Positional]
Sampling = Literal["youtube_vos", "davis", "a2d", "image", "synthetic"]
SAMPLINGS = {name: getattr(ClipSampling, name)() for name in get_args(Sampling)}


def plan(
    urls: Urls,
    sampling: Sampling = "youtube_vos",
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
        sampling: How clips are cut from videos.
        num_frames: Of a clip.
        batch_size: Clips of a step on all ranks together.
        rank: Whose clips.
        world_size: Number of ranks.
        seed: Of the run.
        epoch: Counted from 0.
        steps: Steps to list.
    """
    sets = [ShardSet.open(url, check_shards=False) for url in urls]
    source = ClipSource(
        sets, num_frames=num_frames, seed=seed, sampling=SAMPLINGS[sampling],
        augmentation=Augmentation.none(),
    )  # fmt: skip
    num_bytes = num_requests = clips = 0
    shards: Counter[str] = Counter()
    lines = [" step position      bytes  requests  video, frames, words"]
    for start in range(0, len(source), batch_size):
        slots = order.rank_slots(start, batch_size, rank, world_size)
        clips += len(slots)
        for position in slots:
            choice = source.choice(epoch, position)
            received, requests = cost(sets[choice.number], choice)
            num_bytes, num_requests = num_bytes + received, num_requests + requests
            manifest = sets[choice.number].manifest
            shards[manifest.shards[choice.row.shard].name] += 1
            if (step := start // batch_size) < steps:
                what = f"{choice.row.key}  {choice.frames}  {choice.expression.text}"
                lines.append(f"{step:5d} {position:8d}  {received:9,d}  {requests:8d}  {what}")
    index = sum(it.index_bytes for shard_set in sets for it in shard_set.manifest.shards)
    lines.append(
        f"epoch {epoch}, rank {rank} of {world_size}: {clips:,} clips in "
        f"{-(-len(source) // batch_size):,} steps, {num_bytes:,} bytes in {num_requests:,} "
        f"requests ({num_bytes // clips:,} and {num_requests / clips:.2f} a clip) and {index:,} "
        f"bytes of index, from {len(shards)} shards"
    )
    return "\n".join(lines)


def cost(shard_set: ShardSet, choice: Choice) -> tuple[int, int]:
    """Bytes and requests that a clip will take from where its set lies."""
    spans, _ = shard_set.spans(choice.row, sorted(set(choice.frames)))
    starts, ends, _ = coalesce(spans, shard_set.gap(choice.row))
    return sum(ends) - sum(starts), len(starts)


def bench(
    urls: Urls,
    sampling: Sampling = "youtube_vos",
    num_frames: int = 5,
    batch_size: int = 2,
    threads: int = 2,
    seconds: float = 10.0,
    device: Literal["cpu", "mixed"] = "cpu",
) -> str:
    """Measure how fast sets give clips to one process, decoded and augmented as published.

    Args:
        urls: Folders or URLs of the sets.
        sampling: How clips are cut from videos; also says which augmentation.
        num_frames: Of a clip.
        batch_size: Clips of a step.
        threads: Of DALI.
        seconds: To measure for, after a first batch.
        device: Where to decode; "mixed" needs a GPU.
    """
    from shards.stream.loader import ClipLoader

    augmentation = {"youtube_vos": "video", "davis": "video"}.get(sampling, sampling)
    loader = ClipLoader(
        urls, num_frames=num_frames, batch_size=batch_size, sampling=SAMPLINGS[sampling],
        augmentation=getattr(Augmentation, augmentation)(), threads=threads, device=device,
    )  # fmt: skip
    try:
        stream = (batch for _ in iter(int, 1) for batch in loader)
        next(stream)
        begin, cpu, clips = time.perf_counter(), time.process_time(), 0
        while (wall := time.perf_counter() - begin) < seconds:
            clips += len(next(stream).keys)
        if not clips:
            raise ShardError(f"no batch came within {seconds} s; measure longer")
        rate, cpu_ms = clips / wall, (time.process_time() - cpu) / clips * 1e3
        speed = f"{rate:.1f} clips/s, {rate * num_frames:.1f} frames/s, {cpu_ms:.0f} CPU ms/clip"
        told = (f"{name.replace('_', ' ')} {it:,.4g}" for name, it in loader.stats().items())
        return f"{speed}\n{', '.join(told)}"
    finally:
        loader.close()
