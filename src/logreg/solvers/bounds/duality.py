"""The duality gap, which bounds f - f* with a penalty and a loss whose convex conjugate is known.

Let s_i be the weight of row i, S = sum_i s_i (or 1 for a summed loss), z_i
its logits, g(w) = l2/2 w^2 + l1 |w| the penalty of one coefficient, and * the convex conjugate.  Every theta with
sum_i s_i theta_i = 0 (the intercept is not penalized) gives a lower bound of f*, and with V = sum_i s_i theta_i x_i / S

    f - f*  <=  sum_i s_i [loss_i(z_i) + loss_i*(theta_i) - z_i theta_i] / S  +  sum_j [w_j V_j + g(w_j) + g*(-V_j)]

At theta_i = d loss_i / d z_i the first sum, the Fenchel-Young excess, is 0.  For l2 alone the second sum is then

    |gradient by the coefficients|^2 / (2 l2),

the bound by strong convexity.  Both need intercepts whose gradient is exactly 0: the intercepts are solved first, and
theta is moved by the rest.  With l1 alone g* is infinite where |V_j| > l1; theta is scaled down until it is feasible.

The sums that rounding leaves are moved to 0 (`logreg.solvers.bounds.balance`), which costs next to nothing.

References:
    Boyd and Vandenberghe (2004), Convex optimization, section 5.7: Fenchel duality.
    Koh, Kim and Boyd (2007), An interior-point method for large-scale l1-regularized logistic regression, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.solvers.bounds.balance import balanced_by_least, cost_of_balance, sums_error
from logreg.solvers.bounds.base import Bound, EvaluatedPoint, conversion_rounding, second_order
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT, moves_through_one_class, solve_intercepts
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, DualObjective
from logreg.solvers.problem import Coordinates, Problem, column_parts
from logreg.solvers.steps.newton_steps import smallest_subgradient

MAX_UNCHECKED_SHRINKAGE = 1e-9
"""Fraction by which a dual point is scaled down without another pass for the exact cost.

