"""Bounds of f - f* for separate logistic losses, in NumPy: for methods whose operations in torch would take longer.

They are those of `logreg.solvers.bounds.duality` and of `logreg.solvers.bounds.newton_bound`, number for number, but
that sums over the rows may be taken in any order.  No pass is requested.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT
from logreg.solvers.bounds.newton_bound import MAX_REACH, kappa_of
from logreg.solvers.kernels import Array
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem


class LogisticPoint(NamedTuple):
    """A point with its derivatives and the sizes that bound rounding errors; P = D + 1, or D without an intercept."""

    problem: Problem
    """A problem with a penalty."""
    coordinates: Coordinates
    """The coordinates of the point."""
    point: Array
    """Shape (K, P)."""
    value: float
    """f."""
    loss: float
    """f without the penalty."""
    gradient: Array
    """Gradient of f without l1, (K, P)."""
    own: Array
    """Second derivatives of f by the intercepts, (K,)."""
    l2: Array
    """Strength of l2 by each coordinate, (P,)."""
    roots: Array
    """Upper bound of the root of each feature's weighted sum of squares, (D,)."""
    largest: Array
    """Upper bound of each feature's absolute values, and 1 for an intercept, (P,)."""
    summed: float
    """Upper bound of the relative rounding error of sums over the rows; see `accumulated`."""

    @property
    def total(self) -> float:
        """The weight of all rows in the objective."""
        return self.problem.row_sum_scale * self.problem.total_weight

    @property
    def residual_rounding(self) -> float:
        """As `EvaluatedPoint.probabilities_error`."""
        is_saturated = self.loss <= SATURATED_LOSS * self.total
        return 0.0 if is_saturated else 8 * UNIT_ROUNDOFF * self.total * self.problem.num_outputs


PenaltyTerms = Callable[[Array, Array, Array, float], tuple[float, float]]
"""Coefficients w (K, D), sums V (K, D), an upper bound of the rounding errors of V, (K, D) or (D,), and f at w -> the
sum of the terms w V + g(w) + g*(-V) of the coefficients, and what rounding adds."""


def l2_terms(l2: Array) -> PenaltyTerms:
    """The terms with l2 alone, for its strength by each coefficient, (D,)."""

    def terms_of(coef: Array, slopes: Array, noise: Array, value: float) -> tuple[float, float]:
        shrunk = l2 * coef
        noise = noise + 8 * UNIT_ROUNDOFF * (np.abs(slopes) + np.abs(shrunk))
        off = np.abs(slopes + shrunk)
        terms = float((off * (off / l2)).sum()) / 2
        return terms, float((noise * ((off + noise / 2) / l2)).sum()) + (coef.size + 9) * UNIT_ROUNDOFF * terms

    return terms_of


def bound_by_step(at: LogisticPoint, columns: Array, spread: Array, step: Array) -> Bound | None:
    """Bounds f - f* by a step that is subtracted from a point: `bound_by_newton_step`, with l2 > 0.

    Args:
        at: The point.
        columns: Some or all rows of the problem, each at most once, in its coordinates and transposed, (P, n).
        spread: Second derivative of each row's term of f by its logit, (K, n), with small relative errors.
        step: About the Newton step of these rows, (K, P).

    Returns:
        The bound; ``None`` where the step changes a logit by too much.
    """
    # The dual point: the residuals, moved by the step.
    change = step @ columns
    reach = float(np.abs(change).max()) * at.problem.loss.self_concordance
    if not reach <= MAX_REACH:
        return None
    moves = spread * change
    summed = 1 + 4 * (moves.size + 20) * UNIT_ROUNDOFF
    excess = max(kappa_of(reach) * float(np.vdot(moves, change)) * summed, 0.0)
    sums = at.gradient - at.l2 * at.point - moves @ columns.T
    terms = l2_terms(at.l2[: at.problem.num_features])
    return bound_by_dual_point(at, sums, excess, at.residual_rounding, terms, reach)


def bound_by_residuals(at: LogisticPoint, by_intercept: Array) -> Bound | None:
    """Bounds f - f* by the dual point of the residuals: `bound_by_duality`, with l2 alone.

    Args:
        at: The point.
        by_intercept: Second derivatives of f, without the penalty, by each output's intercept and by its other
            coordinates, (K, P); 0 without an intercept.

    Returns:
        The bound; ``None`` where the intercepts are too far from their optimum.
    """
    problem, loss = at.problem, at.problem.loss
    sums, excess, rounding = at.gradient - at.l2 * at.point, 0.0, at.residual_rounding
    if problem.intercept:
        off = sums[:, -1]
        if not (np.abs(off) * loss.self_concordance <= MAX_FEASIBLE_SHIFT * at.own).all() or not (at.own > 0).all():
            return None
        shift = off / at.own
        moved = shift[:, None] * by_intercept
        # Chi squared of the move, which is at least the excess.
        excess = max(float(shift @ moved[:, -1]), 0.0)
        sizes = loss.residual_bound(at.loss, at.total) + 2 * MAX_FEASIBLE_SHIFT * at.own
        rounding += 2 * float(np.abs(shift) @ (at.summed * sizes))
        sums = sums - moved
    return bound_by_dual_point(at, sums, excess, rounding, l2_terms(at.l2[: problem.num_features]))


