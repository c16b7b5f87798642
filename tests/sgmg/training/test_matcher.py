from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sgmg.network.outputs import QueryOutput
from sgmg.training.matcher import Matcher, Weights
from sgmg.training.targets import Targets

NO_WEIGHTS = Weights(label=0, box=0, giou=0, mask=0, dice=0)


def square_targets() -> Targets:
    """Two expressions, three frames of 16x16; the object of the first is absent in frame 1."""
    masks = torch.zeros(2, 3, 16, 16, dtype=torch.bool)
    masks[0, :, 4:8, 4:12] = True
    masks[1, :, 8:16, 0:4] = True
    boxes_px = torch.tensor([[8, 6, 8, 4], [2, 12, 4, 8]])
    boxes = boxes_px.div(16)[:, None].repeat(1, 3, 1)
    masks[0, 1] = False
    boxes[0, 1] = 0
    return Targets(masks=masks, boxes_cxcywh=boxes, visible=masks.flatten(2).any(-1))


def guesses(num_queries: int, seed: int = 0) -> QueryOutput:
    """Random queries for `square_targets`."""
    generator = torch.Generator().manual_seed(seed)
    low_mask_logits = torch.randn(2, 3, num_queries, 8, 8, generator=generator)
    return QueryOutput(
        class_logits=torch.randn(2, 3, num_queries, generator=generator),
        boxes_cxcywh=torch.rand(2, 3, num_queries, 4, generator=generator) * 0.5 + 0.2,
        compute_masks=lambda: low_mask_logits,
    )


def perfect(queries: QueryOutput, targets: Targets, query_index: tuple[int, int]) -> QueryOutput:
    """Give one query of each expression the target's boxes and masks."""
    for expression, query in enumerate(query_index):
        queries.boxes_cxcywh[expression, :, query] = targets.boxes_cxcywh[expression]
        masks = targets.masks[expression, :, 1::2, 1::2]
        queries.low_mask_logits[expression, :, query] = masks * 20.0 - 10
    return queries


def test_the_query_that_has_box_and_mask_is_selected() -> None:
    targets = square_targets()
    assert Matcher()(perfect(guesses(5), targets, (3, 1)), targets).tolist() == [3, 1]


def test_one_query_is_selected_without_looking_at_masks() -> None:
    def forbidden() -> Tensor:
        raise AssertionError("drawn for nothing")

    queries = replace(guesses(1), compute_masks=forbidden)
    assert Matcher()(queries, square_targets()).tolist() == [0, 0]


def test_class_counts_only_frames_with_the_object() -> None:
    targets = square_targets()
    queries = guesses(4)
    matcher = Matcher(replace(NO_WEIGHTS, label=1))
    before = matcher.costs(queries, targets)
    queries.class_logits[0, 1] += 50  # frame without the object
    torch.testing.assert_close(matcher.costs(queries, targets), before)
    queries.class_logits[0, 0, 2] += 50
    changed = matcher.costs(queries, targets) != before
    assert changed.tolist() == [[False, False, True, False], [False] * 4]


@pytest.mark.parametrize("term", ["box", "giou", "mask", "dice"])
def test_boxes_and_masks_count_every_frame(term: str) -> None:
    targets = square_targets()
    queries = guesses(3)
    matcher = Matcher(replace(NO_WEIGHTS, **{term: 1.0}))
    before = matcher.costs(queries, targets)
    queries.boxes_cxcywh[0, 1] += 0.1
    queries.low_mask_logits[0, 1] += 3
    changed = matcher.costs(queries, targets) != before
    assert changed.tolist() == [[True] * 3, [False] * 3]


def test_a_clip_that_never_shows_the_object_has_finite_costs() -> None:
    targets = square_targets()
    empty = Targets(
        masks=torch.zeros_like(targets.masks),
        boxes_cxcywh=torch.zeros_like(targets.boxes_cxcywh),
        visible=torch.zeros_like(targets.visible),
    )
    assert torch.isfinite(Matcher().costs(guesses(3), empty)).all()


def test_a_large_class_weight_lets_the_score_decide() -> None:
    targets = square_targets()
    queries = perfect(guesses(5), targets, (3, 1))
    queries.class_logits[:, :, 0] = 4
    assert Matcher(Weights(label=200))(queries, targets).tolist() == [0, 0]


def test_costs_are_float32_under_autocast() -> None:
    targets = square_targets()
    queries = guesses(3)
    low_mask_logits = queries.low_mask_logits.bfloat16()

    def as_type(dtype: torch.dtype) -> QueryOutput:
        """The same numbers, which bfloat16 can hold, in either type."""
        return QueryOutput(
            queries.class_logits.bfloat16().to(dtype),
            queries.boxes_cxcywh.bfloat16().to(dtype),
            lambda: low_mask_logits.to(dtype),
        )

    with torch.autocast("cpu", dtype=torch.bfloat16):
        costs = Matcher().costs(as_type(torch.bfloat16), targets)
    assert costs.dtype == torch.float32
    assert torch.equal(costs, Matcher().costs(as_type(torch.float32), targets))
