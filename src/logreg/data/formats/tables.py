"""Tables in files: CSV, TSV, Parquet, Arrow and Feather into Arrow, each fault in one line."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.data.encoding.labels import plain_values
from logreg.errors import ConfigError, DataError, DatasetNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa


SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
"""Between the values of a line, by the file's suffix; a .gz, .bz2 or .zst may follow it."""

LONG_LINE = 2**28
"""Bytes that a line may have, where the megabyte that Arrow allows was too little."""

MOST_GROWTH = 100
"""Times its size that a packed file may grow to: text of numbers grows about 3 times, that of mostly zeros 50."""

SMALL = 2**26
"""Bytes that any file may grow to."""

BATCH_ROWS = 2**14
"""Rows of a binary file that are read at once."""

TEXT_BLOCK = 2**22
"""Bytes of a text file that are read at once; of standard input no line may be longer."""

PACKED = (".gz", ".bz2", ".zst")

BINARY = (".parquet", ".pq", ".arrow", ".feather", ".ipc")

SEP_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=(.)"?\r?\n')
"""The first line by which spreadsheets are told what stands between the values."""

NAMELESS = re.compile(r"|Unnamed: \d+(?:\.\d+)*|__index_level_\d+__")
"""What pandas calls a column without a name."""

TEXT_LEVELS = 2**31 - 1
"""Text is read as positions in a dictionary, however many words it has."""


def suffix_of(path: str | Path) -> str:
    """What a file is, by its name: ``.csv`` for ``a.csv`` and for ``a.csv.gz``."""
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() in PACKED else name).suffix.lower()


def most_bytes(path: str | Path) -> int:
    """Bytes that a file may grow to in memory; a few bytes of a stranger could otherwise fill any memory."""
    return max(SMALL, MOST_GROWTH * Path(path).stat().st_size)


def column_names(path: str, key: str, separator: str | None = None) -> list[str]:
    """The columns of a file, without reading its rows; of a text file without the blanks around their names.

    Args:
        path: The file.
        key: What the user typed to name it, such as "dataset.path".
        separator: Between the values of a line; ``None``: by the file's suffix.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataError: It is empty or broken, or two columns have one name.
    """
    _check_file(path, key)
    if suffix_of(path) in BINARY:
        names: list[str] = _reading(path, key, lambda: _schema(path).names)
    else:
        names = [name.strip() for name in _csv_header(path, key, separator)]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(
            f"`{key}` must have columns of different names, got {twice[0]!r} twice [in {path}]. Rename one."
        )
    return names


def row_labels(path: str, names: Sequence[str]) -> set[str]:
    """Those columns of a file that label its rows: the index of pandas, by the schema's metadata, or without a name.

    Args:
        path: The file, or "-".
        names: All its columns.
    """
    nameless = {name for name in names if NAMELESS.fullmatch(name)}
    if path == "-" or suffix_of(path) not in BINARY:
        return nameless
    index = (_schema(path).pandas_metadata or {}).get("index_columns", [])
    return nameless | {name for name in index if isinstance(name, str)}


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
        key: What the user typed to name it.
        columns: Which; they are there.
        as_text: Those of a CSV that are text whatever they look like.
        missing_values: What else stands for a missing value in a CSV, besides nothing, NA, NaN, null.
        separator: Between the values of a line; ``None``: by the file's suffix.
        codes: Those of a CSV that are numbers only if the numbers, written again, are the same text: 0120 is not 120.

    Raises:
        DataError: The file is broken, cut off or has no rows, or a CSV is ragged or not in UTF-8.
    """
    if suffix_of(path) in BINARY:
        for option, given in (("missing_values", missing_values), ("separator", separator)):
            if given:
                raise ConfigError(f"`dataset.{option}` must go with a text file, and {path} is none. Leave it out.")
        table = _reading(path, key, lambda: _plain(_read_binary(path, key, list(columns))))
    else:
        table = _read_csv(path, key, list(columns), as_text, missing_values, separator, codes)
    if not table.num_rows:
        raise DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return table


def _check_file(path: str, key: str) -> None:
    if not Path(path).exists():
        raise DatasetNotFoundError(f"`{key}` must be a file, and {path} is missing. Paths start where you stand.")
    if not Path(path).is_file():
        what = "the folder" if Path(path).is_dir() else "a pipe or a device:"
        raise DatasetNotFoundError(f"`{key}` must be a file, got {what} {path}.")
    known = [*SEPARATORS, *BINARY]
    if suffix_of(path) not in known:
        raise ConfigError.broken(key, f"end in one of {', '.join(known)} (text also in .gz)", path)
    if not Path(path).stat().st_size:
        raise DataError(f"`{key}` must have a header and rows, and {path} is empty.")


def _reading(path: str, key: str, read: Any) -> Any:
    """What ``read`` returns; what Arrow says against it in the house's words."""
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error, MemoryError) as error:
        raise _unreadable(path, key, error) from error


