"""Quasi-Newton steps with a line search, on top of a first matrix that gets better as the steps go on.

`logreg.solvers.methods.newton` begins with them where there is an l2 and a Hessian takes longer than a few passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.bounds.balance import MAX_LEAST_REACH, least_reach
from logreg.solvers.choose import holds_hessian
from logreg.solvers.costs import blocks_seconds, hessian_seconds, pass_seconds
from logreg.solvers.methods.subspace_descent import (
    CERTIFY_TOL_FACTOR,
    LINEAR_TOL,
    REMAKE_VALUE_RATIO,
    least_gradient_point,
)
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified_by_sample, certified_cheaply, gap_from_gradient
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.line_search import (
    CURVATURE_CONSTANT,
    MAX_LINE_SEARCH_POINTS,
    LineSearchPoint,
    next_length,
    satisfies_armijo,
)
from logreg.solvers.steps.preconditioner import (
    BlockInverse,
    block_rows,
    centered,
    holds_blocks,
    inverse_of_blocks,
    preconditioner,
    preconditioner_passes,
)

MAX_QUASI_NEWTON_STEPS = 1000
"""Largest number of steps: other ways continue from there."""

MAX_NEWTON_HESSIANS = 30
"""Hessians in whose time Newton's method mostly ends: where one can be held, no more time is spent on steps."""

MAX_DIAGONAL_STEPS_LEFT = 16
"""Steps that may be left with the diagonal, beyond those that take as long as better matrices take to form."""

MAX_STEPS_LEFT = 32
"""Steps that may be left with a better matrix before another way follows, which takes some passes to get going."""

FLOAT32_END_TOL = 1e-6
"""Predicted decrease, relative to f, below which steps in float32 may have come to their end: f in float32 has about
that accuracy."""

MAX_STEPS_WITHOUT_PROGRESS = 8
"""Consecutive steps without progress after which L-BFGS goes on in float64; in float64 steps end."""

LATE_FRACTION = 0.1
"""Predicted decrease, as a fraction of the tolerance, below which steps serve the bound by duality alone.

Such steps end where they take as long as a Hessian, which bounds the gap by about the predicted decrease."""

FAR_TOL = 0.03
"""Predicted decrease, relative to f, above which steps are not slow: far from the optimum f falls by as much, while the
gradient may grow."""

SAMPLE_TOL_FACTOR = 0.8
"""Predicted decrease, divided by the part of the rows in the sample, at which a bound by the sample is tried, as a
multiple of the tolerance: the bound is a little more."""

MAX_SAMPLE_DECREASE = 1e-3
"""Predicted decrease, relative to f and divided by the squared part of the rows in a sample, above which the Newton
step of the sample, which is longer by that part, changes some logits by too much to bound the gap."""

MAX_BALANCE_RATIO = 10.0
"""Factor by which a dual point is out of the reach of a balance without a pass, up to which steps bring it there."""

MAX_BALANCE_STEPS = 3
"""Steps for that, at most: more take longer than the pass, which is in float64."""

HESSIAN_BOUND_PASSES = 2
"""Passes that the bound by a Hessian takes besides the Hessian."""

RATE_STEPS = 4
"""Last steps whose convergence is compared; steps are slow where they do not halve the estimated gap together."""


