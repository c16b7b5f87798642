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
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loader import (
    AUGMENTATION,
    BATCH,
    NUM_FRAMES,
    SAMPLING,
    LooseFiles,
    build_videos,
    collate,
    cpu_seconds,
    make_video,
    write_loose_files,
)
from torch.profiler import profile
from torch.utils.data import DataLoader

from sgmg import SgMg, SgMgConfig, best_query
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.losses import Criterion, normaliser
from sgmg.training.matcher import Matcher
from sgmg.training.targets import Targets
from shards import Batch, ClipLoader, ClipStyle
from shards.stream.augment import Augmentation

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TINY = {
    "backbone": "motion_convnet", "hidden": 64, "heads": 4, "encoder_layers": 1,
    "decoder_layers": 2, "feedforward": 128, "queries": 1,
}  # fmt: skip


def open_loader(
    folder: Path, device: Any, threads: int, how: Augmentation, batch_size: int = BATCH
) -> ClipLoader:
    """Clips, decoded on the CPU or, "mixed", on the GPU."""
    return ClipLoader(
        [str(folder)],
        num_frames=NUM_FRAMES,
        batch_size=batch_size,
        style=ClipStyle(sampling=SAMPLING, augmentation=how),
        device=device,
        threads=threads,
    )


def pixel_distance(folder: Path, threads: int) -> float:
    """Mean distance of the two graphs' frames in grey levels."""
    pair = [open_loader(folder, device, threads, AUGMENTATION) for device in ("cpu", "mixed")]
    off = [
        float((here.frames - there.frames.cpu()).abs().mean()) * 255 * 0.226
        for here, there in zip(*pair, strict=True)
    ]
    for loader in pair:
        loader.close()
    return sum(off) / len(off)


def throughput(batches: Iterable[Any], frames_of: Any, epochs: int) -> dict[str, float]:
    """Frames a second and host CPU seconds per 1,000 frames, after a first epoch."""
    frames, begin, cpu = 0, 0.0, 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            begin, cpu = time.perf_counter(), cpu_seconds()
        for batch in batches:
            frames += frames_of(batch).shape[0] * NUM_FRAMES if epoch else 0
        wait_for_gpu()
    wall = time.perf_counter() - begin
    return {"frames/s": frames / wall, "CPU s / 1000": 1e3 * (cpu_seconds() - cpu) / frames}


def build(loader: ClipLoader, small: bool) -> SgMg:
    """The same network each time it is called."""
    torch.manual_seed(0)
    texts = [e.text for s in loader.sets for v in s.videos for e in v.expressions]
    tokenizer = train_tokenizer(texts)
    shape: dict[str, Any] = TINY if small else {"backbone": "video_swin_t"}
    text = tiny_text_config(len(tokenizer))
    config = SgMgConfig(**shape, text_model=None, text_config=text)
    return SgMg(config, tokenizer=tokenizer).to(DEVICE)


