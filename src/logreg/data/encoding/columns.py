"""Reads the columns of a table out of Arrow, as numbers or as levels of text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from logreg.data.arrow_numbers import inferred, is_number, numbers, or_other_decimal, text_array, types_in_words
from logreg.data.encoding.labels import name_of
from logreg.data.encoding.parallel import map_in_parts
from logreg.data.memory import Allocate, mapped_array
from logreg.errors import ConfigError, DataError, as_typed
from logreg.facts import Vocabulary
from logreg.stored_form import MAX_OFFSET

if TYPE_CHECKING:
    import pyarrow as pa


Values: TypeAlias = "np.ndarray[Any, Any]"

DATE_OR_TIME = re.compile(r"\s*(\d{4}-\d\d-\d\d|\d\d:\d\d)", re.ASCII)
"""The beginning of a date or a time by ISO 8601, as Arrow knows them in a text file."""

FORMATTED_NUMBER = re.compile(
    r"(?:[$€£¥]\s?)?[+-]?(?:[$€£¥]\s?)?(?:\d{1,3}(?:[.,'\s]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)\s?([%‰$€£¥°]|[^\W\d_]{0,5})"
)
"""A number that is formatted for human readers: 7,25 or 1.200,5 or 12% or $3 or 5 kg; the group is the unit."""


@dataclass(frozen=True)
class Series:
    """One column as it was read."""

    name: str
    kind: Literal["number", "boolean", "category", "none"]
    """Type of the column; "none" where all values are missing."""
    values: Values
    """Shape (M,): numbers, nan where missing; or int32 positions in ``levels``, -1 where missing."""
    levels: tuple[str, ...] = ()
    """Different values of a boolean or a category, ascending."""
    problem: str = ""
    """Message with the reason why the column cannot be used, and the next step; empty where it can be used."""
    short_problem: str = ""
    """The problem as the end of a sentence that begins with the column: has '7,25' in row 1."""
    file_type: str = ""
    """Arrow's name of its type in the file."""
    counted: dict[Vocabulary, Any] = field(default_factory=dict, compare=False, repr=False)
    """Counts of the n-grams of its levels, a CSR array, from learning a vocabulary until the column is encoded."""

    @property
    def type_in_words(self) -> str:
        """What the column holds in the file, such as "dates"."""
        has_values = self.kind != "none" or bool(self.problem)
        return types_in_words(self.file_type if has_values else "null")[0]

    def first_word(self, decimal: str) -> tuple[int, str] | None:
        """The first row with a level that is no number, and the level; ``None`` where there is none.

        Args:
            decimal: Character before the decimals of a number.
        """
        if self.kind == "number":
            return None
        # the last entry, at -1, is for missing values
        is_word = np.array([*(not is_number(level, decimal) for level in self.levels), False])
        rows = is_word[self.values].nonzero()[0]
        return (int(rows[0]), self.levels[self.values[rows[0]]]) if len(rows) else None

    def is_missing(self) -> Values:
        """Whether each value is missing, shape (M,), boolean."""
        if self.kind == "number":
            return np.isnan(self.values) if self.values.dtype.kind == "f" else np.zeros(len(self.values), dtype=bool)
        return self.values < 0


