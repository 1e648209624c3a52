"""From what a person calls the classes to integers in [0, C)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.errors import DataError

MISSING = -1
"""Code of a label that is missing."""


def encode_labels(values: Any, key: str) -> tuple[Tensor, tuple[str, ...]]:
    """Integers for labels of any kind.

    Args:
        values: A pyarrow array (chunked or not) or a NumPy array of strings, integers, booleans, or
            floats that are whole numbers; shape (N,).
        key: What the person typed to name them, for the error: ``dataset.target=cut``.

    Returns:
        Codes, shape (N,), int64, ``MISSING`` where a label is null or nan; and the name of each
        class: numbers in numeric order, text in the order of the alphabet, false before true.

    Raises:
        DataError: The values are no classes: fractions, dates, lists.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(np.ascontiguousarray(values))
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if kinds.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if kinds.is_null(kind):
        return torch.full((len(array),), MISSING), ()
    if kinds.is_floating(kind) or kinds.is_decimal(kind):
        array = pc.cast(array, pa.float64())
        array = pc.if_else(pc.is_nan(array), None, array)
        odd = pc.filter(array, pc.invert(pc.and_(pc.is_finite(array), pc.equal(array, pc.floor(array)))))
        if len(odd):
            raise DataError(
                f"`{key}` must hold classes, got fractions such as {odd[0].as_py():g}. Logistic regression predicts "
                "classes: name another column, or cut this one into classes first."
            )
        array = pc.cast(array, pa.int64())
    elif not (kinds.is_integer(kind) or kinds.is_boolean(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)):
        raise DataError(f"`{key}` must hold text, whole numbers or true and false, got {kind}.")
    encoded = array.dictionary_encode()
    found = encoded.dictionary
    order = pc.sort_indices(found).to_numpy()
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = MISSING
    codes = rank[pc.fill_null(encoded.indices, len(order)).to_numpy(zero_copy_only=False)]
    return torch.from_numpy(codes), tuple(name_of(value.as_py()) for value in found.take(pc.sort_indices(found)))


def name_of(value: Any) -> str:
    """A class as it is written: ``True`` is true, 3.0 is 3."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
