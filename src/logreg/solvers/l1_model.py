"""A quadratic model plus an l1 penalty, minimized by block principal pivoting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.solvers.kernels import Array
from logreg.solvers.minimum_norm import shift_to_least_penalty
from logreg.solvers.problem import Problem

SHIFT_DAMPING, MAX_SHIFT_DAMPING = 1e-10, 1e-3
"""Curvature that is added along a shift of all outputs of a feature, relative to the mean curvature of its
coefficients: a softmax has none there, so the signs of coefficients may change from pivot to pivot.  The larger one is
for models whose pivots do not end with the smaller one; it makes a step shorter."""

MIN_DAMPING = 1e-12
"""First multiple of the diagonal that is added to the matrix as a proximal term: it keeps the matrix of columns that
depend on each other positive definite, and is too small to change a step along other directions."""

DAMPING_GROWTH = 1e3
"""Factor to the next damping, which is tried where the matrix is not positive definite up to rounding, or where
pivoting does not end."""

MAX_DAMPING = 1e4
"""Largest damping: the matrix is diagonal then, up to rounding that no pivot depends on."""

FULL_EXCHANGES = 4
"""Exchanges of all wrong coordinates in a row that leave no fewer of them than before, after which one at a time is
exchanged: full exchanges may cycle."""

SINGLE_EXCHANGES = 100
"""Exchanges of one coordinate after which pivoting is given up: they end some time, but each factors a matrix."""

BOUNDARY_RTOL = 1e-11
"""Amount by which the slope at a coordinate that is held at 0 may exceed l1, relative to l1: rounding."""


class ModelMinimum(NamedTuple):
    """The minimum of a quadratic model with l1, or of the model with a proximal term."""

    point: Array
    """Shape (P,); zeros are exact."""
    decrease: float
    """By how much the model is lower there than at the start; 0 where no lower point was found."""


def minimize_penalized_model(
    problem: Problem,
    matrices: Sequence[Tensor],
    columns: Sequence[Tensor],
    gradient: Tensor,
    point: Tensor,
    l2: Tensor,
    l1: Tensor,
) -> tuple[Tensor, float]:
    """The minimum of the quadratic model of f at a point, with the penalty, over some of the coefficients.

    Args:
        problem: The problem of the point.
        matrices: The Hessian of the loss by these coefficients: one matrix for coupled outputs, else one for each.
        columns: The columns of each output's coefficients.
        gradient: Gradient of the smooth part of f, (K, W).
        point: Shape (K, W).
        l2: Strength of l2 by each column, (W,).
        l1: Strength of l1 by each column, (W,).

    Returns:
        The minimum, (K, W), and by how much the model is lower there than at the point.
    """
    of_loss, start, ridge, strength = (part.cpu().numpy() for part in (gradient, point, l2, l1))
    target, decrease, (outputs, width) = start.copy(), 0.0, start.shape
    # Places in a point that is flattened; its copies are small, and NumPy's operations take less time than torch's.
    groups = [output * width + column.cpu().numpy() for output, column in enumerate(columns)]
    for at, hessian in zip([np.concatenate(groups)] if problem.coupled else groups, matrices, strict=True):
        if not len(at):
            continue
        h, column, shift = hessian.cpu().numpy(), at % width, None
        if problem.objective.l2:
            h = h + np.diag(ridge[column])
        if problem.coupled:
            mean = np.bincount(column, h.diagonal(), width) / outputs
            shift = np.where(column[:, None] == column, mean[column], 0.0)
        best = minimize_model(h, of_loss.take(at), start.take(at), strength[column], shift)
        target.put(at, best.point)
        decrease += best.decrease
    found = torch.from_numpy(target).to(point.device)
    if problem.coupled:
        found = shift_to_least_penalty(found.flatten(), l1.expand_as(point).flatten(), (point.shape, l2)).view_as(point)
    return found, decrease


@np.errstate(over="ignore", invalid="ignore")  # a minimum that is not finite is not taken
def minimize_model(h: Array, g: Array, u: Array, l1: Array, shift: Array | None = None) -> ModelMinimum:
    """Minimizes g (v - u) + (v - u) H (v - u) / 2 + l1 |v| by block principal pivoting.

    A guess which coordinates are not 0, and of their signs, makes the optimality conditions linear equations.
    Coordinates whose solution has another sign are then held at 0, and those at 0 whose slope exceeds l1 are freed, all
    at once: there are usually few such pivots.  Where that repeatedly leaves no fewer wrong ones, they are exchanged
    one at a time.  Where the matrix is almost singular, a multiple of the diagonal is added: a proximal term, which
    grows until pivoting ends.

    The small matrices of a working set are factored on the CPU by LAPACK itself: the number of pivots depends on the
    numbers, so a GPU would wait for the CPU after each of them.

    Args:
        h: H, symmetric and positive semidefinite, (P, P).
        g: Gradient at the start, (P,).
        u: The start, (P,).
        l1: Strength of l1 by each coordinate, (P,); coordinates with 0 are always free.
        shift: A matrix (P, P) with curvature along the shifts of a softmax, for `SHIFT_DAMPING`.

    References:
        Kim and Park (2010), Fast active-set-type algorithms for l1-regularized linear regression.
        Murty (1974), Note on a Bard-type scheme for solving the complementarity problem.
    """
    found = _damped_pivots(h, g, u, l1[None], shift)
    if found is None:
        return ModelMinimum(u, 0.0)
    v = found[0]
    move = v - u
    # |u + m| - |u| = m sign(u) where u + m and u have the same sign: small changes keep their digits.
    change_of_l1 = np.where(v * u > 0, move * np.sign(u), np.abs(v) - np.abs(u))
    decrease = -float(g @ move + move @ (h @ move) / 2 + l1 @ change_of_l1)
    return ModelMinimum(v, decrease) if decrease > 0 else ModelMinimum(u, 0.0)


@np.errstate(over="ignore", invalid="ignore")
def minimize_for_strengths(h: Array, g: Array, u: Array, l1: Array) -> Array | None:
    """The minima of one model for M strengths of l1, (M, P); ``None`` where they are not found.

    Between two changes of signs the minimum is linear in l1, so that the strengths share a factor of the matrix.

    Args:
        h: As of `minimize_model`.
        g: As of `minimize_model`.
        u: As of `minimize_model`.
        l1: Strengths of l1 by each coordinate, (M, P), best in the order of their sizes; those with 0 are 0 in all.

    References:
        Osborne, Presnell and Turlach (2000), A new approach to variable selection in least squares problems.
    """
    found = _damped_pivots(h, g, u, l1, None)
    return None if found is None or not np.isfinite(found).all() else found


def _damped_pivots(h: Array, g: Array, u: Array, l1: Array, shift: Array | None) -> Array | None:
    """The minima for M strengths of l1, (M, P), with the least damping that ends pivoting; ``None`` without any."""
    diagonal = h.diagonal()
    added = np.where(diagonal > 0, diagonal, max(float(diagonal.max()), 1e-300))
    damping, damped = MIN_DAMPING, h
    if shift is not None:
        damped = h + SHIFT_DAMPING * shift
    found = _pivot(damped, damping * added, g, u, l1)
    if shift is not None and found is None:
        damped = h + MAX_SHIFT_DAMPING * shift
        found = _pivot(damped, damping * added, g, u, l1)
    while found is None and (damping := damping * DAMPING_GROWTH) <= MAX_DAMPING:
        found = _pivot(damped, damping * added, g, u, l1)
    return found


def _pivot(h: Array, added: Array, g: Array, u: Array, l1: Array) -> Array | None:
    """The minima for M strengths of l1, (M, P), with a diagonal that is added to the matrix.

    Each guess of signs is that of all strengths that are left: it is right for the first some of them.  ``None`` where
    the matrix is not positive definite, or pivoting does not end.
    """
    from scipy.linalg import lapack  # takes longer to import than a fit

    free_always, limit = np.flatnonzero(l1[0] == 0), l1 * (1 + BOUNDARY_RTOL)
    # Where some are not 0 these are a better guess than all whose slope exceeds l1 too: most of those stay 0.
    sign = np.sign(u)
    sign[free_always] = 0.0
    if not np.count_nonzero(sign):  # takes less time than `any`
        sign = np.where(np.abs(g) > limit[0], -np.sign(g), 0.0)
        sign[free_always] = 0.0
    result, first, to_zero = np.empty_like(l1), 0, -u
    fewest, tries, singles = len(u) + 1, FULL_EXCHANGES, SINGLE_EXCHANGES
    while singles:
        is_free = sign != 0
        is_free[free_always] = True
        which = is_free.nonzero()[0]
        move = np.where(is_free, 0.0, to_zero)
        moves, slope = np.empty_like(l1[first:]), g + h @ move if np.count_nonzero(move) else g
        moves[:] = move
        if len(which):
            right = (l1[first:] * -sign - slope).take(which, 1)
            part = h.take(which, 0).take(which, 1)
            part.reshape(-1)[:: len(which) + 1] += added.take(which)
            _, solved, failed = lapack.dposv(part.T, right.T, lower=1, overwrite_a=1, overwrite_b=1)
            if failed:
                return None
            moves[:, which] = solved.T
        slopes = moves @ h
        slopes += g + added * moves
        v = u + moves  # exactly 0 where it is held there
        leaves = v * sign < 0
        wrong = np.where(is_free, leaves, np.abs(slopes) > limit[first:])
        places = np.flatnonzero(wrong.any(1))
        right_ones = int(places[0]) if len(places) else len(v)
        if right_ones:
            result[first : first + right_ones] = v[:right_ones]
            first += right_ones
            if first == len(l1):
                return result
            fewest, tries, singles = len(u) + 1, FULL_EXCHANGES, SINGLE_EXCHANGES
        own = wrong[right_ones]
        number = int(np.count_nonzero(own))
        tries = FULL_EXCHANGES if number < fewest else max(tries - 1, 0)
        fewest = min(fewest, number)
        if not tries:  # the one of the largest index, by the rule of Murty, which cannot cycle
            own[: own.nonzero()[0][-1]] = False
            singles -= 1
        sign = np.where(own, np.where(is_free, 0.0, -np.sign(slopes[right_ones])), sign)
    return None
