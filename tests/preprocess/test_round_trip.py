"""Every reader, through the command and back: each frame's bytes and each mask equal the source."""

import sys
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from preprocess.build_shards import main, open_set
from shards.__main__ import main as shards_main
from shards.format.schema import Video
from shards.format.shard_set import ShardSet
from tests.preprocess.conftest import decoded
from tests.preprocess.trees import TREES, Truth, draw

FOLDERS = count()


def build(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["build_shards.py", *map(str, arguments)])
    main()


def check(videos: dict[str, Video], truth: Truth) -> None:
    assert videos.keys() == truth.keys()
    for key, expected in truth.items():
        video = videos[key]
        assert [(row.text, row.objects) for row in video.expressions] == expected.expressions
        assert len(video.frames) == len(expected.images)
        for frame, image in zip(video.frames, expected.images, strict=True):
            assert image is None or frame.image == image
        for read_masks, masks in zip(decoded(video), expected.masks, strict=True):
            if masks is None or read_masks is None:
                assert read_masks is masks
                continue
            assert read_masks.keys() == {name for name, mask in masks.items() if mask.any()}
            for name, mask in read_masks.items():
                np.testing.assert_array_equal(mask, masks[name])


@pytest.mark.parametrize("source", TREES)
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller seed is no simpler tree
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_what_is_in_the_files_is_in_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, seed: int
) -> None:
    root, out = tmp_path / f"{next(FOLDERS)}", tmp_path / f"{next(FOLDERS)}"
    split, truth = draw(source, root, seed)
    build(monkeypatch, source, "--root", root, "--split", split, "--out", out, "--allow-partial")
    shard_set = ShardSet.open(str(out / split))
    check({video.key: video for video in shard_set.sequential()}, truth)
    check({row.key: shard_set.video(video) for video, row in enumerate(shard_set.videos)}, truth)
    assert shards_main(["verify", str(out / split), "--full", "--root", str(root)]) == 0


def test_verify_names_what_differs_from_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    draw("refcoco", root)
    base = ("refcoco", "--root", root, "--split", "train", "--allow-partial", "--out")
    build(monkeypatch, *base, out, "--filter-leaks", "--max-side", "30", "--quality", "50")
    line = ["verify", str(out / "train"), "--root", str(root)]
    assert shards_main(line) == 0
    assert "equal to" in capsys.readouterr().out
    image = root / "train2014/COCO_train2014_000000000004.jpg"
    image.write_bytes(image.read_bytes().replace(b"JFIF", b"JFIX"))
    assert shards_main(line) == 0  # the pixels are the same
    image.write_bytes((root / "train2014/COCO_train2014_000000000001.jpg").read_bytes())
    assert shards_main(line) == 1
    assert "'COCO_train2014_000000000004': 54 x 45 pixels" in capsys.readouterr().err
    draw("refcoco", root)
    (root / "refcocog/refs(umd).p").write_bytes((root / "refcoco+/refs(unc).p").read_bytes())
    assert shards_main(line) == 1
    assert f"000000000002: in {root}, not in the set" in capsys.readouterr().err


def test_the_readers_are_registered_where_verify_looks_for_them() -> None:
    (reader,) = entry_points(group="shards.readers")
    assert reader.load() is open_set
