"""A preconditioner from rows that are drawn in proportion to their curvature."""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.solvers.newton_steps import Solve
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.hessian import Diagonal, SampledCurvature
from logreg.solvers.problem import Coordinates, Problem

DRAWN = 4000
"""Rows per output that a preconditioner is made of."""

SHRINK = 8
"""What is added to the curvatures of a sample, relative to their mean over its rows: it makes small ones too small."""

WIDEST = 2048
"""Features up to which it holds a matrix for each output."""

MEMORY = 0.2
"""Fraction of the data that those matrices may take."""

LITTLE = 16e6
"""Numbers that they may hold in any case."""


def preconditioner(
    problem: Problem, coordinates: Coordinates, point: Tensor, curvature: Tensor, seed: int, drawn: int = DRAWN
) -> PassRequests[Solve]:
    """About the inverse of the Hessian at a point: that of each output's own block.

    Args:
        problem: Whose rows will be shown.
        coordinates: Of the point.
        point: Shape (K, D + 1).
        curvature: Of f by the intercepts there, (K, K).
        seed: Fixes which rows are drawn.
        drawn: How many per output.
    """
    k, d = problem.num_outputs, problem.num_features
    own = curvature.diagonal().clamp(min=1e-30)
    inverse: Solve
    if d <= WIDEST and d <= problem.rows / 4 and k * d * d <= max(MEMORY * problem.rows * d, LITTLE):
        roots = yield from request(SampledCurvature(problem, coordinates, point, own, drawn, seed))
        for block in roots:  # each in its place: together they are a good part of what a fit occupies
            block.diagonal().add_(SHRINK / drawn * block.diagonal().mean())
            root, failed = torch.linalg.cholesky_ex(block)
            if bool(failed):
                block.diagonal().mul_(1 + 1e-5).add_(1e-30)
                root = torch.linalg.cholesky_ex(block)[0]
            block.copy_(root)

        def inverse(gradient: Tensor) -> Tensor:
            half = torch.linalg.solve_triangular(roots, gradient[:, :-1].to(roots.dtype).unsqueeze(2), upper=False)
            coef = torch.linalg.solve_triangular(roots.mT, half, upper=True)[..., 0]
            return torch.cat([coef.double(), (gradient[:, -1] / own).unsqueeze(1)], dim=1)

    else:
        diagonal = yield from request(Diagonal(problem, coordinates, point))
        metric = torch.where(diagonal > 0, diagonal, 1.0)

        def inverse(gradient: Tensor) -> Tensor:
            return gradient / metric

    return inverse


def centered(problem: Problem, point: Tensor) -> Tensor:
    """The same logits up to a softmax's gauge, with outputs that sum to zero where no l1 forbids it.

    The optimum is of that kind, and within that subspace no direction is without curvature.
    """
    if not problem.coupled:
        return point
    if not problem.objective.l1:
        return point - point.mean(0)
    point = point.clone()
    point[:, -1] -= point[:, -1].mean()
    return point
