"""The all-reduce of processes on one machine, through memory that they share: gloo's takes ten times as long."""

from __future__ import annotations

import mmap
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg.errors import LostProcessError

SLOT_NUMBERS = 2**17
"""Numbers that each process adds up at once, 1 MiB: larger sums are added up in parts."""

MARK_NUMBERS = 8
"""Numbers from one process's mark to the next: a line of the cache each, which no other process writes to."""

AWAKE_SECONDS = 1e-3
"""Time for which a process that waits for another one stays awake; it gives way to others on its core."""

NAP_FRACTION, LONGEST_NAP = 0.05, 0.01
"""How long it then sleeps before it looks again: a part of the time that it has waited, at most some seconds."""


class SharedMemory:
    """Memory in which processes of one machine add up their numbers.

    Each writes its numbers into a slot of its own; then each adds up a part of the slots (reduce-scatter), and then
    reads the sums of all (all-gather).  They meet between these steps: each raises a mark, and waits for the marks of
    the others.  The order of the writes is seen by the others as it was, which holds on x86-64 alone.

    The memory has no name, so nothing is left of it when the processes have ended.  Each of them holds a lock on one
    byte of it, which the system takes away when that process ends in whatever way; so the others notice it.

    References:
        Rabenseifner (2004), Optimization of collective reduction operations.
        Mellor-Crummey and Scott (1991), Algorithms for scalable synchronization on shared-memory multiprocessors.
    """

    def __init__(self, file: int, rank: int, size: int) -> None:
        """``file`` is this process's descriptor of the memory, which has `num_bytes`; it is closed with this object."""
        weakref.finalize(self, os.close, file)
        self._file, self._rank, self._size, self._turn = file, rank, size, 0
        memory, marks = mmap.mmap(file, self.num_bytes(size)), 8 * MARK_NUMBERS * size
        self._marks = memoryview(memory)[:marks].cast("q")
        numbers = torch.frombuffer(memory, dtype=torch.float64, offset=marks).view(size + 1, SLOT_NUMBERS)
        self._slots, self._sums = numbers[:size], numbers[size]
        self._others = [other for other in range(size) if other != rank]
        self._locks(rank, shared=False)

    @staticmethod
    def num_bytes(size: int) -> int:
        """Bytes for so many processes."""
        return 8 * (MARK_NUMBERS * size + SLOT_NUMBERS * (size + 1))

    def all_reduce(self, numbers: Tensor) -> None:
        """Replaces numbers (n,) of any floating type by their sums in float64 over all processes, the same on each.

        Raises:
            LostProcessError: Another process has ended.
        """
        for part in numbers.split(SLOT_NUMBERS):
            length = len(part)
            own = slice(length * self._rank // self._size, length * (self._rank + 1) // self._size)
            self._slots[self._rank, :length] = part
            self._meet()
            torch.sum(self._slots[:, own], dim=0, out=self._sums[own])
            self._meet()
            part.copy_(self._sums[:length])

    def _meet(self) -> None:
        """Waits until all processes are here."""
        self._turn += 1
        self._marks[MARK_NUMBERS * self._rank] = self._turn
        for other in self._others:
            if not self._is_here(other):
                self._wait_for(other)

    def _is_here(self, other: int) -> bool:
        return self._marks[MARK_NUMBERS * other] >= self._turn

    def _wait_for(self, other: int) -> None:
        started = time.perf_counter()
        while not self._is_here(other):
            waited = time.perf_counter() - started
            if waited < AWAKE_SECONDS:
                os.sched_yield()
            elif self._locks(other) and not self._is_here(other):
                raise LostProcessError(f"another process has ended: that of rank {other}")
            else:
                time.sleep(min(NAP_FRACTION * waited, LONGEST_NAP))

    def _locks(self, rank: int, shared: bool = True) -> bool:
        """Takes the lock of a process, and whether it could: while that process is there it has the lock for itself."""
        import fcntl  # Windows has none

        try:
            fcntl.lockf(self._file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX), 1, rank)
        except OSError:
            return False
        return True


def shared_memory(rank: int, size: int, gather: Callable[[Any], list[Any]]) -> SharedMemory | None:
    """Memory that all processes share; ``None`` where they are on several machines, or not on Linux on x86-64.

    Args:
        rank: The number of this process, in [0, size).
        size: Number of processes; all of them call this function together.
        gather: Returns a plain object of each process, in the order of the ranks.
    """
    memory, file, machine = None, None, ""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        machine = f"{Path('/proc/sys/kernel/random/boot_id').read_text()}{Path('/proc/self/ns/pid').readlink()}"
        if rank == 0:
            file = os.memfd_create("sums")
            os.ftruncate(file, SharedMemory.num_bytes(size))
    machines, paths = zip(*gather((machine, f"/proc/{os.getpid()}/fd/{file}")), strict=True)
    if machine and len(set(machines)) == 1:
        try:
            file = os.open(paths[0], os.O_RDWR) if file is None else file
            memory = SharedMemory(file, rank, size)
        except OSError:  # this process may not open files of the first one
            memory = None
    elif file is not None:
        os.close(file)
    return memory if all(gather(memory is not None)) else None
