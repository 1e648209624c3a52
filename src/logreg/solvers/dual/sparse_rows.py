"""Few sparse rows of many features: steps in the dual coefficients, by products with the sparse rows alone.

With l2 alone the optimal coefficients are a combination of the rows, coef = X' a (see `logreg.solvers.dual.row_space`).
A Gram matrix of sparse rows is dense, and larger than they are.  A step here costs two products with X' and one with X,
and some operations on numbers for each row and output, which are fewer than the coefficients:

1. The gradient by the coefficients is X' g, with the dual gradient g.  Its norm bounds the gap by strong convexity.
2. The direction is Newton's for rows that are orthogonal to each other (`inverse_of_gram_diagonal`), as rows of text
   nearly are: they share few words.
3. The step goes to the minimum of the quadratic model of f on the span of the direction and of the last step, which is
   what makes conjugate gradients fast.

References:
    Rasmussen and Williams (2006), Gaussian processes for machine learning, sections 3.4 and 3.5.
    Narkiss and Zibulevsky (2005), Sequential subspace optimization method for large-scale unconstrained problems.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import converted, times, transposed_times
from logreg.solvers.dual.row_space import DualRows
from logreg.solvers.dual.span import DualPoint, inverse_of_gram_diagonal
from logreg.solvers.newton_steps import ZERO_INTERCEPT_RTOL, newton_step_pinv
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.preconditioner import centered
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, SolverState

STOP_GAP_FRACTION = 0.8
"""Fraction of the tolerance at which the estimated gap ends the steps: a certificate may be a little larger."""

MIN_STOP_GAP = {torch.float32: 1e-9, torch.float64: 1e-15}
"""Estimated relative gap that ends the steps with products of this type: smaller ones are rounding errors."""

MAX_STEPS = 500
"""Largest number of steps; other methods continue from there."""

MAX_STEPS_PER_HALVING = 20
"""Consecutive steps that do not halve the smallest estimated gap, after which other methods go on."""

MAX_HALVINGS = 30
"""Largest number of halvings of a step that increases f."""

MAX_INTERCEPT_STEPS = 10
"""Largest number of Newton's steps for the intercepts alone."""

NEGLIGIBLE_DECREMENT = 1e-12
"""Squared Newton decrement of the intercepts, relative to f, at which these steps end: the next one would square it."""

SUBSPACE_CURVATURE_ROUNDING = 1e-12
"""Curvature on the span of two directions, relative to the largest, that is a rounding error."""


class _Move(NamedTuple):
    """A change of the point, or the point itself, as the change from zero."""

    dual_coef: Tensor
    """Shape (N, K)."""
    intercept: Tensor
    """Shape (K,)."""
    coef: Tensor
    """X' a, (D, K), in the type of the products."""
    logits: Tensor
    """Shape (N, K), with the intercept."""

    def times(self, factor: float) -> _Move:
        return _Move(*(part * factor for part in self))

    def plus(self, other: _Move, factor: float = 1.0) -> _Move:
        return _Move(*(mine.add(its, alpha=factor) for mine, its in zip(self, other, strict=True)))


