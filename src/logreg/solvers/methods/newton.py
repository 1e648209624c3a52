"""Newton's method, after quasi-Newton steps and subspace descent where a Hessian costs more than it saves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.bounds.base import Bound, conversion_rounding, evaluated_point
from logreg.solvers.bounds.curvature import (
    InverseHessianNorms,
    bound_by_held_hessian,
    diagonal_roots,
    inverse_hessian_norms,
)
from logreg.solvers.choose import has_cheap_hessian, has_expensive_hessian, holds_hessian, uses_descent
from logreg.solvers.methods.quasi_newton import FAR_TOL, quasi_newton_steps
from logreg.solvers.methods.subspace_descent import BACKTRACKING_RATIO, descend
from logreg.solvers.minimum_norm import NullSpace, find_null_space
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate, KnownPoint
from logreg.solvers.passes.precise import RowNorms
from logreg.solvers.starting_point import start
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified, certified_cheaply, gap_from_gradient
from logreg.solvers.steps.conjugate_gradients import conjugate_gradients
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.newton_steps import (
    FIRST_RIDGE,
    NOT_FINITE_MESSAGE,
    SINGULAR_PIVOT,
    ZERO_CURVATURE_RTOL,
    FactoredHessian,
    factor_hessian,
)
from logreg.solvers.steps.preconditioner import centered, preconditioner

MAX_EVALUATIONS = 1000
"""Largest number of points at which f is evaluated: a safeguard, since Newton's method takes some tens of points."""

# Steps

PRECONDITIONER_REUSE_TOL = 2e-3
"""Predicted decrease of the last step, relative to f, up to which the preconditioner is kept: the point moves so little
then that its curvature hardly changes."""

MAX_CG_PRODUCTS = 100
"""Largest number of products with the Hessian for one step: each is a pass."""

MAX_CG_RTOL = 0.3
"""Tolerance of conjugate gradients far from the optimum.  Near the optimum the tolerance is the square root of the
gradient's norm, which makes the convergence superlinear."""

STALLED_DECREASE_RATIO = 0.05
"""Actual decrease of f, relative to the predicted one, below which a step counts as stalled."""

MAX_STALLED_NEWTON_STEPS = 12
"""Consecutive stalled or rejected steps after which passes continue in float64; in float64 the solver ends."""

# Hessians

NEAR_TOL = 0.003
"""Predicted decrease, relative to f, below which conjugate gradients follow slow quasi-Newton steps where a Hessian is
expensive: farther from the optimum their steps are too long."""

STALE_CONTRACTION = 0.03
"""Ratio of two successive predicted decreases above which the Hessian is computed anew: it no longer fits the point."""

MAX_SLOW_HESSIANS = 4
"""Hessians in float32 in a row, near the optimum, whose steps do not halve the predicted decrease, after which Hessians
are in float64: large offsets of features may leave float32 no digits of their curvature, and then steps shrink by some
percent each."""

# Precision

FLOAT32_MIN_LENGTH = 0.02
"""Length of a shortened step, as a fraction of the whole one, below which derivatives in float32 are not precise
enough."""

FLOAT64_TOL_NEW_HESSIAN = 1e-5
"""Predicted decrease, relative to f, below which the next evaluation is in float64, where it computes a Hessian: above
it, a gradient in float32 has enough digits for a step."""

FLOAT64_TOL = 1e-4
"""Predicted decrease, relative to f, below which the next evaluation is in float64, where it computes no Hessian: such
a pass is cheap, and the point may be one of the last."""

# Stopping

STOP_FRACTION = 0.1
"""Predicted decrease at which a certificate is tried, as a fraction of the tolerance: a bound on the gap is larger than
the predicted decrease."""

UNPENALIZED_STOP_FACTOR = 1e-6
"""Factor of the stopping tolerance without a penalty.  Such coefficients are compared with those of statistics packages
digit by digit, and their error is proportional to the square root of the gap; one more step gives the digits."""