@dataclass(frozen=True)
class Columns:
    """The columns of a table as they were read; they are encoded as a feature matrix later."""

    series: list[Series]
    """The columns; empty once `encode` has taken them."""
    num_rows: int
    """Number of rows, M."""
    source: str = ""
    """Name of the file, for messages."""
    starts: tuple[tuple[int, str], ...] = ()
    """First row and name of each file, where several files were read one after the other."""
    missing: Literal["impute", "error"] = "impute"
    """Treatment of missing values: "impute" fills and marks them; "error" refuses them."""
    max_levels: int = 100
    """Number of levels above which a category is wide: it must not look like an id, and may be hashed."""
    min_level_rows: int = 1
    """Number of train rows below which a level is rare, and joins the other rare levels of its column."""
    buckets: int = 0
    """Number of buckets that the levels of a wide category are hashed into; 0 for one feature a level."""
    text: Collection[str] = ()
    """Names of the columns of text, which are learned by their n-grams."""
    ngrams: Mapping[Literal["word", "char_wb"], tuple[int, int]] = field(default_factory=lambda: {"word": (1, 1)})
    """Smallest and largest length of the n-grams of text, of words and of characters within words."""
    min_df: int = 1
    """Smallest number of train rows with an n-gram that is learned."""
    is_text: bool = True
    """Whether all files are text files, where words may mean a missing value."""
    decimal: str = "."
    """Character before the decimals of a number in text files."""
    is_temporary: bool = False
    """Whether no one needs the columns once they are encoded, so that encoding may free them."""
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values of ``dataset.features``, ``drop``, ``categorical``, ``text`` and ``missing_values`` that the user set."""
    offset: str = ""
    """Name of the column that is the known term of the logits, the last of the series; empty for none."""
    allocate: Allocate = mapped_array
    """Makes the arrays of the columns: in memory, or in files."""
    in_python: bool = False
    """Whether the columns come from Python: settings are then arguments of a call, and rows count from 0."""

    def __len__(self) -> int:
        return self.num_rows

    def kept(self, values: Values) -> Values:
        """Values (M,) that were computed from a column, where the arrays of the columns lie."""
        if self.allocate is mapped_array:
            return values
        array = self.allocate(len(values), values.dtype)
        array[:] = values
        return array

    def place(self, row: int) -> str:
        """Location of a row for the user: ``row 3 [in new.csv]``, counted from 1 without the header."""
        if self.in_python:
            return f"row {row}, counted from 0 [in {self.source}]"
        start, file = max((start, file) for start, file in self.starts or ((0, self.source),) if start <= row)
        return f"row {row - start + 1} [in {file}]"

    def key(self, key: str) -> str:
        """The name of a setting for the user: ``dataset.drop``, or ``drop`` in Python."""
        return key.removeprefix("dataset.") if self.in_python else key

    def value(self, key: str, value: object) -> str:
        """A setting with a value, as the user types it: ``dataset.missing=impute``, or ``missing='impute'``."""
        return f"{self.key(key)}={value!r}" if self.in_python else f"{key}={value}"

    def setting(self, key: str, names: Sequence[str]) -> str:
        """A setting that is a list, as the user types it, with ``names`` added to its present value."""
        if key == "dataset.drop" and (features := self.settings.get("dataset.features")):
            key, named = "dataset.features", [name for name in features if name not in names]
        else:
            named = list(dict.fromkeys([*self.settings.get(key, ()), *names]))
        return self.value(key, named) if self.in_python else as_typed(key, named)


def ngrams_of(
    words: Sequence[int] | None, characters: Sequence[int] | None, prefix: str = "dataset."
) -> dict[Literal["word", "char_wb"], tuple[int, int]]:
    """The n-grams of text by their kind, as `Columns` has them.

    Args:
        words: Smallest and largest number of words; ``None`` for none.
        characters: Smallest and largest number of characters; ``None`` for none.
        prefix: What stands before the names of the settings that the user typed.

    Raises:
        ConfigError: Both are ``None``.
    """
    if words is None and characters is None:
        raise ConfigError(
            f"`{prefix}word_ngrams` must be given where `{prefix}char_ngrams` is not, such as [1,1], got None."
        )
    given: dict[Literal["word", "char_wb"], Sequence[int] | None] = {"word": words, "char_wb": characters}
    return {kind: (lengths[0], lengths[1]) for kind, lengths in given.items() if lengths is not None}


def read_columns(table: pa.Table, as_category: Collection[str] = (), source: str = "", **policy: Any) -> Columns:
    """Reads columns out of an Arrow table.

    Args:
        table: The columns to learn from.
        as_category: Names of columns that are categories although they hold numbers.
        source: Name of the file, for messages.
        policy: Further fields of `Columns`.
    """
    columns = Columns([], table.num_rows, source, **policy)

    def read(part: Sequence[str]) -> list[Series]:
        return [_read_series(name, table.column(name), name in as_category, columns) for name in part]

    return replace(columns, series=map_in_parts(read, table.column_names))


def _read_series(name: str, column: Any, as_category: bool, columns: Columns) -> Series:
    """Reads one column out of Arrow; a column that cannot be used is kept with its problem."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    kind = column.type
    file_type = str(kind)
    if kinds.is_dictionary(kind):
        kind = kind.value_type
        if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
            column = pc.cast(column, kind)
            as_category = True
    nothing = np.full(len(column), -1, dtype=np.int32)
    if kinds.is_null(kind) or column.null_count == len(column):
        return Series(name, "none", nothing, file_type=file_type)
    is_number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    if is_number and not as_category:
        is_view = column.num_chunks == 1 and not column.null_count
        if kinds.is_decimal(kind) or kinds.is_uint64(kind) or (kinds.is_integer(kind) and column.null_count):
            column, is_view = pc.cast(column, pa.float64(), safe=False), False
        values = numbers(column)
        if values.dtype == np.float16:
            values, is_view = values.astype(np.float32), False
        values = values if is_view else columns.kept(values)
        return (
            Series(name, "none", nothing, file_type=file_type)
            if np.isnan(values).all()
            else Series(name, "number", values, file_type=file_type)
        )
    if kinds.is_boolean(kind) or is_number:
        if kinds.is_floating(kind):  # nan is a missing value; 3.0 is the level 3
            column = pc.if_else(pc.is_nan(column), pa.nulls(len(column), kind), column)
        encoded = column.combine_chunks().dictionary_encode()
        levels = [name_of(level) for level in encoded.dictionary.to_pylist()]
    elif kinds.is_string(kind) or kinds.is_large_string(kind):
        whole = column.unify_dictionaries() if kinds.is_dictionary(column.type) else column
        encoded = whole.combine_chunks()
        if not kinds.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        levels = encoded.dictionary.to_pylist()
    else:
        is_of_text = columns.is_text and not columns.in_python
        return Series(name, "none", nothing, (), *_unfit(name, kind, columns, is_of_text), file_type)
    # Sorted, so that the levels do not depend on the order of the rows; equal names (True, "true") are one level.
    names = sorted({level for level in levels if level is not None})
    position = {level: number for number, level in enumerate(names)}
    lookup = np.array([*(position.get(level, -1) for level in levels), -1], dtype=np.int32)
    codes = columns.kept(lookup[numbers(pc.cast(encoded.indices, pa.int64()), missing=len(levels))])
    text = not as_category and not kinds.is_boolean(kind)
    problem, short_problem = _text_problem(name, names, codes, columns) if text and names else ("", "")
    return Series(
        name,
        "boolean" if kinds.is_boolean(kind) else "category",
        codes,
        tuple(names),
        problem,
        short_problem,
        file_type,
    )


