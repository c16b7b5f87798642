"""A network small enough to run many times, and inputs for it."""

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


def tiny_config(**changed) -> SgMgConfig:
    settings = {
        "backbone": "motion_convnet",
        "text_model": None,
        "text_config": tiny_text_config(len(train_tokenizer(EXPRESSIONS)), width=32),
        "hidden": 32,
        "heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "feedforward": 48,
        "queries": 3,
    }
    return SgMgConfig(**settings | changed)


def tiny_model(**changed) -> SgMg:
    torch.manual_seed(0)
    return SgMg(tiny_config(**changed), tokenizer=train_tokenizer(EXPRESSIONS)).eval()


def clips(count: int, frames: int, height: int = 136, width: int = 160) -> tuple[Tensor, Tensor]:
    """Random clips; each is 8 pixels lower than the one before, the rest padding."""
    generator = torch.Generator().manual_seed(count * 1000 + frames)
    images = torch.randn(count, frames, 3, height, width, generator=generator)
    padding = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(1, count):
        padding[i, height - 8 * i :] = True
    return images.masked_fill(padding[:, None, None], 0), padding
