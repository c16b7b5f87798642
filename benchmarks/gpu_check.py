"""One table of what a GPU machine makes of the loader and of a training step.

    python benchmarks/gpu_check.py                      # on a CUDA machine
    python benchmarks/gpu_check.py --small              # anywhere, in seconds: checks this program

Compares the pixels of the mixed graph with those of the CPU graph, and measures frames a second and
host CPU seconds per 1,000 frames of both against a PyTorch DataLoader with Pillow (16 workers) on
the same data. Then trains a network for some updates and measures a step, its memory and the share
of time that it waited for data. Without CUDA the mixed rows are left out. The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
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
from torch.utils.data import DataLoader

from sgmg import SgMg, SgMgConfig
from sgmg.losses import Criterion, normaliser
from sgmg.matcher import Matcher, Targets
from sgmg.text_encoder import tiny_text_config, train_tokenizer
from shards import ClipLoader
from shards.augment import Augmentation

CUDA = torch.cuda.is_available()
TINY = {
    "backbone": "motion_convnet", "hidden": 64, "heads": 4, "encoder_layers": 1,
    "decoder_layers": 2, "feedforward": 128, "queries": 1,
}  # fmt: skip


def open_loader(folder: Path, device: Any, threads: int, how: Augmentation) -> ClipLoader:
    """Clips, decoded on the CPU or, "mixed", on the GPU."""
    return ClipLoader(
        [str(folder)], num_frames=NUM_FRAMES, batch_size=BATCH, sampling=SAMPLING,
        augmentation=how, device=device, threads=threads,
    )  # fmt: skip


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
        if CUDA:
            torch.cuda.synchronize()
    wall = time.perf_counter() - begin
    return {"frames/s": frames / wall, "CPU s / 1000": 1e3 * (cpu_seconds() - cpu) / frames}


def train(loader: ClipLoader, updates: int, small: bool) -> dict[str, float]:
    """A plain loop around the network: a step, its memory, its wait for data."""
    device = "cuda" if CUDA else "cpu"
    texts = [e.text for s in loader.sets for v in s.videos for e in v.expressions]
    tokenizer = train_tokenizer(texts)
    shape: dict[str, Any] = TINY if small else {"backbone": "video_swin_t"}
    text = tiny_text_config(len(tokenizer))
    model = SgMg(SgMgConfig(**shape, text_model=None, text_config=text), tokenizer=tokenizer)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    matcher, criterion = Matcher(), Criterion()
    steps, waits = [], []
    stream = (batch for _ in iter(int, 1) for batch in loader)
    for _ in range(updates + 1):
        begin = time.perf_counter()
        batch = next(stream).to(device)
        waits.append(time.perf_counter() - begin)
        targets = Targets(batch.masks, batch.boxes_cxcywh, batch.visible)
        with torch.autocast(device, torch.bfloat16, enabled=CUDA):
            select = partial(matcher, targets=targets)
            outputs = model(batch.frames, batch.padding, batch.expressions, select)
            terms = criterion(outputs, targets, normaliser(targets.visible.sum(), 1))
        terms["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if CUDA:
            torch.cuda.synchronize()
        steps.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
    seconds = sum(steps[1:]) / updates
    return {"step s": seconds, "GPU GiB": memory, "data wait": sum(waits[1:]) / sum(steps[1:])}


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
        loader = open_loader(folder, "mixed" if CUDA else "cpu", threads, how)
        rows["training"] = train(loader, updates, given.small)
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
