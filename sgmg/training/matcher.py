"""Which query stands for the object: the one with the least cost over the whole clip."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.network.outputs import QueryOutput


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


@dataclass(frozen=True)
class Matcher:
    """Selects the query of least cost for each expression.

    The class term counts frames with the object only; boxes and masks count every frame, absent
    ones with an empty target. Masks are compared as whole clips.

    Args:
        weights: Weight of each term of the cost.
    """

    weights: Weights = field(default_factory=Weights)

    def __call__(self, queries: QueryOutput, targets: Targets) -> Tensor:
        """Select a query for each expression.

        Args:
            queries: All queries of one decoder layer.
            targets: The object each expression means.

        Returns:
            Index of the selected query, [E].
        """
        expressions, _, count = queries.class_logits.shape
        if count == 1:  # nothing to choose: save the mask costs
            return torch.zeros(expressions, dtype=torch.long, device=queries.class_logits.device)
        return self.costs(queries, targets).argmin(-1)

    @torch.no_grad()
    def costs(self, queries: QueryOutput, targets: Targets) -> Tensor:
        """Cost of each query, in float32.

        Args:
            queries: All queries of one decoder layer.
            targets: The object each expression means.

        Returns:
            [E, Q].
        """
        logits, boxes = queries.class_logits.float(), queries.boxes_cxcywh.float()
        low_mask_logits = queries.low_mask_logits.float()  # drawn now, as autocast wants it
        with torch.autocast(logits.device.type, enabled=False):
            masks = low_targets(targets.masks).unsqueeze(2)
            target_boxes = targets.boxes_cxcywh.float().unsqueeze(2)
            weights = self.weights
            return (
                weights.label * _class_cost(logits, targets.visible)
                + weights.box * (boxes - target_boxes).abs().sum(-1).mean(1)
                - weights.giou * overlaps(to_xyxy(boxes), to_xyxy(target_boxes))[1].mean(1)
                + _mask_costs(low_mask_logits, masks, weights)
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
    # mean over visible frames, 0 if there is none
    weight = F.normalize(visible.float(), p=1, dim=1)
    return torch.einsum("etq,et->eq", positive - negative, weight)


def _mask_costs(logits: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    logits, targets = (rearrange(x, "e t q h w -> e q (t h w)") for x in (logits, targets))
    focal = sigmoid_focal_loss(logits, targets.expand_as(logits)).mean(-1)
    dice = dice_similarity(logits.sigmoid(), targets)
    return weights.mask * focal - weights.dice * dice
