"""Conditional patch kernels (CPK): the dynamic convolution that makes a query's mask."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sgmg.network.heads import Perceptron

PATCH_PX = 4  # a mask cell holds PATCH_PX x PATCH_PX pixels in its channels
CELL_STRIDE_PX = 8  # pixels between mask cells


class PatchKernels(nn.Module):
    """Two 1x1 convolutions a query, predicted from it, whose output is a patch mask.

    A patch mask holds in each stride-8 cell the logits of 4x4 pixels, as channels.

    Paper: "conditional patch kernels".
    """

    def __init__(self, hidden: int, mask_channels: int, *, coordinate_scale: float = 1.0) -> None:
        """Build the kernel predictor.

        Args:
            hidden: Channels C of a query and of the mask features.
            mask_channels: Channels of the patch mask.
            coordinate_scale: Factor on the pixel coordinates beside the features, published as 1.
        """
        super().__init__()
        self.coordinate_scale = coordinate_scale
        self.mask_channels = mask_channels
        inputs = hidden + 2  # features and the coordinates x and y
        # In the order of the published checkpoints: two matrices, then two biases.
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
            features: Mask features at stride 8, [N, C, h, w].
            centres_px: Reference points (x, y) of the queries in pixels, [N, Q, 2].

        Returns:
            Patch masks [N, Q, 16, h, w].

        Paper: "conditional patch kernels".
        """
        height, width = features.shape[-2:]
        # bfloat16 would round a coordinate of 600 to the next multiple of 4.
        with torch.autocast(features.device.type, enabled=False):
            first, second, first_bias, second_bias = kernels.float().split(self.sizes, -1)
            first = rearrange(first, "n q (o i) -> n q o i", o=self.mask_channels)
            second = rearrange(second, "n q (o i) -> n q o i", o=self.mask_channels)
            cells_px = cell_centres_px(height, width, features.device)
            offsets = centres_px.float()[:, :, None] - cells_px
            offsets = offsets * self.coordinate_scale
            # The features are those of the frame, the offsets differ from query to query: two
            # products spare a copy of the features for each query.
            x = torch.einsum(
                "n q o i, n i p -> n q o p", first[..., :-2], features.flatten(2).float()
            )
            x = x + torch.einsum("n q o i, n q p i -> n q o p", first[..., -2:], offsets)
            x = F.relu(x + first_bias[..., None])
            x = second @ x + second_bias[..., None]
        return rearrange(x, "n q o (h w) -> n q o h w", h=height)


def cell_centres_px(height: int, width: int, device: torch.device) -> Tensor:
    """Pixel coordinates (x, y) of the cells of a stride-8 map, [height * width, 2]."""
    x = torch.arange(width, device=device) * CELL_STRIDE_PX + CELL_STRIDE_PX // 2
    y = torch.arange(height, device=device) * CELL_STRIDE_PX + CELL_STRIDE_PX // 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1).float()
