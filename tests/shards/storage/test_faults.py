"""The stream while its storage misbehaves, against a real S3 server where one can be had."""

import base64
import hmac
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import obstore
import psutil
import pytest

from shards import ClipLoader, ShardError, ShardSet
from shards.errors import DamageError
from shards.storage.cache import ShardCache
from shards.storage.storage import Span, Storage
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling
from tests.shards.fault_proxy import RATES, FaultProxy, fault_proxy
from tests.shards.object_server import object_server
from tests.shards.sample_videos import build_toy, files_of, toy_keys, toy_video
from tests.shards.stream.test_loader import clips_of

REQUESTS = int(os.environ.get("SGMG_FAULT_REQUESTS", "150"))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def make_bucket(endpoint: str, name: str) -> None:
    date = formatdate(usegmt=True)
    said = hmac.new(b"SK", f"PUT\n\n\n{date}\n/{name}".encode(), "sha1").digest()
    headers = {"Date": date, "Authorization": f"AWS AK:{base64.b64encode(said).decode()}"}
    with urlopen(Request(f"{endpoint}/{name}", headers=headers, method="PUT"), timeout=30) as it:
        assert it.status == 200


@pytest.fixture
def ceph_bucket(s3_server: str, account: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket of the real server, which the environment points to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    name = f"b{uuid.uuid4().hex[:8]}"
    make_bucket(s3_server, name)
    return name


def test_a_real_server_holds_a_set(
    ceph_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{ceph_bucket}/sets/toy"
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        ShardSet.open(url)
    build_toy(url)
    folder = tmp_path / "local"
    build_toy(folder)
    shard_set = ShardSet.open(url, cache=ShardCache(tmp_path / "cache", 10**7))
    for name, data in files_of(folder).items():
        assert shard_set.storage.get(name) == data
    assert list(shard_set.sequential()) == [toy_video(row.key) for row in shard_set.videos]
    local = ShardSet.open(str(folder))
    for _ in range(2):
        assert shard_set.read(3, [2, 0]) == local.read(3, [2, 0])
    beyond = [Span(shard_set.manifest.shards[0].bytes + 5, 10, 0)]
    with pytest.raises(DamageError, match="cut short"):
        shard_set.storage.fetch(shard_set.manifest.shards[0].name, beyond, 0)
    with pytest.raises(ShardError, match="bucket"):
        build_toy(f"s3://{ceph_bucket}-none/toy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    with pytest.raises(ShardError, match="check the address, your access") as refused:
        ShardSet.open(url)
    assert "verysecret" not in str(refused.value)


@contextmanager
def own_server(folder: Path) -> Iterator[tuple[str, str, Callable[[str], None]]]:
    """The set of a folder on our own server: its endpoint, path, and how to delete a file."""
    with object_server() as server:
        server.objects |= {f"/b/toy/{name}": data for name, data in files_of(folder).items()}
        yield server.url, "b/toy", lambda name: server.objects.pop(f"/b/toy/{name}", None) and None


@contextmanager
def ceph_server(folder: Path, endpoint: str, bucket: str) -> Iterator[tuple[str, str, Any]]:
    """The same in the bucket of the real server."""
    storage = Storage(f"s3://{bucket}/toy")
    for name, data in files_of(folder).items():
        storage.put(name, data)

    def delete(name: str) -> None:
        obstore.delete(storage._backend._store, name)  # type: ignore[attr-defined]

    yield endpoint, f"{bucket}/toy", delete


def settings() -> dict[str, Any]:
    return {
        "num_frames": 3,
        "batch_size": 4,
        "seed": 2,
        "sampling": ClipSampling.youtube_vos(),
        "augmentation": Augmentation.synthetic(),
    }


@pytest.mark.parametrize("origin", ["own", "ceph"])
def test_all_faults_at_once(
    origin: str,
    request: pytest.FixtureRequest,
    account: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build_toy(tmp_path, toy_keys(24))
    if origin == "own":
        place = own_server(tmp_path)
    else:
        bucket = request.getfixturevalue("ceph_bucket")
        place = ceph_server(tmp_path, request.getfixturevalue("s3_server"), bucket)
    with place as (endpoint, path, delete):
        parts = urlsplit(endpoint)
        with fault_proxy((str(parts.hostname), int(parts.port or 0)), REQUESTS) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            run_with_faults(proxy, f"s3://{path}", str(tmp_path), delete, caplog)


def run_with_faults(
    proxy: FaultProxy,
    url: str,
    folder: str,
    delete: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    healthy = ClipLoader([folder], **settings())
    loader = ClipLoader([ShardSet.open(url, gap=1600)], **settings())
    lost = loader.sets[0].manifest.shards[1]
    delete(lost.name)
    proxy.spoil, slowest, memory = True, 0.0, []
    hidden = {row.key for row in loader.sets[0].videos if row.shard == 1}
    with caplog.at_level(logging.WARNING, "shards"):
        replaced = total = 0
        while proxy.schedule:
            begin = time.perf_counter()
            wanted, got = [], []
            for expected, batch in zip(healthy, loader, strict=True):
                slowest = max(slowest, time.perf_counter() - begin)
                wanted.append(expected)
                got.append(batch)
                begin = time.perf_counter()
            theirs, ours = clips_of(wanted), clips_of(got)
            assert theirs.keys() == ours.keys()
            other = {p for p in ours if ours[p] != theirs[p]}
            assert {theirs[p][0] for p in other} <= hidden
            assert not {clip[0] for clip in ours.values()} & hidden
            replaced, total = replaced + len(other), total + len(ours)
            memory.append(psutil.Process().memory_info().rss)
    found = loader.stats()
    healthy.close()
    loader.close()
    assert 0 < replaced < total / 2
    assert slowest < 30  # one that hangs does so for 60
    assert all(proxy.seen[fault] for fault in RATES)
    assert found["quarantined"] == 1
    assert found["replaced"] >= replaced
    assert lost.name in loader.report()
    assert found["retries"] >= proxy.seen["503"]
    assert found["hedges"] >= 1
    assert_flips_are_named(proxy.flips, loader, caplog.messages)
    assert memory[-1] - memory[len(memory) // 2] < 40e6


def assert_flips_are_named(
    flips: list[tuple[str, int]], loader: ClipLoader, messages: list[str]
) -> None:
    """Every flipped bit of a member is in the log; those between members harm nobody.

    The gap holds headers and padding but no frame, so that every member in a range is wanted.
    """
    said = [re.search(r"/([^/]+\.tar): the (\d+) bytes at (\d+) have", it) for it in messages]
    named = [(it[1], int(it[3]), int(it[3]) + int(it[2])) for it in said if it]
    shards, members = loader.sets[0].manifest.shards, []
    for row in loader.sets[0].videos:
        spans, _ = loader.sets[0].spans(row, range(len(row.frame_names)))
        members += [(shards[row.shard].name, s.offset, s.offset + s.size) for s in spans]
    for name, at in flips:
        for member in members:
            if member[0] == name and member[1] <= at < member[2] and member not in named:
                raise AssertionError(f"nobody was told of the flipped bit in {member}")
    assert loader.stats()["refetched"] == len(named) <= len(flips)


def test_a_hanging_request_is_raced(account: None, tmp_path: Path) -> None:
    build_toy(tmp_path)
    with own_server(tmp_path) as (endpoint, path, _):
        parts = urlsplit(endpoint)
        with fault_proxy((str(parts.hostname), int(parts.port or 0)), 1) as proxy:
            shard_set = ShardSet.open(f"{proxy.url}/{path}")
            proxy.schedule, proxy.spoil = ["hang"], True
            begin = time.perf_counter()
            shard_set.read(0, [0])
            assert 1.5 < time.perf_counter() - begin < 30  # it hangs for 60
            assert shard_set.storage.traffic.hedges == 1
            assert shard_set.storage.traffic.retries == 0
