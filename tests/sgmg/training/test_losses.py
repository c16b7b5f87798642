from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sgmg.network.outputs import LayerOutput, QueryOutput, SgMgOutput
from sgmg.training.losses import (
    Criterion,
    NonFiniteLossError,
    count_visible,
    layer_terms,
    normaliser,
)
from sgmg.training.matcher import Weights
from sgmg.training.targets import Targets
from tests.sgmg.training.test_matcher import guesses, perfect, square_targets

WEIGHTS = {"class": 2, "box": 5, "giou": 2, "mask": 2, "dice": 5, "mask_low": 2, "dice_low": 5}


def layer(num_queries: int = 5, seed: int = 0, selected: tuple[int, int] = (3, 1)) -> LayerOutput:
    """Random output for `square_targets`."""
    query_index = torch.tensor([query % num_queries for query in selected])
    queries = guesses(num_queries, seed)
    return LayerOutput(
        queries=queries,
        query_index=query_index,
        low_mask_logits=queries.low_mask_logits[torch.arange(2), :, query_index],
        mask_logits=torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)),
    )


def with_class_logits(output: LayerOutput, class_logits: Tensor) -> LayerOutput:
    return replace(output, queries=replace(output.queries, class_logits=class_logits))


def right_layer(targets: Targets) -> LayerOutput:
    """Output that is as right as logits of 10 can be."""
    output = layer()
    perfect(output.queries, targets, (3, 1))
    class_logits = torch.full((2, 3, 5), -10.0)
    class_logits[0, :, 3] = 10.0
    class_logits[1, :, 1] = 10.0
    class_logits[0, 1] = -10.0  # the frame without the object
    mask_logits = targets.masks * 20.0 - 10
    return replace(
        with_class_logits(output, class_logits),
        mask_logits=mask_logits,
        low_mask_logits=mask_logits[..., 1::2, 1::2],
    )


def part(output: LayerOutput, targets: Targets, rows: slice) -> tuple[LayerOutput, Targets]:
    """Output and targets of some of the expressions."""
    queries = QueryOutput(
        output.queries.class_logits[rows],
        output.queries.boxes_cxcywh[rows],
        lambda: torch.empty(0),
    )
    part_of_output = LayerOutput(
        queries=queries,
        query_index=output.query_index[rows],
        low_mask_logits=output.low_mask_logits[rows],
        mask_logits=output.mask_logits[rows],
    )
    part_of_targets = Targets(
        masks=targets.masks[rows],
        boxes_cxcywh=targets.boxes_cxcywh[rows],
        visible=targets.visible[rows],
    )
    return part_of_output, part_of_targets


def test_terms_of_every_layer_are_there_and_total_is_their_weighted_sum() -> None:
    outputs = SgMgOutput(tuple(layer(seed=seed) for seed in range(3)))
    terms = Criterion()(outputs, square_targets(), 5)
    weights = {
        name + suffix: weight for suffix in ("", "_0", "_1") for name, weight in WEIGHTS.items()
    }
    assert sorted(terms) == sorted(["total", *weights])
    total = sum(weight * terms[name].item() for name, weight in weights.items())
    assert terms["total"].item() == pytest.approx(total, rel=1e-6)


def test_a_term_knows_its_layer_and_weight() -> None:
    outputs = SgMgOutput((layer(seed=1), layer(seed=2)))
    terms = Criterion().terms(outputs, square_targets(), 5)
    assert [(term.name, term.weight, term.layer) for term in terms] == [
        *((f"{name}_0", weight, 0) for name, weight in WEIGHTS.items()),
        *((name, weight, 1) for name, weight in WEIGHTS.items()),
    ]


def test_the_last_layer_is_the_main_one() -> None:
    outputs = SgMgOutput((layer(seed=1), layer(seed=2)))
    terms = Criterion()(outputs, square_targets(), 1)
    assert terms["mask"] == layer_terms(layer(seed=2), square_targets())["mask"]
    assert terms["mask_0"] == layer_terms(layer(seed=1), square_targets())["mask"]


def test_perfect_output_costs_next_to_nothing() -> None:
    targets = square_targets()
    terms = Criterion()(SgMgOutput((right_layer(targets),)), targets, 5)
    # the published GIoU of two empty boxes is 0, so the frame without the object costs 1 of 5
    torch.testing.assert_close(terms.pop("giou"), torch.tensor(0.2), atol=1e-4, rtol=0)
    assert 0 <= terms.pop("total").item() - 2 * 0.2 < 1e-2
    assert all(0 <= value.item() < 1e-3 for value in terms.values()), terms


