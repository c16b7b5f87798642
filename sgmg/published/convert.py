"""Turn a published checkpoint, or a backbone's, into a folder that `SgMg.from_pretrained` loads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from sgmg.network.config import SgMgConfig
from sgmg.network.model import SgMg
from sgmg.network.model_folder import CheckpointError
from sgmg.network.tokenizer import load_tokenizer
from sgmg.published import names as published

ROBERTA = "FacebookAI/roberta-base"


def convert(
    file: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    text: str = ROBERTA,
) -> None:
    """Turn a published checkpoint into a folder that loads with no network connection.

    A file of a Video-Swin, Swin or ResNet classifier (Kinetics, ImageNet) makes a network that is
    new but for its backbone, for training to start from.

    Args:
        file: Checkpoint (.pth or .safetensors); nothing in it is run.
        out: New folder.
        text: Hugging Face name or folder of RoBERTa: its tokenizer is copied into OUT, and for a
            backbone's file its weights, too.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists: name a new folder")
    checkpoint = published.read_published(file)
    try:
        model, what = _network(checkpoint, text)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    part.replace(out)
    told = [f"{file}: {what}", *_summary(model, checkpoint), f"wrote {out}"]
    print("\n".join(told))  # noqa: T201


def _network(checkpoint: Mapping[str, Any], text: str) -> tuple[SgMg, str]:
    """The network of a checkpoint with its tokenizer, and what the checkpoint was."""
    if name := published.named_backbone(checkpoint):
        model = SgMg(SgMgConfig(backbone=name, text_model=text))
        published.load_backbone(model.backbone, checkpoint, "the file")
        return model.eval(), f"backbone {name}; the rest of the network is new"
    model = published.from_published(checkpoint)
    tokenizer = load_tokenizer(text)
    config = model.text_encoder.backbone.config
    if len(tokenizer) > config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
        raise CheckpointError(
            f"its text model knows {config.vocab_size} tokens and pads with "
            f"{config.pad_token_id}, the tokenizer of {text!r} {len(tokenizer)} and "
            f"{tokenizer.pad_token_id}: give --text of the model it was trained with"
        )
    model.text_encoder.tokenizer = tokenizer
    return model, "SgMg checkpoint"


def _summary(model: SgMg, checkpoint: Mapping[str, Any]) -> list[str]:
    config, language = model.config, model.text_encoder.backbone.config
    clutter = [*filter(published.CLUTTER.fullmatch, published.named_tensors(checkpoint))]
    kinds = sorted({name.rpartition(".")[2] for name in clutter})
    return [
        f"backbone: {config.backbone}",
        f"text model: {language.model_type}, {language.num_hidden_layers} layers, "
        f"{language.vocab_size} tokens",
        f"sizes: {config.hidden} channels, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"{config.queries} queries",
        f"parameters: {sum(p.numel() for p in model.parameters()):,}",
        f"left out: {len(clutter)} entries ({', '.join(kinds) or 'none'})",
    ]
