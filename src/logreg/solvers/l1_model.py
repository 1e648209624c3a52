"""A quadratic model plus an l1 penalty, minimized by block principal pivoting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

Array = NDArray[np.float64]


class ModelMinimum(NamedTuple):
    """The minimum of a quadratic model with l1, or of the model with a proximal term."""

    point: Tensor
    """Shape (P,); zeros are exact."""
    decrease: float
    """By how much the model is lower there than at the start; 0 where no lower point was found."""


def minimize_model(matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor) -> ModelMinimum:
    """Minimizes g (v - u) + (v - u) H (v - u) / 2 + l1 |v| by block principal pivoting.

    A guess which coordinates are not 0, and of their signs, makes the optimality conditions linear equations.
    Coordinates whose solution has another sign are then held at 0, and those at 0 whose slope exceeds l1 are freed, all
    at once: there are usually 2 to 8 such pivots.  Where that repeatedly leaves no fewer wrong ones, they are exchanged
    one at a time.  Where the matrix is almost singular, a multiple of the diagonal is added: a proximal term, which
    grows until pivoting ends.

    The small matrices of a working set are factored on the CPU by LAPACK itself: the number of pivots depends on the
    numbers, so a GPU would wait for the CPU after each of them.

    Args:
        matrix: H, symmetric and positive semidefinite, (P, P).
        gradient: g, (P,).
        start: u, (P,).
        l1: Strength of l1 by each coordinate, (P,); coordinates with 0 are always free.

    References:
        Kim and Park (2010), Fast active-set-type algorithms for l1-regularized linear regression.
        Murty (1974), Note on a Bard-type scheme for solving the complementarity problem.
    """
    h, g, u, strength = (part.cpu().numpy() for part in (matrix, gradient, start, l1))
    diagonal = h.diagonal().copy()
    added = np.where(diagonal > 0, diagonal, max(float(diagonal.max()), 1e-300))
    damping, v = MIN_DAMPING, u
    while damping <= MAX_DAMPING:
        damped = h.copy()
        damped.reshape(-1)[:: len(h) + 1] += damping * added
        if (found := _pivot(damped, g, u, strength)) is not None:
            v = found
            break
        damping *= DAMPING_GROWTH
    move = v - u
    # |u + m| - |u| = m sign(u) where u + m and u have the same sign: small changes keep their digits.
    change_of_l1 = np.where(v * u > 0, move * np.sign(u), np.abs(v) - np.abs(u))
    decrease = -float(g @ move + move @ (h @ move) / 2 + strength @ change_of_l1)
    return ModelMinimum(torch.from_numpy(v).to(start.device), decrease) if decrease > 0 else ModelMinimum(start, 0.0)


def _pivot(h: Array, g: Array, u: Array, l1: Array) -> Array | None:
    """`minimize_model`; ``None`` where the matrix is not positive definite, or pivoting does not end."""
    penalized, limit = l1 > 0, l1 * (1 + BOUNDARY_RTOL)
    leaving = np.where(np.abs(g) > limit, -np.sign(g), 0.0)
    sign = np.where(penalized, np.where(u != 0, np.sign(u), leaving), 0.0)
    from scipy.linalg import lapack  # takes longer to import than a fit

    fewest, tries, singles = len(u) + 1, FULL_EXCHANGES, SINGLE_EXCHANGES
    while singles:
        free = (sign != 0) | ~penalized
        which = free.nonzero()[0]
        move = np.where(free, 0.0, -u)
        slope = g + h @ move if move.any() else g
        if len(which):
            right = -(slope + l1 * sign)[which]
            _, move[which], failed = lapack.dposv(h[which][:, which], right, lower=1, overwrite_a=1, overwrite_b=1)
            if failed:
                return None
        slope = g + h @ move
        v = np.where(free, u + move, 0.0)
        leaves = v * sign < 0
        wrong = leaves | (~free & (np.abs(slope) > limit))
        number = int(np.count_nonzero(wrong))
        if not number:
            return v
        tries = FULL_EXCHANGES if number < fewest else max(tries - 1, 0)
        fewest = min(fewest, number)
        if not tries:  # the one of the largest index, by the rule of Murty, which cannot cycle
            wrong[: wrong.nonzero()[0][-1]] = False
            singles -= 1
        sign = np.where(wrong, np.where(leaves, 0.0, -np.sign(slope)), sign)
    return None
