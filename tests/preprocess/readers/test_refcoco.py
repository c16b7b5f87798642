"""RefCOCO, RefCOCO+ and RefCOCOg: genuine lists over blank images, the converted form, traps."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from preprocess.readers.refcoco import PUBLISHED, REFS, SPLITS, open_refcoco, read_plain_pickle
from shards.errors import ShardError
from shards.format.rle import decode_mask
from shards.format.schema import prepare_video
from tests.preprocess.conftest import jpeg, masks_of, write
from tests.preprocess.trees import draw

HELD = {  # images and sentences in the genuine sample
    "refcoco": {"train": (1, 5), "val": (1, 6), "testA": (1, 6), "testB": (1, 6)},
    "refcoco+": {"train": (1, 6), "val": (1, 7), "testA": (1, 6), "testB": (1, 6)},
    "refcocog": {"train": (1, 4), "val": (1, 4), "test": (1, 4)},
}


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The genuine lists beside blank images of the true size."""
    root = tmp_path_factory.mktemp("refcoco") / "coco"
    for name in REFS:
        shutil.copytree(shared / "realdata/coco" / name, root / name)
        for image in json.loads((root / name / "instances.json").read_text())["images"]:
            write(root / "train2014" / image["file_name"], jpeg(image["height"], image["width"]))
    return root


@pytest.mark.parametrize("name", REFS)
def test_genuine_files_have_their_splits_sentences_and_masks(root: Path, name: str) -> None:
    areas = {
        str(row["id"]): row["area"]
        for row in json.loads((root / name / "instances.json").read_text())["annotations"]
    }
    assert tuple(HELD[name]) == SPLITS[name] == tuple(PUBLISHED[name])
    for split in SPLITS[name]:
        source = open_refcoco(root.parent, name, split)
        assert (len(source.plans), source.num_expressions) == HELD[name][split]
        (plan,) = source.plans
        video = source.read(plan.key)
        assert (len(plan.key), video.video_id) == (12, str(int(plan.key)))
        image = root / f"train2014/COCO_train2014_{plan.key}.jpg"
        assert video.frames[0].image == image.read_bytes()
        (masks,) = masks_of(source, plan.key)
        assert masks is not None
        assert set(masks) == set(video.objects) == {row.objects[0] for row in video.expressions}
        for annotation, mask in masks.items():
            assert mask.sum() == pytest.approx(areas[annotation], rel=0.02)
        assert pickle.loads(pickle.dumps(source.read))(plan.key) == video


def test_a_genuine_sample_in_full(root: Path) -> None:
    video = open_refcoco(root, "refcoco", "train").read("000000460986")
    assert [(row.id, row.text, row.objects) for row in video.expressions] == [
        ("29909", "left vase", ("1993516",)),
        ("29910", "cup on the left", ("1993516",)),
        ("29911", "bowl", ("1993516",)),
        ("29912", "left cup", ("1877288",)),
        ("29913", "very first one on the left", ("1877288",)),
    ]
    assert (video.height, video.width) == (427, 640)
    assert dict(video.objects) == {"1993516": "vase", "1877288": "cup"}


def convert(root: Path, name: str, split: str) -> dict[str, Any]:
    """Make the converted form: an image row and an annotation row for each sentence."""
    refs = read_plain_pickle(root / name / REFS[name])
    instances = json.loads((root / name / "instances.json").read_text())
    images = {row["id"]: row for row in instances["images"]}
    annotations = {row["id"]: row for row in instances["annotations"]}
    rows: dict[str, Any] = {"images": [], "annotations": [], "categories": instances["categories"]}
    for ref in (ref for ref in refs if ref["split"] == split):
        for sentence in ref["sentences"]:
            number = len(rows["images"])
            image = {k: images[ref["image_id"]][k] for k in ("file_name", "height", "width")}
            image |= {"id": number, "original_id": ref["image_id"], "dataset_name": name}
            rows["images"].append(image | {"caption": sentence["sent"]})
            annotation = dict(annotations[ref["ann_id"]])
            annotation |= {"id": number, "image_id": number, "original_id": ref["ann_id"]}
            rows["annotations"].append(annotation)
    return rows


@pytest.mark.parametrize("folder", ["refcocog/", ""])
def test_the_converted_form_gives_the_same(root: Path, tmp_path: Path, folder: str) -> None:
    write(tmp_path / f"{folder}instances_refcocog_val.json", convert(root, "refcocog", "val"))
    (tmp_path / "train2014").symlink_to(root / "train2014")
    official = open_refcoco(root, "refcocog", "val")
    converted = open_refcoco(tmp_path, "refcocog", "val")
    assert converted.plans == official.plans
    (plan,) = converted.plans
    expected = official.read(plan.key)
    video = converted.read(plan.key)
    assert [(row.text, row.objects) for row in video.expressions] == [
        (row.text, row.objects) for row in expected.expressions
    ]
    assert (video.objects, video.frames) == (expected.objects, expected.frames)


def tree(root: Path, segmentation: Any, refs: Any = None) -> Path:
    """A tree with one image of 12 x 16 pixels and one sentence."""
    instances = {
        "images": [{"id": 7, "file_name": "COCO_train2014_7.jpg", "height": 12, "width": 16}],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 1, "segmentation": segmentation}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    ref = {"ref_id": 0, "ann_id": 3, "category_id": 1, "image_id": 7, "split": "train"}
    ref |= {"file_name": "COCO_train2014_7_3.jpg", "sentences": [{"sent": "dog", "sent_id": 0}]}
    write(root / "refcoco/instances.json", instances)
    write(root / "refcoco/refs(unc).p", pickle.dumps([ref] if refs is None else refs, protocol=0))
    write(root / "train2014/COCO_train2014_7.jpg", jpeg(12, 16))
    return root


