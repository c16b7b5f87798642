"""Turn a published checkpoint, or a backbone's, into a folder that `SgMg.from_pretrained` loads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro

from sgmg.network.config import SgMgConfig
from sgmg.network.model import SgMg
from sgmg.network.model_folder import CheckpointError
from sgmg.network.tokenizer import load_tokenizer
from sgmg.published.files import clutter_names, read_published
from sgmg.published.load import from_published, load_backbone
from sgmg.published.sizes import backbone_of_classifier

ROBERTA = "FacebookAI/roberta-base"


def convert(
    file: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    text_model: Annotated[str, tyro.conf.arg(name="text")] = ROBERTA,
) -> None:
    """Turn a published checkpoint into a folder that loads with no network connection.

    A file of a Video-Swin, Swin or ResNet classifier (Kinetics, ImageNet) makes a network that is
    new but for its backbone, for training to start from.

    Args:
        file: Checkpoint (.pth or .safetensors); nothing in it is run.
        out: New folder.
        text_model: Hugging Face name or folder of RoBERTa: its tokenizer is copied into OUT, and
            for a backbone's file its weights, too.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists: name a new folder")
    checkpoint = read_published(file)
    try:
        model, description = _build_network(checkpoint, text_model)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    # The folder appears under its name only when it is complete.
    unfinished = out.with_name(f"{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    unfinished.replace(out)
    lines = [
        f"{file}: {description}",
        *_summary(model, checkpoint),
        f"wrote {out}",
    ]
    print("\n".join(lines))  # noqa: T201


def _build_network(checkpoint: Mapping[str, object], text_model: str) -> tuple[SgMg, str]:
    """The network of a checkpoint with its tokenizer, and what the checkpoint was."""
    backbone = backbone_of_classifier(checkpoint)
    if backbone is not None:
        model = SgMg(SgMgConfig(backbone=backbone, text_model=text_model))
        load_backbone(model.backbone, checkpoint, "the file")
        return model.eval(), f"backbone {backbone}; the rest of the network is new"
    model = from_published(checkpoint)
    tokenizer = load_tokenizer(text_model)
    # The text model's weights are those of the file; a tokenizer of another one would number words
    # differently, in silence.
    config = model.text_encoder.backbone.config
    if len(tokenizer) > config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
        raise CheckpointError(
            f"its text model knows {config.vocab_size} tokens and pads with "
            f"{config.pad_token_id}, the tokenizer of {text_model!r} {len(tokenizer)} and "
            f"{tokenizer.pad_token_id}: give --text of the model it was trained with"
        )
    model.text_encoder.tokenizer = tokenizer
    return model, "SgMg checkpoint"


def _summary(model: SgMg, checkpoint: Mapping[str, object]) -> list[str]:
    """Lines that say what the network is made of and what of the file it did not need."""
    config = model.config
    text_config = model.text_encoder.backbone.config
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    clutter = clutter_names(checkpoint)
    clutter_kinds = sorted({name.rpartition(".")[2] for name in clutter})
    return [
        f"backbone: {config.backbone}",
        f"text model: {text_config.model_type}, {text_config.num_hidden_layers} layers, "
        f"{text_config.vocab_size} tokens",
        f"sizes: {config.hidden} channels, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"{config.queries} queries",
        f"parameters: {num_parameters:,}",
        f"left out: {len(clutter)} entries ({', '.join(clutter_kinds) or 'none'})",
    ]
