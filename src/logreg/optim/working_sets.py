"""Newton's method where l1 leaves few of many features."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.optim.curvature import smallest_subgradient
from logreg.optim.lbfgs import lbfgs
from logreg.optim.newton import newton
from logreg.optim.passes import Asking, Evaluate, Frame, Pass, Sample, ask, choose_frame
from logreg.optim.progress import Progress, certified
from logreg.optim.start import HELD

ROUNDS = 200
"""Working sets at most."""

START = 50
"""Features of the first working set."""


class _Narrowed(Pass[None]):
    """A pass that sees some of the features."""

    def __init__(self, question: Pass[Any], features: Tensor) -> None:
        self.question, self.features = question, features

    def add(self, block: Batch) -> None:
        """Hands on those features.  Sets: done."""
        self.question.add(block._replace(features=block.features.index_select(1, self.features)))
        self.done = self.question.done


def newton_on_working_sets(progress: Progress) -> Asking[None]:
    """Minimises f with l1 over many features: solves for those that matter, looks which others do, and so on.

    Where more of them are needed than a Hessian can be held for, L-BFGS goes on.

    Args:
        progress: Of the problem; told of each round.

    Source:
        Massias, Gramfort and Salmon (2018), Celer: a fast solver for the lasso with dual extrapolation.
    """
    problem = progress.problem
    point, l1 = progress.solution, problem.penalties(problem.model)[1]
    most = min(HELD // (problem.num_outputs if problem.coupled else 1), problem.num_features + 1) - 1
    sample = yield from ask(Sample(problem))
    scale = choose_frame(problem, sample, every_scale=True).scale
    accuracy, size, last = 0.1, START, math.inf
    for _ in range(ROUNDS):
        now = yield from ask(Evaluate(problem, problem.model, point, torch.float64))
        progress.frame, progress.point, progress.value = problem.model, point, now.value
        slope = smallest_subgradient(point, now.gradient, l1)
        if (yield from certified(progress, now)) or not (now.value < last or accuracy > 1e-12):
            break
        last = now.value
        used = (point[:, :-1] != 0).any(0)
        worth = torch.where(used, math.inf, slope[:, :-1].abs().amax(0) / scale)
        size = min(max(size, 2 * int(used.sum())), most)
        chosen = worth.topk(size).indices.sort().values
        chosen = chosen[worth[chosen] > 0]
        if 2 * int(used.sum()) > most:
            yield from lbfgs(progress)
            return
        model = Frame(problem.model.center[chosen], problem.model.scale[chosen])
        inside = replace(problem, model=model)
        columns = torch.cat([chosen, chosen.new_tensor([problem.num_features])])
        inner = Progress(inside, point[:, columns], accuracy, progress.seed)
        for question in newton(inner):
            narrowed = _Narrowed(question, chosen)
            narrowed.mixed = question.mixed
            yield narrowed
        point = point.clone()
        point[:, columns] = inner.solution
        accuracy = max(accuracy / 10, 0.1 * progress.tolerance)
    if progress.best is not None:
        progress.point = progress.best
