"""The class head and the box head of a query."""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

FIRST_GUESS = 0.01  # probability of an object before training: RetinaNet's prior for focal loss
FIRST_SIZE_LOGIT = -2.0  # width and height of the first boxes, sigmoid(-2) = 0.12 of the frame


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *channels: int) -> None:
        """Build the layers.

        Args:
            channels: Sizes from input to output, at least two.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., channels[0]] to [..., channels[-1]]."""
        *hidden_layers, last_layer = self.layers
        for layer in hidden_layers:
            x = F.relu(layer(x))
        return last_layer(x)

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
    nn.init.constant_(head.bias, -math.log((1 - FIRST_GUESS) / FIRST_GUESS))
    return head


def box_head(hidden: int, *, first: bool) -> Perceptron:
    """Change of a box in logit space; starts as no change, on small boxes in the first layer.

    Args:
        hidden: Channels of a query.
        first: Whether the head belongs to the first decoder layer, whose reference is a point
            without a size.
    """
    head = Perceptron(hidden, hidden, hidden, 4)
    last_layer = head.matrices()[-1]
    nn.init.zeros_(last_layer.weight)
    nn.init.zeros_(last_layer.bias)
    if first:
        nn.init.constant_(last_layer.bias[2:], FIRST_SIZE_LOGIT)
    return head
