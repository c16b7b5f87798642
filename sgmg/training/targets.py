"""What the network should have answered."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The object that each expression means, in each frame of its clip.

    Attributes:
        masks: Bool [E, T, H, W], at the padded input size; all False where the object is absent.
        boxes_cxcywh: [E, T, 4], normalised by the size without padding; zero where absent.
        visible: Bool [E, T], the object is in the frame.
    """

    masks: Tensor
    boxes_cxcywh: Tensor
    visible: Tensor

    def to(self, device: torch.device | str) -> "Targets":
        """Return the same targets on a device."""
        return Targets(
            masks=self.masks.to(device, non_blocking=True),
            boxes_cxcywh=self.boxes_cxcywh.to(device, non_blocking=True),
            visible=self.visible.to(device, non_blocking=True),
        )

    def frame(self, clip_index: Tensor, target_frame: Tensor) -> "Targets":
        """Return the targets of one frame of each clip, with T = 1.

        Args:
            clip_index: Clip of each expression, int64 [E].
            target_frame: Frame of each clip, int64 [B].
        """
        # One frame of each expression: indices in pairs, not a slice.
        expressions = torch.arange(len(self.masks), device=self.masks.device)
        frames = target_frame[clip_index]
        return Targets(
            masks=self.masks[expressions, frames].unsqueeze(1),
            boxes_cxcywh=self.boxes_cxcywh[expressions, frames].unsqueeze(1),
            visible=self.visible[expressions, frames].unsqueeze(1),
        )