@pytest.mark.parametrize(
    ("expression", "frame", "query"),
    [
        pytest.param(0, 1, 3, id="the object is absent"),
        pytest.param(0, 0, 2, id="another query is selected"),
        pytest.param(1, 2, 3, id="that of the other expression"),
    ],
)
def test_only_the_selected_query_of_visible_frames_is_positive(
    expression: int, frame: int, query: int
) -> None:
    targets = square_targets()
    right = right_layer(targets)
    class_logits = right.queries.class_logits.clone()
    class_logits[expression, frame, query] = 10
    wrong = with_class_logits(right, class_logits)
    right_term = layer_terms(right, targets)["class"]
    wrong_term = layer_terms(wrong, targets)["class"]
    assert wrong_term > right_term + 5


@pytest.mark.parametrize("num_queries", [1, 2, 5])
def test_gradient_reaches_what_the_selected_query_said(num_queries: int) -> None:
    output = layer(num_queries)
    class_logits = output.queries.class_logits
    boxes = output.queries.boxes_cxcywh
    leaves = (class_logits, boxes, output.mask_logits, output.low_mask_logits)
    for tensor in leaves:
        tensor.requires_grad_()
    Criterion()(SgMgOutput((output,)), square_targets(), 5)["total"].backward()
    for tensor in (class_logits, output.mask_logits, output.low_mask_logits):
        assert tensor.grad is not None
        assert tensor.grad.ne(0).all()
    assert boxes.grad is not None
    touched = boxes.grad.ne(0).any(-1).any(1)  # [E, Q]
    one_hot = torch.nn.functional.one_hot(output.query_index, num_queries)
    assert torch.equal(touched, one_hot.bool())


@pytest.mark.parametrize(
    ("tensor_name", "expected"),
    [
        ("class_logits", ("class_0",)),
        ("boxes_cxcywh", ("box_0", "giou_0")),
        ("mask_logits", ("mask_0", "dice_0")),
        ("low_mask_logits", ("mask_low_0", "dice_low_0")),
    ],
)
def test_a_term_that_is_not_finite_stops_and_is_named(
    tensor_name: str, expected: tuple[str, ...]
) -> None:
    bad = layer(seed=1)
    good = layer(seed=2)
    record = bad if "mask" in tensor_name else bad.queries
    getattr(record, tensor_name)[0, 0, 3] = torch.nan
    with pytest.raises(NonFiniteLossError, match=expected[0]) as stop:
        Criterion()(SgMgOutput((bad, good)), square_targets(), 5)
    assert stop.value.terms == expected


def test_two_shares_average_to_the_whole_batch() -> None:
    targets = square_targets()
    output = layer()
    visible = count_visible([targets])
    assert visible == 5
    whole = Criterion()(SgMgOutput((output,)), targets, normaliser(visible))
    halves = []
    for rows in (slice(0, 1), slice(1, 2)):
        half_output, half_targets = part(output, targets, rows)
        num_visible = normaliser(visible, num_micro_batches=2)
        halves.append(Criterion()(SgMgOutput((half_output,)), half_targets, num_visible))
    for name, value in whole.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)


def test_normaliser_is_at_least_one_frame() -> None:
    assert normaliser(0) == 1
    assert float(normaliser(torch.tensor(0), num_micro_batches=4)) == 0.25
    assert normaliser(12, num_micro_batches=4) == 3


def test_loss_is_float32_under_autocast() -> None:
    output = layer()

    def as_type(dtype: torch.dtype) -> SgMgOutput:
        """The same numbers, which bfloat16 can hold, in either type."""

        def cast(tensor: Tensor) -> Tensor:
            return tensor.bfloat16().to(dtype)

        queries = QueryOutput(
            cast(output.queries.class_logits),
            cast(output.queries.boxes_cxcywh),
            output.queries.compute_masks,
        )
        cast_layer = LayerOutput(
            queries=queries,
            query_index=output.query_index,
            low_mask_logits=cast(output.low_mask_logits),
            mask_logits=cast(output.mask_logits),
        )
        return SgMgOutput((cast_layer,))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = Criterion()(as_type(torch.bfloat16), square_targets(), 5)
    for name, value in Criterion()(as_type(torch.float32), square_targets(), 5).items():
        assert terms[name].dtype == torch.float32
        assert torch.equal(terms[name], value)


def test_weights_are_the_callers() -> None:
    only_dice = Weights(label=0, box=0, giou=0, mask=0, dice=3)
    terms = Criterion(only_dice)(SgMgOutput((layer(),)), square_targets(), 5)
    torch.testing.assert_close(terms["total"], 3 * (terms["dice"] + terms["dice_low"]))
