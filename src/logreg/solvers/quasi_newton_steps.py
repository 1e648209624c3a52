"""Quasi-Newton steps of full length, one evaluation each, for as long as they succeed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.costs import blocks_seconds, hessian_seconds, pass_seconds
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.preconditioner import SAMPLED_ROWS, centered, preconditioner
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.quasi_newton import LimitedMemoryInverse
from logreg.solvers.starting_point import holds_hessian
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified, certified_by_sample, gap_from_gradient
from logreg.solvers.subspace_descent import CERTIFY_TOL_FACTOR, MAX_EXTRAPOLATION_PAIRS, least_gradient_point

MAX_UNIT_STEPS = 300
"""Largest number of steps; other methods continue from there."""

MIN_ACTUAL_DECREASE = 0.01
"""Actual decrease of f, relative to the predicted one, below which a step has failed."""

MIN_LENGTH = 0.1
"""Smallest length of a step that is tried where the whole step fails."""

MAX_LENGTH = 0.7
"""Largest length that is tried then, so that it differs from the whole step."""

MAX_DIAGONAL_STEPS = 16
"""Steps that may be left with the diagonal, beyond those that take as long as better matrices take to form: with these,
some steps are left as well."""

LATE_FRACTION = 0.1
"""Predicted decrease, as a fraction of the tolerance, below which steps serve the bound by duality alone.

