"""The starting point of an exact optimizer: coordinates, and a point nearer to the optimum than zero.

A start at zero costs Newton's method some steps, each of them one or more passes over all rows.  A point that is found
on few rows, or with cheap steps, replaces these passes:

1. Few rows of many features (`is_wide`): the problem is solved in the span of the rows (`logreg.solvers.dual`).
2. A Hessian that can be held, and many rows: the problem is solved on a sample.  The Hessian H of the sample is nearly
   that of all rows, while its gradient is 0 at its own optimum.  One Newton step H^-1 g with the gradient g of more
   rows follows (a Newton step with a subsampled Hessian).
3. No Hessian, many rows, and correlated features: stochastic gradient descent on a sample with a step that falls to
   zero.  Where features are not correlated, quasi-Newton steps from zero need no more steps than from there.
4. Large offsets, as the logarithm of a large exposure: the intercept starts where the model without features has its
   optimum on a sample.  At zero, and at minus the mean of offsets that are far apart, all rows may have probabilities
   near 0 or 1, where the curvature vanishes.

References:
    Byrd, Chin, Neveitt and Nocedal (2011), On the use of stochastic Hessian information in optimization methods for
    machine learning.
    Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import converted
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.rows import MemoryRows, parts, row_weights
from logreg.solvers.choose import avoids_hessian, holds_hessian, is_small, is_wide
from logreg.solvers.costs import SECONDS_PER_PASS, hessian_seconds, pass_seconds
from logreg.solvers.dual.row_space import Solver, solve_in_rows
from logreg.solvers.dual.sparse_rows import solve_sparse_rows
from logreg.solvers.kernels import affine, sum_over_rows
from logreg.solvers.passes.base import PassRequests, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSample
from logreg.solvers.passes.hessian import HessianDiagonal
from logreg.solvers.passes.moments import Means, sparse_coordinates
from logreg.solvers.passes.sampling import RowSample, sampled_rows, stochastic_descent, thinned
from logreg.solvers.problem import MAX_COPIED_NUMBERS, MAX_MOMENTS_NUMEL, Coordinates, Problem, choose_coordinates
from logreg.solvers.small.small_newton import solve_small
from logreg.solvers.state import SolverState
from logreg.solvers.steps.limited_memory import LimitedMemoryInverse
from logreg.solvers.steps.newton_steps import SINGULAR_PIVOT, factor_hessian
from logreg.solvers.steps.preconditioner import centered

MIN_STOCHASTIC_ROWS = 5000
"""Rows from which stochastic gradient descent gets near the optimum before it fits the noise of so few rows."""

MIN_STOCHASTIC_PARAMETERS = 1000
"""Parameters from which stochastic gradient descent saves time: with fewer, the fixed time of its many steps is more
than that of some passes over all rows."""

CORRELATION_ROWS = 512
"""Rows of the sample that show whether features are correlated."""

MIN_CORRELATION = 2.0
"""Largest eigenvalue of the features' correlations, as a multiple of that of uncorrelated features in as many rows,
from which they count as correlated: then stochastic gradient descent saves steps, as does a preconditioner."""

MAX_MEAN_ERROR = 4.0
"""Squared distance of the mean of a sample from that of all rows, in standard deviations, which is about the number of
features for each row of the sample, up to which the former is the center of the coordinates.

The distance from the mean is an eigenvalue of the curvature: features without correlations have none above 4 as long as
there are at least as many rows as features."""

STOCHASTIC_SAMPLE = 2
"""Size of the sample of stochastic gradient descent, relative to that of other samples: on fewer rows it fits their
noise."""

STOCHASTIC_STEPS = 120
"""Steps of stochastic gradient descent that replace a start at zero: as many as save more passes than they cost."""

STOCHASTIC_STEP_FACTOR = 4
"""First step of stochastic gradient descent, relative to half the largest stable step of gradient descent at zero.

