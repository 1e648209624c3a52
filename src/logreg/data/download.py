"""Files from the network: each one whole and right, or not there at all."""

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
from logreg.terminal import on_one_line, terminal

PATIENCE = 30.0
"""Seconds without an answer, or with next to nothing, after which a server counts as absent."""

SLOWEST = 1024
"""Bytes per second; a connection that brings less has stalled."""

PART = 2**18
"""Bytes at most that are taken at once."""

LARGE = 50_000_000
"""Bytes from which on a file's progress is told by lines, where there is no bar."""


@dataclass(frozen=True)
class Remote:
    """A file that others offer."""

    urls: tuple[str, ...]
    """Where it is, the first to be asked first."""
    digest: str
    """Hexadecimal: its MD5, or the first digits of its SHA-256; empty if nobody knows."""

    @property
    def folder(self) -> str:
        """What comes before the file's name in the first address."""
        return self.urls[0].rpartition("/")[0] + "/"


def size(count: float) -> str:
    """Bytes as people say them.

    Example:
        >>> size(2_640_397_119), size(11_594_722), size(28_881)
        ('2.6 GB', '11.6 MB', '29 kB')
    """
    for unit, factor, digits in (("GB", 1e9, 1), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if count >= factor:
            return f"{count / factor:,.{digits}f} {unit}"
    return f"{count:,.0f} bytes"


def say(line: str) -> None:
    """A line to whoever waits."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def alone(folder: Path, label: str) -> Iterator[None]:
    """One process of a user on this machine at a time.

    The lock is no file in the folder, which is made by whoever has something to put there.

    Args:
        folder: Where files will be.
        label: What they are, for those who wait.
    """
    from filelock import FileLock, Timeout  # as long to import as all the rest of a second start

    owner = os.getuid() if hasattr(os, "getuid") else 0
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f".logreg-{owner}-{digest}-{label}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"{label}: another process is downloading it, waiting for its end")
        lock.acquire()
    try:
        with passing_file(path):  # those who wait go on with one of their own
            yield
    finally:
        lock.release()


class NoAnswer(Exception):
    """No server gave a file, and why."""


def fetch(remote: Remote, path: Path) -> None:
    """Downloads a file.

    Args:
        remote: What to download.
        path: Where it shall be.

    Raises:
        NoAnswer: No server gave it, or not the right one.
        OSError: There is no place for it.
    """
    reasons = []
    for url in remote.urls:
        try:
            with whole_file(path) as file, closing(_parts(url, path, remote.digest)) as parts:
                for part in parts:
                    file.write(part)
            return
        except NoAnswer as error:
            reasons.append(f"{urlsplit(url).netloc}: {error}")
    raise NoAnswer(f"{path.name}: {'; '.join(reasons)}")


def _parts(url: str, path: Path, digest: str) -> Generator[bytes]:
    """A file as it comes from a server.

    Raises:
        NoAnswer: It does not come, or not whole, or is another file.
        OSError: There is no room for it.
    """
    from http.client import HTTPException, HTTPResponse
    from urllib.request import Request, urlopen

    def told(ask: Callable[..., Any], *arguments: object, **named: object) -> Any:
        try:
            return ask(*arguments, **named)
        except (OSError, HTTPException, ValueError) as error:
            raise NoAnswer(_reason(error)) from error

    request = Request(url, headers={"User-Agent": f"logreg/{__version__}"})
    response: HTTPResponse
    with told(urlopen, request, timeout=PATIENCE) as response:
        total = response.length
        free = shutil.disk_usage(path.parent).free
        if total is not None and total > free:
            raise OSError(errno.ENOSPC, f"{path.name} has {size(total)}, and {size(free)} are free")
        checksum = hashlib.new("md5" if len(digest) == 32 else "sha256", usedforsecurity=False)
        received, before, since = 0, 0, time.monotonic()
        with _progress(path.name, total) as advance:
            while part := told(response.read1, PART):
                yield part
                checksum.update(part)
                received += len(part)
                advance(len(part))
                if (seconds := time.monotonic() - since) > PATIENCE:
                    if received - before < SLOWEST * seconds:
                        raise NoAnswer(_reason(TimeoutError()))
                    since, before = time.monotonic(), received
    if total is not None and received < total:
        raise NoAnswer(f"the connection broke after {received:,} of {total:,} bytes")
    if not checksum.hexdigest().startswith(digest):
        raise NoAnswer(f"what came is broken, its checksum is not {digest}")


def _reason(error: Exception) -> str:
    """Why a server did not give a file, in a few words."""
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        return f"{error.code} {error.reason}"
    inner = getattr(error, "reason", error)  # of a URLError
    if isinstance(inner, TimeoutError):
        return f"no answer for {PATIENCE:g} seconds"
    return on_one_line(getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).rstrip(".")


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Tells how far a download is: by a bar where somebody watches stderr, by lines where a file does.

    Yields:
        What takes the number of bytes that came last.
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
    say(f"  {name}" + (f", {size(total)}" if total is not None else ""))
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if total is not None and total >= LARGE and (quarter := 4 * done // total) > 4 * before // total:
            say(f"  {name}: {25 * quarter} %")

    yield tell
