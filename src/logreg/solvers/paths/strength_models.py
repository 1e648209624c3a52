"""The objectives of several strengths of l1 over the rows of a small problem, and their quadratic models at one point.

Outputs are separate and logistic, as in `logreg.solvers.small.small_logistic`.  An operation serves several strengths:
a model of the loss with its Hessian, the loss at the points of all strengths, the gaps, and the certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from logreg.losses import one_vs_rest
from logreg.rows import MemoryRows
from logreg.solvers.bounds.batch_bounds import BatchBound, BatchRows, DualPoints, bound_at_dual_points
from logreg.solvers.kernels import Array
from logreg.solvers.l1_model import minimize_for_strengths, minimize_model
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, accumulated
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_l1 import FEASIBLE_MARGIN, TINY, clipped_dual
from logreg.solvers.small.small_logistic import SQUARES_MARGIN, logistic_terms
from logreg.solvers.small.small_newton import MAX_HALVINGS, standardized_rows
from logreg.solvers.state import VALUE_ROUNDING


class Points(NamedTuple):
    """Points of M strengths, or one point, and the loss there."""

    point: Array
    """Shape (M, K, P); P is D + 1 with an intercept, else D."""
    negated: Array
    """Minus the margins, (M, K, n)."""
    wrong: Array
    """Probability of the wrong class, (M, K, n)."""
    curvature: Array
    """Second derivative of each row's loss by its logit, (M, K, n)."""
    loss: Array
    """f without the penalty, of each output, (M, K)."""

    def at(self, place: int) -> Points:
        """The point of one strength."""
        return Points(*(field[place : place + 1] for field in self))


class Dual(NamedTuple):
    """Dual points of M strengths, and the gaps that they show."""

    gap: Array
    """The duality gap up to rounding, (M,)."""
    sums: Array
    """The sums of theta x over the rows, (M, K, P)."""
    excess: Array
    """The Fenchel-Young excess, (M, K)."""
    sizes: Array
    """Size of the terms of the excess, which cancel, (M, K)."""
    conductance: Array
    """Sum of the curvatures of the rows at the dual points, (M, K)."""


class Ends(NamedTuple):
    """The ends of the fits for M strengths, with all that their certificates need."""

    point: Array
    """See `Points`."""
    loss: Array
    value: Array
    """The objective, (M,)."""
    dual: Dual

    @classmethod
    def of(cls, points: Points, value: Array, dual: Dual, number: int) -> Ends:
        """The first of some points, with their objectives and their dual points."""
        first = Dual(*(field[:number] for field in dual))
        return cls(points.point[:number], points.loss[:number], value[:number], first)


