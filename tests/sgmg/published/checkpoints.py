"""Checkpoints as their authors publish them, small or of random weights."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sgmg import SgMg
from sgmg.network.backbones.backbone import Backbone
from sgmg.published.names import to_published_name
from tests.sgmg.tiny import tiny_config

SMALL_ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def resnet_model() -> SgMg:
    """A network of small sizes with a published backbone and text model."""
    torch.manual_seed(0)
    return SgMg(tiny_config(backbone="resnet50", text_config=SMALL_ROBERTA)).eval()


def published_weights(model: SgMg) -> dict[str, Tensor]:
    """Weights of a network by their published names."""
    return {to_published_name(model, name): value for name, value in model.state_dict().items()}


def with_clutter(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """A file's content as the authors' training script saves it."""
    clutter = {
        "text_encoder.text_backbone.embeddings.position_ids": torch.arange(20)[None],
        "total_ops": torch.zeros(1),
        "backbone.0.body.layer1.0.conv1.total_params": torch.zeros(1),
    }
    aliases = {
        f"transformer.decoder.{name}": value.clone()
        for name, value in weights.items()
        if name.startswith("bbox_embed.")
    }
    return {
        "model": {**weights, **clutter, **aliases},
        "args": argparse.Namespace(lr=1.0),
        "epoch": 3,
    }


def classifier_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Weights of a Swin or Video Swin by the names in the file of its authors' classifier."""
    weights = {}
    for name, value in backbone.state_dict().items():
        published_name = backbone.published_name(name).removeprefix("body.")
        if published_name.startswith("norm"):  # norms of output maps, which no classifier has
            continue
        if published_name.startswith("downsamples."):
            _, stage, parameter = published_name.split(".", 2)
            published_name = f"layers.{stage}.downsample.{parameter}"
        weights[published_name] = value
    return weights


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))
