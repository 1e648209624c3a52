"""The hardware that this process may use.  Imports the standard library only."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Number of CPU cores that this process may run on; it may be restricted to some (taskset, SLURM, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
