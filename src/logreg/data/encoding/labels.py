"""Encodes class labels of any type as integers in [0, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.data.arrow_numbers import array_of, numbers, types_in_words
from logreg.errors import DataError
from logreg.facts import ClassKind

CLASSES = ("text", "number", "boolean", "nothing")
"""Types of values that can be classes; "nothing" is the type of a column without values."""

MISSING = -1
"""Code of a missing label."""


def encode_values(values: Any, key: str) -> tuple[Tensor, Any]:
    """Encodes values of any type as integers; equal values get the same integer.

    Args:
        values: A pyarrow array (chunked or not) or a NumPy array, shape (N,).
        key: Setting that names the values as the user typed it, for messages: ``dataset.split.group=patient``.

    Returns:
        Codes, shape (N,), int64, ``MISSING`` where a value is null or nan; and the value of each code, ascending, as a
            pyarrow array, since Python has no type for all of them.

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
        values = numbers(array.cast(pa.float64())) + 0.0  # + 0.0 turns -0 into 0
        array = pc.if_else(pc.is_nan(array_of(values)), pa.nulls(len(values), pa.float64()), array_of(values))
    if kinds.is_null(array.type):
        return torch.full((len(array),), MISSING), array[:0]
    try:
        encoded = array.dictionary_encode()
        order = pc.sort_indices(encoded.dictionary)
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"`{key}` must hold text or numbers, got {types_in_words(array.type)[0]}. Name another column."
        ) from error
    rank = np.full(len(order) + 1, MISSING)  # the last entry is for a missing value
    rank[numbers(order)] = np.arange(len(order))
    codes = rank[numbers(encoded.indices, missing=len(order))]
    return torch.from_numpy(codes), encoded.dictionary.take(order)


def encode_labels(values: Any, key: str, as_text: str = "make text of it") -> tuple[Tensor, tuple[str, ...]]:
    """Encodes class labels as integers.

    Args:
        values: A pyarrow array (chunked or not) or a NumPy array of strings, integers, booleans, or floats that are
            whole numbers; shape (N,).
        key: Setting that names the labels as the user typed it, for messages: ``dataset.target=cut``.
        as_text: Advice on how to make text of values that cannot be classes.

    Returns:
        Codes, shape (N,), int64, ``MISSING`` where a label is null or nan; and the name of each class: numbers in
        numeric order, text in alphabetical order, false before true.

    Raises:
        DataError: The values cannot be classes: fractions, dates, lists.
    """
    if (kind := _type_of(values)) not in CLASSES:
        raise DataError(
            f"`{key}` must hold text, whole numbers or true and false, got {kind}. Name another column, or {as_text}."
        )
    codes, levels = encode_values(values, key)
    found = levels.to_pylist()
    for value in found:
        if isinstance(value, float | Decimal) and not (math.isfinite(value) and value == int(value)):
            raise DataError(
                f"`{key}` must hold classes, got numbers that are not whole, such as {value:g}. Logistic regression "
                "predicts classes: name another column, or cut this one into classes first."
            )
    return codes, tuple(name_of(value) for value in found)


def _type_of(values: Any) -> str:
    """The type of values, as one of ``CLASSES`` or else in words."""
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
    return next((family for family, found in families.items() if found), types_in_words(kind)[0])


def class_kind(values: Any) -> ClassKind:
    """The type of the classes in the source, so that exported models can return classes of this type."""
    import pyarrow as pa
    import pyarrow.types as kinds

    found = _type_of(values)
    if found != "number":
        return "boolean" if found == "boolean" else "text"
    kind = values.type if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values[:1]).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return "integer" if kinds.is_integer(kind) else "float"


def name_of(value: Any) -> str:
    """The name of a class: true for ``True``, 3 for 3.0."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def boolean_of(text: str) -> str:
    """The name of the boolean that a text means: true and false in any case, or 1 and 0; other text in lower case."""
    lower = text.strip().lower()
    return {"0": "false", "1": "true"}.get(lower, lower)


def near_twins(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes that differ only by blanks, case or a dot at the end.

    Example:
        >>> near_twins(["<=50K", "<=50K.", ">50K"])
        [('<=50K', '<=50K.')]
    """
    first: dict[str, str] = {}
    pairs = [(first.setdefault("".join(name.split()).rstrip(".").casefold(), name), name) for name in names]
    return [(one, other) for one, other in pairs if one != other]
