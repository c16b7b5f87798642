import json
import math
import shutil
from pathlib import Path

import pytest

from sgmg.network.model_folder import find_checkpoint, list_checkpoints
from sgmg.training.checkpoints import (
    find_state,
    open_run,
    read_score,
    remove_expired,
    set_aside_later,
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


def test_without_scores_only_the_newest_stay(tmp_path: Path) -> None:
    make_checkpoints(tmp_path, 1, 2, 3, 4)
    remove_expired(tmp_path, keep=1)
    assert names(tmp_path) == ["step-000004"]


@pytest.mark.parametrize("nan_index", [0, 1, 2])
def test_a_score_that_is_nan_never_counts(tmp_path: Path, nan_index: int) -> None:
    checkpoints = make_checkpoints(tmp_path, 1, 2, 3, 4)
    scores = [60.0, 61.0, 59.0]
    scores[nan_index] = math.nan
    for checkpoint, score in zip(checkpoints, scores, strict=False):
        write_score(checkpoint, score, {})
    assert read_score(checkpoints[nan_index]) == -math.inf
    remove_expired(tmp_path, keep=1)
    best = "step-000001" if nan_index == 1 else "step-000002"
    assert names(tmp_path) == [best, "step-000004"]


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    _, _, newest = make_checkpoints(tmp_path, 1, 2, 1_000_000)
    foreign_names = ["step-000002-good", "step-9", "step-0000009", "step-best", "step-00000\u0669"]
    for name in foreign_names:
        shutil.copytree(newest, tmp_path / name)
    assert list_checkpoints(tmp_path)[-1] == newest
    assert find_state("auto", tmp_path) == newest
    assert find_checkpoint(tmp_path) == newest
    open_run(tmp_path, resume=True)
    remove_expired(tmp_path, keep=1)
    assert names(tmp_path) == sorted([newest.name, *foreign_names])


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (first,) = make_checkpoints(tmp_path, 1)
    (tmp_path / "step-000002.partial").mkdir()
    open_run(tmp_path, resume=True)
    assert names(tmp_path) == [first.name]
    with pytest.raises(ValueError, match="holds step-000001 of an earlier run"):
        open_run(tmp_path, resume=False)


def test_unfinished_files_of_a_user_are_left(tmp_path: Path) -> None:
    folders = ["my-data.partial", "step-000002-good.partial", "step-x.partial"]
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / "notes.partial").write_text("by hand")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "step-000003.partial").symlink_to(elsewhere)
    (tmp_path / "step-000004.partial").mkdir()
    open_run(tmp_path, resume=True)
    left = [*folders, "notes.partial", "elsewhere", "step-000003.partial"]
    assert names(tmp_path) == sorted(left)


def test_auto_finds_the_newest_that_can_be_resumed(tmp_path: Path) -> None:
    assert find_state("auto", tmp_path) is None
    _, second, third = make_checkpoints(tmp_path, 1, 2, 10)
    assert find_state("auto", tmp_path) == third
    (third / "run.json").unlink()
    assert find_state("auto", tmp_path) == second
    assert find_state(str(second), tmp_path) == second
    with pytest.raises(ValueError, match=r"holds no run\.json: to resume, give a step-NNNNNN"):
        find_state(str(third), tmp_path)


def test_the_life_that_is_left_is_put_aside(tmp_path: Path) -> None:
    make_checkpoints(tmp_path, 1, 2, 3)
    first_life = tmp_path / "abandoned-step-000003"
    assert set_aside_later(tmp_path, 2) == [first_life]
    assert not set_aside_later(tmp_path, 2)
    make_checkpoints(tmp_path, 3)
    assert set_aside_later(tmp_path, 1) == [
        tmp_path / "abandoned-step-000003-2",
        tmp_path / "abandoned-step-000002",
    ]
    remove_expired(tmp_path, keep=1)
    open_run(tmp_path, resume=True)
    assert find_state("auto", tmp_path) == tmp_path / "step-000001"
    assert len(names(tmp_path)) == 4
    assert (first_life / "run.json").is_file()
