"""The logistic loss of one output over rows in memory, where a pass takes about a millisecond: quasi-Newton steps.

The steps are those of `logreg.solvers.methods.quasi_newton`.  Here the preparation of a pass and the bookkeeping
between passes would take longer than the arithmetic, so both are a handful of operations in NumPy: the passes are those
of `logreg.solvers.methods.medium_rows`.

The steps are in float32, where that is the type of the problem.  A point that is likely to be certified is evaluated in
float64; the certificate is that of `logreg.solvers.bounds.bound`, or of the Newton step of a sample
(`logreg.solvers.bounds.newton_bound`) where a Hessian is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from logreg.facts import Batch
from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.rows import MemoryRows, chosen_rows, row_weights
from logreg.solvers.bounds.base import MAX_FEATURE_RMS, Bound
from logreg.solvers.bounds.bound import bound
from logreg.solvers.bounds.logistic_bound import LogisticPoint, bound_by_residuals, bound_by_step
from logreg.solvers.kernels import Array, times_vector
from logreg.solvers.methods.medium_rows import MediumEvaluation, MediumRows, ZeroStart
from logreg.solvers.methods.quasi_newton import FLOAT32_END_TOL, MAX_SAMPLE_DECREASE
from logreg.solvers.passes.base import MAX_FOLDED_MEAN, drive
from logreg.solvers.passes.precise import accumulated
from logreg.solvers.passes.sampling import sampled_rows, thinned
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.starting_point import MIN_BOUND_ROWS_PER_PARAMETER, bound_rows
from logreg.solvers.state import CURVATURE_MEAN_OFFSET, VALUE_ROUNDING, SolverState, keep_bound, within
from logreg.solvers.steps.line_search import (
    CURVATURE_CONSTANT,
    MAX_LINE_SEARCH_POINTS,
    LineSearchPoint,
    next_length,
    satisfies_armijo,
)

Matrix = Callable[[Array], Array]
"""An approximate inverse of the Hessian: a gradient (D + 1,) -> a step (D + 1,)."""

FIRST_STEP_ROWS = 2500
"""Rows that show the length of the first step, at least; where the start is not zero, also the means and the deviations
of the features: one that is not 0 in one row of 500 then has a deviation."""

MAX_STEPS = 300
"""Steps after which the general solver begins anew."""

MIN_RATED_STEPS = 6
"""Steps before which their convergence is not judged."""

MAX_DIAGONAL_STEPS_LEFT = 8
"""Steps that may be left at the rate of the last ones before the Hessian of a sample takes the place of the diagonal:
it takes as long as some steps."""

MAX_STEPS_LEFT = 200
"""Steps that may be left at that rate before the general solver begins anew, where there is no sample or its Hessian
was no better."""

FIRST_STEP_ITERATIONS = 4
"""Steps of Newton's method for the length of the first step: on a sample they take a small part of a pass."""

MIN_FIRST_LENGTH = 0.5
"""Length below which the first step is not taken: f is no smaller at its whole length, since features are correlated,
which the diagonal leaves out."""

MIN_ROWS_PER_FEATURE = 20
"""Rows for each feature from which the curvature at the end of the first step replaces the diagonal: with fewer,
features are correlated by chance, and the first step shows L-BFGS more."""

RARE_CURVATURE = 1e-3
"""Diagonal of a sample's Hessian, relative to the mean, below which a feature is too rare for the sample."""

ROOM = 0.8
"""Part of the tolerance at which an estimated bound is enough, since the certified one is a little larger."""

SAMPLE_FACTOR = 1.3
"""Rows of a sample, relative to those for which the estimate of its bound is just enough: together with `ROOM` that is
more than the factor of 1.5 by which the bound exceeds the estimate at the largest change of a logit (`kappa_of`)."""

FLOAT32_NOISE = 4
"""Ratio of the estimates at one point in float64 and in float32 above which gradients in float32 have lost their
digits."""

MIN_SAMPLE_RATIO = 100.0
"""Estimate of the bound by strong convexity, relative to the tolerance, from which the sample bounds the gap: the other
bound is cheaper, and few more steps lead below."""

