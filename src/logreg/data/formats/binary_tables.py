"""Tables in binary files: Parquet, and Arrow IPC files and streams.

References:
    Apache Parquet, file format, https://parquet.apache.org/docs/file-format/
    Apache Arrow, columnar format (IPC files, IPC streams, Feather), https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from logreg.data.arrow_numbers import plain_values
from logreg.data.formats.compression import max_decoded_bytes, suffix_of
from logreg.data.formats.gathering import gather
from logreg.data.formats.table_errors import explained_batches, explained_read, unreadable_error
from logreg.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


PARQUET_SUFFIXES = (".parquet", ".pq")

BINARY_SUFFIXES = (*PARQUET_SUFFIXES, ".arrow", ".feather", ".ipc")
"""Suffixes of files that hold typed columns: Parquet, and Arrow IPC under its three names."""

TABLE_BATCH_ROWS = 2**14
"""Rows of a Parquet file that `open_blocks` decodes at once: few enough for memory, enough to make calls cheap."""

BATCH_NUMBERS = 2**20
"""Numbers of a Parquet file that `read_binary` decodes at once, where a batch of ``TABLE_BATCH_ROWS`` has fewer; they
take at most 8 MiB."""


def schema_of(path: str) -> pa.Schema:
    """The names and types of the columns of a file, by its header or footer alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if suffix_of(path) in PARQUET_SUFFIXES:
        return pq.read_schema(path)
    with pa.memory_map(path) as file:
        return (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).schema


def read_binary(path: str, key: str, columns: list[str]) -> pa.Table:
    """All rows of these columns, in plain types of Arrow.

    Args:
        path: The file.
        key: The key that the user typed to name the file.
        columns: The columns to read, all of which the file has.

    Raises:
        DataError: The file is broken, or states more rows than it can hold.
    """
    return explained_read(path, key, lambda: _plain_columns(_read_columns(path, key, columns)))


def _read_columns(path: str, key: str, columns: list[str]) -> pa.Table:
    if suffix_of(path) in PARQUET_SUFFIXES:
        return _read_parquet(path, key, columns)
    import pyarrow as pa

    with pa.memory_map(path) as file:
        table = (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).read_all().select(columns)
    check_stated_rows(path, key, table.num_rows, len(columns))
    return table


def _read_parquet(path: str, key: str, columns: list[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, pre_buffer=False, buffer_size=2**16) as file:
        rows = file.metadata.num_rows
        check_stated_rows(path, key, rows, len(columns))
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        batch_rows = min(max(TABLE_BATCH_ROWS, BATCH_NUMBERS // max(1, len(columns))), rows)
        return gather(file.iter_batches(max(1, batch_rows), columns=columns), schema, rows)


def row_groups(path: str, key: str) -> list[int]:
    """The number of rows of each row group of a Parquet file.

    Raises:
        DataError: The file is broken.
    """
    from pyarrow.parquet import read_metadata

    def sizes() -> list[int]:
        footer = read_metadata(path)
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]

    found: list[int] = explained_read(path, key, sizes)
    return found


def binary_blocks(
    path: str, key: str, columns: list[str], groups: range | None = None
) -> tuple[int | None, Iterator[pa.Table]]:
    """These columns in blocks of rows, in plain types of Arrow.

    Args:
        path: The file.
        key: The key that the user typed to name the file.
        columns: The columns to read, all of which the file has.
        groups: Row groups of a Parquet file; ``None`` for all rows.

    Returns:
        The number of rows, or ``None`` where the file does not state it; and the blocks.

    Raises:
        DataError: The file is broken, or states more rows than it can hold.
    """
    import pyarrow as pa

    num_rows, batches = _open_batches(path, key, columns, groups)

    def tables() -> Iterator[pa.Table]:
        for batch in explained_batches(batches, lambda error: unreadable_error(path, key, error)):
            yield _plain_columns(pa.Table.from_batches([batch]).select(columns))

    return num_rows, tables()


def _open_batches(
    path: str, key: str, columns: list[str], groups: range | None
) -> tuple[int | None, Iterator[pa.RecordBatch]]:
    """The number of rows where the file states it, and an iterator over its record batches."""
    import pyarrow as pa

    if suffix_of(path) in PARQUET_SUFFIXES:
        from pyarrow.parquet import ParquetFile

        file = explained_read(path, key, lambda: ParquetFile(path, pre_buffer=False, buffer_size=2**20))
        check_stated_rows(path, key, file.metadata.num_rows, len(columns))
        chosen = range(file.num_row_groups) if groups is None else groups
        num_rows = sum(file.metadata.row_group(group).num_rows for group in chosen)
        return num_rows, file.iter_batches(TABLE_BATCH_ROWS, list(chosen), columns)
    source = explained_read(path, key, lambda: pa.memory_map(path))
    if not _is_ipc_file(path):
        return None, iter(explained_read(path, key, lambda: pa.ipc.open_stream(source)))
    opened = explained_read(path, key, lambda: pa.ipc.open_file(source))
    return None, (opened.get_batch(number) for number in range(opened.num_record_batches))


def _is_ipc_file(path: str) -> bool:
    """Whether an Arrow IPC file has the random-access format, which begins with ARROW1; else it is a stream."""
    with Path(path).open("rb") as file:
        return file.read(6) == b"ARROW1"


def check_stated_rows(path: str, key: str, rows: int, columns: int, size: int | None = None) -> None:
    """Refuses a small file whose stated rows would not fit into memory; ``size`` is its size, unless it is local."""
    size = Path(path).stat().st_size if size is None else size
    if rows * max(1, columns) > max_decoded_bytes(size):
        raise DataError(
            f"`{key}` must have the rows that its header states, and {path} states {rows:,} rows in "
            f"{size:,} bytes. Write the file again."
        )


def _plain_columns(table: pa.Table) -> pa.Table:
    """The table with its columns in plain types of Arrow."""
    import pyarrow as pa

    return pa.table([plain_values(column) for column in table.columns], names=table.column_names)
