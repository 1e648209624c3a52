"""Finds the penalty that given coefficients do minimize, where it is not the stated one.

At an optimum the gradient of the loss and that of the penalty cancel.  Coefficients of another program that are not the
optimum of the stated problem may be that of a problem whose penalty has another strength, is on standardized features,
or is on the intercept too.  The conventions of libraries differ: the penalty is divided by the number of rows or not,
and |coef|^2 has a half before it or not.

For each place of the penalty the best factor of its strength is a least-squares solution.  With the gradient g of the
loss and p of the stated penalty

    factor = -<g, p> / |p|^2,    for l2 alone l2_hat = -<g, coef> / |coef|^2.
"""

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
from logreg.solvers.passes.base import run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import smallest_subgradient

MAX_RESIDUAL = 0.2
"""Residual up to which a penalty counts as the one that coefficients minimize.

scikit-learn's default tolerance leaves residuals up to 0.13.
"""

MAX_RESIDUAL_RATIO = 0.2
"""Residual, relative to that of the stated problem, up to which another penalty counts as the one minimized."""

SAME_STRENGTH_TOLERANCE = 0.02
"""Relative difference of two strengths that count as equal."""

ERROR_MARGIN = 3.0
"""Margin of a strength's error, relative to the residual that it is estimated from.

With random errors of the coefficients 99 of 100 strengths lie within.
"""

MAX_STRENGTH_DIGITS = 6
"""Significant digits of a strength at most, where its error would allow more."""


