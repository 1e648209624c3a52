"""The logistic loss of one or more separate outputs over few rows, in NumPy, with its certificate.

NumPy, since its operations on few numbers take less time than those of torch.  The certificate is that of
`logreg.solvers.bounds.logistic_bound`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.losses import one_vs_rest
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.logistic_bound import LogisticPoint, bound_by_step
from logreg.solvers.kernels import Array
from logreg.solvers.passes.precise import accumulated
from logreg.solvers.problem import Coordinates, Problem

SQUARES_MARGIN = 1 + 1e-9
"""Factor that covers the rounding of the weighted mean square of a standardized feature, which is at most 1."""


def logistic_terms(negated: Array) -> tuple[Array, Array, Array]:
    """`LogisticLoss.evaluate_precisely` of each logit alone.

    Args:
        negated: Minus the margins, of any shape, float64.

    Returns:
        Value, probability of the wrong class and curvature, of the same shape.  The residual is that probability where
        the target is 0, and minus it where the target is 1.
    """
    small = np.exp(-np.abs(negated))
    larger = 1 + small
    wrong = np.exp(np.minimum(negated, 0.0)) / larger  # takes less time than a choice, which is hard to predict
    return np.maximum(negated, 0.0) + np.log1p(small), wrong, small / (larger * larger)


class LogisticEvaluation(NamedTuple):
    """A point of a small problem with its derivatives; P = D + 1, or D without an intercept."""

    value: float
    """f."""
    loss: float
    """f without the penalty."""
    gradient: Array
    """Gradient of f without l1, (K, P)."""
    spread: Array
    """Second derivative of each row's term of f by its logit, (K, n)."""
    negated: Array
    """Minus the margins, (K, n)."""
    wrong: Array
    """Probability of the wrong class, (K, n)."""


class NewtonStep(NamedTuple):
    """A step from a point of a small problem."""

    step: Array
    """To be subtracted from the point, (K, P)."""
    decrease: float
    """Decrease of f that the quadratic model predicts."""
    gap: float
    """About the bound of f - f* by the step: more than the decrease where the step is not precise."""
    products: int = 0
    """Products of the Hessian with a vector that it took; each reads all rows."""


class SmallLogistic:
    """The rows of a small problem with separate logistic losses, standardized.

    Attributes:
        problem: The problem.
        columns: The rows, transposed, (P, n).
        weights: Weight of each row in f, (n,).
        signed_weights: The same, and negative where the target is 1, (K, n).
        l1: Strength of l1 by each coordinate, (P,).
    """

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""
        self.problem, self._coordinates = problem, at
        self.columns, self.weights = np.ascontiguousarray(rows.numpy().T), weights.numpy()[:, 0]
        self._minus_sign = 1 - 2 * one_vs_rest(labels, problem.num_outputs, torch.float64).numpy().T
        self.signed_weights = self._minus_sign * self.weights
        self._l2, self.l1 = (strength.numpy()[: len(self.columns)] for strength in problem.penalties(at))

    def evaluate(self, point: Array) -> LogisticEvaluation:
        """The objective and its derivatives at a point (K, P)."""
        negated = point @ self.columns
        negated *= self._minus_sign
        values, wrong, curvature = logistic_terms(negated)
        curvature *= self.weights
        loss, shrunk = float((values @ self.weights).sum()), self._l2 * point
        gradient = (wrong * self.signed_weights) @ self.columns.T + shrunk
        value = loss + float(np.vdot(shrunk, point)) / 2
        if self.problem.objective.l1:
            value += float((np.abs(point) @ self.l1).sum())
        return LogisticEvaluation(value, loss, gradient, curvature, negated, wrong)

    def hessian(self, now: LogisticEvaluation) -> Array:
        """The Hessian by the coefficients of each output, (K, P, P)."""
        order = len(self.columns)
        hessian = np.empty((len(now.gradient), order, order))
        for of_output, roots in zip(hessian, np.sqrt(now.spread), strict=True):
            scaled = self.columns * roots
            np.matmul(scaled, scaled.T, out=of_output)  # NumPy sees that the product is symmetric
            of_output.reshape(-1)[:: order + 1] += self._l2
        return hessian

    def newton_step(self, now: LogisticEvaluation, enough: float, max_products: int) -> NewtonStep | None:
        """Newton's step, precise whatever is ``enough``; ``None`` where the Hessian is not positive definite."""
        factors, failed = torch.linalg.cholesky_ex(torch.from_numpy(self.hessian(now)))
        if failed.numpy().any():
            return None
        step: Array = torch.cholesky_solve(torch.from_numpy(now.gradient[:, :, None]), factors).numpy()[:, :, 0]
        decrease = max(float(np.vdot(step, now.gradient)) / 2, 0.0)  # rounding may leave less than 0
        return NewtonStep(step, decrease, decrease)

    def bound(self, point: Array, now: LogisticEvaluation, step: Array) -> Bound | None:
        """Bounds f - f* by the Newton step at a point, (K, P) each: `bound_by_newton_step` with all rows."""
        return bound_by_step(self.at(point, now), self.columns, now.spread, step)

    def at(self, point: Array, now: LogisticEvaluation) -> LogisticPoint:
        """A point (K, P) with what its bounds need."""
        problem, features = self.problem, self.problem.num_features
        largest = np.abs(self.columns).max(1)
        root = math.sqrt(problem.row_sum_scale * problem.total_weight * SQUARES_MARGIN)
        return LogisticPoint(
            problem,
            self._coordinates,
            point,
            now.value,
            now.loss,
            now.gradient,
            now.spread.sum(1),
            self._l2,
            root * (largest[:features] > 0),
            largest,
            accumulated(problem.rows),
        )