It may be twice the stable step, since the steps fall to zero and the curvature of the logistic loss is largest at zero.
That of a softmax of many classes is not: see `curvature_growth`.
"""

SAMPLE_ROWS_PER_PARAMETER = 20
"""Rows of a sample for each parameter of one output from which the sample's optimum is a good start."""

MIN_SOFTMAX_ROWS_PER_PARAMETER = 8
"""The same, at least, for each parameter of a softmax, of which each row shows several: where the Hessian of more rows
takes longer than a pass."""

MAX_SAMPLE_HESSIAN_PASSES = 3
"""Time of the Hessian of these rows, in passes, above which no sample is solved first: it saves about as many."""

MIN_CLASS_ROWS = 5
"""Rows of the rarest class in a sample, below which its optimum is far from that of all rows."""

SAMPLE_TOL = 0.03
"""Predicted decrease, relative to f, at which the search for a sample's optimum ends: with 20 rows for each parameter
that optimum is about as far from that of all rows, and has too large coefficients."""

NEAR_SAMPLE_TOL = 0.003
"""Predicted decrease, relative to f, at which that search ends where a step by more rows and Newton's method follow,
which take few steps from a point that is near."""

MAX_SAMPLE_STEPS = 50
"""Newton steps on a small sample at most."""

EXTRA_ROWS_DIVISOR = 9
"""One row in 9 serves for the gradient at the sample's optimum: many more rows than the sample, at 1 / 9 of a pass.
The number is odd for the reason of `LEAST_ODD_SPACING`."""

MIN_BOUND_ROWS_PER_PARAMETER = 10
"""Rows of a sample for each parameter of one output from which the sample bounds the gap."""

LARGE_OFFSET = 4.0
"""Largest absolute offset up to which a start at zero is kept: its probability is 2 %, where Newton's method needs no
safeguard."""

OFFSET_ROWS = 1024
"""Rows that the intercept is determined by where offsets are large: to about a tenth, by even classes."""

INTERCEPT_ERROR = 0.25
"""Width of the interval at which the search for that intercept ends."""

MIN_SAMPLED_PASSES = 5
"""Time of a pass with a Hessian, in fixed times of a pass, below which no sample is solved first: the five passes over
a sample would take as long."""

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
    problem, avoids = state.problem, avoids_hessian(state.problem) and not state.plain
    if not state.point.any():
        state.point = yield from first_point(problem)
    if problem.is_sparse:
        coordinates = yield from sparse_coordinates(problem)
        if state.point.any():
            state.point = centered(problem, state.coordinates.to(coordinates, state.point))
        state.coordinates = coordinates
        if is_wide(problem):
            yield from solve_sparse_rows(state)
            return torch.float64
        return problem.dtype
    sample = yield from sampled_rows(problem)
    few, rows = enough_rows(problem, sample) if avoids or (holds_hessian(problem) and not state.plain) else (0, 0)
    many = problem.rows >= MIN_STOCHASTIC_ROWS and problem.num_parameters >= MIN_STOCHASTIC_PARAMETERS
    coordinates = choose_coordinates(problem, sample, every_scale=True)
    if not (rows or is_wide(problem)) and (avoids or not holds_hessian(problem)):
        state.correlation = _largest_correlation(coordinates, sample)
    stochastic = many and state.correlation > 1
    if stochastic:
        coordinates = choose_coordinates(problem, sample, every_scale=False)
    if problem.intercept and coordinates is not problem.model and not is_wide(problem):
        coordinates = yield from _with_precise_mean(problem, coordinates, len(sample.labels))
    state.coordinates, state.point = coordinates, centered(problem, state.coordinates.to(coordinates, state.point))
    if is_wide(problem):
        yield from solve_in_rows(state, solve)
        return torch.float64
    if not state.point.any():
        if rows:
            of_bound = bound_rows(problem)
            if avoids and of_bound:
                state.sample = thinned(sample, min(of_bound, rows))
            yield from _start_from_sample(state, thinned(sample, few), thinned(sample, rows), solve)
        elif stochastic:
            yield from _start_stochastically(state, sample)
    return problem.dtype


