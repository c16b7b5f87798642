"""Overlaps and average precision against their definitions, written slowly."""

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torchvision.ops import generalized_box_iou

from sgmg.evaluation.ranked_metrics import (
    RankedMasks,
    average_precision,
    box_precision,
    overlap_summary,
)

# masks of N candidates, their scores, and the mask of the object
Frame = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]


def test_overlap_summary_of_known_frames() -> None:
    summary = overlap_summary([10, 0, 8, 0], [10, 5, 10, 0])
    assert summary["overall_iou"] == pytest.approx(18 / 25)
    assert summary["mean_iou"] == pytest.approx((1 + 0 + 0.8 + 1) / 4)
    precision = [summary[f"precision@{threshold}"] for threshold in (0.5, 0.7, 0.8, 0.9)]
    assert precision == [0.75, 0.75, 0.75, 0.5]


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return (mask & truth).sum() / max((mask | truth).sum(), 1)


def slow_average_precision(frames: list[Frame], thresholds: ArrayLike) -> float:
    """Area under the interpolated precision-recall curve, 101 points."""
    candidates = [
        (score, index, iou(mask, truth))
        for index, (masks, scores, truth) in enumerate(frames)
        for mask, score in zip(masks, scores, strict=True)
    ]
    candidates.sort(key=lambda candidate: -candidate[0])
    values = []
    for threshold in np.asarray(thresholds):
        matched: set[int] = set()
        hits = []
        for _, index, overlap in candidates:
            hit = overlap >= threshold and index not in matched
            hits.append(hit)
            if hit:
                matched.add(index)
        recall = np.cumsum(hits) / len(frames)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        points = [
            precision[recall >= level - 1e-12].max(initial=0) for level in np.linspace(0, 1, 101)
        ]
        values.append(np.mean(points))
    return float(np.mean(values))


def test_average_precision_is_its_definition(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    frames = []
    for index in range(9):
        truth = np.zeros((20 + index, 30), bool)
        truth[4:14, 5:18] = True
        masks = np.stack([np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) for _ in range(4)])
        masks[0] &= index != 4
        frames.append((masks, rng.random(4), truth))
    precision = average_precision([RankedMasks.encode(*frame) for frame in frames])
    expected = slow_average_precision(frames, np.arange(0.5, 1, 0.05))
    assert precision["mAP"] == pytest.approx(expected, abs=1e-9)
    for threshold in (0.5, 0.75):
        expected = slow_average_precision(frames, [threshold])
        assert precision[f"AP@{threshold}"] == pytest.approx(expected, abs=1e-9)
    assert 0 < precision["mAP"] < precision["AP@0.5"]
    assert capsys.readouterr().out == ""


def test_best_overlap_is_of_the_highest_score() -> None:
    truth = np.zeros((6, 7), bool)
    truth[1:4, 1:5] = True
    masks = np.stack([truth, np.roll(truth, 2, 1), np.zeros_like(truth)])
    assert RankedMasks.encode(masks, [0.1, 0.9, 0.5], truth).best_overlap() == (6, 18)
    assert RankedMasks.encode(masks, [0.1, 0.2, 0.5], truth).best_overlap() == (0, 12)


def test_box_precision_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(50, 4, generator=generator) * 20 + torch.tensor([0, 0, 40, 40])
    boxes = truth[:, None] + torch.randn(50, 6, 4, generator=generator) * 12
    scores = torch.rand(50, 6, generator=generator)
    precision = box_precision(boxes, scores, truth, top=(1, 3))
    for k in (1, 3):
        right = []
        for index in range(50):
            best = boxes[index, scores[index].topk(k).indices]
            giou = generalized_box_iou(best, truth[index : index + 1])
            right.append(bool(giou.max() >= 0.5))
        assert precision[f"box_precision@{k}"] == pytest.approx(np.mean(right))
    assert 0 < precision["box_precision@1"] < precision["box_precision@3"]