def bound_by_dual_point(
    at: LogisticPoint,
    sums: Array,
    excess: float,
    rounding: float,
    penalty_terms: PenaltyTerms,
    reach: float = MAX_FEASIBLE_SHIFT,
) -> Bound | None:
    """Bounds f - f* at a point by the gap to a dual point theta: `bound_at_dual_point`.

    Args:
        at: The point.
        sums: The sums of theta x over the rows, (K, P).
        excess: As of `DualPoint`.
        rounding: As of `DualPoint`.
        penalty_terms: The terms of the penalty.
        reach: As of `DualPoint`.

    Returns:
        The bound; ``None`` where it is not finite.

    References:
        Higham (2002), Accuracy and stability of numerical algorithms, section 4.2: sums in any order.
    """
    problem, loss, point, summed = at.problem, at.problem.loss, at.point, at.summed
    features, outputs, total = problem.num_features, problem.num_outputs, at.total
    # Sizes of the residuals and of the move.
    steepest = 2 * loss.max_curvature
    distance = math.sqrt(steepest * excess)
    noise = summed * (math.sqrt(steepest * at.loss) + distance) * at.roots
    # Sums of the dual point become exactly 0 by a further move, at its cost.
    balance = 0.0
    intercept = np.zeros(outputs)
    if problem.intercept:
        intercept, own = np.abs(point[:, -1]), at.own
        sizes = loss.residual_bound(at.loss, total) + 2 * MAX_FEASIBLE_SHIFT * own + math.sqrt(total) * distance
        off = np.abs(sums[:, -1]) * (1 + UNIT_ROUNDOFF) + summed * sizes
        feasible = (off * loss.self_concordance <= MAX_FEASIBLE_SHIFT * own) & (own > 0)
        costs = off * (off / np.where(feasible, own, 1.0))
        moved = np.sqrt(costs)[:, None] * at.roots
        if not feasible.all():  # the move is made at rows with curvature, up to the largest slope of the conjugate
            costs = np.where(feasible, costs, loss.conjugate_slope(float((np.abs(point) @ at.largest).max())) * off)
            moved = np.where(feasible[:, None], moved, off[:, None] * at.largest[:features])
        balance = float(costs.sum())
        noise = noise + moved
    coef, slopes = point[:, :features], sums[:, :features]
    of_penalty, hidden = penalty_terms(coef, slopes, noise, at.value)
    gap = excess + max(of_penalty, 0.0)
    # Rounding errors: of the sums, of the excess, and of the logits.
    sizes_of_coef = np.abs(coef)
    logits_error = sizes_of_coef @ at.roots + intercept * math.sqrt(total)
    logits_error *= (features + 10) * UNIT_ROUNDOFF
    of_logits = math.sqrt(float(np.vdot(logits_error, logits_error)))
    rounding += summed * (excess + 2 * rounding) + hidden + of_logits**2 / 2 + distance * of_logits
    balance /= 2 * (1 - MAX_FEASIBLE_SHIFT - max(reach, MAX_FEASIBLE_SHIFT))
    rounding += balance + 2 * math.sqrt(excess * balance)
    if not math.isfinite(gap + rounding):
        return None
    # The way to the model's coordinates, and to source units.
    center, scale = at.coordinates.center.numpy(), at.coordinates.scale.numpy()
    model = problem.model
    own_center, own_scale = model.center.numpy(), model.scale.numpy()
    offsets = (sizes_of_coef / scale) @ (2 * np.abs(center) + np.abs(own_center))
    of_intercept = UNIT_ROUNDOFF * ((features + 5) * offsets + 4 * intercept)
    by_intercept = at.gradient[:, features:] if problem.intercept else np.zeros((outputs, 1))
    rounding += float(np.vdot(np.abs(by_intercept), of_intercept))
    rounding += 4 * UNIT_ROUNDOFF * float(np.abs(at.gradient * point).sum())
    further = 4 * logits_error + of_intercept * math.sqrt(total)
    rounding += float(np.vdot(further, further)) / 2
    slope = (at.gradient[:, :features] * scale + by_intercept * (center - own_center)) / own_scale
    if strength := problem.objective.l1:  # the subgradient of smallest norm
        at_zero = np.sign(slope) * np.maximum(np.abs(slope) - strength, 0.0)
        slope = np.where(coef == 0, at_zero, slope + strength * np.sign(coef))
    slope = torch.from_numpy(np.concatenate([slope, by_intercept], axis=1))
    if at.loss <= SATURATED_LOSS * total:
        reached = sizes_of_coef @ at.largest[:features] + intercept
        factor = 2 * (features + 10) * UNIT_ROUNDOFF * loss.relative_lipschitz * float(reached.max())
        error = at.loss * math.expm1(min(factor, 700.0))
    else:
        error = float(logits_error.sum()) * 2 * loss.lipschitz * math.sqrt(total)
    error += 2 * (summed + (point.size + 4) * UNIT_ROUNDOFF) * abs(at.value)
    return Bound(at.value, gap, True, slope, at.loss, rounding, error=error)
