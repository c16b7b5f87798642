"""Each known trap of A2D-Sentences, JHMDB-Sentences and MeViS is an error that names it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from preprocess.build_shards import DATASETS, Build, build
from preprocess.dataset import ReadOptions
from preprocess.reencode import JPEG_QUALITY
from shards.errors import ShardError
from tests.preprocess.conftest import write
from tests.preprocess.trees import HEIGHT, WIDTH, change_json, draw


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
    change_json(root / "valid_u/mask_dict.json", lambda masks: masks["7"].append(None))


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
