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

MAIN = ["class", "box", "giou", "mask", "dice", "mask_low", "dice_low"]


def layer(queries: int = 5, seed: int = 0, selected: tuple[int, int] = (3, 1)) -> LayerOutput:
    chosen = torch.tensor([q % queries for q in selected])
    every = guesses(queries, seed)
    return LayerOutput(
        queries=every,
        query_index=chosen,
        low_mask_logits=every.low_mask_logits[torch.arange(2), :, chosen],
        mask_logits=torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)),
    )


def with_queries(whole: LayerOutput, **changes: Tensor) -> LayerOutput:
    return replace(whole, queries=replace(whole.queries, **changes))


def right_layer(targets: Targets) -> LayerOutput:
    right = layer()
    perfect(right.queries, targets, (3, 1))
    logits = torch.full((2, 3, 5), -10.0)
    logits[0, :, 3] = logits[1, :, 1] = 10.0
    logits[0, 1] = -10
    masks = targets.masks * 20.0 - 10
    right = with_queries(right, class_logits=logits)
    return replace(right, mask_logits=masks, low_mask_logits=masks[..., 1::2, 1::2])


def part(whole: LayerOutput, targets: Targets, rows: slice) -> tuple[LayerOutput, Targets]:
    queries = QueryOutput(
        whole.queries.class_logits[rows], whole.queries.boxes_cxcywh[rows], lambda: torch.empty(0)
    )
    fields = {k: v[rows] for k, v in vars(whole).items() if k != "queries"}
    return (
        LayerOutput(queries=queries, **fields),
        Targets(**{k: v[rows] for k, v in vars(targets).items()}),
    )


def test_terms_of_every_layer_are_there_and_total_is_their_weighted_sum() -> None:
    terms = Criterion()(SgMgOutput(tuple(layer(seed=i) for i in range(3))), square_targets(), 5)
    names = [*MAIN, *(f"{n}_{i}" for i in range(2) for n in MAIN)]
    assert sorted(terms) == sorted(["total", *names])
    weight = {"class": 2, "box": 5, "giou": 2, "mask": 2, "dice": 5, "mask_low": 2, "dice_low": 5}
    total = sum(weight[n.removesuffix("_0").removesuffix("_1")] * terms[n].item() for n in names)
    assert terms["total"].item() == pytest.approx(total, rel=1e-6)


def test_the_last_layer_is_the_main_one() -> None:
    terms = Criterion()(
        SgMgOutput(
            (
                layer(seed=1),
                layer(seed=2),
            )
        ),
        square_targets(),
        1,
    )
    assert terms["mask"] == layer_terms(layer(seed=2), square_targets())["mask"]
    assert terms["mask_0"] == layer_terms(layer(seed=1), square_targets())["mask"]


def test_perfect_output_costs_next_to_nothing() -> None:
    targets = square_targets()
    terms = Criterion()(SgMgOutput((right_layer(targets),)), targets, 5)
    # the published GIoU of two empty boxes is 0, so the frame without the object costs 1 of 5
    torch.testing.assert_close(terms.pop("giou"), torch.tensor(0.2), atol=1e-4, rtol=0)
    assert 0 <= terms.pop("total").item() - 2 * 0.2 < 1e-2
    assert all(0 <= value.item() < 1e-3 for value in terms.values()), terms


def test_only_the_selected_query_of_visible_frames_is_positive() -> None:
    targets = square_targets()
    right = right_layer(targets)
    for e, t, q in [(0, 1, 3), (0, 0, 2), (1, 2, 3)]:  # absent frame; queries not selected
        logits = right.queries.class_logits.clone()
        logits[e, t, q] = 10
        wrong = layer_terms(with_queries(right, class_logits=logits), targets)["class"]
        assert wrong > layer_terms(right, targets)["class"] + 5


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_gradient_reaches_what_the_selected_query_said(queries: int) -> None:
    output = layer(queries)
    logits, boxes = output.queries.class_logits, output.queries.boxes_cxcywh
    for tensor in (logits, boxes, output.mask_logits, output.low_mask_logits):
        tensor.requires_grad_()
    Criterion()(SgMgOutput((output,)), square_targets(), 5)["total"].backward()
    for tensor in (logits, output.mask_logits, output.low_mask_logits):
        assert (tensor.grad != 0).all()
    touched = boxes.grad.ne(0).any(-1).any(1)  # [E, Q]
    assert torch.equal(touched, torch.nn.functional.one_hot(output.query_index, queries).bool())


@pytest.mark.parametrize("name", ["class_logits", "boxes_cxcywh", "mask_logits", "low_mask_logits"])
def test_a_term_that_is_not_finite_stops_and_is_named(name: str) -> None:
    bad, good = layer(seed=1), layer(seed=2)
    holder = bad if "mask" in name else bad.queries
    getattr(holder, name)[0, 0, 3] = torch.nan
    expected = {
        "class_logits": ("class_0",),
        "boxes_cxcywh": ("box_0", "giou_0"),
        "mask_logits": ("mask_0", "dice_0"),
        "low_mask_logits": ("mask_low_0", "dice_low_0"),
    }
    with pytest.raises(NonFiniteLossError, match=expected[name][0]) as stop:
        Criterion()(
            SgMgOutput(
                (
                    bad,
                    good,
                )
            ),
            square_targets(),
            5,
        )
    assert stop.value.terms == expected[name]


def test_two_shares_average_to_the_whole_batch() -> None:
    targets, whole = square_targets(), layer()
    frames = count_visible([targets])
    assert frames == 5
    once = Criterion()(SgMgOutput((whole,)), targets, normaliser(frames))
    halves = []
    for rows in (slice(0, 1), slice(1, 2)):
        outputs, goal = part(whole, targets, rows)
        halves.append(
            Criterion()(SgMgOutput((outputs,)), goal, normaliser(frames, num_micro_batches=2))
        )
    for name, value in once.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)


def test_normaliser_is_at_least_one_frame() -> None:
    assert normaliser(0) == 1
    assert normaliser(torch.tensor(0), num_micro_batches=4).item() == 0.25
    assert normaliser(12, num_micro_batches=4) == 3


def test_loss_is_float32_under_autocast() -> None:
    whole = layer()

    def as_type(dtype: torch.dtype) -> SgMgOutput:
        def cast(x: Tensor) -> Tensor:
            return x.bfloat16().to(dtype)

        queries = whole.queries
        queries = QueryOutput(
            cast(queries.class_logits), cast(queries.boxes_cxcywh), queries.compute_masks
        )
        masks = {k: cast(getattr(whole, k)) for k in ("mask_logits", "low_mask_logits")}
        return SgMgOutput((LayerOutput(queries=queries, query_index=whole.query_index, **masks),))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = Criterion()(as_type(torch.bfloat16), square_targets(), 5)
    for name, value in Criterion()(as_type(torch.float32), square_targets(), 5).items():
        assert terms[name].dtype == torch.float32
        assert torch.equal(terms[name], value)


def test_weights_are_the_callers() -> None:
    only_dice = Weights(label=0, box=0, giou=0, mask=0, dice=3)
    terms = Criterion(only_dice)(SgMgOutput((layer(),)), square_targets(), 5)
    torch.testing.assert_close(terms["total"], 3 * (terms["dice"] + terms["dice_low"]))
