"""Limited-memory BFGS: the curvature that the last steps met, on top of a preconditioner."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.bounds import forms_hessian
from logreg.solvers.minimum_norm import MAX_NULL_SPACE_FEATURES, NullSpace, find_null_space
from logreg.solvers.newton import is_finite, newton
from logreg.solvers.newton_steps import NOT_FINITE, smallest_subgradient
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.passes.hessian import Diagonal, SampledCurvature
from logreg.solvers.preconditioner import DRAWN, LITTLE, MEMORY, WIDEST, centered, preconditioner
from logreg.solvers.problem import Problem
from logreg.solvers.starting_point import start
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified

PAIRS = 50
"""Steps that are remembered."""

DECREASE, FLATTER = 1e-4, 0.9
"""Wolfe's constants: the part of the slope that f must fall by, and the part that may remain."""

TRIALS = 8
"""Points that one line search may try."""

REFRESH = 0.01
"""Fall of the expected gain at which the preconditioner is made anew."""

SETTLED = 1e-4
"""Expected gain, relative to f, from which on it stays."""

NEAR = 1e-6
"""Expected gain, relative to f, at which float32 has done its work."""

PATIENCE = 8
"""Steps in a row that lead no nearer, before going to float64, and there before giving up."""

SAFE = 10.0
"""How many times the expected gain there may be: the last steps did not meet all of the curvature."""

STEPS = 20_000
"""At most."""

LAST = 1e-20
"""Expected gain, relative to f, that is rounding in float64."""

HOLDS = 100
"""Times that coordinates at 0 are held there for one direction, at most."""

RIDGE = 1e-5
"""What keeps a sampled matrix positive, relative to its diagonal."""


class Trial(NamedTuple):
    """A point of a line search."""

    length: float
    value: float
    """f there."""
    slope: float
    """Derivative of f by the length."""
    fall: float
    """What f would have changed by, had the slope at length 0 lasted."""


class Pair(NamedTuple):
    """A step, and how it changed the gradient; both (K, D + 1)."""

    step: Tensor
    change: Tensor


Inverse = Callable[[Tensor, Tensor], Tensor]
"""A gradient and the coordinates that may move, both (K, D + 1) -> about the Newton step within them."""


def decreases(first: Trial, trial: Trial, noise: float = 0.0) -> bool:
    """Whether f falls enough (Armijo), where its values are known to within ``noise``."""
    return trial.value <= first.value + DECREASE * trial.fall + noise


def satisfies_wolfe(first: Trial, trial: Trial, noise: float = 0.0) -> bool:
    """Whether f falls enough and its slope has flattened enough: the strong Wolfe conditions."""
    return decreases(first, trial, noise) and abs(trial.slope) <= -FLATTER * first.slope


def next_length(trials: Sequence[Trial], noise: float = 0.0) -> float:
    """Where to look next: beyond all trials while f falls, else between the last that falls and the first that rises.

    Args:
        trials: So far; the first is that of length 0, and f falls there.
        noise: How exactly values are known.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithms 3.5 and 3.6.
    """
    falling = sorted(trial for trial in trials if trial.slope < 0 and decreases(trials[0], trial, noise))
    rising = [trial for trial in trials if trial not in falling]
    low = falling[-1]
    if not rising:
        return min(max(_least_of_cubic(falling[-2], low), 2 * low.length), 10 * low.length)
    high = min(rising)
    margin = 0.1 * (high.length - low.length)
    return min(max(_least_of_cubic(low, high), low.length + margin), high.length - margin)


def _least_of_cubic(left: Trial, right: Trial) -> float:
    """Where the cubic with the values and slopes of two trials is least; halfway where it has no minimum."""
    width = right.length - left.length
    bend = left.slope + right.slope - 3 * (right.value - left.value) / width
    square = bend * bend - left.slope * right.slope
    root = math.sqrt(square) if 0 <= square < math.inf else math.nan
    rise = right.slope - left.slope + 2 * root
    share = 1 - (right.slope + root - bend) / rise if rise else math.nan
    return left.length + width * (share if math.isfinite(share) else 0.5)


