"""Benchmarks that must not rot, at a size that takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_gpu_check_runs_anywhere() -> None:
    figures = run("gpu_check.py", "--small")
    assert figures["ClipLoader, cpu: frames/s"] > 0
    assert figures["DataLoader, PIL, 1: CPU s / 1000"] > 0
    for precision in ("float32", "bfloat16"):
        assert figures[f"training, {precision}: step s"] > 0
        assert 0 <= figures[f"training, {precision}: data wait"] <= 1
        assert figures[f"inference, {precision}: frames/s"] > 0
    losses = [figures[f"training, {it}: first loss"] for it in ("float32", "bfloat16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert figures["inference, bfloat16: mask IoU"] > 0.8


def test_blocks_shuffle_like_a_full_permutation() -> None:
    figures = run("shuffle.py", "--videos", "900", "--shards", "30", "--block", "6")
    assert figures["same_video_share_ratio"] == pytest.approx(1, abs=0.05)
    assert figures["displacement_ratio"] == pytest.approx(1, abs=0.05)
