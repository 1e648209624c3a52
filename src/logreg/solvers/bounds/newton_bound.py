"""A bound of f - f* by a Newton step, with l2: about the squared Newton decrement, in place of |gradient|^2 / (2 l2).

A dual point (`logreg.solvers.bounds.duality`) may be any.  Let the rows i of a set S change their residuals r_i by as
much as a step s changes them to first order,

    theta_i = r_i - J_i t_i    with t_i = s x_i, the change of the logits, and J_i the second derivative by the logits.

Where no logit (of coupled outputs: no difference of two logits) changes by more than r < 1, theta is feasible, and the
Fenchel-Young excess of a row is at most kappa(r) t_i' J_i t_i, with kappa(r) = ((1 - r) log(1 - r) + r) / r^2, which
grows from 1/2 at 0 to 1 at 1.  With M the Hessian of the loss of the rows S alone, the gap is at most

    f - f*  <=  kappa(r) s' M s + |gradient - M s|^2 / (2 l2)

for any step s.  For the solution of (M + l2) s = gradient it is at most kappa(r) gradient' (M + l2)^-1 gradient.  With
S all rows that is about half the squared Newton decrement, and as close to f - f* as the quadratic model.  With a part
of the rows M is the smaller, and the bound the larger, by about that part.

References:
    Boyd and Vandenberghe (2004), Convex optimization, sections 5.7 (Fenchel duality) and 9.5.1 (the Newton decrement).
    Tsybakov (2009), Introduction to nonparametric estimation, lemma 2.7: the Kullback-Leibler divergence, which the
    excess is, is at most chi squared, t' J t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.rows import row_weights
from logreg.solvers.bounds.base import Bound, EvaluatedPoint, conversion_rounding, evaluated_point
from logreg.solvers.bounds.duality import DualPoint, duality_gap
from logreg.solvers.bounds.intercepts import MAX_FEASIBLE_SHIFT
from logreg.solvers.kernels import affine, coupled_gram, gram_of_columns, sum_over_rows
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature, diagonal_of
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import factor_hessian, intercept_step

MAX_REACH = 0.7
"""Largest change of a logit by the step, times the self-concordance of the loss: there is no bound beyond 1, and some
room is left for the move that makes the sums of theta exactly 0."""


def bound_by_newton_step(
    at: EvaluatedPoint, rows: Tensor, weights: Tensor, curvature: Tensor, step: Tensor
) -> PassRequests[Bound | None]:
    """Bounds f - f* at a point by a step that is subtracted from it; no pass is requested.

    Args:
        at: The point of a problem with l2 > 0 and a loss that has a conjugate.
        rows: Some or all rows of the problem, each at most once, in the coordinates of the point: (n, D + 1) with 1
            for the intercept, or (n, D) without one; dense or CSR.
        weights: Weight of each row in f, (n, 1).
        curvature: `Loss.curvature` of each row at the point, (n, K), with small relative errors.
        step: About the Newton step of the rows, (K, D + 1) or (K, D).

    Returns:
        The bound; ``None`` where the step changes a logit by too much.
    """
    problem, evaluation, loss = at.problem, at.evaluation, at.problem.loss
    change = affine(rows, step, step.new_zeros(len(step)))
    if problem.coupled and problem.intercept:
        change += _intercept_change(problem, change, weights, curvature, evaluation.gradient[:, -1])
    widest = float((change.amax(1) - change.amin(1)).max() if problem.coupled else change.abs().max())
    reach = widest * loss.self_concordance
    if not reach <= MAX_REACH:
        return None
    moves = loss.curvature_product(curvature, change).mul_(weights)
    excess = kappa_of(reach) * float((moves * change).sum()) * (1 + 4 * (moves.numel() + 20) * UNIT_ROUNDOFF)
    moved = sum_over_rows(moves, rows)
    moved = moved if moved.shape == at.point.shape else F.pad(moved, (0, 1))
    sums = evaluation.gradient - at.penalties[0] * at.point - moved
    theta = DualPoint(sums, 1.0, excess, at.probabilities_error, reach=max(reach, MAX_FEASIBLE_SHIFT))
    gap, hidden = yield from duality_gap(at, theta)
    if not math.isfinite(gap + hidden):
        return None
    slope = at.coordinates.gradient_to(problem.model, evaluation.gradient)
    hidden += conversion_rounding(at, at.coordinates)
    return Bound(evaluation.value, gap, True, slope, evaluation.loss, hidden, error=at.value_error)


def _intercept_change(problem: Problem, change: Tensor, weights: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """The further change of each logit, (K,), that solves the step for the intercepts of a softmax.

    Without it, a step by conjugate gradients leaves a part of the gradient by the intercepts, which costs more than the
    same part by coefficients: a dual point must have sums of exactly 0.

    Args:
        problem: The problem.
        change: The change of the logits by the step, (n, K).
        weights: As of `bound_by_newton_step`.
        curvature: As of `bound_by_newton_step`.
        gradient: The gradient by the intercepts, (K,).
    """
    spread = curvature * weights
    mass = spread.sum(0)
    joint = torch.diag(mass) - spread.T @ curvature
    left = gradient - (spread * change).sum(0) + spread.T @ (curvature * change).sum(1)
    return intercept_step(problem, left, InterceptCurvature(joint.diagonal(), mass, joint))


def kappa_of(reach: float) -> float:
    """Upper bound of the factor from the squared change of the logits, in the metric of the curvature, to the excess.

    The factor is 1/2 + r / 6 + r^2 / 12 + r^3 / 20 + ...

    Args:
        reach: r, in [0, 1).
    """
    return 0.5 + reach / 6 + reach**2 / (12 * (1 - reach))


def bound_by_sample(
    problem: Problem, coordinates: Coordinates, point: Tensor, evaluation: Derivatives, sample: Batch
) -> PassRequests[Bound | None]:
    """Bounds f - f* at a point by the Newton step of a sample of the rows; no pass is requested.

    Args:
        problem: A problem with l2 > 0 and a loss that has a conjugate.
        coordinates: The coordinates of the point.
        point: Shape (K, D + 1).
        evaluation: The derivatives there, in float64, over all rows.
        sample: Some of the rows, each at most once.

    Returns:
        The bound; ``None`` where the step changes a logit by too much.
    """
    rows = coordinates.center.new_empty(len(sample.labels), len(coordinates.center) + 1)
    torch.sub(sample.features, coordinates.center, out=rows[:, :-1]).div_(coordinates.scale)
    rows[:, -1] = float(problem.intercept)
    own = row_weights(sample, problem.class_weight, torch.float64)
    weights = (rows.new_ones(len(rows)) if own is None else own).mul(problem.row_sum_scale).unsqueeze(1)
    logits = rows @ point.T
    logits = logits if sample.offset is None else logits + sample.offset.double().unsqueeze(1)
    curvature = problem.loss.evaluate_precisely(logits, sample.labels).curvature
    l2 = problem.penalties(coordinates)[0]
    if problem.coupled:
        hessian = coupled_gram(rows, curvature, weights).view(*point.shape, *point.shape)
        diagonal_of(hessian).add_(l2)
    else:
        hessian = torch.stack([gram_of_columns(rows.T, of_rows) for of_rows in (curvature * weights).T])
        hessian.diagonal(dim1=1, dim2=2).add_(l2)
    step = factor_hessian(problem, hessian, coordinates).step(evaluation.gradient)
    at = evaluated_point(problem, coordinates, point, evaluation)
    return (yield from bound_by_newton_step(at, rows, weights, curvature, step))