class StrengthModels:
    """The rows, standardized, and the objectives of S strengths.

    Attributes:
        size: Logits of one point: K times n.
    """

    def __init__(self, problem: Problem, rows: MemoryRows, strengths: Sequence[Strength]) -> None:
        """The arguments are those of `logreg.solvers.paths.small_l1_path.fit_small_l1_path`."""
        self._features, weights, self._coordinates = standardized_rows(problem, rows)
        self._problem, self._strengths, d = problem, strengths, problem.num_features
        self._columns, self._weights = self._features.numpy().T, weights.numpy()[:, 0]
        self._offset = None if rows.offset is None else rows.offset.double().numpy()
        self._targets = one_vs_rest(rows.labels, problem.num_outputs, torch.float64).T
        self._minus_sign = 1 - 2 * self._targets.numpy()
        self._signed = self._minus_sign * self._weights
        self.size = self._signed.size
        ratio = (problem.model.scale / self._coordinates.scale).numpy()
        shape = len(strengths), len(self._columns)
        self._l1, self._l2 = np.zeros(shape), np.zeros(shape)  # of the intercept 0
        self._l1[:, :d] = np.array([one.l1 for one in strengths])[:, None] * ratio
        self._l2[:, :d] = np.array([one.l2 for one in strengths])[:, None] * np.square(ratio)
        self._has_l2 = any(one.l2 for one in strengths)

    def start(self, point: torch.Tensor) -> Points:
        """The loss at a point (K, D + 1) in the model's coordinates."""
        mine = self._problem.model.to(self._coordinates, point)[None, :, : len(self._columns)]
        return self.evaluate(mine.numpy())

    def evaluate(self, point: Array) -> Points:
        """The loss at points (M, K, P)."""
        # Of one matrix; NumPy multiplies stacked ones one by one.
        negated = (point.reshape(-1, point.shape[2]) @ self._columns).reshape(*point.shape[:2], -1)
        if self._offset is not None:
            negated += self._offset
        negated *= self._minus_sign
        values, wrong, curvature = logistic_terms(negated)
        return Points(point, negated, wrong, curvature, values @ self._weights)

    def values(self, at: Points, which: Array) -> Array:
        """The objectives at points of the strengths ``which``, (M,)."""
        sizes = np.abs(at.point)
        value: Array = (sizes * self._l1[which][:, None]).sum((1, 2))
        if self._has_l2:
            value += (np.square(sizes) * self._l2[which][:, None]).sum((1, 2)) / 2
        value += at.loss.sum(1)
        return value

    def minima(self, now: Points, center: int, which: Array) -> Array:
        """The minima (M, K, P) of the models at a point, near the optimum for ``center``, of some strengths.

        The models have the coefficients that the sequential strong rule keeps; others are found by the gap.

        References:
            Tibshirani and others (2012), Strong rules for discarding predictors in lasso-type problems.
        """
        result = np.empty((len(which), *now.point.shape[1:]))
        result[:] = now.point
        l1, l2 = self._l1[which], self._l2[which]
        gradients, strong = (now.wrong * self._signed)[0] @ self._columns.T, 2 * l1.min(0) - self._l1[center]
        for output, roots in enumerate(np.sqrt(now.curvature[0] * self._weights)):
            start, gradient = now.point[0, output], gradients[output]
            kept = ((start != 0) | (np.abs(gradient) >= strong)).nonzero()[0]
            if not len(kept):
                continue
            columns, start, gradient = self._columns.take(kept, 0), start.take(kept), gradient.take(kept)
            columns *= roots
            # NumPy sees that the product is symmetric.
            hessian, own_l1 = columns @ columns.T, l1.take(kept, 1)
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

    def lowered(self, now: Points, new: Points, which: Array, passes: Array) -> Points:
        """The end of a step for one strength, which is halved until f does not increase; counts the evaluations."""
        highest = self.values(now, which) * (1 + VALUE_ROUNDING[torch.float64])
        for _ in range(MAX_HALVINGS):
            if self.values(new, which) <= highest:
                return new
            passes[which] += 1
            new = self.evaluate((now.point + new.point) / 2)
        return now

    def gaps(self, now: Points, new: Points, which: Array) -> Dual:
        """The dual points that the models at a point predict at their minima, and the duality gaps there.

        A dual point is clipped to probabilities, and with l1 alone scaled down until it is feasible.

        Args:
            now: The point.
            new: The minima.
            which: Their strengths.
        """
        d, coef, l1, l2 = self._problem.num_features, new.point, self._l1[which][:, None], self._l2[which][:, None]
        q = now.wrong + now.curvature * (new.negated - now.negated)
        q = clipped_dual(self._problem, q, self._minus_sign, self._weights)
        sums = self._sums(q * self._signed)
        if self._has_l2:
            held = np.sign(sums) * np.maximum(np.abs(sums) - l1, 0.0)
            off = (held + l2 * coef)[..., :d]
            terms = (np.square(off) / (2 * l2[..., :d])).sum((1, 2)) + (coef * (sums - held)).sum((1, 2))
        else:
            reach = (np.abs(sums[..., :d]) / l1[..., :d]).max((1, 2), initial=1.0)
            scale = ((1 - FEASIBLE_MARGIN * (reach > 1)) / reach)[:, None, None]
            q *= scale
            sums *= scale
            terms = (coef[..., :d] * sums[..., :d]).sum((1, 2))
        terms += (np.abs(coef) * l1).sum((1, 2))
        other = 1 - q
        # The conjugate is minus the entropy.
        conjugate = (q * np.log(np.maximum(q, TINY)) + other * np.log(np.maximum(other, TINY))) @ self._weights
        product = new.negated * q
        excess = new.loss + conjugate - product @ self._weights
        sizes = new.loss - conjugate + np.abs(product) @ self._weights
        conductance = (q * other) @ self._weights if self._problem.intercept else np.ones_like(excess)
        return Dual(excess.sum(1) + terms, sums, excess, sizes, conductance)

    def _sums(self, theta: Array) -> Array:
        """The sums of theta x over the rows, (M, K, P), of numbers (M, K, n)."""
        sums: Array = theta.reshape(-1, theta.shape[2]) @ self._columns.T
        return sums.reshape(*theta.shape[:2], -1)

    def bounds(self, ends: Sequence[Ends]) -> BatchBound:
        """Bounds f - f* at the ends of the fits of all strengths, in their order, by their dual points."""
        joined = [np.concatenate([end[field] for end in ends]) for field in range(3)]
        dual = Dual(*(np.concatenate(field) for field in zip(*(end.dual for end in ends), strict=True)))
        total, outputs = self._problem.row_sum_scale * self._problem.total_weight, len(self._targets)
        point, loss, value, sums, excess, sizes, conductance = map(torch.from_numpy, (*joined, *dual[1:]))
        totals = point.new_full((outputs,), total)
        weights = torch.from_numpy(self._weights).expand_as(self._targets)
        squares = point.new_full((outputs, point.shape[2]), total * SQUARES_MARGIN)
        rows = BatchRows(self._problem, self._coordinates, self._features, weights, totals, self._targets, squares)
        l2, l1 = (point.new_tensor(one) for one in zip(*((s.l2, s.l1) for s in self._strengths), strict=True))
        rounding = (accumulated(len(self._weights)) + 8 * UNIT_ROUNDOFF) * sizes + 8 * UNIT_ROUNDOFF * total
        gradient = sums + torch.from_numpy(self._l2)[:, None] * point
        theta = DualPoints(sums, excess, rounding, conductance)
        return bound_at_dual_points(rows, point, loss, value[:, None], gradient, theta, l2, l1, predicted=True)
