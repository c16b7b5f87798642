"""A2D-Sentences, JHMDB-Sentences, MeViS: genuine lists over blank files, and each known trap."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy.io import savemat

from preprocess.build_shards import DATASETS, Build, build
from preprocess.dataset import ReadOptions
from preprocess.readers.a2d_sentences import decode_video, open_a2d_sentences
from preprocess.readers.jhmdb_sentences import open_jhmdb_sentences
from preprocess.readers.mevis import open_mevis
from preprocess.readers.refcoco import open_refcoco
from preprocess.reencode import JPEG_QUALITY
from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from tests.preprocess.conftest import masks_of, write
from tests.preprocess.trees import HEIGHT, WIDTH, change_json, draw, mp4, png


def test_all_genuine_a2d_sentences_are_read_but_one(shared: Path, tmp_path: Path) -> None:
    texts = tmp_path / "a2d_sentences/text_annotations"
    shutil.copytree(shared / "realdata/a2d_sentences/text_annotations", texts)
    rows = (texts / "a2d_annotation.txt").read_text().splitlines()[1:]
    assert len(rows) == 6655
    names = list(dict.fromkeys(row.split(",")[0] for row in rows))
    missed = (texts / "a2d_missed_videos.txt").read_text().split()
    mp4(tmp_path / "blank.mp4", np.random.default_rng(0), 15)
    release = tmp_path / "a2d_sentences/Release"
    (release / "CLIPS320").mkdir(parents=True)
    for name in names:
        (release / f"CLIPS320/{name}.mp4").hardlink_to(tmp_path / "blank.mp4")
    table = [f"{name},1,2,0,1,2,3,4,{int(at % 5 == 0)}" for at, name in enumerate(names + missed)]
    write(release / "videoset.csv", "\n".join(table))
    sources = [open_a2d_sentences(tmp_path, split) for split in ("train", "test")]
    assert sum(len(source.plans) for source in sources) == 3754
    assert sum(source.num_expressions for source in sources) == 6654
    for source in sources:
        assert source.lists == (
            ("rows in videoset.csv", 3782, 3782),
            ("rows in a2d_annotation.txt", 6655, 6655),
            ("missed videos", 28, 28),
        )
        assert "1 about instance '1 (copy)' are left out" in source.notes[1]
    folder = texts / f"a2d_annotation_with_instances/{names[0]}"
    folder.mkdir(parents=True)
    with h5py.File(folder / "00003.h5", "w") as file:
        file["instance"], file["reMask"] = np.array([[0.0]]), np.ones((WIDTH, HEIGHT), np.uint8)
    video = sources[1].read(f"v_{names[0]}")
    assert (video.key, video.video_id) == ("v_--h5fAKYurM", "--h5fAKYurM")
    assert [it.text for it in video.expressions] == ["the pigeon is limping"]
    assert [frame.masks is not None for frame in video.frames] == [at == 2 for at in range(15)]


def test_all_genuine_jhmdb_rows_are_read(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "jhmdb_sentences"
    shutil.copytree(shared / "realdata/jhmdb_sentences", root)
    image = png(np.random.default_rng(0), (24, 32))
    for number in range(1, 41):
        write(tmp_path / f"blank/{number:05d}.png", image)
    savemat(tmp_path / "blank/puppet_mask.mat", {"part_mask": np.ones((24, 32, 40), np.uint8)})
    rows = json.loads((root / "jhmdb_sentences_samples_metadata.json").read_text())
    for folder in {str(Path(path).parent) for row in rows for path in row[1:3]}:
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(tmp_path / "blank")
    source = open_jhmdb_sentences(tmp_path)
    source.check_complete()
    assert (len(source.plans), source.num_expressions) == (928, 928)
    assert source.lists == (("rows in the metadata", 2784, 2784),)
    drawn = Counter({row[0]: 0 for row in rows})
    for plan in source.plans[::100]:
        video = source.read(plan.key)
        scored = [frame.name for frame in video.frames if frame.masks is not None]
        assert scored == sorted(Path(row[1]).stem for row in rows if row[0] == video.video_id)
        drawn[video.video_id] += len(scored)
    assert sum(drawn.values()) == 30


def test_a2d_frames_are_those_of_the_video_at_the_stated_quality(tmp_path: Path) -> None:
    draw("a2d-sentences", tmp_path)
    fine = open_a2d_sentences(tmp_path, "test").read("v_--h5fAKYurM")
    coarse = open_a2d_sentences(tmp_path, "test", quality=10).read("v_--h5fAKYurM")
    errors = []
    for video in (fine, coarse):
        pictures = decode_video(tmp_path / "Release/CLIPS320/--h5fAKYurM.mp4")
        for frame, picture in zip(video.frames, pictures, strict=True):
            with Image.open(BytesIO(frame.image)) as stored:
                difference = np.asarray(stored, float) - np.asarray(picture, float)
            errors.append(np.abs(difference).mean())
    half = len(errors) // 2
    assert max(errors[:half]) < 3 < min(errors[half:])


@pytest.mark.parametrize("source", ["a2d-sentences", "jhmdb-sentences"])
def test_ground_truth_is_derived_where_it_is_missing(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, truth = draw(source, tmp_path / "root")
    settings = Build(
        source, tmp_path / "root", str(tmp_path / "out"), ("test",), allow_partial=True
    )
    build(settings)
    name = {
        "a2d-sentences": "a2d_sentences_test_annotations_in_coco_format.json",
        "jhmdb-sentences": "jhmdb_sentences_gt_annotations_in_coco_format.json",
    }[source]
    assert f"has no {name}: derived" in capsys.readouterr().out
    coco = COCO(str(tmp_path / "out" / name))
    samples = {}
    for video in ShardSet.open(str(tmp_path / "out/test")).sequential():
        for number, masks in enumerate(truth[video.key].masks, start=1):
            for instance, mask in (masks or {}).items():
                samples[f"v_{video.video_id}_f_{number}_i_{instance}"] = mask
    assert coco.imgs.keys() == samples.keys()
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        np.testing.assert_array_equal(mask, samples[annotation["image_id"]])
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert (annotation["area"], annotation["bbox"]) == (mask.sum(), box)
    if source == "a2d-sentences":
        listed = json.loads(
            (tmp_path / "out/a2d_sentences_single_frame_test_annotations.json").read_text()
        )
        told = {f"v_{video}_f_{frame}_i_{instance}" for _, video, frame, instance in listed}
        assert told == samples.keys()
    write(tmp_path / "root" / name, {})
    build(settings)
    assert name not in capsys.readouterr().out


def test_leaks_between_the_three_data_sets_are_left_out_and_told(tmp_path: Path) -> None:
    _, truth = draw("refcoco", tmp_path)
    whole = open_refcoco(tmp_path, "refcoco", "train")
    source = open_refcoco(tmp_path, "refcoco", "train", filter_leaks=True)
    assert {plan.key for plan in whole.plans} == truth.keys()
    assert {plan.key for plan in source.plans} == {f"{it:012d}" for it in (1, 4)}
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


def test_mevis_without_masks_and_with_several_objects(tmp_path: Path) -> None:
    _, truth = draw("mevis", tmp_path / "mevis")
    source = open_mevis(tmp_path, "valid_u")
    assert source.read("cd34").expressions[0].objects == ("12", "3", "5")
    (tmp_path / "mevis/valid_u").rename(tmp_path / "mevis/valid")
    (tmp_path / "mevis/valid/mask_dict.json").unlink()

    def hide(content: Any) -> None:
        for video in content["videos"].values():
            for said in video["expressions"].values():
                del said["obj_id"], said["anno_id"]

    change_json(tmp_path / "mevis/valid/meta_expressions.json", hide)
    source = open_mevis(tmp_path, "valid")
    assert "no masks" in source.notes[0]
    assert masks_of(source, "ab12") == [None] * len(truth["ab12"].images)
    assert source.read("ab12").expressions[0].objects == ()


def h5(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        folder = root / "text_annotations/a2d_annotation_with_instances/_O6VsB_6RII"
        with h5py.File(min(folder.glob("*.h5")), "r+") as file:
            change(file)

    return harm


def untransposed(file: h5py.File) -> None:
    masks = file["reMask"][()].transpose(0, 2, 1)
    del file["reMask"]
    file["reMask"] = masks


def too_few(file: h5py.File) -> None:
    del file["instance"]
    file["instance"] = np.array([0])


def late_mask(root: Path) -> None:
    folder = root / "text_annotations/a2d_annotation_with_instances/_O6VsB_6RII"
    min(folder.glob("*.h5")).rename(folder / "00099.h5")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        write(root / name, text.replace(old, new))

    return harm


def gone(name: str) -> Callable[[Path], None]:
    def harm(root: Path) -> None:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return harm


def fewer_masks(root: Path) -> None:
    path = root / "puppet_mask/wave/clap_1/puppet_mask.mat"
    savemat(path, {"part_mask": np.ones((HEIGHT, WIDTH, 1), np.uint8)})


def short_masks(root: Path) -> None:
    change_json(root / "valid_u/mask_dict.json", lambda it: it["7"].append(None))


METADATA = "jhmdb_sentences_samples_metadata.json"
A2D = "text_annotations/a2d_annotation.txt"
MASKS = "text_annotations/a2d_annotation_with_instances"


@pytest.mark.parametrize(
    ("source", "harm", "message"),
    [
        ("a2d-sentences", h5(untransposed), r"52 x 36 pixels, the video|36 x 52"),
        ("a2d-sentences", h5(too_few), r".h5 is no readable file of instances .*for 1 instances"),
        ("a2d-sentences", late_mask, r"frames, there are masks of frame 00099 \(they count from 1"),
        ("a2d-sentences", gone(f"{MASKS}/_O6VsB_6RII"), r"no masks of video _O6VsB_6RII"),
        ("a2d-sentences", gone("Release/CLIPS320/_O6VsB_6RII.mp4"), r"RII.mp4: No such file"),
        ("a2d-sentences", gone("Release/videoset.csv"), r"videoset.csv: No such file"),
        ("a2d-sentences", edit(A2D, "video_id,", "id,"), r"no table with the columns video_id,"),
        ("a2d-sentences", edit(A2D, ",1 (copy),", ",one,"), r"one is no video"),
        ("a2d-sentences", edit(A2D, "_O6VsB_6RII,3", "../x,3"), r"../x,3 is no video and instance"),
        ("jhmdb-sentences", gone(METADATA), r"drawn without a seed, only this file knows them"),
        ("jhmdb-sentences", fewer_masks, r"puppet_mask.mat has 1 masks, none of 000\d\d.png"),
        ("jhmdb-sentences", edit(METADATA, "a man, 1", "a cat"), r"'a cat' is not what jhmdb_anno"),
        ("jhmdb-sentences", edit(METADATA, "/wave/clap_1/0", "/../clap_1/0"), "does not lie where"),
        ("jhmdb-sentences", gone("Rename_Images/wave/clap_1"), r"clap_1 has no frame 000\d\d.png"),
        ("jhmdb-sentences", gone("puppet_mask"), r"puppet_mask.mat: No such file"),
        ("mevis", short_masks, r"annotation 7 of video ab12 .*masks for \d frames"),
        (
            "mevis",
            edit("valid_u/mask_dict.json", "[36, 52]", "[52, 36]"),
            r"mask of 52 x 36 pixels",
        ),
        ("mevis", edit("valid_u/mask_dict.json", '"7"', '"8"'), r"without masks \(anno_id 7\)"),
        ("mevis", gone("valid_u/mask_dict.json"), r"mask_dict.json .*No such file"),
        ("mevis", gone("valid_u/JPEGImages"), r"no MeViS valid_u frames"),
    ],
)
def test_each_trap_is_named(
    tmp_path: Path, source: str, harm: Callable[[Path], None], message: str
) -> None:
    split, truth = draw(source, tmp_path)
    options = ReadOptions(filter_leaks=False, quality=JPEG_QUALITY)
    listed = DATASETS[source].open(tmp_path, split, options)
    assert {plan.key for plan in listed.plans} == truth.keys()
    harm(tmp_path)
    out = str(tmp_path / "out")
    settings = Build(source, tmp_path, out, (split,), allow_partial=True)
    with pytest.raises(ShardError, match=message):
        build(settings)
    assert not list(tmp_path.glob("out/*/manifest.json"))