def lbfgs(state: SolverState) -> PassRequests[NullSpace | None]:
    """Minimizes f from where ``state`` stands until it is certified to be within its tolerance.

    float32 arithmetic, where the problem asks for it, serves while it leads nearer.  With l1 a search stays within the
    orthant that the smallest subgradient points to: a coefficient stops at 0, and one that l1 holds there stays.

    Args:
        state: Of the problem; told of each step.

    Returns:
        The directions that change no logit, where they were looked for: without a penalty.  No step goes along them.

    Raises:
        DivergedError: f or its gradient is not finite.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4; Andrew and Gao (2007), Scalable training of
        l1-regularized log-linear models; within the coordinates that are free as in Byrd and others (2016), A family of
        second-order methods for convex l1-regularized optimization.
    """
    problem = state.problem
    dtype = yield from start(state, newton)
    coordinates, l1 = state.coordinates, problem.penalties(state.coordinates)[1]
    unpenalized = not (problem.objective.l2 or problem.objective.l1)
    by_hessian = unpenalized or (not problem.objective.l1 and forms_hessian(problem))
    pairs: deque[Pair] = deque(maxlen=PAIRS)
    inverse: Inverse | None = None
    made_at, nearest, poor, enough, again, downhill = math.inf, math.inf, 0, state.tolerance, -1.0, -math.inf
    direction = state.point
    null = None
    if unpenalized and problem.num_features < MAX_NULL_SPACE_FEATURES:
        null = yield from find_null_space(problem, coordinates)
        state.point = null.project_out(problem, coordinates, state.point)
    now = yield from request(Evaluate(problem, coordinates, state.point, dtype))
    for _ in range(STEPS):
        if not is_finite(now):
            if dtype == torch.float64:
                raise DivergedError(NOT_FINITE)
            dtype = torch.float64
            now = yield from request(Evaluate(problem, coordinates, state.point, dtype))
            continue
        point, exact, size = state.point, dtype == torch.float64, max(abs(now.value), 1e-300)
        slope, noise = smallest_subgradient(point, now.gradient, l1), VALUE_ROUNDING[dtype] * size
        gap = expected_gap(state, now) / size
        if gap > enough:
            stale = made_at > SETTLED and state.expected_decrease < REFRESH * made_at
            if inverse is None or stale:
                inverse, stale = (yield from _preconditioner(state, now)), True
            direction = _direction(problem, point, slope, l1, pairs, inverse)
            direction = direction if null is None else null.project_out(problem, coordinates, direction)
            downhill = float((slope * direction).sum())
            state.expected_decrease = -downhill / 2 / size
            made_at = state.expected_decrease if stale else made_at
            gap = min(gap, SAFE * state.expected_decrease) if by_hessian else gap
        state.value, state.gap = now.value, min(gap, 1.0) * size
        stuck = poor >= PATIENCE or not downhill < 0
        if unpenalized and now.value < state.tolerance * problem.row_sum_scale * problem.total_weight:
            break  # separated: f goes to 0, and the coefficients go with it to infinity
        if not exact and (stuck or gap <= enough or state.expected_decrease < NEAR):
            dtype, poor, nearest = torch.float64, 0, math.inf
            now = yield from request(Evaluate(problem, coordinates, point, dtype))
            continue
        if gap <= enough or state.expected_decrease <= again:
            if (yield from certified(state, now)):
                return null
            # Where all coefficients are 0 no gap is expected, while the intercepts have some way to go.
            enough, again = (gap / 30, -1.0) if gap > 0 else (-1.0, min(state.expected_decrease, 1.0) / 30)
            continue
        if stuck:
            break
        found = yield from _search(state, now, slope, direction, l1, dtype, noise)
        if found is None:
            poor = poor if pairs else PATIENCE
            pairs.clear()  # curvature that no longer holds may have misled it
            continue
        at, there = found
        pairs.append(Pair(at - point, there.gradient - now.gradient))
        nearer = now.value - there.value > noise or LAST < state.expected_decrease < nearest
        poor = 0 if nearer else poor + 1
        nearest = min(nearest, state.expected_decrease)
        state.point, now = at, there
    if state.best is not state.point:
        yield from certified(state, now if exact else None)
    if state.best is not None:
        state.point = state.best
    return null


def expected_gap(state: SolverState, now: Derivatives) -> float:
    """About what a certificate by duality will say, without a pass, as if the intercepts were at their optimum.

    Args:
        state: Of a problem with a penalty; else the answer is infinite.
        now: The objective at its point.
    """
    problem = state.problem
    l2, l1 = problem.objective.l2, problem.objective.l1
    coef = state.solution[:, :-1]
    slopes = state.coordinates.gradient_to(problem.model, now.gradient)[:, :-1] - l2 * coef
    if l2:
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        return float(((held + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - held)).sum())
    if not l1:
        return math.inf
    # What makes it feasible costs about (1 - scale)^2 of the loss.
    scale = min(1.0, l1 / max(float(slopes.abs().max()), 1e-300))
    return float((scale * coef * slopes + l1 * coef.abs()).sum()) + (1 - scale) ** 2 * now.loss


