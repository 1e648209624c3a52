"""Limited-memory BFGS: quasi-Newton steps from the last pairs, on top of a preconditioner; orthant-wise with l1."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.bounds.bound import forms_hessian
from logreg.solvers.bounds.duality import gap_by_residuals
from logreg.solvers.methods.newton import is_finite, newton
from logreg.solvers.methods.quasi_newton import FLOAT32_END_TOL, MAX_STEPS_WITHOUT_PROGRESS
from logreg.solvers.minimum_norm import MAX_NULL_SPACE_FEATURES, NullSpace, find_null_space
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.passes.hessian import HessianDiagonal, SampledCurvature
from logreg.solvers.problem import Problem
from logreg.solvers.starting_point import start
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified
from logreg.solvers.steps.line_search import (
    MAX_LINE_SEARCH_POINTS,
    LineSearchPoint,
    next_length,
    satisfies_armijo,
    satisfies_wolfe,
)
from logreg.solvers.steps.newton_steps import NOT_FINITE_MESSAGE, smallest_subgradient
from logreg.solvers.steps.preconditioner import (
    MAX_BLOCK_FEATURES,
    SAMPLED_BLOCK_RIDGE,
    SAMPLED_ROWS,
    centered,
    holds_blocks,
    preconditioner,
)

LBFGS_MEMORY = 50
"""Pairs (step, change of the gradient) that are stored, often called m: vectors are small beside a pass over the
rows."""

PRECONDITIONER_REFRESH_RATIO = 0.01
"""Ratio of the current predicted decrease to that at the time of the preconditioner, below which another preconditioner
is computed: by then the curvature at the point has changed."""

LAST_REFRESH_TOL = 1e-4
"""Predicted decrease, relative to f, below which a new preconditioner is the last: from there on the curvature hardly
changes."""

GAP_TO_PREDICTED_DECREASE = 10.0
"""Estimated gap as a multiple of the predicted decrease.  The latter is too small, since the stored steps do not cover
all directions of curvature."""

MAX_LBFGS_ITERATIONS = 20_000
"""Largest number of steps: a safeguard, far more than problems take."""

ROUNDING_PREDICTED_DECREASE = 1e-20
"""Predicted decrease, relative to f, below which it is a rounding error of float64 and not progress."""

MAX_ORTHANT_ROUNDS = 100
"""Largest number of directions computed for one step: each time, coordinates at 0 that would leave their orthant stay
at 0."""

ZERO_DIAGONAL_RTOL = SAMPLED_BLOCK_RIDGE**2
"""Second derivative by a coefficient, relative to a usual one, that counts as 0 with l1: the square of the relative
accuracy of float32."""


class Pair(NamedTuple):
    """A step s, and the change of the gradient along it y; both (K, D + 1)."""

    step: Tensor
    change: Tensor


ReducedInverse = Callable[[Tensor, Tensor], Tensor]
"""A gradient and which coordinates are free, both (K, D + 1) -> about the Newton step within the free coordinates."""


def lbfgs(state: SolverState) -> PassRequests[NullSpace | None]:
    """Minimizes f from the point of ``state`` until it is certified to be within the tolerance.

    The step is `-B @ slope`, with B the L-BFGS matrix of the last `LBFGS_MEMORY` pairs, which starts from a
    preconditioner, and slope the subgradient of f of minimum norm.  Each iteration:

    1. Estimate the gap by duality from the gradient, without a pass.
    2. Unless it is within the tolerance, compute the direction.  The preconditioner is made the first time, and made
       anew where the predicted decrease has fallen a hundredfold since.  With l1 the direction stays within one orthant
       (OWL-QN), and coefficients that the penalty holds at 0 do not move.
    3. Where the estimated gap is within the tolerance, certify the point.  Where that fails, the next certificate is
       tried at a gap 30 times smaller.
    4. Search along the direction for a point that satisfies the strong Wolfe conditions; one pass for each trial.
    5. Store the step and the change of the gradient.

    Passes are in the problem's floating type at first, and in float64 from where the predicted decrease is at most
    `FLOAT32_END_TOL`, or where steps in that type bring no progress.

    It stops where the point is certified; in float64 after `MAX_STEPS_WITHOUT_PROGRESS` steps without progress or where
    no direction leads down; without a penalty where f is nearly 0, which shows separation; or after
    `MAX_LBFGS_ITERATIONS`.  Where a line search fails, the stored pairs are dropped; where there are none, that ends
    the steps in this type.

    Args:
        state: State of the problem; updated in each step.

    Returns:
        Without a penalty, the directions that change no logit, along which no step has a part; ``None`` where they were
        not computed.

    Raises:
        DivergedError: f or its gradient is not finite.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4; Andrew and Gao (2007), Scalable training of
        l1-regularized log-linear models; for the free coordinates, Byrd and others (2016), A family of second-order
        methods for convex l1-regularized optimization.
    """
    problem = state.problem
    dtype = yield from start(state, newton)
    if state.converged:
        return None
    coordinates, l1 = state.coordinates, problem.penalties(state.coordinates)[1]
    unpenalized = not problem.objective.has_penalty
    separated_value = state.tolerance * problem.row_sum_scale * problem.total_weight
    # The certificate then follows from the curvature, and may be smaller than the one by duality.
    certifies_by_hessian = unpenalized or (not problem.objective.l1 and forms_hessian(problem))
    inverse = _InverseHessian(problem)
    smallest_decrease, steps_without_progress = math.inf, 0
    gap_limit, decrease_limit, slope_along = state.tolerance, -1.0, -math.inf
    direction = state.point
    null = None
    if unpenalized and problem.num_features < MAX_NULL_SPACE_FEATURES:
        null = yield from find_null_space(problem, coordinates)
        state.point = null.project_out(problem, coordinates, state.point)
    now = yield from request(Evaluate(problem, coordinates, state.point, dtype))
    for _ in range(MAX_LBFGS_ITERATIONS):
        if not is_finite(now):
            if dtype == torch.float64:
                raise DivergedError(NOT_FINITE_MESSAGE)
            dtype = torch.float64
            now = yield from request(Evaluate(problem, coordinates, state.point, dtype))
            continue
        point, exact, size = state.point, dtype == torch.float64, max(abs(now.value), 1e-300)
        slope, noise = smallest_subgradient(point, now.gradient, l1), VALUE_ROUNDING[dtype] * size
        gap = expected_gap(state, now.gradient, now.loss) / size
        if gap > gap_limit:
            refreshes = inverse.is_stale(state.predicted_decrease)
            if refreshes:
                inverse.preconditioner = yield from _reduced_preconditioner(state, now)
            direction = inverse.direction(point, slope, l1)
            direction = direction if null is None else null.project_out(problem, coordinates, direction)
            slope_along = float((slope * direction).sum())
            state.predicted_decrease = -slope_along / 2 / size
            if refreshes:
                inverse.decrease_at_refresh = state.predicted_decrease
            gap = min(gap, GAP_TO_PREDICTED_DECREASE * state.predicted_decrease) if certifies_by_hessian else gap
        state.value, state.gap = now.value, min(gap, 1.0) * size
        stalled = steps_without_progress >= MAX_STEPS_WITHOUT_PROGRESS or not slope_along < 0
        if unpenalized and now.value < separated_value:
            break  # f tends to 0 while the coefficients grow without bound
        if not exact and (stalled or gap <= gap_limit or state.predicted_decrease < FLOAT32_END_TOL):
            dtype, steps_without_progress, smallest_decrease, slope_along = torch.float64, 0, math.inf, -math.inf
            now = yield from request(Evaluate(problem, coordinates, point, dtype))
            continue
        if gap <= gap_limit or state.predicted_decrease <= decrease_limit:
            if (yield from certified(state, now)):
                return null
            if not slope_along < 0:
                break  # a stationary point of a loss that is not convex: no bound can certify it
            # Where all coefficients are 0, the estimated gap is 0 though the intercepts are not at their optimum; then
            # the predicted decrease decides.
            gap_limit, decrease_limit = (gap / 30, -1.0) if gap > 0 else (-1.0, min(state.predicted_decrease, 1.0) / 30)
            continue
        if stalled:
            break
        found = yield from _line_search(state, now, slope, direction, l1, dtype, noise)
        if found is None:
            steps_without_progress = steps_without_progress if inverse.pairs else MAX_STEPS_WITHOUT_PROGRESS
            inverse.pairs.clear()  # their curvature may belong to points far away
            continue
        new_point, there = found
        inverse.pairs.append(Pair(new_point - point, there.gradient - now.gradient))
        progress = (
            now.value - there.value > noise
            or ROUNDING_PREDICTED_DECREASE < state.predicted_decrease < smallest_decrease
        )
        steps_without_progress = 0 if progress else steps_without_progress + 1
        smallest_decrease = min(smallest_decrease, state.predicted_decrease)
        state.point, now = new_point, there
    if state.best is not state.point:
        yield from certified(state, now if exact else None)
    if state.best is not None:
        state.point = state.best
    return null


def expected_gap(state: SolverState, gradient: Tensor, loss: float) -> float:
    """`gap_by_residuals` at the point of ``state``, where the smooth part of f has this gradient, (K, D + 1)."""
    gradient = state.coordinates.gradient_to(state.problem.model, gradient)
    return gap_by_residuals(state.problem, state.solution[:, :-1], gradient, loss)


def _line_search(
    state: SolverState,
    now: Derivatives,
    slope: Tensor,
    direction: Tensor,
    l1: Tensor,
    dtype: torch.dtype,
    noise: float,
) -> PassRequests[tuple[Tensor, Derivatives] | None]:
    """Searches along a direction for a point that satisfies the strong Wolfe conditions.

    With l1 the points are projected onto the orthant of the point, so coefficients stop at 0.

    Returns:
        The point and f there; the lowest point that satisfies Armijo's condition where none satisfies Wolfe's after
        `MAX_LINE_SEARCH_POINTS`; ``None`` where there is none of those either.
    """
    point = state.point
    orthant = torch.where(point == 0, -slope.sign(), point.sign())
    trials, best, length = [LineSearchPoint(0.0, now.value, float((slope * direction).sum()), 0.0)], None, 1.0
    for _ in range(MAX_LINE_SEARCH_POINTS):
        at = point + length * direction
        stopped = (l1 > 0) & (at.sign() != orthant)
        at = at.masked_fill(stopped, 0.0)
        there = yield from request(Evaluate(state.problem, state.coordinates, at, dtype))
        trial = LineSearchPoint(length, math.inf, math.inf, 0.0)
        if math.isfinite(there.value):
            slope_along = ((there.gradient + l1 * orthant) * direction).masked_fill(stopped, 0.0).sum()
            linear_change = min(float((slope * (at - point)).sum()), 0.0)
            trial = LineSearchPoint(length, there.value, float(slope_along), linear_change)
        trials.append(trial)
        if satisfies_wolfe(trials[0], trial, noise):
            return at, there
        if satisfies_armijo(trials[0], trial, noise) and (best is None or there.value < best[1].value):
            best = at, there
        length = next_length(trials, noise)
    return best


class _InverseHessian:
    """The L-BFGS approximation B of the inverse Hessian: a preconditioner, corrected by the last pairs.

    Attributes:
        pairs: The last pairs, at most `LBFGS_MEMORY`.
        preconditioner: The function that `_reduced_preconditioner` returns; ``None`` before the first.
        decrease_at_refresh: Predicted decrease, relative to f, of the first step with this preconditioner.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.pairs: deque[Pair] = deque(maxlen=LBFGS_MEMORY)
        self.preconditioner: ReducedInverse | None = None
        self.decrease_at_refresh = math.inf

    def is_stale(self, predicted_decrease: float) -> bool:
        """Whether the next step needs another preconditioner, or the first one."""
        return self.preconditioner is None or (
            self.decrease_at_refresh > LAST_REFRESH_TOL
            and predicted_decrease < PRECONDITIONER_REFRESH_RATIO * self.decrease_at_refresh
        )

    def direction(self, point: Tensor, slope: Tensor, l1: Tensor) -> Tensor:
        """The direction `-B @ slope` within the free coordinates, (K, D + 1).

        With l1 a coefficient leaves 0 only against its slope.  Those that the direction would move otherwise are held
        at 0, and the direction is computed again.
        """
        free = (point != 0) | (slope != 0) | (l1 == 0)
        direction, wrong = torch.zeros_like(slope), free
        for _ in range(MAX_ORTHANT_ROUNDS):
            direction = -self._times(slope, free)
            wrong = free & (l1 > 0) & (point == 0) & (direction * slope >= 0)
            if not bool(wrong.any()):
                return direction
            free = free & ~wrong
        return direction.masked_fill(wrong, 0.0)

    def _times(self, gradient: Tensor, free: Tensor) -> Tensor:
        """B within the free coordinates, times a gradient (K, D + 1), by the two-loop recursion.

        The preconditioner is scaled so that it fits the curvature of the newest pair: by (s @ y) / (y @ inverse(y)).
        """
        assert self.preconditioner is not None

        def restrict(vector: Tensor) -> Tensor:
            return centered(self._problem, vector * free)

        rest, used = restrict(gradient), []
        for pair in reversed(self.pairs):
            step, change = pair.step * free, pair.change * free
            curvature = float((step * change).sum())
            if curvature > 0:
                factor = float((step * rest).sum()) / curvature
                rest = rest - factor * change
                used.append((step, change, curvature, factor))
        product = restrict(self.preconditioner(restrict(rest), free))
        if used:
            _, change, curvature, _ = used[0]
            size = float((change * restrict(self.preconditioner(restrict(change), free))).sum())
            product = product * (curvature / size if size > 0 else 1.0)
        for step, change, curvature, factor in reversed(used):
            product = product + (factor - float((change * product).sum()) / curvature) * step
        return restrict(product)


