"""What the loader hands to training."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Of red, green and blue, scaled to 0 to 1: frames are normalised by these.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Batch:
    """B clips of T frames, padded to one size, and E >= B expressions, each about one clip.

    Attributes:
        frames: `[B, T, 3, H, W]` float32, ImageNet mean and deviation removed, zero on padding.
        padding: `[B, H, W]` bool, True on padding.
        expressions: E expressions, already mirrored with their clips.
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
        """Return the frames of one clip as they look, without padding: `[T, h, w, 3]`, RGB."""
        height, width = self.sizes[clip].tolist()
        mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
        pixels = self.frames[clip, :, :, :height, :width].cpu() * std + mean
        grey_levels = (pixels * 255).round().clamp(0, 255).byte()
        return grey_levels.permute(0, 2, 3, 1).numpy()

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch with every tensor on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            frames=move(self.frames),
            padding=move(self.padding),
            expressions=self.expressions,
            clip_index=move(self.clip_index),
            masks=move(self.masks),
            boxes_cxcywh=move(self.boxes_cxcywh),
            visible=move(self.visible),
            annotated=move(self.annotated),
            target_frame=move(self.target_frame),
            sizes=move(self.sizes),
            keys=self.keys,
            positions=self.positions,
        )
