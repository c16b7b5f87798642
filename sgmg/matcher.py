"""Which query stands for the object: the one with the least cost over the whole clip."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from sgmg.boxes import cxcywh_to_xyxy, overlaps


@dataclass(frozen=True)
class Targets:
    """What one expression means in each frame of its clip.

    Args:
        masks: [E, T, H, W], bool, at the padded input size; all False where the object is absent.
        boxes_cxcywh: [E, T, 4], normalised by the size without padding; zero where absent.
        visible: [E, T], bool, the object is in the frame.
    """

    masks: Tensor
    boxes_cxcywh: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Weights:
    """How much each term counts, in the matching cost and in the loss alike."""

    label: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 2.0
    dice: float = 5.0


class QueryOutput(Protocol):
    """What one decoder layer says about every query, before one is selected."""

    @property
    def class_logits(self) -> Tensor:
        """[E, T, Q]."""

    @property
    def boxes_cxcywh(self) -> Tensor:
        """[E, T, Q, 4], normalised."""

    @property
    def low_mask_logits(self) -> Tensor | None:
        """[E, T, Q, H/2, W/2]."""


@dataclass(frozen=True)
class Matcher:
    """Selects the query of least cost for each expression.

    The class term counts frames with the object only; boxes and masks count every frame, absent
    ones with an empty target, each frame alike.

    Args:
        weights: Weight of each term of the cost.
    """

    weights: Weights = Weights()

    @torch.no_grad()
    def __call__(self, layer: QueryOutput, targets: Targets) -> Tensor:
        """Select a query for each expression.

        Args:
            layer: Output of one decoder layer.
            targets: The object each expression means.

        Returns:
            Index of the selected query, [E].
        """
        expressions, _, queries = layer.class_logits.shape
        if queries == 1:  # nothing to choose: save the mask costs
            return torch.zeros(expressions, dtype=torch.long, device=layer.class_logits.device)
        return self.costs(layer, targets).argmin(-1)

    @torch.no_grad()
    def costs(self, layer: QueryOutput, targets: Targets) -> Tensor:
        """Cost of each query, in float32.

        Args:
            layer: Output of one decoder layer, with the low masks of all queries.
            targets: The object each expression means.

        Returns:
            [E, Q].
        """
        assert layer.low_mask_logits is not None, "matching needs the low masks of every query"
        with torch.autocast(layer.class_logits.device.type, enabled=False):
            masks = low_targets(targets.masks).unsqueeze(2)
            boxes = targets.boxes_cxcywh.float().unsqueeze(2)
            weights = self.weights
            return (
                weights.label * _class_cost(layer.class_logits.float(), targets.visible)
                + weights.box * _box_cost(layer.boxes_cxcywh.float(), boxes)
                + weights.giou * _giou_cost(layer.boxes_cxcywh.float(), boxes)
                + _mask_costs(layer.low_mask_logits.float(), masks, weights)
            )


def low_targets(masks: Tensor) -> Tensor:
    """Sample target masks at stride 2, every second pixel from the second on.

    Args:
        masks: [..., H, W].

    Returns:
        Float32 [..., H/2, W/2].
    """
    return masks[..., 1::2, 1::2].float()


def dice_similarity(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Dice coefficient, one added to both sums.

    Args:
        probabilities: [..., N], 0 to 1.
        targets: [..., N], 0 or 1, broadcast.

    Returns:
        [...], 0 to 1.
    """
    shared = (probabilities * targets).sum(-1)
    return (2 * shared + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)


def _class_cost(logits: Tensor, visible: Tensor) -> Tensor:
    positive = sigmoid_focal_loss(logits, torch.ones_like(logits))
    negative = sigmoid_focal_loss(logits, torch.zeros_like(logits))
    weight = F.normalize(
        visible.float(), p=1, dim=1
    )  # mean over visible frames; 0 if there is none
    return torch.einsum("etq,et->eq", positive - negative, weight)


def _box_cost(boxes: Tensor, targets: Tensor) -> Tensor:
    return reduce((boxes - targets).abs(), "e t q c -> e t q", "sum").mean(1)


def _giou_cost(boxes: Tensor, targets: Tensor) -> Tensor:
    return -overlaps(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))[1].mean(1)


def _mask_costs(logits: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    logits, targets = (rearrange(x, "e t q h w -> e t q (h w)") for x in (logits, targets))
    focal = sigmoid_focal_loss(logits, targets.expand_as(logits)).mean(-1)
    dice = dice_similarity(logits.sigmoid(), targets)
    return (weights.mask * focal - weights.dice * dice).mean(1)
