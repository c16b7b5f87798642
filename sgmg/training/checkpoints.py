"""Checkpoints of a training run: written whole or not at all, found again, gone on from.

A checkpoint is a folder `step-NNNNNN/` of the run folder. It is written as `step-NNNNNN.partial`
and gets its name when its last byte is on the disk; whatever ends the process before that, the
checkpoints before it stay, and are what is found.
"""

import errno
import fcntl
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn

from sgmg.network.model import SgMg
from sgmg.network.model_folder import checkpoint_name, is_checkpoint_name, list_checkpoints, step_of

STATE = "run.json"
SCORE = "score.json"
LOCK = ".train.lock"

_log = logging.getLogger(__name__)


class RunState(TypedDict):
    """Content of `run.json`: where a run stands, beside what Accelerate saves.

    Attributes:
        step: Updates done.
        loader: State of the loader's stream, opaque to this package.
        schedule: `state_dict()` of the schedule of the learning rates.
    """

    step: int
    loader: dict[str, Any]  # plain values: JSON has no narrower type
    schedule: dict[str, Any]  # the type of torch's `LRScheduler.state_dict`


def open_run(run: Path, *, resume: bool) -> None:
    """Make the run folder, or sweep out of it what a killed process left.

    Raises:
        ValueError: It holds checkpoints, and the run is not to go on from them.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoints = list_checkpoints(run)
    if checkpoints and not resume:
        raise ValueError(
            f"{run} holds {checkpoints[-1].name} of an earlier run: go on with --resume auto, name "
            "another --out, or delete it"
        )
    # Only what has a name of ours: a run folder may hold a user's files.
    for path in run.glob("step-*.partial"):
        if is_checkpoint_name(path.stem) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def lock_run(run: Path) -> BinaryIO:
    """Keep other trainings out of a run folder, until the file is closed or the process ends.

    Returns:
        The open file that holds the lock; the file itself stays in the folder.

    Raises:
        ValueError: Another process trains there.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = (run / LOCK).open("ab")
    try:
        # Of the kinds of locks, the one that forked children do not inherit (`flock` is shared with
        # them): a worker that outlives a killed training must not keep the next one out.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            # Some network file systems have no locks at all: training there goes on without.
            _log.warning("%s cannot be locked (%s): start no second training there", run, error)
            return file
        file.close()
        raise ValueError(
            f"another training runs in {run}: wait for it, stop it, or name another --out"
        ) from error
    return file


def save_checkpoint(
    run: Path, accelerator: Accelerator, model: nn.Module, state: RunState, *, keep: int
) -> Path:
    """Write `run/step-NNNNNN/`: a model folder with optimizer, random states and `run.json`.

    Every process must call it. Older checkpoints are deleted only once the new one is in place.

    Args:
        run: Run folder.
        accelerator: The one that prepared model and optimizer.
        model: The prepared model.
        state: What `read_state` gives back.
        keep: Newest checkpoints left in the run folder, at least 1; the one of the best score
            stays, too.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: It could not be written, such as for a full disk; the others are as before.
    """
    folder = run / checkpoint_name(state["step"])
    if (folder / STATE).is_file():
        return folder  # SIGTERM came right after the regular save of this update
    unfinished = run / f"{folder.name}.partial"
    accelerator.wait_for_everyone()
    try:
        # A slower process may still write its state: the folder gets its name when all are through.
        with failing_together(accelerator):
            accelerator.save_state(str(unfinished))
        with failing_together(accelerator):
            if accelerator.is_main_process:
                network: SgMg = accelerator.unwrap_model(model)
                network.save_pretrained(unfinished)
                (unfinished / STATE).write_text(json.dumps(state), encoding="utf-8")
                # A rename may reach the disk before the bytes it names: a machine that loses power
                # would be left with a finished name on empty files.
                _flush_to_disk(unfinished)
                unfinished.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk is a RuntimeError to torch, a SafetensorError to safetensors.
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(
            f"{folder.name} could not be saved ({_first_line(error)}): make room in {run}; the "
            "checkpoints before it are whole, --resume auto goes on from the newest"
        ) from error
    with failing_together(accelerator):
        if accelerator.is_main_process:
            remove_expired(run, keep)
    return folder


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """Wait for the block on all processes; where it fails on one, it fails on all.

    Without it the others would wait for ever for the one that failed. Nothing in the block may
    wait for another process.

    Raises:
        OSError: The block failed on another process; says why.
    """
    failure: Exception | None = None
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        failure = error
    reason = _first_line(failure) if failure is not None else None
    reasons: list[str | None] = gather_object([reason])
    if failure is not None:
        raise failure
    for reason in reasons:
        if reason is not None:
            raise OSError(reason)


