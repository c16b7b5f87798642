"""Heads of a query: class, box, and the conditional patch kernels (CPK) that draw its mask."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

PATCH = 4  # a mask cell holds PATCH x PATCH pixels in its channels
CELL_STRIDE = 8  # pixels between mask cells


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *channels: int) -> None:
        """Build the layers.

        Args:
            channels: sizes from input to output, at least two.
        """
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., channels[0]] to [..., channels[-1]]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)

    def matrices(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


def inverse_sigmoid(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Logit of `x` in [0, 1], kept finite by `epsilon` at both ends."""
    x = x.clamp(0, 1)
    return (x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon)).log()


def class_head(hidden: int) -> nn.Linear:
    """Object-or-not logit; its bias makes 1 % the first guess, as focal loss needs."""
    head = nn.Linear(hidden, 1)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def box_head(hidden: int, *, first: bool) -> Perceptron:
    """Change of a box in logit space; starts as no change, on small boxes in the first layer."""
    head = Perceptron(hidden, hidden, hidden, 4)
    last = head.matrices()[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if first:
        nn.init.constant_(last.bias[2:], -2.0)
    return head


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

    def draw(self, kernels: Tensor, features: Tensor, centres_px: Tensor) -> Tensor:
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
