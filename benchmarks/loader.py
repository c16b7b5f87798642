"""How fast clips are made: our loader, a webdataset pipeline, a plain PyTorch loader.

    python benchmarks/loader.py [--videos 12] [--rounds 5]

Data: generated 480p JPEG videos of 30 frames, once as a shard set, once as loose files with palette
PNG masks. All three make clips of 5 frames with the published sampling and augmentation for
Ref-YouTube-VOS, in batches of 2, on this machine's CPU:

  ours         ClipLoader, one DALI thread beside the two that make batches
  webdataset   WebDataset(shards).decode("pil"), a clip of each video, in this process
  dataloader   map-style DataLoader over the loose files with Pillow, two workers

They take turns in one run; every turn is a whole epoch with workers already started. CPU seconds
include workers. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards import (
    ClipLoader,
    ClipStyle,
    Expression,
    Frame,
    Plan,
    Rle,
    Video,
    build_set,
    encode_mask,
)
from shards.format.rle import decode_mask
from shards.stream.augment import Augmentation, draw_augmentation
from shards.stream.batch import IMAGENET_MEAN, IMAGENET_STD
from shards.stream.expressions import mirror_expression
from shards.stream.order import Draws
from shards.stream.sampling import ClipSampling, clip_frames
from shards.stream.transform import ClipTransform, Colour, Crop, Mirror

HEIGHT, WIDTH, LENGTH, NUM_FRAMES, BATCH = 480, 854, 30, 5, 2
TEXT = "the round thing on the left"
SAMPLING, AUGMENTATION = ClipSampling.youtube_vos(), Augmentation.video()


@dataclass(frozen=True)
class PlainClip:
    """A clip as the two others make it: frames [T, 3, h, w], masks [T, h, w], boxes [T, 4]."""

    frames: Tensor
    masks: Tensor
    boxes_cxcywh: Tensor
    expression: str


def make_video(key: str, height: int = HEIGHT, width: int = WIDTH, length: int = LENGTH) -> Video:
    """Moving texture with the spectrum of photographs, and one moving ellipse."""
    generator = np.random.default_rng(int(key[1:]))
    shape = (height + 64, width + 64)
    waves = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])) ** 1.4
    waves[0, 0] = 1.0
    planes = [np.fft.irfft2(np.fft.rfft2(generator.normal(size=shape)) / waves) for _ in range(3)]
    texture = np.stack([128 + 45 * plane / plane.std() for plane in planes], -1)
    y, x = np.ogrid[:height, :width]
    frames = []
    for t in range(length):
        pixels = texture[t : t + height, 2 * t : 2 * t + width].copy()
        row, column = height * (0.42 + 0.006 * t), width * (0.35 + 0.009 * t)
        mask = ((y - row) / (0.19 * height)) ** 2 + ((x - column) / (0.14 * width)) ** 2 < 1
        pixels[mask] += 40
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        frames.append(Frame(f"{t:05d}", file.getvalue(), "jpg", {"1": encode_mask(mask)}))
    expressions = (Expression("0", TEXT, ("1",)),)
    return Video(key, "bench", "train", key, height, width, frames, {"1": ""}, expressions)


def build_videos(videos: Sequence[Video], url: str) -> None:
    """A shard set of these."""
    videos_by_key = {video.key: video for video in videos}
    plans = [
        Plan(key, sum(len(f.image) for f in video.frames)) for key, video in videos_by_key.items()
    ]
    build_set(plans, videos_by_key.__getitem__, url, dataset="bench", split="train", settings={})


def write_loose_files(video: Video, folder: Path) -> None:
    """The layout of the data set: JPEG frames, palette PNG masks."""
    for frame in video.frames:
        (folder / f"{video.key}_{frame.name}.jpg").write_bytes(frame.image)
        assert frame.masks is not None
        mask = Image.fromarray(decode_mask(frame.masks["1"]).astype(np.uint8)).convert("P")
        mask.putpalette([0, 0, 0, 236, 95, 103])
        mask.save(folder / f"{video.key}_{frame.name}.png")


def apply_with_pillow(image: Image.Image, transform: ClipTransform, colour: Colour) -> np.ndarray:
    """The published steps one after another; float32 `[h, w, 3]`, 0 to 255."""
    for step in transform.steps:
        if isinstance(step, Mirror):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif isinstance(step, Crop):
            right, bottom = step.left + step.width, step.top + step.height
            image = image.crop((step.left, step.top, right, bottom))
        else:
            image = image.resize((step.width, step.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)
    if colour.brightness:
        pixels = (pixels + np.float32(colour.brightness)).clip(0, 255)
    if colour.contrast != 1:
        pixels = pixels * np.float32(colour.contrast)
    if colour.saturation != 1:
        highest = pixels.max(-1, keepdims=True)
        pixels = highest - (highest - pixels) * np.float32(colour.saturation)
    if colour.channels != (0, 1, 2):
        pixels = pixels[..., list(colour.channels)]
    return pixels.clip(0, 255)


def apply_to_mask(mask: np.ndarray, transform: ClipTransform) -> np.ndarray:
    """The same steps for a mask `[H, W]`, nearest."""
    image = Image.fromarray(mask.astype(np.uint8))
    for step in transform.steps:
        if isinstance(step, Mirror):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif isinstance(step, Crop):
            right, bottom = step.left + step.width, step.top + step.height
            image = image.crop((step.left, step.top, right, bottom))
        else:
            image = image.resize((step.width, step.height), Image.Resampling.NEAREST)
    return np.asarray(image, bool)


def make_plain_clip(
    images: Sequence[Image.Image], masks: Sequence[np.ndarray], transform: ClipTransform
) -> PlainClip:
    """What a plain loader does with the frames of one clip."""
    frames, targets, boxes = [], [], []
    mean = np.asarray(IMAGENET_MEAN, np.float32)
    std = np.asarray(IMAGENET_STD, np.float32)
    for image, mask, colour in zip(images, masks, transform.colours, strict=True):
        pixels = apply_with_pillow(image, transform, colour) / np.float32(255)
        pixels = (pixels - mean) / std
        frames.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
        target = apply_to_mask(mask, transform)
        targets.append(torch.from_numpy(target.copy()))
        y, x = np.nonzero(target)
        low, high = ((x.min(), y.min()), (x.max(), y.max())) if len(y) else ((0, 0), (0, 0))
        centred = [*(np.add(low, high) / 2), *np.subtract(high, low)]
        scale = np.asarray([*target.shape[::-1]] * 2, np.float32)
        boxes.append(np.asarray(centred, np.float32) / scale)
    text = mirror_expression(TEXT) if transform.mirrored else TEXT
    stacked = torch.from_numpy(np.stack(boxes))
    return PlainClip(torch.stack(frames), torch.stack(targets), stacked, text)


def collate(clips: Sequence[PlainClip]) -> dict[str, Any]:
    """Pad to multiples of 32."""
    height, width = (-(-max(c.masks.shape[i] for c in clips) // 32) * 32 for i in (1, 2))
    frames = torch.zeros(len(clips), NUM_FRAMES, 3, height, width)
    masks = torch.zeros(len(clips), NUM_FRAMES, height, width, dtype=torch.bool)
    padding = torch.ones(len(clips), height, width, dtype=torch.bool)
    for b, clip in enumerate(clips):
        h, w = clip.masks.shape[1:]
        frames[b, ..., :h, :w], masks[b, :, :h, :w], padding[b, :h, :w] = clip.frames, clip.masks, 0
    boxes = torch.stack([clip.boxes_cxcywh for clip in clips])
    texts = [clip.expression for clip in clips]
    return {"frames": frames, "masks": masks, "padding": padding, "boxes": boxes, "texts": texts}


class LooseFiles(Dataset[PlainClip]):
    """A plain map-style data set: an item a start frame."""

    def __init__(
        self,
        folder: Path,
        keys: Sequence[str],
        size: tuple[int, int] = (HEIGHT, WIDTH),
        augmentation: Augmentation = AUGMENTATION,
    ) -> None:
        """List the items."""
        self._size, self._augmentation = size, augmentation
        starts = range(0, LENGTH, NUM_FRAMES)
        self._folder, self._items = folder, [(key, start) for key in keys for start in starts]

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> PlainClip:
        """Open and augment one clip."""
        key, start = self._items[index]
        draws = Draws(0, 1, 0, index)
        chosen = clip_frames(SAMPLING, LENGTH, start, NUM_FRAMES, draws)
        transform = draw_augmentation(self._augmentation, self._size, NUM_FRAMES, draws)
        names = [str(self._folder / f"{key}_{frame:05d}") for frame in chosen]
        images = [Image.open(f"{name}.jpg").convert("RGB") for name in names]
        masks = [np.asarray(Image.open(f"{name}.png")) == 1 for name in names]
        return make_plain_clip(images, masks, transform)


def clip_of_sample(sample: dict[str, Any]) -> PlainClip:
    """One clip of a whole video as webdataset decodes it."""
    draws = Draws(0, 1, 0, int(sample["__key__"][1:]))
    chosen = clip_frames(SAMPLING, LENGTH, draws.integer(0, LENGTH - 1), NUM_FRAMES, draws)
    transform = draw_augmentation(AUGMENTATION, (HEIGHT, WIDTH), NUM_FRAMES, draws)
    images = [sample[f"{frame:06d}.jpg"] for frame in chosen]
    masks = []
    for frame in chosen:
        (mask,) = sample[f"{frame:06d}.rle.json"]
        masks.append(decode_mask(Rle(HEIGHT, WIDTH, mask["counts"].encode())))
    return make_plain_clip(images, masks, transform)


def webdataset_batches(folder: Path) -> Iterator[dict[str, Any]]:
    """The pipeline of webdataset's own documentation."""
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    videos = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    yield from videos.map(clip_of_sample).batched(BATCH, collation_fn=collate)


