"""Arrays in memory of their own, which goes back to the system as soon as they are freed, and arrays in files.

The allocator of the C library keeps freed arrays of up to 32 MiB for later: the whole table, where it has many columns.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from logreg.files import unfinished
from logreg.hardware import available_memory
from logreg.launchers import placement

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
"""Options by which pages that are not written to take no memory; Windows needs none."""


MAPPED_BYTES = 2**18
"""Smallest size of such an array, in bytes: a system maps at most some ten thousand pieces of memory for a process."""

MEMORY_FRACTION = 0.6
"""Fraction of the available memory up to which columns and features are held in memory; the rest is for the fit."""

_MEMORY: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""What owns the memory of the arrays of `mapped_array` (a map) and of `scratch_in` (another array), by its address."""

Allocate: TypeAlias = "Callable[[int | tuple[int, ...], Any], np.ndarray[Any, Any]]"
"""Makes an array of zeros from its shape and type."""


def fits_into_memory(num_bytes: int) -> bool:
    """Whether columns and features of this size are held in memory, where the user does not say.

    Several processes of a launcher hold them each.
    """
    available, placed = available_memory(), placement()
    processes = 1 if placed is None else placed.local_size
    return available is None or processes * num_bytes <= MEMORY_FRACTION * available


def mapped_array(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array of zeros, in memory of its own unless it is small."""
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    if size * np.dtype(dtype).itemsize < MAPPED_BYTES:
        return np.zeros(shape, dtype)
    buffer = mmap.mmap(-1, size * np.dtype(dtype).itemsize, **_PRIVATE)
    array = np.frombuffer(buffer, dtype, size)
    _MEMORY[_address(array)] = buffer
    return array.reshape(shape)


def release(array: np.ndarray[Any, Any], rows: slice) -> None:
    """Gives the memory of some rows back to the system, where `mapped_array` or `scratch_in` made the array.

    They become zeros.  Those of a scratch file are not written to the disk any more, if they have not been yet.

    Args:
        array: The array, or its first rows; contiguous.
        rows: Rows that no one reads again; only whole pages are given back.
    """
    address = _address(array)
    memory = _MEMORY.get(address)
    if memory is None or not hasattr(mmap, "MADV_REMOVE"):
        return
    first, end = (-(-rows.start * array.strides[0] // mmap.PAGESIZE), rows.stop * array.strides[0] // mmap.PAGESIZE)
    first, size = first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE
    if size <= 0:
        return
    if isinstance(memory, mmap.mmap):
        memory.madvise(mmap.MADV_DONTNEED, first, size)
    else:  # file systems that cannot make holes refuse it
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address + first), ctypes.c_size_t(size), mmap.MADV_REMOVE)


def _address(array: np.ndarray[Any, Any]) -> int:
    """Address of the first number of an array."""
    address: int = array.__array_interface__["data"][0]
    return address


def file_array(path: Path, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array of zeros in a new file, whose pages the system writes back and frees when memory is short.

    Args:
        path: The file; an existing one is replaced.
        shape: Shape of the array.
        dtype: Type of its numbers.

    Raises:
        OSError: The disk has no room for it.
    """
    import torch

    size = math.prod(shape) if isinstance(shape, tuple) else shape
    with path.open("wb") as file:
        num_bytes = size * np.dtype(dtype).itemsize
        # A page of a file with holes that finds the disk full ends the process with a signal, not with an error.
        if num_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
    if not num_bytes:
        return np.zeros(shape, dtype)
    # Python's own maps keep the file open, and a process may open about a thousand files.
    content = torch.from_file(str(path), shared=True, size=num_bytes, dtype=torch.uint8)
    array: np.ndarray[Any, Any] = content.numpy().view(dtype).reshape(shape)
    return array


def scratch_in(folder: Path) -> Allocate:
    """Makes arrays in files of a folder that have no name any more: they end with the process, however it ends.

    Args:
        folder: The folder, which is made with the first array.
    """

    def allocate(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        size = math.prod(shape) if isinstance(shape, tuple) else shape
        if size * np.dtype(dtype).itemsize < MAPPED_BYTES:
            return np.zeros(shape, dtype)
        folder.mkdir(parents=True, exist_ok=True)  # here, since several threads may need it
        with unfinished(folder / "scratch") as path:
            array = file_array(path, shape, dtype)
        _MEMORY[_address(array)] = array.base
        return array

    return allocate
