"""Many clips through one loader: memory, threads and file handles must not grow.

    python benchmarks/soak.py [--clips 20000]

Small videos in a place that is no local folder, batches of 8 clips of 3 frames, published
augmentation of colours; the loader is left and entered again, as at the end of epochs. The first
tenth warms up. Prints a line at each tenth and one JSON object: growth from then to the end, and
the time of the first batch of a cold start and of a resume at 90 % of an epoch.
"""

import argparse
import json
import time

import psutil
import torch
from loader import build_videos, make_video

from shards import ClipLoader, ClipStyle
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling

URL = "memory://bench-soak"


def open_loader() -> ClipLoader:
    """A loader of small clips."""
    style = ClipStyle(
        sampling=ClipSampling.youtube_vos(),
        augmentation=Augmentation.synthetic(),
    )
    return ClipLoader([URL], num_frames=3, batch_size=8, style=style, threads=2)


def first_batch(state: dict[str, object] | None) -> float:
    """Seconds from a new loader to its first batch."""
    begin = time.perf_counter()
    loader = open_loader()
    if state is not None:
        loader.load_state_dict(state)
    next(iter(loader))
    taken = time.perf_counter() - begin
    loader.close()
    return taken


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=20_000)
    total = parser.parse_args().clips
    torch.set_num_threads(1)
    build_videos([make_video(f"v{n:03d}", 48, 64, 12) for n in range(40)], URL)
    loader, process, seen, rows = open_loader(), psutil.Process(), 0, []
    late = loader.state_dict() | {"position": int(len(loader) * 0.9) * loader.batch_size}
    print(f"{'clips':>7s} {'MB':>8s} {'threads':>8s} {'handles':>8s}")
    while len(rows) < 10:
        for batch in loader:
            seen += len(batch.keys)
            if seen >= total * (len(rows) + 1) / 10 and len(rows) < 10:
                memory = process.memory_info().rss / 1e6
                rows.append((memory, process.num_threads(), process.num_fds()))
                print(f"{seen:7d} {memory:8.1f} {rows[-1][1]:8d} {rows[-1][2]:8d}", flush=True)
    loader.close()
    cold = sorted(first_batch(None) for _ in range(5))[2]
    resumed = sorted(first_batch(late) for _ in range(5))[2]
    growth = [after - before for before, after in zip(rows[0], rows[-1], strict=True)]
    names = ("memory_growth_mb", "thread_growth", "handle_growth")
    figures = {name: round(value, 1) for name, value in zip(names, growth, strict=True)}
    print(json.dumps(figures | {"resume_vs_cold": round(resumed / cold, 3)}))


if __name__ == "__main__":
    main()
