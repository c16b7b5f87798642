"""Scores against their definitions, written slowly."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.ops import generalized_box_iou

from sgmg.evaluation.metrics import (
    RankedMasks,
    average_precision,
    box_precision,
    contour_accuracy,
    overlap_summary,
    region_similarity,
    score_best_assignment,
    summarise,
)


def slow_j(prediction, truth, void):
    prediction, truth = prediction & ~void, truth & ~void
    union = (prediction | truth).sum()
    return (prediction & truth).sum() / union if union else 1.0


def slow_outline(mask):
    edge = np.zeros_like(mask)
    for y, x in itertools.product(*map(range, mask.shape)):
        for dy, dx in ((0, 1), (1, 0), (1, 1)):
            if y + dy < mask.shape[0] and x + dx < mask.shape[1]:
                # in the last row and column only the neighbour along the border counts
                edge[y, x] |= mask[y, x] != mask[y + dy, x + dx]
    return edge


def slow_f(prediction, truth, void, bound):
    ours, theirs = slow_outline(prediction & ~void), slow_outline(truth & ~void)
    radius = bound if bound >= 1 else math.ceil(bound * math.hypot(*truth.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    near_ours, near_theirs = (ndimage.binary_dilation(e, disk) for e in (ours, theirs))
    precision = (ours & near_theirs).sum() / ours.sum() if ours.any() else 1.0
    recall = (theirs & near_ours).sum() / theirs.sum() if theirs.any() else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def clips(draw):
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
def test_j_and_f_are_their_definitions(masks, bound, with_void) -> None:
    prediction, truth, void = masks
    void = void if with_void else np.zeros_like(void)
    given_void = void if with_void else None
    j = [slow_j(*frame) for frame in zip(prediction, truth, void, strict=True)]
    f = [slow_f(*frame, bound) for frame in zip(prediction, truth, void, strict=True)]
    np.testing.assert_allclose(region_similarity(prediction, truth, given_void), j, atol=1e-12)
    got = contour_accuracy(prediction, truth, given_void, bound=bound)
    np.testing.assert_allclose(got, f, atol=1e-12)


def test_tensors_serve_as_masks() -> None:
    masks = torch.rand(2, 3, 9, 9) > 0.5
    arrays = masks.numpy()
    assert (region_similarity(*masks) == region_similarity(*arrays)).all()
    assert (contour_accuracy(*masks) == contour_accuracy(*arrays)).all()


@pytest.mark.parametrize("score", [region_similarity, contour_accuracy])
def test_masks_of_different_shapes_are_refused(score) -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), \(2, 4, 5\)"):
        score(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))


def test_summary_of_a_falling_score() -> None:
    got = summarise([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # quarters of nine frames share their border frames: 1-3 and 7-9
    assert got == pytest.approx((0.6, 5 / 9, 0.9 - 0.3))


def test_summary_leaves_out_unknown_frames_and_takes_single_ones() -> None:
    assert summarise([0.8, np.nan, 0.4, 0.6])[1] == pytest.approx(2 / 3)
    assert summarise([0.75]) == summarise([0.75, 0.75, 0.75]) == (0.75, 1, 0)


def test_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    truths = rng.random((3, 4, 12, 12)) > 0.6
    predictions = np.roll(truths[[2, 0, 1]], 1, -1)
    j, f = score_best_assignment(predictions, truths)
    both = [[region_similarity(p, g) + contour_accuracy(p, g) for p in predictions] for g in truths]
    orders = itertools.permutations(range(3))
    best = max(np.mean([both[o][p] for o, p in enumerate(order)]) for order in orders)
    assert (j + f).mean() == pytest.approx(best)


def test_an_object_without_prediction_scores_zero_where_it_is_seen() -> None:
    truths = np.zeros((2, 2, 9, 9), bool)
    truths[0, :, 2:5, 2:5] = True
    truths[1, 0, 6:8, 6:8] = True
    j, f = score_best_assignment(truths[:1], truths)
    assert j.tolist() == f.tolist() == [[1, 1], [0, 1]]


def test_overlap_summary_of_known_frames() -> None:
    got = overlap_summary([10, 0, 8, 0], [10, 5, 10, 0])
    assert got["overall_iou"] == pytest.approx(18 / 25)
    assert got["mean_iou"] == pytest.approx((1 + 0 + 0.8 + 1) / 4)
    assert [got[f"precision@{k}"] for k in (0.5, 0.7, 0.8, 0.9)] == [0.75, 0.75, 0.75, 0.5]


def slow_ap(frames, thresholds) -> float:
    """Area under the interpolated precision-recall curve, 101 points."""
    ranked = sorted(
        (
            (score, i, (mask & truth).sum() / max((mask | truth).sum(), 1))
            for i, (masks, scores, truth) in enumerate(frames)
            for mask, score in zip(masks, scores, strict=True)
        ),
        key=lambda x: -x[0],
    )
    values = []
    for threshold in thresholds:
        found, hits = set(), []
        for _, i, iou in ranked:
            hits.append(iou >= threshold and i not in found)
            if hits[-1]:
                found.add(i)
        recall = np.cumsum(hits) / len(frames)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        points = [precision[recall >= r - 1e-12].max(initial=0) for r in np.linspace(0, 1, 101)]
        values.append(np.mean(points))
    return float(np.mean(values))


def test_average_precision_is_its_definition(capsys) -> None:
    rng = np.random.default_rng(3)
    frames = []
    for i in range(9):
        truth = np.zeros((20 + i, 30), bool)
        truth[4:14, 5:18] = True
        masks = np.stack([np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) for _ in range(4)])
        masks[0] &= i != 4
        frames.append((masks, rng.random(4), truth))
    got = average_precision([RankedMasks.encode(*frame) for frame in frames])
    assert got["mAP"] == pytest.approx(slow_ap(frames, np.arange(0.5, 1, 0.05)), abs=1e-9)
    assert got["AP@0.5"] == pytest.approx(slow_ap(frames, [0.5]), abs=1e-9)
    assert got["AP@0.75"] == pytest.approx(slow_ap(frames, [0.75]), abs=1e-9)
    assert 0 < got["mAP"] < got["AP@0.5"]
    assert capsys.readouterr().out == ""


def test_best_overlap_is_of_the_highest_score() -> None:
    truth = np.zeros((6, 7), bool)
    truth[1:4, 1:5] = True
    masks = np.stack([truth, np.roll(truth, 2, 1), np.zeros_like(truth)])
    assert RankedMasks.encode(masks, [0.1, 0.9, 0.5], truth).best_overlap() == (6, 18)
    assert RankedMasks.encode(masks, [0.1, 0.2, 0.5], truth).best_overlap() == (0, 12)


def test_box_precision_is_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(50, 4, generator=g) * 20 + torch.tensor([0, 0, 40, 40])
    boxes = truth[:, None] + torch.randn(50, 6, 4, generator=g) * 12
    scores = torch.rand(50, 6, generator=g)
    got = box_precision(boxes, scores, truth, top=(1, 3))
    for k in (1, 3):
        right = [
            generalized_box_iou(boxes[i, scores[i].topk(k).indices], truth[i : i + 1]).max() >= 0.5
            for i in range(50)
        ]
        assert got[f"box_precision@{k}"] == pytest.approx(np.mean(right))
    assert 0 < got["box_precision@1"] < got["box_precision@3"]