def _unfit(name: str, kind: Any, columns: Columns, is_of_text: bool) -> tuple[str, str]:
    """Problem and short problem of a column of dates, lists or bytes; of text, it may be a category all the same."""
    import pyarrow.types as kinds

    source, without = columns.source, columns.setting("dataset.drop", [name])
    (what,) = types_in_words(kind)
    short_problem = f"holds {what}"
    as_levels = f"; {columns.setting('dataset.categorical', [name])} makes a level of each" if is_of_text else ""
    if kinds.is_temporal(kind):
        return (
            f"`{columns.key('dataset.drop')}` must leave dates out, and column {name!r} {short_problem} [in {source}]. "
            f"Make numbers of it first, such as days since a start, or add {without}{as_levels}."
        ), short_problem
    if kinds.is_binary(kind) or kinds.is_large_binary(kind):
        convert = "Decode them" if columns.in_python else "Convert the file (iconv -f latin1 -t utf-8)"
        return (
            f"column {name!r} must be text in UTF-8, and holds other bytes [in {source}]. {convert}, or add {without}."
        ), "holds bytes that are not text in UTF-8"
    lists = "" if columns.in_python else "; a column of lists is read by dataset=features"
    return (
        f"column {name!r} must hold numbers, text or true and false, got {what} [in {source}]. Add {without}{lists}."
    ), short_problem


def _text_problem(name: str, levels: Sequence[str], codes: Values, columns: Columns) -> tuple[str, str]:
    """Problem and short problem of a column of text; empty where it may be a category."""
    import pyarrow.types as kinds

    # Words for a missing value, which Arrow passes over, may stand before the dates and after them.
    if any(map(DATE_OR_TIME.match, levels)) and kinds.is_temporal(kind := inferred(text_array(levels)).type):
        return _unfit(name, kind, columns, is_of_text=True)
    return _text_among_numbers(name, levels, codes, columns)


