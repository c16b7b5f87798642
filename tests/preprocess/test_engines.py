"""Workers, Ray, object storage: the same bytes; kills, full disks, broken files: one clear report.

SGMG_KILLS=20 kills the build as often as the name says; 2 times by default.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from preprocess.build_shards import Build, build
from shards.format.manifest import MANIFEST
from shards.format.shard_set import ShardSet
from tests.preprocess.conftest import jpeg, write
from tests.shards.object_server import ObjectServer, object_server

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("SGMG_KILLS", "2"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MeViS valid without masks: 24 videos of 200 kB, for shards of 1 MB."""
    root = tmp_path_factory.mktemp("files")
    listed = {}
    for video in range(24):
        for frame in range(4):
            image = jpeg(256, 320, 4 * video + frame)
            write(root / f"valid/JPEGImages/v{video}/{frame:05d}.jpg", image)
        expressions = {"0": {"exp": f"number {video}"}}
        names = [f"{frame:05d}" for frame in range(4)]
        listed[f"v{video}"] = {"expressions": expressions, "frames": names}
    write(root / "valid/meta_expressions.json", {"videos": listed})
    return root


def options(root: Path, out: Path | str, **extra: object) -> Build:
    return Build("mevis", root, str(out), ("valid",), shard_mb=1, allow_partial=True, **extra)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    build(options(root, out))
    built = files(out / "valid")
    assert sum(name.endswith(".tar") for name in built) >= 4
    return built


def command(root: Path, out: Path, *extra: object) -> list[str]:
    line = [sys.executable, "preprocess/build_shards.py", "mevis", "--root", root, "--out", out]
    line += ["--split", "valid", "--shard-mb", "1", "--allow-partial", *extra]
    return list(map(str, line))


def run(line: list[str], **extra: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload]
        line, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300, **extra
    )


@pytest.mark.parametrize("workers", [2, 4])
def test_every_number_of_workers_gives_the_same_bytes(
    root: Path, tmp_path: Path, expected: dict[str, bytes], workers: int
) -> None:
    build(options(root, tmp_path, workers=workers))
    assert files(tmp_path / "valid") == expected


