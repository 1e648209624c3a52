"""The layout of a table in a text file: its separator, and the names in its header, found in its first lines.

References:
    RFC 4180 (2005), Common format and MIME type for comma-separated values (CSV) files.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from logreg.data.arrow_numbers import is_any_number, is_number
from logreg.data.formats.signatures import SIGNATURE_BYTES, format_of
from logreg.data.formats.table_errors import encoding_error, explained_read, format_error
from logreg.data.formats.text_input import TextInput
from logreg.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
"""Separator between the values of a line, by the suffix of a text file."""

SEPARATOR_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=(.)"?(?:\r\n?|\n)')
"""The first line by which spreadsheet programs state the separator: ``sep=;``."""

LIKELY_SEPARATORS = ",;\t|"
"""Separators that are looked for in a header of a single name."""

LONG_LINE_BYTES = 2**28
"""Block size, in bytes, for text files with a line longer than the usual block of 1 or 4 MiB: a block holds whole
lines.  256 MiB is far more than a line of any table, and still fits into memory."""


class Header(NamedTuple):
    """The columns of a table, without its rows."""

    names: list[str]
    """Their names; of a text file without the blanks around them."""
    found_separators: tuple[str, ...] = ()
    """Characters between the values of text files, where the header of one of them alone shows its own."""


class TextOptions(NamedTuple):
    """What a user says of the values of text files."""

    missing_values: Sequence[str] = ()
    """Words for a missing value, besides the empty word, NA, NaN and null."""
    separator: str | None = None
    """Character between the values of a line; ``None`` for the one that the file shows, or its suffix."""
    decimal: str = "."
    """Character before the decimals of a number."""
    header: bool = True
    """Whether a line with the names of the columns stands before the rows."""

    def conversion(self, columns: Sequence[str], types: Mapping[str, pa.DataType], **more: Any) -> Any:
        """Arrow's options for the values of these columns, of which some have declared types."""
        import pyarrow.csv

        more.setdefault("null_values", [*pyarrow.csv.ConvertOptions().null_values, *self.missing_values])
        return pyarrow.csv.ConvertOptions(
            include_columns=list(columns), column_types=types, decimal_point=self.decimal, **more
        )


class TextLayout(NamedTuple):
    """Layout of a text file."""

    skipped_lines: int
    """Lines before the header."""
    separator: str
    """Character between the values of a line."""
    first_line: list[str]
    """The values of the first line, which is the header or a row, with the blanks around them."""
    is_found: bool = False
    """Whether this line alone shows the separator, which is not the usual one."""
    has_header: bool = True
    """Whether the names stand in the file; else they are those of `numbered`."""

    @property
    def header(self) -> list[str]:
        """The names of the columns, with the blanks around them."""
        return self.first_line if self.has_header else numbered(self.first_line)

    @property
    def given_names(self) -> list[str] | None:
        """The names that the file does not have; ``None`` where it has them."""
        return None if self.has_header else self.header

    @property
    def columns(self) -> Header:
        """The columns."""
        return Header([name.strip() for name in self.header], (self.separator,) if self.is_found else ())

    def header_names(self, columns: Sequence[str]) -> dict[str, str]:
        """The column of each name in the header: the name includes blanks around it in the file, the column does not.

        The order is that of ``columns``.
        """
        in_header = dict(zip(self.columns.names, self.header, strict=True))
        return {in_header[column]: column for column in columns}

    def has_unexpected_header(self, word: str, position: int) -> bool:
        """Whether the first line has names and should be a row, given a word of a column of numbers.

        Args:
            word: A word that is not a number.
            position: Position of the column, from 0.
        """
        is_first = word.strip() == self.first_line[position].strip()
        return not self.has_header and is_first and not any(map(is_any_number, self.first_line))


def numbered(values: Sequence[str]) -> list[str]:
    """Names for the columns of a text file without a header, given the values of a row: column_1, column_2, ..."""
    return [f"column_{number}" for number in range(1, len(values) + 1)]


