"""A path over l1, or over l1 and l2 together: the optimum for each of several strengths, with warm starts.

Each strength starts from the optimum of the one before, and with the columns, the logits and the Hessian that its
solver holds.  The working set is the support and the coefficients that the sequential strong rule keeps: those whose
slope would exceed l1 if it changed as fast as l1 does.

References:
    Tibshirani and others (2012), Strong rules for discarding predictors in lasso-type problems.
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial

import torch

from logreg.csr import converted
from logreg.errors import ConfigError
from logreg.losses.objective import Objective
from logreg.rows import RowSource, joined, part_rows, parts, row_weights, sparse_part_rows
from logreg.solvers.choose import has_fast_ways
from logreg.solvers.fit import fit
from logreg.solvers.kernels import sum_over_rows
from logreg.solvers.methods.prox_newton import WorkingSet, working_set_of
from logreg.solvers.minimum_norm import move_to_minimum_norm
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import PassRequests, drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.problem import Problem
from logreg.solvers.starting_point import first_point
from logreg.solvers.state import SolverState

MIN_STRENGTH_RATIO = {True: 1e-4, False: 1e-2}
"""The weakest default strength relative to the strongest, where rows outnumber features, and where they do not."""

DEFAULT_STRENGTHS = 100
"""Number of default strengths."""


def default_l1_strengths(
    problem: Problem, rows: RowSource, l1_ratio: float = 1.0, number: int = DEFAULT_STRENGTHS
) -> list[Strength]:
    """Strengths from the smallest at which all coefficients are 0 downward, evenly spaced on a logarithmic scale.

    The values are those of glmnet.  All coefficients are 0 where no slope of the loss by a coefficient exceeds l1, at
    the optimal intercepts alone.

    Args:
        problem: The problem over the rows; its own penalties do not matter.
        rows: All rows, also where several processes share them in passes; they are read once.
        l1_ratio: The share of l1 in the penalty, in (0, 1]: a strength s has l1 = l1_ratio s and l2 = (1 - l1_ratio) s.
        number: Number of strengths.

    Raises:
        ConfigError: ``l1_ratio`` is out of its range.

    References:
        Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate
        descent, section 2.5.
    """
    if not 0 < l1_ratio <= 1:
        raise ConfigError.broken("l1_ratio", "be > 0 and <= 1", l1_ratio, "Without l1 use `default_strengths`.")
    ratio = MIN_STRENGTH_RATIO[rows.num_rows > problem.num_features]
    largest = largest_slope(problem, rows) / l1_ratio
    steps = torch.linspace(0, 1, number, dtype=torch.float64)
    return [Strength((1 - l1_ratio) * one, l1_ratio * one) for one in (largest * ratio**steps).tolist()]


def largest_slope(problem: Problem, rows: RowSource) -> float:
    """The largest slope of the loss by a coefficient, where all are 0 and the intercepts are optimal.

    Args:
        problem: The problem over the rows.
        rows: All rows, also where several processes share them in passes; they are read once.
    """
    classes = max(2, problem.num_outputs)
    center, scale = problem.model
    sums, weights = center.new_zeros(classes, problem.num_features), center.new_zeros(classes)
    at_once = (sparse_part_rows if rows.is_sparse else partial(part_rows, dtype=torch.float64))(problem.num_features)
    for block in rows.blocks():
        for part in parts(block, at_once):
            weight = row_weights(part, problem.class_weight, torch.float64)
            weight = center.new_ones(len(part.labels)) if weight is None else weight
            weights.index_add_(0, part.labels, weight)
            of_class = torch.zeros(len(weight), classes, dtype=torch.float64, device=center.device)
            of_class.scatter_(1, part.labels.unsqueeze(1), weight.unsqueeze(1))
            sums += sum_over_rows(of_class, converted(part.features, torch.float64))
    if problem.largest_offset is not None:
        return _largest_slope_with_offsets(problem, rows)
    labels = torch.arange(classes, device=center.device)
    # Where all coefficients are 0, the rows of a class are alike.
    alone = fit(
        center.new_zeros(classes, 1),
        labels,
        Objective(problem.objective.loss),
        classes,
        weights,
        tolerance=1e-12,
        intercept=problem.intercept,
    )
    residuals = problem.loss.evaluate(alone.intercept.expand(classes, -1), labels).residual
    slopes = residuals.T @ ((sums - weights.unsqueeze(1) * center) / scale)
    return problem.row_sum_scale * float(slopes.abs().max())


def _largest_slope_with_offsets(problem: Problem, rows: RowSource) -> float:
    """`largest_slope` where no two rows are alike: the intercept is fitted to the offsets first."""
    blocks = []
    for block in rows.blocks():
        weights = row_weights(block, problem.class_weight, torch.float64)
        nothing = problem.model.center.new_zeros(len(block.labels), 1)
        blocks.append(block._replace(features=nothing, sample_weight=weights))
    alone = joined(blocks)
    intercept = fit(
        alone.features,
        alone.labels,
        Objective(problem.objective.loss),
        2,
        alone.sample_weight,
        tolerance=1e-12,
        intercept=problem.intercept,
        offset=alone.offset,
    ).intercept
    point = problem.zeros()
    point[:, -1] = intercept
    found = drive(request(Evaluate(problem, problem.model, point, torch.float64)), rows)
    return float(found.gradient[:, :-1].abs().max())


def fit_elastic_net_path(
    problem: Problem, strengths: Sequence[Strength], tolerance: float = 1e-6, seed: int = 0
) -> PassRequests[list[PathPoint]]:
    """Finds the optimum for every strength, in their order.

    Args:
        problem: The problem whose rows are requested; its own penalties do not matter.
        strengths: Each with l1 > 0; best from the strongest to the weakest.
        tolerance: The relative gap to end each fit at.
        seed: Seed of the samples of rows.
    """
    points: list[PathPoint] = []
    working_set: WorkingSet | None = None
    for strength in strengths:
        if not has_fast_ways(strength.of(problem)):
            start = points[-1].point if points else problem.zeros()
            points.append(
                (yield from _fitted_alone(strength, SolverState(strength.of(problem), start, tolerance, seed)))
            )
            continue
        start = (yield from first_point(problem)) if working_set is None else working_set.state.solution
        state, passes = SolverState(strength.of(problem), start, tolerance, seed), 0
        if working_set is None:
            working_set = yield from working_set_of(state)
        else:
            yield from working_set.continue_with(state)
        for requested in working_set.solve():
            yield requested
            passes += requested.is_full
        solved = copy(state)  # the next strength starts in the solver's own coordinates
        yield from move_to_minimum_norm(solved)
        assert solved.bound is not None
        points.append(PathPoint(solved.solution, solved.bound, solved.converged, passes, strength.l2, strength.l1))
    return points


def _fitted_alone(strength: Strength, state: SolverState) -> PassRequests[PathPoint]:
    """A fit for a loss that working sets of features cannot take."""
    passes = 0
    for requested in EXACT["newton"](state):
        yield requested
        passes += requested.is_full
    assert state.bound is not None
    return PathPoint(state.solution, state.bound, state.converged, passes, strength.l2, strength.l1)
