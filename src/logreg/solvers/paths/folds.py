"""Regularization paths over rows that are at hand: of all rows, of parts of them, and without each fold.

Small problems with l2 alone are fitted in a batch (`logreg.solvers.paths.small_folds`), those with l1 by models that
serve several strengths (`logreg.solvers.paths.small_l1_path`); the general solvers fit the others, and what these do
not certify.

References:
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from logreg.errors import ConfigError, DataError
from logreg.facts import Batch
from logreg.processes import Accumulators
from logreg.rows import (
    MemoryRows,
    RowSource,
    chosen_rows,
    first_position,
    joined,
    places_in,
    row_weights,
)
from logreg.solvers.choose import is_small
from logreg.solvers.minimum_norm import move_to_minimum_norm
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l1_path import fit_elastic_net_path
from logreg.solvers.paths.l2_path import MAX_PASSES_PER_STRENGTH, PathFitter, PathPoint, Strength, nearest_start
from logreg.solvers.paths.ridge_folds import fit_ridge_folds, fits_in_ridge_batch
from logreg.solvers.paths.small_folds import MAX_ROW_NUMBERS, fit_small_folds, fit_small_resampled, fits_in_batch
from logreg.solvers.paths.small_l1_path import fit_small_l1_path, fits_several_at_once
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_l1 import solve_small_l1
from logreg.solvers.small.small_newton import solve_small
from logreg.solvers.state import SolverState

MAX_SINGLE_NUMBERS = 2**19
"""Numbers of the rows up to which the path of a single problem is fitted as a batch: the general solver
fits larger ones."""


@dataclass(frozen=True)
class FoldPaths:
    """The fitted points of a cross-validated path.

    Attributes:
        strengths: The strengths, P of them, as given.
        full: The fit on all rows for each strength; empty where it was not asked for.
        of_folds: For each of the F folds, the fits without its rows, one for each strength.
    """

    strengths: Sequence[Strength]
    full: Sequence[PathPoint]
    of_folds: Sequence[Sequence[PathPoint]]

    def joined(self, other: FoldPaths) -> FoldPaths:
        """The points of both, of the same rows and folds."""
        of_folds = [[*mine, *theirs] for mine, theirs in zip(self.of_folds, other.of_folds, strict=True)]
        return FoldPaths([*self.strengths, *other.strengths], [*self.full, *other.full], of_folds)


def fit_folds(
    problem: Problem,
    rows: RowSource,
    folds: Tensor,
    strengths: Sequence[Strength],
    tolerance: float = 1e-6,
    seed: int = 0,
    with_full: bool = True,
    before: FoldPaths | None = None,
) -> FoldPaths:
    """Finds the optimum for every strength, on all rows and without each fold.

    The penalty of a fold's fit has the same strengths l2 and l1: with a mean loss they are per row, as glmnet's lambda
    is; with a summed loss they are those of scikit-learn's C.  Class weights stay those of the problem.

    Args:
        problem: The problem over all rows; its own penalties do not matter.
        rows: The rows, which several processes may share.
        folds: The fold that each row is held out of the fit of, (N,), int64 in [0, F).
        strengths: Each with l2 > 0 or l1 > 0, in any order.
        tolerance: The relative gap to end each fit at.
        seed: Fixes the rows that are sampled.
        with_full: Whether the path on all rows is fitted too.
        before: Paths of the same rows and folds, from whose points with l2 alone fits may start.

    Raises:
        DataError: ``folds`` does not have a fold for each row; or a fold has no rows, or all rows of a class.
        ConfigError: A strength has no penalty.
    """
    totals = _check(problem, rows, folds, strengths)
    memory = _in_memory(rows)
    rows = memory or rows
    first = first_position(rows)
    of_own_rows = folds[first : first + rows.num_rows]
    order = sorted(set(strengths), key=lambda one: (one.l1, one.l2), reverse=True)
    without = [None, *range(len(totals))] if with_full else list(range(len(totals)))
    known = [] if before is None else [*([before.full] if with_full else []), *before.of_folds]
    known = [[one for one in path if not one.l1] for path in known]
    batch = _fit_batch(problem, memory, folds, without, order, tolerance, known) if memory is not None else []
    paths = []
    for number, fold in enumerate(without):
        own, mine = problem, rows
        if fold is not None:
            mine = _rows_without(rows, of_own_rows, fold, first)
            own = _problem_of(problem, int((folds != fold).sum()), problem.total_weight - float(totals[fold]))
        path = {Strength(point.l2, point.l1): point for point in (batch[number] if batch else ())}
        path = _completed(own, mine, order, path, tolerance, seed, known[number] if known else ())
        paths.append([path[one] for one in strengths])
    return FoldPaths(strengths, paths[0] if with_full else [], paths[int(with_full) :])


def _fit_batch(
    problem: Problem,
    rows: MemoryRows,
    folds: Tensor,
    without: Sequence[int | None],
    strengths: Sequence[Strength],
    tolerance: float,
    near: Sequence[Sequence[PathPoint]],
) -> list[list[PathPoint]]:
    """The fits of each problem that a batch makes; empty where none can.  Arguments as of `fit_ridge_folds`."""
    ridge = [one for one in strengths if not one.l1]
    if ridge and fits_in_batch(problem, rows, folds):
        found = fit_small_folds(problem, rows, folds, without, ridge, tolerance)
        return [found.of_problem(number, ridge, tolerance) for number in range(len(without))]
    if ridge and fits_in_ridge_batch(problem, rows, folds):
        return fit_ridge_folds(problem, rows, folds, without, ridge, tolerance, near)
    return []


def _in_memory(rows: RowSource) -> MemoryRows | None:
    """All rows in memory; ``None`` where processes share them.

    Rows that lie elsewhere are copied, but not where they are many, not on the CPU, or may not be held; sparse ones of
    one block are not copied, and else left where they are.
    """
    if rows.processes is not None:
        return None
    if isinstance(rows, MemoryRows):
        return rows
    if not rows.may_be_held or (not rows.is_sparse and rows.num_rows * rows.num_features > MAX_ROW_NUMBERS):
        return None
    blocks = list(islice(rows.blocks(), 2 if rows.is_sparse else None))
    if any(block.features.device.type != "cpu" for block in blocks) or (rows.is_sparse and len(blocks) > 1):
        return None
    return MemoryRows(*(blocks[0] if rows.is_sparse else joined(blocks)))


def _check(problem: Problem, rows: RowSource, folds: Tensor, strengths: Sequence[Strength]) -> Tensor:
    """Checks the arguments of `fit_folds`, and returns the weight in the loss of each fold, (F,)."""
    if not strengths:
        raise ConfigError("`strengths` must have at least one strength. Add one.")
    for strength in strengths:
        if not (strength.l2 >= 0 and strength.l1 >= 0 and strength.l2 + strength.l1 > 0):
            raise ConfigError.broken("strengths", "each have l2 > 0 or l1 > 0", strength, "Leave it out.")
    num_rows = rows.num_rows if rows.processes is None else sum(rows.processes.gather(rows.num_rows))
    if folds.shape != (num_rows,) or folds.dtype != torch.int64 or not len(folds) or int(folds.min()) < 0:
        raise DataError(
            f"folds must be {num_rows} whole numbers (int64) from 0 on, one for each row, "
            f"got {folds.dtype} of shape {tuple(folds.shape)}."
        )
    number, classes = int(folds.max()) + 1, max(2, problem.num_outputs)
    if number < 2:
        raise DataError("folds must be at least 2, got 1. Give some rows another fold.")
    weights = torch.zeros(number, classes, dtype=torch.float64)
    first = first_position(rows)
    for block in rows.blocks():
        last = first + len(block.labels)
        place = folds[first:last].cpu() * classes + block.labels.cpu()
        weights.view(-1).index_add_(0, place, _weights_of(block, problem))
        first = last
    if rows.processes is not None:
        weights = rows.processes.reduce(Accumulators({"weights": weights}, {}, {})).sums["weights"]
    if bool((weights.sum(1) == 0).any()):
        fold = int((weights.sum(1) == 0).nonzero()[0])
        raise DataError(f"each fold must have rows of a weight > 0, and fold {fold} has none. Use fewer folds.")
    if bool((weights == weights.sum(0)).any()):
        fold, label = (int(place) for place in (weights == weights.sum(0)).nonzero()[0])
        raise DataError(
            f"without fold {fold} no row of class {label} is left to fit. Use stratified folds, and fewer of them than "
            "the smallest class has rows."
        )
    return weights.sum(1)


def fit_strengths(
    problem: Problem, rows: RowSource, strengths: Sequence[Strength], tolerance: float = 1e-6, seed: int = 0
) -> list[PathPoint]:
    """Finds the optimum for every strength, with warm starts.

    Args:
        problem: The problem over the rows; its own penalties do not matter.
        rows: The rows, which several processes may share.
        strengths: As of `fit_folds`.
        tolerance: The relative gap to end each fit at.
        seed: Fixes the rows that are sampled.

    Returns:
        A point for each strength, in their order.
    """
    order = sorted(set(strengths), key=lambda one: (one.l1, one.l2), reverse=True)
    path: dict[Strength, PathPoint] = {}
    memory = _in_memory(rows)
    if memory is not None and (memory.is_sparse or rows.num_rows * rows.num_features <= MAX_SINGLE_NUMBERS):
        one_fold = torch.zeros(rows.num_rows, dtype=torch.int64)
        batch = _fit_batch(problem, memory, one_fold, [None], order, tolerance, [])
        path = {Strength(point.l2, point.l1): point for points in batch for point in points}
    path = _completed(problem, memory or rows, order, path, tolerance, seed)
    return [path[one] for one in strengths]


def _problem_of(problem: Problem, rows: int, total_weight: float) -> Problem:
    """The problem over some of the rows; ``rows`` is their number."""
    nonzeros = None if problem.nonzeros is None else problem.nonzeros * rows // problem.rows  # about; only costs use it
    return replace(problem, rows=rows, total_weight=total_weight, nonzeros=nonzeros)


def _rows_without(rows: RowSource, folds: Tensor, fold: int, first: int) -> RowSource:
    """The rows but those of a fold: copied once where they are sparse or of one block, else block by block.

    ``folds`` are those of the rows of this process, (n,); ``first`` is the position of the first of them.
    """
    is_alone = rows.processes is None
    if isinstance(rows, MemoryRows) and is_alone and (rows.is_sparse or rows.num_rows <= rows.block_rows):
        return rows.at((folds != fold).nonzero()[:, 0])
    return _WithoutFold(rows, folds != fold, first)


class _WithoutFold:
    """A `RowSource` without the rows of one fold; the others are copied block by block."""

    def __init__(self, rows: RowSource, is_kept: Tensor, first: int) -> None:
        self._rows, self._is_kept, self._first = rows, is_kept, first
        self.num_rows, self.num_features, self.is_sparse = int(is_kept.sum()), rows.num_features, rows.is_sparse
        self.may_be_held, self.processes = rows.may_be_held, rows.processes

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or those of one in ``every`` that are left; see `RowSource`."""
        for block in self._rows.blocks(every):
            kept = self._is_kept[places_in(block, self._first)].nonzero()[:, 0].to(block.labels.device)
            if len(kept):
                yield chosen_rows(block, kept)


