"""Newton's method for problems so small that bookkeeping, and not arithmetic, takes the time: no passes, float64 alone.

A pass over some hundred rows takes far less time than its preparation.  Here the rows are standardized once, and each
iteration is a handful of operations, in NumPy: `logreg.solvers.small.small_logistic` and
`logreg.solvers.small.small_softmax`.  The certificate is the bound by the Newton step, as elsewhere
(`logreg.solvers.bounds.newton_bound`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.bounds.base import Bound
from logreg.solvers.kernels import Array
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small.small_logistic import NewtonStep, SmallLogistic
from logreg.solvers.small.small_softmax import SmallSoftmax
from logreg.solvers.state import VALUE_ROUNDING, SolverState
from logreg.solvers.steps.preconditioner import centered

ROOM = 0.8
"""Part of the tolerance at which an estimated bound is enough, since the certified one is a little larger."""

MAX_STALLED_STEPS = 10
"""Steps in a row that do not halve the predicted decrease, after which the general solver goes on: the gap is one of
rounding, or the start was far."""

MAX_HALVINGS = 30
"""Halvings of a step that increases f, after which the general solver goes on."""


@np.errstate(all="ignore")  # what is not finite ends the steps
def solve_small(state: SolverState, rows: MemoryRows, max_passes: int, rough: float = 0.0) -> int:
    """Minimizes f by Newton's method from the point of ``state``, and certifies the point.

    Each iteration:

    1. Compute f and its derivatives, all in float64.
    2. Where f increased, halve the last step.
    3. Solve for Newton's step: by a factor of the Hessian, or of a softmax by conjugate gradients.
    4. Where the bound of f - f* by the step (`logreg.solvers.bounds.newton_bound`) is about to be within the tolerance,
       compute it; stop if it is.
    5. Take the step.

    It stops as well where the Hessian is not positive definite, where no step decreases f, after `MAX_STALLED_STEPS`,
    and after ``max_passes``.

    Args:
        state: State of a problem that `logreg.solvers.choose.is_small`; its coordinates, point, value and bound are
            updated.
        rows: All rows of the problem.
        max_passes: Evaluations of f and products with the Hessian at most.
        rough: Predicted decrease, relative to f, at which to stop without a certificate; 0 for a certified end.

    Returns:
        Evaluations of f and products with the Hessian: each reads all rows, as a pass does.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 3.3.
    """
    problem, (all_rows, weights, coordinates) = state.problem, standardized_rows(state.problem, rows)
    kind: type[_SmallProblem] = SmallSoftmax if problem.coupled else SmallLogistic
    small = kind(problem, all_rows, rows.labels, weights, coordinates)
    trial = centered(problem, problem.model.to(coordinates, state.point))[:, : all_rows.shape[1]].numpy()
    state.coordinates, value, point, step, limit = coordinates, math.inf, trial, trial, state.tolerance
    passes, halvings, smallest_decrease, stalled = 0, 0, math.inf, 0
    while passes < max_passes:
        now, passes = small.evaluate(trial), passes + 1
        if not now.value <= value + VALUE_ROUNDING[torch.float64] * abs(value):
            halvings += 1
            if halvings > MAX_HALVINGS or not math.isfinite(value):
                break
            step = step / 2
            trial = point - step
            continue
        point, value, halvings = trial, now.value, 0
        state.point, state.value = padded(problem, torch.from_numpy(point)), value
        enough = ROOM * limit * abs(value)
        found = small.newton_step(now, enough, max_passes - passes)
        if found is None:
            break
        step, passes = found.step, passes + found.products
        if found.decrease < rough * abs(value):
            break
        if found.gap <= enough:
            bound = small.bound(point, now, step)
            if bound is not None and bound.gap + bound.rounding <= state.tolerance * abs(bound.value):
                state.bound, state.best, state.gap = bound, state.point, bound.gap
                break
            limit = found.gap / 10 / abs(value)
        stalled = 0 if found.decrease < smallest_decrease / 2 else stalled + 1
        smallest_decrease = min(smallest_decrease, found.decrease)
        if stalled == MAX_STALLED_STEPS:
            break
        trial = trial - step
    return passes


class _SmallProblem(Protocol):
    """The rows of a small problem, standardized; P = D + 1, or D without an intercept."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""

    def evaluate(self, point: Array) -> Any:
        """The objective and its derivatives at a point (K, P)."""

    def newton_step(self, now: Any, enough: float, max_products: int) -> NewtonStep | None:
        """Newton's step, so precise that it bounds the gap by about ``enough`` or decreases f by more.

        ``None`` where the Hessian is not positive definite.
        """

    def bound(self, point: Array, now: Any, step: Array) -> Bound | None:
        """Bounds f - f* by the Newton step at a point, (K, P) each; see `bound_by_newton_step`."""


def standardized_rows(problem: Problem, rows: MemoryRows) -> tuple[Tensor, Tensor, Coordinates]:
    """All rows, standardized, with a column of ones for the intercept if there is one: (n, D + 1) or (n, D).

    Returns:
        The rows, a view of their columns; the weight of each row's loss in f, (n, 1); and the coordinates.
    """
    weights = row_weights(Batch(rows.features, rows.labels, rows.sample_weight), problem.class_weight, torch.float64)
    features, size = problem.num_features, problem.rows
    shares = np.full(size, 1 / size) if weights is None else (weights / weights.sum()).numpy()
    columns = np.empty((features + problem.intercept, size))
    columns[features:] = 1.0
    own, center = columns[:features], np.zeros(features)
    own[:] = rows.features.double().numpy().T
    if problem.intercept:  # a shift of the features would need one
        center = np.clip(own @ shares, own.min(1), own.max(1))  # exact for a constant column
        own -= center[:, None]
    scale = np.sqrt(np.square(own) @ shares)
    # A deviation that rounding may have left is no unit, but no column gets a mean square above 1.
    scale = np.where(scale > 1e-9 * np.abs(center), scale, np.maximum(scale, 1.0))
    own *= (1 / scale)[:, None]  # takes far less time than a division
    of_rows = torch.from_numpy(shares * (problem.row_sum_scale * problem.total_weight)).unsqueeze(1)
    return torch.from_numpy(columns).T, of_rows, Coordinates(torch.from_numpy(center), torch.from_numpy(scale))


def padded(problem: Problem, point: Tensor) -> Tensor:
    """A point (K, P) with its intercept, which is 0 where there is none: (K, D + 1)."""
    return point if problem.intercept else F.pad(point, (0, 1))