FAILED_FACTOR = 0.1
"""Factor of the limit of the estimate after a bound that was not within the tolerance."""


class _Inverse:
    """An approximate inverse of the Hessian: L-BFGS on top of a first matrix times a factor.

    The factor is the geometric mean of those that fit each pair alone, which differ by chance.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 7.4 and equation 7.20.
    """

    def __init__(self, first: Matrix) -> None:
        self._first, self._factor = first, 1.0
        self._pairs: list[tuple[Array, Array]] = []
        self._log_factors = 0.0

    def __call__(self, gradient: Array) -> Array:
        """About the Newton step, to be subtracted, (D + 1,)."""
        left, factors = gradient.copy(), []
        for step, change in reversed(self._pairs):
            factors.append(float(step @ left))
            left -= factors[-1] * change
        product: Array = self._factor * self._first(left)
        for (step, change), factor in zip(self._pairs, reversed(factors), strict=True):
            product += (factor - float(change @ product)) * step
        return product

    def update(self, step: Array, change: Array) -> None:
        """Learns from a step and the change of the gradient along it; each pair is stored with step @ change = 1."""
        curvature = float(step @ change)
        if curvature > 0:
            root = math.sqrt(curvature)
            step, change = step / root, change / root
            self._pairs.append((step, change))
            self._log_factors -= float(np.log(change @ self._first(change)))
            self._factor = float(np.exp(self._log_factors / len(self._pairs)))


def _inverse_of_sample(problem: Problem, at: Coordinates, point: Array, sample: Batch) -> Matrix | None:
    """The inverse of the Hessian at a point (D + 1,), estimated by that of a sample; ``None`` where it has none.

    Args:
        problem: The problem.
        at: The coordinates of the point.
        point: Shape (D + 1,).
        sample: Some of the rows.
    """
    rows, weights, curvature = _standardized(problem, at, point, sample)
    total = problem.row_sum_scale * problem.total_weight
    rows *= np.sqrt(weights * curvature * (total / weights.sum()))[:, None]
    hessian = rows.T @ rows
    mean = hessian.trace() / len(hessian)
    own = hessian.reshape(-1)[:: len(hessian) + 1]  # a view of the diagonal
    own += np.where(own > RARE_CURVATURE * mean, problem.penalties(at)[0].numpy(), mean)
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(hessian))
    if bool(failed):
        return None
    inverse = torch.cholesky_inverse(factor).numpy()
    return lambda gradient: inverse @ gradient


def _standardized(problem: Problem, at: Coordinates, point: Array, sample: Batch) -> tuple[Array, Array, Array]:
    """Rows of a sample in coordinates, (n, D + 1), 0 for an absent intercept; their weights, and curvatures at a point.

    Args:
        problem: The problem.
        at: The coordinates of the point.
        point: Shape (D + 1,).
        sample: Some of the rows.
    """
    rows = np.empty((len(sample.labels), len(point)))
    np.subtract(sample.features.numpy(), at.center.numpy(), out=rows[:, :-1])
    rows[:, :-1] *= 1 / at.scale.numpy()  # takes less time than a division
    rows[:, -1] = float(problem.intercept)
    weights = row_weights(sample, problem.class_weight, torch.float64)
    small = np.exp(-np.abs(rows @ point))
    return rows, np.ones(len(rows)) if weights is None else weights.numpy(), small / np.square(1 + small)


def _bound_by_sample(at: LogisticPoint, sample: Batch) -> Bound | None:
    """As `logreg.solvers.bounds.newton_bound.bound_by_sample`."""
    problem, parameters = at.problem, at.point.shape[1]
    point = np.append(at.point[0], [0.0] * (not problem.intercept))
    rows, weights, curvature = _standardized(problem, at.coordinates, point, sample)
    rows, spread = rows[:, :parameters], weights * curvature * problem.row_sum_scale
    scaled = rows * np.sqrt(spread)[:, None]
    hessian = scaled.T @ scaled
    hessian.reshape(-1)[:: parameters + 1] += at.l2
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(hessian))
    if bool(failed):
        return None
    step = torch.cholesky_solve(torch.from_numpy(at.gradient).T, factor).T.numpy()
    at = at._replace(summed=max(at.summed, accumulated(len(rows))))
    return bound_by_step(at, rows.T, spread[None], step)


