"""Whole shards on the local disk, shared by processes, never more bytes than allowed.

An entry is named by the SHA-256 of its shard, and appears under that name only when its bytes have
that SHA-256. A file lock guards every change of the folder, and whoever fills an entry holds a lock
on it: what a killed process left is told by its lock being gone, and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from shards.schema import ShardError

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

    def read(self, digest: str, starts: list[int], ends: list[int]) -> list[bytes] | None:
        """Ranges of a shard, or None if it is not here."""
        try:
            with (self.folder / digest).open("rb", buffering=0) as file:
                with contextlib.suppress(PermissionError):  # another user's
                    os.utime(file.fileno())
                parts = zip(starts, ends, strict=True)
                return [os.pread(file.fileno(), end - start, start) for start, end in parts]
        except FileNotFoundError:
            return None

    def drop(self, digest: str) -> None:
        """Remove an entry, if it is here."""
        with self._locked():
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
        with self._place(digest, size) as file:
            if file is None:
                return
            found = hashlib.sha256()
            for block in blocks():
                if self._closed.is_set():
                    return
                found.update(block)
                file.write(block)
            file.flush()
            if found.hexdigest() != digest:
                raise ShardError("its SHA-256 is not that of the manifest")
            with self._locked():
                Path(file.name).replace(self.folder / digest)

    @contextlib.contextmanager
    def _place(self, digest: str, size: int) -> Iterator[BinaryIO | None]:
        """A new file of the final size, locked; None if there is no room or no need."""
        path = self.folder / f"{digest}.partial"
        with self._locked():
            if (self.folder / digest).exists() or not self._make_room(size) or path.exists():
                yield None
                return
            file = path.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(size)  # counts from now on
        with file:
            try:
                yield file
            finally:
                with self._locked():
                    if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                        path.unlink()

    def _make_room(self, size: int) -> bool:
        """Remove what the dead left, then what is idle until the size fits."""
        entries = []
        for path in self.folder.iterdir():
            if path.suffix == ".partial" and _abandoned(path):
                path.unlink(missing_ok=True)
            elif path.name != ".lock":
                entries.append((path.stat(), path))
        left = self.max_bytes - sum(found.st_size for found, _ in entries)
        for found, path in sorted(entries, key=lambda it: it[0].st_mtime):
            if left >= size or found.st_mtime > time.time() - _IDLE:
                break
            if path.suffix != ".partial":
                path.unlink(missing_ok=True)
                left += found.st_size
        return left >= size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes and threads that change the folder."""
        with (self.folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _abandoned(path: Path) -> bool:
    """Whether the process that filled an entry is gone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
