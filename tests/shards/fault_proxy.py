"""An HTTP proxy that spoils answers: 503, resets, truncation, flipped bits, hangs."""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

# share of ranged reads that get each fault
RATES = {"503": 0.05, "reset": 0.02, "truncation": 0.01, "flip": 0.005, "hang": 0.002}


HANG_S = 60


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FaultProxy"

    def do_HEAD(self) -> None:
        self.relay(None)

    def do_GET(self) -> None:
        self.relay(self.server.next_fault() if "Range" in self.headers else None)

    def relay(self, fault: str | None) -> None:
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "hang" and self.server.closing.wait(HANG_S):
            return
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=30)
        upstream.request(self.command, self.path, headers=dict(self.headers.items()))
        answer = upstream.getresponse()
        body = bytearray(answer.read())
        upstream.close()
        if fault == "flip" and answer.status == 206:
            position = self.server.random.randrange(len(body))
            body[position] ^= 1 << self.server.random.randrange(8)
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            name = self.path.partition("?")[0].rpartition("/")[2]
            self.server.flips.append(Flip(name, start + position))
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        if fault in ("reset", "truncation"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)  # on, for 0 s: closing sends a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            return
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Flip(NamedTuple):
    """A flipped bit: the file and the position of its byte."""

    name: str
    offset: int


class FaultProxy(ThreadingHTTPServer):
    """Relays to `upstream`; of every thousand ranged reads the faults of `RATES`, shuffled.

    A run shorter than that still has one of each fault among its first requests.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: tuple[str, int], requests: int, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.random = random.Random(seed)
        faults: list[str] = []
        for fault, rate in RATES.items():
            faults += [fault] * max(1, round(rate * requests))
        self.schedule: list[str | None] = [*faults, *[None] * (requests - len(faults))]
        self.random.shuffle(self.schedule)
        self.counts: Counter[str | None] = Counter()  # faults that were made
        self.flips: list[Flip] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.spoil = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self) -> str | None:
        with self.lock:
            if not self.spoil:
                return None
            fault = self.schedule.pop() if self.schedule else None
            self.counts[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is what the tests are about."""


@contextmanager
def fault_proxy(upstream: tuple[str, int], requests: int) -> Iterator[FaultProxy]:
    with FaultProxy(upstream, requests) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()
