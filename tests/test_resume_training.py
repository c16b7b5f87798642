"""Training that is killed, interrupted, short of space, or moved to other processes, goes on."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from sgmg.resume import download, find_state, open_run, upload
from shards import ShardError
from shards.storage import Storage
from tests.processes import finish, start, train_with
from tests.shards.object_server import forbidden, object_server
from tests.test_train_evaluate import losses, shapes

KILLS = int(os.environ.get("SGMG_KILLS", "2"))
STEPS = 6
assert shapes  # a fixture


def arguments(shapes: Path, out: Path, *more: object) -> list[object]:
    """A small network that has no statistics over a batch, with dropped paths."""
    sets = ["--data.shards", shapes / "train", "--data.batch-size", 2, "--tracker", "none"]
    how = ["--backbone", "timm:test_convnext", "--optim.warmup", 1, "--save-every", 1]
    return ["synthetic", "--out", out, *sets, *how, "--optim.steps", STEPS, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{STEPS:06d}/model.safetensors")


def same(one: Path, other: Path) -> None:
    assert (one / "losses.csv").read_bytes() == (other / "losses.csv").read_bytes()
    want, got = weights(one), weights(other)
    assert want.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in want.items())


@pytest.fixture(scope="module")
def undisturbed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert finish(start(1, train_with, *arguments(shapes, out))) == [0]
    assert [row["step"] for row in losses(out)] == [str(step + 1) for step in range(STEPS)]
    return out


def wait_for_save(run: Path, before: Sequence[str]) -> None:
    """Until a checkpoint begins that was not there."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not {p.name for p in run.glob("step-*")} - {*before}:
        time.sleep(0.005)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    shapes: Path, undisturbed: Path, tmp_path: Path, processes: int
) -> None:
    generator, run = random.Random(processes), tmp_path / "run"
    for _ in range(KILLS if processes == 1 else 1):
        before = [p.name for p in run.glob("step-*")]
        group = start(processes, train_with, *arguments(shapes, run, "--resume", "auto"))
        wait_for_save(run, before)
        time.sleep(generator.uniform(0, 0.5))
        for process in group:
            process.kill()
        finish(group)
    group = start(processes, train_with, *arguments(shapes, run, "--resume", "auto"))
    assert finish(group) == [0] * processes
    if processes == 1:
        same(undisturbed, run)
    else:
        alike(undisturbed, run)
    assert not list(run.glob("*.partial"))


def alike(one: Path, other: Path) -> None:
    """Losses of runs on other numbers of processes."""
    rows = zip(losses(one), losses(other), strict=True)
    for want, got in rows:
        assert {n: float(x) for n, x in got.items()} == pytest.approx(
            {n: float(x) for n, x in want.items()}, rel=1e-5
        )


def test_sigterm_saves_and_leaves_and_any_number_of_processes_goes_on(
    shapes: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for processes in (2, 1):
        before = [p.name for p in run.glob("step-*")]
        more = ["--resume", "auto", "--save-every", 100]
        group = start(processes, train_with, *arguments(shapes, run, *more))
        end = time.monotonic() + 60
        done = len(losses(run)) if (run / "losses.csv").is_file() else 0
        while time.monotonic() < end:
            if (run / "losses.csv").is_file() and len(losses(run)) > done:
                break
            time.sleep(0.005)
        os.kill(group[-1].pid, signal.SIGTERM)
        codes = finish(group)
        assert codes == [train.INTERRUPTED] * processes
        assert len({p.name for p in run.glob("step-*")} - {*before}) == 1
    assert finish(start(2, train_with, *arguments(shapes, run, "--resume", "auto"))) == [0, 0]
    alike(undisturbed, run)


def test_a_full_disk_leaves_the_checkpoint_before(
    shapes: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for step in range(3, STEPS + 1):
        shutil.rmtree(run / f"step-{step:06d}", ignore_errors=True)
    shutil.copytree(undisturbed / f"step-{STEPS:06d}", run / "step-000002", dirs_exist_ok=True)
    shutil.rmtree(run / "step-000002")
    assert find_state("auto", undisturbed).name == f"step-{STEPS:06d}"


def test_a_copy_elsewhere_gives_the_run_back(undisturbed: Path, tmp_path: Path) -> None:
    newest, run = undisturbed / f"step-{STEPS:06d}", tmp_path / "new"
    with object_server() as server:
        store = Storage(f"{server.url}/runs/one")
        for step in (5, 6, 6, 6):  # a file no longer named in the index is used again
            upload(undisturbed / f"step-{step:06d}", store)
        assert sum(name.endswith(".tar") for name in server.objects) <= 5
        server.faults += [forbidden] * 3
        with pytest.raises(ShardError):
            download(store, run)
        download(store, run)
        assert find_state("auto", run) == run / newest.name
        for path in newest.rglob("*"):
            if path.is_file():
                copy = run / newest.name / path.relative_to(newest)
                assert copy.read_bytes() == path.read_bytes()
        open_run(run, resume=True)
        with pytest.raises(ValueError, match="earlier run: go on with --resume auto"):
            open_run(run, resume=False)
