"""Sine positions of words and of pixels, and padding masks at the size of a feature map."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_TEMPERATURE = 10_000.0
_EPSILON = 1e-6


def _waves(position: Tensor, channels: int) -> Tensor:
    """Sines and cosines of falling frequency, interleaved: [...] in radians -> [..., channels]."""
    pairs = torch.arange(channels // 2, device=position.device, dtype=torch.float32)
    angle = position[..., None] / _TEMPERATURE ** (2 * pairs / channels)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def sine_position_1d(padding: Tensor, channels: int) -> Tensor:
    """Sine position of every word, counted over the words that are not padding.

    Args:
        padding: [E, L] bool, True = pad.
        channels: even.

    Returns:
        [E, L, channels] float32. The last word of an expression is at 2 pi.
    """
    count = (~padding).cumsum(1, dtype=torch.float32)
    return _waves(count / (count[:, -1:] + _EPSILON) * 2 * math.pi, channels)


def sine_position_2d(padding: Tensor, channels: int) -> Tensor:
    """Sine position of every pixel of the frame that is not padding, centres of the pixels.

    Args:
        padding: [N, h, w] bool, True = pad.
        channels: multiple of 4; the first half tells the row, the second the column.

    Returns:
        [N, channels, h, w] float32.
    """
    inside = ~padding
    sides = []
    for axis in (1, 2):
        count = inside.cumsum(axis, dtype=torch.float32)
        size = count.select(axis, -1).unsqueeze(axis)
        sides.append(_waves((count - 0.5) / (size + _EPSILON) * 2 * math.pi, channels // 2))
    return rearrange(torch.cat(sides, -1), "n h w c -> n c h w")


def resize_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """Padding of a feature map of `size` (h, w): nearest pixel of [N, H, W] bool -> [N, h, w]."""
    return F.interpolate(padding[:, None].float(), size=size, mode="nearest")[:, 0].bool()
