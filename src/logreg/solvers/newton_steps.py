"""Newton steps from a Hessian that is held."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.errors import DivergedError
from logreg.solvers.problem import Coordinates, Problem

Solve = Callable[[Tensor], Tensor]
"""A gradient (K, D + 1) -> about the Newton step that is to be subtracted, (K, D + 1)."""

RIDGES = 11
"""How often that is made a hundred times as large, at most."""

FLAT = 1e-13
"""Curvature by a coordinate that is rounding of float64, relative to what it is before a mean is subtracted."""

SINGULAR = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Smallest pivot of a Hessian computed in that type, relative to its diagonal, from which on it may be singular."""

NOT_FINITE = (
    "the curvature of the objective is not finite: features are too large or too small for the arithmetic. Standardize "
    "them with dataset.standardize=true, bring them to units in which they are about 1, or set precision=64."
)
"""What is said of such a Hessian."""

RIDGE = 1e-12
"""What is added to a Hessian, relative to its diagonal, so that it can be factored where columns repeat each other."""


def smallest_subgradient(point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor:
    """The smallest subgradient of f, given the gradient of its smooth part: 0 where l1 holds a coefficient at 0."""
    held = gradient.sign() * (gradient.abs() - l1).clamp(min=0)
    return torch.where(point == 0, held, gradient + l1 * point.sign())


def intercept_step(problem: Problem, gradient: Tensor, curvature: Tensor) -> Tensor:
    """Newton's step for the intercepts alone, to be subtracted.

    Args:
        problem: Whose intercepts they are.
        gradient: Of f by the intercepts, (K,).
        curvature: Second derivative by them, (K, K); singular for a softmax, where only differences matter.
    """
    inverse: Tensor = torch.linalg.pinv(curvature, rtol=1e-12, hermitian=True)
    step = inverse @ gradient
    return step - step.mean() if problem.coupled else step  # rounding may have left some curvature along all of them


class Factored(NamedTuple):
    """A Hessian that is held, ready to solve with."""

    matrices: Tensor
    """Shape (B, P, P): one for all outputs together (B = 1), or one for each."""
    roots: Tensor
    """Their Cholesky factors."""
    ridge: float
    """What was added to their diagonals for that, relative to these."""
    weakest: float = 1.0
    """The smallest pivot, relative to the diagonal: about 0 where a direction has next to no curvature."""

    def step(self, gradient: Tensor) -> Tensor:
        """The Newton step to be subtracted, in the shape of the gradient."""
        flat = gradient.reshape(len(self.matrices), -1, 1)
        return torch.cholesky_solve(flat, self.roots).view_as(gradient)


def factored(
    problem: Problem,
    hessian: Tensor,
    coordinates: Coordinates | None = None,
    null: Tensor | None = None,
    rounding: float = FLAT,
) -> Factored:
    """Factors a Hessian of `Evaluate`; directions in which f does not change get a curvature of their own.

    Args:
        problem: Whose Hessian it is.
        hessian: As `Derivatives` has it.
        coordinates: Of the coordinates that it is by; the model's own for ``None``.
        null: Directions that change no logit, (D + 1, R), in that coordinates.
        rounding: Curvature by a coordinate that is none, without a penalty.

    Raises:
        DivergedError: It is not finite.
    """
    if not math.isfinite(float(hessian.sum())):
        raise DivergedError(NOT_FINITE)
    k, p = problem.num_outputs, problem.num_features + 1
    if problem.coupled:
        # Adding one vector to all outputs changes no probability, and no gradient points that way but l1's.
        mean = hessian.diagonal(dim1=1, dim2=3).diagonal(dim1=0, dim2=1).mean(1)  # (P,)
        if problem.objective.l1:
            mean = torch.cat([torch.zeros_like(mean[:-1]), mean[-1:]])
        hessian = hessian + torch.diag(mean)[None, :, None, :] / k
        matrices = hessian.reshape(1, k * p, k * p)
    else:
        matrices = hessian
    size = matrices.diagonal(dim1=1, dim2=2).clamp(min=0)
    flat, coordinates = size <= 0, coordinates or problem.model
    if not (problem.objective.l2 or problem.objective.l1):
        # The curvature by a constant column is what rounding left where its mean was taken away, in its own unit.
        mean = F.pad(coordinates.center / coordinates.scale, (0, 1)).square() * size.view(k, p)[:, -1:]
        flat |= size <= (rounding * mean).view_as(size)
        size = torch.where(flat, mean.view_as(size), size)
    size = torch.where(size > 0, size, 1.0).sqrt()
    scaled = matrices / size.unsqueeze(2)
    scaled /= size.unsqueeze(1)
    if null is not None and null.shape[1]:
        along = torch.block_diag(*[null] * k) if problem.coupled else null
        along = torch.linalg.qr(size.unsqueeze(2) * along).Q
        scaled += along @ along.mT
    ridge = 0.0
    for power in range(RIDGES):
        before, ridge = ridge, RIDGE * 100.0**power
        scaled.diagonal(dim1=1, dim2=2).add_(ridge - before)
        roots, failed = torch.linalg.cholesky_ex(scaled)
        if not bool(failed.any()):
            pivots = roots.diagonal(dim1=1, dim2=2).square().masked_fill(flat, 0.0)
            pivots = pivots if ridge == RIDGE else torch.zeros_like(pivots)
            if not problem.intercept:
                pivots = pivots.view(k, p)[:, :-1]
            return Factored(matrices, roots.mul_(size.unsqueeze(2)), ridge, float(pivots.min()))
    raise DivergedError(NOT_FINITE)


def newton_step_pinv(hessian: Tensor, gradient: Tensor, flat: float) -> tuple[Tensor, float]:
    """Newton's step to be subtracted, (..., P), where some directions may have no curvature, and what it is worth.

    Args:
        hessian: Shape (..., P, P).
        gradient: Shape (..., P).
        flat: Curvature along a direction, relative to the largest, that is none.
    """
    size = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    units = torch.where(size > 0, 1 / size, 0.0)
    values, vectors = torch.linalg.eigh(hessian * units.unsqueeze(-2) * units.unsqueeze(-1))
    along = (vectors.mT @ (units * gradient).unsqueeze(-1))[..., 0]
    steps = torch.where(values > flat * values[..., -1:], along / values, 0.0)
    return units * (vectors @ steps.unsqueeze(-1))[..., 0], float((along * steps).sum()) / 2
