"""Newton's method: with Cholesky where the Hessian can be held, with conjugate gradients where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.bounds import Bound, conversion_rounding, evaluated_point
from logreg.solvers.conjugate_gradients import Solution, conjugate_gradients, corrected
from logreg.solvers.curvature_bound import (
    InverseHessianNorms,
    bound_by_held_hessian,
    diagonal_roots,
    inverse_hessian_norms,
)
from logreg.solvers.l1_steps import DAMPING, LEAST_DAMPING, LESS_DAMPING, minimize_with_l1
from logreg.solvers.minimum_norm import NullSpace, find_null_space
from logreg.solvers.newton_steps import FLAT, NOT_FINITE, SINGULAR, Factored, Solve, factored, smallest_subgradient
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.certifying import Reach
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.preconditioner import centered, preconditioner
from logreg.solvers.quasi_newton import LimitedMemoryInverse
from logreg.solvers.starting_point import holds_hessian, start
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified, gap_from_gradient
from logreg.solvers.subspace_descent import descend, descends

PRODUCTS = 100
"""Products for one step at most."""

REFRESH = 2e-3
"""Relative gain of the last step up to which a preconditioner is kept."""

KEPT = 1e-3
"""Likewise a Hessian."""

CHEAP = 0.1
"""Likewise, up to which it is asked whether that Hessian will bound the gap."""

FAR = 1e-6
"""Gap up to which it does, relative to what is wanted, below which no steps are made for it."""

L1_ACCURACY = 1e-8
"""Gain that is left in a quadratic model with l1, relative to all of it, at least: the next model will find it."""

L1_NOISE = 1e-24
"""Gain in it, relative to f, that is rounding: that of a slope, squared, over the least curvature."""

SHORT = 0.02
"""Length of a step at which float32 is no longer believed."""

EIGEN = 256
"""Parameters up to which the eigenvalues of the Hessian cost nothing."""

PATIENCE = 12
"""Steps in a row that gain next to nothing, before giving up."""

STEPS = 1000
"""Points at which f is evaluated, at most."""

SLOW = 0.5
"""Gain that the model expects, relative to what it expected a step before, from which on steps are damped less."""

FINISH = 1e-6
"""Part of the usual gap that is aimed at without a penalty: one more step, so that coefficients have the digits that
are compared with those of statistics packages, since their errors go with the root of the gap."""

SURELY = 1e-16
"""Gain, relative to f, at which a certificate is tried in any case."""

FAILED = 5
"""Certificates in a row that come no nearer than half the best one so far, before giving up."""

ROUNDING = {torch.float32: 1e-6, torch.float64: FLAT}
"""Curvature by a coordinate that is rounding, where the Hessian was computed in that type; see `FLAT`."""


def newton(state: SolverState, rough: float = 0.0) -> PassRequests[NullSpace | None]:
    """Minimizes f from where ``state`` stands until it is certified to be within its tolerance.

    float32 arithmetic, where the problem asks for it, serves far from the optimum and in the curvature; the last
    gradients are taken in float64, so that the accuracy of the result does not depend on it.

    With l1 each step minimizes the quadratic model with the penalty; the Hessian must be one that can be held.

    Without a penalty, directions that change no logit are looked for as soon as the Hessian is nearly singular, and the
    point stays the one of least norm; such a Hessian is computed in float64.

    Args:
        state: Of the problem; told of each step.
        rough: Relative gain still expected, at which to end without a certificate; 0 for a certified end.

    Returns:
        The directions that change no logit; none where the Hessian shows that there are none, and ``None`` where nobody
        looked for them.

    Raises:
        DivergedError: f or its derivatives are not finite.

    Source:
        Nocedal and Wright (2006), Numerical Optimization, chapter 7; Byrd and others (2016), A family of second-order
        methods for convex l1-regularized optimization.
    """
    problem = state.problem
    held = holds_hessian(problem)
    assert held or not problem.objective.l1, "working_sets narrows such a problem first"
    dtype = yield from start(state, newton)
    if descends(problem):
        if (yield from descend(state)):
            return None
        dtype = torch.float64
    coordinates = state.coordinates
    l1 = problem.penalties(coordinates)[1]
    # The duality gap of l1 alone is of first order in the distance, what the model expects of second.
    first_order = problem.objective.l1 > 0 and not problem.objective.l2
    stop_at = max(0.1 * state.tolerance**2, SURELY) if first_order else 0.1 * state.tolerance
    unpenalized = not (problem.objective.l2 or problem.objective.l1)
    if held and unpenalized:
        stop_at *= FINISH
    dependent = problem.dependent
    bounds_cheaply = held and not problem.objective.l1 and dependent <= EIGEN and not rough
    floor = problem.row_sum_scale * problem.total_weight
    base: Derivatives | None = None
    direct: Factored | None = None
    of_rows: InverseHessianNorms | None = None
    cheap = math.inf  # relative gap up to which these give a bound
    inverse: Solve | None = None
    solve: Solve | None = None
    known: Solution | None = None
    at, path, length, poor, renew = state.point, None, 1.0, 0, held
    of_hessian = at
    exact = False
    wide = problem.dtype  # the type that Hessians are computed in
    null = NullSpace(coordinates.center.new_zeros(problem.num_features + 1, 0)) if held and unpenalized else None
    looked, nearest, failed = False, math.inf, 0
    damping = DAMPING
    for _ in range(STEPS):
        hessian = wide if renew else None
        since = of_hessian if of_rows is not None and dtype == torch.float64 and not renew else None
        now = yield from request(Evaluate(problem, coordinates, at, dtype, hessian, since))
        if path is not None and base is not None:
            worse = not now.value <= base.value + VALUE_ROUNDING[torch.float64 if exact else problem.dtype] * abs(
                base.value
            )
            if worse and not exact and (dtype == torch.float64 or length < SHORT):
                # Perhaps it only looks so: the old value was one of float32.
                dtype, at, base, path, length = torch.float64, state.point, None, None, 1.0
                continue
            if worse and held and length < SHORT and wide != torch.float64:
                # Nor is a Hessian of float32, which may have curvature where there is none.
                dtype = wide = torch.float64
                at, base, path, length, renew = state.point, None, None, 1.0, True
                continue
            if worse:
                length, poor = length / 4, poor + 1
                if poor >= PATIENCE:
                    break
                at = path(length)
                continue
            poor = poor + 1 if base.value - now.value < 0.05 * state.expected_decrease * abs(base.value) else 0
        if not is_finite(now):
            if not held or (dtype == torch.float64 and (hessian is None or wide == torch.float64)):
                raise DivergedError(NOT_FINITE)
            dtype = wide = torch.float64
            continue
        base, exact, length = now, dtype == torch.float64, 1.0
        state.point, state.value = at, now.value
        slope = smallest_subgradient(at, now.gradient, l1)
        close = gap_from_gradient(state, slope, now.curvature)
        state.gap = close * abs(now.value)

        if exact and not held and close <= state.tolerance and (yield from certified(state, now)):
            return None
        if held:
            if now.hessian is not None:
                along = null.in_coordinates(problem, coordinates) if null is not None else None
                direct, of_hessian = factored(problem, now.hessian, coordinates, along, ROUNDING[wide]), at
                if null is not None and direct.weakest < SINGULAR[wide]:
                    if not looked:
                        null, looked = (yield from find_null_space(problem, coordinates)), True
                        at = state.point = null.project_out(problem, coordinates, at)
                        direct = factored(
                            problem, now.hessian, coordinates, null.in_coordinates(problem, coordinates), ROUNDING[wide]
                        )
                        of_hessian = at
                    if direct.weakest < SINGULAR[wide] and wide != torch.float64:
                        wide, path = torch.float64, None
                        continue
            assert direct is not None
            path, gain = _with_matrix(state, direct, at, now.gradient, null, damping)
            if first_order and wide != torch.float64 and (failed or not gain > 0) and bool(slope.any()):
                # Of columns nearly alike a Hessian of float32 is not even convex, and what seems best there is nothing.
                dtype = wide = torch.float64
                path, renew, failed = None, True, 0
                continue
        else:
            if state.inverse is None or state.expected_decrease > REFRESH:
                inverse = solve = state.inverse = None  # frees their memory
                solve = yield from preconditioner(
                    problem, coordinates, at, now.curvature, state.seed, state.preconditioner_rows
                )
                state.inverse = LimitedMemoryInverse(solve, problem, problem.penalties(coordinates)[0])
            inverse = state.inverse
            accuracy = max(float((slope * inverse(slope)).sum()), 0.0) ** 0.25
            accuracy = max(min(accuracy, 0.3), min(0.5, 0.3 * math.sqrt(state.tolerance / max(close, 1e-300))))
            solve = inverse if known is None else corrected(inverse, known)
            known = yield from conjugate_gradients(problem, coordinates, at, slope, solve, accuracy, PRODUCTS)
            path, gain = _along(at, known.step), known.gain
        expected, state.expected_decrease = state.expected_decrease, gain / max(abs(now.value), 1e-300)
        state.gap = min(state.gap, now.value, gain if held else math.inf)
        stale = state.expected_decrease > 0.03 * expected
        if state.expected_decrease > SLOW * expected and wide == torch.float64 and not failed:
            damping = max(damping * LESS_DAMPING, LEAST_DAMPING)
        # Newton's steps square what is left; those by a Hessian of before shrink it as the last one did.
        shrinks = (
            state.expected_decrease
            if now.hessian is not None or not held
            else state.expected_decrease / max(expected, 1e-300)
        )
        ahead = state.expected_decrease * shrinks
        if rough and state.expected_decrease < rough:
            return null
        if direct is not None and now.hessian is not None:
            of_rows = (yield from _norms(state, direct)) if bounds_cheaply and state.expected_decrease < CHEAP else None
            cheap = math.inf if of_rows is None else of_rows.reach / max(abs(now.value), 1e-300)
            cheap = cheap if cheap > FAR * stop_at else math.inf
        if exact and state.expected_decrease <= min(stop_at, cheap):
            if direct is not None and of_rows is not None and _nearly_quadratic(state, direct, of_rows, now):
                return null
            if (yield from certified(state, now)):
                break
            failed = 0 if state.gap <= nearest / 2 else failed + 1
            damping = DAMPING  # steps of little length are repeated, which refines what they solve
            nearest = min(nearest, state.gap)
            if failed >= FAILED:
                break
            stop_at, cheap = stop_at / 10, math.inf
        if unpenalized and now.value < state.tolerance * floor:
            break  # separated: f goes to 0, and the coefficients go with it to infinity
        if poor >= PATIENCE and exact:
            break
        # A Hessian is made anew unless that of here does for two more steps, the second of which is from a point
        # that is told in float64; with a gradient in float32, while that still tells enough.
        last = min(stop_at, cheap)
        renew = held and (stale or (state.expected_decrease > KEPT and state.expected_decrease * ahead > last))
        enough = 1e-5 if renew else 1e-4 if held else max(1e-4, 0.1 * state.tolerance)
        if poor >= PATIENCE or state.expected_decrease < enough or (held and not renew and ahead <= last):
            dtype, poor = torch.float64, poor if exact else 0
        at = path(1.0)
    if state.best is not state.point:
        yield from certified(state, base if base is not None and exact else None)
    if state.best is not None:
        state.point = state.best
    return null


def is_finite(evaluation: Derivatives) -> bool:
    """Whether f and its gradient are, and the Hessian if there is one; so large that sums are not, they are not."""
    tensors = (evaluation.gradient,) if evaluation.hessian is None else (evaluation.gradient, evaluation.hessian)
    return math.isfinite(evaluation.value) and all(math.isfinite(float(one.sum())) for one in tensors)


Path = Callable[[float], Tensor]
"""Length of a step -> the point it leads to."""


def _with_matrix(
    state: SolverState, direct: Factored, point: Tensor, gradient: Tensor, null: NullSpace | None, damping: float
) -> tuple[Path, float]:
    """Newton's step, and what the quadratic model says it is worth."""
    if state.problem.objective.l1:
        accuracy = min(1e-2, max(L1_ACCURACY, state.expected_decrease))
        noise = L1_NOISE * abs(state.value)
        target, gain = minimize_with_l1(
            state.problem, state.coordinates, direct.matrices, gradient, point, accuracy, noise, damping
        )
    else:
        step = direct.step(gradient)
        target, gain = centered(state.problem, point - step), float((step * gradient).sum()) / 2
        target = target if null is None else null.project_out(state.problem, state.coordinates, target)
    return lambda length: target if length == 1 else point + length * (target - point), gain


