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
    """Run tasks in fresh processes, which inherit nothing; the first failure ends them all.

    Args:
        function: Importable by its name.
        tasks: Picklable.
        workers: Number of processes.

    Yields:
        Results as they come, in any order.

    Raises:
        ShardError: If a worker dies.
    """
    # A plain fork would copy the threads' locks of this process (DALI, Arrow, obstore) but not the
    # threads. A fork server starts clean, and imports what takes seconds once for all workers.
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    context.set_forkserver_preload(["webdataset", "shards.build.writer"])
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
    try:
        pending = [pool.submit(function, task) for task in tasks]
        for future in as_completed(pending):
            yield future.result()
    except BrokenProcessPool:
        raise ShardError(
            "a worker died, perhaps for want of memory; run the same command again, with fewer "
            "workers: finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end with the process that started it, however that ends.

    A killed parent runs no clean-up, and its workers would go on writing beside the next run.
    """

    def follow_parent() -> None:
        parent = parent_process()
        if parent is not None:
            wait([parent.sentinel])  # becomes ready when the parent is gone
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
