"""Deformable encoder and box-refining decoder; every frame by itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from sgmg.network.deformable_attention import DeformableAttention, Shapes
from sgmg.network.heads import inverse_sigmoid

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}  # encoded together where no gradient is wanted


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a two-layer perceptron; post-norm."""

    def __init__(self, hidden: int, *, feedforward: int, dropout: float, **attention: int) -> None:
        """Build the layer; sizes as in `DeformableTransformer`."""
        super().__init__()
        self.self_attn = DeformableAttention(hidden, **attention)
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

    def __init__(self, hidden: int, *, feedforward: int, dropout: float, **attention: int) -> None:
        """Build the layer; sizes as in `DeformableTransformer`."""
        super().__init__()
        self.cross_attn = DeformableAttention(hidden, **attention)
        self.norm1 = nn.LayerNorm(hidden)
        heads = attention["heads"]
        self.self_attn = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden)
        self.linear1 = nn.Linear(hidden, feedforward)
        self.linear2 = nn.Linear(feedforward, hidden)
        self.norm3 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, references: Tensor, memory: "Memory") -> Tensor:
        """Update queries.

        Args:
            x: queries [N, Q, C].
            positions: their position embedding [N, Q, C].
            references: on each level [N, Q, L, 2 | 4], normalised by the padded level.
            memory: encoded maps of the N frames.

        Returns:
            [N, Q, C].
        """
        placed = x + positions
        x = self.norm2(x + self.dropout(self.self_attn(placed, placed, x, need_weights=False)[0]))
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
        valid_ratios: unpadded share (x, y) of each level, [N, L, 2].
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    padding: Tensor
    valid_ratios: Tensor

    def maps(self) -> list[Tensor]:
        """The levels as maps [N, C, h, w]."""
        parts = self.tokens.split([h * w for h, w in self.shapes], 1)
        return [
            rearrange(part, "n (h w) c -> n c h w", h=h)
            for part, (h, _) in zip(parts, self.shapes, strict=True)
        ]


@dataclass(frozen=True)
class Decoded:
    """What the decoder made of the queries of N frames.

    Attributes:
        states: query features of each layer [N, Q, C].
        boxes_cxcywh: refined boxes of each layer [N, Q, 4].
        first_references: the points the first layer started from [N, Q, 2].
    """

    states: tuple[Tensor, ...]
    boxes_cxcywh: tuple[Tensor, ...]
    first_references: Tensor


class _Layers(nn.Module):
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
            hidden: channels C.
            heads: attention heads.
            levels: maps L of different stride.
            points: sampling points of a head on each map.
            feedforward: channels inside the perceptrons.
            encoder_layers: layers that update the maps.
            decoder_layers: layers that update the queries.
            dropout: rate after each sublayer and inside the perceptrons.
        """
        super().__init__()
        sizes: dict[str, Any] = {"heads": heads, "levels": levels, "points": points}
        sizes |= {"feedforward": feedforward, "dropout": dropout}
        self.encoder = _Layers(EncoderLayer(hidden, **sizes) for _ in range(encoder_layers))
        self.decoder = _Layers(DecoderLayer(hidden, **sizes) for _ in range(decoder_layers))
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
                module.reset_parameters()
        nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embed)

    def encode(
        self, maps: Sequence[Tensor], positions: Sequence[Tensor], padding: Sequence[Tensor]
    ) -> Memory:
        """Let every cell of every level look at all levels of its frame.

        Args:
            maps: a level each, [E, T, C, h, w].
            positions: [E, C, h, w] a level, the same for all frames of a clip.
            padding: bool [E, h, w] a level, True on padded cells.

        Returns:
            Memory of N = E * T frames.
        """
        frames = maps[0].shape[1]
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        tokens = torch.cat([rearrange(m, "e t c h w -> (e t) (h w) c") for m in maps], 1)
        placed = [
            rearrange(p, "e c h w -> e (h w) c") + embed
            for p, embed in zip(positions, self.level_embed, strict=True)
        ]
        ratios = torch.stack([_valid_ratio(p) for p in padding], 1)
        references = reference_grid(shapes, ratios)
        unseen = torch.cat([p.flatten(1) for p in padding], 1)
        position, references, unseen, ratios = (
            repeat(x, "e ... -> (e t) ...", t=frames)
            for x in (torch.cat(placed, 1), references, unseen, ratios)
        )
        # Frames do not see each other: without gradients, a few at a time fit cache and memory.
        at_once = len(tokens)
        if not torch.is_grad_enabled():
            at_once = max(1, TOKENS_AT_ONCE.get(tokens.device.type, at_once) // tokens.shape[1])
        parts = [x.split(at_once) for x in (tokens, position, references, unseen)]
        encoded = [self._encode(x, p, r, shapes, u) for x, p, r, u in zip(*parts, strict=True)]
        return Memory(torch.cat(encoded), shapes, unseen, ratios)

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
            memory: encoded maps of N frames.
            content: what the queries start as, [N, Q, C].
            positions: learned embedding of the queries, [Q, C].
            box_heads: one a layer, [..., C] to a change of box in logit space [..., 4].

        Returns:
            States and boxes of every layer; a layer's boxes send no gradient to earlier boxes.
        """
        positions = positions.expand_as(content)
        references = first = self.reference_points(positions).float().sigmoid()
        x, states, boxes = content, [], []
        for layer, box_head in zip(self.decoder.layers, box_heads, strict=True):
            ratios = memory.valid_ratios[:, None].tile(references.shape[-1] // 2)
            x = layer(x, positions, references[:, :, None] * ratios, memory)
            logits = F.pad(inverse_sigmoid(references), (0, 4 - references.shape[-1]))
            states.append(x)
            boxes.append((box_head(x).float() + logits).sigmoid())
            references = boxes[-1].detach()
        return Decoded(tuple(states), tuple(boxes), first)


def reference_grid(shapes: Shapes, valid_ratios: Tensor) -> Tensor:
    """Cell centres of all levels, as points on every level.

    Args:
        shapes: (h, w) of each level.
        valid_ratios: unpadded share (x, y) of each level, [E, L, 2].

    Returns:
        [E, sum(h * w), L, 2]; (1, 1) is the bottom right corner of a padded level.
    """
    grids = []
    for level, (h, w) in enumerate(shapes):
        y, x = (
            (torch.arange(n, device=valid_ratios.device, dtype=torch.float32) + 0.5) / n
            for n in (h, w)
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        grids.append(grid / valid_ratios[:, level, None])
    return torch.cat(grids, 1)[:, :, None] * valid_ratios[:, None]


def _valid_ratio(padding: Tensor) -> Tensor:
    """Unpadded share (x, y) of a level with padding [E, h, w] at the bottom and right."""
    return torch.stack([(~padding[:, 0]).float().mean(1), (~padding[:, :, 0]).float().mean(1)], -1)
