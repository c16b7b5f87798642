"""What the loader hands to training."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips of T frames, padded to one size; boxes and masks are of what the expression names.

    Attributes:
        frames: `[B, T, 3, H, W]` float32, ImageNet mean and deviation removed, zero on padding.
        padding: `[B, H, W]` bool, True on padding.
        expressions: B sentences, already mirrored with their clips.
        masks: `[B, T, H, W]` bool; False on padding and where a frame carries no ground truth.
        boxes_cxcywh: `[B, T, 4]`, normalised by the unpadded size; zeros where not visible.
        visible: `[B, T]` bool, the object's box has width and height in the annotated frame.
        annotated: `[B, T]` bool, the frame carries ground truth.
        anchors: `[B]` int64, where in the clip the frame it was made around stands; -1: nowhere.
        sizes: `[B, 2]` int64, height and width without padding, in pixels.
        keys: B keys of the videos.
        positions: B positions in the epoch.
    """

    frames: Tensor
    padding: Tensor
    expressions: list[str]
    masks: Tensor
    boxes_cxcywh: Tensor
    visible: Tensor
    annotated: Tensor
    anchors: Tensor
    sizes: Tensor
    keys: list[str]
    positions: list[int]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
        return replace(self, **moved)
