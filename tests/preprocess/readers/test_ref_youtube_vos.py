"""Ref-YouTube-VOS: the genuine lists over blank frames, and hand-made trees for the rest."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocess.readers.ref_youtube_vos import open_ref_youtube_vos
from shards.errors import ShardError
from tests.preprocess.conftest import check_round_trip, jpeg, masks_of, write


def with_blank_frames(lists: Path, root: Path, split: str) -> Path:
    """Copy the genuine lists and give every video the same blank frames."""
    shutil.copytree(lists / "meta_expressions", root / "meta_expressions")
    listed = json.loads((lists / f"meta_expressions/{split}/meta_expressions.json").read_text())
    names = sorted({name for row in listed["videos"].values() for name in row["frames"]})
    image = jpeg(24, 32)
    for name in names:
        write(root / f"blank/{name}.jpg", image)
        write(root / f"blank/{name}.png", np.eye(24, 32))
    trees = ["JPEGImages"] + (["Annotations"] if split == "train" else [])
    for tree in trees:
        (root / split / tree).mkdir(parents=True)
        for video in listed["videos"]:
            (root / split / tree / video).symlink_to(root / "blank")
    if split == "train":
        shutil.copy(lists / "train/meta.json", root / "train")
    return root


def test_the_genuine_valid_list_without_the_test_list_is_the_benchmark(
    shared: Path, tmp_path: Path
) -> None:
    lists = shared / "realdata/refer_youtube_vos"
    source = open_ref_youtube_vos(with_blank_frames(lists, tmp_path, "valid"), "valid")
    source.check_complete()
    assert (len(source.plans), source.num_expressions) == (202, 834)
    assert source.notes[0] == "left out: 305 videos that the test list names, too"
    assert "no masks" in source.notes[1]
    scored = json.loads((lists / "_soc_original/valid_samples_metadata.json").read_text())
    assert {plan.key for plan in source.plans} == {row[0] for row in scored}
    video = source.read(source.plans[0].key)
    assert video.frames[0].masks is None
    assert video.expressions[0].objects == ()


def test_the_genuine_train_list_is_read_with_categories(shared: Path, tmp_path: Path) -> None:
    lists = shared / "realdata/refer_youtube_vos"
    source = open_ref_youtube_vos(with_blank_frames(lists, tmp_path, "train"), "train")
    assert (len(source.plans), source.num_expressions) == (50, 206)
    video = source.read("003234408d")
    assert video.objects["1"] == "penguin"
    assert video.expressions[2].objects == ("2",)
    assert video.expressions[0].text.startswith("a penguin is on the left in the front")
    with pytest.raises(ShardError, match=r"50 videos, published are 3471: .*--allow-partial"):
        source.check_complete()


def tree(root: Path, split: str = "train") -> Path:
    rng = np.random.default_rng(3)
    objects = {"1": {"category": "dog", "frames": []}, "2": {"category": "cat", "frames": []}}
    expressions = {"0": {"exp": "a dog", "obj_id": "1"}, "1": {"exp": "a cat", "obj_id": "2"}}
    frames = ["00000", "00005", "00015"]
    listed = {"videos": {"a1-b_2": {"expressions": expressions, "frames": frames}}}
    write(root / f"meta_expressions/{split}/meta_expressions.json", listed)
    write(root / "meta_expressions/test/meta_expressions.json", {"videos": {}})
    write(root / split / "meta.json", {"videos": {"a1-b_2": {"objects": objects}}})
    for number, name in enumerate(frames):
        write(root / f"{split}/JPEGImages/a1-b_2/{name}.jpg", jpeg(20, 30, number))
        labels = rng.integers(0, 4, (20, 30))
        labels[labels == 1 + number % 2] = 0  # an object is absent from a frame
        write(root / f"{split}/Annotations/a1-b_2/{name}.png", labels)
    return root


@pytest.mark.parametrize("split", ["train", "valid"])
def test_frames_and_masks_come_through_unchanged(tmp_path: Path, split: str) -> None:
    tree(tmp_path / "refer_youtube_vos", split)
    source = open_ref_youtube_vos(tmp_path, split)
    base = tmp_path / "refer_youtube_vos" / split
    video = source.read("a1-b_2")
    check_round_trip(video, base / "JPEGImages/a1-b_2", base / "Annotations/a1-b_2")
    assert dict(video.objects) == {"1": "dog", "2": "cat", "3": ""}  # 3 is in the masks only
    assert [row.objects for row in video.expressions] == [("1",), ("2",)]
    assert pickle.loads(pickle.dumps(source.read))("a1-b_2") == video  # for other processes
    assert source.plans[0].num_bytes == sum(len(frame.image) for frame in video.frames)


def test_a_frame_without_label_map_is_not_annotated(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "train/Annotations/a1-b_2/00005.png").unlink()
    masks = masks_of(open_ref_youtube_vos(root, "train"), "a1-b_2")
    assert [frame_masks is None for frame_masks in masks] == [False, True, False]


def change_list(root: Path, *keys: str, to: Any) -> None:
    path = root / "meta_expressions/train/meta_expressions.json"
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    write(path, content)


VIDEO = ("videos", "a1-b_2")


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        ((*VIDEO, "frames"), None, "official form.*frames"),
        ((*VIDEO, "frames"), ["../00000"], "'../00000' is no proper name"),
        ((*VIDEO, "frames"), ["00000", "00001"], "00001.jpg: No such file"),
        (
            (*VIDEO, "expressions", "0", "obj_id"),
            None,
            "expression 0 of video a1-b_2 has no obj_id",
        ),
        ((*VIDEO, "expressions", "0", "obj_id"), "one", "'one' is no proper name"),
        ((*VIDEO, "expressions", "0", "exp"), 5, "expression 0: 5 .* is no text"),
        ((*VIDEO, "expressions"), [], "official form"),
        (("videos",), {"a b": {}}, 'has no "videos"'),
        (("videos",), {"other": {"expressions": {}, "frames": []}}, "KeyError: 'other'"),
        (("videos",), [], 'has no "videos"'),
    ],
)
def test_a_broken_list_is_named(
    tmp_path: Path, keys: tuple[str, ...], to: Any, message: str
) -> None:
    change_list(tree(tmp_path), *keys, to=to)
    with pytest.raises(ShardError, match=message):
        open_ref_youtube_vos(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta_expressions", "no Ref-YouTube-VOS: there is no folder .*meta_expressions.*--root"),
        ("meta_expressions/train", "meta_expressions.json: No such file"),
        ("train/meta.json", "meta.json: No such file"),
        ("train/JPEGImages", "no train frames"),
        ("train/JPEGImages/a1-b_2", "no frames of video a1-b_2"),
        ("train/Annotations/a1-b_2", "no masks of video a1-b_2"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, message: str) -> None:
    path = tree(tmp_path) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ShardError, match=message):
        open_ref_youtube_vos(tmp_path, "train")


def test_valid_is_never_filtered_silently(tmp_path: Path) -> None:
    root = tree(tmp_path, "valid")
    shutil.rmtree(root / "meta_expressions/test")
    with pytest.raises(ShardError, match=r"test/meta_expressions.json: No such file"):
        open_ref_youtube_vos(root, "valid")


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    write(tree(tmp_path) / "train/meta.json", "{")
    with pytest.raises(ShardError, match=r"meta.json is no valid JSON .*download it again"):
        open_ref_youtube_vos(tmp_path, "train")
