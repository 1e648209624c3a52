"""Files that are written whole or not at all, whatever ends the process; names that any disk takes."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from logreg.errors import ConfigError
from logreg.terminal import on_one_line

LONGEST_NAME = 255
"""Bytes of a file's name on most file systems."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file, whole or not at all: readers see the old or the new one.

    Args:
        path: Where the file shall be.
        write: Is given the open binary file.
    """
    with whole_file(path) as file:
        write(file)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file beside its place, which is moved there at the end, and removed if there is none."""
    with unfinished(path) as temporary:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


_UNFINISHED: set[Path] = set()
"""Files that are being written, and folders that were made for them."""

_NUMBERS = itertools.count()
"""Tell the unfinished files of this process apart."""

LEFT_BEHIND = re.compile(r"\.logreg-(\d+)-\d+\..*", re.DOTALL)
"""The name of an unfinished file, with the process that writes it."""

_SWEPT: set[Path] = set()
"""Folders in which this process has looked for unfinished files of others."""

LONGEST_END = 40
"""Characters of the name of a file in that of its unfinished one: of four bytes each, they still make a name."""


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write a file before it is moved to its place; what is still there at the end is removed.

    So is what a process left in the same folder that was killed while it wrote.
    """
    end = path.name[-LONGEST_END:]  # some software goes by the suffix
    temporary = path.with_name(f".logreg-{os.getpid()}-{next(_NUMBERS)}.{end}")
    with made_folders(path.parent):
        _sweep(path.parent)
        _UNFINISHED.add(temporary)
        try:
            with temporary.open("wb") as held:
                if os.name == "posix":  # elsewhere an open file cannot be moved
                    lock_file(held.fileno())
                else:
                    held.close()
                yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            _UNFINISHED.discard(temporary)


@contextmanager
def made_folders(folder: Path) -> Iterator[None]:
    """A folder, made with those above it where they are not there; what was made and is empty at the end is removed."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    _UNFINISHED.update(made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in made:
            with suppress(OSError):  # it holds something, as it should
                place.rmdir()
        _UNFINISHED.difference_update(made)


def _sweep(folder: Path) -> None:
    """Removes the unfinished files of processes that are gone, once for each folder."""
    folder = folder.resolve()
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    with suppress(OSError):  # a folder whose names may not be read; a file that another process removes
        for entry in list(os.scandir(folder)):
            found = LEFT_BEHIND.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False) and _is_abandoned(Path(entry), int(found[1])):
                Path(entry).unlink(missing_ok=True)


def _is_abandoned(file: Path, process: int) -> bool:
    """Whether the process that wrote a file is gone; one on another machine is gone if it left the lock."""
    if os.name != "posix":
        return False
    with suppress(ProcessLookupError, OverflowError):
        with suppress(PermissionError):
            os.kill(process, 0)
        return False
    with file.open("rb") as held:
        return lock_file(held.fileno())


def lock_file(descriptor: int) -> bool:
    """Holds an open file or folder until it is closed; the system lets go for a process that is killed.

    Returns:
        Whether no other process holds it; where nothing can be held, none does.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        return True
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


@contextmanager
def passing_file(path: Path) -> Iterator[None]:
    """A file, such as a lock, that is gone at the end."""
    _UNFINISHED.add(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        _UNFINISHED.discard(path)


def remove_unfinished() -> None:
    """Removes what is being written, for a process that ends without its ``finally``."""
    for path in sorted(_UNFINISHED, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def check_free(key: str, path: Path, overwrite: bool, suffixes: Sequence[str] = ()) -> None:
    """Nothing is lost by writing there, and it can be written to.

    Args:
        key: What the user typed to name it.
        path: A file that shall be written.
        overwrite: Whether one that is there may be lost.
        suffixes: One of which the name must end in; any if there are none.

    Raises:
        ConfigError: Says which.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError.broken(key, f"end in one of {', '.join(suffixes)}", str(path))
    if path.is_dir():
        raise ConfigError(f"`{key}` must be a file, got the folder {path}.")
    if path.exists() and not overwrite:
        raise ConfigError(f"`{key}` must not exist, and {path} does. Name another one, or set overwrite=true.")
    there = next(folder for folder in (path.parent, *path.parent.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"`{key}` must be a place to write to, and {there} is not. Name another folder.")


def folder_name(text: str) -> str:
    """Text as the name of one folder: without separators, control characters and "=", and not too long for the disk.

    Example:
        >>> folder_name("0_dataset.path-data/a.csv")
        '0_dataset.path-data-a.csv'
    """
    name = re.sub(r"[/\\:=\0]", "-", on_one_line(text))
    longest = os.pathconf(".", "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST_NAME
    held = name.encode("utf-8", "replace")
    if len(held) <= longest:
        return name
    digest = hashlib.sha256(held).hexdigest()[:8]  # two long names may begin alike
    return f"{held[: longest - len(digest) - 1].decode('utf-8', 'ignore')}_{digest}"


def shown(path: Path) -> str:
    """A path as a user would type it: relative if it lies below where they stand."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except (ValueError, RuntimeError, OSError):  # the latter two of links that go around in a circle
        return str(path)
