"""Sizes of a published network, read from the shapes of its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sgmg.network.config import SgMgConfig
from sgmg.network.model import NUM_LEVELS
from sgmg.network.model_folder import CheckpointError
from sgmg.published.files import entries_by_name

POINTS = 4  # sampling points of all published networks; no shape tells them apart from heads
ROBERTA_HEAD_CHANNELS = 64  # of all published RoBERTas
RESNETS = {6: "resnet50", 23: "resnet101"}  # by blocks of layer3
# By channels of the patch embedding and blocks of the third stage.
SWIN_SIZES = {(96, 6): "t", (96, 18): "s", (128, 18): "b", (192, 18): "l"}

BODY = "backbone.0.body."  # published prefix of the backbone's tensors
TEXT_MODEL = "text_encoder.text_backbone."
RESNET_MARK = "layer3.0.conv1.weight"  # a tensor that only a ResNet has
SWIN_MARK = "patch_embed.proj.weight"  # a tensor that only a Swin, video or not, has


def config_of_published(weights: Mapping[str, Tensor]) -> SgMgConfig:
    """Settings of the network that published weights belong to.

    Args:
        weights: By their published names.

    Raises:
        CheckpointError: A tensor that tells a size is missing, or the backbone is none of the
            published ones.
    """
    layer = "transformer.encoder.layers.0."
    queries, hidden = _shape(weights, "query_embed.weight")
    attention_rows, _ = _shape(weights, f"{layer}self_attn.attention_weights.weight")
    feedforward, _ = _shape(weights, f"{layer}linear1.weight")
    mask_channels = _shape(weights, "mask_refine.conv2_1div8.weight")[0]
    return SgMgConfig(
        backbone=_backbone_name(weights),
        text_config=_text_config(weights),
        hidden=hidden,
        # The layer gives a weight for each head, level and point.
        heads=attention_rows // (NUM_LEVELS * POINTS),
        encoder_layers=_count(weights, "transformer.encoder.layers."),
        decoder_layers=_count(weights, "transformer.decoder.layers."),
        feedforward=feedforward,
        points=POINTS,
        queries=queries,
        mask_channels=mask_channels,
    )


def backbone_of_classifier(checkpoint: Mapping[str, object]) -> str | None:
    """Name of the backbone whose classifier a file holds; None if it holds no classifier.

    Args:
        checkpoint: Entries by name, by itself or under `model` or `state_dict`.

    Raises:
        CheckpointError: It is a classifier, but of no backbone that published networks have.
    """
    weights = {}
    for name, value in entries_by_name(checkpoint).items():
        weights[BODY + name.removeprefix("backbone.")] = value
    if BODY + SWIN_MARK in weights or BODY + RESNET_MARK in weights:
        return _backbone_name(weights)
    return None


def _backbone_name(weights: Mapping[str, object]) -> str:
    """Name of the backbone, as `SgMgConfig` spells it."""
    if BODY + RESNET_MARK in weights:
        num_blocks = _count(weights, f"{BODY}layer3.")
        if num_blocks not in RESNETS:
            raise _unknown_backbone(f"layer3 of {num_blocks}")
        return RESNETS[num_blocks]
    patch_shape = _shape(weights, BODY + SWIN_MARK)
    width = patch_shape[0]
    num_blocks = _count(weights, f"{BODY}layers.2.blocks.")
    if (width, num_blocks) not in SWIN_SIZES:
        raise _unknown_backbone(
            f"Swin of width {width} with {num_blocks} blocks in its third stage"
        )
    size = SWIN_SIZES[width, num_blocks]
    # The patch of a video has time as a fifth axis.
    return f"video_swin_{size}" if len(patch_shape) == 5 else f"swin_{size}"


def _unknown_backbone(description: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint's backbone is none we know: {description}")


# Values of any kind, because that is what a Hugging Face configuration is.
def _text_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of a RoBERTa of these shapes."""
    embeddings = f"{TEXT_MODEL}embeddings."
    vocabulary, width = _shape(weights, f"{embeddings}word_embeddings.weight")
    positions, _ = _shape(weights, f"{embeddings}position_embeddings.weight")
    token_types, _ = _shape(weights, f"{embeddings}token_type_embeddings.weight")
    feedforward, _ = _shape(weights, f"{TEXT_MODEL}encoder.layer.0.intermediate.dense.weight")
    return {
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": _count(weights, f"{TEXT_MODEL}encoder.layer."),
        "num_attention_heads": max(1, width // ROBERTA_HEAD_CHANNELS),
        "intermediate_size": feedforward,
        "max_position_embeddings": positions,
        "type_vocab_size": token_types,
        "layer_norm_eps": 1e-5,
    }


def _shape(weights: Mapping[str, object], name: str) -> tuple[int, ...]:
    """Shape of a tensor.

    Raises:
        CheckpointError: There is no such tensor.
    """
    tensor = weights.get(name)
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"not a published SgMg checkpoint: it has no tensor {name}")
    return tuple(tensor.shape)


def _count(weights: Mapping[str, object], prefix: str) -> int:
    """One more than the highest number that follows the prefix in a name; 0 if none does."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = [int(match[1]) for name in weights if (match := pattern.match(name))]
    return max(numbers, default=-1) + 1