Such steps end where they take as long as a Hessian, which bounds the gap by about the predicted decrease."""

MAX_EXTRAPOLATION = 100
"""Estimated gap, relative to the limit, from which the point of least gradient is looked for: its gap is smaller, but
hardly by more."""

RATE_STEPS = 4
"""Last steps whose convergence is compared; where they do not halve the estimated gap together, steps end."""

FAR_DECREASE = 0.05
"""Predicted decrease, relative to f, above which the convergence is not judged yet: the optimum is far."""

SAMPLE_TOL_FACTOR = 0.8
"""Predicted decrease, divided by the part of the rows in the sample, at which a bound by the sample is tried, as a
multiple of the tolerance: the bound is a little more."""

MAX_FAR_STEPS = 20
"""Steps with a good first matrix after which it is judged anyway."""


def quasi_newton_steps(state: SolverState, rough: float = 0.0) -> PassRequests[bool]:
    """Minimizes f by steps s = -B @ gradient, with B the `LimitedMemoryInverse`, until certified or a step fails.

    B starts from the inverse of the state, if it has one: the Hessian of a sample, or that of a neighboring problem.
    Else it starts from the diagonal of the Hessian of standardized features, which is known without a pass, and from
    the `preconditioner` as soon as steps with the diagonal would take longer than it takes to form.

    Args:
        state: State of the problem, with l2 > 0; updated in each step.
        rough: Predicted decrease, relative to f, at which to stop without a certificate; 0 for a certified end.

    Returns:
        Whether the point is certified, or rough enough.
    """
    problem, coordinates = state.problem, state.coordinates
    l2 = problem.penalties(coordinates)[0]
    now = yield from request(Evaluate(problem, coordinates, state.point))
    if state.inverse is not None:
        state.inverse.change_l2(l2)
        return (yield from _Steps(state, now).run(rough, math.inf))
    steps = _Steps(state, now, _ScaledDiagonal(problem, coordinates, now))
    better = blocks_seconds(problem, min(SAMPLED_ROWS, problem.rows)) / pass_seconds(problem)
    if (yield from steps.run(rough, better + MAX_DIAGONAL_STEPS)):
        return True
    state.inverse = None  # frees its memory before the next one takes it
    first = yield from preconditioner(problem, coordinates, state.point, steps.now.curvature, state.seed)
    state.inverse = LimitedMemoryInverse(first, problem, l2)
    return (yield from _Steps(state, steps.now).run(rough, math.inf))


class _Steps:
    """Steps with one first matrix.

    Attributes:
        now: The derivatives at the point of the state.
    """

    def __init__(self, state: SolverState, now: Derivatives, diagonal: _ScaledDiagonal | None = None) -> None:
        self.state, self.now, self._diagonal = state, now, diagonal
        self._exact = state.problem.dtype == torch.float64  # whether ``now`` was evaluated in float64
        if diagonal is not None:
            l2 = state.problem.penalties(state.coordinates)[0]
            state.inverse = LimitedMemoryInverse(diagonal, state.problem, l2)

    def run(self, rough: float, most: float) -> PassRequests[bool]:
        """Takes steps until certified, rough enough, failed, or predicted to be more than ``most``."""
        state, problem, coordinates = self.state, self.state.problem, self.state.coordinates
        inverse, limit, dtype = state.inverse, max(CERTIFY_TOL_FACTOR * state.tolerance, 1e-300), problem.dtype
        assert inverse is not None
        most_late = hessian_seconds(problem) / pass_seconds(problem) if holds_hessian(problem) else math.inf
        num_pairs, left, late, sample_limit = 0, [], 0, SAMPLE_TOL_FACTOR * state.tolerance
        for number in range(MAX_UNIT_STEPS):
            now, state.value = self.now, self.now.value
            gap_here = gap_from_gradient(state, now.gradient, now.curvature)
            state.gap = min(gap_here, 1.0) * abs(now.value)
            if self._exact and gap_here <= state.tolerance and (yield from certified(state, now, cheaply=True)):
                return True
            extrapolates = num_pairs and gap_here <= MAX_EXTRAPOLATION * limit
            flattest, gap = least_gradient_point(state, now, num_pairs) if extrapolates else (state.point, gap_here)
            noise = VALUE_ROUNDING[problem.dtype] * abs(now.value)
            if gap <= limit and not rough and not (self._exact and flattest is state.point):
                there = yield from request(Evaluate(problem, coordinates, flattest, torch.float64))
                gap_there = gap_from_gradient(state, there.gradient, there.curvature)
                if gap_there <= gap_here and there.value <= now.value + noise:
                    state.point, state.value, self.now, self._exact, now = flattest, there.value, there, True, there
                    if gap_there <= state.tolerance and (yield from certified(state, there, cheaply=True)):
                        return True
                limit = max(limit * CERTIFY_TOL_FACTOR * min(gap / max(gap_there, 1e-300), 1.0), 1e-300)
                gap, num_pairs = min(gap_here, gap_there), 0
            step = centered(problem, -inverse(now.gradient))
            decrease = -float((step * now.gradient).sum()) / 2
            last_decrease, state.predicted_decrease = state.predicted_decrease, decrease / max(abs(now.value), 1e-300)
            if rough and state.predicted_decrease + last_decrease < rough:
                return True
            by_sample = state.predicted_decrease / max(state.sample_part, 1e-300)
            if self._exact and not rough and by_sample <= sample_limit:
                if (yield from certified_by_sample(state, now)):
                    return True
                sample_limit = by_sample / 10
            contraction = min(state.predicted_decrease / last_decrease, 1.0) if math.isfinite(last_decrease) else 0.1
            is_last = not rough and by_sample * contraction <= sample_limit
            if math.isfinite(most) or state.predicted_decrease <= FAR_DECREASE or number >= MAX_FAR_STEPS:
                left.append(state.predicted_decrease / rough if rough else gap / max(limit, 1e-300))
            late += state.predicted_decrease <= LATE_FRACTION * state.tolerance
            if late > most_late:
                return False
            if _are_slow(left, most):
                if math.isfinite(most) or dtype == torch.float64:
                    return False
                dtype, left, num_pairs = torch.float64, [], 0  # float32 does not go any farther
            length, type_there = 1.0, torch.float64 if is_last else dtype
            after = yield from request(Evaluate(problem, coordinates, state.point + step, type_there))
            if self._has_failed(after, decrease, noise):
                # To the minimum along the step, if the slope along it changes at one rate.
                slope = float((step * after.gradient).sum())
                length = 2 * decrease / max(2 * decrease + slope, 1e-300)
                length = min(max(length, MIN_LENGTH), MAX_LENGTH) if math.isfinite(length) else MIN_LENGTH
                after = yield from request(Evaluate(problem, coordinates, state.point + length * step, type_there))
                if self._has_failed(after, length * decrease, noise):
                    return False
            if self._diagonal is not None:
                self._diagonal.fit(length * step, after.gradient - now.gradient)
            num_pairs += inverse.update(length * step, after.gradient - now.gradient)
            num_pairs = min(num_pairs, MAX_EXTRAPOLATION_PAIRS, len(inverse))
            state.point, self.now, self._exact = state.point + length * step, after, type_there == torch.float64
        return False

    def _has_failed(self, after: Derivatives, decrease: float, noise: float) -> bool:
        """Whether a step decreased f by too little, for a decrease that was predicted."""
        return not after.value <= self.now.value - MIN_ACTUAL_DECREASE * decrease + noise


def _are_slow(left: list[float], most: float) -> bool:
    """Whether the last steps did not halve what is left of the way, or more than ``most`` steps are left at their rate.

    Args:
        left: What is left of the way after each step: an estimate relative to its limit.
        most: Number of steps.
    """
    if len(left) <= RATE_STEPS:
        return False
    rate = math.log2(max(left[-1 - RATE_STEPS] / max(left[-1], 1e-300), 1e-300)) / RATE_STEPS
    return rate < 1 / RATE_STEPS or math.log2(max(left[-1], 1.0)) / rate > most


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
