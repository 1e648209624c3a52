"""Reads tables from CSV, TSV, Parquet, Arrow IPC and Feather files into Arrow tables.

A file that cannot be read ends in one line that names the file and the fault.  Compressed text is decompressed up to a
limit, since a few bytes of an untrusted file could otherwise fill any memory.

References:
    RFC 4180 (2005), Common format and MIME type for comma-separated values (CSV) files.
    Apache Parquet, file format, https://parquet.apache.org/docs/file-format/
    Apache Arrow, columnar format (IPC files, IPC streams, Feather), https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from logreg.data.encoding.labels import plain_values
from logreg.data.formats import arrow_errors
from logreg.errors import ConfigError, DataError, DatasetNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa


SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
"""Separator between the values of a line, by the suffix of a text file."""

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".zst")
"""Suffixes of compressed text files, which follow the suffix of the text file: ``a.csv.gz``."""

BINARY_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
"""Suffixes of files that hold typed columns: Parquet, and Arrow IPC under its three names."""

LONG_LINE_BYTES = 2**28
"""Block size, in bytes, for text files with a line longer than the usual block of 1 or 4 MiB: a block holds whole
lines.  256 MiB is far more than a line of any table, and still fits into memory."""

TEXT_BLOCK_BYTES = 2**22
"""Block size, in bytes, of `open_blocks` for text.  Standard input cannot be read again with larger blocks, so 4 MiB is
also its longest line."""

TABLE_BATCH_ROWS = 2**14
"""Rows of a Parquet file that `open_blocks` decodes at once: few enough for memory, enough to make calls cheap."""

MAX_EXPANSION_RATIO = 100
"""Maximum size of a decompressed file, relative to its compressed size.  Text of numbers expands about 3 times, text of
mostly zeros about 50 times."""

ALWAYS_ALLOWED_BYTES = 2**26
"""Decompressed size, in bytes, that is allowed at any ratio, since small files of constants expand more: 64 MiB do no
harm."""

SEPARATOR_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=(.)"?\r?\n')
"""The first line by which spreadsheet programs state the separator: ``sep=;``."""

UNNAMED_COLUMN = re.compile(r"|Unnamed: \d+(?:\.\d+)*|__index_level_\d+__")
"""Names that pandas gives to columns without a name."""

MAX_DICTIONARY_SIZE = 2**31 - 1
"""Distinct texts up to which Arrow dictionary-encodes a column; the largest int32, so that every text column is."""

NUMBER_ADVICE = "Write numbers with a dot before the decimals and nothing else around them; leave missing ones empty."
"""Next step after a value that is not a number."""


class _Layout(NamedTuple):
    """How the lines of a text file are laid out."""

    skipped_lines: int
    """Lines before the header."""
    separator: str
    """Character between the values of a line."""


def suffix_of(path: str | Path) -> str:
    """The suffix that names a file's format, in lower case: ``.csv`` for ``a.csv`` and for ``a.csv.gz``."""
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() in COMPRESSED_SUFFIXES else name).suffix.lower()


def max_decoded_bytes(path: str | Path) -> int:
    """Bytes that the content of a file may have in memory."""
    return max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION_RATIO * Path(path).stat().st_size)


def column_names(path: str, key: str, separator: str | None = None) -> list[str]:
    """The columns of a file, without reading its rows; of a text file without the blanks around their names.

    Args:
        path: The file.
        key: The key that the user typed to name the file, such as "dataset.path".
        separator: Character between the values of a line; ``None`` takes the one of the file's suffix.

    Raises:
        DatasetNotFoundError: There is no such file.
        ConfigError: The suffix is of no format that is read.
        DataError: The file is empty or broken, or two columns have one name.
    """
    _check_file(path, key)
    if suffix_of(path) in BINARY_SUFFIXES:
        names: list[str] = _explaining_errors(path, key, lambda: _schema(path).names)
    else:
        names = [name.strip() for name in _text_header(path, key, separator)]
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"`{key}` must have columns of different names, got {repeated[0]!r} twice [in {path}]. Rename one."
        )
    return names


