"""The collectives of processes on one machine, through memory that they share, which take less time than gloo's."""

from __future__ import annotations

import mmap
import os
import platform
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg.errors import LostProcessError

SLOT_NUMBERS = 2**17
"""Numbers in float64 that each process adds up at once, 1 MiB: larger sums are added up in parts."""

MARK_NUMBERS = 8
"""Numbers from one process's mark to the next: a line of the cache each, which no other process writes to."""

AWAKE_SECONDS = 1e-3
"""Time for which a process that waits for another one stays awake; it gives way to others on its core."""

NAP_FRACTION, LONGEST_NAP = 0.05, 0.01
"""How long it then sleeps before it looks again: a part of the time that it has waited, at most some seconds."""

IN_MEMORY = "/dev/shm"
"""A folder of Linux whose files are in memory."""


class SharedMemory:
    """Memory in which processes of one machine add up their numbers.

    Each writes its numbers into a slot of its own; then each adds up a part of the slots (reduce-scatter), and then
    reads the sums of all (all-gather).  They meet between these steps: each raises a mark, and waits for the marks of
    the others.  The order of the writes is seen by the others as it was, which holds on x86-64 alone.

    The memory has no name, so nothing is left of it when the processes have ended.  Each of them holds a lock on one
    byte of it, which the system takes away when that process ends in whatever way; so the others notice it.  One that
    is stopped or slow is waited for.

    References:
        Rabenseifner (2004), Optimization of collective reduction operations.
        Mellor-Crummey and Scott (1991), Algorithms for scalable synchronization on shared-memory multiprocessors.
    """

    def __init__(self, file: int, rank: int, size: int) -> None:
        """``file`` is this process's descriptor of the memory, which has `num_bytes`; it is closed with this object.

        Raises:
            OSError: The system does not let this process have the memory or its lock.
        """
        weakref.finalize(self, os.close, file)
        self._file, self._rank, self._size, self._turn = file, rank, size, 0
        memory, marks = mmap.mmap(file, self.num_bytes(size)), 8 * MARK_NUMBERS * size
        self._marks = memoryview(memory)[:marks].cast("q")
        numbers = torch.frombuffer(memory, dtype=torch.float64, offset=marks).view(size + 1, SLOT_NUMBERS)
        self._numbers = {dtype: numbers.view(dtype) for dtype in (torch.float32, torch.float64)}
        """The slots of the processes, and one for the sums, for numbers of each type."""
        self._bytes = memoryview(memory)[marks:]
        self._others = [other for other in range(size) if other != rank]
        self._lock(rank, shared=False)

    @staticmethod
    def num_bytes(size: int) -> int:
        """Bytes for so many processes."""
        return 8 * (MARK_NUMBERS * size + SLOT_NUMBERS * (size + 1))

    def all_reduce(self, tensors: Iterable[Tensor], combine: Callable[..., Tensor] = torch.sum) -> None:
        """Replaces contiguous tensors of any types and shapes by their sums over all processes, the same on each.

        Args:
            tensors: As many numbers of each type in each process; they are on the CPU, and are added up in float64,
                those in float32 in their own type.
            combine: ``torch.amax`` for their elementwise maxima.

        Raises:
            LostProcessError: Another process has ended.
            RuntimeError: Another process adds up something else.
        """
        of_type: dict[torch.dtype, list[Tensor]] = {torch.float32: [], torch.float64: []}
        for tensor in tensors:
            of_type[torch.float32 if tensor.dtype == torch.float32 else torch.float64].append(tensor.view(-1))
        for dtype, some in of_type.items():
            self._reduce(some, self._numbers[dtype], combine)

    def _reduce(self, tensors: Sequence[Tensor], numbers: Tensor, combine: Callable[..., Tensor]) -> None:
        """Adds up flat tensors in ``numbers``: the slots of the processes, and a last one for the sums."""
        slots, sums = numbers[:-1], numbers[-1]
        pieces = [piece for tensor in tensors for piece in tensor.split(len(sums))]
        self._marks[MARK_NUMBERS * self._rank + 1] = numbers.itemsize * sum(map(len, pieces))
        for some in _fitting(pieces, len(sums)):
            ends = list(accumulate(map(len, some)))
            places = [slice(*ends) for ends in pairwise([0, *ends])]
            own = slice(ends[-1] * self._rank // self._size, ends[-1] * (self._rank + 1) // self._size)
            for place, piece in zip(places, some, strict=True):
                slots[self._rank, place] = piece
            self._meet()
            lengths = self._lengths()
            if len(set(lengths)) > 1:
                raise RuntimeError(f"the processes must add up as many bytes each, got {lengths}")
            combine(slots[:, own], dim=0, out=sums[own])
            self._meet()
            for place, piece in zip(places, some, strict=True):
                piece.copy_(sums[place])

    def all_gather(self, own: bytes | memoryview) -> list[bytearray]:
        """The bytes of each process, in the order of the ranks, on each of them.

        Raises:
            LostProcessError: Another process has ended.
        """
        size, first, longest, parts = 8 * SLOT_NUMBERS, 0, 1, list[bytearray]()
        self._marks[MARK_NUMBERS * self._rank + 1] = len(own)
        while first < longest:
            piece, place = own[first : first + size], size * self._rank
            self._bytes[place : place + len(piece)] = piece
            self._meet()
            if not parts:
                parts = [bytearray(length) for length in self._lengths()]
                longest = max(map(len, parts))
            for place, part in zip(count(step=size), parts, strict=False):
                there = min(max(len(part) - first, 0), size)
                part[first : first + there] = self._bytes[place : place + there]
            self._meet()
            first += size
        return parts

    def _lengths(self) -> list[int]:
        """The number of bytes that each process brings to a collective; all of them have met since they said so."""
        return self._marks[1::MARK_NUMBERS].tolist()

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
            elif self._has_ended(other) and not self._is_here(other):
                raise LostProcessError(f"another process has ended: that of rank {other}")
            else:
                time.sleep(min(NAP_FRACTION * waited, LONGEST_NAP))

    def _has_ended(self, other: int) -> bool:
        try:
            self._lock(other, shared=True)
        except OSError:
            return False
        return True

    def _lock(self, rank: int, shared: bool) -> None:
        """Takes the lock of a process, or raises `OSError`: while that process is there it has the lock for itself."""
        import fcntl  # Windows has none

        fcntl.lockf(self._file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX), 1, rank)


