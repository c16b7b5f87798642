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
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import obstore
import psutil
import pytest
from obstore.store import from_url

from shards import ClipLoader, ClipStyle, ShardError, ShardSet
from shards.errors import DamageError
from shards.storage.cache import ShardCache
from shards.storage.storage import Span, Storage
from shards.stream.augment import Augmentation
from shards.stream.sampling import ClipSampling
from tests.shards.fault_proxy import HANG_S, RATES, FaultProxy, Flip, fault_proxy
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
    # version 2 of Amazon's signatures: a few lines, and Ceph still takes them
    signature = hmac.new(b"SK", f"PUT\n\n\n{date}\n/{name}".encode(), "sha1").digest()
    headers = {"Date": date, "Authorization": f"AWS AK:{base64.b64encode(signature).decode()}"}
    request = Request(f"{endpoint}/{name}", headers=headers, method="PUT")
    with urlopen(request, timeout=30) as response:
        assert response.status == 200


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


@dataclass(frozen=True)
class HostedSet:
    """A set on a server.

    Attributes:
        endpoint: URL of the server.
        path: Bucket and folder.
        delete: Removes a file of the set.
    """

    endpoint: str
    path: str
    delete: Callable[[str], object]

    @property
    def upstream(self) -> tuple[str, int]:
        """Host and port of the server."""
        parts = urlsplit(self.endpoint)
        return str(parts.hostname), int(parts.port or 0)


@contextmanager
def own_server(folder: Path) -> Iterator[HostedSet]:
    """The set of a folder on our own server."""
    with object_server() as server:
        server.objects |= {f"/b/toy/{name}": data for name, data in files_of(folder).items()}
        yield HostedSet(server.url, "b/toy", lambda name: server.objects.pop(f"/b/toy/{name}"))


@contextmanager
def ceph_server(folder: Path, endpoint: str, bucket: str) -> Iterator[HostedSet]:
    """The set of a folder in a bucket of the real server."""
    storage = Storage(f"s3://{bucket}/toy")
    for name, data in files_of(folder).items():
        storage.put(name, data)

    # connected now, while the environment points to the server: the proxy deletes nothing
    store = from_url(f"s3://{bucket}/toy", client_options={"allow_http": True})
    yield HostedSet(endpoint, f"{bucket}/toy", lambda name: obstore.delete(store, name))


def settings() -> dict[str, Any]:
    return {
        "num_frames": 3,
        "batch_size": 4,
        "seed": 2,
        "style": ClipStyle(
            sampling=ClipSampling.youtube_vos(),
            augmentation=Augmentation.synthetic(),
        ),
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
        server = own_server(tmp_path)
    else:
        bucket = request.getfixturevalue("ceph_bucket")
        server = ceph_server(tmp_path, request.getfixturevalue("s3_server"), bucket)
    with server as hosted, fault_proxy(hosted.upstream, REQUESTS) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run_with_faults(proxy, f"s3://{hosted.path}", str(tmp_path), hosted.delete, caplog)


def run_with_faults(
    proxy: FaultProxy,
    url: str,
    folder: str,
    delete: Callable[[str], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    healthy = ClipLoader([folder], **settings())
    loader = ClipLoader([ShardSet.open(url, gap=1600)], **settings())
    lost = loader.sets[0].manifest.shards[1]
    delete(lost.name)
    proxy.spoil = True
    longest_wait_s = 0.0
    num_replaced = 0
    num_clips = 0
    memory_bytes = []
    lost_videos = {row.key for row in loader.sets[0].videos if row.shard == 1}
    with caplog.at_level(logging.WARNING, "shards"):
        while proxy.schedule:
            begin = time.perf_counter()
            healthy_batches, batches = [], []
            for healthy_batch, batch in zip(healthy, loader, strict=True):
                longest_wait_s = max(longest_wait_s, time.perf_counter() - begin)
                healthy_batches.append(healthy_batch)
                batches.append(batch)
                begin = time.perf_counter()
            expected, clips = clips_of(healthy_batches), clips_of(batches)
            assert expected.keys() == clips.keys()
            replaced = {position for position in clips if clips[position] != expected[position]}
            assert {expected[position][0] for position in replaced} <= lost_videos
            assert not {clip[0] for clip in clips.values()} & lost_videos
            num_replaced += len(replaced)
            num_clips += len(clips)
            memory_bytes.append(psutil.Process().memory_info().rss)
    stats = loader.stats()
    healthy.close()
    loader.close()
    assert 0 < num_replaced < num_clips / 2
    assert longest_wait_s < HANG_S / 2
    assert all(proxy.counts[fault] for fault in RATES)
    assert stats["quarantined"] == 1
    assert stats["replaced"] >= num_replaced
    assert lost.name in loader.report()
    assert stats["retries"] >= proxy.counts["503"]
    assert stats["hedges"] >= 1
    assert_flips_are_named(proxy.flips, loader, caplog.messages)
    assert memory_bytes[-1] - memory_bytes[len(memory_bytes) // 2] < 40e6


@dataclass(frozen=True)
class Member:
    """Where a member lies in a shard, in bytes."""

    name: str
    start: int
    size: int

    def holds(self, flip: Flip) -> bool:
        """Whether a flipped bit lies in the member."""
        return self.name == flip.name and self.start <= flip.offset < self.start + self.size


def assert_flips_are_named(flips: list[Flip], loader: ClipLoader, messages: list[str]) -> None:
    """Every flipped bit of a member is in the log; those between members harm nobody.

    The gap holds headers and padding but no frame, so that every member in a range is wanted.
    """
    logged = []
    for message in messages:
        match = re.search(r"/([^/]+\.tar): the (\d+) bytes at (\d+) have", message)
        if match is not None:
            logged.append(Member(name=match[1], start=int(match[3]), size=int(match[2])))
    shard_set = loader.sets[0]
    members = []
    for row in shard_set.videos:
        name = shard_set.manifest.shards[row.shard].name
        for span in shard_set.spans(row, range(len(row.frame_names))).spans:
            members.append(Member(name, span.offset, span.size))
    for flip in flips:
        for member in members:
            if member.holds(flip) and member not in logged:
                raise AssertionError(f"nobody was told of the flipped bit in {member}")
    assert loader.stats()["refetched"] == len(logged) <= len(flips)


def test_a_hanging_request_is_raced(account: None, tmp_path: Path) -> None:
    build_toy(tmp_path)
    with own_server(tmp_path) as hosted, fault_proxy(hosted.upstream, 1) as proxy:
        shard_set = ShardSet.open(f"{proxy.url}/{hosted.path}")
        proxy.schedule = ["hang"]
        proxy.spoil = True
        begin = time.perf_counter()
        shard_set.read(0, [0])
        assert 1.5 < time.perf_counter() - begin < HANG_S / 2
        assert shard_set.storage.traffic.hedges == 1
        assert shard_set.storage.traffic.retries == 0