MAX_FAILED_CERTIFICATES = 5
"""Certificates in a row that do not halve the smallest gap so far, after which the solver gives up."""

# The bound by the factored Hessian

CHEAP_BOUND_TOL = 0.1
"""Predicted decrease of the last step, relative to f, below which `RowNorms` is requested, the one pass that the bound
by self-concordance with the factored Hessian needs."""

MIN_CHEAP_BOUND_REACH = 1e-6
"""Smallest reach at which the bound by the factored Hessian is used.  The reach is the largest gap that this bound can
certify, relative to the stopping limit; with a smaller reach, the further Newton steps would cost more than a
certificate with a Hessian of its own."""


def newton(state: SolverState, rough: float = 0.0) -> PassRequests[NullSpace | None]:
    """Minimizes f by Newton's method from the point of ``state`` until it is certified to be within the tolerance.

    Where the Hessian H cannot be held, or costs more than the passes it saves (see `has_cheap_hessian`), others come
    first: `quasi_newton_steps`, and `descend` where these are slow.  Newton's method follows where they end without a
    certificate.

    The step solves `H @ step = gradient`, and is subtracted.  Where H can be held it is factored.  Where it cannot, or
    takes too long (see `has_expensive_hessian`), preconditioned conjugate gradients solve for the step; each product
    with H takes a pass.  Each iteration:

    1. Evaluate f and its gradient at the trial point, and H where the last one is not used again; at a start where
       they are known, take these (see `SolverState.evaluated`).
    2. Where f increased, shorten the last step to a quarter, or repeat the evaluation in float64.
    3. Solve for the step and the decrease of f that it predicts.
    4. Where the predicted decrease is at most `STOP_FRACTION` of the tolerance, certify the point: by the factored
       Hessian without a pass, or by `certified`.  Where that fails, the next certificate is tried at a tenth of it.
    5. Choose the floating type of the next evaluation and whether it computes H, and take the step.

    float32, where it is the problem's type, is used far from the optimum and for H.  The last gradients are in float64,
    so the accuracy of the result does not depend on it.  A Hessian in float32 is computed anew in float64 where it is
    nearly singular without a penalty, where it is not finite, where shortened steps do not decrease f, and where steps
    are slow near the optimum (`MAX_SLOW_HESSIANS`).

    It stops where the point is certified, where the gradient is 0, after `MAX_FAILED_CERTIFICATES` that did not halve
    the gap, after `MAX_STALLED_NEWTON_STEPS` in float64, after `MAX_EVALUATIONS`, and without a penalty where f is
    nearly 0, which shows separation.  The point is then the one with the best bound.

    Without a penalty, directions that change no logit are computed as soon as H is nearly singular; steps have no part
    along them, and the point is the one of least norm.

    Args:
        state: State of a problem without l1 (see `logreg.solvers.methods.prox_newton`), and with l2 where H cannot be
            held (see `logreg.solvers.methods.lbfgs`); updated in each step.
        rough: Predicted decrease, relative to f, at which to stop without a certificate; 0 for a certified end.

    Returns:
        The directions that change no logit; none where the Hessian shows that there are none, and ``None`` where they
        were not computed.

    Raises:
        DivergedError: f or its derivatives are not finite.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3.3 and 7.1.
    """
    problem = state.problem
    assert not problem.objective.l1
    dtype = yield from start(state, newton)
    if state.converged:
        return None
    if not (state.plain or has_cheap_hessian(problem)):
        if (yield from _without_hessian(state, dtype, rough)):
            return None
        dtype = dtype if rough else torch.float64
    loop = _Iteration(state, dtype, rough)
    for _ in range(MAX_EVALUATIONS):
        now = yield from loop.evaluate()
        if loop.is_worse(now):
            if not loop.retreat():
                break
            continue
        loop.count_stalled(now)
        if not is_finite(now):
            loop.require_float64()
            continue
        loop.accept(now)
        if (yield from loop.certified_by_gradient()):
            break
        if not (yield from loop.solve()):
            continue
        if rough and state.predicted_decrease < rough:
            state.evaluated = loop.known_point()
            return loop.null_space
        yield from loop.prepare_cheap_bound()
        if (yield from loop.ends_by_certificate()) or loop.gives_up():
            break
        loop.take_step()
    yield from loop.certify_last_point()
    return loop.null_space