def quasi_newton_steps(
    state: SolverState, dtype: torch.dtype, rough: float = 0.0, slow_tol: float = 0.0
) -> PassRequests[bool]:
    """Minimizes f by steps along -B @ gradient, with B the `LimitedMemoryInverse`, until certified or at an end.

    The first matrix of B is at first the inverse of the state, if it has one: the Hessian of a sample, or that of a
    neighboring problem.  Else it is one of these, each of which takes longer to form than the one before:

    1. The diagonal of the Hessian of standardized features, which is known without a pass.
    2. The `preconditioner` of correlated features, as soon as steps with the diagonal would take longer than it takes
       to form.
    3. Each output's block of the Hessian, where blocks can be held and steps have taken as long as the blocks do.
       Whenever the fit would have ended, it takes at most twice as long as with the better choice.

    The point of least gradient in the span of the last steps, also those for another l2, is certified as soon as its
    estimated gap is small enough.  Where a certificate with steps for another l2 fails, only those since are used.

    A step has length 1, unless f is too large there or falls on steeply: then a cubic through two points of the line
    gives the next length to try.

    Where the state has a sample, its Newton step bounds the gap as soon as the predicted decrease is small enough.

    Steps end where float64 brings no more progress, and where a held Hessian bounds the gap sooner than duality does.
    Where another way follows they end as soon as steps are slow with the best matrix that is to be had.

    Args:
        state: State of the problem, with l2 > 0; updated in each step.
        dtype: Floating type of the first steps; float64 follows where it is another one.
        rough: Predicted decrease, relative to f, at which to stop without a certificate; 0 for a certified end.
        slow_tol: Predicted decrease, relative to f, from which slow steps end since another way follows; 0 where none
            does.

    Returns:
        Whether the point is certified, or rough enough.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3.5 and 7.2.
        Karlin, Manasse, Rudolph and Sleator (1988), Competitive snoopy caching, for when to pay for the blocks.
    """
    now = yield from request(Evaluate(state.problem, state.coordinates, state.point, dtype))
    return (yield from _Steps(state, now, dtype, rough, slow_tol).run())


