"""Running the tasks of a build, one after the other here or side by side in fresh processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from shards.schema import ShardError

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]


def in_turn(
    function: Callable[[Task, Progress], Result], tasks: Sequence[Task], progress: Progress | None
) -> Iterator[Result]:
    """Run the tasks in this process."""
    done = [0, 0]

    def tick(num_bytes: int, num_videos: int) -> None:
        done[:] = done[0] + num_bytes, done[1] + num_videos
        if progress:
            progress(*done)

    for task in tasks:
        yield function(task, tick)


def in_processes(
    function: Callable[[Task, Progress], Result],
    tasks: Sequence[Task],
    progress: Progress | None,
    workers: int,
) -> Iterator[Result]:
    """Run the tasks in fresh processes, which inherit nothing; the first failure ends all."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["webdataset", "shards.writer"])  # once, not in each: seconds
    counters = context.Array("q", 2)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(counters,))
    try:
        pending = {pool.submit(_counted, function, task) for task in tasks}
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            if progress:
                progress(*counters[:])
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise ShardError(
            "a worker died, perhaps for want of memory; run the same command again, with fewer "
            "workers: finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_counters: Any = None


def _start_worker(counters: Any) -> None:
    """Prepare a worker: share the counters, and end with the parent, however that ends."""
    global _counters
    _counters = counters

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            wait_for([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _counted(function: Callable[[Task, Progress], Result], task: Task) -> Result:
    def tick(num_bytes: int, num_videos: int) -> None:
        with _counters.get_lock():
            _counters[0] += num_bytes
            _counters[1] += num_videos

    return function(task, tick)
