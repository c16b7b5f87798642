"""evaluate.py on small shard sets: every way of scoring, any system's masks, many processes."""

import csv
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from sgmg.evaluation.report import Row, averages, inspection
from sgmg.masks.png_masks import open_tree, write_submission
from shards import ShardSet
from shards.build.plan import Plan
from shards.build.writer import build_set
from shards.format.rle import decode_mask, encode_mask
from shards.format.schema import Expression, Video
from tests.processes import finish, start
from tests.sgmg.tiny import tiny_model
from tests.shards.sample_videos import make_video

FOUR = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
SIZE = ("--short-side", 144, "--device", "cpu")


def run(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()


def sample(key: str, dataset: str) -> Video:
    """Two objects in five frames, the third without annotation where queries are ranked."""
    unannotated = [2] if dataset.startswith("a2d") else []
    video = make_video(key, unannotated=unannotated, absent=[1])
    if dataset != "ref-davis17":
        return replace(video, video_id=key, dataset=dataset)
    frames = []
    for frame in video.frames:
        void = np.zeros((36, 52), bool)
        void[:4] = True
        masks = {name: decode_mask(it) & ~void for name, it in (frame.masks or {}).items()}
        masks["2"] = masks.get("2", np.zeros_like(void)) & ~masks["1"]
        rles = {name: encode_mask(it) for name, it in (masks | {"255": void}).items()}
        frames.append(replace(frame, masks=rles))
    said = [(name, kind) for name in "12" for kind in FOUR]
    expressions = tuple(
        Expression(str(k), f"object {name} moving", (name,), kind)
        for k, (name, kind) in enumerate(said)
    )
    objects = {"1": "", "2": "dog", "255": "void"}
    return replace(video, video_id=key, frames=frames, objects=objects, expressions=expressions)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a set of three videos named like a data set."""
    folder = tmp_path_factory.mktemp("sets")

    def build(dataset: str, split: str = "train") -> Path:
        out = folder / dataset / split
        if not out.exists():
            plans = [Plan(f"video{k}", 1000) for k in range(3)]
            read = partial(sample, dataset=dataset)
            build_set(plans, read, str(out), dataset=dataset, split=split, settings={})
        return out

    return build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    return folder


def perfect_masks(shards: Path, out: Path, *, merged: bool = False) -> Path:
    """What a system without faults would hand in."""
    for video in ShardSet.open(str(shards)).sequential():
        for frame in video.frames:
            masks = {name: decode_mask(it) for name, it in (frame.masks or {}).items()}
            empty = np.zeros((video.height, video.width), bool)
            if merged:
                labels = masks.get("1", empty) + 2 * masks.get("2", empty).astype(np.uint8)
                files = {f"anno_{k}/{video.video_id}": labels for k in range(4)}
            else:
                files = {
                    f"{video.video_id}/{it.id}": np.any(
                        [masks.get(name, empty) for name in it.objects], 0
                    )
                    * np.uint8(255)
                    for it in video.expressions
                }
            for folder, pixels in files.items():
                (out / "Annotations" / folder).mkdir(parents=True, exist_ok=True)
                path = out / "Annotations" / folder / f"{frame.name}.png"
                Image.fromarray(pixels).save(path)
    return out


def scores(out: Path) -> dict[str, float]:
    return json.loads((out / "summary.json").read_text())


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "expressions.csv").open()))


def test_clips(sets, checkpoint, tmp_path, capsys) -> None:
    run(checkpoint, sets("ref-youtube-vos"), "--out", tmp_path, *SIZE, "--window", 2)
    assert len(rows(tmp_path)) == 6
    want = np.mean([(float(row["j"]) + float(row["f"])) / 2 for row in rows(tmp_path)])
    assert scores(tmp_path)["J&F"] == pytest.approx(100 * want)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == (tmp_path / "summary.txt").read_text().strip()
    assert printed[-1].startswith("J&F ")
    table = (tmp_path / "table.md").read_text()
    assert "| kind side" in table
    assert "up to 4 words" in table
    assert Image.open(tmp_path / "sheet.png").height > 500
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        names = set(archive.namelist())
        mask = np.asarray(Image.open(archive.open("Annotations/video0/0/00005.png")))
    assert names == {
        f"Annotations/video{v}/{e}/{5 * t:05d}.png"
        for v in range(3)
        for e in range(2)
        for t in range(5)
    }
    assert mask.shape == (36, 52)
    assert set(np.unique(mask)) <= {0, 255}


def test_masks_of_another_system(sets, tmp_path) -> None:
    shards = sets("mevis")
    masks = perfect_masks(shards, tmp_path / "masks")
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", masks)
    for name, source in (("folder", masks), ("zip", archive)):
        run(source, shards, "--out", tmp_path / name)
        assert scores(tmp_path / name)["J&F"] == 100
        assert scores(tmp_path / name)["shuffled"] != 100
        assert (tmp_path / name / "submission.zip").is_file()
    wrong = masks / "Annotations/video1/0/00010.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(wrong)
    with pytest.raises(ValueError, match=r"video1/0/00010.png is \(9, 9\), must be \(36, 52\)"):
        run(masks, shards, "--out", tmp_path / "folder")
    wrong.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00010.png is no PNG"):
        run(masks, shards, "--out", tmp_path / "folder")
    wrong.unlink()
    with pytest.raises(ValueError, match=r"has no video1/0/00010.png"):
        run(masks, shards, "--out", tmp_path / "folder")
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no folder and no zip"):
        run(tmp_path / "broken.zip", shards, "--out", tmp_path / "other")


def test_a_part_of_a_benchmark_is_refused(sets, tmp_path) -> None:
    shards = sets("ref-youtube-vos", "valid")
    masks = perfect_masks(shards, tmp_path / "masks")
    with pytest.raises(ValueError, match="3 videos and 6 expressions, the benchmark 202 and 834"):
        run(masks, shards, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(masks, shards, "--out", tmp_path / "out", "--allow-partial")
    assert scores(tmp_path / "out")["J&F"] == 100


def test_ref_davis_counts_each_annotator_and_no_void(sets, checkpoint, tmp_path) -> None:
    shards = sets("ref-davis17")
    run(checkpoint, shards, "--out", tmp_path / "own", *SIZE)
    own = rows(tmp_path / "own")
    assert {(row["kind"], row["video"]) for row in own} == {
        (kind, f"video{v}") for kind in FOUR for v in range(3)
    }
    assert len(own) == 4 * 3 * 2
    labels = Image.open(tmp_path / "own/Annotations/annot2/video0/00000.png")
    assert set(np.unique(np.asarray(labels))) <= {0, 1, 2}
    masks = perfect_masks(shards, tmp_path / "masks", merged=True)
    for path in (masks / "Annotations/anno_3").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:4] = 1  # there nothing counts
        pixels[pixels > 0] = 3 - pixels[pixels > 0]  # the order of labels does not matter
        Image.fromarray(pixels).save(path)
    for path in (masks / "Annotations/anno_1").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 0).save(path)
    run(masks, shards, "--out", tmp_path / "other")
    by_kind = {kind: [r for r in rows(tmp_path / "other") if r["kind"] == kind] for kind in FOUR}
    for kind in (FOUR[0], FOUR[2], FOUR[3]):
        assert all(float(row["j"]) == float(row["f"]) == 1 for row in by_kind[kind])
    empty = by_kind[FOUR[1]]  # right only where the object is absent: one frame of five
    assert [float(row["j"]) for row in empty] == [0, 0.2] * 3
    got = scores(tmp_path / "other")
    assert got["J"] == pytest.approx(100 * (3 + 0.1) / 4)
    assert got["J recall"] == pytest.approx(100 * (3 + 0.1) / 4)
    assert {"J decay", "F recall", "F decay"} <= got.keys()


@pytest.mark.parametrize("dataset", ["a2d-sentences", "refcoco+"])
def test_ranked_queries_of_single_frames(sets, checkpoint, tmp_path, dataset) -> None:
    shards = sets(dataset)
    run(checkpoint, shards, "--out", tmp_path / "own", *SIZE)
    own = rows(tmp_path / "own")
    annotated = 4 if dataset.startswith("a2d") else 5
    assert len(own) == 3 * (annotated + annotated - 1)  # the dog is absent once
    ratio = [float(row["intersections"]) / float(row["unions"]) for row in own]
    got = scores(tmp_path / "own")
    assert got["mean_iou"] == pytest.approx(100 * np.mean(ratio), abs=1e-4)
    assert got["precision@0.5"] == pytest.approx(100 * np.mean(np.array(ratio) > 0.5))
    assert {"mAP", "box_precision@1"} <= got.keys()
    masks = perfect_masks(shards, tmp_path / "masks")
    run(masks, shards, "--out", tmp_path / "other")
    got = scores(tmp_path / "other")
    for name in ("mAP", "overall_iou", "mean_iou", "precision@0.9"):
        assert got[name] == pytest.approx(100)


def test_resuming_redoes_nothing_and_refuses_other_settings(sets, checkpoint, tmp_path) -> None:
    arguments = (checkpoint, sets("mevis"), "--out", tmp_path, "--sheet", 0)
    run(*arguments, *SIZE)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    before = (tmp_path / "expressions.csv").read_text()
    assert len(parts) == 3
    gone = min(parts)
    gone.unlink()
    run(*arguments, *SIZE)
    assert (tmp_path / "expressions.csv").read_text() == before
    redone = {path for path in parts if path.stat().st_mtime_ns != parts[path]}
    assert redone == {gone}
    with pytest.raises(ValueError, match="another checkpoint, shard set or size"):
        run(*arguments, "--short-side", 160, "--device", "cpu")


def test_two_processes_give_the_table_of_one(sets, checkpoint, tmp_path) -> None:
    arguments = (checkpoint, sets("mevis"), *SIZE, "--sheet", 0, "--out")
    run(*arguments, tmp_path / "one")
    assert finish(start(2, run, *arguments, tmp_path / "two")) == [0, 0]
    for name in ("expressions.csv", "summary.json", "table.md"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


class OneMask:
    """A tree in which every mask is the same file."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, []

    def __truediv__(self, name: str) -> Path:
        self.asked.append(name)
        return self.path


def test_submission_of_the_whole_benchmark(shared: Path, tmp_path: Path) -> None:
    lists = shared / "realdata/refer_youtube_vos/meta_expressions"
    valid, test = (
        json.loads((lists / split / "meta_expressions.json").read_text())["videos"]
        for split in ("valid", "test")
    )
    scored = {name: it for name, it in valid.items() if name not in test}
    expected = [
        (f"{name}/{e}/{frame}.png", (4, 5))
        for name, it in scored.items()
        for e in it["expressions"]
        for frame in it["frames"]
    ]
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "mask.png")
    tree = OneMask(tmp_path / "mask.png")
    count = write_submission(tree, expected, tmp_path / "submission.zip")  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        names = archive.namelist()
    assert len(names) == count == len(set(names)) == len(expected)
    folders = {name.rpartition("/")[0] for name in names}
    assert len(folders) == 834
    assert len({folder.split("/")[1] for folder in folders}) == 202
    assert all(name.startswith("Annotations/") and name.endswith(".png") for name in names)
    with pytest.raises(ValueError, match="must be"):
        write_submission(tree, [("a/0/b.png", (5, 4))], tmp_path / "other.zip")  # type: ignore[arg-type]
    assert not (tmp_path / "other.zip").exists()
    assert open_tree(tmp_path) == tmp_path


def test_inspection_groups_by_words_and_size() -> None:
    def row(text: str, area: float, j: float) -> Row:
        return Row(
            video="v",
            expression="0",
            text=text,
            kind="",
            folder="",
            area=area,
            scores={"j": j, "f": j, "control": float("nan")},
        )

    some = [row("a dog running", 0.01, 1.0), row("the big red parrot on the left side", 0.5, 0.0)]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in inspection(some)]
    found = {line[0]: line[1:3] for line in cells}
    assert found["up to 4 words"] == ["1", "100.0"]
    assert found["5 to 8 words"] == ["1", "0.0"]
    assert found["object below 2 % of the frame"] == ["1", "100.0"]
    assert found["object above 10 %"] == ["1", "0.0"]
    assert found["motion word"] == ["1", "100.0"]
    assert found["no motion word"] == ["1", "0.0"]
    assert averages(some)["J&F"] == 50
