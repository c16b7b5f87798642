"""Multi-scale deformable attention without a compiled operator."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]  # (h, w) of each level


class DeformableAttention(nn.Module):
    """Each query looks at a few learned points of every level.

    Paper: Zhu et al., Deformable DETR, Eq. (3).
    """

    def __init__(self, hidden: int, *, heads: int, levels: int, points: int) -> None:
        """Build the four projections.

        Args:
            hidden: Channels C of queries and values.
            heads: Heads M, a divisor of `hidden`.
            levels: Maps L that are read.
            points: Points K of a head on each map.
        """
        super().__init__()
        self.heads = heads
        self.levels = levels
        self.points = points
        self.sampling_offsets = nn.Linear(hidden, heads * levels * points * 2)
        self.attention_weights = nn.Linear(hidden, heads * levels * points)
        self.value_proj = nn.Linear(hidden, hidden)
        self.output_proj = nn.Linear(hidden, hidden)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with points on rings around the reference, all equally weighted."""
        nn.init.zeros_(self.sampling_offsets.weight)
        # One direction a head, one ring a point, in cells of the level.
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        radii = torch.arange(1, self.points + 1)
        rings = directions[:, None, None] * radii[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(rings.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, references: Tensor, values: Tensor, shapes: Shapes, padding: Tensor
    ) -> Tensor:
        """Attend to `values` around `references`.

        Args:
            query: [N, S, C].
            references: Points [N, S, L, 2] or boxes cxcywh [N, S, L, 4], normalised to each level.
            values: The levels one behind another, row by row, [N, sum(h * w), C].
            shapes: (h, w) of each level.
            padding: bool [N, sum(h * w)], True on cells that count as zero.

        Returns:
            [N, S, C].

        Paper: Deformable DETR, Eq. (3).
        """
        locations, weights = self.sample_points(query, references, shapes)
        # Behind the projection, whose bias would make padded cells differ from zero.
        values = self.value_proj(values).masked_fill(padding[..., None], 0)
        values = rearrange(values, "n s (m c) -> n m c s", m=self.heads)
        return self.output_proj(sample(values, shapes, locations, weights))

    def sample_points(
        self, query: Tensor, references: Tensor, shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        """Where to look and how much each point counts, in float32 whatever the autocast type.

        Returns:
            Locations (x, y) [N, S, M, L, K, 2], (0, 0) = top left corner, (1, 1) = bottom right
            corner of the level, and weights [N, S, M, L, K] that sum to one over L and K.
        """
        references_are_points = references.shape[-1] == 2
        offsets = self.sampling_offsets(query).float()
        if references_are_points:
            sizes = offsets.new_tensor([(w, h) for h, w in shapes])
            offsets = offsets / repeat(sizes, "l xy -> (m l k xy)", m=self.heads, k=self.points)
        offsets = rearrange(
            offsets, "n s (m l k xy) -> n s m l k xy", m=self.heads, l=self.levels, xy=2
        )

        logits = rearrange(
            self.attention_weights(query).float(), "n s (m lk) -> n s m lk", m=self.heads
        )
        weights = logits.softmax(-1).unflatten(-1, (self.levels, self.points))

        anchors = references.float()[:, :, None, :, None]
        if references_are_points:
            return anchors + offsets, weights
        # Around a box, offsets count in halves of its sides, a K-th of that for each of K rings.
        return anchors[..., :2] + offsets / self.points * anchors[..., 2:] * 0.5, weights


def sample(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples; outside a level there is zero.

    Args:
        values: [N, M, C, sum(h * w)].
        shapes: (h, w) of each level.
        locations: float32 [N, S, M, L, K, 2].
        weights: float32 [N, S, M, L, K].

    Returns:
        [N, S, M * C] in the type of `values`.
    """
    if values.device.type == "cpu" and not torch.is_grad_enabled():
        sampled = sample_by_bag(values.float(), shapes, locations, weights)
    else:
        sampled = sample_by_grid(values.float(), shapes, locations, weights)
    return sampled.to(values.dtype)


def sample_by_grid(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample` as one `grid_sample` a level: fastest on a GPU and with gradients."""
    # `grid_sample` counts from -1 to 1 where locations count from 0 to 1.
    grid = rearrange(locations * 2 - 1, "n s m l k xy -> l (n m) k s xy")
    weights = rearrange(weights, "n s m l k -> l (n m) 1 k s")
    maps = values.flatten(0, 1).split([h * w for h, w in shapes], dim=-1)
    total = torch.zeros((), device=values.device)
    for level, (h, w) in enumerate(shapes):
        image = maps[level].unflatten(-1, (h, w))
        sampled = F.grid_sample(image, grid[level], align_corners=False)  # [(n m), c, k, s]
        total = total + (sampled * weights[level]).sum(2)
    return rearrange(total, "(n m) c s -> n s (m c)", n=len(values))


def sample_by_bag(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample` as one weighted `embedding_bag` of the four cells around each point.

    Reads whole channel rows, which makes it about twice as fast on a CPU; its gradient is not.
    """
    batch, heads, _, num_cells = values.shape
    sizes = locations.new_tensor([(w, h) for h, w in shapes])
    width, height = sizes.T[..., None]
    x, y = (locations * sizes[:, None] - 0.5).unbind(-1)
    columns = neighbour_cells(x, width)
    rows = neighbour_cells(y, height)

    # The table of embeddings is all cells of all items and heads, one behind another. An index of
    # int32 takes half the memory of one of int64.
    level_start = F.pad((width * height).cumsum(0)[:-1], (0, 0, 1, 0)).int()
    head_start = torch.arange(batch * heads, device=values.device, dtype=torch.int32) * num_cells
    start = rearrange(head_start, "(n m) -> n 1 m 1 1", m=heads) + level_start

    indices = []
    cell_weights = []
    for row, row_weight in rows:
        for column, column_weight in columns:
            indices.append(start + row * width.int() + column)
            cell_weights.append(row_weight * column_weight * weights)
    sampled = F.embedding_bag(
        rearrange(torch.stack(indices, 3), "n s m z l k -> (n s m) (z l k)"),
        rearrange(values, "n m c s -> (n m s) c"),
        per_sample_weights=rearrange(
            torch.stack(cell_weights, 3), "n s m z l k -> (n s m) (z l k)"
        ),
        mode="sum",
    )
    return rearrange(sampled, "(n s m) c -> n s (m c)", n=batch, m=heads)


def neighbour_cells(position: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two cells around `position` along one axis, and the weight of each (zero outside).

    Args:
        position: In cells, 0 at the centre of the first.
        size: Cells of the level along this axis.

    Returns:
        Two pairs of int32 cells within the level and float32 weights.
    """
    lower = position.floor()
    neighbours = []
    for cell in (lower, lower + 1):
        is_inside = (cell >= 0) & (cell < size)
        weight = (1 - (position - cell).abs()) * is_inside
        # Far outside, the cell must still be one of the table: its weight is zero.
        neighbours.append((cell.clamp(min=0).minimum(size - 1).int(), weight))
    return neighbours