def index_columns(path: str, names: Sequence[str]) -> set[str]:
    """The columns that number or name the rows: the index of pandas, by the schema's metadata, and unnamed columns.

    Args:
        path: The file, or "-" for standard input.
        names: All columns of the file.
    """
    unnamed = {name for name in names if UNNAMED_COLUMN.fullmatch(name)}
    if path == "-" or suffix_of(path) not in BINARY_SUFFIXES:
        return unnamed
    index = (_schema(path).pandas_metadata or {}).get("index_columns", [])
    return unnamed | {name for name in index if isinstance(name, str)}


def read_table(
    path: str,
    key: str,
    columns: Sequence[str],
    as_text: Collection[str] = (),
    missing_values: Sequence[str] = (),
    separator: str | None = None,
    codes: Collection[str] = (),
) -> pa.Table:
    """Some columns of a file, all rows.

    Args:
        path: The file.
        key: The key that the user typed to name the file.
        columns: The columns to read, all of which the file has.
        as_text: Columns of a text file that are text even if all their values look like numbers.
        missing_values: Words for a missing value in a text file, besides the empty word, NA, NaN and null.
        separator: Character between the values of a line; ``None`` takes the one of the file's suffix.
        codes: Columns of a text file that are numbers only if the numbers, written again, give the same text: a code
            such as 0120 is not the number 120.

    Returns:
        A table with these columns, in this order, in plain types of Arrow.

    Raises:
        ConfigError: ``missing_values`` or ``separator`` is given for a file that is not text.
        DataError: The file is broken, cut off or without rows; a line has another number of values than the header;
            text is not in UTF-8.
    """
    if suffix_of(path) in BINARY_SUFFIXES:
        for option, given in (("missing_values", missing_values), ("separator", separator)):
            if given:
                raise ConfigError(f"`dataset.{option}` must go with a text file, and {path} is not one. Leave it out.")
        table = _explaining_errors(path, key, lambda: _plain_columns(_read_binary(path, key, list(columns))))
    else:
        table = _read_text(path, key, list(columns), as_text, missing_values, separator, codes)
    if not table.num_rows:
        raise DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return table


def open_blocks(
    path: str,
    key: str,
    choose: Callable[[Sequence[str]], list[str]],
    numbers: Collection[str],
    missing_values: Sequence[str] = (),
    separator: str | None = None,
) -> tuple[int | None, Iterator[pa.Table]]:
    """Some columns of a file as blocks of some thousand rows, in bounded memory.

    Args:
        path: The file; "-" is a CSV on standard input.
        key: The key that the user typed to name the file.
        choose: Returns the columns to read, given all columns of the file.
        numbers: Columns of a text file that are numbers; the others are text.
        missing_values: Words for a missing value in a text file, besides the empty word, NA, NaN and null.
        separator: Character between the values of a line; ``None`` takes the one of the file's suffix.

    Returns:
        The number of rows, or ``None`` where the file does not state it; and the blocks.

    Raises:
        LogregError: The file is missing or broken.  A broken block raises when it is requested.
    """
    if path == "-":
        return None, _standard_input_blocks(key, choose, numbers, missing_values, separator)
    if suffix_of(path) in BINARY_SUFFIXES:
        return _binary_blocks(path, key, choose(column_names(path, key)))
    columns = choose(column_names(path, key, separator))
    layout = _text_layout(path, key, separator)
    header_names = _header_names(path, key, separator, columns)
    return None, _text_blocks(path, key, None, header_names, numbers, missing_values, layout)


def missing_words(missing_values: Sequence[str] = ()) -> list[str]:
    """Words for a missing value in a text file: those that Arrow knows, and those that the user named."""
    import pyarrow.csv

    return [*pyarrow.csv.ConvertOptions().null_values, *(word.strip() for word in missing_values)]


