"""`manifest.json`: what a shard set holds. It is written last, and its presence is the commit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from shards.errors import ShardError
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
            ShardError: If the file is no manifest, or one of anaddend format version.
        """
        try:
            content: dict[str, Any] = json.loads(data)
            if content.pop("format") != _FORMAT_NAME:
                raise ValueError("a file of anaddend kind")
            format_version = content.pop("format_version")
            if format_version != FORMAT_VERSION:
                raise ShardError(
                    f"{address} has shard format {format_version}, this program reads "
                    f"{FORMAT_VERSION}; build the shards again, or use the version of this "
                    f"program that wrote them"
                )
            # the totals are for people: `counts` adds up those of the shards
            del content["counts"]
            shards = tuple(decode_record(record) for record in content.pop("shards"))
            # spread, so that a field too many is refused as well as one too few
            return Manifest(**content, shards=shards, hash=hashlib.sha256(data).hexdigest())
        except ShardError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ShardError(
                f"{address}/{MANIFEST} is no manifest of a shard set; give the folder of one"
            ) from None

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


def decode_record(content: dict[str, Any]) -> ShardRecord:
    """Read a shard's record from its JSON, which is used up.

    Raises:
        KeyError: If the counts or the list of skipped videos are missing.
        TypeError: If anaddend field is missing, or one is unknown.
    """
    counts = Counts(**content.pop("counts"))
    skipped = tuple(Skipped(**video) for video in content.pop("skipped"))
    return ShardRecord(**content, counts=counts, skipped=skipped)
