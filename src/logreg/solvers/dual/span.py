"""The objective over the dual coefficients, minimized on the span of a few directions; and Newton's steps out of it.

Let X be the rows, (N, D), and coef = X' a with dual coefficients a.  The gradient of f by the coefficients is again a
combination of the rows, X' g with the dual gradient

    g = (weights * residuals) + l2 a

and Newton's step of the dual coefficients follows from the Woodbury identity (see `logreg.solvers.dual.row_space`):

    step = (A X X' g - g) / l2,    A = (l2 D^-1 + X X')^-1

with D the weighted second derivatives of the loss by the logits, plus terms for the intercepts, which are not
penalized.  For outputs with separate losses D is diagonal.  For a softmax it is diag(c) - C C' in each
row, and A follows from the inverses of the outputs' own matrices by a second use of the identity.

References:
    Rasmussen and Williams (2006), Gaussian processes for machine learning, sections 3.4 and 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.kernels import Array
from logreg.solvers.problem import Problem
from logreg.solvers.state import VALUE_ROUNDING
from logreg.solvers.steps.newton_steps import newton_step_pinv

LAST_SPAN_STEP_RATIO = 1e-3
"""Predicted decrease of a step within the span, relative to that of the first step there, at which steps end.

The next direction changes the optimum on the span more than further steps would.  What a step of one output leaves is
about the square of the relative error of its predicted decrease: where that is smaller, no further step is computed.
Errors of several outputs may cancel.
"""

MAX_SPAN_STEPS = 30
"""Largest number of Newton's steps within the span; they converge quadratically."""

MAX_HALVINGS = 30
"""Largest number of halvings of a step within the span until f is not higher; 2^-30 of a step changes nothing."""

MAX_RIDGE_INCREASES = 30
"""Largest number of increases of a ridge, each a hundredfold; after more the ridge is not finite."""

SPAN_CURVATURE_ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Curvature along a direction within the span, relative to the largest, below which it is a rounding error, by the type
of the arithmetic."""

ORTHOGONAL_PART_ROUNDING = 1e-13
"""Size of a direction's part outside the span, relative to the direction, that is rounding of float64."""

MIN_PIVOT = 1e-8
"""Least pivot, relative to the diagonal, at which a step within the span is that of a Cholesky factor, which takes less
time than a pseudo-inverse."""

CHOLESKY_RIDGE = 1e-13
"""First ridge of a matrix that rounding made indefinite, relative to its largest diagonal entry."""


class DualInverse(NamedTuple):
    """A = (l2 D^-1 + X X')^-1, for rows X and the second derivatives D of the loss by the logits.

    By the Woodbury identity the inverse of the Hessian l2 + X' D X is (1 - X' A X) / l2.
    """

    apply: Callable[[Tensor], Tensor]
    """A times (N, K)."""
    intercept_sums: Tensor
    """1' A 1: sums over the rows of A times the logits that a unit of each intercept gives, (K, K)."""


