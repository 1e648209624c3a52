"""Means of features, deviations of sparse ones, and the mean offset, over all rows."""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.csr import squared
from logreg.solvers.kernels import sum_over_rows
from logreg.solvers.passes.base import Pass, PassRequests, PreparedRows, request
from logreg.solvers.problem import Coordinates, Problem, is_standardized

NEGLIGIBLE_VARIANCE = 1e-5
"""Variance of a feature, relative to its mean square, that is a rounding error of the sums."""


class ColumnMoments(Pass[Coordinates]):
    """The weighted mean and standard deviation of each feature; 1 in place of a deviation of 0.

    Without an intercept the mean is taken to be 0, since a shift of the features would need one.
    """

    sums = ("_sums", "_squares", "_total")
    takes_sparse = True

    def __init__(self, problem: Problem) -> None:
        zero = torch.zeros_like(problem.model.center)
        super().__init__(problem, Coordinates(zero, torch.ones_like(zero)))
        self._sums, self._squares, self._total = torch.zeros_like(zero), torch.zeros_like(zero), self.zeros()

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the features and their squares."""
        features, weights = rows.features, rows.weights
        weights = (
            torch.ones(len(rows.labels), 1, dtype=self.dtype, device=features.device) if weights is None else weights
        )
        self._squares += sum_over_rows(weights, squared(features))[0]
        if self.problem.intercept:
            self._sums += sum_over_rows(weights, features)[0]
        self._total += weights.sum(dtype=torch.float64)

    def result(self) -> Coordinates:
        """Mean and deviation, (D,) each."""
        mean, square = self._sums / self._total, self._squares / self._total
        variance = square - mean.square()
        return Coordinates(mean, torch.where(variance > NEGLIGIBLE_VARIANCE * square, variance, 1.0).sqrt())


class Means(Pass[Tensor]):
    """The weighted mean of each feature in some coordinates, (D,)."""

    sums = ("_sums", "_total")

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        super().__init__(problem, coordinates)
        self._sums, self._total = self.zeros(1, problem.num_features), self.zeros(1)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the features."""
        weights = rows.features.new_ones(len(rows.labels), 1) if rows.weights is None else rows.weights
        self._sums += sum_over_rows(weights, rows.features)
        self._total += weights.sum(dtype=torch.float64)

    def result(self) -> Tensor:
        """The means."""
        return self.moments(self._sums, self._total)[0, :-1] / self._total


class MeanOffset(Pass[Tensor]):
    """The weighted mean of the offsets, (1, 1)."""

    sums = ("_sum", "_total")
    takes_sparse = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, problem.model, torch.float64)
        self._sum, self._total = self.zeros(1, 1), self.zeros()

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the offsets of these rows."""
        assert rows.offset is not None
        weights = torch.ones_like(rows.offset) if rows.weights is None else rows.weights
        self._sum += weights.T @ rows.offset
        self._total += weights.sum()

    def result(self) -> Tensor:
        """The mean."""
        return self._sum / self._total


def sparse_coordinates(problem: Problem) -> PassRequests[Coordinates]:
    """Coordinates in which all rows have mean 0 and deviation 1; the model's own where it standardizes.

    The mean is subtracted from sums over the rows, so that the rows stay sparse.
    """
    if is_standardized(problem):
        return problem.model
    return (yield from request(ColumnMoments(problem)))