The cost is at most the fraction times f.
"""


class DualPoint(NamedTuple):
    """A point theta of the dual problem; with l1 alone times the largest number at which it is feasible."""

    sums: Tensor
    """The sums of theta x over the rows, V, and of theta, (K, D + 1)."""
    scale: float
    """The number, in (0, 1], that theta has been multiplied with; see `feasible_scale`."""
    excess: float
    """The Fenchel-Young excess at the primal point that theta belongs to."""
    rounding: float
    """Upper bound of the rounding error of the excess."""
    scaled: Callable[[float], PassRequests[tuple[Tensor, float, float]]] | None = None
    """Computes sums, excess and rounding of theta at another scale, which is relative to that of theta at scale 1;
    only l1 alone needs it."""
    hub: int | None = None
    """The class through which sums of a softmax of many outputs are moved; see `cost_of_balance`."""
    with_hub: Tensor | None = None
    """`DualSums.with_hub` of that class."""
    reach: float = MAX_FEASIBLE_SHIFT
    """Largest fraction by which theta changes a probability from that of the residuals."""


def feasible_scale(problem: Problem, coordinates: Coordinates, sums: Tensor) -> float:
    """The factor in (0, 1] that makes a dual point feasible.

    The conjugate of l1 |w| is infinite beyond l1; with l2 every dual point is feasible.

    Args:
        problem: The problem.
        coordinates: The coordinates of ``sums``.
        sums: The sums of theta x over the rows, (K, D + 1).
    """
    if problem.objective.l2 or not problem.num_features:
        return 1.0
    l1 = problem.penalties(coordinates)[1][:-1]
    reach = float((sums[:, :-1].abs() / l1).max())
    return (1 - 1e-12) / reach if reach > 1 else 1.0


def bound_by_duality(start: EvaluatedPoint, enough: float) -> PassRequests[tuple[float, float]]:
    """The duality gap at a point as it is computed, and an upper bound of what rounding hides of the exact one.

    The dual point is that of the residuals, after the intercepts are solved.  ``enough`` is as of `bound`.
    """
    solved = yield from solve_intercepts(start)
    if solved is None:
        return math.inf, 0.0
    at, shift = solved
    problem, coordinates, point, evaluation = at.problem, at.coordinates, at.point, at.evaluation
    # Sums of theta that are left are made exactly 0 by one more small move, which `cost_of_balance` accounts for.
    before = torch.addcmul(evaluation.gradient, at.penalties[0], point, value=-1.0)
    moved, with_hub = balanced_by_least(at, before, enough), None
    hub = int(evaluation.curvature.own.argmax()) if moved is None and moves_through_one_class(at) else None
    sums = before
    if moved is None and evaluation.by_intercept is not None:
        sums = sums - shift.unsqueeze(1) * evaluation.by_intercept
    elif moved is None and (shift.any() or hub is not None):
        sums, _, _, with_hub = yield from request(DualObjective(problem, coordinates, point, shift, hub=hub))
    # Chi squared of the move, which is at least the excess: within such a move the conjugate is nearly quadratic.
    of_shift = sums, max(float(shift @ (before - sums)[:, -1]), 0.0), MAX_FEASIBLE_SHIFT
    sums, excess, reach = moved or of_shift
    rounding = start.probabilities_error + 2 * float(shift.abs() @ sums_error(at, 0.0))

    def scaled(scale: float) -> PassRequests[tuple[Tensor, float, float]]:
        return (yield from request(DualObjective(problem, coordinates, point, shift, scale)))[:3]

    scale = feasible_scale(problem, coordinates, sums)
    if scale < 1:
        sums, excess, rounding = yield from scaled(scale)
        # Far from the residuals the cost of a move is no chi squared.
        with_hub = None if with_hub is None else torch.zeros_like(with_hub)
    theta = DualPoint(sums, scale, excess, rounding, scaled, hub, with_hub, reach)
    gap, rounding = yield from duality_gap(at, theta)
    if at.point is not start.point:
        rounding += start.value_error + at.value_error
    gap += start.evaluation.value - evaluation.value
    # Conjugate gradients leave more of the sums than rounding does.
    return (gap, rounding) if hub is None else (gap + rounding, 0.0)


def bound_at_dual_point(at: EvaluatedPoint, own: Coordinates, theta: DualPoint) -> PassRequests[Bound]:
    """Bounds f - f* by the duality gap between a point and a dual point that a solver has found.

    Args:
        at: The point; the gradient of its evaluation may be that of theta.
        own: The coordinates in which the caller holds the point.
        theta: The dual point.
    """
    problem, evaluation = at.problem, at.evaluation
    slope = at.coordinates.gradient_to(problem.model, evaluation.gradient)
    l1 = problem.penalties(problem.model)[1]
    slope = smallest_subgradient(at.coordinates.to(problem.model, at.point), slope, l1)
    gap, rounding = yield from duality_gap(at, theta)
    if math.isnan(gap + rounding) or gap + rounding > evaluation.value + at.value_error:
        gap, rounding = evaluation.value + at.value_error, 0.0  # neither a loss nor a penalty is negative
    rounding += conversion_rounding(at, own)
    return Bound(evaluation.value, gap, True, slope, evaluation.loss, rounding, error=at.value_error)


def duality_gap(at: EvaluatedPoint, theta: DualPoint) -> PassRequests[tuple[float, float]]:
    """The duality gap between a point and a dual point, and an upper bound of what rounding hides of the exact one."""
    problem, point = at.problem, at.point
    l2, l1 = (strength[:-1] for strength in at.penalties)
    coef, slopes, excess = point[:, :-1], theta.sums[:, :-1], max(theta.excess, 0.0)
    noise, balance, distance = slopes_error(at, theta)
    if problem.objective.l2:
        of_penalty, rounding = _penalty_terms(coef, slopes, noise, l2, l1 if problem.objective.l1 else None)
    else:
        noise += 8 * UNIT_ROUNDOFF * slopes.abs()
        of_penalty, rounding = yield from _l1_penalty_terms(at, theta, noise, l1)
    rounding += theta.rounding + at.accumulated * (excess + 2 * theta.rounding)
    if problem.objective.l1:  # only coefficients other than 0 have terms
        rounding += (8 + 2 * int(coef.count_nonzero())) * UNIT_ROUNDOFF * float((l1 * coef.abs()).sum())
    rounding += second_order(problem, at.logits_error) + distance * float(at.logits_error.norm())
    # The second derivative of the conjugate is 1 / q at a probability q, which is at least (1 - the fractions) p.
    balance /= 2 * (1 - MAX_FEASIBLE_SHIFT - theta.reach)
    rounding += balance + 2 * math.sqrt(excess * balance)
    return excess + max(of_penalty, 0.0), rounding


def slopes_error(at: EvaluatedPoint, theta: DualPoint) -> tuple[Tensor, float, float]:
    """What rounding hides of a dual point that sums to exactly 0 over the rows.

    Returns:
        Upper bound of the error of its sums of theta x, (K, D); the cost of the move that makes its sums exactly 0; and
        the norm over the rows of theta minus the residuals, at most.
    """
    excess = max(theta.excess, 0.0)
    # The norm over the rows of the residuals: |residual|^2 <= 2 max_curvature loss, for a loss that is smooth and >= 0;
    # and that of theta minus the residuals, by the strong convexity of the conjugate.
    steepest = 2 * at.problem.loss.max_curvature
    distance = math.sqrt(steepest * excess)
    size = math.sqrt(steepest * at.evaluation.loss) + distance
    costs, moves = cost_of_balance(at, theta.sums[:, -1], math.sqrt(at.total) * distance, theta.hub, theta.with_hub)
    return moves.add_(at.accumulated * size * at.squares[:-1].sqrt()), float(costs.sum()), distance


def gap_by_residuals(problem: Problem, coef: Tensor, gradient: Tensor, loss: float) -> float:
    """Estimates the duality gap without a pass, as if the intercepts were at their optimum.

    With l2 the gap of the dual point that the residuals give is a sum over the coefficients.  With l1 alone that point
    is not feasible, and is scaled down until it is.

    Args:
        problem: A problem with a penalty; without a penalty the gap is infinite.
        coef: Shape (K, D), in the model's coordinates.
        gradient: Gradient of the smooth part of f there, (K, D + 1).
        loss: The data term of f there.

    Returns:
        About f - f*, in units of f.
    """
    l2, l1 = problem.objective.l2, problem.objective.l1
    slopes = gradient[:, :-1] - l2 * coef
    if l2:
        beyond_l1 = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        gaps = (beyond_l1 + l2 * coef).square() / (2 * l2) + l1 * coef.abs() + coef * (slopes - beyond_l1)
        return float(gaps.sum())
    if not l1:
        return math.inf
    # Scaling the dual point costs about (1 - scale)^2 of the loss.
    scale = min(1.0, l1 / max(float(slopes.abs().max()), 1e-300))
    return float((scale * coef * slopes + l1 * coef.abs()).sum()) + (1 - scale) ** 2 * loss


def _penalty_terms(coef: Tensor, slopes: Tensor, noise: Tensor, l2: Tensor, l1: Tensor | None) -> tuple[float, float]:
    """The sum of the terms w V + g(w) + g*(-V) of the coefficients, (K, D), with l2 > 0; and what rounding adds.

    |V + l2 w|^2 / (2 l2) without l1, written so that nothing large cancels.  Few columns at a time stay in the cache.
    """
    total, rounding, parts = 0.0, 0.0, list(column_parts(coef.shape))
    for some in parts:
        w, v, by = coef[:, some], slopes[:, some], l2[some]
        held = v if l1 is None else (v.abs() - l1[some]).clamp(min=0) * v.sign()
        off = torch.addcmul(held, by, w).abs_()
        error = torch.add(noise[:, some], v.abs().addcmul_(by, w.abs()), alpha=8 * UNIT_ROUNDOFF)
        if l1 is not None:
            total += float((l1[some] * w.abs() + w * (v - held)).sum())
        steps = off / by
        of_l2 = float((off * steps).sum()) / 2
        total += of_l2
        rounding += (w.numel() + len(parts) + 8) * UNIT_ROUNDOFF * of_l2
        rounding += float((steps.add_(error / by, alpha=0.5).mul_(error)).sum())
    return total, rounding


def _l1_penalty_terms(
    at: EvaluatedPoint, theta: DualPoint, noise: Tensor, l1: Tensor
) -> PassRequests[tuple[float, float]]:
    """The sum of the terms w V + l1 |w| of the coefficients, (K, D), with l1 alone; and what rounding adds.

    A theta whose exact V is too large by rounding is feasible once it is scaled down by that little.  The excess is
    convex in the scale, and is the loss where nothing of theta is left: so the cost is at most the fraction times f.
    """
    coef, slopes = at.point[:, :-1], theta.sums[:, :-1]
    terms = float((coef * slopes + l1 * coef.abs()).sum())
    shrunk = min(max(float(((slopes.abs() + noise) / l1).max()) - 1, 0.0), 1.0) if coef.numel() else 0.0
    rounding = float((noise * coef.abs()).sum())
    if shrunk > MAX_UNCHECKED_SHRINKAGE:  # the exact cost is far less than the fraction times f
        assert theta.scaled is not None
        sums, less, noise_there = yield from theta.scaled(theta.scale * (1 - shrunk))
        more = max(less, 0.0) - max(theta.excess, 0.0) + float((coef * (sums[:, :-1] - slopes)).sum())
        return terms, rounding + max(more, 0.0) + noise_there
    return terms, rounding + shrunk * at.evaluation.value
