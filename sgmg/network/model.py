"""The network: spectrum-guided multi-granularity referring video object segmentation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

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
from sgmg.network.patch_kernels import PATCH_PX, PatchKernels
from sgmg.network.positions import resize_padding, sine_position_1d, sine_position_2d
from sgmg.network.spectral_filter import MIN_SIDE_CELLS, SpectralFilter
from sgmg.network.text_encoder import TextEncoder
from sgmg.network.tokenizer import Tokenizer, Tokens

NUM_LEVELS = 4  # strides 8, 16, 32 of the backbone and 64 made here
LAST_STRIDE_PX = 64
MIN_SIDE_PX = LAST_STRIDE_PX * (MIN_SIDE_CELLS - 1) + 1  # the last level has enough cells
NORM_GROUPS = 32  # of the group norms behind the projections, as in Deformable DETR


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
        self,
        config: SgMgConfig,
        *,
        tokenizer: Tokenizer | None = None,
        pretrained: bool = False,
    ) -> None:
        """Build the network with fresh weights.

        Args:
            config: Sizes and parts of the network.
            tokenizer: Tokenizer of the text model; by default that of `config.text_model`.
            pretrained: Start the backbone from its published image or video weights.

        Raises:
            ValueError: No text model is named, or a part cannot be built from its settings.
        """
        super().__init__()
        text_model = config.text_config or config.text_model
        if not text_model:
            raise ValueError("name a text_model, or give a text_config to start from nothing")
        self.config = config
        hidden = config.hidden
        # The order of the parts is the order of the random numbers their first weights take.
        self.backbone = build_backbone(
            config.backbone, pretrained=pretrained, drop_path=config.drop_path
        )
        self.text_encoder = TextEncoder(
            text_model,
            tokenizer,
            hidden=hidden,
            dropout=config.dropout,
            freeze=config.freeze_text,
            drop_frozen=config.drop_frozen_text,
        )
        self.projections = nn.ModuleList(make_projections(self.backbone.channels, hidden))
        self.filters_before = nn.ModuleList(SpectralFilter(hidden) for _ in range(NUM_LEVELS))
        self.fusion = CrossAttention(hidden, heads=config.heads)
        self.filters_after = nn.ModuleList(SpectralFilter(hidden) for _ in range(NUM_LEVELS))
        self.query_positions = nn.Embedding(config.queries, hidden)
        self.transformer = DeformableTransformer(
            hidden,
            heads=config.heads,
            levels=NUM_LEVELS,
            points=config.points,
            feedforward=config.feedforward,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            dropout=config.dropout,
        )
        layers = range(config.decoder_layers)
        self.class_heads = nn.ModuleList(class_head(hidden) for _ in layers)
        self.box_heads = nn.ModuleList(box_head(hidden, first=layer == 0) for layer in layers)
        self.kernels = PatchKernels(
            hidden, config.mask_channels, coordinate_scale=config.coordinate_scale
        )
        quarter, eighth, _, _ = self.backbone.channels
        self.mask_optimizer = MaskOptimizer(config.mask_channels, quarter=quarter, eighth=eighth)
        if config.identity_start:
            # Not published: training from nothing is slow behind random filters.
            for module in self.modules():
                if isinstance(module, CrossAttention | SpectralFilter):
                    module.start_as_identity()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer settings than the mixin's
        cls,
        source: str | Path,
        *,
        changes: Mapping[str, Any] | None = None,
        without: Iterable[str] = (),
        **download: Unpack[model_folder.DownloadOptions],
    ) -> "SgMg":
        """Load a saved network, in evaluation mode; a folder needs no network connection.

        Args:
            source: Folder written by `save_pretrained`, or the name of a Hugging Face repository.
            changes: Settings that differ from the saved ones, such as `dropout`, by their names in
                `SgMgConfig` (`Any`, because their types differ).
            without: Prefixes of weights that start anew, such as `class_heads.`.
            download: Options of a download (revision, token ...).

        Raises:
            CheckpointError: Nothing is there, or it is broken or of another network.
        """
        folder = model_folder.find_folder(source, **download)
        config, tokenizer, weights = model_folder.read_folder(folder)
        if changes is not None:
            config = replace(config, **changes)
        model = cls(config, tokenizer=tokenizer)
        model_folder.load_weights(model, weights, str(source), without=without)
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained` of the mixin (huggingface_hub 2.4), which adds the card."""
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
            expressions: E expressions, as strings or tokens.
            select: Chooses the queries whose masks are wanted, once a layer.
            target_frame: Frame of each clip to segment, int64 [B]; all the others only lend the
                backbone their motion, and T of the output is 1. All frames by default.
            clip_index: Clip each expression is about, int64 [E]; by default one each, in order.
            every_layer: Output of all decoder layers (by default in training mode) or the last.

        Returns:
            Scores and boxes of all queries, masks of the selected ones.

        Raises:
            ValueError: Frames too small, or shapes that do not belong together.
        """
        visual = self.encode_video(frames, padding, target_frame)
        # A compiled network is given tokens: tokenizing strings would break the graph.
        tokens = expressions if isinstance(expressions, Tokens) else self.tokenize(expressions)
        return self.segment(visual, tokens, select, clip_index, every_layer)

    def tokenize(self, expressions: Sequence[str]) -> Tokens:
        """Tokens of expressions, on the network's device."""
        device = self.query_positions.weight.device
        return self.text_encoder.tokenize(list(expressions)).to(device)

    def encode_video(
        self, frames: Tensor, padding: Tensor, target_frame: Tensor | None = None
    ) -> VisualFeatures:
        """Compute what no expression changes: backbone, projections, first spectral filters.

        Arguments and errors as in `forward`.
        """
        check_inputs(frames, padding)
        num_frames = frames.shape[1]
        stages = [
            rearrange(stage, "(b t) c h w -> b t c h w", t=num_frames)
            for stage in self.backbone(frames)
        ]
        if target_frame is not None:
            # Only the backbone mixes frames, so all but the wanted one have done their work.
            clips = torch.arange(len(frames), device=frames.device)
            stages = [stage[clips, target_frame][:, None] for stage in stages]
        clips_and_frames = stages[0].shape[:2]

        levels = []
        gaussians = []
        level_paddings = []
        positions = []
        gaussian = None
        for level, project in enumerate(self.projections):
            # Strides 8, 16 and 32 are the backbone's last three maps; 64 is made from the last.
            stage = stages[min(level + 1, 3)]
            x = project(stage.flatten(0, 1))
            # The Gaussian is made once and resized from level to level, as published.
            x, gaussian = self.filters_before[level](x, gaussian)
            level_padding = resize_padding(padding, (x.shape[-2], x.shape[-1]))
            levels.append(x.unflatten(0, clips_and_frames))
            gaussians.append(gaussian)
            level_paddings.append(level_padding)
            positions.append(sine_position_2d(level_padding, self.config.hidden))

        quarter, eighth = self.mask_optimizer.prepare(
            stages[0].flatten(0, 1), stages[1].flatten(0, 1)
        )
        # Padding lies at the bottom and right: unpadded rows and columns give the frame's sides.
        heights = (~padding).any(2).sum(1)
        widths = (~padding).any(1).sum(1)
        return VisualFeatures(
            levels=tuple(levels),
            gaussians=tuple(gaussians),
            padding=tuple(level_paddings),
            positions=tuple(positions),
            details=(
                quarter.unflatten(0, clips_and_frames),
                eighth.unflatten(0, clips_and_frames),
            ),
            sizes=torch.stack([heights, widths], 1),
            frame_size=(frames.shape[-2], frames.shape[-1]),
        )

    def segment(
        self,
        visual: VisualFeatures,
        tokens: Tokens,
        select: Select,
        clip_index: Tensor | None = None,
        every_layer: bool | None = None,
    ) -> SgMgOutput:
        """Segment what each expression names in encoded clips.

        Args:
            visual: From `encode_video`.
            tokens: E expressions.
            select: As in `forward`.
            clip_index: As in `forward`.
            every_layer: As in `forward`.

        Raises:
            ValueError: Not one clip for each expression.
        """
        if clip_index is not None:
            # One visual pass serves all expressions: each is given the features of its clip.
            visual = visual.select_clips(clip_index)
        if len(tokens.ids) != len(visual.sizes):
            raise ValueError(
                f"{len(tokens.ids)} expressions for {len(visual.sizes)} clips: `clip_index` must "
                "name one clip for each expression"
            )
        word_features, word_padding, sentence_features = self.text_encoder(tokens)
        memory = self.encode(visual, word_features, word_padding)
        decoded = self.decode(memory, sentence_features)
        features = self.mask_features(memory)

        num_layers = self.config.decoder_layers
        if every_layer is None:
            every_layer = self.training
        first_layer = 0 if every_layer else num_layers - 1
        outputs = [
            self.layer_output(layer, decoded, features, visual, select)
            for layer in range(first_layer, num_layers)
        ]
        return SgMgOutput(tuple(outputs))

    def fuse(
        self, visual: VisualFeatures, word_features: Tensor, word_padding: Tensor
    ) -> list[Tensor]:
        """Spectrum-guided cross-modal fusion: maps [E, T, C, h, w] that know the expression.

        Args:
            visual: Features of the clip of each expression.
            word_features: [E, L, C].
            word_padding: bool [E, L], True = pad.

        Paper: "spectrum-guided cross-modal fusion".
        """
        word_positions = sine_position_1d(word_padding, word_features.shape[-1])
        fused = []
        for level, gaussian, spectral_filter in zip(
            visual.levels, visual.gaussians, self.filters_after, strict=True
        ):
            attended = self.fusion(level, word_features, word_padding, word_positions)
            filtered, _ = spectral_filter(attended.flatten(0, 1), gaussian)
            fused.append(filtered.unflatten(0, attended.shape[:2]))
        return fused

    def encode(self, visual: VisualFeatures, word_features: Tensor, word_padding: Tensor) -> Memory:
        """Fuse with the words, then encode every frame."""
        fused = self.fuse(visual, word_features, word_padding)
        return self.transformer.encode(fused, visual.positions, visual.padding)

    def decode(self, memory: Memory, sentence_features: Tensor) -> Decoded:
        """Decode Q queries a frame, each starting as the sentence [E, C] of its expression."""
        num_frames = len(memory.tokens) // len(sentence_features)
        content = repeat(sentence_features, "e c -> (e t) q c", t=num_frames, q=self.config.queries)
        return self.transformer.decode(memory, content, self.query_positions.weight, self.box_heads)

    def mask_features(self, memory: Memory) -> Tensor:
        """Sum of the encoded maps of strides 8, 16 and 32 at stride 8, [N, C, h, w]."""
        features, *coarser_maps = memory.maps()[:3]  # stride 64 is too coarse for masks
        size = features.shape[-2:]
        for coarser_map in coarser_maps:
            features = features + F.interpolate(
                coarser_map, size, mode="bicubic", align_corners=False
            )
        return features

    def layer_output(
        self, layer: int, decoded: Decoded, features: Tensor, visual: VisualFeatures, select: Select
    ) -> LayerOutput:
        """Scores and boxes of a decoder layer's queries, masks of those `select` chooses.

        Args:
            layer: Index of the decoder layer, from 0.
            decoded: States and boxes of all layers.
            features: Mask features [E * T, C, h, w].
            visual: Features of the clip of each expression.
            select: As in `forward`.
        """
        states = decoded.states[layer]
        boxes_cxcywh = decoded.boxes_cxcywh[layer]
        num_expressions = len(visual.sizes)
        num_frames = len(states) // num_expressions
        # Sizes are (height, width), points (x, y).
        sizes_px = repeat(visual.sizes.flip(1), "e xy -> (e t) 1 xy", t=num_frames)
        # Without gradient: boxes learn from their own losses, not from the masks.
        centres_px = boxes_cxcywh[..., :2].detach() * sizes_px

        @torch.no_grad()
        def compute_masks() -> Tensor:
            patches = self.kernels.convolve(self.kernels(states), features, centres_px)
            return split_frames(shuffle(patches, visual.frame_size, stride=2), num_expressions)

        queries = QueryOutput(
            class_logits=split_frames(self.class_heads[layer](states), num_expressions)[..., 0],
            boxes_cxcywh=split_frames(boxes_cxcywh, num_expressions),
            compute_masks=compute_masks,
        )
        query_index = select(queries)

        # Only the chosen queries get kernels with a gradient and reach the mask optimizer.
        index = repeat(query_index.view(num_expressions, -1), "e k -> (e t) k 1", t=num_frames)
        patches = self.kernels.convolve(
            self.kernels(states.take_along_dim(index, 1)),
            features,
            centres_px.take_along_dim(index, 1),
        )
        refined = self._refine(patches, visual.details)
        # Losses look at both granularities, before and after the mask optimizer.
        low_masks = split_frames(shuffle(patches, visual.frame_size, stride=2), num_expressions)
        masks = split_frames(shuffle(refined, visual.frame_size, stride=1), num_expressions)
        if query_index.dim() == 1:  # one query an expression: no axis for it
            low_masks = low_masks.squeeze(2)
            masks = masks.squeeze(2)
        return LayerOutput(
            queries=queries,
            query_index=query_index,
            low_mask_logits=low_masks,
            mask_logits=masks,
        )

    def _refine(self, patches: Tensor, details: tuple[Tensor, Tensor]) -> Tensor:
        """Patch masks at stride 8 to stride 4, [E * T, K, 16, h, w]."""
        num_queries = patches.shape[1]
        quarter = repeat(details[0], "e t c h w -> (e t k) c h w", k=num_queries)
        eighth = repeat(details[1], "e t c h w -> (e t k) c h w", k=num_queries)
        refined = self.mask_optimizer(patches.flatten(0, 1), (quarter, eighth))
        return refined.unflatten(0, (-1, num_queries))


