"""A real S3 server on loopback: Ceph's radosgw with one monitor and one store, all in memory."""

import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.debian import MissingError, install

PROGRAMS = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "radosgw": "radosgw"}
CONFIG = """
[global]
fsid = {fsid}
mon initial members = a
mon host = v1:127.0.0.1:{mon}
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
osd objectstore = memstore
memstore device bytes = 1073741824
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
mon data = {folder}/mon
osd data = {folder}/osd
keyring = {folder}/keyring
rgw data = {folder}/rgw
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{rgw}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise MissingError(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def status(config: list[str]) -> bytes:
    """What the monitor knows of the store: the gateway gives up if it starts before it."""
    command = ["timeout", "20", "ceph", *config, "osd", "stat"]
    return subprocess.run(command, capture_output=True).stdout


@contextmanager
def ceph(folder: Path) -> Iterator[str]:
    """Start; yields the endpoint of a user with the keys AK and SK. Raises MissingError."""
    install(PROGRAMS)
    port, mon = free_port(), free_port()
    config = ["-c", str(folder / "ceph.conf")]
    text = CONFIG.format(fsid=(fsid := str(uuid.uuid4())), mon=mon, rgw=port, folder=folder)
    (folder / "ceph.conf").write_text(text)
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    running: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, timeout=90)
        if done.returncode:
            raise MissingError(f"{command[0]}: {done.stderr.decode()[-300:]}")

    def serve(*command: str) -> None:
        log = (folder / f"{command[0]}.out").open("wb")
        running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        log.close()

    def keep(*command: str, until: Callable[[], bool]) -> None:
        """Start again if it ends: it may do so when it meets a monitor that has just begun."""

        def ready() -> bool:
            if running[-1].poll() is not None:
                serve(*command)
            return until()

        serve(*command)
        wait_until(ready, command[0])

    key, caps = str(folder / "keyring"), ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
    try:
        run("ceph-authtool", "--create-keyring", key, "--gen-key", "-n", "mon.", *caps[:3])
        run("ceph-authtool", key, "--gen-key", "-n", "client.admin", *caps)
        table = str(folder / "monmap")
        at = f"[v1:127.0.0.1:{mon}]"
        run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", at, table)
        run("ceph-mon", *config, "--mkfs", "-i", "a", "--monmap", table, "--keyring", key)
        serve("ceph-mon", *config, "-i", "a", "-f")
        wait_until(lambda: b"osds" in status(config), "the monitor")  # a store before it gives up
        run("ceph-osd", *config, "-i", "0", "--mkfs")
        keep("ceph-osd", *config, "-i", "0", "-f", until=lambda: b"1 up" in status(config))
        endpoint = f"http://127.0.0.1:{port}"
        keep("radosgw", *config, "-n", "client.rgw.a", "-f", until=lambda: answers(endpoint))
        user = ("--uid=t", "--display-name=t", "--access-key=AK", "--secret-key=SK")
        run("radosgw-admin", *config, "user", "create", *user)
        yield endpoint
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(str(error)) from None
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGKILL)
            process.wait()
