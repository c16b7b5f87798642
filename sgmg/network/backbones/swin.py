"""Swin on single frames: no frame knows of another."""

import re
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.models import swin_transformer

from sgmg.network.backbones import swin_parts
from sgmg.network.backbones.body import STRIDES, BackboneBody

PATCH_PX = STRIDES[0]  # side of an embedded patch


class KeptShiftAttention(swin_transformer.ShiftedWindowAttention):
    """Window attention that keeps its shift where one window covers the whole map.

    torchvision drops the shift there. Shifting within a single window only forbids attention
    between the pixels before and behind the cut, which a mask says without moving anything.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows: [N, h, w, C] -> the same."""
        bias = self.get_relative_position_bias()
        for axis, (window, shift) in enumerate(zip(self.window_size, self.shift_size, strict=True)):
            side = x.shape[1 + axis]
            if shift and side <= window:
                bias = bias + self._cut_mask(axis, window, shift, bias)
        return swin_transformer.shifted_window_attention(
            x,
            self.qkv.weight,
            self.proj.weight,
            bias,
            self.window_size,
            self.num_heads,
            shift_size=self.shift_size,
            qkv_bias=self.qkv.bias,
            proj_bias=self.proj.bias,
            training=self.training,
        )

    def _cut_mask(self, axis: int, window: int, shift: int, like: Tensor) -> Tensor:
        """Mask [window^2, window^2] between pixels on different sides of the cut."""
        is_behind = torch.arange(window, device=like.device) >= shift
        shape = (window, 1) if axis == 0 else (1, window)
        side = is_behind.reshape(shape).expand(*self.window_size).flatten()
        return (side[:, None] != side).to(like.dtype) * swin_parts.MASKED_LOGIT


class Swin(BackboneBody):
    """torchvision's Swin on single frames, with a norm on each of the four maps."""

    def __init__(self, size: swin_parts.SwinSize, *, drop_path: float = 0.2) -> None:
        """Build the network with random weights.

        Args:
            size: Width, depths, heads.
            drop_path: Probability of skipping the last block in training; earlier ones less.
        """
        super().__init__()
        swin = swin_transformer.SwinTransformer(
            patch_size=[PATCH_PX, PATCH_PX],
            embed_dim=size.width,
            depths=list(size.depths),
            num_heads=list(size.heads),
            window_size=[7, 7],
            stochastic_depth_prob=drop_path,
            num_classes=1,  # the classifier is thrown away
            block=partial(swin_transformer.SwinTransformerBlock, attn_layer=KeptShiftAttention),
        )
        self.features = swin.features
        for stage, width in enumerate(size.channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(width))
        swin_parts.share_position_index(self)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Normalised stages of strides 4 to 32: [B, T, 3, H, W] -> four [B*T, C, h, w]."""
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        # torchvision 0.29 pads before each window and each merging, but cuts incomplete patches.
        x = F.pad(x, (0, -x.shape[-1] % PATCH_PX, 0, -x.shape[-2] % PATCH_PX))
        stages = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            # Entry 0 embeds the patches; stages have odd numbers, the mergings between even ones.
            if index % 2 == 1:
                norm = self.get_submodule(f"norm{index // 2}")
                stages.append(rearrange(norm(x), "n h w c -> n c h w"))
        return stages

    @property
    def recompute_blocks(self) -> list[nn.Module]:
        """Every block of attention and perceptron."""
        block_class = swin_transformer.SwinTransformerBlock
        return [module for module in self.modules() if isinstance(module, block_class)]

    def published_name(self, name: str) -> str:
        """The published checkpoints' name of the `state_dict` entry `name`."""
        embedding = re.fullmatch(r"features\.0\.([02])\.(.+)", name)
        if embedding is not None:
            part = "proj" if embedding[1] == "0" else "norm"
            return f"patch_embed.{part}.{embedding[2]}"
        merging = re.fullmatch(r"features\.([246])\.([a-z].*)", name)
        if merging is not None:
            stage = int(merging[1]) // 2 - 1
            return f"layers.{stage}.downsample.{merging[2]}"
        return swin_parts.published_block_name(name, first=1)

    def load_torchvision(self, weights: Mapping[str, Tensor]) -> None:
        """Take torchvision's ImageNet weights; the four norms, which it lacks, keep theirs.

        Args:
            weights: `state_dict` of torchvision's classifier.
        """
        norms = {
            name: value for name, value in self.state_dict().items() if name.startswith("norm")
        }
        self.load_state_dict({**norms, **swin_parts.drop_classifier(weights)})
