"""The starting point of an exact optimizer: coordinates, and a point nearer to the optimum than zero.

A start at zero costs Newton's method some steps, each of them one or more passes over all rows.  A point that is found
on few rows, or with cheap steps, replaces these passes:

1. Few rows of many features (`is_wide`): the problem is solved in the span of the rows (`logreg.solvers.dual`).
2. A Hessian that can be held, and many rows: the problem is solved on a sample.  The Hessian H of the sample is nearly
   that of all rows, while its gradient is 0 at its own optimum.  One Newton step H^-1 g with the gradient g of more
   rows follows (a Newton step with a subsampled Hessian).
3. No Hessian, and many rows: two passes of stochastic gradient descent with a step that falls to zero.

References:
    Byrd, Chin, Neveitt and Nocedal (2011), On the use of stochastic Hessian information in optimization methods for
    machine learning.
    Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import MemoryRows, parts
from logreg.solvers.dual.row_space import Solver, is_wide, solve_in_rows
from logreg.solvers.newton_steps import SINGULAR_PIVOT, factor_hessian
from logreg.solvers.passes.base import PassRequests, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSample
from logreg.solvers.passes.sampling import RowSample, StochasticDescent
from logreg.solvers.preconditioner import centered
from logreg.solvers.problem import MAX_COPIED_NUMBERS, Coordinates, Problem, choose_coordinates
from logreg.solvers.state import SolverState

MAX_HELD_HESSIAN_PARAMETERS = 1024
"""Parameters of one Hessian matrix up to which Newton's method holds and factors it: 8 MB in float64."""

MAX_HELD_HESSIAN_WORK = 2e11
"""Rows times parameters times the parameters of one Hessian matrix up to which Newton's method forms the Hessian.

The product is the number of multiplications that one Hessian takes.
"""

MIN_STOCHASTIC_ROWS = 5000
"""Rows from which stochastic gradient descent gets near the optimum in two passes, of 20 steps with 256 rows each."""

STOCHASTIC_PASSES = 2
"""Passes of stochastic gradient descent that replace a start at zero."""

STOCHASTIC_STEP_FACTOR = 4
"""First step of stochastic gradient descent, relative to half the largest stable step of gradient descent at zero.

It may be twice the stable step, since the steps fall to zero over the passes and the curvature of the logistic loss is
largest at zero.
"""

SAMPLE_ROWS_PER_PARAMETER = 20
"""Rows of a sample for each parameter of one output from which the sample's optimum is a good start."""

EXTRA_ROWS_DIVISOR = 8
"""One row in 8 serves for the gradient at the sample's optimum: many more rows than the sample, at 1 / 8 of a pass."""

MAX_SAMPLE_STEP_DECREASE = 0.1
"""Predicted decrease of the step from the sample's optimum, relative to f, above which the step is not taken."""

MIN_INFORMATIVE_ROWS = 50
"""Rows of a sample in which a feature must differ from its usual value for the sample to determine its coefficient."""


def start(state: SolverState, solve: Solver) -> PassRequests[torch.dtype]:
    """Chooses the coordinates, and replaces a start at zero by a better one.

    A start elsewhere stays, unless the problem is solved in the span of its rows.

    Args:
        state: State of the problem; its coordinates and its point are updated.
        solve: The solver for smaller problems.

    Returns:
        The floating type to continue in.
    """
    problem, held = state.problem, holds_hessian(state.problem)
    sample = yield from request(RowSample(problem))
    coordinates = choose_coordinates(problem, sample, held)
    state.coordinates, state.point = coordinates, centered(problem, state.coordinates.to(coordinates, state.point))
    if is_wide(problem):
        yield from solve_in_rows(state, solve)
        return torch.float64
    if not state.point.any():
        if held and not problem.objective.l1 and enough_rows(problem, sample):
            yield from _start_from_sample(state, sample, solve)
        elif not held and problem.rows >= MIN_STOCHASTIC_ROWS:
            yield from _start_stochastically(state, sample)
    return problem.dtype


def holds_hessian(problem: Problem) -> bool:
    """Whether Newton's method forms and factors the Hessian; else it multiplies with it."""
    order = problem.hessian_order
    enough = problem.rows >= order or problem.objective.l1 > 0
    return (
        order <= MAX_HELD_HESSIAN_PARAMETERS
        and enough
        and problem.rows * order * problem.num_parameters <= MAX_HELD_HESSIAN_WORK
    )


def enough_rows(problem: Problem, sample: Batch) -> bool:
    """Whether a sample is a small part of the rows and still has enough rows for each parameter."""
    order = problem.hessian_order
    return SAMPLE_ROWS_PER_PARAMETER * order <= len(sample.labels) <= problem.rows / 4


