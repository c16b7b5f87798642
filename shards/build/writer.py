"""Writing a shard set: plan everything, write reproducible tars with their indexes, commit.

Nothing is written before the plan is made. A shard depends on the plan alone, never on the worker
that writes it or on what was written before, so a killed build can be run again: finished shards
are checked and kept.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from shards.build.plan import OnError, Plan, Read, Runner, ShardTask, digest_json, spread
from shards.build.processes import in_processes
from shards.errors import ShardError
from shards.format.checks import checked_name, checked_object, load_json
from shards.format.index import IndexWriter, read_index
from shards.format.manifest import MANIFEST, Manifest, ShardRecord, Skipped, decode_record
from shards.format.schema import Json, Video, dump_json, encode_video, prepare_video
from shards.format.tar import ShardTar
from shards.storage.storage import Storage

# An upload is many seconds without a received byte, so it is given far more time than a read.
_UPLOAD_STALL_S = 120.0
_MAX_ATTEMPTS = 3  # to write a shard to remote storage
_INDEX_METADATA = "shards"  # key of our JSON in the index

Progress = Callable[[Plan], object]


class VideoError(ShardError):
    """A video cannot be read or breaks the format: trying again does not help."""


def _no_progress(plan: Plan) -> None:
    pass


def build_set(  # noqa: PLR0913  (all that makes one set differ from another)
    plans: Sequence[Plan],
    read: Read,
    out: str,
    *,
    dataset: str,
    split: str,
    settings: Mapping[str, Json],
    is_partial: bool = False,
    shard_bytes: int = 256_000_000,
    seed: int = 0,
    workers: int = 1,
    on_error: OnError = "stop",
    progress: Progress = _no_progress,
    runner: Runner | None = None,
) -> Manifest:
    """Write a shard set and commit it; run again after a kill, it goes on.

    Args:
        plans: The videos, in any order.
        read: Reads a video by its key; must be picklable if there are several workers.
        out: Folder or URL, best empty.
        dataset: Such as "ref-davis17"; part of the file names.
        split: Such as "train"; part of the file names.
        settings: All else that decides the content; kept in the manifest.
        is_partial: Whether there are more or fewer videos or expressions than published; kept in
            the manifest's settings as "partial", and no part of the plan.
        shard_bytes: Size of a shard to aim at.
        seed: Decides how videos are spread over shards.
        workers: Processes, at most one a shard; the bytes are the same for every number.
        on_error: "stop", or "skip" and list a video whose reading raises ValueError or OSError.
        progress: Is called with each plan when it is done, by several workers or a runner when the
            whole shard is.
        runner: Runs the tasks elsewhere than in local processes, such as on a cluster.

    Raises:
        ShardError: If a video cannot be read, `out` holds another set or another build is writing
            there, a worker dies, or data set or split cannot be part of a file's name.
    """
    try:
        checked_name(dataset, "dataset")
        checked_name(split, "split")
    except ValueError as error:
        raise ShardError(f"{error}; mend the reader") from None
    storage = Storage(out, stall_s=_UPLOAD_STALL_S)
    content: dict[str, Json] = {
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "settings": dict(settings),
    }
    prefix = f"{dataset}-{split}-"
    groups = spread(plans, shard_bytes, seed)
    tasks = [
        ShardTask(
            out=out,
            name=f"{prefix}{number:06d}-of-{len(groups):06d}.tar",
            plans=group,
            read=read,
            content=content,
            on_error=on_error,
        )
        for number, group in enumerate(groups)
    ]
    plan_digest = digest_json([task.digest for task in tasks])
    if runner is None and min(workers, len(tasks)) > 1:
        runner = partial(in_processes, workers=workers)
    manifest_settings = dict(settings)
    if is_partial:
        # only now: the plan, and with it every byte of shards and indexes, does not depend on it
        manifest_settings["partial"] = True
    old = _old_manifest(storage, plan_digest)
    with contextlib.ExitStack() as stack:
        # A finished set keeps others out by its manifest, so a remote one that is built again
        # needs no object put there and removed.
        if old is None or storage.local is not None:
            stack.enter_context(storage.claim(plan_digest))
            old = _old_manifest(storage, plan_digest)  # a build may have ended in between
        for name in (prefix, MANIFEST):
            storage.sweep(name)  # of what a killed run left half written
        records = sorted(_build_shards(tasks, progress, runner), key=lambda record: record.name)
        manifest = Manifest(
            dataset=dataset,
            split=split,
            plan=plan_digest,
            seed=seed,
            shard_bytes=shard_bytes,
            settings=manifest_settings,
            shards=tuple(records),
        )
        if old is None or not _same_content(manifest, old):
            storage.put(MANIFEST, manifest.encode())
    return Manifest.load(storage)


def _old_manifest(storage: Storage, plan_digest: str) -> Manifest | None:
    """The manifest of an earlier run of the same build; another set is never overwritten."""
    if not storage.exists(MANIFEST):
        return None
    old = Manifest.load(storage)
    if old.plan != plan_digest:
        raise ShardError(
            f"{storage} already holds {old.dataset} {old.split}, built from other input or other "
            f"settings; write elsewhere, or remove that set first"
        )
    return old


def _same_content(new: Manifest, old: Manifest) -> bool:
    """Whether a manifest need not be written again: newer libraries alone are no reason."""
    return replace(new, versions=old.versions, hash=old.hash) == old


def _build_shards(
    tasks: Sequence[ShardTask], progress: Progress, runner: Runner | None
) -> Iterator[ShardRecord]:
    """Build the shards, here or by the runner; their records in any order."""
    if runner is None:
        for task in tasks:
            yield build_shard(task, progress)
        return
    # `progress` stays in this process: it is told of a shard's videos once the shard is done
    plans_of = {task.name: task.plans for task in tasks}
    for record in runner(build_shard, tasks):
        for plan in plans_of[record.name]:
            progress(plan)
        yield record


def build_shard(task: ShardTask, progress: Progress = _no_progress) -> ShardRecord:
    """Write one shard and its index, or keep those that an earlier run finished.

    Args:
        task: The shard.
        progress: Is called with each plan when it is done; once more if a remote shard is written
            again.

    Raises:
        ShardError: If a video cannot be read or breaks the format, or the output cannot be written.
    """
    storage = Storage(task.out, stall_s=_UPLOAD_STALL_S)
    finished = _finished_record(storage, task)
    if finished is not None:
        for plan in task.plans:
            progress(plan)
        return finished
    for attempt in range(1, _MAX_ATTEMPTS):
        try:
            return _write_shard(storage, task, progress)
        except VideoError:
            raise
        except ShardError:
            if storage.local is not None:
                raise
        # remote storage has bad moments that outlast the retries of a single request
        time.sleep(2**attempt)
    return _write_shard(storage, task, progress)


def _write_shard(storage: Storage, task: ShardTask, progress: Progress) -> ShardRecord:
    """Write the tar, then its index: an index says that its tar is finished."""
    index = IndexWriter()
    skipped = []
    try:
        with storage.new_file(task.name) as file, ShardTar(file) as tar:
            for plan in task.plans:
                try:
                    video, members = _read_video(task.read, plan.key)
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
        name=task.name,
        bytes=tar.output.bytes,
        sha256=tar.output.sha256,
        index=_index_name(task.name),
        index_bytes=0,  # an index cannot hold its own size and hash
        index_sha256="",
        counts=replace(index.counts, bytes=tar.output.bytes),
        skipped=tuple(skipped),
    )
    # a later run of the same build compares the shard with this
    metadata = dump_json({"plan": task.digest, "record": asdict(record)})
    index_data = index.encode({_INDEX_METADATA: metadata.decode()})
    storage.put(record.index, index_data)
    return _with_index(record, index_data)


def _read_video(read: Read, key: str) -> tuple[Video, list[tuple[str, bytes]]]:
    """Read a video with its frames in memory, and encode its members.

    Raises:
        VideoError: If the video cannot be read or breaks the format.
    """
    try:
        video = prepare_video(read(key))
        if video.key != key:
            raise ShardError(f"the reader gave video {video.key!r} instead; mend the reader")
        return video, list(encode_video(video))
    except (OSError, ValueError) as error:
        error_text = str(error)
        if repr(key) not in error_text:  # many errors of readers and checks name it already
            error_text = f"video {key!r}: {error_text}"
        raise VideoError(error_text) from error


def _finished_record(storage: Storage, task: ShardTask) -> ShardRecord | None:
    """The record of a shard that an earlier run of the same plan finished, if it is still whole.

    A remote tar is only asked for its size: it was checked when it was uploaded.
    """
    if not (storage.exists(_index_name(task.name)) and storage.exists(task.name)):
        return None
    index_data = storage.get(_index_name(task.name))
    try:
        content = read_index(index_data).schema.metadata[_INDEX_METADATA.encode()]
        metadata = checked_object(load_json(content), "the metadata")
        if metadata["plan"] != task.digest:
            return None
        record = decode_record(metadata["record"])
    except (KeyError, TypeError, ValueError):  # a damaged index, or one of somebody else
        return None
    if record.name != task.name or record.index != _index_name(task.name):
        return None
    if storage.size(task.name) != record.bytes:
        return None
    if storage.local is not None and sha256_of(storage, task.name) != record.sha256:
        return None
    return _with_index(record, index_data)


def _index_name(tar: str) -> str:
    return tar.removesuffix(".tar") + ".parquet"


def _with_index(record: ShardRecord, index_data: bytes) -> ShardRecord:
    sha256 = hashlib.sha256(index_data).hexdigest()
    return replace(record, index_bytes=len(index_data), index_sha256=sha256)


def sha256_of(storage: Storage, name: str) -> str:
    """SHA-256 of a file, read from start to end, in hexadecimal."""
    with storage.stream(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
