import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from shards import ClipLoader
from shards.__main__ import main
from shards.format.shard_set import ShardSet
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling
from tests.shards.sample_videos import build_toy, toy_keys


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_toy(out, [*toy_keys(), "toy-bad-01"], on_error="skip")
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def test_a_whole_set_is_called_whole(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(built)]) == 0
    assert "whole, 4 shards, 9 videos (sizes and indexes" in capsys.readouterr().out
    assert main(["verify", str(built), "--full"]) == 0
    assert "every byte checked" in capsys.readouterr().out


def test_a_plan_tells_what_a_loader_reads(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(built), "--num-frames", "2", "--steps", "1000"]) == 0
    *lines, total = capsys.readouterr().out.strip().splitlines()[1:]
    settings = {"num_frames": 2, "batch_size": 2, "sampling": ClipSampling.youtube_vos()}
    loader = ClipLoader([str(built)], augmentation=Augmentation.none(), **settings)
    keys = [key for batch in loader for key in batch.keys][: len(loader.source)]
    traffic = loader.sets[0].storage.traffic
    loader.close()
    assert [line.split()[4] for line in lines][: len(keys)] == keys
    told = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+(?= bytes)", total)]
    manifest = (built / "manifest.json").stat().st_size
    assert sum(told) == traffic.bytes - manifest
    assert main(["plan", str(built), "--batch-size", "3", "--world-size", "2"]) == 1
    assert "cannot be shared by 2" in capsys.readouterr().err


def test_a_bench_tells_how_fast_a_set_is(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--sampling", "synthetic", "--seconds", "0.2", "--num-frames", "2"]
    assert main(["bench", str(built), *options]) == 0
    said = capsys.readouterr().out
    assert re.search(r"[\d.]+ clips/s, [\d.]+ frames/s, \d+ CPU ms/clip", said)
    assert "requests per clip" in said


def test_full_verification_names_every_damaged_shard(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tar in sorted(copy.glob("*.tar"))[1:3]:
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    assert main(["verify", str(copy)]) == 0
    assert main(["verify", str(copy), "--full"]) == 1
    said = capsys.readouterr().err
    assert "000000-of" not in said
    assert "000001-of-000004.tar: its SHA-256 is not the manifest's" in said
    assert "000002-of-000004.tar: its SHA-256" in said


@pytest.mark.parametrize("command", ["verify", "inspect", "stats", "preview"])
def test_a_half_built_set_is_one_line_and_a_failure(
    copy: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (copy / "manifest.json").unlink()
    assert main([command, str(copy)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "run its build again" in said
    assert said.count("\n") == 1


def test_inspect_shows_one_video(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(built), "--key", "toy-05"]) == 0
    said = capsys.readouterr().out
    assert "toy-05  (toy-05.id)  36 x 52, toy-train-" in said
    assert "0           side  2        the dog on the left" in said
    lines = [line.split() for line in said.splitlines() if line[:1].isdigit()]
    frames = [line for line in lines if "jpg" in line]
    assert [line[1] for line in frames] == ["00000", "00005", "00010", "00015", "00020", "00025"]
    assert [line[6:] for line in frames] == [
        ["1"],
        ["1"],
        ["?"],
        ["2", "1"],
        ["2", "1"],
        ["2", "1"],
    ]
    assert main(["inspect", str(built)]) == 0
    assert ShardSet.open(str(built)).videos[0].key in capsys.readouterr().out
    assert main(["inspect", str(built), "--key", "none"]) == 1
    assert "has no video 'none'" in capsys.readouterr().err


def test_stats_counts(built: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["stats", str(built)]) == 0
    said = capsys.readouterr().out
    manifest = ShardSet.open(str(built)).manifest
    for name in ("videos", "frames", "expressions"):
        assert f"{name:<16}  {getattr(manifest.counts, name):,}" in said
    quantiles = next(it for it in said.splitlines() if it.startswith("frames a video"))
    assert quantiles.split()[-5:] == ["1", "2", "3", "4", "6"]
    assert "the (18)" in said
    assert "side (9)" in said
    assert "36 x 52 (9)" in said
    assert "skipped toy-bad-01: " in said


def test_preview_draws_masks_in_colour(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", str(built), "--out", str(out), "--videos", "3", "--frames", "4"]) == 0
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 240
        colours = {pixel for _, pixel in sheet.getcolors(maxcolors=2**24) or []}
    assert (230, 70, 60) in colours
    assert (60, 150, 240) in colours


def test_the_module_is_a_command(built: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "shards", "verify", str(built / "nothing")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'webdataset', 'nvidia.dali', 'pandas', 'obstore'}"
    code = f"import sys, shards; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
