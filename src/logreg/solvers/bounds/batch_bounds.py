"""Bounds on f - f* of many points at once, for losses of separate outputs and features that are held in float64.

The formulas, and the bounds of their rounding errors, are those of `logreg.solvers.bounds.duality`, where they are
derived.  Here each number is a tensor over S strengths and C columns, one for each output of each problem, and sums
over the rows are matrix products.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, accumulated
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import smallest_subgradient


class BatchRows(NamedTuple):
    """The rows of the problems of a batch."""

    problem: Problem
    """The problem over all rows; its penalties do not matter."""
    coordinates: Coordinates
    features: Tensor
    """Features in the coordinates, with a column of ones for an intercept, (n, p): p is D + 1 with one, else D."""
    weights: Tensor
    """Weights of the rows in the objectives, (C, n)."""
    totals: Tensor
    """Their sums, (C,)."""
    targets: Tensor
    """Targets of the rows, (C, n)."""
    squares: Tensor
    """Weighted sums of the squared features, (C, p)."""


class BatchEvaluation(NamedTuple):
    """f and its derivatives in float64, at a point (C, p), or at S points (S, C, p) with S first in every shape.

    Column b * K + k is output k of problem b.
    """

    loss: Tensor
    """Weighted loss, (C,)."""
    value: Tensor
    """f of each problem, (B,)."""
    slopes: Tensor
    """The gradient of the loss, (C, p)."""
    residuals: Tensor
    """Weighted residuals of the rows, (C, n)."""
    curvature: Tensor
    """Curvatures of the rows, (C, n)."""
    logits: Tensor
    """Shape (C, n)."""


class BatchBound(NamedTuple):
    """Bounds of f - f*; see `logreg.solvers.bounds.base.Bound`."""

    point: Tensor
    """The points in the model's coordinates, (S, B, K, D + 1)."""
    gradient: Tensor
    """Shape (S, B, K, D + 1); of a predicted dual point that of f to within the prediction."""
    value: Tensor
    """Shape (S, B), as the others that follow."""
    gap: Tensor
    loss: Tensor
    rounding: Tensor
    error: Tensor


class DualPoints(NamedTuple):
    """Points theta of the dual problem, with the weights of the rows; with l1 alone feasible but for rounding."""

    sums: Tensor
    """The sums of theta x over the rows, and of theta, (S, C, p)."""
    excess: Tensor
    """The Fenchel-Young excess at the primal points, (S, C), as the others that follow."""
    rounding: Tensor
    """Upper bound of the rounding error of the excess."""
    conductance: Tensor
    """Sum of the curvatures of the rows, in proportion to which sums of theta are moved to 0; 0 where theta is none."""
    hidden: Tensor | float = 0.0
    """Part of the gap that is the cost of room for rounding errors, (S, C)."""


