"""`manifest.json`: what a shard set holds. It is written last, and its presence is the commit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import cast

from shards.errors import ShardError
from shards.format.checks import (
    check_depth,
    checked_digest,
    checked_int,
    checked_list,
    checked_name,
    checked_object,
    checked_text,
    load_json,
)
from shards.format.schema import FORMAT_VERSION, Json
from shards.storage.storage import Storage

MANIFEST = "manifest.json"
_FORMAT_NAME = "sgmg-shards"


@dataclass(frozen=True)
class Counts:
    """How much a shard or a set holds; `bytes` are those of the tars."""

    videos: int = 0
    frames: int = 0
    annotated_frames: int = 0
    objects: int = 0
    expressions: int = 0
    bytes: int = 0

    def __add__(self, addend: "Counts") -> "Counts":
        """Add field by field."""
        return Counts(
            videos=self.videos + addend.videos,
            frames=self.frames + addend.frames,
            annotated_frames=self.annotated_frames + addend.annotated_frames,
            objects=self.objects + addend.objects,
            expressions=self.expressions + addend.expressions,
            bytes=self.bytes + addend.bytes,
        )


@dataclass(frozen=True)
class Skipped:
    """A video left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """One shard and its index: file names, bytes, SHA-256 in hexadecimal.

    Attributes:
        name: Of the tar.
        bytes: Of the tar.
        sha256: Of the tar.
        index: Name of the Parquet file.
    """

    name: str
    bytes: int
    sha256: str
    index: str
    index_bytes: int
    index_sha256: str
    counts: Counts
    skipped: tuple[Skipped, ...] = ()


# They are recorded to explain a difference, not to refuse a set: `build_set` leaves a finished set
# alone although the versions differ.
def _library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the bytes of shards and indexes."""
    return {name: version(name) for name in ("webdataset", "pyarrow", "pycocotools")}


@dataclass(frozen=True)
class Manifest:
    """What a shard set holds.

    Attributes:
        dataset: Such as "ref-davis17".
        split: Such as "train".
        plan: SHA-256 of everything the shards were planned from: keys, sizes, seed, settings.
        seed: Decides the order of the videos.
        shard_bytes: Size of a shard that the plan aimed at.
        settings: What the builder needs to read the source again.
        shards: In the order of their names.
        versions: Version by name of each library that decides the bytes.
        hash: SHA-256 of the file's bytes; not in the file.
    """

    dataset: str
    split: str
    plan: str
    seed: int
    shard_bytes: int
    settings: Mapping[str, Json]
    shards: tuple[ShardRecord, ...]
    versions: Mapping[str, str] = field(default_factory=_library_versions)
    hash: str = ""

    @property
    def counts(self) -> Counts:
        """Totals over the shards."""
        return sum((shard.counts for shard in self.shards), Counts())

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Videos that were left out of any shard."""
        return tuple(video for shard in self.shards for video in shard.skipped)

    def encode(self) -> bytes:
        """Write the file's bytes: JSON for people and programs, equal for equal content."""
        content = {
            "format": _FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "counts": asdict(self.counts),
            **asdict(self),
        }
        del content["hash"]  # a file cannot hold its own hash
        # indented, for people look into it; the order of the fields is part of the bytes
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def decode(data: bytes, address: str) -> "Manifest":
        """Read the file's bytes.

        Args:
            data: The file.
            address: Of the set, for messages.

        Raises:
            ShardError: If the file is no manifest, or one of another format version.
        """
        try:
            content = checked_object(load_json(data), "the file")
            if content.get("format") != _FORMAT_NAME:
                raise ValueError("a file of another kind")
            format_version = checked_int(content.get("format_version"), "the format's version")
            if format_version == FORMAT_VERSION:
                return _decode(content, hashlib.sha256(data).hexdigest())
        except ValueError as error:
            raise ShardError(
                f"{address}/{MANIFEST} is no manifest of a shard set ({error}); give the folder of "
                f"one"
            ) from None
        raise ShardError(
            f"{address} has shard format {format_version}, this program reads {FORMAT_VERSION}; "
            f"build the shards again, or use the version of this program that wrote them"
        )

    @staticmethod
    def load(storage: Storage) -> "Manifest":
        """Read the manifest of a set.

        Raises:
            ShardError: If there is none, so that the set is half-built, or it cannot be decoded.
        """
        if not storage.exists(MANIFEST):
            raise ShardError(
                f"{storage} has no {MANIFEST}: no shard set, or a half-built one; check the "
                f"address, or run its build again (finished shards are kept)"
            )
        return Manifest.decode(storage.get(MANIFEST), str(storage))


def _decode(content: dict[str, object], file_hash: str) -> Manifest:
    """Read a manifest of our version from its JSON.

    Raises:
        ValueError: If a field is missing, unknown, or holds what none may hold.
    """
    names = {entry.name for entry in fields(Manifest)} - {"hash"}
    checked_object(content, "the file", names | {"format", "format_version", "counts"})
    settings = checked_object(content["settings"], "settings")
    check_depth(settings, "settings")
    versions = checked_object(content["versions"], "versions")
    shards = tuple(decode_record(record) for record in checked_list(content["shards"], "shards"))
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("two shards of one name")
    # the totals are for people: `Manifest.counts` adds up those of the shards
    return Manifest(
        dataset=checked_name(content["dataset"], "dataset"),
        split=checked_name(content["split"], "split"),
        plan=checked_digest(content["plan"], "plan"),
        seed=_checked_seed(content["seed"]),
        shard_bytes=checked_int(content["shard_bytes"], "shard_bytes"),
        settings=cast(dict[str, Json], settings),
        shards=shards,
        versions={name: checked_text(value, "a version") for name, value in versions.items()},
        hash=file_hash,
    )


def _checked_seed(value: object) -> int:
    """A seed may be negative or large: it is only ever written down."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("seed is no whole number")
    return value


def decode_record(content: object) -> ShardRecord:
    """Read a shard's record from its JSON.

    Raises:
        ValueError: If a field is missing, unknown, or holds what none may hold.
    """
    record = checked_object(content, "a shard", [entry.name for entry in fields(ShardRecord)])
    counts = checked_object(record["counts"], "counts", [entry.name for entry in fields(Counts)])
    return ShardRecord(
        name=_checked_file(record["name"], ".tar"),
        bytes=checked_int(record["bytes"], "bytes"),
        sha256=checked_digest(record["sha256"], "sha256"),
        index=_checked_file(record["index"], ".parquet"),
        index_bytes=checked_int(record["index_bytes"], "index_bytes"),
        index_sha256=_checked_index_digest(record["index_sha256"]),
        counts=Counts(**{unit: checked_int(count, unit) for unit, count in counts.items()}),
        skipped=tuple(
            _decode_skipped(video) for video in checked_list(record["skipped"], "skipped")
        ),
    )


def _checked_index_digest(value: object) -> str:
    """Empty in the copy of the record that lies in the index itself."""
    return "" if value == "" else checked_digest(value, "index_sha256")


def _checked_file(value: object, ending: str) -> str:
    name = checked_name(value, "a file's name")
    if not name.endswith(ending):
        raise ValueError(f"the file {name!r} does not end in {ending}")
    return name


def _decode_skipped(content: object) -> Skipped:
    video = checked_object(content, "a skipped video", ["key", "reason"])
    # a key that was refused is listed, too, so it is text only
    return Skipped(
        key=checked_text(video["key"], "a skipped key"),
        reason=checked_text(video["reason"], "a reason"),
    )
