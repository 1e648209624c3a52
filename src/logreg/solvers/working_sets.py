"""Newton's method on working sets of features, for l1 penalties that leave few of many features."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.solvers.lbfgs import lbfgs
from logreg.solvers.newton import newton
from logreg.solvers.newton_steps import smallest_subgradient
from logreg.solvers.passes.base import Pass, PassRequests, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.reduction import Processes
from logreg.solvers.passes.sampling import RowSample
from logreg.solvers.problem import Coordinates, choose_coordinates
from logreg.solvers.starting_point import MAX_HELD_HESSIAN_PARAMETERS
from logreg.solvers.state import SolverState, certified

MAX_WORKING_SETS = 200
"""Largest number of working sets."""

FIRST_WORKING_SET_SIZE = 50
"""Features of the first working set: so small a Hessian costs little beside a pass over all features."""

FIRST_INNER_TOL = 0.1
"""Relative gap at which Newton's method ends on the first working set: the set is a guess, so more digits are
wasted."""

LAST_INNER_TOL = 1e-12
"""Inner tolerance, a relative gap, down to which rounds go on though f does not fall: until then the next working set
is solved more exactly than the last one, which may lower f."""


class _SelectedFeatures(Pass[None]):
    """A pass over some of the features."""

    def __init__(self, requested: Pass[Any], features: Tensor) -> None:
        """``features`` are the positions of the columns that ``requested`` gets, (M,)."""
        self.requested, self.features, self.interleaved = requested, features, requested.interleaved

    def add(self, block: Batch) -> None:
        """Passes these features of a block to ``requested``, and sets ``done``."""
        self.requested.add(block._replace(features=block.features.index_select(1, self.features)))
        self.done = self.requested.done

    def finish(self) -> None:
        """Ends ``requested``."""
        self.requested.finish()

    def reduce(self, processes: Processes) -> None:
        """Combines the accumulators of ``requested`` over processes."""
        self.requested.reduce(processes)


def newton_on_working_sets(state: SolverState) -> PassRequests[None]:
    """Minimizes f with l1 over many features, by Newton's method on a few of them at a time.

    Each round:

    1. Evaluate f and its smallest subgradient over all features, and certify the point over all features.
    2. Rank the features: those with a coefficient first, then by the size of their subgradient in units of their
       deviation, which is how far they violate the optimality conditions.
    3. The working set is the first of them: `FIRST_WORKING_SET_SIZE`, or twice the support if that is more.
    4. `newton` minimizes f over the working set, to a tolerance that falls tenfold each round.

    It stops where the point is certified to be within the tolerance, where f did not fall and the inner tolerance is at
    most `LAST_INNER_TOL`, or after `MAX_WORKING_SETS`.  Where the support is more than half of the largest working set
    whose Hessian can be held, L-BFGS goes on over all features.

    Args:
        state: State of the problem; updated in each round.

    References:
        Massias, Gramfort and Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation.
    """
    problem = state.problem
    point, l1 = state.solution, problem.penalties(problem.model)[1]
    max_size = (
        min(MAX_HELD_HESSIAN_PARAMETERS // (problem.num_outputs if problem.coupled else 1), problem.num_features + 1)
        - 1
    )
    sample = yield from request(RowSample(problem))
    deviation = choose_coordinates(problem, sample, every_scale=True).scale
    inner_tol, size, last_value = FIRST_INNER_TOL, FIRST_WORKING_SET_SIZE, math.inf
    for _ in range(MAX_WORKING_SETS):
        now = yield from request(Evaluate(problem, problem.model, point, torch.float64))
        state.coordinates, state.point, state.value = problem.model, point, now.value
        slope = smallest_subgradient(point, now.gradient, l1)
        if (yield from certified(state, now)) or not (now.value < last_value or inner_tol > LAST_INNER_TOL):
            break
        last_value = now.value
        support = (point[:, :-1] != 0).any(0)
        violation = torch.where(support, math.inf, slope[:, :-1].abs().amax(0) / deviation)
        size = min(max(size, 2 * int(support.sum())), max_size)
        selected = violation.topk(size).indices.sort().values
        selected = selected[violation[selected] > 0]
        if 2 * int(support.sum()) > max_size:
            yield from lbfgs(state)
            return
        model = Coordinates(problem.model.center[selected], problem.model.scale[selected])
        columns = torch.cat([selected, selected.new_tensor([problem.num_features])])
        inner = SolverState(replace(problem, model=model), point[:, columns], inner_tol, state.seed)
        for requested in newton(inner):
            yield _SelectedFeatures(requested, selected)
        point = point.clone()
        point[:, columns] = inner.solution
        inner_tol = max(inner_tol / 10, 0.1 * state.tolerance)
    if state.best is not None:
        state.point = state.best
