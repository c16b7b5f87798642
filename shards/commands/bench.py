"""How fast sets give clips."""

import itertools
import time
from typing import Literal

from shards.commands.arguments import Urls
from shards.errors import ShardError


def bench(
    urls: Urls,
    style: str = "youtube-vos",
    num_frames: int = 5,
    batch_size: int = 2,
    threads: int = 2,
    seconds: float = 10.0,
    device: Literal["cpu", "mixed"] = "cpu",
) -> str:
    """Measure how fast sets give clips to one process, decoded and augmented as published.

    Args:
        urls: Folders or URLs of the sets.
        style: How clips are cut, augmented and padded: a name in `shards.stream.styles`.
        num_frames: Of a clip.
        batch_size: Clips of a step.
        threads: Threads that DALI decodes with.
        seconds: To measure for, after a first batch.
        device: Where to decode; "mixed" needs a GPU.
    """
    # imports torch and DALI, seconds, which no other command needs
    from shards.stream.loader import ClipLoader

    loader = ClipLoader(
        urls,
        num_frames=num_frames,
        batch_size=batch_size,
        style=style,
        threads=threads,
        device=device,
    )
    try:
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        next(batches)  # builds pipelines and fills queues: not what a run sees
        wall_start = time.perf_counter()
        cpu_start = time.process_time()
        wall = 0.0
        num_clips = 0
        while wall < seconds:
            num_clips += len(next(batches).keys)
            wall = time.perf_counter() - wall_start
        cpu = time.process_time() - cpu_start
        stats = loader.stats()
    finally:
        loader.close()
    if not num_clips:
        raise ShardError(f"no batch came within {seconds} s; measure longer")
    clips_per_s = num_clips / wall
    cpu_ms_per_clip = 1000 * cpu / num_clips
    counts = [f"{name.replace('_', ' ')} {value:,.4g}" for name, value in stats.items()]
    return (
        f"{clips_per_s:.1f} clips/s, {clips_per_s * num_frames:.1f} frames/s, "
        f"{cpu_ms_per_clip:.0f} CPU ms/clip\n{', '.join(counts)}"
    )