class _Unpacked(io.RawIOBase):
    """What is in a packed file of text, up to the bytes that it may grow to."""

    def __init__(self, path: str, key: str) -> None:
        import pyarrow as pa

        self.path, self.key, self.left = path, key, most_bytes(path)
        self.stream = pa.input_stream(path, compression="detect")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(
                f"`{self.key}` must grow to at most {MOST_GROWTH} times its size when it is unpacked, and {self.path} "
                f"of {Path(self.path).stat().st_size:,} bytes grows further. Unpack it yourself, if you trust it."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def _open_text(path: str, key: str) -> Any:
    """A file of text as bytes, unpacked."""
    import pyarrow as pa

    if Path(path).suffix.lower() not in PACKED:
        return pa.input_stream(path)
    return pa.PythonFile(io.BufferedReader(_Unpacked(path, key), 2**20), mode="r")


def _check_rows(path: str, key: str, rows: int, columns: int) -> None:
    """A file that is all header must not have the memory of its rows taken."""
    if rows * max(1, columns) > most_bytes(path):
        raise DataError(
            f"`{key}` must have the rows that it claims, and {path} claims {rows:,} in "
            f"{Path(path).stat().st_size:,} bytes. Make it anew."
        )


def _schema(path: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if suffix_of(path) in (".parquet", ".pq"):
        return pq.read_schema(path)
    with pa.memory_map(path) as file:
        return (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).schema


def _is_ipc_file(path: str) -> bool:
    """Whether Arrow's file has its table of contents; else it is a stream."""
    with Path(path).open("rb") as file:
        return file.read(6) == b"ARROW1"


def _read_binary(path: str, key: str, columns: list[str]) -> pa.Table:
    if suffix_of(path) in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        _check_rows(path, key, pq.read_metadata(path).num_rows, len(columns))
        return pq.read_table(path, columns=columns)
    import pyarrow as pa

    with pa.memory_map(path) as file:
        table = (pa.ipc.open_file if _is_ipc_file(path) else pa.ipc.open_stream)(file).read_all().select(columns)
    _check_rows(path, key, table.num_rows, len(columns))
    return table


def _plain(table: pa.Table) -> pa.Table:
    """The table with its columns in plain types of Arrow."""
    import pyarrow as pa

    return pa.table([plain_values(column) for column in table.columns], names=table.column_names)


def _csv_header(path: str, key: str, separator: str | None) -> list[str]:
    csv.field_size_limit(LONG_LINE)
    skipped, between = _layout(path, key, separator)

    def first_line() -> list[str]:
        with _open_text(path, key) as file:
            # Other bytes are taken along: what is read with the header are values too, which are looked at later.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            lines = itertools.islice(text, skipped, None)
            return next((row for row in csv.reader(lines, delimiter=between) if row), [])

    names: list[str] = _reading(path, key, first_line)
    if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):
        raise _not_utf8(path, key, "the header")
    if not names:
        raise DataError(f"`{key}` must have a header and rows, and {path} has only empty lines.")
    other = next((mark for mark in ";\t|" if mark in names[0]), None)
    if len(names) == 1 and other and separator is None and not skipped:
        raise DataError(
            f"`{key}` must have {between!r} between values, and {path} seems to have {other!r}. "
            f"Set \"{'separator' if key == 'input' else 'dataset.separator'}='{other}'\"."
        )
    return names


def _as_written(path: str, key: str, separator: str | None, columns: Sequence[str]) -> dict[str, str]:
    """Names of columns of a text file, in the order of ``columns``, by what its header has with blanks around them."""
    written = {name.strip(): name for name in _csv_header(path, key, separator)}
    return {written[column]: column for column in columns}


def _read_csv(
    path: str,
    key: str,
    columns: list[str],
    as_text: Collection[str],
    missing_values: Sequence[str],
    separator: str | None,
    codes: Collection[str],
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    skipped, between = _layout(path, key, separator)
    written = _as_written(path, key, separator, columns)
    parse = pyarrow.csv.ParseOptions(delimiter=between, newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(written),
        column_types={
            name: pa.dictionary(pa.int32(), pa.string())
            for name, column in written.items()
            if column in as_text or column in codes
        },
        strings_can_be_null=True,
        null_values=[*pyarrow.csv.ConvertOptions().null_values, *missing_values],
        auto_dict_encode=True,
        auto_dict_max_cardinality=TEXT_LEVELS,
    )

    def read(threads: bool, block_size: int | None = None) -> pa.Table:
        options = pyarrow.csv.ReadOptions(use_threads=threads, block_size=block_size, skip_rows=skipped)
        with _open_text(path, key) as file:
            return pyarrow.csv.read_csv(file, options, parse, convert)

    try:
        try:
            table = read(threads=True)
        except pa.ArrowInvalid as error:
            if not _is_too_long(error):
                raise
            table = read(threads=True, block_size=LONG_LINE)
    except (pa.ArrowException, OSError) as error:
        if told := re.search(r"In CSV column #(\d+).*invalid UTF8", str(error)):
            name = _csv_header(path, key, separator)[int(told[1])]
            raise _not_utf8(path, key, f"column {name!r}") from error
        if "Expected" in str(error):
            try:
                read(threads=False)  # slower, and knows the number of the line
            except pa.ArrowException as told:
                raise _ragged(path, key, str(told)) from error
        raise _unreadable(path, key, error) from error
    table = table.rename_columns(columns)
    for field in table.schema:
        if field.type in (pa.binary(), pa.dictionary(pa.int32(), pa.binary())):  # what Arrow makes of other bytes
            raise _not_utf8(path, key, f"column {field.name!r}")
    if not table.num_rows:
        return table
    read_in = [
        _typed(column, missing_values, name in as_text, name in codes)
        if pa.types.is_dictionary(column.type)
        else column
        for name, column in zip(columns, table.columns, strict=True)
    ]
    return pa.table(read_in, names=columns)


def _typed(column: pa.ChunkedArray, missing_values: Sequence[str], is_text: bool, is_code: bool) -> Any:
    """A column of text without the blanks around its values; in the type that they look like, unless ``is_text``."""
    import pyarrow as pa
    import pyarrow.csv

    read = column.unify_dictionaries().combine_chunks()
    trimmed = without_gaps(read.dictionary, missing_values)
    if trimmed.equals(read.dictionary):
        if not is_code or is_text:
            return column
    else:
        read = trimmed.take(read.indices).dictionary_encode()
    texts = read.dictionary
    if is_text:
        return read
    if not len(texts):
        return pa.nulls(len(read))
    # What they look like is left to what reads the other columns.
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table({"text": texts}), sink)
    values = pyarrow.csv.read_csv(
        pa.BufferReader(sink.getvalue()),
        pyarrow.csv.ReadOptions(block_size=LONG_LINE),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
    ).column(0)
    if pa.types.is_string(values.type) or (is_code and not _same_when_written(texts, values)):
        return read
    return values.combine_chunks().take(read.indices)


def _same_when_written(texts: Any, values: Any) -> bool:
    """Whether whole numbers are written as numbers are: no zeros in front, no exponent, no more digits than are held.

    Fractions, of which nobody makes codes, are numbers however they are written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.equal(pc.floor(values), values)).as_py():
        texts = pc.replace_substring_regex(texts, r"\.0*$", "")
        values = pc.cast(values, pa.decimal128(38), safe=False) if pc.max(pc.abs(values)).as_py() < 2**53 else None
    elif not pa.types.is_integer(values.type):
        return True
    return values is not None and bool(pc.all(pc.equal(pc.cast(values, pa.string()), texts)).as_py())


def _ragged(path: str, key: str, message: str, lines: int = 0) -> DataError:
    """Of Arrow's words the numbers; ``lines`` were read before Arrow began to count."""
    told = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", message, re.DOTALL)
    if told is None:
        return DataError(
            f"`{key}` must have as many values in every line, and {path} has not: {' '.join(message.split())}."
        )
    row, wanted, got, text = told.groups()
    line = int(row) + lines
    return DataError(
        f"`{key}` must have {wanted} values in every line, got {got} in line {line} [in {path}]: {text[:60]!r}. "
        "Mend the line."
    )


def _not_utf8(path: str, key: str, what: str) -> DataError:
    packed = Path(path).suffix.lower() in PACKED
    with _open_text(path, key) as file:
        start = bytes(file.read(2))
    if start == b"\x1f\x8b":
        advice = "Unpack it once" if packed else f"Call it {Path(path).name}.gz"
        return DataError(f"`{key}` must be text, and {path} is packed by gzip{' twice' * packed}. {advice}.")
    old = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "latin1"
    convert = f"iconv -f {old} -t utf-8 old.csv > new.csv"
    return DataError(
        f"`{key}` must be in UTF-8, and {what} of {path} is not. {'Unpack and convert' if packed else 'Convert'} it: "
        f"{convert}."
    )


def _unreadable(path: str, key: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).replace(f" '{path}'", "").rstrip(".") or type(error).__name__
    if isinstance(error, UnicodeDecodeError) or "UTF8" in reason or "UTF-8" in reason:
        return _not_utf8(path, key, "the text")
    if "cannot infer number of columns" in reason:
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return DataError(f"`{key}` must be a whole file, and {path} could not be read: {reason}. Make it anew.")


def _is_too_long(error: Exception) -> bool:
    """Whether the header or a line may have been longer than a block."""
    return "straddl" in str(error) or "cannot infer number of columns" in str(error)


def _layout(path: str, key: str, separator: str | None) -> tuple[int, str]:
    """How many lines of a text file stand before its header, and what stands between its values."""

    def start() -> bytes:
        with _open_text(path, key) as file:
            return bytes(file.read(16))

    stated = SEP_LINE.match(_reading(path, key, start))
    return (1 if stated else 0), separator or (stated[1].decode("latin1") if stated else SEPARATORS[suffix_of(path)])


def open_blocks(
    path: str,
    key: str,
    choose: Callable[[Sequence[str]], list[str]],
    numbers: Collection[str],
    missing_values: Sequence[str] = (),
    separator: str | None = None,
) -> tuple[int | None, Iterator[pa.Table]]:
    """Some columns of a file, a few thousand rows at a time.

    Args:
        path: The file; "-" is a CSV on standard input.
        key: What the user typed to name it.
        choose: Which columns, by those that there are.
        numbers: Of a text file, the columns that are numbers; the others are text.
        missing_values: What else stands for a missing value in a text file.
        separator: Between the values of a line; ``None``: by the file's suffix.

    Returns:
        The number of rows, where the file says it; and the blocks.

    Raises:
        LogregError: The file is missing or broken; of a block that is broken, when it is asked for.
    """
    if path != "-" and suffix_of(path) in BINARY:
        columns = choose(column_names(path, key))
        return _binary_blocks(path, key, columns)
    if path != "-":
        columns = choose(column_names(path, key, separator))
        layout = _layout(path, key, separator)
        written = _as_written(path, key, separator, columns)
        return None, _text_blocks(path, key, None, written, numbers, missing_values, layout)
    header, lines = "", 0
    while not header.strip():
        line = sys.stdin.buffer.readline()
        if not line:
            break
        header, lines = line.decode("utf-8-sig", errors="replace"), lines + 1
        if stated := SEP_LINE.match(line):
            separator, header = separator or stated[1].decode("latin1"), ""
    row = next(csv.reader([header.rstrip("\r\n")], delimiter=separator or ","), [])
    names = [name.strip() for name in row]
    if not names:
        raise DataError(f"`{key}` must have a header and rows, and standard input is empty.")
    columns = choose(names)
    written = {name: name for name in columns}
    layout = (0, separator or ",")
    return None, _text_blocks(path, key, names, written, numbers, missing_values, layout, lines)


def gap_words(missing_values: Sequence[str] = ()) -> list[str]:
    """Words that stand for a missing value in a text file: those of Arrow, and others that a user named."""
    import pyarrow.csv

    return [*pyarrow.csv.ConvertOptions().null_values, *(word.strip() for word in missing_values)]


def without_gaps(column: Any, missing_values: Sequence[str] = ()) -> Any:
    """Text of a text file, without the blanks around it, and with the words for a missing value taken as one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(column, value_set=pa.array(gap_words(missing_values))), None, column)


def _binary_blocks(path: str, key: str, columns: list[str]) -> tuple[int | None, Iterator[pa.Table]]:
    import pyarrow as pa

    if suffix_of(path) in (".parquet", ".pq"):
        from pyarrow.parquet import ParquetFile

        file = _reading(path, key, lambda: ParquetFile(path, pre_buffer=False, buffer_size=2**20))
        _check_rows(path, key, file.metadata.num_rows, len(columns))
        batches = file.iter_batches(BATCH_ROWS, columns=columns)
        return file.metadata.num_rows, _tables(path, key, batches, columns)
    source = _reading(path, key, lambda: pa.memory_map(path))
    if not _is_ipc_file(path):
        return None, _tables(path, key, iter(_reading(path, key, lambda: pa.ipc.open_stream(source))), columns)
    opened = _reading(path, key, lambda: pa.ipc.open_file(source))
    return None, _tables(path, key, (opened.get_batch(n) for n in range(opened.num_record_batches)), columns)


def _text_blocks(
    path: str,
    key: str,
    header: list[str] | None,
    written: Mapping[str, str],
    numbers: Collection[str],
    missing_values: Sequence[str],
    layout: tuple[int, str],
    lines: int = 0,
) -> Iterator[pa.Table]:
    """Tables of a text file.

    ``header`` where its line has been read already, as the last of so many ``lines``; ``written`` as `_as_written`
    gives it; ``layout`` as `_layout` says it.
    """
    import pyarrow as pa
    import pyarrow.csv

    words = [*pyarrow.csv.ConvertOptions().null_values, *missing_values]
    kinds = {name: pa.float64() if column in numbers else pa.string() for name, column in written.items()}
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(written),
        column_types=kinds,
        strings_can_be_null=False,  # what is only copied stays as it is: `without_gaps` is for the others
        null_values=[before + word + after for word in words for before in ("", " ") for after in ("", " ")],
    )
    as_text = pyarrow.csv.ConvertOptions(
        include_columns=list(written), column_types=dict.fromkeys(kinds, pa.string()), strings_can_be_null=False
    )
    those = {name for name, column in written.items() if column in numbers}
    parse = pyarrow.csv.ParseOptions(delimiter=layout[1], newlines_in_values=True)
    shown = "standard input" if path == "-" else path

    def read(block_size: int, convert: Any = convert) -> Iterator[Any]:
        # Threads make reading block by block no faster, and lose the number of a line that is at fault.
        options = pyarrow.csv.ReadOptions(
            use_threads=False, block_size=block_size, column_names=header, skip_rows=layout[0]
        )
        source = pa.PythonFile(sys.stdin.buffer, mode="r") if path == "-" else _open_text(path, key)
        with source, pyarrow.csv.open_csv(source, options, parse, convert) as reader:
            yield from reader

    def batches() -> Iterator[Any]:
        done = 0
        try:
            for batch in read(TEXT_BLOCK):
                yield batch
                done += batch.num_rows
        except pa.ArrowInvalid as error:
            # Training takes numbers with blanks beyond ASCII around them, and whole ones that are written 0x1F.
            blanks = NO_NUMBER.search(str(error)) is not None
            if path == "-" or not (blanks or _is_too_long(error)):
                raise
            # From the start in another way, without the rows that have been passed on.
            for batch in read(TEXT_BLOCK, as_text) if blanks else read(LONG_LINE):
                rest = batch.slice(min(done, batch.num_rows))
                done = max(0, done - batch.num_rows)
                yield _with_numbers(rest, those, missing_values, error) if blanks else rest

    for table in _tables(shown, key, batches(), list(written), lines):
        yield table.rename_columns(list(written.values()))


def _with_numbers(batch: Any, numbers: Collection[str], missing_values: Sequence[str], otherwise: Exception) -> Any:
    """A batch of text with some columns as numbers; raises ``otherwise`` where one is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, name in enumerate(batch.schema.names):
        if name in numbers:
            text = without_gaps(batch.column(place), missing_values)
            try:
                column = pc.cast(text, pa.float64())
            except pa.ArrowInvalid:
                try:
                    column = pc.cast(pc.cast(text, pa.int64()), pa.float64(), safe=False)
                except pa.ArrowInvalid:
                    raise otherwise from None
            batch = batch.set_column(place, name, column)
    return batch


NO_NUMBER = re.compile(r"In CSV column #\d+: (?:Row #\d+: )?CSV conversion error to double: invalid value '(.*)'")
"""How Arrow says that a value is no number."""

WRITE_NUMBERS = "Write numbers with a dot before the decimals and nothing else around them; leave missing ones empty."
"""What to do about it."""


def _tables(path: str, key: str, batches: Iterator[Any], columns: list[str], lines: int = 0) -> Iterator[pa.Table]:
    """Tables of a reader's batches that are not empty; what Arrow says against one in the house's words.

    ``lines`` of a text file were read before.
    """
    import pyarrow as pa

    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _broken_block(path, key, error, lines) from error
        if batch is None:
            return
        if batch.num_rows:
            yield _plain(pa.Table.from_batches([batch]).select(columns))


def _broken_block(path: str, key: str, error: Exception, lines: int) -> DataError:
    if told := NO_NUMBER.search(str(error)):
        return DataError(
            f"`{key}` must hold numbers where the model learned from numbers, got {told[1]!r} [in {path}]. "
            f"{WRITE_NUMBERS}"
        )
    if "Expected" in str(error):
        return _ragged(path, key, str(error), lines)
    if "Empty CSV file" in str(error):
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return _unreadable(path, key, error)
