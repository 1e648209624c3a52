"""Columns that may be the target under another name, and columns that say the same as another one.

Both are looked for in a sample of the train rows first; the few columns that pass are compared in all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from logreg.data.base import Table
from logreg.data.encoding.columns import Columns, Series
from logreg.errors import name_list

Values: TypeAlias = "np.ndarray[Any, Any]"

SAMPLE_ROWS = 1000
"""Rows of train that are looked at in every column."""

BLOCK_NUMBERS = 2**20
"""Numbers of the sample that are looked at at once."""

CHANCE = 1e-3
"""Where labels that have nothing to do with the features give such a column more often than that, none is suspected."""

MOST_LEVELS = 100
"""Different values of a column that is compared by its levels; of more, classes must be ranges of it."""

ROWS_A_LEVEL = 10
"""Train rows of each level, on the average; with fewer it is rather an id."""


@dataclass(frozen=True)
class Leaks:
    """What was found in the train rows."""

    target: tuple[str, ...] = ()
    """Columns, or features without names by their number, each of which alone tells the class of every row."""
    same: Mapping[str, str] = field(default_factory=dict)
    """In words, by column: the same as an earlier one, or that one under other names."""
    advice: str = ""
    """What leaves the columns of ``target`` out."""

    def notes(self, rows: int) -> tuple[str, ...]:
        """A sentence for each kind that was found; ``rows`` of train."""
        notes = []
        if self.target:
            tell = "tells the class" if len(self.target) == 1 else "each tell the class"
            notes.append(
                f"{name_list(map(repr, self.target))} alone {tell} in all {rows:,} rows of train: "
                f"may be the target under another name: {self.advice}"
            )
        if self.same:
            notes.append(
                f"columns that say the same: {name_list(f'{name} is {other}' for name, other in self.same.items())}"
            )
        return tuple(notes)


def find_leaks(train: Table, num_classes: int) -> Leaks:
    """Looks for columns that tell the class alone, and for those that say the same as another one.

    Args:
        train: The rows, as columns or as a matrix of features without names.
        num_classes: C.
    """
    rows = np.arange(len(train.labels)) if train.index is None else train.index.numpy()
    if train.sample_weight is not None:
        rows = rows[train.sample_weight.numpy()[rows] > 0]
    labels = train.labels.numpy()[rows]
    held = _Held(train, rows)
    sample = _sample(labels, num_classes)
    target: list[int] = []
    groups: dict[tuple[str, bytes], list[int]] = {}
    most = min(MOST_LEVELS, len(sample) // ROWS_A_LEVEL)
    step = max(1, BLOCK_NUMBERS // len(sample))
    for start in range(0, held.width, step):
        places = range(start, min(start + step, held.width))
        values = held.block(places, rows[sample])
        maybe = _may_tell(values, labels[sample]).nonzero()[0].tolist()
        target += [start + place for place in maybe if held.tells(start + place, labels, num_classes)]
        for place, column in zip(places, values.T, strict=True) if held.names else ():
            codes = _codes(column)
            if codes.any():  # else it is constant
                groups.setdefault(("the same as", _digest(column)), []).append(place)
                if codes.max() < most:
                    groups.setdefault(("a recoding of", _digest(codes)), []).append(place)
    same: dict[str, str] = {}
    for (how, _), (first, *others) in groups.items():
        same |= {
            held.names[other]: f"{how} {held.names[first]}"
            for other in others
            if held.names[other] not in same and held.are_alike(first, other, how)
        }
    names = tuple(held.names[place] if held.names else f"feature {place}" for place in target)
    return Leaks(names, {name: same[name] for name in held.names if name in same}, held.advice(names))


class _Held:
    """The columns of a table, or of a matrix, as numbers: of text the positions of the levels."""

    def __init__(self, train: Table, rows: Values) -> None:
        self.features, self.rows = train.features, rows
        self.series: list[Series] = []
        if isinstance(self.features, Columns):
            self.series = [one for one in self.features.series if one.kind != "none"]
        self.names = [one.name for one in self.series]
        self.width = len(self.series) if isinstance(self.features, Columns) else self.features.shape[1]

    def block(self, places: Sequence[int], rows: Values) -> Values:
        """These columns of these rows, (n, k) in float64; a gap is inf."""
        if isinstance(self.features, Columns):
            parts = [self.series[place].values[rows].astype(np.float64) for place in places]
            values = np.stack(parts, axis=1)
            return np.where(np.isnan(values), np.inf, values) + 0.0  # of -0 makes 0
        return self.features[:, places[0] : places[-1] + 1][rows].double().numpy() + 0.0

    def column(self, place: int) -> Values:
        """One of them in all train rows, (N,)."""
        values: Values = self.block([place], self.rows)[:, 0]
        return values

    def tells(self, place: int, labels: Values, num_classes: int) -> bool:
        """Whether a column tells the class of every train row, and not by chance."""
        _, first, level, counts = np.unique(
            self.column(place), return_index=True, return_inverse=True, return_counts=True
        )
        of_level = labels[first]
        if not (of_level[level] == labels).all():
            return False
        in_class = np.bincount(labels, minlength=num_classes).astype(float)
        in_class = in_class[in_class > 0]
        log_chance = 0.0
        if len(counts) <= min(MOST_LEVELS, len(labels) // ROWS_A_LEVEL):
            # that all rows of each level are of one class: the sum over the classes of share ** count, of each level
            powers = np.log(in_class / len(labels)) * counts[:, None]
            log_chance = float(np.logaddexp.reduce(powers, axis=1).sum())
        in_ranges = np.count_nonzero(of_level[1:] != of_level[:-1]) == len(in_class) - 1
        if self.series and self.series[place].kind != "number":  # the order of levels means nothing, but one alone may
            in_ranges = len(in_class) == 2 and 1 in np.bincount(of_level)
        if in_ranges:
            # that the classes are ranges of the values, in any order
            orders = math.lgamma(len(in_class) + 1) + sum(math.lgamma(count + 1) for count in in_class)
            log_chance = min(log_chance, orders - math.lgamma(len(labels) + 1))
        return log_chance + math.log(self.width) < math.log(CHANCE)

    def are_alike(self, one: int, other: int, how: str) -> bool:
        """Whether two columns say the same in all train rows: equal, or what the one calls p the other calls q."""
        values, others = self.column(one), self.column(other)
        if how == "the same as":
            is_same = self.series[one].levels == self.series[other].levels and (values == others).all()
        else:
            is_same = (_codes(values) == _codes(others)).all()
        return bool(is_same)

    def advice(self, names: Sequence[str]) -> str:
        """What a user does to leave these out."""
        if not names:
            return ""
        if isinstance(self.features, Columns):
            return self.features.setting("dataset.drop", names)
        return "leave it out of the file" if len(names) == 1 else "leave them out of the file"


def _sample(labels: Values, num_classes: int) -> Values:
    """Positions of rows of every class, spread evenly, in ascending order."""
    if len(labels) <= SAMPLE_ROWS:
        return np.arange(len(labels))
    share = max(2, SAMPLE_ROWS // num_classes)
    by_class = [np.flatnonzero(labels == label) for label in range(num_classes)]
    parts = [mine[np.linspace(0, len(mine) - 1, min(share, len(mine))).astype(int)] for mine in by_class if len(mine)]
    return np.sort(np.concatenate(parts))


def _may_tell(values: Values, labels: Values) -> Values:
    """Which columns (n, k) tell the classes of these rows, by ranges or by few levels; shape (k,), boolean."""
    order = values.argsort(axis=0, kind="stable")
    values, of_row = np.take_along_axis(values, order, 0), labels[order]
    changes, equal = of_row[1:] != of_row[:-1], values[1:] == values[:-1]
    in_ranges = changes.sum(0) == len(np.unique(labels)) - 1
    has_few = (~equal).sum(0) < MOST_LEVELS
    is_pure: Values = ~(changes & equal).any(0) & (in_ranges | has_few)
    return is_pure


def _codes(column: Values) -> Values:
    """Numbers of the values in the order in which they first come: the same for columns that only rename them."""
    _, first, level = np.unique(column, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int32)
    number[first.argsort()] = np.arange(len(first))
    return number[level]


def _digest(values: Values) -> bytes:
    """What is the same for equal columns, and for others but by a chance of 1e-38."""
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
