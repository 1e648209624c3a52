"""The exact optimizers by name, and `fit`: a certified fit of rows in memory, without a Lightning Trainer.

`fit` checks its arguments, drives the optimizer's generator with passes over the rows, and returns the coefficients in
source units together with a bound of f - f*.  Features that are very large, very small or far from 0 are stored in
other units (`logreg.stored_form`); the rounding of the way back is part of the bound.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from logreg.csr import checked_sparse, is_sparse
from logreg.errors import DataError
from logreg.facts import Batch
from logreg.losses import default_loss, one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows, RowSource, part_rows, row_weights
from logreg.solvers.arguments import check_classes, check_offset, check_settings, check_weights, checked_labels
from logreg.solvers.bounds.duality import GOOD_RELATIVE_GAP, Bound, bound
from logreg.solvers.dual.row_space import is_wide
from logreg.solvers.exact_sums import moved_to
from logreg.solvers.methods.lbfgs import lbfgs
from logreg.solvers.methods.medium import is_medium, solve_medium
from logreg.solvers.methods.newton import newton
from logreg.solvers.methods.prox_newton import prox_newton
from logreg.solvers.minimum_norm import NullSpace, move_to_minimum_norm
from logreg.solvers.passes.base import Pass, PassRequests, drive, run_pass
from logreg.solvers.passes.precise import UNIT_ROUNDOFF
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small.small_l1 import solve_small_l1
from logreg.solvers.small.small_newton import MAX_SMALL_NUMEL, is_small, solve_small
from logreg.solvers.starting_point import avoids_hessian, holds_hessian
from logreg.solvers.state import SolverState
from logreg.solvers.threads import threads_for
from logreg.stored_form import (
    Blocks,
    Moments,
    StoredForm,
    check_scale,
    choose_form_of_sparse,
    choose_stored_form,
    is_plain_by_sample,
    moments,
)
from logreg.terminal import counted

if TYPE_CHECKING:
    from scipy.sparse import sparray, spmatrix

FAILED_RELATIVE_GAP = 1e-3
"""Relative gap at the end of the fast ways from which slower ones follow; a smaller gap is mostly one of rounding."""

MAX_DOT_NUMEL = 2**30
"""Largest number of products in one sum: BLAS counts in 32 bits."""

STEEP_START = 3.0
"""Multiple of the optimum of the logistic loss that is one of the starts for a loss that is not convex."""

FITS_IF_NOT_CONVEX = 4
"""Fits of a loss that is not convex: from the start, of the logistic loss, and from two multiples of its optimum."""


def _newton(state: SolverState) -> PassRequests[None]:
    """Newton's method; see `_from_several_starts` and `_newton_from_here`."""
    yield from _from_several_starts(state, _newton_from_here)


def _lbfgs(state: SolverState) -> PassRequests[None]:
    """L-BFGS; see `_from_several_starts` and `_lbfgs_from_here`."""
    yield from _from_several_starts(state, _lbfgs_from_here)


def _from_several_starts(state: SolverState, way: Callable[[SolverState], PassRequests[None]]) -> PassRequests[None]:
    """Goes one way from the point of the state; for a loss that is not convex, from several points.

    A minimum of such a loss may be a local one.  Further starts are the optimum of the logistic loss with the same
    penalty, which is convex, and `STEEP_START` times that; the state ends at the lowest point of all.
    """
    yield from way(state)
    problem = state.problem
    if problem.loss.is_convex or problem.num_outputs > 1:
        return
    convex = dataclasses.replace(problem.objective, loss=default_loss(2))
    guide = SolverState(dataclasses.replace(problem, objective=convex), problem.zeros(), state.tolerance, state.seed)
    yield from way(guide)
    found = [(state.solution, state.bound)]
    for factor in (1.0, STEEP_START):
        _restart(state, factor * guide.solution)
        yield from way(state)
        found.append((state.solution, state.bound))
    values = [math.inf if bound is None else bound.value for _, bound in found]
    solution, best = found[values.index(min(values))]
    _restart(state, solution)
    if best is not None:
        state.bound, state.best, state.value = best._replace(starts=len(found)), state.point, best.value


