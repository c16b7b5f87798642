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
from shards.storage import Storage
from tests.processes import finish, start, train_with
from tests.shards.object_server import object_server
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
    end = time.monotonic() + 60
    while time.monotonic() < end and not {p.name for p in run.glob("step-*")} - {*before}:
        time.sleep(0.005)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    generator, run = random.Random(processes), tmp_path / "run"
    for _ in range(KILLS // processes):
        before = [p.name for p in run.glob("step-*")]
        group = start(processes, train_with, *arguments(shapes, run, "--resume", "auto"))
        wait_for_save(run, before)
        time.sleep(generator.uniform(0, 0.5))
        for process in group:
            process.kill()
        finish(group)
    group = start(processes, train_with, *arguments(shapes, run, "--resume", "auto"))
    assert finish(group) == [0] * processes
    same(undisturbed[processes], run)
    assert not list(run.glob("*.partial"))


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
    alike(undisturbed[2], run)


def with_little_room(*given: object) -> None:
    """Train where no file may have more bytes than this, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    train_with(*given)


def test_a_full_disk_leaves_the_checkpoint_before(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed[1], run)
    for step in range(3, STEPS + 1):
        shutil.rmtree(run / f"step-{step:06d}")
    group = start(1, with_little_room, *arguments(shapes, run, "--resume", "auto"))
    assert finish(group) == [1]
    assert "step-000003 could not be saved" in capfd.readouterr().err
    assert [p.name for p in sorted(run.glob("step-*"))] == ["step-000001", "step-000002"]
    assert finish(start(1, train_with, *arguments(shapes, run, "--resume", "auto"))) == [0]
    same(undisturbed[1], run)


def test_a_copy_elsewhere_gives_the_run_back(
    undisturbed: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run = undisturbed[1], tmp_path / "new"
    monkeypatch.setattr("shards.backends._PATIENCE", 0.1)
    with object_server() as server:
        store = Storage(f"{server.url}/runs/one")
        for step in range(1, STEPS + 1):
            upload(first / f"step-{step:06d}", store)
        run.mkdir()
        newest = f"step-{STEPS:06d}"
        last = max(server.objects)
        whole, server.objects[last] = server.objects[last], server.objects[last][:1000]
        with pytest.raises(ValueError, match=r"cut short|unexpected end|broken"):
            download(store, run)
        assert find_state("auto", run) is None
        server.objects[last] = whole
        open_run(run, resume=True)
        download(store, run)
        assert find_state("auto", run) == run / newest
        for path in (first / newest).rglob("*"):
            if path.is_file():
                copy = run / newest / path.relative_to(first / newest)
                assert copy.read_bytes() == path.read_bytes()
        upload(run / newest, store)  # of the six, only this one is still there
        upload(run / newest, store)
        assert len([name for name in server.objects if name.endswith(".tar")]) == STEPS + 1
    with pytest.raises(ValueError, match="earlier run: go on with --resume auto"):
        open_run(run, resume=False)
