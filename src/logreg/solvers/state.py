"""The state of an exact optimizer, and the tests that end it.

An optimizer ends on a bound of its relative gap, (f - f*) / f <= tolerance, that is computed in float64 over all rows
(`logreg.solvers.bounds.bound`).  Such a bound costs passes.  While the optimizer is far from the optimum an estimate
from the gradient decides whether to compute one: with l2, f is strongly convex in the coefficients, so that

    f - f* <= |gradient by the coefficients|^2 / (2 l2),   at intercepts whose gradient is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.bound import bound
from logreg.solvers.bounds.newton_bound import bound_by_sample
from logreg.solvers.passes.base import PassRequests
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature, KnownPoint
from logreg.solvers.passes.precise import RowNormBounds
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.newton_steps import intercept_step

VALUE_ROUNDING = {torch.float32: 3e-7, torch.float64: 1e-13}
"""Rounding error of a computed f, relative to f, by the type of the arithmetic.

The error is some machine epsilons, since f is a sum over many rows.  A step whose f is higher by no more than this
error does not count as worse.
"""

CURVATURE_MEAN_OFFSET = 0.05
"""Assumed squared distance between two means of a feature, in squared standard deviations of the feature.

One mean is over all rows, and is the center of the coordinates.  The other weighs the rows by their curvature; a move
of an intercept changes the gradient by the coefficients in proportion to it.
"""


@dataclass
class SolverState:
    """The state of an exact optimizer; the optimizer's generator updates it between the passes that it requests.

    Attributes:
        problem: The problem that is solved.
        point: The best point so far, (K, D + 1), in ``coordinates``; before the first pass the start, in
            `Problem.model`.
        coordinates: The coordinates that the optimizer works in.
        tolerance: The relative gap (f - f*) / f at which the optimizer ends.
        seed: Seed of the samples of rows.
        plain: Whether Newton's method begins at the start as it is, without a sample and without quasi-Newton steps,
            which may end far from the optimum where some rows are far larger than most (`Method.PLAIN_NEWTON`).
        inverse: An approximate inverse of the Hessian in ``coordinates``, once one was computed.
        value: f at the point, in nats; infinite until it is known.
        predicted_decrease: The decrease of f that the quadratic model predicts for the next step, relative to f.
        gap: The optimizer's current estimate of f - f*, in nats.
        evaluated: A point where f is known, such as the start, which is then not evaluated again; after a rough end of
            Newton's method its last point.
        correlation: Largest eigenvalue of the features' correlations in a sample of the rows; 1 where it is no larger
            than by chance, and not a number where it is not known.
        row_sizes: Units of the coordinates, (D + 1,), and the norms of the rows in these units; ``None`` until known.
        sample: Rows of a sample, each at most once, whose Newton step bounds the gap; ``None`` where there is none.
        bound: The best bound of f - f* so far; the optimizer ends with it.
        best: The point of that bound, (K, D + 1), in ``coordinates``.
        failed_gap: The estimated gap, relative to f, at which `certified_cheaply` failed last; infinite before.
    """

    problem: Problem
    point: Tensor
    tolerance: float = 1e-6
    seed: int = 0
    plain: bool = False
    inverse: LimitedMemoryInverse | None = None
    coordinates: Coordinates = field(init=False)
    value: float = math.inf
    predicted_decrease: float = math.inf
    gap: float = math.inf
    evaluated: KnownPoint | None = None
    correlation: float = math.nan
    row_sizes: tuple[Tensor, RowNormBounds] | None = None
    sample: Batch | None = None
    bound: Bound | None = None
    best: Tensor | None = None
    failed_gap: float = math.inf

    def __post_init__(self) -> None:
        self.coordinates = self.problem.model

    @property
    def solution(self) -> Tensor:
        """The point in the model's own coordinates, (K, D + 1)."""
        model = self.problem.model
        return self.point if self.coordinates is model else self.coordinates.to(model, self.point)

    @property
    def sample_part(self) -> float:
        """About the part of all rows that the sample has; 0 without one."""
        return 0.0 if self.sample is None else len(self.sample.labels) / self.problem.rows

    @property
    def converged(self) -> bool:
        """Whether the gap is within the tolerance, by the bound; by an estimate where there is no bound."""
        return self.bound is not None and within(self.bound, self.tolerance)


