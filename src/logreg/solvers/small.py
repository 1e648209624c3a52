"""Newton's method for problems so small that bookkeeping, and not arithmetic, takes the time: no passes, float64 alone.

A pass over some hundred rows takes far less time than its preparation.  Here the rows are standardized once, and each
iteration is a handful of operations.  The certificate is the same as everywhere (`logreg.solvers.bounds`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.bounds import Bound
from logreg.solvers.curvature_bound import EvaluatedPoint
from logreg.solvers.kernels import coupled_gram
from logreg.solvers.newton_bound import bound_by_newton_step
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small_logistic import SQUARES_MARGIN, SmallLogistic
from logreg.solvers.state import VALUE_ROUNDING, SolverState

Array = np.ndarray[Any, Any]

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
    """Whether `solve_small` or `solve_small_l1` is the fastest way: little work, a penalty, and a bound by duality.

    Rows have no offsets.
    """
    loss, objective, order = problem.loss, problem.objective, problem.hessian_order
    flop = problem.num_parameters * order * (problem.rows + order / 3)
    return (
        rows.features.device.type == "cpu"
        and problem.rows * problem.num_features <= MAX_SMALL_NUMEL
        and flop <= MAX_SMALL_FLOP
        and (objective.l2 > 0 or objective.l1 > 0)
        and loss.is_convex
        and loss.has_conjugate
        and problem.largest_offset is None
    )


@np.errstate(all="ignore")  # what is not finite ends the steps
def solve_small(state: SolverState, rows: MemoryRows, max_passes: int, rough: float = 0.0) -> int:
    """Minimizes f by Newton's method from the point of ``state``, and certifies the point.

    Each iteration:

    1. Compute f, its gradient and its Hessian, all in float64.
    2. Where f increased, halve the last step.
    3. Factor the Hessian and solve for Newton's step.
    4. Where the decrease of f that it predicts is within the tolerance, certify the point by the step
       (`logreg.solvers.newton_bound`); stop if it is certified.
    5. Take the step.

    It stops as well where the Hessian is not positive definite, where no step decreases f, after `MAX_STALLED_STEPS`,
    and after ``max_passes``.

    Args:
        state: State of a problem that `is_small`; its coordinates, point, value and bound are updated.
        rows: All rows of the problem.
        max_passes: Evaluations of f at most.
        rough: Predicted decrease, relative to f, at which to stop without a certificate; 0 for a certified end.

    Returns:
        Evaluations of f: each reads all rows once, as a pass does.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 3.3.
    """
    problem, (padded, weights, coordinates) = state.problem, standardized_rows(state.problem, rows)
    kind: type[_SmallProblem] = SmallSoftmax if problem.coupled else SmallLogistic
    small = kind(problem, padded, rows.labels, weights, coordinates)
    trial = problem.model.to(coordinates, state.point)[:, : padded.shape[1]].numpy()
    state.coordinates, value, point, step, limit = coordinates, math.inf, trial, trial, state.tolerance
    halvings, smallest_gap, stalled = 0, math.inf, 0
    for number in range(1, max_passes + 1):
        now = small.evaluate(trial)
        if not now.value <= value + VALUE_ROUNDING[torch.float64] * abs(value):
            halvings += 1
            if halvings > MAX_HALVINGS or not math.isfinite(value):
                return number
            step = step / 2
            trial = point - step
            continue
        point, value, halvings = trial, now.value, 0
        state.point, state.value = _padded(problem, torch.from_numpy(point)), value
        found_step = small.newton_step(now)
        if found_step is None:
            return number
        step = found_step
        gap = max(float(np.vdot(step, now.gradient)) / 2, 0.0)  # rounding may leave less than 0
        if gap < rough * abs(value):
            return number
        if gap <= limit * abs(value):
            found = small.bound(point, now, step)
            if found is not None and found.gap + found.rounding <= state.tolerance * abs(found.value):
                state.bound, state.best, state.gap = found, state.point, found.gap
                return number
            limit = gap / 10 / abs(value)
        stalled = 0 if gap < smallest_gap / 2 else stalled + 1
        smallest_gap = min(smallest_gap, gap)
        if stalled == MAX_STALLED_STEPS:
            return number
        trial = trial - step
    return max_passes


class _SmallProblem(Protocol):
    """The rows of a small problem, standardized; P = D + 1, or D without an intercept."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""

    def evaluate(self, point: Array) -> Any:
        """The objective and its derivatives at a point (K, P)."""

    def newton_step(self, now: Any) -> Array | None:
        """Newton's step to be subtracted, (K, P); ``None`` where the Hessian is not positive definite."""

    def bound(self, point: Array, now: Any, step: Array) -> Bound | None:
        """Bounds f - f* by the Newton step at a point, (K, P) each; see `bound_by_newton_step`."""


