"""The network: spectrum-guided multi-granularity referring video object segmentation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from sgmg.network import model_folder
from sgmg.network.backbones.backbone import build_backbone
from sgmg.network.config import SgMgConfig
from sgmg.network.cross_attention import CrossAttention
from sgmg.network.deformable_transformer import Decoded, DeformableTransformer, Memory
from sgmg.network.heads import box_head, class_head
from sgmg.network.mask_optimizer import MaskOptimizer
from sgmg.network.outputs import LayerOutput, QueryOutput, Select, SgMgOutput, VisualFeatures
from sgmg.network.patch_kernels import PATCH, PatchKernels
from sgmg.network.positions import resize_padding, sine_position_1d, sine_position_2d
from sgmg.network.spectral_filter import SpectralFilter
from sgmg.network.text_encoder import TextEncoder
from sgmg.network.tokenizer import Tokens

NUM_LEVELS = 4  # strides 8, 16, 32 of the backbone and 64 made here
MIN_CELLS = 3  # cells a side of the stride-64 map that the spectral filter's 3x3 kernel needs


class SgMg(
    nn.Module,
    ModelHubMixin,
    library_name="sgmg",
    license="apache-2.0",
    tags=["referring-video-object-segmentation", "video-segmentation"],
    paper_url="https://arxiv.org/abs/2307.13537",
    model_card_template=model_folder.MODEL_CARD,
):
    """Finds the object an expression names in every frame of a clip.

    Paper: Miao et al., Spectrum-guided Multi-granularity Referring Video Object Segmentation,
    Fig. 2.
    """

    def __init__(
        self, config: SgMgConfig, *, tokenizer: Any = None, pretrained: bool = False
    ) -> None:
        """Build the network with fresh weights.

        Args:
            config: sizes and parts.
            tokenizer: of the text model; by default the one `config.text_model` names.
            pretrained: start the backbone from its published image or video weights.

        Raises:
            ValueError: no text model is named, or a part cannot be built from its settings.
        """
        super().__init__()
        text = config.text_config or config.text_model
        if not text:
            raise ValueError("name a text_model, or give a text_config to start from nothing")
        self.config = config
        hidden = config.hidden
        self.backbone = build_backbone(
            config.backbone, pretrained=pretrained, drop_path=config.drop_path
        )
        frozen = {"freeze": config.freeze_text, "drop_frozen": config.drop_frozen_text}
        self.text_encoder = TextEncoder(
            text, tokenizer, hidden=hidden, dropout=config.dropout, **frozen
        )
        self.projections = nn.ModuleList(_projections(self.backbone.channels, hidden))
        self.filters_before = nn.ModuleList(SpectralFilter(hidden) for _ in range(NUM_LEVELS))
        self.fusion = CrossAttention(hidden, heads=config.heads)
        self.filters_after = nn.ModuleList(SpectralFilter(hidden) for _ in range(NUM_LEVELS))
        self.query_positions = nn.Embedding(config.queries, hidden)
        sizes = ("heads", "points", "feedforward", "encoder_layers", "decoder_layers", "dropout")
        self.transformer = DeformableTransformer(
            hidden, levels=NUM_LEVELS, **{name: getattr(config, name) for name in sizes}
        )
        layers = range(config.decoder_layers)
        self.class_heads = nn.ModuleList(class_head(hidden) for _ in layers)
        self.box_heads = nn.ModuleList(box_head(hidden, first=i == 0) for i in layers)
        self.kernels = PatchKernels(
            hidden, config.mask_channels, coordinate_scale=config.coordinate_scale
        )
        quarter, eighth, *_ = self.backbone.channels
        self.mask_optimizer = MaskOptimizer(config.mask_channels, quarter=quarter, eighth=eighth)
        if config.identity_start:
            for module in self.modules():
                if isinstance(module, CrossAttention | SpectralFilter):
                    module.start_as_identity()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        source: str | Path,
        *,
        changes: Mapping[str, Any] | None = None,
        without: Iterable[str] = (),
        **download: Any,
    ) -> "SgMg":
        """Load a saved network, in evaluation mode; a folder needs no network connection.

        Args:
            source: folder written by `save_pretrained`, or the name of a Hugging Face repository.
            changes: settings that differ from the saved ones, such as `dropout`.
            without: prefixes of weights that start anew, such as `class_heads.`.
            download: passed to `huggingface_hub.snapshot_download` (revision, token ...).

        Raises:
            CheckpointError: nothing is there, or it is broken or of another network.
        """
        folder = model_folder.find_folder(source, **download)
        config, tokenizer, weights = model_folder.read_folder(folder)
        model = cls(replace(config, **(changes or {})), tokenizer=tokenizer)
        model_folder.load_weights(model, weights, str(source), without=without)
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        model_folder.write_folder(save_directory, self.config, self, self.text_encoder)

    def forward(
        self,
        frames: Tensor,
        padding: Tensor,
        expressions: Sequence[str] | Tokens,
        select: Select,
        *,
        target_frame: Tensor | None = None,
        clip_index: Tensor | None = None,
        every_layer: bool | None = None,
    ) -> SgMgOutput:
        """Segment what each expression names.

        Args:
            frames: ImageNet-normalised, zero where padded, [B, T, 3, H, W].
            padding: bool [B, H, W], True on padded pixels (bottom and right only).
            expressions: E expressions, as text or tokens.
            select: chooses the queries whose masks are wanted, once a layer.
            target_frame: frame of each clip that is answered for, int64 [B]; the others only lend
                the backbone their motion, and T of the output is 1. All frames by default.
            clip_index: clip each expression is about, int64 [E]; by default one each, in order.
            every_layer: output of all decoder layers (by default in training mode) or the last.

        Returns:
            Scores and boxes of all queries, masks of the selected ones.

        Raises:
            ValueError: frames too small, or shapes that do not belong together.
        """
        visual = self.encode_video(frames, padding, target_frame)
        tokens = expressions if isinstance(expressions, Tokens) else self.tokenize(expressions)
        return self.segment(visual, tokens, select, clip_index, every_layer)

    def tokenize(self, expressions: Sequence[str]) -> Tokens:
        """Tokens of expressions, on the network's device."""
        return self.text_encoder.tokenize(list(expressions)).to(self.query_positions.weight.device)

    def encode_video(
        self, frames: Tensor, padding: Tensor, target_frame: Tensor | None = None
    ) -> VisualFeatures:
        """Compute what no expression changes: backbone, projections, first spectral filters.

        Arguments and errors as in `forward`.
        """
        _check(frames, padding)
        num_frames = frames.shape[1]
        raw = [
            rearrange(x, "(b t) c h w -> b t c h w", t=num_frames) for x in self.backbone(frames)
        ]
        if target_frame is not None:
            clips = torch.arange(len(frames), device=frames.device)
            raw = [x[clips, target_frame][:, None] for x in raw]
        gaussian, levels = None, []
        for level, project in enumerate(self.projections):
            x = project(raw[min(level + 1, 3)].flatten(0, 1))
            x, gaussian = self.filters_before[level](x, gaussian)
            mask = resize_padding(padding, (x.shape[-2], x.shape[-1]))
            positions = sine_position_2d(mask, self.config.hidden)
            levels.append((x.unflatten(0, raw[0].shape[:2]), gaussian, mask, positions))
        details = self.mask_optimizer.prepare(raw[0].flatten(0, 1), raw[1].flatten(0, 1))
        quarter, eighth = (x.unflatten(0, raw[0].shape[:2]) for x in details)
        sizes = torch.stack([(~padding).any(2).sum(1), (~padding).any(1).sum(1)], 1)
        frame_size = (frames.shape[-2], frames.shape[-1])
        maps, gaussians, masks, places = zip(*levels, strict=True)
        return VisualFeatures(maps, gaussians, masks, places, (quarter, eighth), sizes, frame_size)

    def segment(
        self,
        visual: VisualFeatures,
        tokens: Tokens,
        select: Select,
        clip_index: Tensor | None = None,
        every_layer: bool | None = None,
    ) -> SgMgOutput:
        """Segment what each expression names in clips already encoded.

        Args:
            visual: from `encode_video`.
            tokens: E expressions.
            select: as in `forward`.
            clip_index: as in `forward`.
            every_layer: as in `forward`.

        Raises:
            ValueError: not one clip for each expression.
        """
        if clip_index is not None:
            visual = visual.select_clips(clip_index)
        if len(tokens.ids) != len(visual.sizes):
            raise ValueError(
                f"{len(tokens.ids)} expressions for {len(visual.sizes)} clips: `clip_index` must "
                "name one clip for each expression"
            )
        words, word_padding, sentence = self.text_encoder(tokens)
        memory = self.encode(visual, words, word_padding)
        decoded = self.decode(memory, sentence)
        features = self.mask_features(memory)
        last = self.config.decoder_layers - 1
        every_layer = self.training if every_layer is None else every_layer
        chosen = range(last + 1) if every_layer else (last,)
        return SgMgOutput(tuple(self.output(i, decoded, features, visual, select) for i in chosen))

    def fuse(self, visual: VisualFeatures, words: Tensor, word_padding: Tensor) -> list[Tensor]:
        """Spectrum-guided cross-modal fusion: maps [E, T, C, h, w] that know the expression."""
        fused = []
        places = sine_position_1d(word_padding, words.shape[-1])
        for x, gaussian, after in zip(
            visual.levels, visual.gaussians, self.filters_after, strict=True
        ):
            x = self.fusion(x, words, word_padding, places)
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
        return self.transformer.decode(memory, content, self.query_positions.weight, self.box_heads)

    def mask_features(self, memory: Memory) -> Tensor:
        """Sum of the encoded maps of strides 8, 16 and 32 at stride 8, [N, C, h, w]."""
        first, *coarser = memory.maps()[:3]
        for x in coarser:
            first = first + F.interpolate(x, first.shape[-2:], mode="bicubic", align_corners=False)
        return first

    def output(
        self, layer: int, decoded: Decoded, features: Tensor, visual: VisualFeatures, select: Select
    ) -> LayerOutput:
        """Scores and boxes of a decoder layer's queries, masks of those `select` chooses.

        Args:
            layer: of the decoder, from 0.
            decoded: states and boxes of all layers.
            features: mask features [E * T, C, h, w].
            visual: features of the clip of each expression.
            select: as in `forward`.
        """
        states, boxes = decoded.states[layer], decoded.boxes_cxcywh[layer]
        expressions = len(visual.sizes)
        per_clip = partial(rearrange, pattern="(e t) ... -> e t ...", e=expressions)
        frames = len(states) // expressions
        size_px = repeat(visual.sizes.flip(1), "e xy -> (e t) 1 xy", t=frames)
        centres_px = boxes[..., :2].detach() * size_px

        @torch.no_grad()
        def draw_all() -> Tensor:
            patches = self.kernels.convolve(self.kernels(states), features, centres_px)
            return per_clip(_shuffle(patches, visual.frame_size, stride=2))

        logits = self.class_heads[layer](states)
        queries = QueryOutput(per_clip(logits)[..., 0], per_clip(boxes), draw_all)
        query_index = select(queries)
        index = repeat(query_index.view(expressions, -1), "e k -> (e t) k 1", t=frames)
        patches = self.kernels.convolve(
            self.kernels(states.take_along_dim(index, 1)),
            features,
            centres_px.take_along_dim(index, 1),
        )
        count = index.shape[1]
        details = [repeat(x, "e t c h w -> (e t k) c h w", k=count) for x in visual.details]
        refined = self.mask_optimizer(patches.flatten(0, 1), (details[0], details[1]))
        masks = [
            per_clip(_shuffle(x, visual.frame_size, stride=stride))
            for x, stride in ((patches, 2), (refined.unflatten(0, (-1, count)), 1))
        ]
        low, high = masks if query_index.dim() == 2 else [x.squeeze(2) for x in masks]
        return LayerOutput(queries, query_index, low, high)


