"""`Storage`: a folder of shards wherever it lives: on a disk, in `s3://`, `gs://`, `az://`, `https://`.

obstore speaks to object stores, fsspec to every other scheme. Credentials come from the usual
environment variables and profiles only, and no message shows them.
"""

import contextlib
import fcntl
import io
import logging
import os
import re
import stat
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple
from urllib.parse import quote, quote_plus, unquote

import google_crc32c
import numpy as np

from shards.errors import BackendError, DamageError, ShardError
from shards.storage.backends import connect, local_folder
from shards.storage.cache import CachedShard, ShardCache

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import Bytes

_STALL_S = 8.0
_STREAM_BLOCK_BYTES = 8 << 20
_WRITE_BUFFER_BYTES = 1 << 20
_SWEEP_AFTER_S = 60.0
_MAX_REFETCHES = 2  # of a member whose checksum is wrong
_MAX_REASON_CHARACTERS = 300
_MIN_SECRET_CHARACTERS = 4  # removing what is shorter would tear words apart
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie in a shard, and their CRC-32C."""

    offset: int
    size: int
    crc32c: int


@dataclass
class Traffic:
    """What a storage has fetched so far.

    Attributes:
        requests: Ranges and whole files asked for.
        bytes: Received.
        refetched: Members fetched again because their checksum was wrong.
        retries: Requests made anew because the last one failed.
        hedges: Second requests made because the first one was slow.
        cached: Ranges that the cache had.
    """

    requests: int = 0
    bytes: int = 0
    refetched: int = 0
    retries: int = 0
    hedges: int = 0
    cached: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(
        self,
        *,
        requests: int = 0,
        num_bytes: int = 0,
        refetched: int = 0,
        retries: int = 0,
        hedges: int = 0,
        cached: int = 0,
    ) -> None:
        """Add to the counts; safe between threads."""
        with self._lock:
            self.requests += requests
            self.bytes += num_bytes
            self.refetched += refetched
            self.retries += retries
            self.hedges += hedges
            self.cached += cached

    def renew_after_fork(self) -> None:
        """Take a new lock in a child: at the fork, a thread of the parent may have held the old."""
        self._lock = threading.Lock()


class Ranges(NamedTuple):
    """Ranges of a file that cover some spans.

    Attributes:
        starts: Ascending, in bytes.
        ends: Before which each range ends, in bytes.
        range_of_span: For each span the number of the range that holds it.
    """

    starts: list[int]
    ends: list[int]
    range_of_span: list[int]


class Storage:
    """A folder of shards, local or remote; pickled by address.

    Args:
        url: Path or URL of the folder.
        stall_s: Seconds without a byte after which a request is given up and made anew; a quarter
            of it brings a second request that races the first.

    Attributes:
        url: Path or URL of the folder.
        local: The folder's path; None for a remote one.
        traffic: What was fetched so far.
    """

    def __init__(self, url: str, *, stall_s: float = _STALL_S) -> None:
        self.url = str(url).rstrip("/") or "/"
        self.local = local_folder(self.url)
        self.traffic = Traffic()
        self._stall_s = stall_s
        self._cache: ShardCache | None = None
        self._cached_shards: Mapping[str, CachedShard] = {}
        try:
            self._backend = connect(self.url, stall_s, self.traffic.add)
        except Exception as error:  # noqa: BLE001  (each client has errors of its own)
            raise self._shard_error("", error) from None
        _storages.add(self)

    def __reduce__(self) -> tuple[Callable[[str], "Storage"], tuple[str]]:
        """Pickle by address: a connection never crosses into another process."""
        return partial(Storage, stall_s=self._stall_s), (self.url,)

    def __str__(self) -> str:
        """Give the address without what might be secret in it."""
        return self.url if self.local else redact_url(self.url)

    def use_cache(self, cache: ShardCache, shards: Mapping[str, CachedShard]) -> None:
        """Keep whole shards near; a local folder needs no cache.

        Args:
            cache: Gets the shards.
            shards: By file name.
        """
        if self.local is None:
            self._cache = cache
            self._cached_shards = shards

    def get(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            ShardError: If it is missing or cannot be read.
        """
        with self._as_shard_error(name):
            data = self._backend.get(name)
        self.traffic.add(requests=1, num_bytes=len(data))
        return data

    def size(self, name: str) -> int:
        """Ask for a file's bytes.

        Raises:
            ShardError: If it is missing or the storage does not answer.
        """
        with self._as_shard_error(name):
            return self._backend.size(name)

    def exists(self, name: str) -> bool:
        """Ask whether there is a file.

        Raises:
            ShardError: If the storage does not answer.
        """
        with self._as_shard_error(name):
            try:
                self._backend.size(name)
            except FileNotFoundError:
                return False
        return True

    def fetch(self, name: str, spans: Sequence[Span], gap: int) -> list[bytes]:
        """Read members of a shard, each checked; one that is wrong is fetched twice more.

        Args:
            name: File name of the shard.
            spans: Of the members, in any order.
            gap: Members so many bytes apart, or fewer, come in one request.

        Raises:
            DamageError: If the shard is missing, or a member is cut short or wrong each time; its
                part is the index of the span.
            ShardError: If the storage does not answer.
        """
        members = self._read_spans(name, spans, gap)
        for index, span in enumerate(spans):
            members[index] = self._checked(name, index, span, members[index])
        return members

    def _checked(self, name: str, index: int, span: Span, member: bytes) -> bytes:
        """A member that has its checksum, after more attempts if needed."""
        refetches = 0
        problem = _damage(member, span)
        while problem is not None:
            error_text = f"{self}/{name}: the {span.size} bytes at {span.offset} {problem}"
            if refetches == _MAX_REFETCHES:
                raise DamageError(f"{error_text}; copy the shard again or build it again", index)
            refetches += 1
            _log.warning("%s; fetching them again", error_text)
            self.traffic.add(refetched=1)
            # a damaged entry of the cache would give the same bytes again
            self._drop_from_cache(name)
            (member,) = self._read_spans(name, [span], 0)
            problem = _damage(member, span)
        return member

    def _read_spans(self, name: str, spans: Sequence[Span], gap: int) -> list[bytes]:
        """Members, unchecked; shorter than asked for where the file ends."""
        ranges = coalesce(spans, gap)
        chunks = self._read_cached(name, ranges)
        if chunks is None:
            with self._as_shard_error(name):
                chunks = self._backend.ranges(name, ranges.starts, ranges.ends)
            self.traffic.add(
                requests=len(chunks),
                num_bytes=sum(len(chunk) for chunk in chunks),
            )
        views = [memoryview(chunk) for chunk in chunks]  # slices of them are no copies
        members = []
        for span, number in zip(spans, ranges.range_of_span, strict=True):
            start = span.offset - ranges.starts[number]
            members.append(bytes(views[number][start : start + span.size]))
        return members

    def _read_cached(self, name: str, ranges: Ranges) -> "Sequence[bytes | Bytes] | None":
        """Ranges of a shard that the cache holds; if it does not, it may from now on."""
        if self._cache is None or name not in self._cached_shards:
            return None
        shard = self._cached_shards[name]
        chunks = self._cache.read(shard.sha256, ranges.starts, ranges.ends)
        if chunks is None:
            self._cache.request(shard, partial(self._read_blocks, name, shard.num_bytes))
        else:
            self.traffic.add(cached=len(chunks))
        return chunks

    def _drop_from_cache(self, name: str) -> None:
        if self._cache is not None and name in self._cached_shards:
            self._cache.drop(self._cached_shards[name].sha256)

    def _read_blocks(self, name: str, num_bytes: int) -> Iterator[bytes]:
        """A file from start to end, past the cache."""
        for start in range(0, num_bytes, _STREAM_BLOCK_BYTES):
            end = min(start + _STREAM_BLOCK_BYTES, num_bytes)
            with self._as_shard_error(name):
                (block,) = self._backend.ranges(name, [start], [end])
            self.traffic.add(requests=1, num_bytes=len(block))
            yield bytes(block)

    def stream(self, name: str) -> io.BufferedReader:
        """Open a file to be read from start to end.

        A remote one comes in blocks, each with its own retries.

        Raises:
            ShardError: If the file is missing; for a remote one also while reading.
        """
        if self.local is not None:
            with self._as_shard_error(name):
                return (self.local / name).open("rb")
        blocks = self._read_blocks(name, self.size(name))
        return io.BufferedReader(_BlockReader(blocks), _STREAM_BLOCK_BYTES)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to write; it appears whole when the block ends well, or not at all.

        Raises:
            ShardError: If it cannot be made or does not reach its storage.
        """
        folder = self.local or Path(tempfile.gettempdir())
        # the name is unique, for another process may write the same file
        path = folder / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        with self._as_shard_error(name):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("xb", buffering=_WRITE_BUFFER_BYTES)
        try:
            # held until an upload has ended, long after the file was closed: `sweep` removes what
            # nobody holds
            with path.open("rb") as held_file:
                _try_to_hold(held_file.fileno())
                with file:
                    yield file
                with self._as_shard_error(name):
                    self._backend.commit(path, name)
        finally:
            path.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, atomically.

        Raises:
            ShardError: If it cannot be written.
        """
        with self.new_file(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def claim(self, plan: str) -> Iterator[None]:
        """Keep other builds out of the folder while the block runs, as far as its storage can.

        Args:
            plan: Equal for builds that would write the same bytes.

        Raises:
            ShardError: If another build is writing there.
        """
        with contextlib.ExitStack() as stack:
            with self._as_shard_error(""):
                stack.enter_context(self._backend.claim(plan))
            yield

    def sweep(self, prefix: str) -> None:
        """Remove what killed processes left of `new_file`.

        A local folder must be claimed. In the folder for temporary files, where a remote folder has
        its unfinished ones, those that living processes write stay.

        Args:
            prefix: Of the names of the files.
        """
        folder = self.local or Path(tempfile.gettempdir())
        unfinished = re.compile(rf"\.{re.escape(prefix)}.*\.[0-9a-f]{{8}}\.partial")
        with contextlib.suppress(FileNotFoundError):  # the folder is made when it is written to
            for path in folder.iterdir():
                if not unfinished.fullmatch(path.name):
                    continue
                if self.local is None:
                    _remove_unless_held(path)
                else:
                    # a killed worker may not be quite dead, and holds it still
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _as_shard_error(self, name: str) -> Iterator[None]:
        """Re-raise a backend's error as a ShardError that names the file."""
        try:
            yield
        except ShardError:
            raise
        except Exception as error:
            # fsspec's file systems raise whatever their clients do, so a remote one has no list
            # of errors; on a disk, an error that is none of the system's is a mistake of ours
            is_expected = isinstance(error, OSError | BackendError) or self.local is None
            if is_expected:
                raise self._shard_error(name, error) from None
            raise

    def _shard_error(self, name: str, error: Exception) -> ShardError:
        address = f"{self}/{name}" if name else str(self)
        if isinstance(error, BackendError):
            return ShardError(f"{address}: {error}")
        if isinstance(error, FileNotFoundError):
            return DamageError(f"{address}: no such file; check the address, or build it again")
        error_text = str(error)
        first_line = error_text.strip().splitlines()[0] if error_text else type(error).__name__
        reason = _redact(first_line, self.url)[:_MAX_REASON_CHARACTERS]
        return ShardError(f"{address}: {reason}; check the address, your access and free space")


_storages: "weakref.WeakSet[Storage]" = weakref.WeakSet()  # of this process


def _renew_storages() -> None:
    for storage in list(_storages):
        storage.traffic.renew_after_fork()


os.register_at_fork(after_in_child=_renew_storages)


def _try_to_hold(descriptor: int) -> bool:
    """Lock a file until its process closes it or ends; False if another one has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _remove_unless_held(path: Path) -> None:
    """Remove a file of this user that no process holds and nobody wrote to for a while."""
    try:
        # a link in a folder for temporary files may be somebody's trap
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone, or another user's
        return
    try:
        status = os.fstat(descriptor)
        is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        # one that was made just now may not be held yet
        is_old = status.st_mtime < time.time() - _SWEEP_AFTER_S
        if is_ours and is_old and _try_to_hold(descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _damage(member: bytes, span: Span) -> str | None:
    """What is wrong with a member, for a message."""
    # the length is looked at first: the checksum of nothing is 0, which a span may have, too
    if len(member) < span.size:
        return "are cut short"
    if google_crc32c.value(member) != span.crc32c:
        return "have a wrong checksum"
    return None


def coalesce(spans: Sequence[Span], gap: int) -> Ranges:
    """Join spans into ranges.

    Args:
        spans: In any order, repeats allowed.
        gap: Largest number of bytes that nobody asked for between two spans of one range.
    """
    if not spans:
        return Ranges([], [], [])
    offsets = np.array([span.offset for span in spans], np.int64)
    sizes = np.array([span.size for span in spans], np.int64)
    order = np.argsort(offsets, kind="stable")
    starts = offsets[order]
    # how far this span or any before it reaches, for spans may overlap
    reach = np.maximum.accumulate(starts + sizes[order])
    # a range opens at a span that lies too far behind all before it, and closes before the next
    opens = np.concatenate([[True], starts[1:] > reach[:-1] + gap])
    closes = np.concatenate([opens[1:], [True]])
    range_of_span = np.empty(len(spans), np.int64)
    range_of_span[order] = np.cumsum(opens) - 1
    return Ranges(starts[opens].tolist(), reach[closes].tolist(), range_of_span.tolist())


class _BlockReader(io.RawIOBase):
    """Blocks to be read as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._unread = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if not self._unread:
            self._unread = memoryview(next(self._blocks, b""))
        target = memoryview(buffer)
        count = min(len(target), len(self._unread))
        target[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        return count


def redact_url(url: str) -> str:
    """Remove user name, password, query and fragment of an address: tokens travel in them."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    address = re.split("[?#]", rest, maxsplit=1)[0]
    login, at, place = address.rpartition("@")
    # a folder's name may hold "@", but what stands behind a ":" may be a password that holds "/"
    if at and (":" in login or "/" not in login):
        address = place
    return f"{scheme}{separator}{address.rstrip('/')}"


def _redact(text: str, url: str) -> str:
    """Remove what might be secret from a client's message.

    Args:
        text: It may quote addresses in any form.
        url: The address that the client has.
    """
    # first what is known of our own address, for blanks in it end any pattern
    for secret in _secrets(url):
        for quoted in {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(quoted, "")
    without_login = re.sub(r"://[^\s\"'<>?#]*:[^\s\"'<>?#]*@", "://", text)
    without_login = re.sub(r"://[^/\s]*@", "://", without_login)
    return re.sub(r"[?#][^\s\"')>]*", "", without_login)


def _secrets(url: str) -> list[str]:
    """Login, query and fragment of an address, whole and in pieces, the longest first."""
    _, separator, rest = url.partition("://")
    if not separator:
        return []
    address, *extras = re.split("[?#]", rest)
    login = address.rpartition("@")[0]
    pieces = [*extras, login]
    for extra in extras:
        for setting in extra.split("&"):
            pieces.append(setting.partition("=")[2])
    if ":" in login:
        pieces.append(login.partition(":")[2])
    readable = [unquote(piece) for piece in pieces]
    long_enough = {piece for piece in (*pieces, *readable) if len(piece) >= _MIN_SECRET_CHARACTERS}
    return sorted(long_enough, key=len, reverse=True)
