"""Learns the encoding of columns as features from the train rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.data.arrow_numbers import is_number
from logreg.data.encoding.columns import Columns, Series, Values, or_other_decimal_of
from logreg.data.encoding.hashing import bucket_names, buckets_of
from logreg.data.encoding.parallel import map_in_parts
from logreg.data.encoding.text import learn_text, looks_like_text
from logreg.errors import DataError, name_list
from logreg.facts import RARE, Column
from logreg.stored_form import Moments, StoredForm, choose_stored_form, moments
from logreg.terminal import counted

MEASURED_ROWS = 2**15
"""Rows of a column that are measured at once; as float64 they take 256 KiB, which stay in the cache of a core."""

SAMPLE_ROWS = 1_000
"""First rows of a column, which show at once whether it varies."""

MEDIAN_ROWS = 10_000
"""Rows of the sample that locates the median of a column."""

MIN_ID_ROWS = 30
"""Rows from which on a column of unique whole numbers or levels may be an id; fewer are often unique by chance."""

ID_FRACTION = 0.9
"""Fraction of train rows with a level of their own from which on a category may be an id, and a wide one is refused.

It estimates the probability that a new row has a level that train lacks (Good 1953, The population frequencies of
species).  From there on such a column hardly helps, even where the class depends on nothing else
(``benchmarks/wide_categories.py --part ids``).
"""

MAX_MISSING_WORDS = 3
"""Different words among numbers up to which all of them may mean a missing value."""

LIST_SETTINGS = ("dataset.text", "dataset.drop", "dataset.categorical", "dataset.missing_values")
"""Settings that are lists of names, in the order in which messages advise them."""

FLOAT32_MAX = 3e38
"""Largest number that float32 can hold, rounded down."""

OUTLIER_RATIO = 2.0**-64
"""Median absolute deviation, relative to the standard deviation, below which outliers alone make a column large."""

FILE_DTYPES = {"halffloat": torch.float16, "float": torch.float32}
"""Floating type to which a file has rounded a column, by Arrow's name of the type; float64 for all other types."""


@dataclass(frozen=True)
class ColumnProfile:
    """Properties of one column in the train rows, and its encoding."""

    series: Series
    column: Column | None = None
    """Its encoding; ``None`` for a column without information (constant or empty) or with a problem."""
    levels_in_train: int = 0
    """Number of levels in train."""
    missing_in_train: int = 0
    """Number of missing values in train."""
    missing_anywhere: int = 0
    """Number of missing values in all splits."""
    problem: str = ""
    """Message with the reason why the column cannot be used, and the next step; empty where it can be used."""
    short_problem: str = ""
    """The problem as the end of a sentence that begins with the column: has '7,25' in row 1."""
    remedies: tuple[tuple[str, str], ...] = ()
    """Settings that solve the problem, as keys and values; a value is added to a setting that is a list."""
    is_text: bool = False
    """Whether the column is text, or looks like it and is refused."""
    may_be_id: bool = False
    """Whether the column holds whole numbers that are unique in train, or levels that nearly all are."""
    rare_rows: int = 0
    """Number of train rows with a rare level."""
    collisions: int = 0
    """Number of levels that share their bucket with an earlier level, where levels are hashed."""


def profile_columns(columns: Columns, rows: Tensor | None, used: Tensor | None = None) -> list[ColumnProfile]:
    """Profiles each column.

    Args:
        columns: Columns of all M rows.
        rows: Numbers of the train rows, shape (N,); ``None`` for all.
        used: Numbers of the rows of all splits; ``None`` for all.  Other rows, such as those without a label, do not
            count.
    """
    chosen = slice(None) if rows is None else rows.numpy()
    counted = None if used is None else used.numpy()
    return map_in_parts(lambda part: [_profile(series, chosen, counted, columns) for series in part], columns.series)


