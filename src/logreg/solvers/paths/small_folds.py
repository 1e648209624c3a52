"""Many small problems at once, in one batch of tensor operations: ridge paths without each fold, and bootstraps.

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
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.batch_bounds import BatchBound, BatchEvaluation, BatchRows, batch_bound
from logreg.solvers.paths.batch_model import minimize_models
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_newton import MAX_HALVINGS, standardized_rows
from logreg.solvers.state import VALUE_ROUNDING, within
from logreg.solvers.threads import threads_for

MAX_ROW_NUMBERS = 2**22
"""Numbers of the rows, with those that fill the folds to one size, up to which a path is fitted in a batch: 32 MiB."""

MAX_PARAMETERS = 256
"""Parameters of an output up to which a path is fitted in a batch: a factor of each Hessian is held."""

MAX_PADDING = 2.0
"""Largest ratio of the rows, when all folds are filled to the size of the largest, to the rows alone."""

MAX_LOGITS = 2**20
"""Logits, and numbers of Hessians, of one batch: 8 MiB; more problems are fitted in several batches."""

MAX_STEPS = 30
"""Steps for a strength, after which a problem is left to the general solvers."""

MAX_OWN_FLOP = 2e6
"""Multiplications of one Hessian up to which it is cheap: it takes about the time of the overhead of a step."""

SLOW_CONTRACTION = 0.3
"""Ratio of two successive gaps above which Hessians are computed anew, from averaged curvatures."""

CHEAP_CONTRACTION = 0.1
"""Ratio of two successive gaps above which each problem gets its own Hessian, where Hessians are cheap."""

STALLED_CONTRACTION = 0.95
"""Ratio of two successive gaps above which each problem gets its own Hessian, where they are not."""

MIN_LEARNED = 1e-20
"""Curvature along a move, relative to the weight of the rows, below which the change of the gradient is rounding."""

ALL = slice(None)
"""All columns."""

_STALE, _SHARED, _OWN = range(3)
"""The age of Hessians: of an earlier strength, from averaged curvatures at this strength, of each problem alone."""

MAX_REPAIRS = 5
"""Times that a fit goes on, each with a tenth of the limit, where its bound is not within the tolerance."""

MIN_BOUND_LOGITS = 2**15
"""Logits, over several strengths, whose bounds are computed at once: of fewer the time is mostly overhead."""

EXTRAPOLATED = 3
"""Optima that the start of a fit is extrapolated from: the polynomial through them is of second degree."""


class BatchPaths(NamedTuple):
    """The fits of B problems for P strengths."""

    bounds: BatchBound
    """The points and their bounds; S is P."""
    passes: Tensor
    """Evaluations of f, (P, B)."""

    def of_problem(self, number: int, strengths: Sequence[Strength], tolerance: float) -> list[PathPoint]:
        """The fits of one problem, one for each strength."""
        at = self.bounds
        fields = (at.value, at.gap, at.loss, at.rounding, at.error, self.passes)
        columns = (field[:, number].tolist() for field in fields)
        points, gradients = at.point[:, number].unbind(), at.gradient[:, number].unbind()
        found = []
        for strength, point, gradient, value, gap, loss, rounding, error, passes in zip(
            strengths, points, gradients, *columns, strict=True
        ):
            bound = Bound(value, gap, True, gradient, loss, rounding, error=error)
            found.append(PathPoint(point, bound, within(bound, tolerance), passes, strength.l2, strength.l1))
        return found


def fits_in_batch(problem: Problem, rows: MemoryRows, folds: Tensor) -> bool:
    """Whether `fit_small_folds` may be called."""
    return has_small_outputs(problem) and fits_as_folded(problem, rows, folds)


def has_small_outputs(problem: Problem) -> bool:
    """Whether outputs are separate, each of few parameters, and bounded by duality."""
    loss, parameters = problem.loss, problem.num_features + 1
    return not problem.coupled and loss.is_convex and loss.has_conjugate and parameters <= MAX_PARAMETERS


def fits_as_folded(problem: Problem, rows: MemoryRows, folds: Tensor) -> bool:
    """Whether `FoldedRows` may be made: few dense rows on the CPU without offsets, and folds of about one size."""
    sizes = folds.bincount()
    padded = int(sizes.max()) * len(sizes)
    return (
        rows.features.device.type == "cpu"
        and not rows.is_sparse
        and problem.largest_offset is None
        and padded <= MAX_PADDING * len(folds)
        and padded * (problem.num_features + 1) <= MAX_ROW_NUMBERS
    )


def polynomial_at(at: float, known: Sequence[tuple[float, Tensor]]) -> Tensor:
    """The value at ``at`` of the polynomial through some points, each with its place; the places differ."""
    value = torch.zeros_like(known[0][1])
    for number, (place, point) in enumerate(known):
        others = [other for index, (other, _) in enumerate(known) if index != number]
        value = value.add(point, alpha=math.prod((at - other) / (place - other) for other in others))
    return value


def weights_without(problem: Problem, weights: Tensor, folds: Tensor, without: Sequence[int | None]) -> Tensor:
    """The weights of the rows, (B, n), in the problems without a fold, or with all for ``None``.

    Args:
        problem: The problem over all rows.
        weights: Weights of the rows in it, (n,).
        folds: The fold of each row, (n,).
        without: The fold that each problem is without.
    """
    kept = torch.stack([torch.ones_like(folds) if fold is None else (folds != fold).long() for fold in without])
    found = weights * kept
    return found if problem.objective.reduction == "sum" else found / found.sum(1, keepdim=True)


class FoldedRows:
    """Standardized rows in float64, ordered by fold, and each fold filled up to one size with rows of weight 0."""

    def __init__(self, problem: Problem, rows: MemoryRows, folds: Tensor) -> None:
        number = int(folds.max()) + 1
        counts, order = folds.bincount(minlength=number), folds.argsort(stable=True)
        size = int(counts.max())
        first = counts.cumsum(0) - counts
        place = torch.empty_like(folds)
        place[order] = torch.arange(len(folds)) - first.repeat_interleave(counts) + folds[order] * size
        weights = row_weights(
            Batch(rows.features, rows.labels, rows.sample_weight), problem.class_weight, torch.float64
        )
        weights = torch.ones(len(folds), dtype=torch.float64) if weights is None else weights
        padded, _, self.coordinates = standardized_rows(problem, rows)
        self.problem, self.folds = problem, number
        self.features = padded.new_zeros(number * size, padded.shape[1]).index_copy_(0, place, padded)
        self.weights = weights.new_zeros(number * size).index_copy_(0, place, weights)
        self.labels = rows.labels.new_zeros(number * size).index_copy_(0, place, rows.labels)
        self.by_fold = self.features.view(number, size, -1)

    def weights_of(self, without: Sequence[int | None]) -> Tensor:
        """The weights of the rows, (B, n), in the problems without a fold, or with all for ``None``."""
        folds = torch.arange(self.folds).repeat_interleave(self.by_fold.shape[1])
        return weights_without(self.problem, self.weights, folds, without)


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
        strengths: Each with l2 alone; in the order of the fits, best from the strongest to the weakest.
        tolerance: The relative gap to end each fit at.
    """
    work = 4.0 * problem.rows * problem.num_parameters * len(without)
    with torch.inference_mode(), threads_for(work):
        folded = FoldedRows(problem, rows, folds)
        most = _problems_at_once(folded)
        starts = range(0, len(without), most)
        return _joined([_Batch(folded, without[i : i + most], tolerance).fit(strengths) for i in starts])


