"""The best, median and worst of an evaluation."""

from pathlib import Path

import numpy as np

from sgmg.evaluation.scores import ExpressionScore
from sgmg.evaluation.sheet import best_median_worst, draw_expression, evaluation_sheet
from sgmg.masks.overlay import PALETTE
from sgmg.masks.png_masks import MaskFolder
from tests.sgmg.evaluation.videos import HEIGHT, WIDTH, PlainExpression, PlainVideo, square

DOG = square(1, 1)
VIDEO = PlainVideo(
    masks=[None, *[{"1": DOG}] * 8],
    expressions=[PlainExpression("0", "a dog", ("1",))],
)


def score(j: float, *, frame: str = "", label: int = 0) -> ExpressionScore:
    return ExpressionScore(
        video="video",
        expression="0",
        text="a dog",
        kind="side",
        frame=frame,
        area=0.1,
        folder="video/0",
        label=label,
        scores={"j": j, "f": j},
    )


def test_scores_are_sorted_by_quality() -> None:
    scores = [score(value) for value in (0.1, 0.9, 0.5, 0.3, 0.7)]
    groups = best_median_worst(scores, 1)
    assert {name: group[0].quality for name, group in groups.items()} == {
        "best": 0.9,
        "median": 0.5,
        "worst": 0.1,
    }
    assert [len(group) for group in best_median_worst(scores[:2], 4).values()] == [2, 2, 2]


def test_annotated_frames_are_drawn_mask_and_truth(tmp_path: Path) -> None:
    masks = MaskFolder(tmp_path)
    predicted = square(5, 8)
    for frame in VIDEO.frame_names:
        masks.write(f"video/0/{frame}.png", predicted * np.uint8(2))
    pictures = draw_expression(VIDEO, score(0.5), masks)
    assert len(pictures) == 4  # every second of eight: at most six
    for picture, grey in zip(pictures, (1, 3, 5, 7), strict=True):
        assert tuple(picture[0, 0]) == (grey, grey, grey)
        assert tuple(picture[5, 8]) == PALETTE[0]  # outline of the mask
        assert tuple(picture[1, 1]) == (255, 255, 255)  # outline of the truth
    (picture,) = draw_expression(VIDEO, score(0.5, frame="00004"), masks)
    assert tuple(picture[0, 0]) == (4, 4, 4)
    other_label = draw_expression(VIDEO, score(0.5, label=1), masks)
    assert tuple(other_label[0][5, 8]) == (1, 1, 1)


def test_a_sheet_has_a_row_an_expression(tmp_path: Path) -> None:
    masks = MaskFolder(tmp_path)
    for frame in VIDEO.frame_names:
        masks.write(f"video/0/{frame}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    opened = []

    def open_video(video_id: str) -> PlainVideo:
        opened.append(video_id)
        return VIDEO

    scores = [score(0.9), score(0.1)]
    low = evaluation_sheet(scores, masks, open_video, 1)
    high = evaluation_sheet(scores, masks, open_video, 2)
    row_height = 20 + 120 + 4
    assert high.height - low.height == 3 * row_height
    assert opened == ["video"] * (3 + 6)
