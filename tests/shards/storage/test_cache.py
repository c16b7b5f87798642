import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from shards.storage.cache import ShardCache
from tests.shards.object_server import ObjectServer, object_server
from tests.shards.sample_videos import build_toy, files_of

KILLS = int(os.environ.get("SGMG_KILLS", "8"))
FORK = multiprocessing.get_context("fork")  # only the cache and the standard library run in it
LIMIT = 40_000


def shard(number: int) -> bytes:
    return random.Random(number).randbytes(3_000 + 700 * number)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blocks(data: bytes, pause: float = 0.0) -> Iterator[bytes]:
    for start in range(0, len(data), 1000):
        time.sleep(pause)
        yield data[start : start + 1000]


def used(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def wait_for(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "took too long"
        time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectServer]:
    """A toy set behind HTTP; the log holds the requests."""
    build_toy(tmp_path / "built")
    with object_server() as running:
        for name, data in files_of(tmp_path / "built").items():
            running.objects[f"/toy/{name}"] = data
        yield running


def read_all(shard_set: ShardSet) -> list[bytes]:
    rows = enumerate(shard_set.videos)
    return [f.image for v, row in rows for f in shard_set.read(v, range(len(row.frame_names)))]


def test_the_second_epoch_asks_for_no_remote_byte(server: ObjectServer, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**7)
    shard_set = ShardSet.open(f"{server.url}/toy", cache=cache)
    first = read_all(shard_set)
    names = {it.sha256 for it in shard_set.manifest.shards}
    wait_for(lambda: {path.name for path in cache.folder.iterdir()} >= names)
    server.log.clear()
    assert read_all(shard_set) == first
    assert not server.log
    assert shard_set.storage.traffic.cached
    (tmp_path / "cache" / shard_set.manifest.shards[0].sha256).write_bytes(b"\1" * 30_000)
    assert read_all(shard_set) == first  # a damaged entry is dropped and read past
    assert server.log
    cache.close()
    other = ShardCache(tmp_path / "cache", 10**7)
    server.log.clear()
    read_all(again := ShardSet.open(f"{server.url}/toy", cache=other))
    kept = list(again.manifest.shards[1:])
    assert not [it for it in server.log if it[1].endswith(tuple(s.name for s in kept)) and it[2]]
    other.close()


def test_a_shard_with_other_bytes_is_never_kept(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, LIMIT)
    cache.want(digest(shard(1)), len(shard(1)), lambda: blocks(shard(2)[: len(shard(1))]))
    wait_for(lambda: cache._jobs.empty() and used(tmp_path) == 0)
    cache.close()
    assert cache.read(digest(shard(1)), [0], [5]) is None
    cache.want(digest(shard(1)), len(shard(1)), lambda: blocks(shard(1)))  # closed: no-op
    assert used(tmp_path) == 0


def test_idle_entries_make_room_and_used_ones_stay(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    old, new = shard(1), shard(9)  # together more than fits
    cache.want(digest(old), len(old), lambda: blocks(old))
    wait_for(lambda: cache.read(digest(old), [0], [9]) == [old[:9]])
    cache.want(digest(new), len(new), lambda: blocks(new))
    wait_for(cache._jobs.empty)
    time.sleep(0.05)
    assert cache.read(digest(new), [0], [1]) is None
    os.utime(tmp_path / digest(old), (0, time.time() - 4000))
    cache._asked.clear()
    cache.want(digest(new), len(new), lambda: blocks(new))
    wait_for(lambda: cache.read(digest(new), [2], [9]) == [new[2:9]])
    assert cache.read(digest(old), [0], [9]) is None
    cache.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match="name another cache"):
        ShardCache(tmp_path / "file" / "deeper", 1)


def _fill(folder: Path, seed: int, count: int, pause: float) -> None:
    """What a child does: want many shards in its own order, read them if they are there."""
    cache = ShardCache(folder, LIMIT)
    order = random.Random(seed).sample(range(20), 20)
    for number in (order * 9)[:count]:
        data = shard(number)
        cache._asked.clear()
        cache.want(digest(data), len(data), lambda data=data: blocks(data, pause))  # type: ignore[misc]
        found = cache.read(digest(data), [0], [len(data)])
        assert found in (None, [data])
    cache._jobs.put(None)
    assert cache._thread is not None
    cache._thread.join()


def test_eight_processes_never_exceed_the_bound(tmp_path: Path) -> None:
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, used(tmp_path))

    watcher = threading.Thread(target=watch)
    children = [FORK.Process(target=_fill, args=(tmp_path, n, 30, 0.0005)) for n in range(8)]
    for child in children:
        child.start()
    watcher.start()
    for child in children:
        child.join(60)
    done.set()
    watcher.join()
    assert [child.exitcode for child in children] == [0] * 8
    assert LIMIT / 2 < most <= LIMIT
    check_entries(tmp_path)


def check_entries(folder: Path) -> None:
    entries = [path for path in folder.iterdir() if len(path.name) == 64]
    assert entries
    assert all(path.name == digest(path.read_bytes()) for path in entries)


def test_killed_while_filling_nothing_is_poisoned(tmp_path: Path) -> None:
    generator = random.Random(3)
    for kill in range(KILLS):
        child = FORK.Process(target=_fill, args=(tmp_path, kill, 100, 0.002))
        child.start()
        time.sleep(generator.uniform(0.0, 0.1))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert used(tmp_path) <= LIMIT
    partial = {path for path in tmp_path.iterdir() if path.suffix == ".partial"}
    _fill(tmp_path, 0, 20, 0.0)
    check_entries(tmp_path)
    assert not partial & set(tmp_path.iterdir())
    assert used(tmp_path) <= LIMIT
