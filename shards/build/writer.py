"""Writing a shard set: plan everything, write reproducible tars with their indexes, commit.

Nothing is written before the plan is made. A shard depends on the plan alone, never on the worker
that writes it or on what was written before, so a killed build can be run again: finished shards
are checked and kept.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

from shards.build.processes import in_processes
from shards.errors import ShardError
from shards.format.index import IndexWriter, read_index
from shards.format.manifest import MANIFEST, Manifest, ShardRecord, Skipped, decode_record
from shards.format.schema import FORMAT_VERSION, Json, Video, dump_json, encode_video, prepare_video
from shards.format.tar import ShardTar
from shards.storage.storage import Storage

_UPLOAD_STALL = 120.0
_ATTEMPTS = 3

Read = Callable[[str], Video]


class VideoError(ShardError):
    """A video cannot be read or breaks the format: trying again does not help."""


@dataclass(frozen=True)
class Plan:
    """A video to come: its key, and about how many bytes it will take."""

    key: str
    num_bytes: int


@dataclass(frozen=True)
class ShardTask:
    """Everything one shard depends on; picklable.

    Attributes:
        out: Address of the set.
        name: Of the tar.
        plans: Its videos in their order.
        read: Gives a video by its key.
        content: What else was told of the set.
        on_error: What to do with a video that cannot be read.
    """

    out: str
    name: str
    plans: tuple[Plan, ...]
    read: Read
    content: Mapping[str, Json]
    on_error: Literal["stop", "skip"]

    @property
    def plan(self) -> str:
        """SHA-256 of all that the shard was planned from; kept in the index."""
        planned = [[it.key, it.num_bytes] for it in self.plans]
        return _digest([FORMAT_VERSION, self.content, self.name, planned, self.on_error])


Runner = Callable[[Callable[..., ShardRecord], Sequence[ShardTask]], Iterable[ShardRecord]]
Progress = Callable[[Plan], object]


def build_set(  # noqa: PLR0913  (a set is told by this much)
    plans: Sequence[Plan],
    read: Read,
    out: str,
    *,
    dataset: str,
    split: str,
    settings: Mapping[str, Json],
    shard_bytes: int = 256_000_000,
    seed: int = 0,
    workers: int = 1,
    on_error: Literal["stop", "skip"] = "stop",
    progress: Progress = lambda plan: None,
    runner: Runner | None = None,
) -> Manifest:
    """Write a shard set and commit it; run again after a kill, it goes on.

    Args:
        plans: The videos, in any order.
        read: Gives a video by its key; must be picklable if there are several workers.
        out: Folder or URL, best empty.
        dataset: Such as "ref-davis17"; part of the file names.
        split: Such as "train"; part of the file names.
        settings: What else decides the content; kept in the manifest.
        shard_bytes: Aim for the size of a shard.
        seed: Of the spread of videos over shards.
        workers: Processes, at most one a shard; the bytes are the same for every number.
        on_error: "stop", or "skip" and list a video whose reading raises ValueError or OSError.
        progress: Told each plan when it is done, by several workers or a runner when its shard is.
        runner: Something else than local processes to run the tasks on, such as a cluster.

    Raises:
        ShardError: If a video cannot be read, `out` holds another set, or a worker dies.
    """
    storage = Storage(out, stall=_UPLOAD_STALL)
    content: dict[str, Json] = {"dataset": dataset, "split": split, "seed": seed}
    content["settings"] = dict(settings)
    groups = spread(plans, shard_bytes, seed)
    name, count = f"{dataset}-{split}", f"{len(groups):06d}"
    tasks = [
        ShardTask(out, f"{name}-{number:06d}-of-{count}.tar", group, read, content, on_error)
        for number, group in enumerate(groups)
    ]
    plan = _digest([task.plan for task in tasks])
    old = _old_manifest(storage, plan)
    storage.sweep(f"{name}-")
    if runner is None and min(workers, len(tasks)) > 1:
        runner = partial(in_processes, workers=workers)
    records = _records(tasks, progress, runner)
    shards = tuple(sorted(records, key=lambda record: record.name))
    new = Manifest(dataset, split, plan, seed, shard_bytes, dict(settings), shards)
    if old is None or replace(new, versions=old.versions, hash=old.hash) != old:
        storage.put(MANIFEST, new.encode())
    return Manifest.load(storage)


def _records(
    tasks: Sequence[ShardTask], progress: Progress, runner: Runner | None
) -> Iterator[ShardRecord]:
    """Build the shards, here or by the runner; their records in any order."""
    if runner is None:
        yield from (build_shard(task, progress) for task in tasks)
        return
    planned = {task.name: task.plans for task in tasks}
    for record in runner(build_shard, tasks):
        for plan in planned[record.name]:
            progress(plan)
        yield record


def spread(plans: Sequence[Plan], shard_bytes: int, seed: int) -> list[tuple[Plan, ...]]:
    """Deal videos over shards of about equal bytes.

    The order is that of SHA-256("seed/key"), so it depends neither on the order of `plans` nor on
    any library's random generator.

    Raises:
        ShardError: If there are no videos, or two of one key.
    """
    if len({plan.key for plan in plans}) < len(plans):
        keys = sorted(plan.key for plan in plans)
        twice = next(a for a, b in pairwise(keys) if a == b)
        raise ShardError(f"two videos have the key {twice!r}; keys must be unique, mend the reader")
    if not plans:
        raise ShardError("there are no videos to write; check the root and the split")
    order = sorted(plans, key=lambda it: hashlib.sha256(f"{seed}/{it.key}".encode()).digest())
    total = max(sum(plan.num_bytes for plan in order), 1)
    count = max(1, -(-total // shard_bytes))
    groups: list[list[Plan]] = [[] for _ in range(count)]
    done = 0
    for plan in order:
        groups[min(count - 1, (2 * done + plan.num_bytes) * count // (2 * total))].append(plan)
        done += plan.num_bytes
    return [tuple(group) for group in groups if group]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _old_manifest(storage: Storage, plan: str) -> Manifest | None:
    """The manifest of an earlier run of the same build; another set there is never overwritten."""
    if not storage.exists(MANIFEST):
        return None
    old = Manifest.load(storage)
    if old.plan != plan:
        raise ShardError(
            f"{storage} already holds {old.dataset} {old.split}, built from other input or other "
            f"settings; write elsewhere, or remove that set first"
        )
    return old


def build_shard(task: ShardTask, progress: Progress = lambda plan: None) -> ShardRecord:
    """Write one shard and its index, or keep those that an earlier run finished.

    Args:
        task: The shard.
        progress: Told each plan when it is done; once more if a remote shard is written again.

    Raises:
        ShardError: If a video cannot be read or breaks the format, or the output cannot be written.
    """
    storage = Storage(task.out, stall=_UPLOAD_STALL)
    if kept := _finished(storage, task):
        for plan in task.plans:
            progress(plan)
        return kept
    for attempt in range(1, _ATTEMPTS):
        try:
            return _write_shard(storage, task, progress)
        except VideoError:
            raise
        except ShardError:
            if storage.local is not None:
                raise
        time.sleep(2**attempt)  # remote storage has bad moments
    return _write_shard(storage, task, progress)


def _write_shard(storage: Storage, task: ShardTask, progress: Progress) -> ShardRecord:
    index, skipped = IndexWriter(), []
    try:
        with storage.new_file(task.name) as file, ShardTar(file) as tar:
            for plan in task.plans:
                try:
                    video, members = _read(task.read, plan.key)
                except VideoError as error:
                    if task.on_error == "stop":
                        raise
                    skipped.append(Skipped(plan.key, str(error)))
                else:
                    index.add(video, tar.write(video.key, members))
                progress(plan)
    except OSError as error:
        raise ShardError(
            f"{storage}/{task.name}: cannot be written ({error.strerror or error}); make room and "
            f"run the same command again, finished shards are kept"
        ) from None
    record = ShardRecord(
        name=task.name, bytes=tar.output.bytes, sha256=tar.output.sha256,
        index=_index_name(task.name), index_bytes=0, index_sha256="",
        counts=replace(index.counts, bytes=tar.output.bytes), skipped=tuple(skipped),
    )  # fmt: skip
    told = {"plan": task.plan, "record": asdict(record)}  # so that a later run can check them
    data = index.encode({"shards": dump_json(told).decode()})
    storage.put(record.index, data)
    return _describe(record, data)


def _read(read: Read, key: str) -> tuple[Video, list[tuple[str, bytes]]]:
    """A video with its frames in memory, and its members; what is wrong with it is a VideoError."""
    try:
        video = prepare_video(read(key))
        if video.key != key:
            raise ShardError(f"the reader gave video {video.key!r} instead; mend the reader")
        return video, list(encode_video(video))
    except (OSError, ValueError) as error:
        named = "" if f"{key!r}" in str(error) else f"video {key!r}: "
        raise VideoError(f"{named}{error}") from error


def _index_name(tar: str) -> str:
    return tar.removesuffix(".tar") + ".parquet"


def _describe(record: ShardRecord, index: bytes) -> ShardRecord:
    sha256 = hashlib.sha256(index).hexdigest()
    return replace(record, index_bytes=len(index), index_sha256=sha256)


def _finished(storage: Storage, task: ShardTask) -> ShardRecord | None:
    """The record of a shard that an earlier run of the same plan finished, if it is still whole.

    A remote tar is only asked for its size: it was checked when it was uploaded.
    """
    if not (storage.exists(_index_name(task.name)) and storage.exists(task.name)):
        return None
    data = storage.get(_index_name(task.name))
    try:
        told = json.loads(read_index(data).schema.metadata[b"shards"])
    except (KeyError, TypeError, ValueError):
        return None
    if told["plan"] != task.plan:
        return None
    record = decode_record(told["record"])
    if storage.size(task.name) != record.bytes:
        return None
    if storage.local and sha256_of(storage, task.name) != record.sha256:
        return None
    return _describe(record, data)


def sha256_of(storage: Storage, name: str) -> str:
    """SHA-256 of a file, read from start to end, in hexadecimal."""
    with storage.stream(name) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
