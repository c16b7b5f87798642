"""Estimate what an update takes on a GPU, without one.

    python benchmarks/training_memory.py [BACKBONE ...]        # the table of docs/training.md

Counts the bytes that autograd keeps of forward passes of two small clips on the CPU, which grow
with the pixels in a line (not the same for stills: windows of attention reach over frames), and
follows that line to the size of training. To it come weights, gradients and AdamW's two numbers,
four bytes each. Scratch space of kernels, what a recomputed block takes for a moment,
fragmentation, DALI and CUDA itself (together 1 to 3 GiB) are not in it: it is an estimate, to be
checked by what `train.py` prints of its first step. The last line is JSON.
"""

import json
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sgmg import SgMg, SgMgConfig
from sgmg.network.outputs import QueryOutput
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import Tokens
from sgmg.training.memory import recompute_blocks

ROBERTA_BASE_PARAMETERS = 124_645_632  # they stand in for those of the small text model
TRAINED_BYTES = 4 * 4  # weight, gradient and AdamW's two averages, float32
FROZEN_BYTES = 4  # the weight alone
GIB = 2**30
SMALL_SIZES = ((160, 160), (160, 320))  # height and width of the clips that are measured
TOKENS = 12  # of an expression


@dataclass(frozen=True)
class Stage:
    """The largest clips of a stage of training.

    Attributes:
        frames: Frames of a clip.
        clips: Clips on one GPU.
        height: Largest height, pixels.
        width: Largest width, pixels.
        trains_text: Whether the text model trains, too.
    """

    frames: int
    clips: int
    height: int
    width: int
    trains_text: bool


STAGES = {
    "pretrain-refcoco": Stage(1, 2, 768, 800, trains_text=True),
    "ref-youtube-vos": Stage(5, 1, 512, 640, trains_text=False),
    "ref-youtube-vos-scratch, joint": Stage(5, 1, 512, 640, trains_text=True),
    "a2d-sentences": Stage(5, 2, 512, 640, trains_text=False),
}


@dataclass(frozen=True)
class Mode:
    """One column of the table."""

    recompute: bool
    bf16: bool

    @property
    def title(self) -> str:
        """Heading of the column."""
        precision = "bf16" if self.bf16 else "float32"
        return f"{precision}, recompute" if self.recompute else precision


MODES = (
    Mode(recompute=False, bf16=False),
    Mode(recompute=False, bf16=True),
    Mode(recompute=True, bf16=False),
    Mode(recompute=True, bf16=True),
)


@dataclass(frozen=True)
class MemoryLine:
    """What autograd keeps, as a straight line, and the size of the network.

    Attributes:
        constant: Bytes at no pixels.
        slope: Bytes a pixel of the clip.
        parameters: Parameters without those of the text model of full size.
    """

    constant: float
    slope: float
    parameters: int

    def gib(self, stage: Stage) -> float:
        """Memory of an update, GiB."""
        pixels = stage.frames * stage.clips * stage.height * stage.width
        activations = self.constant + self.slope * pixels
        weights = TRAINED_BYTES * self.parameters
        text_bytes = TRAINED_BYTES if stage.trains_text else FROZEN_BYTES
        weights += text_bytes * ROBERTA_BASE_PARAMETERS
        return (activations + weights) / GIB


def kept_bytes(model: SgMg, frames: int, size: tuple[int, int], *, bf16: bool) -> int:
    """Count what autograd keeps of a forward pass with one expression, parameters apart."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    activations: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            activations[address] = tensor  # alive, so that no later tensor gets the same address
        return tensor

    def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(inputs[0])

    def first_query(queries: QueryOutput) -> Tensor:
        return torch.zeros(len(queries.class_logits), dtype=torch.long)

    # The hooks of autograd do not see what a recomputed block is given.
    handles = [
        block.register_forward_pre_hook(keep_input) for block in model.backbone.recompute_blocks
    ]
    clip = torch.randn(1, frames, 3, *size)
    padding = torch.zeros(1, *size, dtype=torch.bool)
    tokens = Tokens(
        torch.ones(1, TOKENS, dtype=torch.long),
        torch.ones(1, TOKENS, dtype=torch.bool),
    )
    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        output = model(clip, padding, tokens, first_query)
    del output
    for handle in handles:
        handle.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in activations.values())


def measure(backbone: str, frames: int, mode: Mode) -> MemoryLine:
    """Draw the line through two small clips."""
    torch.manual_seed(0)
    config = SgMgConfig(backbone=backbone, text_model=None, text_config=tiny_text_config(100))
    model = SgMg(config).train()
    if mode.recompute:
        recompute_blocks(model.backbone)
    small_size, large_size = SMALL_SIZES
    small_bytes = kept_bytes(model, frames, small_size, bf16=mode.bf16)
    large_bytes = kept_bytes(model, frames, large_size, bf16=mode.bf16)
    small_pixels = frames * small_size[0] * small_size[1]
    large_pixels = frames * large_size[0] * large_size[1]
    slope = (large_bytes - small_bytes) / (large_pixels - small_pixels)
    return MemoryLine(
        constant=small_bytes - slope * small_pixels,
        slope=slope,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def main() -> None:
    """Print the table."""
    backbones = sys.argv[1:] or ("video_swin_t", "video_swin_b")
    print("| recipe, backbone | largest clip | " + " | ".join(mode.title for mode in MODES) + " |")
    print("|---|---|" + "---:|" * len(MODES))
    figures: dict[str, list[float]] = {}
    clip_lengths = {stage.frames for stage in STAGES.values()}
    for backbone in backbones:
        lines = {
            frames: [measure(backbone, frames, mode) for mode in MODES] for frames in clip_lengths
        }
        for name, stage in STAGES.items():
            row = [line.gib(stage) for line in lines[stage.frames]]
            figures[f"{name}, {backbone}"] = [round(gib, 1) for gib in row]
            size = f"{stage.clips} x {stage.frames} x {stage.height} x {stage.width}"
            cells = " | ".join(f"{gib:.1f}" for gib in row)
            print(f"| {name}, {backbone} | {size} | {cells} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
