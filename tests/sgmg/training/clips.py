"""Micro batches for a small network."""

from dataclasses import replace

import torch

from sgmg.training.targets import Targets
from sgmg.training.update import MicroBatch
from tests.sgmg.tiny import EXPRESSIONS


def micro_batch(
    number: int, size: int = 136, key: str = "", target_frame: int | None = None
) -> MicroBatch:
    """One clip of two frames.

    The object is in no frame of clip 0, in the second of clip 1, in both of the others. With a
    target frame only that one is supervised.
    """
    generator = torch.Generator().manual_seed(number)
    height = size
    width = size + 8 * number
    frames = torch.randn(1, 2, 3, height, width, generator=generator)
    visible = torch.tensor([[number > 1, number > 0]])
    blobs = torch.rand(1, 2, height, width, generator=generator) > 0.6
    boxes = torch.rand(1, 2, 4, generator=generator) * 0.3 + 0.2
    clip = MicroBatch(
        frames=frames,
        padding=torch.zeros(1, height, width, dtype=torch.bool),
        expressions=[EXPRESSIONS[number % len(EXPRESSIONS)]],
        targets=Targets(
            masks=blobs & visible[..., None, None],
            boxes_cxcywh=boxes * visible[..., None],
            visible=visible,
        ),
        seed=number,
        keys=[key],
    )
    if target_frame is None:
        return clip
    clip_index = torch.zeros(1, dtype=torch.long)
    target_frames = torch.tensor([target_frame])
    return replace(
        clip,
        targets=clip.targets.frame(clip_index, target_frames),
        clip_index=clip_index,
        target_frame=target_frames,
    )
