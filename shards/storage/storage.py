"""Where bytes live: the one place that tells a local folder from `s3://`, `gs://`, `az://`, `https://`.

obstore speaks to object stores, fsspec to every other scheme. Credentials come from the usual
environment variables and profiles only, and no message shows them.
"""

import contextlib
import io
import logging
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from shards.errors import DamageError, ShardError
from shards.storage.backends import connect, local_folder
from shards.storage.cache import ShardCache

_STREAM_BLOCK = 8 * 1024 * 1024
_REFETCHES = 2
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

    def add(self, **more: int) -> None:
        """Count more of each; safe between threads."""
        with self._lock:
            for name, count in more.items():
                setattr(self, name, getattr(self, name) + count)


class Storage:
    """A folder of shards, local or remote.

    Args:
        url: Path or URL of the folder.
        stall: Seconds without a byte after which a request is given up and made anew; a quarter of
            it brings a second request that races the first.
    """

    def __init__(self, url: str, *, stall: float = 8.0) -> None:
        self.url = str(url).rstrip("/") or "/"
        self.traffic = Traffic()
        self._stall = stall
        self._cache: ShardCache | None = None
        self._entries: Mapping[str, tuple[str, int]] = {}
        self.local = local_folder(self.url)
        try:
            self._backend = connect(self.url, stall, self.traffic.add)
        except Exception as error:  # noqa: BLE001  (each client has errors of its own)
            raise self._error("", error) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by address: a connection never crosses into another process."""
        return partial(Storage, stall=self._stall), (self.url,)

    def __str__(self) -> str:
        """The address without what might be secret in it."""
        return self.url if self.local else _redact(self.url)

    def use_cache(self, cache: ShardCache, shards: Mapping[str, tuple[str, int]]) -> None:
        """Keep whole shards near; a local folder needs no cache.

        Args:
            cache: Where.
            shards: SHA-256 and bytes of each shard, by its name.
        """
        if self.local is None:
            self._cache, self._entries = cache, shards

    def get(self, name: str) -> bytes:
        """A whole file.

        Raises:
            ShardError: If it is missing or cannot be read.
        """
        with self._errors(name):
            data = self._backend.get(name)
        self.traffic.add(requests=1, bytes=len(data))
        return data

    def size(self, name: str) -> int:
        """A file's bytes; raises ShardError if it is missing."""
        with self._errors(name):
            return self._backend.size(name)

    def exists(self, name: str) -> bool:
        """Whether the file is there; raises ShardError if that cannot be told."""
        with self._errors(name):
            try:
                self._backend.size(name)
            except FileNotFoundError:
                return False
        return True

    def fetch(self, name: str, spans: Sequence[Span], gap: int) -> list[bytes]:
        """Members of a shard, each checked; one that is wrong is fetched twice more.

        Args:
            name: The shard.
            spans: Members wanted, in any order.
            gap: Members so many bytes apart, or fewer, come in one request.

        Raises:
            DamageError: If the shard is missing, or a member is cut short or wrong each time.
            ShardError: If the place does not answer.
        """
        members = self._ranges(name, spans, gap)
        for index, span in enumerate(spans):
            for left in reversed(range(_REFETCHES + 1)):
                short = len(members[index]) < span.size
                if not short and google_crc32c.value(members[index]) == span.crc32c:
                    break
                wrong = "are cut short" if short else "have a wrong checksum"
                what = f"{self}/{name}: the {span.size} bytes at {span.offset} {wrong}"
                if not left:
                    raise DamageError(f"{what}; copy the shard again or build it again", index)
                _log.warning("%s; fetching them again", what)
                self.traffic.add(refetched=1)
                self._forget(name)
                (members[index],) = self._ranges(name, [span], 0)
        return members

    def _ranges(self, name: str, spans: Sequence[Span], gap: int) -> list[bytes]:
        """Members, unchecked; shorter than asked for where the file ends."""
        starts, ends, home = coalesce(spans, gap)
        chunks = self._cached(name, starts, ends)
        if chunks is None:
            with self._errors(name):
                chunks = self._backend.ranges(name, starts, ends)
            self.traffic.add(requests=len(chunks), bytes=sum(map(len, chunks)))
        whole = [(memoryview(chunk), start) for chunk, start in zip(chunks, starts, strict=True)]
        places = ((*whole[at], span) for at, span in zip(home, spans, strict=True))
        return [bytes(view[it.offset - start :][: it.size]) for view, start, it in places]

    def _cached(self, name: str, starts: list[int], ends: list[int]) -> Sequence[Any] | None:
        """Ranges of a shard that the cache holds; if it does not, it may from now on."""
        if self._cache is None or name not in self._entries:
            return None
        digest, size = self._entries[name]
        chunks = self._cache.read(digest, starts, ends)
        if chunks is None:
            self._cache.want(digest, size, partial(self._whole, name, size))
        else:
            self.traffic.add(cached=len(chunks))
        return chunks

    def _forget(self, name: str) -> None:
        if self._cache is not None and name in self._entries:
            self._cache.drop(self._entries[name][0])

    def _whole(self, name: str, size: int) -> Iterator[bytes]:
        """A file in blocks, past the cache."""
        for start in range(0, size, _STREAM_BLOCK):
            with self._errors(name):
                (block,) = self._backend.ranges(name, [start], [min(start + _STREAM_BLOCK, size)])
            self.traffic.add(requests=1, bytes=len(block))
            yield bytes(block)

    def stream(self, name: str) -> BinaryIO:
        """A file to read from start to end; a remote one comes in blocks, each with its retries."""
        if self.local is not None:
            with self._errors(name):
                return (self.local / name).open("rb")
        blocks = self._whole(name, self.size(name))
        return io.BufferedReader(_Blocks(blocks), _STREAM_BLOCK)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """A file to write; it appears whole when the block ends well, or not at all."""
        folder = self.local or Path(tempfile.gettempdir())
        path = folder / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        with self._errors(name):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("xb", buffering=1 << 20)
        try:
            with file:
                yield file
            with self._errors(name):
                self._backend.commit(path, name)
        finally:
            path.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, atomically."""
        with self.new_file(name) as file:
            file.write(data)

    def sweep(self, prefix: str) -> None:
        """Remove what a killed `new_file` left in a local folder."""
        for path in self.local.glob(f".{prefix}*.partial") if self.local else ():
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except ShardError:
            raise
        except Exception as error:
            known = isinstance(error, OSError) or type(error).__module__.startswith("obstore")
            if known or self.local is None:
                raise self._error(name, error) from None
            raise

    def _error(self, name: str, error: Exception) -> ShardError:
        where = f"{self}/{name}" if name else str(self)
        if isinstance(error, FileNotFoundError):
            return DamageError(f"{where}: no such file; check the address, or build it again")
        reason = _redact(str(error).strip().splitlines()[0] if str(error) else type(error).__name__)
        return ShardError(f"{where}: {reason[:300]}; check the address, your access and free space")


def coalesce(spans: Sequence[Span], gap: int) -> tuple[list[int], list[int], list[int]]:
    """Join members into ranges.

    Args:
        spans: Members, in any order, repeats allowed.
        gap: Largest number of unwanted bytes between two members of one range.

    Returns:
        Starts and ends of the ranges, ascending, and for each span the range that holds it.
    """
    if not spans:
        return [], [], []
    first = np.array([span.offset for span in spans], np.int64)
    order = np.argsort(first, kind="stable")
    reach = np.maximum.accumulate((first + [span.size for span in spans])[order])
    opens = np.concatenate([[True], first[order][1:] > reach[:-1] + gap])
    closes = np.concatenate([opens[1:], [True]])
    home = np.empty(len(spans), np.int64)
    home[order] = np.cumsum(opens) - 1
    return first[order][opens].tolist(), reach[closes].tolist(), home.tolist()


class _Blocks(io.RawIOBase):
    """Blocks to be read as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def _redact(text: str) -> str:
    """Without user names, passwords and queries of addresses: tokens travel in them."""
    return re.sub(r"\?[^\s\"')]*", "", re.sub(r"://[^/\s]*@", "://", text))
