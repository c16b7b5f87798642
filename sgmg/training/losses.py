"""The training loss: class, box and masks at two granularities, after every decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.network.outputs import LayerOutput, SgMgOutput
from sgmg.training.matcher import Targets, Weights, dice_similarity, low_targets


class NonFiniteLossError(ArithmeticError):
    """A loss term is NaN or infinite; ``terms`` names each."""

    def __init__(self, terms: tuple[str, ...], where: str = "the clips of this update") -> None:
        """Say which ``terms`` it was, and in what."""
        self.terms = terms
        super().__init__(
            f"loss term {', '.join(terms)} is not finite in {where}. Lower the learning rate, or "
            "train in float32 or bfloat16 instead of float16"
        )


@dataclass(frozen=True)
class Criterion:
    """Weighted sum of seven terms a decoder layer.

    Names of the terms: ``class box giou mask dice mask_low dice_low`` for the last layer; with
    ``_0``, ``_1`` ... behind them for the earlier ones, from the first.

    Args:
        weights: Weight of each term; the low masks weigh as the masks.
    """

    weights: Weights = field(default_factory=Weights)

    def __call__(
        self, outputs: SgMgOutput, targets: Targets, num_visible: float | Tensor
    ) -> dict[str, Tensor]:
        """Compute all terms in float32, also under autocast.

        Args:
            outputs: Output of the model with ``select`` bound to a matcher.
            targets: The object each expression means, [E, T, ...].
            num_visible: Frames with the object that the update averages over (``normaliser``).

        Returns:
            Each term unweighted, and ``total``, their weighted sum.

        Raises:
            NonFiniteLossError: A term is NaN or infinite.
        """
        with torch.autocast(targets.masks.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            last = len(outputs.layers) - 1
            for depth, layer in enumerate(outputs.layers):
                suffix = "" if depth == last else f"_{depth}"
                for name, term in layer_terms(layer, targets).items():
                    terms[name + suffix] = term / num_visible
            values = torch.stack(list(terms.values()))
            finite = dict(zip(terms, values.isfinite().tolist(), strict=True))
            if bad := tuple(name for name, fine in finite.items() if not fine):
                raise NonFiniteLossError(bad)
            weights = [self.weight(name) for name in terms]
            return {"total": values @ values.new_tensor(weights), **terms}

    def weight(self, term: str) -> float:
        """Weight of a term by its name."""
        kind = term.split("_")[0]
        return self.weights.label if kind == "class" else getattr(self.weights, kind)


def count_visible(targets: Sequence[Targets]) -> int:
    """Count frames with the object, over all micro-batches of a step on this process.

    Args:
        targets: One entry a micro-batch.

    Returns:
        Frames; sum it over processes for the normaliser of the loss.
    """
    return sum(int(target.visible.sum()) for target in targets)


def normaliser(visible_everywhere: float | Tensor, shares: int = 1) -> float | Tensor:
    """Divisor that makes an update independent of how its batch is split.

    Gradients are averaged over processes and accumulation steps, so each share divides its sum by
    its part of the frames of all.

    Args:
        visible_everywhere: Frames with the object in the whole update, over all processes and
            accumulation steps; counts as at least 1.
        shares: Processes times accumulation steps.

    Returns:
        Frames a share.
    """
    if isinstance(visible_everywhere, Tensor):
        return visible_everywhere.float().clamp(min=1) / shares
    return max(visible_everywhere, 1) / shares


def layer_terms(layer: LayerOutput, targets: Targets) -> dict[str, Tensor]:
    """Seven loss terms of one decoder layer, summed over expressions, not yet normalised.

    Every frame counts in boxes and masks (an absent object has an empty target), and so does
    padding. A mask term is one number a clip, whatever its length.

    Args:
        layer: Output with a selected query.
        targets: The object each expression means.

    Returns:
        Scalars by name.
    """
    rows = torch.arange(len(layer.query_index), device=layer.query_index.device)
    boxes = layer.queries.boxes_cxcywh[rows, :, layer.query_index].float()
    goal = targets.boxes_cxcywh.float()
    mask, dice = mask_terms(layer.mask_logits, targets.masks.float())
    mask_low, dice_low = mask_terms(layer.low_mask_logits, low_targets(targets.masks))
    label = _class_term(layer.queries.class_logits.float(), layer.query_index, targets.visible)
    giou = (1 - overlaps(to_xyxy(boxes), to_xyxy(goal))[1]).sum()
    terms = {"class": label, "box": (boxes - goal).abs().sum(), "giou": giou}
    return terms | {"mask": mask, "dice": dice, "mask_low": mask_low, "dice_low": dice_low}


def mask_terms(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of whole clips, summed over clips.

    Args:
        logits: [E, T, H, W].
        targets: [E, T, H, W], 0 or 1.

    Returns:
        Two scalars.
    """
    logits = rearrange(logits.float(), "e t h w -> e (t h w)")
    targets = rearrange(targets, "e t h w -> e (t h w)")
    focal = sigmoid_focal_loss(logits, targets).mean(-1)
    return focal.sum(), (1 - dice_similarity(logits.sigmoid(), targets)).sum()


def _class_term(logits: Tensor, selected: Tensor, visible: Tensor) -> Tensor:
    """Focal loss of all queries; the selected one is positive on frames with the object."""
    positive = torch.zeros_like(logits)
    index = selected[:, None, None].expand(-1, logits.shape[1], 1)
    positive.scatter_(2, index, visible.unsqueeze(2).float())
    return sigmoid_focal_loss(logits, positive).sum()
