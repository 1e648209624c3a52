"""Target leaks (columns that determine the class by themselves) and duplicate columns.

A sample of the train rows rules most columns out; the few that remain are compared in all train rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from logreg.csr import as_scipy, is_sparse
from logreg.data.base import Table
from logreg.data.encoding.columns import Columns, Series
from logreg.errors import name_list

Values: TypeAlias = "np.ndarray[Any, Any]"

SAMPLE_ROWS = 1000
"""Number of train rows in the sample."""

BLOCK_NUMBERS = 2**20
"""Numbers of the sample that are compared at once; as float64 they take 8 MiB."""

MAX_CHANCE = 1e-3
"""Probability below which a column is reported as a leak.

It is the probability, under random labels, that any column of the table determines the class by chance.
"""

MAX_LEVELS = 100
"""Number of different values up to which a column is tested level by level; otherwise only by ranges of its values."""

MIN_ROWS_PER_LEVEL = 10
"""Mean number of train rows of a level, below which a column is an id rather than a category."""


@dataclass(frozen=True)
class Leaks:
    """Target leaks and duplicate columns in the train rows."""

    target: tuple[str, ...] = ()
    """Names of the columns (numbers of features without names) that determine the class of every row by themselves."""
    duplicates: Mapping[str, str] = field(default_factory=dict)
    """Relation to an earlier column, by name: "the same as x", or "a recoding of x" (its levels, renamed)."""
    advice: str = ""
    """Advice on how to leave out the columns of ``target``."""

    def notes(self, rows: int) -> tuple[str, ...]:
        """A sentence for the leaks and one for the duplicates.

        Args:
            rows: Number of train rows.
        """
        notes = []
        if self.target:
            determine = "determines the class" if len(self.target) == 1 else "each determine the class"
            notes.append(
                f"{name_list(map(repr, self.target))} alone {determine} in all {rows:,} rows of train: "
                f"may be the target under another name: {self.advice}"
            )
        if self.duplicates:
            relations = (f"{name} is {relation}" for name, relation in self.duplicates.items())
            notes.append(f"duplicate columns: {name_list(relations)}")
        return tuple(notes)


def find_leaks(train: Table, num_classes: int) -> Leaks:
    """Finds target leaks and duplicate columns.

    Args:
        train: The train rows, as columns or as a matrix of features without names.
        num_classes: Number of classes, C.
    """
    rows = train.row_numbers.numpy()
    if train.sample_weight is not None:
        rows = rows[train.sample_weight.numpy()[rows] > 0]
    labels = train.labels.numpy()[rows]
    columns = _TrainColumns(train, rows)
    sample = _sample(labels, num_classes)
    target: list[int] = []
    groups: dict[tuple[str, bytes], list[int]] = {}
    most = min(MAX_LEVELS, len(sample) // MIN_ROWS_PER_LEVEL)
    step = max(1, BLOCK_NUMBERS // len(sample))
    possible = columns.dense_enough(int(np.bincount(labels).max()))
    for start in range(0, len(possible), step):
        places = possible[start : start + step]
        values = columns.block(places, rows[sample])
        candidates = _may_determine(values, labels[sample]).nonzero()[0].tolist()
        target += [
            places[place] for place in candidates if columns.determines_class(places[place], labels, num_classes)
        ]
        for place, column in zip(places, values.T, strict=True) if columns.names else ():
            codes = _codes(column)
            if codes.any():  # not constant
                groups.setdefault(("the same as", _digest(column)), []).append(place)
                if codes.max() < most:
                    groups.setdefault(("a recoding of", _digest(codes)), []).append(place)
    found: dict[str, str] = {}
    for (relation, _), (first, *others) in groups.items():
        found |= {
            columns.names[other]: f"{relation} {columns.names[first]}"
            for other in others
            if columns.names[other] not in found and columns.are_duplicates(first, other, relation)
        }
    names = tuple(columns.names[place] if columns.names else f"feature {place}" for place in target)
    return Leaks(names, {name: found[name] for name in columns.names if name in found}, columns.advice(names))


class _TrainColumns:
    """The train rows of a table or a matrix, column by column as numbers; text is given by positions of its levels."""

    def __init__(self, train: Table, rows: Values) -> None:
        self.features, self.rows = train.features, rows
        self.series: list[Series] = []
        if isinstance(self.features, Columns):
            self.series = [one for one in self.features.series if one.kind != "none"]
        self.names = [one.name for one in self.series]
        self.width = len(self.series) if isinstance(self.features, Columns) else self.features.shape[1]

    def dense_enough(self, most: int) -> Sequence[int]:
        """Columns that may determine the class: of sparse ones those whose zeros may all be of one class.

        Args:
            most: Number of train rows of the largest class.
        """
        if isinstance(self.features, Columns) or not is_sparse(self.features):
            return range(self.width)
        matrix = as_scipy(self.features)
        counts = np.zeros(self.width, dtype=np.int64)
        for part in np.array_split(self.rows, max(1, matrix.nnz // BLOCK_NUMBERS)):
            counts += np.bincount(matrix[part].indices, minlength=self.width)
        found: list[int] = np.flatnonzero(counts >= len(self.rows) - most).tolist()
        return found

    def block(self, places: Sequence[int], rows: Values) -> Values:
        """Values of k columns in n rows, shape (n, k), float64; a missing value is inf."""
        if isinstance(self.features, Columns):
            parts = [self.series[place].values[rows].astype(np.float64) for place in places]
            values = np.stack(parts, axis=1)
            return np.where(np.isnan(values), np.inf, values) + 0.0  # + 0.0 turns -0 into 0
        if is_sparse(self.features):
            matrix = as_scipy(self.features)
            few_rows = len(rows) < matrix.shape[0] / 2  # then they are chosen first, else the columns
            part = matrix[rows][:, list(places)] if few_rows else matrix[:, list(places)][rows]
            return np.asarray(part.toarray().astype(np.float64) + 0.0)
        return self.features[:, places[0] : places[-1] + 1][rows].double().numpy() + 0.0

    def column(self, place: int) -> Values:
        """Values of one column in all train rows, shape (N,)."""
        values: Values = self.block([place], self.rows)[:, 0]
        return values

    def determines_class(self, place: int, labels: Values, num_classes: int) -> bool:
        """Whether a column determines the class of every train row, and is unlikely to do so by chance."""
        _, first, level, counts = np.unique(
            self.column(place), return_index=True, return_inverse=True, return_counts=True
        )
        of_level = labels[first]
        if not (of_level[level] == labels).all():
            return False
        in_class = np.bincount(labels, minlength=num_classes).astype(float)
        in_class = in_class[in_class > 0]
        log_chance = 0.0
        if len(counts) <= min(MAX_LEVELS, len(labels) // MIN_ROWS_PER_LEVEL):
            # Probability that all rows of each level have one class: for each level the sum over classes of p ** count.
            powers = np.log(in_class / len(labels)) * counts[:, None]
            log_chance = float(np.logaddexp.reduce(powers, axis=1).sum())
        in_ranges = np.count_nonzero(of_level[1:] != of_level[:-1]) == len(in_class) - 1
        if self.series and self.series[place].kind != "number":  # levels have no order, but a single level is a range
            in_ranges = len(in_class) == 2 and 1 in np.bincount(of_level)
        if in_ranges:
            # Probability that the classes are ranges of the values, in any order.
            orders = math.lgamma(len(in_class) + 1) + sum(math.lgamma(count + 1) for count in in_class)
            log_chance = min(log_chance, orders - math.lgamma(len(labels) + 1))
        return log_chance + math.log(self.width) < math.log(MAX_CHANCE)

    def are_duplicates(self, one: int, other: int, relation: str) -> bool:
        """Whether two columns are duplicates in all train rows: equal, or equal after renaming the levels."""
        values, others = self.column(one), self.column(other)
        if relation == "the same as":
            is_duplicate = self.series[one].levels == self.series[other].levels and (values == others).all()
        else:
            is_duplicate = (_codes(values) == _codes(others)).all()
        return bool(is_duplicate)

    def advice(self, names: Sequence[str]) -> str:
        """Advice on how to leave these columns out."""
        if not names:
            return ""
        if isinstance(self.features, Columns):
            return self.features.setting("dataset.drop", names)
        return "leave it out of the file" if len(names) == 1 else "leave them out of the file"


def _sample(labels: Values, num_classes: int) -> Values:
    """Positions of a sample with rows of every class, spread evenly over the rows, ascending."""
    if len(labels) <= SAMPLE_ROWS:
        return np.arange(len(labels))
    most = max(2, SAMPLE_ROWS // num_classes)
    by_class = [np.flatnonzero(labels == label) for label in range(num_classes)]
    parts = [mine[np.linspace(0, len(mine) - 1, min(most, len(mine))).astype(int)] for mine in by_class if len(mine)]
    return np.sort(np.concatenate(parts))


def _may_determine(values: Values, labels: Values) -> Values:
    """Whether each column (n, k) determines the class in a sample, by ranges or few levels; shape (k,), boolean."""
    order = values.argsort(axis=0, kind="stable")
    values, of_row = np.take_along_axis(values, order, 0), labels[order]
    changes, equal = of_row[1:] != of_row[:-1], values[1:] == values[:-1]
    in_ranges = changes.sum(0) == len(np.unique(labels)) - 1
    has_few = (~equal).sum(0) < MAX_LEVELS
    is_pure: Values = ~(changes & equal).any(0) & (in_ranges | has_few)
    return is_pure


def _codes(column: Values) -> Values:
    """Values numbered by first occurrence, shape (N,): equal for columns that differ only in the names of levels."""
    _, first, level = np.unique(column, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int32)
    number[first.argsort()] = np.arange(len(first))
    return number[level]


def _digest(values: Values) -> bytes:
    """A 128-bit hash: equal for equal columns, and for different ones with probability of about 1e-38."""
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