def test_ray_gives_the_same_bytes_and_the_same_errors(
    root: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cluster is started here, as on a head node, and found by its address."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a loaded machine
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        address = ray.get_runtime_context().gcs_address
        on_ray = ("--engine", "ray", "--address", address)
        process = run(command(root, tmp_path / "out", *on_ray))
        assert process.returncode == 0, process.stderr
        assert "24/24 videos" in process.stderr
        assert files(tmp_path / "out/valid") == expected
        broken = Path(shutil.copytree(root, tmp_path / "broken"))
        (broken / "valid/JPEGImages/v3/00001.jpg").write_bytes(b"no picture")
        process = run(command(broken, tmp_path / "bad", *on_ray))
        assert process.returncode == 1
        (last,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert "v3/00001.jpg is no readable JPEG" in last
        assert "Traceback" not in process.stderr
        assert not (tmp_path / "bad/valid" / MANIFEST).exists()
    finally:
        ray.shutdown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with object_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        yield server


def test_object_storage_gets_the_same_bytes_and_keeps_finished_shards(
    root: Path, server: ObjectServer, expected: dict[str, bytes]
) -> None:
    build(options(root, "s3://bucket/sets"))
    stored = {name.rpartition("/")[2]: data for name, data in server.objects.items()}
    assert stored == expected
    assert len(ShardSet.open("s3://bucket/sets/valid")) == 24
    lost = next(name for name in server.objects if name.endswith("000002-of-000005.tar"))
    del server.objects[lost]
    server.objects.pop(next(name for name in server.objects if name.endswith(MANIFEST)))
    server.log.clear()
    build(options(root, "s3://bucket/sets"))
    assert {name.rpartition("/")[2]: data for name, data in server.objects.items()} == expected
    puts = {name.rpartition("/")[2] for method, name, _ in server.log if method == "PUT"}
    lost_tar = lost.rpartition("/")[2]
    lost_index = lost_tar.replace(".tar", ".parquet")
    # the first of them keeps other builds out, and is removed at the end
    assert {name.partition("?")[0] for name in puts} == {
        "build-in-progress",
        lost_tar,
        lost_index,
        MANIFEST,
    }


def test_a_shard_that_storage_refuses_is_tried_again(
    root: Path, server: ObjectServer, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shards.storage.object_store import ObjectStore

    refusals, commit = [1, 1], ObjectStore.commit

    def moody(self: ObjectStore, path: Path, name: str) -> None:
        if refusals and name.endswith("000001-of-000005.tar"):
            refusals.pop()
            raise OSError("the bucket is busy")
        commit(self, path, name)

    monkeypatch.setattr(ObjectStore, "commit", moody)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    build(options(root, "s3://bucket/sets"))
    assert not refusals
    assert {name.rpartition("/")[2]: data for name, data in server.objects.items()} == expected


def test_killed_builds_end_in_the_same_bytes_and_keep_finished_shards(
    root: Path, tmp_path: Path
) -> None:
    many, listed = tmp_path / "many", {}
    (many / "valid/JPEGImages").mkdir(parents=True)
    for video in range(240):  # 48 shards
        (many / f"valid/JPEGImages/w{video}").symlink_to(root / f"valid/JPEGImages/v{video % 24}")
        names = [f"{frame:05d}" for frame in range(4)]
        listed[f"w{video}"] = {"expressions": {"0": {"exp": "one"}}, "frames": names}
    write(many / "valid/meta_expressions.json", {"videos": listed})
    build(options(many, tmp_path / "whole"))
    expected = files(tmp_path / "whole/valid")
    moments, in_the_middle = random.Random(0), 0
    for number in range(KILLS):
        out = tmp_path / f"{number}"
        line = command(many, out, "--workers", 1 + number % 2)
        process = subprocess.Popen(
            line, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True
        )
        enough = moments.randrange(1, 30)
        while process.poll() is None and len(list(out.rglob("*.tar"))) < enough:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished = {path: path.stat().st_ino for path in out.rglob("*.tar")}
        in_the_middle += 0 < len(finished) < 48
        assert all(path.read_bytes() == expected[path.name] for path in finished)
        finished_with_index = {path for path in finished if path.with_suffix(".parquet").exists()}
        build(options(many, out))
        assert files(out / "valid") == expected
        assert all(path.stat().st_ino == finished[path] for path in finished_with_index)
        shutil.rmtree(out)
    sys.stderr.write(f"{in_the_middle} of {KILLS} kills came between two shards\n")
    assert in_the_middle, "no kill came between two shards: the test proves nothing"


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))


def small_disk(folder: Path) -> bool:
    """Mount a disk of 1.5 MB, if this user may."""
    if os.getuid() or shutil.which("mount") is None:
        return False
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    return subprocess.run(line, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("limited_by", ["limit", "tmpfs"])
def test_a_full_disk_is_one_line_and_half_a_file_is_not_left(
    root: Path, tmp_path: Path, expected: dict[str, bytes], limited_by: str
) -> None:
    out = tmp_path / "out"
    if limited_by == "tmpfs" and not small_disk(out):
        pytest.skip("mounting a small disk needs root and CAP_SYS_ADMIN")
    try:
        process = run(command(root, out), preexec_fn=limit_files if limited_by == "limit" else None)
        assert process.returncode == 1
        (last,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert "make room" in last or "space left" in last
        assert "Traceback" not in process.stderr
        assert not list(out.rglob("*.partial"))
        assert not list(out.rglob(MANIFEST))
        for path in out.rglob("*.tar"):
            assert path.read_bytes() == expected[path.name]
    finally:
        if limited_by == "tmpfs":
            subprocess.run(["umount", str(out)], check=True)


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("harm", "why"), [(unreadable, "Is a directory"), (cut_short, "cut short")]
)
def test_a_bad_frame_in_the_middle_stops_or_is_skipped_and_listed(
    root: Path, tmp_path: Path, harm: Callable[[Path], None], why: str, workers: int
) -> None:
    broken = Path(shutil.copytree(root, tmp_path / "broken"))
    harm(broken / "valid/JPEGImages/v7/00001.jpg")
    with pytest.raises(ValueError, match=rf"v7/00001.jpg.*{why}"):
        build(options(broken, tmp_path / "out", workers=workers))
    assert not list(tmp_path.glob("out/*/manifest.json"))
    assert not list(tmp_path.glob("out/*/.*.partial"))
    build(options(broken, tmp_path / "skip", workers=workers, on_error="skip"))
    manifest = ShardSet.open(str(tmp_path / "skip/valid")).manifest
    assert [skipped.key for skipped in manifest.skipped] == ["v7"]
    assert why in manifest.skipped[0].reason
    assert manifest.counts.videos == 23


def test_smaller_frames_and_another_quality_are_told_in_the_manifest(
    root: Path, tmp_path: Path
) -> None:
    from io import BytesIO

    from PIL import Image

    build(options(root, tmp_path / "small", max_side=160))
    small = ShardSet.open(str(tmp_path / "small/valid"))
    settings = small.manifest.settings
    assert settings["max_side"] == 160
    assert str(settings["encoder"]).startswith("JPEG quality 95 4:4:4, pillow ")
    video = small.video(0)
    assert (video.height, video.width) == (128, 160)
    with Image.open(BytesIO(video.frames[0].image)) as picture:
        assert picture.size == (160, 128)
        source = root / f"valid/JPEGImages/{video.key}/00000.jpg"
        with Image.open(source) as whole:
            difference = np.asarray(whole.reduce(2), float) - np.asarray(picture, float)
        assert np.abs(difference).mean() < 12
    build(options(root, tmp_path / "same", max_side=320))
    assert ShardSet.open(str(tmp_path / "same/valid")).video(0).frames[0].image == (
        source.read_bytes()
    )
    build(options(root, tmp_path / "low", quality=20))
    low = ShardSet.open(str(tmp_path / "low/valid"))
    assert low.manifest.counts.bytes < 0.5 * sum(p.stat().st_size for p in root.rglob("*.jpg"))
    assert low.manifest.settings["quality"] == 20
