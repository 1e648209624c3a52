"""Newton steps from products with a Hessian that is not held: preconditioned conjugate gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.solvers.newton_steps import Solve
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.hessian import BlockCache, Product
from logreg.solvers.preconditioner import centered
from logreg.solvers.problem import Coordinates, Problem

STALLED = 0.5
"""Ratio of the last gain to the mean gain of a product so far, below which conjugate gradients have done their work."""


class Solution(NamedTuple):
    """What conjugate gradients came to."""

    step: Tensor
    """To be subtracted, (K, D + 1)."""
    gain: float
    """What the quadratic model says it is worth."""
    directions: Tensor
    """Those that were tried, conjugate to each other and with curvature 1, (M, K * (D + 1))."""
    products: Tensor
    """The Hessian times those, (M, K * (D + 1))."""


def conjugate_gradients(
    problem: Problem,
    coordinates: Coordinates,
    point: Tensor,
    gradient: Tensor,
    inverse: Solve,
    accuracy: float,
    most: int,
    free: Tensor | None = None,
) -> PassRequests[Solution]:
    """Solves Hessian @ step = gradient, a pass for each product.

    Args:
        problem: Whose rows will be shown.
        coordinates: Of the point.
        point: Where the Hessian is taken, (K, D + 1).
        gradient: Shape (K, D + 1).
        inverse: The preconditioner, symmetric and positive.
        accuracy: Norm of the residual, in the metric of the preconditioner and relative to the first, to end at.
        most: Products at most.
        free: Coordinates that may move, (K, D + 1); ``None`` for all.
    """

    def within(vector: Tensor) -> Tensor:
        return centered(problem, vector) if free is None else vector * free

    residual = within(gradient)
    step, gain = torch.zeros_like(residual), 0.0
    towards = within(inverse(residual))
    direction, squared = towards, float((residual * towards).sum())
    enough = accuracy * accuracy * squared
    curvatures: BlockCache[Tensor] = BlockCache()
    tried: list[tuple[Tensor, Tensor]] = []
    for number in range(1, most + 1):
        if not squared > 0:
            break
        product = within((yield from request(Product(problem, coordinates, point, direction, curvatures))))
        curvature = float((direction * product).sum())
        if not curvature > 0 or not math.isfinite(curvature):
            break
        length = squared / curvature
        tried.append((direction / math.sqrt(curvature), product / math.sqrt(curvature)))
        step = step + length * direction
        residual = residual - length * product
        gain += length * squared / 2
        towards = within(inverse(residual))
        last, squared = squared, float((residual * towards).sum())
        if squared <= enough or number * length * last / 2 <= STALLED * gain:
            break
        direction = towards + squared / last * direction
    pairs = [torch.stack(side).flatten(1) for side in zip(*tried, strict=True)] or [
        residual.new_zeros(0, residual.numel())
    ] * 2
    return Solution(step, gain, *pairs)


def corrected(inverse: Solve, known: Solution) -> Solve:
    """A preconditioner that is exact on the directions of an earlier solution, where it was near enough.

    Source:
        Morales and Nocedal (2000), Automatic preconditioning by limited memory quasi-Newton updating.
    """
    directions, products = known.directions, known.products

    def better(gradient: Tensor) -> Tensor:
        flat = gradient.flatten()
        along = directions @ flat
        rest = inverse((flat - along @ products).view_as(gradient)).flatten()
        return (rest + (along - products @ rest) @ directions).view_as(gradient)

    return better
