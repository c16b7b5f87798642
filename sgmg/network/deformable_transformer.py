"""Deformable encoder and box-refining decoder; they treat every frame by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from sgmg.network.deformable_attention import DeformableAttention, Shapes
from sgmg.network.heads import inverse_sigmoid

# Tokens that are encoded together where no gradient is wanted, by type of device: few enough for
# the caches of a CPU and the memory of a GPU.
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a two-layer perceptron; post-norm."""

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        levels: int,
        points: int,
        feedforward: int,
        dropout: float,
    ) -> None:
        """Build the layer; sizes as in `DeformableTransformer`."""
        super().__init__()
        self.self_attn = DeformableAttention(hidden, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(hidden)
        self.linear1 = nn.Linear(hidden, feedforward)
        self.linear2 = nn.Linear(feedforward, hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, references: Tensor, shapes: Shapes, padding: Tensor
    ) -> Tensor:
        """Update tokens [N, S, C]; arguments as in `DeformableAttention.forward`."""
        attended = self.self_attn(x + positions, references, x, shapes, padding)
        x = self.norm1(x + self.dropout(attended))
        inner = self.dropout(F.relu(self.linear1(x), inplace=True))
        return self.norm2(x + self.dropout(self.linear2(inner)))


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, perceptron; post-norm."""

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        levels: int,
        points: int,
        feedforward: int,
        dropout: float,
    ) -> None:
        """Build the layer; sizes as in `DeformableTransformer`."""
        super().__init__()
        self.cross_attn = DeformableAttention(hidden, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(hidden)
        self.self_attn = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden)
        self.linear1 = nn.Linear(hidden, feedforward)
        self.linear2 = nn.Linear(feedforward, hidden)
        self.norm3 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, references: Tensor, memory: "Memory") -> Tensor:
        """Update queries.

        Args:
            x: Queries [N, Q, C].
            positions: Their position embedding [N, Q, C].
            references: On each level [N, Q, L, 2 | 4], normalised by the padded level.
            memory: Encoded maps of the N frames.

        Returns:
            [N, Q, C].
        """
        # The published layer has self-attention first, though its norms are numbered the other way.
        positioned = x + positions
        attended, _ = self.self_attn(positioned, positioned, x, need_weights=False)
        x = self.norm2(x + self.dropout(attended))
        attended = self.cross_attn(
            x + positions, references, memory.tokens, memory.shapes, memory.padding
        )
        x = self.norm1(x + self.dropout(attended))
        inner = self.dropout(F.relu(self.linear1(x), inplace=True))
        return self.norm3(x + self.dropout(self.linear2(inner)))


@dataclass(frozen=True)
class Memory:
    """Encoded levels of N frames, one behind another.

    Attributes:
        tokens: [N, sum(h * w), C].
        shapes: (h, w) of each level.
        padding: bool [N, sum(h * w)], True on padded cells.
        valid_ratios: Unpadded share (x, y) of each level, [N, L, 2].
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    padding: Tensor
    valid_ratios: Tensor

    def maps(self) -> list[Tensor]:
        """The levels as maps [N, C, h, w]."""
        levels = self.tokens.split([h * w for h, w in self.shapes], 1)
        return [
            rearrange(level, "n (h w) c -> n c h w", h=h)
            for level, (h, _) in zip(levels, self.shapes, strict=True)
        ]


@dataclass(frozen=True)
class Decoded:
    """Output of the decoder for the queries of N frames.

    Attributes:
        states: Query features of each layer [N, Q, C].
        boxes_cxcywh: Refined boxes of each layer [N, Q, 4].
        first_references: The points that the first layer started from [N, Q, 2].
    """

    states: tuple[Tensor, ...]
    boxes_cxcywh: tuple[Tensor, ...]
    first_references: Tensor


class _Layers(nn.Module):
    """Gives layers the names `encoder.layers.0` ... that the published checkpoints have."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableTransformer(nn.Module):
    """Encoder over the fused maps and decoder of the queries.

    Paper: the transformer of Deformable DETR with box refinement.
    """

    def __init__(
        self,
        hidden: int,
        *,
        heads: int,
        levels: int,
        points: int,
        feedforward: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        """Build and initialise.

        Args:
            hidden: Channels C.
            heads: Attention heads.
            levels: Maps L of different stride.
            points: Sampling points of a head on each map.
            feedforward: Channels inside the perceptrons.
            encoder_layers: Layers that update the maps.
            decoder_layers: Layers that update the queries.
            dropout: Rate after each sublayer and inside the perceptrons.
        """
        super().__init__()
        self.encoder = _Layers(
            EncoderLayer(
                hidden,
                heads=heads,
                levels=levels,
                points=points,
                feedforward=feedforward,
                dropout=dropout,
            )
            for _ in range(encoder_layers)
        )
        self.decoder = _Layers(
            DecoderLayer(
                hidden,
                heads=heads,
                levels=levels,
                points=points,
                feedforward=feedforward,
                dropout=dropout,
            )
            for _ in range(decoder_layers)
        )
        self.level_embed = nn.Parameter(torch.empty(levels, hidden))
        self.reference_points = nn.Linear(hidden, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier for every matrix, Deformable DETR's start for the deformable attention."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()  # its zeros and rings, overwritten by Xavier above
        nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embed)

    def encode(
        self, maps: Sequence[Tensor], positions: Sequence[Tensor], padding: Sequence[Tensor]
    ) -> Memory:
        """Let every cell of every level look at all levels of its frame.

        Args:
            maps: A level each, [E, T, C, h, w].
            positions: [E, C, h, w] a level, the same for all frames of a clip.
            padding: bool [E, h, w] a level, True on padded cells.

        Returns:
            Memory of N = E * T frames.
        """
        num_frames = maps[0].shape[1]
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
        tokens = torch.cat([rearrange(level, "e t c h w -> (e t) (h w) c") for level in maps], 1)

        # Everything but the tokens is the same for all frames of a clip.
        level_positions = [
            rearrange(position, "e c h w -> e (h w) c") + level_embed
            for position, level_embed in zip(positions, self.level_embed, strict=True)
        ]
        clip_positions = torch.cat(level_positions, 1)
        clip_padding = torch.cat([level.flatten(1) for level in padding], 1)
        clip_ratios = torch.stack([valid_ratio(level) for level in padding], 1)
        clip_references = reference_grid(shapes, clip_ratios)
        token_positions = repeat(clip_positions, "e s c -> (e t) s c", t=num_frames)
        references = repeat(clip_references, "e s l xy -> (e t) s l xy", t=num_frames)
        token_padding = repeat(clip_padding, "e s -> (e t) s", t=num_frames)
        ratios = repeat(clip_ratios, "e l xy -> (e t) l xy", t=num_frames)

        # Frames do not see each other: without gradients, a few at a time fit cache and memory.
        frames_at_once = len(tokens)
        token_limit = TOKENS_AT_ONCE.get(tokens.device.type)
        if token_limit is not None and not torch.is_grad_enabled():
            frames_at_once = max(1, token_limit // tokens.shape[1])
        batches = zip(
            tokens.split(frames_at_once),
            token_positions.split(frames_at_once),
            references.split(frames_at_once),
            token_padding.split(frames_at_once),
            strict=True,
        )
        encoded = [
            self._encode(batch_tokens, batch_positions, batch_references, shapes, batch_padding)
            for batch_tokens, batch_positions, batch_references, batch_padding in batches
        ]
        return Memory(
            tokens=torch.cat(encoded),
            shapes=shapes,
            padding=token_padding,
            valid_ratios=ratios,
        )

    def _encode(
        self, tokens: Tensor, positions: Tensor, references: Tensor, shapes: Shapes, padding: Tensor
    ) -> Tensor:
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, references, shapes, padding)
        return tokens

    def decode(
        self, memory: Memory, content: Tensor, positions: Tensor, box_heads: Iterable[nn.Module]
    ) -> Decoded:
        """Turn queries into object features and boxes, layer by layer.

        Args:
            memory: Encoded maps of N frames.
            content: Features that the queries start with, [N, Q, C].
            positions: Learned embedding of the queries, [Q, C].
            box_heads: One a layer, [..., C] to a change of box in logit space [..., 4].

        Returns:
            States and boxes of every layer; a layer's boxes send no gradient to earlier boxes.

        Paper: Deformable DETR, "iterative bounding box refinement".
        """
        positions = positions.expand_as(content)
        first_references = self.reference_points(positions).float().sigmoid()
        references = first_references
        x = content
        states = []
        boxes = []
        for layer, box_head in zip(self.decoder.layers, box_heads, strict=True):
            # The first layer starts from points (x, y), each later one from boxes cxcywh: the
            # ratios of x and y serve centre and size, and points get the logits 0 for a size.
            coordinates = references.shape[-1]
            ratios = memory.valid_ratios[:, None].tile(coordinates // 2)
            x = layer(x, positions, references[:, :, None] * ratios, memory)
            reference_logits = F.pad(inverse_sigmoid(references), (0, 4 - coordinates))
            box = (box_head(x).float() + reference_logits).sigmoid()
            states.append(x)
            boxes.append(box)
            references = box.detach()
        return Decoded(
            states=tuple(states),
            boxes_cxcywh=tuple(boxes),
            first_references=first_references,
        )


def reference_grid(shapes: Shapes, valid_ratios: Tensor) -> Tensor:
    """Cell centres of all levels, as points on every level.

    Args:
        shapes: (h, w) of each level.
        valid_ratios: Unpadded share (x, y) of each level, [E, L, 2].

    Returns:
        [E, sum(h * w), L, 2]; (1, 1) is the bottom right corner of a padded level.
    """
    device = valid_ratios.device
    grids = []
    for level, (h, w) in enumerate(shapes):
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        grids.append(grid / valid_ratios[:, level, None])  # now (1, 1) ends the unpadded part
    # The unpadded part is a different share of each level, so a cell has a point on every level.
    return torch.cat(grids, 1)[:, :, None] * valid_ratios[:, None]


def valid_ratio(padding: Tensor) -> Tensor:
    """Unpadded share (x, y) of a level with padding [E, h, w] at the bottom and right."""
    first_row = padding[:, 0]
    first_column = padding[:, :, 0]
    return torch.stack([(~first_row).float().mean(1), (~first_column).float().mean(1)], -1)
