"""The contact sheet of an evaluation: its best, median and worst expressions."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgmg.evaluation.benchmarks import mask_name
from sgmg.evaluation.report import inspection
from sgmg.evaluation.scores import ExpressionScore
from sgmg.evaluation.video import EvaluationVideo, annotated_frames
from sgmg.masks.contact_sheet import contact_sheet
from sgmg.masks.overlay import draw_masks
from sgmg.masks.png_masks import MaskFolder

MAX_FRAMES = 6  # of an expression on the sheet
WHITE = (255, 255, 255)


def evaluation_sheet(
    scores: Sequence[ExpressionScore],
    masks: MaskFolder,
    open_video: Callable[[str], EvaluationVideo],
    count: int,
) -> Image.Image:
    """Draw the best, median and worst expressions, with the tables of the inspection below.

    Args:
        scores: At least one.
        masks: The masks that were scored.
        open_video: Gives a video by its name.
        count: Expressions of each sort, at least one.

    Returns:
        The sheet as an RGB image.
    """
    rows = []
    labels = []
    for sort, group in best_median_worst(scores, count).items():
        for score in group:
            video = open_video(score.video)
            rows.append(draw_expression(video, score, masks))
            quality = 100 * score.quality
            labels.append(f"{sort} {quality:.1f}: {score.video}, {score.text} {score.kind}")
    return contact_sheet(rows, labels, notes=inspection(scores))


def best_median_worst(
    scores: Sequence[ExpressionScore], count: int
) -> dict[str, list[ExpressionScore]]:
    """A few scores of each sort, best first; of few scores one may be of several sorts."""
    ranked = sorted(scores, key=lambda score: -score.quality)
    middle = max((len(ranked) - count) // 2, 0)
    return {
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[-count:],
    }


def draw_expression(
    video: EvaluationVideo, score: ExpressionScore, masks: MaskFolder
) -> list[NDArray[np.uint8]]:
    """Up to six annotated frames with the mask of an expression, the truth outlined in white."""
    objects: tuple[str, ...] = ()  # of a score without expression
    for expression in video.expressions:
        if expression.id == score.expression:
            objects = expression.objects
    annotated = annotated_frames(video)
    truth_of_frame = dict(zip(annotated, video.truth(objects), strict=True))
    if score.frame:
        annotated = [index for index in annotated if video.frame_names[index] == score.frame]
    step = math.ceil(len(annotated) / MAX_FRAMES)  # spread over the whole video
    indices = annotated[::step]

    size = (video.height, video.width)
    pictures = []
    for index, frame in zip(indices, video.frames(indices), strict=True):
        name = mask_name(score.folder, video.frame_names[index])
        labels = masks.read(name, size)
        # in a label map only one value is the object, in a binary mask any but 0
        mask = labels == score.label if score.label else labels > 0
        pixels = frame.permute(1, 2, 0).numpy()
        tinted = draw_masks(pixels, mask[None])
        pictures.append(draw_masks(tinted, truth_of_frame[index][None], [WHITE], opacity=0))
    return pictures
