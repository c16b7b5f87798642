"""S3, GCS, Azure and plain HTTP through obstore: retries that are counted, slow requests raced."""

import asyncio
import random
import re
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotSupportedError
from obstore.store import from_url

from shards.errors import BackendError
from shards.storage.aws_profile import aws_profile

if TYPE_CHECKING:
    from obstore import Bytes
    from obstore.store import ClientConfig, RetryConfig, S3Config
    from obstore.store import ObjectStore as ObjectStoreClient

Result = TypeVar("Result")

_CONNECT_TIMEOUT_S = 5.0
_RANGE_TIMEOUT_S = 120.0  # a range that fails is asked for again for so long
_FIRST_PAUSE_S = 0.1  # before the second request for it; doubles with each
_MAX_PAUSE_S = 2.0
# A second request races the first one when a quarter of the stall has passed. Each megabyte of the
# range allows one second more, or a line that is merely slow would carry all large ranges twice.
_HEDGE_PER_STALL = 1 / 4
_HEDGE_BYTES_PER_S = 1_000_000

# obstore 0.12.1 raises GenericError for a status that has no exception of its own, as for requests
# that fail on their way; only the text tells which. 408 (timeout) and 429 (too many requests) pass
# by themselves, every other 4xx is a refusal.
_NON_RETRYABLE_STATUS = re.compile(r"status code: 4(?!08|29)\d\d")
_NOT_IMPLEMENTED = re.compile(r"status code: (405|501)|[Nn]ot ?[Ii]mplemented")
_BEHIND_THE_END = re.compile(r"object was only|status code: 416")

_CLAIM = "build-in-progress"  # the object that holds the plan of a build that has not ended

_WHOLE_FILE_RETRIES: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"max_backoff": timedelta(seconds=2)},
}
_NO_RETRIES: "RetryConfig" = {**_WHOLE_FILE_RETRIES, "max_retries": 0}


class RequestCounter(Protocol):
    """Counts the requests that had to be made again."""

    def __call__(self, *, retries: int = 0, hedges: int = 0) -> None:
        """Add to the counts.

        Args:
            retries: Requests after one that failed.
            hedges: Requests beside one that was slow.
        """