def fit_small_resampled(
    problem: Problem, rows: MemoryRows, weights: Tensor, strength: Strength, tolerance: float, start: Tensor
) -> BatchPaths:
    """Finds the optimum of several problems that differ in the weights of their rows, as of a bootstrap.

    Args:
        problem: As of `fit_small_folds`.
        rows: The rows.
        weights: Weights of the rows in the loss, (B, N); of rows in expectation those of the problem.
        strength: The strength of the penalty.
        tolerance: As of `fit_small_folds`.
        start: The point (K, D + 1) that all fits start from, in the model's coordinates.
    """
    with torch.inference_mode(), threads_for(4.0 * problem.rows * problem.num_parameters * len(weights)):
        folded = FoldedRows(problem, rows, torch.zeros(len(rows.labels), dtype=torch.int64))
        if problem.objective.reduction != "sum":
            weights = weights / weights.sum(1, keepdim=True)
        parts = weights.split(_problems_at_once(folded))
        return _joined([_Batch(folded, [None] * len(one), tolerance, one, start).fit([strength]) for one in parts])


def _problems_at_once(rows: FoldedRows) -> int:
    """Number of problems in a batch."""
    numbers = max(len(rows.weights), rows.features.shape[1] ** 2)
    return max(1, MAX_LOGITS // (numbers * rows.problem.num_outputs))


def _joined(parts: Sequence[BatchPaths]) -> BatchPaths:
    """The fits of several batches, whose problems follow one another."""
    bounds, passes = zip(*parts, strict=True)
    fields = (torch.cat(field, dim=1) for field in zip(*bounds, strict=True))
    return BatchPaths(BatchBound(*fields), torch.cat(passes, 1))


class _Fitted(NamedTuple):
    """The end of a fit, whose bound is not computed yet."""

    number: int
    """Place of the strength."""
    point: Tensor
    now: BatchEvaluation


class _Batch:
    """B problems that are fitted together."""

    def __init__(
        self,
        rows: FoldedRows,
        without: Sequence[int | None],
        tolerance: float,
        weights: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        """Weights of the rows (B, n) and a start (K, D + 1); those of the folds and 0 for ``None``."""
        problem = self.problem = rows.problem
        self.folded, self.k, self.number, self.tolerance = rows, problem.num_outputs, len(without), tolerance
        total = rows.weights.sum()
        if weights is None:
            weights = rows.weights_of(without)
            total = (weights > 0).double() @ rows.weights
        self._share = weights.sum(1) / total
        """The factor from the weight of a row to its weight in each objective, (B,)."""
        targets = rows.labels.double().unsqueeze(0) if self.k == 1 else F.one_hot(rows.labels, self.k).double().T
        own = weights.repeat_interleave(self.k, dim=0)
        self.rows = BatchRows(
            problem,
            rows.coordinates,
            rows.features,
            own,
            own.sum(1),
            targets.repeat(self.number, 1),
            own @ rows.features.square(),
        )
        self._is_cheap = rows.features.numel() * rows.features.shape[1] <= MAX_OWN_FLOP
        self._slow = (CHEAP_CONTRACTION,) * 2 if self._is_cheap else (SLOW_CONTRACTION, STALLED_CONTRACTION)
        self._held = [(b, fold) for b, fold in enumerate(without) if fold is not None]
        self._ratio = problem.model.scale / rows.coordinates.scale
        zeros = rows.features.new_zeros(self.k, rows.features.shape[1])
        start = zeros if start is None else problem.model.to(rows.coordinates, start)[:, : zeros.shape[1]]
        self._start = start.repeat(self.number, 1)
        self._hessian: Tensor | None = None
        """About the Hessians of the loss, (C, p, p)."""
        self._age = _STALE
        self._last: tuple[Tensor, BatchEvaluation] | None = None
        """The optimum for the last strength, and the evaluation there."""

    def fit(self, strengths: Sequence[Strength]) -> BatchPaths:
        """Finds the optimum for each strength: of l2 alone, or for one with l1; see `fit_small_folds`."""
        optima: list[tuple[float, Tensor]] = []
        waiting: list[_Fitted] = []
        found: list[BatchBound] = []
        passes = torch.zeros(len(strengths), self.number, dtype=torch.int64)
        limit = torch.full((self.number,), self.tolerance, dtype=torch.float64)
        for number, strength in enumerate(strengths):
            at = math.log(strength.l2 + strength.l1)
            self._set(strength)
            start = polynomial_at(at, optima) if optima else self._start
            fitted = _Fitted(number, *self._minimize(start, passes[number], limit))
            waiting.append(fitted)
            optima = [*(one for one in optima[1 - EXTRAPOLATED :] if one[0] != at), (at, fitted.point)]
            if number + 1 == len(strengths) or len(waiting) * self.rows.weights.numel() >= MIN_BOUND_LOGITS:
                found.append(self._certify(waiting, strengths, passes))
                waiting = []
        return BatchPaths(BatchBound(*(torch.cat(field) for field in zip(*found, strict=True))), passes)

    def _certify(self, waiting: Sequence[_Fitted], strengths: Sequence[Strength], passes: Tensor) -> BatchBound:
        """Bounds the gaps of fits; where a bound is not within the tolerance, more steps follow."""
        found = self._bound(waiting, strengths)
        missed = found.gap > self.tolerance * found.value
        for place in missed.any(1).nonzero()[:, 0].tolist():
            fitted, hessian, last = waiting[place], self._hessian, self._last
            self._set(strengths[fitted.number])
            limit = torch.where(missed[place], self.tolerance / 10, self.tolerance)
            for _ in range(MAX_REPAIRS):
                point, now = self._minimize(fitted.point, passes[fitted.number], limit)
                better = self._bound([_Fitted(fitted.number, point, now)], strengths)
                left = better.gap > self.tolerance * better.value
                if not bool(left[0].any()):
                    break
                limit = torch.where(left[0], limit / 10, limit)
            for field, new in zip(found, better, strict=True):
                field[place] = new[0]
            self._hessian, self._last = hessian, last
        return found

    def _bound(self, fitted: Sequence[_Fitted], strengths: Sequence[Strength]) -> BatchBound:
        """Bounds the gaps of fits."""
        point, *fields = (
            field[0].unsqueeze(0) if len(fitted) == 1 else torch.stack(field)  # a view where there is one
            for field in zip(*((one.point, *one.now) for one in fitted), strict=True)
        )
        at = BatchEvaluation(*fields)
        own = [strengths[one.number] for one in fitted]
        l2, l1 = (at.loss.new_tensor(one) for one in ([s.l2 for s in own], [s.l1 for s in own]))
        return batch_bound(self.rows, point, at, l2, l1)

    def _set(self, strength: Strength) -> None:
        """Takes a strength."""
        self._strength, self._age = strength, _STALE
        l2, l1 = strength.l2 * self._ratio.square(), strength.l1 * self._ratio
        self._l2, self._l1 = (F.pad(one, (0, 1)) if self.problem.intercept else one for one in (l2, l1))

    def _evaluate(self, point: Tensor, columns: Tensor | slice = ALL) -> BatchEvaluation:
        """F and its derivatives at points of some columns."""
        features, weights, targets = self.rows.features, self.rows.weights[columns], self.rows.targets[columns]
        logits = point @ features.T
        values, residuals, curvature = self.problem.loss.evaluate(logits.view(-1, 1), targets.view(-1))
        loss = torch.linalg.vecdot(values.view_as(logits), weights)
        weighted = residuals.view_as(logits).mul_(weights)
        value = self._value(loss, point)
        return BatchEvaluation(loss, value, weighted @ features, weighted, curvature.view_as(logits), logits)

    def _value(self, loss: Tensor, point: Tensor) -> Tensor:
        """F of each problem, (B,), from the losses (C,) at a point (C, p)."""
        if self._strength.l2:
            loss = torch.addmv(loss, point.square(), self._l2, alpha=0.5)
        if self._strength.l1:
            loss = torch.addmv(loss, point.abs(), self._l1)
        return loss if self.k == 1 else loss.view(-1, self.k).sum(1)

    def _estimated_gap(self, now: BatchEvaluation, point: Tensor, columns: Tensor | slice = ALL) -> Tensor:
        """About the gap that a bound would find, relative to f, (B,)."""
        d = self.problem.num_features
        l2, l1, coef, slope = self._l2[:d], self._l1[:d], point[:, :d], now.slopes[:, :d]
        if not self._strength.l1:
            gap = (slope + l2 * coef).square() @ (0.5 / l2)
        elif self._strength.l2:
            held = F.softshrink(slope / l1, 1.0) * l1
            gap = (held + l2 * coef).square() @ (0.5 / l2) + coef.abs() @ l1 + (coef * (slope - held)).sum(1)
        else:
            scale = 1 / (slope / l1).abs().amax(1).clamp(min=1.0)
            gap = torch.linalg.vecdot(coef, slope) * scale + coef.abs() @ l1 + (1 - scale).square() * now.loss
        if self.problem.intercept:
            gap += now.slopes[:, -1].square() / torch.linalg.vecdot(now.curvature, self.rows.weights[columns])
        return (gap if self.k == 1 else gap.view(-1, self.k).sum(1)) / now.value

    def _minimize(self, start: Tensor, passes: Tensor, limit: Tensor) -> tuple[Tensor, BatchEvaluation]:
        """Newton's method from a start (C, p) to an estimated relative gap of ``limit`` (B,).

        Problems whose gap is within the limit rest, while the others take steps.
        """
        point, now, first = start, self._evaluate(start), passes.clone()
        passes += 1
        if self._last is not None:
            before, there = self._last
            # Extrapolated far, a polynomial leads astray.
            astray = ~(now.value <= self._value(there.loss, before))
            if bool(astray.any()):
                point = torch.where(astray.repeat_interleave(self.k).unsqueeze(1), before, point)
                now = self._evaluate(point)
                passes += 1
            self._learn(ALL, point - before, now.slopes - there.slopes)
        gap, stuck = self._estimated_gap(now, point), torch.zeros_like(passes, dtype=torch.bool)
        while True:
            active = ~(gap <= limit) & ~stuck & (passes - first < MAX_STEPS)
            number = int(active.sum())
            if not number:
                self._last = point, now
                return point, now
            problems, columns = self._places(active, number)
            at, slopes, value = point[columns], now.slopes[columns], now.value[problems]
            step = self._step(at, slopes, columns, now)
            if step is None and self._age != _OWN:
                self._renew(now, columns)
                continue
            passes[problems] += 1
            if step is None:
                stuck |= active
                continue
            trial, found, stuck[problems] = self._try(at, step, value, columns)
            self._learn(columns, trial - at, found.slopes - slopes)
            before_step, after = gap[problems], self._estimated_gap(found, trial, columns)
            if isinstance(columns, slice):
                point, now, gap = trial, found, after
            else:
                point = point.index_copy(0, columns, trial)
                for name, field in now._asdict().items():
                    field.index_copy_(0, problems if name == "value" else columns, getattr(found, name))
                gap[problems] = after
            if self._age != _OWN:
                slow = (after > limit[problems]) & (after > self._slow[self._age] * before_step)
                if bool(slow.any()):
                    active = torch.zeros_like(active).masked_scatter_(active, slow) if self._age == _SHARED else active
                    self._renew(now, self._places(active, int(active.sum()))[1])

    def _places(self, active: Tensor, number: int) -> tuple[Tensor | slice, Tensor | slice]:
        """The places of the active problems, ``number`` of them, and of their columns."""
        if number == self.number:
            return ALL, ALL
        problems = active.nonzero()[:, 0]
        return problems, problems if self.k == 1 else active.repeat_interleave(self.k).nonzero()[:, 0]

    def _try(
        self, at: Tensor, step: Tensor, value: Tensor, columns: Tensor | slice
    ) -> tuple[Tensor, BatchEvaluation, Tensor]:
        """Takes a step, halved for each problem until f does not increase.

        Returns:
            The point, the evaluation there, and the problems whose step is 0 in the end, since none lowers f.
        """
        largest, halvings = value * (1 + VALUE_ROUNDING[torch.float64]), 0
        failed = torch.zeros_like(value, dtype=torch.bool)
        while True:
            trial = at + step
            found = self._evaluate(trial, columns)
            worse = ~(found.value <= largest) & ~failed
            if not bool(worse.any()):
                return trial, found, failed
            halvings += 1
            failed = worse if halvings > MAX_HALVINGS else failed
            factor = 0.0 if halvings > MAX_HALVINGS else 0.5
            step = torch.where(worse.repeat_interleave(self.k).unsqueeze(1), factor * step, step)

    # Steps

    def _step(self, point: Tensor, slopes: Tensor, columns: Tensor | slice, now: BatchEvaluation) -> Tensor | None:
        """Newton's step to be added, for points of some columns; ``None`` where a Hessian is not positive definite."""
        if self._hessian is None:
            self._hessian, self._age = self._shared_hessians(now), _SHARED
        hessian = self._hessian.clone() if isinstance(columns, slice) else self._hessian[columns]
        gradient = slopes
        if self._strength.l2:
            hessian.diagonal(dim1=1, dim2=2).add_(self._l2)
            gradient = torch.addcmul(slopes, point, self._l2)
        if self._strength.l1:
            target = minimize_models(hessian, gradient, point, self._l1)
            return None if target is None else target - point
        factors, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed.any()):
            return None
        return torch.cholesky_solve(gradient.unsqueeze(2), factors)[:, :, 0].neg_()

    def _learn(self, columns: Tensor | slice, move: Tensor, change: Tensor) -> None:
        """The BFGS update of the Hessians by the change of the gradients along a move."""
        if self._hessian is None:
            return
        hessian = self._hessian[columns]
        product = (hessian @ move.unsqueeze(2))[:, :, 0]
        known, true = torch.linalg.vecdot(product, move), torch.linalg.vecdot(change, move)
        least = MIN_LEARNED * self.rows.totals[columns]
        use = (known > least) & (true > least)
        new = change * torch.where(use, true.rsqrt(), 0.0).unsqueeze(1)
        old = product * torch.where(use, known.rsqrt(), 0.0).unsqueeze(1)
        pair, signed = torch.stack([new, old], dim=1), torch.stack([new, -old], dim=2)
        hessian = torch.baddbmm(hessian, signed, pair)
        if isinstance(columns, slice):
            self._hessian = hessian
        else:
            self._hessian[columns] = hessian

    def _renew(self, now: BatchEvaluation, columns: Tensor | slice) -> None:
        """Computes Hessians that are better than those that made a slow step."""
        features = self.rows.features
        if self._hessian is None or (self._age == _STALE and not self._is_cheap):
            self._hessian, self._age = self._shared_hessians(now), _SHARED
            return
        spread = (now.curvature * self.rows.weights)[columns]
        if self._is_cheap:
            self._hessian[columns] = (features * spread.unsqueeze(2)).transpose(1, 2) @ features
        else:
            self._hessian[columns] = torch.stack([(features * row.unsqueeze(1)).T @ features for row in spread])
        self._age = _OWN

    def _shared_hessians(self, now: BatchEvaluation) -> Tensor:
        """About the Hessians of the loss, (C, p, p), from the curvatures averaged over the problems."""
        rows = self.folded
        mean = now.curvature.view(-1, self.k, len(rows.weights)).mean(0) * rows.weights
        found = []
        for row in mean:
            parts = (rows.by_fold * row.view(rows.folds, -1, 1)).transpose(1, 2) @ rows.by_fold
            whole = parts.sum(0).expand(self.number, -1, -1).clone()
            for b, fold in self._held:
                whole[b] -= parts[fold]
            found.append(whole * self._share.view(-1, 1, 1))
        return torch.stack(found, dim=1).flatten(0, 1)
