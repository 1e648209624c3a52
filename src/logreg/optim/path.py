"""A regularisation path: the optimum for every strength of l2, each started from the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from logreg.facts import Batch
from logreg.optim.certificate import Bound, bound
from logreg.optim.curvature import DRAWN
from logreg.optim.exact import EXACT
from logreg.optim.passes import Asking, Frame, Problem, choose_frame
from logreg.optim.progress import Progress
from logreg.optim.start import safe_step

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


def default_strengths(problem: Problem, sample: Batch) -> list[float]:
    """From the largest curvature of the loss, where the penalty outweighs the data, down to 1e-6 of it.

    Args:
        problem: Of the rows.
        sample: Some of them; the curvature at zero is estimated on these.

    Returns:
        Strengths, each 10^(1/4) times the next, to two digits.
    """
    frame = Frame(choose_frame(problem, sample, every_scale=False).center, problem.model.scale)
    curvature = 1 / safe_step(problem, frame, sample)
    if problem.objective.reduction == "sum":
        curvature *= problem.total_weight
    largest = math.ceil(math.log10(curvature) * PER_DECADE)
    return [
        float(f"{10 ** (step / PER_DECADE):.2g}") for step in range(largest, largest - DECADES * PER_DECADE - 1, -1)
    ]


def fit_path(
    problem: Problem, strengths: Sequence[float], tolerance: float = 1e-6, seed: int = 0, most: int = PASSES
) -> Asking[list[PathPoint]]:
    """Solves for every strength; each fit starts where the two before it point to on the scale of log l2.

    Args:
        problem: Whose rows will be shown; its own l2 does not matter, its l1 stays.
        strengths: Of l2, all > 0, in any order.
        tolerance: Relative gap to end each fit at.
        seed: Fixes what is drawn.
        most: Passes for each strength at most, with what those before it left.

    Returns:
        A point for each strength, from the strongest to the weakest.
    """
    points: list[PathPoint] = []
    inverse, of, left = None, math.inf, 0
    for l2 in sorted(strengths, reverse=True):
        this = replace(problem, objective=replace(problem.objective, l2=l2))
        if l2 < of / SIMILAR and (inverse is None or len(inverse) < MANY):
            inverse, of = None, l2
        progress = Progress(this, _start(this, points), tolerance, seed, drawn=ROWS * DRAWN, inverse=inverse)
        passes = 0
        left += most
        inverse = None  # it is the fit's to renew
        for question in EXACT["newton"](progress):
            yield question
            passes += not question.done
            if passes >= left:
                break
        if progress.bound is None:
            progress.bound = yield from bound(this, progress.solution, enough=tolerance)
        inverse, left = progress.inverse, max(left - passes, 0)
        points.append(PathPoint(l2, progress.solution, progress.bound, progress.converged, passes))
    return points


def _start(problem: Problem, points: Sequence[PathPoint]) -> Tensor:
    """Zero, then the last point, then where a line through the last two leads."""
    if not points:
        return problem.zeros()
    last = points[-1]
    if len(points) == 1 or problem.objective.l1:  # a line would leave the zeros that l1 holds
        return last.point
    before = points[-2]
    ahead = math.log(problem.objective.l2 / last.l2) / math.log(last.l2 / before.l2)
    return last.point + ahead * (last.point - before.point)
