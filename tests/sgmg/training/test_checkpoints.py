import json
from pathlib import Path

import pytest

from sgmg.training.checkpoints import (
    find_state,
    open_run,
    read_score,
    remove_expired,
    write_score,
)


def make_checkpoints(run: Path, *steps: int) -> list[Path]:
    """Folders that look like finished checkpoints."""
    checkpoints = []
    for step in steps:
        checkpoint = run / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text("{}")
        (checkpoint / "run.json").write_text(json.dumps({"step": step}))
        checkpoints.append(checkpoint)
    return checkpoints


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_the_newest_and_the_best_checkpoints_stay(tmp_path: Path) -> None:
    _, second, third, *_ = make_checkpoints(tmp_path, 1, 2, 3, 4, 5)
    write_score(second, 60.5, {"J&F": 60.5})
    write_score(third, 60.0, {"J&F": 60.0})
    remove_expired(tmp_path, keep=2)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000005"]
    assert read_score(second) == 60.5


def test_without_scores_the_newest_stay_and_the_first(tmp_path: Path) -> None:
    """All are equally good: the first counts as the best, as `max` has it."""
    make_checkpoints(tmp_path, 1, 2, 3, 4)
    remove_expired(tmp_path, keep=1)
    assert names(tmp_path) == ["step-000001", "step-000004"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (first,) = make_checkpoints(tmp_path, 1)
    (tmp_path / "step-000002.partial").mkdir()
    open_run(tmp_path, resume=True)
    assert names(tmp_path) == [first.name]
    with pytest.raises(ValueError, match="holds step-000001 of an earlier run"):
        open_run(tmp_path, resume=False)


def test_auto_finds_the_newest_that_can_be_resumed(tmp_path: Path) -> None:
    assert find_state("auto", tmp_path) is None
    _, second, third = make_checkpoints(tmp_path, 1, 2, 10)
    assert find_state("auto", tmp_path) == third
    (third / "run.json").unlink()
    assert find_state("auto", tmp_path) == second
    assert find_state(str(second), tmp_path) == second
    with pytest.raises(ValueError, match=r"holds no run\.json: to resume, give a step-NNNNNN"):
        find_state(str(third), tmp_path)
