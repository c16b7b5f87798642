import multiprocessing
import os
import pickle
import random
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.queues import Queue
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import DamageError, ShardError
from shards.format.shard_set import ShardSet
from shards.storage.storage import Span, Storage, coalesce, redact_url
from tests.shards.object_server import (
    HANG_S,
    Fault,
    ObjectServer,
    cut_short,
    flipped,
    forbidden,
    hanging,
    object_server,
    unavailable,
)
from tests.shards.sample_videos import build_toy, files_of, message, toy_video

DATA = random.Random(0).randbytes(50_000)


def span(offset: int, size: int) -> Span:
    return Span(offset, size, google_crc32c.value(DATA[offset : offset + size]))


SPANS = [span(40_000, 100), span(10, 30), span(50, 1000), span(1060, 1), span(20_000, 5)]


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with object_server() as running:
        yield running


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no profile of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def storages(server: ObjectServer, folder: Path) -> list[Storage]:
    """The same file on a disk, in fsspec's memory and behind HTTP."""
    server.objects["/set/s.tar"] = DATA
    (folder / "s.tar").write_bytes(DATA)
    memory = Storage("memory://set")
    memory.put("s.tar", DATA)
    return [
        Storage(str(folder)),
        Storage(folder.as_uri()),
        memory,
        Storage(f"{server.url}/set"),
    ]


def test_every_place_gives_the_same(server: ObjectServer, tmp_path: Path) -> None:
    for storage in storages(server, tmp_path):
        assert storage.get("s.tar") == DATA
        assert storage.size("s.tar") == len(DATA)
        assert storage.exists("s.tar")
        assert not storage.exists("other.tar")
        expected = [DATA[span.offset : span.offset + span.size] for span in SPANS]
        assert storage.fetch("s.tar", SPANS, gap=100) == expected
        assert storage.fetch("s.tar", SPANS, gap=0) == expected
        assert storage.fetch("s.tar", [], 0) == []
        with storage.stream("s.tar") as file:
            assert file.read(7) == DATA[:7]
            assert file.read() == DATA[7:]
        again = pickle.loads(pickle.dumps(storage))
        assert again.fetch("s.tar", SPANS, 0) == expected
        assert storage.traffic.refetched == 0


def test_missing_and_short_files_are_named(server: ObjectServer, tmp_path: Path) -> None:
    for storage in storages(server, tmp_path):
        for read in (storage.get, storage.size, partial(storage.fetch, spans=SPANS, gap=0)):
            with pytest.raises(ShardError, match=r"/t.tar: no such file; check") as caught:
                read("t.tar")
            assert message(caught.value).startswith(str(storage))
        for start in (len(DATA) - 5, len(DATA) + 5):  # the checksum of nothing is 0, too
            with pytest.raises(ShardError, match=r"/s.tar: .* are cut short; copy"):
                storage.fetch("s.tar", [Span(start, 10, 0)], 0)


def test_ranges_are_joined_over_the_gap(server: ObjectServer) -> None:
    server.objects["/set/s.tar"] = DATA
    storage = Storage(f"{server.url}/set")
    for gap, requests in ((0, 5), (10, 3), (18_939, 2), (10**6, 1)):
        server.log.clear()
        before = storage.traffic.bytes
        storage.fetch("s.tar", SPANS, gap=gap)
        assert len(server.log) == requests
        ranges = [re.findall(r"\d+", str(byte_range)) for _, _, byte_range in server.log]
        received = sum(int(end) + 1 - int(start) for start, end in ranges)
        assert received == storage.traffic.bytes - before


random_spans = st.builds(Span, st.integers(0, 300), st.integers(1, 60), st.just(0))


@settings(deadline=None)
@given(st.lists(random_spans, min_size=1, max_size=12), st.integers(0, 80))
def test_ranges_cover_all_spans_and_nothing_far(spans: list[Span], gap: int) -> None:
    ranges = coalesce(spans, gap)
    for span, number in zip(spans, ranges.range_of_span, strict=True):
        assert ranges.starts[number] <= span.offset
        assert span.offset + span.size <= ranges.ends[number]
    neighbours = zip(ranges.starts[1:], ranges.ends[:-1], strict=True)
    assert all(next_start > end + gap for next_start, end in neighbours)
    covered: set[int] = set()
    for span in spans:
        covered.update(range(span.offset, span.offset + span.size))
    for start, end in zip(ranges.starts, ranges.ends, strict=True):
        inside = sorted(position for position in covered if start <= position < end)
        assert (inside[0], inside[-1]) == (start, end - 1)
        assert all(later - earlier <= gap + 1 for earlier, later in pairwise(inside))


