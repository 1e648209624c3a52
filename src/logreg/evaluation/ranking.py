"""Metrics of a ranking of rows: AUROC and average precision of two classes, exact with ties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.losses import one_logit

TIE_RTOL = 1e-12
"""Scores that differ by less than this fraction of the largest one are ties.

A matrix product may give equal rows logits that differ in their last bits (1e-16 of the largest term), depending on
the position of the row in its block and on the processor's kernel.  Equal inputs must be tied all the same.  Scores of
different rows are this close only by chance, and a tie then changes the AUROC by less than its rounding error.
"""


STEPS_AT_ONCE = 2**17
"""Number of rows, or of steps of a ROC curve, that sums are taken over at once: as float64 they take 1 MiB."""


class Ranking(NamedTuple):
    """Rows sorted by their scores, highest first; tied rows in any order."""

    order: Tensor
    """Positions of the rows, shape (N,), int64."""
    is_last: Tensor
    """Whether a row of ``order`` is the last of its group of ties, shape (N,), boolean."""

    @classmethod
    def of(cls, scores: Tensor) -> Ranking:
        """Sorts by scores (N,), floating, on the CPU; nan counts as 0."""
        falling = np.nan_to_num(-scores.double().numpy(), copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
        order = np.argsort(falling)  # faster than the sort of torch
        ends = falling[order[[0, -1]]] if len(order) else falling
        if not np.isfinite(ends).all():
            ends = falling[np.isfinite(falling)]
        gap = TIE_RTOL * np.abs(ends).max(initial=0.0)
        is_last = torch.ones(len(order), dtype=torch.bool)
        for first in range(0, len(order), STEPS_AT_ONCE):
            values = torch.from_numpy(falling[order[first : first + STEPS_AT_ONCE + 1]])
            # nan, of equal infinities, is not greater
            is_last[first : first + len(values) - 1] = values[1:] - values[:-1] > gap
        return cls(torch.from_numpy(order), is_last)

    @property
    def last(self) -> Tensor:
        """Position in ``order`` of the last row of each group of ties, shape (G,)."""
        return self.is_last.nonzero()[:, 0]

    @property
    def sizes(self) -> Tensor:
        """Number of rows of each group of ties, shape (G,)."""
        return self.last.diff(prepend=self.order.new_full((1,), -1))

    @property
    def group(self) -> Tensor:
        """The group of ties of each row, in the order of the scores that were sorted, shape (N,), int64."""
        sizes = self.sizes
        return torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(sizes)).repeat_interleave(sizes))

    def steps(self, labels: Tensor, weights: Tensor | None = None) -> Steps:
        """The steps of the ROC curve.

        Args:
            labels: Shape (N,), 0 or 1, in the order of the scores that were sorted; both classes must occur.
            weights: Weight of each row, shape (N,), >= 0; ``None`` for all 1.
        """
        positive = (labels == 1)[self.order]
        if weights is None:  # of numbers of rows, half the bytes
            hits, of_both = positive.int(), torch.ones(len(positive), dtype=torch.int32)
        else:
            of_both = weights.double()[self.order]
            hits = positive * of_both
        if not bool(self.is_last.all()):
            first = torch.cat([self.is_last[-1:], self.is_last[:-1]]).nonzero()[:, 0].numpy()
            hits, of_both = (_sums_from(first, each) for each in (hits, of_both))
        return Steps(hits, of_both.sub_(hits))


class Steps(NamedTuple):
    """The steps of the ROC curve, one for each group of ties, from the highest score to the lowest.

    The derivatives of a score by the weights of the rows are its influence function, up to the factor of the number of
    rows; the variance of the score is the sum of their squares (infinitesimal jackknife).

    References:
        Fawcett (2006), An introduction to ROC analysis, Pattern Recognition Letters 27: tied rows are one step of
        the curve, whose area is that of a trapezoid.
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 21.
    """

    hits: Tensor
    """Weight of the rows of class 1 in each group of ties, shape (G,), float64; int32 where all rows weigh 1."""
    alarms: Tensor
    """Weight of the rows of class 0 in each group of ties, shape (G,), of the same type."""

    @property
    def auroc(self) -> float:
        """Probability that a row of class 1 ranks above one of class 0, where a tie counts half."""
        hits, alarms = self._totals
        return min(1.0, math.fsum(float(part.hits @ part.below(alarms)) for part in self._parts()) / hits)

    def auroc_derivatives(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Derivatives of the AUROC by the weight of a row of class 1 and of class 0 in each group.

        Yields:
            Those of some groups at a time, shape (n,) each, in the order of the groups.

        References:
            DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated receiver
            operating characteristic curves: their structural components, less the AUROC and divided by the rows.
            Sun and Xu (2014), Fast implementation of DeLong's algorithm: the components of all rows from one sort.
        """
        (hits, alarms), value = self._totals, self.auroc
        for part in self._parts():
            above = (part.hits_so_far - part.hits / 2) / hits
            yield (part.below(alarms) - value) / hits, (above - value) / alarms

    @property
    def average_precision(self) -> float:
        """Mean, over the rows of class 1, of the precision where all rows of at least their score are taken."""
        return min(1.0, math.fsum(float(part.hits @ part.precision) for part in self._parts()) / self._totals[0])

    def average_precision_derivatives(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Derivatives of the average precision, as `auroc_derivatives`.

        A row adds its own precision, where it is of class 1, and changes that of all rows below it.
        """
        (total, _), value = self._totals, self.average_precision
        sums = [[float(each.sum()) for each in part.shares] for part in self._parts()]
        left = [math.fsum(column) for column in zip(*sums, strict=True)]
        for part, own in zip(self._parts(), sums, strict=True):
            # of these groups and those below
            by_hit, by_alarm = (rest - each.cumsum(0) + each for rest, each in zip(left, part.shares, strict=True))
            left = [rest - each for rest, each in zip(left, own, strict=True)]
            yield (part.precision - value + by_hit) / total, -by_alarm / total

    @property
    def _totals(self) -> tuple[float, float]:
        """Weight of all rows of class 1 and of class 0."""
        return float(self.hits.sum()), float(self.alarms.sum())

    def _parts(self) -> Iterator[_StepsPart]:
        """All steps, some at a time."""
        so_far = [torch.zeros(1, dtype=torch.float64)] * 2
        for parts in zip(*(column.split(STEPS_AT_ONCE) for column in self), strict=True):
            own = [part.double() for part in parts]
            sums = [torch.cat([before[-1:], part]).cumsum(0)[1:] for before, part in zip(so_far, own, strict=True)]
            yield _StepsPart(*own, *sums)
            so_far = sums


class _StepsPart(NamedTuple):
    """Some steps of the ROC curve; all shapes (n,), float64."""

    hits: Tensor
    """See `Steps`."""
    alarms: Tensor
    """See `Steps`."""
    hits_so_far: Tensor
    """Sum of the hits of each step and all above it."""
    alarms_so_far: Tensor
    """Sum of the alarms of each step and all above it."""

    def below(self, total: float) -> Tensor:
        """Fraction of class 0, whose weight is ``total``, that ranks below each group, where a tie counts half."""
        return (total - self.alarms_so_far + self.alarms / 2) / total

    @property
    def precision(self) -> Tensor:
        """Precision where each group and all above it are taken."""
        return torch.where(self.hits_so_far > 0, self.hits_so_far / (self.hits_so_far + self.alarms_so_far), 0.0)

    @property
    def shares(self) -> tuple[Tensor, Tensor]:
        """Hits, as a fraction of all rows that are taken with them, times 1 - precision, and times precision."""
        taken, precision = self.hits_so_far + self.alarms_so_far, self.precision
        share = torch.where(taken > 0, self.hits / taken, 0.0)
        return share * (1 - precision), share * precision


def _sums_from(first: np.ndarray[Any, Any], values: Tensor) -> Tensor:
    """The sums of adjacent values, each from one of the places ``first`` to the next, in the type of the values."""
    return torch.from_numpy(np.add.reduceat(values.numpy(), first, dtype=values.numpy().dtype))


def log_odds(logits: Tensor) -> Tensor:
    """Logits of two classes, (N, 1) or (N, 2) -> log-odds of the second class, (N,)."""
    return one_logit(logits.T)[0]


def area_under_roc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Probability that a row of class 1 ranks above one of class 0, where a tie counts half; both classes must occur.

    Args:
        scores: Shape (N,).
        labels: Shape (N,), 0 or 1.
        weights: Weight of each row, shape (N,); ``None`` for all 1.
    """
    return Ranking.of(scores).steps(labels, weights).auroc
