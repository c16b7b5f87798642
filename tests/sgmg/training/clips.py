"""Micro batches for a small network."""

import torch

from sgmg.training.targets import Targets
from sgmg.training.update import MicroBatch
from tests.sgmg.tiny import EXPRESSIONS


def micro_batch(number: int, size: int = 136, key: str = "") -> MicroBatch:
    """One clip; the object is in no frame of clip 0, in one of clip 1, in both of the others."""
    generator = torch.Generator().manual_seed(number)
    height, width = size, size + 8 * number
    frames = torch.randn(1, 2, 3, height, width, generator=generator)
    visible = torch.tensor([[number > 1, number > 0]])
    blobs = torch.rand(1, 2, height, width, generator=generator) > 0.6
    boxes = torch.rand(1, 2, 4, generator=generator) * 0.3 + 0.2
    targets = Targets(
        masks=blobs & visible[..., None, None],
        boxes_cxcywh=boxes * visible[..., None],
        visible=visible,
    )
    return MicroBatch(
        frames=frames,
        padding=torch.zeros(1, height, width, dtype=torch.bool),
        expressions=[EXPRESSIONS[number % len(EXPRESSIONS)]],
        targets=targets,
        seed=number,
        keys=[key],
    )
