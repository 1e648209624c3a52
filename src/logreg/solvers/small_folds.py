"""Paths of many small problems at once: all rows, and all rows but a fold, in one batch of tensor operations.

The problems share their rows, so their logits are one matrix product, and so are their gradients.  Each strength starts
from an extrapolation of the optima before it, and takes Newton steps.  The Hessian of a problem without a fold is
nearly that of all rows less the fold's own part, at the curvatures averaged over the problems: a pass over the rows
gives the Hessians of all problems.  Newton's method with such a Hessian converges linearly, fast; where it does not,
each problem gets its own Hessian.

The outputs of one-vs-rest problems are further problems of the batch.

References:
    Allgower and Georg (2003), Introduction to numerical continuation methods: predictor and corrector.
    Beirami, Razaviyayn, Shahrampour and Tarokh (2017), On optimal generalizability in parametric learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.batch_bounds import BatchPoint, batch_bound
from logreg.solvers.batch_model import minimize_models
from logreg.solvers.path import Strength
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING

MAX_ROW_NUMBERS = 2**22
"""Numbers of the rows, with those that fill the folds to one size, up to which a path is fitted in a batch: 32 MiB."""

MAX_PARAMETERS = 256
"""Parameters of an output up to which a path is fitted in a batch: a factor of each Hessian is held."""

MAX_PADDING = 2.0
"""Largest ratio of the rows, when all folds are filled to the size of the largest, to the rows alone."""

MAX_LOGITS = 2**20
"""Logits of one batch: 8 MiB; more problems are fitted in several batches."""

MAX_STEPS = 30
"""Steps for a strength, after which a problem is left to the general solvers."""

REUSE_CONTRACTION = 0.1
"""Ratio of two successive gaps up to which the Hessians serve the next strengths too."""

SLOW_CONTRACTION = 0.3
"""Ratio of two successive gaps above which each problem gets its own Hessian."""

EXTRAPOLATED = 4
"""Optima that the start of a fit is extrapolated from: the polynomial through them is of third degree."""


class BatchPaths(NamedTuple):
    """The fits of B problems for P strengths."""

    points: Tensor
    """Shape (P, B, K, D + 1), in the problem's model coordinates."""
    bounds: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    """Fields of `Bound`, each (P, B, ...): value, gap, gradient, loss, rounding, error."""
    converged: Tensor
    """Shape (P, B)."""
    passes: Tensor
    """Evaluations of f, (P, B)."""


def fits_in_batch(problem: Problem, rows: MemoryRows, folds: Tensor) -> bool:
    """Whether `fit_small_folds` may be called."""
    largest = int(folds.bincount().max())
    padded = largest * (int(folds.max()) + 1)
    return (
        rows.features.device.type == "cpu"
        and not rows.features.is_sparse_csr
        and not problem.coupled
        and problem.loss.is_convex
        and problem.loss.has_conjugate
        and problem.num_features + 1 <= MAX_PARAMETERS
        and padded <= MAX_PADDING * rows.num_rows
        and padded * (problem.num_features + 1) <= MAX_ROW_NUMBERS
    )


