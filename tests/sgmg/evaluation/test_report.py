"""Tables and summaries of known scores."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from sgmg.evaluation.ranked_metrics import RankedMasks
from sgmg.evaluation.report import averages, inspection, summarise, table, write_report
from sgmg.evaluation.scores import ExpressionScore, RankedBoxes

NAN = float("nan")


def clip_score(
    text: str = "a dog",
    *,
    j: float = 1.0,
    f: float = 1.0,
    control: float = NAN,
    area: float = 0.05,
    video: str = "v",
    kind: str = "",
) -> ExpressionScore:
    return ExpressionScore(
        video=video,
        expression="0",
        text=text,
        kind=kind,
        area=area,
        folder=f"{video}/0",
        scores={"j": j, "f": f, "control": control},
    )


def frame_score(shift: int, *, with_boxes: bool = True) -> ExpressionScore:
    """A square of 10 pixels, found a few pixels too far right."""
    truth = np.zeros((30, 40), bool)
    truth[5:15, 5:15] = True
    masks = RankedMasks.encode([np.roll(truth, shift, 1)], [0.9], truth)
    intersection, union = masks.best_overlap()
    boxes = RankedBoxes(
        candidates_xyxy_px=[[5 + shift, 5, 15 + shift, 15]],
        truth_xyxy_px=[5, 5, 15, 15],
    )
    return ExpressionScore(
        video="v",
        expression="0",
        text="a dog",
        kind="",
        frame="00000",
        area=0.1,
        folder="v/0",
        scores={"intersections": intersection, "unions": union},
        ranked_masks=masks,
        ranked_boxes=boxes if with_boxes else None,
    )


def cells(lines: list[str]) -> dict[str, list[str]]:
    """Cells of a Markdown table by the first of their row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_averages_are_per_cent_and_leave_out_nan() -> None:
    group = [clip_score(j=0.5, f=0.7, control=0.2), clip_score(j=0.7, f=0.9)]
    assert averages(group) == pytest.approx({"J": 60, "F": 80, "J&F": 70, "control": 20})
    assert math.isnan(averages(group[1:])["control"])


def test_summary_of_clips_tells_what_only_motion_can() -> None:
    scores = [
        clip_score(j=0.2, f=0.2, control=0.1, kind="motion"),
        clip_score(j=0.6, f=0.6, control=0.3, kind="side"),
        clip_score(j=0.8, f=0.8, control=0.5, kind="appearance"),
    ]
    summary = summarise(scores)
    assert "control" not in summary
    assert summary["shuffled"] == pytest.approx(30)
    assert summary["motion"] == pytest.approx(20)
    assert summary["appearance+side"] == pytest.approx(70)
    assert "motion" not in summarise(scores[1:])


def test_summary_of_ranked_queries() -> None:
    summary = summarise([frame_score(0), frame_score(5)])
    assert summary["mean_iou"] == pytest.approx(100 * (1 + 50 / 150) / 2, abs=1e-4)
    assert summary["AP@0.5"] == pytest.approx(50.495, abs=1e-3)  # 51 of 101 points of recall
    assert summary["box_precision@1"] == 50
    assert "mAP_large" not in summary  # no object is as large
    masks_only = summarise([frame_score(0), frame_score(5, with_boxes=False)])
    assert "box_precision@1" not in masks_only
    assert masks_only["mAP"] == summary["mAP"]


def test_a_table_lists_few_videos_and_each_kind() -> None:
    scores = [clip_score(video=f"v{index}", kind="side", j=0.5) for index in range(60)]
    rows = cells(table(scores))
    assert rows["v59"] == ["1", "50.0", "100.0", "75.0", "nan"]
    assert rows["kind side"] == rows["all"] == ["60", "50.0", "100.0", "75.0", "nan"]
    rows = cells(table([*scores, clip_score(video="v60")]))
    assert "v59" not in rows
    assert rows["all"][0] == "61"


def test_columns_of_a_table_stand() -> None:
    lines = table([clip_score(video="a"), clip_score(video="a long name", j=0.01)])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("| ----------- | ----------: |")


def test_inspection_groups_by_words_and_size() -> None:
    scores = [
        clip_score("a dog running", area=0.01),
        clip_score("the big red parrot on the left side", area=0.5, j=0.0),
    ]
    rows = cells(inspection(scores))
    assert rows["up to 4 words"][:2] == ["1", "100.0"]
    assert rows["5 to 8 words"][:2] == ["1", "0.0"]
    assert "more than 8 words" not in rows
    assert rows["object below 2 % of the frame"][:2] == ["1", "100.0"]
    assert rows["object above 10 %"][:2] == ["1", "0.0"]
    assert rows["motion word"][:2] == ["1", "100.0"]
    assert rows["no motion word"][:2] == ["1", "0.0"]
    assert averages(scores)["J"] == 50


def test_a_report_is_four_files(tmp_path: Path) -> None:
    lines = write_report(tmp_path, [clip_score("the „big“ dog, left", j=0.5, control=0.25)])
    with (tmp_path / "expressions.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["text"] == "the „big“ dog, left"
    assert float(row["j"]) == 0.5
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {"J": 50, "F": 100, "J&F": 75, "shuffled": 25}
    assert lines[-1] == "J&F 75.0 shuffled 25.0"
    assert (tmp_path / "summary.txt").read_text() == lines[-1] + "\n"
    page = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert page[: len(lines) - 1] == lines[:-1]
    assert page[-1] == lines[-1]


def test_a_score_comes_back_from_json() -> None:
    for score in (clip_score(control=0.5), frame_score(3), frame_score(3, with_boxes=False)):
        content = json.loads(json.dumps(score.to_json()))
        assert ExpressionScore.from_json(content) == score