def _restart(state: SolverState, point: Tensor) -> None:
    """Makes a state one that begins at a point, (K, D + 1) in the model's coordinates."""
    state.point, state.coordinates, state.inverse = point, state.problem.model, None
    state.predicted_decrease, state.row_sizes, state.sample = math.inf, None, None
    state.bound = state.best = None


def _newton_from_here(state: SolverState) -> PassRequests[None]:
    """Newton's method, by proximal steps with l1; ends at the optimum of least norm.

    Without a penalty, L-BFGS takes its place where a Hessian cannot be held.  Where the fast ways end far from the
    optimum, which happens where some rows are far larger than most, slower ones that depend less on the data follow:
    Newton's method from zero where a Hessian can be held and was avoided, else L-BFGS.

    A loss that the fast ways cannot take (see `has_fast_ways`) has Newton's method where a Hessian is cheap, and L-BFGS
    else.
    """
    problem = state.problem
    null = None
    if not has_fast_ways(problem):
        state.plain = True
        is_moderate = not problem.objective.l1 and holds_hessian(problem) and not avoids_hessian(problem)
        yield from move_to_minimum_norm(state, (yield from (newton if is_moderate else lbfgs)(state)))
        return
    if problem.objective.l1:
        yield from prox_newton(state)
    elif problem.objective.l2 or holds_hessian(problem):
        null = yield from newton(state)
    else:
        null = yield from lbfgs(state)
    if (problem.objective.l1 or avoids_hessian(problem) or not holds_hessian(problem)) and _has_failed(state):
        avoided = avoids_hessian(problem) and holds_hessian(problem)
        null = yield from _second_way(state, _newton_from_zero if avoided else lbfgs)
    yield from move_to_minimum_norm(state, null)


def has_fast_ways(problem: Problem) -> bool:
    """Whether the loss is convex and, with l1, has the conjugate that working sets of features need."""
    return problem.loss.is_convex and (problem.loss.has_conjugate or not problem.objective.l1)


def _has_failed(state: SolverState) -> bool:
    """Whether an optimizer has ended far from the optimum."""
    bound = state.bound
    return not state.converged and (bound is None or not bound.gap <= FAILED_RELATIVE_GAP * abs(bound.value))


def _second_way(
    state: SolverState, way: Callable[[SolverState], PassRequests[NullSpace | None]]
) -> PassRequests[NullSpace | None]:
    """Goes on in another way, after one that has failed, and keeps the better of both points."""
    first, point = state.bound, state.solution
    state.bound = state.best = None  # it is of a point in other coordinates
    null = yield from way(state)
    if first is not None and not state.converged and (state.bound is None or first.gap < state.bound.gap):
        state.coordinates, state.point, state.bound = state.problem.model, point, first
        state.best = state.point
    return null


def _newton_from_zero(state: SolverState) -> PassRequests[NullSpace | None]:
    """Newton's method alone."""
    _restart(state, state.problem.zeros())
    state.plain = True
    return (yield from newton(state))


def _lbfgs_from_here(state: SolverState) -> PassRequests[None]:
    """L-BFGS; ends at the optimum of least norm."""
    yield from move_to_minimum_norm(state, (yield from lbfgs(state)))


EXACT: dict[str, Callable[[SolverState], PassRequests[None]]] = {"newton": _newton, "lbfgs": _lbfgs}
"""The exact optimizers by name: each is a generator of passes that moves its `SolverState` to the optimum.

Where the optimum is not unique it is the one of least norm; see `logreg.solvers.minimum_norm`.
"""


