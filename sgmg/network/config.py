"""Sizes and parts of one network."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# `Any`: a Hugging Face configuration as JSON; its entries depend on the text model.
TextConfig = dict[str, Any]

MASK_CHANNELS = 16  # pixels of a cell's patch, 4x4


@dataclass(frozen=True, kw_only=True)
class SgMgConfig:
    """Everything needed to build the network (its weights and tokenizer apart).

    Attributes:
        backbone: `video_swin_{t,s,b}`, `swin_{t,s,b,l}`, `resnet{50,101}`, `motion_convnet` or
            `timm:<name>`.
        text_model: Hugging Face name or folder; its weights are loaded unless `text_config` is set.
        text_config: Hugging Face configuration of a text model built without downloading.
        hidden: Channels C of queries and encoded maps, a multiple of 32.
        heads: Attention heads.
        encoder_layers: Deformable encoder layers.
        decoder_layers: Deformable decoder layers.
        feedforward: Channels inside the transformer's two-layer perceptrons.
        points: Sampling points of a head on a level.
        queries: Queries Q a frame.
        mask_channels: Channels of a patch mask (16 = 4x4 pixels a cell).
        coordinate_scale: Factor on the pixel coordinates that patch kernels see beside features of
            unit size; published as 1. The demo's small network uses 0.02.
        identity_start: Start as a network that passes features through: spectral filters add
            nothing and pixels are multiplied by nearly 1. The published start is random; this
            one suits training from nothing.
        dropout: Rate inside transformer and text projections.
        drop_path: Stochastic depth of the backbone.
        freeze_text: Keep the text model's weights (not its projections) fixed.
        drop_frozen_text: Leave a frozen text model's dropout on in training, as published.
    """

    backbone: str = "video_swin_t"
    text_model: str | None = "FacebookAI/roberta-base"
    text_config: TextConfig | None = None
    hidden: int = 256
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 4
    feedforward: int = 2048
    points: int = 4
    queries: int = 5
    mask_channels: int = MASK_CHANNELS
    coordinate_scale: float = 1.0
    identity_start: bool = False
    dropout: float = 0.1
    drop_path: float = 0.2
    freeze_text: bool = False
    drop_frozen_text: bool = False

    def __post_init__(self) -> None:
        """Reject sizes the network cannot be built with.

        Raises:
            ValueError: A size does not fit the others; the message names the setting.
        """
        counts = {
            "hidden": self.hidden,
            "heads": self.heads,
            "encoder_layers": self.encoder_layers,
            "decoder_layers": self.decoder_layers,
            "feedforward": self.feedforward,
            "points": self.points,
            "queries": self.queries,
            "mask_channels": self.mask_channels,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: must be at least 1")
        if self.hidden % 32 or self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden}: must be a multiple of 32 and of {self.heads=}")
        if self.mask_channels != MASK_CHANNELS:
            raise ValueError(f"mask_channels={self.mask_channels}: a cell's patch is 4x4, so 16")
        rates = {"dropout": self.dropout, "drop_path": self.drop_path}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name}={rate}: must lie in [0, 1)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SgMgConfig":
        """The reverse of `dataclasses.asdict`.

        Args:
            values: Settings by name, as read from JSON (hence `Any`).

        Raises:
            ValueError: A name is no setting of this version, or a value does not fit.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown network settings {unknown}; known are {sorted(known)}")
        return cls(**values)
