"""Whole shards on the local disk, shared by processes, never more bytes than allowed.

An entry is named by the SHA-256 of its shard, and appears under that name only when its bytes have
that SHA-256. One process fills at a time, under a file lock that ends with it: what a killed one
left unfinished, the next removes.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shards.errors import ShardError
from shards.storage.backends import Folder

_AGAIN = 60.0  # seconds until a shard that could not be kept is tried again
_IDLE = 3600.0  # seconds: an entry unused for so long may make room
_log = logging.getLogger(__name__)

Blocks = Callable[[], Iterator[bytes]]
Job = tuple[str, int, Blocks]


class ShardCache:
    """A folder of whole shards; filled in the background, safe between threads and processes.

    Entries in use stay: a set larger than the cache keeps what came first and reads the rest by
    ranges, which costs less than whole shards coming and going.

    Args:
        folder: On a local disk; made if it is not there.
        max_bytes: Of all files in it together, at any time.

    Raises:
        ShardError: If the folder cannot be made.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder).expanduser().absolute(), max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ShardError(f"{self.folder}: {error.strerror}; name another cache") from None
        self._asked: dict[str, float] = {}
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._guard, self._closed = threading.Lock(), threading.Event()

    def read(self, digest: str, starts: list[int], ends: list[int]) -> Sequence[bytes] | None:
        """Ranges of a shard, or None if it is not here."""
        try:
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(self.folder / digest)
            return Folder(self.folder).ranges(digest, starts, ends)
        except FileNotFoundError:
            return None

    def drop(self, digest: str) -> None:
        """Remove an entry, if it is here."""
        (self.folder / digest).unlink(missing_ok=True)

    def want(self, digest: str, size: int, blocks: Blocks) -> None:
        """Have a shard fetched in the background, unless there is no room or somebody does it.

        Args:
            digest: SHA-256 of the shard.
            size: In bytes.
            blocks: Yields them.
        """
        with self._guard:
            now = time.monotonic()
            if self._closed.is_set() or now - self._asked.get(digest, -_AGAIN) < _AGAIN:
                return
            self._asked[digest] = now
            self._jobs.put((digest, size, blocks))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shards-cache", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop filling; entries stay."""
        with self._guard:
            self._closed.set()
            self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._fill(*job)
            except (OSError, ShardError) as error:
                _log.warning("%s: a shard was not kept: %s", self.folder, error)

    def _fill(self, digest: str, size: int, blocks: Blocks) -> None:
        """Fetch a shard, check it, let it appear."""
        path, found = self.folder / f"{digest}.partial", hashlib.sha256()
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, or with the process
            if (self.folder / digest).exists() or not self._make_room(size):
                return
            try:
                with path.open("xb") as file:
                    for block in blocks():
                        if self._closed.is_set():
                            return
                        found.update(block)
                        file.write(block)
                if found.hexdigest() != digest:
                    raise ShardError("its SHA-256 is not that of the manifest")
                path.replace(self.folder / digest)
            finally:
                path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Remove what the dead left, then what is idle until the size fits."""
        entries = []
        for path in self.folder.iterdir():
            if path.suffix == ".partial":
                path.unlink()
            elif path.name != ".lock":
                with contextlib.suppress(FileNotFoundError):  # dropped
                    entries.append((path.stat(), path))
        left = self.max_bytes - sum(found.st_size for found, _ in entries)
        for found, path in sorted(entries, key=lambda it: it[0].st_mtime):
            if left >= size or found.st_mtime > time.time() - _IDLE:
                break
            path.unlink(missing_ok=True)
            left += found.st_size
        return left >= size