def choose_optimizer(problem: Problem) -> tuple[str, str]:
    """The name of the exact optimizer that suits a problem, and the reason in a few words."""
    rows, features, outputs = problem.rows, problem.num_features, problem.num_outputs
    shape = f"{counted(rows, 'row')} x {counted(features, 'feature')}" + (
        f" x {outputs} outputs" if outputs > 1 else ""
    )
    if holds_hessian(problem) and not avoids_hessian(problem):
        return (
            "newton",
            f"Newton with Cholesky, since a Hessian of {problem.num_parameters:,} parameters is cheap [{shape}]",
        )
    if problem.objective.l1:
        return "newton", f"Newton on working sets of features, since l1 holds most coefficients at 0 [{shape}]"
    if is_wide(problem):
        return (
            "newton",
            f"Newton in {rows:,} dimensions, since the optimal coefficients lie in the span of the rows [{shape}]",
        )
    way = "Quasi-Newton steps" if problem.objective.l2 else "L-BFGS"
    return (
        "newton",
        f"{way}, since a Hessian of {problem.num_parameters:,} parameters costs more than it saves [{shape}]",
    )


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
        optimizer: A name of `EXACT`; "auto" for `logreg.solvers.small` or `logreg.solvers.methods.medium` where the
            problem is small or of medium size, and newton else.
        tolerance: The relative gap > 0 to end at.
        max_passes: Passes over the rows at most.
        dtype: The type of the arithmetic far from the optimum; ``None`` for float64 where dense features are in
            float64, and for float32 else.
        intercept: Whether an intercept is fitted; else it is 0.
        watch: Is called after each pass with the state and the pass; a small problem and one of medium size take none.
        start: Coefficients (K, D) and intercepts (K,) in source units to start from; ``None`` for zero.
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
    if is_sparse(features) and optimizer == "auto" and features.numel() <= MAX_SMALL_NUMEL:
        features = features.to_dense()  # which is the fastest way
    labels, num_classes = checked_labels(features, labels, num_classes)
    check_classes(objective.loss, num_classes)
    check_weights(labels, sample_weight, class_weight, num_classes)
    check_offset(labels, offset, objective.row_loss.num_outputs(num_classes))
    memory, stored = stored_rows(features, labels, sample_weight, intercept, offset)
    problem = problem_of(memory, objective, num_classes, class_weight, dtype, intercept, stored)
    point = problem.zeros() if start is None else _start(problem, stored, *start)
    state = SolverState(problem, point, tolerance, seed)
    with threads_for(4.0 * problem.numel * problem.num_outputs):
        alone = _class_alone(labels, sample_weight) if intercept else None
        if alone is not None:
            state.point = _point_of_class(problem, alone, tolerance)
        elif optimizer == "auto" and is_small(problem, memory):
            passes = (solve_small_l1 if objective.l1 else solve_small)(state, memory, max_passes)
        elif optimizer == "auto" and is_medium(problem, memory):
            passes = solve_medium(state, memory, max_passes)
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


def stored_rows(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    intercept: bool = True,
    offset: Tensor | None = None,
) -> tuple[MemoryRows, StoredForm]:
    """The rows of a fit with features that are well scaled, and the form that they are stored in.

    Args:
        features: As of `fit`; `in_source_units` takes a point back to their units.
        labels: Shape (N,), int64.
        sample_weight: As of `fit`.
        intercept: As of `fit`.
        offset: As of `fit`.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with.
    """
    stored = (
        choose_form_of_sparse(features) if is_sparse(features) else _stored_form(features, sample_weight, intercept)
    )
    features = features if stored.is_plain else stored.transform(features, features.dtype)
    return MemoryRows(features, labels, sample_weight, offset), stored


