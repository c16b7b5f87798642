"""The class head and the box head of a query."""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


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