def _projections(channels: Sequence[int], hidden: int) -> list[nn.Sequential]:
    """Backbone maps of strides 8, 16, 32 to `hidden` channels, and stride 64 from the last."""
    convolutions = [nn.Conv2d(c, hidden, 1) for c in channels[1:]]
    convolutions.append(nn.Conv2d(channels[-1], hidden, 3, stride=2, padding=1))
    for convolution in convolutions:
        nn.init.xavier_uniform_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    return [nn.Sequential(c, nn.GroupNorm(32, hidden)) for c in convolutions]


def _shuffle(patches: Tensor, frame_size: tuple[int, int], *, stride: int) -> Tensor:
    """Patch maps [..., 16, h, w] to masks [..., H, W] of the frame at `stride`."""
    height, width = (side // stride for side in frame_size)
    return F.pixel_shuffle(patches, PATCH).squeeze(-3)[..., :height, :width]


def _check(frames: Tensor, padding: Tensor) -> None:
    if frames.dim() != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames {list(frames.shape)}: must be [B, T, 3, H, W]")
    clips, _, _, height, width = frames.shape
    if padding.shape != (clips, height, width) or padding.dtype != torch.bool:
        raise ValueError(
            f"padding {list(padding.shape)} {padding.dtype}: must be bool [B, H, W] like frames "
            f"{list(frames.shape)}"
        )
    smallest = 64 * (MIN_CELLS - 1) + 1
    if min(height, width) < smallest:
        raise ValueError(
            f"frames of {height}x{width} pixels: at least {smallest} a side are needed (the "
            f"stride-64 map must have {MIN_CELLS}x{MIN_CELLS} cells); enlarge or pad them"
        )