def fit_parts(
    problem: Problem,
    rows: MemoryRows,
    parts: Sequence[Tensor],
    strengths: Sequence[Strength],
    tolerance: float = 1e-6,
    seed: int = 0,
) -> list[list[PathPoint]]:
    """Finds the optimum for every strength on each of several parts of the rows, which may overlap or leave rows out.

    `fit_folds` takes less time where the parts are all rows but those of one fold each.

    Args:
        problem: As of `fit_folds`.
        rows: The rows.
        parts: The positions of the rows of each part, int64; each part has rows of every class.
        strengths: As of `fit_folds`.
        tolerance: As of `fit_folds`.
        seed: As of `fit_folds`.

    Returns:
        For each part a point for each strength, in their order.
    """
    found = []
    for part in parts:
        mine = rows.at(part)
        total = sum(float(_weights_of(block, problem).sum()) for block in mine.blocks())
        own = _problem_of(problem, len(part), total)
        found.append(fit_strengths(own, mine, strengths, tolerance, seed))
    return found


def fit_resampled(
    problem: Problem, rows: RowSource, weights: Tensor, near: PathPoint, tolerance: float = 1e-6
) -> list[PathPoint]:
    """Finds the optimum of a penalized problem for each of several weightings of its rows, as of a bootstrap.

    Args:
        problem: The problem over all rows, with l2 > 0 or l1 > 0.
        rows: The rows; their own weights do not matter.
        weights: Weights of the rows in the loss, (B, N), float64, >= 0.
        near: A point that fits may start from, such as the optimum of all rows.
        tolerance: As of `fit_folds`.

    Returns:
        A point for each weighting.
    """
    strength = Strength(problem.objective.l2, problem.objective.l1)
    memory = rows if isinstance(rows, MemoryRows) else _in_memory(rows)
    batch: list[PathPoint] = []
    if memory is not None and fits_in_batch(problem, memory, torch.zeros(rows.num_rows, dtype=torch.int64)):
        paths = fit_small_resampled(problem, memory, weights, strength, tolerance, near.point)
        batch = [paths.of_problem(number, [strength], tolerance)[0] for number in range(len(weights))]
    found = []
    for number, own in enumerate(weights):
        if batch and batch[number].converged:
            found.append(replace(batch[number], point=batch[number].point.clone()))  # no tensor of inference
            continue
        mine = (
            Reweighted(rows, own) if memory is None else MemoryRows(memory.features, memory.labels, own, memory.offset)
        )
        one = _problem_of(problem, rows.num_rows, float(own.sum()))
        found.append(_completed(one, mine, [strength], {}, tolerance, near=[near])[strength])
    return found


