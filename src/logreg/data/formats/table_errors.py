"""Messages for tables that cannot be read: each names the file and the fault in one line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from logreg.data.arrow_numbers import or_other_decimal
from logreg.data.formats import arrow_errors
from logreg.data.formats.signatures import Format, encoding_of, format_of
from logreg.data.formats.text_input import TextInput
from logreg.errors import DataError, nearest

WITHOUT_HEADER = (
    "The model learned from a file without a header, and the first line of this one looks like a header. Leave it out: "
    "tail -n +2 old.csv > new.csv."
)
"""Advice where the first line of a file has names, and the columns are known by their places."""


def explained_read(path: str, key: str, read: Callable[[], Any]) -> Any:
    """The result of ``read``.

    Raises:
        DataError: The file cannot be read; the message has the reason that Arrow or the system gives.
    """
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error, MemoryError) as error:
        raise unreadable_error(path, key, error) from error


def explained_batches(batches: Iterator[Any], explain: Callable[[Exception], DataError]) -> Iterator[Any]:
    """The batches of a reader that have rows.

    Args:
        batches: Arrow record batches.
        explain: Returns the mistake that an error is.

    Raises:
        DataError: A batch cannot be read.
    """
    import pyarrow as pa

    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise explain(error) from error
        if batch is None:
            return
        if batch.num_rows:
            yield batch


def lacking_column(key: str, column: str, source: str, others: Iterable[str], advice: str = "") -> DataError:
    """The error for a table without a column that a model learned from.

    Args:
        key: The key that the user typed to name the table.
        column: The column.
        source: The table, as messages name it.
        others: Columns of the table that may be the one, under another name.
        advice: What to do where none of these is.
    """
    near = nearest(column, others)
    advice = f"Is it {near!r}? Rename that one." if near else advice
    return DataError(
        f"`{key}` must have the column {column!r} that the model learned from [in {source}]. {advice}".rstrip()
    )


def number_error(path: str, key: str, word: str, column: str, decimal: str, is_header: bool = False) -> DataError:
    """The error for a word in a column from which a model learned numbers.

    Args:
        path: The table, as messages name it.
        key: The key that the user typed to name it.
        word: The word.
        column: The column.
        decimal: Character before the decimals of numbers.
        is_header: Whether the word stands in the first line of a file that is to have no header.
    """
    mark = "dot" if decimal == "." else "comma"
    advice = f"Write numbers with a {mark} before the decimals and nothing else around them; leave missing ones empty."
    advice = or_other_decimal(advice, [word], decimal, "dataset.decimal" if key.startswith("dataset.") else "decimal")
    advice = WITHOUT_HEADER if is_header else advice
    return DataError(
        f"`{key}` must hold numbers where the model learned from numbers, got {word!r} in column {column!r} "
        f"[in {path}]. {advice}"
    )


def ragged_error(file: TextInput, error: Exception) -> DataError:
    """The error for a line with another number of values."""
    line = arrow_errors.ragged_line(error)
    if line is None:
        return DataError(
            f"`{file.key}` must have the same number of values in every line, and {file.name} does not: "
            f"{' '.join(str(error).split())}."
        )
    return DataError(
        f"`{file.key}` must have {line.expected} values in every line, got {line.found} in line {line.number} "
        f"[in {file.name}]: {line.text[:60]!r}. Fix the line."
    )


def format_error(file: TextInput, found: Format) -> DataError:
    """The error for a file that is no text, but in another format."""
    name, advice = Path(file.name).name, "Name a table in a text file, or save this one as CSV."
    if file.is_read_once and found.program:
        advice = f"Send it through {found.program} first."
    elif file.is_read_once and found.suffix:
        advice = f"Write it to a file whose name ends in {found.suffix}, and name the file."
    elif file.is_compressed and found.program:
        return DataError(f"`{file.key}` must be text, and {file.name} is {found.is_what} twice. Decompress it once.")
    elif file.is_compressed and found.suffix:
        advice = f"Decompress it, and call it {Path(name).with_suffix('').with_suffix(found.suffix)}."
    elif found.suffix:
        advice = f"Call it {f'{name}{found.suffix}' if found.program else Path(name).with_suffix(found.suffix)}."
    within = " within" if file.is_compressed else ""
    return DataError(f"`{file.key}` must be text, and {file.name} is {found.is_what}{within}. {advice}")


def encoding_error(file: TextInput, part: str) -> DataError:
    """The error for text that is not in UTF-8, in ``part`` of the file; the next step depends on the first bytes."""
    sample = file.sample()
    if (other := format_of(sample)) is not None:
        return format_error(file, other)
    encoding = encoding_of(sample)
    if encoding is None:
        return DataError(
            f"`{file.key}` must be text, and {file.name} is not: {part} has bytes that no text has. "
            "Save the table as CSV."
        )
    convert = f"iconv -f {encoding} -t utf-8"
    if file.is_read_once:
        advice = f"Send it through {convert} first."
    else:
        advice = f"{'Decompress and convert' if file.is_compressed else 'Convert'} it: {convert} old.csv > new.csv."
    return DataError(f"`{file.key}` must be in UTF-8, and {part} of {file.name} is not. {advice}")


def unreadable_error(path: str, key: str, error: Exception) -> DataError:
    """The error for a file that cannot be read as a whole."""
    reason = arrow_errors.reason_of(error, path)
    return DataError(f"`{key}` must be a complete file, and {path} could not be read: {reason}. Write it again.")
