"""Where an exact optimizer starts: as near to the optimum as a cheap look at the rows can tell."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import MemoryRows, parts
from logreg.solvers.dual.row_space import Solver, is_wide, solve_in_rows
from logreg.solvers.newton_steps import SINGULAR, factored
from logreg.solvers.passes.base import PassRequests, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSome
from logreg.solvers.passes.sampling import Sample, Stochastic
from logreg.solvers.preconditioner import centered
from logreg.solvers.problem import MAX_COPIED_NUMBERS, Coordinates, Problem, choose_coordinates
from logreg.solvers.state import SolverState

HELD = 1024
"""Parameters that depend on each other, up to which the Hessian is held."""

WORK = 2e11
"""Rows times parameters times those that depend on each other, up to which it is."""

MANY_ROWS = 5000
"""Rows from which a pass of stochastic gradient descent is a good place to start from."""

STOCHASTIC = 2
"""Such passes."""

STEP = 4
"""Their first step, relative to half the largest that is stable."""

ENOUGH = 20
"""Rows per parameter that make a sample worth solving first."""

MORE, LIKELY = 8, 0.1
"""A sample's optimum is moved by the slope of one row in so many, if that gains at most so much of f."""

RARE = 50
"""Rows that must tell of a feature for a sample to tell its coefficient."""


def start(state: SolverState, solve: Solver) -> PassRequests[torch.dtype]:
    """Chooses the coordinates, and replaces a start at zero by a better one.

    A start elsewhere stays, unless the problem is solved in the span of its rows.

    Args:
        state: Of the problem.
        solve: What solves smaller problems.

    Returns:
        The floating type to go on in.
    """
    problem, held = state.problem, holds_hessian(state.problem)
    sample = yield from request(Sample(problem))
    coordinates = choose_coordinates(problem, sample, held)
    state.coordinates, state.point = coordinates, centered(problem, state.coordinates.to(coordinates, state.point))
    if is_wide(problem):
        yield from solve_in_rows(state, solve)
        return torch.float64
    if not state.point.any():
        if held and enough_rows(problem, sample):
            yield from _solve_sample(state, sample, solve)
        elif not held and problem.rows >= MANY_ROWS:
            yield from _start_stochastically(state, sample)
    return problem.dtype


def holds_hessian(problem: Problem) -> bool:
    """Whether the Hessian is formed and factored."""
    dependent = problem.dependent
    enough = problem.rows >= dependent or problem.objective.l1 > 0
    return dependent <= HELD and enough and problem.rows * dependent * problem.num_parameters <= WORK


def enough_rows(problem: Problem, sample: Batch) -> bool:
    """Whether a sample is a small part of the rows and still tells something of every parameter."""
    dependent = problem.dependent
    return ENOUGH * dependent <= len(sample.labels) <= problem.rows / 4


def _solve_sample(state: SolverState, sample: Batch, solve: Solver) -> PassRequests[None]:
    """Moves the start to about the optimum of a sample; what few of its rows tell of stays where it is.

    The sample's curvature is nearly that of all rows, while its slope is 0 where theirs is not: a step along the slope
    of more rows follows, where there are many more.
    """
    problem, coordinates = state.problem, state.coordinates
    common = _common(sample, coordinates).nonzero()[:, 0]
    if not len(common):
        return
    model = Coordinates(problem.model.center[common], problem.model.scale[common])
    sample = sample._replace(features=sample.features[:, common])
    narrow = replace(problem, model=model, dtype=torch.float32).sub(sample)
    if not narrow.total_weight > 0:
        return
    inner = SolverState(narrow, narrow.zeros())
    for requested in solve(inner, 1e-3):
        run_pass(MemoryRows(*sample), requested)

    def whole(step: Tensor) -> Tensor:
        """What is said of those features, in the inner coordinates, as the problem's coordinates has it."""
        step = inner.coordinates.to(model, step)
        point = problem.zeros()
        point[:, common], point[:, -1] = step[:, :-1], step[:, -1]
        return problem.model.to(coordinates, point)

    state.point = whole(inner.point)
    more = problem.rows // MORE
    if more < 2 * len(sample.labels) or problem.objective.l1:
        return
    curved = Evaluate(narrow, inner.coordinates, inner.point, hessian=torch.float32)
    run_pass(MemoryRows(*sample), curved)
    hessian = curved.result().hessian
    assert hessian is not None
    now = yield from request(EvaluateSome(problem, coordinates, state.point, more))
    gradient = coordinates.gradient_to(problem.model, now.gradient)
    gradient = model.gradient_to(inner.coordinates, torch.cat([gradient[:, :-1][:, common], gradient[:, -1:]], dim=1))
    direct = factored(narrow, hessian, inner.coordinates)
    if direct.weakest < SINGULAR[torch.float32]:
        return  # the slope of other rows along a direction that is flat here tells nothing of how far to go
    step = direct.step(gradient)
    # A sample without a row of some class knows of no curvature there: what its step promises is not to be had.
    if 0 < float((step * gradient).sum()) / 2 <= LIKELY * now.value:
        state.point = centered(problem, whole(inner.point - step))


def _common(sample: Batch, coordinates: Coordinates) -> Tensor:
    """Which features vary in more than a few rows of a sample, (D,): about as many as are not at their usual value."""
    second, fourth = torch.zeros_like(coordinates.center), torch.zeros_like(coordinates.center)
    for part in parts(sample, max(1, MAX_COPIED_NUMBERS // len(coordinates.center))):
        squares = (part.features.double() - coordinates.center).div_(coordinates.scale).square_()
        second += squares.sum(0)
        fourth += squares.square_().sum(0)
    return second.square() > RARE * fourth


def safe_step(problem: Problem, coordinates: Coordinates, sample: Batch) -> float:
    """Half the largest stable step of gradient descent at zero: 1 over the largest curvature of the sample."""
    features = sample.features.to(torch.float32)
    center, scale = coordinates.center.float(), coordinates.scale.float()
    vector = torch.ones_like(scale)
    for _ in range(10):  # the mean is subtracted after multiplying, which spares a copy
        unit = vector / vector.norm().clamp(min=1e-30) / scale
        logits = features @ unit - center @ unit
        vector = (features.T @ logits - center * logits.sum()) / scale
    k = problem.num_outputs
    zero = problem.loss.curvature_at(torch.zeros(2, k, dtype=torch.float64), torch.arange(2))
    spread = float(problem.loss.own_curvature(zero).max())
    return 1 / (spread * max(float(vector.norm()) / len(features), 1e-30))


def _start_stochastically(state: SolverState, sample: Batch) -> PassRequests[None]:
    """Moves a start at zero to where a pass of small steps leads."""
    problem = state.problem
    step = STEP * safe_step(problem, state.coordinates, sample)
    point = state.point
    for number in range(STOCHASTIC):
        point = yield from request(Stochastic(problem, state.coordinates, point, step, number, STOCHASTIC))
    # Rows far larger than most make such steps go astray: the sample tells.
    there, zero = (_value(problem.sub(sample), state.coordinates, at, sample) for at in (point, state.point))
    if there < zero:
        state.point = centered(problem, point)


def _value(problem: Problem, coordinates: Coordinates, point: Tensor, rows: Batch) -> float:
    requested = Evaluate(problem, coordinates, point)
    run_pass(MemoryRows(*rows), requested)
    return requested.result().value
