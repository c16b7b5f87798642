"""Video Swin: features of every frame of a clip that looked at the other frames."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from sgmg.network.backbones.body import BackboneBody

WINDOW = (8, 7, 7)  # frames, rows, columns of an attention window
OUT_OF_REACH = -100.0  # added to the logits of pixels that must not attend to each other


@dataclass(frozen=True)
class SwinSize:
    """Width after the patch embedding (doubled by every stage), blocks and heads of each stage."""

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width

    def build(
        self, network: Any, patch: list[int], window: list[int], attention: Any, drop_path: float
    ) -> Any:
        """Torchvision's `network` of this size, with windows of `window` cells."""
        return network(
            patch_size=patch,
            embed_dim=self.width,
            depths=[*self.depths],
            num_heads=[*self.heads],
            window_size=window,
            stochastic_depth_prob=drop_path,
            num_classes=1,
            block=partial(SwinTransformerBlock, attn_layer=attention),
        )


SIZES = {
    "t": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "l": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


class WindowAttention(ShiftedWindowAttention3d):
    """torchvision's 3-D window attention through PyTorch's fused kernel, 1.3 times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [B, T, h, w, C] -> the same."""
        size = x.shape[1:4]
        window = [min(n, most) for n, most in zip(size, self.window_size, strict=True)]
        shift = [s if n > m else 0 for n, m, s in zip(size, window, self.shift_size, strict=True)]
        t, h, w = (-(-n // side) for n, side in zip(size, window, strict=True))
        cut = {"t": t, "h": h, "w": w, **dict(zip("ijk", window, strict=True))}
        x = F.pad(
            x, (0, 0, 0, -size[2] % window[2], 0, -size[1] % window[1], 0, -size[0] % window[0])
        )
        bias = self.get_relative_position_bias(window)
        if any(shift):
            x = x.roll([-s for s in shift], (1, 2, 3))
            sides = _sides(x.shape[1:4], shift, x.device)
            sides = rearrange(sides, "(t i) (h j) (w k) -> (t h w) 1 (i j k)", **cut)
            cut_off = sides[..., None] != sides[..., None, :]
            bias = bias + cut_off.to(bias.dtype) * OUT_OF_REACH
        x = rearrange(x, "b (t i) (h j) (w k) c -> b (t h w) (i j k) c", **cut)
        qkv = rearrange(self.qkv(x), "b n s (qkv m c) -> b qkv n m s c", qkv=3, m=self.num_heads)
        x = torch.stack([F.scaled_dot_product_attention(q, k, v, bias) for q, k, v in qkv])
        x = self.proj(rearrange(x, "b n m s c -> b n s (m c)"))
        x = rearrange(x, "b (t h w) (i j k) c -> b (t i) (h j) (w k) c", **cut)
        x = x.roll(shift, (1, 2, 3)) if any(shift) else x
        return x[:, : size[0], : size[1], : size[2]]


def _sides(size: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Number each cell of a shifted map by the axes along which the shift wrapped it around."""
    behind = [torch.arange(n, device=device) >= n - s for n, s in zip(size, shift, strict=True)]
    return 4 * behind[0][:, None, None] + 2 * behind[1][:, None] + behind[2]


class VideoSwin(BackboneBody):
    """torchvision's 3-D Swin with a one-frame patch, read before each down-sampling, no norms."""

    def __init__(self, size: SwinSize, *, drop_path: float = 0.2) -> None:
        """Build the network with random weights.

        Args:
            size: Width, depths, heads.
            drop_path: Probability of skipping the last block in training; earlier ones less.
        """
        super().__init__()
        swin = size.build(SwinTransformer3d, [1, 4, 4], [*WINDOW], WindowAttention, drop_path)
        self.patch_embed = swin.patch_embed
        self.features = swin.features
        share_position_index(self)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Stages of strides 4, 8, 16, 32: [B, T, 3, H, W] -> four [B*T, C, h, w], h = ceil(H/s)."""
        x = self.patch_embed(rearrange(frames, "b t c h w -> b c t h w"))
        stages = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2 == 0:
                stages.append(rearrange(x, "b t h w c -> (b t) c h w"))
        return stages

    def published_name(self, name: str) -> str:
        """The published checkpoints' name of the `state_dict` entry `name`."""
        if merging := re.fullmatch(r"features\.([135])\.(\w.*)", name):
            return f"downsamples.{int(merging[1]) // 2}.{merging[2]}"
        return published_block(name, first=0)

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Every block of attention and perceptron."""
        return [module for module in self.modules() if isinstance(module, SwinTransformerBlock)]

    def load_torchvision(self, weights: Mapping[str, Tensor]) -> None:
        """Take torchvision's Kinetics weights, the patch summed over time: stills embed alike."""
        kept = without_classifier(weights)
        patch = reduce(kept["patch_embed.proj.weight"], "o i t h w -> o i 1 h w", "sum")
        self.load_state_dict(kept | {"patch_embed.proj.weight": patch})


def published_block(name: str, *, first: int) -> str:
    """Rename an entry of a torchvision Swin block; other names stay.

    Args:
        name: `features.<2i + first>.<j>.<rest>` for block j of stage i.
        first: Index of the first stage in `features`.

    Returns:
        `layers.<i>.blocks.<j>.<rest>` with `mlp.fc1`, `mlp.fc2`.
    """
    block = re.fullmatch(r"features\.(\d+)\.(\d+)\.(.+)", name)
    if not block:
        return name
    rest = block[3].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return f"layers.{(int(block[1]) - first) // 2}.blocks.{block[2]}.{rest}"


def share_position_index(swin: nn.Module) -> None:
    """Keep one table of relative positions for all blocks, and keep it out of checkpoints.

    Args:
        swin: A torchvision Swin, whose windows all have one size.
    """
    name, shared = "relative_position_index", None
    for module in swin.modules():
        if name in module._buffers:
            shared = module._buffers[name] if shared is None else shared
            module.register_buffer(name, shared, persistent=False)


def without_classifier(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a `state_dict` of torchvision's Swin tells of its blocks, tables of positions apart."""
    return {
        name: value
        for name, value in weights.items()
        if name.startswith(("patch_embed.", "features.")) and not name.endswith("position_index")
    }
