"""`fit`: a certified fit of rows in memory, without a Lightning Trainer.

It checks its arguments, drives the optimizer's generator with passes over the rows, and returns the coefficients in
source units together with a bound of f - f*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import checked_sparse, is_sparse
from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows, RowSource, row_weights
from logreg.solvers.arguments import (
    check_classes,
    check_offset,
    check_settings,
    check_start,
    check_weights,
    checked_labels,
)
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.bound import GOOD_RELATIVE_GAP, bound
from logreg.solvers.choose import MAX_SMALL_NUMEL, Method, choose
from logreg.solvers.methods.medium import solve_medium
from logreg.solvers.methods.medium_rows import ZeroStart
from logreg.solvers.minimum_norm import move_to_minimum_norm
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass, drive, run_pass
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small.small_l1 import solve_small_l1
from logreg.solvers.small.small_newton import solve_small
from logreg.solvers.source_units import in_source_units, point_from_source_units, stored_rows
from logreg.solvers.state import SolverState
from logreg.solvers.threads import threads_for
from logreg.stored_form import StoredForm, check_scale

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix


@dataclass(frozen=True)
class Fit:
    """A logistic regression that was fitted to rows in memory.

    Attributes:
        coef: Coefficients, (K, D), float64, in source units.
        intercept: Shape (K,), float64.
        bound: The bound of f - f* there, computed in float64 over all rows.
        converged: Whether the relative gap is within the tolerance.
        passes: Passes over the rows that the fit took.
        seconds: Wall-clock seconds from the call to the certified answer.
    """

    coef: Tensor
    intercept: Tensor
    bound: Bound
    converged: bool
    passes: int
    seconds: float


def fit(
    features: Tensor | spmatrix | sparray,
    labels: Tensor,
    objective: Objective,
    num_classes: int | None = None,
    sample_weight: Tensor | None = None,
    class_weight: Sequence[float] = (),
    optimizer: str = "auto",
    tolerance: float = 1e-6,
    max_passes: int = 10_000,
    dtype: torch.dtype | None = None,
    intercept: bool = True,
    watch: Callable[[SolverState, Pass[object]], None] | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    offset: Tensor | None = None,
) -> Fit:
    """Fits rows in memory to a certified optimum.

    Args:
        features: Shape (N, D), any floating type, in source units; the penalty is on their coefficients.  A sparse CSR
            tensor, or a sparse matrix or array of SciPy, is not made dense, unless it is small.
        labels: Shape (N,), whole numbers in [0, C) of any type.
        objective: The objective f to minimize.
        num_classes: C; ``None`` for one more than the largest label, where every class must have a row.
        sample_weight: Shape (N,), >= 0, some > 0; ``None`` for all 1.
        class_weight: C weights > 0 in the loss; empty for all 1.
        optimizer: A name of `EXACT`; "auto" for the method of `logreg.solvers.choose`, and newton where that is not
            certified.
        tolerance: The relative gap > 0 to end at.
        max_passes: Passes over the rows at most.
        dtype: The type of the arithmetic far from the optimum; ``None`` for float64 where dense features are in
            float64, and for float32 else.
        intercept: Whether an intercept is fitted; else it is 0.
        watch: Is called after each pass with the state and the pass; a small problem and one of medium size take none.
        start: Coefficients (K, D) and intercepts (K,) in source units to start from; ``None`` for zero.  Without an
            intercept those of the start have no effect.
        seed: Seed of the samples of rows from which some optimizers estimate the curvature.
        offset: Known term of each row's logit, (N,), for one output; ``None`` for none.

    Returns:
        The fit.  Where the optimum is not unique it has the coefficients of least norm: without a penalty, where
        columns are linearly dependent (all levels of a category, repeated or constant columns, more columns than
        rows), and for a softmax with l1 alone.  The norm does not count the intercept; the intercepts of a softmax sum
        to 0.  Where columns repeat each other, l1 alone determines the sum of their coefficients and not the split.
        Where all weight is in one class, f tends to 0 as the intercept grows: there is no optimum, and the fit has
        coefficients of 0, an f of nearly 0, and has not converged.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with; or labels, weights or
            offsets are not valid.
        ConfigError: Another argument is out of its range.
        DivergedError: Features are too large or too small for the arithmetic.
    """
    started, passes = time.perf_counter(), 0
    check_settings(objective, optimizer, tolerance, max_passes, (*EXACT, "auto"))
    features = checked_sparse(features)
    labels, num_classes = checked_labels(features, labels, num_classes)
    check_classes(objective.loss, num_classes)
    check_weights(labels, sample_weight, class_weight, num_classes)
    num_outputs, num_features = objective.row_loss.num_outputs(num_classes), features.shape[1]
    check_offset(labels, offset, num_outputs)
    check_start(start, num_outputs, num_features)
    if is_sparse(features) and (not num_features or (optimizer == "auto" and features.numel() <= MAX_SMALL_NUMEL)):
        features = features.to_dense()  # which is the fastest way
    if not num_features:  # the methods need one: a feature that is always 0 keeps a coefficient of 0
        features, start = F.pad(features, (0, 1)), None if start is None else (F.pad(start[0], (0, 1)), start[1])
    memory = MemoryRows(features, labels, sample_weight, offset)
    problem = problem_of(memory, objective, num_classes, class_weight, dtype, intercept)
    with threads_for(4.0 * problem.numel * problem.num_outputs):
        alone = _class_alone(labels, sample_weight) if intercept else None
        method = choose(problem, memory).method if optimizer == "auto" and alone is None else None
        zero = ZeroStart(problem, memory) if method is Method.MEDIUM and start is None else None
        stored = StoredForm.plain(problem.num_features)
        if zero is None or not zero.is_plain:
            memory, stored = stored_rows(features, labels, sample_weight, intercept, offset)
        if not stored.is_plain:
            problem = problem_of(memory, objective, num_classes, class_weight, dtype, intercept, stored)
            zero = None
        point = problem.zeros() if start is None else point_from_source_units(problem, stored, *start)
        state = SolverState(problem, point, tolerance, seed)
        if alone is not None:
            state.point = _point_of_class(problem, alone, tolerance)
        elif method is Method.SMALL:
            passes = (solve_small_l1 if objective.l1 else solve_small)(state, memory, max_passes)
        elif method is Method.MEDIUM:
            passes = solve_medium(state, memory, max_passes, zero)
        if state.converged:
            drive(move_to_minimum_norm(state), memory)
        if alone is None and not state.converged and passes < max_passes:
            for requested in EXACT["newton" if optimizer == "auto" else optimizer](state):
                run_pass(memory, requested)
                passes += requested.is_full
                if watch is not None:
                    watch(state, requested)
                if passes >= max_passes:
                    break
        if state.bound is None or state.best is not state.point:  # the bound of another point
            # Of one class alone f* is 0: the gap is f and its rounding error.
            enough = GOOD_RELATIVE_GAP if alone is None else math.inf
            state.bound = bound_of(problem, state.solution, memory, enough)
    point, bound = in_source_units(problem, stored, state.solution, state.bound)
    if not num_features:
        point, bound = point[:, 1:], bound._replace(gradient=bound.gradient[:, 1:])
    seconds = time.perf_counter() - started
    return Fit(point[:, :-1], point[:, -1], bound, state.converged, passes, seconds)


def _class_alone(labels: Tensor, sample_weight: Tensor | None) -> int | None:
    """The class of all rows that weigh; ``None`` where there are two."""
    weighing = labels if sample_weight is None else labels[sample_weight > 0]
    return int(weighing[0]) if bool((weighing == weighing[0]).all()) else None


def _point_of_class(problem: Problem, label: int, tolerance: float) -> Tensor:
    """A point where f is at most the square of the tolerance a row, with all rows of one class, (K, D + 1).

    The infimum of f is 0, and no point has it: the intercepts grow without bound, and the coefficients are 0.
    """
    loss, size = problem.loss, 1.0
    targets = one_vs_rest(torch.tensor([label]), problem.num_outputs, torch.float64)
    along = targets - (1 / problem.num_outputs if problem.coupled else 0.5)
    while float(loss.value(size * along, targets)) > tolerance**2:
        size *= 2
    point = problem.zeros()
    point[:, -1] = (size + 2 * (problem.largest_offset or 0.0)) * along[0]
    return point


def problem_of(
    memory: MemoryRows,
    objective: Objective,
    num_classes: int | None = None,
    class_weight: Sequence[float] = (),
    dtype: torch.dtype | None = None,
    intercept: bool = True,
    stored: StoredForm | None = None,
) -> Problem:
    """The problem over rows in memory, with the penalty on coefficients in source units.

    Without a penalty the coefficients of the problem are those of the features as stored.

    Args:
        memory: The rows.
        objective: As of `fit`.
        num_classes: As of `fit`.
        class_weight: As of `fit`.
        dtype: As of `fit`.
        intercept: As of `fit`.
        stored: The form that the features in memory have; ``None`` for source units.
    """
    features, labels = memory.features, memory.labels
    classes = num_classes or int(labels.max()) + 1
    weights = row_weights(Batch(features, labels, memory.sample_weight), tuple(class_weight), torch.float64)
    scale = torch.ones(features.shape[1], dtype=torch.float64, device=features.device)
    if stored is not None and (objective.l2 or objective.l1) and not stored.is_plain:
        check_scale(1 / stored.unit, advice="Standardize it")
        scale = 1 / stored.unit.to(features.device)
    wide = torch.float64 if features.dtype == torch.float64 and not is_sparse(features) else torch.float32
    return Problem(
        objective,
        rows=len(labels),
        total_weight=float(len(labels) if weights is None else weights.sum()),
        num_outputs=objective.row_loss.num_outputs(classes),
        model=Coordinates(torch.zeros_like(scale), scale),
        class_weight=tuple(class_weight),
        dtype=dtype or wide,
        intercept=intercept,
        nonzeros=features.values().shape[0] if is_sparse(features) else None,
        largest_offset=None if memory.offset is None else float(memory.offset.abs().max()),
    )


def bound_of(problem: Problem, point: Tensor, rows: RowSource, enough: float = GOOD_RELATIVE_GAP) -> Bound:
    """Bounds f - f* at any point, whichever program found it.

    Args:
        problem: The problem.
        point: Shape (K, D + 1), in the problem's model coordinates.
        rows: All rows of the problem.
        enough: The relative gap below which no better bound is looked for.
    """
    with threads_for(4.0 * problem.numel * problem.num_outputs):
        return drive(bound(problem, point, enough=enough), rows)
