"""Newton steps from a factored Hessian: `H @ step = gradient`, solved by Cholesky factors or a pseudo-inverse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.errors import DivergedError
from logreg.solvers.passes.evaluate import InterceptCurvature
from logreg.solvers.problem import Coordinates, Problem

InverseHessian = Callable[[Tensor], Tensor]
"""An approximate inverse of the Hessian: a gradient (K, D + 1) -> the step to be subtracted, (K, D + 1)."""

FIRST_RIDGE = 1e-12
"""First multiple of the identity that is added to a Hessian of unit diagonal.

The ridge is above the rounding errors of float64, so the Hessian of columns that repeat each other can be factored, and
too small to change a step otherwise."""

RIDGE_GROWTH = 100.0
"""Factor between two ridges: a larger ridge is tried where Cholesky fails."""

MAX_FACTORIZATIONS = 11
"""Largest number of factorizations of one Hessian: the last ridge is 1e8, which outweighs any error of a Hessian of
unit diagonal."""

ZERO_CURVATURE_RTOL = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Curvature along one coordinate that counts as 0, by the type that the Hessian was computed in.

The curvature is relative to that before the mean of the feature was subtracted: several units of rounding in float32,
several hundred in float64."""

SINGULAR_PIVOT = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Smallest pivot, relative to the diagonal, below which a Hessian counts as nearly singular, by the type that the
Hessian was computed in."""

ZERO_INTERCEPT_RTOL = 1e-12
"""Curvature by the intercepts, relative to the largest, that counts as 0: the rounding error of a sum in float64."""

NOT_FINITE_MESSAGE = (
    "the curvature of the objective is not finite: features are too large or too small for the arithmetic. Standardize "
    "them with dataset.standardize=true, bring them to units in which they are about 1, or set precision=64."
)
"""Message of the error that a Hessian with infinite or undefined entries raises."""


def smallest_subgradient(point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor:
    """The subgradient of f of minimum norm, given the gradient of the smooth part of f.

    The subgradient is 0 where a coefficient is 0 and the l1 penalty exceeds the slope of the smooth part.

    Args:
        point: Shape (K, D + 1).
        gradient: Gradient of the smooth part of f (without l1), (K, D + 1).
        l1: Strength of l1 by each coordinate, (D + 1,).

    References:
        Andrew and Gao (2007), Scalable training of l1-regularized log-linear models, call it the pseudo-gradient.
    """
    at_zero = gradient.sign() * (gradient.abs() - l1).clamp(min=0)
    return torch.where(point == 0, at_zero, gradient + l1 * point.sign())


def intercept_step(problem: Problem, gradient: Tensor, curvature: InterceptCurvature) -> Tensor:
    """Newton's step for the intercepts alone, to be subtracted, (K,).

    The step is the solution of `curvature @ step = gradient` of least norm.  Where the matrix of a softmax is not kept,
    since outputs are many, the step is a rough one, by its diagonal.

    Args:
        problem: The problem of the intercepts.
        gradient: Gradient of f by the intercepts, (K,).
        curvature: Second derivatives of f by the intercepts; singular for a softmax, whose probabilities depend on
            differences of the intercepts alone.
    """
    if curvature.joint is None:
        own = curvature.own
        step = torch.where(own > ZERO_INTERCEPT_RTOL * own.max(), gradient / own, 0.0)
    else:
        inverse: Tensor = torch.linalg.pinv(curvature.joint, rtol=ZERO_INTERCEPT_RTOL, hermitian=True)
        step = inverse @ gradient
    # Rounding may have left some curvature along the vector of ones, which changes no probability of a softmax.
    return step - step.mean() if problem.coupled else step


class FactoredHessian(NamedTuple):
    """A Hessian with its Cholesky factors."""

    matrices: Tensor
    """The Hessian, (B, P, P): one matrix for all outputs together (B = 1), or one for each output."""
    factors: Tensor
    """Lower triangular Cholesky factors of the matrices and their ridge, (B, P, P)."""
    ridge: float
    """Multiple of their diagonals that was added to the matrices before they were factored."""
    smallest_pivot: float = 1.0
    """Smallest pivot relative to the diagonal: near 0 where a direction has almost no curvature."""

    def step(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, in the shape of the gradient."""
        flat = gradient.reshape(len(self.matrices), -1, 1)
        return torch.cholesky_solve(flat, self.factors).view_as(gradient)


