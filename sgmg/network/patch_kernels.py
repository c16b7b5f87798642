"""Conditional patch kernels (CPK): the dynamic convolution that makes a query's mask."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sgmg.network.heads import Perceptron

PATCH = 4  # a mask cell holds PATCH x PATCH pixels in its channels
CELL_STRIDE = 8  # pixels between mask cells


class PatchKernels(nn.Module):
    """Two 1x1 convolutions a query, predicted from it, that draw patch masks of 4x4 pixels a cell.

    Paper: "conditional patch kernels".
    """

    def __init__(self, hidden: int, mask_channels: int, *, coordinate_scale: float = 1.0) -> None:
        """Build the kernel predictor.

        Args:
            hidden: channels C of a query and of the mask features.
            mask_channels: channels of the drawn map.
            coordinate_scale: factor on the pixel coordinates beside the features, published as 1.
        """
        super().__init__()
        self.coordinate_scale = coordinate_scale
        inputs = hidden + 2
        self.sizes = [mask_channels * inputs, mask_channels**2, mask_channels, mask_channels]
        self.controller = Perceptron(hidden, hidden, hidden, sum(self.sizes))
        for layer in self.controller.matrices():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Kernels of queries: [..., C] to [..., P]."""
        return self.controller(states)

    def convolve(self, kernels: Tensor, features: Tensor, centres_px: Tensor) -> Tensor:
        """Apply every query's kernel to its frame, in float32 (coordinates are in pixels).

        Args:
            kernels: [N, Q, P].
            features: mask features at stride 8, [N, C, h, w].
            centres_px: reference points (x, y) of the queries in pixels, [N, Q, 2].

        Returns:
            Patch maps [N, Q, 16, h, w].
        """
        height, width = features.shape[-2:]
        with torch.autocast(features.device.type, enabled=False):
            first, second, first_bias, second_bias = kernels.float().split(self.sizes, -1)
            first = rearrange(first, "n q (o i) -> n q o i", o=self.sizes[-1])
            second = rearrange(second, "n q (o i) -> n q o i", o=self.sizes[-1])
            away = centres_px.float()[:, :, None] - cell_centres(height, width, features.device)
            away = away * self.coordinate_scale
            x = torch.einsum(
                "n q o i, n i p -> n q o p", first[..., :-2], features.flatten(2).float()
            )
            x = x + torch.einsum("n q o i, n q p i -> n q o p", first[..., -2:], away)
            x = F.relu(x + first_bias[..., None])
            x = second @ x + second_bias[..., None]
        return rearrange(x, "n q o (h w) -> n q o h w", h=height)


def cell_centres(height: int, width: int, device: torch.device) -> Tensor:
    """Pixel coordinates (x, y) of the cells of a stride-8 map, [height * width, 2]."""
    x = torch.arange(width, device=device) * CELL_STRIDE + CELL_STRIDE // 2
    y = torch.arange(height, device=device) * CELL_STRIDE + CELL_STRIDE // 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1).float()