def if_no_header(names: Sequence[str], key: str) -> str:
    """Advice where names of columns may be the values of a row, since one is a number; else empty.

    Args:
        names: The names in the header.
        key: The setting by which a user says that there is no header.
    """
    if not any(map(is_number, names)):
        return ""
    return f"If its first line is a row and no header, set {key}=false: its columns are then {_first_and_last(names)}."


def _first_and_last(values: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys([numbered(values)[0], numbered(values)[-1]]))


def text_layout(file: TextInput, separator: str | None, has_header: bool = True) -> TextLayout:
    """The layout of a text file.

    The separator is the one that is given, else that of the `SEPARATOR_LINE`, else that of the suffix, unless the
    header shows another one.

    Args:
        file: The file.
        separator: Character between the values of a line; ``None`` where the user has not typed one.
        has_header: Whether the first line has the names of the columns; else it is a row, and they are `numbered`.

    Raises:
        DataError: The file has only empty lines, is no text, or cannot be read.
    """
    csv.field_size_limit(LONG_LINE_BYTES)

    def first_bytes() -> bytes:
        with file.look() as opened:
            return opened.readline(SIGNATURE_BYTES)  # of a pipe, all that has come may be a part of the line

    def lines(skipped: int) -> Iterator[str]:
        with file.look() as opened:
            # Bytes that are not UTF-8 are kept: the buffer also holds values, which are checked later.
            text = io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="")
            yield from itertools.islice(iter(lambda: _line(text, file), ""), skipped, None)

    def find() -> TextLayout:
        start = first_bytes()
        if (other := format_of(start)) is not None:
            raise format_error(file, other)
        stated = SEPARATOR_LINE.match(start)
        skipped = 1 if stated else 0
        skipped += sum(1 for _ in itertools.takewhile(lambda line: not line.strip("\r\n"), lines(skipped)))

        def values(mark: str) -> list[str]:
            return next(csv.reader(lines(skipped), delimiter=mark), [])

        usual, known = SEPARATORS[file.suffix], separator or (stated[1].decode("latin1") if stated else None)
        mark, first_line = (known, values(known)) if known else _separated(values, usual, has_header)
        if not first_line:
            fault = "has only empty lines" if start else "is empty"
            raise DataError(f"`{file.key}` must have rows, and {file.name} {fault}.")
        if any("\udc80" <= letter <= "\udcff" or letter < "\t" for value in first_line for letter in value):
            raise encoding_error(file, "the header" if has_header else "the first line")
        return TextLayout(skipped, mark, first_line, not known and mark != usual, has_header)

    layout: TextLayout = explained_read(file.name, file.key, find)
    return layout


def _line(text: io.TextIOWrapper, file: TextInput) -> str:
    """The next line of a text file; empty at its end."""
    line = text.readline(LONG_LINE_BYTES)
    if len(line) == LONG_LINE_BYTES and not line.endswith(("\n", "\r")):
        raise DataError(
            f"`{file.key}` must have lines of at most {LONG_LINE_BYTES:,} bytes, and the first one of {file.name} is "
            "longer. Name a table with a row in each line."
        )
    return line


def _separated(header: Callable[[str], list[str]], usual: str, has_header: bool) -> tuple[str, list[str]]:
    """The separator of a header, and its names: the usual one, unless the header has a single name by it.

    Then it is the one of ``LIKELY_SEPARATORS`` by which the header has the most names.  A row may have commas in its
    numbers, which do not separate values where semicolons do.

    Args:
        header: Returns the names of the header by a separator; of a file without a header, the values of the first row.
        usual: The usual separator.
        has_header: Whether there is a header.
    """
    values = header(";") if usual == "," and not has_header else []
    with_comma = [value for value in values if "," in value]
    if len(values) > 1 and with_comma and all(is_number(value, ",") for value in with_comma):
        return ";", values
    found = [(usual, header(usual))]
    if len(found[0][1]) == 1:
        found += [(mark, header(mark)) for mark in LIKELY_SEPARATORS if mark in found[0][1][0]]
    return max(found, key=lambda one: len(one[1]))
