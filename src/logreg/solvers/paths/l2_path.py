"""A regularization path: the optimum for each of several strengths of l2, with warm starts.

The optima lie on a smooth curve in log l2.  Each fit starts from the optimum of the nearest strength, or where the line
through the two nearest optima, as a function of log l2, leads (a secant predictor).  The approximate inverse of the
Hessian that one fit ends with serves the next one, since only the known penalty of it changes.  The steps it learned
from also span the point of least gradient, by which weak strengths are certified early.  So it is with f, its
gradient and its Hessian themselves, which a rough fit leaves: the next one begins with a step, without a pass.

Weak strengths take the most passes, and change f the least.  The minimum of f is a concave function of l2, so bounds at
two strengths bound it between them: where f at a point between the two optima is near enough, that strength needs no
fit.

References:
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
    Allgower and Georg (2003), Introduction to numerical continuation methods: predictor and corrector.
    Giesen, Mueller, Laue and Swiercy (2012), Approximating concavely parameterized optimization problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logreg.csr import converted
from logreg.facts import Batch
from logreg.rows import row_weights
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.bound import bound
from logreg.solvers.choose import holds_hessian
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.kernels import sum_over_rows
from logreg.solvers.methods.newton import newton
from logreg.solvers.optimizers import EXACT, FITS_IF_NOT_CONVEX
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Evaluate, KnownPoint
from logreg.solvers.passes.sampling import sampled_rows
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates, is_standardized
from logreg.solvers.starting_point import stable_step
from logreg.solvers.state import SolverState, within
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse

PATH_DECADES = 6
"""Powers of ten that the default strengths span."""

STRENGTHS_PER_DECADE = 4
"""Default strengths for each power of ten: neighbors differ by the factor 10^(1/4), about 1.8."""

MAX_PASSES_PER_STRENGTH = 100
"""Largest number of passes of a fit for each strength, plus the passes that earlier strengths left over.

A fit that is not within the tolerance by then has a larger gap, and its point is not converged.
"""

MAX_INVERSE_STRENGTH_RATIO = 10
"""Ratio of two strengths of l2 up to which an inverse of the Hessian that was made for one serves the other."""

MAX_EXTRAPOLATED_RATIO = 2
"""Ratio of two strengths of l2 up to which a line predicts the optimum: from farther away, Newton's method with a held
Hessian is better off at the nearest optimum."""

MAX_EXTRAPOLATED = 1.5
"""Distance to a strength, relative to that of the two nearest ones, up to which the line through them predicts its
optimum."""

MANY_PASSES = 60
"""Passes of the last fit of a path from which the next strength is left out at first, to be bounded from both sides."""

MAX_GAP_BETWEEN = 2.0
"""Gap between two optima, as a multiple of the tolerance, up to which f is evaluated between them: the gap is that of
the better end, and f is lower in between."""

MIN_LEARNED_MOVES = 50
"""Moves from which an inverse of the Hessian has learned enough to be kept for any strength."""


@dataclass(frozen=True)
class Strength:
    """The strengths of both penalties, each >= 0."""

    l2: float = 0.0
    l1: float = 0.0

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether there is l2, and whether there is l1."""
        return self.l2 > 0, self.l1 > 0

    def of(self, problem: Problem) -> Problem:
        """The same problem with these penalties."""
        return replace(problem, objective=replace(problem.objective, l2=self.l2, l1=self.l1))


@dataclass(frozen=True)
class PathPoint:
    """The fit for one strength of the penalties.

    Attributes:
        point: Coefficients and, in the last column, intercepts, (K, D + 1), of the features as the model reads them.
        bound: The bound of f - f* there.
        converged: Whether the gap is within the tolerance.
        passes: Passes over the rows that this fit took.
        l2: Strength of l2.
        l1: Strength of l1.
    """

    point: Tensor
    bound: Bound
    converged: bool
    passes: int
    l2: float = 0.0
    l1: float = 0.0


