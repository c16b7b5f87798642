"""Verification: a whole set passes, every damaged shard is named."""

from pathlib import Path

import pytest

from shards.__main__ import main


def test_a_whole_set_is_called_whole(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(built)]) == 0
    assert "whole, 4 shards, 9 videos (sizes and indexes" in capsys.readouterr().out
    assert main(["verify", str(built), "--full"]) == 0
    assert "every byte checked" in capsys.readouterr().out


def test_full_verification_names_every_damaged_shard(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tar in sorted(copy.glob("*.tar"))[1:3]:
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    assert main(["verify", str(copy)]) == 0
    assert main(["verify", str(copy), "--full"]) == 1
    errors = capsys.readouterr().err
    assert "000000-of" not in errors
    assert "000001-of-000004.tar: its SHA-256 is not the manifest's" in errors
    assert "000002-of-000004.tar: its SHA-256" in errors