def wait_for_gpu() -> None:
    """Kernels run behind the program; a clock must not."""
    if CUDA:
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Most GPU memory since the last call."""
    if not CUDA:
        return 0.0
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return most


def learner(model: SgMg, bf16: bool) -> Callable[[Batch], float]:
    """A plain update of a network; gives its loss."""
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-4)
    matcher, criterion = Matcher(), Criterion()

    def learn(batch: Batch) -> float:
        targets = Targets(batch.masks, batch.boxes_cxcywh, batch.visible)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            select = partial(matcher, targets=targets)
            outputs = model(batch.frames, batch.padding, batch.expressions, select)
            terms = criterion(outputs, targets, normaliser(targets.visible.sum(), 1))
        terms["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(terms["total"].detach())

    return learn


def train(loader: ClipLoader, updates: int, small: bool, bf16: bool) -> dict[str, float]:
    """A step, its memory, its wait for data, the loss of the first update."""
    learn = learner(build(loader, small), bf16)
    steps, waits, losses = [], [], []
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "position": 0})  # equal clips
    stream = (batch for _ in iter(int, 1) for batch in loader)
    peak_gib()
    first = 0 if small else 1  # what is made on first use does not count
    for _ in range(updates + first):
        begin = time.perf_counter()
        batch = next(stream).to(DEVICE)
        waits.append(time.perf_counter() - begin)
        losses.append(learn(batch))
        wait_for_gpu()
        steps.append(time.perf_counter() - begin)
    seconds = sum(steps[first:])
    figures = {"step s": seconds / updates, "GPU GiB": peak_gib()}
    return figures | {"data wait": sum(waits[first:]) / seconds, "first loss": losses[0]}


@torch.inference_mode()
def segment(loader: ClipLoader, small: bool) -> dict[str, dict[str, float]]:
    """Frames a second of one expression on one clip, and how far the masks agree."""
    model, size = build(loader, small).eval(), (144, 192) if small else (360, 640)
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, NUM_FRAMES, 3, *size, generator=generator).to(DEVICE)
    padding = torch.zeros(1, *size, dtype=torch.bool, device=DEVICE)
    rows, masks = {}, []
    peak_gib()
    for name in ("float32", "bfloat16"):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=name == "bfloat16"):
            for count in (1,) if small else (1, 20):
                begin = time.perf_counter()
                for _ in range(count):
                    logits = model(clip, padding, ["the round thing"], best_query).mask_logits
                wait_for_gpu()
                seconds = (time.perf_counter() - begin) / count
        rows[f"inference, {name}"] = {"frames/s": NUM_FRAMES / seconds, "GPU GiB": peak_gib()}
        masks.append(logits.float() > 0)
    both, either = masks[0] & masks[1], masks[0] | masks[1]
    rows["inference, bfloat16"]["mask IoU"] = float(both.sum() / either.sum().clamp(min=1))
    return rows


def profile_update(loader: ClipLoader, small: bool) -> str:
    """Operations by their own time, the longest first, of an update (bfloat16 on a GPU)."""
    learn = learner(build(loader, small), bf16=CUDA)
    batch = next(iter(loader)).to(DEVICE)
    if not small:
        learn(batch)  # what is made on first use
    with profile() as found:
        learn(batch)
        wait_for_gpu()
    by = f"self_{DEVICE}_time_total"
    return found.key_averages().table(sort_by=by, row_limit=12, max_name_column_width=40)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="few small videos, a tiny network")
    parser.add_argument("--workers", type=int, default=16, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=8, help="of DALI")
    given = parser.parse_args()
    count, updates, epochs = (1, 1, 1) if given.small else (24, 50, 3)
    workers, threads = (1, 1) if given.small else (given.workers, given.threads)
    size, how = ((480, 854), AUGMENTATION)
    if given.small:
        size, how = (144, 192), Augmentation.synthetic()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, loose = Path(name) / "shards", Path(name) / "loose"
        loose.mkdir()
        videos = [make_video(f"v{n:03d}", *size) for n in range(count)]
        build_videos(videos, str(folder))
        for video in videos:
            write_loose_files(video, loose)
        plain = DataLoader(
            LooseFiles(loose, [it.key for it in videos], size, how), batch_size=BATCH,
            num_workers=workers, collate_fn=collate, persistent_workers=True,
        )  # fmt: skip
        rows[f"DataLoader, PIL, {workers}"] = throughput(plain, lambda b: b["frames"], epochs)
        del plain
        for device in ("cpu", "mixed") if CUDA else ("cpu",):
            loader = open_loader(folder, device, threads, how)
            rows[f"ClipLoader, {device}"] = throughput(loader, lambda b: b.frames, epochs)
            loader.close()
        batch_size = 1 if given.small else BATCH
        loader = open_loader(folder, "mixed" if CUDA else "cpu", threads, how, batch_size)
        for name, bf16 in (("float32", False), ("bfloat16", True)):
            rows[f"training, {name}"] = train(loader, updates, given.small, bf16)
        rows |= segment(loader, given.small)
        print(profile_update(loader, given.small))
        loader.close()
        if CUDA:
            rows["mixed against cpu"] = {"grey levels": pixel_distance(folder, threads)}
    print(f"{torch.cuda.get_device_name() if CUDA else 'no CUDA'}, torch {torch.__version__}")
    for name, figures in rows.items():
        print(f"{name:22s} " + "  ".join(f"{key} {value:10.3f}" for key, value in figures.items()))
    print(
        json.dumps(
            {f"{name}: {key}": round(v, 4) for name, f in rows.items() for key, v in f.items()}
        )
    )


if __name__ == "__main__":
    main()
