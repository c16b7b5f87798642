"""A2D-Sentences: the genuine lists over blank videos, and frames at the stated quality."""

import shutil
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from preprocess.readers.a2d_sentences import decode_video, open_a2d_sentences
from tests.preprocess.conftest import write
from tests.preprocess.trees import HEIGHT, WIDTH, draw, mp4


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
    table = []
    for position, name in enumerate(names + missed):
        split_number = int(position % 5 == 0)
        table.append(f"{name},1,2,0,1,2,3,4,{split_number}")
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
    assert [expression.text for expression in video.expressions] == ["the pigeon is limping"]
    annotated = [number for number, frame in enumerate(video.frames, start=1) if frame.masks]
    assert annotated == [3]


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
