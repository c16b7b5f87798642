"""Published checkpoints: their names, how to read the files, how to make a network of them."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sgmg.network.backbones.backbone import Backbone
from sgmg.network.config import SgMgConfig
from sgmg.network.model import NUM_LEVELS, SgMg
from sgmg.network.model_folder import CheckpointError, load_weights, mismatches

PREFIXES = {  # ours: published; the backbone translates its own names
    "text_encoder.backbone.": "text_encoder.text_backbone.",
    "text_encoder.words.": "text_proj.",
    "text_encoder.sentence.": "sentence_proj.",
    "projections.": "input_proj.",
    "filters_before.": "input_fft.",
    "filters_after.": "input_fft_post.",
    "fusion.": "fusion_module.",
    "query_positions.": "query_embed.",
    "transformer.": "transformer.",
    "class_heads.": "class_embed.",
    "box_heads.": "bbox_embed.",
    "kernels.": "",
    "mask_optimizer.": "mask_refine.",
}
ALIAS = ("transformer.decoder.bbox_embed.", "bbox_embed.")  # two names of one tensor
CLUTTER = re.compile(
    r".*\.?(total_ops|total_params|relative_position_index|num_batches_tracked)"
    r"|text_encoder\.text_backbone\.embeddings\.(position_ids|token_type_ids)"
)
CLASSIFIER = re.compile(  # what a file for `load_backbone` has beyond the backbone
    r"(head|cls_head|fc|norm)\..*|.*\.(attn_mask|relative_position_index|num_batches_tracked)"
)
POINTS = 4  # sampling points of all published networks


def to_published_name(model: SgMg, name: str) -> str:
    """Published name of the entry `name` of `model.state_dict()`."""
    if name.startswith("backbone."):
        return f"backbone.0.{model.backbone.published_name(name.removeprefix('backbone.'))}"
    ours = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return PREFIXES[ours] + name.removeprefix(ours)


def read_published(path: str | Path) -> dict[str, Any]:
    """Read a published file without running anything in it.

    Args:
        path: `.pth` (tensors, plain containers and one `argparse.Namespace`) or `.safetensors`.

    Raises:
        CheckpointError: no such file, broken, or it holds any other class.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            read = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds {refused[1]}, which could run code" if refused else "is no checkpoint"
        raise CheckpointError(f"{path} {what}: refused") from error
    except Exception as error:  # torch and safetensors raise all sorts on a damaged file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is broken ({reason}): download it again") from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path} holds a {type(read).__name__}, not tensors by name")
    return read


def from_published(checkpoint: Mapping[str, Any], *, tokenizer: Any = None) -> SgMg:
    """Make the network a published checkpoint belongs to and give it these weights.

    Args:
        checkpoint: published names, by itself or under `model`; see `CLUTTER` for what is dropped.
        tokenizer: of the text model (published files hold none); without one the network takes
            `Tokens` only.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: no SgMg checkpoint, or tensors that are missing, unexpected or misshapen,
            by their published names.
    """
    weights = without_clutter(checkpoint)
    model = SgMg(config_of_published(weights), tokenizer=tokenizer)
    own = model.state_dict()
    published = {name: to_published_name(model, name) for name in own}
    if problems := mismatches({published[n]: value for n, value in own.items()}, weights):
        raise CheckpointError(f"not a checkpoint of SgMg with {model.config.backbone}: {problems}")
    model.load_state_dict({name: weights[published[name]] for name in own})
    return model.eval()


def named_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a file holds by name, by itself or under `model` or `state_dict`."""
    nested = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    nested = nested if isinstance(nested, Mapping) else checkpoint
    return {str(name): value for name, value in nested.items()}


def named_backbone(checkpoint: Mapping[str, Any]) -> str | None:
    """Name of the backbone whose classifier a file holds; None if it holds no classifier.

    Raises:
        CheckpointError: a classifier, but of no backbone that published networks have.
    """
    weights = {n.removeprefix("backbone."): v for n, v in named_tensors(checkpoint).items()}
    first = ("patch_embed.proj.weight", "layer3.0.conv1.weight")
    if not any(name in weights for name in first):
        return None
    return _backbone({f"backbone.0.body.{name}": value for name, value in weights.items()})


def without_clutter(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, each under one name.

    Args:
        checkpoint: as in `from_published`.

    Raises:
        CheckpointError: something that is no tensor, or two names of one tensor that disagree.
    """
    weights: dict[str, Tensor] = {}
    for name, value in named_tensors(checkpoint).items():
        if CLUTTER.fullmatch(name):
            continue
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name!r} is a {type(value).__name__}, not a tensor")
        shared = name.replace(*ALIAS)
        first = weights.setdefault(shared, value)
        if first is not value and not torch.equal(first, value):
            raise CheckpointError(f"{name} and {shared} should be one tensor but differ")
    return weights


