"""torch.compile: the network proper is one graph and gives the same numbers."""

import os
import shutil

import pytest
import torch
from torch import Tensor

from sgmg import best_query
from sgmg.heads import Perceptron
from sgmg.matcher import Matcher, Targets
from tests.sgmg.tiny import EXPRESSIONS, clips, tiny_model

long = pytest.mark.skipif(
    "SGMG_LONG" not in os.environ, reason="compiles for a minute: set SGMG_LONG=1"
)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def same(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def compiled(model, **settings):
    """The forward of tokens, whole: `fullgraph` makes any break an error."""

    def forward(frames, padding, tokens, select):
        output = model(frames, padding, tokens, select)
        return [(x.mask_logits, x.queries.class_logits, x.selected) for x in output.layers]

    return forward, torch.compile(forward, fullgraph=True, **settings)


def test_evaluation_is_one_graph():
    model = tiny_model(decoder_layers=1)
    frames, padding = clips(1, 1)
    eager, whole = compiled(model, backend="eager")
    tokens = model.tokenize(EXPRESSIONS[:1])
    with torch.no_grad():
        ((want, scores, chosen),) = eager(frames, padding, tokens, best_query)
        ((got, got_scores, got_chosen),) = whole(frames, padding, tokens, best_query)
    assert torch.equal(chosen, got_chosen)
    assert same(got, want)
    assert same(got_scores, scores)


@long
@pytest.mark.xfail(strict=True, reason="Dynamo meets a lock in the training forward")
def test_training_with_the_matcher_is_one_graph_and_gives_the_same_gradients():
    model = tiny_model(dropout=0.0).train()
    frames, padding = clips(2, 2)
    eager, whole = compiled(model, backend="aot_eager")
    tokens = model.tokenize(EXPRESSIONS[:2])
    generator = torch.Generator().manual_seed(0)
    targets = Targets(
        masks=torch.rand(2, 2, 136, 160, generator=generator) > 0.7,
        boxes_cxcywh=torch.rand(2, 2, 4, generator=generator) * 0.3 + 0.2,
        visible=torch.ones(2, 2, dtype=torch.bool),
    )
    matcher = Matcher()

    def select(queries):
        return matcher(queries, targets)

    def gradients(way):
        model.zero_grad()
        layers = way(frames, padding, tokens, select)
        sum(m.square().mean() + s.square().mean() for m, s, _ in layers).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    want, got = gradients(eager), gradients(whole)
    assert want.keys() == got.keys()
    for name in want:
        assert same(got[name], want[name]), name


@long
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_numbers():
    part = Perceptron(8, 16, 4)
    x = torch.randn(3, 8)
    assert same(torch.compile(part, fullgraph=True)(x), part(x))
