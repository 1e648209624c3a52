"""A block-diagonal preconditioner: each output's own Hessian block, estimated from a sample of the rows."""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.solvers.newton_steps import InverseHessian
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import InterceptCurvature
from logreg.solvers.passes.hessian import HessianDiagonal, SampledCurvature
from logreg.solvers.problem import Coordinates, Problem

SAMPLED_ROWS = 4000
"""Rows per output that a preconditioner is estimated from: about twice `MAX_BLOCK_FEATURES`, so that a sample
determines the largest blocks too."""

SAMPLING_RIDGE = 8
"""Added to the diagonal of a sampled block: this multiple of its mean, divided by the number of sampled rows.

A sample makes the smallest eigenvalues too small, the more so the fewer rows it has."""

SAMPLED_BLOCK_RIDGE = 1e-5
"""Multiple of the diagonal that is added to a sampled block so that Cholesky succeeds: above the rounding of
float32."""

MAX_BLOCK_FEATURES = 2048
"""Features up to which the preconditioner holds a matrix for each output: its factorization takes their third power."""

MIN_ROWS_PER_FEATURE = 4
"""Rows per feature from which the preconditioner holds a matrix for each output: then factoring one (D^3 / 3
operations) costs less than a twelfth of forming it from all rows (N * D^2)."""

BLOCKS_MEMORY_FRACTION = 0.2
"""Largest size of the preconditioner's matrices, as a fraction of the numbers in the data."""

SMALL_BLOCKS_NUMEL = 16e6
"""Numbers that the preconditioner's matrices may have for data of any size: 64 MB in float32."""


def preconditioner(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    curvature: InterceptCurvature,
    seed: int,
) -> PassRequests[InverseHessian]:
    """An approximate inverse of the Hessian at a point, from one pass: the inverse of each output's own block.

    1. Where blocks are small beside the data, each output's block (D, D) is estimated from rows that are drawn in
       proportion to their curvature, and factored.  Each intercept is divided by its own curvature.
    2. Else the diagonal of the Hessian is computed over all rows, and the gradient is divided by it.

    Args:
        problem: The problem, over whose rows the passes go.
        coordinates: Coordinates of the point.
        point: Shape (K, D + 1).
        curvature: Second derivatives of f by the intercepts at the point.
        seed: Fixes which rows are drawn.
    """
    k, d = problem.num_outputs, problem.num_features
    by_intercept = curvature.diagonal().clamp(min=1e-30)
    apply_inverse: InverseHessian
    if (
        d <= MAX_BLOCK_FEATURES
        and d <= problem.rows / MIN_ROWS_PER_FEATURE
        and k * d * d <= max(BLOCKS_MEMORY_FRACTION * problem.rows * d, SMALL_BLOCKS_NUMEL)
    ):
        factors = yield from request(SampledCurvature(problem, coordinates, point, by_intercept, SAMPLED_ROWS, seed))
        for block in factors:  # factored in place: all blocks together take a good part of the memory of a fit
            block.diagonal().add_(SAMPLING_RIDGE / SAMPLED_ROWS * block.diagonal().mean())
            factor, failed = torch.linalg.cholesky_ex(block)
            if bool(failed):
                block.diagonal().mul_(1 + SAMPLED_BLOCK_RIDGE).add_(1e-30)
                factor = torch.linalg.cholesky_ex(block)[0]
            block.copy_(factor)

        def apply_inverse(gradient: Tensor) -> Tensor:
            half = torch.linalg.solve_triangular(factors, gradient[:, :-1].to(factors.dtype).unsqueeze(2), upper=False)
            coef = torch.linalg.solve_triangular(factors.mT, half, upper=True)[..., 0]
            return torch.cat([coef.double(), (gradient[:, -1] / by_intercept).unsqueeze(1)], dim=1)

    else:
        diagonal = yield from request(HessianDiagonal(problem, coordinates, point))
        metric = torch.where(diagonal > 0, diagonal, 1.0)

        def apply_inverse(gradient: Tensor) -> Tensor:
            return gradient / metric

    return apply_inverse


def centered(problem: Problem, point: Tensor) -> Tensor:
    """Subtracts the mean over the outputs of a softmax's point or step, (K, D + 1), which changes no probability.

    The optimum of a softmax without l1 sums to 0 over its outputs, and within that subspace every direction has
    curvature.  With l1 the intercepts alone are centered, since the penalty determines the mean of the coefficients.
    Other losses' points stay.
    """
    if not problem.coupled:
        return point
    if not problem.objective.l1:
        return point - point.mean(0)
    point = point.clone()
    point[:, -1] -= point[:, -1].mean()
    return point
