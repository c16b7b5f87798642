"""Debian packages that tests need, installed where that is possible."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path


class MissingError(RuntimeError):
    """Why something that a test needs is not there."""


def install(packages: Mapping[str, str]) -> None:
    """Install the packages of programs that are missing.

    Args:
        packages: Package of each program.

    Raises:
        MissingError: If they cannot be installed here.
    """
    if not missing_packages(packages):
        return
    with (Path(tempfile.gettempdir()) / "sgmg-tests-apt-get").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test process at a time
        # looked up again: another process may have installed them while this one waited
        missing = missing_packages(packages)
        if missing:
            _apt_get(missing)


def missing_packages(packages: Mapping[str, str]) -> list[str]:
    return [package for program, package in packages.items() if shutil.which(program) is None]


def _apt_get(missing: list[str]) -> None:
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise MissingError(f"no {', '.join(missing)}; installing them takes apt-get and root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        result = subprocess.run(
            ["apt-get", "-q", *command], env=environment, capture_output=True, timeout=600
        )
        if result.returncode != 0:
            raise MissingError(f"apt-get {command[0]} failed: {result.stderr.decode()[-200:]}")
