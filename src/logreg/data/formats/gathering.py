"""Gathers the batches of a table into columns; numbers lie in one array, so that no later step copies them.

Arrow's own readers of whole files keep a chunk of each batch, and joining the chunks of all columns takes the memory of
the table a second time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from logreg.data.arrow_numbers import array_of, numbers
from logreg.data.memory import mapped_array

if TYPE_CHECKING:
    import pyarrow as pa


def gather(batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int) -> pa.Table:
    """One table of all rows of batches.

    Args:
        batches: Batches with the columns of the schema, in any order.
        schema: The names and types of the columns.
        rows: The number of rows, about; an array that turns out too short is copied to a longer one.

    Returns:
        The table.  Columns of floats and of integers without missing values have one chunk; a missing float is nan.
    """
    import pyarrow as pa

    columns = [_Column(field.type, rows) for field in schema]
    for batch in batches:
        for column, values in zip(columns, batch.select(schema.names).columns, strict=True):
            column.add(values)
    return pa.table([column.result() for column in columns], names=schema.names)


class _Column:
    """The values of one column so far: numbers in an array, everything else in the chunks of Arrow."""

    def __init__(self, kind: pa.DataType, rows: int) -> None:
        import pyarrow.types as kinds

        self.kind, self.size = kind, 0
        self.chunks: list[Any] = []
        self.is_float = kinds.is_floating(kind)
        is_number = self.is_float or kinds.is_integer(kind)
        self.values: Any = mapped_array(rows, kind.to_pandas_dtype()) if is_number else None

    def add(self, values: Any) -> None:
        """Adds values of a batch."""
        if self.values is not None and values.null_count and not self.is_float:  # NumPy has no missing integers
            self.chunks, self.values = [array_of(self.values[: self.size], self.kind)], None
        if self.values is None:
            self.chunks.append(values)
            return
        end = self.size + len(values)
        if end > len(self.values):
            longer = mapped_array(end + end // 2, self.values.dtype)
            longer[: self.size] = self.values[: self.size]
            self.values = longer
        self.values[self.size : end] = numbers(values)
        self.size = end

    def result(self) -> pa.ChunkedArray:
        """All values."""
        import pyarrow as pa

        chunks = self.chunks if self.values is None else [array_of(self.values[: self.size], self.kind)]
        return pa.chunked_array(chunks, self.kind)