@dataclass(frozen=True)
class ImpliedPenalty:
    """A penalty that coefficients nearly minimize.

    Attributes:
        l2: Strength of l2, in the units of the stated one.
        l1: Strength of l1, in the units of the stated one.
        factor: Both strengths relative to the stated ones; the l2 itself where no penalty was stated.
        features: The features whose coefficients are penalized, "raw" or "standardized".
        intercept: Whether the intercept is penalized too.
        size: |coef| of these features.
        residual: |gradient of the loss + gradient of the penalty| / |gradient of the loss|; 0 at the optimum.
        error: Estimated relative error of the strength: ``ERROR_MARGIN`` times |gradient of the loss + gradient of the
            penalty| / |gradient of the penalty|.
        relative_gap: The gap of the coefficients with this penalty, relative to f; ``None`` if the intercept is
            penalized.
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


def find_implied_penalty(
    problem: Problem, point: Tensor, rows: RowSource, coordinate_systems: Mapping[str, Coordinates], intercept: bool
) -> ImpliedPenalty | None:
    """Finds the penalty, in a multiple of the stated strengths, that coefficients nearly minimize.

    Coefficients that are not quite converged leave a gradient r of loss and penalty, which moves the factor by
    <r, p> / |p|^2.  Only the part of r that is orthogonal to p can be measured; the part along p is taken to be at most
    ``ERROR_MARGIN`` times as large.

    Args:
        problem: The stated problem.
        point: The coefficients, (K, D + 1), in the problem's model coordinates.
        rows: The train rows.
        coordinate_systems: The coordinates of the features that a penalty may be on, by name.
        intercept: Whether a penalty may be on the intercept too.

    Returns:
        The penalty of the smallest residual, if its residual is far smaller than that of the stated problem.
    """
    stated = problem.objective
    loss_alone = replace(problem, objective=replace(stated, l2=0.0, l1=0.0))
    requested = Evaluate(loss_alone, problem.model, point, torch.float64)
    run_pass(rows, requested)
    slope = requested.result().gradient
    found = []
    for (features, coordinates), with_intercept in product(
        coordinate_systems.items(), (False, True) if intercept else (False,)
    ):
        there, slope_there = problem.model.to(coordinates, point), problem.model.gradient_to(coordinates, slope)
        factor = _best_factor(there, slope_there, stated, with_intercept)
        if factor > 0:
            objective = _scaled(stated, factor)
            left = _remaining_norm(there, slope_there, objective, with_intercept)
            residual = left / float(slope_there.norm())
            error = ERROR_MARGIN * left / float(_penalty_gradient(there, objective, with_intercept).norm())
            size = float(there[:, :-1].norm())
            found.append(
                ImpliedPenalty(objective.l2, objective.l1, factor, features, with_intercept, size, residual, error)
            )
    best = min(found, key=lambda implied: implied.residual, default=None)
    if best is None or best.residual > min(
        MAX_RESIDUAL, MAX_RESIDUAL_RATIO * _remaining_norm(point, slope, stated, False) / float(slope.norm())
    ):
        return None
    if best.intercept:
        return best
    coordinates, objective = coordinate_systems[best.features], replace(stated, l2=best.l2, l1=best.l1)
    bound = bound_of(
        replace(problem, objective=objective, model=coordinates), problem.model.to(coordinates, point), rows
    )
    return replace(best, relative_gap=bound.gap / bound.value)


def _scaled(stated: Objective, factor: float) -> Objective:
    """The objective with its strengths multiplied by a factor; with the factor as l2 where it has no penalty."""
    if not (stated.l2 or stated.l1):
        return replace(stated, l2=factor)
    return replace(stated, l2=factor * stated.l2, l1=factor * stated.l1)


def _penalized(point: Tensor, intercept: bool) -> Tensor:
    """The point (K, D + 1), with zeros in place of parameters that are not penalized."""
    return point if intercept else torch.cat([point[:, :-1], torch.zeros_like(point[:, -1:])], dim=1)


def _penalty_gradient(point: Tensor, objective: Objective, intercept: bool) -> Tensor:
    """The gradient of the penalty, (K, D + 1)."""
    held = _penalized(point, intercept)
    return objective.l2 * held + objective.l1 * held.sign()


def _best_factor(point: Tensor, slope: Tensor, stated: Objective, intercept: bool) -> float:
    """The factor of the stated penalty whose gradient comes nearest to canceling that of the loss."""
    along = _penalty_gradient(point, _scaled(stated, 1.0), intercept)
    return -float((slope * along).sum() / along.square().sum())


def _remaining_norm(point: Tensor, slope: Tensor, objective: Objective, intercept: bool) -> float:
    """|gradient of the loss + gradient of the penalty|, with the smallest subgradient of l1."""
    l1 = torch.full_like(point[0], objective.l1)
    if not intercept:
        l1[-1] = 0
    return float(smallest_subgradient(point, slope + objective.l2 * _penalized(point, intercept), l1).norm())


def rounded(strength: float, error: float) -> str:
    """The shortest decimal within the error of a strength, with at most ``MAX_STRENGTH_DIGITS`` digits.

    Args:
        strength: > 0.
        error: Relative to the strength.

    Example:
        >>> rounded(1.0000123, 3e-5), rounded(2.987, 0.07), rounded(1 / 569, 1e-9)
        ('1', '3', '0.00175747')
    """
    decimals = (float(f"{strength:.{digits}g}") for digits in range(1, MAX_STRENGTH_DIGITS))
    short = next((decimal for decimal in decimals if abs(decimal - strength) <= error * strength), strength)
    return f"{short:.{MAX_STRENGTH_DIGITS}g}"


def likely_cause(implied: ImpliedPenalty, total_weight: float) -> str:
    """The confusion of conventions that explains the strength, in words; empty where none does.

    Args:
        implied: The implied penalty of coefficients whose stated problem has a penalty.
        total_weight: N, or the sum of the weights of the rows.

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
    powers = [nothing, (1 / (2 * implied.size), "|coef| stood for |coef|^2")]
    if implied.l1:
        halves, powers = [nothing], [nothing]
    for parts in sorted(product(scales, halves, powers), key=lambda parts: len(set(parts) - {nothing})):
        if abs(math.log(implied.factor / math.prod(part for part, _ in parts))) < SAME_STRENGTH_TOLERANCE:
            words = [words for _, words in parts if words]
            return f"as if {' and '.join(words)}" if words else ""
    return ""
