"""Threads that make frames while the main thread trains."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def frame_thread_pool(num_threads: int) -> ThreadPoolExecutor:
    """Start threads for torch's work on frames, each with one torch thread."""
    caller_threads = torch.get_num_threads()
    all_started = threading.Barrier(num_threads)
    pool = ThreadPoolExecutor(
        num_threads,
        thread_name_prefix="shards-frames",
        initializer=use_one_torch_thread,
    )
    # A pool starts threads on demand and gives a new task to an idle one. Tasks that wait for one
    # another make it start all of them here, before the setting below is restored.
    list(pool.map(lambda _: all_started.wait(), range(num_threads)))
    torch.set_num_threads(caller_threads)
    return pool


def use_one_torch_thread() -> None:
    """Let torch work in the calling thread alone.

    As soon as a second thread has OpenMP workers of its own, libgomp lets idle workers sleep
    instead of spin, and a training step takes twice as long. The first question for the number of
    threads makes torch set up the calling thread, which would undo the 1 if it came later.
    The 1 also becomes the default of threads that start from now on, so the caller must restore
    the old number from another thread.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
