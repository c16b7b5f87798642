"""Whether a set is whole: as its manifest tells, byte for byte, and equal to its source."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Protocol

import google_crc32c

from shards.build.plan import Plan
from shards.build.writer import sha256_of
from shards.commands.arguments import Url
from shards.errors import ShardError
from shards.format.manifest import ShardRecord
from shards.format.rle import mask_area
from shards.format.schema import Json, Video, encode_video, prepare_video
from shards.format.shard_set import ShardSet, VideoRow

READERS_GROUP = "shards.readers"  # entry points: see `Reopen`


class Source(Protocol):
    """What a set was built from, as far as `verify` asks."""

    @property
    def plans(self) -> Sequence[Plan]:
        """The videos there are now."""

    @property
    def read(self) -> Callable[[str], Video]:
        """Reads a video by its key."""


class Reopen(Protocol):
    """Opens a set's source again; other packages register such a function as an entry point."""

    def __call__(self, settings: Mapping[str, Json], root: Path, /) -> Source:
        """Open the source, by the settings in the set's manifest and the folder of its files."""


def verify(url: Url, full: bool = False, root: Path | None = None) -> str:
    """Check a set: manifest, indexes and sizes; with --full every byte, sample and mask.

    Args:
        url: Folder or URL of the set.
        full: Read everything.
        root: Folder with the files the set was built from: read them again and compare.
    """
    # opening compares the sizes and the indexes' checksums already
    shard_set = ShardSet.open(url)
    damage = list(_wrong_counts(shard_set))
    if full:
        damage += _damaged_shards(shard_set)
    if root:
        damage += _differences(shard_set, root)
    if damage:
        raise ShardError("\n".join(damage))
    extent = "every byte checked" if full else "sizes and indexes checked; --full reads every byte"
    if root:
        extent += f"; equal to {root}"
    manifest = shard_set.manifest
    num_videos = manifest.counts.videos
    return (
        f"{shard_set.storage}: whole, {len(manifest.shards)} shards, {num_videos} videos ({extent})"
    )


def _wrong_counts(shard_set: ShardSet) -> Iterator[str]:
    """Name the totals in the manifest that are not those of the indexes."""
    videos = shard_set.videos
    indexed = {
        "videos": len(videos),
        "frames": videos.num_frames.sum(),
        "expressions": videos.num_expressions.sum(),
    }
    totals = asdict(shard_set.manifest.counts)
    for name, count in indexed.items():
        if count != totals[name]:
            yield f"{name}: the manifest tells of {totals[name]}, the indexes of {count}"


def _damaged_shards(shard_set: ShardSet) -> Iterator[str]:
    """Name what is wrong with each shard: at most its checksum and its first bad video."""
    for number, shard in enumerate(shard_set.manifest.shards):
        try:
            if sha256_of(shard_set.storage, shard.name) != shard.sha256:
                yield _wrong_checksum(shard)
            videos = shard_set.sequential([number])
            for frame in chain.from_iterable(video.frames for video in videos):
                for rle in (frame.masks or {}).values():
                    mask_area(rle)  # raises ShardError for a mask that cannot be decoded
        except ShardError as error:
            yield str(error)


def _wrong_checksum(shard: ShardRecord) -> str:
    return f"{shard.name}: its SHA-256 is not the manifest's; copy or build it again"


def _differences(shard_set: ShardSet, root: Path) -> Iterator[str]:
    """Name the videos that are not what the set's source gives now."""
    manifest = shard_set.manifest
    source = _reopen(manifest.settings, root)
    source_keys = {plan.key for plan in source.plans}
    rows = {row.key: row for row in shard_set.videos}
    # a video that could not be read is in the source, and in the manifest's list of skipped ones
    listed = rows.keys() | {skipped.key for skipped in manifest.skipped}
    for key in sorted(listed - source_keys):
        yield f"{key}: in the set, not in {root}"
    for key in sorted(source_keys - listed):
        yield f"{key}: in {root}, not in the set"
    for key in sorted(rows.keys() & source_keys):
        if not _has_members_of(rows[key], source.read(key)):
            yield f"{key}: not what {root} gives"


def _reopen(settings: Mapping[str, Json], root: Path) -> Source:
    readers = list(entry_points(group=READERS_GROUP))
    if not readers:
        raise ShardError("no package with readers is installed; install this project again")
    reopen: Reopen = readers[0].load()
    return reopen(settings, root)


def _has_members_of(row: VideoRow, video: Video) -> bool:
    """Tell whether a video would be written as the members that the index lists."""
    indexed = {suffix: (span.size, span.crc32c) for suffix, span in row.members().items()}
    encoded = {
        suffix: (len(data), google_crc32c.value(data))
        for suffix, data in encode_video(prepare_video(video))
    }
    return indexed == encoded
