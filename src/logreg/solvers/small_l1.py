"""Proximal Newton's method for small problems with l1: no passes and no working set, float64 alone.

As in `logreg.solvers.small`, each iteration is a handful of tensor operations.  The Hessian is that of all
coefficients, so the dual point that a step predicts is feasible and shows the duality gap at the end of the step.

References:
    Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses import one_vs_rest
from logreg.losses.base import RowTerms
from logreg.rows import MemoryRows
from logreg.solvers.bounds import Bound, DualPoint, bound, bound_at_dual_point, evaluated_point, feasible_scale
from logreg.solvers.curvature_bound import SATURATED_LOSS
from logreg.solvers.kernels import coupled_gram, gram_of_columns
from logreg.solvers.l1_model import minimize_penalized_model
from logreg.solvers.passes.base import PassRequests, drive
from logreg.solvers.passes.columns import fenchel_young
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.problem import Problem
from logreg.solvers.small import MAX_HALVINGS, MAX_STALLED_STEPS, standardized_rows
from logreg.solvers.state import VALUE_ROUNDING, SolverState, within

MIN_TOLERANCE = 1e-10
"""Tolerance below which the general solver does all: the excess of a predicted dual point is known up to the rounding
error of f."""

ARMIJO_FRACTION = 1e-4
"""Part of the predicted decrease by which a step must lower f."""

MIN_DECREASE = 1e-15
"""Predicted decrease, relative to f, at which no step is tried: the rest of the way is rounding."""


def solve_small_l1(state: SolverState, rows: MemoryRows, max_passes: int) -> int:
    """Minimizes f with l1 from the point of ``state``, and certifies the point.

    Each iteration:

    1. Compute gradient and Hessian of the smooth part of f, and the minimum of its quadratic model with the penalty.
    2. Step there; halve the step until f falls enough.
    3. Compute the excess of the dual point that the model predicts.  Where it is within the tolerance, certify the
       point; stop if it is certified.

    It stops as well where the loss is so small that residuals have lost their digits, where no step decreases f, after
    `MAX_STALLED_STEPS` that do not halve the predicted decrease, and after ``max_passes``; the general solver then goes
    on.

    Args:
        state: State of a problem with l1 that `logreg.solvers.small.is_small`; its coordinates, point, value and bound
            are updated.
        rows: All rows of the problem.
        max_passes: Evaluations of f at most.

    Returns:
        Evaluations of f: each reads all rows once, as a pass does.
    """
    if state.tolerance < MIN_TOLERANCE:
        return 0
    small = _SmallL1Problem(state.problem, rows)
    state.point = state.problem.model.to(small.coordinates, state.point)
    state.coordinates, limit = small.coordinates, state.tolerance
    logits, now = small.evaluate(state.point)
    state.value, passes, smallest, stalled = small.value(now, state.point), 1, math.inf, 0
    while passes < max_passes:
        target, decrease = small.model_minimum(now, state.point)
        stalled = 0 if decrease <= smallest / 2 else stalled + 1
        smallest = min(smallest, decrease)
        if not decrease > MIN_DECREASE * state.value or stalled == MAX_STALLED_STEPS:
            break
        length, trial, highest = 1.0, target, state.value * (1 + VALUE_ROUNDING[torch.float64])
        for _ in range(MAX_HALVINGS):
            new_logits, new = small.evaluate(trial)
            value, passes = small.value(new, trial), passes + 1
            is_lower = value <= highest - ARMIJO_FRACTION * length * decrease
            if is_lower or passes >= max_passes:
                break
            length /= 2
            trial = state.point + length * (target - state.point)
        if not is_lower:
            break
        if small.is_saturated(new):
            state.point = trial
            break
        if length == 1 and (decrease / value) ** 2 <= limit:
            theta = now.residual + state.problem.loss.curvature_product(now.curvature, new_logits - logits)
            found = small.bound(trial, value, new_logits, new, theta, limit)
            if found is not None and found.rounding > state.tolerance * abs(found.value):
                # With the true sizes of the features rounding may be less.
                found = drive(bound(state.problem, trial, None, state.tolerance, small.coordinates), rows)
            if found is not None:
                if within(found, state.tolerance):
                    state.point, state.value = trial, value
                    state.bound, state.best, state.gap = found, trial, found.gap
                    break
                limit = found.gap / 10 / abs(found.value)
        state.point, state.value, logits, now = trial, value, new_logits, new
    return passes


class _SmallL1Problem:
    """The rows of a small problem with l1, standardized, with a column of ones for the intercept."""

    def __init__(self, problem: Problem, rows: MemoryRows) -> None:
        self.problem, self._source = problem, rows
        self._rows, self._weights, self.coordinates = standardized_rows(problem, rows)
        self._labels, self._targets = rows.labels, one_vs_rest(rows.labels, problem.num_outputs, torch.float64)
        self._rows_by_column = self._rows.T.contiguous()
        self._l2, self._l1 = problem.penalties(self.coordinates)
        self._columns = [torch.arange(self._rows.shape[1])] * problem.num_outputs

    def evaluate(self, point: Tensor) -> tuple[Tensor, RowTerms]:
        """The logits at a point (K, D + 1), and the loss of each row there."""
        logits = self._rows @ point[:, : self._rows.shape[1]].T
        return logits, self.problem.loss.evaluate(logits, self._labels)

    def value(self, now: RowTerms, point: Tensor) -> float:
        """The objective; infinite where it is not a number."""
        penalty = float((point.abs() @ self._l1).sum())
        if self.problem.objective.l2:
            penalty += float((point.square() @ self._l2).sum()) / 2
        value = float(now.value @ self._weights) + penalty
        return math.inf if math.isnan(value) else value

    def is_saturated(self, now: RowTerms) -> bool:
        """Whether the loss is so small that residuals have lost their digits."""
        total = self.problem.row_sum_scale * self.problem.total_weight
        return float(now.value @ self._weights) <= SATURATED_LOSS * total

    def model_minimum(self, now: RowTerms, point: Tensor) -> tuple[Tensor, float]:
        """As of `minimize_penalized_model`, for all coefficients."""
        problem, rows = self.problem, self._rows
        gradient = self._sums(now.residual) + self._l2 * point
        if problem.coupled:
            matrices = [coupled_gram(rows, now.curvature, self._weights)]
        else:
            matrices = [gram_of_columns(self._rows_by_column, own) for own in (now.curvature * self._weights).T]
        return minimize_penalized_model(problem, matrices, self._columns, gradient, point, self._l2, self._l1)

    def _sums(self, of_rows: Tensor) -> Tensor:
        """Weighted sums over the rows of numbers (n, K) times the features, (K, D + 1)."""
        sums = (of_rows * self._weights).T @ self._rows
        return sums if self.problem.intercept else F.pad(sums, (0, 1))

    def bound(
        self, point: Tensor, value: float, logits: Tensor, now: RowTerms, theta: Tensor, enough: float
    ) -> Bound | None:
        """Bounds f - f* by the duality gap to a dual point theta (n, K).

        Args:
            point: Shape (K, D + 1).
            value: f there.
            logits: The logits there.
            now: The loss there.
            theta: The dual point.
            enough: Relative excess above which there is no bound.
        """
        problem, weights = self.problem, self._weights
        sums = self._sums(theta)
        scale = feasible_scale(problem, self.coordinates, sums)

        def scaled_excess(factor: float) -> tuple[float, float]:
            terms = fenchel_young(problem.loss, now.value, logits, theta * factor, self._targets)
            excess, noise = (torch.stack(terms) @ weights)[:, 0].tolist()
            return excess, noise

        excess, noise = scaled_excess(scale)
        if not excess <= enough * value:
            return None

        def scaled(factor: float) -> PassRequests[tuple[Tensor, float, float]]:
            yield from ()
            return sums * factor, *scaled_excess(factor)

        spread = now.curvature * weights
        curvature = torch.diag(spread.sum(0))
        curvature = curvature - spread.T @ now.curvature if problem.coupled else curvature
        intercepts = InterceptCurvature.of_matrix(problem, curvature)
        evaluation = Derivatives(value, sums + self._l2 * point, intercepts, float(now.value @ weights))
        at = evaluated_point(problem, self.coordinates, point, evaluation)
        dual = DualPoint(sums * scale, scale, excess, noise, scaled)
        return drive(bound_at_dual_point(at, self.coordinates, dual), self._source)
