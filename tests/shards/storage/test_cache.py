import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.format.shard_set import ShardSet
from shards.storage.cache import EVICT_AFTER_S, CachedShard, ShardCache
from tests.shards.object_server import ObjectServer, object_server
from tests.shards.sample_videos import build_toy, files_of, message

KILLS = int(os.environ.get("SGMG_KILLS", "8"))
FORK = multiprocessing.get_context("fork")  # only the cache and the standard library run in it
MAX_BYTES = 40_000
BLOCK_BYTES = 1000


def shard(number: int) -> bytes:
    return random.Random(number).randbytes(3_000 + 700 * number)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(data: bytes) -> CachedShard:
    return CachedShard(digest(data), len(data))


def blocks(data: bytes, pause_s: float = 0.0) -> Iterator[bytes]:
    for start in range(0, len(data), BLOCK_BYTES):
        time.sleep(pause_s)
        yield data[start : start + BLOCK_BYTES]


def request(cache: ShardCache, data: bytes) -> None:
    cache.request(entry(data), partial(blocks, data))


def bytes_used(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.stat().st_size
        except FileNotFoundError:  # removed meanwhile
            continue
    return total


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectServer]:
    """A toy set behind HTTP; the log holds the requests."""
    build_toy(tmp_path / "built")
    with object_server() as server:
        for name, data in files_of(tmp_path / "built").items():
            server.objects[f"/toy/{name}"] = data
        yield server


def read_all(shard_set: ShardSet) -> list[bytes]:
    images = []
    for video, row in enumerate(shard_set.videos):
        for frame in shard_set.read(video, range(len(row.frame_names))):
            images.append(frame.image)
    return images


def test_the_second_epoch_asks_for_no_remote_byte(server: ObjectServer, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 10**7)
    shard_set = ShardSet.open(f"{server.url}/toy", cache=cache)
    images = read_all(shard_set)
    digests = {record.sha256 for record in shard_set.manifest.shards}
    cache.wait()
    assert {path.name for path in cache.folder.iterdir()} >= digests
    server.log.clear()
    assert read_all(shard_set) == images
    assert not server.log
    assert shard_set.storage.traffic.cached
    (cache.folder / shard_set.manifest.shards[0].sha256).write_bytes(b"\1" * 30_000)
    assert read_all(shard_set) == images  # a damaged entry is dropped and read past
    assert server.log
    cache.close()
    second_cache = ShardCache(tmp_path / "cache", 10**7)
    server.log.clear()
    reopened = ShardSet.open(f"{server.url}/toy", cache=second_cache)
    read_all(reopened)
    intact = tuple(record.name for record in reopened.manifest.shards[1:])
    ranged = [path for _, path, byte_range in server.log if byte_range]
    assert not [path for path in ranged if path.endswith(intact)]
    second_cache.close()


def test_a_shard_with_other_bytes_is_never_kept(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, MAX_BYTES)
    data = shard(1)
    wrong_data = shard(2)[: len(data)]
    cache.request(entry(data), partial(blocks, wrong_data))
    cache.wait()
    assert bytes_used(tmp_path) == 0
    assert cache.read(digest(data), [0], [5]) is None


def test_a_closed_cache_fetches_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, MAX_BYTES)
    cache.close()
    request(cache, shard(1))
    cache.wait()
    assert bytes_used(tmp_path) == 0
    cache.close()  # twice does no harm


def test_a_shard_that_was_not_kept_is_not_fetched_again_at_once(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, MAX_BYTES)
    data = shard(1)
    cache.request(entry(data), partial(blocks, shard(2)))
    request(cache, data)
    cache.wait()
    assert cache.read(digest(data), [0], [5]) is None
    cache.close()


def test_idle_entries_make_room_and_used_ones_stay(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000, retry_after_s=0.0)
    old, new = shard(1), shard(9)  # together more than fits
    request(cache, old)
    cache.wait()
    assert cache.read(digest(old), [0], [9]) == [old[:9]]
    request(cache, new)
    cache.wait()
    assert cache.read(digest(new), [0], [1]) is None
    idle_since = time.time() - EVICT_AFTER_S - 1
    os.utime(cache.folder / digest(old), (idle_since, idle_since))
    request(cache, new)
    cache.wait()
    assert cache.read(digest(new), [2], [9]) == [new[2:9]]
    assert cache.read(digest(old), [0], [9]) is None
    cache.close()


def make_idle(path: Path) -> None:
    idle_since = time.time() - EVICT_AFTER_S - 1
    os.utime(path, (idle_since, idle_since), follow_symlinks=False)


