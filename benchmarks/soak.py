"""Many clips through one loader: memory, threads and file handles must not grow.

    python benchmarks/soak.py [--clips 20000]

Small videos in memory, which counts as an object store, batches of 8 clips of 3 frames, published
augmentation of colours; the loader is left and entered again, as at the end of epochs. The first
tenth warms up. Prints a line at each tenth and one JSON object: growth from then to the end, and
the time of the first batch of a cold start and of a resume at 90 % of an epoch.
"""

import argparse
import json
import time
from typing import NamedTuple

import psutil
import torch
from loader import build_videos, make_video

from shards import ClipLoader, ClipStyle
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling

URL = "memory://bench-soak"
NUM_LINES = 10  # of the table, one after each tenth of the clips
NUM_STARTS = 5  # of which the median counts


class Usage(NamedTuple):
    """What this process holds."""

    memory_mb: float
    threads: int
    handles: int


def open_loader() -> ClipLoader:
    """A loader of small clips."""
    style = ClipStyle(
        sampling=ClipSampling.youtube_vos(),
        augmentation=Augmentation.synthetic(),
    )
    return ClipLoader([URL], num_frames=3, batch_size=8, style=style, threads=2)


def first_batch_seconds(state: dict[str, object] | None) -> float:
    """Measure the time from a new loader to its first batch."""
    start = time.perf_counter()
    loader = open_loader()
    if state is not None:
        loader.load_state_dict(state)
    next(iter(loader))
    seconds = time.perf_counter() - start
    loader.close()
    return seconds


def median_start_seconds(state: dict[str, object] | None) -> float:
    """Measure several starts and take the median."""
    seconds = sorted(first_batch_seconds(state) for _ in range(NUM_STARTS))
    return seconds[NUM_STARTS // 2]


def current_usage(process: psutil.Process) -> Usage:
    """Look what this process holds now."""
    return Usage(
        memory_mb=process.memory_info().rss / 1e6,
        threads=process.num_threads(),
        handles=process.num_fds(),
    )


def soak(loader: ClipLoader, num_clips: int) -> list[Usage]:
    """Take clips, epoch after epoch, and print a line at each tenth."""
    process = psutil.Process()
    usages: list[Usage] = []
    num_taken = 0
    print(f"{'clips':>7s} {'MB':>8s} {'threads':>8s} {'handles':>8s}")
    while len(usages) < NUM_LINES:
        # The last epoch is finished, too: the loader is always left at its end.
        for batch in loader:
            num_taken += len(batch.keys)
            next_line_at = num_clips * (len(usages) + 1) / NUM_LINES
            if num_taken >= next_line_at and len(usages) < NUM_LINES:
                usage = current_usage(process)
                usages.append(usage)
                print(
                    f"{num_taken:7d} {usage.memory_mb:8.1f} {usage.threads:8d} {usage.handles:8d}",
                    flush=True,
                )
    return usages


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=20_000)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    build_videos([make_video(f"v{number:03d}", 48, 64, 12) for number in range(40)], URL)
    loader = open_loader()
    late_step = int(len(loader) * 0.9)
    late_state = loader.state_dict() | {"position": late_step * loader.batch_size}
    usages = soak(loader, settings.clips)
    loader.close()
    cold_seconds = median_start_seconds(None)
    resume_seconds = median_start_seconds(late_state)
    first = usages[0]  # the first tenth warms up
    last = usages[-1]
    figures = {
        "memory_growth_mb": round(last.memory_mb - first.memory_mb, 1),
        "thread_growth": round(last.threads - first.threads, 1),
        "handle_growth": round(last.handles - first.handles, 1),
        "resume_vs_cold": round(resume_seconds / cold_seconds, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
