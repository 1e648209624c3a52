"""Restarts by torchrun (``--max-restarts``): the same command line continues the run that a failure has ended.

torchrun starts a job again whatever its exit code is, also after a mistake of the user: it has no setting for this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from logreg.commands.command_line import ROOT
from logreg.commands.overrides import quoted
from logreg.errors import LogregError
from logreg.files import folder_name, shown, write_whole
from logreg.launchers import ADDRESS, RESTARTS
from logreg.run_folder import CHECKPOINTS, is_finished

MAX_RESTARTS = "TORCHELASTIC_MAX_RESTARTS"
"""The variable in which torchrun states how often it would start a job again."""

JOB, NO_JOB = "TORCHELASTIC_RUN_ID", "none"
"""The variable with the name of the job (``--rdzv-id``), and its value where it was not given."""


def settings_after_restart(settings: Sequence[str]) -> list[str] | None:
    """The settings of a command line, completed so that a job that was started again continues its own run.

    Args:
        settings: key=value, as typed.

    Returns:
        The settings; those of a restart name the last checkpoint of the run, or else its folder.  ``None`` where the
        run was finished before the restart.
    """
    record = _record()
    if record is None:
        return list(settings)
    if os.environ.get(RESTARTS, "0") == "0":
        _remove(record)  # of an earlier job of the same name
        return list(settings)
    try:
        folder = Path(os.fsdecode(record.read_bytes()))
    except OSError:  # the failure came before the run had its folder
        return list(settings)
    if is_finished(folder):
        return None
    anew = [one for one in settings if one.partition("=")[0] != "hydra.run.dir"]
    if not (folder / CHECKPOINTS / "last.ckpt").is_file():
        return [*anew, f"hydra.run.dir={quoted(shown(folder))}"]
    return [*(one for one in anew if one.partition("=")[0] != "ckpt_path"), f"ckpt_path={quoted(shown(folder))}"]


@contextmanager
def noted_for_restarts(folder: Path) -> Iterator[None]:
    """Notes the run folder of a job for its restarts; the note is removed where another one would change nothing."""
    record = _record()
    if record is None:
        yield
        return
    with suppress(OSError):  # nothing can be written below ROOT: a restart begins anew
        write_whole(record, lambda file: file.write(os.fsencode(folder.resolve())))
    try:
        yield
    except (LogregError, KeyboardInterrupt):
        _remove(record)
        raise
    _remove(record)


def _remove(record: Path) -> None:
    with suppress(OSError):
        record.unlink()


def _record() -> Path | None:
    """The file that holds the run folder of the job; ``None`` where nothing would start the job again."""
    if os.environ.get(MAX_RESTARTS, "0") in ("", "0"):
        return None
    job = os.environ.get(JOB, NO_JOB)
    if job == NO_JOB:
        # The processes then meet at the same address after each restart, which no other job has meanwhile.
        job = "-".join(os.environ.get(name, "") for name in ADDRESS)
    return ROOT / folder_name(f".restart-{job}")
