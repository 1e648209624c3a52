"""Paths over l1, with or without l2, of small problems with separate logistic outputs: several strengths at once.

The quadratic model of the loss at one point has minima for several strengths, and those near the point's own strength
are near the optima.  So few Hessians serve a path, and the loss is evaluated at several minima at once: on few rows the
overhead of the operations takes most of the time.  The dual point that a model predicts for its minimum gives the
duality gap there.

References:
    Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from logreg.losses import one_vs_rest
from logreg.rows import MemoryRows
from logreg.solvers.bounds.batch_bounds import BatchBound, BatchEvaluation, BatchRows, batch_bound
from logreg.solvers.kernels import Array
from logreg.solvers.l1_model import minimize_for_strengths, minimize_model
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.paths.small_folds import MAX_PARAMETERS, MAX_ROW_NUMBERS, BatchPaths
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_l1 import MIN_TOLERANCE, TINY
from logreg.solvers.small.small_logistic import logistic_terms
from logreg.solvers.small.small_newton import MAX_HALVINGS, standardized_rows
from logreg.solvers.state import VALUE_ROUNDING
from logreg.solvers.threads import threads_for

MAX_RADIUS = 4
"""Strengths on either side of a point whose optima may come from the model there."""

MAX_TRIAL_NUMBERS = 2**20
"""Logits of the strengths that are tried at once: 8 MiB."""

MAX_STEPS = 30
"""Steps for one strength alone, after which it is left to the other solvers."""

ROOM = 0.9
"""Part of the tolerance at which an estimated gap is enough, since the certified one is a little larger."""

MAX_BOUND_NUMBERS = 2**17
"""Logits, of several strengths, whose bounds are computed at once: 1 MiB."""


def fits_several_at_once(problem: Problem, rows: MemoryRows, tolerance: float) -> bool:
    """Whether `fit_small_l1_path` may be called: few dense rows on the CPU without offsets, and separate outputs."""
    return (
        not problem.coupled
        and problem.loss.is_convex
        and problem.loss.has_conjugate
        and problem.largest_offset is None
        and problem.num_features + 1 <= MAX_PARAMETERS
        and rows.features.device.type == "cpu"
        and not rows.is_sparse
        and rows.processes is None
        and len(rows.labels) * problem.num_features <= MAX_ROW_NUMBERS
        and tolerance >= MIN_TOLERANCE
    )


@np.errstate(all="ignore")  # a step that is not finite is halved
def fit_small_l1_path(
    problem: Problem, rows: MemoryRows, strengths: Sequence[Strength], tolerance: float
) -> list[PathPoint]:
    """Finds the optimum for every strength; one that takes too many steps may not be within the tolerance.

    Args:
        problem: The problem over the rows, which `fits_several_at_once`; its own penalties do not matter.
        rows: The rows.
        strengths: Each with l1 > 0, and all with l2 > 0 or none; in the order of the fits, best from the strongest to
            the weakest.
        tolerance: The relative gap to end each fit at.
    """
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        path = _Path(problem, rows, strengths, tolerance)
        path.fit()
        paths = BatchPaths(path.bounds(), torch.from_numpy(path.passes).unsqueeze(1))
        return paths.of_problem(0, strengths, tolerance)


class _Points(NamedTuple):
    """Points of M strengths, or one that they share, and the loss there."""

    point: Array
    """Shape (M or 1, K, P); P is D + 1 with an intercept, else D."""
    negated: Array
    """Minus the margins, (M or 1, K, n)."""
    wrong: Array
    """Probability of the wrong class, (M or 1, K, n)."""
    curvature: Array
    """Second derivative of each row's loss by its logit, (M or 1, K, n)."""
    loss: Array
    """f without the penalty, of each output, (M or 1, K)."""

    def at(self, place: int) -> _Points:
        """The one of a strength."""
        return _Points(*(field[place : place + 1] for field in self))


