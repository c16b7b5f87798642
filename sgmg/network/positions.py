"""Sine positions of words and of pixels, and padding masks at the size of a feature map."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

TEMPERATURE = 10_000.0  # ratio of the longest to the shortest wave: Attention Is All You Need
EPSILON = 1e-6  # against a division by zero where all is padding, as in DETR


def sine_position_1d(padding: Tensor, channels: int) -> Tensor:
    """Sine position of every word, counted over the words that are not padding.

    Args:
        padding: [E, L] bool, True = pad.
        channels: Even.

    Returns:
        [E, L, channels] float32. The last word of an expression is at 2 pi.
    """
    count = (~padding).cumsum(1, dtype=torch.float32)
    angle = count / (count[:, -1:] + EPSILON) * 2 * math.pi
    return sine_waves(angle, channels)


def sine_position_2d(padding: Tensor, channels: int) -> Tensor:
    """Sine position of every pixel of the frame that is not padding, centres of the pixels.

    Args:
        padding: [N, h, w] bool, True = pad.
        channels: Multiple of 4; the first half encodes the row, the second the column.

    Returns:
        [N, channels, h, w] float32.
    """
    inside = ~padding
    # Counting unpadded cells numbers rows and columns from 1, so 0.5 less is the cell's centre.
    axis_waves = []
    for axis in (1, 2):
        count = inside.cumsum(axis, dtype=torch.float32)
        size = count.select(axis, -1).unsqueeze(axis)
        angle = (count - 0.5) / (size + EPSILON) * 2 * math.pi
        axis_waves.append(sine_waves(angle, channels // 2))
    return rearrange(torch.cat(axis_waves, -1), "n h w c -> n c h w")


def resize_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """Padding of a feature map of `size` (h, w): nearest pixel of [N, H, W] bool -> [N, h, w]."""
    return F.interpolate(padding[:, None].float(), size=size, mode="nearest")[:, 0].bool()


def sine_waves(position: Tensor, channels: int) -> Tensor:
    """Sines and cosines of falling frequency, interleaved: [...] in radians -> [..., channels]."""
    pairs = torch.arange(channels // 2, device=position.device, dtype=torch.float32)
    angle = position[..., None] / TEMPERATURE ** (2 * pairs / channels)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
