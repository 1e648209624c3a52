"""A regularization path: the optimum for every strength of l2, each started from the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.solvers.bounds import Bound, bound
from logreg.solvers.fit import EXACT
from logreg.solvers.newton import newton
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.preconditioner import SAMPLED_ROWS
from logreg.solvers.problem import Coordinates, Problem, choose_coordinates
from logreg.solvers.quasi_newton import LimitedMemoryInverse
from logreg.solvers.starting_point import holds_hessian, safe_step
from logreg.solvers.state import SolverState

DECADES, PER_DECADE = 6, 4
"""Of the strengths that are tried where nobody names them."""

PASSES = 100
"""For each strength at most, with what those before it left; what is not within the tolerance by then says so."""

SIMILAR, MANY = 10, 50
"""Ratio of two strengths up to which one inverse serves both, and moves from which it knows more than a new one."""

ROWS = 3
"""Times the rows of one fit's that an inverse is made of, since it serves several."""


@dataclass(frozen=True)
class PathPoint:
    """The fit for one strength.

    Attributes:
        l2: The strength.
        point: Coefficients and, in the last column, intercepts, (K, D + 1), of the features as the model reads them.
        bound: Of f - f* there.
        converged: Whether that is within the tolerance.
        passes: Over the rows, from the point before.
    """

    l2: float
    point: Tensor
    bound: Bound
    converged: bool
    passes: int


def largest_curvature(problem: Problem, sample: Batch) -> float:
    """Of the loss at zero: the strength of l2 from which on the penalty outweighs the data.

    Args:
        problem: Of the rows.
        sample: Some of them, to estimate it on.
    """
    coordinates = Coordinates(choose_coordinates(problem, sample, every_scale=False).center, problem.model.scale)
    curvature = 1 / safe_step(problem, coordinates, sample)
    return curvature * problem.total_weight if problem.objective.reduction == "sum" else curvature


def default_strengths(problem: Problem, sample: Batch) -> list[float]:
    """From the largest curvature of the loss down to 1e-6 of it; arguments as of `largest_curvature`.

    Returns:
        Strengths, each 10^(1/4) times the next, to two digits.
    """
    largest = math.ceil(math.log10(largest_curvature(problem, sample)) * PER_DECADE)
    return [to_two_digits(10 ** (step / PER_DECADE)) for step in range(largest, largest - DECADES * PER_DECADE - 1, -1)]


def to_two_digits(strength: float) -> float:
    """A strength as people write it."""
    return float(f"{strength:.2g}")


class Fits:
    """Fits of one problem for several strengths of l2, each started from those before it.

    Attributes:
        points: One for each strength so far, in the order in which they were asked for.
    """

    def __init__(
        self, problem: Problem, tolerance: float = 1e-6, seed: int = 0, most: int = PASSES, rough: bool = False
    ) -> None:
        """Nothing is fitted yet.

        Args:
            problem: Whose rows will be shown; its own l2 does not matter, its l1 stays.
            tolerance: Relative gap to end each fit at.
            seed: Fixes what is drawn.
            most: Passes for each strength at most, with what those before it left.
            rough: Whether a gap may be what the quadratic model says, where there is one, and not a bound: that saves
                the passes in float64.
        """
        self._is_rough = rough
        self.points: list[PathPoint] = []
        self._problem, self._tolerance, self._seed, self._most = problem, tolerance, seed, most
        self._inverse: LimitedMemoryInverse | None = None
        self._of = math.inf
        """The strength that the inverse was made for."""
        self._left = 0

    def at(self, l2: float) -> PassRequests[PathPoint]:
        """The optimum for a strength > 0; it starts where those of the nearest strengths are or point to."""
        problem = replace(self._problem, objective=replace(self._problem.objective, l2=l2))
        inverse = self._inverse
        if not self._of / SIMILAR <= l2 <= self._of * SIMILAR and (inverse is None or len(inverse) < MANY):
            inverse, self._of = None, l2
        trusts = self._is_rough and holds_hessian(problem) and not problem.objective.l1
        start = _start(problem, self.points, with_line=not trusts)  # over a decade Newton's steps do better without
        state = SolverState(problem, start, self._tolerance, self._seed, drawn=ROWS * SAMPLED_ROWS, inverse=inverse)
        passes = 0
        self._left += self._most
        self._inverse = inverse = None  # it is the fit's to renew
        for requested in newton(state, self._tolerance) if trusts else EXACT["newton"](state):
            yield requested
            passes += not requested.done
            if passes >= self._left:
                break
        if state.bound is None and trusts and state.near < self._tolerance:
            gap = max(state.near, 0.0) * abs(state.value)
            loss = state.value - float(problem.objective.penalty(state.solution[:, :-1]))
            state.bound = Bound(state.value, gap, False, torch.zeros_like(start), loss)
        if state.bound is None:
            state.bound = yield from bound(problem, state.solution, enough=self._tolerance)
        self._inverse, self._left = state.inverse, max(self._left - passes, 0)
        self.points.append(PathPoint(l2, state.solution, state.bound, state.converged, passes))
        return self.points[-1]


def fit_path(
    problem: Problem, strengths: Sequence[float], tolerance: float = 1e-6, seed: int = 0, most: int = PASSES
) -> PassRequests[list[PathPoint]]:
    """Solves for every strength, each > 0; the other arguments are those of `Fits`.

    Returns:
        A point for each strength, from the strongest to the weakest.
    """
    fits = Fits(problem, tolerance, seed, most)
    for l2 in sorted(set(strengths), reverse=True):
        yield from fits.at(l2)
    return fits.points


def _start(problem: Problem, points: Sequence[PathPoint], with_line: bool = True) -> Tensor:
    """Zero, then the nearest point, then where a line through the two that are nearest leads."""
    if not points:
        return problem.zeros()
    last, *others = sorted(points, key=lambda point: abs(math.log(point.l2 / problem.objective.l2)))
    if not others or not with_line or problem.objective.l1:  # a line would leave the zeros that l1 holds
        return last.point
    before = others[0]
    ahead = math.log(problem.objective.l2 / last.l2) / math.log(last.l2 / before.l2)
    return last.point + ahead * (last.point - before.point)
