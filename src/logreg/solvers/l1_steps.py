"""Newton steps with l1: the quadratic model plus the penalty, minimized by projected Newton steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.minimum_norm import SharedShift, shift_to_least_penalty
from logreg.solvers.newton_steps import smallest_subgradient
from logreg.solvers.problem import Coordinates, Problem

MAX_DAMPING = 1e-7
"""Largest damping, and the first one: the multiple of the diagonal that is added to the model's Hessian.

The damping bounds steps along directions of almost no curvature, and changes all others by a factor of 1 - 1e-7 at
most."""

MIN_DAMPING = 1e-13
"""Smallest damping, as a multiple of the diagonal: the rounding error of a Hessian in float64."""

DAMPING_REDUCTION = 1e-3
"""Factor from one strength of damping to the next smaller one: two reductions lead from the largest to the smallest."""

MAX_MODEL_STEPS = 100
"""Largest number of projected Newton steps for one quadratic model; the next Newton step does the rest."""

ZERO_CROSSING_LENGTH = 1e-12
"""Fraction of a step at which a coefficient reaches 0 below which it is set to 0 at once.

Such a coefficient is 0 but for rounding, and would cut the step short for all others."""

DECREASE_ROUNDING = 1e-12
"""Decrease by one step, relative to that by all steps of the model, below which it is a rounding error: some thousand
units of float64."""

MAX_REDUCED_SOLVES = 10
"""Largest number of linear systems solved for one step: each time, coordinates at 0 that would leave their orthant stay
at 0."""

PROJECTED_LENGTHS = (1.0, 0.5, 0.25)
"""Lengths of a step whose projections onto the orthant are tried beside the step to the first zero crossing."""


def minimize_with_l1(
    problem: Problem,
    coordinates: Coordinates,
    matrices: Tensor,
    gradient: Tensor,
    point: Tensor,
    rtol: float,
    atol: float = 0.0,
    damping: float = MAX_DAMPING,
) -> tuple[Tensor, float]:
    """Minimizes the quadratic model of f with the penalty: g (v - u) + (v - u) H (v - u) / 2 + l1 |v|.

    Each matrix of H is solved for on its own, by projected Newton steps:

    1. The signs of v, and where v is 0 those of the steepest descent, give an orthant.
    2. The free coordinates are those that are not held at 0 by l1; `H_free @ step = slope` is solved within them.
       Coordinates at 0 that the step would move out of the orthant are held at 0, and the system is solved again.
    3. The candidates are the step up to its first zero crossing, and projections of three lengths of it onto the
       orthant.
    4. The candidate of least model value is taken; the first one always decreases the model.

    It stops where a step decreases the model by less than ``atol``, or by less than ``rtol`` of the total decrease, or
    after `MAX_MODEL_STEPS`.  A step that a zero crossing cuts short ends it only where its decrease is rounding
    (`DECREASE_ROUNDING`).  Where no candidate decreases the model, the damping is increased; at `MAX_DAMPING` it stops.

    Args:
        problem: The problem of the point.
        coordinates: Coordinates of the point.
        matrices: H, (B, P, P): one for all outputs together, or one for each.
        gradient: g, of the smooth part of f at the point, (K, D + 1).
        point: u, (K, D + 1).
        rtol: Decrease by the last step, relative to that by all steps, at which to stop.
        atol: Decrease by the last step at which to stop, in units of f.
        damping: Multiple of the diagonal that is added to H when steps are computed; the model is not damped.

    Returns:
        v, in which zeros are exact, (K, D + 1), and by how much the model is lower there than at u.

    References:
        Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints.
    """
    flat = (len(matrices), -1)
    l2, l1 = problem.penalties(coordinates)
    parts = (matrices, gradient.reshape(flat), point.reshape(flat), l1.expand_as(point).reshape(flat))
    shared = (point.shape, l2) if problem.coupled else None
    solved = [_minimize_one(*part, rtol, atol, damping, shared) for part in zip(*parts, strict=True)]
    return torch.stack([v for v, _ in solved]).view_as(point), sum(decrease for _, decrease in solved)


def _minimize_one(
    matrix: Tensor,
    gradient: Tensor,
    start: Tensor,
    l1: Tensor,
    rtol: float,
    atol: float,
    damping: float,
    shared: SharedShift | None,
) -> tuple[Tensor, float]:
    """`minimize_with_l1` for one matrix (P, P); all vectors are (P,).

    For a softmax, steps have no part along the shared shift of all outputs; `shift_to_least_penalty` finds its best
    value.
    """
    diagonal = matrix.diagonal()
    # Damping the model itself would change its minimum, which l1 determines where columns repeat each other.
    damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
    penalized = l1 > 0
    v, decrease = start, 0.0
    for _ in range(MAX_MODEL_STEPS):
        smooth = gradient + matrix @ (v - start)
        slope = smallest_subgradient(v, smooth, l1)
        step = _reduced_step(damped, slope, (v != 0) | (slope != 0), penalized & (v == 0), shared)
        orthant = torch.where(v == 0, -slope.sign(), v.sign())
        zero_length = torch.where(penalized & (v * step > 0), v / step, math.inf)  # at which a coordinate becomes 0
        if bool((at_zero := zero_length <= ZERO_CROSSING_LENGTH).any()):
            v = v.masked_fill(at_zero, 0.0)
            continue
        first = min(float(zero_length.min()), 1.0)
        crossing = torch.where(zero_length <= first, 0.0, v - first * step)
        candidates = [crossing] if first == 1 else [crossing, *(v - length * step for length in PROJECTED_LENGTHS)]
        best, best_change = v, 0.0
        for candidate in candidates:
            projected = torch.where(penalized & (candidate.sign() != orthant), 0.0, candidate)
            projected = projected if shared is None else shift_to_least_penalty(projected, l1, shared)
            change = _model_change(matrix, smooth, l1, v, projected)
            if change < best_change:
                best, best_change = projected, change
        if not best_change < 0:
            if damping >= MAX_DAMPING:
                break
            damping /= DAMPING_REDUCTION
            damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
            continue
        v, decrease = best, decrease - best_change
        if -best_change < max((rtol if first == 1 else DECREASE_ROUNDING) * decrease, atol):
            break
    return v, decrease


def _reduced_step(matrix: Tensor, slope: Tensor, free: Tensor, at_zero: Tensor, shared: SharedShift | None) -> Tensor:
    """Newton's step to be subtracted, (P,), within the free coordinates: `matrix_free @ step = slope`.

    Coordinates at 0 may leave it only against their slope; the others of them are held, and the rest is solved again.
    Where the matrix is not positive definite, each coordinate's slope is divided by its own curvature.
    """
    step = torch.zeros_like(slope)
    for _ in range(MAX_REDUCED_SOLVES):
        which = free.nonzero()[:, 0]
        step = torch.zeros_like(slope)
        reduced = matrix[which][:, which]
        if shared is not None:
            # A softmax has no curvature along a shift of all outputs.  Where the coefficient of one output is held,
            # the others cannot make that shift, and their curvature is their own.
            k, p = shared[0]
            mean = torch.where(free.view(k, p).all(0), matrix.diagonal().view(k, p).mean(0), 0.0) / k
            feature = which % p
            reduced = reduced + torch.where(feature.unsqueeze(1) == feature, mean[feature], 0.0)
        factor, failed = torch.linalg.cholesky_ex(reduced)
        if bool(failed):
            step[which] = slope[which] / matrix.diagonal()[which]
            break
        step[which] = torch.cholesky_solve(slope[which].unsqueeze(1), factor)[:, 0]
        wrong = free & at_zero & (step * slope <= 0)
        if not bool(wrong.any()):
            break
        free = free & ~wrong
    return step


def _model_change(matrix: Tensor, smooth: Tensor, l1: Tensor, v: Tensor, moved: Tensor) -> float:
    """Change of the model from ``v`` to ``moved``.

    It is computed from their difference, so that small changes keep their digits.
    """
    move = moved - v
    # |v + m| - |v| = m * sign(v) where v + m and v have the same sign.
    same_sign = moved.sign() * v.sign() > 0
    l1_change = torch.where(same_sign, move * v.sign(), moved.abs() - v.abs())
    return float(smooth @ move + move @ (matrix @ move) / 2 + l1 @ l1_change)
