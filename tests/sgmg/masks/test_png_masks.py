"""Masks of a folder and of a zip, and the zip that a server takes."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmg.masks.png_masks import MaskFolder, write_submission

LABELS = np.arange(20, dtype=np.uint8).reshape(4, 5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    masks = MaskFolder(tmp_path)
    masks.write("video/0/00000.png", LABELS)
    assert np.array_equal(masks.read("video/0/00000.png", (4, 5)), LABELS)
    assert masks.has_folder("video/0")
    assert not masks.has_folder("video/1")


@pytest.mark.parametrize("top", ["", "Annotations/"])
def test_folder_and_zip_are_read_with_and_without_annotations(top: str, tmp_path: Path) -> None:
    MaskFolder(tmp_path / "masks" / top).write("video/0/00000.png", LABELS)
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "masks")
    for path in (tmp_path / "masks", Path(archive)):
        masks = MaskFolder.open(path)
        assert np.array_equal(masks.read("video/0/00000.png", (4, 5)), LABELS)
        assert masks.has_folder("video/0")
        with pytest.raises(ValueError, match=r"has no video/0/00001.png"):
            masks.read("video/0/00001.png", (4, 5))
    with pytest.raises(ValueError, match="written to folders only"):
        masks.write("video/0/00001.png", LABELS)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder and no zip"):
        MaskFolder.open(tmp_path / "nothing")
    masks = MaskFolder(tmp_path)
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"text.png is no PNG mask"):
        masks.read("text.png", (4, 5))
    Image.new("RGB", (5, 4)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="one value a pixel"):
        masks.read("colours.png", (4, 5))


class OneFile:
    """A folder in which every name is the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path


def test_submission_of_the_whole_benchmark(shared: Path, tmp_path: Path) -> None:
    lists = shared / "realdata/refer_youtube_vos/meta_expressions"
    videos_of_split = {
        split: json.loads((lists / split / "meta_expressions.json").read_text())["videos"]
        for split in ("valid", "test")
    }
    scored = {
        name: video
        for name, video in videos_of_split["valid"].items()
        if name not in videos_of_split["test"]
    }
    expected = [
        (f"{name}/{expression}/{frame}.png", (4, 5))
        for name, video in scored.items()
        for expression in video["expressions"]
        for frame in video["frames"]
    ]
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "mask.png")
    masks = MaskFolder(OneFile(tmp_path / "mask.png"))  # type: ignore[arg-type]
    count = write_submission(masks, expected, tmp_path / "submission.zip")
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        names = archive.namelist()
    assert len(names) == count == len(set(names)) == len(expected)
    folders = {name.rpartition("/")[0] for name in names}
    assert len(folders) == 834
    assert len({folder.split("/")[1] for folder in folders}) == 202
    assert all(name.startswith("Annotations/") and name.endswith(".png") for name in names)


def test_a_submission_is_whole_or_not_there(tmp_path: Path) -> None:
    masks = MaskFolder(tmp_path / "masks")
    masks.write("a/0/b.png", LABELS)
    with pytest.raises(ValueError, match="must be"):
        write_submission(masks, [("a/0/b.png", (5, 4))], tmp_path / "submission.zip")
    with pytest.raises(ValueError, match="expected twice"):
        write_submission(masks, [("a/0/b.png", (4, 5))] * 2, tmp_path / "submission.zip")
    assert not (tmp_path / "submission.zip").exists()
