"""How close an epoch that reads its shards in blocks comes to a full permutation.

    python benchmarks/shuffle.py [--videos 3471] [--shards 60] [--block 8] [--batch 16] [--seeds 4]

A set of the size of Ref-YouTube-VOS: videos with 1 to 7 expressions and 6 starts of a clip each.
`same_video_share` is the share of pairs in a global batch that are of one video; `displacement` the
mean distance between an item's position in the set and in the epoch. Prints a table and one JSON
object: the two of the blocked order, divided by those of the full permutation.
"""

import argparse
import json
from typing import NamedTuple

import numpy as np

from shards.stream.order import Items, epoch_order

NUM_BATCHES = 200  # over which the shards that are read are counted


class OrderFigures(NamedTuple):
    """Figures of one order, or their means over several seeds.

    Attributes:
        same_video_share: Share of pairs in a global batch that are of one video.
        displacement: Mean distance between an item's position in the set and in the epoch.
        shards_read: Shards that the first `NUM_BATCHES` batches touch.
    """

    same_video_share: float
    displacement: float
    shards_read: float


def make_items(videos: int, shards: int) -> Items:
    """Items in the order of the shards."""
    clips_per_video = 6 * np.random.default_rng(0).integers(1, 8, videos)
    video = np.repeat(np.arange(videos), clips_per_video)
    zeros = np.zeros_like(video)  # expression and target frame do not matter here
    return Items(
        video=video,
        expression=zeros,
        target_frame=zeros,
        shard=video * shards // videos,
    )


def describe(items: Items, batch: int, block: int, seed: int) -> OrderFigures:
    """Measure one order: shards in blocks of `block`, or a full permutation for 0."""
    _, order = epoch_order([items], [len(items)], seed, 0, block_shards=block)
    num_batches = len(order) // batch
    videos = items.video[order][: num_batches * batch].reshape(num_batches, batch)
    # Sorted, equal videos are neighbours: comparing with each shift counts all equal pairs.
    videos = np.sort(videos)
    same_video_pairs = sum(
        int((videos[:, shift:] == videos[:, :-shift]).sum()) for shift in range(1, batch)
    )
    pairs = num_batches * batch * (batch - 1) / 2
    shards_read = set(items.shard[order[: NUM_BATCHES * batch]].tolist())
    return OrderFigures(
        same_video_share=same_video_pairs / pairs,
        displacement=float(np.abs(order - np.arange(len(order))).mean()),
        shards_read=len(shards_read),
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--videos", type=int, default=3471)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--block", type=int, default=8, help="shards that are read at a time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4, help="orders to average over")
    settings = parser.parse_args()
    items = make_items(settings.videos, settings.shards)
    print(f"{len(items):,} items of {settings.videos:,} videos in {settings.shards} shards")
    shards_heading = f"shards in {NUM_BATCHES} batches"
    print(f"{'order':18s} {'same video':>10s} {'displacement':>12s} {shards_heading:>22s}")
    means = []
    for name, block in (("full permutation", 0), (f"blocks of {settings.block}", settings.block)):
        rows = [describe(items, settings.batch, block, seed) for seed in range(settings.seeds)]
        mean = OrderFigures(*np.mean(rows, axis=0))
        means.append(mean)
        print(
            f"{name:18s} {mean.same_video_share:10.6f} {mean.displacement:12.0f} "
            f"{mean.shards_read:22.1f}"
        )
    full, blocked = means
    figures = {
        "same_video_share_ratio": round(blocked.same_video_share / full.same_video_share, 4),
        "displacement_ratio": round(blocked.displacement / full.displacement, 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
