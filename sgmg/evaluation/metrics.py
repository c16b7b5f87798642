"""Scores of the benchmarks: J and F of clips, IoU, precision and mAP of single frames.

Masks are boolean arrays (or CPU tensors) of whole clips, [T, H, W]; pixels marked ``void`` count
neither as object nor as background. Nothing here knows a data set.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sgmg.masks.rle import CocoRle, encode_mask
from sgmg.network.boxes import overlaps

Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]
PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)
_PACKED = 8  # frames a byte holds, one bit each


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
    prediction, truth, keep = _clip(prediction, truth, void)
    intersections, unions = np.zeros((2, len(truth)))
    for t in range(len(truth)):
        both, either = prediction[t] & truth[t], prediction[t] | truth[t]
        if keep is not None:
            both, either = both & keep[t], either & keep[t]
        intersections[t], unions[t] = np.count_nonzero(both), np.count_nonzero(either)
    return _ratio(intersections, unions)


def contour_accuracy(
    prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None = None, *, bound: float = 0.008
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
    prediction, truth, keep = _clip(prediction, truth, void)
    height, width = truth.shape[1:]
    radius = int(bound) if bound >= 1 else math.ceil(bound * math.hypot(height, width))
    counts = np.zeros((4, len(truth)))
    for start in range(0, len(truth), _PACKED):
        frames = slice(start, start + _PACKED)
        kept = None if keep is None else keep[frames]
        ours, theirs = (_outline(_pack(x[frames], kept)) for x in (prediction, truth))
        matched = (ours & _dilate(theirs, radius), theirs & _dilate(ours, radius))
        for row, packed in zip(counts, (ours, theirs, *matched), strict=True):
            row[frames] = _count_bits(packed)[: len(row[frames])]
    precision, recall = _ratio(counts[2], counts[0]), _ratio(counts[3], counts[1])
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def summarise(scores: ArrayLike) -> tuple[float, float, float]:
    """Statistics of one score over the frames of a clip, as DAVIS reports them.

    Args:
        scores: J or F of each frame, [T]; NaN frames are left out.

    Returns:
        Mean over frames; recall, the share of frames above one half; decay, the mean of the first
        quarter of the clip minus that of the last.
    """
    scores = np.asarray(scores, np.float64)
    edges = np.round(np.linspace(1, len(scores), 5) + 1e-10).astype(int) - 1
    first, last = scores[: edges[1] + 1], scores[edges[3] :]
    known = scores[~np.isnan(scores)]
    decay = np.nanmean(first) - np.nanmean(last)
    return float(np.mean(known)), float(np.mean(known > 0.5)), float(decay)


def score_best_assignment(
    predictions: ArrayLike, truths: ArrayLike, void: ArrayLike | None = None
) -> tuple[Scores, Scores]:
    """J and F of every object, predictions being matched to objects for the best mean J&F.

    Args:
        predictions: [P, T, H, W], in any order.
        truths: [O, T, H, W].
        void: [T, H, W], pixels left out.

    Returns:
        ``(J, F)``, each [O, T]; an object without prediction is scored against empty masks.
    """
    predictions, truths = np.asarray(predictions, bool), np.asarray(truths, bool)
    missing = max(len(truths) - len(predictions), 0)
    predictions = np.concatenate([predictions, np.zeros((missing, *truths.shape[1:]), bool)])
    j, f = (
        np.array([[score(p, g, void) for p in predictions] for g in truths])
        for score in (region_similarity, contour_accuracy)
    )
    rows, chosen = linear_sum_assignment((j + f).mean(-1), maximize=True)
    return j[rows, chosen], f[rows, chosen]


@dataclass(frozen=True)
class RankedMasks:
    """Candidate masks of one expression in one frame, run-length coded: small and picklable.

    Args:
        rles: COCO code of each candidate.
        scores: Of each candidate.
        truth: COCO code of the object.
    """

    rles: tuple[CocoRle, ...]
    scores: tuple[float, ...]
    truth: CocoRle

    @classmethod
    def encode(cls, masks: ArrayLike, scores: ArrayLike, truth: ArrayLike) -> "RankedMasks":
        """Code the masks.

        Args:
            masks: [N, H, W].
            scores: [N].
            truth: [H, W].

        Returns:
            The record.
        """
        rles = tuple(encode_mask(mask) for mask in np.asarray(masks, bool))
        scores = tuple(np.asarray(scores, np.float64).tolist())
        return cls(rles=rles, scores=scores, truth=encode_mask(np.asarray(truth, bool)))

    def best_overlap(self) -> tuple[float, float]:
        """Intersection and union of the best-scored candidate with the object, in pixels."""
        pair = [self.rles[int(np.argmax(self.scores))], self.truth]
        both, either = coco_mask.merge(pair, intersect=True), coco_mask.merge(pair)
        return float(coco_mask.area(both)), float(coco_mask.area(either))


def overlap_summary(intersections: ArrayLike, unions: ArrayLike) -> dict[str, float]:
    """Overall IoU, mean IoU and precision at five thresholds.

    The IoU of a frame is rounded to single precision, as the published scorer does: an IoU of
    exactly 0.8 passes the threshold 0.8, one of 0.9 does not pass 0.9.

    Args:
        intersections: Pixels, [N].
        unions: Pixels, [N].

    Returns:
        ``overall_iou`` (sum over sum), ``mean_iou``, ``precision@0.5`` to ``precision@0.9``.
    """
    intersections, unions = (np.asarray(x, np.float64) for x in (intersections, unions))
    iou = _ratio(intersections, unions).astype(np.float32).astype(np.float64)
    precision = {f"precision@{k}": float((iou > k).mean()) for k in PRECISION_AT}
    overall = float(intersections.sum() / max(unions.sum(), 1e-12))
    return {"overall_iou": overall, "mean_iou": float(iou.mean()), **precision}


def average_precision(frames: Sequence[RankedMasks]) -> dict[str, float]:
    """Average precision of ranked masks, computed by pycocotools without categories.

    Args:
        frames: One entry an expression and frame.

    Returns:
        ``mAP`` (IoU 0.5 to 0.95), ``AP@0.5``, ``AP@0.75``, and ``mAP_small``, ``_medium``,
        ``_large`` by object size (-1 where there are none).
    """
    images, truths, results = [], [], []
    for image, frame in enumerate(frames, start=1):
        shared = {"image_id": image, "category_id": 1}
        height, width = frame.truth["size"]
        images.append({"id": image, "height": height, "width": width})
        area, box = float(coco_mask.area(frame.truth)), coco_mask.toBbox(frame.truth).tolist()
        truth = {"id": image, "segmentation": frame.truth, "area": area, "bbox": box, "iscrowd": 0}
        truths.append(truth | shared)
        for rle, score in zip(frame.rles, frame.scores, strict=True):
            results.append({"segmentation": rle, "score": score} | shared)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to the console
        coco = COCO()
        coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": truths}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("mAP", "AP@0.5", "AP@0.75", "mAP_small", "mAP_medium", "mAP_large")
    return {name: float(value) for name, value in zip(names, evaluation.stats[:6], strict=True)}


def box_precision(
    boxes_xyxy: Tensor, scores: Tensor, truth_xyxy: Tensor, *, top: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of expressions with a right box among the best scored.

    Right means a generalised IoU of at least one half, as published.

    Args:
        boxes_xyxy: [N, Q, 4], any unit.
        scores: [N, Q].
        truth_xyxy: [N, 4], same unit.
        top: How many boxes may be tried.

    Returns:
        ``box_precision@1`` and so on.
    """
    right = overlaps(boxes_xyxy.double(), truth_xyxy.double().unsqueeze(1))[1] >= 0.5
    ranked = right.gather(1, scores.argsort(1, descending=True))
    return {f"box_precision@{k}": ranked[:, :k].any(1).double().mean().item() for k in top}


