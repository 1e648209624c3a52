"""Metrics of a ranking of rows: AUROC and average precision of two classes, exact with ties."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TIE_RTOL = 1e-12
"""Scores that differ by less than this fraction of the largest one are ties.

A matrix product may give equal rows logits that differ in their last bits (1e-16 of the largest term), depending on
the position of the row in its block and on the processor's kernel.  Equal inputs must be tied all the same.  Scores of
different rows are this close only by chance, and a tie then changes the AUROC by less than its rounding error.
"""


class Ranking(NamedTuple):
    """Rows sorted by their scores, highest first; tied rows in any order."""

    order: Tensor
    """Positions of the rows, shape (N,)."""
    last: Tensor
    """Position in ``order`` of the last row of each group of ties, shape (G,)."""

    @classmethod
    def of(cls, scores: Tensor) -> Ranking:
        """Sorts by scores (N,), floating, on the CPU; nan counts as 0."""
        scores = scores.double().nan_to_num(0.0, torch.inf, -torch.inf)
        order = torch.from_numpy(np.argsort(-scores.numpy()))  # several times as fast as the sort of torch
        values = scores[order]
        largest = values[values.isfinite()].abs().max() if bool(values.isfinite().any()) else values.new_zeros(())
        ends = torch.ones(len(values), dtype=torch.bool)
        ends[:-1] = values[:-1] - values[1:] > TIE_RTOL * largest  # nan, of equal infinities, is not greater
        return cls(order, ends.nonzero()[:, 0])

    @property
    def group(self) -> Tensor:
        """The group of ties of each row, in the order of the scores that were sorted, shape (N,), int64."""
        sizes = self.last.diff(prepend=self.last.new_full((1,), -1))
        return torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(sizes)).repeat_interleave(sizes))

    def steps(self, labels: Tensor, weights: Tensor | None = None) -> Steps:
        """The steps of the ROC curve.

        Args:
            labels: Shape (N,), 0 or 1, in the order of the scores that were sorted; both classes must occur.
            weights: Weight of each row, shape (N,), >= 0; ``None`` for all 1.
        """
        positive = (labels == 1)[self.order].double()
        weight = torch.ones_like(positive) if weights is None else weights.double()[self.order]
        if len(self.last) == len(self.order):
            return Steps(positive * weight, (1 - positive) * weight)
        first = np.append(0, self.last.numpy()[:-1] + 1)
        hits, of_both = (torch.from_numpy(np.add.reduceat(one.numpy(), first)) for one in (positive * weight, weight))
        return Steps(hits, of_both - hits)


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
    """Weight of the rows of class 1 in each group of ties, shape (G,), float64."""
    alarms: Tensor
    """Weight of the rows of class 0 in each group of ties, shape (G,), float64."""

    @property
    def auroc(self) -> float:
        """Probability that a row of class 1 ranks above one of class 0, where a tie counts half."""
        return min(1.0, float(self.hits @ self._below() / self.hits.sum()))

    def auroc_derivatives(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the AUROC by the weight of a row of class 1 and of class 0 in each group, shape (G,) each.

        References:
            DeLong, DeLong and Clarke-Pearson (1988), Comparing the areas under two or more correlated receiver
            operating characteristic curves: their structural components, less the AUROC and divided by the rows.
            Sun and Xu (2014), Fast implementation of DeLong's algorithm: the components of all rows from one sort.
        """
        hits, alarms = self.hits.sum(), self.alarms.sum()
        above = (self.hits.cumsum(0) - self.hits / 2) / hits
        return (self._below() - self.auroc) / hits, (above - self.auroc) / alarms

    @property
    def average_precision(self) -> float:
        """Mean, over the rows of class 1, of the precision where all rows of at least their score are taken."""
        return min(1.0, float(self.hits @ self._precision() / self.hits.sum()))

    def average_precision_derivatives(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the average precision, as `auroc_derivatives`.

        A row adds its own precision, where it is of class 1, and changes that of all rows below it.
        """
        total, precision = self.hits.sum(), self._precision()
        taken = (self.hits + self.alarms).cumsum(0)
        share = torch.where(taken > 0, self.hits / taken, 0.0)
        by_hit, by_alarm = ((share * part).flip(0).cumsum(0).flip(0) for part in (1 - precision, precision))
        return (precision - self.average_precision + by_hit) / total, -by_alarm / total

    def _below(self) -> Tensor:
        """Fraction of class 0 that ranks below each group, where a tie counts half, shape (G,)."""
        total = self.alarms.sum()
        return (total - self.alarms.cumsum(0) + self.alarms / 2) / total

    def _precision(self) -> Tensor:
        """Precision where each group and all above it are taken, shape (G,)."""
        hits = self.hits.cumsum(0)
        return torch.where(hits > 0, hits / (hits + self.alarms.cumsum(0)), 0.0)


def log_odds(logits: Tensor) -> Tensor:
    """Logits of two classes, (N, 1) or (N, 2) -> log-odds of the second class, (N,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def area_under_roc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Probability that a row of class 1 ranks above one of class 0, where a tie counts half; both classes must occur.

    Args:
        scores: Shape (N,).
        labels: Shape (N,), 0 or 1.
        weights: Weight of each row, shape (N,); ``None`` for all 1.
    """
    return Ranking.of(scores).steps(labels, weights).auroc