class _FirstStep(NamedTuple):
    """The first step, a combination of two paths, and the curvature at its end."""

    lengths: Array
    """Those along the paths, (2,)."""
    paths: Array
    """A step by the coefficients, and one by the intercept; shape (2, D + 1)."""
    hessian: Array
    """Second derivatives of f by the lengths, (2, 2)."""

    def inverse(self, diagonal: Array) -> Matrix:
        """The inverse of the Hessian at the end: a diagonal (D + 1,) but along the paths.

        Where features are standardized, uncorrelated and about normal, the Hessian is the mean curvature times the
        identity, but along the coefficients and the intercept.
        """
        own = (self.paths * diagonal) @ self.paths.T
        own[1, 1] += not self.paths[1, -1]
        change = np.linalg.inv(self.hessian) - np.linalg.inv(own)
        return lambda gradient: gradient / diagonal + (change @ (self.paths @ gradient)) @ self.paths


class _Limit(NamedTuple):
    """Estimates up to which certificates are tried."""

    by_duality: float
    by_sample: float


class _Estimate(NamedTuple):
    """The bounds that certificates would find at a point, relative to f."""

    by_duality: float
    by_sample: float
    """Infinite where the sample bounds no gap."""
    decrease: float
    """Decrease of f that is predicted for the next step, relative to f."""

    @property
    def least(self) -> float:
        """The smaller one."""
        return min(self.by_duality, self.by_sample)

    def is_within(self, limit: _Limit) -> bool:
        """Whether one of the bounds is within its limit."""
        return self.by_duality <= limit.by_duality or self.by_sample <= limit.by_sample


