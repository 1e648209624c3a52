"""Tables in memory as Arrow tables: data frames of pandas, polars and Arrow, and matrices of NumPy.

pandas and polars are not imported: a frame of pandas is known by the module that made it, all others by Arrow's
PyCapsule interface.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from logreg.data.arrow_numbers import array_of, plain_values
from logreg.data.encoding.labels import name_of
from logreg.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]

WORDS = (str, bool, np.bool_, int, float, np.number)
"""Types of Python's values that have a name as text, where a column mixes them."""


def is_frame(data: Any) -> bool:
    """Whether data are a table with named columns, which `columns_of` takes.

    A frame of pandas whose columns are numbered is a matrix, as in scikit-learn.
    """
    if _is_pandas(data):
        return data.columns.empty or any(isinstance(name, str) for name in data.columns)
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def _is_pandas(data: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def columns_of(frame: Any) -> dict[str, Any]:
    """The columns of a data frame by name, as `arrow_column` takes them; the index of pandas is none of them.

    Args:
        frame: A DataFrame of pandas or polars, a table or record batch of Arrow, or another object with Arrow's
            PyCapsule interface.

    Raises:
        DataError: It is no table, or two columns have one name, or a name is not text.
    """
    import pyarrow as pa

    if _is_pandas(frame):
        named = list(frame.items())
    else:
        try:
            table = pa.table(frame)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise DataError(f"`X` must be a table with named columns, got {type(frame).__name__}.") from error
        named = list(zip(table.column_names, table.columns, strict=True))
    if unnamed := [name for name, _ in named if not isinstance(name, str)]:
        raise DataError(
            f"`X` must have columns whose names are text, got {unnamed[0]!r}. Rename them: "
            "X.columns = X.columns.astype(str)."
        )
    if twice := [name for name, count in Counter(name for name, _ in named).items() if count > 1]:
        raise DataError(f"`X` must have columns of different names, got {twice[0]!r} twice. Rename one.")
    return dict(named)


def arrow_column(name: str, values: Any) -> pa.ChunkedArray:
    """A column in a plain type of Arrow; objects of several types become text.

    Args:
        name: Name of the column, for messages.
        values: Shape (N,): a chunked array of Arrow, a Series of pandas, or an array of NumPy.

    Raises:
        DataError: Arrow has no type for the values.
    """
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return plain_values(values)
    if hasattr(values, "sparse"):  # of pandas
        values = values.sparse.to_dense()
    if values.dtype == np.longdouble:  # Arrow has no such type
        values = values.astype(np.float64)
    is_object = values.dtype == object
    try:
        column = pa.array(
            np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values, from_pandas=is_object
        )
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        if not is_object:
            raise DataError(_unusable(name, str(values.dtype))) from error
        column = _of_several_types(name, np.asarray(values))
    return plain_values(pa.chunked_array([column]) if isinstance(column, pa.Array) else column)


def _unusable(name: str, found: str) -> str:
    return f"column {name!r} must hold numbers, text or true and false, got {found} [in X]. Add drop=[{name!r}]."


def _of_several_types(name: str, values: Array) -> Any:
    """Objects for which Arrow has no common type, shape (N,): as numbers where all are numbers, else as text.

    Raises:
        DataError: A value is neither text nor number, nor a missing value.
    """
    import pyarrow as pa

    present = [None if value is None or _is_nan(value) else value for value in values.tolist()]
    for row, value in enumerate(present):
        if not (value is None or isinstance(value, WORDS)):
            raise DataError(_unusable(name, f"{type(value).__name__} in row {row}, counted from 0"))
    if all(value is None or not isinstance(value, str | bool | np.bool_) for value in present):  # beyond 64 bits
        return array_of(np.array([np.nan if value is None else float(value) for value in present]))
    return pa.array([None if value is None else name_of(value) for value in present], pa.string())


def _is_nan(value: object) -> bool:
    """Whether a value is nan, NaT or NA: the first two differ from themselves, and the last one does not say."""
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"
