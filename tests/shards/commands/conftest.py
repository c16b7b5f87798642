"""Small sets to look at."""

import shutil
from pathlib import Path

import pytest

from tests.shards.sample_videos import build_toy, toy_keys


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of nine videos, and one that was skipped; not to be changed."""
    out = tmp_path_factory.mktemp("built")
    build_toy(out, [*toy_keys(), "toy-bad-01"], on_error="skip")
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))
