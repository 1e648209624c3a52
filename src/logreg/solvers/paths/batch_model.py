"""Several quadratic models with an l1 penalty, minimized at once by block principal pivoting.

`logreg.solvers.l1_model` minimizes one model.  Here the models are many and small, so that the time is the
overhead of the operations: they are those of numpy, whose overhead is the least.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from logreg.solvers.kernels import Array
from logreg.solvers.l1_model import (
    BOUNDARY_RTOL,
    DAMPING_GROWTH,
    FULL_EXCHANGES,
    MAX_DAMPING,
    MIN_DAMPING,
)

MAX_PIVOTS = 100
"""Exchanges after which pivoting is given up, and a larger damping is tried."""


def minimize_models(matrices: Tensor, gradients: Tensor, starts: Tensor, l1: Tensor) -> Tensor | None:
    """Minimizes g (v - u) + (v - u) H (v - u) / 2 + l1 |v| for each of B models; see `l1_model.minimize_model`.

    Args:
        matrices: H, symmetric and positive semidefinite, (B, p, p); a proximal term is added to it in place.
        gradients: g, (B, p).
        starts: u, (B, p).
        l1: Strength of l1 by each coordinate, (p,); coordinates with 0 are always free.

    Returns:
        The minima, (B, p); zeros are exact.  ``None`` where pivoting does not end.

    References:
        Kim and Park (2010), Fast active-set-type algorithms for l1-regularized linear regression.
    """
    h, g, u, strength = (part.numpy() for part in (matrices, gradients, starts, l1))
    diagonal = h.diagonal(axis1=1, axis2=2)
    added = np.where(diagonal > 0, diagonal, np.maximum(diagonal.max(1, keepdims=True), 1e-300))
    damping, places = MIN_DAMPING, np.arange(h.shape[1])
    while damping <= MAX_DAMPING:
        h[:, places, places] += damping * added
        if (found := _pivot(h, g, u, strength)) is not None:
            return torch.from_numpy(found)
        damping *= DAMPING_GROWTH
    return None


def _pivot(h: Array, g: Array, u: Array, l1: Array) -> Array | None:
    """`minimize_models`; ``None`` where a matrix is singular, or pivoting does not end."""
    always, limit = l1 == 0, l1 * (1 + BOUNDARY_RTOL)
    sign = np.where(u != 0, np.sign(u), np.where(np.abs(g) > limit, -np.sign(g), 0.0))
    sign[:, always] = 0.0
    result, models, slope, move = u.copy(), np.arange(len(u)), g, np.zeros_like(u)
    fewest, tries = np.full(len(u), u.shape[1] + 1), np.full(len(u), FULL_EXCHANGES)
    for _ in range(MAX_PIVOTS):
        free = (sign != 0) | always
        columns = free.any(0).nonzero()[0]
        if len(columns):
            mine = free[:, columns]
            # Coordinates that are not free have a row of the identity.
            matrix = h[:, columns[:, None], columns] * (mine[:, :, None] & mine[:, None, :])
            matrix.reshape(len(u), -1)[:, :: len(columns) + 1] += ~mine
            right = (-(slope + l1 * sign)[:, columns] * mine)[:, :, None]
            try:
                move[:, columns] += np.linalg.solve(matrix, right)[:, :, 0]
            except np.linalg.LinAlgError:
                return None
        slope = g + (h @ move[:, :, None])[:, :, 0]
        v = np.where(free, u + move, 0.0)
        leaves = v * sign < 0
        wrong = leaves | (~free & (np.abs(slope) > limit))
        number = wrong.sum(1)
        going = number > 0
        result[models[~going]] = v[~going]
        if not going.any():
            return result
        if not going.all():
            h, g, u, sign, slope = h[going], g[going], u[going], sign[going], slope[going]
            models, tries, fewest, number = models[going], tries[going], fewest[going], number[going]
            wrong, leaves = wrong[going], leaves[going]
        tries = np.where(number < fewest, FULL_EXCHANGES, np.maximum(tries - 1, 0))
        fewest = np.minimum(fewest, number)
        for model in (tries == 0).nonzero()[0]:  # the one of the largest index: Murty's rule, which cannot cycle
            wrong[model, : wrong[model].nonzero()[0][-1]] = False
        sign = np.where(wrong, np.where(leaves, 0.0, -np.sign(slope)), sign)
        move = np.where((sign != 0) | always, 0.0, -u)
        slope = g + (h @ move[:, :, None])[:, :, 0] if move.any() else g
    return None