def _fitting(pieces: Iterable[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Adjacent pieces together, which fit into a slot of so many numbers as each of them does."""
    some: list[Tensor] = []
    for piece in pieces:
        if some and sum(map(len, some)) + len(piece) > most:
            yield some
            some = []
        some.append(piece)
    if some:
        yield some


def shared_memory(rank: int, size: int, gather: Callable[[Any], list[Any]]) -> SharedMemory | None:
    """Memory that all processes share; ``None`` where they are on several machines, or not on Linux on x86-64.

    So it is where the system has no room for it, or lets no process open files of the first one.

    Args:
        rank: The number of this process, in [0, size).
        size: Number of processes; all of them call this function together.
        gather: Returns a plain object of each process, in the order of the ranks.
    """
    memory, file, machine = None, None, ""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        with suppress(OSError):
            machine = f"{Path('/proc/sys/kernel/random/boot_id').read_text()}{Path('/proc/self/ns/pid').readlink()}"
            file = memory_file(SharedMemory.num_bytes(size)) if rank == 0 else None
    machines, paths = zip(*gather((machine, f"/proc/{os.getpid()}/fd/{file}")), strict=True)
    if machine and len(set(machines)) == 1:
        with suppress(OSError):
            file = os.open(paths[0], os.O_RDWR) if file is None else file
            memory = SharedMemory(file, rank, size)
    elif file is not None:
        os.close(file)
    return memory if all(gather(memory is not None)) else None


def memory_file(num_bytes: int) -> int:
    """The descriptor of a file of zeros in memory, all of which is there: a page that lacks room would kill a process.

    (``os.memfd_create`` does the same, but many distributions of Python lack it.)
    """
    file = os.open(IN_MEMORY, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(file, 0, num_bytes)
    except OSError:
        os.close(file)
        raise
    return file