def largest_curvature(problem: Problem, sample: Batch) -> float:
    """The largest curvature of the loss at zero: with a larger l2 the penalty outweighs the data.

    Args:
        problem: The problem over all rows.
        sample: Some of the rows, which the curvature is estimated from.
    """
    weights, center = row_weights(sample, problem.class_weight, torch.float64), problem.model.center
    if problem.intercept and (weights is not None or not is_standardized(problem)):
        own = torch.ones_like(sample.labels, dtype=torch.float64) if weights is None else weights
        center = sum_over_rows(own.unsqueeze(1), converted(sample.features, torch.float64))[0] / own.sum()
    coordinates = Coordinates(center, problem.model.scale)
    curvature = 1 / stable_step(problem, coordinates, sample._replace(sample_weight=weights))
    return curvature * problem.total_weight if problem.objective.reduction == "sum" else curvature


def default_strengths(problem: Problem, sample: Batch) -> list[float]:
    """Strengths from the largest curvature of the loss down to 1e-6 of it; arguments as of `largest_curvature`.

    Returns:
        Strengths in descending order, each 10^(1/4) times the next, rounded to two digits.
    """
    largest = math.ceil(math.log10(largest_curvature(problem, sample)) * STRENGTHS_PER_DECADE)
    steps = range(largest, largest - PATH_DECADES * STRENGTHS_PER_DECADE - 1, -1)
    return [to_two_digits(10 ** (step / STRENGTHS_PER_DECADE)) for step in steps]


def to_two_digits(strength: float) -> float:
    """The strength, rounded to two significant digits."""
    return float(f"{strength:.2g}")


class PathFitter:
    """Fits one problem for several strengths of l2, in any order, each from a warm start.

    Attributes:
        points: One point for each strength so far, in the order of the fits.
    """

    def __init__(
        self,
        problem: Problem,
        tolerance: float = 1e-6,
        seed: int = 0,
        max_passes: int = MAX_PASSES_PER_STRENGTH,
        rough: bool = False,
    ) -> None:
        """Nothing is fitted yet.

        Args:
            problem: The problem whose rows are requested; its own l2 does not matter, its l1 stays.
            tolerance: The relative gap to end each fit at.
            seed: Fixes the rows that are sampled.
            max_passes: Largest number of passes for each strength, plus the passes that earlier strengths left over.
            rough: Whether the decrease that the quadratic model predicts may replace the gap, where the Hessian is
                held, in place of a bound; that saves the passes in float64.
        """
        self._is_rough = rough
        self.points: list[PathPoint] = []
        self._problem, self._tolerance, self._seed, self._max_passes = problem, tolerance, seed, max_passes
        self._inverse: LimitedMemoryInverse | None = None
        self._inverse_l2 = math.inf
        """The strength that the inverse was made for."""
        self._evaluated: KnownPoint | None = None
        """The last point, where f is known for any strength after a rough fit."""
        self._passes_left = 0

    def fit(self, l2: float) -> PassRequests[PathPoint]:
        """Finds the optimum for a strength > 0, and appends it to ``points``."""
        problem = replace(self._problem, objective=replace(self._problem.objective, l2=l2))
        found = yield from self._between(problem)
        if found is not None:
            self.points.append(found)
            return found
        inverse, limit = self._inverse, MAX_INVERSE_STRENGTH_RATIO
        is_near = self._inverse_l2 / limit <= l2 <= self._inverse_l2 * limit
        if not is_near and (inverse is None or len(inverse) < MIN_LEARNED_MOVES):
            self._inverse_l2 = l2
            if inverse is not None and math.isfinite(inverse.made_at):
                inverse.is_stale = True  # other blocks take less time than steps without any
            else:
                inverse = None
        uses_model = self._is_rough and holds_hessian(problem) and not problem.objective.l1
        start = nearest_start(problem, self.points)
        state = SolverState(
            problem,
            start,
            self._tolerance,
            self._seed,
            inverse=inverse,
            evaluated=self._evaluated if self.points and start is self.points[-1].point else None,
        )
        self._evaluated = None
        passes = 0
        self._passes_left += self._max_passes * (1 if problem.loss.is_convex else FITS_IF_NOT_CONVEX)
        self._inverse = inverse = None  # the solver frees its memory when it makes another one
        for requested in newton(state, self._tolerance) if uses_model else EXACT["newton"](state):
            yield requested
            passes += requested.is_full
            if passes >= self._passes_left:
                break
        if state.bound is None and uses_model and state.predicted_decrease < self._tolerance:
            gap = max(state.predicted_decrease, 0.0) * abs(state.value)
            loss = state.value - float(problem.objective.penalty(state.solution[:, :-1]))
            state.bound = Bound(state.value, gap, False, torch.zeros_like(start), loss)
        if state.bound is None:
            state.bound = yield from bound(problem, state.solution, enough=self._tolerance)
        self._inverse, self._passes_left = state.inverse, max(self._passes_left - passes, 0)
        self._evaluated = state.evaluated if uses_model else None
        l1 = problem.objective.l1
        self.points.append(PathPoint(state.solution, state.bound, state.converged, passes, l2, l1))
        return self.points[-1]

    def _between(self, problem: Problem) -> PassRequests[PathPoint | None]:
        """The point between the two nearest optima, if bounds on both sides show that it is within the tolerance.

        The minimum f* is concave in l2, as the least of functions that are linear in it: between two strengths it is
        not below the line through its lower bounds there.
        """
        l2, l1 = problem.objective.l2, problem.objective.l1
        stronger = min((one for one in self.points if one.l2 > l2), key=lambda one: one.l2, default=None)
        weaker = max((one for one in self.points if one.l2 < l2), key=lambda one: one.l2, default=None)
        if stronger is None or weaker is None or not (stronger.bound.rigorous and weaker.bound.rigorous):
            return None
        share = (l2 - weaker.l2) / (stronger.l2 - weaker.l2)
        ends = ((stronger, share), (weaker, 1 - share))
        least = sum(part * (end.bound.value - end.bound.gap) for end, part in ends)
        value = min(end.bound.loss + float(problem.objective.penalty(end.point[:, :-1])) for end, _ in ends)
        if not value - least <= MAX_GAP_BETWEEN * self._tolerance * abs(value):
            return None
        point = nearest_start(problem, (stronger, weaker))
        # In coordinates of about size 1, for which the rounding errors of an evaluation are known.
        at = choose_coordinates(problem, (yield from sampled_rows(problem)), every_scale=True)
        moved = moved_to(problem.model, at, point)
        evaluation = yield from request(Evaluate(problem, at, moved, torch.float64))
        # The chord bounds the gap, not duality.
        found = yield from bound(problem, moved, evaluation, enough=math.inf, coordinates=at)
        if found.value - least < found.gap:
            hidden = sum(part * (end.bound.rounding + end.bound.error) for end, part in ends)
            rounding = found.rounding + found.error + hidden
            found = found._replace(gap=max(found.value - least, 0.0), rounding=rounding)
        is_near = within(found, self._tolerance)
        return PathPoint(point, found, True, 1, l2, l1) if is_near else None


