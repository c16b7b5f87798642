"""Checkpoints of a training run: written whole or not at all, found again, gone on from.

A checkpoint is a folder `step-NNNNNN/` of the run folder. It is written as `step-NNNNNN.partial`
and gets its name when its last byte is on the disk; whatever ends the process before, the ones
before it stay, and are what is found.
"""

import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from sgmg.network.model import SgMg
from sgmg.network.model_folder import list_checkpoints, step_of

STATE, SCORE, INDEX = "run.json", "score.json", "checkpoints.json"


Store = Any
"""A folder for whole files: `get`, `put`, `exists`, `stream`, `new_file` of `shards.storage`."""


def open_run(run: Path, *, resume: bool) -> None:
    """Make the run folder, or sweep out of it what a killed process left.

    Raises:
        ValueError: it holds checkpoints, and the run is not to go on from them.
    """
    run.mkdir(parents=True, exist_ok=True)
    if not resume and (found := list_checkpoints(run)):
        raise ValueError(
            f"{run} holds {found[-1].name} of an earlier run: go on with --resume auto, name "
            "another --out, or delete it"
        )
    for path in run.glob("*.partial"):
        shutil.rmtree(path)


def save_checkpoint(
    run: Path, step: int, accelerator: Accelerator, model: Any, state: dict[str, Any], *, keep: int
) -> Path:
    """Write `run/step-NNNNNN/`: a model folder with optimizer, random states and `run.json`.

    Every process must call it. Older checkpoints are deleted only once the new one is in place.

    Args:
        run: run folder.
        step: updates done.
        accelerator: that prepared model and optimizer.
        model: the prepared model.
        state: JSON-able, for `read_state`.
        keep: newest checkpoints left in the run folder, at least 1; the one of the best score
            stays, too.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: it could not be written, such as for a full disk; the others are as before.
    """
    folder = run / f"step-{step:06d}"
    if (folder / STATE).is_file():  # the last update, saved already
        return folder
    unfinished = run / f"{folder.name}.partial"
    try:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(unfinished))
        if accelerator.is_main_process:
            network: SgMg = accelerator.unwrap_model(model)
            network.save_pretrained(unfinished)
            text = json.dumps({"step": step, **state})
            (unfinished / STATE).write_text(text, encoding="utf-8")
            for path in unfinished.rglob("*"):
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            unfinished.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: torch, safetensors
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"{folder.name} could not be saved ({reason}): make room in {run}; the checkpoints "
            "before it are whole, --resume auto goes on from the newest"
        ) from error
    if accelerator.is_main_process:
        found = list_checkpoints(run)
        for old in {*found[:-keep]} - {max(found, key=_score)}:
            shutil.rmtree(old.rename(old.with_suffix(".partial")))
    accelerator.wait_for_everyone()
    return folder


def write_score(checkpoint: Path, score: float, rest: Mapping[str, float]) -> None:
    """Keep how well a checkpoint does: `score` decides which is best, the rest is for people."""
    unfinished = checkpoint / f"{SCORE}.partial"
    unfinished.write_text(json.dumps({"score": score, **rest}, indent=1), encoding="utf-8")
    unfinished.replace(checkpoint / SCORE)


def find_state(source: str, run: Path) -> Path | None:
    """The checkpoint to go on from.

    Args:
        source: a checkpoint's folder, or `auto` for the newest of the run.
        run: run folder.

    Returns:
        Its folder; None if `auto` finds none.

    Raises:
        ValueError: the folder named holds no state of a run.
    """
    if source == "auto":
        found = [path for path in list_checkpoints(run) if (path / STATE).is_file()]
        return found[-1] if found else None
    path = Path(source)
    if not (path / STATE).is_file():
        raise ValueError(
            f"{source} holds no {STATE}: to resume, give a step-NNNNNN folder of a run, or auto"
        )
    return path


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given, and `step`."""
    return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))


def upload(checkpoint: Path, store: Store) -> None:
    """Copy a checkpoint to another place, one file each, as many as the run folder has.

    A file is written anew only when the index no longer names it: whatever breaks off, the index
    names whole files. Errors are those of the store.
    """
    index = _index(store)
    slot = next(name for i in itertools.count() if (name := f"checkpoint-{i}.tar") not in index)
    with store.new_file(slot) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for path in sorted(checkpoint.iterdir(), key=lambda it: it.name == STATE):  # it is last
            tar.add(path, path.name)
    here = {path.name for path in list_checkpoints(checkpoint.parent)}
    index = {slot: name for slot, name in index.items() if name in here} | {slot: checkpoint.name}
    store.put(INDEX, json.dumps(index).encode())


def download(store: Store, run: Path) -> None:
    """Get the newest checkpoint of another place, unless the run folder has one as new."""
    copies = {name: slot for slot, name in _index(store).items()}
    newest = max(copies, key=step_of, default="")
    if not newest or any(step_of(path.name) >= step_of(newest) for path in list_checkpoints(run)):
        return
    unfinished = run / f"{newest}.partial"
    try:
        with store.stream(copies[newest]) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            tar.extractall(unfinished, filter="data")
        if not (unfinished / STATE).is_file():
            raise tarfile.ReadError("cut short")
    except tarfile.TarError as error:
        raise ValueError(f"the copy of {newest} is broken ({error}): delete it") from error
    unfinished.rename(run / newest)


def _index(store: Store) -> dict[str, str]:
    """Name of the checkpoint in each file of a store."""
    return json.loads(store.get(INDEX)) if store.exists(INDEX) else {}


def _score(checkpoint: Path) -> float:
    path = checkpoint / SCORE
    return float(json.loads(path.read_text())["score"]) if path.is_file() else float("-inf")