def batch_bound(rows: BatchRows, point: Tensor, at: BatchEvaluation, l2: Tensor, l1: Tensor) -> BatchBound:
    """Bounds f - f* of each problem by duality; without a feasible dual point only f* >= 0 is known.

    The dual point is that of the residuals, moved until they sum to 0, and with l1 alone scaled until it is feasible.

    Args:
        rows: The rows.
        point: The points in the coordinates of the rows, (S, C, p).
        at: The evaluation there.
        l2: The strength of l2 at each of the S points, (S,): all > 0, or all 0.
        l1: The strength of l1, (S,): all > 0, or all 0.
    """
    problem, loss, totals = rows.problem, rows.problem.loss, rows.totals
    d, ratio = problem.num_features, problem.model.scale / rows.coordinates.scale
    summed, is_measured = accumulated(len(rows.features)), bool(l1[0] > 0) and not bool(l2[0] > 0)
    sums, theta, excess = at.slopes, at.residuals, torch.zeros_like(at.loss)
    conductance = of_room = excess
    rounding = 8 * UNIT_ROUNDOFF * totals
    if problem.intercept:
        spread = at.curvature * rows.weights
        by_intercept = spread @ rows.features
        conductance = by_intercept[..., -1]
        shift = sums[..., -1] / conductance.clamp(min=1e-300)
        # Beyond, there is no dual point.
        conductance = torch.where(shift.abs() * loss.self_concordance <= MAX_FEASIBLE_SHIFT, conductance, 0.0)
        sums = sums - shift.unsqueeze(-1) * by_intercept
        # Chi squared of the move, which is at least the excess: within such a move the conjugate is nearly quadratic.
        excess = shift.square() * conductance
        if is_measured:
            theta = theta - shift.unsqueeze(-1) * spread
    if is_measured:
        # With room for rounding errors, whose cost then is known, and is counted as one of rounding.
        strengths, coef, slopes = l1.view(-1, 1, 1) * ratio, point[..., :d], sums[..., :d]
        room = 2 * summed * (2 * loss.max_curvature * at.loss).sqrt().unsqueeze(-1) * rows.squares.sqrt()[:, :d]
        plain = (slopes.abs() / strengths).amax(-1, keepdim=True).clamp(min=1.0)
        scale = (1 - 1e-12) / ((slopes.abs() + room) / strengths).amax(-1, keepdim=True).clamp(min=1.0)
        theta, sums = theta * scale, sums * scale
        of_room = (1 - plain * scale)[..., 0] * (coef * sums[..., :d]).abs().sum(-1)
        excess, sizes = _excess(rows, at, theta)
        rounding = rounding + (summed + 8 * UNIT_ROUNDOFF) * sizes  # the sums over the rows are as large, and cancel
    gradient = at.slopes + F.pad(l2.view(-1, 1, 1) * ratio.square(), (0, int(problem.intercept))) * point
    dual = DualPoints(sums, excess, rounding, conductance, of_room)
    return bound_at_dual_points(rows, point, at.loss, at.value, gradient, dual, l2, l1)