def make_projections(channels: Sequence[int], hidden: int) -> list[nn.Sequential]:
    """Backbone maps of strides 8, 16, 32 to `hidden` channels, and stride 64 from the last."""
    convolutions = [nn.Conv2d(stage_channels, hidden, 1) for stage_channels in channels[1:]]
    convolutions.append(nn.Conv2d(channels[-1], hidden, 3, stride=2, padding=1))
    for convolution in convolutions:
        nn.init.xavier_uniform_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
    return [
        nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, hidden))
        for convolution in convolutions
    ]


def split_frames(x: Tensor, num_expressions: int) -> Tensor:
    """[E * T, ...] to [E, T, ...]."""
    return rearrange(x, "(e t) ... -> e t ...", e=num_expressions)


def shuffle(patches: Tensor, frame_size: tuple[int, int], *, stride: int) -> Tensor:
    """Patch masks to masks of pixels.

    Args:
        patches: [..., 16, h, w].
        frame_size: Padded (height, width) in pixels.
        stride: That of the masks, a quarter of that of the patches.

    Returns:
        [..., H / stride, W / stride].
    """
    height, width = frame_size
    masks = F.pixel_shuffle(patches, PATCH_PX).squeeze(-3)
    # Whole cells may reach beyond the frame.
    return masks[..., : height // stride, : width // stride]


def check_inputs(frames: Tensor, padding: Tensor) -> None:
    """Refuse frames and padding that do not fit the network or each other.

    Raises:
        ValueError: A shape or type is wrong, or the frames are too small.
    """
    if frames.dim() != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames {list(frames.shape)}: must be [B, T, 3, H, W]")
    clips, _, _, height, width = frames.shape
    if padding.shape != (clips, height, width) or padding.dtype != torch.bool:
        raise ValueError(
            f"padding {list(padding.shape)} {padding.dtype}: must be bool [B, H, W] like frames "
            f"{list(frames.shape)}"
        )
    if min(height, width) < MIN_SIDE_PX:
        raise ValueError(
            f"frames of {height}x{width} pixels: at least {MIN_SIDE_PX} a side are needed (the "
            f"stride-{LAST_STRIDE_PX} map must have {MIN_SIDE_CELLS}x{MIN_SIDE_CELLS} cells); "
            "enlarge or pad them"
        )
