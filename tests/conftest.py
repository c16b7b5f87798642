"""Options and fixtures that every test may use."""

import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; torch is not imported yet
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=REPOSITORY / "tests" / "golden" / "data",
        help="folder with reference numbers (cases.json, *.npz); default: tests/golden/data",
    )
    parser.addoption(
        "--deviations",
        action="store_true",
        help="print the largest deviation of every golden group, as a Markdown table",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the deviations of a worker of pytest-xdist, for the table."""
    deviations = getattr(node, "workeroutput", {}).get("deviations")
    if not deviations:
        return
    from tests.golden.fixtures import note

    for group, bound, deviation in deviations:
        note(group, bound, deviation)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--deviations"):
        from tests.golden.fixtures import MEASURED, table_of_deviations

        if MEASURED:
            terminalreporter.write_line("")
            terminalreporter.write_line(table_of_deviations())


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with genuine data-set files (`realdata/`); skips the test where it is absent."""
    folder = Path(os.environ.get("SGMG_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "realdata").is_dir():
        pytest.skip(
            f"no genuine data: {folder} has no realdata/ (set SGMG_SHARED to a folder that has)"
        )
    return folder


@pytest.fixture(autouse=True)
def _gpu_only_where_there_is_one(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
