"""The module as a command: it dispatches, and tells an error in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from shards.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_a_half_built_set_is_one_line_and_a_failure(
    copy: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (copy / "manifest.json").unlink()
    assert main([command, str(copy)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert "run its build again" in output.err
    assert output.err.count("\n") == 1


def test_the_module_is_a_command(built: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "shards", "verify", str(built / "nothing")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'webdataset', 'nvidia.dali', 'pandas', 'obstore'}"
    code = f"import sys, shards; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
