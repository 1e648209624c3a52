"""Few sparse rows of many features: steps in the dual coefficients, by products with the sparse rows alone.

With l2 alone the optimal coefficients are a combination of the rows, coef = X' a (see `logreg.solvers.dual.row_space`).
A Gram matrix of sparse rows is dense, and larger than they are.  A step here costs two products with X' and one with X,
and some operations on numbers for each row and output, which are fewer than the coefficients:

1. The gradient by the coefficients is X' g, with the dual gradient g.  Its norm bounds the gap by strong convexity.
2. The direction is Newton's for rows that are orthogonal to each other (`inverse_of_gram_diagonal`), as rows of text
   nearly are: they share few words.
3. The step goes to the minimum of the quadratic model of f on the span of the direction and of the last step, which is
   what makes conjugate gradients fast.

Inner products of coefficients come from dual coefficients and logits, (X' a)' (X' b) = a' (X X' b), so that no
coefficients are kept.

References:
    Rasmussen and Williams (2006), Gaussian processes for machine learning, sections 3.4 and 3.5.
    Narkiss and Zibulevsky (2005), Sequential subspace optimization method for large-scale unconstrained problems.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import converted, sums_embeddings, times, transposed, transposed_times
from logreg.solvers.dual.row_space import DualRows
from logreg.solvers.dual.span import MAX_HALVINGS, SpanEvaluation, inverse_of_gram_diagonal
from logreg.solvers.passes.base import PassRequests, request
from logreg.solvers.passes.evaluate import Evaluate, InterceptCurvature
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import VALUE_ROUNDING, SolverState, certified
from logreg.solvers.steps.newton_steps import intercept_step, newton_step_pinv
from logreg.solvers.steps.preconditioner import centered

STOP_GAP_FRACTION = 0.8
"""Fraction of the tolerance at which the estimated gap ends the steps: a certificate may be a little larger."""

MIN_STOP_GAP = {torch.float32: 1e-9, torch.float64: 1e-15}
"""Estimated relative gap that ends the steps with products of this type: smaller ones are rounding errors."""

MAX_CONTRACTION = 30
"""Ratio of the decrease of f by a step to the gap after it, at most: while steps lower f by more than this multiple of
the gap that ends them, the gap, whose estimate is a product with X', is not estimated."""

MAX_STEPS = 500
"""Largest number of steps; other methods continue from there."""

MAX_STEPS_PER_HALVING = 20
"""Consecutive steps that do not halve the smallest estimated gap, after which other methods go on."""

MAX_INTERCEPT_STEPS = 10
"""Largest number of Newton's steps for the intercepts alone."""

NEGLIGIBLE_DECREMENT = 1e-3
"""Squared Newton decrement of the intercepts, relative to the estimated gap that ends the steps, at which these steps
end: the next one would about square it."""

SUBSPACE_CURVATURE_ROUNDING = 1e-12
"""Curvature on the span of two directions, relative to the largest, that is a rounding error."""


class _Move(NamedTuple):
    """A change of the point, or the point itself, as the change from zero; in the type of the products."""

    dual_coef: Tensor
    """Shape (N, K)."""
    intercept: Tensor
    """Shape (K,)."""
    logits: Tensor
    """Shape (N, K), with the intercept."""

    def times(self, factor: float) -> _Move:
        return _Move(*(part * factor for part in self))

    def plus(self, other: _Move, factor: float = 1.0) -> _Move:
        return _Move(*(mine.add(its, alpha=factor) for mine, its in zip(self, other, strict=True)))

    def shifted(self, intercept: Tensor) -> _Move:
        """The point with other intercepts, by a change (K,)."""
        return self._replace(intercept=self.intercept + intercept, logits=self.logits + intercept)

    def inner(self, other: _Move) -> float:
        """The inner product of the coefficients: (X' a)' (X' b) = a' (X X' b)."""
        return _inner(self.dual_coef, other.logits) - float(self.dual_coef.sum(0) @ other.intercept)


