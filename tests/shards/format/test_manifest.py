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


def test_another_format_version_is_refused_with_what_to_do() -> None:
    data = MANIFEST.encode().replace(b'"format_version": 1', b'"format_version": 2')
    with pytest.raises(ShardError, match="shard format 2, this program reads 1; build") as caught:
        Manifest.decode(data, "s3://set")
    message(caught.value)
