"""Two trainings in one run folder."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from sgmg.training.checkpoints import LOCK, lock_run

WAIT_S = 60


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def train_with_a_worker(run: Path, ready: Path) -> None:
    """Hold the lock, with a forked child that outlives a kill of this process."""
    lock = lock_run(run)
    child = os.fork()
    if not child:
        time.sleep(WAIT_S)
        os._exit(0)
    unfinished = ready.with_suffix(".partial")
    unfinished.write_text(str(child))
    unfinished.rename(ready)
    time.sleep(WAIT_S)
    lock.close()


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ready = tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(
        target=train_with_a_worker, args=(run, ready)
    )
    process.start()
    try:
        wait_for(ready)
        with pytest.raises(ValueError, match="another training runs in"):
            lock_run(run)
    finally:
        process.kill()
        process.join()
    child = int(ready.read_text())
    os.kill(child, 0)  # it lives
    try:
        lock_run(run).close()
    finally:
        os.kill(child, 9)
    assert (run / LOCK).is_file()
