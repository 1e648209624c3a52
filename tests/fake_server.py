"""A web server at 127.0.0.1 that gives files well or badly."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
            # longer than any client waits: it goes before
            for place in range(len(data) // 2, len(data) if self.manner in ("drips", "slowly") else 0):
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


@contextmanager
def serving_bucket(folder: Path) -> Iterator[str]:
    """The address of a server that gives the files of a folder as the bucket ``bucket`` of Google's storage, by JSON.

    It runs in a process of its own, since Arrow opens files without giving other threads of Python a turn.

    References:
        Google, Cloud Storage JSON API, https://cloud.google.com/storage/docs/json_api/v1
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            wanted = dict(urllib.parse.parse_qsl(query))
            _, of_bucket, name = urllib.parse.unquote(path).partition("/b/bucket/o")
            file = folder / name.removeprefix("/")
            if of_bucket and not name:
                names = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())
                self.say({"items": [described(one) for one in names if one.startswith(wanted["prefix"])]})
            elif not (of_bucket and file.is_file()):
                self.say({"error": {"code": 404, "message": "not found"}}, 404)
            elif wanted.get("alt") != "media":
                self.say(described(name.removeprefix("/")))
            else:
                content = file.read_bytes()
                first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
                end = min(int(last or len(content)) + 1, len(content))
                where = {"Content-Range": f"bytes {first}-{end - 1}/{len(content)}"}
                self.say(content[int(first) : end], 206, where)

        def say(self, body: dict[str, object] | bytes, code: int = 200, more: Mapping[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for header, value in {"Content-Length": str(len(content)), **(more or {})}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def described(name: str) -> dict[str, object]:
        state = (folder / name).stat()
        changed = datetime.fromtimestamp(state.st_mtime, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        sizes = {"size": str(state.st_size), "generation": str(state.st_mtime_ns // 1000), "metageneration": "1"}
        return {"name": name, "bucket": "bucket", "updated": changed, "timeCreated": changed, **sizes}

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = multiprocessing.get_context("fork").Process(target=listening.serve_forever, daemon=True)
        server.start()
        yield f"127.0.0.1:{listening.server_port}"
        server.terminate()
        server.join()
