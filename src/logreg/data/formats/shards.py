"""Tables in many files (shards), local or in object storage, read in the order of the files' names.

`logreg.data.formats.find_shards` finds the files that a path names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from logreg.data.arrow_numbers import array_of, plain_values, types_in_words
from logreg.data.formats import arrow_errors
from logreg.data.formats.binary_tables import BATCH_NUMBERS, PARQUET_SUFFIXES, TABLE_BATCH_ROWS, check_stated_rows
from logreg.data.formats.compression import suffix_of
from logreg.data.formats.file_systems import unreachable_error, version_of
from logreg.data.formats.gathering import gather
from logreg.data.formats.table_errors import explained_read, unreadable_error
from logreg.data.formats.text_input import TextFile
from logreg.data.formats.text_layout import SEPARATORS, Header, TextOptions, text_layout
from logreg.data.formats.text_tables import read_text
from logreg.data.memory import Allocate, mapped_array
from logreg.errors import DataError, DatasetNotFoundError
from logreg.files import place_name, unfinished
from logreg.hardware import usable_cores

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_SUFFIXES = (*PARQUET_SUFFIXES, *SEPARATORS)
"""Suffixes of files that may be shards."""

TEXT_EXPANSION = 3
"""Size of a text table in memory, relative to its file, about: numbers of a few digits become eight bytes."""


@dataclass(frozen=True)
class Shard:
    """One file of a table."""

    path: str
    """Path in its file system."""
    size: int
    """Bytes."""
    version: str
    """Time of its last change in nanoseconds; of an object in S3 its ETag too."""
    values: Mapping[str, Any]
    """Values of the columns that the names of its folders give."""


class TableFiles(Protocol):
    """The files of a table, where a path names more than one."""

    @property
    def name(self) -> str:
        """Their name, for messages."""

    @property
    def suffix(self) -> str:
        """The suffix of the files."""

    def header(self, separator: str | None, has_header: bool = True) -> Header:
        """The columns."""

    def read(
        self,
        columns: Sequence[str],
        as_text: Collection[str],
        options: TextOptions,
        codes: Collection[str],
        allocate: Allocate,
        scratch: str | None,
        /,
    ) -> tuple[pa.Table, tuple[tuple[int, str], ...]]:
        """Some columns of all files, and the first row and the name of each file; see `Shards.read`."""


@dataclass(frozen=True)
class Shards:
    """The files of a table, in the order of their rows."""

    key: str
    """The key that the user typed to name them."""
    place: str
    """The folder, pattern or address as the user typed it."""
    filesystem: Any
    """File system of pyarrow."""
    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """Their name, for messages."""
        return place_name(self.place)

    @property
    def suffix(self) -> str:
        """The suffix of the files."""
        return suffix_of(self.shards[0].path)

    @property
    def is_parquet(self) -> bool:
        """Whether the files are Parquet; else they are text."""
        return self.suffix in PARQUET_SUFFIXES

    @property
    def identity(self) -> list[list[Any]]:
        """Name, size and version of each file: plain values that change when the content does."""
        return [[shard.path, shard.size, shard.version] for shard in self.shards]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(shard.size for shard in self.shards)

    def header(self, separator: str | None, has_header: bool = True) -> Header:
        """The columns of the first file, and those that the folders give.

        The separators are those of all files; of files that are copied to be read, that of the first one.
        """
        first = self.shards[0]
        if self.is_parquet:
            found = Header(list(self.schema().names))
        else:
            layouts = []
            for shard in self.shards if self._is_local else self.shards[:1]:
                with self._local(shard) as path:
                    layouts.append(text_layout(TextFile(path, self.key), separator, has_header))
            found = layouts[0].columns
            if any(layout.is_found for layout in layouts):
                found = found._replace(found_separators=tuple(dict.fromkeys(one.separator for one in layouts)))
        for column in first.values:
            if column in found.names:
                raise DataError(
                    f"`{self.key}` must give each column once, and {column!r} is in {first.path} and in the name of "
                    "its folder. Rename one."
                )
        return found._replace(names=[*found.names, *first.values])

    def schema(self) -> pa.Schema:
        """The schema of the first Parquet file."""
        with self._parquet(self.shards[0]) as file:
            return file.schema_arrow

    def memory_bytes(self, columns: Collection[str], names: Collection[str]) -> int:
        """Bytes of these columns in memory, and of a matrix of float32 with one feature for each, about.

        Args:
            columns: The columns; those of other names are not counted.
            names: All columns.
        """
        if not self.is_parquet:
            used = len(set(columns) & set(names)) / max(1, len(names))
            return round(2 * TEXT_EXPANSION * used * self.num_bytes)
        rows, width = 0, 0
        for shard in self.shards:
            with self._parquet(shard) as file:
                rows += file.metadata.num_rows
        for field in self.schema():
            width += (_width(field.type) + 4) if field.name in columns else 0
        return rows * width

    def read(
        self,
        columns: Sequence[str],
        as_text: Collection[str] = (),
        options: TextOptions = TextOptions(),  # noqa: B008  # a tuple
        codes: Collection[str] = (),
        allocate: Allocate = mapped_array,
        scratch: str | None = None,
    ) -> tuple[pa.Table, tuple[tuple[int, str], ...]]:
        """Some columns of all files, in plain types of Arrow.

        Args:
            columns: The columns to read.
            as_text: As of `logreg.data.formats.tables.read_table`, as are ``options`` and ``codes``.
            options: See above.
            codes: See above.
            allocate: Makes the arrays of the columns.
            scratch: Folder for parsed text files; ``None`` keeps them in memory.

        Returns:
            The table; and the first row and the name of each file.

        Raises:
            DataError: A file is broken, cut off or changes while it is read; or files differ in columns or types.
        """
        import pyarrow as pa

        pa.set_cpu_count(usable_cores())  # Arrow heeds OMP_NUM_THREADS, by which launchers limit the threads of a fit
        in_files = [name for name in columns if name not in self.shards[0].values]
        if self.is_parquet:
            schemas, rows = self._check_footers(in_files)
            parts: Iterator[Any] = self._parquet_batches(in_files, rows)
            schema = _common_schema(schemas, in_files)
        else:
            tables = self._text_tables(in_files, as_text, options, codes, scratch)
            for shard, table in zip(self.shards, tables, strict=True):
                self._check_types(shard, table.schema, tables[0].schema, in_files)
            rows, schema = [len(table) for table in tables], _common_schema([one.schema for one in tables], in_files)
            parts = (batch for table in tables for batch in table.to_batches())
        if not sum(rows):
            raise DataError(f"`{self.key}` must have rows, got only headers [in {self.place}].")
        table = gather((_cast(batch, schema) for batch in parts), schema, sum(rows), allocate)
        self._check_unchanged()
        for name in columns:
            if name not in in_files:
                runs = [(shard.values[name], count) for shard, count in zip(self.shards, rows, strict=True)]
                table = table.append_column(name, _repeated(runs, allocate))
        starts, first = [], 0
        for shard, count in zip(self.shards, rows, strict=True):
            starts.append((first, PurePosixPath(shard.path).name))
            first += count
        pa.default_memory_pool().release_unused()
        return table.select(list(columns)), tuple(starts)

    # Parquet

    @contextmanager
    def _parquet(self, shard: Shard) -> Iterator[Any]:
        """An open Parquet file."""
        from pyarrow.parquet import ParquetFile

        def opened() -> ParquetFile:
            source = self.filesystem.open_input_file(shard.path)
            return ParquetFile(source, pre_buffer=not self._is_local, buffer_size=2**16)

        file = self._explained(shard, opened)
        try:
            yield file
        finally:
            file.close(force=True)

    def _check_footers(self, columns: Sequence[str]) -> tuple[list[pa.Schema], list[int]]:
        """The schema and the number of rows of each file; their columns and types must fit."""
        schemas, rows = [], []
        for shard in self.shards:
            with self._parquet(shard) as file:
                check_stated_rows(shard.path, self.key, file.metadata.num_rows, len(columns), shard.size)
                schemas.append(file.schema_arrow)
                rows.append(file.metadata.num_rows)
            self._check_names(shard, schemas[-1].names, schemas[0].names)
            self._check_types(shard, schemas[-1], schemas[0], columns)
        return schemas, rows

    def _parquet_batches(self, columns: list[str], rows: Sequence[int]) -> Iterator[pa.RecordBatch]:
        size = max(TABLE_BATCH_ROWS, BATCH_NUMBERS // max(1, len(columns)))
        for shard, count in zip(self.shards, rows, strict=True):
            with self._parquet(shard) as file:
                batches = file.iter_batches(max(1, min(size, count)), columns=columns)
                while (batch := self._explained(shard, lambda found=batches: next(found, None))) is not None:
                    yield batch

    # Text

    def _text_tables(
        self,
        columns: list[str],
        as_text: Collection[str],
        options: TextOptions,
        codes: Collection[str],
        scratch: str | None,
    ) -> list[pa.Table]:
        """The parsed files, in memory or mapped from files in ``scratch``."""
        import pyarrow as pa

        tables, firsts = [], list[str]()
        for shard in self.shards:
            with self._local(shard) as path:
                text = TextFile(path, self.key)
                names = text_layout(text, options.separator, options.header).columns.names
                firsts = firsts or names
                self._check_names(shard, names, firsts)
                table = read_text(text, columns, as_text, options, codes)
            if scratch is not None:
                Path(scratch).mkdir(parents=True, exist_ok=True)
                with unfinished(Path(scratch, "part.arrow")) as file:
                    with pa.ipc.new_file(str(file), table.schema) as writer:
                        writer.write_table(table)
                    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            tables.append(table)
        return tables

    @contextmanager
    def _local(self, shard: Shard) -> Iterator[str]:
        """A path of this machine with the content of a file: text is read through the C library."""
        if self._is_local:
            yield shard.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, PurePosixPath(shard.path).name))
            with Path(path).open("wb") as target:

                def copy() -> None:
                    with self.filesystem.open_input_stream(shard.path, compression=None) as source:
                        shutil.copyfileobj(source, target)

                self._explained(shard, copy)
            try:
                yield path
            except DataError as error:  # the user knows the object, not its copy
                raise DataError(str(error).replace(path, shard.path)) from error

    # Checks

    @property
    def _is_local(self) -> bool:
        return bool(self.filesystem.type_name == "local")

    def _check_names(self, shard: Shard, names: Sequence[str], firsts: Sequence[str]) -> None:
        """Refuses a file with other columns than the first one."""
        first = self.shards[0]
        lacking = [name for name in firsts if name not in names]
        extra = [name for name in names if name not in firsts]
        if lacking or extra or shard.values.keys() != first.values.keys():
            folders = f"lies in folders of other columns than {first.path}"
            fault = f"also has {extra[0]!r}, unlike {first.path}" if extra else folders
            fault = f"lacks {lacking[0]!r}, unlike {first.path}" if lacking else fault
            raise DataError(
                f"`{self.key}` must have the same columns in all files, and {shard.path} {fault}. "
                "Fix the file, or move it elsewhere."
            )

    def _check_types(self, shard: Shard, schema: pa.Schema, first: pa.Schema, columns: Sequence[str]) -> None:
        """Refuses a file in which a column has another family of types than in the first one."""
        for name in columns:
            kinds = [one.field(name).type for one in (first, schema)]
            families = [type_family(kind) for kind in kinds]
            if "any" not in families and families[0] != families[1]:
                expected, found = types_in_words(*kinds)
                raise DataError(
                    f"`{self.key}` must have one type for each column in all files, and {name!r} holds {found} "
                    f"in {shard.path}, {expected} in {self.shards[0].path}. Write the files alike."
                )

    def _check_unchanged(self) -> None:
        """Refuses files that changed since they were listed."""
        for shard in self.shards:

            def state(path: str = shard.path) -> tuple[int | None, str]:
                now = self.filesystem.get_file_info(path)
                return now.size, version_of(self.filesystem, now)

            if self._explained(shard, state) != (shard.size, shard.version):
                raise DataError(f"`{self.key}` must not change while it is read, and {shard.path} did. Run again.")

    def _explained(self, shard: Shard, read: Any) -> Any:
        """The result of ``read``; an error names the file."""
        import pyarrow as pa

        if self._is_local:
            return explained_read(shard.path, self.key, read)
        try:
            return read()
        except FileNotFoundError as error:
            raise DatasetNotFoundError(
                f"`{self.key}` must not change while it is read, and {shard.path} is gone. Run again."
            ) from error
        except OSError as error:
            if arrow_errors.is_of_server(error):
                raise unreachable_error(self.key, shard.path, error) from error
            raise unreadable_error(shard.path, self.key, error) from error
        except pa.ArrowException as error:
            raise unreadable_error(shard.path, self.key, error) from error


def type_family(arrow_type: Any) -> str:
    """Types of Arrow with one family can be joined in one column: number, text, any (no values), or the type's name."""
    import pyarrow.types as types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_integer(arrow_type) or types.is_floating(arrow_type) or types.is_decimal(arrow_type):
        return "number"
    if types.is_null(arrow_type):
        return "any"
    is_text = types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type)
    return "text" if is_text else str(arrow_type)


