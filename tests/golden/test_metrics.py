"""J, F, their statistics, A2D and RefCOCO scores against the published numbers."""

import numpy as np
import pytest
import torch

from sgmg.evaluation.clip_metrics import (
    contour_accuracy,
    frame_statistics,
    region_similarity,
    score_best_assignment,
)
from sgmg.evaluation.ranked_metrics import (
    RankedMasks,
    average_precision,
    box_precision,
    overlap_summary,
)
from tests.golden.fixtures import blob, hold, rand

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def reference(table):
    return table("metrics")


@pytest.fixture(scope="module")
def clip(cases):
    """Truths and predictions [O, T, H, W], void [T, H, W]."""
    case = cases["metrics"]["davis"]
    seed = cases["metrics"]["seed"]
    height = case["h"]
    width = case["w"]
    frames = case["frames"]
    truths, predictions = np.zeros((2, case["objects"], frames, height, width), bool)
    for o in range(case["objects"]):
        for t in range(frames):
            truths[o, t] = blob(seed + 100 * o + t, height, width)
            predictions[o, t] = np.roll(truths[o, t], (t - 2, 2 * o + t // 2), (0, 1))
        predictions[o, 7] = blob(seed + 100 * o + 7 + 50, height, width)
    truths[:, [3, 6]] = False
    predictions[:, [5, 6]] = False
    void = np.stack([blob(seed + 300 + t, height, width, 1) for t in range(frames)])
    return truths, predictions, void


def score_each(score, predictions, truths, void=None):
    pairs = zip(predictions, truths, strict=True)
    return np.array([score(prediction, truth, void) for prediction, truth in pairs])


def close(actual, expected):
    hold("metrics", TOLERANCE, np.abs(np.asarray(actual) - np.asarray(expected)).max())


@pytest.mark.parametrize(("name", "score"), [("J", region_similarity), ("F", contour_accuracy)])
def test_frames(reference, clip, name, score):
    truths, predictions, void = clip
    close(score_each(score, predictions, truths), reference["davis"][name])
    close(score_each(score, predictions, truths, void), reference["davis"][f"{name}_void"])
    predictions = predictions.copy()
    predictions[1] = False
    close(score_each(score, predictions, truths), reference["davis"][f"{name}_missing_object"])


def test_bound_in_pixels(reference, clip):
    truths, predictions, _ = clip
    close(
        contour_accuracy(predictions[0], truths[0], bound=3), reference["davis"]["F_bound_th_3px"]
    )


def test_best_assignment(reference, clip):
    truths, predictions, void = clip
    j, f = score_best_assignment(predictions[::-1], truths, void)
    # the published scorer lists the result by prediction
    close(j[::-1], reference["davis"]["J_unsup"])
    close(f[::-1], reference["davis"]["F_unsup"])


def test_statistics(reference):
    for name in "JF":
        for frames, stats in zip(
            reference["davis"][name], reference["davis"][f"{name}_stats_MRD"], strict=True
        ):
            close(frame_statistics(frames), stats)
    mean = np.mean([frame_statistics(x)[0] for name in "JF" for x in reference["davis"][name]])
    close(mean, reference["davis"]["global_JF_mean"])


@pytest.fixture(scope="module")
def ranked(cases):
    """Truths [N, H, W], candidates [N, 3, H, W], scores [N, 3]."""
    case = cases["metrics"]["a2d"]
    seed = cases["metrics"]["seed"]
    count = case["n"]
    height = case["h"]
    width = case["w"]
    truths = np.stack([blob(seed + 600 + i, height, width, 2) for i in range(count)])
    masks = np.zeros((count, 3, height, width), bool)
    for i, truth in enumerate(truths):
        for k in range(2):
            masks[i, k] = np.roll(truth, ((i % 5) - 1 + k, (i % 4) * k), (0, 1))
        masks[i, 2] = blob(seed + 700 + i, height, width, 2)
    masks[4, 0] = False
    return truths, masks, rand(seed + 500, count, 3)


def entries(ranked):
    truths, masks, scores = ranked
    return [RankedMasks.encode(*x) for x in zip(masks, scores, truths, strict=True)]


def test_overlaps_of_the_best(reference, ranked):
    actual = overlap_summary(*zip(*(e.best_overlap() for e in entries(ranked)), strict=True))
    close(actual["overall_iou"], reference["a2d"]["overall_iou"])
    close(actual["mean_iou"], reference["a2d"]["mean_iou"])
    for threshold, share in reference["a2d"]["precision_at_k"].items():
        close(actual[f"precision@{threshold}"], share)


def test_average_precision(reference, ranked):
    actual = average_precision(entries(ranked))
    close(list(actual.values()), reference["a2d"]["coco_stats"][: len(actual)])


def boxes_px(masks):
    """Corners of the inclusive pixel extent, zero for an empty mask."""
    boxes = torch.zeros(*masks.shape[:-2], 4)
    for index in np.ndindex(masks.shape[:-2]):
        y, x = np.nonzero(masks[index])
        if len(y):
            boxes[index] = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
    return boxes


def test_overlaps_of_boxes(reference, ranked):
    truths, masks, scores = ranked
    best = masks[np.arange(len(masks)), scores.argmax(1)]
    a = boxes_px(best)
    b = boxes_px(truths)
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    intersections = sides.prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    unions = areas[0] + areas[1] - intersections
    actual = overlap_summary(intersections, unions)
    close(actual.pop("overall_iou"), reference["a2d"]["bbox_overall_iou"])
    close(actual.pop("mean_iou"), reference["a2d"]["bbox_mean_iou"])
    close(list(actual.values()), reference["a2d"]["bbox_precision_at_k"])


def test_box_precision(reference, ranked):
    truths, masks, scores = ranked
    actual = box_precision(boxes_px(masks), scores, boxes_px(truths))
    close(list(actual.values()), reference["refexp_precision_sorted"])