def _start_from_sample(state: SolverState, sample: Batch, solve: Solver) -> PassRequests[None]:
    """Moves the start to about the optimum of a sample, and from there by one Newton step of the sample's Hessian.

    Coefficients of rare features (`_common`) keep their starting value.
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
        """A point of the common features in the sample's coordinates, as a point of all features in the state's."""
        step = inner.coordinates.to(model, step)
        point = problem.zeros()
        point[:, common], point[:, -1] = step[:, :-1], step[:, -1]
        return problem.model.to(coordinates, point)

    state.point = whole(inner.point)
    more = problem.rows // EXTRA_ROWS_DIVISOR
    if more < 2 * len(sample.labels):
        return
    curved = Evaluate(narrow, inner.coordinates, inner.point, hessian=torch.float32)
    run_pass(MemoryRows(*sample), curved)
    hessian = curved.result().hessian
    assert hessian is not None
    now = yield from request(EvaluateSample(problem, coordinates, state.point, more))
    gradient = coordinates.gradient_to(problem.model, now.gradient)
    gradient = model.gradient_to(inner.coordinates, torch.cat([gradient[:, :-1][:, common], gradient[:, -1:]], dim=1))
    factored_hessian = factor_hessian(narrow, hessian, inner.coordinates)
    if factored_hessian.smallest_pivot < SINGULAR_PIVOT[torch.float32]:
        return  # along a direction without curvature in the sample the length of a step is not determined
    step = factored_hessian.step(gradient)
    # A sample without a row of some class has no curvature there, and its predicted decrease is far too large.
    if 0 < float((step * gradient).sum()) / 2 <= MAX_SAMPLE_STEP_DECREASE * now.value:
        state.point = centered(problem, whole(inner.point - step))


def _common(sample: Batch, coordinates: Coordinates) -> Tensor:
    """Which features vary in more than a few rows of a sample: a mask of shape (D,).

    (sum z^2)^2 / sum z^4 of the standardized values z, the effective number of rows that the variance comes from, is
    about the number of rows in which a rare feature is not at its usual value.
    """
    second, fourth = torch.zeros_like(coordinates.center), torch.zeros_like(coordinates.center)
    for part in parts(sample, max(1, MAX_COPIED_NUMBERS // len(coordinates.center))):
        squares = (part.features.double() - coordinates.center).div_(coordinates.scale).square_()
        second += squares.sum(0)
        fourth += squares.square_().sum(0)
    return second.square() > MIN_INFORMATIVE_ROWS * fourth


def stable_step(problem: Problem, coordinates: Coordinates, sample: Batch) -> float:
    """Half the largest stable step of gradient descent at zero: 1 / L, for L the largest curvature of the loss there.

    L is the largest curvature of the loss of a row at logits of 0, times the largest eigenvalue of X'X / n, which ten
    power iterations on the sample estimate.

    Args:
        problem: Defines the loss.
        coordinates: The coordinates of the steps.
        sample: Some of the rows.
    """
    features = sample.features.to(torch.float32)
    center, scale = coordinates.center.float(), coordinates.scale.float()
    vector = torch.ones_like(scale)
    for _ in range(10):  # subtracting the mean after the product needs no copy of the features
        unit = vector / vector.norm().clamp(min=1e-30) / scale
        logits = features @ unit - center @ unit
        vector = (features.T @ logits - center * logits.sum()) / scale
    k = problem.num_outputs
    zero = problem.loss.curvature_at(torch.zeros(2, k, dtype=torch.float64), torch.arange(2))
    spread = float(problem.loss.own_curvature(zero).max())
    return 1 / (spread * max(float(vector.norm()) / len(features), 1e-30))


def _start_stochastically(state: SolverState, sample: Batch) -> PassRequests[None]:
    """Moves a start at zero to the end of a few passes of stochastic gradient descent.

    The start stays at zero if f of the sample is no lower at that end: with rows that are far larger than most,
    stochastic gradient descent diverges.
    """
    problem = state.problem
    step = STOCHASTIC_STEP_FACTOR * stable_step(problem, state.coordinates, sample)
    point = state.point
    for number in range(STOCHASTIC_PASSES):
        point = yield from request(
            StochasticDescent(problem, state.coordinates, point, step, number, STOCHASTIC_PASSES)
        )
    there, zero = (_value(problem.sub(sample), state.coordinates, at, sample) for at in (point, state.point))
    if there < zero:
        state.point = centered(problem, point)


def _value(problem: Problem, coordinates: Coordinates, point: Tensor, rows: Batch) -> float:
    """The objective at a point, over rows in memory."""
    requested = Evaluate(problem, coordinates, point)
    run_pass(MemoryRows(*rows), requested)
    return requested.result().value
