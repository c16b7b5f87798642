"""J and F: how well the masks of a clip cover an object and follow its outline.

Masks are boolean arrays, or CPU tensors, of whole clips [T, H, W]. Pixels marked `void` count
neither as object nor as background. Nothing here knows a data set.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from sgmg.evaluation.packed_masks import (
    MASKS_PER_MAP,
    count_pixels,
    dilate,
    outline,
    pack_masks,
)

Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]

OUTLINE_BOUND = 0.008  # share of the diagonal that DAVIS lets an outline be off
RECALLED_ABOVE = 0.5  # a frame counts as recalled above this score, as DAVIS has it


class FrameStatistics(NamedTuple):
    """Statistics of one score over the frames of a clip, as DAVIS reports them.

    Attributes:
        mean: Mean over the frames.
        recall: Share of the frames above one half.
        decay: Mean of the first quarter of the clip minus that of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(
    prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None
) -> Scores:
    """J of every frame: intersection over union, 1 where both masks are empty.

    Args:
        prediction: [T, H, W].
        truth: [T, H, W].
        void: [T, H, W], pixels left out.

    Returns:
        [T], 0 to 1.

    Raises:
        ValueError: The shapes differ.
    """
    prediction, truth = _without_void(prediction, truth, void)
    num_frames = len(truth)
    intersections = np.zeros(num_frames)
    unions = np.zeros(num_frames)
    # frame by frame: the temporaries of one frame stay in the processor's cache
    for t in range(num_frames):
        intersections[t] = np.count_nonzero(prediction[t] & truth[t])
        unions[t] = np.count_nonzero(prediction[t] | truth[t])
    return ratio(intersections, unions)


def contour_accuracy(
    prediction: ArrayLike,
    truth: ArrayLike,
    void: ArrayLike | None = None,
    *,
    bound: float = OUTLINE_BOUND,
) -> Scores:
    """F of every frame: harmonic mean of precision and recall of the outlines.

    An outline pixel is matched by an outline pixel of the other mask within a disk.

    Args:
        prediction: [T, H, W].
        truth: [T, H, W].
        void: [T, H, W], pixels left out.
        bound: Radius of the disk: a share of the diagonal, rounded up, or pixels from 1 on.

    Returns:
        [T], 0 to 1; 1 where neither mask has an outline.

    Raises:
        ValueError: The shapes differ.
    """
    prediction, truth = _without_void(prediction, truth, void)
    num_frames, height, width = truth.shape
    radius = int(bound) if bound >= 1 else math.ceil(bound * math.hypot(height, width))

    # outline pixels of each frame, and those of them that the other outline matches
    predicted = np.zeros(num_frames)
    predicted_matched = np.zeros(num_frames)
    true = np.zeros(num_frames)
    true_matched = np.zeros(num_frames)
    for start in range(0, num_frames, MASKS_PER_MAP):
        frames = slice(start, start + MASKS_PER_MAP)
        count = len(truth[frames])
        predicted_outline = outline(pack_masks(prediction[frames]))
        true_outline = outline(pack_masks(truth[frames]))
        near_predicted = dilate(predicted_outline, radius)
        near_true = dilate(true_outline, radius)
        predicted[frames] = count_pixels(predicted_outline)[:count]
        predicted_matched[frames] = count_pixels(predicted_outline & near_true)[:count]
        true[frames] = count_pixels(true_outline)[:count]
        true_matched[frames] = count_pixels(true_outline & near_predicted)[:count]

    precision = ratio(predicted_matched, predicted)
    recall = ratio(true_matched, true)
    total = precision + recall
    scores = np.zeros_like(total)
    return np.divide(2 * precision * recall, total, out=scores, where=total > 0)


def frame_statistics(scores: ArrayLike) -> FrameStatistics:
    """Mean, recall and decay of J or F.

    Args:
        scores: One a frame, [T]; NaN frames are left out.
    """
    scores = np.asarray(scores, np.float64)
    # Borders of four bins of frames, rounded as in the published scorer; neighbours share a border.
    # The small number makes one half round up: numpy rounds it to the even neighbour.
    borders = np.linspace(1, len(scores), 5) + 1e-10
    edges = np.round(borders).astype(int) - 1
    first_quarter = scores[: edges[1] + 1]
    last_quarter = scores[edges[3] :]
    known = scores[~np.isnan(scores)]
    return FrameStatistics(
        mean=float(np.mean(known)),
        recall=float(np.mean(known > RECALLED_ABOVE)),
        decay=float(np.nanmean(first_quarter) - np.nanmean(last_quarter)),
    )


def score_best_assignment(
    predictions: ArrayLike, truths: ArrayLike, void: ArrayLike | None = None
) -> tuple[Scores, Scores]:
    """J and F of every object, predictions being matched to objects for the best mean J&F.

    Args:
        predictions: [P, T, H, W], in any order.
        truths: [O, T, H, W].
        void: [T, H, W], pixels left out.

    Returns:
        J and F, each [O, T]; an object without prediction is scored against empty masks.
    """
    predictions = np.asarray(predictions, bool)
    truths = np.asarray(truths, bool)
    num_missing = max(len(truths) - len(predictions), 0)
    empty = np.zeros((num_missing, *truths.shape[1:]), bool)
    predictions = np.concatenate([predictions, empty])

    # [O, P, T]: every object against every prediction
    j = np.array([[region_similarity(p, truth, void) for p in predictions] for truth in truths])
    f = np.array([[contour_accuracy(p, truth, void) for p in predictions] for truth in truths])
    objects, chosen = linear_sum_assignment((j + f).mean(-1), maximize=True)
    return j[objects, chosen], f[objects, chosen]


def ratio(part: Scores, whole: Scores) -> Scores:
    """Divide element by element; 1 where the whole is 0, because nothing was missed."""
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)


def _without_void(
    prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None
) -> tuple[Masks, Masks]:
    """Both clips as boolean arrays, with void pixels cleared.

    Raises:
        ValueError: The shapes differ, or are not [T, H, W].
    """
    prediction = np.asarray(prediction, bool)
    truth = np.asarray(truth, bool)
    shapes = [prediction.shape, truth.shape]
    if void is not None:
        void = np.asarray(void, bool)
        shapes.append(void.shape)
    if len(set(shapes)) > 1 or truth.ndim != 3:
        raise ValueError(f"masks of shapes {shapes}: all must be one [T, H, W]")
    if void is None:
        return prediction, truth
    return prediction & ~void, truth & ~void