class SpanEvaluation(NamedTuple):
    """The objective and its derivatives at a point given by dual coefficients."""

    problem: Problem
    value: float
    """f in nats; without the penalty where it comes from `Span.evaluate`."""
    weights: Tensor
    """The weight of each row in the objective, (N, 1)."""
    row_curvature: Tensor
    """Second derivatives of each row's loss by the logits, as of `Loss.evaluate`, (N, K)."""
    residuals: Tensor
    """Derivatives of each row's loss by the logits, times the weights, (N, K)."""
    dual_gradient: Tensor
    """Dual coefficients g of the gradient by the coefficients, X' g, (N, K)."""

    @property
    def curvature(self) -> Tensor:
        """The diagonal of D, (N, K); for a softmax its part c in D = diag(c) - C C'."""
        return self.weights * self.row_curvature

    def estimated_gap(self, gradient_logits: Tensor) -> float:
        """The bound |gradient|^2 / (2 l2) by strong convexity, relative to f.

        It takes the intercepts for optimal.  Where rounding makes the squared norm g' X X' g negative, its absolute
        value is the order of the rounding.

        Args:
            gradient_logits: The logits X X' g of the dual gradient, (N, K).
        """
        squared_norm = abs(float((self.dual_gradient * gradient_logits).sum()))
        return squared_norm / (2 * self.problem.objective.l2) / max(self.value, 1e-300)

    def newton_step(self, gradient_logits: Tensor, inverse: DualInverse) -> Tensor:
        """Newton's step of the dual coefficients, to be added, (N, K); the intercepts follow by `Span.minimize`."""
        correction, _ = self.woodbury_correction(gradient_logits, self.residuals.sum(0), inverse)
        return (correction - self.dual_gradient) / self.problem.objective.l2

    def woodbury_correction(self, logits: Tensor, by_intercept: Tensor, inverse: DualInverse) -> tuple[Tensor, Tensor]:
        """The difference between a gradient and l2 times its Newton step, by the Woodbury identity.

        Args:
            logits: X times the gradient by the coefficients, (N, K).
            by_intercept: The gradient by the intercepts, (K,), which are not penalized.
            inverse: The inverse at this point.

        Returns:
            The difference as dual coefficients, (N, K), and the Newton step of the intercepts, to be subtracted, (K,).
        """
        correction = inverse.apply(logits)
        if not self.problem.intercept:
            return correction, torch.zeros_like(by_intercept)
        l2, rtol = self.problem.objective.l2, SPAN_CURVATURE_ROUNDING[logits.dtype]
        left, schur = (by_intercept - correction.sum(0)).double(), l2 * inverse.intercept_sums
        if self.problem.coupled:
            intercept = torch.linalg.pinv(schur, rtol=rtol, hermitian=True) @ left
        else:  # a diagonal matrix
            own = schur.diagonal()
            intercept = torch.where(own > rtol * own.max(), left / own, 0.0)
        intercept = intercept.to(logits.dtype)
        return correction + l2 * inverse.apply(intercept.expand_as(logits)), intercept


def inverse_of_gram_diagonal(squares: Tensor, current: SpanEvaluation) -> DualInverse:
    """The inverse A for rows that are orthogonal to each other, with squared norms ``squares`` (N, 1)."""
    own = current.curvature / (current.problem.objective.l2 + squares * current.curvature)
    sums = torch.diag(own.sum(0, dtype=torch.float64))
    if not current.problem.coupled:
        return DualInverse(lambda logits: own * logits, sums)
    shared = own / own.sum(1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny)
    return DualInverse(
        lambda logits: own * logits - shared * (own * logits).sum(1, keepdim=True), sums - (shared.T @ own).double()
    )


def inverse_of_gram(gram: Tensor, current: SpanEvaluation) -> DualInverse:
    """The inverse A by the Gram matrix (N, N).

    With S = sqrt(D) it is S (l2 + S X X' S)^-1 S, which is well conditioned where curvatures are small.

    References:
        Rasmussen and Williams (2006), Gaussian processes for machine learning, algorithms 3.1 and 3.3.
    """
    sizes = current.curvature.sqrt().T.unsqueeze(2)
    own = gram.new_empty(len(sizes), *gram.shape)
    for size, matrix in zip(sizes, own, strict=True):
        torch.mul(size * gram, size.T, out=matrix)
        matrix.diagonal().add_(current.problem.objective.l2)
        matrix.copy_(cholesky_with_ridge(matrix))
        if current.problem.coupled:
            matrix.copy_(torch.cholesky_inverse(matrix).mul_(size).mul_(size.T))
    if not current.problem.coupled:

        def apply(logits: Tensor) -> Tensor:
            columns = zip(sizes, own, logits.T.unsqueeze(2), strict=True)
            return torch.cat([size * torch.cholesky_solve(size * one, root) for size, root, one in columns], dim=1)

        return DualInverse(apply, torch.diag(apply(torch.ones_like(current.row_curvature)).sum(0)))

    root = cholesky_with_ridge(own.sum(0))

    def apply_coupled(logits: Tensor) -> Tensor:
        by_own = own @ logits.T.unsqueeze(2)
        return (by_own - own @ torch.cholesky_solve(by_own.sum(0), root))[..., 0].T

    ones = own.sum(2).T
    return DualInverse(apply_coupled, torch.diag(ones.sum(0)) - ones.T @ torch.cholesky_solve(ones, root))


def cholesky_with_ridge(matrix: Tensor) -> Tensor:
    """The Cholesky factor (P, P) of a matrix, or of that matrix plus a ridge where rounding made it indefinite.

    The matrix is changed in place where a ridge is needed.

    Raises:
        DivergedError: The matrix is not finite.
    """
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    ridge = max(CHOLESKY_RIDGE * float(matrix.diagonal().max()), torch.finfo(matrix.dtype).tiny)
    for _ in range(MAX_RIDGE_INCREASES):
        if not bool(failed) and bool(root.diagonal().isfinite().all()):
            return root
        if not math.isfinite(ridge):
            break
        matrix.diagonal().add_(ridge)
        root, failed = torch.linalg.cholesky_ex(matrix)
        ridge *= 100
    raise DivergedError(
        "the Gram matrix of the rows is not finite. Standardize the features with dataset.standardize=true, or set "
        "precision=64."
    )


