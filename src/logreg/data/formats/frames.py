"""Tables in memory as Arrow tables: data frames of pandas, polars and Arrow, and matrices of NumPy.

pandas and polars are not imported: a frame of pandas is known by the module that made it, all others by Arrow's
PyCapsule interface.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from logreg.data.encoding.labels import name_of, plain_values
from logreg.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]

WORDS = (str, bool, np.bool_, int, float, np.number)
"""Types of Python's values that have a name as text, where a column mixes them."""


def is_frame(data: Any) -> bool:
    """Whether data are a table with named columns, which `table_of_frame` takes.

    A frame of pandas whose columns are numbered is a matrix, as in scikit-learn.
    """
    if _is_pandas(data):
        return data.columns.empty or any(isinstance(name, str) for name in data.columns)
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def _is_pandas(data: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def table_of_frame(frame: Any) -> pa.Table:
    """The columns of a data frame, without the index of pandas, in plain types of Arrow.

    Args:
        frame: A DataFrame of pandas or polars, a table or record batch of Arrow, or another object with Arrow's
            PyCapsule interface.

    Raises:
        DataError: Two columns have one name, a name is not text, or a column mixes values that have no common type.
    """
    import pyarrow as pa

    if _is_pandas(frame):
        names = list(frame.columns)
        columns = [series for _, series in frame.items()]
    else:
        try:
            table = pa.table(frame)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise DataError(f"`X` must be a table with named columns, got {type(frame).__name__}.") from error
        names, columns = table.column_names, table.columns
    if unnamed := [name for name in names if not isinstance(name, str)]:
        raise DataError(
            f"`X` must have columns whose names are text, got {unnamed[0]!r}. Rename them: "
            "X.columns = X.columns.astype(str)."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"`X` must have columns of different names, got {twice[0]!r} twice. Rename one.")
    return pa.table([_column(name, column) for name, column in zip(names, columns, strict=True)], names=names)


def table_of_array(array: Array, names: Sequence[str]) -> pa.Table:
    """The columns of an array of numbers, text or objects, shape (N, D), under these names.

    Raises:
        DataError: A column mixes values that have no common type.
    """
    import pyarrow as pa

    columns = [_column(name, np.ascontiguousarray(array[:, place])) for place, name in enumerate(names)]
    return pa.table(columns, names=list(names))


def _column(name: str, values: Any) -> Any:
    """One column, as an Arrow array; values of an object column that mixes types become text."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return plain_values(values)
    is_object = values.dtype == object
    if values.dtype.kind == "f" and values.dtype.itemsize > np.float64().itemsize:
        values = values.astype(np.float64)  # Arrow has no longer floats
    try:
        column = pa.array(values, from_pandas=is_object)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        if not is_object:
            raise DataError(
                f"column {name!r} must hold numbers, text or true and false, got {values.dtype} [in X]."
            ) from error
        column = _text_of_objects(name, np.asarray(values))
    return plain_values(pa.chunked_array([column]) if isinstance(column, pa.Array) else column)


def _text_of_objects(name: str, values: Array) -> Any:
    """Objects of several types as text, shape (N,): numbers and booleans by their names.

    Raises:
        DataError: A value is neither text nor number, nor a missing value.
    """
    import pyarrow as pa

    texts: list[str | None] = []
    for row, value in enumerate(values.tolist()):
        if value is None or _is_nan(value):
            texts.append(None)
        elif isinstance(value, WORDS):
            texts.append(name_of(value))
        else:
            raise DataError(
                f"column {name!r} must hold numbers, text or true and false, got {type(value).__name__} in row {row}, "
                "counted from 0 [in X]."
            )
    return pa.array(texts, pa.string())


def _is_nan(value: object) -> bool:
    """Whether a value is nan, NaT or NA: the first two differ from themselves, and the last one does not say."""
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"
