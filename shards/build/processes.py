"""Running the tasks of a build side by side in fresh processes."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from shards.errors import ShardError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """Run the tasks in fresh processes, which inherit nothing; the first failure ends all."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["webdataset", "shards.build.writer"])
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
    try:
        pending = [pool.submit(function, task) for task in tasks]
        yield from (future.result() for future in as_completed(pending))
    except BrokenProcessPool:
        raise ShardError(
            "a worker died, perhaps for want of memory; run the same command again, with fewer "
            "workers: finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end with the process that started it, however that ends."""

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