class _Steps:
    """The parts of one step, and what they share.

    Attributes:
        now: The derivatives at the point of the state.
        dtype: Floating type of the evaluations.
        exact: Whether ``now`` was evaluated in float64.
        limit: Estimated gap, relative to f, at which a point is evaluated in float64 to be certified.
        sample_limit: Predicted decrease, divided by the part of the rows in the sample, at which a bound by the sample
            is tried next.
        diagonal: The first matrix, while it is the diagonal.
        made_at: f where the first matrix was made, or where these steps started if that is not known; infinite where it
            has no Hessian blocks.
        error: Factor by which the gaps that were estimated at such points have turned out too small.
        left: What is left of the way after each step, relative to f: the estimated gap, or where a certificate is not
            asked for, the predicted decrease.
        late_steps: Steps that served the bound by duality alone.
        balance_steps: Steps for `saves_balance`.
        stalled_steps: Steps in a row in float64 without progress.
    """

    def __init__(self, state: SolverState, now: Derivatives, dtype: torch.dtype, rough: float, slow_tol: float) -> None:
        problem = state.problem
        self.state, self.problem, self.now, self.rough, self.slow_tol = state, problem, now, rough, slow_tol
        self.dtype, self.exact = dtype, dtype == torch.float64
        self.limit = max(CERTIFY_TOL_FACTOR * state.tolerance, 1e-300)
        most = min(SAMPLE_TOL_FACTOR * state.tolerance, MAX_SAMPLE_DECREASE * state.sample_part)
        self.sample_limit = 0.0 if rough else most
        self.diagonal: _ScaledDiagonal | None = None
        l2, of_pass = problem.penalties(state.coordinates)[0], pass_seconds(problem)
        if state.inverse is None:
            self.diagonal = _ScaledDiagonal(problem, state.coordinates, now)
            state.inverse = LimitedMemoryInverse(self.diagonal, problem, l2)
        else:
            state.inverse.change_l2(l2)
        self.made_at = math.inf if self.diagonal is not None else min(self.inverse.made_at, now.value)
        self.error = 1.0
        self.left: list[float] = []
        self.most_diagonal = preconditioner_passes(problem) + MAX_DIAGONAL_STEPS_LEFT
        self.steps_of_blocks = blocks_seconds(problem, min(block_rows(problem), problem.rows)) / of_pass
        self.most_late = (
            HESSIAN_BOUND_PASSES + hessian_seconds(problem) / of_pass if holds_hessian(problem) else math.inf
        )
        of_newton = MAX_NEWTON_HESSIANS * hessian_seconds(problem) / of_pass
        self.most_steps = min(
            MAX_QUASI_NEWTON_STEPS, int(of_newton) if holds_hessian(problem) else MAX_QUASI_NEWTON_STEPS
        )
        self.late_steps, self.stalled_steps, self.balance_steps, self.smallest_decrease = 0, 0, 0, math.inf

    @property
    def inverse(self) -> LimitedMemoryInverse:
        """The approximate inverse of the Hessian."""
        assert self.state.inverse is not None
        return self.state.inverse

    @property
    def may_precondition(self) -> bool:
        """Whether the `preconditioner` may replace the diagonal: that of features without correlations is about it."""
        return self.diagonal is not None and self.state.correlation != 1

    @property
    def noise(self) -> float:
        """Rounding error of f."""
        return VALUE_ROUNDING[self.dtype] * abs(self.now.value)

    def run(self) -> PassRequests[bool]:
        """Takes steps to their end; returns whether the point is certified, or rough enough."""
        state = self.state
        for _ in range(self.most_steps):
            gap = yield from self.certified()
            if state.converged and not self.rough:
                return True
            self.left.append(gap)
            if self.slow_tol and not self.may_precondition and self.is_slow():
                return False
            yield from self.improve_matrix()
            step = centered(self.problem, -self.inverse(self.now.gradient))
            slope, last_decrease = float((step * self.now.gradient).sum()), state.predicted_decrease
            state.predicted_decrease = -slope / 2 / max(abs(self.now.value), 1e-300)
            if self.rough:
                if state.predicted_decrease + last_decrease < self.rough:
                    return True
                self.left[-1:] = [state.predicted_decrease]
            if (yield from self.certified_by_sample()):
                return True
            if self.serves_bound_too_long():
                return False
            at_end = state.predicted_decrease < FLOAT32_END_TOL and _halvings(self.left) < 1
            dtype = torch.float64 if self.sample_bounds_next(last_decrease) else self.dtype
            found = None if at_end and self.dtype != torch.float64 else (yield from self.search(step, slope, dtype))
            if found is None:
                if len(self.inverse) and not at_end:
                    self.inverse.clear()  # its curvature may belong to points far away
                elif self.dtype != torch.float64:
                    self.use_float64()
                    self.now = yield from request(Evaluate(self.problem, state.coordinates, state.point, torch.float64))
                    self.exact = True
                else:
                    return False
                continue
            if not self.accept(step, *found, dtype):
                return False
        return False

    def certified(self) -> PassRequests[float]:
        """Certifies the point, or that of least gradient near it, where the estimated gap is small enough.

        Returns:
            The estimated gap of the point, relative to f.
        """
        state, now = self.state, self.now
        state.value = now.value
        gap_here = gap_from_gradient(state, now.gradient, now.curvature)
        state.gap = min(gap_here, 1.0) * abs(now.value)
        if self.rough:
            return gap_here
        if self.exact and (yield from certified_cheaply(state, now, gap_here)):
            return gap_here
        extrapolates = self.inverse.linear_pairs > 0 and gap_here > self.limit
        if not (self.exact or extrapolates) and gap_here <= self.limit and self.saves_balance():
            return gap_here
        flattest, gap = state.point, gap_here
        if extrapolates:
            flattest, gap = least_gradient_point(state, now)
            gap *= self.error
        if gap <= self.limit and not (self.exact and flattest is state.point):
            there = yield from request(Evaluate(self.problem, state.coordinates, flattest, torch.float64))
            gap_there = gap_from_gradient(state, there.gradient, there.curvature)
            is_better = gap_there <= gap_here and there.value <= now.value + self.noise
            is_better |= gap_there <= state.tolerance  # f is within the tolerance wherever it is larger
            if flattest is state.point and not is_better:  # the gradient in float32 has lost its digits
                self.use_float64()
            if flattest is state.point or is_better:
                state.point, state.value, self.now, self.exact = flattest, there.value, there, True
                if (yield from certified_cheaply(state, there, gap_there)):
                    return gap_there
            error = max(gap_there / max(gap, 1e-300), 1.0)
            if extrapolates:  # which says nothing of the gaps that are estimated at the points of the steps
                inverse = self.inverse
                self.error, error = self.error * error if inverse.linear_pairs <= inverse.own_pairs else 1.0, 1.0
                inverse.linear_pairs = min(inverse.linear_pairs, inverse.own_pairs)
            self.limit = max(self.limit * CERTIFY_TOL_FACTOR / error, 1e-300)
            return gap_there if self.now is there else min(gap_here, gap_there)
        return gap_here

    def saves_balance(self) -> bool:
        """Whether a certificate here would take a pass to balance the dual point, and none after a few more steps.

        See `balanced_by_least`, which takes none.
        """
        least, by_intercepts = self.now.of_least, self.now.gradient[:, -1]
        if least is None or not self.problem.intercept or self.balance_steps == MAX_BALANCE_STEPS:
            return False
        saves = 1 < least_reach(by_intercepts, least) / MAX_LEAST_REACH <= MAX_BALANCE_RATIO
        self.balance_steps += saves
        return saves

    @property
    def sample_decrease(self) -> float:
        """The predicted decrease, divided by the part of the rows in the sample: about the bound by the sample."""
        return self.state.predicted_decrease / max(self.state.sample_part, 1e-300)

    def certified_by_sample(self) -> PassRequests[bool]:
        """Certifies the point by the Newton step of the sample, where that step is small enough."""
        if not self.exact or self.sample_decrease > self.sample_limit:
            return False
        if (yield from certified_by_sample(self.state, self.now)):
            return True
        self.sample_limit = self.sample_decrease / 10
        return False

    def sample_bounds_next(self, last_decrease: float) -> bool:
        """Whether the sample is likely to bound the gap after the next step, if that is evaluated in float64."""
        last = max(last_decrease, 1e-300)  # 0 where f and its gradient have fallen to 0
        contraction = self.state.predicted_decrease / last if math.isfinite(last) else 0.1
        return self.sample_decrease * min(contraction, 1.0) <= self.sample_limit

    def is_slow(self) -> bool:
        """Whether steps with the first matrix take too long."""
        most = self.most_diagonal if self.may_precondition else MAX_STEPS_LEFT
        tolerance = FAR_TOL if self.may_precondition else self.slow_tol
        end = self.rough or self.limit
        return self.state.predicted_decrease <= tolerance and _are_slow(self.left, end, most)

    def improve_matrix(self) -> PassRequests[None]:
        """Replaces the first matrix by a better one where that pays."""
        state, problem, now = self.state, self.problem, self.now
        if self.may_precondition:
            if not self.is_slow():
                return
            state.inverse = self.diagonal = None  # frees its memory before the next one takes it
            first = yield from preconditioner(problem, state.coordinates, state.point, now.curvature, state.seed)
            self.made_at = now.value if isinstance(first, BlockInverse) else math.inf
        else:
            paid = self.inverse.steps > self.steps_of_blocks and now.value <= REMAKE_VALUE_RATIO * self.made_at
            if not (paid or self.inverse.is_stale) or not holds_blocks(problem):
                return
            state.inverse = self.diagonal = None
            by_intercept, number = now.curvature.diagonal().clamp(min=1e-30), block_rows(problem)
            first = yield from inverse_of_blocks(
                problem, state.coordinates, state.point, by_intercept, number, state.seed
            )
            self.made_at = now.value
        state.inverse = LimitedMemoryInverse(first, problem, problem.penalties(state.coordinates)[0], self.made_at)
        self.error, self.left = 1.0, []

    def serves_bound_too_long(self) -> bool:
        """Whether a held Hessian would have bounded the gap in the time of the last steps."""
        self.late_steps += self.state.predicted_decrease <= LATE_FRACTION * self.state.tolerance
        return self.late_steps > self.most_late

    def search(self, step: Tensor, slope: float, dtype: torch.dtype) -> PassRequests[tuple[float, Derivatives] | None]:
        """Searches for the length of a step (K, D + 1) along which f has a slope, by evaluations in a floating type.

        Returns:
            The length, and the derivatives of f after the step; ``None`` where no length decreases f enough.
        """
        state = self.state
        trials, length, found = [LineSearchPoint(0.0, self.now.value, slope, 0.0)], 1.0, None
        if not slope < 0:
            return None
        for _ in range(MAX_LINE_SEARCH_POINTS):
            after = yield from request(Evaluate(self.problem, state.coordinates, state.point + length * step, dtype))
            trial = LineSearchPoint(length, math.inf, math.inf, 0.0)
            if math.isfinite(after.value):
                trial = LineSearchPoint(length, after.value, float((step * after.gradient).sum()), length * slope)
            trials.append(trial)
            if satisfies_armijo(trials[0], trial, self.noise):
                found = length, after
                if trial.slope >= CURVATURE_CONSTANT * slope or -length * slope <= self.noise:
                    break
            elif found is not None:
                break
            length = next_length(trials, self.noise)
        return found

    def accept(self, step: Tensor, length: float, after: Derivatives, dtype: torch.dtype) -> bool:
        """Takes a step of a length, and learns from it; returns whether steps in float64 still progress."""
        state, change = self.state, after.gradient - self.now.gradient
        if self.diagonal is not None:
            self.diagonal.fit(length * step, change)
        decrease = state.predicted_decrease
        self.inverse.update(length * step, change, self.now.value, decrease <= LINEAR_TOL)
        self.inverse.forget_stale(after.value)
        progresses = self.now.value - after.value > self.noise or decrease < self.smallest_decrease
        self.smallest_decrease = min(self.smallest_decrease, decrease)
        self.stalled_steps = 0 if progresses or self.dtype != torch.float64 else self.stalled_steps + 1
        self.inverse.steps += 1
        state.point, self.now, self.exact = state.point + length * step, after, dtype == torch.float64
        return self.stalled_steps < MAX_STEPS_WITHOUT_PROGRESS

    def use_float64(self) -> None:
        """Has the steps evaluated in float64 from here on."""
        self.dtype = torch.float64
        self.inverse.linear_pairs = 0
        self.left, self.error, self.smallest_decrease = [], 1.0, math.inf


