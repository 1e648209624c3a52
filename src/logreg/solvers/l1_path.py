"""A path over l1: the optimum for each of several strengths, with warm starts and one working set.

Each strength starts from the optimum of the one before, and with the columns, the logits and the Hessian that its
solver holds.  The working set is the support and the coefficients that the sequential strong rule keeps: those whose
slope would exceed l1 if it changed as fast as l1 does.

References:
    Tibshirani and others (2012), Strong rules for discarding predictors in lasso-type problems.
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

from logreg.solvers.minimum_norm import move_to_minimum_norm
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.path import FittedPoint
from logreg.solvers.problem import Problem
from logreg.solvers.prox_newton import WorkingSet, working_set_of
from logreg.solvers.state import SolverState


@dataclass(frozen=True)
class L1PathPoint(FittedPoint):
    """The fit for one strength of l1."""

    l1: float


def fit_l1_path(
    problem: Problem, strengths: Sequence[float], tolerance: float = 1e-6, seed: int = 0
) -> PassRequests[list[L1PathPoint]]:
    """Finds the optimum for every strength of l1.

    Args:
        problem: The problem whose rows are requested; its own l1 does not matter, its l2 stays.
        strengths: Each > 0.
        tolerance: The relative gap to end each fit at.
        seed: Seed of the samples of rows.

    Returns:
        A point for each strength, from the strongest to the weakest.
    """
    points: list[L1PathPoint] = []
    working_set: WorkingSet | None = None
    for l1 in sorted(set(strengths), reverse=True):
        own = replace(problem, objective=replace(problem.objective, l1=l1))
        start = problem.zeros() if working_set is None else working_set.state.solution
        state, passes = SolverState(own, start, tolerance, seed), 0
        if working_set is None:
            working_set = yield from working_set_of(state)
        else:
            yield from working_set.continue_with(state)
        for requested in working_set.solve():
            yield requested
            passes += not requested.done
        solved = copy(state)  # the next strength starts in the solver's own coordinates
        yield from move_to_minimum_norm(solved)
        assert solved.bound is not None
        points.append(L1PathPoint(solved.solution, solved.bound, solved.converged, passes, l1))
    return points
