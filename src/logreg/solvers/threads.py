"""The number of CPU threads that an operation runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ONE_THREAD_FLOP = 2e6
"""Floating-point operations below which one thread does the work: about 0.05 ms, the order of one synchronization."""


@contextmanager
def threads_for(work: float) -> Iterator[None]:
    """Runs the enclosed operations on one CPU thread where each of them is too small for several threads.

    Threads are synchronized at the end of every operation.  On an idle machine a synchronization costs next to
    nothing.  Where other programs compete for the cores, it makes small operations take tens of times as long.

    Args:
        work: Floating-point operations between two synchronizations.
    """
    threads = torch.get_num_threads()
    if work < ONE_THREAD_FLOP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
