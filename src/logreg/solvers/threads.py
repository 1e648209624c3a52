"""The number of CPU threads that an operation runs on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

ONE_THREAD_FLOP = 2e6
"""Floating-point operations below which one thread does the work, in about the time of one synchronization."""

NUMBERS_PER_THREAD = 2**22
"""Numbers that a thread of its own reads at least: in about a millisecond, some ten times as long as it takes to
start."""


def in_runs(work: Callable[[Sequence[Part]], Result], parts: Sequence[Part], numbers: int) -> list[Result]:
    """What a function makes of each of some runs of the parts, in their order: one run for each thread.

    For large operations of NumPy, during which other threads run.  They wait for one another at the end alone.

    Args:
        work: The function, which threads may call at once.
        parts: The parts, in order.
        numbers: Numbers that all parts have: with few, one thread does all the work.
    """
    threads = min(torch.get_num_threads(), max(1, numbers // NUMBERS_PER_THREAD), len(parts))
    if threads <= 1:
        return [work(parts)]
    ends = [len(parts) * run // threads for run in range(threads + 1)]
    first, *others = (parts[start:end] for start, end in pairwise(ends))
    with ThreadPoolExecutor(len(others)) as pool:
        started = [pool.submit(work, run) for run in others]
        return [work(first), *(one.result() for one in started)]


@contextmanager
def threads_for(work: float) -> Iterator[None]:
    """Runs the enclosed operations on one CPU thread where each of them is too small for several threads.

    Threads are synchronized at the end of every operation.  On an idle machine a synchronization costs next to
    nothing.  Where other programs compete for the cores, it makes small operations take many times as long.

    OpenBLAS, which NumPy multiplies with, has one thread in any case.  Its threads wait for one another many times
    within a product, without sleeping: they gain little in short products, and lose most where cores are shared.
    `kernels.gram_of_columns`, whose products are large, and `in_runs` have threads of their own.

    Args:
        work: Floating-point operations between two synchronizations.
    """
    threads, several = torch.get_num_threads(), [(one, n) for one in _openblas() if (n := one.get_num_threads()) > 1]
    is_little = work < ONE_THREAD_FLOP
    if is_little:
        torch.set_num_threads(1)
    for library, _ in several:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, number in several:  # by the thread that has lowered it: OpenBLAS may not heed another one
            library.set_num_threads(number)
        if is_little:
            torch.set_num_threads(threads)


@cache
def _openblas() -> list[Any]:
    """Every OpenBLAS that is loaded by the first fit; none where the environment gives it one thread, as in commands.

    To look for the libraries takes longer than a small fit.
    """
    if os.environ.get("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")) == "1":
        return []
    from threadpoolctl import ThreadpoolController  # reads the list of libraries

    controllers: list[Any] = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return controllers
