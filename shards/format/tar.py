"""A tar whose bytes depend on its members alone, and where each member lies in it."""

import contextlib
import hashlib
import tarfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import google_crc32c

from shards.storage.storage import Span

_BLOCK = 512
_PIECE = 1 << 20
_LAG = 16  # pieces that wait to be hashed


class ShardTar:
    """A tar whose bytes depend on its members alone, written by `webdataset.TarWriter`.

    Args:
        file: Where it goes.
    """

    def __init__(self, file: BinaryIO) -> None:
        from webdataset import TarWriter  # imports torch: seconds

        self.output = _Hashed(file)
        self._tar = TarWriter(
            self.output, user="root", group="root", mode=0o644, mtime=0, encoder=False
        )
        # plain headers, and a member in one piece instead of tarfile's many: twice as fast
        tar = self._tar.tarstream
        tar.format, tar.fileobj, tar.copybufsize = tarfile.USTAR_FORMAT, self.output, _PIECE
        self._at = 0

    def write(self, key: str, members: Sequence[tuple[str, bytes]]) -> list[Span]:
        """Write a sample: its first member, then the others in the order of their names.

        Args:
            key: Of the sample.
            members: Suffix and bytes of each.

        Returns:
            Where the bytes of each member lie.
        """
        for part in (members[:1], members[1:]):
            self._tar.write({"__key__": key, **dict(part)})
        self._tar.tarstream.members.clear()  # tarfile remembers every member: memory without end
        spans = []
        for _, data in members:
            spans.append(Span(self._at + _BLOCK, len(data), google_crc32c.value(data)))
            self._at += _BLOCK + -(-len(data) // _BLOCK) * _BLOCK
        assert self._at == self._tar.tarstream.offset, "every member has a header of one block"
        return spans

    def __enter__(self) -> "ShardTar":
        """Itself."""
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Write the end of the tar; after a failure it is of no use, but tarfile insists."""
        with contextlib.suppress(OSError) if failure else contextlib.nullcontext():
            self._tar.close()


class _Hashed:
    """A file that counts and hashes what is written to it, in a thread that may lag behind."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.bytes = file, hashlib.sha256(), 0
        self._pool, self._hashing = ThreadPoolExecutor(1), deque[Future[None]]()
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self._waiting.append(data)
        if sum(map(len, self._waiting)) >= _PIECE:  # a thread is slow to wake
            self._hashing.append(self._pool.submit(self._update, self._waiting))
            self._waiting = []
            if len(self._hashing) > _LAG:
                self._hashing.popleft().result()
        return self._file.write(data)

    def _update(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)

    def close(self) -> None:
        """The file is closed by whoever opened it."""

    @property
    def sha256(self) -> str:
        """Of everything so far, in hexadecimal."""
        self._pool.submit(self._update, self._waiting).result()
        self._waiting = []
        return self._hash.hexdigest()