def remove_expired(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep` (at least 1) and the one of the best score."""
    checkpoints = list_checkpoints(run)
    staying = set(checkpoints[-keep:])
    scored = [path for path in checkpoints if math.isfinite(read_score(path))]
    if scored:
        staying.add(max(scored, key=read_score))
    for checkpoint in checkpoints:
        if checkpoint not in staying:
            remove_atomically(checkpoint)


def set_aside_later(run: Path, step: int) -> list[Path]:
    """Rename the checkpoints after `step`, which a run that goes on from there saves anew.

    Else they would count as saved already, or as newer than what the run saves now.

    Returns:
        Their folders, `abandoned-step-NNNNNN`, newest first.
    """
    abandoned = []
    # Newest first: wherever this breaks off, the life that is left stays without a gap.
    for checkpoint in reversed(list_checkpoints(run)):
        if step_of(checkpoint.name) > step:
            target = abandoned_path(checkpoint)
            number = 2
            while target.exists():
                target = run / f"{abandoned_path(checkpoint).name}-{number}"
                number += 1
            abandoned.append(checkpoint.rename(target))
    return abandoned


def abandoned_path(checkpoint: Path) -> Path:
    """Where a checkpoint goes that a run does not go on from."""
    return checkpoint.with_name(f"abandoned-{checkpoint.name}")


def remove_atomically(checkpoint: Path) -> None:
    """Delete a checkpoint so that no one finds half of it, even if the process is killed."""
    unfinished = checkpoint.with_suffix(".partial")
    checkpoint.rename(unfinished)
    shutil.rmtree(unfinished)


def write_score(checkpoint: Path, score: float, details: Mapping[str, float]) -> None:
    """Keep how well a checkpoint does.

    Args:
        checkpoint: Its folder.
        score: Decides which checkpoint is the best; larger is better.
        details: More numbers, for people to read.
    """
    unfinished = checkpoint / f"{SCORE}.partial"
    unfinished.write_text(json.dumps({"score": score, **details}, indent=1), encoding="utf-8")
    unfinished.replace(checkpoint / SCORE)


def read_score(checkpoint: Path) -> float:
    """Score of a checkpoint; minus infinity if it was not validated, or its score is NaN."""
    path = checkpoint / SCORE
    if not path.is_file():
        return float("-inf")
    score = float(json.loads(path.read_text(encoding="utf-8"))["score"])
    # No comparison with NaN is true: it would be the best or the worst by its place in the list.
    return float("-inf") if math.isnan(score) else score


def find_state(source: str, run: Path) -> Path | None:
    """Find the checkpoint to go on from.

    Args:
        source: A checkpoint's folder, or `auto` for the newest of the run.
        run: Run folder.

    Returns:
        Its folder; None if `auto` finds none.

    Raises:
        ValueError: The folder named holds no state of a run.
    """
    if source == "auto":
        resumable = [path for path in list_checkpoints(run) if (path / STATE).is_file()]
        return resumable[-1] if resumable else None
    path = Path(source)
    if not (path / STATE).is_file():
        raise ValueError(
            f"{source} holds no {STATE}: to resume, give a step-NNNNNN folder of a run, or auto"
        )
    return path


def read_state(checkpoint: Path) -> RunState:
    """Read back what `save_checkpoint` was given."""
    state: RunState = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def _flush_to_disk(folder: Path) -> None:
    """Wait until every file of a folder has reached the disk."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
