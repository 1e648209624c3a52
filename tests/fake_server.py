"""A web server at 127.0.0.1 that gives files well or badly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """A server of files, whose behavior can be set at any time."""

    folder: Path
    """Folder in which files are found by name."""
    manner: str = "well"
    """Manner of the answers: well, without_length, moved, missing, cut, broken, stalls, drips, or slowly."""
    address: str = ""
    requested: list[str] = field(default_factory=list)
    """Names of the files, in the order of the requests."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        if self.manner == "moved" and not request.path.startswith("/moved/"):
            request.send_response(302)
            request.send_header("Location", f"/moved/{name}")
            request.end_headers()
            return
        self.requested.append(name)
        found = next(self.folder.rglob(name), None)
        if found is None or self.manner == "missing":
            request.send_error(404)
            return
        data = found.read_bytes()
        if self.manner == "broken":
            data = data[:-1] + bytes([data[-1] ^ 1])
        request.send_response(200)
        if self.manner != "without_length":
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if self.manner in ("cut", "stalls", "drips", "slowly"):
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            for place in range(len(data) // 2, len(data) // 2 + 200 if self.manner in ("drips", "slowly") else 0):
                time.sleep(0.02)
                request.wfile.write(data[place : place + 1])
            time.sleep(2 if self.manner == "stalls" else 0)
        else:
            request.wfile.write(data)


@contextmanager
def serving(folder: Path, manner: str = "well") -> Iterator[Server]:
    server = Server(folder, manner)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the client has closed the connection
                server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.block_on_close = False
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # the default would print into a later test
        server.address = f"http://127.0.0.1:{listening.server_port}/files/"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        listening.shutdown()
