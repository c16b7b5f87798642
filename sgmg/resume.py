"""Checkpoints of a training run: written whole or not at all, found again, gone on from."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sgmg.model import SgMg

STATE = "run.json"


def save_checkpoint(
    run: Path, step: int, accelerator: Accelerator, model: Any, state: dict[str, Any], *, keep: int
) -> Path:
    """Write `run/step-NNNNNN/`: a model folder with optimizer, random states and `run.json`.

    Every process must call it. An older checkpoint is deleted only once the new one is in place.

    Args:
        run: run folder.
        step: updates done.
        accelerator: that prepared model and optimizer.
        model: the prepared model.
        state: JSON-able, for `read_state`.
        keep: checkpoints left in the run folder, at least 1.

    Returns:
        The checkpoint's folder.
    """
    folder = run / f"step-{step:06d}"
    unfinished = run / f"{folder.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    if accelerator.is_main_process:
        network: SgMg = accelerator.unwrap_model(model)
        network.save_pretrained(unfinished)
        text = json.dumps({"step": step, **state})
        (unfinished / STATE).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        for old in _checkpoints(run)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return folder


def find_checkpoint(path: Path) -> Path:
    """The model folder `path`, or the newest checkpoint of the run folder `path`.

    Raises:
        ValueError: there is none.
    """
    if (path / "config.json").is_file():
        return path
    if found := _checkpoints(path):
        return found[-1]
    raise ValueError(
        f"{path} holds no checkpoint: give a run folder of train.py, or a folder with config.json"
    )


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
        found = [path for path in _checkpoints(run) if (path / STATE).is_file()]
        return found[-1] if found else None
    path = Path(source)
    if not (path / STATE).is_file():
        raise ValueError(
            f"{source} holds no {STATE}: to resume, give a step-NNNNNN folder of a run, or auto"
        )
    return path


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given, and `step`."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def _checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    return sorted(path.parent for path in run.glob("step-??????/config.json"))
