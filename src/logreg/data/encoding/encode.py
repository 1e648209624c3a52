"""Encodes columns as a feature matrix: numbers as they are, categories one-hot, text by its n-grams.

Missing values are filled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.csr import csr
from logreg.data.encoding.columns import Columns, Series, Values, check_offset, or_other_decimal_of
from logreg.data.encoding.hashing import bucket_names, buckets_of
from logreg.data.encoding.labels import boolean_of
from logreg.data.encoding.parallel import map_in_parts
from logreg.data.encoding.parts import LevelsPart, NarrowedPart, NumberPart, Part
from logreg.data.encoding.text import TextPart
from logreg.data.memory import Allocate, mapped_array, release
from logreg.errors import DataError
from logreg.facts import Column
from logreg.hardware import usable_cores
from logreg.stored_form import StoredForm
from logreg.terminal import counted

ENCODED_ROWS = 2**15
"""Number of rows that are encoded at once: few enough for the cache, and enough to outweigh the start of a task."""

SMALL_BYTES = 2**22
"""Size of a dense matrix up to which it stays dense: a fit of few rows takes about the same time either way."""

DENSE_SPEED = 8
"""Bytes of a dense matrix that a pass reads in the time of a byte of sparse rows.

Both by ``benchmarks/wide_categories.py --part forms``: fits of sparse rows take less time from this ratio of bytes on.
"""


def unseen_note(rows: str, column: Column, of: str) -> str:
    """The sentence on rows with a level, or text, of which `encode` knows nothing.

    Args:
        rows: The rows and their number.
        column: The encoding of the column.
        of: Who lacks the level: train or the model.
    """
    if column.kind == "text":
        return f"{rows} without an n-gram of {column.name} that {of} has: all its features are 0"
    return f"{rows} with a level of {column.name} that {of} lacks: encoded as no level"


def filled_note(number: int, column: Column) -> str:
    """The sentence on rows without a value of a column of which each train row has one.

    Args:
        number: Number of the rows.
        column: The encoding of the column.
    """
    most = "the most frequent bucket" if column.buckets else "the most frequent level"
    fill = f"{column.fill:g}, the median" if column.kind == "number" else f"{column.fill!r}, {most}"
    rows = counted(number, "row")
    return f"{rows} without a value of {column.name}, which no train row lacks: filled with {fill} of train"


def encode(
    columns: Columns,
    encoding: Sequence[Column],
    dtype: torch.dtype,
    stored: StoredForm | None = None,
    free: bool = False,
    sparse: bool | None = None,
    allocate: Allocate = mapped_array,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Encodes columns as a feature matrix.

    Args:
        columns: Columns as they were read; those without an encoding are ignored.
        encoding: Encoding of each column, learned on train.
        dtype: Floating type of the matrix.
        stored: Stored form of the features; ``None`` for source units.
        free: Whether the series are taken out of ``columns`` and freed: each once it is encoded, and those of temporary
            columns while the matrix is filled, so that the two never take their memory together.
        sparse: Whether the matrix is sparse; ``None`` for `is_better_sparse`.
        allocate: Makes the arrays of the matrix.

    Returns:
        Stored features, shape (M, D), dense or as a CSR tensor; and, by name of a column, the numbers of
        the rows with a level that train lacks, or with text of which train has no n-gram, shape (m,).  Such a row is 0
        in all features of the column.  Where a column has rare levels, a level that train lacks is one of them, and is
        not reported.

    Raises:
        DataError: A column is missing, is text where train had numbers, or holds infinite values.
    """
    by_name = {series.name: series for series in columns.series}
    for column in encoding:
        if column.is_offset and column.name in by_name:
            check_offset(by_name[column.name], columns)
    learned: list[Series | None] = [_as_learned(by_name.get(column.name), column, columns) for column in encoding]
    starts = np.cumsum([0, *(column.num_features for column in encoding)]).tolist()
    forms = [(0.0, 1.0) if stored is None else (float(stored.shift[at]), float(stored.unit[at])) for at in starts[:-1]]
    float_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    narrowed: dict[int, Part] = {}

    def narrow(numbers: Sequence[int]) -> list[None]:
        """Encodes some columns of numbers that are wider than the features, into ``narrowed``, and frees them."""
        for number in numbers:
            column, series = encoding[number], learned[number]
            assert series is not None
            if column.kind == "number" and series.values.itemsize > float_dtype.itemsize:
                narrowed[number] = _narrowed(column, series, forms[number], float_dtype, columns)
                learned[number] = None
        return []

    if free:
        columns.series.clear()
        by_name.clear()
        map_in_parts(narrow, range(len(encoding)))
    parts: list[Part] = []
    unseen: dict[str, Tensor] = {}
    for number, (column, series) in enumerate(zip(encoding, learned, strict=True)):
        if series is None:
            parts.append(narrowed[number])
            continue
        part, unknown = _part_of(column, series, forms[number])
        parts.append(part)
        if len(unknown):
            unseen[column.name] = torch.from_numpy(unknown)
    if sparse is None:
        sparse = is_better_sparse(len(columns), parts, float_dtype.itemsize)

    def written(rows: slice, total: float) -> None:
        """Checks some rows of the matrix by their sum, and frees those of the parts."""
        for column, series, part in zip(encoding, learned, parts, strict=True) if not math.isfinite(total) else ():
            if series is not None and column.kind == "number":
                values = np.zeros((rows.stop - rows.start, part.width), float_dtype)
                part.write(values, rows)
                _check_finite(column, series, values, columns, rows.start)
        for part in parts if free and columns.is_temporary else ():  # else the memory may be the caller's
            if isinstance(part, NumberPart | LevelsPart):
                release(part.values, rows)

    return (_sparse if sparse else _dense)(parts, len(columns), float_dtype, allocate, written), unseen


