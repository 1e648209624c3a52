"""Where an exact optimizer stands, and whether that is near enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logreg.solvers.bounds import Bound, bound
from logreg.solvers.newton_steps import intercept_step
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.passes.certifying import Reached
from logreg.solvers.passes.evaluate import Derivatives
from logreg.solvers.preconditioner import SAMPLED_ROWS
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.quasi_newton import LimitedMemoryInverse

NOISE = {torch.float32: 3e-7, torch.float64: 1e-13}
"""How exactly f is known, relative to it."""

TURNED = 0.05
"""Distance of the rows that a move of an intercept matters to from the mean of all, squared, relative to deviations."""


@dataclass
class SolverState:
    """An exact optimizer's way to the optimum; its generator keeps this up to date.

    Attributes:
        problem: What is solved.
        point: The best so far, (K, D + 1), in ``coordinates``; before the first pass the start, in `Problem.model`.
        coordinates: The coordinates that the optimizer works in.
        tolerance: Relative gap to end at.
        seed: Fixes what is drawn.
        drawn: Rows per output that an inverse of the Hessian is made of.
        inverse: About that of the Hessian in ``coordinates``, if one was made already.
        value: f at the point, once it is known.
        near: What the optimizer expects to gain still, relative to f.
        gap: About f - f* as the optimizer sees it while it is under way.
        reach: Units of the coordinates's coordinates and how large rows are in them, once known.
        bound: The best so far; the optimizer ends with it.
        best: The point it belongs to, in ``coordinates``.
    """

    problem: Problem
    point: Tensor
    tolerance: float = 1e-6
    seed: int = 0
    drawn: int = SAMPLED_ROWS
    inverse: LimitedMemoryInverse | None = None
    coordinates: Coordinates = field(init=False)
    value: float = math.inf
    near: float = math.inf
    gap: float = math.inf
    reach: tuple[Tensor, Reached] | None = None
    bound: Bound | None = None
    best: Tensor | None = None

    def __post_init__(self) -> None:
        self.coordinates = self.problem.model

    @property
    def solution(self) -> Tensor:
        """The point in the model's own coordinates."""
        return self.coordinates.to(self.problem.model, self.point)

    @property
    def converged(self) -> bool:
        """Whether the point is within the tolerance by its bound, or by an estimate where there is no better."""
        return self.bound is not None and within(self.bound, self.tolerance)


def within(bound: Bound, tolerance: float) -> bool:
    """Whether a gap is within a tolerance relative to f."""
    return bound.gap <= tolerance * abs(bound.value)


def by_slope(state: SolverState, slope: Tensor, curvature: Tensor) -> float:
    """About the relative gap that a certificate will say, by the slope alone; infinite without l2.

    Args:
        state: Of the problem.
        slope: Of f by the coordinates of its coordinates, (K, D + 1).
        curvature: Of f by the intercepts, (K, K).
    """
    l2 = state.problem.objective.l2
    if not l2:
        return math.inf
    of_intercepts = float(slope[:, -1] @ intercept_step(state.problem, slope[:, -1], curvature)) / 2
    of_coef = float(steepness(state, slope).square().sum()) / (2 * l2)
    return (of_coef + of_intercepts) / max(abs(state.value), 1e-300)


def steepness(state: SolverState, slopes: Tensor) -> Tensor:
    """Slopes (..., D + 1) by the coordinates's coordinates, such that their square is about 2 l2 times what they cost.

    A certificate lets the intercepts move to where their slope is 0.  At the means of the features, the center of the
    coordinates, about the others' slopes stay as they are; of what is left a part comes from those moves.
    """
    ratio = state.coordinates.scale / state.problem.model.scale
    size = math.sqrt(TURNED) * torch.linalg.vector_norm(ratio)
    return slopes * torch.cat([ratio, size.unsqueeze(0)])


def certified(state: SolverState, evaluation: Derivatives | None) -> PassRequests[bool]:
    """Bounds the gap of the point in float64; whether it is within the tolerance."""
    found = yield from bound(state.problem, state.point, evaluation, state.tolerance, state.coordinates)
    best = state.bound
    # A bound is worth more than an estimate, unless that alone is within the tolerance.
    if best is None or (within(found, state.tolerance), found.rigorous, -found.gap) >= (
        state.converged,
        best.rigorous,
        -best.gap,
    ):
        state.bound, state.best = found, state.point
    state.gap = found.gap
    return state.converged