def _without_hessian(state: SolverState, dtype: torch.dtype, rough: float) -> PassRequests[bool]:
    """Minimizes f by steps that need no Hessian; whether the point is certified, or rough enough."""
    descends = uses_descent(state.problem) and not rough
    slow_tol = FAR_TOL if descends else NEAR_TOL if has_expensive_hessian(state.problem) and not rough else 0.0
    if (yield from quasi_newton_steps(state, dtype, rough, slow_tol)):
        return True
    # Close to the optimum the Hessian bounds the gap at once, where it can be held.
    is_close = holds_hessian(state.problem) and state.predicted_decrease <= STOP_FRACTION * state.tolerance
    if not descends or is_close:
        return False
    return (yield from descend(state)) or (yield from quasi_newton_steps(state, torch.float64))


Path = Callable[[float], Tensor]
"""The length of a step -> the point it leads to, (K, D + 1)."""


class _Iteration:
    """The parts of one iteration of `newton`, and what they share.

    Decreases, gaps and limits are relative to f unless their unit is given.

    Attributes:
        point: The trial point, (K, D + 1).
        dtype: Floating type in which f and its gradient are evaluated at the trial point.
        refresh_hessian: Whether the Hessian is computed at the trial point.
        hessian_dtype: Floating type in which Hessians are computed.
        known: f and its derivatives at the start, if they are known.
        base: f and its derivatives at the last accepted point, the point of the state; ``None`` while it is evaluated
            again.
        exact: Whether ``base`` was evaluated in float64.
        slope: The gradient of f at the accepted point, (K, D + 1).
        estimated_gap: Gap that `gap_from_gradient` estimates there.
        path: The step from the accepted point; ``None`` where the trial point is not the end of a step.
        length: Length of the step that led to the trial point; 1 unless it was shortened.
        stalled_steps: Steps in a row that were rejected or hardly decreased f.
        slow_hessians: Hessians in a row as of `MAX_SLOW_HESSIANS`.
        last_predicted_decrease: Predicted decrease of the step before the current one.
        factored_hessian: The last Hessian that was computed, if there is one.
        hessian: The same before it was made positive definite, where the end is rough.
        hessian_point: The point it was computed at.
        null_space: Directions that change no logit, as far as they are known; ``None`` where they do not matter.
        stop_limit: Predicted decrease at which an ordinary certificate is tried.
        cheap_bound_limit: Predicted decrease up to which the factored Hessian gives a bound; infinite where no such
            bound is used.
        row_norms: Norms of the rows in the metric of the inverse of the factored Hessian, which that bound needs.
        failed_certificates: Certificates in a row that did not halve ``smallest_gap``.
        smallest_gap: The smallest gap of a failed certificate, in units of f.
    """

    def __init__(self, state: SolverState, dtype: torch.dtype, rough: float) -> None:
        problem, objective = state.problem, state.problem.objective
        self.state, self.problem, self.coordinates = state, problem, state.coordinates
        self.unpenalized = not objective.l2

        self.point, self.dtype = state.point, dtype
        self.holds_hessian = state.plain or (holds_hessian(problem) and not has_expensive_hessian(problem))
        self.refresh_hessian, self.hessian_dtype = self.holds_hessian, problem.dtype

        evaluated, state.evaluated = state.evaluated, None
        self.known = None if evaluated is None else evaluated.at(problem, state.coordinates, state.point)
        self.base: Derivatives | None = None
        self.exact = False
        self.slope, self.estimated_gap = self.point, math.inf
        self.path: Path | None = None
        self.length, self.stalled_steps, self.last_predicted_decrease = 1.0, 0, math.inf
        self.slow_hessians = 0

        self.is_rough = rough > 0
        self.hessian: Tensor | None = None
        self.factored_hessian: FactoredHessian | None = None
        self.hessian_point = self.point
        no_directions = state.coordinates.center.new_zeros(problem.num_features + 1, 0)
        self.null_space = NullSpace(no_directions) if self.unpenalized else None
        self.looked_for_null_space = False

        self.stop_limit = STOP_FRACTION * state.tolerance
        if self.unpenalized:
            self.stop_limit *= UNPENALIZED_STOP_FACTOR
        self.bounds_cheaply = self.holds_hessian and not rough and math.isfinite(problem.loss.self_concordance)
        self.row_norms: InverseHessianNorms | None = None
        self.cheap_bound_limit = math.inf
        self.failed_certificates, self.smallest_gap = 0, math.inf

    @property
    def limit(self) -> float:
        """Predicted decrease at which a certificate is tried, by either bound."""
        return min(self.stop_limit, self.cheap_bound_limit)

    def evaluate(self) -> PassRequests[Derivatives]:
        """Evaluates f and its derivatives at the trial point, in one pass; without a pass where they are known."""
        if self.known is not None:
            known, self.known = self.known, None
            return known
        hessian = self.hessian_dtype if self.refresh_hessian else None
        measures_change = self.row_norms is not None and self.dtype == torch.float64 and not self.refresh_hessian
        since = self.hessian_point if measures_change else None
        return (yield from request(Evaluate(self.problem, self.coordinates, self.point, self.dtype, hessian, since)))

    def known_point(self) -> KnownPoint | None:
        """The accepted point with the last Hessian, which may be that of a point nearby; ``None`` without one."""
        if self.hessian is None:
            return None
        return KnownPoint(self.problem, self.coordinates, self.point, self._now()._replace(hessian=self.hessian))

    def is_worse(self, now: Derivatives) -> bool:
        """Whether the trial point is the end of a step and f is larger there, beyond rounding, or undefined."""
        if self.path is None or self.base is None:
            return False
        noise = VALUE_ROUNDING[torch.float64 if self.exact else self.problem.dtype]
        return not now.value <= self.base.value + noise * abs(self.base.value)

    def retreat(self) -> bool:
        """Goes back to the last accepted point in float64, or shortens the step; returns False to give up."""
        is_short = self.length < FLOAT32_MIN_LENGTH
        if not self.exact and (self.dtype == torch.float64 or is_short):
            # The value of f there was one of float32, and may have been too small.
            self._evaluate_base_again()
            return True
        if self.holds_hessian and is_short and self.hessian_dtype != torch.float64:
            # A Hessian in float32 may have the wrong curvature along directions of almost none.
            self._evaluate_base_again()
            self.hessian_dtype, self.refresh_hessian, self.stalled_steps = torch.float64, True, 0
            return True
        assert self.path is not None
        self.length, self.stalled_steps = self.length * BACKTRACKING_RATIO, self.stalled_steps + 1
        if self.stalled_steps >= MAX_STALLED_NEWTON_STEPS:
            return False
        self.point = self.path(self.length)
        return True

    def _evaluate_base_again(self) -> None:
        self.dtype, self.point, self.base, self.path, self.length = torch.float64, self.state.point, None, None, 1.0

    def require_float64(self) -> None:
        """Has the trial point evaluated in float64; raises `DivergedError` where it was, and was not finite."""
        in_float64 = self.dtype == torch.float64 and (not self.refresh_hessian or self.hessian_dtype == torch.float64)
        if not self.holds_hessian or in_float64:
            raise DivergedError(NOT_FINITE_MESSAGE)
        self.dtype = self.hessian_dtype = torch.float64

    def count_stalled(self, now: Derivatives) -> None:
        """Counts steps in a row whose decrease of f is a small part of the predicted one."""
        if self.path is None or self.base is None:
            return
        predicted = self.state.predicted_decrease * abs(self.base.value)
        stalled = not self.base.value - now.value > STALLED_DECREASE_RATIO * predicted  # also where both are 0
        self.stalled_steps = self.stalled_steps + 1 if stalled else 0

    def accept(self, now: Derivatives) -> None:
        """Makes the trial point the one that the next step starts from."""
        state = self.state
        self.base, self.exact, self.length = now, self.dtype == torch.float64, 1.0
        state.point, state.value = self.point, now.value
        self.slope = now.gradient
        self.estimated_gap = gap_from_gradient(state, self.slope, now.curvature)
        state.gap = self.estimated_gap * abs(now.value)

    def certified_by_gradient(self) -> PassRequests[bool]:
        """Certifies the point before a step is solved for, where its gradient is small enough."""
        return self.exact and (yield from certified_cheaply(self.state, self._now(), self.estimated_gap))

    def solve(self) -> PassRequests[bool]:
        """Solves for the next step and its predicted decrease; returns False where a Hessian in float64 is needed."""
        state, now = self.state, self._now()
        if self.holds_hessian:
            if now.hessian is not None and not (yield from self._update_factors(now.hessian)):
                return False
            decrease = self._solve_with_factors(now)
        else:
            decrease = yield from self._solve_by_conjugate_gradients(now)
        self.last_predicted_decrease = state.predicted_decrease
        state.predicted_decrease = decrease / max(abs(now.value), 1e-300)
        state.gap = min(state.gap, now.value, decrease if self.holds_hessian else math.inf)
        return True

    def _update_factors(self, hessian: Tensor) -> PassRequests[bool]:
        """Factors a new Hessian; returns False where it is nearly singular and must be computed in float64.

        Of a loss that is not convex the expected Hessian takes the place of one that is not positive definite (Fisher
        scoring).  The first time it is nearly singular without a penalty, the directions that change no logit are
        computed.
        """
        state, singular_pivot = self.state, SINGULAR_PIVOT[self.hessian_dtype]
        found = self._factor_hessian(hessian)
        if found.ridge > FIRST_RIDGE and not self.problem.loss.is_convex:
            expected = Evaluate(
                self.problem, self.coordinates, self.point, self.dtype, self.hessian_dtype, expected=True
            )
            scored = yield from request(expected)
            assert scored.hessian is not None
            found = self._factor_hessian(scored.hessian)
        if self.null_space is not None and found.smallest_pivot < singular_pivot:
            if not self.looked_for_null_space:
                self.null_space = yield from find_null_space(self.problem, self.coordinates)
                self.looked_for_null_space = True
                self.point = state.point = self.null_space.project_out(self.problem, self.coordinates, self.point)
                found = self._factor_hessian(hessian)
            if found.smallest_pivot < singular_pivot and self.hessian_dtype != torch.float64:
                self.hessian_dtype, self.path = torch.float64, None
                return False
        self.factored_hessian, self.hessian_point = found, self.point
        self.hessian = hessian if self.is_rough else None
        return True

    def _factor_hessian(self, hessian: Tensor) -> FactoredHessian:
        null = None if self.null_space is None else self.null_space.in_coordinates(self.problem, self.coordinates)
        return factor_hessian(self.problem, hessian, self.coordinates, null, ZERO_CURVATURE_RTOL[self.hessian_dtype])

    def _solve_with_factors(self, now: Derivatives) -> float:
        """Solves for a step by the factored Hessian; returns the predicted decrease, in units of f."""
        problem, point, null_space = self.problem, self.point, self.null_space
        assert self.factored_hessian is not None
        step = self.factored_hessian.step(now.gradient)
        target, decrease = centered(problem, point - step), float((step * now.gradient).sum()) / 2
        target = target if null_space is None else null_space.project_out(problem, self.coordinates, target)
        # A whole step gives the target itself, which is centered.
        self.path = lambda length: target if length == 1 else point + length * (target - point)
        return decrease

    def _solve_by_conjugate_gradients(self, now: Derivatives) -> PassRequests[float]:
        """Solves for a step by conjugate gradients; returns the predicted decrease, in units of f."""
        problem, coordinates, state, point, slope = self.problem, self.coordinates, self.state, self.point, self.slope
        learned = state.inverse is not None and len(state.inverse)  # from steps that have failed
        is_old = learned or state.predicted_decrease > PRECONDITIONER_REUSE_TOL
        if state.inverse is None or is_old or state.inverse.is_stale:
            state.inverse = None  # frees its memory before the next one takes it
            first = yield from preconditioner(problem, coordinates, point, now.curvature, state.seed)
            state.inverse = LimitedMemoryInverse(first, problem, problem.penalties(coordinates)[0])
        squared_norm = max(float((slope * state.inverse(slope)).sum()), 0.0)
        rtol = min(squared_norm**0.25, MAX_CG_RTOL)
        found = yield from conjugate_gradients(problem, coordinates, point, slope, state.inverse, rtol, MAX_CG_PRODUCTS)
        self.path = lambda length: point - length * found.step
        return found.predicted_decrease

    def prepare_cheap_bound(self) -> PassRequests[None]:
        """Computes what a bound by a new factored Hessian needs, once steps are small."""
        state, now = self.state, self._now()
        if self.factored_hessian is None or now.hessian is None:
            return
        self.row_norms, self.cheap_bound_limit = None, math.inf
        if self.bounds_cheaply and state.predicted_decrease < CHEAP_BOUND_TOL:
            self.row_norms = yield from _row_norms(state, self.factored_hessian, now.additions)
        if self.row_norms is not None:
            reach = self.row_norms.reach / max(abs(now.value), 1e-300)
            self.cheap_bound_limit = reach if reach > MIN_CHEAP_BOUND_REACH * self.stop_limit else math.inf

    def ends_by_certificate(self) -> PassRequests[bool]:
        """Certifies the point where the predicted decrease is small.

        Returns:
            Whether it is certified, too many certificates have failed, or no step is left: the gradient is 0.
        """
        state = self.state
        if not (self.exact and state.predicted_decrease <= self.limit):
            return False
        if self._certified_by_factored_hessian():
            return True
        at_end = not state.predicted_decrease > 0
        if self.problem.objective.l2 and not self.failed_certificates and not at_end:
            # Another step, which makes the bound by duality small enough, is cheaper than a bound that takes passes.
            state.gap = min(self.estimated_gap, 1.0) * abs(self._now().value)
        elif (yield from certified(state, self.base)):
            return True
        self.failed_certificates = 0 if state.gap < self.smallest_gap / 2 else self.failed_certificates + 1
        self.smallest_gap = min(self.smallest_gap, state.gap)
        self.stop_limit, self.cheap_bound_limit = self.stop_limit / 10, math.inf
        return at_end or self.failed_certificates >= MAX_FAILED_CERTIFICATES

    def _certified_by_factored_hessian(self) -> bool:
        """Bounds the gap by the factored Hessian without a pass; whether it is within the tolerance."""
        state, now = self.state, self._now()
        if self.factored_hessian is None or self.row_norms is None:
            return False
        change = torch.zeros_like(self.row_norms.rows) if now.change is None else now.change
        known = evaluated_point(self.problem, self.coordinates, state.point, now)
        gap = bound_by_held_hessian(self.factored_hessian, self.row_norms, change, known)
        if not gap <= state.tolerance * abs(now.value):
            return False
        gradient = self.coordinates.gradient_to(self.problem.model, now.gradient)
        rounding, error = conversion_rounding(known, self.coordinates), known.value_error
        state.bound = Bound(now.value, gap, True, gradient, now.loss, rounding, error=error)
        state.best, state.gap = state.point, gap
        return True

    def gives_up(self) -> bool:
        """Whether f tends to 0 while the coefficients grow without bound (separation), or steps have stalled."""
        total = self.problem.row_sum_scale * self.problem.total_weight
        is_separated = self.unpenalized and self._now().value < self.state.tolerance * total
        return is_separated or (self.stalled_steps >= MAX_STALLED_NEWTON_STEPS and self.exact)

    def take_step(self) -> None:
        """Moves the trial point to the end of the step, and chooses how it is evaluated.

        The Hessian is used again unless it is stale, where two more steps with it are predicted to reach the limit, and
        where one step with it, at the rate of the last one, is enough for a bound by duality.  The last of them ends at
        a gradient in float64.
        """
        state, decrease = self.state, self.state.predicted_decrease
        has_new_hessian = self._now().hessian is not None or not self.holds_hessian
        # Newton steps square the error; steps by an earlier Hessian shrink it by as much as the last one did.
        contraction = decrease if has_new_hessian else decrease / max(self.last_predicted_decrease, 1e-300)
        next_decrease = decrease * contraction
        is_stale = decrease > STALE_CONTRACTION * self.last_predicted_decrease
        decrease_after_two = decrease * next_decrease
        shown = STALE_CONTRACTION if has_new_hessian else contraction
        suffices = self.estimated_gap * shown <= state.tolerance
        self.refresh_hessian = self.holds_hessian and not suffices and (is_stale or decrease_after_two > self.limit)
        if self._now().hessian is not None:
            is_slow = self.last_predicted_decrease / 2 < decrease < NEAR_TOL
            self.slow_hessians = self.slow_hessians + 1 if is_slow else 0
            if self.slow_hessians == MAX_SLOW_HESSIANS:
                self.hessian_dtype = torch.float64
        float64_tol = FLOAT64_TOL_NEW_HESSIAN if self.refresh_hessian else FLOAT64_TOL
        may_be_last = self.holds_hessian and not self.refresh_hessian and (suffices or next_decrease <= self.limit)
        if self.stalled_steps >= MAX_STALLED_NEWTON_STEPS or decrease < float64_tol or may_be_last:
            self.dtype, self.stalled_steps = torch.float64, self.stalled_steps if self.exact else 0
        assert self.path is not None
        self.point = self.path(1.0)

    def certify_last_point(self) -> PassRequests[None]:
        """Certifies the last accepted point unless it was, and goes back to the point with the best bound."""
        state = self.state
        if state.best is not state.point:
            yield from certified(state, self.base if self.exact else None)
        if state.best is not None:
            state.point = state.best

    def _now(self) -> Derivatives:
        assert self.base is not None
        return self.base


def is_finite(evaluation: Derivatives) -> bool:
    """Whether f, its gradient and its Hessian, if there is one, are finite and not so large that their sums are not."""
    tensors = (evaluation.gradient,) if evaluation.hessian is None else (evaluation.gradient, evaluation.hessian)
    return math.isfinite(evaluation.value) and all(math.isfinite(float(one.sum())) for one in tensors)


def _row_norms(
    state: SolverState, factored_hessian: FactoredHessian, additions: float | None
) -> PassRequests[InverseHessianNorms | None]:
    """The norms of the rows in the metric of a factored Hessian, with its additions; one pass, the first time."""
    problem = state.problem
    if state.row_sizes is None:
        size = diagonal_roots(factored_hessian, problem.num_outputs)
        state.row_sizes = size, (yield from request(RowNorms(problem, state.coordinates, size)))
    return inverse_hessian_norms(problem, factored_hessian, *state.row_sizes, additions)
