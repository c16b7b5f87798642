"""torch.compile: the network proper is one graph and gives the same numbers."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import einops
import pytest
import torch
from torch import Tensor
from torch._dynamo import trace_rules

from sgmg import SgMg, best_query
from sgmg.network.backbones.swin_parts import SIZES, SwinSize
from sgmg.network.heads import Perceptron
from sgmg.network.outputs import QueryOutput, Select
from sgmg.network.tokenizer import Tokens
from sgmg.training.matcher import Matcher
from sgmg.training.targets import Targets
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_model

long = pytest.mark.skipif(
    "SGMG_LONG" not in os.environ, reason="compiles for minutes: set SGMG_LONG=1"
)
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="inductor needs a C++ compiler"
)
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

Forward = Callable[[Tensor, Tensor, Tokens, Select], list[tuple[Tensor, Tensor, Tensor]]]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _einops_as_nodes() -> Iterator[None]:
    """Not traced into, which is two thirds of the work: the training graph has that."""
    operations = (einops.rearrange, einops.reduce, einops.repeat)
    for operation in operations:
        torch._dynamo.allow_in_graph(operation)
    yield
    for operation in operations:
        trace_rules._allowed_callable_ids.remove(id(operation))


def hold_same(actual: Tensor, expected: Tensor, name: str = "", tolerance: float = 1e-5) -> None:
    deviation = float((actual - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    assert deviation <= tolerance, f"{name}: {deviation:.1e}"


def eager_and_compiled(model: SgMg, **settings: Any) -> tuple[Forward, Forward]:
    """The forward of tokens as it is, and whole: `fullgraph` makes any break an error."""

    def forward(
        frames: Tensor, padding: Tensor, tokens: Tokens, select: Select
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        output = model(frames, padding, tokens, select)
        return [(x.mask_logits, x.queries.class_logits, x.query_index) for x in output.layers]

    return forward, torch.compile(forward, fullgraph=True, **settings)


@torch.no_grad()
def evaluate_both_ways(model: SgMg, tokens: Tokens, **settings: Any) -> None:
    frames, padding = clips(1, 1)
    eager, whole = eager_and_compiled(model.eval(), **settings)
    ((expected, expected_scores, expected_index),) = eager(frames, padding, tokens, best_query)
    ((actual, actual_scores, actual_index),) = whole(frames, padding, tokens, best_query)
    assert torch.equal(expected_index, actual_index)
    hold_same(actual, expected, "masks")
    hold_same(actual_scores, expected_scores, "scores")


def train_both_ways(
    model: SgMg, tokens: Tokens, tolerance: float = 1e-5, num_noisy: int = 0, **settings: Any
) -> None:
    """The matcher chooses, as in training; every gradient is compared.

    What goes into a ReLU may be so near to zero that rounding decides which way its gradient goes:
    eager gradients of `others` more inputs, the same but for noise of 1e-7, count as right, too.
    """
    frames, padding = clips(2, 2)
    eager, whole = eager_and_compiled(model.train(), **settings)
    generator = torch.Generator().manual_seed(0)
    targets = Targets(
        masks=torch.rand(2, 2, 136, 160, generator=generator) > 0.7,
        boxes_cxcywh=torch.rand(2, 2, 4, generator=generator) * 0.3 + 0.2,
        visible=torch.ones(2, 2, dtype=torch.bool),
    )
    matcher = Matcher()

    def select(queries: QueryOutput) -> Tensor:
        return matcher(queries, targets)

    def gradients(forward: Forward, frames: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        layers = forward(frames, padding, tokens, select)
        losses = [masks.square().mean() + scores.square().mean() for masks, scores, _ in layers]
        torch.stack(losses).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def distance(expected: dict[str, Tensor]) -> float:
        deviations = [
            (actual[name] - gradient).abs().max() / gradient.abs().max().clamp(1)
            for name, gradient in expected.items()
        ]
        return float(max(deviations))

    noisy = [
        frames + 1e-7 * torch.randn(frames.shape, generator=generator) for _ in range(num_noisy)
    ]
    actual = gradients(whole, frames)
    expected_gradients = [gradients(eager, clip_frames) for clip_frames in (frames, *noisy)]
    assert actual
    assert all(actual.keys() == expected.keys() for expected in expected_gradients)
    assert min(map(distance, expected_gradients)) <= tolerance, [*map(distance, expected_gradients)]


@pytest.mark.usefixtures("_einops_as_nodes")
def test_evaluation_is_one_graph() -> None:
    model = tiny_model(decoder_layers=1)
    evaluate_both_ways(model, model.tokenize(EXPRESSIONS[:1]), backend="eager")


def test_training_with_the_matcher_is_one_graph() -> None:
    model = tiny_model(decoder_layers=1, dropout=0.0)
    train_both_ways(model, model.tokenize(EXPRESSIONS[:2]), backend="eager")


@long
@pytest.mark.parametrize("backbone", ["video_swin_t", "swin_t", "resnet50"])
def test_published_parts_are_one_graph(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "t", SwinSize(16, (2, 2, 2, 2), (1, 2, 4, 8)))
    sizes = {"decoder_layers": 1, "dropout": 0.0, "drop_path": 0.0}
    model = tiny_model(backbone=backbone, text_config=ROBERTA, **sizes)
    ids = torch.tensor([[0, 10, 20, 2], [0, 7, 2, 1]])
    tokens = Tokens(ids, ids != 1)
    evaluate_both_ways(model, Tokens(ids[:1], ids[:1] != 1), backend="eager")
    train_both_ways(model.requires_grad_(), tokens, backend="eager")


@long
def test_gradients_of_the_traced_backward_are_the_same() -> None:
    model = tiny_model(dropout=0.0)
    train_both_ways(model, model.tokenize(EXPRESSIONS[:2]), backend="aot_eager")


@long
@needs_compiler
def test_inductor_gives_the_same_numbers() -> None:
    part = Perceptron(8, 16, 4)
    x = torch.randn(3, 8)
    hold_same(torch.compile(part, fullgraph=True)(x), part(x))


@long
@needs_compiler
def test_evaluation_through_inductor_gives_the_same_numbers() -> None:
    model = tiny_model(decoder_layers=1, dropout=0.0)
    evaluate_both_ways(model, model.tokenize(EXPRESSIONS[:1]), backend="inductor")


@long
@needs_compiler
def test_training_through_inductor_gives_the_same_numbers() -> None:
    model = tiny_model(decoder_layers=1, dropout=0.0)
    tokens = model.tokenize(EXPRESSIONS[:2])
    train_both_ways(model, tokens, 1e-4, num_noisy=8, backend="inductor")
