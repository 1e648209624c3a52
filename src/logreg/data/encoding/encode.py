"""Encodes columns as a feature matrix: numbers as they are, text one-hot, missing values filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from logreg.data.encoding.columns import Columns, Series, Values
from logreg.data.encoding.labels import boolean_of
from logreg.data.encoding.parallel import map_in_parts
from logreg.data.memory import mapped_array
from logreg.errors import DataError
from logreg.facts import Column
from logreg.hardware import usable_cores
from logreg.stored_form import StoredForm

BLOCK_ROWS = 2**15
"""Number of rows that are encoded at once: few enough for the cache, and enough to outweigh the start of a task."""


def encode(
    columns: Columns,
    encoding: Sequence[Column],
    dtype: torch.dtype,
    stored: StoredForm | None = None,
    free: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Encodes columns as a feature matrix.

    Args:
        columns: Columns as they were read; those without an encoding are ignored.
        encoding: Encoding of each column, learned on train.
        dtype: Floating type of the matrix.
        stored: Stored form of the features; ``None`` for source units.
        free: Whether the series are taken out of ``columns`` and freed one by one: columns of float64 and a matrix of
            float32 then never take their memory together.

    Returns:
        Stored features, shape (M, D); and, by name of a column, the numbers of the rows with a level that train lacks,
        shape (m,).  Such a row is 0 in all features of the column.

    Raises:
        DataError: A column is missing, is text where train had numbers, or holds infinite values.
    """
    by_name = {series.name: series for series in columns.series}
    learned: list[Series | None] = [_as_learned(by_name.get(column.name), column, columns) for column in encoding]
    starts = np.cumsum([0, *(len(column.feature_names) for column in encoding)]).tolist()
    forms = [(0.0, 1.0) if stored is None else (float(stored.shift[at]), float(stored.unit[at])) for at in starts[:-1]]
    float_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    parts: list[Values | None] = [None] * len(encoding)

    def narrow(numbers: Sequence[int]) -> list[None]:
        """Encodes some columns of numbers that are wider than the features, into ``parts``, and frees them."""
        for number in numbers:
            column, series = encoding[number], learned[number]
            assert series is not None
            if column.kind != "number" or series.values.itemsize <= float_dtype.itemsize:
                continue
            part = mapped_array((len(columns), len(column.feature_names)), float_dtype)
            for rows in _row_blocks(len(columns)):
                _write_numbers(part, column, series.values, forms[number], rows)
            _check_finite(column, series, part, columns)
            parts[number], learned[number] = part, None
        return []

    if free:
        columns.series.clear()
        by_name.clear()
        map_in_parts(narrow, range(len(encoding)))
    with ThreadPoolExecutor(usable_cores()) as pool:
        features = mapped_array((len(columns), starts[-1]), float_dtype)
        writers: list[Callable[[slice], None]] = []
        unseen: dict[str, Tensor] = {}
        for column, series, part, form, start in zip(encoding, learned, parts, forms, starts, strict=False):
            place = features[:, start : start + len(column.feature_names)]
            if part is not None:
                writers.append(partial(_copy, place, part))
                continue
            assert series is not None
            if column.kind == "number":
                writers.append(partial(_write_numbers, place, column, series.values, form))
                continue
            position = {level.strip(): number for number, level in enumerate(column.levels)}
            position |= {level: number for number, level in enumerate(column.levels)}
            # The last entry, at index -1, is for missing values.
            places = [_place(level, column, position) for level in series.levels]
            feature_of = np.array([*places, position[str(column.fill)]])
            writers.append(partial(_write_levels, place, column, series.values, feature_of))
            if bool((feature_of < 0).any()):
                unseen[column.name] = torch.from_numpy((feature_of[series.values] < 0).nonzero()[0])

        def write(rows: slice) -> float:
            for writer in writers:
                writer(rows)
            with np.errstate(over="ignore", invalid="ignore"):
                return float(features[rows].sum())

        sums = list(pool.map(write, _row_blocks(len(columns))))
    if not math.isfinite(sum(sums)):
        for column, series, start in zip(encoding, learned, starts, strict=False):
            if series is not None and column.kind == "number":
                _check_finite(column, series, features[:, start:], columns)
    return torch.from_numpy(features), unseen


def _row_blocks(rows: int) -> list[slice]:
    return [slice(begin, begin + BLOCK_ROWS) for begin in range(0, rows, BLOCK_ROWS)]


def _copy(place: Values, part: Values, rows: slice) -> None:
    """Copies some rows."""
    place[rows] = part[rows]


def _place(level: str, column: Column, position: Mapping[str, int]) -> int:
    """Position of the feature of a level, with or without blanks around it; -1 where train lacks the level."""
    if column.kind == "boolean":
        return position.get(boolean_of(level), -1)
    return position.get(level, position.get(level.strip(), -1))


def _as_learned(series: Series | None, column: Column, columns: Columns) -> Series:
    """The series of a column, with the type that it has in train.

    Raises:
        DataError: It is absent, or has another type.
    """
    if series is None:
        raise DataError(f"{columns.source} must have the column {column.name!r} that the model learned from.")
    if series.problem and series.kind == "none":
        raise DataError(
            f"column {column.name!r} must be a {column.kind} as in train, got {series.file_type} [in {columns.source}]."
        )
    if series.kind == "none":
        missing = np.nan if column.kind == "number" else -1
        dtype = np.float32 if column.kind == "number" else np.int32
        return Series(series.name, column.kind, np.full(len(columns), missing, dtype=dtype))
    if (column.kind == "number") != (series.kind == "number"):
        raise DataError(
            f"column {column.name!r} must be a {column.kind} as in train, got a {series.kind} [in {columns.source}]."
        )
    return series


def _write_numbers(place: Values, column: Column, values: Values, form: tuple[float, float], rows: slice) -> None:
    """Writes some rows of a column of numbers into its features; ``form`` is shift and unit."""
    values = values[rows]
    # The sum is nan where a value is, and takes less time than a test of each value.
    missing = np.isnan(values) if values.dtype.kind == "f" and math.isnan(values.sum()) else None
    if not column.constant:
        filled = values if missing is None else np.where(missing, column.fill, values)
        with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported afterwards
            if form != (0.0, 1.0):
                filled = (filled.astype(np.float64) - form[0]) / form[1]
            place[rows, 0] = filled
    if column.indicator and missing is not None:
        place[rows, -1] = missing


def _write_levels(place: Values, column: Column, codes: Values, feature_of: Values, rows: slice) -> None:
    """Writes some rows of a column of levels into its features; ``feature_of`` maps codes to features."""
    codes = codes[rows]
    if not column.constant:
        features = feature_of[codes]
        known = (features >= 0).nonzero()[0]
        place[rows][known, features[known]] = 1
    if column.indicator:
        place[rows, -1] = codes < 0


def _check_finite(column: Column, series: Series, features: Values, columns: Columns) -> None:
    """Raises a DataError that names the first infinite number of a column with these features (M, k)."""
    if column.constant or not np.isinf(features[:, 0]).any():
        return
    row = int(np.isinf(features[:, 0]).argmax())
    value = float(series.values[row])
    is_too_large = np.isfinite(value) and not columns.in_python  # in Python the type is the model's
    advice = "Set precision=64, or fix the row" if is_too_large else "Fix the row"
    raise DataError(
        f"column {column.name!r} must hold finite numbers, got {value:g} in {columns.place(row)}. {advice}."
    )
