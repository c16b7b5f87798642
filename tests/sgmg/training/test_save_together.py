"""Checkpoints of two processes, one of them slow or out of space."""

import time
from pathlib import Path
from unittest.mock import patch

import accelerate.accelerator
import pytest
import torch
from accelerate import Accelerator

from sgmg.network.model_folder import list_checkpoints
from sgmg.training.checkpoints import RunState, failing_together, save_checkpoint
from tests.processes import finish, start
from tests.sgmg.tiny import tiny_model

STATE: RunState = {"step": 1, "loader": {}, "schedule": {}}


def save(run: Path, *, delay_s: float, fails: bool) -> None:
    """Save as one of two processes; the last one waits, and may fail, before it writes."""
    accelerator = Accelerator(cpu=True)
    network = tiny_model()
    optimizer = torch.optim.AdamW(network.parameters())
    model, _ = accelerator.prepare(network, optimizer)
    write_state = accelerate.accelerator.save_accelerator_state

    def write_late(*arguments: object, **options: object) -> object:
        if not accelerator.is_main_process:
            time.sleep(delay_s)
            if fails:
                raise OSError("no space left on device")
        return write_state(*arguments, **options)

    with patch.object(accelerate.accelerator, "save_accelerator_state", write_late):
        save_checkpoint(run, accelerator, model, STATE, keep=1)


def save_slowly(run: Path) -> None:
    save(run, delay_s=2, fails=False)


def save_and_fail(run: Path, errors: Path) -> None:
    rank = Accelerator(cpu=True).process_index
    try:
        save(run, delay_s=0.5, fails=True)
    except OSError as error:
        (errors / str(rank)).write_text(str(error))


def test_a_checkpoint_waits_for_the_slowest_process(tmp_path: Path) -> None:
    assert finish(start(2, save_slowly, tmp_path), timeout_s=100) == [0, 0]
    (checkpoint,) = list_checkpoints(tmp_path)
    for rank in (0, 1):
        assert (checkpoint / f"random_states_{rank}.pkl").is_file()


def test_where_one_process_fails_to_save_all_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert finish(start(2, save_and_fail, run, tmp_path), timeout_s=100) == [0, 0]
    for rank in (0, 1):
        error_text = (tmp_path / str(rank)).read_text()
        assert error_text.startswith("step-000001 could not be saved (no space left on device)")
    assert not list(run.iterdir())


def test_a_lone_process_keeps_its_own_error() -> None:
    with (
        pytest.raises(ValueError, match="mine"),
        failing_together(Accelerator(cpu=True)),
    ):
        raise ValueError("mine")