def _search(
    state: SolverState,
    now: Derivatives,
    slope: Tensor,
    direction: Tensor,
    l1: Tensor,
    dtype: torch.dtype,
    noise: float,
) -> PassRequests[tuple[Tensor, Derivatives] | None]:
    """A point that satisfies the Wolfe conditions; else the lowest that was met, ``None`` where f does not fall."""
    point = state.point
    orthant = torch.where(point == 0, -slope.sign(), point.sign())
    trials, best, length = [Trial(0.0, now.value, float((slope * direction).sum()), 0.0)], None, 1.0
    for _ in range(TRIALS):
        at = point + length * direction
        stopped = (l1 > 0) & (at.sign() != orthant)
        at = at.masked_fill(stopped, 0.0)
        there = yield from request(Evaluate(state.problem, state.coordinates, at, dtype))
        trial = Trial(length, math.inf, math.inf, 0.0)
        if math.isfinite(there.value):
            along = ((there.gradient + l1 * orthant) * direction).masked_fill(stopped, 0.0).sum()
            trial = Trial(length, there.value, float(along), min(float((slope * (at - point)).sum()), 0.0))
        trials.append(trial)
        if satisfies_wolfe(trials[0], trial, noise):
            return at, there
        if decreases(trials[0], trial, noise) and (best is None or there.value < best[1].value):
            best = at, there
        length = next_length(trials, noise)
    return best


def _direction(
    problem: Problem, point: Tensor, slope: Tensor, l1: Tensor, pairs: Sequence[Pair], inverse: Inverse
) -> Tensor:
    """Where to go, downhill; with l1 coefficients leave 0 towards the side that the slope allows, or not at all."""
    free = (point != 0) | (slope != 0) | (l1 == 0)
    direction, wrong = torch.zeros_like(slope), free
    for _ in range(HOLDS):
        direction = -_product(problem, slope, free, pairs, inverse)
        wrong = free & (l1 > 0) & (point == 0) & (direction * slope >= 0)
        if not bool(wrong.any()):
            return direction
        free = free & ~wrong
    return direction.masked_fill(wrong, 0.0)


def _product(problem: Problem, gradient: Tensor, free: Tensor, pairs: Sequence[Pair], inverse: Inverse) -> Tensor:
    """What L-BFGS knows of the inverse of the Hessian, times a gradient, within the coordinates that are free."""

    def within(vector: Tensor) -> Tensor:
        return centered(problem, vector * free)

    rest, used = within(gradient), []
    for pair in reversed(pairs):
        step, change = pair.step * free, pair.change * free
        curvature = float((step * change).sum())
        if curvature > 0:
            factor = float((step * rest).sum()) / curvature
            rest = rest - factor * change
            used.append((step, change, curvature, factor))
    product = within(inverse(within(rest), free))
    if used:
        _, change, curvature, _ = used[0]
        size = float((change * within(inverse(within(change), free))).sum())
        product = product * (curvature / size if size > 0 else 1.0)
    for step, change, curvature, factor in reversed(used):
        product = product + (factor - float((change * product).sum()) / curvature) * step
    return within(product)


def _preconditioner(state: SolverState, now: Derivatives) -> PassRequests[Inverse]:
    """That of `curvature`, and with l1 what is left of it where some coordinates stay."""
    problem, coordinates, point = state.problem, state.coordinates, state.point
    k, d = problem.num_outputs, problem.num_features
    if not problem.objective.l1:
        solve = yield from preconditioner(problem, coordinates, point, now.curvature, state.seed)
        return lambda gradient, _: solve(gradient)
    own = now.curvature.diagonal().clamp(min=1e-30)
    if d > min(WIDEST, problem.rows) or k * d * d > max(MEMORY * problem.rows * d, LITTLE):
        metric = yield from request(Diagonal(problem, coordinates, point))
        metric = torch.where(metric > RIDGE**2 * own.unsqueeze(1), metric, own.unsqueeze(1))
        return lambda gradient, _: gradient / metric
    blocks = yield from request(SampledCurvature(problem, coordinates, point, own, DRAWN, state.seed))
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    largest = diagonal.amax(1, keepdim=True)
    diagonal.copy_(torch.where(diagonal > RIDGE**2 * largest, (1 + RIDGE) * diagonal, largest))
    factors: dict[int, tuple[Tensor, Tensor]] = {}

    def inverse(gradient: Tensor, free: Tensor) -> Tensor:
        step = gradient / own.unsqueeze(1)
        for output, mine in enumerate(free[:, :-1]):
            if output not in factors or not torch.equal(factors[output][0], mine):
                block = blocks[output][mine][:, mine]
                root, failed = torch.linalg.cholesky_ex(block)
                factors[output] = mine, block.diagonal().sqrt().diag() if failed else root
            towards = gradient[output, :-1][mine].to(blocks.dtype).unsqueeze(1)
            step[output, :-1][mine] = torch.cholesky_solve(towards, factors[output][1])[:, 0].double()
        return step

    return inverse