class _Path:
    """The rows, standardized, and the fits for S strengths."""

    def __init__(self, problem: Problem, rows: MemoryRows, strengths: Sequence[Strength], tolerance: float) -> None:
        features, weights, self._coordinates = standardized_rows(problem, rows)
        self._problem, self._tolerance, self._features = problem, tolerance, features
        self._columns, self._weights = features.numpy().T, weights.numpy()[:, 0]
        self._targets = one_vs_rest(rows.labels, problem.num_outputs, torch.float64).T
        self._minus_sign = 1 - 2 * self._targets.numpy()
        self._signed = self._minus_sign * self._weights
        ratio = (problem.model.scale / self._coordinates.scale).numpy()
        shape, d = (len(strengths), len(self._columns)), problem.num_features
        self._shape = problem.num_outputs, len(self._columns)
        self._l1, self._l2 = np.zeros(shape), np.zeros(shape)  # of the intercept 0
        self._l1[:, :d] = np.array([one.l1 for one in strengths])[:, None] * ratio
        self._l2[:, :d] = np.array([one.l2 for one in strengths])[:, None] * np.square(ratio)
        self._has_l2 = any(one.l2 for one in strengths)
        self._strengths, self.passes = strengths, np.zeros(len(strengths), dtype=np.int64)
        self._waiting: list[tuple[Array, Array, Array, Array]] = []
        """Points, losses, minus the margins and dual points of fits without a bound."""
        self._bounds: list[BatchBound] = []
        room = MAX_TRIAL_NUMBERS // (2 * self._signed.size) - 1
        self._most = max(min(MAX_RADIUS, room), 0)

    def _evaluate(self, point: Array) -> _Points:
        """The loss at points (M, K, P)."""
        # Of one matrix; NumPy multiplies stacked ones one by one.
        negated = (point.reshape(-1, point.shape[2]) @ self._columns).reshape(*point.shape[:2], -1)
        negated *= self._minus_sign
        values, wrong, curvature = logistic_terms(negated)
        return _Points(point, negated, wrong, curvature, values @ self._weights)

    def _values(self, loss: Array, point: Array, which: Array) -> Array:
        """F for the strengths ``which``, (M,)."""
        penalty: Array = (np.abs(point) * self._l1[which][:, None]).sum((1, 2))
        if self._has_l2:
            penalty += (np.square(point) * self._l2[which][:, None]).sum((1, 2)) / 2
        penalty += loss.sum(1)
        return penalty

    def fit(self) -> None:
        """Fits all strengths, in their order.

        The gap at the minimum of a model is about of fourth order in the distance from the strength ``center``, of
        whose point it is the model, in either direction.  So a model is made in the middle of the strengths that it is
        to serve, at the minimum of the model before.
        """
        last, first, center, radius, steps = len(self._strengths) - 1, 0, 0, 0.0, 0
        now = self._evaluate(np.zeros((1, *self._shape)))
        while first <= last:
            end = min(center + int(radius), last)
            which = np.append(np.arange(first, end + 1), min(end + 1 + int(radius), last))
            new = self._evaluate(self._minima(now, center, which))
            self.passes[which] += 1
            gap, dual = self._gaps(now, new, which)
            enough = ROOM * self._tolerance * self._values(new.loss, new.point, which)
            near = gap <= enough
            near[-1] = False
            found = int(near.argmin())
            # The first strength that is missed, or the farthest one beyond the center.
            place = found if found < len(which) - 1 or end == center else found - 1
            distance = abs(int(which[place]) - center)
            reach = (enough[place] / max(gap[place], TINY)) ** 0.25 * distance
            radius = float(np.clip(reach, 0.0, min(2 * distance + 1, self._most)))
            if not found and steps < MAX_STEPS:
                now, center, radius, steps = self._lower(now, new.at(0), which[:1]), first, 0.0, steps + 1
                continue
            found, steps = max(found, 1), 0
            self._waiting.append((new.point[:found], new.loss[:found], new.negated[:found], dual[:found]))
            if first + found > last or sum(one[2].size for one in self._waiting) >= MAX_BOUND_NUMBERS:
                self._certify(first + found)
            place = min(found + int(radius), len(which) - 1)
            now, center, first = new.at(place), int(which[place]), first + found

    def _gaps(self, now: _Points, new: _Points, which: Array) -> tuple[Array, Array]:
        """The duality gaps at the minima of models up to rounding, (M,), and their dual points.

        A dual point is that which the model predicts, as a probability q of the wrong class, (M, K, n); clipped where
        it is none, and scaled down until it is feasible.
        """
        d, coef, l1, l2 = self._problem.num_features, new.point, self._l1[which][:, None], self._l2[which][:, None]
        dual = now.wrong + now.curvature * (new.negated - now.negated)
        clipped = np.clip(dual, 0.0, 1.0)
        if self._problem.intercept and np.count_nonzero(clipped != dual):
            # Their sums over the rows stay 0 by a move in proportion to q (1 - q), which leaves the range nowhere.
            curvature = clipped * (1 - clipped)
            length = (clipped * self._signed).sum(2) / np.maximum(curvature @ self._weights, TINY)
            clipped -= np.clip(length, -1.0, 1.0)[:, :, None] * self._minus_sign * curvature
        dual = clipped
        sums = (dual * self._signed).reshape(-1, dual.shape[2]) @ self._columns.T
        sums = sums.reshape(coef.shape)
        if self._has_l2:
            held = np.sign(sums) * np.maximum(np.abs(sums) - l1, 0.0)
            off = (held + l2 * coef)[..., :d]
            terms = (np.square(off) / (2 * l2[..., :d])).sum((1, 2)) + (coef * (sums - held)).sum((1, 2))
        else:
            reach = (np.abs(sums[..., :d]) / l1[..., :d]).max((1, 2), initial=1.0)
            scale = (1 / reach)[:, None, None]
            dual *= scale
            terms = (coef[..., :d] * sums[..., :d] * scale).sum((1, 2))
        terms += (np.abs(coef) * l1).sum((1, 2))
        q, other = np.maximum(dual, TINY), np.maximum(1 - dual, TINY)
        conjugate = q * np.log(q) + other * np.log(other)  # minus the entropy
        excess = new.loss.sum(1) + ((conjugate - new.negated * dual) @ self._weights).sum(1)
        return excess + terms, dual

    def _lower(self, now: _Points, new: _Points, which: Array) -> _Points:
        """The end of a step, which is halved until f does not increase."""
        highest = self._values(now.loss, now.point, which) * (1 + VALUE_ROUNDING[torch.float64])
        for _ in range(MAX_HALVINGS):
            if self._values(new.loss, new.point, which) <= highest:
                return new
            self.passes[which] += 1
            new = self._evaluate((now.point + new.point) / 2)
        return now

    def _minima(self, now: _Points, center: int, which: Array) -> Array:
        """The minima (M, K, P) of the models at a point, near the optimum for ``center``, of some strengths.

        The models have the coefficients that the sequential strong rule keeps; others are found by the gap.
        """
        result = np.empty((len(which), *now.point.shape[1:]))
        result[:] = now.point
        l1, l2 = self._l1[which], self._l2[which]
        gradients, strong = (now.wrong * self._signed)[0] @ self._columns.T, 2 * l1.min(0) - self._l1[center]
        for output, spread in enumerate(now.curvature[0] * self._weights):
            start, gradient = now.point[0, output], gradients[output]
            kept = ((start != 0) | (np.abs(gradient) >= strong)).nonzero()[0]
            if not len(kept):
                continue
            columns, start, gradient = self._columns.take(kept, 0), start.take(kept), gradient.take(kept)
            hessian, own_l1 = (columns * spread) @ columns.T, l1.take(kept, 1)
            if not self._has_l2:
                found = minimize_for_strengths(hessian, gradient, start, own_l1)
            else:
                found, at = np.empty_like(own_l1), start
                for place, ridge in enumerate(l2.take(kept, 1)):
                    slope = gradient + hessian @ (at - start) + ridge * at
                    found[place] = at = minimize_model(hessian + np.diag(ridge), slope, at, own_l1[place]).point
            if found is not None:
                result[:, output, kept] = found
        return result

    def _certify(self, end: int) -> None:
        """Bounds f - f* at the last fits, up to that of the strength ``end``."""
        points, losses, negated, dual = (np.concatenate(field) for field in zip(*self._waiting, strict=True))
        self._waiting = []
        which, weights = np.arange(end - len(points), end), torch.from_numpy(self._weights)
        outputs = len(self._targets)
        rows = BatchRows(
            self._problem,
            self._coordinates,
            self._features,
            weights.expand_as(self._targets),
            weights.sum().expand(outputs),
            self._targets,
            (weights @ self._features.square()).expand(outputs, -1),
        )
        theta = dual * self._signed
        slopes = (theta.reshape(-1, theta.shape[2]) @ self._columns.T).reshape(points.shape)
        value = self._values(losses, points, which)[:, None]
        fields = losses, value, slopes, theta, dual * (1 - dual), negated * self._minus_sign
        at = BatchEvaluation(*(torch.from_numpy(field) for field in fields))
        own = self._strengths[end - len(points) : end]
        l2, l1 = (torch.tensor(one, dtype=torch.float64) for one in ([s.l2 for s in own], [s.l1 for s in own]))
        self._bounds.append(batch_bound(rows, torch.from_numpy(points), at, l2, l1, predicted=True))

    def bounds(self) -> BatchBound:
        """The bounds of f - f* at the ends of all fits."""
        return BatchBound(*(torch.cat(field) for field in zip(*self._bounds, strict=True)))