MASK = np.zeros((12, 16), bool)
MASK[3:9, 4:11] = True


def compressed() -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8)))
    return {"size": [12, 16], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 3, 11, 3, 11, 9, 4, 9]],
        [[4, 3, 8, 3, 8, 9, 4, 9], [8, 3, 11, 3, 11, 9, 8, 9], [0, 0, 1, 1]],  # the last is no area
        compressed(),
        {"size": [12, 16], "counts": [51, *[6, 6] * 6, 6, 63]},
    ],
    ids=["polygon", "polygons", "compressed", "runs"],
)
def test_every_form_of_segmentation_is_drawn(tmp_path: Path, segmentation: Any) -> None:
    video = open_refcoco(tree(tmp_path, segmentation), "refcoco", "train").read("000000000007")
    assert video.frames[0].masks is not None
    np.testing.assert_array_equal(decode_mask(video.frames[0].masks["3"]), MASK)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 3, 1e300, 3, 11, 9, 4, 9]],
        [[4, 3, 11, 3, 11, 9, 4]],
        [["a"] * 6],
        {"size": [12, 17], "counts": [204]},
        {"size": [12, 16], "counts": [5]},
        {"counts": [192]},
        [5],
        None,
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_named(tmp_path: Path, segmentation: Any) -> None:
    source = open_refcoco(tree(tmp_path, segmentation), "refcoco", "train")
    with pytest.raises(ShardError, match=r"annotation 3: its segmentation cannot be drawn"):
        source.read("000000000007")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(5))
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "refs.p", pickle.dumps([Evil(tmp_path / "ran")], protocol=protocol))
    with pytest.raises(ShardError, match=r"refs.p is no pickle of plain data .*nothing of it was"):
        read_plain_pickle(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"(lp0\n", b"garbage", b"\x80\x04N", b"cos\nsystem\n."])
def test_a_broken_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ShardError, match=r"refs.p is no pickle of plain data"):
        read_plain_pickle(write(tmp_path / "refs.p", content))


@pytest.mark.parametrize("word", ["caf\u00e9".encode(), b"caf\xe9"])
def test_byte_strings_of_python_2_are_read(tmp_path: Path, word: bytes) -> None:
    content = b"(lp0\nS'" + repr(word)[2:-1].encode() + b"'\np1\na."
    assert read_plain_pickle(write(tmp_path / "refs.p", content)) == ["caf\u00e9"]


@pytest.mark.parametrize(
    "refs", [5, [{"split": "train"}], [{"split": "train", "ann_id": 4, "image_id": 7}]]
)
def test_refs_of_another_download_are_refused(tmp_path: Path, refs: Any) -> None:
    with pytest.raises(ShardError, match=r"not in the official form or not of one download"):
        open_refcoco(tree(tmp_path, [], refs), "refcoco", "train")


def test_what_is_missing_or_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, [[4, 3, 11, 3, 11, 9]])
    write(root / "train2014/COCO_train2014_7.jpg", jpeg(12, 17))
    with pytest.raises(ShardError, match="12 x 17 pixels, the video has 12 x 16"):
        prepare_video(open_refcoco(root, "refcoco", "train").read("000000000007"))
    (root / "train2014/COCO_train2014_7.jpg").unlink()
    with pytest.raises(ShardError, match=r"COCO_train2014_7.jpg: No such file"):
        open_refcoco(root, "refcoco", "train")
    with pytest.raises(ShardError, match=r"refcocog/refs\(umd\).p: No such file"):
        open_refcoco(root, "refcocog", "train")
    shutil.rmtree(root / "train2014")
    with pytest.raises(ShardError, match=r"no COCO images: there is no folder .*check --root"):
        open_refcoco(root, "refcoco", "train")


def test_file_names_lead_nowhere_else(tmp_path: Path) -> None:
    root = tree(tmp_path, [])
    path = root / "refcoco/instances.json"
    path.write_text(path.read_text().replace("COCO_train2014_7.jpg", "../../x.jpg"))
    with pytest.raises(ShardError, match=r"'../../x.jpg' is no plain file name"):
        open_refcoco(root, "refcoco", "train")


def test_leaks_between_the_three_data_sets_are_left_out_and_told(tmp_path: Path) -> None:
    _, truth = draw("refcoco", tmp_path)
    whole = open_refcoco(tmp_path, "refcoco", "train")
    source = open_refcoco(tmp_path, "refcoco", "train", filter_leaks=True)
    assert {plan.key for plan in whole.plans} == truth.keys()
    assert {plan.key for plan in source.plans} == {"000000000001", "000000000004"}
    assert source.notes == (
        "0 images are in val or test of refcoco: left out",
        "1 images are in val or test of refcoco+: left out",
        "1 images are in val or test of refcocog: left out",
    )
    assert source.num_expressions + source.left_out.expressions == whole.num_expressions
    shutil.rmtree(tmp_path / "refcocog")
    with pytest.raises(ShardError, match=r"refcocog/refs\(umd\).p: No such file"):
        open_refcoco(tmp_path, "refcoco", "train", filter_leaks=True)
    assert len(open_refcoco(tmp_path, "refcoco", "train").plans) == 4
