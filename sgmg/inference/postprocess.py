"""From the network's answers to masks and boxes at the size of the video."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sgmg.inference.network_input import Size
from sgmg.network.boxes import to_xyxy

MIN_OBJECT_PROBABILITY = 0.5  # below it a pixel belongs to no object, as published for Ref-DAVIS17


@dataclass(frozen=True)
class Candidates:
    """All queries of one expression in one frame, best first, on the CPU.

    Attributes:
        masks: Bool [Q, H, W], at the size of the frame.
        scores: [Q], 0 to 1, falling.
        boxes_xyxy_px: [Q, 4], corners in pixels of the frame.
    """

    masks: Tensor
    scores: Tensor
    boxes_xyxy_px: Tensor


def restore(mask_logits: Tensor, size: Size) -> Tensor:
    """Bring masks back to the size of the frame they belong to.

    Args:
        mask_logits: [..., h, w], padding cut off.
        size: Height and width in pixels.

    Returns:
        Logits [..., H, W], float32, bilinear.
    """
    flat = mask_logits.reshape(1, -1, *mask_logits.shape[-2:]).float()
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return resized.view(*mask_logits.shape[:-2], *size)


def merge_objects(probabilities: Tensor, *, background: float = 0.1) -> Tensor:
    """Give each pixel to one object of a video, as the DAVIS evaluation wants it.

    Probabilities below one half do not count.

    Args:
        probabilities: [O, ..., H, W], a mask an object.
        background: Probability of no object.

    Returns:
        Labels uint8 [..., H, W]: 0 for none, 1 for the first object, and so on.
    """
    likely = torch.where(probabilities < MIN_OBJECT_PROBABILITY, 0, probabilities)
    objects_last = likely.movedim(0, -1)
    # The background becomes entry 0, which moves the first object to label 1.
    background_first = F.pad(objects_last, (1, 0), value=background)
    return background_first.argmax(-1).to(torch.uint8)


def to_xyxy_px(boxes_cxcywh: Tensor, size: Size) -> Tensor:
    """Turn normalised boxes into corners in pixels.

    Args:
        boxes_cxcywh: [..., 4].
        size: Height and width of the frame in pixels.

    Returns:
        [..., 4] as ``(x1, y1, x2, y2)``.
    """
    height, width = size
    scale = boxes_cxcywh.new_tensor([width, height, width, height])
    return to_xyxy(boxes_cxcywh) * scale


def rank_queries(
    class_logits: Tensor, mask_logits: Tensor, boxes_cxcywh: Tensor, size: Size
) -> Candidates:
    """Order the queries of one expression in one frame by their class scores.

    Args:
        class_logits: [Q].
        mask_logits: [Q, h, w], padding cut off.
        boxes_cxcywh: [Q, 4].
        size: Height and width of the frame in pixels.
    """
    # Stable: queries of equal scores keep their order, so a result can be repeated.
    scores, order = class_logits.float().sigmoid().sort(descending=True, stable=True)
    masks = restore(mask_logits[order], size) > 0
    boxes_xyxy_px = to_xyxy_px(boxes_cxcywh[order].float(), size)
    return Candidates(
        masks=masks.cpu(),
        scores=scores.cpu(),
        boxes_xyxy_px=boxes_xyxy_px.cpu(),
    )
