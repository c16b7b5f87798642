"""One video as tables."""

from pathlib import Path

import pytest

from shards.__main__ import main
from shards.format.shard_set import ShardSet


def test_inspect_shows_one_video(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(built), "--key", "toy-05"]) == 0
    output = capsys.readouterr().out
    assert "toy-05  (toy-05.id)  36 x 52, toy-train-" in output
    assert "0           side  2        the dog on the left" in output
    lines = [line.split() for line in output.splitlines() if line[:1].isdigit()]
    frames = [line for line in lines if "jpg" in line]
    assert [line[1] for line in frames] == ["00000", "00005", "00010", "00015", "00020", "00025"]
    assert [line[6:] for line in frames] == [
        ["1"],
        ["1"],
        ["?"],
        ["2", "1"],
        ["2", "1"],
        ["2", "1"],
    ]
    assert main(["inspect", str(built)]) == 0
    assert ShardSet.open(str(built)).videos[0].key in capsys.readouterr().out
    assert main(["inspect", str(built), "--key", "none"]) == 1
    assert "has no video 'none'" in capsys.readouterr().err
