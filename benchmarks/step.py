"""What training through `sgmg.training.update` costs over a plain loop, and what recomputing saves.

    python benchmarks/step.py                   # Video-Swin-T, clips of 3x160x256 on the CPU
    python benchmarks/step.py --small           # in seconds: checks this program

Steps of both loops take turns (A B B A ...) on equal networks and clips; the plain loop has no
Accelerate, no norms by part, no check of gradients. `overhead` is the median over the pairs of the
share that ours takes longer. Memory is the peak that one step adds, each way in a process of its
own: `checkpointing_memory_ratio` is that with `--recompute` over that without. The last line is
JSON.
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
from sgmg.training.matcher import Matcher, Targets
from sgmg.training.memory import recompute_blocks
from sgmg.training.optim import make_schedule, parameter_groups
from sgmg.training.update import Share, Update

WORDS = ["the person on the left", "a brown dog that runs"]
RATES = {"lr": 1e-4, "backbone_lr": 5e-5, "text_lr": 1e-5, "weight_decay": 5e-4}


def network() -> SgMg:
    """Published sizes but for a small text model."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS)
    text = tiny_text_config(len(tokenizer))
    return SgMg(SgMgConfig(text_model=None, text_config=text), tokenizer=tokenizer).train()


def clip(small: bool) -> Share:
    """One clip with a random object."""
    frames, height, width = (1, 136, 136) if small else (3, 160, 256)
    generator = torch.Generator().manual_seed(0)
    visible = torch.ones(1, frames, dtype=torch.bool)
    masks = torch.rand(1, frames, height, width, generator=generator) > 0.6
    targets = Targets(masks, torch.full((1, frames, 4), 0.4), visible)
    pixels = torch.randn(1, frames, 3, height, width, generator=generator)
    padding = torch.zeros(1, height, width, dtype=torch.bool)
    return Share(pixels, padding, WORDS[:1], targets, torch.zeros(1, dtype=torch.long))


def ours(model: SgMg) -> Callable[[Share], None]:
    """A step as `train.py` does it."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(parameter_groups(model, **RATES), fused=True)
    schedule = make_schedule(optimizer)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    update = Update(accelerator, prepared, optimizer, schedule, clip_norm=0.1)
    return lambda share: update([share]) and None


def plain(model: SgMg) -> Callable[[Share], None]:
    """The same without Accelerate."""
    optimizer = torch.optim.AdamW(parameter_groups(model, **RATES), fused=True)
    matcher, criterion = Matcher(), Criterion()

    def step(share: Share) -> None:
        select = partial(matcher, targets=share.targets)
        index = share.clip_index
        outputs = model(share.frames, share.padding, share.expressions, select, clip_index=index)
        terms = criterion(outputs, share.targets, share.targets.visible.sum().clamp(min=1))
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        {name: float(term.detach()) for name, term in terms.items()}

    return step


def seconds(step: Callable[[Share], None], share: Share) -> float:
    """Of one step."""
    begin = time.perf_counter()
    step(share)
    return time.perf_counter() - begin


def overhead(share: Share, pairs: int) -> tuple[float, float, float]:
    """Medians of both, in seconds, and of the share that ours takes longer."""
    ways = ours(network()), plain(network())
    for step in ways:
        step(share)
    times: list[list[float]] = [[], []]
    for pair in range(pairs):
        for way in (0, 1) if pair % 2 else (1, 0):
            times[way].append(seconds(ways[way], share))
    ratios = [a / b - 1 for a, b in zip(*times, strict=True)]
    return *map(statistics.median, times), statistics.median(ratios)


def added_memory(small: bool, recompute: bool, queue: "multiprocessing.Queue[float]") -> None:
    """Peak that forward and backward add to what the network holds, in MB."""
    torch.set_num_threads(1)
    model, share = network(), clip(small)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # there whatever the activations do
    if recompute:
        recompute_blocks(model.backbone)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    update = Update(Accelerator(cpu=True), model, None, None, clip_norm=1.0)  # type: ignore[arg-type]
    update.gradients([share])
    queue.put(memory("VmHWM") - before)


def memory(name: str) -> float:
    """A line of the kernel's status of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="one small frame, few steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = 2 if given.small else given.pairs
    with_ours, without, more = overhead(clip(given.small), pairs)
    print(f"a step: ours {with_ours:.3f} s, plain {without:.3f} s, ours {more:+.2%}")
    spawner, added = multiprocessing.get_context("spawn"), []
    for recompute in (False, True):
        queue = spawner.Queue()
        process = spawner.Process(target=added_memory, args=(given.small, recompute, queue))
        process.start()
        added.append(queue.get(timeout=300))
        process.join()
        print(f"recompute {recompute}: a step adds {added[-1]:.0f} MB")
    ratio = added[1] / added[0]
    print(json.dumps({"overhead": round(more, 4), "checkpointing_memory_ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
