"""Records that the network hands out: plain and frozen, with no targets and no data sets."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisualFeatures:
    """Everything of B clips that does not depend on an expression (made by `SgMg.encode_video`).

    Attributes:
        levels: Four maps [B, T, C, h, w], strides 8, 16, 32, 64, after the first spectral filter.
        gaussians: The Gaussian of each level [1, 1, h, w].
        padding: bool [B, h, w] a level, True on padded cells.
        positions: Sine positions [B, C, h, w] a level.
        details: What the mask optimizer sees of the raw backbone maps of strides 4 and 8,
            [B, T, 16, h, w] each.
        sizes: Unpadded (height, width) of the frames in pixels, int64 [B, 2].
        frame_size: Padded (height, width) in pixels.
    """

    levels: tuple[Tensor, ...]
    gaussians: tuple[Tensor, ...]
    padding: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    details: tuple[Tensor, Tensor]
    sizes: Tensor
    frame_size: tuple[int, int]

    def select_clips(self, clip_index: Tensor) -> "VisualFeatures":
        """Features of the clips `clip_index` [E] names, in that order (repeats allowed)."""
        quarter, eighth = self.details
        return VisualFeatures(
            levels=tuple(level[clip_index] for level in self.levels),
            gaussians=self.gaussians,
            padding=tuple(level[clip_index] for level in self.padding),
            positions=tuple(level[clip_index] for level in self.positions),
            details=(quarter[clip_index], eighth[clip_index]),
            sizes=self.sizes[clip_index],
            frame_size=self.frame_size,
        )


@dataclass(frozen=True)
class QueryOutput:
    """Every query of one decoder layer: what a `select` function sees.

    Attributes:
        class_logits: [E, T, Q], object or not.
        boxes_cxcywh: [E, T, Q, 4], normalised by the unpadded frame.
        compute_masks: Computes `low_mask_logits`; called at most once, and only on demand.
    """

    class_logits: Tensor
    boxes_cxcywh: Tensor
    compute_masks: Callable[[], Tensor] = field(repr=False)
    _cached_masks: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @property
    def low_mask_logits(self) -> Tensor:
        """Masks of all queries before the mask optimizer, [E, T, Q, H / 2, W / 2].

        Computed on first use and without gradient: they serve to choose, not to learn.
        """
        # No `cached_property`: its lock breaks a compiled graph in Python 3.11.
        if not self._cached_masks:
            self._cached_masks.append(self.compute_masks())
        return self._cached_masks[0]


Select = Callable[[QueryOutput], Tensor]
"""Chooses queries: int64 [E] (one an expression) or [E, K] (K an expression)."""


@dataclass(frozen=True)
class LayerOutput:
    """One decoder layer: all queries, and the masks of the selected ones.

    Attributes:
        queries: Class scores and boxes of all queries.
        query_index: The queries that `select` chose, int64 [E] or [E, K].
        low_mask_logits: [E, T, H / 2, W / 2] before the mask optimizer ([E, T, K, ...] for K).
        mask_logits: [E, T, H, W] at padded input resolution ([E, T, K, H, W] for K queries).
    """

    queries: QueryOutput
    query_index: Tensor
    low_mask_logits: Tensor
    mask_logits: Tensor


@dataclass(frozen=True)
class SgMgOutput:
    """Output of the network for E expressions.

    Attributes:
        layers: Decoder layers, earliest first; only the last unless every layer was asked for.
    """

    layers: tuple[LayerOutput, ...]

    @property
    def queries(self) -> QueryOutput:
        """All queries of the last layer."""
        return self.layers[-1].queries

    @property
    def query_index(self) -> Tensor:
        """Index of the selected query of the last layer, [E] or [E, K]."""
        return self.layers[-1].query_index

    @property
    def mask_logits(self) -> Tensor:
        """Masks of the last layer's selected query, [E, T, H, W] or [E, T, K, H, W]."""
        return self.layers[-1].mask_logits


def best_query(queries: QueryOutput) -> Tensor:
    """Query with the highest class score averaged over the frames, [E]."""
    scores = queries.class_logits.float().sigmoid()
    return scores.mean(1).argmax(-1)


def every_query(queries: QueryOutput) -> Tensor:
    """All queries [E, Q], for the benchmarks that rank them."""
    num_expressions, _, num_queries = queries.class_logits.shape
    all_queries = torch.arange(num_queries, device=queries.class_logits.device)
    return all_queries.expand(num_expressions, num_queries)
