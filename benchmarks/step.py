"""What training through `sgmg.training.update` costs over a plain loop, and what recomputing saves.

    python benchmarks/step.py                   # Video-Swin-T, clips of 3x160x256 on the CPU
    python benchmarks/step.py --small           # in seconds: checks this program

Steps of both loops take turns (A B B A ...) on equal networks and clips; the plain loop has no
Accelerate, no norms by part, no check of gradients. `overhead` is the median over the pairs of the
share that ours takes longer. Memory is the peak that one step adds, with and without recomputing
in processes of their own: `checkpointing_memory_ratio` is that with `--recompute` over that
without. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from sgmg import SgMg, SgMgConfig
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer
from sgmg.training.losses import Criterion
from sgmg.training.matcher import Matcher
from sgmg.training.memory import recompute_blocks
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.targets import Targets
from sgmg.training.update import (
    MicroBatch,
    accumulate_gradients,
    average_over_processes,
    step_optimizer,
)

EXPRESSIONS = ["the person on the left", "a brown dog that runs"]
CLIP_NORM = 0.1
PROCESS_TIMEOUT_S = 300

Step = Callable[[MicroBatch], None]


def build_network() -> SgMg:
    """Build a network of published sizes but for a small text model."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(EXPRESSIONS)
    text_config = tiny_text_config(len(tokenizer))
    config = SgMgConfig(text_model=None, text_config=text_config)
    return SgMg(config, tokenizer=tokenizer).train()


def build_optimizer(model: SgMg) -> torch.optim.Optimizer:
    """AdamW at the published rates."""
    groups = parameter_groups(model, lr=1e-4, backbone_lr=5e-5, text_lr=1e-5, weight_decay=5e-4)
    return torch.optim.AdamW(groups, fused=True)


def make_clip(small: bool) -> MicroBatch:
    """One clip with a random object."""
    frames, height, width = (1, 136, 136) if small else (3, 160, 256)
    generator = torch.Generator().manual_seed(0)
    targets = Targets(
        masks=torch.rand(1, frames, height, width, generator=generator) > 0.6,
        boxes_cxcywh=torch.full((1, frames, 4), 0.4),
        visible=torch.ones(1, frames, dtype=torch.bool),
    )
    return MicroBatch(
        frames=torch.randn(1, frames, 3, height, width, generator=generator),
        padding=torch.zeros(1, height, width, dtype=torch.bool),
        expressions=EXPRESSIONS[:1],
        targets=targets,
        clip_index=torch.zeros(1, dtype=torch.long),
    )


def our_step(network: SgMg) -> Step:
    """A step as `train.py` does it."""
    accelerator = Accelerator(cpu=True)
    plain_optimizer = build_optimizer(network)
    schedule = make_schedule(plain_optimizer)
    model, optimizer = accelerator.prepare(network, plain_optimizer)

    def step(clip: MicroBatch) -> None:
        terms, _ = accumulate_gradients(accelerator, model, [clip])
        norms = step_optimizer(accelerator, model, optimizer, schedule, clip_norm=CLIP_NORM)
        average_over_processes(accelerator, terms | norms)

    return step


def plain_step(model: SgMg) -> Step:
    """The same without Accelerate."""
    optimizer = build_optimizer(model)
    matcher = Matcher()
    criterion = Criterion()

    def step(clip: MicroBatch) -> None:
        outputs = model(
            clip.frames,
            clip.padding,
            clip.expressions,
            partial(matcher, targets=clip.targets),
            clip_index=clip.clip_index,
        )
        num_visible = clip.targets.visible.sum().clamp(min=1)
        terms = criterion(outputs, clip.targets, num_visible)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        # A log needs the numbers: reading them is part of the step.
        for term in terms.values():
            term.item()

    return step


def seconds_of(step: Step, clip: MicroBatch) -> float:
    """Time one step."""
    begin = time.perf_counter()
    step(clip)
    return time.perf_counter() - begin


def measure_overhead(clip: MicroBatch, pairs: int) -> tuple[float, float, float]:
    """Median seconds of our step and the plain one, and median share that ours takes longer."""
    ours = our_step(build_network())
    plain = plain_step(build_network())
    # The first step of each allocates what the later ones reuse.
    ours(clip)
    plain(clip)
    our_seconds = []
    plain_seconds = []
    for pair in range(pairs):
        if pair % 2:
            our_seconds.append(seconds_of(ours, clip))
            plain_seconds.append(seconds_of(plain, clip))
        else:
            plain_seconds.append(seconds_of(plain, clip))
            our_seconds.append(seconds_of(ours, clip))
    overheads = [
        our_time / plain_time - 1
        for our_time, plain_time in zip(our_seconds, plain_seconds, strict=True)
    ]
    return (
        statistics.median(our_seconds),
        statistics.median(plain_seconds),
        statistics.median(overheads),
    )


def measure_added_memory(
    small: bool, recompute: bool, queue: "multiprocessing.Queue[float]"
) -> None:
    """Put into a queue what forward and backward add to what the network holds, in MB."""
    torch.set_num_threads(1)
    model = build_network()
    clip = make_clip(small)
    # Gradients take their memory before the measurement, whatever the activations do.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if recompute:
        recompute_blocks(model.backbone)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak (VmHWM) starts anew
    before_mb = process_memory_mb("VmRSS")
    accumulate_gradients(Accelerator(cpu=True), model, [clip])
    queue.put(process_memory_mb("VmHWM") - before_mb)


def process_memory_mb(name: str) -> float:
    """Read a line of the kernel's status of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1e3
    raise ValueError(f"/proc/self/status has no {name}: this needs Linux")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="one small frame, few steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = 2 if options.small else options.pairs
    our_seconds, plain_seconds, overhead = measure_overhead(make_clip(options.small), pairs)
    print(f"a step: ours {our_seconds:.3f} s, plain {plain_seconds:.3f} s, ours {overhead:+.2%}")

    spawner = multiprocessing.get_context("spawn")
    added_mb = {}
    for recompute in (False, True):
        queue = spawner.Queue()
        process = spawner.Process(
            target=measure_added_memory, args=(options.small, recompute, queue)
        )
        process.start()
        added_mb[recompute] = queue.get(timeout=PROCESS_TIMEOUT_S)
        process.join()
        print(f"recompute {recompute}: a step adds {added_mb[recompute]:.0f} MB")
    figures = {
        "overhead": round(overhead, 4),
        "checkpointing_memory_ratio": round(added_mb[True] / added_mb[False], 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
