"""Masks beside their frames, or all masks of a video in one member: what does a clip cost?

python benchmarks/mask_placement.py [SHARDS ...]

Takes the sizes of frames and masks from shard sets, or draws videos of 30 frames at 1280 x 720 with
two objects. Lays both out as a tar would, draws clips by the published sampling, and counts the
bytes and ranged requests of a clip. Prints a table, and one JSON object as the last line.
"""

import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from shards.format.rle import encode_mask
from shards.format.schema import dump_json
from shards.format.shard_set import ShardSet
from shards.storage.storage import Span, coalesce
from shards.stream.sampling import ClipSampling, clip_frames

CLIPS_A_VIDEO = 200
NUM_FRAMES = 5
GAPS = {"0": 1024, "1 frame": 1.2, "2 frames": 2.4, "5 frames": 6.0}  # bytes, or frame sizes


@dataclass(frozen=True)
class Sizes:
    """Bytes of the members of one video: head, images `[F]`, masks of each frame `[F]`, of all."""

    head: int
    images: list[int]
    masks: list[int]
    all_masks: int


class Draws(random.Random):
    """What the choice of frames asks of a random generator."""

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return self.randint(low, high)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability


def drawn_video(seed: int, *, frames: int = 30, height: int = 720, width: int = 1280) -> Sizes:
    """A textured background that drifts, and two ragged blobs that move over it."""
    noise = np.random.default_rng(seed)
    texture = noise.integers(0, 256, (height // 4, width // 2, 3), np.uint8)
    smooth = Image.fromarray(texture).resize((2 * width, height), Image.Resampling.BICUBIC)
    smooth = smooth.filter(ImageFilter.GaussianBlur(2))
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    images, masks, together = [], [], {}
    for number in range(frames):
        file = io.BytesIO()
        smooth.crop((8 * number, 0, 8 * number + width, height)).save(file, "JPEG", quality=90)
        images.append(len(file.getvalue()))
        counts = {}
        radii = 110 + 15 * np.sin(7 * angles) + 4 * np.sin(41 * angles + number)
        for name, (top, left) in {"1": (0.4, 0.3), "2": (0.6, 0.6)}.items():
            across = left * width + 10 * number + radii * np.cos(angles)
            down = top * height + radii * np.sin(angles)
            canvas = Image.new("1", (width, height))
            ImageDraw.Draw(canvas).polygon(np.stack([across, down], 1).ravel().tolist(), fill=1)
            counts[name] = encode_mask(np.array(canvas)).counts.decode()
        masks.append(len(dump_json(counts)))
        together[f"{number:05d}"] = counts
    return Sizes(1200, images, masks, len(dump_json(together)))


def stored_videos(url: str) -> list[Sizes]:
    """Sizes of the videos of a set with masks on every frame and more frames than a clip."""
    return [
        Sizes(row.head.size, row.images[1].tolist(), row.masks[1].tolist(), int(row.masks[1].sum()))
        for row in ShardSet.open(url).videos
        if row.annotated.all() and len(row.frame_names) > NUM_FRAMES
    ]


def lay_out(sizes: Sequence[int]) -> tuple[list[Span], int]:
    """Where a tar puts members of these sizes, and how long it is: a header and padding each."""
    spans, at = [], 0
    for size in sizes:
        spans.append(Span(at + 512, size, 0))
        at += 512 + -(-size // 512) * 512
    return spans, at


def beside(video: Sizes, frames: Sequence[int]) -> tuple[list[Span], int]:
    """Spans of a clip if each frame's masks lie behind it, and the bytes of the video."""
    pairs = [size for pair in zip(video.images, video.masks, strict=True) for size in pair]
    spans, total = lay_out([video.head, *pairs])
    return [spans[1 + 2 * frame + part] for frame in set(frames) for part in (0, 1)], total


def one_member(video: Sizes, frames: Sequence[int]) -> tuple[list[Span], int]:
    """Spans of a clip if all masks lie behind the head, and the bytes of the video."""
    spans, total = lay_out([video.head, video.all_masks, *video.images])
    return [spans[1], *(spans[2 + frame] for frame in set(frames))], total


Layout = Callable[[Sizes, Sequence[int]], tuple[list[Span], int]]


def cost(videos: Sequence[Sizes], layout: Layout, gap: float) -> dict[str, float]:
    """Mean share of a video's bytes, and mean requests, of a clip."""
    draws, shares, requests = Draws(0), [], []
    for video in videos:
        length = len(video.images)
        bytes_apart = int(gap if gap >= 1024 else gap * np.mean(video.images))
        for _ in range(CLIPS_A_VIDEO):
            anchor = draws.integer(0, length - 1)
            frames = clip_frames(ClipSampling.youtube_vos(), length, anchor, NUM_FRAMES, draws)
            spans, total = layout(video, frames)
            starts, ends, _ = coalesce(spans, bytes_apart)
            shares.append((sum(ends) - sum(starts)) / total)
            requests.append(len(starts))
    share, count = float(np.mean(shares)), float(np.mean(requests))
    return {"bytes_ratio": round(share, 4), "requests_per_clip": round(count, 2)}


def main() -> None:
    """Measure and print."""
    began = time.perf_counter()
    urls = sys.argv[1:]
    videos = [it for url in urls for it in stored_videos(url)]
    videos = videos or [drawn_video(seed) for seed in range(2)]
    frame = np.mean([size for video in videos for size in video.images])
    mask = np.mean([size for video in videos for size in video.masks])
    print(f"{len(videos)} videos, a frame {frame:,.0f} bytes, its masks {mask:,.0f}")
    print("masks        gap       bytes of the video  requests a clip")
    result: dict[str, dict[str, float]] = {}
    for name, layout in {"beside": beside, "one member": one_member}.items():
        for gap, size in GAPS.items():
            found = cost(videos, layout, size)
            result[f"{name}, gap {gap}"] = found
            print(
                f"{name:<11}  {gap:<8}  {found['bytes_ratio']:>18.3f}  "
                f"{found['requests_per_clip']:>15.2f}"
            )
    print(f"({time.perf_counter() - began:.0f} s)")
    print(json.dumps({"mask_share": round(float(mask / (mask + frame)), 4), **result}))


if __name__ == "__main__":
    main()
