"""Newton's method where l1 leaves few of many features."""

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
from logreg.solvers.passes.sampling import Sample
from logreg.solvers.problem import Coordinates, choose_coordinates
from logreg.solvers.starting_point import HELD
from logreg.solvers.state import SolverState, certified

ROUNDS = 200
"""Working sets at most."""

START = 50
"""Features of the first working set."""


class _Narrowed(Pass[None]):
    """A pass that sees some of the features."""

    def __init__(self, requested: Pass[Any], features: Tensor) -> None:
        self.requested, self.features, self.interleaved = requested, features, requested.interleaved

    def add(self, block: Batch) -> None:
        """Hands on those features.  Sets: done."""
        self.requested.add(block._replace(features=block.features.index_select(1, self.features)))
        self.done = self.requested.done

    def finish(self) -> None:
        """Ends the pass that it hands rows to."""
        self.requested.finish()

    def reduce(self, processes: Processes) -> None:
        """Combines the accumulators of that pass."""
        self.requested.reduce(processes)


def newton_on_working_sets(state: SolverState) -> PassRequests[None]:
    """Minimizes f with l1 over many features: solves for those that matter, looks which others do, and so on.

    Where more of them are needed than a Hessian can be held for, L-BFGS goes on.

    Args:
        state: Of the problem; told of each round.

    Source:
        Massias, Gramfort and Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation.
    """
    problem = state.problem
    point, l1 = state.solution, problem.penalties(problem.model)[1]
    most = min(HELD // (problem.num_outputs if problem.coupled else 1), problem.num_features + 1) - 1
    sample = yield from request(Sample(problem))
    scale = choose_coordinates(problem, sample, every_scale=True).scale
    accuracy, size, last = 0.1, START, math.inf
    for _ in range(ROUNDS):
        now = yield from request(Evaluate(problem, problem.model, point, torch.float64))
        state.coordinates, state.point, state.value = problem.model, point, now.value
        slope = smallest_subgradient(point, now.gradient, l1)
        if (yield from certified(state, now)) or not (now.value < last or accuracy > 1e-12):
            break
        last = now.value
        used = (point[:, :-1] != 0).any(0)
        worth = torch.where(used, math.inf, slope[:, :-1].abs().amax(0) / scale)
        size = min(max(size, 2 * int(used.sum())), most)
        chosen = worth.topk(size).indices.sort().values
        chosen = chosen[worth[chosen] > 0]
        if 2 * int(used.sum()) > most:
            yield from lbfgs(state)
            return
        model = Coordinates(problem.model.center[chosen], problem.model.scale[chosen])
        inside = replace(problem, model=model)
        columns = torch.cat([chosen, chosen.new_tensor([problem.num_features])])
        inner = SolverState(inside, point[:, columns], accuracy, state.seed)
        for requested in newton(inner):
            yield _Narrowed(requested, chosen)
        point = point.clone()
        point[:, columns] = inner.solution
        accuracy = max(accuracy / 10, 0.1 * state.tolerance)
    if state.best is not None:
        state.point = state.best
