from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sgmg.losses import Criterion, NonFiniteLossError, count_visible, layer_terms, normaliser
from sgmg.matcher import Targets, Weights
from tests.sgmg.test_matcher import Queries, guesses, perfect, square_targets

MAIN = ["class", "box", "giou", "mask", "dice", "mask_low", "dice_low"]


@dataclass(frozen=True)
class Layer(Queries):
    selected: Tensor
    mask_logits: Tensor


@dataclass(frozen=True)
class Outputs:
    layers: list[Layer]


def layer(queries: int = 5, seed: int = 0, selected: tuple[int, int] = (3, 1)) -> Layer:
    masks = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    chosen = torch.tensor([q % queries for q in selected])
    return Layer(**vars(guesses(queries, seed)), selected=chosen, mask_logits=masks)


def right_layer(targets: Targets) -> Layer:
    right = perfect(layer(), targets, (3, 1))
    logits = torch.full((2, 3, 5), -10.0)
    logits[0, :, 3] = logits[1, :, 1] = 10.0
    logits[0, 1] = -10
    return replace(right, class_logits=logits, mask_logits=targets.masks * 20.0 - 10)


def part(whole: Layer, targets: Targets, rows: slice) -> tuple[Layer, Targets]:
    return (
        Layer(**{k: v[rows] for k, v in vars(whole).items()}),
        Targets(**{k: v[rows] for k, v in vars(targets).items()}),
    )


def test_terms_of_every_layer_are_there_and_total_is_their_weighted_sum() -> None:
    terms = Criterion()(Outputs([layer(seed=i) for i in range(3)]), square_targets(), 5)
    names = [*MAIN, *(f"{n}_{i}" for i in range(2) for n in MAIN)]
    assert sorted(terms) == sorted(["total", *names])
    weight = {"class": 2, "box": 5, "giou": 2, "mask": 2, "dice": 5, "mask_low": 2, "dice_low": 5}
    total = sum(weight[n.removesuffix("_0").removesuffix("_1")] * terms[n].item() for n in names)
    assert terms["total"].item() == pytest.approx(total, rel=1e-6)


def test_the_last_layer_is_the_main_one() -> None:
    terms = Criterion()(Outputs([layer(seed=1), layer(seed=2)]), square_targets(), 1)
    assert terms["mask"] == layer_terms(layer(seed=2), square_targets())["mask"]
    assert terms["mask_0"] == layer_terms(layer(seed=1), square_targets())["mask"]


def test_perfect_output_costs_next_to_nothing() -> None:
    targets = square_targets()
    terms = Criterion()(Outputs([right_layer(targets)]), targets, 5)
    assert all(0 <= value.item() < 2e-2 for value in terms.values()), terms


def test_only_the_selected_query_of_visible_frames_is_positive() -> None:
    targets = square_targets()
    right = right_layer(targets)
    for e, t, q in [(0, 1, 3), (0, 0, 2), (1, 2, 3)]:  # absent frame; queries not selected
        logits = right.class_logits.clone()
        logits[e, t, q] = 10
        wrong = layer_terms(replace(right, class_logits=logits), targets)["class"]
        assert wrong > layer_terms(right, targets)["class"] + 5


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_gradient_reaches_what_the_selected_query_said(queries: int) -> None:
    outputs = layer(queries)
    for tensor in (outputs.class_logits, outputs.boxes_cxcywh, outputs.low_mask_logits):
        tensor.requires_grad_()
    outputs.mask_logits.requires_grad_()
    Criterion()(Outputs([outputs]), square_targets(), 5)["total"].backward()
    assert (outputs.class_logits.grad != 0).all()
    assert (outputs.mask_logits.grad != 0).all()
    for grad in (outputs.boxes_cxcywh.grad, outputs.low_mask_logits.grad):
        touched = grad.flatten(3).ne(0).any(-1).any(1)  # [E, Q]
        selected = torch.nn.functional.one_hot(outputs.selected, queries).bool()
        assert torch.equal(touched, selected)


@pytest.mark.parametrize("name", ["class_logits", "boxes_cxcywh", "mask_logits", "low_mask_logits"])
def test_a_term_that_is_not_finite_stops_and_is_named(name: str) -> None:
    bad, good = layer(seed=1), layer(seed=2)
    getattr(bad, name)[0, 0, 3] = torch.nan
    expected = {
        "class_logits": ("class_0",),
        "boxes_cxcywh": ("box_0", "giou_0"),
        "mask_logits": ("mask_0", "dice_0"),
        "low_mask_logits": ("mask_low_0", "dice_low_0"),
    }
    with pytest.raises(NonFiniteLossError, match=expected[name][0]) as stop:
        Criterion()(Outputs([bad, good]), square_targets(), 5)
    assert stop.value.terms == expected[name]


def test_two_shares_average_to_the_whole_batch() -> None:
    targets, whole = square_targets(), layer()
    frames = count_visible([targets])
    assert frames == 5
    once = Criterion()(Outputs([whole]), targets, normaliser(frames))
    halves = []
    for rows in (slice(0, 1), slice(1, 2)):
        outputs, goal = part(whole, targets, rows)
        halves.append(Criterion()(Outputs([outputs]), goal, normaliser(frames, shares=2)))
    for name, value in once.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=0)


def test_normaliser_is_at_least_one_frame() -> None:
    assert normaliser(0) == 1
    assert normaliser(torch.tensor(0), shares=4).item() == 0.25
    assert normaliser(12, shares=4) == 3


def test_loss_is_float32_under_autocast() -> None:
    narrow = layer()
    narrow = Layer(**{k: v if k == "selected" else v.bfloat16() for k, v in vars(narrow).items()})
    wide = Layer(**{k: v if k == "selected" else v.float() for k, v in vars(narrow).items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = Criterion()(Outputs([narrow]), square_targets(), 5)
    for name, value in Criterion()(Outputs([wide]), square_targets(), 5).items():
        assert terms[name].dtype == torch.float32
        assert torch.equal(terms[name], value)


def test_weights_are_the_callers() -> None:
    only_dice = Weights(label=0, box=0, giou=0, mask=0, dice=3)
    terms = Criterion(only_dice)(Outputs([layer()]), square_targets(), 5)
    torch.testing.assert_close(terms["total"], 3 * (terms["dice"] + terms["dice_low"]))
