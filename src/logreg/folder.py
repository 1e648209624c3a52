"""The run folder: what lies where, written so that a kill at any moment leaves whole files."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from logreg.errors import ConfigError
from logreg.terminal import on_one_line

RUNS = Path("runs")
"""Where runs live, seen from where the person stands."""

CHECKPOINTS = "checkpoints"
"""Folder of best.ckpt and last.ckpt inside a run folder."""

MADE_BY_STARTING = {".hydra", "train.log", "multirun.yaml", "metrics.csv", CHECKPOINTS}
"""What lies in the folder of a run or a sweep before its first checkpoint, besides events."""

LONGEST_PATH = 2**12
"""Bytes of a path that an operating system takes."""

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
                    _lock(held.fileno())
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
        return _lock(held.fileno())


def _lock(descriptor: int) -> bool:
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
def written_by_us(key: str, folder: Path) -> Iterator[None]:
    """No other process writes a run into a folder while this one does.

    Args:
        key: What was typed to name the folder.
        folder: Which is there.

    Raises:
        ConfigError: Another one does.
    """
    descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None and not _lock(descriptor):
            raise ConfigError(
                f"`{key}` must not be the folder of a run that is under way, and another process trains in "
                f"{shown(folder)}. Wait for its end, or stop it."
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
        key: What the person typed to name it.
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


def is_unused(folder: Path) -> bool:
    """Whether nothing lies in a folder but what a run leaves that was killed before its first checkpoint."""
    there = {path.name for path in folder.iterdir()}
    of_a_run = {name for name in there if name in MADE_BY_STARTING or _is_of_a_start(name)}
    if there - of_a_run:
        return False
    # best.ckpt, which is written first, is of no use without last.ckpt
    return not [file for file in (folder / CHECKPOINTS).glob("*") if file.name != "best.ckpt" and file.name[0] != "."]


def _is_of_a_start(name: str) -> bool:
    return name.startswith("events.out.tfevents.") or LEFT_BEHIND.fullmatch(name) is not None


def start_anew(folder: Path) -> None:
    """Removes the curves of a run that was killed before its first checkpoint: those of another one follow."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name == "metrics.csv" or _is_of_a_start(file.name):
            file.unlink()
    (folder / CHECKPOINTS / "best.ckpt").unlink(missing_ok=True)


def goes_on_in(checkpoint: Path, folder: Path) -> bool:
    """Whether who goes on from a checkpoint in a run folder goes on with that very run."""
    own = run_folder_of(checkpoint)
    return own is not None and own.resolve() == folder.resolve()


def is_finished(folder: Path) -> bool:
    """Whether a run has come to an end: its summary, which is written last, is there."""
    return (folder / "summary.json").exists()


def check_new(key: str, folder: Path, begun: bool = False) -> None:
    """A run can be written there, and nothing of others lies there.

    Args:
        key: What was typed to name it.
        folder: Which need not exist.
        begun: Whether this run has files there already.

    Raises:
        ConfigError: Says why not.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"`{key}` must be a folder, and {shown(folder)} is a file. Name another one.")
        if folder.exists() and not (
            is_unused(folder) and (begun or (folder / ".hydra").is_dir() or not any(folder.iterdir()))
        ):
            what = "a run" if (folder / CHECKPOINTS).exists() else "other things"
            raise ConfigError(f"`{key}` must name a new folder, and {shown(folder)} holds {what}.")
        if folder.exists() and not begun:
            with written_by_us(key, folder):
                pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"`{key}` must be a place to write to, got {shown(folder)[:100]}: {reason}.") from error


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
    """A path as a person would type it: relative if it lies below where they stand."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except (ValueError, RuntimeError, OSError):  # the latter two of links that go around in a circle
        return str(path)


def mark_latest(folder: Path, root: Path) -> None:
    """Makes the text file ``root/latest`` name the run folder.

    Not a link: TensorBoard would follow it and show the newest run twice.
    """
    write_whole(root / "latest", lambda file: file.write(os.fsencode(f"{os.path.relpath(folder, root)}\n")))


class Latest:
    """Makes ``root/latest`` name a run each time that it is called.

    Where that cannot be written, a run that lies elsewhere says so once and goes on.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self._failed = False

    def __call__(self) -> None:
        """Writes the file.

        Raises:
            OSError: It cannot be written, and the run lies below ``root``.
        """
        if self._failed:
            return
        try:
            mark_latest(self.folder, self.root)
        except OSError as error:
            if self.folder.resolve().is_relative_to(self.root.resolve()):
                raise
            self._failed = True
            reason = (error.strerror or str(error)).lower()
            sys.stderr.write(
                f"{self.root / 'latest'} cannot be written ({reason}): "
                f"ckpt_path=latest does not know this run, ckpt_path={shown(self.folder)} does\n"
            )


def find_checkpoint(ckpt_path: str, root: Path, or_else: str = "train one first: scripts/train.py") -> Path:
    """The checkpoint file that a person means.

    Args:
        ckpt_path: "latest" (or "last") and "best" for those of the newest run; a run folder, for
            its last.ckpt; or a file.
        root: The folder whose ``latest`` names the newest run.
        or_else: What a person may do who has none.

    Raises:
        ConfigError: There is none: nothing ever starts from scratch in silence.
    """
    advice = f"Name a run folder or a .ckpt file, or {or_else}."
    if ckpt_path in ("latest", "last", "best"):
        folder = latest_run(root)
        if folder is None:
            raise ConfigError(f"`ckpt_path={ckpt_path}` must find a run, and {root / 'latest'} is missing. {advice}")
        path = folder / CHECKPOINTS / ("best.ckpt" if ckpt_path == "best" else "last.ckpt")
    else:
        path = Path(ckpt_path)
        with suppress(OSError):  # a name that no file can have
            path = path / CHECKPOINTS / "last.ckpt" if path.is_dir() else path
    there = False
    with suppress(OSError):
        there = path.is_file()
    if not there:
        raise ConfigError(f"`ckpt_path={ckpt_path}` must find a checkpoint, and {path} is missing. {advice}")
    return path


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or ``None`` if it was moved elsewhere."""
    folder = checkpoint.parent.parent
    return folder if checkpoint.parent.name == CHECKPOINTS and (folder / ".hydra").is_dir() else None


def latest_run(root: Path) -> Path | None:
    """The run folder that ``root/latest`` names, or ``None`` if there is no such file."""
    latest = root / "latest"
    if not latest.is_file():
        return None
    with latest.open("rb") as file:
        return root / os.fsdecode(file.read(LONGEST_PATH)).strip("\n")
