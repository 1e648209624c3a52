"""The run folder: what lies where, written so that a kill at any moment leaves whole files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from logreg.errors import ConfigError

CHECKPOINTS = "checkpoints"
"""Folder of best.ckpt and last.ckpt inside a run folder."""


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
"""Files that are being written."""


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write a file before it is moved to its place; what is still there at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # some software goes by the suffix
    _UNFINISHED.add(temporary)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _UNFINISHED.discard(temporary)


def remove_unfinished() -> None:
    """Removes what is being written, for a process that ends without its ``finally``."""
    for temporary in tuple(_UNFINISHED):
        temporary.unlink(missing_ok=True)


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


def shown(path: Path) -> str:
    """A path as a person would type it: relative if it lies below where they stand."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return str(path)


def mark_latest(folder: Path, root: Path) -> None:
    """Makes the text file ``root/latest`` name the run folder.

    Not a link: TensorBoard would follow it and show the newest run twice.
    """
    write_whole(root / "latest", lambda file: file.write(f"{os.path.relpath(folder, root)}\n".encode()))


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
        if path.is_dir():
            path = path / CHECKPOINTS / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"`ckpt_path={ckpt_path}` must find a checkpoint, and {path} is missing. {advice}")
    return path


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or ``None`` if it was moved elsewhere."""
    folder = checkpoint.parent.parent
    return folder if checkpoint.parent.name == CHECKPOINTS and (folder / ".hydra").is_dir() else None


def latest_run(root: Path) -> Path | None:
    """The run folder that ``root/latest`` names, or ``None`` if there is no such file."""
    latest = root / "latest"
    return root / latest.read_text(encoding="utf-8").strip() if latest.is_file() else None
