"""Newton steps with l1: the quadratic model with the penalty, minimized by projected Newton steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.solvers.newton_steps import smallest_subgradient
from logreg.solvers.problem import Coordinates, Problem

DAMPING = 1e-7
"""What steps with l1 add to the curvature, relative to it, as long as they lead on."""

LEAST_DAMPING = 1e-13
"""What they add at least: rounding of a Hessian in float64."""

LESS_DAMPING = 1e-3
"""Factor from one strength of damping to the next."""

L1_STEPS = 100
"""Of a quadratic model with l1, at most; what is left is done by the next Newton step."""

L1_ROUNDING = 1e-12
"""Gain of a step with l1, relative to all of them, that is rounding."""

HOLDS = 10
"""Factorizations for one of them, at most: each time some coordinates at 0 are held there."""

PROJECTED = (1.0, 0.5, 0.25)
"""Lengths of a step with l1 whose projections are tried beside the one to the first crossing."""

Gauge = tuple[tuple[int, ...], Tensor]
"""A softmax's shape (K, D + 1), and l2 (D + 1,): one vector added to all outputs changes the penalties alone."""


def minimize_with_l1(
    problem: Problem,
    coordinates: Coordinates,
    matrices: Tensor,
    gradient: Tensor,
    point: Tensor,
    accuracy: float,
    noise: float = 0.0,
    damping: float = DAMPING,
) -> tuple[Tensor, float]:
    """Minimizes the quadratic model with the penalty: g (v - u) + (v - u) H (v - u) / 2 + l1 |v|.

    Args:
        problem: Of the point.
        coordinates: Likewise.
        matrices: H, (B, P, P): one for all outputs together, or one for each.
        gradient: Of the smooth part at the point, (K, D + 1).
        point: u, (K, D + 1).
        accuracy: Last gain relative to all gain at which to end.
        noise: Last gain itself at which to end.
        damping: What steps add to the curvature, relative to it; more where that leads nowhere, up to `DAMPING`.

    Returns:
        v, in which zeros are exact, and by how much the model is lower there than at u.
    """
    flat = (len(matrices), -1)
    l2, l1 = problem.penalties(coordinates)
    parts = (matrices, gradient.reshape(flat), point.reshape(flat), l1.expand_as(point).reshape(flat))
    gauge = (point.shape, l2) if problem.coupled else None
    solved = [_one_with_l1(*part, accuracy, noise, damping, gauge) for part in zip(*parts, strict=True)]
    return torch.stack([v for v, _ in solved]).view_as(point), sum(gain for _, gain in solved)


def _one_with_l1(
    matrix: Tensor,
    gradient: Tensor,
    start: Tensor,
    l1: Tensor,
    accuracy: float,
    noise: float,
    damping: float,
    gauge: Gauge | None,
) -> tuple[Tensor, float]:
    """By projected Newton steps within the orthant that the slope points to.

    Each is exact on the coordinates that are free.  Those at 0 that it would lead out of the orthant are held there,
    and the rest is solved again.  Of the projected step and the one that ends where the first coordinate becomes 0,
    the better one is taken: the second always leads down.

    Where there is a gauge, steps leave that direction alone, and `regauged` finds the best place along it.

    References:
        Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints.
    """
    diagonal = matrix.diagonal()
    # Steps alone are damped, not the model: where columns repeat each other l1 has the last word.
    damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
    penalized = l1 > 0
    v, gain = start, 0.0
    for _ in range(L1_STEPS):
        smooth = gradient + matrix @ (v - start)
        slope = smallest_subgradient(v, smooth, l1)
        step = _step_within(damped, slope, (v != 0) | (slope != 0), penalized & (v == 0), gauge)
        orthant = torch.where(v == 0, -slope.sign(), v.sign())
        ratio = torch.where(penalized & (v * step > 0), v / step, math.inf)  # length at which a coordinate is 0
        if bool((there := ratio <= L1_ROUNDING).any()):  # they are as good as at 0, and would hold up all others
            v = v.masked_fill(there, 0.0)
            continue
        first = min(float(ratio.min()), 1.0)
        crossing = torch.where(ratio <= first, 0.0, v - first * step)
        moves = [crossing] if first == 1 else [crossing, *(v - length * step for length in PROJECTED)]
        moved, change = v, 0.0
        for move in moves:
            there = torch.where(penalized & (move.sign() != orthant), 0.0, move)
            there = there if gauge is None else regauged(there, l1, gauge)
            its = _model_change(matrix, smooth, l1, v, there)
            if its < change:
                moved, change = there, its
        if not change < 0:
            if damping >= DAMPING:
                break
            damping /= LESS_DAMPING
            damped = matrix + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
            continue
        v, gain = moved, gain - change
        if -change < max((accuracy if first == 1 else L1_ROUNDING) * gain, noise):
            break
    return v, gain


def _step_within(matrix: Tensor, slope: Tensor, free: Tensor, at_zero: Tensor, gauge: Gauge | None) -> Tensor:
    """Newton's step to be subtracted, within the coordinates that are free, (P,).

    Coordinates at 0 may leave it only along the slope; others of them are held, and the rest is solved again.
    """
    step = torch.zeros_like(slope)
    for _ in range(HOLDS):
        which = free.nonzero()[:, 0]
        step = torch.zeros_like(slope)
        within = matrix[which][:, which]
        if gauge is not None:
            # All outputs together have no curvature of their own; where one of them is held there is that of the rest.
            k, p = gauge[0]
            mean = torch.where(free.view(k, p).all(0), matrix.diagonal().view(k, p).mean(0), 0.0) / k
            feature = which % p
            within = within + torch.where(feature.unsqueeze(1) == feature, mean[feature], 0.0)
        root, failed = torch.linalg.cholesky_ex(within)
        if bool(failed):
            step[which] = slope[which] / matrix.diagonal()[which]
            break
        step[which] = torch.cholesky_solve(slope[which].unsqueeze(1), root)[:, 0]
        wrong = free & at_zero & (step * slope <= 0)
        if not bool(wrong.any()):
            break
        free = free & ~wrong
    return step


def regauged(point: Tensor, l1: Tensor, gauge: Gauge) -> Tensor:
    """The outputs' coefficients of each feature less the number s that makes the penalties least.

    Without l2 that is any median of theirs, and of these the one next to their mean: it leaves the least norm.  With
    l2, s is the median of the K of them and of the K + 1 places where the slope would be 0 if j of them lay below s.
    """
    shape, l2 = gauge
    values, l1 = point.view(shape), l1.view(shape)[0]
    k = len(values)
    below = torch.arange(k + 1, dtype=point.dtype, device=point.device).unsqueeze(1)
    places = values.mean(0) + (k - 2 * below) * (l1 / (k * l2.clamp(min=1e-300)))
    shift = torch.cat([values, places]).median(0).values
    ordered = values.sort(0).values
    median = values.mean(0).clamp(ordered[(k - 1) // 2], ordered[k // 2])
    shift = torch.where(l2 > 0, shift, median)
    return (values - torch.where(l1 > 0, shift, 0.0)).flatten()


def _model_change(matrix: Tensor, smooth: Tensor, l1: Tensor, v: Tensor, moved: Tensor) -> float:
    """By how much the model changes; from the move itself, so that small changes keep their digits."""
    move = moved - v
    # |v + m| - |v| is m times the sign of both, where they agree
    same = moved.sign() * v.sign() > 0
    length = torch.where(same, move * v.sign(), moved.abs() - v.abs())
    return float(smooth @ move + move @ (matrix @ move) / 2 + l1 @ length)