class ObjectStore:
    """A folder of an object store.

    obstore retries whole files by itself. Ranges are retried here, where that can be counted, and a
    slow one is raced by a second request. A missing file is a FileNotFoundError of obstore's own.

    Args:
        url: Of the folder.
        stall_s: Seconds without a byte that end a request.
        count: Called once for each retry and hedge.
    """

    def __init__(self, url: str, stall_s: float, count: RequestCounter) -> None:
        account: S3Config = {}
        if urlsplit(url).scheme in ("s3", "s3a"):
            account = aws_profile()
        stall = timedelta(seconds=stall_s)
        addresses = [url, account.get("endpoint", "")]
        is_plain_http = any(address.startswith("http://") for address in addresses)
        options: ClientConfig = {
            "connect_timeout": min(stall, timedelta(seconds=_CONNECT_TIMEOUT_S)),
            "read_timeout": stall,
            "timeout": "1h",  # for a whole shard; the default is 30 s
            "allow_http": is_plain_http,
        }
        self._hedge_after_s = _HEDGE_PER_STALL * stall_s
        self._count = count
        self._retrying_store = from_url(
            url, config=account, client_options=options, retry_config=_WHOLE_FILE_RETRIES
        )
        self._store_without_retries = from_url(
            url, config=account, client_options=options, retry_config=_NO_RETRIES
        )

    @property
    def _store(self) -> "ObjectStoreClient":
        """The client for whole files."""
        _refuse_after_fork()
        return self._retrying_store

    def get(self, name: str) -> bytes:
        """Read a whole file."""
        return bytes(obstore.get(self._store, name).bytes())

    def ranges(
        self, name: str, starts: Sequence[int], ends: Sequence[int]
    ) -> "Sequence[bytes | Bytes]":
        """Read the bytes from each start to before each end, all at the same time."""

        async def together() -> "list[bytes | Bytes]":
            requests = [
                self._raced(name, start, end) for start, end in zip(starts, ends, strict=True)
            ]
            return await asyncio.gather(*requests)

        _refuse_after_fork()
        return _run(together())

    async def _raced(self, name: str, start: int, end: int) -> "bytes | Bytes":
        """One range, by whichever of at most two requests is first."""

        def request() -> "asyncio.Task[bytes | Bytes]":
            return asyncio.ensure_future(self._retried(name, start, end))

        pending = {request()}
        try:
            patience_s = self._hedge_after_s + (end - start) / _HEDGE_BYTES_PER_S
            done, pending = await asyncio.wait(pending, timeout=patience_s)
            if not done:
                self._count(hedges=1)
                pending.add(request())
            while True:
                for task in done:
                    if task.exception() is None:
                        return task.result()
                if done and not pending:
                    return done.pop().result()  # raises: every request has failed
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pending:
                task.cancel()

    async def _retried(self, name: str, start: int, end: int) -> "bytes | Bytes":
        """One range, asked for again after whatever may pass; empty behind the end of the file."""
        begin = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await obstore.get_range_async(
                    self._store_without_retries, name, start=start, end=end
                )
            except GenericError as error:
                error_text = str(error)
                if _BEHIND_THE_END.search(error_text):
                    return b""
                if _NON_RETRYABLE_STATUS.search(error_text):
                    raise
                if time.monotonic() - begin > _RANGE_TIMEOUT_S:
                    raise
            self._count(retries=1)
            # many processes that failed together should not come back together
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)

    def size(self, name: str) -> int:
        """Ask for a file's bytes."""
        return obstore.head(self._store, name)["size"]

    def commit(self, path: Path, name: str) -> None:
        """Upload, in parts if large; the object appears when the last one has arrived."""
        try:
            obstore.put(self._store, name, path)
        except FileNotFoundError:  # it is not the local file that is missing
            raise OSError("there is no such bucket or container") from None

    @contextmanager
    def claim(self, plan: str) -> Iterator[None]:
        """Put the plan there, unless there is one; a killed build leaves its own to go on under.

        An object store knows nothing of processes, so two builds of one plan are not kept apart:
        they write the same bytes.
        """
        is_new = self._create_claim(plan)
        if not is_new and self._claimed_plan() != plan:
            raise BackendError(
                f"a build from other input or other settings is writing there, or was killed; wait "
                f"until it has ended, write elsewhere, or remove the object {_CLAIM}"
            )
        ends_well = False
        try:
            yield
            ends_well = True
        finally:
            if is_new or ends_well:
                # the set is committed, or its error is the one to be told
                with suppress(BaseError, FileNotFoundError):
                    obstore.delete(self._store, _CLAIM)

    def _create_claim(self, plan: str) -> bool:
        """Write the object; False if there is one."""
        try:
            obstore.put(self._store, _CLAIM, plan.encode(), mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except FileNotFoundError:
            raise OSError("there is no such bucket or container") from None
        except (NotImplementedError, NotSupportedError):  # such as plain HTTP
            return True
        except GenericError as error:
            # a server without conditional puts: nothing keeps two builds apart there
            if not _NOT_IMPLEMENTED.search(str(error)):
                raise
        return True

    def _claimed_plan(self) -> str:
        try:
            return self.get(_CLAIM).decode(errors="replace")
        except FileNotFoundError:  # removed just now, by a build that has ended
            return ""


@cache
def _first_process() -> int:
    """The process of the first request; a forked child remembers that of its parent."""
    return getpid()


def _refuse_after_fork() -> None:
    """Refuse a request that would wait for ever.

    obstore 0.12.1 has one pool of threads, made by the first request. A fork does not copy threads,
    and there is no way to make that pool anew.

    Raises:
        BackendError: In a process that was forked after a request.
    """
    if _first_process() != getpid():
        raise BackendError(
            "this process was forked after its parent had used object storage, and cannot use it; "
            "start it by spawn or forkserver, or fork before the first request"
        )


def _run(work: Coroutine[object, object, Result]) -> Result:
    """Run a coroutine in this process's thread for requests."""
    return asyncio.run_coroutine_threadsafe(work, _event_loop(getpid())).result()


@cache
def _event_loop(process_id: int) -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own.

    A thread does not survive a fork, so the loop is kept by the process it was made in.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"requests-{process_id}", daemon=True).start()
    return loop
