"""A tar whose bytes depend on its members alone, and where each member lies in it."""

import contextlib
import hashlib
import math
import tarfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Self

import google_crc32c

from shards.storage.storage import Span

BLOCK_BYTES = 512  # a member has a header of one block and fills up its last one
_PIECE_BYTES = 1 << 20
_MAX_PENDING_PIECES = 16


class ShardTar:
    """A tar whose bytes depend on its members alone, written by `webdataset.TarWriter`.

    Args:
        file: Opened for writing, at its start.

    Attributes:
        output: Counts and hashes the bytes of the tar.
    """

    def __init__(self, file: BinaryIO) -> None:
        from webdataset import TarWriter  # imports torch, which takes seconds

        self.output = HashingFile(file)
        self._writer = TarWriter(
            self.output, user="root", group="root", mode=0o644, mtime=0, encoder=False
        )
        # webdataset 1.0.2 takes `format` but does not hand it to tarfile, and opens a stream
        # (mode "w|") that copies every member through buffers of 10 KiB. A tar of our own in place
        # of that one has plain USTAR headers and writes a member in one piece: twice as fast.
        self._tar = tarfile.TarFile(
            fileobj=self.output,  # type: ignore[arg-type]  # asks for more than writing needs
            mode="w",
            format=tarfile.USTAR_FORMAT,
            copybufsize=_PIECE_BYTES,
        )
        self._writer.tarstream = self._tar
        self._offset = 0

    def write(self, key: str, members: Sequence[tuple[str, bytes]]) -> dict[str, Span]:
        """Write a sample: its first member, then the others in the order of their names.

        Args:
            key: Of the sample.
            members: Suffix and bytes of each.

        Returns:
            Where the bytes of each member lie, by its suffix.
        """
        # one call sorts its members by name, and the first has to stay in front
        self._writer.write({"__key__": key, **dict(members[:1])})
        self._writer.write({"__key__": key, **dict(members[1:])})
        # tarfile remembers every member it wrote, so its memory would grow with the tar. This is
        # its own list, not a copy (CPython 3.11); from 3.13 on `TarFile(stream=True)` keeps none.
        self._tar.getmembers().clear()
        spans = {}
        for suffix, data in members:
            spans[suffix] = Span(self._offset + BLOCK_BYTES, len(data), google_crc32c.value(data))
            self._offset += BLOCK_BYTES + math.ceil(len(data) / BLOCK_BYTES) * BLOCK_BYTES
        assert self._offset == self._tar.offset, "every member has a header of one block"
        return spans

    def __enter__(self) -> Self:
        """Return the tar."""
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Write the end of the tar."""
        if failure is None:
            self._tar.close()
            return
        # The file will be removed. tarfile writes its end all the same, onto a disk that may be
        # full, and that error would hide the one that counts.
        with contextlib.suppress(OSError):
            self._tar.close()


class HashingFile:
    """A file that counts and hashes what is written to it.

    The hash is taken in a thread of its own, so that the processor hashes while the disk writes.
    Small writes are put together first, because a thread is slow to wake.

    Args:
        file: Gets what is written; closed by whoever opened it.

    Attributes:
        bytes: Written so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self._file = file
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._hashing: deque[Future[None]] = deque()

    def tell(self) -> int:
        """Position in the file, which starts empty."""
        return self.bytes

    def write(self, data: bytes) -> int:
        """Write, and let the hash follow."""
        self.bytes += len(data)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _PIECE_BYTES:
            self._hashing.append(self._pool.submit(self._update, self._waiting))
            self._waiting = []
            self._waiting_bytes = 0
            if len(self._hashing) > _MAX_PENDING_PIECES:  # or memory would grow without bound
                self._hashing.popleft().result()
        return self._file.write(data)

    def _update(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)

    @property
    def sha256(self) -> str:
        """SHA-256 of everything so far, in hexadecimal."""
        # the pool has one thread, so this comes after all that was submitted before
        self._pool.submit(self._update, self._waiting).result()
        self._waiting = []
        self._waiting_bytes = 0
        return self._hash.hexdigest()
