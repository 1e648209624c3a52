"""Atomic file writing, locks, and file names that any file system accepts."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from logreg.errors import ConfigError
from logreg.terminal import on_one_line

MAX_NAME_BYTES = 255
"""Largest number of bytes of a file name on most file systems."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file, whole or not at all: readers see the old or the new one.

    Args:
        path: The file.
        write: Is called with the open binary file.
    """
    with whole_file(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """An open temporary file in the same folder, which replaces ``path`` at the end and is removed on an error."""
    with unfinished(path) as temporary:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


_UNFINISHED: set[Path] = set()
"""Temporary files that are being written, and folders that were made for them."""

_NUMBERS = itertools.count()
"""Numbers for the names of this process's temporary files."""

TEMPORARY_NAME = re.compile(r"\.logreg-(\d+)-\d+\..*", re.DOTALL)
"""Name of a temporary file, with the id of the process that writes it."""

_CLEANED: set[Path] = set()
"""Folders that this process has cleaned of the temporary files of dead processes."""

MAX_TAIL_CHARACTERS = 40
"""Characters of a file's name that are part of its temporary name: with four bytes each, the name is not too long."""


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A temporary file to write before it is moved to ``path``; it is removed at the end where it was not moved.

    Temporary files that killed processes left in the same folder are removed too.
    """
    end = path.name[-MAX_TAIL_CHARACTERS:]  # some writers depend on the suffix
    temporary = path.with_name(f".logreg-{os.getpid()}-{next(_NUMBERS)}.{end}")
    with made_folders(path.parent):
        _remove_abandoned(path.parent)
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
    """Makes a folder and its parents; removes at the end those that were made and are empty."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    _UNFINISHED.update(made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in made:
            with suppress(OSError):  # the folder is not empty
                place.rmdir()
        _UNFINISHED.difference_update(made)


def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of dead processes, once for each folder."""
    folder = folder.resolve()
    if folder in _CLEANED:
        return
    _CLEANED.add(folder)
    with suppress(OSError):  # a folder whose names may not be read; a file that another process removes
        for entry in list(os.scandir(folder)):
            found = TEMPORARY_NAME.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False) and _is_abandoned(Path(entry), int(found[1])):
                Path(entry).unlink(missing_ok=True)


def _is_abandoned(file: Path, process: int) -> bool:
    """Whether the process that wrote a file is dead; on another machine, whether it holds no lock on the file."""
    if os.name != "posix":
        return False
    with suppress(ProcessLookupError, OverflowError):
        with suppress(PermissionError):
            os.kill(process, 0)
        return False
    with file.open("rb") as held:
        return lock_file(held.fileno())


def lock_file(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; the lock of a killed process ends with it.

    Returns:
        Whether this process has the lock; true on systems and file systems without locks.
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
    """Removes a file, such as a lock, at the end."""
    _UNFINISHED.add(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        _UNFINISHED.discard(path)


def remove_unfinished() -> None:
    """Removes all temporary files, for a process that ends without running its ``finally`` blocks."""
    for path in sorted(_UNFINISHED, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def check_output(path: Path, overwrite: bool, suffixes: Sequence[str]) -> None:
    """Checks that the file of the setting ``output`` can be written, and that nothing is overwritten.

    Args:
        path: The file.
        overwrite: Whether an existing file may be overwritten.
        suffixes: Suffixes that the name may have.

    Raises:
        ConfigError: The file cannot be written, or must not be.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError.broken("output", f"end in one of {', '.join(suffixes)}", str(path))
    if path.is_dir():
        raise ConfigError(f"`output` must be a file, got the folder {path}.")
    if path.exists() and not overwrite:
        raise ConfigError(f"`output` must not exist, and {path} does. Name another one, or set overwrite=true.")
    check_writable("output", path.parent)


def check_writable(key: str, place: Path) -> None:
    """Checks that a folder, which may not exist yet, can be written to.

    Raises:
        ConfigError: It cannot; ``key`` is the setting that names it, or a file in it.
    """
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"`{key}` must be a place to write to, and {there} is not. Name another folder.")


def is_there(path: Path) -> bool:
    """Whether a path exists; one whose names are longer than the system takes does not."""
    try:
        return path.exists()
    except OSError:
        return False


def place_name(path: str) -> str:
    """The name of the file or folder that a path or an address names; of a pattern, that of the folder to search.

    Example:
        >>> place_name("s3://bucket/rows/*.parquet")
        'rows'
        >>> place_name("s3://bucket/rows/part-?.csv?token=secret")
        'rows'
    """
    _, is_address, inner = path.partition("://")
    inner = re.split(r"[?](?=[\w.-]+=)", inner)[0]  # other question marks are of patterns
    local = os.path.abspath(path)  # noqa: PTH100  # resolves "." and "..", but no links
    parts = PurePosixPath(inner).parts if is_address else Path(local).parts
    if not is_there(Path(path)):
        marked = [place for place, part in enumerate(parts) if set(part) & set("*?[")]
        parts = parts[: marked[0]] if marked else parts
    return PurePosixPath(*parts).name


def folder_name(text: str) -> str:
    """Text as the name of one folder: without separators, control characters and "=", and short enough for the disk.

    Example:
        >>> folder_name("0_dataset.path-data/a.csv")
        '0_dataset.path-data-a.csv'
    """
    name = re.sub(r"[/\\:=\0]", "-", on_one_line(text))
    longest = os.pathconf(".", "PC_NAME_MAX") if hasattr(os, "pathconf") else MAX_NAME_BYTES
    held = name.encode("utf-8", "replace")
    if len(held) <= longest:
        return name
    digest = hashlib.sha256(held).hexdigest()[:8]  # two long names may begin alike
    return f"{held[: longest - len(digest) - 1].decode('utf-8', 'ignore')}_{digest}"


def shown(path: Path) -> str:
    """A path as a user would type it: relative where it lies below the current folder."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except (ValueError, RuntimeError, OSError):  # the latter two for links that form a circle
        return str(path)
