"""One table of what a GPU machine makes of the loader and of a training step.

    python benchmarks/gpu_check.py                      # on a CUDA machine
    python benchmarks/gpu_check.py --small              # anywhere, in seconds: checks this program

Compares the pixels of the mixed graph with those of the CPU graph, and measures frames a second and
host CPU seconds per 1,000 frames of both against a PyTorch DataLoader with Pillow (16 workers) on
the same data. Then trains a network for some updates in float32 and in bfloat16 and measures a
step, its memory, its loss and the share of time that it waited for data; segments a clip in both
and compares the masks; lists the operations that take most of an update. Without CUDA the mixed
rows are left out and autocast is the CPU's. The last line is JSON.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from loader import (
    AUGMENTATION,
    BATCH,
    HEIGHT,
    NUM_FRAMES,
    SAMPLING,
    WIDTH,
    LooseFiles,
    build_videos,
    collate,
    cpu_seconds,
    make_video,
    write_loose_files,
)
from torch import Tensor
from torch.profiler import profile
from torch.utils.data import DataLoader

from sgmg import SgMg, SgMgConfig, best_query
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.losses import Criterion, normaliser
from sgmg.training.matcher import Matcher
from sgmg.training.recipes import DEMO_MODEL
from sgmg.training.targets import Targets
from shards import Batch, ClipLoader, ClipStyle
from shards.stream.augment import Augmentation

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LEARNING_RATE = 1e-4
# Grey levels in one unit of a normalised frame: the mean of ImageNet's three deviations, times 255.
GREY_LEVELS = 255 * 0.226

Decoder = Literal["cpu", "mixed"]
Figures = dict[str, float]
AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        videos: Videos of the data.
        size: Their height and width, pixels.
        augmentation: What happens to their clips.
        epochs: Epochs that throughput is measured over, after a first one.
        batch_size: Clips of a training batch.
        updates: Updates that training is measured over.
        warm_up: Updates before these: what is allocated on first use does not count.
        config: Network, without its text model.
        clip_size: Height and width of the clip that is segmented, pixels.
        expression_repeats: Times that the clip is segmented in a row; the last row counts.
    """

    videos: int
    size: tuple[int, int]
    augmentation: Augmentation
    epochs: int
    batch_size: int
    updates: int
    warm_up: int
    config: SgMgConfig
    clip_size: tuple[int, int]
    expression_repeats: tuple[int, ...]


FULL = Scale(
    videos=24,
    size=(HEIGHT, WIDTH),
    augmentation=AUGMENTATION,
    epochs=3,
    batch_size=BATCH,
    updates=50,
    warm_up=1,
    config=SgMgConfig(text_model=None),
    clip_size=(360, 640),
    expression_repeats=(1, 20),
)
SMALL = Scale(
    videos=1,
    size=(144, 192),
    augmentation=Augmentation.synthetic(),
    epochs=1,
    batch_size=1,
    updates=1,
    warm_up=0,
    config=DEMO_MODEL,
    clip_size=(144, 192),
    expression_repeats=(1,),
)


def open_loader(
    folder: Path,
    decoder: Decoder,
    threads: int,
    augmentation: Augmentation,
    batch_size: int = BATCH,
) -> ClipLoader:
    """Clips, decoded on the CPU or, "mixed", on the GPU."""
    return ClipLoader(
        [str(folder)],
        num_frames=NUM_FRAMES,
        batch_size=batch_size,
        style=ClipStyle(sampling=SAMPLING, augmentation=augmentation),
        device=decoder,
        threads=threads,
    )


def pixel_distance(folder: Path, threads: int) -> float:
    """Mean distance of the two graphs' frames in grey levels."""
    distances = []
    with (
        closing(open_loader(folder, "cpu", threads, AUGMENTATION)) as cpu_loader,
        closing(open_loader(folder, "mixed", threads, AUGMENTATION)) as mixed_loader,
    ):
        for cpu_batch, mixed_batch in zip(cpu_loader, mixed_loader, strict=True):
            difference = cpu_batch.frames - mixed_batch.frames.cpu()
            distances.append(float(difference.abs().mean()) * GREY_LEVELS)
    return sum(distances) / len(distances)


def throughput(
    batches: Iterable[AnyBatch], count_clips: Callable[[AnyBatch], int], epochs: int
) -> Figures:
    """Frames a second and host CPU seconds per 1,000 frames, after a first epoch."""
    for _ in batches:  # starts workers, fills the page cache
        pass
    wait_for_gpu()
    frames = 0
    begin = time.perf_counter()
    cpu_begin = cpu_seconds()
    for _ in range(epochs):
        for batch in batches:
            frames += count_clips(batch) * NUM_FRAMES
        wait_for_gpu()
    seconds = time.perf_counter() - begin
    return {
        "frames/s": frames / seconds,
        "CPU s / 1000": 1e3 * (cpu_seconds() - cpu_begin) / frames,
    }


def build_network(loader: ClipLoader, config: SgMgConfig) -> SgMg:
    """Build the same network each time it is called."""
    torch.manual_seed(0)
    texts = [
        expression.text
        for shard_set in loader.sets
        for video in shard_set.videos
        for expression in video.expressions
    ]
    tokenizer = train_tokenizer(texts)
    text_config = tiny_text_config(len(tokenizer))
    return SgMg(replace(config, text_config=text_config), tokenizer=tokenizer).to(DEVICE)


