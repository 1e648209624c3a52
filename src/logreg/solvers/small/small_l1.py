"""Proximal Newton's method for small problems with l1: no passes and no working set, float64 alone.

As in `logreg.solvers.small.small_newton`, each iteration is a handful of tensor operations.  The Hessian is that of all
coefficients, so the dual point that a step predicts is feasible and shows the duality gap at the end of the step.

References:
    Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from logreg.losses import one_vs_rest
from logreg.losses.base import RowTerms
from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound, evaluated_point
from logreg.solvers.bounds.bound import bound
from logreg.solvers.bounds.duality import DualPoint, bound_at_dual_point, feasible_scale
from logreg.solvers.bounds.logistic_bound import bound_by_dual_point, l2_terms
from logreg.solvers.kernels import Array, coupled_gram
from logreg.solvers.l1_model import minimize_model, minimize_penalized_model
from logreg.solvers.passes.base import PassRequests, drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, accumulated, fenchel_young
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small.small_logistic import LogisticEvaluation, SmallLogistic
from logreg.solvers.small.small_newton import MAX_HALVINGS, MAX_STALLED_STEPS, padded, standardized_rows
from logreg.solvers.state import VALUE_ROUNDING, SolverState, within
from logreg.solvers.steps.line_search import ARMIJO_CONSTANT

MIN_TOLERANCE = 1e-10
"""Tolerance below which the general solver does all: the excess of a predicted dual point is known up to the rounding
error of f."""

FEASIBLE_MARGIN = 1e-12
"""Fraction by which a dual point that is scaled down is scaled down further: more than the rounding of its scale."""

TINY = 1e-300
"""Number below which a probability is 0 in a product with its logarithm."""

MIN_DECREASE = 1e-15
"""Predicted decrease, relative to f, at which no step is tried: the rest of the way is rounding."""

MIN_LONGER_DECREASE = 1e-2
"""Predicted decrease, relative to f, down to which a step may become longer than the way to the model's minimum: near
the optimum that is as good as the best one."""

MIN_LONGER_GAIN = 0.1
"""Further decrease by a longer step, relative to the predicted decrease, from which it is tried: it takes another
evaluation of f, which costs less than half as much as a model and its minimum."""


@np.errstate(all="ignore")  # what is not finite ends the steps
def solve_small_l1(state: SolverState, rows: MemoryRows, max_passes: int) -> int:
    """Minimizes f with l1 from the point of ``state``, and certifies the point.

    Each iteration:

    1. Compute gradient and Hessian of the smooth part of f, and the minimum of its quadratic model with the penalty.
    2. Step there; halve the step until f falls enough.  Far from the optimum, where the loss flattens along the step,
       go on to where it is about least on this line.
    3. Compute the excess of the dual point that the model predicts.  Where it is within the tolerance, certify the
       point; stop if it is certified.

    It stops as well where the loss is so small that residuals have lost their digits, where no step decreases f, after
    `MAX_STALLED_STEPS` that do not halve the predicted decrease, and after ``max_passes``; the general solver then goes
    on.

    Args:
        state: State of a problem with l1 that `logreg.solvers.choose.is_small`; its coordinates, point,
            value and bound are updated.
        rows: All rows of the problem.
        max_passes: Evaluations of f at most.

    Returns:
        Evaluations of f: each reads all rows once, as a pass does.
    """
    if state.tolerance < MIN_TOLERANCE:
        return 0
    problem, (all_rows, weights, coordinates) = state.problem, standardized_rows(state.problem, rows)
    kind: type[_SmallL1] = SoftmaxL1 if problem.coupled else LogisticL1
    small = kind(problem, all_rows, rows.labels, weights, coordinates)
    point = problem.model.to(coordinates, state.point)[:, : all_rows.shape[1]].numpy()
    now, passes, smallest, stalled, limit = small.evaluate(point), 1, math.inf, 0, state.tolerance
    highest_loss = SATURATED_LOSS * problem.row_sum_scale * problem.total_weight
    while passes < max_passes:
        target, decrease = small.model_minimum(now, point)
        stalled = 0 if decrease <= smallest / 2 else stalled + 1
        smallest = min(smallest, decrease)
        if not decrease > MIN_DECREASE * now.value or stalled == MAX_STALLED_STEPS:
            break
        length, trial, highest = 1.0, target, now.value * (1 + VALUE_ROUNDING[torch.float64])
        for _ in range(MAX_HALVINGS):
            new, passes = small.evaluate(trial), passes + 1
            is_lower = new.value <= highest - ARMIJO_CONSTANT * length * decrease
            if is_lower or passes >= max_passes:
                break
            length /= 2
            trial = point + length * (target - point)
        if not is_lower:
            break
        if length == 1 and decrease > MIN_LONGER_DECREASE * now.value and passes < max_passes:
            slope, curvature = small.along(now, new, point, target)
            if slope < 0 and slope * slope >= 2 * MIN_LONGER_GAIN * decrease * curvature > 0:
                longer = target - slope / curvature * (target - point)
                # A coefficient that is 0 in the model's minimum stays 0, and none changes its sign on the way.
                longer = np.where((longer * target > 0) | (small.l1 == 0), longer, 0.0)
                further, passes = small.evaluate(longer), passes + 1
                if further.value < new.value:
                    length, trial, new = math.inf, longer, further  # the model predicts no dual point there
        before, point, now = now, trial, new
        if now.loss <= highest_loss:  # residuals have lost their digits
            break
        if length == 1 and (decrease / now.value) ** 2 <= limit:
            found = small.gap_bound(point, now, before, limit * now.value)
            if found is not None and found.rounding > state.tolerance * abs(found.value):
                # With the true sizes of the features rounding may be less.
                found = drive(
                    bound(problem, padded(problem, torch.from_numpy(point)), None, state.tolerance, coordinates), rows
                )
            if found is not None:
                if within(found, state.tolerance):
                    state.bound, state.gap = found, found.gap
                    break
                limit = found.gap / 10 / abs(found.value)
    state.coordinates, state.point = coordinates, padded(problem, torch.from_numpy(point))
    state.value = now.value if math.isfinite(now.value) else math.inf
    state.best = None if state.bound is None else state.point
    return passes


class _SmallL1(Protocol):
    """The rows of a small problem with l1, standardized; P = D + 1, or D without an intercept."""

    l1: Array
    """Strength of l1 by each coordinate, (P,)."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""

    def evaluate(self, point: Array) -> Any:
        """The objective and its derivatives at a point (K, P)."""

    def model_minimum(self, now: Any, point: Array) -> tuple[Array, float]:
        """The minimum of the quadratic model with the penalty, (K, P), and by how much the model is lower there."""

    def along(self, before: Any, now: Any, start: Array, end: Array) -> tuple[float, float]:
        """First and second derivative of f by the length of a step, at its end.

        Args:
            before: f at the start.
            now: f at the end.
            start: Shape (K, P).
            end: Shape (K, P).
        """

    def gap_bound(self, point: Array, now: Any, before: Any, enough: float) -> Bound | None:
        """Bounds f - f* at the end of a step by the gap to the dual point that its model predicts.

        Args:
            point: Shape (K, P).
            now: f there.
            before: f at the start of the step.
            enough: Excess, in units of f, above which there is no bound.
        """


