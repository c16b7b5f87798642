"""Fixtures of the golden tests; everything that varies is read from the folder's cases.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden.fixtures import MEASURED, Cases, Entry, read_fixture


class Groups(dict[str, Any]):
    """Groups of cases by name; a test of one that the folder does not have is skipped."""

    def __missing__(self, name: str) -> Any:
        pytest.skip(f"cases.json of this folder has no {name}")


def _read_cases(config: pytest.Config) -> tuple[Path, Cases]:
    folder = config.getoption("--golden").expanduser()
    path = folder / "cases.json"
    if not path.is_file():
        raise pytest.UsageError(f"--golden {folder}: no cases.json there")
    cases = Groups(json.loads(path.read_text()))
    return folder, cases | {"modules": Groups(cases.get("modules", {}))}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`backbone_case` = (published name, tag); `{text,model,training}_case` = file name."""
    folder, cases = _read_cases(metafunc.config)
    tags = [(name, tag) for name, case in cases.get("backbones", {}).items() for tag in case]
    if "backbone_case" in metafunc.fixturenames:
        metafunc.parametrize("backbone_case", tags, ids=["-".join(tag) for tag in tags])
    if "text_case" in metafunc.fixturenames:
        files = sorted(path.stem for path in folder.glob("text_encoder_*layer.npz"))
        metafunc.parametrize("text_case", files)
    for fixture, part in (("model_case", "models"), ("training_case", "training")):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(cases.get(part, {})))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its deviations in."""
    if hasattr(session.config, "workeroutput"):
        deviations = [(*key, deviation) for key, deviation in MEASURED.items()]
        session.config.workeroutput["deviations"] = deviations


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> Path:
    return _read_cases(pytestconfig)[0]


@pytest.fixture(scope="session")
def cases(pytestconfig: pytest.Config) -> Cases:
    return _read_cases(pytestconfig)[1]


@pytest.fixture(scope="session")
def golden(golden_dir: Path) -> Callable[[str], dict[str, Entry]]:
    """`golden("mod_mso")["out"]`: entries of one npz; skips where the folder does not have it."""

    def read(name: str) -> dict[str, Entry]:
        path = golden_dir / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{golden_dir} has no {path.name}")
        return read_fixture(path)

    return read


@pytest.fixture(scope="session")
def table(golden_dir: Path) -> Callable[[str], Any]:
    """`table("post")`: what one json holds; skips where the folder does not have it."""

    def read(name: str) -> Any:
        path = golden_dir / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{golden_dir} has no {path.name}")
        return json.loads(path.read_text())

    return read