def mark_missing(column: Any, missing_values: Sequence[str] = ()) -> Any:
    """A column of a text file without the blanks around its values, and null where it has a word for a missing value.

    Args:
        column: Arrow array of text, shape (N,).
        missing_values: Words for a missing value that the user named.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(column, value_set=pa.array(missing_words(missing_values))), None, column)


# Every format


def _check_file(path: str, key: str) -> None:
    if not Path(path).exists():
        raise DatasetNotFoundError(
            f"`{key}` must be a file, and {path} is missing. Relative paths start at the current folder."
        )
    if not Path(path).is_file():
        kind = "the folder" if Path(path).is_dir() else "a pipe or a device:"
        raise DatasetNotFoundError(f"`{key}` must be a file, got {kind} {path}.")
    known = [*SEPARATORS, *BINARY_SUFFIXES]
    if suffix_of(path) not in known:
        compressed = f"(text files also in {', '.join(COMPRESSED_SUFFIXES)})"
        raise ConfigError.broken(key, f"end in one of {', '.join(known)} {compressed}", path)
    if not Path(path).stat().st_size:
        raise DataError(f"`{key}` must have a header and rows, and {path} is empty.")


def _explaining_errors(path: str, key: str, read: Callable[[], Any]) -> Any:
    """The result of ``read``.

    Raises:
        DataError: The file cannot be read; the message has the reason that Arrow or the system gives.
    """
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error, MemoryError) as error:
        raise _unreadable_error(path, key, error) from error


def _check_stated_rows(path: str, key: str, rows: int, columns: int) -> None:
    """Refuses a small file that states so many rows that they would fill the memory."""
    if rows * max(1, columns) > max_decoded_bytes(path):
        raise DataError(
            f"`{key}` must have the rows that its header states, and {path} states {rows:,} rows in "
            f"{Path(path).stat().st_size:,} bytes. Write the file again."
        )


def _plain_columns(table: pa.Table) -> pa.Table:
    """The table with its columns in plain types of Arrow."""
    import pyarrow as pa

    return pa.table([plain_values(column) for column in table.columns], names=table.column_names)


def _checked_tables(
    path: str, key: str, batches: Iterator[Any], columns: list[str], earlier_lines: int = 0
) -> Iterator[pa.Table]:
    """The batches of a reader that have rows, as tables with these columns.

    Args:
        path: The file, as messages name it.
        key: The key that the user typed to name the file.
        batches: Arrow record batches.
        columns: The columns of each table, in this order.
        earlier_lines: Lines of a text file that were read before Arrow began to count.

    Raises:
        DataError: A batch cannot be read.
    """
    import pyarrow as pa

    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _block_error(path, key, error, earlier_lines) from error
        if batch is None:
            return
        if batch.num_rows:
            yield _plain_columns(pa.Table.from_batches([batch]).select(columns))


# Binary files


def _schema(path: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if suffix_of(path) in (".parquet", ".pq"):
        return pq.read_schema(path)
    with pa.memory_map(path) as file:
        return (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).schema


def _is_ipc_file(path: str) -> bool:
    """Whether an Arrow IPC file has the random-access format, which begins with ARROW1; else it is a stream."""
    with Path(path).open("rb") as file:
        return file.read(6) == b"ARROW1"


def _read_binary(path: str, key: str, columns: list[str]) -> pa.Table:
    if suffix_of(path) in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        _check_stated_rows(path, key, pq.read_metadata(path).num_rows, len(columns))
        return pq.read_table(path, columns=columns)
    import pyarrow as pa

    with pa.memory_map(path) as file:
        table = (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).read_all().select(columns)
    _check_stated_rows(path, key, table.num_rows, len(columns))
    return table


def _binary_blocks(path: str, key: str, columns: list[str]) -> tuple[int | None, Iterator[pa.Table]]:
    import pyarrow as pa

    if suffix_of(path) in (".parquet", ".pq"):
        from pyarrow.parquet import ParquetFile

        file = _explaining_errors(path, key, lambda: ParquetFile(path, pre_buffer=False, buffer_size=2**20))
        _check_stated_rows(path, key, file.metadata.num_rows, len(columns))
        batches = file.iter_batches(TABLE_BATCH_ROWS, columns=columns)
        return file.metadata.num_rows, _checked_tables(path, key, batches, columns)
    source = _explaining_errors(path, key, lambda: pa.memory_map(path))
    if not _is_ipc_file(path):
        stream = _explaining_errors(path, key, lambda: pa.ipc.open_stream(source))
        return None, _checked_tables(path, key, iter(stream), columns)
    opened = _explaining_errors(path, key, lambda: pa.ipc.open_file(source))
    batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
    return None, _checked_tables(path, key, batches, columns)


# Text files: bytes and headers


class _Decompressed(io.RawIOBase):
    """The decompressed content of a text file, up to `max_decoded_bytes`."""

    def __init__(self, path: str, key: str) -> None:
        import pyarrow as pa

        self.path, self.key, self.bytes_left = path, key, max_decoded_bytes(path)
        self.stream = pa.input_stream(path, compression="detect")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise DataError(
                f"`{self.key}` must decompress to at most {MAX_EXPANSION_RATIO} times its size, and {self.path} of "
                f"{Path(self.path).stat().st_size:,} bytes decompresses to more. Decompress it yourself, if you trust "
                "the file."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def _open_text(path: str, key: str) -> Any:
    """The decompressed bytes of a text file, as a file of Arrow."""
    import pyarrow as pa

    if Path(path).suffix.lower() not in COMPRESSED_SUFFIXES:
        return pa.input_stream(path)
    return pa.PythonFile(io.BufferedReader(_Decompressed(path, key), 2**20), mode="r")


def _text_layout(path: str, key: str, separator: str | None) -> _Layout:
    """The layout of a text file: by ``separator``, else by its `SEPARATOR_LINE`, else by its suffix."""

    def first_bytes() -> bytes:
        with _open_text(path, key) as file:
            return bytes(file.read(16))

    stated = SEPARATOR_LINE.match(_explaining_errors(path, key, first_bytes))
    default = stated[1].decode("latin1") if stated else SEPARATORS[suffix_of(path)]
    return _Layout(1 if stated else 0, separator or default)


def _text_header(path: str, key: str, separator: str | None) -> list[str]:
    """The names in the header of a text file, with the blanks around them."""
    csv.field_size_limit(LONG_LINE_BYTES)
    layout = _text_layout(path, key, separator)

    def first_line() -> list[str]:
        with _open_text(path, key) as file:
            # Bytes that are not UTF-8 are kept: the buffer also holds values, which are checked later.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            lines = itertools.islice(text, layout.skipped_lines, None)
            return next((row for row in csv.reader(lines, delimiter=layout.separator) if row), [])

    names: list[str] = _explaining_errors(path, key, first_line)
    if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):
        raise _encoding_error(path, key, "the header")
    if not names:
        raise DataError(f"`{key}` must have a header and rows, and {path} has only empty lines.")
    other = next((mark for mark in ";\t|" if mark in names[0]), None)
    if len(names) == 1 and other and separator is None and not layout.skipped_lines:
        raise DataError(
            f"`{key}` must have {layout.separator!r} between values, and {path} seems to have {other!r}. "
            f"Set \"{'separator' if key == 'input' else 'dataset.separator'}='{other}'\"."
        )
    return names


def _header_names(path: str, key: str, separator: str | None, columns: Sequence[str]) -> dict[str, str]:
    """The column of each name in the header: the name has the blanks that stand in the file, the column has none.

    The order is that of ``columns``.
    """
    in_header = {name.strip(): name for name in _text_header(path, key, separator)}
    return {in_header[column]: column for column in columns}


# Text files: all rows


def _read_text(
    path: str,
    key: str,
    columns: list[str],
    as_text: Collection[str],
    missing_values: Sequence[str],
    separator: str | None,
    codes: Collection[str],
) -> pa.Table:
    """`read_table` for a text file; text columns are dictionary-encoded."""
    import pyarrow as pa
    import pyarrow.csv

    layout = _text_layout(path, key, separator)
    header_names = _header_names(path, key, separator, columns)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(header_names),
        column_types={
            name: pa.dictionary(pa.int32(), pa.string())
            for name, column in header_names.items()
            if column in as_text or column in codes
        },
        strings_can_be_null=True,
        null_values=[*pyarrow.csv.ConvertOptions().null_values, *missing_values],
        auto_dict_encode=True,
        auto_dict_max_cardinality=MAX_DICTIONARY_SIZE,
    )
    table = _parse_text(path, key, separator, layout, convert).rename_columns(columns)
    for field in table.schema:
        if field.type in (pa.binary(), pa.dictionary(pa.int32(), pa.binary())):  # Arrow's types of text not in UTF-8
            raise _encoding_error(path, key, f"column {field.name!r}")
    if not table.num_rows:
        return table
    typed = [
        _infer_type(column, missing_values, name in as_text, name in codes)
        if pa.types.is_dictionary(column.type)
        else column
        for name, column in zip(columns, table.columns, strict=True)
    ]
    return pa.table(typed, names=columns)


def _parse_text(path: str, key: str, separator: str | None, layout: _Layout, convert: Any) -> pa.Table:
    """All rows of a text file as Arrow's CSV reader gives them.

    Raises:
        DataError: A line has another number of values than the header, text is not in UTF-8, or the file is broken.
    """
    import pyarrow as pa
    import pyarrow.csv

    parse = pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True)

    def read(threads: bool, block_size: int | None = None) -> pa.Table:
        options = pyarrow.csv.ReadOptions(use_threads=threads, block_size=block_size, skip_rows=layout.skipped_lines)
        with _open_text(path, key) as file:
            return pyarrow.csv.read_csv(file, options, parse, convert)

    try:
        try:
            return read(threads=True)
        except pa.ArrowInvalid as error:
            if not arrow_errors.is_longer_than_block(error):
                raise
            return read(threads=True, block_size=LONG_LINE_BYTES)
    except (pa.ArrowException, OSError) as error:
        column = arrow_errors.invalid_utf8_column(error)
        if column is not None:
            name = _text_header(path, key, separator)[column]
            raise _encoding_error(path, key, f"column {name!r}") from error
        if arrow_errors.is_ragged(error):
            try:
                read(threads=False)  # slower, but its error has the number of the line
            except pa.ArrowException as error_with_line:
                raise _ragged_error(path, key, error_with_line) from error
        raise _unreadable_error(path, key, error) from error


def _infer_type(column: pa.ChunkedArray, missing_values: Sequence[str], is_text: bool, is_code: bool) -> Any:
    """A dictionary-encoded text column without the blanks around its values, in the type that its values look like.

    Args:
        column: Values as Arrow read them.
        missing_values: Words for a missing value that the user named.
        is_text: Whether the column stays text.
        is_code: Whether the column is numbers only if the numbers, written again, give the same text.
    """
    import pyarrow as pa
    import pyarrow.csv

    encoded = column.unify_dictionaries().combine_chunks()
    trimmed = mark_missing(encoded.dictionary, missing_values)
    if trimmed.equals(encoded.dictionary):
        if not is_code or is_text:
            return column
    else:
        encoded = trimmed.take(encoded.indices).dictionary_encode()
    texts = encoded.dictionary
    if is_text:
        return encoded
    if not len(texts):
        return pa.nulls(len(encoded))
    # Arrow's CSV reader infers the type, as for the other columns.
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table({"text": texts}), sink)
    values = pyarrow.csv.read_csv(
        pa.BufferReader(sink.getvalue()),
        pyarrow.csv.ReadOptions(block_size=LONG_LINE_BYTES),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
    ).column(0)
    if pa.types.is_string(values.type) or (is_code and not _is_canonical(texts, values)):
        return encoded
    return values.combine_chunks().take(encoded.indices)


def _is_canonical(texts: Any, values: Any) -> bool:
    """Whether all whole numbers are written as numbers are: no leading zeros, no exponent, no digits beyond the type.

    Columns with fractions count as numbers however they are written, since codes are whole.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.equal(pc.floor(values), values)).as_py():
        texts = pc.replace_substring_regex(texts, r"\.0*$", "")
        values = pc.cast(values, pa.decimal128(38), safe=False) if pc.max(pc.abs(values)).as_py() < 2**53 else None
    elif not pa.types.is_integer(values.type):
        return True
    return values is not None and bool(pc.all(pc.equal(pc.cast(values, pa.string()), texts)).as_py())


