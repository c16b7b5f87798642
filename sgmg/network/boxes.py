"""Overlaps of boxes, as the published losses use them.

Boxes are ``(cx, cy, w, h)`` (``cxcywh``) or ``(x1, y1, x2, y2)`` (``xyxy``), normalised to the
frame unless a name ends in ``_px``. ``torchvision.ops.box_convert`` turns one into the other.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert

EPSILON = 1e-6  # added to numerators and denominators, as in the published losses


def to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size into corners.

    Args:
        boxes: [..., 4] as ``(cx, cy, w, h)``.

    Returns:
        [..., 4] as ``(x1, y1, x2, y2)``, same unit.
    """
    return box_convert(boxes, "cxcywh", "xyxy")


def overlaps(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form, element by element with broadcasting.

    For every pair of two lists pass ``a[:, None]`` and ``b[None]``.

    Args:
        a_xyxy: [..., 4] corners.
        b_xyxy: [..., 4] corners, broadcast against ``a_xyxy``.

    Returns:
        ``(iou, giou)``, each [...].

    Paper: Rezatofighi et al., Generalized Intersection over Union, Algorithm 1.
    """
    top_left = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    bottom_right = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    a_area = (a_xyxy[..., 2:] - a_xyxy[..., :2]).prod(-1)
    b_area = (b_xyxy[..., 2:] - b_xyxy[..., :2]).prod(-1)
    union = a_area + b_area - intersection
    iou = (intersection + EPSILON) / (union + EPSILON)

    # The hull is the smallest box around both; GIoU subtracts the share of it that neither covers.
    outer_top_left = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    outer_bottom_right = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = (outer_bottom_right - outer_top_left).clamp(min=0).prod(-1)
    return iou, iou - (hull - union + EPSILON) / (hull + EPSILON)