def _text_among_numbers(name: str, levels: Sequence[str], codes: Values, columns: Columns) -> tuple[str, str]:
    """Problem and short problem of a column that mixes numbers and text; empty where it is all text or all numbers."""
    numeric = np.array(
        [*(is_number(level, columns.decimal) for level in levels), True]
    )  # the last entry, at -1, is for missing values
    given = codes[codes >= 0]
    if numeric[:-1].all():
        return "", ""
    if numeric[given].mean() >= 0.5:
        row = int((~numeric[codes]).argmax())
        return not_a_number(name, levels[codes[row]], columns.place(row), columns)
    units = [found[1] if (found := FORMATTED_NUMBER.fullmatch(level.strip())) else None for level in levels]
    if len({unit for unit in units if unit and unit.isalpha()}) != 1 or len(levels) < 3:
        units = [None if unit and unit.isalpha() else unit for unit in units]
    is_formatted = np.array([*(unit is not None for unit in units), False])
    if (numeric | is_formatted)[given].mean() < 0.5:
        return "", ""
    row = int((is_formatted & ~numeric)[codes].argmax())
    word, place = levels[codes[row]], columns.place(row)
    marks = re.sub(rf"[\d{columns.decimal}+-]", "", word).strip() or re.sub(r"[\d+-]", "", word)
    return (
        f"column {name!r} must hold plain numbers, got {word!r} with {marks!r} in {place}. "
        f"{or_other_decimal_of(_plain_number(columns), levels, columns)}, "
        f"or use it as text: {columns.setting('dataset.categorical', [name])}."
    ), f"has {word!r} in {place}"


def or_other_decimal_of(advice: str, levels: Sequence[str], columns: Columns) -> str:
    """`or_other_decimal` for a column of a table, which may come from Python or a file that is not text."""
    if not columns.is_text or columns.in_python:
        return advice
    return or_other_decimal(advice, levels, columns.decimal, "dataset.decimal")


def _plain_number(columns: Columns) -> str:
    """The advice for a number that is formatted for human readers."""
    mark = "dot" if columns.decimal == "." else "comma"
    return f"Write a {mark} before the decimals and nothing else between or around the digits"


def not_a_number(name: str, word: str, place: str, columns: Columns) -> tuple[str, str]:
    """Problem and short problem of a column of numbers with a word in it.

    Args:
        name: Name of the column.
        word: The word.
        place: Location of the word.
        columns: The table.
    """
    missing = f"declare it a missing value: {columns.setting('dataset.missing_values', [word])}, "
    advice = _plain_number(columns) if FORMATTED_NUMBER.fullmatch(word.strip()) else "Fix it"
    return (
        f"column {name!r} must hold numbers, got {word!r} in {place}. {advice}, {missing if columns.is_text else ''}"
        f"or use it as text: {columns.setting('dataset.categorical', [name])}."
    ), f"has {word!r} in {place}"


def finite_numbers(series: Series, key: str, columns: Columns, at_least: float = -np.inf) -> Values:
    """The numbers of a column that has one in every row, shape (M,), float64.

    Args:
        series: The column.
        key: The start of a message: the column or the setting that names it.
        columns: The table.
        at_least: The smallest number that is allowed.

    Raises:
        DataError: A value is missing, is no number or infinite, or is too small.
    """
    key += " must hold finite numbers" + (f" >= {at_least:g}" if np.isfinite(at_least) else "")
    if series.kind != "number":
        if (first_word := series.first_word(columns.decimal)) is not None:
            row, word = first_word
            raise DataError(f"{key}, got {word!r} in {columns.place(row)}. Fix the row.")
        raise DataError(f"{key}, got {series.type_in_words} [in {columns.source}]. Name another column.")
    numbers = series.values.astype(np.float64)
    is_bad = ~(np.isfinite(numbers) & (numbers >= at_least))
    if is_bad.any():
        row = int(is_bad.argmax())
        raise DataError(f"{key}, got {numbers[row]:g} in {columns.place(row)}. Fix the row, or leave it out.")
    return numbers


def check_offset(series: Series, columns: Columns) -> None:
    """Checks that the offset is there in every row, since no value could take the place of a missing one, and its size.

    Raises:
        DataError: A value is missing, no number, or too large.
    """
    key = f"column {series.name!r}, the offset,"
    numbers = finite_numbers(series, key, columns)
    is_large = np.abs(numbers) > MAX_OFFSET
    if is_large.any():
        row = int(is_large.argmax())
        raise DataError(
            f"{key} must be in the units of the logit, from -1e6 to 1e6, got {numbers[row]:g} in {columns.place(row)}. "
            "Of an exposure take the logarithm; or fix the row."
        )
