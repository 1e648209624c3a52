"""Several quadratic models with an l1 penalty, minimized at once by block principal pivoting.

`logreg.solvers.l1_model` minimizes one model; here the models are small, and the time of an operation is its overhead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.solvers.l1_model import BOUNDARY_RTOL, DAMPING_GROWTH, FULL_EXCHANGES, MAX_DAMPING, MIN_DAMPING

MAX_PIVOTS = 100
"""Exchanges after which pivoting is given up."""


def minimize_models(matrices: Tensor, gradients: Tensor, starts: Tensor, l1: Tensor) -> Tensor | None:
    """Minimizes g (v - u) + (v - u) H (v - u) / 2 + l1 |v| for each of B models; see `l1_model.minimize_model`.

    Args:
        matrices: H, symmetric and positive semidefinite, (B, p, p).
        gradients: g, (B, p).
        starts: u, (B, p).
        l1: Strength of l1 by each coordinate, (p,); coordinates with 0 are always free.

    Returns:
        The minima, (B, p); zeros are exact.  ``None`` where pivoting does not end.

    References:
        Kim and Park (2010), Fast active-set-type algorithms for l1-regularized linear regression.
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    added = torch.where(diagonal > 0, diagonal, diagonal.amax(1, keepdim=True).clamp(min=1e-300))
    damping = MIN_DAMPING
    while damping <= MAX_DAMPING:
        found = _pivot(matrices + torch.diag_embed(damping * added), gradients, starts, l1)
        if found is not None:
            return found
        damping *= DAMPING_GROWTH
    return None


def _pivot(h: Tensor, g: Tensor, u: Tensor, l1: Tensor) -> Tensor | None:
    """`minimize_models`; ``None`` where a matrix is not positive definite, or pivoting does not end."""
    always, limit = l1 == 0, l1 * (1 + BOUNDARY_RTOL)
    sign = torch.where(u != 0, u.sign(), torch.where(g.abs() > limit, -g.sign(), 0.0)).masked_fill_(always, 0.0)
    result = u.clone()
    models = torch.arange(len(u))
    fewest, tries = torch.full_like(models, u.shape[1] + 1), torch.full_like(models, FULL_EXCHANGES)
    for _ in range(MAX_PIVOTS):
        free = (sign != 0) | always
        columns = free.any(0).nonzero()[:, 0]
        move = torch.where(free, 0.0, -u)
        slope = g + (h @ move.unsqueeze(2))[:, :, 0] if bool(move.any()) else g
        if len(columns):
            mine = free[:, columns]
            both = mine.unsqueeze(1) & mine.unsqueeze(2)
            matrix = torch.where(both, h[:, columns][:, :, columns], 0.0)
            matrix.diagonal(dim1=1, dim2=2).add_((~mine).double())
            right = torch.where(mine, -(slope + l1 * sign)[:, columns], 0.0)
            factors, failed = torch.linalg.cholesky_ex(matrix)
            if bool(failed.any()):
                return None
            move[:, columns] += torch.cholesky_solve(right.unsqueeze(2), factors)[:, :, 0]
        slope = g + (h @ move.unsqueeze(2))[:, :, 0]
        v = torch.where(free, u + move, 0.0)
        leaves = v * sign < 0
        wrong = leaves | (~free & (slope.abs() > limit))
        number = wrong.sum(1)
        going = number > 0
        if not bool(going.all()):
            result[models[~going]] = v[~going]
        if not bool(going.any()):
            return result
        tries = torch.where(number < fewest, FULL_EXCHANGES, (tries - 1).clamp(min=0))
        fewest = torch.minimum(fewest, number)
        if bool((single := (tries == 0) & going).any()):  # the one of the largest index: Murty's rule, without cycles
            last = wrong.shape[1] - 1 - wrong.flip(1).to(torch.uint8).argmax(1)
            wrong[single] &= F_one_hot(last[single], wrong.shape[1])
        sign = torch.where(wrong, torch.where(leaves, 0.0, -slope.sign()), sign)
        if not bool(going.all()):
            h, g, u, sign = h[going], g[going], u[going], sign[going]
            models, tries, fewest = models[going], tries[going], fewest[going]
    return None


def F_one_hot(index: Tensor, size: int) -> Tensor:
    return torch.arange(size) == index.unsqueeze(1)
