import os
import random
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from shards.build.plan import Plan, ShardTask, spread
from shards.build.writer import build_set
from shards.errors import ShardError
from shards.format.manifest import MANIFEST, Manifest, ShardRecord
from shards.format.schema import Video
from shards.format.tar import ShardTar
from shards.storage.storage import Storage
from tests.shards.sample_videos import (
    build_toy,
    files_of,
    make_video,
    message,
    toy_keys,
    toy_video,
)

OPTIONS: dict[str, Any] = {
    "dataset": "toy",
    "split": "train",
    "settings": {"a": 1},
    "shard_bytes": 45_000,
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build_toy(out)
    return out


def test_names_and_counts(built: Path) -> None:
    stems = [f"toy-train-{number:06d}-of-000003" for number in range(3)]
    expected = [MANIFEST, *(f"{stem}.{end}" for stem in stems for end in ("tar", "parquet"))]
    assert sorted(files_of(built)) == sorted(expected)
    counts = Manifest.load(Storage(str(built))).counts
    videos = [toy_video(key) for key in toy_keys()]
    assert counts.videos == len(videos)
    assert counts.frames == sum(len(video.frames) for video in videos)
    assert counts.expressions == 2 * len(videos)
    assert counts.bytes == sum(path.stat().st_size for path in built.glob("*.tar"))
    annotated = sum(frame.masks is not None for video in videos for frame in video.frames)
    assert counts.annotated_frames == annotated < counts.frames


def test_a_tar_holds_nothing_of_its_making(built: Path) -> None:
    for path in built.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                owner = (member.uid, member.gid, member.uname, member.gname)
                assert owner == (0, 0, "root", "root")
                assert (member.mtime, member.mode, member.type) == (0, 0o644, tarfile.REGTYPE)
                assert not member.pax_headers


def test_equal_input_gives_equal_bytes_for_every_order_and_worker_count(
    built: Path, tmp_path: Path
) -> None:
    expected = files_of(built)
    build_toy(tmp_path / "reversed", toy_keys()[::-1])
    assert files_of(tmp_path / "reversed") == expected
    for workers in (2, 4):
        out = tmp_path / str(workers)
        plans: list[Plan] = []
        build_toy(out, workers=workers, progress=plans.append)
        assert files_of(out) == expected
        assert sorted(plan.key for plan in plans) == toy_keys()


def test_another_engine_gives_equal_bytes(built: Path, tmp_path: Path) -> None:
    def backwards(
        function: Callable[[ShardTask], ShardRecord], tasks: Sequence[ShardTask]
    ) -> list[ShardRecord]:
        return [function(task) for task in reversed(tasks)]

    build_toy(tmp_path, runner=backwards)
    assert files_of(tmp_path) == files_of(built)


def test_progress_is_told_each_video_when_it_is_written(tmp_path: Path) -> None:
    plans: list[Plan] = []
    num_tars: list[int] = []  # finished when each plan was told

    def record(plan: Plan) -> None:
        plans.append(plan)
        num_tars.append(len(list(tmp_path.glob("*.tar"))))

    manifest = build_toy(tmp_path, progress=record)
    assert sorted(plan.key for plan in plans) == toy_keys()
    expected = []
    for number, shard in enumerate(manifest.shards):
        expected += [number] * shard.counts.videos
    assert num_tars == expected
    plans_of_second_run: list[Plan] = []
    build_toy(tmp_path, progress=plans_of_second_run.append)  # finished shards count, too
    assert plans_of_second_run == plans


@pytest.mark.parametrize("change", [{"seed": 1}, {"settings": {"a": 2}}, {"shard_bytes": 90_000}])
def test_what_decides_the_bytes_shows_in_the_plan(
    built: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    changed = build_toy(tmp_path, **change)
    assert changed.plan != Manifest.load(Storage(str(built))).plan


@pytest.mark.parametrize(
    ("keys", "problem"), [([], "no videos"), (["a", "b", "a"], "two videos have the key 'a'")]
)
def test_a_bad_plan_writes_nothing(tmp_path: Path, keys: list[str], problem: str) -> None:
    with pytest.raises(ShardError, match=problem):
        build_set(
            [Plan(key, 1) for key in keys],
            toy_video,
            str(tmp_path / "out"),
            dataset="toy",
            split="train",
            settings={},
        )
    assert not (tmp_path / "out").exists()


def test_a_finished_set_is_left_alone(tmp_path: Path) -> None:
    build_toy(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    build_toy(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_set_is_never_overwritten(tmp_path: Path) -> None:
    build_toy(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(ShardError, match="already holds toy train") as caught:
        build_toy(tmp_path, seed=3)
    assert "write elsewhere" in message(caught.value)
    assert files_of(tmp_path) == before


def damage_tar(out: Path) -> None:
    path = sorted(out.glob("*.tar"))[1]
    path.write_bytes(path.read_bytes().replace(b"toy-0", b"toy-9", 1))


def damage_index(out: Path) -> None:
    path = sorted(out.glob("*.parquet"))[1]
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_tar, damage_index])
@pytest.mark.parametrize("committed", [True, False])
def test_finished_shards_are_checked_and_kept_and_damaged_ones_made_anew(
    built: Path, tmp_path: Path, damage: Callable[[Path], None], committed: bool
) -> None:
    build_toy(tmp_path)
    if not committed:
        (tmp_path / MANIFEST).unlink()
    damage(tmp_path)
    intact = sorted(tmp_path.glob("*.tar"))[0]
    inode = intact.stat().st_ino
    build_toy(tmp_path)
    assert files_of(tmp_path) == files_of(built)
    assert intact.stat().st_ino == inode


class StopError(RuntimeError):
    pass


class StopsAt:
    """Fails when it comes to a video."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, key: str) -> Video:
        if key == self.key:
            raise StopError
        return toy_video(key)


def test_a_stopped_build_shows_no_half_file_and_goes_on(built: Path, tmp_path: Path) -> None:
    plans = [Plan(key, 15_000) for key in toy_keys()]
    last = spread(plans, 45_000, 0)[2][1].key
    with pytest.raises(StopError):
        build_set(plans, StopsAt(last), str(tmp_path), **OPTIONS)
    assert list(files_of(tmp_path)) == [
        "toy-train-000000-of-000003.parquet",
        "toy-train-000000-of-000003.tar",
        "toy-train-000001-of-000003.parquet",
        "toy-train-000001-of-000003.tar",
    ]
    build_toy(tmp_path)
    assert files_of(tmp_path) == files_of(built)


def build_slowly(out: Path, begun: Event) -> None:
    def slow(key: str) -> Video:
        begun.set()
        time.sleep(0.01)
        return toy_video(key)

    plans = [Plan(key, 15_000) for key in toy_keys()]
    build_set(plans, slow, str(out), **OPTIONS)


def test_a_build_killed_again_and_again_ends_in_the_same_bytes(built: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    finished_files = {tmp_path / name for name in files_of(built)}
    num_left_behind = 0
    fork = get_context("fork")
    for _ in range(12):
        begun = fork.Event()
        process = fork.Process(target=build_slowly, args=(tmp_path, begun))
        process.start()
        while process.is_alive() and not begun.wait(0.01):
            pass
        process.join(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        partial_files = set(tmp_path.glob(".*.partial"))
        assert set(tmp_path.glob("*.*")) <= finished_files | partial_files
        num_left_behind += len(partial_files)
    assert num_left_behind, "no kill came while a file was being written: the test proves nothing"
    build_toy(tmp_path)
    assert files_of(tmp_path) == files_of(built)


def test_a_manifest_left_half_written_is_swept(built: Path, tmp_path: Path) -> None:
    for name in (".manifest.json.0123abcd.partial", ".toy-train-000000-of-000003.tar.a.partial"):
        (tmp_path / name).write_bytes(b"{")
    build_toy(tmp_path)
    # the second is no name of ours
    assert set(files_of(tmp_path)) - set(files_of(built)) == {
        ".toy-train-000000-of-000003.tar.a.partial"
    }


@pytest.mark.parametrize("change", [{"seed": 1}, {}])
def test_a_second_build_into_a_folder_is_refused_until_the_first_has_ended(
    built: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    refused = []

    def begin_another(plan: Plan) -> None:
        with pytest.raises(ShardError, match="another build is writing there now") as caught:
            build_toy(tmp_path, **change)
        refused.append(message(caught.value))

    build_toy(tmp_path, progress=begin_another)
    assert len(refused) == len(toy_keys())
    assert files_of(tmp_path) == files_of(built)


def test_a_killed_build_keeps_no_other_out(tmp_path: Path) -> None:
    fork = get_context("fork")
    begun = fork.Event()
    process = fork.Process(target=build_slowly, args=(tmp_path, begun))
    process.start()
    assert begun.wait(30)
    with pytest.raises(ShardError, match="another build is writing there now"):
        build_toy(tmp_path, seed=1)
    process.kill()
    process.join()
    build_toy(tmp_path, seed=1)


class Dies:
    def __call__(self, key: str) -> Video:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    plans = [Plan(key, 15_000) for key in toy_keys()]
    with pytest.raises(ShardError, match="a worker died") as caught:
        build_set(
            plans,
            Dies(),
            str(tmp_path),
            dataset="toy",
            split="t",
            settings={},
            shard_bytes=30_000,
            workers=2,
        )
    assert "run the same command again" in message(caught.value)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_video_stops_the_build(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ShardError, match=r"toy-bad-01.mp4 is unreadable") as caught:
        build_toy(tmp_path, [*toy_keys(), "toy-bad-01"], workers=workers)
    assert "video 'toy-bad-01'" in message(caught.value)
    assert not (tmp_path / MANIFEST).exists()


def test_an_unreadable_video_may_be_skipped_and_is_listed(tmp_path: Path) -> None:
    keys = [*toy_keys(), "toy-bad-01"]
    manifest = build_toy(tmp_path, keys, on_error="skip")
    assert [video.key for video in manifest.skipped] == ["toy-bad-01"]
    assert "is unreadable" in manifest.skipped[0].reason
    assert manifest.counts.videos == 9
    before = files_of(tmp_path)
    assert build_toy(tmp_path, keys, on_error="skip") == manifest
    assert files_of(tmp_path) == before


def test_a_reader_that_gives_another_video_is_caught(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="gave video 'other' instead"):
        build_set(
            [Plan("mine", 1)],
            lambda key: make_video("other"),
            str(tmp_path),
            dataset="toy",
            split="train",
            settings={},
        )


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\n"])
@pytest.mark.parametrize("field", ["dataset", "split"])
def test_a_set_whose_files_would_lie_elsewhere_is_refused(
    tmp_path: Path, field: str, name: str
) -> None:
    with pytest.raises(ShardError, match=f"{field} is .*, must be a name") as caught:
        build_toy(tmp_path / "out", **{field: name})
    message(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ShardTar, key: str, members: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardTar, "write", full)
    with pytest.raises(ShardError, match=r"No space left on device\); make room") as caught:
        build_toy(tmp_path)
    message(caught.value)
    assert files_of(tmp_path) == {}