def test_files_of_others_stay(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000, retry_after_s=0.0)
    names = ["notes.txt", "half.partial", "a" * 64, f"{'b' * 64}.partial", "A" * 64]
    paths = [tmp_path / name for name in names]
    paths += [cache.folder / name for name in ("notes.txt", "half.partial", "A" * 64, "c" * 63)]
    for path in paths:
        path.write_bytes(b"mine" * 5_000)
    link = cache.folder / ("d" * 64)
    link.symlink_to(paths[0])
    deeper = cache.folder / ("e" * 64)
    deeper.mkdir()
    for path in (*paths, link, deeper):
        make_idle(path)
    request(cache, shard(1))
    cache.wait()
    make_idle(cache.folder / digest(shard(1)))
    request(cache, shard(9))
    cache.wait()
    assert cache.read(digest(shard(9)), [0], [3]) == [shard(9)[:3]]
    assert cache.read(digest(shard(1)), [0], [3]) is None  # it made room
    assert all(path.read_bytes() == b"mine" * 5_000 for path in paths)
    assert link.is_symlink()
    assert deeper.is_dir()
    cache.close()


@pytest.mark.parametrize("name", ["../../mine", "mine", "", "A" * 64, "a" * 65, "a" * 64 + "\n"])
def test_a_name_that_is_no_digest_reaches_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    cache = ShardCache(tmp_path / "cache", MAX_BYTES)
    for touch in (
        partial(cache.drop, name),
        partial(cache.read, name, [0], [1]),
        partial(cache.request, CachedShard(name, 4), partial(blocks, b"mine")),
    ):
        with pytest.raises(ShardError, match="no SHA-256") as caught:
            touch()
        message(caught.value)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_folder_that_somebody_else_made_is_no_cache(tmp_path: Path) -> None:
    folder = ShardCache(tmp_path, MAX_BYTES).folder
    ShardCache(tmp_path, MAX_BYTES)  # a second time it is known by its marker
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_bytes(b"mine")
    with pytest.raises(ShardError, match="is no cache of shards; name another"):
        ShardCache(tmp_path, MAX_BYTES)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match="name another cache"):
        ShardCache(tmp_path / "file" / "deeper", 1)


def fill_in_child(folder: Path, seed: int, count: int, pause_s: float) -> None:
    """Request many shards in an order of one's own; read each if the cache holds it."""
    cache = ShardCache(folder, MAX_BYTES, retry_after_s=0.0)
    order = random.Random(seed).sample(range(20), 20)
    for number in (order * 9)[:count]:
        data = shard(number)
        cache.request(entry(data), partial(blocks, data, pause_s))
        chunks = cache.read(digest(data), [0], [len(data)])
        assert chunks in (None, [data])
    cache.wait()
    cache.close()


def fill_inherited(cache: ShardCache) -> None:
    signal.alarm(20)  # instead of waiting for ever
    request(cache, shard(1))
    cache.wait()
    assert cache.read(digest(shard(1)), [0], [3]) == [shard(1)[:3]]
    cache.close()


def test_a_forked_child_fills_a_cache_that_its_parent_has_used(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, MAX_BYTES)
    request(cache, shard(0))
    cache.wait()
    child = FORK.Process(target=fill_inherited, args=(cache,))
    with cache._guard:  # a thread might hold it just then
        child.start()
    child.join()
    assert child.exitcode == 0
    cache.close()


def test_eight_processes_never_exceed_the_bound(tmp_path: Path) -> None:
    peak_bytes = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak_bytes
        while not done.is_set():
            peak_bytes = max(peak_bytes, bytes_used(tmp_path))

    watcher = threading.Thread(target=watch)
    children = [
        FORK.Process(target=fill_in_child, args=(tmp_path, seed, 30, 0.0005)) for seed in range(8)
    ]
    for child in children:
        child.start()
    watcher.start()
    for child in children:
        child.join(60)
    done.set()
    watcher.join()
    assert [child.exitcode for child in children] == [0] * 8
    assert MAX_BYTES / 2 < peak_bytes <= MAX_BYTES
    check_entries(tmp_path)


def check_entries(folder: Path) -> None:
    entries = [path for path in folder.rglob("*") if len(path.name) == 64]
    assert entries
    assert all(path.name == digest(path.read_bytes()) for path in entries)


def test_killed_while_filling_nothing_is_poisoned(tmp_path: Path) -> None:
    generator = random.Random(3)
    for seed in range(KILLS):
        child = FORK.Process(target=fill_in_child, args=(tmp_path, seed, 100, 0.002))
        child.start()
        time.sleep(generator.uniform(0.0, 0.1))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert bytes_used(tmp_path) <= MAX_BYTES
    left_behind = set(tmp_path.rglob("*.partial"))
    fill_in_child(tmp_path, 0, 20, 0.0)
    check_entries(tmp_path)
    assert not left_behind & set(tmp_path.rglob("*"))
    assert bytes_used(tmp_path) <= MAX_BYTES
