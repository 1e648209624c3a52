"""Ridge paths of a softmax, and of sparse rows: all rows, and all rows but a fold, by Newton's method in one batch.

The problems share their rows, so their logits are one matrix product, and so are their gradients.  Conjugate gradients
find the Newton step of each problem.  The Hessians of a softmax are alike: the factor of one, with curvatures averaged
over the problems, is the preconditioner.  It serves until they converge slowly; only its known penalty changes.  Sparse
rows have the diagonal of each Hessian, and their features stay where they are.

The step of the last point bounds its gap (`logreg.solvers.bounds.newton_bound`), so that a certificate costs no other
passes.

References:
    Nocedal and Wright (2006), Numerical Optimization, chapter 7.1: the inexact Newton method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import appended_ones, as_scipy, column_sizes, converted, is_sparse, squared
from logreg.facts import Batch
from logreg.rows import MemoryRows, row_weights
from logreg.solvers.bounds.base import Bound, EvaluatedPoint
from logreg.solvers.bounds.newton_bound import bound_by_newton_step
from logreg.solvers.kernels import coupled_gram, sum_over_rows
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.paths.small_folds import (
    EXTRAPOLATED,
    MAX_LOGITS,
    FoldedRows,
    fits_as_folded,
    polynomial_at,
    weights_without,
)
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, within
from logreg.solvers.threads import threads_for

MAX_ORDER = 1024
"""Parameters of a problem up to which paths are fitted in a batch: a Hessian takes 8 MiB."""

MAX_NONZEROS = 2**22
"""Numbers of sparse rows up to which paths are fitted in a batch: 48 MiB, of which there is a transposed copy."""

MAX_STEPS = 12
"""Newton steps for a strength, after which a problem is left to the general solvers."""

MAX_PRODUCTS = {"factor": 30, "diagonal": 300}
"""Products of the Hessian with a vector for one step, by preconditioner."""

SLOW_PRODUCTS = 6
"""Products for one step above which the preconditioner is computed anew: it takes about the time of ten."""

FORCING = 0.05
"""Residual of a step relative to the gradient, in the norm of the preconditioner, far from the optimum."""

MAX_HALVINGS = 10
"""Halvings of a step that increases f, after which a problem is left to the general solvers."""

ROOM = 0.5
"""Part of the tolerance at which an estimated bound is enough, since the certified one is a little larger."""


class _Evaluation(NamedTuple):
    """The objectives of B problems and their derivatives at a point (B, K, p)."""

    value: Tensor
    """f, (B,)."""
    loss: Tensor
    """f without the penalty, (B,)."""
    gradient: Tensor
    """Shape (B, K, p)."""
    curvature: Tensor
    """`Loss.curvature` of each row in each problem, (n * B, K)."""


class _Step(NamedTuple):
    """A Newton step of B problems, which is to be subtracted."""

    step: Tensor
    """Shape (B, K, p)."""
    gap: Tensor
    """About the bound of f - f* by the step, (B,)."""
    products: int
    """Products with the Hessian."""


def fits_in_ridge_batch(problem: Problem, rows: MemoryRows, folds: Tensor) -> bool:
    """Whether `fit_ridge_folds` may be called."""
    if not (problem.loss.is_convex and problem.loss.has_conjugate and math.isfinite(problem.loss.self_concordance)):
        return False
    if rows.is_sparse:
        return (
            rows.features.device.type == "cpu"
            and problem.largest_offset is None
            and rows.features.values().shape[0] <= MAX_NONZEROS
            and problem.num_parameters <= MAX_LOGITS
        )
    return problem.coupled and problem.num_parameters <= MAX_ORDER and fits_as_folded(problem, rows, folds)


def fit_ridge_folds(
    problem: Problem,
    rows: MemoryRows,
    folds: Tensor,
    without: Sequence[int | None],
    strengths: Sequence[Strength],
    tolerance: float,
    near: Sequence[Sequence[PathPoint]] = (),
) -> list[list[PathPoint]]:
    """Finds the optimum of several problems for every strength of l2.

    Args:
        problem: The problem over all rows; its own penalties do not matter.
        rows: The rows.
        folds: The fold of each row, (N,).
        without: For each of the B problems the fold that it is without, or ``None`` for all rows.
        strengths: Without l1, in the order of the fits, best from the strongest to the weakest.
        tolerance: The relative gap to end each fit at.
        near: For each problem its points for some other strengths, in one order, from which the fits may start.

    Returns:
        For each problem a point for each strength; some may not be within the tolerance.  Of sparse rows such a
        strength is the last one.
    """
    with torch.inference_mode(), threads_for(4.0 * problem.rows * problem.num_parameters * len(without)):
        folded = SparseRows(problem, rows, folds) if rows.is_sparse else FoldedRows(problem, rows, folds)
        most = max(1, MAX_LOGITS // (max(folded.features.shape) * problem.num_outputs))
        parts = [slice(first, first + most) for first in range(0, len(without), most)]
        found = [
            path
            for part in parts
            for path in _Batch(folded, folds, without[part], tolerance).fit(strengths, near[part])
        ]
    return [[replace(one, point=one.point.clone()) for one in path] for path in found]  # no tensors of inference


class SparseRows:
    """Sparse rows in float64, as they are, with a last column of ones where there is an intercept."""

    def __init__(self, problem: Problem, rows: MemoryRows, folds: Tensor) -> None:
        self.problem, self.labels, self._folds = problem, rows.labels, folds
        self.coordinates = Coordinates(*(torch.full_like(problem.model.scale, value) for value in (0.0, 1.0)))
        features = converted(rows.features, torch.float64)
        self.features = appended_ones(features) if problem.intercept else features
        batch = Batch(rows.features, rows.labels, rows.sample_weight)
        weights = row_weights(batch, problem.class_weight, torch.float64)
        self.weights = torch.ones(len(folds), dtype=torch.float64) if weights is None else weights

    def weights_of(self, without: Sequence[int | None]) -> Tensor:
        """As of `FoldedRows`."""
        return weights_without(self.problem, self.weights, self._folds, without)


class _Products:
    """Products with the features (n, p), dense or sparse."""

    def __init__(self, features: Tensor) -> None:
        self._dense = None if is_sparse(features) else features
        if self._dense is None:
            self._sparse = as_scipy(features)
            self._transposed = self._sparse.T.tocsr()

    def logits(self, points: Tensor) -> Tensor:
        """Logits (n, B) of points (B, p)."""
        if self._dense is not None:
            return self._dense @ points.T
        return torch.from_numpy(self._sparse @ points.T.numpy())

    def sums(self, weights: Tensor) -> Tensor:
        """Sums of the rows with weights (n, B): shape (B, p)."""
        if self._dense is not None:
            return weights.T @ self._dense
        return torch.from_numpy(self._transposed @ weights.numpy()).T


class _Batch:
    """B problems that are fitted together."""

    def __init__(
        self, rows: FoldedRows | SparseRows, folds: Tensor, without: Sequence[int | None], tolerance: float
    ) -> None:
        problem = self._problem = rows.problem
        weights = rows.weights_of(without)
        self._folded, self._rows, self._tolerance = rows, rows.features, tolerance
        self._number, self._k = len(without), problem.num_outputs
        self._weights, self._labels = weights.T.contiguous(), rows.labels.repeat_interleave(self._number)
        self._products = _Products(rows.features)
        self._is_sparse, squares = is_sparse(rows.features), squared(rows.features)
        self._squared_products = _Products(squares) if self._is_sparse else None
        self._mean_weights = weights.mean(0).unsqueeze(1)
        totals = (weights > 0).double() @ rows.weights
        self._ratio = problem.model.scale / rows.coordinates.scale
        self._hessian: Tensor | None = None
        """About the Hessian of the loss, (K p, K p)."""
        self._factor = rows.features
        """The preconditioner: a Cholesky factor, (K p, K p), or the diagonals of sparse rows, (B, K, p)."""
        counts = [len(folds) - (0 if fold is None else int((folds == fold).sum())) for fold in without]
        self._problems = [
            replace(problem, rows=count, total_weight=total)
            for count, total in zip(counts, totals.tolist(), strict=True)
        ]
        self._squares = self._padded(sum_over_rows(weights.T, squares) * (1 + 1e-9))
        largest = column_sizes(rows.features) if self._is_sparse else rows.features.abs().amax(0)
        self._largest = self._padded(largest)

    def _padded(self, values: Tensor) -> Tensor:
        """Values (..., p) with 0 for an intercept where there is none: (..., D + 1)."""
        return values if self._problem.intercept else F.pad(values, (0, 1))

    def fit(self, strengths: Sequence[Strength], near: Sequence[Sequence[PathPoint]]) -> list[list[PathPoint]]:
        """Finds the optimum for each strength; see `fit_ridge_folds`."""
        optima: list[tuple[float, Tensor]] = []
        if near and near[0]:
            start = min(zip(*near, strict=True), key=lambda one: abs(math.log(one[0].l2 / strengths[0].l2)))
            own, size = self._folded.coordinates, self._rows.shape[1]
            point = torch.stack([self._problem.model.to(own, one.point)[:, :size] for one in start])
            optima = [(math.log(start[0].l2), point)]
        found: list[list[PathPoint]] = [[] for _ in range(self._number)]
        for strength in strengths:
            self._l2 = strength.l2 * self._ratio.square()
            if self._problem.intercept:
                self._l2 = F.pad(self._l2, (0, 1))
            at = math.log(strength.l2)
            point, points = self._minimize(optima, at, strength)
            optima = [*(one for one in optima[1 - EXTRAPOLATED :] if one[0] != at), (at, point)]
            for path, one in zip(found, points, strict=True):
                path.append(one)
            if self._is_sparse and not all(one.converged for one in points):
                break  # without a factor, weaker penalties take more products yet
        return found

    def _minimize(
        self, optima: Sequence[tuple[float, Tensor]], at: float, strength: Strength
    ) -> tuple[Tensor, list[PathPoint]]:
        """Newton's method for one strength: the point (B, K, p) at its end, and the fits with their bounds."""
        shape = self._number, self._k, self._rows.shape[1]
        point = polynomial_at(at, optima) if optima else self._weights.new_zeros(shape)
        now, passes = self._evaluate(point), 1
        if len(optima) > 1:  # extrapolated far, a polynomial leads astray
            before = self._evaluate(optima[-1][1])
            if bool((before.value < now.value).any()):
                point, now = optima[-1][1], before
            passes += 1
        self._factor_of(now)
        limit, best = self._tolerance, point
        for _ in range(MAX_STEPS):
            found = self._newton_step(now, limit)
            passes += found.products
            if found.products > SLOW_PRODUCTS:
                self._hessian = None
            if bool((found.gap <= ROOM * limit * now.value).all()):
                points = self._certified(point, now, found.step, strength, passes)
                if all(one.converged for one in points) or limit < self._tolerance / 10:
                    return point, points
                limit /= 10
            step, best = found.step, point
            for _ in range(MAX_HALVINGS):
                trial = self._evaluate(point - step)
                passes += 1
                worse = ~(trial.value <= now.value * (1 + VALUE_ROUNDING[torch.float64]))
                if not bool(worse.any()):
                    break
                step = torch.where(worse.view(-1, 1, 1), step / 2, step)
            else:
                break
            point, now = point - step, trial
            if self._hessian is None:
                self._factor_of(now)
        return best, self._certified(point, now, self._newton_step(now, limit).step, strength, passes)

    def _evaluate(self, point: Tensor) -> _Evaluation:
        """The objectives and their derivatives at a point (B, K, p)."""
        rows, weights = self._rows, self._weights
        logits = self._products.logits(point.flatten(0, 1)).view(-1, self._k)
        values, residuals, curvature = self._problem.loss.evaluate_precisely(logits, self._labels)
        loss = (values.view_as(weights) * weights).sum(0)
        weighted = residuals.reshape(len(rows), self._number, self._k).mul_(weights.unsqueeze(2))
        shrunk = self._l2 * point
        gradient = self._products.sums(weighted.flatten(1)).reshape(point.shape) + shrunk
        return _Evaluation(loss + (shrunk * point).sum((1, 2)) / 2, loss, gradient, curvature)

    def _product(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """The Hessians of the losses times a vector (B, K, p)."""
        change = self._products.logits(vector.flatten(0, 1)).view(-1, self._k)
        moves = self._problem.loss.curvature_product(curvature, change)
        moves = moves.reshape(len(self._rows), self._number, self._k).mul_(self._weights.unsqueeze(2))
        return self._products.sums(moves.flatten(1)).reshape(vector.shape)

    def _factor_of(self, now: _Evaluation) -> None:
        """Makes the preconditioner for the current penalty; the Hessian of a factor is computed where there is none."""
        if self._squared_products is not None:
            own = self._problem.loss.own_curvature(now.curvature).view(len(self._rows), self._number, self._k)
            sums = self._squared_products.sums((own * self._weights.unsqueeze(2)).flatten(1))
            self._factor = (sums.reshape(self._number, self._k, -1) + self._l2).clamp(min=1e-300)
            return
        if self._hessian is None:
            # Averaged over the problems that have a row: the others may predict it far worse.
            mean = (now.curvature.view(len(self._rows), self._number, self._k) * self._weights.unsqueeze(2)).sum(1)
            mean /= self._weights.sum(1, keepdim=True).clamp(min=1e-300)
            self._hessian = coupled_gram(self._rows, mean, self._mean_weights)
        size = self._rows.shape[1]
        matrix = self._hessian.clone().view(self._k, size, self._k, size)
        # A softmax has no curvature along vectors that are equal for all outputs; any curvature there will do.
        own = matrix.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)
        matrix += torch.diag(own.mean(0) / self._k + 1e-300).view(1, size, 1, size)
        own += self._l2
        self._factor, failed = torch.linalg.cholesky_ex(matrix.view(self._k * size, -1))
        if bool(failed):  # of columns that depend on each other, with a penalty that is lost in rounding
            self._factor = own.reshape(-1).clamp(min=1e-300).sqrt().diag()

    def _preconditioned(self, gradient: Tensor) -> Tensor:
        """The inverse of the preconditioner times a gradient (B, K, p)."""
        if self._is_sparse:
            step = gradient / self._factor
        else:
            step = torch.cholesky_solve(gradient.flatten(1).T, self._factor).T.view_as(gradient)
        return step - step.mean(1, keepdim=True) if self._problem.coupled else step

    def _newton_step(self, now: _Evaluation, limit: float) -> _Step:
        """The Newton step at a point by preconditioned conjugate gradients.

        It is precise enough where its bound of the gap is within ``limit`` relative to f, or its residual is small
        and the decrease that it predicts is above that.
        """
        mass = (now.curvature.view(len(self._rows), self._number, self._k) * self._weights.unsqueeze(2)).sum(0)
        inverse = 0.5 / self._l2.expand(self._number, self._k, -1)
        if self._problem.intercept:
            inverse = torch.cat([inverse[..., :-1], 0.5 / mass.unsqueeze(2)], dim=2)
        step, moved, residual = torch.zeros_like(now.gradient), torch.zeros_like(now.gradient), now.gradient
        direction = solved = self._preconditioned(residual)
        energy = first = (residual * solved).sum((1, 2))
        enough = ROOM * limit * now.value
        products = 0
        while products < MAX_PRODUCTS["diagonal" if self._is_sparse else "factor"]:
            products += 1
            product = self._product(direction, now.curvature)
            whole = product + self._l2 * direction
            curvature = (direction * whole).sum((1, 2))
            length = torch.where(curvature > 0, energy / curvature, 0.0).view(-1, 1, 1)
            step, moved = step + length * direction, moved + length * product
            residual = residual - length * whole
            solved = self._preconditioned(residual)
            before, energy = energy, (residual * solved).sum((1, 2))
            gap = (step * moved).sum((1, 2)) / 2 + ((now.gradient - moved).square() * inverse).sum((1, 2))
            is_precise = (energy <= FORCING**2 * first) & ((step * now.gradient).sum((1, 2)) > 2 * enough)
            if bool(((gap <= enough) | is_precise | (energy <= 0)).all()):
                break
            direction = solved + torch.where(before > 0, energy / before, 0.0).view(-1, 1, 1) * direction
        return _Step(step, gap, products)

    def _certified(
        self, point: Tensor, now: _Evaluation, step: Tensor, strength: Strength, passes: int
    ) -> list[PathPoint]:
        """The fits at a point (B, K, p) with their bounds; without one only f* >= 0 is known."""
        own = self._folded.coordinates
        curvature = now.curvature.view(len(self._rows), self._number, self._k)
        found = []
        for number, plain in enumerate(self._problems):
            problem, weights, mine = strength.of(plain), self._weights[:, number : number + 1], curvature[:, number]
            spread = mine * weights
            mass = spread.sum(0)
            by_intercepts = InterceptCurvature(mass, mass)
            if problem.coupled:
                pairs = (spread.T @ mine).fill_diagonal_(0)
                joint = torch.diag(pairs.sum(1)) - pairs
                by_intercepts = InterceptCurvature(joint.diagonal(), mass, joint)
            evaluation = Derivatives(
                float(now.value[number]),
                self._padded(now.gradient[number]),
                by_intercepts,
                float(now.loss[number]),
            )
            at = EvaluatedPoint(
                problem, own, self._padded(point[number]), evaluation, self._squares[number], self._largest
            )
            bound = drive(
                bound_by_newton_step(at, self._rows, weights, mine, step[number]),
                MemoryRows(self._rows, self._folded.labels),
            )
            if bound is None:
                value = evaluation.value
                slope = own.gradient_to(problem.model, evaluation.gradient)
                bound = Bound(value, value + at.value_error, True, slope, evaluation.loss, error=at.value_error)
            stored = own.to(problem.model, at.point)
            found.append(PathPoint(stored, bound, within(bound, self._tolerance), passes, strength.l2))
        return found
