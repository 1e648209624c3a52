"""Work on many columns, shared among the cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from logreg.hardware import usable_cores

Item = TypeVar("Item")

Result = TypeVar("Result")

PARTS_PER_CORE = 4
"""Number of parts that each core works on, one after the other; several, since columns take unequal time."""


def map_in_parts(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """Applies ``work`` to parts of the items in threads, and joins the results in order.

    A thread gets several items at once, since starting a task takes longer than the work on a short column.

    Args:
        work: Function of some items, which returns a list.
        items: The items.
    """
    cores = usable_cores()
    size = max(1, -(-len(items) // (PARTS_PER_CORE * cores)))
    with ThreadPoolExecutor(cores) as pool:
        parts = pool.map(work, [items[start : start + size] for start in range(0, len(items), size)])
        return [result for part in parts for result in part]
