import dataclasses
import hashlib
import json

import pytest

from shards.errors import ShardError
from shards.format.manifest import Counts, Manifest, ShardRecord, Skipped
from shards.format.schema import Json
from tests.shards.sample_videos import message

SETTINGS: dict[str, Json] = {"a": [1, None], "b": "é"}


def record(number: int) -> ShardRecord:
    return ShardRecord(
        name=f"toy-train-{number}.tar",
        bytes=10,
        sha256="a" * 64,
        index=f"toy-train-{number}.parquet",
        index_bytes=5,
        index_sha256="b" * 64,
        counts=Counts(videos=2, frames=7, annotated_frames=6, objects=3, expressions=4, bytes=10),
        skipped=(Skipped(f"k{number}", "ünreadable"),),
    )


MANIFEST = Manifest("toy", "train", "c" * 64, 3, 100, SETTINGS, (record(0), record(1)))


def test_round_trip() -> None:
    data = MANIFEST.encode()
    again = Manifest.decode(data, "s3://set")
    assert dataclasses.replace(again, hash="") == MANIFEST
    assert again.hash == hashlib.sha256(data).hexdigest()
    assert again.encode() == data
    assert [video.key for video in again.skipped] == ["k0", "k1"]


def test_totals_are_sums_and_in_the_file() -> None:
    total = Counts(videos=4, frames=14, annotated_frames=12, objects=6, expressions=8, bytes=20)
    assert MANIFEST.counts == total
    assert json.loads(MANIFEST.encode())["counts"] == dataclasses.asdict(total)


def test_no_date_and_no_machine_is_in_the_file() -> None:
    content = json.loads(MANIFEST.encode())
    expected = "format format_version counts dataset split plan seed shard_bytes settings shards"
    assert list(content) == [*expected.split(), "versions"]
    assert sorted(content["versions"]) == ["pyarrow", "pycocotools", "webdataset"]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"3", b"\xff", b"{}", b'{"format": "other"}'),
        MANIFEST.encode().replace(b'"seed"', b'"seeds"'),
        MANIFEST.encode().replace(b'"bytes"', b'"bits"'),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ShardError, match="is no manifest of a shard set") as caught:
        Manifest.decode(data, "s3://set")
    assert message(caught.value).startswith("s3://set/manifest.json")


BAD_FILES = [None, 3, "", "..", "../a.tar", "/etc/a.tar", "a/b.tar", "a\\b.tar", "a\n.tar", "a.zip"]
BAD_DIGESTS = [None, 0, "", "a" * 63, "A" * 64, "../../notes.txt", "a" * 64 + "\n", "g" * 64]
BAD_COUNTS: list[object] = [None, -1, 1.0, "1", True, [], 2**60]
BAD_SHARDS: list[object] = [None, [], "a", {}]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("shards", 0, "name"), value) for value in BAD_FILES),
        *((("shards", 0, "index"), value) for value in BAD_FILES),
        (("shards", 0, "name"), "toy-train-1.tar"),
        *((("shards", 0, "sha256"), value) for value in BAD_DIGESTS),
        *((("shards", 0, "index_sha256"), value) for value in BAD_DIGESTS if value != ""),
        *((("plan",), value) for value in BAD_DIGESTS),
        *((("shards", 0, "bytes"), value) for value in BAD_COUNTS),
        *((("shards", 0, "index_bytes"), value) for value in BAD_COUNTS),
        *((("shards", 0, "counts", "frames"), value) for value in BAD_COUNTS),
        *((("shard_bytes",), value) for value in BAD_COUNTS),
        *((("seed",), value) for value in (None, "1", True, 1.0)),
        *(((name,), value) for name in ("dataset", "split") for value in (None, 1, "", "a/b")),
        *(((name,), value) for name in ("shards", "settings", "versions") for value in (None, "a")),
        *((("shards", 0), value) for value in BAD_SHARDS),
        *((("shards", 0, name), None) for name in ("counts", "skipped")),
        (("shards", 0, "skipped", 0), None),
        (("shards", 0, "skipped", 0, "key"), None),
        (("versions", "pyarrow"), None),
        (("format_version",), None),
        (("settings", "a"), json.loads("[" * 40 + "]" * 40)),
        (("extra",), 1),
        (("shards", 0, "extra"), 1),
    ],
)
def test_a_value_that_none_may_hold_is_refused(path: tuple[str | int, ...], value: object) -> None:
    content = json.loads(MANIFEST.encode())
    parent = content
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    with pytest.raises(ShardError, match="is no manifest of a shard set") as caught:
        Manifest.decode(json.dumps(content).encode(), "s3://set")
    message(caught.value)


def test_json_nested_too_deep_is_refused() -> None:
    for data in (b"[" * 10**6, b'{"a":' * 10**6):
        with pytest.raises(ShardError, match="nested too deep"):
            Manifest.decode(data, "s3://set")


def test_another_format_version_is_refused_with_what_to_do() -> None:
    data = MANIFEST.encode().replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(ShardError, match="shard format 2, this program reads 1; build") as caught:
        Manifest.decode(data, "s3://set")
    message(caught.value)
