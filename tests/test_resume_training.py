"""Training that is killed, interrupted, short of space, or moved to other processes, goes on."""

import itertools
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file

import train
from sgmg.training.checkpoints import find_state, open_run
from sgmg.training.mirror import download, upload
from shards.storage.storage import Storage
from tests.processes import finish, start, train_with
from tests.test_train_evaluate import losses, shapes

KILLS = int(os.environ.get("SGMG_KILLS", "2"))
STEPS = 6
assert shapes  # a fixture


def arguments(shapes: Path, out: Path, *more: object) -> list[object]:
    """A small network that has no statistics over a batch, with dropped paths."""
    sets = ["--data.shards", shapes / "train", "--data.batch-size", 2, "--tracker", "none"]
    how = ["--backbone", "timm:test_convnext", "--save-every", 1]
    rates = [it for n in ("lr", "backbone-lr", "text-lr") for it in (f"--optim.{n}", 1e-5)]
    return [
        "synthetic",
        "--out",
        out,
        *sets,
        *how,
        *rates,
        "--optim.warmup",
        1,
        "--optim.steps",
        STEPS,
        *more,
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{STEPS:06d}/model.safetensors")


def same(one: Path, other: Path) -> None:
    assert (one / "losses.csv").read_bytes() == (other / "losses.csv").read_bytes()
    want, got = weights(one), weights(other)
    assert want.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in want.items())


@pytest.fixture(scope="module")
def undisturbed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run folder by number of processes."""
    runs = {}
    for count in (1, 2):
        runs[count] = tmp_path_factory.mktemp("undisturbed") / "run"
        group = start(count, train_with, *arguments(shapes, runs[count], "--keep", STEPS))
        assert finish(group) == [0] * count
    assert [row["step"] for row in losses(runs[1])] == [str(step + 1) for step in range(STEPS)]
    alike(*runs.values())
    return runs


def wait_for_save(run: Path, before: Sequence[str]) -> None:
    """Until a checkpoint begins that was not there."""
    end = time.monotonic() + 300
    while not {p.name for p in run.glob("step-*")} - {*before}:
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.005)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    generator, kills = random.Random(processes), KILLS // processes
    for number in itertools.count():
        run = tmp_path / f"run-{number}"
        given = arguments(shapes, run, "--resume", "auto")
        while kills and not (run / f"step-{STEPS:06d}").is_dir():
            before = [p.name for p in run.glob("step-*")]
            group = start(processes, train_with, *given)
            wait_for_save(run, before)
            time.sleep(generator.uniform(0, 0.5))
            for process in group:
                process.kill()
            finish(group)
            kills -= 1
        assert finish(start(processes, train_with, *given)) == [0] * processes
        same(undisturbed[processes], run)
        assert not list(run.glob("*.partial"))
        if not kills:
            break


def alike(one: Path, other: Path) -> None:
    """Losses of runs on other numbers of processes."""
    for want, got in zip(losses(one), losses(other), strict=True):
        terms = [name for name in want if "norm" not in name]  # losses; AdamW blows up the rest
        expected = {name: float(want[name]) for name in terms}
        assert {name: float(got[name]) for name in terms} == pytest.approx(expected, rel=1e-5)


def test_sigterm_saves_and_leaves_and_any_number_of_processes_goes_on(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for processes in (2, 1):
        before = [p.name for p in run.glob("step-*")]
        more = ["--resume", "auto", "--save-every", 100]
        group = start(processes, train_with, *arguments(shapes, run, *more))
        end = time.monotonic() + 300
        done = len(losses(run)) if (run / "losses.csv").is_file() else 0
        while not (run / "losses.csv").is_file() or len(losses(run)) <= done:
            assert time.monotonic() < end, "no update came"
            time.sleep(0.005)
        os.kill(group[-1].pid, signal.SIGTERM)
        codes = finish(group)
        assert codes == [train.INTERRUPTED] * processes
        assert len({p.name for p in run.glob("step-*")} - {*before}) == 1
    assert finish(start(2, train_with, *arguments(shapes, run, "--resume", "auto"))) == [0, 0]
    alike(undisturbed[2], run)


def with_little_room(said: Path, *given: object) -> None:
    """Train where no file may have more bytes than this, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        train_with(*given)
    except OSError as error:
        said.write_text(str(error))


def test_a_full_disk_leaves_the_checkpoint_before(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed[1], run)
    for step in range(3, STEPS + 1):
        shutil.rmtree(run / f"step-{step:06d}")
    said, more = tmp_path / "said", arguments(shapes, run, "--resume", "auto")
    finish(start(1, with_little_room, said, *more))
    assert said.read_text().startswith("step-000003 could not be saved")
    assert [p.name for p in sorted(run.glob("step-*"))] == ["step-000001", "step-000002"]


def test_a_copy_elsewhere_gives_the_run_back(undisturbed: dict[int, Path], tmp_path: Path) -> None:
    first, run, newest = undisturbed[1], tmp_path / "new", f"step-{STEPS:06d}"
    store, objects = Storage("memory://copies"), fsspec.filesystem("memory")
    for step in range(1, STEPS + 1):
        upload(first / f"step-{step:06d}", store)
    open_run(run, resume=True)
    last = max(name for name in objects.ls("/copies", detail=False) if name.endswith(".tar"))
    whole = objects.cat_file(last)
    for broken in (whole[:1000], b""):
        objects.pipe_file(last, broken)
        with pytest.raises(ValueError, match=f"copy of {newest} is broken"):
            download(store, run)
        assert find_state("auto", run) is None
    objects.pipe_file(last, whole)
    open_run(run, resume=True)  # sweeps
    download(store, run)
    assert find_state("auto", run) == run / newest
    for path in (first / newest).rglob("*"):
        if path.is_file():
            copy = run / newest / path.relative_to(first / newest)
            assert copy.read_bytes() == path.read_bytes()
    for _ in range(3):  # only the last is still in the run: two files take turns
        upload(run / newest, store)
    assert sum(name.endswith(".tar") for name in objects.ls("/copies", detail=False)) == STEPS + 1
    with pytest.raises(ValueError, match="earlier run: go on with --resume auto"):
        open_run(run, resume=False)
