"""A bound of f - f* by strong convexity, for losses without a conjugate: |gradient|^2 / (2 l2) at the best intercepts.

References:
    Boyd and Vandenberghe (2004), Convex optimization, section 9.1.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.bounds.base import EvaluatedPoint, gradient_error
from logreg.solvers.bounds.intercepts import MAX_INTERCEPT_PASSES
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, EvaluatePrecisely
from logreg.solvers.steps.newton_steps import smallest_subgradient

SOLVED_INTERCEPT_STEP = 1e-9
"""Largest Newton step for an intercept from which a bracket of its optimum is tried; it is reached by one or two more
steps than the point took, and makes the width of the bracket too small to matter."""


def bound_by_strong_convexity(start: EvaluatedPoint) -> PassRequests[float]:
    """A bound that needs l2 > 0 and a convex loss of separate outputs, and nothing else of the loss.

    Minimized over the intercepts, f is a function of the coefficients that is strongly convex with constant l2.  So

        f - f*  <=  |gradient by the coefficients at the optimal intercepts|^2 / (2 l2).

    The derivatives by the intercepts have opposite signs at both ends of a bracket, which therefore holds the optimal
    ones.  Within the bracket each residual grows with its intercept: so all residuals together change at most by the
    difference of the two derivatives, and the gradient by a coefficient by that times the largest feature.

    Returns:
        The bound with its rounding errors; infinite where no bracket is found.
    """
    problem, at = start.problem, start
    width = torch.zeros_like(start.point[:, -1])
    for _ in range(MAX_INTERCEPT_PASSES if problem.intercept else 0):
        gradient, own = at.evaluation.gradient[:, -1], at.evaluation.curvature.own
        shift = torch.where(own > 0, gradient / own, 0.0).clamp(-1, 1)
        if not bool(shift.isfinite().all()) or not bool((own > 0).all()):
            return math.inf
        noise = gradient_error(at)[:, -1]
        if bool((shift.abs() <= SOLVED_INTERCEPT_STEP + noise / own).all()):
            width = 2 * shift.abs() + 4 * noise / own
            break
        there = yield from request(EvaluatePrecisely(problem, at.coordinates, _shifted(at.point, -shift)))
        at = EvaluatedPoint(problem, at.coordinates, _shifted(at.point, -shift), *there[:3])
    else:
        if problem.intercept:
            return math.inf
    evaluation, error = at.evaluation, gradient_error(at)
    penalty, l1 = at.penalties
    slopes = smallest_subgradient(at.point, evaluation.gradient, l1)[:, :-1].abs() + error[:, :-1]
    left = max(start.evaluation.value - evaluation.value, 0.0)
    if at is not start:
        left += start.value_error + at.value_error
    if problem.intercept:
        ends = []
        for sign in (-1, 1):
            there = yield from request(EvaluatePrecisely(problem, at.coordinates, _shifted(at.point, sign * width)))
            end = EvaluatedPoint(problem, at.coordinates, _shifted(at.point, sign * width), *there[:3])
            ends.append((sign * end.evaluation.gradient[:, -1], gradient_error(end)[:, -1], end.largest))
        (low, low_error, largest), (high, high_error, _) = ends
        if not bool(((low > low_error) & (high > high_error)).all()):
            return math.inf
        slopes = slopes + (low + low_error + high + high_error).unsqueeze(1) * largest[:-1]
        left += float((evaluation.gradient[:, -1].abs() + error[:, -1]) @ width)
    return left + float((slopes.square() / (2 * penalty[:-1])).sum()) * (1 + 8 * UNIT_ROUNDOFF)


def _shifted(point: Tensor, shift: Tensor) -> Tensor:
    """A point (K, D + 1) whose intercepts are moved by a shift (K,)."""
    point = point.clone()
    point[:, -1] += shift
    return point
