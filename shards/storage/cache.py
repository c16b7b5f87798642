"""Whole shards on the local disk, shared by processes, never more bytes than allowed.

An entry is named by the SHA-256 of its shard, and appears under that name only when its bytes have
that SHA-256. One process fills at a time, under a file lock that ends with it: what a killed one
left unfinished, the next removes.

The folder that the user names may hold anything else: entries lie in a sub-folder of our own, which
is known by a marker, and in there only files with names of our own are ever removed.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import queue
import re
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shards.errors import ShardError
from shards.storage.backends import Folder

RETRY_AFTER_S = 60.0  # until a shard that could not be kept is fetched again
EVICT_AFTER_S = 3600.0  # an entry that was not used for so long may make room
_CLOSE_TIMEOUT_S = 10.0
_SUBFOLDER = "sgmg-shard-cache"
_MARKER = ".sgmg-shard-cache"  # an empty file: whoever wrote it made the sub-folder
_PARTIAL = ".partial"
_LOCK = ".lock"
_ENTRY = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class CachedShard(NamedTuple):
    """What the cache has to know of a shard."""

    sha256: str
    num_bytes: int


class _Job(NamedTuple):
    """A shard to be fetched; `read_blocks` begins to read its bytes."""

    shard: CachedShard
    read_blocks: Callable[[], Iterator[bytes]]


class ShardCache:
    """A folder of whole shards; filled in the background, safe between threads and processes.

    Entries in use stay: a set larger than the cache keeps what came first and reads the others by
    ranges, which costs less than whole shards coming and going.

    Args:
        folder: On a local disk; made if it does not exist. The cache has a sub-folder in it.
        max_bytes: Of all entries together, at any time.
        retry_after_s: Seconds until a shard that could not be kept is fetched again.
        evict_after_s: Seconds after which an entry that nobody used may make room.

    Attributes:
        folder: The sub-folder that holds the entries.

    Raises:
        ShardError: If the sub-folder cannot be made, or somebody else made it.
    """

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int,
        *,
        retry_after_s: float = RETRY_AFTER_S,
        evict_after_s: float = EVICT_AFTER_S,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute() / _SUBFOLDER
        self.max_bytes = max_bytes
        try:
            _make_folder(self.folder)
        except OSError as error:
            raise ShardError(f"{self.folder}: {error.strerror}; name another cache") from None
        self._retry_after_s = retry_after_s
        self._evict_after_s = evict_after_s
        self._requested_at: dict[str, float] = {}  # SHA-256 to a time of `time.monotonic`
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()  # of the requests and the thread
        self._closed = threading.Event()
        _caches.add(self)

    def renew_after_fork(self) -> None:
        """Begin anew in a child: a fork copies locks and queues as they are, but no thread."""
        self._requested_at = {}
        self._jobs = queue.Queue()
        self._thread = None
        self._guard = threading.Lock()

    def read(
        self, sha256: str, starts: Sequence[int], ends: Sequence[int]
    ) -> Sequence[bytes] | None:
        """Read ranges of a shard; None if the cache does not hold it.

        Raises:
            ShardError: If the name is no SHA-256.
        """
        entry = self._entry(sha256)
        try:
            # the time of the last use; an entry of another user cannot be touched, but read
            with contextlib.suppress(PermissionError):
                os.utime(entry)
            return Folder(self.folder).ranges(entry.name, starts, ends)
        except (FileNotFoundError, PermissionError):  # another user may keep it to himself
            return None

    def drop(self, sha256: str) -> None:
        """Remove an entry, if there is one.

        Raises:
            ShardError: If the name is no SHA-256.
        """
        # an entry of another user stays, where the folder says so: it is read past
        with contextlib.suppress(PermissionError):
            self._entry(sha256).unlink(missing_ok=True)

    def request(self, shard: CachedShard, read_blocks: Callable[[], Iterator[bytes]]) -> None:
        """Have a shard fetched in the background.

        Nothing happens if it was requested not long ago, or the cache is closed.

        Args:
            shard: To be kept.
            read_blocks: Begins to read the shard's bytes, in blocks of any size.

        Raises:
            ShardError: If the shard's SHA-256 is none.
        """
        self._entry(shard.sha256)
        with self._guard:
            now = time.monotonic()
            requested_at = self._requested_at.get(shard.sha256)
            is_recent = requested_at is not None and now - requested_at < self._retry_after_s
            if is_recent or self._closed.is_set():
                return
            self._requested_at[shard.sha256] = now
            self._jobs.put(_Job(shard, read_blocks))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shards-cache", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait until every shard requested so far is kept or refused."""
        self._jobs.join()

    def close(self) -> None:
        """Stop filling; entries stay."""
        with self._guard:
            if self._thread is not None and not self._closed.is_set():
                self._jobs.put(None)
            self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:  # put by `close`
                    return
                self._fill(job)
            except (OSError, ShardError) as error:
                _log.warning("%s: a shard was not kept: %s", self.folder, error)
            finally:
                self._jobs.task_done()

    def _entry(self, sha256: str) -> Path:
        """Path of an entry; it lies in our folder, for a name that is a path is refused."""
        if not _ENTRY.fullmatch(sha256):
            raise ShardError(
                f"{sha256!r} is no SHA-256 in hexadecimal; copy or build the set again"
            )
        return self.folder / sha256

    def _fill(self, job: _Job) -> None:
        """Fetch a shard, check it, let it appear."""
        entry = self._entry(job.shard.sha256)
        partial = entry.with_name(entry.name + _PARTIAL)
        with (self.folder / _LOCK).open("ab") as lock:
            # One process fills at a time, or all together would exceed the bound. The lock ends
            # with the open file, and so with a process that is killed.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if entry.exists() or not self._make_room(job.shard.num_bytes):
                return
            try:
                if self._write(job, partial):
                    partial.replace(entry)
            finally:
                partial.unlink(missing_ok=True)

    def _write(self, job: _Job, path: Path) -> bool:
        """Write a shard's bytes; False if the cache was closed before the last of them.

        Raises:
            ShardError: If they are not those of the shard.
        """
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for block in job.read_blocks():
                if self._closed.is_set():
                    return False
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != job.shard.sha256:
            raise ShardError("its SHA-256 is not that of the manifest")
        return True

    def _make_room(self, num_bytes: int) -> bool:
        """Remove what killed processes left, then what is idle until the bytes fit."""
        entries = []
        for path in self.folder.iterdir():
            # files of other names are not ours, and neither is a link or a folder
            if not _ENTRY.fullmatch(path.name.removesuffix(_PARTIAL)):
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process dropped it just now
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if path.suffix == _PARTIAL:
                path.unlink()  # whoever wrote it is dead, for the lock is ours
            else:
                entries.append((status, path))
        free_bytes = self.max_bytes - sum(status.st_size for status, _ in entries)
        oldest_use = time.time() - self._evict_after_s
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if free_bytes >= num_bytes or status.st_mtime > oldest_use:
                break
            path.unlink(missing_ok=True)
            free_bytes += status.st_size
        return free_bytes >= num_bytes


_caches: "weakref.WeakSet[ShardCache]" = weakref.WeakSet()  # of this process


def _renew_caches() -> None:
    for shard_cache in list(_caches):
        shard_cache.renew_after_fork()


os.register_at_fork(after_in_child=_renew_caches)


def _make_folder(folder: Path) -> None:
    """Make the cache's own folder and mark it; one that is there must be marked, or empty.

    Raises:
        ShardError: If it holds files and nobody marked it as a cache.
        OSError: If it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The marker is the first file in the folder and is never removed. It is looked for last, for
    # another process may be making the same cache now.
    is_empty = not any(folder.iterdir())
    marker = folder / _MARKER
    if marker.exists():
        return
    if not is_empty:
        raise ShardError(f"{folder} is no cache of shards; name another cache")
    marker.touch()
