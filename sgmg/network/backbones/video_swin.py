"""Video Swin: features of every frame of a clip, computed with the other frames in view."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from sgmg.network.backbones import swin_parts
from sgmg.network.backbones.body import BackboneBody

WINDOW = (8, 7, 7)  # frames, rows, columns of an attention window


class WindowAttention(ShiftedWindowAttention3d):
    """torchvision's 3-D window attention through PyTorch's fused kernel.

    On a CPU the backbone is 1.3 to 1.4 times as fast without gradients, and no slower with them
    (video_swin_t, 5x192x320).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [B, T, h, w, C] -> the same."""
        sides = x.shape[1:4]
        # A window is no larger than the clip, and one that covers a whole axis is not shifted.
        window = [min(side, limit) for side, limit in zip(sides, self.window_size, strict=True)]
        shift = [
            step if side > extent else 0
            for side, extent, step in zip(sides, window, self.shift_size, strict=True)
        ]
        time_padding, row_padding, column_padding = (
            -side % extent for side, extent in zip(sides, window, strict=True)
        )
        x = F.pad(x, (0, 0, 0, column_padding, 0, row_padding, 0, time_padding))
        padded_sides = x.shape[1:4]
        i, j, k = window
        t, h, w = (side // extent for side, extent in zip(padded_sides, window, strict=True))

        bias = self.get_relative_position_bias(window)
        if any(shift):
            x = x.roll([-step for step in shift], (1, 2, 3))
            regions = number_regions(padded_sides, shift, x.device)
            regions = rearrange(regions, "(t i) (h j) (w k) -> (t h w) 1 (i j k)", i=i, j=j, k=k)
            is_cut_off = regions[..., None] != regions[..., None, :]
            bias = bias + is_cut_off.to(bias.dtype) * swin_parts.MASKED_LOGIT

        x = rearrange(x, "b (t i) (h j) (w k) c -> b (t h w) (i j k) c", i=i, j=j, k=k)
        qkv = rearrange(self.qkv(x), "b n s (qkv m c) -> b qkv n m s c", qkv=3, m=self.num_heads)
        # The fused kernels take four dimensions (n m s c), so clips go one after another.
        attended = [F.scaled_dot_product_attention(q, k, v, bias) for q, k, v in qkv]
        x = self.proj(rearrange(torch.stack(attended), "b n m s c -> b n s (m c)"))
        x = rearrange(
            x, "b (t h w) (i j k) c -> b (t i) (h j) (w k) c", t=t, h=h, w=w, i=i, j=j, k=k
        )
        if any(shift):
            x = x.roll(shift, (1, 2, 3))
        return x[:, : sides[0], : sides[1], : sides[2]]


# Any, because torchvision does not say what it passes.
def fused_attention_block(*sizes: Any, **settings: Any) -> SwinTransformerBlock:
    """Build torchvision's block around `WindowAttention`.

    `partial(SwinTransformerBlock, attn_layer=WindowAttention)` would not do: the 3-D Swin of
    torchvision 0.29 passes an `attn_layer` of its own to every block, which would win.
    """
    settings["attn_layer"] = WindowAttention
    return SwinTransformerBlock(*sizes, **settings)


def number_regions(sides: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Number each cell of a shifted map by the axes along which the shift wrapped it around.

    Args:
        sides: Frames, rows and columns of the map.
        shift: Cells by which each axis was rolled back.
        device: Where to make the numbers.

    Returns:
        int64 [T, h, w] from 0 to 7. Cells of one window with different numbers were far apart
        before the shift and must not attend to each other.
    """
    in_time, in_rows, in_columns = (
        torch.arange(side, device=device) >= side - step
        for side, step in zip(sides, shift, strict=True)
    )
    return 4 * in_time[:, None, None] + 2 * in_rows[:, None] + in_columns


class VideoSwin(BackboneBody):
    """torchvision's 3-D Swin with a one-frame patch, read before each down-sampling, no norms."""

    def __init__(self, size: swin_parts.SwinSize, *, drop_path: float = 0.2) -> None:
        """Build the network with random weights.

        Args:
            size: Width, depths, heads.
            drop_path: Probability of skipping the last block in training; earlier ones less.
        """
        super().__init__()
        swin = SwinTransformer3d(
            patch_size=[1, 4, 4],
            embed_dim=size.width,
            depths=list(size.depths),
            num_heads=list(size.heads),
            window_size=list(WINDOW),
            stochastic_depth_prob=drop_path,
            num_classes=1,  # the classifier is thrown away
            block=fused_attention_block,
        )
        self.patch_embed = swin.patch_embed
        self.features = swin.features
        swin_parts.share_position_index(self)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Stages of strides 4, 8, 16, 32: [B, T, 3, H, W] -> four [B*T, C, h, w], h = ceil(H/s)."""
        x = self.patch_embed(rearrange(frames, "b t c h w -> b c t h w"))
        stages = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            # Stages have even numbers, the down-samplings between them odd ones.
            if index % 2 == 0:
                stages.append(rearrange(x, "b t h w c -> (b t) c h w"))
        return stages

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Every block of attention and perceptron."""
        return [module for module in self.modules() if isinstance(module, SwinTransformerBlock)]

    def published_name(self, name: str) -> str:
        """The published checkpoints' name of the `state_dict` entry `name`."""
        down_sampling = re.fullmatch(r"features\.([135])\.(\w.*)", name)
        if down_sampling is not None:
            stage = int(down_sampling[1]) // 2
            return f"downsamples.{stage}.{down_sampling[2]}"
        return swin_parts.published_block_name(name, first=0)

    def load_torchvision(self, weights: Mapping[str, Tensor]) -> None:
        """Take torchvision's Kinetics weights.

        Their patch spans two frames, ours one: its weights are summed over time, so that a still
        clip is embedded alike.

        Args:
            weights: `state_dict` of torchvision's classifier.
        """
        own_weights = drop_time_of_patch(swin_parts.drop_classifier(weights))
        self.load_state_dict(own_weights)


def drop_time_of_patch(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, those of the patch embedding summed over its frames."""
    name = "patch_embed.proj.weight"
    summed = reduce(weights[name], "o i t h w -> o i 1 h w", "sum")
    return {**weights, name: summed}