def _stored_form(features: Tensor, sample_weight: Tensor | None, intercept: bool) -> StoredForm:
    """The form in which dense features (N, D) are stored.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with.
    """
    if is_plain_by_sample(features, _size_bound(features)):
        return StoredForm.plain(features.shape[1])
    least, largest = (float(extreme) for extreme in features.aminmax()) if features.numel() else (0.0, 0.0)
    if not (math.isfinite(least) and math.isfinite(largest)):
        finite = features.isfinite()
        row, column = (int(place) for place in (~finite).nonzero()[0])
        raise DataError(f"features must be finite, got {float(features[row, column])} in row {row}, column {column}.")
    if is_plain_by_sample(features, max(-least, largest)):
        return StoredForm.plain(features.shape[1])
    # Only float64 features are stored shifted: a difference of narrower numbers may not fit into their type, and
    # passes subtract the mean from each row anyway.
    shifts = intercept and features.dtype == torch.float64
    return choose_stored_form(_moments(features, sample_weight), shifts).with_exact_shifts(features)


def _size_bound(features: Tensor) -> float:
    """Upper bound of the absolute features (N, D): the root of the sum of squares, which takes less time than extremes.

    It is not finite where a feature is not.
    """
    if not features.is_contiguous() or not features.is_floating_point():  # sums of integers overflow
        return math.inf
    return math.sqrt(sum(float(part @ part) for part in features.view(-1).split(MAX_DOT_NUMEL)))


def _start(problem: Problem, stored: StoredForm, coef: Tensor, intercept: Tensor) -> Tensor:
    """A start in source units, (K, D) and (K,), as a point (K, D + 1) in the model's coordinates.

    Raises:
        DataError: The start has another shape, or is not finite.
    """
    zeros = problem.zeros()
    expected = tuple(zeros[:, :-1].shape), (len(zeros),)
    if (tuple(coef.shape), tuple(intercept.shape)) != expected:
        got = tuple(coef.shape), tuple(intercept.shape)
        raise DataError(f"`start` must have coef {expected[0]} and intercept {expected[1]}, got {got[0]} and {got[1]}.")
    point = torch.cat([coef, intercept.unsqueeze(1)], dim=1).to(zeros)
    if not bool(point.isfinite().all()):
        raise DataError("`start` must be finite. Leave it out to start from zero.")
    if stored.is_plain:
        return point
    plain, form = _coordinates(problem, stored)
    return moved_to(plain, form, point)


def _coordinates(problem: Problem, stored: StoredForm) -> tuple[Coordinates, Coordinates]:
    """The coordinates of source units, and those of the model, both relative to the features in source units."""
    shift, unit = (part.to(problem.model.scale.device) for part in stored)
    plain = Coordinates(torch.zeros_like(shift), torch.ones_like(unit))
    return plain, Coordinates(shift, unit * problem.model.scale)


def in_source_units(problem: Problem, stored: StoredForm, point: Tensor, bound: Bound) -> tuple[Tensor, Bound]:
    """The point (K, D + 1) and its bound in source units; the bound includes the rounding of the intercepts there."""
    if stored.is_plain:
        return point, bound
    plain, form = _coordinates(problem, stored)
    point = moved_to(form, plain, point)
    error = 2 * UNIT_ROUNDOFF * point[:, -1].abs()
    total = problem.row_sum_scale * problem.total_weight
    second = problem.loss.curvature_sum(bound.loss, total) / 2 * float(error.square().sum())
    rounding = float(bound.gradient[:, -1].abs() @ error) + second
    return point, bound._replace(rounding=bound.rounding + rounding, error=bound.error + rounding)


def _moments(features: Tensor, sample_weight: Tensor | None) -> Moments:
    """Mean and standard deviation of the columns of features (N, D), computed in float64 one block at a time."""
    weights = None if sample_weight is None else sample_weight.double()
    rows = part_rows(features.shape[1], torch.float64)

    def blocks() -> Blocks:
        for first in range(0, len(features), rows):
            part = slice(first, first + rows)
            yield features[part].double(), None if weights is None else weights[part]

    found = moments(blocks)
    return Moments(found.mean.cpu(), found.std.cpu())


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
    if stored is not None and (objective.l2 or objective.l1):
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
    return drive(bound(problem, point, enough=enough), rows)
