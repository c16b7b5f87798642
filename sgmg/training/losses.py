"""The training loss: class, box and masks at two granularities, after every decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from sgmg.network.boxes import overlaps, to_xyxy
from sgmg.network.outputs import LayerOutput, SgMgOutput
from sgmg.training.matcher import Weights, dice_similarity, low_targets
from sgmg.training.targets import Targets


class NonFiniteLossError(ArithmeticError):
    """A loss term or a gradient is NaN or infinite; ``terms`` names each."""

    def __init__(self, terms: tuple[str, ...], subject: str = "the clips of this update") -> None:
        """Name the ``terms``, and the ``subject`` that they were computed of."""
        self.terms = terms
        super().__init__(
            f"loss term {', '.join(terms)} is not finite in {subject}. Lower the learning rate, or "
            "train in float32 or bfloat16 instead of float16"
        )


@dataclass(frozen=True)
class LossTerm:
    """One term of one decoder layer.

    Attributes:
        name: Column in ``losses.csv``: ``box`` in the last layer, ``box_0`` in the first.
        value: Scalar, averaged over the frames with the object, not yet weighted.
        weight: Factor in the total.
        layer: Number of the decoder layer, from 0.
    """

    name: str
    value: Tensor
    weight: float
    layer: int


@dataclass(frozen=True)
class Criterion:
    """Weighted sum of seven terms a decoder layer.

    Names of the terms: ``class box giou mask dice mask_low dice_low`` for the last layer; with
    ``_0``, ``_1`` ... behind them for the earlier ones, from the first.
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
            terms = self.terms(outputs, targets, num_visible)
            values = torch.stack([term.value for term in terms])
            # One copy to the CPU for all terms: each copy waits for the GPU.
            finite = values.isfinite().tolist()
            non_finite = [
                term.name for term, is_finite in zip(terms, finite, strict=True) if not is_finite
            ]
            if non_finite:
                raise NonFiniteLossError(tuple(non_finite))
            weights = values.new_tensor([term.weight for term in terms])
            named_values = {term.name: term.value for term in terms}
            return {"total": values @ weights, **named_values}

    def terms(
        self, outputs: SgMgOutput, targets: Targets, num_visible: float | Tensor
    ) -> list[LossTerm]:
        """List the terms of every decoder layer, the first layer's first."""
        # The paper weighs masks before and after the mask optimizer alike.
        weights = {
            "class": self.weights.label,
            "box": self.weights.box,
            "giou": self.weights.giou,
            "mask": self.weights.mask,
            "dice": self.weights.dice,
            "mask_low": self.weights.mask,
            "dice_low": self.weights.dice,
        }
        last = len(outputs.layers) - 1
        terms = []
        for index, layer in enumerate(outputs.layers):
            suffix = "" if index == last else f"_{index}"
            for kind, value in layer_terms(layer, targets).items():
                term = LossTerm(
                    name=kind + suffix,
                    value=value / num_visible,
                    weight=weights[kind],
                    layer=index,
                )
                terms.append(term)
        return terms


def count_visible(targets: Sequence[Targets]) -> int:
    """Count frames with the object, over all micro-batches of an update on this process.

    Args:
        targets: One entry a micro-batch.

    Returns:
        Frames; sum it over processes for the normaliser of the loss.
    """
    return sum(int(target.visible.sum()) for target in targets)


def normaliser(visible_everywhere: float | Tensor, num_micro_batches: int = 1) -> float | Tensor:
    """Divisor that makes an update independent of how its batch is split.

    Gradients are averaged over processes and accumulation steps, so each micro-batch divides its
    sum by an equal part of the frames of all.

    Args:
        visible_everywhere: Frames with the object in the whole update, over all processes and
            accumulation steps; counts as at least 1.
        num_micro_batches: Processes times accumulation steps.

    Returns:
        Frames a micro-batch.
    """
    if isinstance(visible_everywhere, Tensor):
        return visible_everywhere.float().clamp(min=1) / num_micro_batches
    return max(visible_everywhere, 1) / num_micro_batches


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
    expressions = torch.arange(len(layer.query_index), device=layer.query_index.device)
    boxes = layer.queries.boxes_cxcywh[expressions, :, layer.query_index].float()
    target_boxes = targets.boxes_cxcywh.float()
    mask, dice = mask_terms(layer.mask_logits, targets.masks.float())
    mask_low, dice_low = mask_terms(layer.low_mask_logits, low_targets(targets.masks))
    _, giou = overlaps(to_xyxy(boxes), to_xyxy(target_boxes))
    return {
        "class": _class_term(
            layer.queries.class_logits.float(), layer.query_index, targets.visible
        ),
        "box": (boxes - target_boxes).abs().sum(),
        "giou": (1 - giou).sum(),
        "mask": mask,
        "dice": dice,
        "mask_low": mask_low,
        "dice_low": dice_low,
    }


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
    # torchvision's defaults, alpha 0.25 and gamma 2, are the published ones.
    focal = sigmoid_focal_loss(logits, targets).mean(-1)
    dice = 1 - dice_similarity(logits.sigmoid(), targets)
    return focal.sum(), dice.sum()


def _class_term(logits: Tensor, query_index: Tensor, visible: Tensor) -> Tensor:
    """Focal loss of all queries; the selected one is positive on frames with the object."""
    positive = torch.zeros_like(logits)
    # [E, T, 1]: the selected query is the same in every frame of a clip.
    index = query_index[:, None, None].expand(-1, logits.shape[1], 1)
    positive.scatter_(2, index, visible.unsqueeze(2).float())
    return sigmoid_focal_loss(logits, positive).sum()
