"""Estimate what an update takes on a GPU, without one.

    python benchmarks/training_memory.py        # the table of docs/training.md

Counts the bytes that autograd keeps of forward passes of two small clips on the CPU, which grow
with the pixels in a line (not the same for stills: windows of attention reach over frames), and
follows that line to the size of training. To it come weights,
gradients and AdamW's two numbers, four bytes each. Scratch space of kernels, what a recomputed
block takes for a moment, fragmentation, DALI and CUDA itself (together 1 to 3 GiB) are not in it:
it is an estimate, to be checked by what `train.py` prints of its first step.
The last line is JSON.
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sgmg import SgMg, SgMgConfig
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import Tokens
from sgmg.training.memory import recompute_blocks

TEXT = 124_645_632  # parameters of RoBERTa base, in place of a small text model
SIZES = ((160, 160), (160, 320))
STAGES = {  # frames, clips of a GPU, largest height and width, text trained
    "pretrain-refcoco": (1, 2, 768, 800, True),
    "ref-youtube-vos": (5, 1, 512, 640, False),
    "ref-youtube-vos-scratch, joint": (5, 1, 512, 640, True),
    "a2d-sentences": (5, 2, 512, 640, False),
}


def kept_bytes(model: SgMg, size: tuple[int, int, int], *, autocast: bool) -> int:
    """What autograd keeps of a forward pass with one expression, parameters apart."""
    frames, height, width = size
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that none comes twice
        return tensor

    def block_input(_module: nn.Module, given: Any) -> None:
        pack(given[0])

    hooks = [
        block.register_forward_pre_hook(block_input) for block in model.backbone.recompute_blocks
    ]
    pixels, padding = torch.randn(1, frames, 3, height, width), torch.zeros(1, height, width)
    tokens = Tokens(torch.ones(1, 12, dtype=torch.long), torch.ones(1, 12, dtype=torch.bool))
    with saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, autocast):
        output = model(pixels, padding.bool(), tokens, lambda _: torch.zeros(1, dtype=torch.long))
    del output
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def line(
    backbone: str, frames: int, *, recompute: bool, autocast: bool
) -> tuple[float, float, int]:
    """Bytes at no pixels, bytes a pixel, and parameters without text."""
    torch.manual_seed(0)
    config = SgMgConfig(backbone=backbone, text_model=None, text_config=tiny_text_config(100))
    model = SgMg(config).train()
    if recompute:
        recompute_blocks(model.backbone)
    found = [kept_bytes(model, (frames, *size), autocast=autocast) for size in SIZES]
    small, large = (frames * h * w for h, w in SIZES)
    slope = (found[1] - found[0]) / (large - small)
    return found[0] - slope * small, slope, sum(p.numel() for p in model.parameters())


def main() -> None:
    """Print the table."""
    ways = [(r, a) for r in (False, True) for a in (False, True)]
    names = ["float32", "bf16", "float32, recompute", "bf16, recompute"]
    print("| recipe, backbone | largest clip | " + " | ".join(names) + " |")
    print("|---|---|" + "---:|" * len(names))
    figures: dict[str, list[float]] = {}
    for backbone in sys.argv[1:] or ("video_swin_t", "video_swin_b"):
        lines = {
            frames: [line(backbone, frames, recompute=r, autocast=a) for r, a in ways]
            for frames in {frames for frames, *_ in STAGES.values()}
        }
        for stage, (frames, clips, height, width, text) in STAGES.items():
            row = []
            for start, slope, parameters in lines[frames]:
                weights = 16 * (parameters + TEXT * text) + 4 * TEXT * (not text)
                row.append((start + slope * frames * clips * height * width + weights) / 2**30)
            figures[f"{stage}, {backbone}"] = [round(it, 1) for it in row]
            cells = " | ".join(f"{it:.1f}" for it in row)
            print(f"| {stage}, {backbone} | {clips} x {frames} x {height} x {width} | {cells} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
