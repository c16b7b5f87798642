"""Training that is killed, interrupted, short of space, or moved to other processes, goes on."""

import itertools
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
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
WAIT_S = 300
MAX_FILE_BYTES = 300_000  # less than a checkpoint's largest file
assert shapes  # a fixture


def arguments(shapes: Path, out: Path, *options: object) -> list[object]:
    """Train a small network that has no statistics over a batch, with dropped paths."""
    return [
        "synthetic",
        *("--out", out),
        *("--data.shards", shapes / "train"),
        *("--data.batch-size", 2),
        *("--backbone", "timm:test_convnext"),
        *("--optim.lr", 1e-5),
        *("--optim.backbone-lr", 1e-5),
        *("--optim.text-lr", 1e-5),
        *("--optim.warmup", 1),
        *("--optim.steps", STEPS),
        *("--save-every", 1),
        *("--tracker", "none"),
        *options,
    ]


def checkpoint_names(run: Path) -> set[str]:
    """Checkpoints of a run, those that are being written included."""
    return {path.name for path in run.glob("step-*")}


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{STEPS:06d}/model.safetensors")


def assert_same(run: Path, reference: Path) -> None:
    """The same losses and weights, bit for bit."""
    assert (run / "losses.csv").read_bytes() == (reference / "losses.csv").read_bytes()
    got = final_weights(run)
    want = final_weights(reference)
    assert got.keys() == want.keys()
    for name, weight in want.items():
        assert torch.equal(got[name], weight), name


def assert_alike(run: Path, reference: Path) -> None:
    """The same losses but for rounding, for runs on other numbers of processes."""
    for got, want in zip(losses(run), losses(reference), strict=True):
        # Without norms of gradients: AdamW's first steps blow up rounding in the tiny ones.
        terms = [name for name in want if "norm" not in name]
        expected = {name: float(want[name]) for name in terms}
        assert {name: float(got[name]) for name in terms} == pytest.approx(expected, rel=1e-5)


def wait_until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.005)


def wait_for_save(run: Path, before: set[str]) -> None:
    """Wait until a checkpoint begins that was not there."""
    wait_until(lambda: bool(checkpoint_names(run) - before), "no checkpoint came")


def count_rows(run: Path) -> int:
    return len(losses(run)) if (run / "losses.csv").is_file() else 0


def wait_for_update(run: Path, rows_before: int) -> None:
    """Wait until `losses.csv` has another row."""
    wait_until(lambda: count_rows(run) > rows_before, "no update came")


@pytest.fixture(scope="module")
def undisturbed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run folder by number of processes."""
    runs = {}
    for processes in (1, 2):
        runs[processes] = tmp_path_factory.mktemp("undisturbed") / "run"
        options = arguments(shapes, runs[processes], "--keep", STEPS)
        assert finish(start(processes, train_with, *options)) == [0] * processes
    steps = [row["step"] for row in losses(runs[1])]
    assert steps == [str(step) for step in range(1, STEPS + 1)]
    assert_alike(runs[2], runs[1])
    return runs


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    generator = random.Random(processes)
    kills_left = KILLS // processes
    # A run has room for so many kills only: what is left goes to another one.
    for number in itertools.count():
        run = tmp_path / f"run-{number}"
        options = arguments(shapes, run, "--resume", "auto")
        while kills_left and not (run / f"step-{STEPS:06d}").is_dir():
            before = checkpoint_names(run)
            group = start(processes, train_with, *options)
            wait_for_save(run, before)
            time.sleep(generator.uniform(0, 0.5))
            for process in group:
                process.kill()
            finish(group)
            kills_left -= 1
        assert finish(start(processes, train_with, *options)) == [0] * processes
        assert_same(run, undisturbed[processes])
        assert not list(run.glob("*.partial"))
        if not kills_left:
            break


def test_sigterm_saves_and_leaves_and_any_number_of_processes_goes_on(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for processes in (2, 1):
        before = checkpoint_names(run)
        rows_before = count_rows(run)
        options = arguments(shapes, run, "--resume", "auto", "--save-every", 100)
        group = start(processes, train_with, *options)
        wait_for_update(run, rows_before)
        last_pid = group[-1].pid
        assert last_pid is not None
        os.kill(last_pid, signal.SIGTERM)
        assert finish(group) == [train.INTERRUPTED] * processes
        assert len(checkpoint_names(run) - before) == 1
    options = arguments(shapes, run, "--resume", "auto")
    assert finish(start(2, train_with, *options)) == [0, 0]
    assert_alike(run, undisturbed[2])


def with_little_room(error_file: Path, *options: object) -> None:
    """Train where no file may have more bytes than this, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    try:
        train_with(*options)
    except OSError as error:
        error_file.write_text(str(error))


def test_a_full_disk_leaves_the_checkpoint_before(
    shapes: Path, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed[1], run)
    for step in range(3, STEPS + 1):
        shutil.rmtree(run / f"step-{step:06d}")
    error_file = tmp_path / "error"
    options = arguments(shapes, run, "--resume", "auto")
    finish(start(1, with_little_room, error_file, *options))
    assert error_file.read_text().startswith("step-000003 could not be saved")
    assert checkpoint_names(run) == {"step-000001", "step-000002"}


def test_a_copy_elsewhere_gives_the_run_back(
    undisturbed: dict[int, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = undisturbed[1]
    run = tmp_path / "new"
    newest = f"step-{STEPS:06d}"
    store = Storage("memory://copies")
    objects = fsspec.filesystem("memory")

    def tars() -> list[str]:
        names: list[str] = objects.ls("/copies", detail=False)
        return sorted(name for name in names if name.endswith(".tar"))

    for step in range(1, STEPS + 1):
        upload(source / f"step-{step:06d}", store)
    open_run(run, resume=True)

    # a broken copy is no checkpoint: the one before it is taken
    last_tar = tars()[-1]
    whole = objects.cat_file(last_tar)
    before = f"step-{STEPS - 1:06d}"
    for broken in (whole[:1000], b""):
        objects.pipe_file(last_tar, broken)
        download(store, run)
        assert f"the copy of {newest} is broken" in caplog.text
        caplog.clear()
        assert checkpoint_names(run) == {before}
        shutil.rmtree(run / before)

    # a whole one is the checkpoint, byte for byte
    objects.pipe_file(last_tar, whole)
    download(store, run)
    assert find_state("auto", run) == run / newest
    for path in (source / newest).rglob("*"):
        if path.is_file():
            copy = run / newest / path.relative_to(source / newest)
            assert copy.read_bytes() == path.read_bytes()

    # only this checkpoint is in the new run folder: from now on two files take turns
    for _ in range(3):
        upload(run / newest, store)
    assert len(tars()) == STEPS + 1
    with pytest.raises(ValueError, match="earlier run: go on with --resume auto"):
        open_run(run, resume=False)
