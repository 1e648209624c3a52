"""Gathers the batches of a table into columns; numbers lie in one array, so that no later step copies them.

Arrow's own readers of whole files keep a chunk of each batch, and joining the chunks of all columns takes the memory of
the table a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from logreg.data.arrow_numbers import array_of, is_there, numbers, text_array
from logreg.data.memory import Allocate, mapped_array
from logreg.hardware import usable_cores

if TYPE_CHECKING:
    import pyarrow as pa


def gather(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int, allocate: Allocate = mapped_array
) -> pa.Table:
    """One table of all rows of batches.

    Args:
        batches: Batches with the columns of the schema, in any order.
        schema: The names and types of the columns.
        rows: The number of rows, about; an array that turns out too short is copied to a longer one.
        allocate: Makes the arrays of numbers and, unless it is `mapped_array`, of the codes of text.

    Returns:
        The table.  Columns of numbers have one chunk; a missing float is nan.  Text in files is dictionary-encoded.
    """
    import pyarrow as pa

    columns, cores = [_column(field.type, rows, allocate) for field in schema], usable_cores()

    def add(pairs: Sequence[tuple[_Column, Any]]) -> None:
        for column, values in pairs:
            column.add(values)

    with ThreadPoolExecutor(cores) as pool:
        for batch in batches:
            pairs = list(zip(columns, batch.select(schema.names).columns, strict=True))
            list(pool.map(add, [pairs[core::cores] for core in range(min(cores, len(pairs)))]))
    return pa.table([column.result() for column in columns], names=schema.names)


def _column(kind: pa.DataType, rows: int, allocate: Allocate) -> _Column:
    """An empty column for values of an Arrow type."""
    import pyarrow.types as kinds

    if kinds.is_floating(kind) or kinds.is_integer(kind):
        return _Numbers(kind, rows, allocate)
    is_text = kinds.is_string(kind.value_type if kinds.is_dictionary(kind) else kind)
    # Arrays in files shall hold what has the length of the table; in memory the chunks of Arrow do as well.
    return _Levels(kind, rows, allocate) if is_text and allocate is not mapped_array else _Chunks(kind)


class _Chunks:
    """Values of any type, in the chunks of Arrow."""

    def __init__(self, kind: pa.DataType) -> None:
        self.kind, self.chunks = kind, list[Any]()

    def add(self, values: Any) -> None:
        """Adds values of a batch."""
        self.chunks.append(values)

    def result(self) -> pa.ChunkedArray:
        """All values."""
        import pyarrow as pa

        return pa.chunked_array(self.chunks, self.kind)


class _Numbers:
    """Numbers in one array; a missing float is nan, and missing integers are marked."""

    def __init__(self, kind: pa.DataType, rows: int, allocate: Allocate) -> None:
        import pyarrow.types as kinds

        self.kind, self.is_float = kind, kinds.is_floating(kind)
        self.values = _Growing(rows, kind.to_pandas_dtype(), allocate)
        self.is_there: _Growing | None = None

    def add(self, values: Any) -> None:
        """Adds values of a batch."""
        if values.null_count and not self.is_float and self.is_there is None:
            self.is_there = _Growing(len(self.values.array), np.bool_, self.values.allocate)
            self.is_there.append(np.ones(self.values.size, np.bool_))
        if self.is_there is not None:
            self.is_there.append(is_there(values))
        self.values.append(numbers(values, missing=None if self.is_float else 0))

    def result(self) -> pa.ChunkedArray:
        """All values."""
        import pyarrow as pa

        there = None if self.is_there is None else self.is_there.filled
        return pa.chunked_array([array_of(self.values.filled, self.kind, there)], self.kind)


class _Levels:
    """Text as positions in its levels, which are numbered by their first occurrence."""

    def __init__(self, kind: pa.DataType, rows: int, allocate: Allocate) -> None:
        self.codes = _Growing(rows, np.int32, allocate)
        self.places: dict[str, int] = {}

    def add(self, values: Any) -> None:
        """Adds values of a batch."""
        import pyarrow as pa

        encoded = values if isinstance(values, pa.DictionaryArray) else values.dictionary_encode()
        levels = encoded.dictionary.to_pylist()
        places = [-1 if level is None else self.places.setdefault(level, len(self.places)) for level in levels]
        indices = numbers(encoded.indices, missing=len(levels)) if encoded.indices.null_count else encoded.indices
        self.codes.append(np.array([*places, -1], np.int32)[np.asarray(indices)])

    def result(self) -> pa.ChunkedArray:
        """All values."""
        import pyarrow as pa

        codes = self.codes.filled
        indices = array_of(codes, pa.int32(), codes >= 0 if codes.size and codes.min() < 0 else None)
        return pa.chunked_array([pa.DictionaryArray.from_arrays(indices, text_array(list(self.places)))])


class _Growing:
    """An array that is filled from its beginning, and copied to a longer one where it turns out too short."""

    def __init__(self, rows: int, dtype: Any, allocate: Allocate) -> None:
        self.allocate, self.size = allocate, 0
        self.array = allocate(rows, dtype)

    @property
    def filled(self) -> np.ndarray[Any, Any]:
        """The values so far."""
        return self.array[: self.size]

    def append(self, values: np.ndarray[Any, Any]) -> None:
        """Adds values."""
        end = self.size + len(values)
        if end > len(self.array):
            longer = self.allocate(end + end // 2, self.array.dtype)
            longer[: self.size] = self.filled
            self.array = longer
        self.array[self.size : end] = values
        self.size = end


_Column: TypeAlias = _Chunks | _Numbers | _Levels
