"""J and F against their definitions, written slowly."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from sgmg.evaluation.clip_metrics import (
    contour_accuracy,
    frame_statistics,
    region_similarity,
    score_best_assignment,
)

Mask = NDArray[np.bool_]


def slow_j(prediction: Mask, truth: Mask, void: Mask) -> float:
    prediction = prediction & ~void
    truth = truth & ~void
    union = (prediction | truth).sum()
    return (prediction & truth).sum() / union if union else 1.0


def slow_outline(mask: Mask) -> Mask:
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in ((0, 1), (1, 0), (1, 1)):
            # in the last row and column only the neighbour along the border counts
            if y + dy < height and x + dx < width:
                edge[y, x] |= mask[y, x] != mask[y + dy, x + dx]
    return edge


def slow_f(prediction: Mask, truth: Mask, void: Mask, bound: float) -> float:
    predicted_outline = slow_outline(prediction & ~void)
    true_outline = slow_outline(truth & ~void)
    radius = int(bound) if bound >= 1 else math.ceil(bound * math.hypot(*truth.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    near_predicted = ndimage.binary_dilation(predicted_outline, disk)
    near_true = ndimage.binary_dilation(true_outline, disk)
    precision = 1.0
    if predicted_outline.any():
        precision = (predicted_outline & near_true).sum() / predicted_outline.sum()
    recall = 1.0
    if true_outline.any():
        recall = (true_outline & near_predicted).sum() / true_outline.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def clips(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Blobs, noise and empty masks of odd sizes: prediction, truth, void [T, H, W]."""
    shape = (draw(st.integers(1, 19)), draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smooth = draw(st.sampled_from([0, 1.5, 3]))
    noise = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 0, smooth, smooth))
    masks = noise > noise.std() * rng.normal(size=(3, shape[0], 1, 1))
    masks[:2] &= rng.random((2, shape[0], 1, 1)) > 0.2
    return masks


@settings(max_examples=60, deadline=None)
@given(clips(), st.sampled_from([0.008, 0.1, 1, 3, 30]), st.booleans())
def test_j_and_f_are_their_definitions(
    masks: NDArray[np.bool_], bound: float, with_void: bool
) -> None:
    prediction, truth, drawn_void = masks
    void = drawn_void if with_void else np.zeros_like(drawn_void)
    void_or_none = drawn_void if with_void else None
    frames = list(zip(prediction, truth, void, strict=True))
    j = [slow_j(*frame) for frame in frames]
    f = [slow_f(*frame, bound) for frame in frames]
    np.testing.assert_allclose(region_similarity(prediction, truth, void_or_none), j, atol=1e-12)
    scores = contour_accuracy(prediction, truth, void_or_none, bound=bound)
    np.testing.assert_allclose(scores, f, atol=1e-12)


def test_tensors_serve_as_masks() -> None:
    masks = torch.rand(2, 3, 9, 9) > 0.5
    arrays = masks.numpy()
    assert (region_similarity(*masks) == region_similarity(*arrays)).all()
    assert (contour_accuracy(*masks) == contour_accuracy(*arrays)).all()


@pytest.mark.parametrize("score", [region_similarity, contour_accuracy])
def test_masks_of_different_shapes_are_refused(score: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), \(2, 4, 5\)"):
        score(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), \(2, 4, 4\), \(1, 4, 4\)"):
        score(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), np.zeros((1, 4, 4)))


def test_summary_of_a_falling_score() -> None:
    statistics = frame_statistics([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # quarters of nine frames share their border frames: 1-3 and 7-9
    assert statistics == pytest.approx((0.6, 5 / 9, 0.9 - 0.3))


def test_summary_leaves_out_unknown_frames_and_takes_single_ones() -> None:
    assert frame_statistics([0.8, np.nan, 0.4, 0.6]).recall == pytest.approx(2 / 3)
    assert frame_statistics([0.75]) == frame_statistics([0.75, 0.75, 0.75]) == (0.75, 1, 0)


def test_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    truths = rng.random((3, 4, 12, 12)) > 0.6
    predictions = np.roll(truths[[2, 0, 1]], 1, -1)
    j, f = score_best_assignment(predictions, truths)
    j_and_f = [
        [region_similarity(p, truth) + contour_accuracy(p, truth) for p in predictions]
        for truth in truths
    ]
    means = [
        np.mean([j_and_f[o][p] for o, p in enumerate(order)])
        for order in itertools.permutations(range(3))
    ]
    assert (j + f).mean() == pytest.approx(max(means))


def test_an_object_without_prediction_scores_zero_where_it_is_seen() -> None:
    truths = np.zeros((2, 2, 9, 9), bool)
    truths[0, :, 2:5, 2:5] = True
    truths[1, 0, 6:8, 6:8] = True
    j, f = score_best_assignment(truths[:1], truths)
    assert j.tolist() == f.tolist() == [[1, 1], [0, 1]]