class Reweighted:
    """A `RowSource` with other weights of the rows, all of which this process has."""

    processes = None

    def __init__(self, rows: RowSource, weights: Tensor) -> None:
        self._rows, self._weights = rows, weights
        self.num_rows, self.num_features = rows.num_rows, rows.num_features
        self.is_sparse, self.may_be_held = rows.is_sparse, rows.may_be_held

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or one in ``every``; see `RowSource`."""
        for block in self._rows.blocks(every):
            yield block._replace(sample_weight=self._weights[places_in(block)].to(block.features))


def _weights_of(block: Batch, problem: Problem) -> Tensor:
    """The weight in the loss of each row of a block, (n,), float64, on the CPU."""
    weight = row_weights(block, problem.class_weight, torch.float64)
    return torch.ones(len(block.labels), dtype=torch.float64) if weight is None else weight.cpu()


def _completed(
    problem: Problem,
    rows: RowSource,
    order: Sequence[Strength],
    path: dict[Strength, PathPoint],
    tolerance: float,
    seed: int = 0,
    near: Sequence[PathPoint] = (),
) -> dict[Strength, PathPoint]:
    """A path with fits by the general solvers for the strengths that have none that is certified.

    The arguments are those of `_fit_path`; ``order`` has all strengths, and ``path`` the fits so far.
    """
    missing = [one for one in order if one not in path or not path[one].converged]
    starts = [*path.values(), *near]
    found = dict(zip(missing, _fit_path(problem, rows, missing, tolerance, seed, starts), strict=True))
    better = {
        one: point
        for one, point in found.items()
        if one not in path or point.converged or point.bound.gap < path[one].bound.gap
    }
    return path | better


def _fit_path(
    problem: Problem,
    rows: RowSource,
    strengths: Sequence[Strength],
    tolerance: float,
    seed: int,
    near: Sequence[PathPoint] = (),
) -> list[PathPoint]:
    """Finds the optimum for every strength with warm starts; those with l1 must come first.

    ``near`` has points from which fits may start: those with l1 from the first one with l1, those with l2 alone from
    the nearest one with l2 alone.
    """
    with_l1 = [one for one in strengths if one.l1]
    start = next((one.point for one in near if one.l1), problem.zeros())
    small: dict[Strength, PathPoint] = {}
    if isinstance(rows, MemoryRows) and fits_several_at_once(problem, rows, tolerance):
        for has_l2 in (False, True):
            alike = [one for one in with_l1 if (one.l2 > 0) == has_l2]
            fitted = fit_small_l1_path(problem, rows, alike, tolerance, start) if alike else []
            small |= {one: point for one, point in zip(alike, fitted, strict=True) if point.converged}
    for strength in with_l1:
        found = small[strength] if strength in small else _fit_small(strength.of(problem), rows, start, tolerance)
        if found is not None:
            small[strength], start = found, found.point
    left = [one for one in with_l1 if one not in small]
    others = dict(zip(left, drive(fit_elastic_net_path(problem, left, tolerance, seed), rows), strict=True))
    points = [(small | others)[one] for one in with_l1]
    fitter = PathFitter(replace(problem, objective=replace(problem.objective, l1=0.0)), tolerance, seed)
    fitter.points.extend(one for one in near if not one.l1)
    for strength in strengths:
        if strength.l1:
            continue
        own = strength.of(problem)
        found = _fit_small(own, rows, nearest_start(own, fitter.points), tolerance)
        if found is None:
            drive(fitter.fit(strength.l2), rows)
        else:
            fitter.points.append(found)
        points.append(fitter.points[-1])
    return points


def _fit_small(problem: Problem, rows: RowSource, start: Tensor, tolerance: float) -> PathPoint | None:
    """The optimum of a small problem, from a start (K, D + 1); ``None`` where it is not small, or not certified."""
    if not isinstance(rows, MemoryRows) or rows.processes is not None or not is_small(problem, rows):
        return None
    state, (l2, l1) = SolverState(problem, start, tolerance), (problem.objective.l2, problem.objective.l1)
    passes = (solve_small_l1 if l1 else solve_small)(state, rows, MAX_PASSES_PER_STRENGTH)
    if not state.converged:
        return None
    drive(move_to_minimum_norm(state), rows)
    assert state.bound is not None
    return PathPoint(state.solution, state.bound, state.converged, passes, l2, l1)