def _along(point: Tensor, step: Tensor) -> Path:
    return lambda length: point - length * step


def _norms(state: SolverState, direct: Factored) -> PassRequests[InverseHessianNorms | None]:
    """What bounds the gap by the Hessian that is held."""
    problem = state.problem
    if state.row_sizes is None:
        size = diagonal_roots(direct, problem.num_outputs)
        state.row_sizes = size, (yield from request(Reach(problem, state.coordinates, size)))
    return inverse_hessian_norms(problem, direct, *state.row_sizes)


def _nearly_quadratic(
    state: SolverState, direct: Factored, of_rows: InverseHessianNorms, evaluation: Derivatives
) -> bool:
    """Bounds the gap by the Hessian that is held, without a pass; whether it is within the tolerance."""
    change = torch.zeros_like(of_rows.rows) if evaluation.change is None else evaluation.change
    gap = bound_by_held_hessian(direct, of_rows, change, evaluation.gradient)
    if not gap <= state.tolerance * abs(evaluation.value):
        return False
    gradient = state.coordinates.gradient_to(state.problem.model, evaluation.gradient)
    known = evaluated_point(state.problem, state.coordinates, state.point, evaluation)
    rounding, error = conversion_rounding(known, state.coordinates), known.value_error
    state.bound = Bound(evaluation.value, gap, True, gradient, evaluation.loss, rounding, error=error)
    state.best = state.point
    state.gap = gap
    return True