class _Products:
    """Products with the rows in some coordinates and one floating type."""

    def __init__(self, rows: DualRows, dtype: torch.dtype) -> None:
        self._rows, self._dtype = rows, dtype
        self._blocks = [converted(features, dtype) for features in rows.features]
        center, scale = rows.coordinates
        self._center: Tensor = center.to(dtype)
        self._by: Tensor | None = None
        if bool((scale != 1).any()):
            self._by = (1 / scale).to(dtype).unsqueeze(1)

    def combined(self, dual_coef: Tensor) -> Tensor:
        """X' a, (D, K), for dual coefficients a, (N, K)."""
        narrow = dual_coef.to(self._dtype)
        some = narrow.split([len(block) for block in self._blocks])
        sums = torch.zeros(len(self._center), narrow.shape[1], dtype=self._dtype, device=narrow.device)
        sums.addr_(self._center, dual_coef.sum(0).to(self._dtype), alpha=-1.0)
        for of_block, block in zip(some, self._blocks, strict=True):
            sums += transposed_times(block, of_block).T
        return sums if self._by is None else sums.mul_(self._by)

    def logits(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """X coef + intercept, (N, K), float64."""
        coef = coef if self._by is None else coef * self._by
        logits = torch.cat([times(block, coef) for block in self._blocks]).double()
        return logits.add_(intercept - (self._center @ coef).double())


def solve_sparse_rows(state: SolverState) -> PassRequests[None]:
    """Moves a start at zero to about the optimum, found in the dual coefficients; one pass reads the rows.

    Products are in the problem's floating type until the estimated gap is at most `MIN_STOP_GAP`, and in float64 then.

    Args:
        state: State of a problem with l2 alone; its point is updated.
    """
    problem = state.problem
    if state.point.any():
        return
    coordinates = Coordinates(state.coordinates.center, problem.model.scale)
    rows = yield from request(DualRows(problem, coordinates))
    steps = _DualSteps(problem, rows)
    enough = STOP_GAP_FRACTION * state.tolerance
    types = (problem.dtype, torch.float64) if problem.dtype != torch.float64 else (torch.float64,)
    for dtype in types:
        if steps.run(dtype, max(enough, MIN_STOP_GAP[dtype])) or steps.gap <= enough:
            break
    point = torch.cat([rows.combined(steps.point.dual_coef), steps.point.intercept.unsqueeze(1)], dim=1)
    state.point = centered(problem, coordinates.to(state.coordinates, point))


class _DualSteps:
    """The steps, from zero.

    Attributes:
        point: The point so far.
        gap: The smallest gap that was estimated, relative to f.
    """

    def __init__(self, problem: Problem, rows: DualRows) -> None:
        self._problem, self._rows, self.gap = problem, rows, math.inf
        zeros = problem.zeros()
        of_rows = zeros.new_zeros(len(rows.labels), len(zeros))
        self.point = _Move(of_rows, zeros[:, -1], zeros[:, :-1].T.to(problem.dtype), of_rows)

    def run(self, dtype: torch.dtype, enough: float) -> bool:
        """Takes steps with products of a type until the estimated gap is enough; False where it stalls above it."""
        problem, squares, products = self._problem, self._rows.squared_norms, _Products(self._rows, dtype)
        l2, start = problem.objective.l2, self.point
        if start.dual_coef.any():  # what is known of it has the rounding errors of another type
            coef = products.combined(start.dual_coef)
            self.point = start._replace(coef=coef, logits=products.logits(coef, start.intercept))
        last: _Move | None = None
        now, halved, stalled, self.gap = self._evaluate(self.point), math.inf, 0, math.inf
        for _ in range(MAX_STEPS):
            gradient = products.combined(now.dual_gradient)
            gap = self._estimated_gap(now, gradient)
            halved, stalled = (gap, 0) if gap <= halved / 2 else (halved, stalled + 1)
            self.gap = min(self.gap, gap)
            if gap <= enough:
                self.point, now = self._with_solved_intercepts(self.point, now)
                gradient = products.combined(now.dual_gradient)
                gap = self._estimated_gap(now, gradient)
                if gap <= enough:
                    return True
            if stalled == MAX_STEPS_PER_HALVING or not math.isfinite(gap):
                return False
            gradient_logits = squares * now.dual_gradient
            inverse = inverse_of_gram_diagonal(squares, now)
            correction, intercept = now.woodbury_correction(gradient_logits, now.residuals.sum(0), inverse)
            dual_coef = (correction - now.dual_gradient) / l2
            coef = products.combined(dual_coef)
            directions = [_Move(dual_coef, -intercept, coef, products.logits(coef, -intercept))]
            directions += [] if last is None else [last]
            step = self._minimum(now, gradient, directions)
            for _ in range(MAX_HALVINGS):
                after = self.point.plus(step)
                there = self._evaluate(after)
                if there.value <= now.value * (1 + VALUE_ROUNDING[dtype]):
                    break
                step = step.times(0.5)
            else:
                return False
            self.point, last, now = after, step, there
        return False

    def _with_solved_intercepts(self, point: _Move, now: DualPoint) -> tuple[_Move, DualPoint]:
        """The point with intercepts whose gradient is about 0, as a certificate needs them."""
        for _ in range(MAX_INTERCEPT_STEPS if self._problem.intercept else 0):
            gradient, curvature = now.residuals.sum(0), torch.diag(now.curvature.sum(0))
            if self._problem.coupled:
                curvature = curvature - now.curvature.T @ now.row_curvature
            step = torch.linalg.pinv(curvature, rtol=ZERO_INTERCEPT_RTOL, hermitian=True) @ gradient
            moved = point._replace(intercept=point.intercept - step, logits=point.logits - step)
            after = self._evaluate(moved)
            if not after.value <= now.value:
                break
            point, now = moved, after
            if float(step @ gradient) <= NEGLIGIBLE_DECREMENT * now.value:
                break
        return point, now

    def _evaluate(self, point: _Move) -> DualPoint:
        """The objective and its derivatives at a point."""
        problem, weights = self._problem, self._rows.weights
        values, residuals, curvature = problem.loss.evaluate(point.logits, self._rows.labels)
        residuals = residuals * weights
        l2 = problem.objective.l2
        penalty = l2 / 2 * float(torch.linalg.vector_norm(point.coef, dtype=torch.float64)) ** 2
        value = float(values @ weights[:, 0]) + penalty
        return DualPoint(problem, value, weights, curvature, residuals, residuals + l2 * point.dual_coef)

    def _estimated_gap(self, now: DualPoint, gradient: Tensor) -> float:
        """|gradient by the coefficients|^2 / (2 l2) and half the decrement of each intercept alone, relative to f."""
        of_coef = _inner(gradient, gradient) / (2 * self._problem.objective.l2)
        of_intercepts = now.residuals.sum(0).square() / now.curvature.sum(0).clamp(min=1e-300) / 2
        of_intercepts = of_intercepts if self._problem.intercept else torch.zeros_like(of_intercepts)
        return (of_coef + float(of_intercepts.sum())) / max(now.value, 1e-300)

    def _minimum(self, now: DualPoint, gradient: Tensor, directions: list[_Move]) -> _Move:
        """The step to the minimum of the quadratic model on the span of directions, with one factor for each.

        Args:
            now: The point.
            gradient: The gradient by the coefficients there, (D, K).
            directions: One or two.
        """
        problem, l2, size = self._problem, self._problem.objective.l2, len(directions)
        slopes, hessian = now.residuals.new_zeros(size), now.residuals.new_zeros(size, size)
        by_intercept = now.residuals.sum(0)
        for one, move in enumerate(directions):
            slopes[one] = _inner(gradient, move.coef) + by_intercept @ move.intercept
            curved = problem.loss.curvature_product(now.row_curvature, move.logits) * now.weights
            for other in range(one + 1):
                of_coef = _inner(move.coef, directions[other].coef)
                hessian[one, other] = (curved * directions[other].logits).sum() + l2 * of_coef
                hessian[other, one] = hessian[one, other]
        factors, _ = newton_step_pinv(hessian, slopes, SUBSPACE_CURVATURE_ROUNDING)
        step = directions[0].times(-float(factors[0]))
        return step if size == 1 else step.plus(directions[1], -float(factors[1]))


def _inner(one: Tensor, other: Tensor) -> float:
    """The inner product of coefficients (D, K)."""
    return float(torch.dot(one.flatten(), other.flatten()))