def _reduced_preconditioner(state: SolverState, now: Derivatives) -> PassRequests[ReducedInverse]:
    """The function `preconditioner`'s result; with l1, a preconditioner restricted to the free coordinates."""
    problem, coordinates, point = state.problem, state.coordinates, state.point
    if not problem.objective.l1:
        apply_inverse = yield from preconditioner(problem, coordinates, point, now.curvature, state.seed)
        return lambda gradient, _: apply_inverse(gradient)
    by_intercept = now.curvature.diagonal().clamp(min=1e-30)
    metric = yield from request(HessianDiagonal(problem, coordinates, point))
    if problem.num_features > min(MAX_BLOCK_FEATURES, problem.rows) or not holds_blocks(problem):
        usual = by_intercept.unsqueeze(1)
        metric = torch.where(metric > ZERO_DIAGONAL_RTOL * usual, metric, usual)
        return lambda gradient, _: gradient / metric
    blocks, _ = yield from request(SampledCurvature(problem, coordinates, point, metric, SAMPLED_ROWS, state.seed))
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    largest = diagonal.amax(1, keepdim=True)
    has_curvature = diagonal > ZERO_DIAGONAL_RTOL * largest
    diagonal.copy_(torch.where(has_curvature, (1 + SAMPLED_BLOCK_RIDGE) * diagonal, largest))
    # For each output the features that were free last, (D,), and the Cholesky factor of their block.
    factors: dict[int, tuple[Tensor, Tensor]] = {}

    def apply_reduced_inverse(gradient: Tensor, free: Tensor) -> Tensor:
        step = gradient / by_intercept.unsqueeze(1)
        for output, features in enumerate(free[:, :-1]):
            if output not in factors or not torch.equal(factors[output][0], features):
                block = blocks[output][features][:, features]
                factor, failed = torch.linalg.cholesky_ex(block)
                factors[output] = features, block.diagonal().sqrt().diag() if failed else factor
            right_side = gradient[output, :-1][features].to(blocks.dtype).unsqueeze(1)
            step[output, :-1][features] = torch.cholesky_solve(right_side, factors[output][1])[:, 0].double()
        return step

    return apply_reduced_inverse