@pytest.mark.parametrize("fault", [unavailable, cut_short, hanging])
def test_a_fault_is_answered_by_asking_again(server: ObjectServer, fault: Fault) -> None:
    server.objects["/set/s.tar"] = DATA
    storage = Storage(f"{server.url}/set", stall_s=0.4)
    server.faults = [fault, fault]
    began = time.monotonic()
    assert storage.fetch("s.tar", [span(100, 9_000)], 0) == [DATA[100:9_100]]
    assert not server.faults
    assert time.monotonic() - began < 2 * HANG_S - 1


def test_a_flipped_bit_is_fetched_again_and_counted(server: ObjectServer) -> None:
    server.objects["/set/s.tar"] = DATA
    storage = Storage(f"{server.url}/set")
    server.faults = [flipped]
    spans = [span(0, 10), span(20, 10)]
    assert storage.fetch("s.tar", spans, 100) == [DATA[:10], DATA[20:30]]
    assert storage.traffic.refetched == 1
    server.faults = [flipped, flipped, flipped]
    problem = r"s\.tar: the 10 bytes at 20 have a wrong checksum"
    with pytest.raises(DamageError, match=problem) as caught:
        storage.fetch("s.tar", spans, 100)
    assert caught.value.part == 1


def test_a_refusal_is_told_without_secrets(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKPUBLIC")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.objects["/bucket/set/s.tar"] = DATA
    server.faults = [forbidden]
    with pytest.raises(ShardError, match=r"set/s\.tar: .*; check the address") as caught:
        Storage("s3://bucket/set").get("s.tar")
    assert "secret" not in message(caught.value)
    hidden = Storage("http://user:verysecret@127.0.0.1:1/x?sig=verysecret", stall_s=0.1)
    assert "verysecret" not in str(hidden)


def test_a_set_is_built_in_and_read_from_object_storage(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    build_toy("s3://bucket/sets/toy")
    build_toy(tmp_path)
    stored = {name.rpartition("/")[2]: data for name, data in server.objects.items()}
    assert stored == files_of(tmp_path)
    puts = [name for verb, name, _ in server.log if verb == "PUT"]
    assert puts[-1].startswith("/bucket/sets/toy/manifest.json")
    server.log.clear()
    build_toy("s3://bucket/sets/toy")
    assert not [name for verb, name, _ in server.log if verb == "PUT"]
    for url in ("s3://bucket/sets/toy", f"{server.url}/bucket/sets/toy"):
        shard_set = ShardSet.open(url)
        videos = list(shard_set.sequential())
        assert videos == [toy_video(row.key) for row in shard_set.videos]
        assert shard_set.read(3, [1, 0]) == [videos[3].frames[1], videos[3].frames[0]]


def test_a_second_build_into_a_prefix_is_refused_until_the_first_has_ended(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    refused: list[str] = []

    def begin_another(plan: object) -> None:
        if not refused:
            with pytest.raises(ShardError, match="other settings is writing there") as caught:
                build_toy("s3://bucket/toy", seed=1)
            refused.append(message(caught.value))

    build_toy("s3://bucket/toy", progress=begin_another)
    assert refused
    assert "/bucket/toy/build-in-progress" not in server.objects
    # what a killed build leaves keeps other plans out, and lets its own go on
    storage = Storage("s3://bucket/killed")
    claim = storage.claim("plan")
    claim.__enter__()
    with pytest.raises(ShardError, match="remove the object build-in-progress"):
        build_toy("s3://bucket/killed")
    with storage.claim("plan"):
        pass
    build_toy("s3://bucket/killed")
    del claim


def test_a_set_in_a_place_only_fsspec_knows(tmp_path: Path) -> None:
    build_toy("memory://sets/toy")
    shard_set = ShardSet.open("memory://sets/toy")
    keys = [row.key for row in shard_set.videos]
    assert [video.key for video in shard_set.sequential()] == keys
    build_toy(tmp_path)
    for name, data in files_of(tmp_path).items():
        assert shard_set.storage.get(name) == data


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ShardError, match=r"nowhere://x: ") as caught:
        Storage("nowhere://x")
    message(caught.value)


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "deep" / "er"))
    writing = storage.new_file("a")
    writing.__enter__().write(b"half")
    assert not storage.exists("a")
    assert not writing.__exit__(RuntimeError, RuntimeError(), None)
    assert list((tmp_path / "deep" / "er").iterdir()) == []
    with storage.new_file("a") as file:
        file.write(b"whole")
    assert storage.get("a") == b"whole"


def write_and_die(url: str, name: str) -> None:
    with Storage(url).new_file(name) as file:
        file.write(b"half" * 1000)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("url", ["folder", "https://host.invalid/set"])
