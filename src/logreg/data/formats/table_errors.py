"""Messages for tables that cannot be read: each names the file and the fault in one line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from logreg.data.arrow_numbers import or_other_decimal
from logreg.data.formats import arrow_errors
from logreg.data.formats.compression import COMPRESSED_SUFFIXES, open_text
from logreg.errors import DataError, nearest


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


def explained_batches(
    path: str,
    key: str,
    batches: Iterator[Any],
    earlier_lines: int = 0,
    header: Sequence[str] = (),
    decimal: str = ".",
) -> Iterator[Any]:
    """The batches of a reader that have rows.

    Args:
        path: The file, as messages name it.
        key: The key that the user typed to name the file.
        batches: Arrow record batches.
        earlier_lines: Lines of a text file that were read before Arrow began to count.
        header: Names of all columns of a text file.
        decimal: Character before the decimals of its numbers.

    Raises:
        DataError: A batch cannot be read.
    """
    import pyarrow as pa

    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _block_error(path, key, error, earlier_lines, header, decimal) from error
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


def number_error(path: str, key: str, word: str, column: str, decimal: str) -> DataError:
    """The error for a word in a column from which a model learned numbers."""
    mark = "dot" if decimal == "." else "comma"
    advice = f"Write numbers with a {mark} before the decimals and nothing else around them; leave missing ones empty."
    advice = or_other_decimal(advice, [word], decimal, "dataset.decimal" if key.startswith("dataset.") else "decimal")
    return DataError(
        f"`{key}` must hold numbers where the model learned from numbers, got {word!r} in column {column!r} "
        f"[in {path}]. {advice}"
    )


def ragged_error(path: str, key: str, error: Exception, earlier_lines: int = 0) -> DataError:
    """The error for a line with another number of values; Arrow's line numbers do not count ``earlier_lines``."""
    line = arrow_errors.ragged_line(error)
    if line is None:
        return DataError(
            f"`{key}` must have the same number of values in every line, and {path} does not: "
            f"{' '.join(str(error).split())}."
        )
    return DataError(
        f"`{key}` must have {line.expected} values in every line, got {line.found} in line "
        f"{line.number + earlier_lines} [in {path}]: {line.text[:60]!r}. Fix the line."
    )


def encoding_error(path: str, key: str, part: str) -> DataError:
    """The error for text that is not in UTF-8, in ``part`` of the file; the next step depends on the first bytes."""
    is_compressed = Path(path).suffix.lower() in COMPRESSED_SUFFIXES
    with open_text(path, key) as file:
        first_bytes = bytes(file.read(4))
    if first_bytes == b"PK\x03\x04":
        return DataError(f"`{key}` must be text, and {path} is a ZIP archive, as Excel's files are. Save it as CSV.")
    if first_bytes[:2] == b"\x1f\x8b":
        if is_compressed:
            return DataError(f"`{key}` must be text, and {path} is compressed by gzip twice. Decompress it once.")
        return DataError(f"`{key}` must be text, and {path} is compressed by gzip. Call it {Path(path).name}.gz.")
    encoding = "utf-16" if first_bytes[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in first_bytes else "latin1"
    convert = f"iconv -f {encoding} -t utf-8 old.csv > new.csv"
    return DataError(
        f"`{key}` must be in UTF-8, and {part} of {path} is not. "
        f"{'Decompress and convert' if is_compressed else 'Convert'} it: {convert}."
    )


def unreadable_error(path: str, key: str, error: Exception) -> DataError:
    """The error for a file that cannot be read as a whole."""
    if arrow_errors.is_not_utf8(error, path):
        return encoding_error(path, key, "the text")
    if arrow_errors.is_only_header(error):
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    reason = arrow_errors.reason_of(error, path)
    return DataError(f"`{key}` must be a complete file, and {path} could not be read: {reason}. Write it again.")


def _block_error(
    path: str, key: str, error: Exception, earlier_lines: int, header: Sequence[str], decimal: str
) -> DataError:
    """The error for a block that cannot be read; Arrow's line numbers do not count ``earlier_lines``."""
    if (found := arrow_errors.invalid_number(error)) is not None:
        return number_error(path, key, found.value, header[found.column].strip(), decimal)
    if arrow_errors.is_ragged(error):
        return ragged_error(path, key, error, earlier_lines)
    if arrow_errors.is_empty(error):
        return DataError(f"`{key}` must have rows, got only a header [in {path}].")
    return unreadable_error(path, key, error)