@np.errstate(all="ignore")  # what is not finite ends the steps
def solve_medium(state: SolverState, rows: MemoryRows, max_passes: int, zero: ZeroStart | None = None) -> int:
    """Minimizes f by quasi-Newton steps from the point of ``state``, and certifies the point.

    Each iteration:

    1. Estimate the bound of f - f*, by strong convexity or by the Newton step of the sample.
    2. Where the estimate is within the tolerance, evaluate the point in float64 if it was not, and compute the bound;
       stop if it is within the tolerance.
    3. Take a step, with a line search.

    It stops as well where steps converge slowly, where they do not decrease f in float64, and after `MAX_STEPS`: then
    the general solver begins anew.

    Args:
        state: State of a problem that `logreg.solvers.choose.is_medium`; where the point is certified, and after
            ``max_passes``, its coordinates, point, value and bound are updated.
        rows: All rows of the problem.
        max_passes: Passes at most.
        zero: The start of these rows, where the point of ``state`` is zero; ``None`` to start from that point.

    Returns:
        The passes over the rows.
    """
    problem = state.problem
    batch = drive(sampled_rows(problem), rows)
    few = chosen_rows(batch, slice(None, None, max(1, len(batch.labels) // FIRST_STEP_ROWS)))
    zero = ZeroStart(problem, rows) if zero is None and not state.point.any() else zero
    at = choose_coordinates(problem, few, every_scale=True) if zero is None else zero.coordinates
    if bool((at.center.abs() > MAX_FOLDED_MEAN[problem.dtype] * at.scale).any()):
        return 0 if zero is None else 1
    number = min(bound_rows(problem), len(batch.labels))
    steps = _Steps(state, rows, at, batch, few, number, max_passes, zero)
    steps.run()
    if state.converged or steps.passes >= max_passes:
        state.coordinates, state.point, state.value = at, steps.tensor(), steps.now.value
        state.best = state.point if state.bound is not None else None
    return steps.passes


class _Steps:
    """The steps of `solve_medium`, and what they share."""

    def __init__(
        self,
        state: SolverState,
        rows: MemoryRows,
        at: Coordinates,
        sample: Batch,
        few: Batch,
        most_sampled: int,
        max_passes: int,
        zero: ZeroStart | None,
    ) -> None:
        problem = state.problem
        self.max_passes, self.few = max_passes, few  # rows that show the length of the first step
        self.state, self.problem, self.at = state, problem, at
        self.sample, self.most_sampled = sample, most_sampled  # the rows of a sample's Hessian at most; 0 for none
        self.memory, self.source = MediumRows(problem, rows, at), rows
        self.dtype, self.passes = problem.dtype, 0
        if zero is None:
            self.point = problem.model.to(at, state.point)[0].numpy()
            self.now = self.evaluate(self.point, self.dtype)
        else:
            (self.point, self.now), self.passes = zero.evaluate(), 1
        diagonal = self.diagonal(self.now)
        self.inverse, self.is_diagonal = _Inverse(lambda gradient: gradient / diagonal), True
        self.part = most_sampled / problem.rows
        costs = 0.5 / self.memory.l2[:-1]
        self.costs = np.append(costs, CURVATURE_MEAN_OFFSET * costs.sum())

    def evaluate(self, point: Array, dtype: torch.dtype) -> MediumEvaluation:
        """One pass."""
        self.passes += 1
        return self.memory.evaluate(point, dtype)

    def diagonal(self, now: MediumEvaluation) -> Array:
        """The diagonal of the Hessian of standardized features, (D + 1,)."""
        return np.asarray(max(now.own, 1e-30) + self.memory.l2)

    def tensor(self) -> torch.Tensor:
        """The point, (1, D + 1)."""
        return torch.from_numpy(self.point).unsqueeze(0)

    def run(self) -> None:
        """Takes steps to their end."""
        limit, passed = _Limit(*[ROOM * self.state.tolerance] * 2), list[_Estimate]()
        while len(passed) < MAX_STEPS and self.passes < self.max_passes and math.isfinite(self.now.value):
            now = self.now
            step = -self.inverse(now.gradient)
            slope = float(step @ now.gradient)
            estimate = self.estimate(slope)
            if estimate.is_within(limit):
                if now.derivatives is None:
                    self.now = self.evaluate(self.point, torch.float64)
                    if self.estimate(slope).by_duality > FLOAT32_NOISE * estimate.by_duality:
                        self.dtype = torch.float64
                    continue
                if self.certifies(estimate, limit):
                    return
                limit = _Limit(
                    *(
                        one * FAILED_FACTOR if one < most else most
                        for one, most in zip(estimate[:2], limit, strict=True)
                    )
                )
            passed.append(estimate)
            rated = [one.least / max(min(limit), 1e-300) for one in passed]
            if self.dtype != torch.float64 and -slope / 2 < FLOAT32_END_TOL * abs(now.value) and _has_stalled(rated):
                self.dtype = torch.float64
                self.now = self.evaluate(self.point, torch.float64)
                passed.clear()
                continue
            left = _steps_left(rated) if len(rated) > MIN_RATED_STEPS else 0.0
            if left > MAX_DIAGONAL_STEPS_LEFT and self.improves_matrix():
                passed.clear()
                continue
            if left > MAX_STEPS_LEFT:
                return
            # An evaluation in float64 takes as long as two or three in float32: it must be likely to be the last one.
            is_likely = len(passed) > 1 and self.next_estimate(*passed[-2:]).is_within(limit)
            dtype = torch.float64 if is_likely else self.dtype
            first = self.first_step(step) if self.passes == 1 and self.is_diagonal else None
            if first is not None:
                if not MIN_FIRST_LENGTH <= first.lengths[0] < math.inf:
                    if not self.improves_matrix():
                        return
                    passed.clear()
                    continue
                step = first.lengths @ first.paths
                slope = float(step @ now.gradient)
            most = min(MAX_LINE_SEARCH_POINTS, self.max_passes - self.passes)
            found = self.search(step, slope, dtype, most) if slope < 0 else None
            if found is None:
                if self.dtype == torch.float64 or self.passes >= self.max_passes:
                    return
                self.dtype = torch.float64
                self.now = self.evaluate(self.point, torch.float64)
                continue
            length, after = found
            if first is None or self.problem.rows < MIN_ROWS_PER_FEATURE * self.problem.num_features:
                self.inverse.update(length * step, after.gradient - now.gradient)
            else:
                self.inverse = _Inverse(first.inverse(self.diagonal(after)))
            self.point, self.now = self.point + length * step, after

    def first_step(self, step: Array) -> _FirstStep:
        """The first step: along the coefficients of a step (D + 1,) and the intercept, to the least f of few rows."""
        problem, few, at = self.problem, self.few, self.at
        weights = row_weights(few, problem.class_weight, torch.float64)
        share = np.ones(len(few.labels)) if weights is None else weights.numpy()
        share = share * (problem.row_sum_scale * problem.total_weight / share.sum())
        paths = np.stack([step, np.zeros_like(step)])
        paths[:, -1] = 0.0, float(problem.intercept)
        features, center, scale = few.features.numpy(), at.center.numpy(), at.scale.numpy()

        def logits(of: Array) -> Array:
            coef = of[:-1] / scale
            product = times_vector(features, coef.astype(features.dtype)) if coef.any() else np.zeros(len(features))
            return np.asarray(product + (of[-1] - coef @ center))

        start, along = logits(self.point), logits(paths[0])
        changes = np.stack([along, np.full_like(along, paths[1, -1])])
        of_penalty = paths * self.memory.l2
        slopes, ridge = of_penalty @ self.point, of_penalty @ paths.T + np.diag([1e-300, 1.0 - paths[1, -1]])
        lengths = np.zeros(2)
        for _ in range(FIRST_STEP_ITERATIONS):
            p = 1 / (1 + np.exp(-(start + lengths @ changes)))
            gradient = changes @ (share * (p - few.labels.numpy())) + slopes + ridge @ lengths
            hessian = (changes * (share * p * (1 - p))) @ changes.T + ridge
            (own, shared), (_, of_intercept) = hessian
            adjugate = np.array([[of_intercept, -shared], [-shared, own]])
            # Far from the optimum no row has curvature; then the lengths are not finite.
            lengths = lengths - adjugate @ gradient / (own * of_intercept - shared * shared)
        return _FirstStep(lengths, paths, hessian)

    def improves_matrix(self) -> bool:
        """Puts the Hessian of the sample in the place of the diagonal; whether it is there for the first time."""
        if not self.is_diagonal or not self.most_sampled:
            return False
        self.is_diagonal = False
        first = _inverse_of_sample(self.problem, self.at, self.point, thinned(self.sample, self.most_sampled))
        if first is not None:
            self.inverse = _Inverse(first)
        return first is not None

    def estimate(self, slope: float) -> _Estimate:
        """The bounds that certificates would find here, from the gradient and the slope of the next step."""
        gradient, size = self.now.gradient, max(abs(self.now.value), 1e-300)
        gap = float((self.costs * gradient) @ gradient) + 0.5 * gradient[-1] ** 2 / max(self.now.own, 1e-300)
        return self._estimate(gap / size, -slope / 2 / size)

    def next_estimate(self, last: _Estimate, now: _Estimate) -> _Estimate:
        """The estimate after the next step, if that helps as much as the one from the last estimate to this one.

        The predicted decreases tell how much a step helps: the squared gradient, of which the bound by duality is made,
        varies more from step to step.
        """
        rate = min(now.decrease / max(last.decrease, 1e-300), 1.0)
        return self._estimate(now.by_duality * rate, now.decrease * rate)

    def _estimate(self, gap: float, decrease: float) -> _Estimate:
        bounds = self.part and decrease <= MAX_SAMPLE_DECREASE * self.part**2
        bounds = bounds and gap > MIN_SAMPLE_RATIO * self.state.tolerance
        return _Estimate(gap, decrease / self.part if bounds else math.inf, decrease)

    def certifies(self, estimate: _Estimate, limit: _Limit) -> bool:
        """Bounds the gap of the point, which was evaluated in float64; whether it is within the tolerance."""
        state, at = self.state, self.evaluated()
        if estimate.by_duality <= limit.by_duality:
            derivatives = self.now.derivatives
            assert derivatives is not None
            found = None
            if derivatives.loss > SATURATED_LOSS * at.total:
                assert derivatives.by_intercept is not None
                found = bound_by_residuals(at, derivatives.by_intercept.numpy()[:, : at.point.shape[1]])
            if found is None:  # the intercept is far from its optimum, or residuals have lost their digits
                requests = bound(self.problem, self.tensor(), derivatives, state.tolerance, self.at, cheaply=True)
                found = drive(requests, self.source)
        else:
            decrease = estimate.by_sample * self.part
            part = max(SAMPLE_FACTOR * decrease / limit.by_sample, math.sqrt(decrease / MAX_SAMPLE_DECREASE))
            number = max(int(part * self.problem.rows), MIN_BOUND_ROWS_PER_PARAMETER * self.problem.hessian_order)
            few = thinned(self.sample, min(number, self.most_sampled))
            found = _bound_by_sample(at, few)
        if found is None or not within(found, state.tolerance):
            return False
        keep_bound(state, found)
        return True

    def evaluated(self) -> LogisticPoint:
        """The point, which was evaluated in float64, with what its bounds need: see `evaluated_point`."""
        problem, now, derivatives = self.problem, self.now, self.now.derivatives
        assert derivatives is not None
        parameters = problem.num_features + problem.intercept
        center, scale = self.at.center.numpy(), self.at.scale.numpy()
        sizes = MAX_FEATURE_RMS + np.abs(center / scale)  # products are of features that are not centered
        return LogisticPoint(
            problem,
            self.at,
            self.point[None, :parameters],
            now.value,
            derivatives.loss,
            now.gradient[None, :parameters],
            np.array([now.own]),
            self.memory.l2[:parameters],
            sizes * math.sqrt(problem.row_sum_scale * problem.total_weight),
            np.append(sizes * math.sqrt(problem.rows), [1.0] * problem.intercept),
            accumulated(problem.rows, derivatives.additions),
        )

    def search(self, step: Array, slope: float, dtype: torch.dtype, most: int) -> tuple[float, MediumEvaluation] | None:
        """The length of a step and the evaluation after it; ``None`` where none of ``most`` lengths decreases f enough.

        As in `logreg.solvers.methods.quasi_newton`.
        """
        noise = VALUE_ROUNDING[self.dtype] * abs(self.now.value)
        trials, length, found = [LineSearchPoint(0.0, self.now.value, slope, 0.0)], 1.0, None
        for _ in range(most):
            after = self.evaluate(self.point + length * step, dtype)
            trial = LineSearchPoint(length, math.inf, math.inf, 0.0)
            if math.isfinite(after.value):
                trial = LineSearchPoint(length, after.value, float(step @ after.gradient), length * slope)
            trials.append(trial)
            if satisfies_armijo(trials[0], trial, noise):
                found = length, after
                if trial.slope >= CURVATURE_CONSTANT * slope or -length * slope <= noise:
                    break
            elif found is not None:
                break
            length = next_length(trials, noise)
        return found


def _has_stalled(rated: list[float]) -> bool:
    """Whether the last two steps did not halve what is left of the way."""
    return len(rated) > 2 and rated[-1] > rated[-3] / 2


def _steps_left(rated: list[float]) -> float:
    """Steps that are left at the rate of the last half of the steps; infinite where these made no progress.

    Args:
        rated: What is left of the way after each step, relative to the end.
    """
    logs = np.log(np.maximum(rated, 1e-300))
    half = len(logs) // 2
    rate = (logs[:half].mean() - logs[-half:].mean()) / (len(logs) - half)
    return max(logs.min(), 0.0) / rate if rate > 0 else math.inf
