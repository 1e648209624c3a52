"""From the columns of a table to features: numbers as they are, text one-hot, gaps filled.

`read_columns` takes them out of Arrow, `learn_encoding` looks at the train rows, `encode` fills the matrix.
What was learned is a tuple of `Column`: plain values, so that a checkpoint alone reads a raw row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from logreg.data.encoding.labels import boolean_of, name_of
from logreg.errors import DataError, as_typed, name_list
from logreg.facts import Column
from logreg.hardware import usable_cores
from logreg.stored_form import Moments, StoredForm, choose_stored_form, moments

if TYPE_CHECKING:
    import pyarrow as pa


Values: TypeAlias = "np.ndarray[Any, Any]"

Item = TypeVar("Item")

Result = TypeVar("Result")

BLOCK_ROWS = 2**15
"""Rows encoded at once: few enough to stay in the cache, enough to be worth a thread's while."""

BLOCK_NUMBERS = 2**20
"""Numbers of several columns that are measured at once."""

SAMPLE_ROWS = 1_000
"""Rows that show where the middle of a column is, and whether it varies."""

FEW_ROWS = 30
"""So many rows may well hold different whole numbers by chance."""

MANY_LEVELS = 10
"""Times as many levels as are allowed: of more, the features of a column may not fit into memory."""

FEW_WORDS = 3
"""Words among numbers that may all stand for a gap."""

LISTS = ("dataset.drop", "dataset.categorical", "dataset.missing_values")
"""Settings that are lists of names, in the order in which they are advised."""

PARTS = 4
"""Parts of the columns that each core takes one after the other: columns differ in how long they take."""

LARGEST = 3e38
"""What float32 can hold."""

DWARFED = 2.0**-64
"""Where the middle row deviates by less than this part of the standard deviation, a few rows are out of proportion."""

PRECISION = {"halffloat": torch.float16, "float": torch.float32}
"""What a file has rounded a column to, by Arrow's name of the type; float64 has the others."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What is a number in a text file."""

FOR_PEOPLE = re.compile(
    r"(?:[$€£¥]\s?)?[+-]?(?:[$€£¥]\s?)?(?:\d{1,3}(?:[.,'\s]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)\s?([%‰$€£¥°]|[^\W\d_]{0,5})"
)
"""A number as people write it: 7,25 or 1.200,5 or 12% or $3 or 5 kg; the group is the unit."""


@dataclass(frozen=True)
class Series:
    """One column as it was read."""

    name: str
    kind: Literal["number", "boolean", "category", "none"]
    """"none" is a column of nothing but missing values."""
    values: Values
    """Shape (M,): numbers, nan where missing; or int32 positions in ``levels``, -1 where missing."""
    levels: tuple[str, ...] = ()
    problem: str = ""
    """Why it cannot be learned from, and what to do: a whole sentence; empty if it can."""
    brief: str = ""
    """Of the problem the end of a sentence that begins with the column: has '7,25' in row 1."""
    typed: str = ""
    """What the file says it is."""

    def gaps(self) -> Values:
        """Where a value is missing, shape (M,), boolean."""
        if self.kind == "number":
            return np.isnan(self.values) if self.values.dtype.kind == "f" else np.zeros(len(self.values), dtype=bool)
        return self.values < 0


