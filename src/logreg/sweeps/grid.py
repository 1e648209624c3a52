"""Sweeps: the folder and settings of each job, and how a job reports its end."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override

from logreg.errors import ConfigError, LogregError
from logreg.files import shown, write_text
from logreg.hardware import usable_cores
from logreg.terminal import on_one_line


def sweep_overrides(overrides: Sequence[Override], root: Path) -> tuple[list[str], Path]:
    """Further overrides for Hydra: the sweep folder, and the names of its jobs' folders.

    Args:
        overrides: Overrides as typed.
        root: The folder of all runs.

    Returns:
        Overrides to add, and the sweep folder.
    """
    given = {override.key_or_group: override for override in overrides}
    if "select" in given and given["select"].is_sweep_override():
        raise ConfigError("`select` must be one for all jobs, since it ranks them. Type one of its values.")
    added = []
    if "hydra.sweep.dir" in given:
        folder = Path(str(given["hydra.sweep.dir"].value()))
        if "$" in str(folder):
            raise ConfigError.broken("hydra.sweep.dir", "be a plain path", str(folder))
    else:
        folder = root / "sweeps" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        added.append(f"hydra.sweep.dir={folder.as_posix()}")
    # The name of a job's folder has the settings that the sweep varies, and not those that all jobs share.
    shared = [key for key, override in given.items() if not override.is_sweep_override()]
    if shared:
        added.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(shared)}]")
    return added, folder


def run_in_sweep(run: Callable[[], float], folder: Path, overrides: Sequence[str], score: str = "loss") -> float | None:
    """Runs one job; a failure is shown and recorded in its folder, and the sweep continues.

    Args:
        run: The job; returns the score that jobs are ranked by.
        folder: Folder of the job.
        overrides: The settings in which the job differs from others.
        score: Name of the score.

    Returns:
        The score; ``None`` where the job failed.
    """
    _share_the_cores()
    try:
        value = run()
    except Exception as error:
        user = isinstance(error, LogregError)
        line = str(error) if user else f"{type(error).__name__}: {error}"
        details = line if user else "".join(traceback.format_exception(error))
        with (folder / "train.log").open("a", encoding="utf-8") as file:
            file.write(details + "\n")
        failure = {"status": "failed", "error": line, "overrides": list(overrides), "metrics": {}}
        write_text(folder / "summary.json", json.dumps(failure, indent=2) + "\n")
        headline = on_one_line(f"failed: {' '.join(overrides)} [{shown(folder)}]")
        print(f"{headline}\n  {on_one_line(line)}", file=sys.stderr, flush=True)
        return None
    print(on_one_line(f"done: {' '.join(overrides)}: {score} {value:.4f}"), file=sys.stderr, flush=True)
    return value


def _share_the_cores() -> None:
    """Limits the threads of each worker of a parallel launcher to its share of the cores.

    Otherwise every worker would use all cores.
    """
    workers = HydraConfig.get().launcher.get("n_jobs", 1)
    if not workers or workers == 1:
        return
    cores = usable_cores()
    workers = cores if workers < 0 else workers
    threads = max(1, cores // workers)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    from logreg.fast_import import import_lightning

    import_lightning()
    import torch

    torch.set_num_threads(threads)
