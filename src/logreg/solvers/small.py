"""Newton's method for problems so small that bookkeeping, and not arithmetic, takes the time: no passes, float64 alone.

A pass over some hundred rows takes far less time than its preparation.  Here the rows are standardized once, and each
iteration is a handful of tensor operations.  The certificate is the same as everywhere (`logreg.solvers.bounds`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.bounds import bound
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, SolverState

MAX_SMALL_NUMEL = 2**17
"""Numbers in the features up to which a problem is small: 1 MiB in float64, which stays in the processor's cache."""

MAX_SMALL_FLOP = 5e6
"""Multiplications of one Newton step up to which a problem is small: about the time that the bookkeeping of a pass
takes."""

MAX_STALLED_STEPS = 10
"""Steps in a row that do not halve the gap, after which the general solver goes on: the gap is one of rounding, or the
start was far."""

MAX_HALVINGS = 30
"""Halvings of a step that increases f, after which the general solver goes on."""


def is_small(problem: Problem, rows: MemoryRows) -> bool:
    """Whether `solve_small` or `solve_small_l1` is the fastest way: little work, a penalty, and a bound by duality."""
    loss, objective, order = problem.loss, problem.objective, problem.hessian_order
    flop = problem.num_parameters * order * (problem.rows + order / 3)
    return (
        rows.features.device.type == "cpu"
        and problem.rows * problem.num_features <= MAX_SMALL_NUMEL
        and flop <= MAX_SMALL_FLOP
        and (objective.l2 > 0 or objective.l1 > 0)
        and loss.is_convex
        and loss.has_conjugate
    )


def solve_small(state: SolverState, rows: MemoryRows, max_passes: int) -> int:
    """Minimizes f by Newton's method from the point of ``state``, and certifies the point.

    Each iteration:

    1. Compute f, its gradient and its Hessian, all in float64.
    2. Where f increased, halve the last step.
    3. Where the gap that the gradient implies is within the tolerance, certify the point; stop if it is certified.
    4. Factor the Hessian and take Newton's step.

    It stops as well where the Hessian is not positive definite, where no step decreases f, after `MAX_STALLED_STEPS`,
    and after ``max_passes``.

    Args:
        state: State of a problem that `is_small`; its coordinates, point, value and bound are updated.
        rows: All rows of the problem.
        max_passes: Evaluations of f at most.

    Returns:
        Evaluations of f: each reads all rows once, as a pass does.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 3.3.
    """
    small = _SmallProblem(state.problem, rows)
    coordinates, trial = small.coordinates, state.problem.model.to(small.coordinates, state.point)
    state.coordinates, state.value, step, limit = coordinates, math.inf, torch.zeros_like(trial), state.tolerance
    halvings, smallest_gap, stalled = 0, math.inf, 0
    for number in range(1, max_passes + 1):
        now = small.evaluate(trial)
        if not now.value <= state.value + VALUE_ROUNDING[torch.float64] * abs(state.value):
            halvings += 1
            if halvings > MAX_HALVINGS or not math.isfinite(state.value):
                return number
            step = step / 2
            trial = state.point - step
            continue
        state.point, state.value, halvings = trial, now.value, 0
        gap = small.estimated_gap(now)
        if gap <= limit:
            found = drive(bound(state.problem, trial, now, state.tolerance, coordinates), rows)
            if found.gap + found.rounding <= state.tolerance * abs(found.value):
                state.bound, state.best, state.gap = found, trial, found.gap
                return number
            limit = gap / 10
        stalled = 0 if gap <= smallest_gap / 2 else stalled + 1
        smallest_gap = min(smallest_gap, gap)
        if stalled == MAX_STALLED_STEPS:
            return number
        found_step = small.newton_step(now)
        if found_step is None:
            return number
        step = found_step
        trial = trial - step
    return max_passes


def standardized_rows(problem: Problem, rows: MemoryRows) -> tuple[Tensor, Tensor, Coordinates]:
    """All rows, standardized, with a column of ones for the intercept if there is one: (n, D + 1) or (n, D).

    Returns:
        The rows; the weight of each row's loss in f, (n, 1); and the coordinates.
    """
    features = rows.features.double()
    weights = row_weights(Batch(features, rows.labels, rows.sample_weight), problem.class_weight, torch.float64)
    shares = features.new_full((len(features),), 1 / len(features)) if weights is None else weights / weights.sum()
    center = shares @ features
    if not problem.intercept:  # a shift of the features would need an intercept
        center = torch.zeros_like(center)
    features = features - center
    scale = (shares @ features.square()).sqrt()
    scale = torch.where(scale > 1e-9 * center.abs(), scale, 1.0)
    features /= scale
    padded = F.pad(features, (0, 1), value=1.0) if problem.intercept else features
    of_rows = (shares * problem.row_sum_scale * problem.total_weight).unsqueeze(1)
    return padded, of_rows, Coordinates(center, scale)