class FoldedRows:
    """Standardized rows in float64, ordered by fold, and each fold filled up to one size with rows of weight 0."""

    def __init__(self, problem: Problem, rows: MemoryRows, folds: Tensor) -> None:
        number = int(folds.max()) + 1
        counts, order = folds.bincount(minlength=number), folds.argsort(stable=True)
        size = int(counts.max())
        first = counts.cumsum(0) - counts
        place = torch.empty_like(folds)
        place[order] = torch.arange(len(folds)) - first.repeat_interleave(counts) + folds[order] * size
        weights = row_weights(Batch(rows.features, rows.labels, rows.sample_weight), problem.class_weight, torch.float64)
        weights = torch.ones(len(folds), dtype=torch.float64) if weights is None else weights
        features = rows.features.double()
        shares = weights / weights.sum()
        center = shares @ features if problem.intercept else torch.zeros_like(problem.model.center)
        features = features - center
        scale = (shares @ features.square()).sqrt()
        scale = torch.where(scale > 1e-9 * center.abs(), scale, 1.0)
        self.problem, self.coordinates, self.folds = problem, Coordinates(center, scale), number
        self.features = features.new_zeros(number * size, problem.num_features + problem.intercept)
        self.features[place, : problem.num_features] = features.div_(scale)
        if problem.intercept:
            self.features[place, -1] = 1.0
        self.weights = weights.new_zeros(number * size).index_copy_(0, place, weights)
        self.labels = rows.labels.new_zeros(number * size).index_copy_(0, place, rows.labels)
        self.by_fold = self.features.view(number, size, -1)

    def weights_of(self, without: Sequence[int | None]) -> Tensor:
        """The weights of the rows, (n, B), in the problems without a fold, or with all for ``None``."""
        weights = self.weights.unsqueeze(1).repeat(1, len(without)).view(self.folds, -1, len(without))
        for column, fold in enumerate(without):
            if fold is not None:
                weights[fold, :, column] = 0.0
        weights = weights.flatten(0, 1)
        return weights if self.problem.objective.reduction == "sum" else weights / weights.sum(0)


