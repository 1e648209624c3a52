"""Where an exact optimizer stands, and whether that is near enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logreg.optim.certificate import Bound, Reached, bound
from logreg.optim.curvature import DRAWN, Learned, intercept_step
from logreg.optim.passes import Asking, Evaluation, Frame, Problem

NOISE = {torch.float32: 3e-7, torch.float64: 1e-13}
"""How exactly f is known, relative to it."""

TURNED = 0.05
"""Distance of the rows that a move of an intercept matters to from the mean of all, squared, relative to deviations."""


@dataclass
class Progress:
    """An exact optimizer's way to the optimum; its generator keeps this up to date.

    Attributes:
        problem: What is solved.
        point: The best so far, (K, D + 1), in ``frame``; at first where to start, in the problem's model frame.
        frame: The coordinates that the optimizer works in.
        tolerance: Relative gap to end at.
        seed: Fixes what is drawn.
        drawn: Rows per output that an inverse of the Hessian is made of.
        inverse: About that of the Hessian in ``frame``, if one was made already.
        value: f at the point, once it is known.
        near: What the optimizer expects to gain still, relative to f.
        gap: About f - f* as the optimizer sees it while it is under way.
        reach: Units of the frame's coordinates and how large rows are in them, once known.
        bound: The best so far; the optimizer ends with it.
        best: The point it belongs to, in ``frame``.
    """

    problem: Problem
    point: Tensor
    tolerance: float = 1e-6
    seed: int = 0
    drawn: int = DRAWN
    inverse: Learned | None = None
    frame: Frame = field(init=False)
    value: float = math.inf
    near: float = math.inf
    gap: float = math.inf
    reach: tuple[Tensor, Reached] | None = None
    bound: Bound | None = None
    best: Tensor | None = None

    def __post_init__(self) -> None:
        self.frame = self.problem.model

    @property
    def solution(self) -> Tensor:
        """The point in the model's own frame."""
        return self.frame.to(self.problem.model, self.point)

    @property
    def converged(self) -> bool:
        """Whether the point is within the tolerance by its bound, or by an estimate where there is no better."""
        return self.bound is not None and within(self.bound, self.tolerance)


def within(bound: Bound, tolerance: float) -> bool:
    """Whether a gap is within a tolerance relative to f."""
    return bound.gap <= tolerance * abs(bound.value)


def by_slope(progress: Progress, slope: Tensor, curvature: Tensor) -> float:
    """About the relative gap that a certificate will say, by the slope alone; infinite without l2.

    Args:
        progress: Of the problem.
        slope: Of f by the coordinates of its frame, (K, D + 1).
        curvature: Of f by the intercepts, (K, K).
    """
    l2 = progress.problem.objective.l2
    if not l2:
        return math.inf
    of_intercepts = float(slope[:, -1] @ intercept_step(progress.problem, slope[:, -1], curvature)) / 2
    of_coef = float(steepness(progress, slope).square().sum()) / (2 * l2)
    return (of_coef + of_intercepts) / max(abs(progress.value), 1e-300)


def steepness(progress: Progress, slopes: Tensor) -> Tensor:
    """Slopes (..., D + 1) by the frame's coordinates, such that their square is about 2 l2 times what they cost.

    A certificate lets the intercepts move to where their slope is 0.  The means of the features, about which the frame
    turns, are about where the others' slopes stay as they are; of what is left a part comes from those moves.
    """
    ratio = progress.frame.scale / progress.problem.model.scale
    size = math.sqrt(TURNED) * torch.linalg.vector_norm(ratio)
    return slopes * torch.cat([ratio, size.unsqueeze(0)])


def certified(progress: Progress, evaluation: Evaluation | None) -> Asking[bool]:
    """Bounds the gap of the point in float64; whether it is within the tolerance."""
    found = yield from bound(progress.problem, progress.point, evaluation, progress.tolerance, progress.frame)
    best = progress.bound
    # A bound is worth more than an estimate, unless that alone is within the tolerance.
    if best is None or (within(found, progress.tolerance), found.rigorous, -found.gap) >= (
        progress.converged,
        best.rigorous,
        -best.gap,
    ):
        progress.bound, progress.best = found, progress.point
    progress.gap = found.gap
    return progress.converged