def _part_of(column: Column, series: Series, form: tuple[float, float]) -> tuple[Part, Values]:
    """The part of the matrix that a column has, and the numbers of the rows with a level or text that train lacks.

    ``form`` has the shift and the unit of a column of numbers.
    """
    none = np.zeros(0, np.int64)
    if column.kind == "number":
        return NumberPart(column, series.values, form), none
    if column.kind == "text":
        text = TextPart(column, series)
        return text, text.unknown.nonzero()[0]
    feature_of = _features_of_levels(column, series)
    is_unknown = feature_of < 0
    return LevelsPart(column, series.values, feature_of), is_unknown[series.values].nonzero()[
        0
    ] if is_unknown.any() else none


def _narrowed(
    column: Column, series: Series, form: tuple[float, float], dtype: np.dtype[Any], columns: Columns
) -> NarrowedPart:
    """The part of a column of numbers, computed in the type of the matrix; arguments as of `_part_of`."""
    part = NumberPart(column, series.values, form)
    values = columns.allocate((len(columns), part.width), dtype)
    for rows in _row_blocks(len(columns)):
        part.write(values[rows], rows)
    _check_finite(column, series, values, columns)
    return NarrowedPart(column, values)


def is_better_sparse(num_rows: int, parts: Sequence[Part], itemsize: int) -> bool:
    """Whether a matrix is better held as sparse rows: they take fewer bytes, by so much that passes are faster too.

    A sparse row has an int32 for the place of each entry, and one for its own place.

    Args:
        num_rows: M.
        parts: The parts of the matrix.
        itemsize: Bytes of a number.
    """
    dense = num_rows * sum(part.width for part in parts) * itemsize
    sparse = sum(part.most_entries for part in parts) * (itemsize + 4) + num_rows * 4
    return dense > max(SMALL_BYTES, DENSE_SPEED * sparse)


def _dense(
    parts: Sequence[Part],
    num_rows: int,
    dtype: np.dtype[Any],
    allocate: Allocate,
    written: Callable[[slice, float], None],
) -> Tensor:
    """The dense matrix (M, D) of some parts.

    ``written`` is called with each block of its rows and a sum that is finite where all their values are.
    """
    starts = np.cumsum([0, *(part.width for part in parts)]).tolist()
    features = allocate((num_rows, starts[-1]), dtype)

    def write(rows: slice) -> None:
        for part, start in zip(parts, starts, strict=False):
            part.write(features[rows, start : start + part.width], rows)
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(features[rows].sum())
        written(rows, total)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, _row_blocks(num_rows)))
    return torch.from_numpy(features)


