"""Preconditioned conjugate gradients: `H @ step = gradient` for the Hessian H, without forming H."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.hessian import BlockCache, HessianProduct
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.newton_steps import InverseHessian
from logreg.solvers.steps.preconditioner import centered

MIN_DECREASE_RATIO = 0.5
"""Decrease of the quadratic model by the last product, relative to the mean decrease by a product so far, at which
conjugate gradients stop: a Newton step from the new point then decreases f more.  The value is Nash and Sofer's."""


class Solution(NamedTuple):
    """The result of conjugate gradients."""

    step: Tensor
    """The step, which is to be subtracted from the point, (K, D + 1)."""
    predicted_decrease: float
    """Decrease of f that the quadratic model predicts for the step."""


def conjugate_gradients(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    gradient: Tensor,
    inverse: InverseHessian,
    rtol: float,
    max_products: int,
    min_decrease_ratio: float = MIN_DECREASE_RATIO,
) -> PassRequests[Solution]:
    """Solves `H @ step = gradient` for the Hessian H of f at a point; each product with H takes one pass.

    Each iteration, with r the residual, z = inverse(r) and p the search direction (at first z):

    1. Compute H @ p in one pass.
    2. Move the step by the length (r @ z) / (p @ H @ p) along p.
    3. Subtract that length times H @ p from r, and apply the preconditioner to it.
    4. Make the next direction conjugate: p = z + (new r @ z) / (old r @ z) * p.

    It stops where sqrt(r @ z) is at most ``rtol`` times what it was at first, where the last product decreased the
    model by less than ``min_decrease_ratio`` of the mean decrease, after ``max_products``, or where rounding leaves no
    positive curvature along p.  The step so far is returned in any case; it is 0 where the gradient is.

    Args:
        problem: The problem, over whose rows the passes go.
        coordinates: Coordinates of the point.
        point: Point of the Hessian, (K, D + 1).
        gradient: Shape (K, D + 1).
        inverse: The preconditioner, symmetric and positive definite.
        rtol: Norm of the residual in the metric of the preconditioner, relative to the first, at which to stop.
        max_products: Largest number of products with H.
        min_decrease_ratio: See `MIN_DECREASE_RATIO`; 0 where another point is no better than more products.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithm 5.3; Nash and Sofer (1990), Assessing a search
        direction within a truncated-Newton method, for the second stopping rule.
    """
    residual = centered(problem, gradient)
    step, predicted_decrease = torch.zeros_like(residual), 0.0
    preconditioned = centered(problem, inverse(residual))
    direction, squared_norm = preconditioned, float((residual * preconditioned).sum())
    squared_tol = rtol * rtol * squared_norm
    curvatures: BlockCache[Tensor | None] = BlockCache()
    for number in range(1, max_products + 1):
        if not squared_norm > 0:
            break
        product = centered(
            problem, (yield from request(HessianProduct(problem, coordinates, point, direction, curvatures)))
        )
        curvature = float((direction * product).sum())
        if not curvature > 0 or not math.isfinite(curvature):
            break
        length = squared_norm / curvature
        step = step + length * direction
        residual = residual - length * product
        predicted_decrease += length * squared_norm / 2
        preconditioned = centered(problem, inverse(residual))
        last_squared_norm, squared_norm = squared_norm, float((residual * preconditioned).sum())
        slows_down = number * length * last_squared_norm / 2 <= min_decrease_ratio * predicted_decrease
        if squared_norm <= squared_tol or slows_down:
            break
        direction = preconditioned + squared_norm / last_squared_norm * direction
    return Solution(step, predicted_decrease)
