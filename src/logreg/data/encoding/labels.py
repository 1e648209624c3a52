"""From what a user calls the classes to integers in [0, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.errors import DataError
from logreg.facts import ClassKind

CLASSES = ("text", "number", "boolean", "nothing")
"""Kinds of values that can be classes; of nothing there are none."""

MISSING = -1
"""Code of a label that is missing."""


def plain_values(column: Any) -> Any:
    """A column in the plainest type of Arrow that has its values: text, numbers, booleans, or dictionaries of them.

    Args:
        column: A pyarrow array, chunked or not.

    Returns:
        The same values; the column itself where its type is plain already, or has no plain one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_dictionary(kind) and kinds.is_string_view(kind.value_type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        texts = [pa.DictionaryArray.from_arrays(part.indices, pc.cast(part.dictionary, pa.string())) for part in chunks]
        return pa.chunked_array(texts, pa.dictionary(kind.index_type, pa.string()))
    if kinds.is_run_end_encoded(kind) and not kinds.is_nested(kind.value_type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return pa.chunked_array([_of_runs(chunk) for chunk in chunks], plain_values(pa.array([], kind.value_type)).type)
    if kinds.is_string_view(kind) or isinstance(kind, pa.JsonType):
        return pc.cast(column, pa.string())
    if isinstance(kind, pa.Bool8Type):
        return pc.cast(column, pa.bool_())
    if kinds.is_decimal32(kind) or kinds.is_decimal64(kind):
        return pc.cast(column, pa.decimal128(kind.precision, kind.scale))
    return column


def _of_runs(runs: Any) -> Any:
    """The values of an array of runs, one by one; Arrow decodes runs of few types, but of numbers always."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pa.RunEndEncodedArray.from_arrays(runs.run_ends, pa.array(np.arange(len(runs.values))))
    values = plain_values(runs.values)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.take(pc.run_end_decode(places.slice(runs.offset, len(runs))))


def encode_values(values: Any, key: str) -> tuple[Tensor, list[Any]]:
    """Integers for values of any kind, the same for equal ones.

    Args:
        values: A pyarrow array (chunked or not) or a NumPy array, shape (N,).
        key: What the user typed to name them, for the error: ``dataset.split.group=patient``.

    Returns:
        Codes, shape (N,), int64, ``MISSING`` where a value is null or nan; and what each code stands for,
        in ascending order.

    Raises:
        DataError: Arrow cannot compare values of this type, such as lists.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(np.ascontiguousarray(values))
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if kinds.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kinds.is_floating(array.type):
        array = pc.add(array.cast(pa.float64()), 0.0)  # of -0 makes 0
        array = pc.if_else(pc.is_nan(array), None, array)
    if kinds.is_null(array.type):
        return torch.full((len(array),), MISSING), []
    try:
        encoded = array.dictionary_encode()
        order = pc.sort_indices(encoded.dictionary)
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"`{key}` must hold text or numbers, got {array.type}. Name another column.") from error
    rank = np.full(len(order) + 1, MISSING)  # the last is that of a missing value
    rank[order.to_numpy()] = np.arange(len(order))
    codes = rank[pc.fill_null(encoded.indices, len(order)).to_numpy(zero_copy_only=False)]
    return torch.from_numpy(codes), encoded.dictionary.take(order).to_pylist()


def encode_labels(values: Any, key: str) -> tuple[Tensor, tuple[str, ...]]:
    """Integers for labels of any kind.

    Args:
        values: A pyarrow array (chunked or not) or a NumPy array of strings, integers, booleans, or
            floats that are whole numbers; shape (N,).
        key: What the user typed to name them, for the error: ``dataset.target=cut``.

    Returns:
        Codes, shape (N,), int64, ``MISSING`` where a label is null or nan; and the name of each
        class: numbers in numeric order, text in the order of the alphabet, false before true.

    Raises:
        DataError: The values are no classes: fractions, dates, lists.
    """
    if (kind := _type_of(values)) not in CLASSES:
        raise DataError(
            f"`{key}` must hold text, whole numbers or true and false, got {kind}. "
            "Name another column, or make text of it."
        )
    codes, found = encode_values(values, key)
    for value in found:
        if isinstance(value, float | Decimal) and not (math.isfinite(value) and value == int(value)):
            raise DataError(
                f"`{key}` must hold classes, got numbers that are not whole, such as {value:g}. Logistic regression "
                "predicts classes: name another column, or cut this one into classes first."
            )
    return codes, tuple(name_of(value) for value in found)


def _type_of(values: Any) -> str:
    """The kind of values, if it is one of ``CLASSES``; else what Arrow calls it."""
    import pyarrow as pa
    import pyarrow.types as kinds

    kind = values.type if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values[:1]).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    families = {
        "text": kinds.is_string(kind) or kinds.is_large_string(kind),
        "number": kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind),
        "boolean": kinds.is_boolean(kind),
        "nothing": kinds.is_null(kind),
    }
    return next((family for family, found in families.items() if found), str(kind))


def class_kind(values: Any) -> ClassKind:
    """What classes are where they come from, so that exported models can give them back as that."""
    import pyarrow as pa
    import pyarrow.types as kinds

    found = _type_of(values)
    if found != "number":
        return "boolean" if found == "boolean" else "text"
    kind = values.type if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values[:1]).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return "integer" if kinds.is_integer(kind) else "float"


def name_of(value: Any) -> str:
    """A class as it is written: ``True`` is true, 3.0 is 3."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def boolean_of(text: str) -> str:
    """What a text says where there are true and false: in any case, or as 1 and 0."""
    small = text.strip().lower()
    return {"0": "false", "1": "true"}.get(small, small)


def near_twins(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes that differ only by blanks, case or a dot at the end.

    Example:
        >>> near_twins(["<=50K", "<=50K.", ">50K"])
        [('<=50K', '<=50K.')]
    """
    first: dict[str, str] = {}
    met = [(first.setdefault("".join(name.split()).rstrip(".").casefold(), name), name) for name in names]
    return [(one, other) for one, other in met if one != other]
