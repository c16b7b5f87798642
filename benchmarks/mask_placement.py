"""Masks beside their frames, or all masks of a video in one member: what does a clip cost?

python benchmarks/mask_placement.py [SHARDS ...]

Takes the sizes of frames and masks from shard sets, or draws videos of 30 frames at 1280 x 720 with
two objects. Lays both out as a tar would, draws clips by the published sampling, and counts the
bytes and ranged requests of a clip. Prints a table, and one JSON object as the last line.
"""

import io
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from shards.format.rle import encode_mask
from shards.format.schema import dump_json
from shards.format.shard_set import ShardSet
from shards.format.tar import BLOCK_BYTES
from shards.storage.storage import Span, coalesce
from shards.stream.order import Draws
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


class PythonDraws(random.Random):
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
    images = []
    masks = []
    all_masks = {}
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
        all_masks[f"{number:05d}"] = counts
    return Sizes(head=1200, images=images, masks=masks, all_masks=len(dump_json(all_masks)))


def stored_videos(url: str) -> list[Sizes]:
    """Sizes of the videos of a set with masks on every frame and more frames than a clip."""
    videos = []
    for row in ShardSet.open(url).videos:
        if row.annotated.all() and len(row.frame_names) > NUM_FRAMES:
            image_bytes = row.images[1]
            mask_bytes = row.masks[1]
            all_masks = int(mask_bytes.sum())
            videos.append(
                Sizes(row.head.size, image_bytes.tolist(), mask_bytes.tolist(), all_masks)
            )
    return videos


class Layout(NamedTuple):
    """Spans of a clip's members, and the bytes of the whole video."""

    spans: list[Span]
    total: int


LayOut = Callable[[Sizes, Sequence[int]], Layout]


def lay_out(sizes: Sequence[int]) -> Layout:
    """Where a tar puts members of these sizes, and how long it is: a header and padding each."""
    spans = []
    offset = 0
    for size in sizes:
        offset += BLOCK_BYTES
        spans.append(Span(offset, size, 0))
        offset += math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES
    return Layout(spans, offset)


def beside(video: Sizes, frames: Sequence[int]) -> Layout:
    """A clip if each frame's masks lie behind it."""
    sizes = [video.head]
    for image, masks in zip(video.images, video.masks, strict=True):
        sizes += [image, masks]
    tar = lay_out(sizes)
    spans = []
    for frame in set(frames):
        spans += tar.spans[1 + 2 * frame : 3 + 2 * frame]
    return Layout(spans, tar.total)


def one_member(video: Sizes, frames: Sequence[int]) -> Layout:
    """A clip if all masks lie behind the head."""
    tar = lay_out([video.head, video.all_masks, *video.images])
    masks = tar.spans[1]
    images = [tar.spans[2 + frame] for frame in set(frames)]
    return Layout([masks, *images], tar.total)


def cost(videos: Sequence[Sizes], layout: LayOut, gap: float) -> dict[str, float]:
    """Mean share of a video's bytes, and mean requests, of a clip.

    Args:
        videos: sizes to draw clips from.
        layout: how the masks lie.
        gap: largest hole within a request, in bytes from 1024 on, below it in mean frames.
    """
    # the choice of frames calls only what both generators have
    draws = cast(Draws, PythonDraws(0))
    sampling = ClipSampling.youtube_vos()
    shares = []
    requests = []
    for video in videos:
        length = len(video.images)
        gap_bytes = int(gap if gap >= 1024 else gap * np.mean(video.images))
        for _ in range(CLIPS_A_VIDEO):
            anchor = draws.integer(0, length - 1)
            frames = clip_frames(sampling, length, anchor, NUM_FRAMES, draws)
            spans, total = layout(video, frames)
            starts, ends, _ = coalesce(spans, gap_bytes)
            shares.append((sum(ends) - sum(starts)) / total)
            requests.append(len(starts))
    return {
        "bytes_ratio": round(float(np.mean(shares)), 4),
        "requests_per_clip": round(float(np.mean(requests)), 2),
    }


def main() -> None:
    """Measure and print."""
    start = time.perf_counter()
    videos = []
    for url in sys.argv[1:]:
        videos += stored_videos(url)
    if not videos:
        videos = [drawn_video(seed) for seed in range(2)]
    frame_bytes = float(np.mean([size for video in videos for size in video.images]))
    mask_bytes = float(np.mean([size for video in videos for size in video.masks]))
    print(f"{len(videos)} videos, a frame {frame_bytes:,.0f} bytes, its masks {mask_bytes:,.0f}")
    print("masks        gap       bytes of the video  requests a clip")
    mask_share = mask_bytes / (mask_bytes + frame_bytes)
    result: dict[str, float | dict[str, float]] = {"mask_share": round(mask_share, 4)}
    layouts: dict[str, LayOut] = {"beside": beside, "one member": one_member}
    for name, layout in layouts.items():
        for gap_name, gap in GAPS.items():
            row = cost(videos, layout, gap)
            result[f"{name}, gap {gap_name}"] = row
            print(
                f"{name:<11}  {gap_name:<8}  {row['bytes_ratio']:>18.3f}  "
                f"{row['requests_per_clip']:>15.2f}"
            )
    print(f"({time.perf_counter() - start:.0f} s)")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
