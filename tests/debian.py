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
    """Get what is missing.

    Args:
        packages: package of each program.

    Raises:
        MissingError: it cannot be installed here.
    """
    if all(map(shutil.which, packages)):
        return
    with (Path(tempfile.gettempdir()) / "sgmg-tests-apt-get").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test process at a time
        _install([package for program, package in packages.items() if not shutil.which(program)])


def _install(missing: list[str]) -> None:
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise MissingError(f"no {', '.join(missing)}; installing them takes apt-get and root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", "-q", *command], env=environment, capture_output=True, timeout=600
        )
        if done.returncode:
            raise MissingError(f"apt-get {command[0]} failed: {done.stderr.decode()[-200:]}")
