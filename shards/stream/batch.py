"""What the loader hands to training."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.stream.decode import DEVIATION, MEAN


@dataclass(frozen=True)
class Batch:
    """B clips of T frames, padded to one size, and E >= B expressions, each about one clip.

    Attributes:
        frames: `[B, T, 3, H, W]` float32, ImageNet mean and deviation removed, zero on padding.
        padding: `[B, H, W]` bool, True on padding.
        expressions: E sentences, already mirrored with their clips.
        clip_index: `[E]` int64, the clip of each expression; B numbers in order if E = B.
        masks: `[E, T, H, W]` bool, of what the expression names; False on padding and where a frame
            carries no ground truth.
        boxes_cxcywh: `[E, T, 4]`, normalised by the unpadded size; zeros where not visible.
        visible: `[E, T]` bool, the object's box has width and height in the annotated frame.
        annotated: `[B, T]` bool, the frame carries ground truth.
        target_frame: `[B]` int64, index in the clip of the frame it was made around; -1 if absent.
        sizes: `[B, 2]` int64, height and width without padding, in pixels.
        keys: B keys of the videos.
        positions: B positions in the epoch.
    """

    frames: Tensor
    padding: Tensor
    expressions: list[str]
    clip_index: Tensor
    masks: Tensor
    boxes_cxcywh: Tensor
    visible: Tensor
    annotated: Tensor
    target_frame: Tensor
    sizes: Tensor
    keys: list[str]
    positions: list[int]

    def pixels(self, clip: int) -> npt.NDArray[np.uint8]:
        """The frames of one clip as they look, without padding: `[T, h, w, 3]`, on the CPU."""
        height, width = self.sizes[clip].tolist()
        mean, deviation = (torch.tensor(it).view(3, 1, 1) for it in (MEAN, DEVIATION))
        pixels = self.frames[clip, :, :, :height, :width].cpu() * deviation + mean
        return (pixels * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with every tensor on `device`."""
        tensors = {name: it for name, it in vars(self).items() if isinstance(it, Tensor)}
        moved: dict[str, Any] = {n: it.to(device, non_blocking=True) for n, it in tensors.items()}
        return replace(self, **moved)
