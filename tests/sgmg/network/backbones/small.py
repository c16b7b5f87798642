"""Swin sizes and inputs that make a test of a backbone quick."""

import torch
from torch import Tensor

from sgmg.network.backbones.swin_parts import SwinSize

SMALL_SWIN = SwinSize(16, (2, 2, 2, 2), (1, 2, 4, 8))


def random_input(*size: int) -> Tensor:
    """Always the same normal numbers of this size."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))