def learn_encoding(
    columns: Columns, rows: Tensor | None, used: Tensor | None = None
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Learns the encoding of each column from the train rows.

    Args:
        columns: Columns of all M rows.
        rows: Numbers of the train rows, shape (N,); ``None`` for all.
        used: Numbers of the rows of all splits; ``None`` for all.

    Returns:
        The encoding of each column that carries information, and sentences for the user on what was done.

    Raises:
        DataError: A column cannot be used, or has missing values although ``missing`` is "error".
    """
    profiles = profile_columns(columns, rows, used)
    faults = [profile for profile in profiles if profile.problem]
    if faults:
        alone = len(faults) == 1
        raise DataError(faults[0].problem if alone else _all_refused(faults, len(faults) < len(profiles), columns))
    kept = [profile.column for profile in profiles if profile.column is not None]
    if all(column.is_offset for column in kept):
        raise DataError(
            f"`{columns.key('dataset.features')}` must leave a column that varies over train, got none "
            f"[in {columns.source}]."
        )
    empty = [one.series.name for one in profiles if one.column is None and one.missing_in_train]
    constant = [one for one in profiles if one.column is None and not one.missing_in_train]
    notes = {
        "offset, a known term of the logit of the second class, whose coefficient is 1": [
            one.name for one in kept if one.is_offset
        ],
        "filled missing values with the median or most frequent level of train, and marked them": [
            f"{one.series.name} {one.missing_anywhere / (len(columns) if used is None else len(used)):.1%}"
            for one in profiles
            if one.column is not None and one.column.indicator
        ],
        "filled missing values of val or test with the median or most frequent level of train, which has none": [
            f"{one.series.name} {one.missing_anywhere:,}"
            for one in profiles
            if one.column is not None
            and one.column.kind != "text"
            and one.missing_anywhere
            and not one.column.indicator
        ],
        "whole numbers that are unique in every row, used as numbers; "
        f"if they are ids, add them to {columns.key('dataset.drop')}": [
            one.series.name for one in profiles if one.may_be_id and not one.levels_in_train
        ],
        f"nearly every row has a level of its own; if they are ids, add them to {columns.key('dataset.drop')}": [
            one.series.name for one in profiles if one.may_be_id and one.levels_in_train
        ],
        f"sentences, used as levels; to learn from their words, add them to {columns.key('dataset.text')}": [
            one.series.name
            for one in profiles
            if one.column is not None
            and one.column.kind == "category"
            and 2 * one.levels_in_train > (len(columns) if rows is None else len(rows))
            and looks_like_text(one.series.levels)
        ],
        f"joined levels with fewer than {counted(columns.min_level_rows, 'train row')} in one feature, {RARE}": [
            f"{one.series.name} {one.column.rare_levels:,} of {one.levels_in_train:,} levels, "
            f"{counted(one.rare_rows, 'row')}"
            for one in profiles
            if one.column is not None and one.column.rare_levels
        ],
        f"hashed levels into {counted(columns.buckets, 'bucket')}": [
            f"{one.series.name} {one.levels_in_train:,} levels, {one.collisions:,} of them into the bucket of another"
            for one in profiles
            if one.column is not None and one.column.buckets
        ],
        "left out, since constant over train": [one.series.name for one in constant if one.levels_in_train <= 1],
        f"left out, since no level has {counted(columns.min_level_rows, 'train row')}": [
            one.series.name for one in constant if one.levels_in_train > 1
        ],
        "left out, since all values are missing in train": empty,
    }
    return tuple(kept), tuple(f"{what}: {name_list(names)}" for what, names in notes.items() if names)


def learn_stored_form(
    columns: Columns, encoding: Sequence[Column], rows: Tensor | None, weights: Tensor | None, shifts: bool
) -> tuple[StoredForm, Moments, Tensor]:
    """Learns the stored form of the D features: by the moments over train for numbers, plain for all others.

    Missing values count as the value that fills them.

    Args:
        columns: Columns of all M rows.
        encoding: Encoding of the columns.
        rows: Numbers of the train rows, shape (N,); ``None`` for all.
        weights: Weights of the train rows, shape (N,), float64; ``None`` for weight 1.
        shifts: Whether a mean may be subtracted.

    Returns:
        The stored form; the moments of the features, with mean 0 and standard deviation 1 for those that are not
        measured; and whether each feature has few significant digits in the file, shape (D,), boolean (see
        `Moments.lacks_digits`).

    Raises:
        DataError: A column is larger or smaller than float64 can compute with.
    """
    by_name = {series.name: series for series in columns.series}
    chosen: Any = slice(None) if rows is None else rows.numpy()
    starts = np.cumsum([0, *(column.num_features for column in encoding)]).tolist()
    found = Moments(torch.zeros(starts[-1], dtype=torch.float64), torch.ones(starts[-1], dtype=torch.float64))
    numbers = [
        (start, column)
        for start, column in zip(starts, encoding, strict=False)
        if column.kind == "number" and not (column.constant or column.is_offset)
    ]

    def measure(part: Sequence[tuple[int, Column]]) -> list[tuple[int, Column]]:
        """Measures some columns into ``found``, and returns those whose moments are finite and of use."""
        usable = []
        for start, column in part:
            of_column = _measure(by_name[column.name].values[chosen], float(column.fill), weights)
            if of_column is not None:
                found.mean[start], found.std[start] = of_column.mean[0], of_column.std[0]
                usable.append((start, column))
        return usable

    measured = map_in_parts(measure, numbers)
    form, places = StoredForm.plain(starts[-1]), [start for start, _ in measured]
    of_numbers = Moments(found.mean[places], found.std[places])
    names = [column.name for _, column in measured]
    form.shift[places], form.unit[places] = choose_stored_form(of_numbers, shifts, names)
    lost = torch.zeros(starts[-1], dtype=torch.bool)
    for dtype in (torch.float64, *FILE_DTYPES.values()):
        has_dtype = [FILE_DTYPES.get(by_name[name].file_type, torch.float64) == dtype for name in names]
        lost[torch.tensor(places, dtype=torch.int64)[has_dtype]] = of_numbers.lacks_digits(dtype)[has_dtype]
    return form, found, lost


def _measure(values: Values, fill: float, weights: Tensor | None) -> Moments | None:
    """The moments of a column; ``None`` where they are of no use, and `encode` reports a row that is not finite.

    Args:
        values: Its values in train, shape (N,).
        fill: The value of missing ones.
        weights: Weights of the rows, shape (N,), float64; ``None`` for weight 1.
    """
    ends = [float(end) for end in (values.min(), values.max())]
    has_missing = math.isnan(ends[0])
    if has_missing:
        ends = [float(end) for end in (np.nanmin(values), np.nanmax(values))]
    size = max(abs(end - fill) for end in ends)
    if not math.isfinite(size):
        return None

    def blocks() -> Iterator[Tensor]:
        return _filled_blocks(values, fill if has_missing else None)

    found = moments(lambda: _with_weights(blocks(), weights))
    if size > FLOAT32_MAX:
        sizes = torch.cat([(block - fill).abs_() for block in blocks()])
        if float(sizes.median()) < OUTLIER_RATIO * float(found.std):
            return None  # no unit suits an outlier, unless float64 holds it
    return found


def _filled_blocks(values: Values, fill: float | None) -> Iterator[Tensor]:
    """Values (N,) of a column in blocks, float64, with ``fill`` in place of missing ones; ``None`` where none is."""
    for begin in range(0, len(values), MEASURED_ROWS):
        block = torch.from_numpy(values[begin : begin + MEASURED_ROWS].astype(np.float64))
        yield block if fill is None else block.masked_fill_(block.isnan(), fill)


def _with_weights(blocks: Iterable[Tensor], weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of a column as `moments` takes them: as a matrix (n, 1), with the weights of the rows."""
    begin = 0
    for block in blocks:
        yield block.unsqueeze(1), None if weights is None else weights[begin : begin + len(block)]
        begin += len(block)


def _profile(series: Series, chosen: Values | slice, used: Values | None, columns: Columns) -> ColumnProfile:
    """Profiles one column.

    Args:
        series: The column, all M rows.
        chosen: The train rows: their numbers, or a slice.
        used: Numbers of the rows of all splits; ``None`` for all.
        columns: The table, for its settings.
    """
    if series.name == columns.offset:  # `encode` refuses one that is not a number in every row
        return ColumnProfile(series, Column(series.name, "number", is_offset=True))
    missing = series.is_missing()
    anywhere = int(np.count_nonzero(missing if used is None else missing[used]))
    in_train = int(np.count_nonzero(missing[chosen])) if anywhere else 0
    found = ColumnProfile(series, None, 0, in_train, anywhere, series.problem, series.short_problem)
    fill = (("dataset.missing", "impute"),) if columns.missing == "error" else ()
    impute = fill if anywhere else ()
    if series.problem and series.kind == "none":
        return replace(found, remedies=(("dataset.drop", series.name),))
    if series.name in columns.text:
        try:
            return replace(found, column=learn_text(series, series.values[chosen], columns), is_text=True)
        except DataError as error:
            return replace(
                found,
                problem=str(error),
                short_problem="has no n-gram to learn from",
                is_text=True,
                remedies=(("dataset.drop", series.name),),
            )
    if series.kind == "none":
        return found
    values = series.values[chosen]
    counts: Values = np.zeros(0)
    if series.kind != "number":
        counts = np.bincount(values + 1, minlength=len(series.levels) + 1)[1:]
    levels = int(np.count_nonzero(counts))
    if series.problem:
        remedies = _remedies(series, _looks_like_id(counts, columns), columns)
        then = {"dataset.drop": (), "dataset.missing_values": fill}.get(remedies[0][0], impute)
        return replace(found, remedies=remedies + then)
    if _looks_like_id(counts, columns) and looks_like_text(series.levels):
        return replace(
            found,
            levels_in_train=levels,
            problem=f"`{columns.key('dataset.text')}` must name the columns of text, and column {series.name!r} has "
            f"{levels:,} different texts in {counts.sum():,} train rows [in {columns.source}]. "
            f"Add {columns.setting('dataset.text', [series.name])} to learn from its words, or "
            f"{columns.setting('dataset.drop', [series.name])}.",
            short_problem=f"has {levels:,} different texts",
            is_text=True,
            remedies=(("dataset.text", series.name),),
        )
    if _looks_like_id(counts, columns):
        problem, short_problem, remedies = _id_problem(series, counts, columns)
        return replace(found, levels_in_train=levels, problem=problem, short_problem=short_problem, remedies=remedies)
    if impute:
        first = int(missing.argmax()) if used is None else int(used[missing[used]].min())
        problem = (
            f"`{columns.value('dataset.missing', 'error')}` must find no missing values, and column {series.name!r} "
            f"has {anywhere:,}, the first in {columns.place(first)}. "
            f"Fill them, or set {columns.value('dataset.missing', 'impute')}."
        )
        return replace(
            found,
            problem=problem,
            short_problem=f"has {anywhere:,} missing value{'s' * (anywhere > 1)}",
            remedies=impute,
        )
    if in_train == len(values):
        return found
    if series.kind == "number":
        column = _learn_number(series.name, values[~missing[chosen]] if in_train else values, marked=in_train > 0)
        if column.constant and not in_train:
            return found
        return replace(found, column=column, may_be_id=not anywhere and _are_unique_integers(values, series.file_type))
    column, rare_rows, collisions = _learn_levels(series, counts, in_train > 0, columns)
    return replace(
        found,
        column=None if column.constant and not in_train else column,
        levels_in_train=levels,
        may_be_id=counts.sum() >= MIN_ID_ROWS
        and _has_unique_levels(counts, columns)
        and series.name not in columns.settings.get("dataset.categorical", ())
        and not looks_like_text(series.levels),  # which has a note of its own
        rare_rows=rare_rows,
        collisions=collisions,
    )


def _looks_like_id(counts: Values, columns: Columns) -> bool:
    """Whether a column is wide and has unique levels; the arguments are those of `_has_unique_levels`."""
    return bool(np.count_nonzero(counts) > columns.max_levels) and _has_unique_levels(counts, columns)


def _has_unique_levels(counts: Values, columns: Columns) -> bool:
    """Whether most rows have a level of their own, and such levels do not join as rare ones.

    Args:
        counts: Number of train rows of each level, shape (L,).
        columns: The table, for its settings.
    """
    return bool(columns.min_level_rows == 1 and (counts == 1).sum() > ID_FRACTION * counts.sum())


def _id_problem(series: Series, counts: Values, columns: Columns) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Problem, short problem and remedies of a column that looks like an id.

    Args:
        series: The column.
        counts: Number of train rows of each of its levels, shape (L,).
        columns: The table, for its settings.
    """
    levels, rows = int(np.count_nonzero(counts)), int(counts.sum())
    short_problem = f"has {levels:,} levels in {rows:,} train rows"
    problem = (
        f"column {series.name!r} must have levels that recur, and {short_problem} [in {columns.source}]. It looks like "
        f"an id: add {columns.setting('dataset.drop', [series.name])}. To use it all the same, join the levels of a "
        f"single row with {columns.value('dataset.min_level_rows', 2)}, or set "
        f"{columns.value('dataset.max_levels', levels)}."
    )
    return problem, short_problem, (("dataset.drop", series.name),)


def _learn_levels(series: Series, counts: Values, marked: bool, columns: Columns) -> tuple[Column, int, int]:
    """Learns the encoding of a column of levels.

    Args:
        series: The column, all M rows.
        counts: Number of train rows of each of its levels, shape (L,).
        marked: Whether missing values get an indicator feature.
        columns: The table, for its settings.

    Returns:
        The encoding; the number of train rows with a rare level; the number of levels that share a bucket with an
        earlier one.
    """
    assert series.kind != "none"
    in_train = counts.nonzero()[0]
    names: Sequence[str] = [series.levels[code] for code in in_train.tolist()]
    counts, sizes = counts[in_train], np.ones(len(in_train), dtype=np.int64)  # of each name; rows, and levels
    buckets = columns.buckets if len(names) > columns.max_levels else 0
    if buckets:
        used, place = np.unique(buckets_of(names, buckets), return_inverse=True)
        names, sizes = bucket_names(used), np.bincount(place)
        counts = np.bincount(place, counts).astype(np.int64)
    fill = names[int(counts.argmax())]
    is_rare = counts < columns.min_level_rows if series.kind == "category" else np.zeros(len(counts), dtype=bool)
    if is_rare.any() and RARE in names:
        is_rare[names.index(RARE)] = True
    kept = tuple(name for name, rare in zip(names, is_rare.tolist(), strict=True) if not rare)
    rare_levels = int(sizes[is_rare].sum())
    constant = len(kept) + (rare_levels > 0) == 1
    column = Column(series.name, series.kind, kept, fill, marked, constant, rare_levels, buckets)
    return column, int(counts[is_rare].sum()), int((sizes - 1).sum())


def _remedies(series: Series, looks_like_id: bool, columns: Columns) -> tuple[tuple[str, str], ...]:
    """Settings that make a column usable which mixes numbers and text."""
    words = [level.strip() for level in series.levels if not is_number(level, columns.decimal)]
    if (
        columns.is_text
        and len(words) <= MAX_MISSING_WORDS
        and not any(letter.isdigit() for word in words for letter in word)
    ):
        return tuple(("dataset.missing_values", word) for word in words)
    return (("dataset.drop" if looks_like_id else "dataset.categorical", series.name),)


def _all_refused(faults: Sequence[ColumnProfile], others: bool, columns: Columns) -> str:
    """One message for several columns with problems, and one line to type.

    Args:
        faults: Profiles of these columns.
        others: Whether there are other columns, without a problem.
        columns: The table.
    """
    named: dict[str, list[str]] = {}
    for key, value in (remedy for fault in faults for remedy in fault.remedies):
        named.setdefault(key, []).append(value)
    typed = [columns.setting(key, named[key]) for key in LIST_SETTINGS if key in named]
    if "dataset.missing" in named:
        typed.append(columns.value("dataset.missing", "impute"))
    listed = name_list(f"{fault.series.name!r} {fault.short_problem}" for fault in faults)
    problem = f"columns must hold usable values, and {len(faults):,} do not [in {columns.source}]: {listed}."
    leaves_columns = others or any(key != "dataset.drop" for key in named)
    if columns.in_python:
        return f"{problem} Fix the table, or set {', '.join(typed)}." if leaves_columns else f"{problem} Fix the table."
    advice = f"Fix the file, or type: {' '.join(typed)}" if leaves_columns else "Fix the file."
    advices = (or_other_decimal_of(advice, fault.series.levels, columns) for fault in faults)
    return f"{problem} {next((longer for longer in advices if longer != advice), advice)}"


def _learn_number(name: str, values: Values, marked: bool) -> Column:
    """Learns the encoding of a column of numbers.

    Args:
        name: Name of the column.
        values: Its values in the train rows that have one.
        marked: Whether missing values get an indicator feature.
    """
    constant = not (values[:SAMPLE_ROWS] != values[0]).any() and not (values != values[0]).any()
    return Column(name, "number", (), median(values), marked, constant)


def median(values: Values) -> float:
    """The median of finite values, shape (N,), N > 0; for even N the mean of the middle two.

    Of many values only those are sorted that lie between two quantiles of a sample (selection by sampling, as in
    Floyd and Rivest's SELECT).
    """
    near, below = values, 0
    if len(values) > 10 * MEDIAN_ROWS:
        sample = np.sort(values[:: len(values) // MEDIAN_ROWS])
        low, high = sample[int(0.48 * len(sample))], sample[int(0.52 * len(sample))]  # 4 standard errors away
        is_below = values < low
        below = int(np.count_nonzero(is_below))
        near = values[is_below ^ (values <= high)]
    first, last = (len(values) - 1) // 2 - below, len(values) // 2 - below
    if first < 0 or last >= len(near):  # the quantiles of the sample do not enclose the median
        near, first, last = values, (len(values) - 1) // 2, len(values) // 2
    near = np.partition(near, last)
    lower = near[last] if first == last else near[:last].max()
    return float(lower) / 2 + float(near[last]) / 2


def _are_unique_integers(values: Values, file_type: str) -> bool:
    """Whether values (N,) of that type of Arrow are unique whole numbers, and at least ``MIN_ID_ROWS`` of them."""
    first = values[:MIN_ID_ROWS]
    if len(first) < MIN_ID_ROWS or len(np.unique(first)) < MIN_ID_ROWS or (first != np.floor(first)).any():
        return False
    if values.dtype.kind == "f":
        # Every larger float of the type is a whole number.
        small = values[np.abs(values) < 1 / torch.finfo(FILE_DTYPES.get(file_type, torch.float64)).eps]
        if len(small) < MIN_ID_ROWS or (small != np.floor(small)).any():
            return False
    return len(np.unique(values)) == len(values)