def within(bound: Bound, tolerance: float) -> bool:
    """Whether an optimizer may end: whether a gap is within a tolerance relative to f.

    It is so with its rounding, unless rounding takes more than half of the tolerance: more steps make the gap smaller,
    and the rounding hardly.  What is told of the fit, `Certificate.relative_gap`, contains the rounding in any case.
    """
    enough = tolerance * abs(bound.value)
    room = enough - bound.rounding
    return bound.gap <= (room if room >= enough / 2 else enough)


def gap_from_gradient(state: SolverState, slope: Tensor, curvature: InterceptCurvature) -> float:
    """Estimates the relative gap that a certificate would find, from the gradient alone; infinite without l2.

        |gradient by the coefficients|^2 / (2 l2)  +  half the Newton decrement of the intercepts alone

    Args:
        state: The state whose point has the gradient.
        slope: The gradient of f in ``state.coordinates``, (K, D + 1); with l1 its smallest subgradient.
        curvature: The second derivatives of f by the intercepts.
    """
    l2 = state.problem.objective.l2
    if not l2:
        return math.inf
    of_intercepts = float(slope[:, -1] @ intercept_step(state.problem, slope[:, -1], curvature)) / 2
    of_coef = float(scaled_gradient(state, slope).square().sum()) / (2 * l2)
    return (of_coef + of_intercepts) / max(abs(state.value), 1e-300)


def scaled_gradient(state: SolverState, slopes: Tensor) -> Tensor:
    """Scales gradients so that their squared norm is about 2 l2 times the gap that they imply.

    A gradient by the coefficients becomes one in the model's coordinates, in which the penalty is l2 / 2 |coef|^2.  A
    certificate moves the intercepts to where their gradient is 0, which changes the gradient by the coefficients in
    proportion to the curvature-weighted mean of the features.  The center of the coordinates is about that mean; the
    remaining distance is taken to be `CURVATURE_MEAN_OFFSET`.

    Args:
        state: The state whose coordinates the gradients are in.
        slopes: Shape (..., D + 1).
    """
    ratio = state.coordinates.scale / state.problem.model.scale
    size = math.sqrt(CURVATURE_MEAN_OFFSET) * torch.linalg.vector_norm(ratio)
    return slopes * torch.cat([ratio, size.unsqueeze(0)])


def certified(state: SolverState, evaluation: Derivatives | None, cheaply: bool = False) -> PassRequests[bool]:
    """Bounds the gap of the state's point in float64, and keeps the bound if it is the best one so far.

    Args:
        state: State of the problem; its ``bound``, ``best`` and ``gap`` are updated.
        evaluation: The derivatives at the point in float64, if they are known already.
        cheaply: Whether only a bound by duality is computed, which costs next to nothing.

    Returns:
        Whether the best bound so far is within the tolerance.
    """
    found = yield from bound(state.problem, state.point, evaluation, state.tolerance, state.coordinates, cheaply)
    keep_bound(state, found)
    return state.converged


def certified_cheaply(state: SolverState, evaluation: Derivatives, gap: float) -> PassRequests[bool]:
    """Certifies the point by duality where its estimated gap may suffice, and is below half that of the last failure.

    Args:
        state: State of the problem; see `certified`.
        evaluation: The derivatives at the point in float64.
        gap: The gap that `gap_from_gradient` estimates there.
    """
    if not gap <= state.tolerance or gap >= state.failed_gap / 2:
        return False
    state.failed_gap = gap
    return (yield from certified(state, evaluation, cheaply=True))


def certified_by_sample(state: SolverState, evaluation: Derivatives) -> PassRequests[bool]:
    """Bounds the gap of the state's point by the Newton step of its sample, without a pass; see `certified`.

    Args:
        state: State of a problem with l2.
        evaluation: The derivatives at the point in float64.
    """
    if state.sample is not None:
        found = yield from bound_by_sample(state.problem, state.coordinates, state.point, evaluation, state.sample)
        if found is not None:
            keep_bound(state, found)
    return state.converged


def keep_bound(state: SolverState, found: Bound) -> None:
    """Keeps a bound at the state's point if it is the best one so far."""
    best = state.bound
    # A bound is better than an estimate, unless only the estimate is within the tolerance.
    if best is None or (within(found, state.tolerance), found.rigorous, -found.gap - found.rounding) >= (
        state.converged,
        best.rigorous,
        -best.gap - best.rounding,
    ):
        state.bound, state.best = found, state.point
    state.gap = found.gap