def clipped_dual(problem: Problem, q: Array, minus_sign: Array, weights: Array) -> Array:
    """Dual points of separate logistic losses, clipped to probabilities q of the wrong class.

    With an intercept they are moved until their sums over the rows are 0 up to rounding; where no move in proportion to
    the curvatures does that within the range of q, all q are 0.

    Args:
        problem: The problem.
        q: Shape (..., K, n).
        minus_sign: -1 where the target is 1, else 1; (K, n).
        weights: Weight of each row in f, (n,).
    """
    clipped: Array = np.minimum(np.maximum(q, 0.0), 1.0)  # takes less time than `clip`
    if problem.intercept:
        curvature = clipped * (1 - clipped)  # a move in proportion to it leaves no q out of range, if it is at most 1
        length = ((clipped * minus_sign) @ weights) / np.maximum(curvature @ weights, TINY)
        clipped -= (curvature * minus_sign) * length[..., None]
        if not (is_in_range := np.abs(length) <= 1).all():
            clipped[~is_in_range] = 0.0
    return clipped


class LogisticL1(SmallLogistic):
    """Separate logistic losses, in NumPy."""

    def model_minimum(self, now: LogisticEvaluation, point: Array) -> tuple[Array, float]:
        """See `_SmallL1`."""
        target, decrease = np.empty_like(point), 0.0
        for output, hessian in enumerate(self.hessian(now)):
            target[output], lower = minimize_model(hessian, now.gradient[output], point[output], self.l1)
            decrease += lower
        return target, decrease

    def along(
        self, before: LogisticEvaluation, now: LogisticEvaluation, start: Array, end: Array
    ) -> tuple[float, float]:
        """See `_SmallL1`."""
        step, change = end - start, now.negated - before.negated
        slope = np.vdot(now.gradient + self.l1 * np.sign(end), step)
        return float(slope), float(np.vdot(now.spread * change, change) + np.vdot(self._l2 * step, step))

    def gap_bound(
        self, point: Array, now: LogisticEvaluation, before: LogisticEvaluation, enough: float
    ) -> Bound | None:
        """See `_SmallL1`."""
        problem, loss = self.problem, self.problem.loss
        # The dual point as a probability q of the wrong class; its conjugate is minus the entropy.
        q = before.wrong + before.wrong * (1 - before.wrong) * (now.negated - before.negated)
        q = clipped_dual(problem, q, self._minus_sign, self.weights)
        sums = (q * self.signed_weights) @ self.columns.T
        scale, features = 1.0, problem.num_features
        if features and not problem.objective.l2:
            reach = float((np.abs(sums[:, :features]) / self.l1[:features]).max())
            scale = (1 - FEASIBLE_MARGIN) / reach if reach > 1 else 1.0
            q *= scale
        other = 1 - q
        conjugate = q * np.log(np.maximum(q, TINY)) + other * np.log(np.maximum(other, TINY))
        product = now.negated * q
        excess = now.loss + float(((conjugate - product) @ self.weights).sum())
        if not excess <= enough:
            return None
        sizes = now.loss + float(((np.abs(product) - conjugate) @ self.weights).sum())
        total = problem.row_sum_scale * problem.total_weight
        # The sums over the rows are as large as this, and cancel.
        rounding = (accumulated(problem.rows) + 8 * UNIT_ROUNDOFF) * sizes
        rounding += UNIT_ROUNDOFF * loss.conjugate_slope(0.0) * problem.num_outputs * total
        # What rounding leaves of the sums of theta is moved in proportion to the curvatures at q, not at the point.
        at_dual = now._replace(spread=q * other * self.weights)
        return bound_by_dual_point(
            self.at(point, at_dual), sums * scale, max(excess, 0.0), rounding, self._penalty_terms
        )

    def _penalty_terms(self, coef: Array, slopes: Array, noise: Array, value: float) -> tuple[float, float]:
        """See `logreg.solvers.bounds.logistic_bound.PenaltyTerms`."""
        l1, sizes = self.l1[: coef.shape[1]], np.abs(coef)
        of_l1 = l1 * sizes
        rounding = (8 + 2 * np.count_nonzero(coef)) * UNIT_ROUNDOFF * float(of_l1.sum())
        if self.problem.objective.l2:
            held = np.sign(slopes) * np.maximum(np.abs(slopes) - l1, 0.0)
            lost = 8 * UNIT_ROUNDOFF * (np.abs(slopes) - np.abs(held))
            of_l2, hidden = l2_terms(self._l2[: coef.shape[1]])(coef, held, noise + lost, value)
            return of_l2 + float((of_l1 + coef * (slopes - held)).sum()), rounding + hidden
        noise = noise + 8 * UNIT_ROUNDOFF * np.abs(slopes)
        terms = float((coef * slopes + of_l1).sum())
        # Scaling theta down until its exact sums are feasible costs at most the fraction times f.
        shrunk = min(max(float(((np.abs(slopes) + noise) / l1).max()) - 1, 0.0), 1.0) if coef.size else 0.0
        return terms, rounding + float((noise * sizes).sum()) + shrunk * value


