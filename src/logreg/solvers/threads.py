"""How many threads of the CPU are worth their waiting for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ONE_THREAD_FLOP = 2e6
"""Floating-point operations below which one thread does them: about 0.05 ms of work."""


@contextmanager
def threads_for(work: float) -> Iterator[None]:
    """One CPU thread where there is too little work for two.

    Two threads wait for each other in every operation.  On a free machine that costs nothing; where
    other programs want the cores too, small operations take tens of times as long.

    Args:
        work: Floating-point operations between two such waits.
    """
    threads = torch.get_num_threads()
    if work < ONE_THREAD_FLOP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
