"""What a clip of 5 frames costs from object storage: bytes and requests, by the gap.

    python benchmarks/ranges.py [--videos 6] [--epochs 4]

Builds videos of 30 frames at 1280 x 720 in a place that is no local folder (memory, through
fsspec), reads clips drawn by the published sampling through `ShardSet`, with every checksum, and
counts what `shards.storage` received. The manifest and the indexes count once an epoch. Prints the
curve, and one JSON object for the gap that a loader uses (1.2 frames).
"""

import argparse
import json
from typing import NamedTuple

from loader import build_videos, make_video

from shards import ShardSet
from shards.stream.augment import Augmentation
from shards.stream.clip_source import ClipSource
from shards.stream.sampling import ClipSampling

URL = "memory://bench-ranges"
NUM_FRAMES = 5
VIDEO_LENGTH = 30
HEIGHT_PX = 720
WIDTH_PX = 1280
# gaps in bytes, or in mean sizes of a frame; None: that of a loader
GAPS: dict[str, int | float | None] = {
    "0": 0,
    "header": 4096,
    "1 frame": None,
    "2 frames": 2.4,
    "5 frames": 6.0,
}


class ReadCost(NamedTuple):
    """What clips take from where their set lies.

    Attributes:
        bytes_ratio: Bytes of a clip as a share of its video's.
        requests_per_clip: Mean number of requests.
    """

    bytes_ratio: float
    requests_per_clip: float


def measure(gap: int | None, epochs: int) -> ReadCost:
    """Read whole epochs of clips with a gap, in bytes, and count."""
    num_received = 0
    num_requests = 0
    num_whole = 0
    num_clips = 0
    for epoch in range(epochs):
        # opened anew, so that manifest and indexes count once an epoch
        shard_set = ShardSet.open(URL, gap=gap)
        source = ClipSource(
            [shard_set],
            num_frames=NUM_FRAMES,
            seed=0,
            sampling=ClipSampling.youtube_vos(),
            augmentation=Augmentation.none(),
        )
        for position in range(len(source)):
            selection = source.selection(epoch, position)
            shard_set.read(selection.video_index, selection.frames)
            row = selection.row
            spans, _ = shard_set.spans(row, range(len(row.frame_names)))
            num_whole += spans[-1].offset + spans[-1].size - row.head.offset
        traffic = shard_set.storage.traffic
        num_received += traffic.bytes
        num_requests += traffic.requests
        num_clips += len(source)
    return ReadCost(
        bytes_ratio=num_received / num_whole,
        requests_per_clip=num_requests / num_clips,
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--videos", type=int, default=6, help="of 30 frames")
    parser.add_argument("--epochs", type=int, default=4, help="read")
    settings = parser.parse_args()
    videos = [
        make_video(f"v{number:03d}", HEIGHT_PX, WIDTH_PX) for number in range(settings.videos)
    ]
    build_videos(videos, URL)
    image_sizes = [len(frame.image) for video in videos for frame in video.frames]
    frame_bytes = sum(image_sizes) / len(image_sizes)
    print(
        f"{frame_bytes / 1000:.0f} kB a frame of {WIDTH_PX}x{HEIGHT_PX} pixels, "
        f"{VIDEO_LENGTH} frames a video"
    )
    print(f"{'gap':10s} {'share of bytes':>14s} {'requests':>9s}")
    costs = {}
    for name, gap in GAPS.items():
        gap_bytes = int(gap * frame_bytes) if isinstance(gap, float) else gap
        cost = measure(gap_bytes, settings.epochs)
        costs[name] = cost
        print(f"{name:10s} {cost.bytes_ratio:14.3f} {cost.requests_per_clip:9.2f}")
    loader_cost = costs["1 frame"]
    figures = {
        "bytes_ratio": round(loader_cost.bytes_ratio, 4),
        "requests_per_clip": round(loader_cost.requests_per_clip, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
