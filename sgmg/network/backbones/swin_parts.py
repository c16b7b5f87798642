"""Sizes, names and tables that Video Swin and Swin on single frames have in common."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sgmg.network.backbones.body import Channels

# Added to the attention logits of pixels that must not attend to each other: the value of the
# published Swin and of torchvision. Minus infinity would give other numbers.
MASKED_LOGIT = -100.0

POSITION_INDEX = "relative_position_index"  # torchvision's buffer of each window attention


@dataclass(frozen=True)
class SwinSize:
    """Size of a Swin.

    Attributes:
        width: Channels after the patch embedding; every later stage doubles them.
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
    """

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]

    @property
    def channels(self) -> Channels:
        """Channels of the four stages."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


# Liu et al., Swin Transformer, section 3.3: Swin-T, -S, -B and -L.
SIZES = {
    "t": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "l": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def published_block_name(name: str, *, first: int) -> str:
    """Rename an entry of a torchvision Swin block; other names stay.

    Args:
        name: `features.<2i + first>.<j>.<entry>` for block j of stage i.
        first: Index of the first stage in `features`.

    Returns:
        `layers.<i>.blocks.<j>.<entry>`, with `mlp.fc1` and `mlp.fc2` for torchvision's `mlp.0` and
        `mlp.3`.
    """
    match = re.fullmatch(r"features\.(\d+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    # Stages and down-samplings alternate in `features`, so every second entry is a stage.
    stage = (int(match[1]) - first) // 2
    entry = match[3].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return f"layers.{stage}.blocks.{match[2]}.{entry}"


def share_position_index(swin: nn.Module) -> None:
    """Keep one table of relative positions for all blocks, and keep it out of checkpoints.

    Args:
        swin: A torchvision Swin, whose windows all have one size.
    """
    shared_index: Tensor | None = None
    for module in swin.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if POSITION_INDEX not in buffers:
            continue
        if shared_index is None:
            shared_index = buffers[POSITION_INDEX]
        # Registered again: torchvision 0.29 makes the buffer persistent, published files lack it.
        module.register_buffer(POSITION_INDEX, shared_index, persistent=False)


def drop_classifier(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of a torchvision Swin's `state_dict` that belong to embedding and blocks."""
    return {
        name: value
        for name, value in weights.items()
        if name.startswith(("patch_embed.", "features.")) and not name.endswith(POSITION_INDEX)
    }
