"""The logistic loss of one or more separate outputs over few rows, in NumPy, with its certificate.

NumPy, since its operations on few numbers take less time than those of torch.  The certificate is that of
`logreg.solvers.bounds.newton_bound`, number for number; sums over the rows may be taken in any order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.losses import one_vs_rest
from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT
from logreg.solvers.bounds.newton_bound import MAX_REACH, kappa_of
from logreg.solvers.kernels import Array
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, accumulated
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
        problem = self.problem
        total = problem.row_sum_scale * problem.total_weight
        # The dual point: the residuals, moved by the step.
        change = step @ self.columns
        reach = float(np.abs(change).max()) * problem.loss.self_concordance
        if not reach <= MAX_REACH:
            return None
        moves = now.spread * change
        summed = 1 + 4 * (moves.size + 20) * UNIT_ROUNDOFF
        excess = max(kappa_of(reach) * float(np.vdot(moves, change)) * summed, 0.0)
        sums = now.gradient - self._l2 * point - moves @ self.columns.T
        rounding = 0.0 if now.loss <= SATURATED_LOSS * total else 8 * UNIT_ROUNDOFF * total * problem.num_outputs
        return self.bound_at(point, now, sums, excess, rounding, reach)

    def bound_at(
        self,
        point: Array,
        now: LogisticEvaluation,
        sums: Array,
        excess: float,
        rounding: float,
        reach: float = MAX_FEASIBLE_SHIFT,
    ) -> Bound | None:
        """Bounds f - f* at a point by the gap to a dual point theta: `bound_at_dual_point` with all rows.

        Args:
            point: Shape (K, P).
            now: f there.
            sums: The sums of theta x over the rows, (K, P).
            excess: As of `DualPoint`.
            rounding: As of `DualPoint`.
            reach: As of `DualPoint`.

        References:
            Higham (2002), Accuracy and stability of numerical algorithms, section 4.2: sums in any order.
        """
        problem, loss = self.problem, self.problem.loss
        features, outputs = problem.num_features, problem.num_outputs
        total = problem.row_sum_scale * problem.total_weight
        summed = accumulated(problem.rows)
        # Sizes of the features, of the residuals and of the move.
        largest = np.abs(self.columns).max(1)
        roots = np.sqrt(total * SQUARES_MARGIN) * (largest > 0)
        steepest = 2 * loss.max_curvature
        distance = math.sqrt(steepest * excess)
        noise = summed * (math.sqrt(steepest * now.loss) + distance) * roots[:features]
        # Sums of the dual point become exactly 0 by a further move, at its cost.
        balance = 0.0
        intercept = np.zeros(outputs)
        if problem.intercept:
            intercept, own = np.abs(point[:, -1]), now.spread.sum(1)
            sizes = loss.residual_bound(now.loss, total) + 2 * MAX_FEASIBLE_SHIFT * own + math.sqrt(total) * distance
            off = np.abs(sums[:, -1]) * (1 + UNIT_ROUNDOFF) + summed * sizes
            feasible = (off * loss.self_concordance <= MAX_FEASIBLE_SHIFT * own) & (own > 0)
            costs, moved = off * (off / np.where(feasible, own, 1.0)), roots[:features]
            moved = np.sqrt(costs)[:, None] * moved
            if not feasible.all():  # the move is made at rows with curvature, up to the largest slope of the conjugate
                costs = np.where(feasible, costs, loss.conjugate_slope(float((np.abs(point) @ largest).max())) * off)
                moved = np.where(feasible[:, None], moved, off[:, None] * largest[:features])
            balance = float(costs.sum())
            noise = noise + moved
        coef, slopes = point[:, :features], sums[:, :features]
        of_penalty, hidden = self.penalty_terms(coef, slopes, noise, now.value)
        gap = excess + max(of_penalty, 0.0)
        # Rounding errors: of the sums, of the excess, and of the logits.
        sizes_of_coef = np.abs(coef)
        logits_error = sizes_of_coef @ roots[:features] + intercept * math.sqrt(total)
        logits_error *= (features + 10) * UNIT_ROUNDOFF
        of_logits = math.sqrt(float(np.vdot(logits_error, logits_error)))
        rounding += summed * (excess + 2 * rounding) + hidden + of_logits**2 / 2 + distance * of_logits
        balance /= 2 * (1 - MAX_FEASIBLE_SHIFT - max(reach, MAX_FEASIBLE_SHIFT))
        rounding += balance + 2 * math.sqrt(excess * balance)
        if not math.isfinite(gap + rounding):
            return None
        # The way to the model's coordinates, and to source units.
        center, scale = self._coordinates.center.numpy(), self._coordinates.scale.numpy()
        model = problem.model
        own_center, own_scale = model.center.numpy(), model.scale.numpy()
        offsets = (sizes_of_coef / scale) @ (2 * np.abs(center) + np.abs(own_center))
        of_intercept = UNIT_ROUNDOFF * ((features + 5) * offsets + 4 * intercept)
        by_intercept = now.gradient[:, features:] if problem.intercept else np.zeros((outputs, 1))
        rounding += float(np.vdot(np.abs(by_intercept), of_intercept))
        rounding += 4 * UNIT_ROUNDOFF * float(np.abs(now.gradient * point).sum())
        further = 4 * logits_error + of_intercept * math.sqrt(total)
        rounding += float(np.vdot(further, further)) / 2
        slope = (now.gradient[:, :features] * scale + by_intercept * (center - own_center)) / own_scale
        if strength := problem.objective.l1:  # the subgradient of smallest norm
            at_zero = np.sign(slope) * np.maximum(np.abs(slope) - strength, 0.0)
            slope = np.where(coef == 0, at_zero, slope + strength * np.sign(coef))
        slope = torch.from_numpy(np.concatenate([slope, by_intercept], axis=1))
        if now.loss <= SATURATED_LOSS * total:
            reached = sizes_of_coef @ largest[:features] + intercept
            factor = 2 * (features + 10) * UNIT_ROUNDOFF * loss.relative_lipschitz * float(reached.max())
            error = now.loss * math.expm1(min(factor, 700.0))
        else:
            error = float(logits_error.sum()) * 2 * loss.lipschitz * math.sqrt(total)
        error += 2 * (summed + (point.size + 4) * UNIT_ROUNDOFF) * abs(now.value)
        return Bound(now.value, gap, True, slope, now.loss, rounding, error=error)

    def penalty_terms(self, coef: Array, slopes: Array, noise: Array, value: float) -> tuple[float, float]:
        """The sum of the terms w V + g(w) + g*(-V) of the coefficients, (K, D), and what rounding adds.

        Args:
            coef: w, (K, D).
            slopes: V, (K, D).
            noise: Upper bound of the rounding errors of the sums V, (K, D) or (D,).
            value: f at w.
        """
        l2 = self._l2[: coef.shape[1]]
        shrunk = l2 * coef
        noise = noise + 8 * UNIT_ROUNDOFF * (np.abs(slopes) + np.abs(shrunk))
        off = np.abs(slopes + shrunk)
        terms = float((off * (off / l2)).sum()) / 2
        return terms, float((noise * ((off + noise / 2) / l2)).sum()) + (coef.size + 9) * UNIT_ROUNDOFF * terms