def wait_for_gpu() -> None:
    """Wait for kernels, which run behind the program; a clock must."""
    if CUDA:
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Peak of GPU memory since the last call."""
    if not CUDA:
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def make_update(model: SgMg, *, bf16: bool) -> Callable[[Batch], float]:
    """Return a plain update of a network; it gives its loss."""
    optimizer = torch.optim.AdamW(model.train().parameters(), LEARNING_RATE)
    matcher = Matcher()
    criterion = Criterion()

    def update(batch: Batch) -> float:
        targets = Targets(batch.masks, batch.boxes_cxcywh, batch.visible)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            select = partial(matcher, targets=targets)
            outputs = model(batch.frames, batch.padding, batch.expressions, select)
            terms = criterion(outputs, targets, normaliser(targets.visible.sum()))
        terms["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(terms["total"].detach())

    return update


def train(loader: ClipLoader, scale: Scale, *, bf16: bool) -> Figures:
    """Measure a step, its memory, its wait for data, the loss of the first update."""
    update = make_update(build_network(loader, scale.config), bf16=bf16)
    # Both precisions see the same clips.
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "position": 0})
    stream = itertools.chain.from_iterable(itertools.repeat(loader))
    step_seconds = []
    wait_seconds = []
    losses = []
    peak_gib()
    for _ in range(scale.warm_up + scale.updates):
        begin = time.perf_counter()
        batch = next(stream).to(DEVICE)
        wait_seconds.append(time.perf_counter() - begin)
        losses.append(update(batch))
        wait_for_gpu()
        step_seconds.append(time.perf_counter() - begin)
    seconds = sum(step_seconds[scale.warm_up :])
    return {
        "step s": seconds / scale.updates,
        "GPU GiB": peak_gib(),
        "data wait": sum(wait_seconds[scale.warm_up :]) / seconds,
        "first loss": losses[0],
    }


@torch.inference_mode()
def segment(loader: ClipLoader, scale: Scale) -> dict[str, Figures]:
    """Frames a second of one expression on one clip, and how far the masks agree."""
    model = build_network(loader, scale.config).eval()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, NUM_FRAMES, 3, *scale.clip_size, generator=generator).to(DEVICE)
    padding = torch.zeros(1, *scale.clip_size, dtype=torch.bool, device=DEVICE)

    def measure(*, bf16: bool) -> tuple[Figures, Tensor]:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            for count in scale.expression_repeats:
                begin = time.perf_counter()
                for _ in range(count):
                    output = model(clip, padding, ["the round thing"], best_query)
                wait_for_gpu()
                seconds = (time.perf_counter() - begin) / count
        figures = {"frames/s": NUM_FRAMES / seconds, "GPU GiB": peak_gib()}
        return figures, output.mask_logits.float() > 0

    peak_gib()
    float32, float32_masks = measure(bf16=False)
    bfloat16, bfloat16_masks = measure(bf16=True)
    intersection = float((float32_masks & bfloat16_masks).sum())
    union = float((float32_masks | bfloat16_masks).sum())
    bfloat16["mask IoU"] = intersection / max(union, 1)
    return {"inference, float32": float32, "inference, bfloat16": bfloat16}


def profile_update(loader: ClipLoader, scale: Scale) -> str:
    """Operations by their own time, the longest first, of an update (bfloat16 on a GPU)."""
    update = make_update(build_network(loader, scale.config), bf16=CUDA)
    batch = next(iter(loader)).to(DEVICE)
    for _ in range(scale.warm_up):
        update(batch)
    with profile() as profiler:
        update(batch)
        wait_for_gpu()
    averages = profiler.key_averages()
    return averages.table(
        sort_by=f"self_{DEVICE}_time_total", row_limit=12, max_name_column_width=40
    )


def measure_all(folder: Path, scale: Scale, workers: int, threads: int) -> dict[str, Figures]:
    """Build the data, measure every row of the table; prints the profile of an update."""
    shards = folder / "shards"
    loose = folder / "loose"
    loose.mkdir()
    videos = [make_video(f"v{number:03d}", *scale.size) for number in range(scale.videos)]
    build_videos(videos, str(shards))
    for video in videos:
        write_loose_files(video, loose)

    rows: dict[str, Figures] = {}
    plain_loader = DataLoader(
        LooseFiles(loose, [video.key for video in videos], scale.size, scale.augmentation),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
    )
    rows[f"DataLoader, PIL, {workers}"] = throughput(
        plain_loader, lambda batch: len(batch["frames"]), scale.epochs
    )
    del plain_loader  # ends its workers, which would disturb the others
    decoders: tuple[Decoder, ...] = ("cpu", "mixed") if CUDA else ("cpu",)
    for decoder in decoders:
        with closing(open_loader(shards, decoder, threads, scale.augmentation)) as loader:
            rows[f"ClipLoader, {decoder}"] = throughput(
                loader, lambda batch: len(batch.frames), scale.epochs
            )

    best_decoder = decoders[-1]
    loader = open_loader(shards, best_decoder, threads, scale.augmentation, scale.batch_size)
    with closing(loader):
        rows["training, float32"] = train(loader, scale, bf16=False)
        rows["training, bfloat16"] = train(loader, scale, bf16=True)
        rows |= segment(loader, scale)
        print(profile_update(loader, scale))
    if CUDA:
        rows["mixed against cpu"] = {"grey levels": pixel_distance(shards, threads)}
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="few small videos, a tiny network")
    parser.add_argument("--workers", type=int, default=16, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=8, help="of DALI")
    options = parser.parse_args()
    scale = SMALL if options.small else FULL
    workers = 1 if options.small else options.workers
    threads = 1 if options.small else options.threads
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(Path(folder), scale, workers, threads)
    print(f"{torch.cuda.get_device_name() if CUDA else 'no CUDA'}, torch {torch.__version__}")
    rounded: Figures = {}
    for row, figures in rows.items():
        cells = [f"{name} {value:10.3f}" for name, value in figures.items()]
        print(f"{row:22s} " + "  ".join(cells))
        for name, value in figures.items():
            rounded[f"{row}: {name}"] = round(value, 4)
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
