"""Scores with their intervals: of a metric, of a class, of a decision threshold; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_LISTED_CLASSES = 100
"""Largest number of classes that a report lists one by one; of more it lists `notable_classes`, and files have all."""

NUM_NOTABLE = 10
"""Number of the largest classes, and of those with the lowest F1, that a report lists of very many."""


class Measured(NamedTuple):
    """A score and the 95 % confidence interval of its true value."""

    value: float
    low: float
    high: float


class CrossValidated(NamedTuple):
    """A score over the folds of a cross-validation."""

    mean: float
    """Mean over the folds, weighted by their rows."""
    error: float
    """Standard error of the mean."""
    low: float
    """Lower end of its 95 % confidence interval."""
    high: float
    """Upper end of its 95 % confidence interval."""
    folds: tuple[float, ...]
    """Score of each fold, one repetition after the other."""


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class against all others.

    Attributes:
        name: Name of the class; "class" in JSON.
        weight: Sum of the weights of the rows of the class; the number of these rows where all weigh 1.
        precision: Fraction of the rows predicted as this class that are of this class.
        recall: Fraction of the rows of this class that are predicted as this class.
        f1: Harmonic mean of precision and recall.
    """

    name: str = field(metadata={"key": "class"})
    weight: float
    precision: Measured
    recall: Measured
    f1: Measured


def notable_classes(classes: Sequence[ClassScores]) -> tuple[ClassScores, ...]:
    """All classes where they are few; else those with the most rows, and then those with rows and the lowest F1."""
    if len(classes) <= MAX_LISTED_CLASSES:
        return tuple(classes)
    largest = sorted(classes, key=lambda one: -one.weight)[:NUM_NOTABLE]
    others = [one for one in classes if one.weight and one not in largest]
    return (*largest, *sorted(others, key=lambda one: (one.f1.value, -one.weight))[:NUM_NOTABLE])


@dataclass(frozen=True)
class Threshold:
    """A decision threshold of two classes and its cost.

    Attributes:
        cost_ratio: Cost of a false negative; that of a false positive is 1.
        value: Probability of the positive class from which a row is predicted positive.
        chosen_on: The split on which the threshold was chosen.
        cost: Mean cost per scored row, where a false positive costs 1.
        cost_at_half: Mean cost per scored row at a threshold of 0.5.
    """

    cost_ratio: float
    value: float
    chosen_on: str
    cost: float
    cost_at_half: float


@dataclass(frozen=True)
class RowWeights:
    """The meaning of the rows' weights.

    Attributes:
        counts: Whether weights are numbers of rows; else they are sampling weights.
        rows: The sum of counts, or Kish's effective sample size of sampling weights.
    """

    counts: bool
    rows: float
