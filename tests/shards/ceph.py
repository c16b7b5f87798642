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
    """A port nobody listens on; somebody may take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_ready: Callable[[], bool], name: str, timeout_s: float = 300.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_ready():
        if time.monotonic() > end:
            raise MissingError(f"{name} was not ready within {timeout_s:.0f} s")
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
    gateway_port = free_port()
    monitor_port = free_port()
    cluster_id = str(uuid.uuid4())
    config = ["-c", str(folder / "ceph.conf")]
    text = CONFIG.format(fsid=cluster_id, mon=monitor_port, rgw=gateway_port, folder=folder)
    (folder / "ceph.conf").write_text(text)
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    running: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> None:
        result = subprocess.run(command, capture_output=True, timeout=90)
        if result.returncode != 0:
            raise MissingError(f"{command[0]}: {result.stderr.decode()[-300:]}")

    def serve(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        running.append(process)

    def keep(*command: str, until: Callable[[], bool]) -> None:
        """Start again if it ends: it may do so when it meets a monitor that has just begun."""

        def is_ready() -> bool:
            if running[-1].poll() is not None:
                serve(*command)
            return until()

        serve(*command)
        wait_until(is_ready, command[0])

    keyring = str(folder / "keyring")
    monitor_rights = ("--cap", "mon", "allow *")
    store_rights = ("--cap", "osd", "allow *")
    make_key = ("ceph-authtool", keyring, "--gen-key")
    try:
        run(*make_key, "--create-keyring", "-n", "mon.", *monitor_rights)
        run(*make_key, "-n", "client.admin", *monitor_rights, *store_rights)
        monitors = str(folder / "monmap")
        address = f"[v1:127.0.0.1:{monitor_port}]"
        make_map = ("monmaptool", "--create", "--clobber", "--fsid", cluster_id)
        run(*make_map, "--addv", "a", address, monitors)
        run("ceph-mon", *config, "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        serve("ceph-mon", *config, "-i", "a", "-f")
        # a store that starts before the monitor answers gives up
        wait_until(lambda: b"osds" in status(config), "the monitor")
        run("ceph-osd", *config, "-i", "0", "--mkfs")
        keep("ceph-osd", *config, "-i", "0", "-f", until=lambda: b"1 up" in status(config))
        endpoint = f"http://127.0.0.1:{gateway_port}"
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
