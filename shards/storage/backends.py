"""The kinds of places behind `Storage`: a local folder, an object store, whatever fsspec knows.

Credentials come from the usual environment variables and profiles only.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from shards.errors import BackendError

if TYPE_CHECKING:
    from obstore import Bytes

    from shards.storage.object_store import RequestCounter

OBJECT_STORE_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "http", "https")


class Backend(Protocol):
    """A folder, local or remote, as `Storage` uses it.

    Errors are the client's own, but for FileNotFoundError where a file is missing.
    """

    def get(self, name: str) -> bytes:
        """Read a whole file."""

    def ranges(
        self, name: str, starts: Sequence[int], ends: Sequence[int]
    ) -> "Sequence[bytes | Bytes]":
        """Read the bytes from each start to before each end; fewer where the file ends."""

    def size(self, name: str) -> int:
        """Ask for a file's bytes."""

    def commit(self, path: Path, name: str) -> None:
        """Make a local file appear under a name, whole or not at all; may move the file."""

    def claim(self, plan: str) -> AbstractContextManager[None]:
        """Keep other builds out of the folder; a BackendError tells that one is there already.

        Args:
            plan: Equal for builds that would write the same bytes.
        """


def local_folder(url: str) -> Path | None:
    """The folder that a path or a `file://` URL names; None for other URLs."""
    # absolute, for a worker process may have another working directory
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path)).absolute()
    if "://" in url:
        return None
    return Path(url).expanduser().absolute()


def connect(url: str, stall_s: float, count: "RequestCounter") -> Backend:
    """Find the backend of an address.

    Args:
        url: Of a folder.
        stall_s: Seconds without a byte that end a request to an object store.
        count: Called once for each retry and hedge.
    """
    folder = local_folder(url)
    if folder is not None:
        return Folder(folder)
    if urlsplit(url).scheme in OBJECT_STORE_SCHEMES:
        # imported here: a local folder needs no client for object stores
        from shards.storage.object_store import ObjectStore

        return ObjectStore(url, stall_s, count)
    return FsspecFolder(url)


class Folder:
    """A local folder. Files are opened for each read, so nothing stays open and forks are safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes:
        """Read a whole file."""
        return (self._folder / name).read_bytes()

    def ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Read the bytes from each start to before each end."""
        with (self._folder / name).open("rb", buffering=0) as file:
            # pread takes the position along, so nothing is shared with other readers
            return [
                os.pread(file.fileno(), end - start, start)
                for start, end in zip(starts, ends, strict=True)
            ]

    def size(self, name: str) -> int:
        """Ask for a file's bytes."""
        return (self._folder / name).stat().st_size

    def commit(self, path: Path, name: str) -> None:
        """Rename: the path lies in this folder already."""
        path.replace(self._folder / name)

    @contextmanager
    def claim(self, plan: str) -> Iterator[None]:
        """Lock the folder itself: that leaves no file behind, and a killed process lets go."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackendError(
                    "another build is writing there now; wait until it has ended, or write "
                    "elsewhere"
                ) from None
            except OSError:
                # NFS locks files that are open for writing only, never a folder; there, and on
                # file systems without locks, nothing keeps two builds apart
                pass
            yield
        finally:
            os.close(folder)


class FsspecFolder:
    """A folder of any other scheme, by the fsspec package that serves it."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._files, self._root = url_to_fs(url)

    def get(self, name: str) -> bytes:
        """Read a whole file."""
        return bytes(self._files.cat_file(self._path(name)))

    def ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Read the bytes from each start to before each end."""
        # file systems over a network fetch them side by side
        paths = [self._path(name)] * len(starts)
        return list(self._files.cat_ranges(paths, list(starts), list(ends), on_error="raise"))

    def size(self, name: str) -> int:
        """Ask for a file's bytes."""
        return int(self._files.info(self._path(name))["size"])

    def commit(self, path: Path, name: str) -> None:
        """Upload under the file's passing name, then rename."""
        self._files.makedirs(self._root, exist_ok=True)
        # an upload may be cut short; a move is the nearest to atomic that fsspec has
        passing_path = self._path(path.name)
        self._files.put_file(str(path), passing_path)
        self._files.mv(passing_path, self._path(name))

    @contextmanager
    def claim(self, plan: str) -> Iterator[None]:
        """Do nothing: fsspec has no way to create a file unless there is one."""
        yield

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
