"""Paths over l1, with or without l2, of small problems with separate logistic outputs: several strengths at once.

On few rows the overhead of the operations takes most of the time, so each operation serves several strengths:

1. At a point near the optimum for one strength, the quadratic model of the loss has a minimum for each strength: a step
   of a proximal Newton method.  One Hessian serves all of them.
2. The step for a strength nearby ends about at its optimum.  The error of the step is of second order in the distance
   from that strength, so the gap is of fourth order.
3. The dual points that the model predicts show the gaps.  Strengths within the tolerance are done, and the gaps tell
   how far the next model reaches.
4. The next model is made at the minimum of this one for a strength so far on that it serves those on both sides.

References:
    Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from logreg.rows import MemoryRows
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.paths.small_folds import MAX_ROW_NUMBERS, BatchPaths, has_small_outputs
from logreg.solvers.paths.strength_models import Ends, StrengthModels
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_l1 import MIN_TOLERANCE, TINY
from logreg.solvers.threads import threads_for

MAX_RADIUS = 4
"""Strengths on either side of a point whose optima may come from the model there."""

MAX_TRIAL_NUMBERS = 2**20
"""Logits of the strengths that are tried at once: 8 MiB."""

MAX_STEPS = 30
"""Steps for one strength alone, after which it is left to the other solvers."""

ROOM = 0.9
"""Part of the tolerance at which an estimated gap is enough, since the certified one is a little larger."""


def fits_several_at_once(problem: Problem, rows: MemoryRows, tolerance: float) -> bool:
    """Whether `fit_small_l1_path` may be called: few dense rows on the CPU, and separate outputs."""
    return (
        has_small_outputs(problem)
        and rows.features.device.type == "cpu"
        and not rows.is_sparse
        and rows.processes is None
        and len(rows.labels) * problem.num_features <= MAX_ROW_NUMBERS
        and tolerance >= MIN_TOLERANCE
    )


@np.errstate(all="ignore")  # a step that is not finite is halved
def fit_small_l1_path(
    problem: Problem, rows: MemoryRows, strengths: Sequence[Strength], tolerance: float, start: Tensor
) -> list[PathPoint]:
    """Finds the optimum for every strength; one that takes too many steps may not be within the tolerance.

    Args:
        problem: The problem over the rows, which `fits_several_at_once`; its own penalties do not matter.
        rows: The rows.
        strengths: Each with l1 > 0, and all with l2 > 0 or none; in the order of the fits, best from the strongest to
            the weakest.
        tolerance: The relative gap to end each fit at.
        start: The point (K, D + 1) that the first fit starts from.
    """
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        models = StrengthModels(problem, rows, strengths)
        now, passes, ends = models.start(start), np.zeros(len(strengths), dtype=np.int64), list[Ends]()
        most = min(MAX_RADIUS, max(MAX_TRIAL_NUMBERS // (2 * models.size) - 1, 0))
        # The model is made at ``center``, for the strengths from ``first`` to ``radius`` beyond the center.
        last, first, center, radius, steps = len(strengths) - 1, 0, 0, 0, 0
        while first <= last:
            end = min(center + radius, last)
            following = min(end + 1 + radius, last)  # the center of the next model
            which = np.array([*range(first, end + 1), *([following] if following > end else [])])
            new = models.evaluate(models.minima(now, center, which))
            passes[which] += 1
            values, dual = models.values(new, which), models.gaps(now, new, which)
            gaps, enough = dual.gap, ROOM * tolerance * values
            served = end + 1 - first
            is_near = gaps[:served] <= enough[:served]
            found = served if is_near.all() else int(is_near.argmin())
            # How far a model reaches, by the first gap that is too large, or else by one far from the center.
            seen = found - 1 if found == served and end > center else min(found, len(which) - 1)
            distance = abs(int(which[seen]) - center)
            reach = (enough[seen] / max(gaps[seen], TINY)) ** 0.25 * distance
            radius = int(min(max(0.0, reach), 2 * distance + 1, most))  # 0 where a gap is not a number
            if not found and steps < MAX_STEPS:
                now = models.lowered(now, new.at(0), which[:1], passes)
                center, radius, steps = first, 0, steps + 1
                continue
            found, steps = max(found, 1), 0
            ends.append(Ends.of(new, values, dual, found))
            place = min(found + radius, len(which) - 1)
            now, center, first = new.at(place), int(which[place]), first + found
        of_passes = torch.from_numpy(passes).unsqueeze(1)
        return BatchPaths(models.bounds(ends), of_passes).of_problem(0, strengths, tolerance)