# Text files: blocks


def _standard_input_blocks(
    key: str,
    choose: Callable[[Sequence[str]], list[str]],
    numbers: Collection[str],
    missing_values: Sequence[str],
    separator: str | None,
) -> Iterator[pa.Table]:
    """`open_blocks` for a CSV on standard input, whose header is read at once."""
    header, lines = "", 0
    while not header.strip():
        line = sys.stdin.buffer.readline()
        if not line:
            break
        header, lines = line.decode("utf-8-sig", errors="replace"), lines + 1
        if stated := SEPARATOR_LINE.match(line):
            separator, header = separator or stated[1].decode("latin1"), ""
    row = next(csv.reader([header.rstrip("\r\n")], delimiter=separator or ","), [])
    names = [name.strip() for name in row]
    if not names:
        raise DataError(f"`{key}` must have a header and rows, and standard input is empty.")
    header_names = {name: name for name in choose(names)}
    return _text_blocks("-", key, names, header_names, numbers, missing_values, _Layout(0, separator or ","), lines)


def _text_blocks(
    path: str,
    key: str,
    header: list[str] | None,
    header_names: Mapping[str, str],
    numbers: Collection[str],
    missing_values: Sequence[str],
    layout: _Layout,
    earlier_lines: int = 0,
) -> Iterator[pa.Table]:
    """Blocks of a text file.

    Args:
        path: The file; "-" is standard input.
        key: The key that the user typed to name the file.
        header: All columns, where the line of the header has been read already; else ``None``.
        header_names: The columns to read, see `_header_names`.
        numbers: Columns that are numbers; the others are text.
        missing_values: Words for a missing value that the user named.
        layout: Layout of the lines.
        earlier_lines: Lines up to the header, where they have been read already.
    """
    import pyarrow as pa
    import pyarrow.csv

    words = [*pyarrow.csv.ConvertOptions().null_values, *missing_values]
    types = {name: pa.float64() if column in numbers else pa.string() for name, column in header_names.items()}
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(header_names),
        column_types=types,
        strings_can_be_null=False,  # text columns may be copied to the output; `mark_missing` serves the others
        null_values=[before + word + after for word in words for before in ("", " ") for after in ("", " ")],
    )
    as_text = pyarrow.csv.ConvertOptions(
        include_columns=list(header_names), column_types=dict.fromkeys(types, pa.string()), strings_can_be_null=False
    )
    number_names = {name for name, column in header_names.items() if column in numbers}
    parse = pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True)

    def read(block_size: int, convert: Any = convert) -> Iterator[Any]:
        # Threads do not make reading by blocks faster, and their errors lack the number of the line.
        options = pyarrow.csv.ReadOptions(
            use_threads=False, block_size=block_size, column_names=header, skip_rows=layout.skipped_lines
        )
        source = pa.PythonFile(sys.stdin.buffer, mode="r") if path == "-" else _open_text(path, key)
        with source, pyarrow.csv.open_csv(source, options, parse, convert) as reader:
            yield from reader

    def batches() -> Iterator[Any]:
        rows_done = 0
        try:
            for batch in read(TEXT_BLOCK_BYTES):
                yield batch
                rows_done += batch.num_rows
        except pa.ArrowInvalid as error:
            # `read_table` accepts numbers with non-ASCII blanks around them and hexadecimal ones such as 0x1F; Arrow
            # does not accept them in a column that is declared as numbers.
            retry_as_text = arrow_errors.invalid_number(error) is not None
            if path == "-" or not (retry_as_text or arrow_errors.is_longer_than_block(error)):
                raise
            # The file is read again from its start, and the rows that were yielded are skipped.
            for batch in read(TEXT_BLOCK_BYTES, as_text) if retry_as_text else read(LONG_LINE_BYTES):
                rest = batch.slice(min(rows_done, batch.num_rows))
                rows_done = max(0, rows_done - batch.num_rows)
                yield _text_to_numbers(rest, number_names, missing_values, error) if retry_as_text else rest

    shown_path = "standard input" if path == "-" else path
    for table in _checked_tables(shown_path, key, batches(), list(header_names), earlier_lines):
        yield table.rename_columns(list(header_names.values()))


