"""The places behind `shards.storage`: a local folder, an object store, whatever fsspec knows.

All have the same methods. A missing file raises FileNotFoundError; a range is shorter than asked
for where the file ends; `commit` makes a local file appear under a name, whole or not at all, and
may move it.

Credentials come from the usual environment variables and profiles only.
"""

import asyncio
import configparser
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

OBJECT_STORES = ("s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "http", "https")
Count = Callable[..., None]

_PATIENCE = 120.0  # seconds that a failing range is asked for
_SLOW = 1_000_000  # bytes a second that are not worth a second request
_FINAL = re.compile(r"status code: 4(?!08|29)\d\d")
_BEYOND = re.compile(r"object was only|status code: 416")


def local_folder(url: str) -> Path | None:
    """The folder that a path or a `file://` URL names; None for other URLs."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path)).absolute()
    return None if "://" in url else Path(url).expanduser().absolute()


def connect(url: str, stall: float, count: Count) -> "Folder | ObjectStore | Fsspec":
    """The backend of an address; `stall` in seconds without a byte ends a request.

    Args:
        url: Of a folder.
        stall: Seconds.
        count: Is told of `retries=1` and `hedges=1`.
    """
    folder = local_folder(url)
    if folder is not None:
        return Folder(folder)
    return ObjectStore(url, stall, count) if urlsplit(url).scheme in OBJECT_STORES else Fsspec(url)


class Folder:
    """A local folder. Files are opened for each read, so nothing stays open and forks are safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> bytes:
        """A whole file."""
        return (self.folder / name).read_bytes()

    def ranges(self, name: str, starts: list[int], ends: list[int]) -> Sequence[bytes]:
        """Bytes from each start to before each end."""
        with (self.folder / name).open("rb", buffering=0) as file:
            parts = zip(starts, ends, strict=True)
            return [os.pread(file.fileno(), end - start, start) for start, end in parts]

    def size(self, name: str) -> int:
        """A file's bytes."""
        return (self.folder / name).stat().st_size

    def commit(self, path: Path, name: str) -> None:
        """Rename: the path lies in this folder already."""
        path.replace(self.folder / name)


class ObjectStore:
    """S3, GCS, Azure or plain HTTP through obstore.

    It retries whole files by itself. Ranges are retried here, where that can be counted, and a slow
    one is raced by a second request.
    """

    def __init__(self, url: str, stall: float, count: Count) -> None:
        import obstore
        from obstore.store import from_url

        self._obstore, self._hedge, self._count = obstore, stall / 4, count
        seconds = timedelta(seconds=stall)
        account = aws_profile() if urlsplit(url).scheme in ("s3", "s3a") else {}
        options: dict[str, Any] = {
            "connect_timeout": min(seconds, timedelta(seconds=5)),
            "read_timeout": seconds,
            "timeout": "1h",
            "allow_http": "http://" in (url[:7], account.get("endpoint", "")[:7]),
        }
        retry: dict[str, Any] = {
            "max_retries": 8,
            "retry_timeout": timedelta(minutes=2),
            "backoff": {"max_backoff": timedelta(seconds=2)},
        }

        def store(retry: Any) -> Any:
            return from_url(url, client_options=cast(Any, options), retry_config=retry, **account)

        self._store, self._once = store(retry), store(retry | {"max_retries": 0})

    def get(self, name: str) -> bytes:
        """A whole file."""
        return self._found(lambda: bytes(self._obstore.get(self._store, name).bytes()))

    def ranges(self, name: str, starts: list[int], ends: list[int]) -> Sequence[Any]:
        """Bytes from each start to before each end, fetched at the same time."""

        async def together() -> Sequence[Any]:
            parts = zip(starts, ends, strict=True)
            return await asyncio.gather(*(self._raced(name, *part) for part in parts))

        return self._found(lambda: _finish(together()))

    async def _raced(self, name: str, start: int, end: int) -> Any:
        """One range, by whichever of at most two requests is first."""

        def ask() -> asyncio.Task[Any]:
            return asyncio.ensure_future(self._retried(name, start, end))

        running = {ask()}
        try:
            patience = self._hedge + (end - start) / _SLOW
            done, running = await asyncio.wait(running, timeout=patience)
            if not done:
                self._count(hedges=1)
                running.add(ask())
            while True:
                for task in done:
                    if not running or task.exception() is None:
                        return task.result()
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in running:
                task.cancel()

    async def _retried(self, name: str, start: int, end: int) -> Any:
        """One range, asked for again after whatever may pass; empty behind the end of the file."""
        errors, begin, pause = self._obstore.exceptions, time.monotonic(), 0.1
        while True:
            try:
                return await self._obstore.get_range_async(self._once, name, start=start, end=end)
            except errors.GenericError as error:
                if _BEYOND.search(str(error)):
                    return b""
                if _FINAL.search(str(error)) or time.monotonic() - begin > _PATIENCE:
                    raise
            self._count(retries=1)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0, 2 * pause)

    def size(self, name: str) -> int:
        """A file's bytes."""
        return self._found(lambda: self._obstore.head(self._store, name)["size"])

    def commit(self, path: Path, name: str) -> None:
        """Upload, in parts if large; the object appears when the last one has arrived."""
        try:
            self._found(lambda: self._obstore.put(self._store, name, path))
        except FileNotFoundError:
            raise OSError("there is no such bucket or container") from None

    def _found(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._obstore.exceptions.NotFoundError as error:
            raise FileNotFoundError(str(error)) from None


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in this process's thread for requests."""
    return asyncio.run_coroutine_threadsafe(work, _requests(os.getpid())).result()


@cache
def _requests(process: int) -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own; a forked process gets another."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"requests-{process}", daemon=True).start()
    return loop


class Fsspec:
    """Any other scheme, by the fsspec package that serves it."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._files, self._root = url_to_fs(url)

    def get(self, name: str) -> bytes:
        """A whole file."""
        return bytes(self._files.cat_file(self._path(name)))

    def ranges(self, name: str, starts: list[int], ends: list[int]) -> Sequence[bytes]:
        """Bytes from each start to before each end."""
        paths = [self._path(name)] * len(starts)
        return list(self._files.cat_ranges(paths, starts, ends, on_error="raise"))

    def size(self, name: str) -> int:
        """A file's bytes."""
        return int(self._files.info(self._path(name))["size"])

    def commit(self, path: Path, name: str) -> None:
        """Upload under a passing name, then rename."""
        self._files.makedirs(self._root, exist_ok=True)
        self._files.put_file(str(path), self._path(path.name))
        self._files.mv(self._path(path.name), self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def aws_profile() -> dict[str, Any]:
    """What obstore does not look up by itself: the profile of `~/.aws/{credentials,config}`.

    Returns:
        Settings of obstore's S3 store; variables of the environment win over the profile.
    """
    place = Path.home() / ".aws"
    profile = os.environ.get("AWS_PROFILE", "default")
    config = os.environ.get("AWS_CONFIG_FILE", place / "config")
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", place / "credentials")
    files = configparser.ConfigParser(interpolation=None)
    files.read([config, credentials])
    found: dict[str, str] = {}
    for section in (f"profile {profile}", profile):
        found |= dict(files[section]) if section in files else {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    account = {
        "region": region or found.get("region"),
        "endpoint": endpoint or found.get("endpoint_url"),
    }
    if "AWS_ACCESS_KEY_ID" not in os.environ and "aws_access_key_id" in found:
        keys = ("access_key_id", "secret_access_key", "session_token")
        account |= {name: found.get(f"aws_{name}") for name in keys}
    return {name: value for name, value in account.items() if value}
