"""How close an epoch that reads its shards in blocks comes to a full permutation.

    python benchmarks/shuffle.py [--videos 3471] [--shards 60] [--block 8] [--batch 16] [--seeds 4]

A set of the size of Ref-YouTube-VOS: videos with 1 to 7 expressions and 6 starts of a clip each.
`same_video_share` is the share of pairs in a global batch that are of one video; `displacement` the
mean distance between an item's place in the set and in the epoch. Prints a table and one JSON
object: the two of the blocked order, divided by those of the full permutation.
"""

import argparse
import json

import numpy as np

from shards.stream.order import Items, epoch_order


def make_items(videos: int, shards: int) -> Items:
    """Items in the order of the shards."""
    counts = 6 * np.random.default_rng(0).integers(1, 8, videos)
    video = np.repeat(np.arange(videos), counts)
    zeros = np.zeros_like(video)
    return Items(video, zeros, zeros, video * shards // videos)


def describe(items: Items, batch: int, block: int, seed: int) -> tuple[float, float, float]:
    """Share of pairs, displacement, shards that 1,000 batches touch."""
    _, order = epoch_order([items], [len(items)], seed, 0, block_shards=block)
    videos = np.sort(items.video[order][: len(order) // batch * batch].reshape(-1, batch))
    pairs = sum(int((videos[:, d:] == videos[:, :-d]).sum()) for d in range(1, batch))
    share = pairs / (len(videos) * batch * (batch - 1) / 2)
    moved = float(np.abs(order - np.arange(len(order))).mean())
    return share, moved, len(set(items.shard[order[: 200 * batch]].tolist()))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, value in (
        ("videos", 3471),
        ("shards", 60),
        ("block", 8),
        ("batch", 16),
        ("seeds", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    items = make_items(given.videos, given.shards)
    print(f"{len(items):,} items of {given.videos:,} videos in {given.shards} shards")
    print(f"{'order':18s} {'same video':>10s} {'displacement':>12s} {'shards in 200 batches':>22s}")
    means = []
    for name, block in (("full permutation", 0), (f"blocks of {given.block}", given.block)):
        rows = [describe(items, given.batch, block, seed) for seed in range(given.seeds)]
        share, moved, shards = np.mean(rows, axis=0)
        means.append((share, moved))
        print(f"{name:18s} {share:10.6f} {moved:12.0f} {shards:22.1f}")
    (share, moved), (blocked_share, blocked_moved) = means
    figures = {
        "same_video_share_ratio": round(blocked_share / share, 4),
        "displacement_ratio": round(blocked_moved / moved, 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
