import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sgmg.network.deformable_attention import (
    DeformableAttention,
    sample,
    sample_by_bag,
    sample_by_grid,
)
from sgmg.network.deformable_transformer import DeformableTransformer, reference_grid
from sgmg.network.heads import box_head

SHAPES = ((9, 12), (5, 6), (3, 3))
CELLS = sum(h * w for h, w in SHAPES)

SampleFunction = Callable[..., Tensor]


def points(
    seed: int = 0, queries: int = 7, heads: int = 4, k: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(2, heads, 8, CELLS, generator=g)
    locations = torch.rand(2, queries, heads, len(SHAPES), k, 2, generator=g) * 2 - 0.5
    weights = torch.rand(2, queries, heads, len(SHAPES), k, generator=g)
    return values, locations, weights


def by_hand(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Bilinear reading, one point at a time."""
    n, s, m, levels, k, _ = locations.shape
    out = torch.zeros(n, s, m, values.shape[2])
    starts = [sum(h * w for h, w in SHAPES[:i]) for i in range(levels)]
    for index in torch.cartesian_prod(*map(torch.arange, (n, s, m, levels, k))).tolist():
        i, q, head, level, point = index
        h, w = SHAPES[level]
        x, y = (float(v) for v in locations[i, q, head, level, point])
        x, y = x * w - 0.5, y * h - 0.5
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                if 0 <= column < w and 0 <= row < h:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    cell = values[i, head, :, starts[level] + row * w + column]
                    out[i, q, head] += share * weights[i, q, head, level, point] * cell
    return out.flatten(2)


@pytest.mark.parametrize("sample_function", [sample_by_grid, sample_by_bag, sample])
def test_sampling_is_bilinear_with_zeros_outside(sample_function: SampleFunction) -> None:
    values, locations, weights = points(queries=3)
    actual = sample_function(values, SHAPES, locations, weights)
    assert torch.allclose(actual, by_hand(values, locations, weights), atol=1e-5)


def test_sampling_far_outside_is_zero() -> None:
    values, locations, weights = points()
    for shift in (-3.0, 3.0, 1e6):
        for sample_function in (sample_by_grid, sample_by_bag):
            assert sample_function(values, SHAPES, locations * 0 + shift, weights).abs().max() == 0


def test_both_ways_agree_in_gradients_too() -> None:
    gradients = []
    for sample_function in (sample_by_grid, sample_by_bag):
        inputs = [x.requires_grad_() for x in points()]
        sample_function(inputs[0], SHAPES, inputs[1], inputs[2]).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-4)


def test_start_is_a_ring_of_equal_points() -> None:
    attention = DeformableAttention(32, heads=4, levels=3, points=2)
    query = torch.randn(1, 5, 32)
    locations, weights = attention.sample_points(query, torch.full((1, 5, 3, 2), 0.5), SHAPES)
    assert torch.allclose(weights, torch.full_like(weights, 1 / 6))
    h, w = SHAPES[0]
    away = (locations - 0.5)[0, 0, :, 0] * torch.tensor([w, h])
    assert torch.allclose(away.abs().amax(-1), torch.tensor([[1.0, 2.0]] * 4), atol=1e-5)
    assert torch.allclose(away[0, 0], torch.tensor([1.0, 0.0]), atol=1e-5)
    assert torch.allclose(away[1, 0], torch.tensor([0.0, 1.0]), atol=1e-5)


def test_points_stay_float32_under_autocast() -> None:
    attention = DeformableAttention(32, heads=4, levels=3, points=2)
    nn.init.normal_(attention.attention_weights.weight)
    arguments = (torch.randn(2, 5, 32), torch.rand(2, 5, 3, 2), torch.randn(2, CELLS, 32))
    padding = torch.zeros(2, CELLS, dtype=torch.bool)
    exact = attention(*arguments, SHAPES, padding)
    with torch.autocast("cpu", torch.bfloat16):
        locations, weights = attention.sample_points(*arguments[:2], SHAPES)
        rough = attention(*arguments, SHAPES, padding)
    assert locations.dtype == weights.dtype == torch.float32
    assert rough.dtype == torch.bfloat16
    assert torch.allclose(rough.float(), exact, atol=0.05)


def test_padded_cells_count_as_zero() -> None:
    attention = DeformableAttention(32, heads=4, levels=3, points=2)
    query = torch.randn(1, 5, 32)
    references = torch.rand(1, 5, 3, 2)
    padding = torch.zeros(1, CELLS, dtype=torch.bool)
    padding[:, 40:] = True
    values = torch.randn(1, CELLS, 32)
    changed = values.masked_fill(padding[..., None], 7.0)
    a, b = (attention(query, references, v, SHAPES, padding) for v in (values, changed))
    assert torch.equal(a, b)


def test_reference_grid_is_cell_centres_in_the_unpadded_part() -> None:
    ratios = torch.tensor([[[1.0, 1.0]] * 3, [[0.5, 1.0]] * 3])
    grid = reference_grid(SHAPES, ratios)
    assert grid.shape == (2, CELLS, 3, 2)
    assert torch.allclose(grid[0, 0, 0], torch.tensor([0.5 / 12, 0.5 / 9]))
    assert torch.allclose(grid[0, 11, 1], torch.tensor([11.5 / 12, 0.5 / 9]))
    # half the columns are padding: still the same place of the padded map on every level
    assert torch.allclose(grid[1], grid[0])


def transformer() -> DeformableTransformer:
    torch.manual_seed(0)
    return DeformableTransformer(
        32,
        heads=4,
        levels=3,
        points=2,
        feedforward=48,
        encoder_layers=2,
        decoder_layers=2,
        dropout=0.1,
    ).eval()


def levels(clips: int = 2, frames: int = 3) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    maps = [torch.randn(clips, frames, 32, h, w) for h, w in SHAPES]
    positions = [torch.randn(clips, 32, h, w) for h, w in SHAPES]
    padding = [torch.zeros(clips, h, w, dtype=torch.bool) for h, w in SHAPES]
    for p in padding:
        p[1, :, -1] = True
    return maps, positions, padding


def test_encoding_a_few_frames_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = transformer()
    arguments = levels()
    whole = module.encode(*arguments)
    monkeypatch.setattr("sgmg.network.deformable_transformer.TOKENS_AT_ONCE", {"cpu": 2 * CELLS})
    with torch.no_grad():
        split = module.encode(*arguments)
    assert torch.allclose(whole.tokens, split.tokens, atol=1e-5)
    assert split.tokens.shape == (6, CELLS, 32)
    assert [tuple(m.shape) for m in split.maps()] == [(6, 32, h, w) for h, w in SHAPES]


def test_boxes_are_refined_and_send_no_gradient_back() -> None:
    module = transformer()
    heads = [box_head(32, first=i == 0) for i in range(2)]
    queries = torch.randn(4, 32)
    content = torch.randn(6, 4, 32)
    decoded = module.decode(module.encode(*levels()), content, queries, heads)
    # new heads change nothing but the size of the first boxes
    assert torch.allclose(decoded.boxes_cxcywh[0][..., :2], decoded.first_references, atol=1e-4)
    size = torch.full((6, 4, 2), -2.0).sigmoid()
    assert torch.allclose(decoded.boxes_cxcywh[0][..., 2:], size)
    assert torch.allclose(decoded.boxes_cxcywh[1], decoded.boxes_cxcywh[0], atol=1e-4)
    decoded.boxes_cxcywh[1].sum().backward()
    assert heads[0].matrices()[-1].bias.grad is None
    assert heads[1].matrices()[-1].bias.grad is not None