def _clip(
    prediction: ArrayLike, truth: ArrayLike, void: ArrayLike | None
) -> tuple[Masks, Masks, Masks | None]:
    prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
    keep = None if void is None else ~np.asarray(void, bool)
    shapes = [x.shape for x in (prediction, truth, keep) if x is not None]
    if len(set(shapes)) > 1 or truth.ndim != 3:
        raise ValueError(f"masks of shapes {shapes}: all must be one [T, H, W]")
    return prediction, truth, keep


def _ratio(part: Scores, whole: Scores) -> Scores:
    """Part over whole, 1 where the whole is 0."""
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)


def _pack(masks: Masks, keep: Masks | None) -> NDArray[np.uint8]:
    """Up to eight masks [T, H, W] as the bits of one [H, W], so one operation serves all."""
    packed = np.zeros(masks.shape[1:], np.uint8)
    if keep is not None:
        masks = masks & keep
    for mask in masks[::-1]:
        packed += packed  # adding is many times faster than shifting bytes
        packed |= mask.view(np.uint8)
    return packed


def _count_bits(packed: NDArray[np.uint8]) -> list[int]:
    return [int(np.count_nonzero(packed & np.uint8(1 << bit))) for bit in range(_PACKED)]


def _outline(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels that differ from their neighbour to the right, below, or both."""
    edge = np.zeros_like(packed)
    inner, right, below = packed[:-1, :-1], packed[:-1, 1:], packed[1:, :-1]
    edge[:-1, :-1] = (inner ^ right) | (inner ^ below) | (inner ^ packed[1:, 1:])
    edge[-1, :-1] = packed[-1, :-1] ^ packed[-1, 1:]
    edge[:-1, -1] = packed[:-1, -1] ^ packed[1:, -1]
    return edge


def _dilate(packed: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Dilate by the disk of all (dx, dy) with dx^2 + dy^2 <= radius^2.

    The disk is a stack of horizontal runs: the map is spread sideways pixel by pixel, and added at
    the rows whose run is that wide.
    """
    rows_of: dict[int, list[int]] = {}
    for dy in range(radius + 1):
        rows_of.setdefault(math.isqrt(radius**2 - dy**2), []).append(dy)
    spread, out = packed.copy(), np.zeros_like(packed)
    for half in range(radius + 1):
        if half:
            spread[:, half:] |= packed[:, :-half]
            spread[:, :-half] |= packed[:, half:]
        for dy in rows_of.get(half, ()):
            inside = max(len(packed) - dy, 0)
            out[dy:] |= spread[:inside]
            out[:inside] |= spread[dy:]
    return out
