"""The hardware that this process may use.  Imports the standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Folder of the control groups of Linux."""


def usable_cores() -> int:
    """Number of CPU cores that this process may run on; it may be restricted to some (taskset, SLURM, containers)."""
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> frozenset[int]:
    """The cores of `usable_cores` by number; empty where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


@contextmanager
def also_on(cores: Iterable[int]) -> Iterator[None]:
    """Lets this process, and threads that it starts now, run on further cores too, where the system allows it."""
    own = core_numbers()
    more = own.union(cores)
    if more == own:
        yield
        return
    with suppress(OSError):
        os.sched_setaffinity(0, more)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), own: Path = Path("/proc/self/cgroup"), groups: Path = CGROUPS
) -> int | None:
    """Bytes of memory that this process can still take without swapping; ``None`` where the system does not say.

    It is the least of what the system has and of what the limits of the process's control groups leave (containers,
    SLURM).  Pages of files count as free, since the system takes them back.

    Args:
        meminfo: The file in which Linux states its memory.
        own: The file in which Linux states the control groups of this process.
        groups: The folder of control groups, of version 1 or 2.
    """
    found = []
    with suppress(OSError, StopIteration, ValueError):
        lines = meminfo.read_text().splitlines()
        found.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for folder in _memory_groups(own, groups):
        for limit, of_processes in (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")):
            with suppress(OSError, KeyError, ValueError):  # "max" is no limit
                most = int((folder / limit).read_text())
                used = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                found.append(max(0, most - int(used[of_processes])))
    return min(found, default=None)


def _memory_groups(own: Path, groups: Path) -> list[Path]:
    """The folders of the control groups of a process that may limit its memory; arguments as `available_memory`."""
    folders = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                root = groups / "memory" if controllers else groups
                # In a container the name may be one outside it, whose folder is then the root.
                folders += [
                    place
                    for place in (root / name.strip("/"), *(root / name.strip("/")).parents)
                    if place.is_relative_to(root)
                ]
    return folders