def _with_precise_mean(problem: Problem, coordinates: Coordinates, rows: int) -> PassRequests[Coordinates]:
    """Coordinates centered at the mean of all rows, where that of the sample, of so many rows, is too far from it."""
    d = problem.num_features
    if d <= MAX_MEAN_ERROR * min(rows, MAX_MOMENTS_NUMEL / d):
        return coordinates
    means = yield from request(Means(problem, coordinates))
    return coordinates._replace(center=coordinates.center + coordinates.scale * means)


def first_point(problem: Problem) -> PassRequests[Tensor]:
    """Zero, but an intercept that balances large offsets, (K, D + 1)."""
    point = problem.zeros()
    if problem.intercept and (problem.largest_offset or 0.0) > LARGE_OFFSET:
        every = max(1, problem.rows // OFFSET_ROWS) | 1  # odd: see `LEAST_ODD_SPACING`
        sample = yield from request(RowSample(problem, every))
        if len(sample.labels):
            point[:, -1] = _best_intercept(problem, sample)
    return point


def _best_intercept(problem: Problem, sample: Batch) -> float:
    """About the optimum of the intercept of one output without features, over a sample; by bisection.

    A loss that is not convex may have several stationary points: this is one of them.
    """
    assert sample.offset is not None
    assert problem.largest_offset is not None
    offset, targets = sample.offset.double().unsqueeze(1), one_vs_rest(sample.labels, 1, torch.float64)
    weights = row_weights(sample, problem.class_weight, torch.float64)
    high = problem.largest_offset + LARGE_OFFSET
    low = -high
    while high - low > INTERCEPT_ERROR:
        middle = (low + high) / 2
        residuals = problem.loss.residual(offset + middle, targets)[:, 0]
        slope = float(residuals.sum() if weights is None else residuals @ weights)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low + high) / 2


def bound_rows(problem: Problem) -> int:
    """Rows whose Newton step bounds the gap in at most the time of a pass; 0 where they would be too few.

    Their Hessian is in float64, and takes twice as long as in float32.
    """
    rows = int(problem.rows * pass_seconds(problem) / hessian_seconds(problem)) // 2
    return rows if rows >= MIN_BOUND_ROWS_PER_PARAMETER * problem.hessian_order else 0


