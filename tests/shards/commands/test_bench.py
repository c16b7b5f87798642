"""The speed of a set."""

import re
from pathlib import Path

import pytest

from shards.__main__ import main


def test_a_bench_tells_how_fast_a_set_is(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--style", "synthetic", "--seconds", "0.2", "--num-frames", "2"]
    assert main(["bench", str(built), *options]) == 0
    output = capsys.readouterr().out
    speed = re.match(r"([\d.]+) clips/s, ([\d.]+) frames/s, (\d+) CPU ms/clip\n", output)
    assert speed
    clips_per_s, frames_per_s, cpu_ms_per_clip = map(float, speed.groups())
    assert frames_per_s == pytest.approx(2 * clips_per_s, abs=0.15)  # both are rounded to 0.1
    assert cpu_ms_per_clip > 0
    assert "requests per clip" in output