class _SoftmaxEvaluation(NamedTuple):
    """A point with the loss and its derivatives there."""

    value: float
    """f."""
    loss: float
    """f without the penalties."""
    logits: Tensor
    """Shape (n, K)."""
    terms: RowTerms
    """The loss of each row."""


class SoftmaxL1:
    """A softmax."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """See `_SmallL1`."""
        self._problem, self._rows, self._labels, self._weights, self._coordinates = problem, rows, labels, weights, at
        self._targets = one_vs_rest(labels, problem.num_outputs, torch.float64)
        self._l2, self._l1 = problem.penalties(at)
        self.l1 = self._l1[: rows.shape[1]].numpy()
        self._columns = [torch.arange(rows.shape[1])] * problem.num_outputs

    def evaluate(self, point: Array) -> _SoftmaxEvaluation:
        """See `_SmallL1`."""
        at = padded(self._problem, torch.from_numpy(point))
        logits = self._rows @ torch.from_numpy(point).T
        terms = self._problem.loss.evaluate(logits, self._labels)
        loss = float(terms.value @ self._weights)
        penalty = (at.abs() @ self._l1 + at.square() @ self._l2 / 2).sum()
        return _SoftmaxEvaluation(loss + float(penalty), loss, logits, terms)

    def model_minimum(self, now: _SoftmaxEvaluation, point: Array) -> tuple[Array, float]:
        """See `_SmallL1`."""
        problem, at = self._problem, padded(self._problem, torch.from_numpy(point))
        gradient = self._sums(now.terms.residual) + self._l2 * at
        matrices = [coupled_gram(self._rows, now.terms.curvature, self._weights)]
        found = minimize_penalized_model(problem, matrices, self._columns, gradient, at, self._l2, self._l1)
        return found[0][:, : point.shape[1]].numpy(), found[1]

    def along(
        self, before: _SoftmaxEvaluation, now: _SoftmaxEvaluation, start: Array, end: Array
    ) -> tuple[float, float]:
        """See `_SmallL1`."""
        at, change = padded(self._problem, torch.from_numpy(end)), now.logits - before.logits
        step = at - padded(self._problem, torch.from_numpy(start))
        product = self._problem.loss.curvature_product(now.terms.curvature, change)
        slope = self._weights * now.terms.residual * change
        slope_of_penalty = (self._l2 * at + self._l1 * at.sign()) * step
        curvature = self._weights * product * change
        return (
            float(slope.sum() + slope_of_penalty.sum()),
            float(curvature.sum() + (self._l2 * step.square()).sum()),
        )

    def _sums(self, of_rows: Tensor) -> Tensor:
        """Weighted sums over the rows of numbers (n, K) times the features, (K, D + 1)."""
        return padded(self._problem, (of_rows * self._weights).T @ self._rows)

    def gap_bound(
        self, point: Array, now: _SoftmaxEvaluation, before: _SoftmaxEvaluation, enough: float
    ) -> Bound | None:
        """See `_SmallL1`."""
        problem, weights = self._problem, self._weights
        theta = before.terms.residual + problem.loss.curvature_product(
            before.terms.curvature, now.logits - before.logits
        )
        sums = self._sums(theta)
        scale = feasible_scale(problem, self._coordinates, sums)

        def scaled_excess(factor: float) -> tuple[float, float]:
            terms = fenchel_young(problem.loss, now.terms.value, now.logits, theta * factor, self._targets)
            excess, noise = (torch.stack(terms) @ weights)[:, 0].tolist()
            return excess, noise

        excess, noise = scaled_excess(scale)
        if not excess <= enough:
            return None

        def scaled(factor: float) -> PassRequests[tuple[Tensor, float, float]]:
            yield from ()
            return sums * factor, *scaled_excess(factor)

        spread = now.terms.curvature * weights
        curvature = torch.diag(spread.sum(0)) - spread.T @ now.terms.curvature
        evaluated = padded(problem, torch.from_numpy(point))
        derivatives = Derivatives(
            now.value, sums + self._l2 * evaluated, InterceptCurvature.of_matrix(problem, curvature), now.loss
        )
        at = evaluated_point(problem, self._coordinates, evaluated, derivatives)
        dual = DualPoint(sums * scale, scale, excess, noise, scaled)
        return drive(bound_at_dual_point(at, self._coordinates, dual), MemoryRows(self._rows, self._labels))
