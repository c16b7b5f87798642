"""A small HTTP object server that can misbehave: ranges, and enough of S3 for small uploads."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# gets the handler and the bytes asked for; gives those to send, or None if it answered itself
Fault = Callable[["Handler", bytes], bytes | None]
HANG_S = 3.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "ObjectServer"

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        name = self.path.partition("?")[0]
        self.server.log.append((self.command, name, self.headers.get("Range")))
        data = self.server.objects.get(name)
        if data is None:
            self.answer(404)
            return
        fault = None
        if body and self.server.faults:
            fault = self.server.faults.pop(0)
        part = data
        status = 200
        headers = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT"}
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range is not None:
            start = int(byte_range[1])
            last = int(byte_range[2] or len(data) - 1)
            part = data[start : last + 1]
            status = 206
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        sent = part if fault is None else fault(self, part)
        if sent is not None:  # else the fault has answered
            self.answer(status, sent if body else b"", len(part), headers)

    def do_PUT(self) -> None:
        self.server.log.append((self.command, self.path, None))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.partition("?")[0]
        with self.server.writing:
            if self.headers.get("If-None-Match") == "*" and name in self.server.objects:
                self.answer(412)
                return
            self.server.objects[name] = data
        self.answer(200, headers={"ETag": '"e"'})

    def do_DELETE(self) -> None:
        self.server.log.append((self.command, self.path, None))
        self.server.objects.pop(self.path.partition("?")[0], None)
        self.answer(204)

    def do_POST(self) -> None:
        """Remove several objects: S3's DeleteObjects."""
        self.server.log.append((self.command, self.path, None))
        request = self.rfile.read(int(self.headers["Content-Length"])).decode()
        bucket = self.path.partition("?")[0].rstrip("/")
        for key in re.findall("<Key>(.*?)</Key>", request):
            self.server.objects.pop(f"{bucket}/{key}", None)
        self.answer(200, b"<DeleteResult></DeleteResult>")

    def answer(
        self,
        status: int,
        data: bytes = b"",
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        if length is not None and len(data) < length and self.command == "GET":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class ObjectServer(ThreadingHTTPServer):
    """Objects by their path, faults for the next bodies, and a log of requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.writing = threading.Lock()
        self.faults: list[Fault | None] = []
        self.log: list[tuple[str, str, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def unavailable(handler: Handler, part: bytes) -> None:
    handler.answer(503)


def forbidden(handler: Handler, part: bytes) -> None:
    handler.answer(403, b"<Error><Code>AccessDenied</Code></Error>")


def cut_short(handler: Handler, part: bytes) -> bytes:
    return part[: len(part) // 2]


def flipped(handler: Handler, part: bytes) -> bytes:
    return part[:-1] + bytes([part[-1] ^ 1])


def hanging(handler: Handler, part: bytes) -> bytes:
    time.sleep(HANG_S)
    return part