def _sparse(
    parts: Sequence[Part],
    num_rows: int,
    dtype: np.dtype[Any],
    allocate: Allocate,
    written: Callable[[slice, float], None],
) -> Tensor:
    """The sparse matrix (M, D) of some parts; ``written`` as of `_dense`."""
    starts = np.cumsum([0, *(part.width for part in parts)]).tolist()
    begins = np.zeros(num_rows + 1, np.int64)

    def count(rows: slice) -> None:
        for part in parts:
            begins[rows.start + 1 : rows.stop + 1] += part.counts(rows)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(count, _row_blocks(num_rows)))
        np.cumsum(begins, out=begins)
        columns, values = allocate(int(begins[-1]), np.int32), allocate(int(begins[-1]), dtype)

        def write(rows: slice) -> None:
            nexts = begins[rows].copy()
            for part, start in zip(parts, starts, strict=False):
                counts, features, numbers = part.entries(rows)
                # The place of a row's first entry of the part, less the number of entries of the part in rows before.
                places = np.repeat(nexts - np.cumsum(counts) + counts, counts) + np.arange(len(features))
                columns[places] = features + start
                with np.errstate(over="ignore"):
                    values[places] = numbers
                nexts += counts
            with np.errstate(over="ignore", invalid="ignore"):
                total = float(values[begins[rows.start] : begins[rows.stop]].sum())
            written(rows, total)

        list(pool.map(write, _row_blocks(num_rows)))
    if begins[-1] < 2**31:
        begins = begins.astype(np.int32)
    return csr(torch.from_numpy(begins), torch.from_numpy(columns), torch.from_numpy(values), starts[-1])


def _row_blocks(rows: int) -> list[slice]:
    return [slice(begin, min(begin + ENCODED_ROWS, rows)) for begin in range(0, rows, ENCODED_ROWS)]


def _features_of_levels(column: Column, series: Series) -> Values:
    """The feature of each level of a series, -1 for none; the last entry is for missing values.

    A level is known with or without blanks around it.  The other levels have the feature of rare ones, if there is one.
    """
    places, other = column.places, column.other_place
    levels: Iterable[str] = series.levels
    if column.buckets:
        levels = bucket_names(buckets_of(series.levels, column.buckets))
    elif column.kind == "boolean":
        levels = map(boolean_of, levels)
    found = [places.get(level, places.get(level.strip(), other)) for level in levels]
    return np.array([*found, places.get(str(column.fill), other)])


def _as_learned(series: Series | None, column: Column, columns: Columns) -> Series:
    """The series of a column, with the type that it has in train.

    Raises:
        DataError: It is absent, or has another type.
    """
    if series is None:
        raise DataError(f"{columns.source} must have the column {column.name!r} that the model learned from.")
    is_other = (column.kind == "number") != (series.kind == "number")
    if series.problem if series.kind == "none" else is_other:
        wanted = f"column {column.name!r} must be a {column.kind} as in train"
        if series.kind == "category" and (first_word := series.first_word(columns.decimal)) is not None:
            row, word = first_word
            advice = or_other_decimal_of("Fix the row.", series.levels, columns)
            raise DataError(f"{wanted}, got {word!r} in {columns.place(row)}. {advice}")
        raise DataError(f"{wanted}, got {series.type_in_words} [in {columns.source}]. Convert it.")
    if series.kind == "none":
        missing = np.nan if column.kind == "number" else -1
        dtype = np.float32 if column.kind == "number" else np.int32
        kind = "category" if column.kind == "text" else column.kind
        return Series(series.name, kind, np.full(len(columns), missing, dtype=dtype))
    return series


def _check_finite(column: Column, series: Series, features: Values, columns: Columns, first: int = 0) -> None:
    """Raises a DataError that names the first infinite number in n rows of a column.

    Args:
        column: Its encoding.
        series: The column, all M rows.
        features: Features of the n rows, shape (n, k).
        columns: The table.
        first: The first of these rows.
    """
    if column.constant or not np.isinf(features[:, 0]).any():
        return
    row = first + int(np.isinf(features[:, 0]).argmax())
    value = float(series.values[row])
    is_too_large = np.isfinite(value) and not columns.in_python  # in Python the type is the model's
    advice = "Set precision=64, or fix the row" if is_too_large else "Fix the row"
    raise DataError(
        f"column {column.name!r} must hold finite numbers, got {value:g} in {columns.place(row)}. {advice}."
    )