def cpu_seconds() -> float:
    """Used so far by this process and its workers."""
    process = psutil.Process()
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def measure(batches: Iterable[Any], num_clips: int) -> tuple[float, float]:
    """Wall and CPU seconds a clip of one epoch."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in batches:
        pass
    return (time.perf_counter() - wall) / num_clips, (cpu_seconds() - cpu) / num_clips


def pixel_difference(loader: ClipLoader, count: int) -> float:
    """Mean distance of our frames from Pillow's, step by step, in grey levels."""
    distances = []
    for position in range(count):
        clip = loader.source.clip(0, position)
        height, width = clip.transform.size
        frames = loader.assemble([clip]).frames[0, :, :, :height, :width]
        std = torch.tensor(IMAGENET_STD)[:, None, None]
        mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
        grey = ((frames * std + mean) * 255).permute(0, 2, 3, 1).numpy()
        for t, image in enumerate(clip.images):
            pillow = Image.open(io.BytesIO(image)).convert("RGB")
            distances.append(
                np.abs(
                    apply_with_pillow(pillow, clip.transform, clip.transform.colours[t]) - grey[t]
                )
            )
    return float(np.mean([values.mean() for values in distances]))


def compare(videos: int, rounds: int, folder: Path) -> dict[str, float]:
    """Build the data, let the three take turns, print a table."""
    keys = [f"v{number:03d}" for number in range(videos)]
    loose, tars = folder / "loose", folder / "shards"
    loose.mkdir()
    generated = [make_video(key) for key in keys]
    for video in generated:
        write_loose_files(video, loose)
    build_videos(generated, str(tars))
    size = np.mean([len(frame.image) for frame in generated[0].frames])
    print(f"{size / 1000:.0f} kB a frame of {WIDTH}x{HEIGHT} pixels")
    ours = ClipLoader(
        [str(tars)],
        num_frames=NUM_FRAMES,
        batch_size=BATCH,
        style=ClipStyle(sampling=SAMPLING, augmentation=AUGMENTATION),
        threads=1,
    )
    files = LooseFiles(loose, keys)
    plain = DataLoader(
        files, batch_size=BATCH, shuffle=True, num_workers=2, collate_fn=collate,
        persistent_workers=True,
    )  # fmt: skip
    turns: dict[str, tuple[Callable[[], Iterable[Any]], int]] = {
        "ours": (lambda: ours, len(ours.source)),
        "webdataset": (partial(webdataset_batches, tars), videos),
        "dataloader": (lambda: plain, len(files)),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, (batches, num_clips) in turns.items():
            seconds = measure(batches(), num_clips)
            if turn:  # the first starts workers and fills caches
                taken[name].append(seconds)
    pixel_distance = pixel_difference(ours, 8)
    ours.close()
    print(f"{'':12s} wall ms/clip  CPU ms/clip  clips/s")
    middle = {}
    for name, rows in taken.items():
        wall, cpu = (median(values) for values in zip(*rows, strict=True))
        middle[name] = (wall, cpu)
        print(f"{name:12s} {wall * 1e3:12.1f} {cpu * 1e3:12.1f} {1 / wall:8.1f}")
    return {
        "wall_vs_webdataset_pil": round(middle["webdataset"][0] / middle["ours"][0], 2),
        "wall_vs_dataloader_pil": round(middle["dataloader"][0] / middle["ours"][0], 2),
        "cpu_vs_dataloader_pil": round(middle["dataloader"][1] / middle["ours"][1], 2),
        "pixel_mean_abs": round(pixel_distance, 3),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--videos", type=int, default=12, help="of 30 frames")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more warms up")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(settings.videos, settings.rounds, Path(folder))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