class _SmallProblem:
    """The rows of a small problem, standardized, with a column of ones for the intercept."""

    def __init__(self, problem: Problem, rows: MemoryRows) -> None:
        self.problem, self._labels = problem, rows.labels
        self._rows, self._weights, self.coordinates = standardized_rows(problem, rows)
        self._l2, self._ratio = problem.penalties(self.coordinates)[0], self.coordinates.scale / problem.model.scale

    def evaluate(self, point: Tensor) -> Derivatives:
        """The objective and its derivatives at a point (K, D + 1); its Hessian is without the penalty."""
        problem, rows = self.problem, self._rows
        parameters = point if problem.intercept else point[:, :-1]
        values, residuals, curvature = problem.loss.evaluate(rows @ parameters.T, self._labels)
        loss = float((values.unsqueeze(1) * self._weights).sum())
        spread = curvature * self._weights
        gradient, of_ones = (residuals * self._weights).T @ rows, spread.sum(0)
        by_intercept = of_least = None
        if problem.coupled:
            k, p = parameters.shape
            joint = (curvature.unsqueeze(2) * rows.unsqueeze(1)).flatten(1)
            weighted = (spread.unsqueeze(2) * rows.unsqueeze(1)).flatten(1)
            hessian = (weighted.T @ joint).neg_().view(k, p, k, p)
            hessian.diagonal(dim1=0, dim2=2).add_((weighted.T @ rows).view(k, p, p).permute(1, 2, 0))
            joint_curvature = torch.diag(of_ones) - spread.T @ curvature
            of_least = spread.amin(1) @ rows
            by_intercepts = InterceptCurvature(joint_curvature.diagonal(), of_ones, joint_curvature)
        else:
            hessian = torch.stack([rows.T @ (rows * column.unsqueeze(1)) for column in spread.T])
            by_intercept, by_intercepts = spread.T @ rows, InterceptCurvature(of_ones, of_ones)
        if not problem.intercept:
            gradient = F.pad(gradient, (0, 1))
            by_intercept, of_least = (None if one is None else F.pad(one, (0, 1)) for one in (by_intercept, of_least))
        shrunk = self._l2 * point
        value = loss + float((shrunk * point).sum()) / 2
        return Derivatives(value, gradient + shrunk, by_intercepts, loss, hessian, by_intercept, of_least=of_least)

    def estimated_gap(self, now: Derivatives) -> float:
        """About the relative gap that a bound by duality would find; see `logreg.solvers.state.gap_from_gradient`."""
        coef, intercepts = now.gradient[:, :-1] * self._ratio, now.gradient[:, -1]
        of_coef = float(coef.square().sum()) / (2 * self.problem.objective.l2)
        of_intercepts = float((intercepts.square() / now.curvature.diagonal()).sum()) if self.problem.intercept else 0.0
        return (of_coef + of_intercepts) / max(abs(now.value), 1e-300)

    def newton_step(self, now: Derivatives) -> Tensor | None:
        """Newton's step to be subtracted, (K, D + 1); ``None`` where the Hessian is not positive definite."""
        problem, hessian = self.problem, now.hessian
        assert hessian is not None
        p = hessian.shape[-1]
        gradient, l2 = now.gradient[:, :p], self._l2[:p]
        if problem.coupled:
            k = len(gradient)
            # A softmax has no curvature along vectors that are equal for all outputs; any curvature there will do.
            mean = hessian.diagonal(dim1=1, dim2=3).diagonal(dim1=0, dim2=1).mean(1)
            hessian = hessian + torch.diag(mean)[None, :, None, :] / k
            hessian.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1).add_(l2)
            hessian, gradient = hessian.reshape(1, k * p, k * p), gradient.reshape(1, k * p)
        else:
            hessian.diagonal(dim1=1, dim2=2).add_(l2)
        factors, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed.any()):
            return None
        step = torch.cholesky_solve(gradient.unsqueeze(2), factors).view_as(now.gradient[:, :p])
        if problem.coupled:
            step = step - step.mean(0)
        return step if problem.intercept else F.pad(step, (0, 1))
