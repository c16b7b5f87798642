"""Spectral filters of all levels, chained, against the published implementation."""

import pytest
import torch

from sgmg.network.spectral_filter import SpectralFilter
from tests.golden.fixtures import compare, hold, randn, seed_module

HIDDEN = 256
TOLERANCE = 2e-5


@pytest.fixture
def case(cases):
    return cases["modules"]["mod_spectral"]


def spectral_filter(prefix: str) -> SpectralFilter:
    return seed_module(SpectralFilter(HIDDEN), prefix)


@torch.no_grad()
def test_chain_over_levels(case, golden):
    reference = golden("mod_spectral")
    gaussian = None
    for level, size in enumerate(case["sizes"]):
        x = randn(case["seed"] + level, 2, HIDDEN, *size)
        before, gaussian = spectral_filter(f"input_fft.{level}.")(x, gaussian)
        after, gaussian = spectral_filter(f"input_fft_post.{level}.")(0.5 * before, gaussian)
        hold("spectral filter", TOLERANCE, compare(reference[f"l{level}/pre"], before))
        hold("spectral filter", TOLERANCE, compare(reference[f"l{level}/post"], after))
        hold("spectral filter, Gaussian", 1e-6, compare(reference[f"l{level}/gauss"], gaussian))


@torch.no_grad()
def test_without_incoming_gaussian(case, golden):
    reference = golden("mod_spectral")
    x = randn(case["seed"] + 1, *reference["l1/pre_nogauss"].shape)
    y, gaussian = spectral_filter("input_fft.1.")(x)
    hold("spectral filter", TOLERANCE, compare(reference["l1/pre_nogauss"], y))
    hold("spectral filter, Gaussian", 1e-6, compare(reference["l1/gauss_none"], gaussian))


def test_gradients(case, golden):
    reference = golden("mod_spectral")
    filters = spectral_filter("input_fft.0.")
    shape = reference["grad/x"].shape
    x = randn(case["grad_seed_x"], *shape).requires_grad_()
    (filters(x)[0] * randn(case["grad_seed_weight"], *shape)).sum().backward()
    assert x.grad is not None
    hold("spectral filter", TOLERANCE, compare(reference["grad/x"], x.grad))
    for name in ("laplace.bias", "conv2.bias", "fc.2.weight"):
        gradient = filters.get_parameter(name).grad
        assert gradient is not None
        hold("spectral filter", TOLERANCE, compare(reference[f"grad/{name}"], gradient))