def fit_path(
    problem: Problem,
    strengths: Sequence[float],
    tolerance: float = 1e-6,
    seed: int = 0,
    max_passes: int = MAX_PASSES_PER_STRENGTH,
) -> PassRequests[list[PathPoint]]:
    """Finds the optimum for every strength, each > 0; the other arguments are those of `PathFitter`.

    Returns:
        A point for each strength, from the strongest to the weakest.
    """
    fitter = PathFitter(problem, tolerance, seed, max_passes)
    left = sorted(set(strengths), reverse=True)
    while left:
        weakest = min(fitter.points, key=lambda one: one.l2, default=None)
        leaves_out = weakest is not None and left[0] < weakest.l2 and weakest.passes >= MANY_PASSES and len(left) > 1
        yield from fitter.fit(left.pop(int(leaves_out)))
    return sorted(fitter.points, key=lambda one: one.l2, reverse=True)


def nearest_start(problem: Problem, points: Sequence[PathPoint]) -> Tensor:
    """The start of a fit, (K, D + 1): the point of the nearest l2 on a logarithmic scale, or zero without one.

    Where the two nearest ones are near, on one side of it or on both, it is on the line through them; with l1 it is
    not, since zeros would be lost.
    """
    if not points:
        return problem.zeros()
    by_distance = sorted((abs(math.log(one.l2 / problem.objective.l2)), place) for place, one in enumerate(points))
    near, *others = (points[place] for _, place in by_distance[:2])
    if not others or by_distance[0][0] > math.log(MAX_EXTRAPOLATED_RATIO) or problem.objective.l1:
        return near.point
    (other,) = others
    ahead, between = math.log(problem.objective.l2 / near.l2), math.log(near.l2 / other.l2)
    if not -(between**2) <= ahead * between <= MAX_EXTRAPOLATED * between**2:
        return near.point
    return near.point + ahead / between * (near.point - other.point)
