from dataclasses import replace

import pytest
import torch

from sgmg.network.outputs import QueryOutput
from sgmg.training.matcher import Matcher, Weights
from sgmg.training.targets import Targets


def square_targets() -> Targets:
    """Two expressions, three frames of 16x16; the object of the first is absent in frame 1."""
    masks = torch.zeros(2, 3, 16, 16, dtype=torch.bool)
    masks[0, :, 4:8, 4:12] = True
    masks[1, :, 8:16, 0:4] = True
    boxes = torch.tensor([[8, 6, 8, 4], [2, 12, 4, 8]]).div(16)[:, None].repeat(1, 3, 1)
    masks[0, 1], boxes[0, 1] = False, 0
    return Targets(masks=masks, boxes_cxcywh=boxes, visible=masks.flatten(2).any(-1))


def guesses(queries: int, seed: int = 0) -> QueryOutput:
    g = torch.Generator().manual_seed(seed)
    low = torch.randn(2, 3, queries, 8, 8, generator=g)
    return QueryOutput(
        class_logits=torch.randn(2, 3, queries, generator=g),
        boxes_cxcywh=torch.rand(2, 3, queries, 4, generator=g) * 0.5 + 0.2,
        compute_masks=lambda: low,
    )


def perfect(layer: QueryOutput, targets: Targets, queries: tuple[int, int]) -> QueryOutput:
    for e, q in enumerate(queries):
        layer.boxes_cxcywh[e, :, q] = targets.boxes_cxcywh[e]
        layer.low_mask_logits[e, :, q] = targets.masks[e, :, 1::2, 1::2] * 20.0 - 10
    return layer


def test_the_query_that_has_box_and_mask_is_selected() -> None:
    targets = square_targets()
    assert Matcher()(perfect(guesses(5), targets, (3, 1)), targets).tolist() == [3, 1]


def test_one_query_is_selected_without_looking_at_masks() -> None:
    def forbidden() -> torch.Tensor:
        raise AssertionError("drawn for nothing")

    layer = replace(guesses(1), compute_masks=forbidden)
    assert Matcher()(layer, square_targets()).tolist() == [0, 0]


def test_class_counts_only_frames_with_the_object() -> None:
    targets, layer, only_class = square_targets(), guesses(4), Weights(1, 0, 0, 0, 0)
    before = Matcher(only_class).costs(layer, targets)
    layer.class_logits[0, 1] += 50  # frame without the object
    torch.testing.assert_close(Matcher(only_class).costs(layer, targets), before)
    layer.class_logits[0, 0, 2] += 50
    changed = Matcher(only_class).costs(layer, targets) != before
    assert changed.tolist() == [[False, False, True, False], [False] * 4]


@pytest.mark.parametrize("term", ["box", "giou", "mask", "dice"])
def test_boxes_and_masks_count_every_frame(term: str) -> None:
    targets, layer = square_targets(), guesses(3)
    matcher = Matcher(replace(Weights(0, 0, 0, 0, 0), **{term: 1.0}))
    before = matcher.costs(layer, targets)
    layer.boxes_cxcywh[0, 1] += 0.1
    layer.low_mask_logits[0, 1] += 3
    assert (matcher.costs(layer, targets) != before).tolist() == [[True] * 3, [False] * 3]


def test_a_clip_that_never_shows_the_object_has_finite_costs() -> None:
    targets = square_targets()
    empty = Targets(*(torch.zeros_like(x) for x in vars(targets).values()))
    assert torch.isfinite(Matcher().costs(guesses(3), empty)).all()


def test_a_large_class_weight_lets_the_score_decide() -> None:
    targets = square_targets()
    layer = perfect(guesses(5), targets, (3, 1))
    layer.class_logits[:, :, 0] = 4
    assert Matcher(Weights(label=200))(layer, targets).tolist() == [0, 0]


def test_costs_are_float32_under_autocast() -> None:
    targets = square_targets()
    narrow, low = guesses(3), guesses(3).low_mask_logits.bfloat16()

    def as_type(dtype: torch.dtype) -> QueryOutput:
        logits, boxes = narrow.class_logits.bfloat16(), narrow.boxes_cxcywh.bfloat16()
        return QueryOutput(logits.to(dtype), boxes.to(dtype), lambda: low.to(dtype))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        costs = Matcher().costs(as_type(torch.bfloat16), targets)
    assert costs.dtype == torch.float32
    assert torch.equal(costs, Matcher().costs(as_type(torch.float32), targets))