def bound_at_dual_points(
    rows: BatchRows,
    point: Tensor,
    of_rows: Tensor,
    value: Tensor,
    gradient: Tensor,
    dual: DualPoints,
    l2: Tensor,
    l1: Tensor,
    predicted: bool = False,
) -> BatchBound:
    """Bounds f - f* of each problem by dual points; where one is not feasible only f* >= 0 is known.

    Args:
        rows: The rows.
        point: As of `batch_bound`.
        of_rows: The weighted loss there, (S, C).
        value: f of each problem, (S, B).
        gradient: The gradient of f without l1, (S, C, p).
        dual: The dual points.
        l2: As of `batch_bound`.
        l1: As of `batch_bound`.
        predicted: Whether the gradient is that of a dual point which a model predicts, and not of the point itself.
    """
    problem, own = rows.problem, rows.coordinates
    k, d, loss, model = problem.num_outputs, problem.num_features, problem.loss, problem.model
    ratio, totals = model.scale / own.scale, rows.totals
    has_l2, has_l1, strengths = bool(l2[0] > 0), bool(l1[0] > 0), l1
    l2, l1 = l2.view(-1, 1, 1) * ratio.square(), l1.view(-1, 1, 1) * ratio
    coef = point[..., :d]
    summed = accumulated(len(rows.features))
    reach = rows.squares.sqrt()
    largest_logits = (point.abs() * reach).sum(-1) + (problem.largest_offset or 0.0) * totals.sqrt()
    logits_error = (d + 10) * UNIT_ROUNDOFF * largest_logits
    steepest = 2 * loss.max_curvature
    # A residual of a probability near 1 has a large relative error.
    feasible = of_rows > SATURATED_LOSS * totals
    excess = dual.excess.clamp(min=0)
    rounding = dual.rounding + summed * (excess + 2 * dual.rounding)
    distance = (steepest * excess).sqrt()
    size = (steepest * of_rows).sqrt() + distance
    noise = summed * size.unsqueeze(-1) * reach[:, :d]
    if problem.intercept:
        # What rounding leaves of the sums over the rows is moved in proportion to the curvatures.
        bound_of_sums = totals.sqrt() * size + 2 * MAX_FEASIBLE_SHIFT * dual.conductance
        off = dual.sums[..., -1].abs() * (1 + UNIT_ROUNDOFF) + summed * bound_of_sums
        conductance = dual.conductance * (1 - summed)
        feasible = feasible & (off * loss.self_concordance <= MAX_FEASIBLE_SHIFT * conductance)
        cost = off.square() / conductance.clamp(min=1e-300)
        noise = noise + cost.sqrt().unsqueeze(-1) * reach[:, :d]
        rounding = rounding + cost + 2 * (excess * cost).sqrt()

    # The terms of the penalties.
    slopes = dual.sums[..., :d]
    noise = noise + 8 * UNIT_ROUNDOFF * (slopes.abs() + l2 * coef.abs())
    of_l1 = l1 * coef.abs()
    if has_l2:
        held = (slopes.abs() - l1).clamp(min=0) * slopes.sign() if has_l1 else slopes
        off = (held + l2 * coef).abs()
        of_l2 = off.square() / (2 * l2)
        terms = of_l2 + of_l1 + coef * (slopes - held)
        rounding = rounding + (d + k + 8) * UNIT_ROUNDOFF * of_l2.sum(-1)
        rounding = rounding + (noise * (off / l2) + noise * (noise / l2) / 2).sum(-1)
    else:
        terms = coef * slopes + of_l1
        shrunk = (((slopes.abs() + noise) / l1).amax(-1) - 1).clamp(min=0, max=1)
        rounding = rounding + (noise * coef.abs()).sum(-1) + shrunk * (of_rows + of_l1.sum(-1))
    second = max(loss.max_curvature, 1.0) / 2
    rounding = rounding + (8 + 2 * d + k) * UNIT_ROUNDOFF * of_l1.sum(-1)
    rounding = rounding + second * logits_error.square() + distance * logits_error
    gap = excess + terms.sum(-1).clamp(min=0)
    hidden = gap.clamp(max=dual.hidden)
    gap, rounding = gap - hidden, rounding + hidden
    gap = torch.where(feasible & (gap + rounding).isfinite(), gap, math.inf)

    # f, and the point as it is stored.
    steepness = loss.lipschitz * totals.sqrt() if math.isfinite(loss.lipschitz) else (steepest * of_rows).sqrt()
    error = (2 * steepness * logits_error).unflatten(-1, (-1, k)).sum(-1)
    error = error + 2 * (summed + (k * (d + 1) + 4) * UNIT_ROUNDOFF) * value.abs()
    point, gradient = (one if problem.intercept else F.pad(one, (0, 1)) for one in (point, gradient))
    offsets = (coef.abs() / own.scale) @ (2 * own.center.abs() + model.center.abs())
    of_intercept = (d + 5) * UNIT_ROUNDOFF * offsets + 4 * UNIT_ROUNDOFF * point[..., -1].abs()
    rounding = rounding + gradient[..., -1].abs() * of_intercept + 4 * UNIT_ROUNDOFF * (gradient * point).abs().sum(-1)
    moved = 4 * logits_error + of_intercept * totals.sqrt()  # the logits, as the point is stored
    rounding = rounding + second * moved.square()
    if predicted:  # the gradient at the point is another one
        rounding = rounding + distance * moved
    stored = own.to(model, point.flatten(0, 1)).view_as(point)
    slope = own.gradient_to(model, gradient.flatten(0, 1)).view_as(point)
    if has_l1:
        slope = smallest_subgradient(stored, slope, F.pad(strengths.view(-1, 1, 1).expand(-1, 1, d), (0, 1)))

    gap, rounding, of_rows = (one.unflatten(-1, (-1, k)).sum(-1) for one in (gap, rounding, of_rows))
    known = gap + rounding <= value + error  # neither a loss nor a penalty is negative, so f* >= 0
    gap, rounding = torch.where(known, gap, value + error), torch.where(known, rounding, 0.0)
    stored, slope = (one.unflatten(1, (-1, k)) for one in (stored, slope))
    return BatchBound(stored, slope, value, gap, of_rows, rounding, error)


def _excess(rows: BatchRows, at: BatchEvaluation, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The Fenchel-Young excess of weighted dual points (S, C, n) at the logits, and the size of its terms, (S, C)."""
    dual = torch.where(rows.weights > 0, theta / rows.weights, 0.0)
    targets = rows.targets.expand_as(dual).reshape(-1, 1)
    conjugate = rows.problem.loss.conjugate(dual.view(-1, 1), targets).view_as(dual)
    product, weights = dual * at.logits, rows.weights.expand_as(dual)
    excess = at.loss + torch.linalg.vecdot(conjugate - product, weights)
    return excess, at.loss + torch.linalg.vecdot(conjugate.abs() + product.abs(), weights)
