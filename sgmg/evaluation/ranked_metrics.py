"""IoU, precision and average precision of masks in single frames, ranked by their scores.

Nothing here knows a data set.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from sgmg.evaluation.clip_metrics import ratio
from sgmg.masks.rle import CocoRle, encode_mask
from sgmg.network.boxes import overlaps

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)  # IoU
MIN_BOX_GIOU = 0.5  # a box counts as right from here on, as published for RefCOCO
# the first numbers that pycocotools summarises, in its order
COCO_NAMES = ("mAP", "AP@0.5", "AP@0.75", "mAP_small", "mAP_medium", "mAP_large")


@dataclass(frozen=True)
class RankedMasks:
    """Candidate masks of one expression in one frame, run-length coded: small and picklable.

    Attributes:
        rles: One a candidate, in any order.
        scores: One a candidate.
        truth: Mask of the object.
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
        """
        return cls(
            rles=tuple(encode_mask(mask) for mask in np.asarray(masks, bool)),
            scores=tuple(np.asarray(scores, np.float64).tolist()),
            truth=encode_mask(np.asarray(truth, bool)),
        )

    def best_overlap(self) -> tuple[float, float]:
        """Intersection and union of the best-scored candidate with the object, in pixels."""
        best = self.rles[int(np.argmax(self.scores))]
        intersection = coco_mask.merge([best, self.truth], intersect=True)
        union = coco_mask.merge([best, self.truth])
        return float(coco_mask.area(intersection)), float(coco_mask.area(union))


def overlap_summary(intersections: ArrayLike, unions: ArrayLike) -> dict[str, float]:
    """Overall IoU, mean IoU and precision at five thresholds.

    The IoU of a frame is rounded to single precision, as the published scorer does: an IoU of
    exactly 0.8 passes the threshold 0.8, one of 0.9 does not pass 0.9.

    Args:
        intersections: Pixels, [N].
        unions: Pixels, [N].

    Returns:
        `overall_iou` (sum over sum), `mean_iou`, `precision@0.5` to `precision@0.9`.
    """
    intersections = np.asarray(intersections, np.float64)
    unions = np.asarray(unions, np.float64)
    iou = ratio(intersections, unions).astype(np.float32).astype(np.float64)
    summary = {
        "overall_iou": float(intersections.sum() / max(unions.sum(), 1e-12)),
        "mean_iou": float(iou.mean()),
    }
    for threshold in PRECISION_AT:
        summary[f"precision@{threshold}"] = float((iou > threshold).mean())
    return summary


def average_precision(frames: Sequence[RankedMasks]) -> dict[str, float]:
    """Average precision of ranked masks, computed by pycocotools without categories.

    Args:
        frames: One entry an expression and frame.

    Returns:
        `mAP` (IoU 0.5 to 0.95), `AP@0.5`, `AP@0.75`, and `mAP_small`, `_medium`, `_large` by
        object size (-1 where there are none).
    """
    images = []
    truths = []
    results = []
    # every expression and frame is an image of its own, with one object; ids count from 1,
    # because pycocotools takes a match with annotation 0 for none
    for image_id, frame in enumerate(frames, start=1):
        height, width = frame.truth["size"]
        images.append({"id": image_id, "height": height, "width": width})
        truths.append(
            {
                "id": image_id,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": frame.truth,
                "area": float(coco_mask.area(frame.truth)),
                "bbox": coco_mask.toBbox(frame.truth).tolist(),
                "iscrowd": 0,
            }
        )
        for rle, score in zip(frame.rles, frame.scores, strict=True):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": rle,
                    "score": score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools 2.0.11 reports to the console
        coco = COCO()
        coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": truths}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[: len(COCO_NAMES)]
    return {name: float(value) for name, value in zip(COCO_NAMES, values, strict=True)}


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
        `box_precision@1` and so on.
    """
    _, giou = overlaps(boxes_xyxy.double(), truth_xyxy.double().unsqueeze(1))
    right = giou >= MIN_BOX_GIOU
    best_first = scores.argsort(1, descending=True)
    ranked = right.gather(1, best_first)
    precision = {}
    for k in top:
        precision[f"box_precision@{k}"] = ranked[:, :k].any(1).double().mean().item()
    return precision
