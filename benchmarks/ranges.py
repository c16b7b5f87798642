"""What a clip of 5 frames costs from object storage: bytes and requests, by the gap.

    python benchmarks/ranges.py [--videos 6] [--epochs 4]

Builds videos of 30 frames at 1280 x 720 in a place that is no local folder (memory, through
fsspec), reads clips drawn by the published sampling through `ShardSet`, with every checksum, and
counts what `shards.storage` received. The manifest and the indexes count once an epoch. Prints the
curve, and one JSON object for the gap that a loader uses (1.2 frames).
"""

import argparse
import json

from loader import build_videos, make_video

from shards import ShardSet
from shards.stream.augment import Augmentation
from shards.stream.clip_source import ClipSource
from shards.stream.sampling import ClipSampling

URL = "memory://bench-ranges"
GAPS = {"0": 0, "header": 4096, "1 frame": None, "2 frames": 2.4, "5 frames": 6.0}


def measure(gap: int | None, epochs: int) -> tuple[float, float]:
    """Bytes of a clip as a share of its video's, and its requests."""
    received = asked = whole = clips = 0
    for epoch in range(epochs):
        shard_set = ShardSet.open(URL, gap=gap)
        source = ClipSource(
            [shard_set],
            weights=None,
            num_frames=5,
            seed=0,
            sampling=ClipSampling.youtube_vos(),
            augmentation=Augmentation.none(),
            expressions=1,
            block_shards=0,
        )
        for position in range(len(source)):
            choice = source.choice(epoch, position)
            shard_set.read(choice.video, choice.frames)
            spans, _ = shard_set.spans(choice.row, range(len(choice.row.frame_names)))
            whole += spans[-1].offset + spans[-1].size - choice.row.head.offset
        traffic = shard_set.storage.traffic
        received, asked, clips = (
            received + traffic.bytes,
            asked + traffic.requests,
            clips + len(source),
        )
    return received / whole, asked / clips


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--videos", type=int, default=6, help="of 30 frames")
    parser.add_argument("--epochs", type=int, default=4, help="read")
    settings = parser.parse_args()
    videos = [make_video(f"v{n:03d}", 720, 1280) for n in range(settings.videos)]
    build_videos(videos, URL)
    frame = sum(len(f.image) for video in videos for f in video.frames) / 30 / len(videos)
    print(f"{frame / 1000:.0f} kB a frame of 1280x720 pixels, 30 frames a video")
    print(f"{'gap':10s} {'share of bytes':>14s} {'requests':>9s}")
    found = {}
    for name, gap in GAPS.items():
        wanted = int(gap * frame) if isinstance(gap, float) else gap
        found[name] = measure(wanted, settings.epochs)
        print(f"{name:10s} {found[name][0]:14.3f} {found[name][1]:9.2f}")
    ratio, requests = found["1 frame"]
    print(json.dumps({"bytes_ratio": round(ratio, 4), "requests_per_clip": round(requests, 3)}))


if __name__ == "__main__":
    main()