def _halvings(left: list[float]) -> float:
    """How often the last `RATE_STEPS` steps together halved what was left of the way; infinite before so many steps."""
    if len(left) <= RATE_STEPS:
        return math.inf
    return math.log2(max(left[-1 - RATE_STEPS] / max(left[-1], 1e-300), 1e-300))


def _are_slow(left: list[float], end: float, most: float) -> bool:
    """Whether the last steps did not halve what is left of the way, or more than ``most`` steps are left at their rate.

    Args:
        left: What is left of the way after each step.
        end: What is left at the end, > 0.
        most: Number of steps.
    """
    halvings = _halvings(left)
    return halvings < 1 or math.log2(max(left[-1] / end, 1.0)) / halvings * RATE_STEPS > most


class _ScaledDiagonal:
    """The inverse of the Hessian's diagonal where features have mean 0 and deviation 1, times a factor.

    References:
        Nocedal and Wright (2006), Numerical Optimization, equation 7.20, for the factor.
    """

    def __init__(self, problem: Problem, coordinates: Coordinates, now: Derivatives) -> None:
        l2 = problem.penalties(coordinates)[0]
        self._metric = now.curvature.diagonal().clamp(min=1e-30).unsqueeze(1) + l2

    def fit(self, step: Tensor, change: Tensor) -> None:
        """Chooses the factor that fits a step and the change of the gradient along it, both (K, D + 1)."""
        along = float((step * change).sum())
        if along > 0:
            self._metric *= float((change * (change / self._metric)).sum()) / along

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient / self._metric
