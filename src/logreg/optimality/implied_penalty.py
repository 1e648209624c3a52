"""Which problem coefficients are the optimum of, where they are not that of the one that is stated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import RowSource
from logreg.solvers.fit import bound_of
from logreg.solvers.newton_steps import smallest_subgradient
from logreg.solvers.passes.base import run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.problem import Coordinates, Problem

CLEAR = 0.2
"""Residual up to which coefficients are said to answer to a penalty: scikit-learn's default leaves up to 0.13."""

CLEARER = 0.2
"""How much smaller a residual must be than that of the problem that is stated."""

SAME = 0.02
"""Relative difference of two strengths that count as one."""

MARGIN = 3.0
"""What a strength may be off, relative to what is seen of that: 99 of 100 random errors of coefficients are within."""

MOST_DIGITS = 6
"""Significant digits of a strength, where its error allows more."""


@dataclass(frozen=True)
class ImpliedPenalty:
    """A penalty that coefficients come near to solving.

    Attributes:
        l2: Its strength, in the units of the stated one.
        l1: Likewise.
        factor: Both relative to the stated ones; the l2 itself where none was stated.
        features: Whose coefficients it is on: a name of the frames, "raw" or "standardized".
        intercept: Whether it is on the intercept too.
        size: |coef| of the features that it is on.
        residual: What is left of the slope, |slope of the loss + slope of the penalty| / |slope of the loss|; 0 at
            the optimum of that penalty.
        error: About what the strength may be off, relative to it: ``MARGIN`` times what is left of the slope, over
            |slope of the penalty|.
        relative_gap: Of the coefficients to the optimum of that penalty; ``None`` if the intercept is penalized.
    """

    l2: float
    l1: float
    factor: float
    features: str
    intercept: bool
    size: float
    residual: float
    error: float
    relative_gap: float | None = None


def read(
    problem: Problem, point: Tensor, rows: RowSource, frames: Mapping[str, Coordinates], intercept: bool
) -> ImpliedPenalty | None:
    """Looks for a penalty whose slope cancels that of the loss, along the stated one.

    At an optimum of loss + factor * penalty both slopes do; so the best factor is
    -<slope of the loss, slope of the penalty> / |slope of the penalty|^2, for l2 alone l2_hat = -<g, coef> / |coef|^2.
    Coefficients that are not quite converged leave a slope r, which moves the factor by <r, slope of the penalty> /
    |slope of the penalty|^2. Of r only the part across the slope of the penalty is seen; the part along it is taken to
    be ``MARGIN`` times as large at most.

    Args:
        problem: The stated one.
        point: In its model coordinates, (K, D + 1).
        rows: The train rows.
        frames: Of the features that a penalty may be on, by name.
        intercept: Whether it may be on the intercept too.

    Returns:
        The best reading, if it explains the coefficients far better than the stated problem does.
    """
    stated = problem.objective
    loss_alone = replace(problem, objective=replace(stated, l2=0.0, l1=0.0))
    question = Evaluate(loss_alone, problem.model, point, torch.float64)
    run_pass(rows, question)
    slope = question.result().gradient
    found = []
    for (features, coordinates), with_intercept in product(frames.items(), (False, True) if intercept else (False,)):
        there, slope_there = problem.model.to(coordinates, point), problem.model.gradient_to(coordinates, slope)
        factor = _factor(there, slope_there, stated, with_intercept)
        if factor > 0:
            objective = _times(stated, factor)
            left = _left(there, slope_there, objective, with_intercept)
            residual = left / float(slope_there.norm())
            error = MARGIN * left / float(_along(there, objective, with_intercept).norm())
            size = float(there[:, :-1].norm())
            found.append(
                ImpliedPenalty(objective.l2, objective.l1, factor, features, with_intercept, size, residual, error)
            )
    best = min(found, key=lambda reading: reading.residual, default=None)
    if best is None or best.residual > min(CLEAR, CLEARER * _left(point, slope, stated, False) / float(slope.norm())):
        return None
    if best.intercept:
        return best
    coordinates, objective = frames[best.features], replace(stated, l2=best.l2, l1=best.l1)
    bound = bound_of(
        replace(problem, objective=objective, model=coordinates), problem.model.to(coordinates, point), rows
    )
    return replace(best, relative_gap=bound.gap / bound.value)


def _times(stated: Objective, factor: float) -> Objective:
    if not (stated.l2 or stated.l1):
        return replace(stated, l2=factor)
    return replace(stated, l2=factor * stated.l2, l1=factor * stated.l1)


def _penalized(point: Tensor, intercept: bool) -> Tensor:
    """The point, with zeros for what is free."""
    return point if intercept else torch.cat([point[:, :-1], torch.zeros_like(point[:, -1:])], dim=1)


def _along(point: Tensor, objective: Objective, intercept: bool) -> Tensor:
    """Slope of the penalty."""
    held = _penalized(point, intercept)
    return objective.l2 * held + objective.l1 * held.sign()


def _factor(point: Tensor, slope: Tensor, stated: Objective, intercept: bool) -> float:
    along = _along(point, _times(stated, 1.0), intercept)
    return -float((slope * along).sum() / along.square().sum())


def _left(point: Tensor, slope: Tensor, objective: Objective, intercept: bool) -> float:
    """What is left of the slope, |slope of the loss + slope of the penalty|."""
    l1 = torch.full_like(point[0], objective.l1)
    if not intercept:
        l1[-1] = 0
    return float(smallest_subgradient(point, slope + objective.l2 * _penalized(point, intercept), l1).norm())


def rounded(strength: float, error: float) -> str:
    """The shortest decimal within the error of a strength, of ``MOST_DIGITS`` digits at most.

    Args:
        strength: > 0.
        error: Relative to the strength.

    Example:
        >>> rounded(1.0000123, 3e-5), rounded(2.987, 0.07), rounded(1 / 569, 1e-9)
        ('1', '3', '0.00175747')
    """
    decimals = (float(f"{strength:.{digits}g}") for digits in range(1, MOST_DIGITS))
    short = next((decimal for decimal in decimals if abs(decimal - strength) <= error * strength), strength)
    return f"{short:.{MOST_DIGITS}g}"


def likely_cause(reading: ImpliedPenalty, total_weight: float) -> str:
    """What may have been confused for the strength to come out as it did, or nothing.

    Args:
        reading: Of coefficients whose stated problem has a penalty.
        total_weight: N, or the sum of the weights.

    Example:
        >>> likely_cause(ImpliedPenalty(0.5, 0.0, 1 / 500, "raw", False, 3.0, 1e-6, 1e-6), 500.0)
        'as if the loss were summed over the rows and not averaged'
    """
    nothing = (1.0, "")
    scales = [
        nothing,
        (total_weight, "the penalty were not divided by the number of rows"),
        (1 / total_weight, "the loss were summed over the rows and not averaged"),
    ]
    halves = [
        nothing,
        (2.0, "|coef|^2 had no half before it"),
        (0.5, "the penalty were halved twice, or a softmax of two classes were written as one logit"),
    ]
    powers = [nothing, (1 / (2 * reading.size), "|coef| stood for |coef|^2")]
    if reading.l1:
        halves, powers = [nothing], [nothing]
    for parts in sorted(product(scales, halves, powers), key=lambda parts: len(set(parts) - {nothing})):
        if abs(math.log(reading.factor / math.prod(part for part, _ in parts))) < SAME:
            words = [words for _, words in parts if words]
            return f"as if {' and '.join(words)}" if words else ""
    return ""
