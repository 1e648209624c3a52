"""Arrays in memory of their own, which goes back to the system as soon as they are freed.

The allocator of the C library keeps freed arrays of up to 32 MiB for later: the whole table, where it has many columns.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
"""Options by which pages that are not written to take no memory; Windows needs none."""


MAPPED_BYTES = 2**18
"""Smallest size of such an array, in bytes: a system maps at most some ten thousand pieces of memory for a process."""


def mapped_array(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array of zeros, in memory of its own unless it is small."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    if size * np.dtype(dtype).itemsize < MAPPED_BYTES:
        return np.zeros(shape, dtype)
    buffer = mmap.mmap(-1, size * np.dtype(dtype).itemsize, **_PRIVATE)
    return np.frombuffer(buffer, dtype, size).reshape(shape)
