"""Which query stands for the object: the one with the least cost over the whole clip."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.network.outputs import QueryOutput
from sgmg.training.targets import Targets


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
    """

    weights: Weights = field(default_factory=Weights)

    def __call__(self, queries: QueryOutput, targets: Targets) -> Tensor:
        """Select a query for each expression.

        Args:
            queries: All queries of one decoder layer.
            targets: The object each expression means.

        Returns:
            Index of the selected query, int64 [E].
        """
        num_expressions, _, num_queries = queries.class_logits.shape
        if num_queries == 1:
            # There is nothing to choose: save the masks, which are drawn on first use only.
            device = queries.class_logits.device
            return torch.zeros(num_expressions, dtype=torch.long, device=device)
        return self.costs(queries, targets).argmin(-1)

    @torch.no_grad()
    def costs(self, queries: QueryOutput, targets: Targets) -> Tensor:
        """Compute the cost of each query in float32, also under autocast.

        Args:
            queries: All queries of one decoder layer.
            targets: The object each expression means.

        Returns:
            Costs [E, Q].
        """
        logits = queries.class_logits.float()
        boxes = queries.boxes_cxcywh.float()
        # The masks of all queries are drawn by this first use. It has to come before autocast is
        # switched off, so that they are computed in the precision that training runs in.
        low_mask_logits = queries.low_mask_logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            target_masks = low_targets(targets.masks).unsqueeze(2)
            target_boxes = targets.boxes_cxcywh.float().unsqueeze(2)
            _, giou = overlaps(to_xyxy(boxes), to_xyxy(target_boxes))
            class_cost = _class_cost(logits, targets.visible)
            box_cost = (boxes - target_boxes).abs().sum(-1).mean(1)
            mask_cost = _mask_costs(low_mask_logits, target_masks, self.weights)
            return (
                self.weights.label * class_cost
                + self.weights.box * box_cost
                - self.weights.giou * giou.mean(1)
                + mask_cost
            )


def low_targets(masks: Tensor) -> Tensor:
    """Sample target masks at stride 2, every second pixel from the second on, as published.

    Args:
        masks: [..., H, W].

    Returns:
        Float32 [..., H/2, W/2].
    """
    return masks[..., 1::2, 1::2].float()


def dice_similarity(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Compute the Dice coefficient with one added to both sums, so that empty masks agree.

    Args:
        probabilities: [..., N], 0 to 1.
        targets: [..., N], 0 or 1; broadcast.

    Returns:
        [...], 0 to 1.
    """
    shared = (probabilities * targets).sum(-1)
    return (2 * shared + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)


def _class_cost(logits: Tensor, visible: Tensor) -> Tensor:
    """Focal cost [E, Q] of calling each query the object, over the frames that show it."""
    positive = sigmoid_focal_loss(logits, torch.ones_like(logits))
    negative = sigmoid_focal_loss(logits, torch.zeros_like(logits))
    # The weights make a mean over visible frames; without one they, and the cost, are 0.
    frame_weights = F.normalize(visible.float(), p=1, dim=1)
    return torch.einsum("etq,et->eq", positive - negative, frame_weights)


def _mask_costs(logits: Tensor, targets: Tensor, weights: Weights) -> Tensor:
    """Weighted focal and Dice cost [E, Q] of whole clips, from [E, T, Q, h, w]."""
    logits = rearrange(logits, "e t q h w -> e q (t h w)")
    targets = rearrange(targets, "e t q h w -> e q (t h w)")
    focal = sigmoid_focal_loss(logits, targets.expand_as(logits)).mean(-1)
    dice = dice_similarity(logits.sigmoid(), targets)
    return weights.mask * focal - weights.dice * dice
