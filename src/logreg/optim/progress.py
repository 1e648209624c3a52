"""Where an exact optimizer stands, and where it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.optim.certificate import Bound
from logreg.optim.curvature import centred
from logreg.optim.passes import Asking, Frame, Problem, Stochastic, ask, choose_frame  # noqa: F401


@dataclass
class Progress:
    """An exact optimizer's way to the optimum; its generator keeps this up to date.

    Attributes:
        problem: What is solved.
        point: The best so far, (K, D + 1), in ``frame``; at first where to start, in the problem's model frame.
        frame: The coordinates that the optimizer works in.
        tolerance: Relative gap to end at.
        seed: Fixes what is drawn.
        value: f at the point, once it is known.
        near: What the optimizer expects to gain still, relative to f.
        gap: About f - f* as the optimizer sees it while it is under way.
        reach: The largest squared norm of a row in the frame, once it is known.
        bound: The best so far; the optimizer ends with it.
        best: The point it belongs to, in ``frame``.
    """

    problem: Problem
    point: Tensor
    tolerance: float = 1e-6
    seed: int = 0
    frame: Frame = field(init=False)
    value: float = math.inf
    near: float = math.inf
    gap: float = math.inf
    reach: float | None = None
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
        """Whether the point is certified to be within the tolerance."""
        return self.bound is not None and self.bound.gap <= self.tolerance * abs(self.bound.value)


def safe_step(problem: Problem, frame: Frame, sample: Batch) -> float:
    """The largest stable step of gradient descent at zero, 2 over the largest curvature of the sample."""
    features = ((sample.features.double() - frame.center) / frame.scale).float()
    vector = features.new_ones(features.shape[1])
    for _ in range(10):
        vector = features.T @ (features @ (vector / vector.norm().clamp(min=1e-30)))
    k = problem.num_outputs
    spread = 1 / k * (1 - 1 / k) if problem.softmax else 0.25
    return 2 / (spread * max(float(vector.norm()) / len(features), 1e-30))


def start_stochastically(progress: Progress, sample: Batch) -> Asking[None]:
    """Moves a start at zero to where a pass of small steps leads."""
    problem = progress.problem
    step = safe_step(problem, progress.frame, sample)
    point = yield from ask(Stochastic(problem, progress.frame, progress.point, step))
    if bool(point.isfinite().all()):
        progress.point = centred(problem, point)