class _Products:
    """Products with the rows in some coordinates and one floating type; with many outputs a transposed copy is kept."""

    def __init__(self, rows: DualRows, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._blocks = [converted(features, dtype) for features in rows.features]
        outputs, (center, scale) = rows.problem.num_outputs, rows.coordinates
        self._transposed = (
            [transposed(block) for block in self._blocks] if sums_embeddings(center, dtype, outputs) else None
        )
        self._center: Tensor = center.to(dtype)
        self._by: Tensor | None = None
        if bool((scale != 1).any()):
            self._by = (1 / scale).to(dtype).unsqueeze(1)

    def combined(self, dual_coef: Tensor) -> Tensor:
        """X' a, (D, K), for dual coefficients a, (N, K)."""
        some = dual_coef.split([len(block) for block in self._blocks])
        if self._transposed is None:
            products = [transposed_times(block, part).T for block, part in zip(self._blocks, some, strict=True)]
        else:
            products = [times(block, part) for block, part in zip(self._transposed, some, strict=True)]
        sums = products[0]
        for product in products[1:]:
            sums += product
        sums.addr_(self._center, dual_coef.sum(0), alpha=-1.0)
        return sums if self._by is None else sums.mul_(self._by)

    def logits(self, dual_coef: Tensor, intercept: Tensor) -> Tensor:
        """X X' a + intercept, (N, K)."""
        coef = self.combined(dual_coef)
        coef = coef if self._by is None else coef.mul_(self._by)
        logits = [times(block, coef) for block in self._blocks]
        return (torch.cat(logits) if len(logits) > 1 else logits[0]).add_(intercept - self._center @ coef)


def solve_sparse_rows(state: SolverState) -> PassRequests[None]:
    """Moves a start at zero to about the optimum, found in the dual coefficients, and certifies it.

    One pass reads the rows.  All numbers are in the problem's floating type until the estimated gap is at most
    `MIN_STOP_GAP`, and in float64 then.

    Args:
        state: State of a problem with l2 alone; its point is updated, and its coordinates where the point is certified.
    """
    problem = state.problem
    if state.point.any():
        return
    coordinates, others = Coordinates(state.coordinates.center, problem.model.scale), state.coordinates
    rows = yield from request(DualRows(problem, coordinates))
    enough, start = STOP_GAP_FRACTION * state.tolerance, None
    for dtype in dict.fromkeys((problem.dtype, torch.float64)):
        steps = _DualSteps(problem, rows, dtype, start)
        if steps.run(max(enough, MIN_STOP_GAP[dtype])) or steps.gap <= enough:
            break
        start = steps.point
    coef = steps.products.combined(steps.point.dual_coef).T.double()
    point = centered(problem, torch.cat([coef, steps.point.intercept.double().unsqueeze(1)], dim=1))
    state.coordinates, state.point = coordinates, point
    if steps.gap <= state.tolerance:
        now = yield from request(Evaluate(problem, coordinates, point, torch.float64))
        state.value = now.value
        if (yield from certified(state, now, cheaply=True)):
            return
        state.bound = state.best = None  # they are of a point in these coordinates
    state.coordinates, state.point = others, coordinates.to(others, point)


class _DualSteps:
    """The steps in one floating type.

    Attributes:
        products: Products with the rows.
        point: The point so far.
        gap: The smallest gap that was estimated, relative to f.
    """

    def __init__(self, problem: Problem, rows: DualRows, dtype: torch.dtype, start: _Move | None) -> None:
        """``start`` is a point in another type; ``None`` for zero."""
        self._problem, self.products, self.gap = problem, _Products(rows, dtype), math.inf
        self._labels, self._weights, self._squares = rows.labels, rows.weights.to(dtype), rows.squared_norms.to(dtype)
        if start is None:
            zeros = self._weights.new_zeros(len(rows.labels), problem.num_outputs)
            self.point = _Move(zeros, zeros[0], zeros)
        else:
            dual_coef, intercept = start.dual_coef.to(dtype), start.intercept.to(dtype)
            self.point = _Move(dual_coef, intercept, self.products.logits(dual_coef, intercept))

    def run(self, enough: float) -> bool:
        """Takes steps until the estimated gap is enough; False where it stalls above it."""
        problem, squares, products = self._problem, self._squares, self.products
        l2 = problem.objective.l2
        last: _Move | None = None
        now, before, halved, stalled = self._evaluate(self.point), math.inf, math.inf, 0
        for _ in range(MAX_STEPS):
            if before - now.value <= MAX_CONTRACTION * enough * now.value:
                gap = self._estimated_gap(now)
                halved, stalled = (gap, 0) if gap <= halved / 2 else (halved, stalled + 1)
                self.gap = min(self.gap, gap)
                if gap <= enough:
                    self.point, now = self._with_solved_intercepts(self.point, now, enough)
                    if self._estimated_gap(now) <= enough:
                        return True
                if stalled == MAX_STEPS_PER_HALVING or not math.isfinite(gap):
                    return False
            gradient_logits = squares * now.dual_gradient
            inverse = inverse_of_gram_diagonal(squares, now)
            correction, intercept = now.woodbury_correction(gradient_logits, now.residuals.sum(0), inverse)
            dual_coef = (correction - now.dual_gradient) / l2
            directions = [_Move(dual_coef, -intercept, products.logits(dual_coef, -intercept))]
            directions += [] if last is None else [last]
            step = self._minimum(now, directions)
            for _ in range(MAX_HALVINGS):
                after = self.point.plus(step)
                there = self._evaluate(after)
                if there.value <= now.value * (1 + VALUE_ROUNDING[products.dtype]):
                    break
                step = step.times(0.5)
            else:
                return False
            self.point, last, before, now = after, step, now.value, there
        return False

    def _with_solved_intercepts(self, point: _Move, now: SpanEvaluation, enough: float) -> tuple[_Move, SpanEvaluation]:
        """The point with intercepts whose gradient is about 0, as a certificate needs them."""
        for _ in range(MAX_INTERCEPT_STEPS if self._problem.intercept else 0):
            gradient, own = (part.sum(0, dtype=torch.float64) for part in (now.residuals, now.curvature))
            joint = torch.diag(own)
            if self._problem.coupled:
                joint = joint - (now.curvature.T @ now.row_curvature).double()
            step = intercept_step(self._problem, gradient, InterceptCurvature.of_matrix(self._problem, joint))
            moved = point.shifted(-step.to(point.logits.dtype))
            after = self._evaluate(moved)
            if not after.value <= now.value:
                break
            point, now = moved, after
            if float(step @ gradient) <= NEGLIGIBLE_DECREMENT * enough * now.value:
                break
        return point, now

    def _evaluate(self, point: _Move) -> SpanEvaluation:
        """The objective and its derivatives at a point."""
        problem, weights = self._problem, self._weights
        values, residuals, curvature = problem.loss.evaluate(point.logits, self._labels)
        residuals = residuals * weights
        l2 = problem.objective.l2
        value = float(values @ weights[:, 0]) + l2 / 2 * max(point.inner(point), 0.0)
        return SpanEvaluation(problem, value, weights, curvature, residuals, residuals + l2 * point.dual_coef)

    def _estimated_gap(self, now: SpanEvaluation) -> float:
        """|gradient by the coefficients|^2 / (2 l2) and half the decrement of each intercept alone, relative to f."""
        gradient = self.products.combined(now.dual_gradient)
        of_coef = _inner(gradient, gradient) / (2 * self._problem.objective.l2)
        of_intercepts = (
            now.residuals.sum(0).square() / now.curvature.sum(0).clamp(min=torch.finfo(now.residuals.dtype).tiny) / 2
        )
        of_intercepts = of_intercepts if self._problem.intercept else torch.zeros_like(of_intercepts)
        return (of_coef + float(of_intercepts.sum())) / max(now.value, 1e-300)

    def _minimum(self, now: SpanEvaluation, directions: list[_Move]) -> _Move:
        """The step to the minimum of the quadratic model on the span of directions, with one factor for each.

        Args:
            now: The point.
            directions: One or two.
        """
        problem, l2, size = self._problem, self._problem.objective.l2, len(directions)
        slopes, hessian = (torch.zeros(*shape, dtype=torch.float64) for shape in ((size,), (size, size)))
        for one, move in enumerate(directions):
            slopes[one] = _inner(now.residuals, move.logits) + l2 * self.point.inner(move)
            curved = problem.loss.curvature_product(now.row_curvature, move.logits) * now.weights
            for other in range(one + 1):
                hessian[one, other] = _inner(curved, directions[other].logits) + l2 * move.inner(directions[other])
                hessian[other, one] = hessian[one, other]
        factors, _ = newton_step_pinv(hessian, slopes, SUBSPACE_CURVATURE_ROUNDING)
        step = directions[0].times(-float(factors[0]))
        return step if size == 1 else step.plus(directions[1], -float(factors[1]))


def _inner(one: Tensor, other: Tensor) -> float:
    """The inner product of two matrices."""
    return float(torch.dot(one.flatten(), other.flatten()))