def standardized_rows(problem: Problem, rows: MemoryRows) -> tuple[Tensor, Tensor, Coordinates]:
    """All rows, standardized, with a column of ones for the intercept if there is one: (n, D + 1) or (n, D).

    Returns:
        The rows; the weight of each row's loss in f, (n, 1); and the coordinates.
    """
    features = rows.features.double()
    weights = row_weights(Batch(features, rows.labels, rows.sample_weight), problem.class_weight, torch.float64)
    shares = features.new_full((len(features),), 1 / len(features)) if weights is None else weights / weights.sum()
    columns = features.T.contiguous().numpy()  # NumPy's extremes take a third of the time, and less along memory
    least, largest = (torch.from_numpy(extreme) for extreme in (columns.min(1), columns.max(1)))
    center = (shares @ features).clamp(least, largest)  # exact for a constant column
    if not problem.intercept:  # a shift of the features would need an intercept
        center = torch.zeros_like(center)
    features = features - center
    scale = (shares @ features.square()).sqrt()
    scale = torch.where(scale > 1e-9 * center.abs(), scale, 1.0)
    features /= scale
    padded = F.pad(features, (0, 1), value=1.0) if problem.intercept else features
    of_rows = (shares * problem.row_sum_scale * problem.total_weight).unsqueeze(1)
    return padded, of_rows, Coordinates(center, scale)


def _padded(problem: Problem, point: Tensor) -> Tensor:
    """A point (K, P) or gradient with its intercept, which is 0 where there is none: (K, D + 1)."""
    return point if problem.intercept else F.pad(point, (0, 1))


class SoftmaxEvaluation(NamedTuple):
    """A point of a small problem with its derivatives; P = D + 1, or D without an intercept."""

    value: float
    """f."""
    loss: float
    """f without the penalty."""
    gradient: Array
    """Shape (K, P)."""
    hessian: Tensor
    """Hessian of f, (K P, K P)."""
    probabilities: Tensor
    """Shape (n, K)."""


class SmallSoftmax:
    """The rows of a small problem with a softmax, standardized."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""
        self.problem, self._coordinates = problem, at
        self._rows, self._labels, self._weights = rows, labels, weights
        self._l2 = problem.penalties(at)[0][: rows.shape[1]]

    def evaluate(self, point: Array) -> SoftmaxEvaluation:
        """The objective and its derivatives at a point (K, P)."""
        rows, weights, coef = self._rows, self._weights, torch.from_numpy(point)
        values, residuals, probabilities = self.problem.loss.evaluate_precisely(rows @ coef.T, self._labels)
        loss, shrunk = float(values @ weights), self._l2 * coef
        hessian = coupled_gram(rows, probabilities, weights)
        hessian.diagonal().view_as(coef).add_(self._l2)
        gradient = (residuals * weights).T @ rows + shrunk
        value = loss + float((shrunk * coef).sum()) / 2
        return SoftmaxEvaluation(value, loss, gradient.numpy(), hessian, probabilities)

    def newton_step(self, now: SoftmaxEvaluation) -> Array | None:
        """Newton's step to be subtracted, (K, P); ``None`` where the Hessian is not positive definite."""
        hessian, gradient = now.hessian, torch.from_numpy(now.gradient)
        # A softmax has no curvature along vectors that are equal for all outputs; any curvature there will do.
        blocks = hessian.view(*gradient.shape, *gradient.shape)
        mean = blocks.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1).mean(0)
        hessian = (blocks + torch.diag(mean)[None, :, None, :] / len(gradient)).view_as(hessian)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if failed:
            return None
        step = torch.cholesky_solve(gradient.view(-1, 1), factor).view_as(gradient)
        centered: Array = (step - step.mean(0)).numpy()
        return centered

    def bound(self, point: Array, now: SoftmaxEvaluation, step: Array) -> Bound | None:
        """Bounds f - f* by the Newton step at a point, (K, P) each; see `bound_by_newton_step`."""
        problem, spread = self.problem, now.probabilities * self._weights
        pairs = (spread.T @ now.probabilities).fill_diagonal_(0)
        joint = torch.diag(pairs.sum(1)) - pairs
        curvature = InterceptCurvature(joint.diagonal(), spread.sum(0), joint)
        gradient, coef = (_padded(problem, torch.from_numpy(part)) for part in (now.gradient, point))
        evaluation = Derivatives(now.value, gradient, curvature, now.loss)
        largest = _padded(problem, self._rows.abs().amax(0).unsqueeze(0))[0]
        total = problem.row_sum_scale * problem.total_weight
        squares = torch.where(largest > 0, total * SQUARES_MARGIN, 0.0).double()
        at = EvaluatedPoint(problem, self._coordinates, coef, evaluation, squares, largest)
        return drive(
            bound_by_newton_step(at, self._rows, self._weights, now.probabilities, torch.from_numpy(step)),
            MemoryRows(self._rows, self._labels),
        )
