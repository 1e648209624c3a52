"""The run folder: what lies where, which run is the newest, which checkpoint a path means."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logreg.errors import ConfigError
from logreg.files import LEFT_BEHIND, lock_file, shown, write_whole

RUNS = Path("runs")
"""Where runs live, seen from where the user stands."""

CHECKPOINTS = "checkpoints"
"""Folder of best.ckpt and last.ckpt inside a run folder."""

MADE_BY_STARTING = {".hydra", "train.log", "multirun.yaml", "metrics.csv", CHECKPOINTS}
"""What lies in the folder of a run or a sweep before its first checkpoint, besides events."""

LONGEST_PATH = 2**12
"""Bytes of a path that an operating system takes."""


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
    """The checkpoint file that a user means.

    Args:
        ckpt_path: "latest" (or "last") and "best" for those of the newest run; a run folder, for
            its last.ckpt; or a file.
        root: The folder whose ``latest`` names the newest run.
        or_else: What a user may do who has none.

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