def factor_hessian(
    problem: Problem,
    hessian: Tensor,
    coordinates: Coordinates | None = None,
    null: Tensor | None = None,
    zero_curvature_rtol: float = ZERO_CURVATURE_RTOL[torch.float64],
) -> FactoredHessian:
    """Factors a Hessian, made positive definite first.

    1. A softmax gets curvature along the vectors that are equal for all outputs, which change no probability.
    2. Coordinates without curvature get a curvature of their own, where there is no penalty.
    3. Each coordinate is scaled to a curvature of 1.
    4. The directions in ``null`` get a curvature of 1.
    5. Cholesky with an added multiple of the identity: the multiple grows by `RIDGE_GROWTH` until it succeeds.

    Args:
        problem: The problem of the Hessian.
        hessian: The Hessian as in `Derivatives.hessian`.
        coordinates: Coordinates of the Hessian; ``None`` for those of the model.
        null: Directions that change no logit, (D + 1, R), in those coordinates.
        zero_curvature_rtol: Relative curvature along a coordinate that counts as 0, where there is no penalty.

    Raises:
        DivergedError: The Hessian is not finite.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 3.3.
    """
    if not math.isfinite(float(hessian.sum())):
        raise DivergedError(NOT_FINITE_MESSAGE)
    k, p = problem.num_outputs, problem.num_features + 1
    if problem.coupled:
        mean = hessian.diagonal(dim1=1, dim2=3).diagonal(dim1=0, dim2=1).mean(1)  # (P,)
        hessian = hessian + torch.diag(mean)[None, :, None, :] / k
        matrices = hessian.reshape(1, k * p, k * p)
    else:
        matrices = hessian
    diagonal = matrices.diagonal(dim1=1, dim2=2).clamp(min=0)
    flat, coordinates = diagonal <= 0, coordinates or problem.model
    if not (problem.objective.l2 or problem.objective.l1):
        # The curvature along a constant column is the rounding error left by the subtraction of its mean.
        squared_mean = F.pad(coordinates.center / coordinates.scale, (0, 1)).square() * diagonal.view(k, p)[:, -1:]
        flat |= diagonal <= (zero_curvature_rtol * squared_mean).view_as(diagonal)
        diagonal = torch.where(flat, squared_mean.view_as(diagonal), diagonal)
    size = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
    scaled = matrices / size.unsqueeze(2)
    scaled /= size.unsqueeze(1)
    if null is not None and null.shape[1]:
        directions = torch.block_diag(*[null] * k) if problem.coupled else null
        directions = torch.linalg.qr(size.unsqueeze(2) * directions).Q
        scaled += directions @ directions.mT
    ridge = 0.0
    for attempt in range(MAX_FACTORIZATIONS):
        last_ridge, ridge = ridge, FIRST_RIDGE * RIDGE_GROWTH**attempt
        scaled.diagonal(dim1=1, dim2=2).add_(ridge - last_ridge)
        factors, failed = torch.linalg.cholesky_ex(scaled)
        if not bool(failed.any()):
            pivots = factors.diagonal(dim1=1, dim2=2).square().masked_fill(flat, 0.0)
            pivots = pivots if attempt == 0 else torch.zeros_like(pivots)
            if not problem.intercept:
                pivots = pivots.view(k, p)[:, :-1]
            return FactoredHessian(matrices, factors.mul_(size.unsqueeze(2)), ridge, float(pivots.min()))
    raise DivergedError(NOT_FINITE_MESSAGE)


def newton_step_pinv(hessian: Tensor, gradient: Tensor, rtol: float) -> tuple[Tensor, float]:
    """Newton's step by a pseudo-inverse, for Hessians that may be singular.

    Args:
        hessian: Shape (..., P, P).
        gradient: Shape (..., P).
        rtol: Eigenvalues of the Hessian, scaled to unit diagonal, that are smaller than this multiple of the largest
            count as 0; the step has no part along their eigenvectors.

    Returns:
        The step to be subtracted, (..., P), and the decrease that the quadratic model predicts for it.
    """
    size = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    units = torch.where(size > 0, 1 / size, 0.0)
    values, vectors = torch.linalg.eigh(hessian * units.unsqueeze(-2) * units.unsqueeze(-1))
    slopes = (vectors.mT @ (units * gradient).unsqueeze(-1))[..., 0]
    steps = torch.where(values > rtol * values[..., -1:], slopes / values, 0.0)
    return units * (vectors @ steps.unsqueeze(-1))[..., 0], float((slopes * steps).sum()) / 2
