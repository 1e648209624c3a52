"""Parts of a feature matrix, one for each column: a part writes dense values, or gives the entries of sparse rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from logreg.data.encoding.columns import Values
from logreg.facts import Column


class Entries(NamedTuple):
    """Entries of n sparse rows, row by row, with ascending features in each row; e of them."""

    counts: Values
    """Number of entries of each row, shape (n,), integers."""
    features: Values
    """The features, counted from 0 within the part, shape (e,), integers."""
    values: Values
    """Shape (e,)."""


class Part:
    """The features of one column, for all M rows.

    Attributes:
        width: Number of features, k.
        most_entries: Number of entries in all rows, or a little more.
    """

    width: int
    most_entries: int

    def write(self, block: Values, rows: slice) -> None:
        """Writes some rows into a block of zeros, shape (n, k)."""
        raise NotImplementedError

    def entries(self, rows: slice) -> Entries:
        """The entries of some rows."""
        raise NotImplementedError

    def counts(self, rows: slice) -> Values:
        """Number of entries of each of some rows, shape (n,), integers."""
        return self.entries(rows).counts


class NumberPart(Part):
    """A column of numbers, filled, shifted and scaled; then the indicator of missing values.

    Sparse rows have an entry for the number also where it is 0, so that it may be shifted later.
    """

    def __init__(self, column: Column, values: Values, form: tuple[float, float]) -> None:
        """Takes values (M,), nan where missing, and the shift and the unit of the stored form."""
        self.column, self.values, self.form = column, values, form
        self.width = column.num_features
        self.most_entries = len(values) * self.width

    def write(self, block: Values, rows: slice) -> None:
        """Fills, shifts and scales some rows."""
        column, (shift, unit), values = self.column, self.form, self.values[rows]
        # The minimum is nan where a value is, and takes less time than a test of each value.
        missing = np.isnan(values) if values.dtype.kind == "f" and math.isnan(values.min(initial=np.inf)) else None
        if not column.constant:
            filled = values if missing is None else np.where(missing, column.fill, values)
            with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported afterwards
                if (shift, unit) != (0.0, 1.0):
                    filled = (filled.astype(np.float64) - shift) / unit
                block[:, 0] = filled
        if column.indicator and missing is not None:
            block[:, -1] = missing

    def entries(self, rows: slice) -> Entries:
        """The numbers of some rows, and the indicators that are 1."""
        block = np.zeros((rows.stop - rows.start, self.width))
        self.write(block, rows)
        is_entry = block != 0
        is_entry[:, : self.column.num_values] = True
        return Entries(np.count_nonzero(is_entry, axis=1), is_entry.nonzero()[1], block[is_entry])


class NarrowedPart(NumberPart):
    """A column of numbers whose features (M, k) are computed already, in the type of the matrix."""

    def __init__(self, column: Column, values: Values) -> None:
        """Takes the features, shape (M, k)."""
        super().__init__(column, values, (0.0, 1.0))

    def write(self, block: Values, rows: slice) -> None:
        """Copies some rows."""
        block[:] = self.values[rows]


class LevelsPart(Part):
    """A column of levels, one-hot; then the indicator of missing values."""

    def __init__(self, column: Column, codes: Values, feature_of: Values) -> None:
        """Takes codes (M,), -1 where missing, and the feature of each code and of missing values, -1 for none."""
        self.column, self.values, self.feature_of = column, codes, feature_of
        self.width = column.num_features
        self.most_entries = (0 if column.constant else len(codes)) + (
            int(np.count_nonzero(codes < 0)) if column.indicator else 0
        )

    def write(self, block: Values, rows: slice) -> None:
        """Writes 1 at the level of each row."""
        codes = self.values[rows]
        if not self.column.constant:
            features = self.feature_of[codes]
            known = (features >= 0).nonzero()[0]
            block[known, features[known]] = 1
        if self.column.indicator:
            block[:, -1] = codes < 0

    def entries(self, rows: slice) -> Entries:
        """The level of each row that train has, and the indicator."""
        codes = self.values[rows]
        features = np.full((len(codes), 2), -1)
        if not self.column.constant:
            features[:, 0] = self.feature_of[codes]
        if self.column.indicator:
            features[codes < 0, 1] = self.width - 1
        is_entry = features >= 0
        return Entries(np.count_nonzero(is_entry, axis=1), features[is_entry], np.ones(np.count_nonzero(is_entry)))