def load_backbone(backbone: Backbone, checkpoint: Mapping[str, Any], source: str) -> None:
    """Give a backbone the weights of a classifier trained on Kinetics or ImageNet.

    Args:
        backbone: Video Swin, Swin or ResNet; changed in place. Norms of its output maps, which no
            classifier has, keep their values.
        checkpoint: official Video-Swin, Swin or torchvision ResNet file, by itself or under
            `state_dict` or `model`. A patch of several frames is summed over time.
        source: what the error calls it.

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen; the message lists them.
    """
    weights = {n.removeprefix("backbone."): v for n, v in named_tensors(checkpoint).items()}
    names = {backbone.published_name(n).removeprefix("body."): n for n in backbone.state_dict()}
    if any(name.startswith("downsamples.") for name in names):
        down = re.compile(r"layers\.(\d)\.downsample\.")
        weights = {down.sub(r"downsamples.\1.", name): value for name, value in weights.items()}
    given = {names.get(n, n): value for n, value in weights.items() if not CLASSIFIER.fullmatch(n)}
    patch = names.get("patch_embed.proj.weight", "")
    if patch in given and given[patch].dim() == 5:
        given[patch] = given[patch].sum(2, keepdim=True)
    load_weights(backbone, given, source, without=[f"body.norm{i}." for i in range(4)])


def config_of_published(weights: Mapping[str, Tensor]) -> SgMgConfig:
    """Sizes of a published network, read from the shapes of its tensors.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or no published backbone is in it.
    """
    queries, hidden = _shape(weights, "query_embed.weight")
    rows, _ = _shape(weights, "transformer.encoder.layers.0.self_attn.attention_weights.weight")
    feedforward, _ = _shape(weights, "transformer.encoder.layers.0.linear1.weight")
    return SgMgConfig(
        backbone=_backbone(weights),
        text_config=_text_config(weights),
        hidden=hidden,
        heads=rows // (NUM_LEVELS * POINTS),
        encoder_layers=_count(weights, r"transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(weights, r"transformer\.decoder\.layers\.(\d+)\."),
        feedforward=feedforward,
        points=POINTS,
        queries=queries,
        mask_channels=_shape(weights, "mask_refine.conv2_1div8.weight")[0],
    )


def _backbone(weights: Mapping[str, Tensor]) -> str:
    body = r"backbone\.0\.body\."
    if "backbone.0.body.layer3.0.conv1.weight" in weights:
        blocks = _count(weights, body + r"layer3\.(\d+)\.")
        return {6: "resnet50", 23: "resnet101"}.get(blocks) or _unknown(f"layer3 of {blocks}")
    patch = _shape(weights, "backbone.0.body.patch_embed.proj.weight")
    blocks = _count(weights, body + r"layers\.2\.blocks\.(\d+)\.")
    size = {(96, 6): "t", (96, 18): "s", (128, 18): "b", (192, 18): "l"}.get((patch[0], blocks))
    size = size or _unknown(f"Swin of width {patch[0]} with {blocks} blocks in its third stage")
    return f"video_swin_{size}" if len(patch) == 5 else f"swin_{size}"


def _unknown(what: str) -> str:
    raise CheckpointError(f"the checkpoint's backbone is none we know: {what}")


def _text_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of a RoBERTa of these shapes (64 channels a head, as all published ones)."""
    text = "text_encoder.text_backbone"
    vocabulary, width = _shape(weights, f"{text}.embeddings.word_embeddings.weight")
    positions, _ = _shape(weights, f"{text}.embeddings.position_embeddings.weight")
    kinds, _ = _shape(weights, f"{text}.embeddings.token_type_embeddings.weight")
    inner, _ = _shape(weights, f"{text}.encoder.layer.0.intermediate.dense.weight")
    return {
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": _count(weights, re.escape(text) + r"\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": kinds,
        "layer_norm_eps": 1e-5,
    }


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in weights:
        raise CheckpointError(f"not a published SgMg checkpoint: it has no tensor {name}")
    return tuple(weights[name].shape)


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number `pattern` captures at the start of a name; 0 if none."""
    return max((int(m[1]) + 1 for m in map(re.compile(pattern).match, weights) if m), default=0)
