"""The command: sets that a stranger can read, the same bytes each time, errors in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocess.build_shards import DATASETS, Build, build, main, open_set
from shards.errors import ShardError
from shards.format.schema import Json
from shards.format.shard_set import ShardSet
from tests.preprocess.conftest import check_round_trip, digest, jpeg, write

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    *("--synthetic.train-videos", "5", "--synthetic.valid-videos", "2"),
    *("--synthetic.images", "6", "--synthetic.valid-images", "2"),
    *("--synthetic.num-frames", "3", "--synthetic.valid-frames", "2", "--synthetic.side", "64"),
]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["build_shards.py", *map(str, arguments)])
    main()


def test_the_script_builds_the_synthetic_sets_byte_for_byte_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "preprocess/build_shards.py",
            "synthetic",
            f"--root={tmp_path}/files",
            f"--out={tmp_path}/one/",
            *SMALL,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "synthetic train: 5 videos, 15 frames" in process.stdout
    assert "synthetic-image val: 2 videos, 2 frames" in process.stdout
    assert "5/5 videos" in process.stderr
    run(
        monkeypatch,
        *("synthetic", "--root", tmp_path / "again", "--out", tmp_path / "other", *SMALL),
    )
    assert digest(tmp_path / "one") == digest(tmp_path / "other")
    assert digest(tmp_path / "files") == digest(tmp_path / "again")
    before = digest(tmp_path / "one")
    run(monkeypatch, "synthetic", "--root", tmp_path / "files", "--out", tmp_path / "one", *SMALL)
    assert digest(tmp_path / "one") == before
    sets = {
        name: ShardSet.open(str(tmp_path / "one" / name)) for name in DATASETS["synthetic"].splits
    }
    assert {name: len(shard_set) for name, shard_set in sets.items()} == {
        "train": 5,
        "valid": 2,
        "image-train": 6,
        "image-val": 2,
    }
    assert sets["train"].manifest.settings["train_videos"] == 5
    for video in sets["train"].sequential():
        base = tmp_path / "files/refer_youtube_vos/train"
        check_round_trip(video, base / "JPEGImages" / video.key, base / "Annotations" / video.key)
        kinds = {expression.kind for expression in video.expressions}
        assert kinds <= {"appearance", "side", "motion"}
    capsys.readouterr()


def test_genuine_davis_goes_through(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared / "realdata/refer_davis"
    build = ("ref-davis17", "--root", root, "--allow-partial", "--split", "train", "--out")
    run(monkeypatch, *build, tmp_path / "davis")
    (bear, tennis) = sorted(
        ShardSet.open(str(tmp_path / "davis/train")).sequential(), key=lambda video: video.key
    )
    trees = ("JPEGImages", "Annotations_unsupervised")
    folders = [root / "DAVIS" / tree / "480p" for tree in trees]
    for video in (bear, tennis):
        check_round_trip(video, *(folder / video.key for folder in folders))
    assert len(tennis.expressions) == 8
    assert (tennis.dataset, tennis.split) == ("ref-davis17", "train")


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """A re-packed Ref-DAVIS17 of one video."""
    root = tmp_path / "files"
    expressions = {"0": {"exp": "a dog", "obj_id": "1"}}
    listed = {"videos": {"dog": {"expressions": expressions, "frames": ["00000", "00001"]}}}
    write(root / "meta_expressions/valid/meta_expressions.json", listed)
    write(root / "valid/meta.json", {"videos": {"dog": {"objects": {"1": {"category": "dog"}}}}})
    for name in ("00000", "00001"):
        write(root / f"valid/JPEGImages/dog/{name}.jpg", jpeg(16, 24))
        write(root / f"valid/Annotations/dog/{name}.png", np.ones((16, 24)))
    return root


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("", ["--root", "nowhere"], r"--root nowhere is no folder"),
        ("", ["--split", "test"], r"ref-davis17 has no split test: it has train, val"),
        ("", ["--workers", "0"], r"--workers must be 1 to 1024"),
        ("", ["--quality", "101"], r"--quality must be 1 to 100"),
        ("", ["--filter-leaks"], r"--filter-leaks is for refcoco, refcoco\+, refcocog only"),
        ("", ["--address", "localhost:6379"], r"add --engine ray"),
        ("", ["--engine", "ray", "--split", "val", "--address", "none:1"], r"published are 30"),
        ("", [], r"no Ref-DAVIS17 train below .*check --root"),
        ("", ["--split", "val"], r"has 1 videos, published are 30: .*--allow-partial"),
        ("valid", ["--split", "val"], r"no Ref-DAVIS17 val below"),
        ("valid/meta.json", ["--split", "val"], r"meta.json: No such file.*complete the download"),
        ("valid/JPEGImages/dog/00001.jpg", ["--split", "val"], r"00001.jpg: No such file"),
        ("valid/Annotations", ["--split", "val"], r"no masks of video dog"),
    ],
)
def test_errors_are_one_line_and_leave_nothing_behind(
    davis: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    arguments: list[str],
    message: str,
) -> None:
    if missing:
        path = davis / missing
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    root = [] if "--root" in arguments else ["--root", davis]
    with pytest.raises(SystemExit, match=message) as raised:
        run(monkeypatch, "ref-davis17", *root, "--out", tmp_path / "out", *arguments)
    assert str(raised.value).startswith("error: ")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_broken_mask_in_the_middle_commits_nothing(
    davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(davis / "valid/Annotations/dog/00001.png", b"no picture")
    build = ("ref-davis17", "--root", davis, "--out", tmp_path / "out", "--allow-partial")
    with pytest.raises(SystemExit, match=r"dog.*00001.png is no readable PNG"):
        run(monkeypatch, *build, "--split", "val")
    assert not list((tmp_path / "out").rglob("manifest.json"))
    write(davis / "valid/Annotations/dog/00001.png", np.ones((16, 24)))
    run(monkeypatch, *build, "--split", "val")
    assert len(ShardSet.open(str(tmp_path / "out/val"))) == 1


def test_an_unknown_source_is_answered_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, "davis", "--root", "x", "--out", "y")
    assert raised.value.code == 2
    answer = capsys.readouterr().err
    assert all(name in answer for name in DATASETS)


def test_an_unknown_source_of_a_program_or_a_manifest_is_answered_with_the_known_ones(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"no data set 'davis': give synthetic, ref-davis17, "):
        build(Build("davis", tmp_path, "out"))
    settings: dict[str, Json] = {"source": "davis", "set": "val"}
    with pytest.raises(ShardError, match=r"'davis' 'val', .* known are synthetic, ref-davis17, "):
        open_set(settings, tmp_path)
    settings = {"source": "mevis", "set": "valid", "quality": "best"}
    with pytest.raises(ShardError, match=r"quality 'best', which is no number"):
        open_set(settings, tmp_path)


def test_synthetic_files_of_other_settings_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ("synthetic", "--root", tmp_path / "files", "--out", tmp_path / "out", *SMALL)
    run(monkeypatch, *build, "--split", "image-val")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["image-val"]
    with pytest.raises(SystemExit, match=r"holds shapes drawn with another seed"):
        run(monkeypatch, *build, "--synthetic.seed", "5")


@pytest.mark.parametrize("source", sorted(DATASETS.keys() - {"synthetic"}))
def test_a_folder_of_something_else_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(SystemExit, match=r"error: no .*check --root") as raised:
        run(monkeypatch, source, "--root", tmp_path / "root", "--out", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