@dataclass(frozen=True)
class Columns:
    """A table as it was read; takes the place of a feature matrix until it is encoded."""

    series: tuple[Series, ...]
    num_rows: int
    source: str = ""
    """The file, for messages."""
    starts: tuple[tuple[int, str], ...] = ()
    """Where several files were read one after the other: first row and name of each."""
    missing: Literal["impute", "error"] = "impute"
    """"impute" fills gaps and marks them; "error" refuses them."""
    max_levels: int = 100
    """More levels than that in a category are refused."""
    is_text: bool = True
    """Whether all of it comes from files of text, where words may stand for a gap."""
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What a user typed of ``dataset.features``, ``drop``, ``categorical`` and ``missing_values``."""

    def __len__(self) -> int:
        return self.num_rows

    def place(self, row: int) -> str:
        """Where a user finds a row: ``row 3 [in new.csv]``, counted from 1 without the header."""
        start, file = max((start, file) for start, file in self.starts or ((0, self.source),) if start <= row)
        return f"row {row - start + 1} [in {file}]"

    def setting(self, key: str, names: Sequence[str]) -> str:
        """A setting of a list with these names added to those that were typed, as a user types it."""
        if key == "dataset.drop" and (features := self.settings.get("dataset.features")):
            return as_typed("dataset.features", [name for name in features if name not in names])
        return as_typed(key, dict.fromkeys([*self.settings.get(key, ()), *names]))


def read_columns(table: pa.Table, as_category: Collection[str] = (), source: str = "", **policy: Any) -> Columns:
    """Takes columns out of Arrow.

    Args:
        table: With only the columns to learn from.
        as_category: Names of those that are categories though they hold numbers.
        source: The file, for messages.
        policy: The further fields of `Columns`.
    """
    columns = Columns((), table.num_rows, source, **policy)

    def read(part: Sequence[str]) -> list[Series]:
        return [_read_series(name, table.column(name), name in as_category, columns) for name in part]

    return replace(columns, series=tuple(_in_parts(read, table.column_names)))


@dataclass(frozen=True)
class Profile:
    """What the train rows say of one column."""

    series: Series
    column: Column | None = None
    """How it is encoded; ``None`` if it says nothing (constant or empty) or cannot be."""
    levels_in_train: int = 0
    missing_in_train: int = 0
    missing_anywhere: int = 0
    problem: str = ""
    brief: str = ""
    remedies: tuple[tuple[str, str], ...] = ()
    """Settings that make an end of the problem, by their keys; a list has the value added to it."""
    counts_rows: bool = False
    """Whether it is whole numbers, another one in each train row: perhaps an id."""


def profile(columns: Columns, rows: Tensor | None, used: Tensor | None = None) -> list[Profile]:
    """Looks at each column.

    Args:
        columns: Of all rows.
        rows: The train rows; ``None`` for all.
        used: The rows of all splits; ``None`` for all. Others, such as those without a label, do not count.
    """
    chosen = np.arange(len(columns)) if rows is None else rows.numpy()
    counted = None if used is None else used.numpy()
    return _in_parts(lambda part: [_profile(series, chosen, counted, columns) for series in part], columns.series)


def learn_encoding(
    columns: Columns, rows: Tensor | None, used: Tensor | None = None
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """What the train rows say about how to encode.

    Args:
        columns: Of all rows.
        rows: The train rows; ``None`` for all.
        used: The rows of all splits; ``None`` for all.

    Returns:
        The encoding of each column that says something, and a sentence for each thing done.

    Raises:
        DataError: A column cannot be learned from, or has gaps that were to be an error.
    """
    profiles = profile(columns, rows, used)
    faults = [profile for profile in profiles if profile.problem]
    if faults:
        alone = len(faults) == 1
        raise DataError(faults[0].problem if alone else _all_refused(faults, len(faults) < len(profiles), columns))
    kept = [profile.column for profile in profiles if profile.column is not None]
    if not kept:
        raise DataError(
            f"`dataset.features` must leave a column that varies over train, got none [in {columns.source}]."
        )
    empty = [one.series.name for one in profiles if one.column is None and one.missing_in_train]
    constant = [one.series.name for one in profiles if one.column is None and not one.missing_in_train]
    said = {
        "filled missing values by the median or most frequent of train, and marked them": [
            f"{one.series.name} {one.missing_anywhere / (len(columns) if used is None else len(used)):.1%}"
            for one in profiles
            if one.column is not None and one.column.indicator
        ],
        "filled missing values of val or test by the median or most frequent of train, which has none itself": [
            f"{one.series.name} {one.missing_anywhere:,}"
            for one in profiles
            if one.column is not None and one.missing_anywhere and not one.column.indicator
        ],
        "whole numbers that differ in every row, learned from as they are; if they are ids, add dataset.drop": [
            one.series.name for one in profiles if one.column is not None and one.counts_rows
        ],
        "left out, since constant over train": constant,
        "left out, since nothing but missing values in train": empty,
    }
    return tuple(kept), tuple(f"{what}: {name_list(names)}" for what, names in said.items() if names)


def learn_stored_form(
    columns: Columns, encoding: Sequence[Column], rows: Tensor | None, weights: Tensor | None, shifts: bool
) -> tuple[StoredForm, Moments, Tensor]:
    """How the features of the columns are stored: numbers by their moments over train, gaps filled; others plain.

    Args:
        columns: Of all rows.
        encoding: As learned on train.
        rows: The train rows; ``None`` for all.
        weights: Of the train rows, shape (N,), float64; ``None`` for all 1.
        shifts: Whether a mean may be subtracted.

    Returns:
        The form; the moments of the features, 0 and 1 for those that are not measured; and which of them vary so little
        for their size that the type they were read in keeps few digits of it, (D,).

    Raises:
        DataError: A column is larger or smaller than float64 can compute with.
    """
    by_name = {series.name: series for series in columns.series}
    chosen: Any = slice(None) if rows is None else rows.numpy()
    starts = np.cumsum([0, *(len(column.feature_names) for column in encoding)]).tolist()
    found = Moments(torch.zeros(starts[-1], dtype=torch.float64), torch.ones(starts[-1], dtype=torch.float64))
    numbers = [
        (start, column)
        for start, column in zip(starts, encoding, strict=False)
        if column.kind == "number" and not column.constant
    ]

    def measure(part: Sequence[tuple[int, Column]]) -> list[tuple[int, Column]]:
        """Sets: the moments of these columns.  Returns those that have some."""
        values = torch.from_numpy(
            np.stack([by_name[column.name].values[chosen].astype(np.float64) for _, column in part])
        )
        fills = torch.tensor([[float(column.fill)] for _, column in part], dtype=torch.float64)
        values = torch.where(values.isnan(), fills, values)
        usable = values.isfinite().all(1)  # of others `encode` names the row
        its = moments(lambda: [(values.where(usable[:, None], fills).T, weights)])
        size = (values - fills).abs_()
        for row in (size.amax(1) > LARGEST).nonzero()[:, 0].tolist():
            if float(size[row].median()) < DWARFED * float(its.std[row]):
                usable[row] = False  # nor is that one a unit: `encode` names the row, or float64 holds it
        places = torch.tensor([start for start, _ in part])[usable]
        found.mean[places], found.std[places] = its.mean[usable], its.std[usable]
        return [one for one, measured in zip(part, usable.tolist(), strict=True) if measured]

    rows_each = len(columns) if rows is None else len(rows)
    measured = _in_parts(measure, numbers, most=max(1, BLOCK_NUMBERS // max(1, rows_each)))
    form, places = StoredForm.plain(starts[-1]), [start for start, _ in measured]
    its = Moments(found.mean[places], found.std[places])
    form.shift[places], form.unit[places] = choose_stored_form(its, shifts, [column.name for _, column in measured])
    lost = torch.zeros(starts[-1], dtype=torch.bool)
    for read_in in (torch.float64, *PRECISION.values()):
        its_type = [PRECISION.get(by_name[column.name].typed, torch.float64) == read_in for _, column in measured]
        lost[torch.tensor(places, dtype=torch.int64)[its_type]] = its.lacks_digits(read_in)[its_type]
    return form, found, lost


def encode(
    columns: Columns, encoding: Sequence[Column], dtype: torch.dtype, stored: StoredForm | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Fills the matrix.

    Args:
        columns: As read; those that the encoding does not name are passed over.
        encoding: As learned on train.
        dtype: Floating type of the matrix.
        stored: How the features are stored; in source units when ``None``.

    Returns:
        Features, shape (M, D), as they are stored; and by name of a column, the rows whose level train
        did not have, shape (m,): they are 0 in all features of the column.

    Raises:
        DataError: A column is missing, is text where train had numbers, or holds infinite values.
    """
    by_name = {series.name: series for series in columns.series}
    features = torch.zeros(len(columns), sum(len(column.feature_names) for column in encoding), dtype=dtype)
    writers: list[Callable[[slice], None]] = []
    unseen: dict[str, Tensor] = {}
    start = 0
    for column in encoding:
        series = _as_learned(by_name.get(column.name), column, columns)
        place = features.numpy()[:, start : start + len(column.feature_names)]
        form = (0.0, 1.0) if stored is None else (float(stored.shift[start]), float(stored.unit[start]))
        start += place.shape[1]
        if column.kind == "number":
            writers.append(partial(_write_numbers, place, column, series.values, form))
            continue
        position = {level.strip(): number for number, level in enumerate(column.levels)}
        position |= {level: number for number, level in enumerate(column.levels)}
        # The last one is what a gap, -1, picks.
        places = [_place(level, column, position) for level in series.levels]
        feature_of = np.array([*places, position[str(column.fill)]])
        writers.append(partial(_write_levels, place, column, series.values, feature_of))
        if bool((feature_of < 0).any()):
            unseen[column.name] = torch.from_numpy((feature_of[series.values] < 0).nonzero()[0])

    def write(begin: int) -> float:
        rows = slice(begin, begin + BLOCK_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is named afterwards, by its row
            for writer in writers:
                writer(rows)
            return float(features.numpy()[rows].sum())

    with ThreadPoolExecutor(usable_cores()) as pool:
        sums = list(pool.map(write, range(0, len(columns), BLOCK_ROWS)))
    if not math.isfinite(sum(sums)):
        _check_finite(columns, encoding, features)
    return features, unseen


def _place(level: str, column: Column, position: Mapping[str, int]) -> int:
    """The feature that a level is, with blanks around it or without; -1 if train did not have it."""
    if column.kind == "boolean":
        return position.get(boolean_of(level), -1)
    return position.get(level, position.get(level.strip(), -1))


def _profile(series: Series, chosen: Values, used: Values | None, columns: Columns) -> Profile:
    """What the train rows, ``chosen``, say of one column; ``used`` are the rows of all splits."""
    gaps = series.gaps()
    anywhere = int(gaps.sum() if used is None else gaps[used].sum())
    in_train = int(gaps[chosen].sum()) if anywhere else 0
    found = Profile(series, None, 0, in_train, anywhere, series.problem, series.brief)
    fill = (("dataset.missing", "impute"),) if columns.missing == "error" else ()
    impute = fill if anywhere else ()
    if series.problem and series.kind == "none":
        return replace(found, remedies=(("dataset.drop", series.name),))
    if series.kind == "none":
        return found
    counts: Values = np.zeros(0)
    if series.kind != "number":
        counts = np.bincount(series.values[chosen] + 1, minlength=len(series.levels) + 1)[1:]
    levels = tuple(level for level, count in zip(series.levels, counts, strict=True) if count)
    if series.problem:
        remedies = _remedies(series, len(levels), columns)
        then = {"dataset.drop": (), "dataset.missing_values": fill}.get(remedies[0][0], impute)
        return replace(found, remedies=remedies + then)
    if len(levels) > columns.max_levels:
        is_id = len(levels) > counts.sum() / 2
        brief = f"has {len(levels):,} levels in {counts.sum():,} train rows"
        problem = (
            f"`dataset.max_levels={columns.max_levels}` must not be exceeded, and column {series.name!r} {brief} "
            f"[in {columns.source}]. {'It looks like an id: add' if is_id else 'Add'} "
            f"{columns.setting('dataset.drop', [series.name])}, or raise dataset.max_levels."
        )
        remedies = (("dataset.drop", series.name),)
        if not is_id and len(levels) <= MANY_LEVELS * columns.max_levels:
            remedies = (("dataset.max_levels", str(len(levels))), *impute)
        return replace(found, levels_in_train=len(levels), problem=problem, brief=brief, remedies=remedies)
    if impute:
        first = int(gaps.argmax()) if used is None else int(used[gaps[used]].min())
        problem = (
            f"`dataset.missing=error` must find no gaps, and column {series.name!r} has {anywhere:,}, the first in "
            f"{columns.place(first)}. Mend the file, or set dataset.missing=impute."
        )
        return replace(found, problem=problem, brief=f"has {anywhere:,} gap{'s' * (anywhere > 1)}", remedies=impute)
    if in_train == len(chosen):
        return found
    if series.kind == "number":
        column = _learn_number(series, chosen[~gaps[chosen]] if in_train else chosen, marked=in_train > 0)
        if column.constant and not in_train:
            return found
        return replace(found, column=column, counts_rows=not anywhere and _counts_rows(series.values[chosen]))
    if len(levels) == 1 and not in_train:
        return replace(found, levels_in_train=1)
    most = series.levels[int(counts.argmax())]
    column = Column(series.name, series.kind, levels, most, in_train > 0, len(levels) == 1)
    return replace(found, column=column, levels_in_train=len(levels))


def _remedies(series: Series, levels: int, columns: Columns) -> tuple[tuple[str, str], ...]:
    """What makes a column out of numbers among which there is something else, ``levels`` of them in train."""
    words = [level.strip() for level in series.levels if not NUMBER.fullmatch(level.strip())]
    if columns.is_text and len(words) <= FEW_WORDS and not any(letter.isdigit() for word in words for letter in word):
        return tuple(("dataset.missing_values", word) for word in words)
    return (("dataset.categorical" if levels <= columns.max_levels else "dataset.drop", series.name),)


def _all_refused(faults: Sequence[Profile], others: bool, columns: Columns) -> str:
    """One sentence for several columns, with one line to type; ``others``: whether other columns have no fault."""
    named: dict[str, list[str]] = {}
    for key, value in (remedy for fault in faults for remedy in fault.remedies):
        named.setdefault(key, []).append(value)
    typed = [columns.setting(key, named[key]) for key in LISTS if key in named]
    if "dataset.max_levels" in named:
        typed.append(f"dataset.max_levels={max(map(int, named['dataset.max_levels']))}")
    if "dataset.missing" in named:
        typed.append("dataset.missing=impute")
    told = name_list(f"{fault.series.name!r} {fault.brief}" for fault in faults)
    what = f"columns must be such as can be learned from, and {len(faults):,} are not [in {columns.source}]: {told}."
    is_left = others or any(key != "dataset.drop" for key in named)
    return f"{what} Mend the file, or type: {' '.join(typed)}" if is_left else f"{what} Mend the file."


def _learn_number(series: Series, chosen: Values, marked: bool) -> Column:
    """The encoding of numbers by the train rows that have one."""
    values = series.values[chosen]
    constant = not (values[:SAMPLE_ROWS] != values[0]).any() and not (values != values[0]).any()
    return Column(series.name, "number", (), median(values), marked, constant)


def median(values: Values) -> float:
    """The middle of the values in order, or the mean of the two in the middle; shape (N,), finite, N > 0.

    Of many values only those are sorted that a sample shows to be near the middle.
    """
    near = values
    below = 0
    if len(values) > 10 * SAMPLE_ROWS:
        sample = np.sort(values[:: len(values) // SAMPLE_ROWS])
        low, high = sample[int(0.45 * len(sample))], sample[int(0.55 * len(sample))]
        below = int(np.count_nonzero(values < low))
        near = values[(values >= low) & (values <= high)]
    first, last = (len(values) - 1) // 2 - below, len(values) // 2 - below
    if first < 0 or last >= len(near):  # a sample that misleads
        near, first, last = values, (len(values) - 1) // 2, len(values) // 2
    middle = np.partition(near, (first, last))[[first, last]].astype(np.float64)
    return float(middle[0] / 2 + middle[1] / 2)


def _counts_rows(values: Values) -> bool:
    """Whether these are whole numbers that are all different, and more than a few."""
    few = values[:FEW_ROWS]
    if len(few) < FEW_ROWS or len(np.unique(few)) < FEW_ROWS or (few != np.floor(few)).any():
        return False
    if values.dtype.kind == "f" and (values != np.floor(values)).any():  # also integers beyond the range of int64
        return False
    return len(np.unique(values)) == len(values)


def _as_learned(series: Series | None, column: Column, columns: Columns) -> Series:
    """The column that an encoding means."""
    if series is None:
        raise DataError(f"{columns.source} must have the column {column.name!r} that was learned from, and has not.")
    if series.problem and series.kind == "none":
        raise DataError(
            f"column {column.name!r} must be a {column.kind} as in train, got {series.typed} [in {columns.source}]."
        )
    if series.kind == "none":
        gap = np.nan if column.kind == "number" else -1
        return Series(series.name, column.kind, np.full(len(columns), gap, dtype=np.float32 if gap != -1 else np.int32))
    if (column.kind == "number") != (series.kind == "number"):
        raise DataError(
            f"column {column.name!r} must be a {column.kind} as in train, got a {series.kind} [in {columns.source}]."
        )
    return series


def _write_numbers(place: Values, column: Column, values: Values, form: tuple[float, float], rows: slice) -> None:
    values = values[rows]
    # A sum is quicker than a look at each value.
    gaps = np.isnan(values) if values.dtype.kind == "f" and math.isnan(values.sum()) else None
    if not column.constant:
        filled = values if gaps is None else np.where(gaps, column.fill, values)
        if form != (0.0, 1.0):
            filled = (filled.astype(np.float64) - form[0]) / form[1]
        place[rows, 0] = filled
    if column.indicator and gaps is not None:
        place[rows, -1] = gaps


def _write_levels(place: Values, column: Column, codes: Values, feature_of: Values, rows: slice) -> None:
    codes = codes[rows]
    if not column.constant:
        features = feature_of[codes]
        known = (features >= 0).nonzero()[0]
        place[rows][known, features[known]] = 1
    if column.indicator:
        place[rows, -1] = codes < 0


def _check_finite(columns: Columns, encoding: Sequence[Column], features: Tensor) -> None:
    by_name = {series.name: series for series in columns.series}
    start = 0
    for column in encoding:
        if column.kind == "number" and not column.constant and len(row := features[:, start].isinf().nonzero()):
            value = float(by_name[column.name].values[int(row[0])])
            advice = "Set precision=64, or mend the row" if np.isfinite(value) else "Mend the row"
            raise DataError(
                f"column {column.name!r} must hold finite numbers, got {value:g} in {columns.place(int(row[0]))}. "
                f"{advice}."
            )
        start += len(column.feature_names)


def _read_series(name: str, column: Any, as_category: bool, columns: Columns) -> Series:
    """One column out of Arrow; what cannot be learned from is kept with the reason."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    kind = column.type
    typed = str(kind)
    if kinds.is_dictionary(kind):
        kind = kind.value_type
        if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
            column = pc.cast(column, kind)
            as_category = True
    nothing = np.full(len(column), -1, dtype=np.int32)
    if kinds.is_null(kind) or column.null_count == len(column):
        return Series(name, "none", nothing, typed=typed)
    is_number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    if is_number and not as_category:
        if kinds.is_decimal(kind) or kinds.is_uint64(kind) or (kinds.is_integer(kind) and column.null_count):
            column = pc.cast(column, pa.float64(), safe=False)
        values = column.to_numpy()
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        return (
            Series(name, "none", nothing, typed=typed)
            if np.isnan(values).all()
            else Series(name, "number", values, typed=typed)
        )
    if kinds.is_boolean(kind) or is_number:
        if kinds.is_floating(kind):  # nan is a gap; 3.0 is the level 3
            column = pc.if_else(pc.is_nan(column), None, column)
        encoded = column.combine_chunks().dictionary_encode()
        levels = [name_of(level) for level in encoded.dictionary.to_pylist()]
    elif kinds.is_string(kind) or kinds.is_large_string(kind):
        whole = column.unify_dictionaries() if kinds.is_dictionary(column.type) else column
        encoded = whole.combine_chunks()
        if not kinds.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        levels = encoded.dictionary.to_pylist()
    else:
        problem, brief = _unfit(name, kind, columns)
        return Series(name, "none", nothing, (), problem, brief, typed)
    # Sorted, so that nothing depends on the order of the rows; equal names (True, "true") fall together.
    names = sorted({level for level in levels if level is not None})
    position = {level: number for number, level in enumerate(names)}
    lookup = np.array([*(position.get(level, -1) for level in levels), -1], dtype=np.int32)
    codes = lookup[pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(levels)).to_numpy(zero_copy_only=False)]
    text = not as_category and not kinds.is_boolean(kind)
    problem, brief = _text_among_numbers(name, names, codes, columns) if text else ("", "")
    return Series(name, "boolean" if kinds.is_boolean(kind) else "category", codes, tuple(names), problem, brief, typed)


def _unfit(name: str, kind: Any, columns: Columns) -> tuple[str, str]:
    """The sentence for a column of dates, lists, bytes, and its end in brief."""
    import pyarrow.types as kinds

    source, without = columns.source, columns.setting("dataset.drop", [name])
    brief = f"holds {kind}"
    if kinds.is_temporal(kind):
        return (
            f"`dataset.drop` must leave dates out, and column {name!r} {brief} [in {source}]. "
            f"Make numbers of it first, such as days since a start, or add {without}."
        ), brief
    if kinds.is_binary(kind) or kinds.is_large_binary(kind):
        return (
            f"column {name!r} must be text in UTF-8, and holds other bytes [in {source}]. "
            f"Convert the file (iconv -f latin1 -t utf-8), or add {without}."
        ), "holds bytes that are no text in UTF-8"
    return (
        f"column {name!r} must hold numbers, text or true and false, got {kind} [in {source}]. "
        f"Add {without}; a column of lists is read by dataset=features."
    ), brief


def _text_among_numbers(name: str, levels: Sequence[str], codes: Values, columns: Columns) -> tuple[str, str]:
    """The sentence for a column of numbers with some text in it, and its end in brief; nothing if it is text."""
    numeric = np.array([*(is_number(level) for level in levels), True])  # the last is what a gap, -1, picks
    given = codes[codes >= 0]
    if numeric[:-1].all():
        return "", ""
    if numeric[given].mean() >= 0.5:
        row = int((~numeric[codes]).argmax())
        return not_a_number(name, levels[codes[row]], columns.place(row), columns)
    units = [found[1] if (found := FOR_PEOPLE.fullmatch(level.strip())) else None for level in levels]
    if len({unit for unit in units if unit and unit.isalpha()}) != 1 or len(levels) < 3:
        units = [None if unit and unit.isalpha() else unit for unit in units]
    for_people = np.array([*(unit is not None for unit in units), False])
    if (numeric | for_people)[given].mean() < 0.5:
        return "", ""
    row = int((for_people & ~numeric)[codes].argmax())
    word, place = levels[codes[row]], columns.place(row)
    marks = re.sub(r"[\d.+-]", "", word).strip() or re.sub(r"[\d+-]", "", word)
    return (
        f"column {name!r} must hold numbers as programs write them, got {word!r} with {marks!r} in {place}. "
        "Write a dot before the decimals and nothing else between or around the digits, or take it as text: "
        f"{columns.setting('dataset.categorical', [name])}."
    ), f"has {word!r} in {place}"


def not_a_number(name: str, word: str, place: str, columns: Columns) -> tuple[str, str]:
    """The sentence for a word where a number should be, and its end in brief."""
    missing = f"say that it means missing: {columns.setting('dataset.missing_values', [word])}, "
    return (
        f"column {name!r} must hold numbers, got {word!r} in {place}. Mend it, {missing if columns.is_text else ''}"
        f"or take it as text: {columns.setting('dataset.categorical', [name])}."
    ), f"has {word!r} in {place}"


def is_number(text: str) -> bool:
    """Whether a text file means a number by this."""
    return NUMBER.fullmatch(text.strip()) is not None or text.strip().lower() in ("nan", "inf", "-inf", "+inf")


def _in_parts(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], most: int = 2**31) -> list[Result]:
    """What ``work`` gives for all items, ``most`` of them at a time at most.

    A core has some at a time: to begin a task takes longer than a short column.
    """
    cores = usable_cores()
    size = max(1, min(most, -(-len(items) // (PARTS * cores))))
    with ThreadPoolExecutor(cores) as pool:
        parts = pool.map(work, [items[start : start + size] for start in range(0, len(items), size)])
        return [result for part in parts for result in part]