def _text_to_numbers(
    batch: Any, numbers: Collection[str], missing_values: Sequence[str], original_error: Exception
) -> Any:
    """A batch of text columns, with the columns ``numbers`` as float64.

    Raises:
        Exception: ``original_error``, where a value is not a number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, name in enumerate(batch.schema.names):
        if name in numbers:
            text = mark_missing(batch.column(position), missing_values)
            try:
                column = pc.cast(text, pa.float64())
            except pa.ArrowInvalid:
                try:
                    column = pc.cast(pc.cast(text, pa.int64()), pa.float64(), safe=False)
                except pa.ArrowInvalid:
                    raise original_error from None
            batch = batch.set_column(position, name, column)
    return batch


# Errors


def _ragged_error(path: str, key: str, error: Exception, earlier_lines: int = 0) -> DataError:
    """The error for a line with another number of values; Arrow's line numbers do not count ``earlier_lines``."""
    line = arrow_errors.ragged_line(error)
    if line is None:
        return DataError(
            f"`{key}` must have the same number of values in every line, and {path} does not: "
            f"{' '.join(str(error).split())}."
        )
    return DataError(
        f"`{key}` must have {line.expected} values in every line, got {line.found} in line "
        f"{line.number + earlier_lines} [in {path}]: {line.text[:60]!r}. Mend the line."
    )


