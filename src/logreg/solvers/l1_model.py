"""A quadratic model plus an l1 penalty, minimized by block principal pivoting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

MIN_DAMPING = 1e-12
"""First multiple of the diagonal that is added to the matrix as a proximal term: it keeps the matrix of columns that
depend on each other positive definite, and is too small to change a step along other directions."""

DAMPING_GROWTH = 1e3
"""Factor to the next damping, which is tried where the matrix is not positive definite up to rounding."""

MAX_DAMPING = 1e-1
"""Largest damping: a matrix that needs more has entries that are wrong."""

FULL_EXCHANGES = 4
"""Exchanges in a row that leave no fewer wrong coordinates than before, after which pivoting is given up."""

MAX_SEARCH_STEPS = 300
"""Largest number of steps of the search that then follows: some for each coordinate that becomes 0."""

BOUNDARY_RTOL = 1e-11
"""Amount by which the slope at a coordinate that is held at 0 may exceed l1, relative to l1: rounding."""

Array = NDArray[np.float64]


class ModelMinimum(NamedTuple):
    """The minimum of a quadratic model with l1."""

    point: Tensor
    """Shape (P,); zeros are exact."""
    decrease: float
    """By how much the model is lower there than at the start; 0 where no lower point was found."""


def minimize_model(matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor) -> ModelMinimum:
    """Minimizes g (v - u) + (v - u) H (v - u) / 2 + l1 |v| by block principal pivoting.

    A guess which coordinates are not 0, and of their signs, makes the optimality conditions linear equations.
    Coordinates whose solution has another sign are then held at 0, and those at 0 whose slope exceeds l1 are freed, all
    at once: there are usually 2 to 8 such pivots.  Where that repeatedly leaves no fewer wrong ones, as with almost
    singular matrices, feature-sign search follows.

    The small matrices of a working set are factored on the CPU by LAPACK itself: the number of pivots depends on the
    numbers, so a GPU would wait for the CPU after each of them.

    Args:
        matrix: H, symmetric and positive semidefinite, (P, P).
        gradient: g, (P,).
        start: u, (P,).
        l1: Strength of l1 by each coordinate, (P,); coordinates with 0 are always free.

    References:
        Kim and Park (2010), Fast active-set-type algorithms for l1-regularized linear regression.
        Lee, Battle, Raina and Ng (2006), Efficient sparse coding algorithms: feature-sign search.
    """
    h, g, u, strength = (part.cpu().numpy() for part in (matrix, gradient, start, l1))
    diagonal = h.diagonal().copy()
    added = np.where(diagonal > 0, diagonal, max(float(diagonal.max()), 1e-300))
    damping = MIN_DAMPING
    while damping <= MAX_DAMPING:
        damped = h.copy()
        damped.reshape(-1)[:: len(h) + 1] += damping * added
        if (found := _minimum(damped, g, u, strength)) is not None:
            return ModelMinimum(torch.from_numpy(found[0]).to(start.device), found[1])
        damping *= DAMPING_GROWTH
    return ModelMinimum(start, 0.0)


def _minimum(h: Array, g: Array, u: Array, l1: Array) -> tuple[Array, float] | None:
    """`minimize_model` for a positive definite matrix; ``None`` where it is not, up to rounding."""
    try:
        v = _pivot(h, g, u, l1)
        v = _search(h, g, u, l1) if v is None else v
    except np.linalg.LinAlgError:
        return None
    move = v - u
    # |u + m| - |u| = m sign(u) where u + m and u have the same sign: small changes keep their digits.
    change_of_l1 = np.where(v * u > 0, move * np.sign(u), np.abs(v) - np.abs(u))
    decrease = -float(g @ move + move @ (h @ move) / 2 + l1 @ change_of_l1)
    return (v, decrease) if decrease > 0 else (u, 0.0)


def _solve(h: Array, which: Array, right: Array) -> Array:
    """Solves the equations of some of the coordinates; raises `LinAlgError` for a matrix not positive definite."""
    if not len(which):
        return right
    _, solution, failed = lapack.dposv(h[which][:, which], right, lower=1, overwrite_a=1, overwrite_b=1)
    if failed:
        raise np.linalg.LinAlgError
    return solution  # type: ignore[no-any-return]  # scipy has no types


def _signs(v: Array, slope: Array, l1: Array) -> Array:
    """The signs of v, and where v is 0 those of the steepest descent; 0 where l1 holds a coordinate at 0, or is 0."""
    leaving = np.where(np.abs(slope) > l1 * (1 + BOUNDARY_RTOL), -np.sign(slope), 0.0)
    signs: Array = np.where(l1 > 0, np.where(v != 0, np.sign(v), leaving), 0.0)
    return signs


def _pivot(h: Array, g: Array, u: Array, l1: Array) -> Array | None:
    """The minimum by block principal pivoting; ``None`` where it takes too many pivots."""
    penalized, limit, sign = l1 > 0, l1 * (1 + BOUNDARY_RTOL), _signs(u, g, l1)
    fewest, tries = len(u) + 1, FULL_EXCHANGES
    while True:
        free = (sign != 0) | ~penalized
        which = free.nonzero()[0]
        move = np.where(free, 0.0, -u)
        slope = g + h @ move if move.any() else g
        move[which] = _solve(h, which, -(slope + l1 * sign)[which])
        slope = g + h @ move
        v = np.where(free, u + move, 0.0)
        leaves = v * sign < 0
        wrong = leaves | (~free & (np.abs(slope) > limit))
        number = int(np.count_nonzero(wrong))
        if not number:
            return v
        tries = FULL_EXCHANGES if number < fewest else tries - 1
        fewest = min(fewest, number)
        if not tries:
            return None
        sign = np.where(wrong, np.where(leaves, 0.0, -np.sign(slope)), sign)


def _search(h: Array, g: Array, u: Array, l1: Array) -> Array:
    """The minimum by feature-sign search: each step is a line search of the model, so it cannot cycle."""
    v, slope, limit = u.copy(), g, l1 * (1 + BOUNDARY_RTOL)
    for _ in range(MAX_SEARCH_STEPS):
        sign, held = _signs(v, slope, l1), np.zeros(len(v), dtype=bool)
        while True:
            which = (((sign != 0) | (l1 == 0)) & ~held).nonzero()[0]
            step = np.zeros_like(v)
            step[which] = _solve(h, which, -(slope + l1 * sign)[which])
            wrong = (v == 0) & (step * sign < 0)  # coordinates leave 0 in the direction of descent only
            if not wrong.any():
                break
            held |= wrong
        # The slope along the step is linear between the lengths at which a coordinate becomes 0.
        crosses = (v * step < 0) & (l1 > 0)
        lengths = np.where(crosses, -v / np.where(crosses, step, 1.0), np.inf)
        order = lengths.argsort()
        order = order[lengths[order] < 1]
        curved = h @ step
        curvature = float(step @ curved)
        along = float(step @ slope + l1 @ np.where(v != 0, np.sign(v) * step, np.abs(step)))
        length, at_zero = 1.0, None
        for coordinate in order:
            here = float(lengths[coordinate])
            if along + here * curvature >= 0:
                break
            along += 2 * float(l1[coordinate] * abs(step[coordinate]))
            if along + here * curvature >= 0:
                length, at_zero = here, coordinate
                break
        if at_zero is None and curvature > 0:
            length = min(-along / curvature, 1.0)
        if not length > 0:
            break
        v = v + length * step
        if at_zero is not None:
            v[at_zero] = 0.0
        slope = g + h @ (v - u)
        if at_zero is None and length == 1 and not (np.abs(slope) > limit)[(v == 0) & (l1 > 0)].any():
            break
    return v
