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


@dataclass(frozen=True)
class Counts:
    """How much a shard or a set holds; `bytes` are those of the tars."""

    videos: int = 0
    frames: int = 0
    annotated_frames: int = 0
    objects: int = 0
    expressions: int = 0
    bytes: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Sum of both."""
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Skipped:
    """A video left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """One shard and its index: names, bytes, SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str
    index: str
    index_bytes: int
    index_sha256: str
    counts: Counts
    skipped: tuple[Skipped, ...] = ()


def _library_versions() -> dict[str, str]:
    """Versions of what decides the bytes of shards and indexes."""
    return {name: version(name) for name in ("webdataset", "pyarrow", "pycocotools")}


@dataclass(frozen=True)
class Manifest:
    """What a shard set holds.

    Attributes:
        dataset: Such as "ref-davis17".
        split: Such as "train".
        plan: SHA-256 of everything the shards were planned from: keys, sizes, seed, settings.
        seed: Of the plan.
        shard_bytes: Aim of the plan.
        settings: What the builder was told about the source.
        shards: In the order of their names.
        versions: Of the libraries that wrote it.
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
        """Videos left out of any shard."""
        return tuple(it for shard in self.shards for it in shard.skipped)

    def encode(self) -> bytes:
        """The file's bytes: JSON for people and programs, equal for equal content."""
        body = {name: value for name, value in asdict(self).items() if name != "hash"}
        head = {"format": "sgmg-shards", "format_version": FORMAT_VERSION}
        content = head | {"counts": asdict(self.counts)} | body
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    @staticmethod
    def decode(data: bytes, where: str) -> "Manifest":
        """Invert `encode`.

        Args:
            data: The file.
            where: Address of the set, for messages.

        Raises:
            ShardError: If the file is none of ours, or of another format version.
        """
        problem = f"{where}/{MANIFEST} is no manifest of a shard set; give the folder of one"
        try:
            content: dict[str, Any] = json.loads(data)
            if content.pop("format") != "sgmg-shards":
                raise ShardError(problem)
            if (found := content.pop("format_version")) != FORMAT_VERSION:
                raise ShardError(
                    f"{where} has shard format {found}, this program reads {FORMAT_VERSION}; build "
                    f"the shards again, or use the version of this program that wrote them"
                )
            del content["counts"]
            shards = tuple(decode_record(it) for it in content.pop("shards"))
            return Manifest(**content, shards=shards, hash=hashlib.sha256(data).hexdigest())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise error if isinstance(error, ShardError) else ShardError(problem) from None

    @staticmethod
    def load(storage: Storage) -> "Manifest":
        """Read the manifest of a set.

        Raises:
            ShardError: If there is none, so the set is half-built, or `decode` refuses it.
        """
        if not storage.exists(MANIFEST):
            raise ShardError(
                f"{storage} has no {MANIFEST}: no shard set, or a half-built one; check the "
                f"address, or run its build again (finished shards are kept)"
            )
        return Manifest.decode(storage.get(MANIFEST), str(storage))


def decode_record(content: dict[str, Any]) -> ShardRecord:
    """A shard's record from its JSON; KeyError or TypeError if it is none."""
    counts = Counts(**content.pop("counts"))
    skipped = tuple(Skipped(**it) for it in content.pop("skipped"))
    return ShardRecord(**content, counts=counts, skipped=skipped)