def _encoding_error(path: str, key: str, part: str) -> DataError:
    """The error for text that is not in UTF-8, in ``part`` of the file; the next step depends on the first bytes."""
    is_compressed = Path(path).suffix.lower() in COMPRESSED_SUFFIXES
    with _open_text(path, key) as file:
        first_bytes = bytes(file.read(2))
    if first_bytes == b"\x1f\x8b":
        if is_compressed:
            return DataError(f"`{key}` must be text, and {path} is compressed by gzip twice. Decompress it once.")
        return DataError(f"`{key}` must be text, and {path} is compressed by gzip. Call it {Path(path).name}.gz.")
    encoding = "utf-16" if first_bytes in (b"\xff\xfe", b"\xfe\xff") else "latin1"
    convert = f"iconv -f {encoding} -t utf-8 old.csv > new.csv"
    return DataError(
        f"`{key}` must be in UTF-8, and {part} of {path} is not. "
        f"{'Decompress and convert' if is_compressed else 'Convert'} it: {convert}."
    )


def _unreadable_error(path: str, key: str, error: Exception) -> DataError:
    """The error for a file that cannot be read as a whole."""
    if arrow_errors.is_not_utf8(error, path):
        return _encoding_error(path, key, "the text")
    if arrow_errors.is_only_header(error):
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    reason = arrow_errors.reason_of(error, path)
    return DataError(f"`{key}` must be a complete file, and {path} could not be read: {reason}. Write it again.")


def _block_error(path: str, key: str, error: Exception, earlier_lines: int) -> DataError:
    """The error for a block that cannot be read; Arrow's line numbers do not count ``earlier_lines``."""
    if (value := arrow_errors.invalid_number(error)) is not None:
        return DataError(
            f"`{key}` must hold numbers where the model learned from numbers, got {value!r} [in {path}]. "
            f"{NUMBER_ADVICE}"
        )
    if arrow_errors.is_ragged(error):
        return _ragged_error(path, key, error, earlier_lines)
    if arrow_errors.is_empty(error):
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return _unreadable_error(path, key, error)
