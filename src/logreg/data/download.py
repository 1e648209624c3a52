"""Downloads of files: a file is complete and has the right checksum, or it does not exist."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from logreg import __version__
from logreg.files import passing_file, whole_file
from logreg.terminal import format_bytes, on_one_line, terminal

TIMEOUT_S = 30.0
"""Time without an answer, in seconds, after which a server counts as unreachable."""

MIN_BYTES_PER_S = 1024
"""Speed below which a connection counts as stalled, in bytes per second, as a mean over ``TIMEOUT_S``."""

CHUNK_BYTES = 2**18
"""Largest number of bytes that are read at once."""

MIN_PROGRESS_BYTES = 50_000_000
"""Size of a file, in bytes, from which its progress is printed where stderr is no terminal."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on one or several servers."""

    urls: tuple[str, ...]
    """Its addresses, in the order in which they are tried."""
    digest: str
    """Its MD5, or the first digits of its SHA-256, hexadecimal; empty where it is unknown."""

    @property
    def folder(self) -> str:
        """The first address without the file name."""
        return self.urls[0].rpartition("/")[0] + "/"


def print_line(line: str) -> None:
    """Prints a line to stderr at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def download_lock(folder: Path, label: str) -> Iterator[None]:
    """A lock, so that only one process of a user downloads into a folder at a time.

    The lock file lies in the folder for temporary files, since ``folder`` is made only when a file is put there.

    Args:
        folder: Folder of the downloads.
        label: Name of the downloads, for the message to a user who has to wait.
    """
    from filelock import FileLock, Timeout  # a slow import, which a start without downloads can do without

    owner = os.getuid() if hasattr(os, "getuid") else 0
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f".logreg-{owner}-{digest}-{label}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print_line(f"{label}: another process is downloading it; waiting until it ends")
        lock.acquire()
    try:
        with passing_file(path):  # waiting processes continue with another lock file
            yield
    finally:
        lock.release()


class DownloadError(Exception):
    """A file could not be downloaded from any server; the message has the reasons."""


def fetch(remote: RemoteFile, path: Path) -> None:
    """Downloads a file.

    Args:
        remote: The file to download.
        path: The file to write; missing folders are created.

    Raises:
        DownloadError: No server has the file, or all have a wrong one.
        OSError: The file cannot be written.
    """
    reasons = []
    for url in remote.urls:
        try:
            with whole_file(path) as file, closing(_chunks(url, path, remote.digest)) as chunks:
                for chunk in chunks:
                    file.write(chunk)
            return
        except DownloadError as error:
            reasons.append(f"{urlsplit(url).netloc}: {error}")
    raise DownloadError(f"{path.name}: {'; '.join(reasons)}")


def _chunks(url: str, path: Path, digest: str) -> Generator[bytes]:
    """The content of a file on a server, in chunks.

    Raises:
        DownloadError: The server does not answer, or sends an incomplete or wrong file.
        OSError: There is too little space on the disk.
    """
    from http.client import HTTPException, HTTPResponse
    from urllib.request import Request, urlopen

    def request_from_server(call: Callable[..., Any], *arguments: object, **named: object) -> Any:
        try:
            return call(*arguments, **named)
        except (OSError, HTTPException, ValueError) as error:
            raise DownloadError(_reason(error)) from error

    request = Request(url, headers={"User-Agent": f"logreg/{__version__}"})
    response: HTTPResponse
    with request_from_server(urlopen, request, timeout=TIMEOUT_S) as response:
        total = response.length
        free = shutil.disk_usage(path.parent).free
        if total is not None and total > free:
            raise OSError(errno.ENOSPC, f"{path.name} has {format_bytes(total)}, and {format_bytes(free)} are free")
        checksum = hashlib.new("md5" if len(digest) == 32 else "sha256", usedforsecurity=False)
        received, before, since = 0, 0, time.monotonic()
        with _progress(path.name, total) as advance:
            while chunk := request_from_server(response.read1, CHUNK_BYTES):
                yield chunk
                checksum.update(chunk)
                received += len(chunk)
                advance(len(chunk))
                if (seconds := time.monotonic() - since) > TIMEOUT_S:
                    if received - before < MIN_BYTES_PER_S * seconds:
                        raise DownloadError(_reason(TimeoutError()))
                    since, before = time.monotonic(), received
    if total is not None and received < total:
        raise DownloadError(f"the connection broke after {received:,} of {total:,} bytes")
    if not checksum.hexdigest().startswith(digest):
        raise DownloadError(f"the file is broken: its checksum is not {digest}")


def _reason(error: Exception) -> str:
    """The reason why a server did not send a file, in a few words."""
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    inner = getattr(error, "reason", error)  # the cause of a URLError
    if isinstance(inner, TimeoutError):
        return f"no answer for {TIMEOUT_S:g} seconds"
    return on_one_line(getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).rstrip(".")


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a download: as a bar where stderr is a terminal, otherwise as a few lines.

    Yields:
        A function that adds a number of received bytes.
    """
    if sys.stderr.isatty():
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = [TextColumn("{task.description}"), BarColumn(12), DownloadColumn(), TransferSpeedColumn()]
        with Progress(*columns, TimeRemainingColumn(), console=terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=total)
            yield lambda count: bar.advance(task, count)
        return
    print_line(f"  {name}" + (f", {format_bytes(total)}" if total is not None else ""))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if total is not None and total >= MIN_PROGRESS_BYTES and (quarter := 4 * done // total) > 4 * before // total:
            print_line(f"  {name}: {25 * quarter} %")

    yield advance
