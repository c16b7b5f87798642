"""A network small enough to run many times, and inputs for it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sgmg import SgMg, SgMgConfig
from sgmg.network.text_encoder import tiny_text_config
from sgmg.network.tokenizer import train_tokenizer

EXPRESSIONS = (
    "the red circle moving left",
    "a blue square",
    "the small green triangle on the right",
)


def tiny_config(**changes: Any) -> SgMgConfig:
    """The demo's backbone with a small transformer; `changes` are settings of `SgMgConfig`."""
    vocabulary_size = len(train_tokenizer(EXPRESSIONS))
    config = SgMgConfig(
        backbone="motion_convnet",
        text_model=None,
        text_config=tiny_text_config(vocabulary_size, width=32),
        hidden=32,
        heads=4,
        encoder_layers=1,
        decoder_layers=2,
        feedforward=48,
        queries=3,
    )
    return replace(config, **changes)


def tiny_model(**changes: Any) -> SgMg:
    """Always the same first weights, in evaluation mode."""
    torch.manual_seed(0)
    return SgMg(tiny_config(**changes), tokenizer=train_tokenizer(EXPRESSIONS)).eval()


def clips(count: int, frames: int, height: int = 136, width: int = 160) -> tuple[Tensor, Tensor]:
    """Random clips; each is 8 pixels lower than the one before, the rest padding."""
    generator = torch.Generator().manual_seed(count * 1000 + frames)
    images = torch.randn(count, frames, 3, height, width, generator=generator)
    padding = torch.zeros(count, height, width, dtype=torch.bool)
    for clip in range(1, count):
        padding[clip, height - 8 * clip :] = True
    return images.masked_fill(padding[:, None, None], 0), padding