def enough_rows(problem: Problem, sample: Batch) -> tuple[int, int]:
    """Rows of a sample for its optimum and for its Hessian; 0 where no small part of all rows is enough for them.

    The Hessian takes as many rows as it can in the time of a pass, and more where these are too few for its parameters.
    Where it is expensive, the optimum, which takes several, is that of fewer rows: enough for each parameter.  Of the
    rarest class there are half as many as of even classes.
    """
    order, rows = problem.hessian_order, min(len(sample.labels), problem.rows // 4)
    of_pass, of_hessian = pass_seconds(problem), hessian_seconds(problem)
    in_time = problem.rows * of_pass / of_hessian
    least = order * (MIN_SOFTMAX_ROWS_PER_PARAMETER if problem.coupled else SAMPLE_ROWS_PER_PARAMETER)
    if least > min(rows, MAX_SAMPLE_HESSIAN_PASSES * in_time):
        return 0, 0
    if of_pass + of_hessian < MIN_SAMPLED_PASSES * SECONDS_PER_PASS:
        return 0, 0
    classes = problem.num_outputs if problem.coupled else 2
    counts = torch.bincount(sample.labels, minlength=classes)
    rarest = int(counts.min()) * classes / len(sample.labels)
    if rarest * rows < MIN_CLASS_ROWS * classes:
        return 0, 0
    more = 1 / min(2 * rarest, 1.0)
    many = min(int(max(in_time, least * more)), rows)
    few = min(int(SAMPLE_ROWS_PER_PARAMETER * order * more), many)
    return (few if avoids_hessian(problem) else many), many


def _start_from_sample(state: SolverState, few: Batch, sample: Batch, solve: Solver) -> PassRequests[None]:
    """Moves the start to about the optimum of few rows, and on by a Newton step with the Hessian of a sample there.

    Where Newton's method follows, the gradient of that step is one of more rows.  Where quasi-Newton steps follow, they
    start from the inverse of the Hessian.  Coefficients of rare features (`_common`) keep their starting value.
    """
    problem, coordinates = state.problem, state.coordinates
    common = _common(sample, coordinates).nonzero()[:, 0]
    if not len(common):
        return
    model = Coordinates(problem.model.center[common], problem.model.scale[common])
    own = Coordinates(coordinates.center[common], coordinates.scale[common])
    if len(common) < problem.num_features:
        few, sample = (part._replace(features=part.features[:, common]) for part in (few, sample))
    narrow = replace(problem, model=model)
    inner = SolverState(narrow.sub(few), narrow.zeros())
    avoids = avoids_hessian(problem) and not state.plain
    memory, tolerance = MemoryRows(*few), SAMPLE_TOL if avoids else NEAR_SAMPLE_TOL
    if is_small(inner.problem, memory) and not problem.objective.l1:
        solve_small(inner, memory, MAX_SAMPLE_STEPS, tolerance)
    else:
        for requested in solve(inner, tolerance):
            run_pass(memory, requested)
    inner_point, chosen = inner.coordinates.to(own, inner.point), F.pad(common, (0, 1), value=problem.num_features)
    state.point = problem.zeros().index_copy_(1, chosen, inner_point)
    if not (avoids or problem.rows >= 2 * EXTRA_ROWS_DIVISOR * len(sample.labels)):
        return
    narrow = narrow.sub(sample)
    curved = Evaluate(narrow, own, inner_point, hessian=problem.dtype)
    run_pass(MemoryRows(*sample), curved)
    now = curved.result()
    assert now.hessian is not None
    factored_hessian = factor_hessian(narrow, now.hessian, own)
    if factored_hessian.smallest_pivot < SINGULAR_PIVOT[problem.dtype]:
        return  # along a direction without curvature in the sample the length of a step is not determined
    gradient = now.gradient
    if avoids:
        metric = torch.ones_like(state.point)  # of rare features
        if len(common) < problem.num_features:
            metric = (yield from request(HessianDiagonal(problem, coordinates, state.point))).clamp(min=1e-30)

        total = problem.row_sum_scale * problem.total_weight  # the objective of a sample is always a mean

        def apply_inverse(gradient: Tensor) -> Tensor:
            return (gradient / metric).index_copy_(1, chosen, factored_hessian.step(gradient[:, chosen] / total))

        state.inverse = LimitedMemoryInverse(apply_inverse, problem, problem.penalties(coordinates)[0])
    else:
        now = yield from request(EvaluateSample(problem, coordinates, state.point, EXTRA_ROWS_DIVISOR))
        gradient = now.gradient[:, chosen]
    step = factored_hessian.step(gradient)
    # A sample without a row of some class has no curvature there, and its predicted decrease is far too large.
    if 0 < float((step * gradient).sum()) / 2 <= MAX_SAMPLE_STEP_DECREASE * now.value:
        state.point = centered(problem, state.point.index_add(1, chosen, -step))


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


def _largest_correlation(coordinates: Coordinates, sample: Batch) -> float:
    """The largest eigenvalue of standardized features' covariance; 1 where few rows may have such a one by chance.

    References:
        Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices: the largest one.
    """
    few = thinned(sample, min(CORRELATION_ROWS, len(sample.labels)))._replace(sample_weight=None)
    by_chance = (1 + math.sqrt(len(coordinates.scale) / max(len(few.labels), 1))) ** 2
    largest = largest_eigenvalue(coordinates, few)
    return largest if largest > MIN_CORRELATION * by_chance else 1.0


def stable_step(problem: Problem, coordinates: Coordinates, sample: Batch) -> float:
    """Half the largest stable step of gradient descent at zero: 1 / L, for L the largest curvature of the loss there.

    L is the largest curvature of the loss of a row at logits of 0, times the `largest_eigenvalue`.

    Args:
        problem: Defines the loss.
        coordinates: The coordinates of the steps.
        sample: Some of the rows; without weights each weighs 1.
    """
    k = problem.num_outputs
    zero = problem.loss.curvature_at(torch.zeros(2, k, dtype=torch.float64), torch.arange(2))
    spread = float(problem.loss.own_curvature(zero).max())
    return 1 / (spread * largest_eigenvalue(coordinates, sample))


def largest_eigenvalue(coordinates: Coordinates, sample: Batch) -> float:
    """The largest eigenvalue of X'X / n in some coordinates, which ten power iterations on a sample estimate.

    Args:
        coordinates: The coordinates of X.
        sample: Some of the rows; without weights each weighs 1.
    """
    features, weights = converted(sample.features, torch.float32), sample.sample_weight
    total = len(sample.labels) if weights is None else float(weights.sum())
    weights = None if weights is None else weights.to(torch.float32)
    center, scale = coordinates.center.float(), coordinates.scale.float()
    vector = torch.ones_like(scale)
    for _ in range(10):  # subtracting the mean after the product needs no copy of the features
        unit = vector / vector.norm().clamp(min=1e-30) / scale
        logits = affine(features, unit.unsqueeze(0), -(center @ unit).unsqueeze(0))
        logits = logits if weights is None else logits * weights.unsqueeze(1)
        vector = (sum_over_rows(logits, features)[0] - center * logits.sum()) / scale
    return max(float(vector.norm()) / total, 1e-30)


def _start_stochastically(state: SolverState, sample: Batch) -> PassRequests[None]:
    """Moves a start at zero to the end of stochastic gradient descent on a sample, which is larger than ``sample``.

    The start stays at zero if f of the sample is no lower at that end: with rows that are far larger than most,
    stochastic gradient descent diverges.
    """
    problem, rows = state.problem.sub(sample), (yield from sampled_rows(state.problem, STOCHASTIC_SAMPLE))
    stable = stable_step(problem, state.coordinates, sample._replace(sample_weight=None))
    step = STOCHASTIC_STEP_FACTOR * stable / curvature_growth(problem, sample)
    point = stochastic_descent(state.problem.sub(rows), state.coordinates, rows, step, STOCHASTIC_STEPS)
    there, zero = (_value(problem, state.coordinates, at, sample) for at in (point, state.point))
    if there < zero:
        state.point = centered(state.problem, point)


def curvature_growth(problem: Problem, sample: Batch) -> float:
    """The largest curvature by a logit at the frequencies of the classes, relative to that at zero.

    The intercepts of a softmax get to the frequencies within a few steps.  Its curvature p (1 - p) at zero, where all
    classes have the probability 1 / K, is far less than that of a frequent class.
    """
    if not problem.coupled:
        return 1.0
    weights = row_weights(sample, problem.class_weight, torch.float64)
    frequency = torch.bincount(sample.labels, weights, minlength=problem.num_outputs).double()
    logits = torch.stack([torch.zeros_like(frequency), frequency.log()])
    at_zero, there = problem.loss.own_curvature(problem.loss.curvature_at(logits, sample.labels[:2])).amax(1)
    return max(1.0, float(there / at_zero))


def _value(problem: Problem, coordinates: Coordinates, point: Tensor, rows: Batch) -> float:
    """The objective at a point, over rows in memory."""
    requested = Evaluate(problem, coordinates, point)
    run_pass(MemoryRows(*rows), requested)
    return requested.result().value
