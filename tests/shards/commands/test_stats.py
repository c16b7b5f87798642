"""Counts of a set."""

from pathlib import Path

import pytest
from PIL import Image

from shards.__main__ import main
from shards.format.shard_set import ShardSet


def test_stats_counts(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(built)]) == 0
    output = capsys.readouterr().out
    counts = ShardSet.open(str(built)).manifest.counts
    for name in ("videos", "frames", "expressions"):
        assert f"{name:<16}  {getattr(counts, name):,}" in output
    quantiles = next(line for line in output.splitlines() if line.startswith("frames a video"))
    assert quantiles.split()[-5:] == ["1", "2", "3", "4", "6"]
    assert "the (18)" in output
    assert "side (9)" in output
    assert "36 x 52 (9)" in output
    assert "skipped toy-bad-01: " in output


def test_stats_are_drawn_if_asked(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stats.png"
    assert main(["stats", str(built), "--plot", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")
    with Image.open(path) as picture:
        assert picture.size == (1200, 300)  # three histograms