class _Terms(NamedTuple):
    """The objective at a position in a span, and the terms of the rows."""

    value: float
    """f in nats."""
    row_curvature: Tensor
    """See `SpanEvaluation`, (N, K)."""
    residuals: Tensor
    """See `SpanEvaluation`, (N, K)."""


class Span:
    """The problem on the span of M directions of the dual coefficients; each output has its own position in it.

    The first direction is the intercept, if there is one: logits of 1, from no row.  The coefficients X' a of the other
    directions are orthonormal for each output, so that the penalty is l2 / 2 times the squared position.

    Rows are few, and directions fewer: NumPy computes with them, whose operations on few numbers take less time than
    those of torch.
    """

    def __init__(self, problem: Problem, labels: Tensor, weights: Tensor) -> None:
        """A span of the intercept alone.

        Args:
            problem: The problem.
            labels: Shape (N,).
            weights: The weight of each row in the objective, (N, 1), float64.
        """
        self.problem, self._labels, self._weights = problem, labels, weights
        k, n, self._free = problem.num_outputs, len(labels), int(problem.intercept)
        self._dual_coef: Array = np.zeros((k, self._free, n))
        self._logits: Array = np.ones((k, self._free, n))
        self._position: Array = np.zeros((k, self._free))
        self._penalty: Array = np.zeros(self._free)  # l2 by each direction
        self._now = self._terms_at(self._position)

    @property
    def point(self) -> tuple[Tensor, Tensor]:
        """Dual coefficients, (N, K), and intercepts, (K,), of the current position."""
        intercept = self._position[:, 0] if self._free else np.zeros(len(self._position))
        return self._tensor(_combination(self._dual_coef, self._position)), self._tensor(intercept)

    @np.errstate(all="ignore")
    def orthogonal_part(self, dual_coef: Tensor) -> Tensor:
        """The part of a direction (N, K) that is orthogonal to the span, so that its logits keep their digits.

        It is 0 where the direction lies within the span but for rounding.  It is projected twice: where most of a
        direction lies within the span, the rounding of the first projection is a large part of what is left.
        """
        whole = left = _columns(dual_coef)
        for _ in range(2):
            if self._free:  # at the optimum of an intercept the dual coefficients sum to 0
                left = left - left.mean(1, keepdims=True)
            left = left - _combination(self._dual_coef, self._projections(left))
        is_outside = np.linalg.norm(left, axis=1) > ORTHOGONAL_PART_ROUNDING * np.linalg.norm(whole, axis=1)
        return self._tensor(np.where(is_outside[:, None], left, 0.0))

    @np.errstate(all="ignore")
    def add(self, dual_coef: Tensor, logits: Tensor) -> None:
        """Adds a direction, orthonormalized: its dual coefficients and its logits, both (N, K)."""
        of_rows = _columns(dual_coef)
        shared = self._projections(of_rows)  # what rounding left of them
        added = [
            new - _combination(before, shared)
            for before, new in ((self._dual_coef, of_rows), (self._logits, _columns(logits)))
        ]
        size = np.sqrt(np.maximum((added[0] * added[1]).sum(1), 0))
        by = np.where(size > 0, 1 / size, 0.0)[:, None]
        self._dual_coef, self._logits = (
            np.concatenate([before, (new * by)[:, None]], axis=1)
            for before, new in zip((self._dual_coef, self._logits), added, strict=True)
        )
        self._position = np.concatenate([self._position, np.zeros((len(by), 1))], axis=1)
        self._penalty = np.append(self._penalty, self.problem.objective.l2)

    def _projections(self, dual_coef: Array) -> Array:
        """Inner products of the coefficients X' a, of a (K, N), with those of each direction; 0 for the intercept."""
        shared: Array = (self._logits @ dual_coef[:, :, None])[..., 0]
        shared[:, : self._free] = 0
        return shared

    @np.errstate(all="ignore")
    def minimize(self) -> SpanEvaluation:
        """Moves to the optimum on the span, by Newton's method with halved steps."""
        now, first = self._now, 0.0  # a new direction does not change it
        for iteration in range(MAX_SPAN_STEPS if self._position.size else 0):
            step, decrease = self._newton_step(now)
            first = first if iteration else decrease
            for halvings in range(MAX_HALVINGS):
                position = self._position - step / 2**halvings
                there = self._terms_at(position)
                if there.value <= now.value * (1 + VALUE_ROUNDING[torch.float64]):
                    error = now.value - there.value - decrease
                    self._position, now = position, there
                    break
            else:
                break
            is_exact = self.problem.num_outputs == 1 and error**2 <= LAST_SPAN_STEP_RATIO * decrease**2
            if decrease <= LAST_SPAN_STEP_RATIO * first or is_exact:
                break
        self._now = now
        return self._evaluation(now, self.point[0])

    def evaluate(self, logits: Tensor, dual_coef: Tensor) -> SpanEvaluation:
        """The objective at any logits and dual coefficients, (N, K).

        Its value is without the penalty, its dual gradient with the penalty.
        """
        return self._evaluation(self._terms(logits), dual_coef)

    def _evaluation(self, now: _Terms, dual_coef: Tensor) -> SpanEvaluation:
        gradient = now.residuals + self.problem.objective.l2 * dual_coef
        return SpanEvaluation(self.problem, now.value, self._weights, now.row_curvature, now.residuals, gradient)

    def _terms(self, logits: Tensor, penalty: float = 0.0) -> _Terms:
        """The terms of the rows at logits (N, K), and f with a penalty in nats."""
        values, residuals, curvature = self.problem.loss.evaluate(logits, self._labels)
        value = float(values @ self._weights[:, 0])
        return _Terms(value + penalty, curvature, residuals * self._weights)

    def _terms_at(self, position: Array) -> _Terms:
        """The objective at a position (K, M)."""
        penalty = float((self._penalty * np.square(position)).sum()) / 2
        return self._terms(self._tensor(_combination(self._logits, position)), penalty)

    def _newton_step(self, now: _Terms) -> tuple[Array, float]:
        """The step within the span to be subtracted, (K, M), and the predicted decrease of f."""
        (k, m), rounding = self._position.shape, SPAN_CURVATURE_ROUNDING[torch.float64]
        weights, by_row = _columns(self._weights), _columns(now.row_curvature)
        gradient = (self._logits @ _columns(now.residuals)[:, :, None])[..., 0] + self._penalty * self._position
        own = (self._logits * (weights * by_row)[:, None]) @ self._logits.swapaxes(1, 2)
        own.reshape(k, -1)[:, :: m + 1] += self._penalty
        if not self.problem.coupled:
            step = _step_by_cholesky(own, gradient)
            if step is None:
                tensor, decrease = newton_step_pinv(torch.from_numpy(own), torch.from_numpy(gradient), rounding)
                return tensor.numpy(), decrease
            return step, float(np.vdot(step, gradient)) / 2
        by = (by_row[:, None] * self._logits).reshape(k * m, -1)
        hessian = torch.block_diag(*torch.from_numpy(own)) - torch.from_numpy((weights * by) @ by.T)
        tensor, decrease = newton_step_pinv(hessian, torch.from_numpy(gradient.ravel()), rounding)
        return tensor.numpy().reshape(k, m), decrease

    def _tensor(self, columns: Array) -> Tensor:
        """Numbers (K,) as they are, or (K, N) as (N, K), on the device of the rows."""
        return torch.from_numpy(columns.T).to(self._weights.device)


def _columns(rows: Tensor) -> Array:
    """Numbers (N, K) as (K, N)."""
    return rows.cpu().numpy().T


def _combination(directions: Array, position: Array) -> Array:
    """The combination of directions (K, M, N) with factors (K, M) for each output: shape (K, N)."""
    return np.asarray((position[:, None] @ directions)[:, 0])


def _step_by_cholesky(hessians: Array, gradient: Array) -> Array | None:
    """The solutions (K, M) for Hessians (K, M, M); ``None`` where a pivot of their Cholesky factors is small."""
    try:
        pivots = np.square(np.linalg.cholesky(hessians).diagonal(axis1=1, axis2=2))
    except np.linalg.LinAlgError:
        return None
    if not float((pivots / hessians.diagonal(axis1=1, axis2=2)).min()) > MIN_PIVOT:
        return None
    return np.asarray(np.linalg.solve(hessians, gradient[:, :, None])[..., 0])
