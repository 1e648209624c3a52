"""Bounds on f - f* of many points at once, for losses of separate outputs and features that are held in float64.

The formulas, and the bounds of their rounding errors, are those of `logreg.solvers.bounds`, where they are derived; here
each number is a tensor over the outputs of all problems, and the sums over the rows are matrix products.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.solvers.bounds import MAX_FEASIBLE_SHIFT
from logreg.solvers.curvature_bound import SATURATED_LOSS
from logreg.solvers.newton_steps import smallest_subgradient
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem


class BatchPoint(NamedTuple):
    """A point of B problems with its derivatives in float64, for C = B * K columns: one for each output of a problem."""

    problem: Problem
    """The problem over all rows, with the penalties of the point."""
    coordinates: Coordinates
    point: Tensor
    """Shape (C, p), where p is D + 1 with an intercept, else D."""
    features: Tensor
    """Features in the coordinates, with a column of ones for an intercept, (n, p)."""
    weights: Tensor
    """Weights of the rows in the objectives, (n, C)."""
    totals: Tensor
    """Their sums, (C,)."""
    targets: Tensor
    """Targets of the rows, (n * C,)."""
    squares: Tensor
    """Weighted sums of the squared features, (C, p)."""
    largest: Tensor
    """Largest absolute value of each feature, (p,)."""
    loss: Tensor
    """Weighted loss, (C,)."""
    value: Tensor
    """f of each problem, (B,)."""
    slopes: Tensor
    """The gradient of the loss, (C, p)."""
    residuals: Tensor
    """Weighted residuals, (n, C)."""
    curvature: Tensor
    """Curvatures, (n, C)."""
    logits: Tensor
    """Shape (n, C)."""


def batch_bound(at: BatchPoint) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Bounds f - f* of each problem by duality.

    Where a dual point is not feasible, or the loss of a problem is saturated, its gap is infinite.

    Returns:
        The point in the model's coordinates, (B, K, D + 1), and the fields of `Bound`: value (B,), gap (B,), gradient
        (B, K, D + 1), loss (B,), rounding (B,), error (B,).
    """
    problem, k, d = at.problem, at.problem.num_outputs, at.problem.num_features
    loss, objective, totals = problem.loss, problem.objective, at.totals
    strength2, strength1 = problem.penalties(at.coordinates)
    l2, l1, coef = strength2[:-1], strength1[:-1], at.point[:, :d]
    accumulated = (len(at.features) + 20) * UNIT_ROUNDOFF
    reach = at.squares.sqrt()
    logits_error = (d + 10) * UNIT_ROUNDOFF * (at.point.abs() * reach).sum(1)
    noise_free = torch.zeros_like(at.loss)

    # The dual point: the residuals, moved until they sum to 0, and with l1 alone scaled until it is feasible.
    sums, excess = at.slopes, noise_free
    theta, feasible = None, at.loss > SATURATED_LOSS * totals
    conductance = noise_free
    if problem.intercept:
        spread = at.curvature * at.weights
        by_intercept = spread.T @ at.features
        conductance = by_intercept[:, -1]
        shift = sums[:, -1] / conductance.clamp(min=1e-300)
        feasible = feasible & (shift.abs() * loss.self_concordance <= MAX_FEASIBLE_SHIFT) & (conductance > 0)
        sums = sums - shift.unsqueeze(1) * by_intercept
        excess = shift.square() * conductance
        theta = at.residuals - shift * spread
    rounding = 8 * UNIT_ROUNDOFF * totals
    if objective.l1 and not objective.l2:
        theta = at.residuals if theta is None else theta
        # The rounding error of the sums is within the factor too.
        size = (2 * loss.max_curvature * at.loss).sqrt().unsqueeze(1)
        noise = 4 * accumulated * size * reach[:, :d]
        scale = (1 - 1e-12) / ((sums[:, :d].abs() + noise) / l1).amax(1).clamp(min=1.0)
        excess = _excess(at, theta * scale)
        sums = sums * scale.unsqueeze(1)
    distance = (2 * loss.max_curvature * excess.clamp(min=0)).sqrt()
    size = (2 * loss.max_curvature * at.loss).sqrt() + distance
    moves, balance = torch.zeros_like(coef), noise_free
    if problem.intercept:
        residual_sums = loss_bound = at.loss if math.isfinite(loss.lipschitz) else size * totals.sqrt()
        del loss_bound
        spread_sums = 2 * MAX_FEASIBLE_SHIFT * conductance
        error = accumulated * (residual_sums + spread_sums + totals.sqrt() * distance)
        off = sums[:, -1].abs() * (1 + UNIT_ROUNDOFF) + error
        conductance = conductance * (1 - accumulated)
        feasible = feasible & (off * loss.self_concordance <= MAX_FEASIBLE_SHIFT * conductance)
        balance = off.square() / conductance.clamp(min=1e-300)
        moves = balance.sqrt().unsqueeze(1) * reach[:, :d]
    slopes = sums[:, :d]
    noise = accumulated * size.unsqueeze(1) * reach[:, :d] + moves
    noise = noise + 8 * UNIT_ROUNDOFF * (slopes.abs() + l2 * coef.abs())
    if objective.l2:
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign()
        off = (held + l2 * coef).abs()
        terms = off * (off / l2) / 2 + l1 * coef.abs() + coef * (slopes - held)
        rounding = rounding + (noise * (off / l2) + noise * (noise / l2) / 2).sum(1)
    else:
        terms = coef * slopes + l1 * coef.abs()
        over = (((slopes.abs() + noise) / l1).amax(1) - 1).clamp(min=0, max=1)
        rounding = rounding + (noise * coef.abs()).sum(1) + over * (at.loss + (l1 * coef.abs()).sum(1))
    rounding = rounding + 8 * UNIT_ROUNDOFF * (l1 * coef.abs()).sum(1)
    second = max(loss.max_curvature, 1.0) / 2
    rounding = rounding + second * logits_error.square() + distance * logits_error
    rounding = rounding + balance + 2 * (excess.clamp(min=0) * balance).sqrt()
    gap = excess.clamp(min=0) + terms.sum(1).clamp(min=0)
    gap = torch.where(feasible & (gap + rounding).isfinite(), gap, math.inf)

    value_error = 2 * accumulated * at.value.abs()
    slope = loss.lipschitz * totals.sqrt()
    if not math.isfinite(loss.lipschitz):
        slope = (2 * loss.max_curvature * at.loss).sqrt()
    value_error = value_error + (2 * slope * logits_error).view(-1, k).sum(1)

    # The point as it is stored, in the model's coordinates.
    point = at.point if problem.intercept else F.pad(at.point, (0, 1))
    gradient = at.slopes + (strength2 if problem.intercept else l2) * at.point
    gradient = gradient if problem.intercept else F.pad(gradient, (0, 1))
    offsets = (coef.abs() / at.coordinates.scale) @ (2 * at.coordinates.center.abs() + problem.model.center.abs())
    of_intercept = (d + 5) * UNIT_ROUNDOFF * offsets + 4 * UNIT_ROUNDOFF * point[:, -1].abs()
    of_logits = 4 * logits_error + of_intercept * totals.sqrt()
    of_slope = gradient[:, -1].abs() * of_intercept + 4 * UNIT_ROUNDOFF * (gradient * point).abs().sum(1)
    rounding = rounding + of_slope + second * of_logits.square()

    stored = at.coordinates.to(problem.model, point)
    slope = at.coordinates.gradient_to(problem.model, gradient)
    slope = smallest_subgradient(stored, slope, problem.penalties(problem.model)[1])

    def of_problems(columns: Tensor) -> Tensor:
        return columns.view(-1, k).sum(1)

    upper = at.value + value_error  # neither a loss nor a penalty is negative, so f* >= 0
    gap, rounding = of_problems(gap), of_problems(rounding)
    bounded = gap + rounding <= upper
    gap, rounding = torch.where(bounded, gap, upper), torch.where(bounded, rounding, 0.0)
    shape = (-1, k, d + 1)
    return stored.view(shape), at.value, gap, slope.view(shape), of_problems(at.loss), rounding, value_error


def _excess(at: BatchPoint, theta: Tensor) -> Tensor:
    """The Fenchel-Young excess of weighted dual points (n, C) at the logits, (C,)."""
    weights = at.weights
    dual = torch.where(weights > 0, theta / weights, 0.0)
    conjugate = at.problem.loss.conjugate(dual.view(-1, 1), at.targets.unsqueeze(1)).view(weights.shape)
    return at.loss + torch.linalg.vecdot(conjugate - dual * at.logits, weights, dim=0)