def fit_small_folds(
    problem: Problem,
    rows: MemoryRows,
    folds: Tensor,
    without: Sequence[int | None],
    strengths: Sequence[Strength],
    tolerance: float,
) -> BatchPaths:
    """Finds the optimum of several problems for every strength.

    Args:
        problem: The problem over all rows; its own penalties do not matter.
        rows: The rows.
        folds: The fold of each row, (N,).
        without: For each of the B problems the fold that it is without, or ``None`` for all rows.
        strengths: In the order of the fits, best from the strongest to the weakest.
        tolerance: The relative gap to end each fit at.
    """
    folded = FoldedRows(problem, rows, folds)
    most = max(1, MAX_LOGITS // (len(folded.weights) * problem.num_outputs))
    parts = [_Batch(folded, without[i : i + most]).fit(strengths, tolerance) for i in range(0, len(without), most)]
    bounds = zip(*(part.bounds for part in parts), strict=True)
    return BatchPaths(
        torch.cat([part.points for part in parts], dim=1),
        tuple(torch.cat(field, dim=1) for field in bounds),  # type: ignore[arg-type]  # of the same length
        torch.cat([part.converged for part in parts], dim=1),
        torch.cat([part.passes for part in parts], dim=1),
    )


class _Evaluation(NamedTuple):
    """f and its derivatives at a point (C, p), for C = B * K columns: output k of problem b is b * K + k."""

    loss: Tensor
    """Shape (C,)."""
    value: Tensor
    """f of each problem, (B,)."""
    slopes: Tensor
    """The gradient of the loss, (C, p)."""
    residuals: Tensor
    """Weighted residuals of the rows, (n, C)."""
    curvature: Tensor
    """Curvatures of the rows, (n, C)."""
    logits: Tensor
    """Shape (n, C)."""


class _Batch:
    """B problems that are fitted together."""

    def __init__(self, rows: FoldedRows, without: Sequence[int | None]) -> None:
        problem = self.problem = rows.problem
        self.rows, self.k = rows, problem.num_outputs
        self._x = rows.features
        self._of_problem = rows.weights_of(without)
        self._weights = self._of_problem.repeat_interleave(self.k, dim=1)
        self._totals = self._of_problem.sum(0)
        """The weight of all rows in each objective, (B,): 1 for a mean loss."""
        self._scale = (self._of_problem.sum(0) / (self._of_problem > 0).double().mul(rows.weights.unsqueeze(1)).sum(0))
        if self.k == 1:
            targets = rows.labels.double().unsqueeze(1)
        else:
            targets = F.one_hot(rows.labels, self.k).double()
        self._targets = targets.repeat(1, len(without)).view(-1)
        self._squares = (self._weights.T @ self._x.square())
        self._largest = self._x.abs().amax(0)
        self._held = [(b, fold) for b, fold in enumerate(without) if fold is not None]
        self._ratio = rows.coordinates.scale / problem.model.scale
        self._hessian: Tensor | None = None
        """The Hessians of the loss, (C, p, p)."""
        self._is_own = False
        """Whether each problem has its own Hessian."""

    def fit(self, strengths: Sequence[Strength], tolerance: float) -> BatchPaths:
        """Finds the optimum for each strength; see `fit_small_folds`."""
        optima: list[tuple[float, Tensor]] = []
        found: list[tuple[Tensor, ...]] = []
        for strength in strengths:
            at = math.log(strength.l2 + strength.l1)
            self._set(strength)
            start = self._extrapolated(optima, at)
            point, result = self._minimize(start, tolerance)
            found.append(result)
            optima = [*(one for one in optima[1 - EXTRAPOLATED :] if one[0] != at), (at, point)]
        points, *bounds, converged, passes = (torch.stack(field) for field in zip(*found, strict=True))
        return BatchPaths(points, tuple(bounds), converged, passes)  # type: ignore[arg-type]  # six of them

    def _set(self, strength: Strength) -> None:
        """Takes a strength."""
        self._strength = strength
        problem = strength.of(self.problem)
        l2, l1 = (one if problem.intercept else one[:-1] for one in problem.penalties(self.rows.coordinates))
        self._l2, self._l1 = l2, l1

    def _extrapolated(self, optima: Sequence[tuple[float, Tensor]], at: float) -> Tensor:
        """The value at ``at`` of the polynomial through the optima; coefficients of 0, and of a new sign, are 0."""
        if not optima:
            return self._x.new_zeros(self._weights.shape[1], self._x.shape[1])
        point = torch.zeros_like(optima[0][1])
        for number, (place, optimum) in enumerate(optima):
            others = [other for index, (other, _) in enumerate(optima) if index != number]
            point = point + optimum * math.prod((at - other) / (place - other) for other in others)
        if self._strength.l1:
            last = optima[-1][1]
            point = torch.where((last * point > 0) | (self._l1 == 0), point, 0.0)
        return point

    def _evaluate(self, point: Tensor) -> _Evaluation:
        logits = self._x @ point.T
        values, residuals, curvature = self.problem.loss.evaluate(logits.view(-1, 1), self._targets)
        loss = torch.linalg.vecdot(values.view(logits.shape), self._weights, dim=0)
        weighted = residuals.view(logits.shape).mul_(self._weights)
        penalty = point.square() @ (self._l2 / 2)
        if self._strength.l1:
            penalty = penalty + point.abs() @ self._l1
        value = (loss + penalty).view(-1, self.k).sum(1)
        return _Evaluation(loss, value, weighted.T @ self._x, weighted, curvature.view(logits.shape), logits)

    def _estimated_gap(self, now: _Evaluation, point: Tensor) -> Tensor:
        """About the gap that a bound would find, (B,)."""
        slopes = now.slopes
        d = self.problem.num_features
        l2, l1, coef = self._l2[:d], self._l1[:d], point[:, :d]
        of_intercept = 0.0
        if self.problem.intercept:
            of_intercept = slopes[:, -1].square() / torch.linalg.vecdot(now.curvature, self._weights, dim=0)
        slope = slopes[:, :d]
        if self._strength.l1 and not self._strength.l2:
            reach = (slope.abs() / l1).amax(1).clamp(min=1.0).unsqueeze(1)
            gap = (coef * slope / reach + l1 * coef.abs()).sum(1) + (1 - 1 / reach[:, 0]).square() * now.loss
        else:
            held = (slope.abs() - l1).clamp(min=0) * slope.sign() if self._strength.l1 else slope
            gap = ((held + l2 * coef).square() / l2).sum(1) / 2
            if self._strength.l1:
                gap = gap + (l1 * coef.abs() + coef * (slope - held)).sum(1)
        return (gap + of_intercept).view(-1, self.k).sum(1)

    def _minimize(self, start: Tensor, tolerance: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Newton's method from a start (C, p); returns the point and the fields of `BatchPaths` at this strength."""
        k, best, step = self.k, start, torch.zeros_like(start)
        trial, now = start, self._evaluate(start)
        best_now = now
        gap = self._estimated_gap(now, trial) / now.value.abs().clamp(min=1e-300)
        passes, limit = 1, tolerance
        rounding = VALUE_ROUNDING[torch.float64]
        while True:
            if bool((gap <= limit).all()) or passes >= MAX_STEPS:
                result = self._bound(best, best_now, passes, tolerance)
                if bool(result[-2].all()) or passes >= MAX_STEPS or not limit > 1e-3 * tolerance:
                    return best, result
                limit = float(gap.max()) / 10
            step = self._step(best, best_now)
            if step is None:
                return best, self._bound(best, best_now, passes, tolerance)
            trial = best + step
            now = self._evaluate(trial)
            passes += 1
            worse = ~(now.value <= best_now.value + rounding * best_now.value.abs())
            while bool(worse.any()) and passes < MAX_STEPS:
                step = torch.where(worse.repeat_interleave(k).unsqueeze(1), step / 2, step)
                trial = best + step
                now = self._evaluate(trial)
                passes += 1
                worse = ~(now.value <= best_now.value + rounding * best_now.value.abs())
            if bool(worse.any()):
                return best, self._bound(best, best_now, passes, tolerance)
            before, gap = gap, self._estimated_gap(now, trial) / now.value.abs().clamp(min=1e-300)
            best, best_now = trial, now
            contraction = float(torch.where(gap > limit, gap / before, 0.0).max())
            if contraction > REUSE_CONTRACTION:
                self._is_own = contraction > SLOW_CONTRACTION
                self._hessian = None

    def _bound(self, point: Tensor, now: _Evaluation, passes: int, tolerance: float) -> tuple[Tensor, ...]:
        """The fields of `BatchPaths` at a point."""
        at = BatchPoint(
            self._strength.of(self.problem),
            self.rows.coordinates,
            point,
            self._x,
            self._weights,
            self._totals.repeat_interleave(self.k),
            self._targets,
            self._squares,
            self._largest,
            *now,
        )
        points, *bounds = batch_bound(at)
        value, gap, _, _, hidden, _ = bounds
        converged = gap + hidden <= tolerance * value.abs()
        return (points, *bounds, converged, torch.full_like(converged, passes, dtype=torch.int64))

    def _step(self, point: Tensor, now: _Evaluation) -> Tensor | None:
        """Newton's step to be added, (C, p); ``None`` where a Hessian is not positive definite."""
        if self._hessian is None:
            self._hessian = self._own_hessians(now) if self._is_own else self._shared_hessians(now)
        hessian = self._hessian + torch.diag(self._l2)
        gradient = now.slopes + self._l2 * point
        if self._strength.l1:
            target = minimize_models(hessian, gradient, point, self._l1)
            return None if target is None else target - point
        factors, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed.any()):
            return None
        return -torch.cholesky_solve(gradient.unsqueeze(2), factors)[:, :, 0]

    def _shared_hessians(self, now: _Evaluation) -> Tensor:
        """About the Hessians of the loss, (C, p, p), from the curvatures averaged over the problems."""
        k, rows = self.k, self.rows
        mean = now.curvature.view(len(self._x), -1, k).mean(1) * rows.weights.unsqueeze(1)
        found = []
        for column in mean.T:
            parts = (rows.by_fold * column.view(rows.folds, -1, 1)).transpose(1, 2) @ rows.by_fold
            whole = parts.sum(0).expand(len(self._totals), -1, -1).clone()
            for b, fold in self._held:
                whole[b] -= parts[fold]
            found.append(whole * self._scale.view(-1, 1, 1))
        return torch.stack(found, dim=1).flatten(0, 1)

    def _own_hessians(self, now: _Evaluation) -> Tensor:
        """The Hessians of the loss, (C, p, p)."""
        spread = now.curvature * self._weights
        return torch.stack([(self._x * column.unsqueeze(1)).T @ self._x for column in spread.T])
