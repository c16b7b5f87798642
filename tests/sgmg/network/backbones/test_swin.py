import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import shifted_window_attention

from sgmg.network.backbones.swin import KeptShiftAttention

WINDOW = 7
SHIFT = 3


@pytest.mark.parametrize("size", [(7, 7), (5, 7), (7, 20), (20, 4), (9, 13)])
def test_shift_is_kept_on_small_maps(size: tuple[int, int]) -> None:
    """The mask must equal moving the pixels, which torchvision does on any map but small ones."""
    torch.manual_seed(0)
    attention = KeptShiftAttention(8, [WINDOW, WINDOW], [SHIFT, SHIFT], 2).eval()
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *size, 8)
    torch.testing.assert_close(attention(x), shift_by_hand(attention, x))


def shift_by_hand(attention: KeptShiftAttention, x: Tensor) -> Tensor:
    """Roll, attend in each window between pixels of one region, roll back; per window, slowly."""
    clips, height, width, channels = x.shape
    padded_height = math.ceil(height / WINDOW) * WINDOW
    padded_width = math.ceil(width / WINDOW) * WINDOW
    padded = torch.zeros(clips, padded_height, padded_width, channels)
    padded[:, :height, :width] = x
    padded = padded.roll((-SHIFT, -SHIFT), (1, 2))

    regions = number_regions(padded_height)[:, None] * 3 + number_regions(padded_width)
    bias = attention.get_relative_position_bias()
    attended = torch.empty_like(padded)
    for top in range(0, padded_height, WINDOW):
        for left in range(0, padded_width, WINDOW):
            rows = slice(top, top + WINDOW)
            columns = slice(left, left + WINDOW)
            region = regions[rows, columns].flatten()
            mask = (region[:, None] != region) * -100.0
            attended[:, rows, columns] = shifted_window_attention(
                padded[:, rows, columns],
                attention.qkv.weight,
                attention.proj.weight,
                bias + mask,
                [WINDOW, WINDOW],
                2,
                [0, 0],
                qkv_bias=attention.qkv.bias,
                proj_bias=attention.proj.bias,
            )
    return attended.roll((SHIFT, SHIFT), (1, 2))[:, :height, :width]


def number_regions(length: int) -> Tensor:
    """Along one axis: 0 before the last window, 1 in it, 2 where the shift wrapped around."""
    index = torch.arange(length)
    return (index >= length - WINDOW).int() + (index >= length - SHIFT).int()
