"""Reads tables from CSV, TSV, Parquet, Arrow IPC and Feather files into Arrow tables.

A file that cannot be read ends in one line that names the file and the fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logreg.data.formats.binary_tables import BINARY_SUFFIXES, binary_blocks, read_binary, schema_of
from logreg.data.formats.compression import COMPRESSED_SUFFIXES, suffix_of
from logreg.data.formats.table_errors import explained_read
from logreg.data.formats.text_input import StandardInput, TextFile
from logreg.data.formats.text_layout import SEPARATORS, Header, TextOptions, if_no_header, text_layout
from logreg.data.formats.text_tables import read_text, text_blocks
from logreg.errors import ConfigError, DataError, DatasetNotFoundError
from logreg.files import is_there

if TYPE_CHECKING:
    import pyarrow as pa


UNNAMED_COLUMN = re.compile(r"|Unnamed: \d+(?:\.\d+)*|__index_level_\d+__")
"""Names that pandas gives to columns without a name."""


def read_header(path: str, key: str, separator: str | None = None, has_header: bool = True) -> Header:
    """The columns of a file, without reading its rows.

    Args:
        path: The file.
        key: The key that the user typed to name the file, such as "dataset.path".
        separator: Character between the values of a line; ``None`` for the one that the file shows, or its suffix.
        has_header: Whether a text file begins with a line of names.

    Raises:
        DatasetNotFoundError: There is no such file.
        ConfigError: The suffix is of no format that is read.
        DataError: The file is empty or broken, or two columns have one name.
    """
    _check_file(path, key)
    if suffix_of(path) in BINARY_SUFFIXES:
        header = Header(explained_read(path, key, lambda: schema_of(path).names))
    else:
        header = text_layout(TextFile(path, key), separator, has_header).columns
    _check_distinct(header.names, path, key, suffix_of(path) not in BINARY_SUFFIXES)
    return header


def _check_distinct(names: Sequence[str], source: str, key: str, is_text: bool) -> None:
    """Refuses two columns of one name."""
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        advice = if_no_header(names, "header" if key == "input" else "dataset.header") if is_text else ""
        raise DataError(
            f"`{key}` must have columns of different names, got {repeated[0]!r} twice [in {source}]. "
            f"{advice or 'Rename one.'}"
        )


def column_names(path: str, key: str, separator: str | None = None, has_header: bool = True) -> list[str]:
    """The names of the columns of a file; see `read_header`."""
    return read_header(path, key, separator, has_header).names


def index_columns(path: str, names: Sequence[str]) -> set[str]:
    """The columns that number or name the rows: the index of pandas, by the schema's metadata, and unnamed columns.

    Args:
        path: The file, or "-" for standard input.
        names: All columns of the file.
    """
    is_text = path == "-" or suffix_of(path) not in BINARY_SUFFIXES
    return indexes_in(names, None if is_text else schema_of(path))


def indexes_in(names: Sequence[str], schema: pa.Schema | None) -> set[str]:
    """The columns of `index_columns`, by the names of all columns and the schema of a file that is not text."""
    unnamed = {name for name in names if UNNAMED_COLUMN.fullmatch(name)}
    index = ((schema and schema.pandas_metadata) or {}).get("index_columns", [])
    return unnamed | {name for name in index if isinstance(name, str)}


def check_text_options(path: str, is_binary: bool, options: TextOptions) -> None:
    """Refuses options of text files for a file that is not text.

    Raises:
        ConfigError: One is given.
    """
    for option, given in options._asdict().items():
        if given != TextOptions._field_defaults[option] and is_binary:
            raise ConfigError(f"`dataset.{option}` must go with a text file, and {path} is not one. Leave it out.")


def read_table(
    path: str,
    key: str,
    columns: Sequence[str],
    as_text: Collection[str] = (),
    options: TextOptions = TextOptions(),  # noqa: B008  # a tuple
    codes: Collection[str] = (),
) -> pa.Table:
    """Some columns of a file, all rows.

    Args:
        path: The file.
        key: The key that the user typed to name the file.
        columns: The columns to read, all of which the file has.
        as_text: Columns of a text file that are text even if all their values look like numbers.
        options: What the user says of the values of a text file.
        codes: Columns of a text file that are numbers only if the numbers, written again, give the same text: a code
            such as 0120 is not the number 120.

    Returns:
        A table with these columns, in this order, in plain types of Arrow.

    Raises:
        ConfigError: ``options`` are given for a file that is not text.
        DataError: The file is broken, cut off or without rows; a line has another number of values than the header;
            text is not in UTF-8.
    """
    check_text_options(path, suffix_of(path) in BINARY_SUFFIXES, options)
    if suffix_of(path) in BINARY_SUFFIXES:
        table = read_binary(path, key, list(columns))
    else:
        table = read_text(TextFile(path, key), list(columns), as_text, options, codes)
    if not table.num_rows:
        raise DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return table


def open_blocks(
    path: str,
    key: str,
    choose: Callable[[Sequence[str]], list[str]],
    numbers: Collection[str],
    options: TextOptions = TextOptions(),  # noqa: B008  # a tuple
    groups: range | None = None,
) -> tuple[int | None, Iterator[pa.Table]]:
    """Some columns of a file as blocks of some thousand rows, in bounded memory.

    Args:
        path: The file; "-" is a CSV on standard input.
        key: The key that the user typed to name the file.
        choose: Returns the columns to read, given all columns of the file.
        numbers: Columns of a text file that are numbers; the others are text.
        options: What the user says of the values of a text file.
        groups: Row groups of a Parquet file; ``None`` for all rows.

    Returns:
        The number of rows, or ``None`` where the file does not state it; and the blocks.

    Raises:
        LogregError: The file is missing or broken.  A broken block raises when it is requested.
    """
    if path != "-" and suffix_of(path) in BINARY_SUFFIXES:
        return binary_blocks(path, key, choose(column_names(path, key)), groups)
    if path != "-":
        _check_file(path, key)
    file = StandardInput(key) if path == "-" else TextFile(path, key)
    layout = text_layout(file, options.separator, options.header)
    names = layout.columns.names
    _check_distinct(names, file.name, key, is_text=True)
    return None, text_blocks(file, layout, choose(names), numbers, options)


def _check_file(path: str, key: str) -> None:
    if not is_there(Path(path)):
        raise DatasetNotFoundError(
            f"`{key}` must be a file, and {path} is missing. Relative paths start at the current folder."
        )
    if not Path(path).is_file():
        kind = "the folder" if Path(path).is_dir() else "a pipe or a device:"
        raise DatasetNotFoundError(f"`{key}` must be a file, got {kind} {path}.")
    known = [*SEPARATORS, *BINARY_SUFFIXES]
    if suffix_of(path) not in known:
        compressed = f"(text files also in {', '.join(COMPRESSED_SUFFIXES)})"
        advice = "Convert it: programs for spreadsheets save CSV."
        raise ConfigError.broken(key, f"end in one of {', '.join(known)} {compressed}", path, advice)
    if not Path(path).stat().st_size:
        raise DataError(f"`{key}` must have rows, and {path} is empty.")
