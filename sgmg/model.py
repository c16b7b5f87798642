"""The network: spectrum-guided multi-granularity referring video object segmentation."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from sgmg.backbone import build_backbone
from sgmg.config import SgMgConfig
from sgmg.deformable_transformer import Decoded, DeformableTransformer, Memory
from sgmg.fusion import CrossAttention
from sgmg.heads import PATCH, PatchKernels, box_head, class_head
from sgmg.mask_optimizer import MaskOptimizer
from sgmg.outputs import LayerOutput, QueryOutput, Select, SgMgOutput, VisualFeatures
from sgmg.positions import sine_position_2d
from sgmg.spectrum import SpectralFilter
from sgmg.text_encoder import TextEncoder, Tokens

LEVELS = 4  # strides 8, 16, 32 of the backbone and 64 made here
SMALLEST = 3  # cells a side of the stride-64 map that the spectral filter's 3x3 kernel needs


class SgMg(nn.Module):
    """Finds the object an expression names in every frame of a clip.

    Paper: Miao et al., Spectrum-guided Multi-granularity Referring Video Object Segmentation, Fig. 2.
    """

    def __init__(self, config: SgMgConfig, *, tokenizer: Any = None, pretrained: bool = False) -> None:
        """Build the network with fresh weights.

        Args:
            config: sizes and parts.
            tokenizer: of the text model; by default the one `config.text_model` names.
            pretrained: start the backbone from its published image or video weights.
        """
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.backbone = build_backbone(
            config.backbone, pretrained=pretrained, drop_path=config.drop_path
        )
        self.text_encoder = TextEncoder(
            config.text_config or config.text_model,
            tokenizer,
            hidden=hidden,
            dropout=config.dropout,
        )
        self.projections = nn.ModuleList(_projections(self.backbone.channels, hidden))
        self.filters_before = nn.ModuleList(SpectralFilter(hidden) for _ in range(LEVELS))
        self.fusion = CrossAttention(hidden, heads=config.heads)
        self.filters_after = nn.ModuleList(SpectralFilter(hidden) for _ in range(LEVELS))
        self.query_positions = nn.Embedding(config.queries, hidden)
        self.transformer = DeformableTransformer(
            hidden,
            heads=config.heads,
            levels=LEVELS,
            points=config.points,
            feedforward=config.feedforward,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            dropout=config.dropout,
        )
        layers = range(config.decoder_layers)
        self.class_heads = nn.ModuleList(class_head(hidden) for _ in layers)
        self.box_heads = nn.ModuleList(box_head(hidden, first=i == 0) for i in layers)
        self.kernels = PatchKernels(hidden, config.mask_channels)
        quarter, eighth, *_ = self.backbone.channels
        self.mask_optimizer = MaskOptimizer(config.mask_channels, quarter=quarter, eighth=eighth)

    def forward(
        self,
        frames: Tensor,
        padding: Tensor,
        expressions: Sequence[str] | Tokens,
        select: Select,
        *,
        annotated: Tensor | None = None,
        clip_index: Tensor | None = None,
        every_layer: bool | None = None,
    ) -> SgMgOutput:
        """Segment what each expression names.

        Args:
            frames: ImageNet-normalised, zero where padded, [B, T, 3, H, W].
            padding: bool [B, H, W], True on padded pixels (bottom and right only).
            expressions: E expressions, as text or tokens.
            select: chooses the queries whose masks are wanted, once a layer.
            annotated: frame of each clip that is answered for, int64 [B]; the others only lend
                the backbone their motion, and T of the output is 1. All frames by default.
            clip_index: clip each expression is about, int64 [E]; by default one each, in order.
            every_layer: output of all decoder layers (by default in training mode) or the last.

        Returns:
            Scores and boxes of all queries, masks of the selected ones.

        Raises:
            ValueError: frames too small, or shapes that do not belong together.
        """
        visual = self.look(frames, padding, annotated)
        tokens = expressions if isinstance(expressions, Tokens) else self.tokenize(expressions)
        return self.refer(visual, tokens, select, clip_index, every_layer)

    def tokenize(self, expressions: Sequence[str]) -> Tokens:
        """Tokens of expressions, on the network's device."""
        return self.text_encoder.tokenize(list(expressions)).to(self.query_positions.weight.device)

    def look(
        self, frames: Tensor, padding: Tensor, annotated: Tensor | None = None
    ) -> VisualFeatures:
        """Compute what no expression changes: backbone, projections, first spectral filters.

        Arguments and errors as in `forward`.
        """
        _check(frames, padding)
        num_frames = frames.shape[1]
        raw = [
            rearrange(x, "(b t) c h w -> b t c h w", t=num_frames) for x in self.backbone(frames)
        ]
        if annotated is not None:
            clips = torch.arange(len(frames), device=frames.device)
            raw = [x[clips, annotated][:, None] for x in raw]
        maps, gaussian = [], None
        levels, gaussians, masks, positions = [], [], [], []
        for level, project in enumerate(self.projections):
            x = project(raw[min(level + 1, 3)].flatten(0, 1))
            x, gaussian = self.filters_before[level](x, gaussian)
            mask = _resize_padding(padding, x.shape[-2:])
            levels.append(x.unflatten(0, raw[0].shape[:2]))
            gaussians.append(gaussian)
            masks.append(mask)
            positions.append(sine_position_2d(mask, self.config.hidden))
        rows, columns = (~padding).any(2).sum(1), (~padding).any(1).sum(1)
        return VisualFeatures(
            levels=tuple(levels),
            gaussians=tuple(gaussians),
            raw=(raw[0], raw[1]),
            padding=tuple(masks),
            positions=tuple(positions),
            sizes=torch.stack([rows, columns], 1),
            frame_size=(frames.shape[-2], frames.shape[-1]),
        )

    def refer(
        self,
        visual: VisualFeatures,
        tokens: Tokens,
        select: Select,
        clip_index: Tensor | None = None,
        every_layer: bool | None = None,
    ) -> SgMgOutput:
        """Segment what each expression names in clips already looked at.

        Args:
            visual: from `look`.
            tokens: E expressions.
            select: as in `forward`.
            clip_index: as in `forward`.
            every_layer: as in `forward`.
        """
        if clip_index is not None:
            visual = visual.take(clip_index)
        elif len(tokens.ids) != len(visual.sizes):
            raise ValueError(
                f"{len(tokens.ids)} expressions for {len(visual.sizes)} clips: say with "
                "`clip_index` which clip each expression is about"
            )
        words, word_padding, sentence = self.text_encoder(tokens)
        memory = self.encode(visual, words, word_padding)
        decoded = self.decode(memory, sentence)
        features = self.mask_features(memory)
        last = self.config.decoder_layers - 1
        chosen = range(last + 1) if self._every_layer(every_layer) else (last,)
        return SgMgOutput(
            tuple(self.output(i, decoded, features, visual, select) for i in chosen)
        )

    def _every_layer(self, asked: bool | None) -> bool:
        return self.training if asked is None else asked

    def fuse(self, visual: VisualFeatures, words: Tensor, word_padding: Tensor) -> list[Tensor]:
        """Spectrum-guided cross-modal fusion: maps [E, T, C, h, w] that know the expression."""
        fused = []
        for x, gaussian, after in zip(
            visual.levels, visual.gaussians, self.filters_after, strict=True
        ):
            x = self.fusion(x, words, word_padding)
            fused.append(after(x.flatten(0, 1), gaussian)[0].unflatten(0, x.shape[:2]))
        return fused

    def encode(self, visual: VisualFeatures, words: Tensor, word_padding: Tensor) -> Memory:
        """Fuse with the words, then encode every frame."""
        fused = self.fuse(visual, words, word_padding)
        return self.transformer.encode(fused, visual.positions, visual.padding)

    def decode(self, memory: Memory, sentence: Tensor) -> Decoded:
        """Decode Q queries a frame, each starting as the sentence."""
        frames = len(memory.tokens) // len(sentence)
        content = repeat(sentence, "e c -> (e t) q c", t=frames, q=self.config.queries)
        return self.transformer.decode(
            memory, content, self.query_positions.weight, self.box_heads
        )

    def mask_features(self, memory: Memory) -> Tensor:
        """Sum of the encoded maps of strides 8, 16 and 32 at stride 8, [N, C, h, w]."""
        first, *coarser = memory.maps()[:3]
        for x in coarser:
            first = first + F.interpolate(
                x, size=first.shape[-2:], mode="bicubic", align_corners=False
            )
        return first