def test_what_killed_processes_left_is_swept_and_nothing_else(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if url == "folder":
        url = str(tmp_path)
    fork = multiprocessing.get_context("fork")
    for name in ("toy-train-0.tar", "manifest.json", "other-0.tar"):
        process = fork.Process(target=write_and_die, args=(url, name))
        process.start()
        process.join()
    left_behind = set(tmp_path.iterdir())
    assert len(left_behind) == 3
    foreign = [".toy-train-.partial", ".toy-train-0.tar.00000000.part", "toy-train-0.tar", ".toy"]
    paths = [tmp_path / name for name in foreign]
    for path in paths:
        path.write_bytes(b"mine")
    (tmp_path / ".toy-train-0.tar.0123abcd.partial").symlink_to(paths[0])
    storage = Storage(url)
    writing = storage.new_file("toy-train-1.tar")
    writing.__enter__()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    for prefix in ("toy-train-", "manifest.json"):
        storage.sweep(prefix)
    remaining = {path.name for path in tmp_path.iterdir()}
    assert set(foreign) < remaining
    if storage.local is None:
        # a link that has such a name, and what a living process writes
        assert ".toy-train-0.tar.0123abcd.partial" in remaining
        assert sum(name.startswith(".toy-train-1.tar.") for name in remaining) == 1
    surviving = {path for path in left_behind if path.exists()}
    assert surviving == set(tmp_path.glob(".other-0.tar.*"))
    assert not writing.__exit__(KeyError, KeyError(), None)  # nothing is uploaded


def test_a_file_made_just_now_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / ".toy-0.tar.0123abcd.partial"
    path.write_bytes(b"")
    Storage("https://host.invalid/set").sweep("toy-")
    assert path.exists()


SECRET = "verysecret"
SECRET_URLS = [
    f"{{}}/x?sig={SECRET}",
    f"{{}}/x?a=b&sig={SECRET} {SECRET}",
    f"{{}}/x#{SECRET}",
    f"{{}}/x#a?{SECRET} /{SECRET}",
    f"{{}}/x?token=a {SECRET}#{SECRET}",
]
LOGINS = [f"user:{SECRET}", f"user:very/{SECRET}", f"user:{SECRET}@{SECRET}", f"{SECRET}"]
LOGINS += [f"us er:a {SECRET}/{SECRET}", f"user:%20{SECRET}%2F"]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_message_shows_what_stands_behind_an_address(
    server: ObjectServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(url.format(f"{server.url}/set"), stall_s=0.2)
    assert str(storage) == f"{server.url}/set/x"
    for read in (storage.get, storage.size, partial(storage.fetch, spans=SPANS, gap=0)):
        with pytest.raises(ShardError) as caught:
            read("s.tar")
        assert SECRET not in message(caught.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("login", LOGINS)
def test_no_message_shows_a_login(login: str) -> None:
    url = f"http://{login}@127.0.0.1:1/set"
    storage: Storage | None
    assert redact_url(url) == "http://127.0.0.1:1/set"
    try:
        storage = Storage(url, stall_s=0.1)
    except ShardError as error:  # some are no addresses
        error_text = message(error)
        storage = None
    if storage is None:
        assert SECRET not in error_text
        return
    assert str(storage) == "http://127.0.0.1:1/set"
    client_error = OSError(f"GET {url}/s.tar and {storage.url.replace(' ', '%20')}: refused")
    assert SECRET not in message(storage._shard_error("s.tar", client_error))


@pytest.mark.parametrize("url", ["s3://bucket/a@b/set", "/data/a@b?c#d", "gs://bucket/x"])
def test_an_address_without_secrets_is_shown_whole(url: str) -> None:
    assert redact_url(url) == url


def read_after_fork(url: str, name: str, answers: "Queue[str]") -> None:
    signal.alarm(20)  # instead of waiting for ever
    for read in (Storage.get, Storage.size, partial(Storage.fetch, spans=SPANS, gap=0)):
        try:
            read(Storage(url), name)
            answers.put("read")
        except ShardError as error:
            answers.put(message(error))


def test_a_child_forked_after_a_request_is_told_so(server: ObjectServer, tmp_path: Path) -> None:
    storage_list = storages(server, tmp_path)
    for storage in storage_list:
        storage.fetch("s.tar", SPANS, 0)
    local, *_, remote = storage_list
    fork = multiprocessing.get_context("fork")
    for storage, expected in ((local, "read"), (remote, "forked after its parent")):
        answers: Queue[str] = fork.Queue()
        child = fork.Process(target=read_after_fork, args=(storage.url, "s.tar", answers))
        with local.traffic._lock, remote.traffic._lock:  # a thread might hold them just then
            child.start()
        texts = [answers.get(timeout=30) for _ in range(3)]
        child.join()
        assert child.exitcode == 0
        assert all(expected in text for text in texts)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ShardError, match=r"file/deeper/x: .*; check the address") as caught:
        Storage(str(tmp_path / "file" / "deeper")).put("x", b"")
    message(caught.value)