def _common_schema(schemas: Sequence[pa.Schema], columns: Sequence[str]) -> pa.Schema:
    """The plain types that hold the values of all files."""
    import pyarrow as pa

    def common(name: str) -> Any:
        kinds = [plain_values(pa.array([], one.field(name).type)).type for one in schemas]
        if all(kind == kinds[0] for kind in kinds):
            return kinds[0]
        if "text" in map(type_family, kinds):
            return pa.dictionary(pa.int32(), pa.string())
        plain = [pa.schema([(name, kind.value_type if pa.types.is_dictionary(kind) else kind)]) for kind in kinds]
        return pa.unify_schemas(plain, promote_options="permissive").field(name).type

    return pa.schema([(name, common(name)) for name in columns])


def _cast(batch: Any, schema: pa.Schema) -> Any:
    """A batch with the types of a schema."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for field in schema:
        column = plain_values(batch.column(field.name))
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if column.type != field.type:
            if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
                column = pc.cast(column, field.type.value_type).dictionary_encode()
            elif pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(field.type):
                column = pc.cast(column.dictionary_decode(), field.type)
            else:
                column = pc.cast(column, field.type)
        columns.append(column)
    return pa.record_batch(columns, names=schema.names)


def _repeated(runs: Sequence[tuple[Any, int]], allocate: Allocate) -> Any:
    """A column with each value repeated, from pairs of a value and a count."""
    import pyarrow as pa

    levels = list(dict.fromkeys(value for value, _ in runs if value is not None))
    codes = allocate(sum(count for _, count in runs), np.int32)
    first = 0
    for value, count in runs:
        codes[first : first + count] = -1 if value is None else levels.index(value)
        first += count
    indices = array_of(codes, pa.int32(), codes >= 0 if any(value is None for value, _ in runs) else None)
    kind = pa.int64() if levels and isinstance(levels[0], int) else pa.string()
    column = pa.DictionaryArray.from_arrays(indices, pa.array(levels, kind))
    return column if kind == pa.string() else column.dictionary_decode()


def _width(kind: Any) -> int:
    """Bytes of a value in memory; of text those of its code."""
    import pyarrow.types as types

    return max(4, kind.bit_width // 8) if types.is_primitive(kind) or types.is_decimal(kind) else 4
