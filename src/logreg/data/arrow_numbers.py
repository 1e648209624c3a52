"""Arrays of Arrow as arrays of NumPy and back, without copies.

The conversions of pyarrow itself import pandas, where it is installed, which takes longer than to read a small table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def numbers(array: Any, missing: float | None = None) -> np.ndarray[Any, Any]:
    """The numbers of an Arrow array, chunked or not, shape (N,); a view where it has one chunk and no missing values.

    Args:
        array: Integers or floats.
        missing: The number that stands for missing ones; ``None``: nan, and there are none among integers.
    """
    import pyarrow as pa

    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    dtype = array.type.to_pandas_dtype()
    parts = [_chunk_numbers(chunk, dtype, np.nan if missing is None else missing) for chunk in chunks if len(chunk)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, dtype)])


def _chunk_numbers(chunk: Any, dtype: Any, missing: float) -> np.ndarray[Any, Any]:
    validity, data = chunk.buffers()
    whole = slice(chunk.offset, chunk.offset + len(chunk))
    values = np.frombuffer(data, dtype, whole.stop)[whole]
    if chunk.null_count:
        is_there = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[whole]
        values = np.where(is_there, values, np.asarray(missing, dtype))
    return values


def array_of(values: np.ndarray[Any, Any], kind: pa.DataType | None = None) -> pa.Array:
    """Numbers (N,), contiguous, as an Arrow array without missing values, of type ``kind`` or that of NumPy."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(values.dtype) if kind is None else kind
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def text_array(texts: Sequence[str]) -> pa.Array:
    """Texts as an Arrow array."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    builder.append_values(list(texts))
    return builder.finish()
