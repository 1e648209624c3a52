"""The run folder: its files, the newest run, and the checkpoint that a path names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logreg.constraints import text
from logreg.errors import ConfigError
from logreg.files import TEMPORARY_NAME, lock_file, shown, write_whole
from logreg.settings import Setting

RUNS = Path("runs")
"""The folder of all runs, relative to the current folder."""

CHECKPOINTS = "checkpoints"
"""Folder of best.ckpt and last.ckpt inside a run folder."""

FILES_BEFORE_CHECKPOINT = {".hydra", "train.log", "multirun.yaml", "metrics.csv", CHECKPOINTS}
"""Files in the folder of a run or a sweep before its first checkpoint, besides TensorBoard's events."""

CKPT_PATH = Setting("latest", text(), "latest, best, last, a run folder or a .ckpt file")
"""The checkpoint that a command reads, as `find_checkpoint` finds it."""

MAX_PATH_BYTES = 2**12
"""Largest number of bytes of a path on common operating systems."""


@contextmanager
def locked_run_folder(key: str, folder: Path) -> Iterator[None]:
    """Locks a run folder, so that no other process writes a run into it.

    Args:
        key: The setting that names the folder.
        folder: An existing folder.

    Raises:
        ConfigError: Another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None and not lock_file(descriptor):
            raise ConfigError(
                f"`{key}` must not be the folder of a run that is under way, and another process trains in "
                f"{shown(folder)}. Wait for its end, or stop it."
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_unused(folder: Path) -> bool:
    """Whether a folder has no files but those of a run that was killed before its first checkpoint."""
    there = {path.name for path in folder.iterdir()}
    of_a_run = {name for name in there if name in FILES_BEFORE_CHECKPOINT or _is_of_a_start(name)}
    if there - of_a_run:
        return False
    # best.ckpt, which is written first, is of no use without last.ckpt
    return not [file for file in (folder / CHECKPOINTS).glob("*") if file.name != "best.ckpt" and file.name[0] != "."]


def _is_of_a_start(name: str) -> bool:
    return name.startswith("events.out.tfevents.") or TEMPORARY_NAME.fullmatch(name) is not None


def remove_unsaved_run(folder: Path) -> None:
    """Removes the curves of a run that was killed before its first checkpoint, for a run that starts again."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name == "metrics.csv" or _is_of_a_start(file.name):
            file.unlink()
    (folder / CHECKPOINTS / "best.ckpt").unlink(missing_ok=True)


def continues_in_place(checkpoint: Path, folder: Path) -> bool:
    """Whether a run in ``folder`` that continues from a checkpoint is the run of that checkpoint."""
    own = run_folder_of(checkpoint)
    return own is not None and own.resolve() == folder.resolve()


def is_finished(folder: Path) -> bool:
    """Whether a run is finished: it has its summary, which is written last."""
    return (folder / "summary.json").exists()


def check_new(key: str, folder: Path, begun: bool = False) -> None:
    """Checks that a run can be written into a folder, and that the folder has no other files.

    Args:
        key: The setting that names the folder.
        folder: A folder that may not exist yet.
        begun: Whether the folder has files of this run already.

    Raises:
        ConfigError: The folder cannot be used.
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
            with locked_run_folder(key, folder):
                pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"`{key}` must be a place to write to, got {shown(folder)[:100]}: {reason}.") from error


def mark_latest(folder: Path, root: Path) -> None:
    """Writes the name of the run folder into the text file ``root/latest``.

    The file is no link: TensorBoard would follow a link and show the newest run twice.
    """
    write_whole(root / "latest", lambda file: file.write(os.fsencode(f"{os.path.relpath(folder, root)}\n")))


class Latest:
    """Callable that writes a run's name into ``root/latest``.

    Where the file cannot be written, a run that lies elsewhere warns once and continues.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self._failed = False

    def __call__(self) -> None:
        """Writes the file.

        Raises:
            OSError: The file cannot be written, and the run lies below ``root``.
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
    """The checkpoint file that a setting names.

    Args:
        ckpt_path: "latest" (or "last") and "best" for those of the newest run; a run folder, for
            its last.ckpt; or a file.
        root: The folder whose ``latest`` names the newest run.
        or_else: Advice for a user without a checkpoint.

    Raises:
        ConfigError: There is no such checkpoint; a run never starts from scratch silently.
    """
    advice = f"Name a run folder or a .ckpt file, or {or_else}."
    if ckpt_path in ("latest", "last", "best"):
        folder = latest_run(root)
        if folder is None:
            raise ConfigError(f"`ckpt_path={ckpt_path}` must find a run, and {root / 'latest'} is missing. {advice}")
        path = folder / CHECKPOINTS / ("best.ckpt" if ckpt_path == "best" else "last.ckpt")
    else:
        path = Path(ckpt_path)
        with suppress(OSError):  # a name that is invalid on this system
            path = path / CHECKPOINTS / "last.ckpt" if path.is_dir() else path
    there = False
    with suppress(OSError):
        there = path.is_file()
    if not there:
        raise ConfigError(f"`ckpt_path={ckpt_path}` must find a checkpoint, and {path} is missing. {advice}")
    return path


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint; ``None`` where the file was moved elsewhere."""
    folder = checkpoint.parent.parent
    return folder if checkpoint.parent.name == CHECKPOINTS and (folder / ".hydra").is_dir() else None


def latest_run(root: Path) -> Path | None:
    """The run folder that ``root/latest`` names; ``None`` where that file is missing."""
    latest = root / "latest"
    if not latest.is_file():
        return None
    with latest.open("rb") as file:
        return root / os.fsdecode(file.read(MAX_PATH_BYTES)).strip("\n")
