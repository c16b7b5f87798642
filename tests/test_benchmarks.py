"""Benchmarks that must not rot, at a size that takes seconds."""

import json
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.processes import finish, fork

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def program(name: str, output: Path, *arguments: str) -> None:
    """A benchmark as its own main program; what it prints goes to a file."""
    sys.path.insert(0, str(BENCHMARKS))
    sys.argv = [name, *arguments]
    with output.open("w") as file, redirect_stdout(file):
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def run(output: Path, name: str, *arguments: str) -> dict[str, float]:
    assert finish([fork(program, name, output, *arguments)]) == [0]
    figures: dict[str, float] = json.loads(output.read_text().splitlines()[-1])
    return figures


def test_gpu_check_runs_anywhere(tmp_path: Path) -> None:
    figures = run(tmp_path / "output", "gpu_check.py", "--small")
    assert figures["ClipLoader, cpu: frames/s"] > 0
    assert figures["DataLoader, PIL, 1: CPU s / 1000"] > 0
    for precision in ("float32", "bfloat16"):
        assert figures[f"training, {precision}: step s"] > 0
        assert 0 <= figures[f"training, {precision}: data wait"] <= 1
        assert figures[f"inference, {precision}: frames/s"] > 0
    loss = figures["training, float32: first loss"]
    assert loss == pytest.approx(figures["training, bfloat16: first loss"], rel=0.05)
    assert figures["inference, bfloat16: mask IoU"] > 0.8


def test_blocks_shuffle_like_a_full_permutation(tmp_path: Path) -> None:
    arguments = ("--videos", "900", "--shards", "30", "--block", "6")
    figures = run(tmp_path / "output", "shuffle.py", *arguments)
    assert figures["same_video_share_ratio"] == pytest.approx(1, abs=0.05)
    assert figures["displacement_ratio"] == pytest.approx(1, abs=0.05)
