"""Recognizes errors of Arrow's CSV reader by their English text: Arrow offers neither error codes nor fields.

All patterns of Arrow's messages are in this file.  tests/data/formats/test_arrow_errors.py provokes each message with
the installed version of Arrow, so that a version with other messages is noticed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_RAGGED_LINE = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)

_INVALID_UTF8 = re.compile(r"In CSV column #(\d+).*invalid UTF8")

_UNCONVERTED = re.compile(
    r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to ([^:]*): invalid value '(.*)'", re.DOTALL
)

_NO_COLUMNS = "cannot infer number of columns"
"""The text of the error for a block without a whole line: a file with only a header, or a line longer than a block."""


class Unconverted(NamedTuple):
    """A value that does not have the type of its column."""

    column: int
    """Position of the column in the file, from 0."""
    type: str
    """Arrow's name of the type."""
    value: str
    """The value."""


class RaggedLine(NamedTuple):
    """A line with another number of values than the first line that Arrow read."""

    number: int
    """Number of the line, from 1 at the first line that Arrow read."""
    expected: int
    """Values in the first line."""
    found: int
    """Values in this line."""
    text: str
    """The line."""


def reason_of(error: Exception, path: str) -> str:
    """The text of an error on one line, without the file's name, details of Google's client and a period at its end.

    Without text: its class.
    """
    text = " ".join(str(error).split()).replace(f" '{path}'", "").partition(" error_info=")[0]
    return text.rstrip(".") or type(error).__name__


def is_of_server(error: Exception) -> bool:
    """Whether a server of files cannot be reached or refuses; else the error is of the content of a file."""
    is_of_client = "AWS Error" in str(error) or "google::cloud::Status" in str(error)
    return isinstance(error, ConnectionError | PermissionError | TimeoutError) or is_of_client


def is_missing(error: Exception) -> bool:
    """Whether there is no file or folder; Arrow's file systems raise errors of several classes."""
    return isinstance(error, FileNotFoundError) or "No such file or directory" in str(error)


def is_ragged(error: Exception) -> bool:
    """Whether a line has another number of values than the first one."""
    return "Expected" in str(error)


def ragged_line(error: Exception) -> RaggedLine | None:
    """The line with another number of values; ``None`` where the error has no line number, as with several threads."""
    match = _RAGGED_LINE.search(str(error))
    return RaggedLine(int(match[1]), int(match[2]), int(match[3]), match[4]) if match else None


def invalid_utf8_column(error: Exception) -> int | None:
    """Position of the column, from 0, that has text in another encoding than UTF-8; ``None`` for another error."""
    match = _INVALID_UTF8.search(str(error))
    return int(match[1]) if match else None


def is_not_utf8(error: Exception, path: str) -> bool:
    """Whether text is in another encoding than UTF-8; the name of the file does not count as text of the error."""
    reason = reason_of(error, path)
    return isinstance(error, UnicodeDecodeError) or "UTF8" in reason or "UTF-8" in reason


def unconverted(error: Exception) -> Unconverted | None:
    """The value that does not have the type of its column; ``None`` for another error."""
    match = _UNCONVERTED.search(str(error))
    return Unconverted(int(match[1]), match[2], match[3]) if match else None


def invalid_number(error: Exception) -> Unconverted | None:
    """The value that is not a number in a column of numbers; ``None`` for another error."""
    found = unconverted(error)
    return found if found is not None and found.type == "double" else None


def is_only_header(error: Exception) -> bool:
    """Whether no line follows the header; a line that is longer than a block gives the same error."""
    return _NO_COLUMNS in str(error)


def is_empty(error: Exception) -> bool:
    """Whether the file is empty; a file with only a header, or a line longer than a block, gives the same text."""
    return "Empty CSV file" in str(error)


def is_longer_than_block(error: Exception) -> bool:
    """Whether the header or a line may be longer than a block of the reader."""
    return is_straddling(error) or _NO_COLUMNS in str(error)


def is_straddling(error: Exception) -> bool:
    """Whether a line is longer than a block of the reader, and is not the last one."""
    return "straddl" in str(error)
