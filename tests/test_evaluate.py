"""evaluate.py on small shard sets: every way of scoring, any system's masks, many processes."""

import csv
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import evaluate
from sgmg.masks.png_masks import MaskFolder
from shards import ShardSet
from shards.build.plan import Plan
from shards.build.writer import build_set
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import Expression, Frame, Json, Video
from tests.processes import finish, start
from tests.sgmg.tiny import tiny_model
from tests.shards.sample_videos import make_video

ANNOTATORS = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
SIZE = ("--short-side", 144, "--device", "cpu")

BuildSet = Callable[..., Path]


def run(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()


def decoded_masks(frame: Frame) -> dict[str, NDArray[np.bool_]]:
    return {name: decode_mask(rle) for name, rle in (frame.masks or {}).items()}


def with_void(frame: Frame) -> Frame:
    """The upper rows become void, and objects no longer overlap, as in a label map."""
    void = np.zeros((36, 52), bool)
    void[:4] = True
    masks = {name: mask & ~void for name, mask in decoded_masks(frame).items()}
    masks["2"] = masks.get("2", np.zeros_like(void)) & ~masks["1"]
    masks["255"] = void
    return replace(frame, masks={name: encode_mask(mask) for name, mask in masks.items()})


def sample(key: str, dataset: str) -> Video:
    """Two objects in five frames, the third without annotation where queries are ranked."""
    unannotated = [2] if dataset.startswith("a2d") else []
    video = make_video(key, unannotated=unannotated, absent=[1])
    if dataset != "ref-davis17":
        return replace(video, video_id=key, dataset=dataset)
    expressions = [
        Expression("", f"object {name} moving", (name,), annotator)
        for name in "12"
        for annotator in ANNOTATORS
    ]
    return replace(
        video,
        video_id=key,
        frames=[with_void(frame) for frame in video.frames],
        objects={"1": "", "2": "dog", "255": "void"},
        expressions=tuple(
            replace(expression, id=str(index)) for index, expression in enumerate(expressions)
        ),
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> BuildSet:
    """Builds a set of three videos named like a data set."""
    folder = tmp_path_factory.mktemp("sets")

    def build(
        dataset: str, split: str = "train", settings: Mapping[str, Json] | None = None
    ) -> Path:
        out = folder / dataset / split
        if not out.exists():
            plans = [Plan(f"video{index}", 1000) for index in range(3)]
            read = partial(sample, dataset=dataset)
            build_set(plans, read, str(out), dataset=dataset, split=split, settings=settings or {})
        return out

    return build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    return folder


def write_perfect_masks(shards: Path, out: Path, *, merged: bool = False) -> Path:
    """What a system without faults would hand in."""
    folder = MaskFolder(out / "Annotations")
    for video in ShardSet.open(str(shards)).sequential():
        empty = np.zeros((video.height, video.width), bool)
        for frame in video.frames:
            masks = decoded_masks(frame)
            if merged:
                labels = masks.get("1", empty) + 2 * masks.get("2", empty).astype(np.uint8)
                for number in range(len(ANNOTATORS)):
                    folder.write(f"anno_{number}/{video.video_id}/{frame.name}.png", labels)
                continue
            for expression in video.expressions:
                union = np.any([masks.get(name, empty) for name in expression.objects], 0)
                name = f"{video.video_id}/{expression.id}/{frame.name}.png"
                folder.write(name, union * np.uint8(255))
    return out


def summary_of(out: Path) -> dict[str, float]:
    return json.loads((out / "summary.json").read_text())


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "expressions.csv").open() as file:
        return list(csv.DictReader(file))


def test_clips(
    sets: BuildSet, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkpoint, sets("ref-youtube-vos"), "--out", tmp_path, *SIZE, "--window", 2)
    rows = rows_of(tmp_path)
    assert len(rows) == 6
    mean = np.mean([(float(row["j"]) + float(row["f"])) / 2 for row in rows])
    assert summary_of(tmp_path)["J&F"] == pytest.approx(100 * mean)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == (tmp_path / "summary.txt").read_text().strip()
    assert printed[-1].startswith("J&F ")
    table = (tmp_path / "table.md").read_text()
    assert "| kind side" in table
    assert "up to 4 words" in table
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 500
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        names = set(archive.namelist())
        mask = np.asarray(Image.open(archive.open("Annotations/video0/0/00005.png")))
    assert names == {
        f"Annotations/video{video}/{expression}/{5 * index:05d}.png"
        for video in range(3)
        for expression in range(2)
        for index in range(5)
    }
    assert mask.shape == (36, 52)
    assert set(np.unique(mask)) <= {0, 255}


def test_masks_of_another_system(sets: BuildSet, tmp_path: Path) -> None:
    shards = sets("mevis")
    masks = write_perfect_masks(shards, tmp_path / "masks")
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", masks)
    for name, source in (("folder", masks), ("zip", archive)):
        run(source, shards, "--masks", "--out", tmp_path / name)
        assert summary_of(tmp_path / name)["J&F"] == 100
        assert summary_of(tmp_path / name)["shuffled"] != 100
        assert (tmp_path / name / "submission.zip").is_file()
    damaged = masks / "Annotations/video1/0/00010.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(damaged)
    with pytest.raises(ValueError, match=r"video1/0/00010.png is \(9, 9\), must be \(36, 52\)"):
        run(masks, shards, "--masks", "--out", tmp_path / "folder")
    damaged.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00010.png is no PNG"):
        run(masks, shards, "--masks", "--out", tmp_path / "folder")
    damaged.unlink()
    with pytest.raises(ValueError, match=r"has no video1/0/00010.png"):
        run(masks, shards, "--masks", "--out", tmp_path / "folder")
    with pytest.raises(ValueError, match=r"no checkpoint.*masks of another system need --masks"):
        run(masks, shards, "--out", tmp_path / "other")
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no folder and no zip"):
        run(tmp_path / "broken.zip", shards, "--masks", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_part_of_a_benchmark_is_refused(sets: BuildSet, tmp_path: Path) -> None:
    shards = sets("ref-youtube-vos", "valid")
    masks = write_perfect_masks(shards, tmp_path / "masks")
    with pytest.raises(ValueError, match="3 videos and 6 expressions, the benchmark 202 and 834"):
        run(masks, shards, "--masks", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(masks, shards, "--masks", "--out", tmp_path / "out", "--allow-partial")
    assert summary_of(tmp_path / "out")["J&F"] == 100


@pytest.mark.parametrize("dataset", ["mevis", "refcocog"])
def test_a_set_that_was_built_in_part_is_refused(
    dataset: str, sets: BuildSet, tmp_path: Path
) -> None:
    shards = sets(dataset, "val", {"partial": True})
    masks = write_perfect_masks(shards, tmp_path / "masks")
    with pytest.raises(ValueError, match=f"6 expressions, other numbers .* {dataset} val: build"):
        run(masks, shards, "--masks", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(masks, shards, "--masks", "--out", tmp_path / "out", "--allow-partial")
    assert (tmp_path / "out/summary.json").is_file()


def read_all_but_the_last(key: str) -> Video:
    if key == "video2":
        raise ValueError("broken")
    return sample(key, "mevis")


def test_a_set_with_videos_left_out_is_refused(tmp_path: Path) -> None:
    plans = [Plan(f"video{index}", 1000) for index in range(3)]
    shards = tmp_path / "shards"
    build_set(
        plans,
        read_all_but_the_last,
        str(shards),
        dataset="mevis",
        split="val",
        settings={},
        on_error="skip",
    )
    masks = write_perfect_masks(shards, tmp_path / "masks")
    with pytest.raises(ValueError, match=r"left out 1 videos .* such as video2: build it whole"):
        run(masks, shards, "--masks", "--out", tmp_path / "out")
    run(masks, shards, "--masks", "--out", tmp_path / "out", "--allow-partial")
    assert (tmp_path / "out/summary.json").is_file()


def test_a_data_set_without_benchmark_is_refused(
    sets: BuildSet, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="data set 'own-videos'; known are ref-youtube-vos"):
        run(checkpoint, sets("own-videos"), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ref_davis_counts_each_annotator_and_no_void(
    sets: BuildSet, checkpoint: Path, tmp_path: Path
) -> None:
    shards = sets("ref-davis17")
    run(checkpoint, shards, "--out", tmp_path / "own", *SIZE)
    rows = rows_of(tmp_path / "own")
    assert {(row["kind"], row["video"]) for row in rows} == {
        (annotator, f"video{index}") for annotator in ANNOTATORS for index in range(3)
    }
    assert len(rows) == 4 * 3 * 2
    labels = Image.open(tmp_path / "own/Annotations/annot2/video0/00000.png")
    assert set(np.unique(np.asarray(labels))) <= {0, 1, 2}
    masks = write_perfect_masks(shards, tmp_path / "masks", merged=True)
    for path in (masks / "Annotations/anno_3").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:4] = 1  # void pixels do not count
        pixels[pixels > 0] = 3 - pixels[pixels > 0]  # the order of labels does not matter
        Image.fromarray(pixels).save(path)
    for path in (masks / "Annotations/anno_1").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 0).save(path)
    run(masks, shards, "--masks", "--out", tmp_path / "other")
    rows = rows_of(tmp_path / "other")
    for annotator in (ANNOTATORS[0], ANNOTATORS[2], ANNOTATORS[3]):
        perfect = [row for row in rows if row["kind"] == annotator]
        assert all(float(row["j"]) == float(row["f"]) == 1 for row in perfect)
    # right only where the object is absent: one frame of five
    empty = [row for row in rows if row["kind"] == ANNOTATORS[1]]
    assert [float(row["j"]) for row in empty] == [0, 0.2] * 3
    summary = summary_of(tmp_path / "other")
    assert summary["J"] == pytest.approx(100 * (3 + 0.1) / 4)
    assert summary["J recall"] == pytest.approx(100 * (3 + 0.1) / 4)
    assert {"J decay", "F recall", "F decay"} <= summary.keys()


@pytest.mark.parametrize("dataset", ["a2d-sentences", "refcoco-plus"])
def test_ranked_queries_of_single_frames(
    sets: BuildSet, checkpoint: Path, tmp_path: Path, dataset: str
) -> None:
    shards = sets(dataset)
    run(checkpoint, shards, "--out", tmp_path / "own", *SIZE)
    rows = rows_of(tmp_path / "own")
    annotated = 4 if dataset.startswith("a2d") else 5
    assert len(rows) == 3 * (annotated + annotated - 1)  # the dog is absent once
    iou = np.array([float(row["intersections"]) / float(row["unions"]) for row in rows])
    summary = summary_of(tmp_path / "own")
    assert summary["mean_iou"] == pytest.approx(100 * np.mean(iou), abs=1e-4)
    assert summary["precision@0.5"] == pytest.approx(100 * np.mean(iou > 0.5))
    assert {"mAP", "box_precision@1"} <= summary.keys()
    masks = write_perfect_masks(shards, tmp_path / "masks")
    run(masks, shards, "--masks", "--out", tmp_path / "other")
    summary = summary_of(tmp_path / "other")
    for name in ("mAP", "overall_iou", "mean_iou", "precision@0.9"):
        assert summary[name] == pytest.approx(100)


def test_resuming_redoes_nothing_and_refuses_other_settings(
    sets: BuildSet, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = (checkpoint, sets("mevis"), "--out", tmp_path, "--sheet", 0)
    run(*arguments, *SIZE)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    before = (tmp_path / "expressions.csv").read_text()
    assert len(finished) == 3
    lost = min(finished)
    lost.unlink()
    run(*arguments, *SIZE)
    assert (tmp_path / "expressions.csv").read_text() == before
    redone = {path for path in finished if path.stat().st_mtime_ns != finished[path]}
    assert redone == {lost}
    with pytest.raises(ValueError, match="another checkpoint, shard set or size"):
        run(*arguments, "--short-side", 160, "--device", "cpu")


def test_validation_without_ground_truth_is_refused(
    sets: BuildSet, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = str(sets("mevis"))
    score, scores = evaluate.validate(checkpoint, [shards, shards], tmp_path, 144)
    assert score == scores["validation 0 J&F"] == scores["validation 1 J&F"]
    assert evaluate.validate(checkpoint, [], tmp_path, 144) == (0, {})
    # as `report` leaves it where nothing can be scored
    monkeypatch.setattr(evaluate, "report", lambda *_: None)
    with pytest.raises(ValueError, match="has no ground truth"):
        evaluate.validate(checkpoint, [shards], tmp_path, 144)


def test_two_processes_give_the_table_of_one(
    sets: BuildSet, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = (checkpoint, sets("mevis"), *SIZE, "--sheet", 0, "--out")
    run(*arguments, tmp_path / "one")
    assert finish(start(2, run, *arguments, tmp_path / "two")) == [0, 0]
    for name in ("expressions.csv", "summary.json", "table.md"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
