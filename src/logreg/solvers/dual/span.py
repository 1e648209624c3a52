"""The objective on the span of some combinations of the rows, and Newton's steps out of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.solvers.newton_steps import newton_step_pinv
from logreg.solvers.problem import Problem
from logreg.solvers.state import NOISE

EXACTLY = 1e-3
"""Gain of a step within the span, relative to the first one there, that is the last."""

ITERATIONS = 30
"""At most: of Newton's method within the span or on single rows, and halvings of a step."""

FLAT = 1e-13
"""Curvature within the span, relative to the largest, that is rounding."""

FURTHEST, NEAR = 2.0, 1e-3
"""Change of a logit by a step on single rows at most, and at which they are done."""

WITHIN = 1e-13
"""Part of a direction that is outside the span, relative to the direction, that is rounding."""

RIDGE = 1e-13
"""What keeps a matrix positive that rounding may have made indefinite, relative to its diagonal."""


class Inverse(NamedTuple):
    """A = (l2 D^-1 + X X')^-1, for rows X and the loss's curvature D by their logits.

    By Woodbury's formula the inverse of the Hessian l2 + X' D X is (1 - X' A X) / l2.
    """

    times: Callable[[Tensor], Tensor]
    """A times (N, K)."""
    sums: Tensor
    """Over the rows of A times the logits that each intercept gives, (K, K)."""


class DualPoint(NamedTuple):
    """The objective at factors of the rows."""

    problem: Problem
    value: float
    """f; without the penalty where `Span` does not say it."""
    weights: Tensor
    """Of the rows in the objective, (N, 1)."""
    of_rows: Tensor
    """As `Loss.curvature` has it, (N, K)."""
    residuals: Tensor
    """Times the weights, (N, K)."""
    slope: Tensor
    """The gradient by the coefficients is a combination of the rows with these factors, (N, K)."""

    @property
    def curvature(self) -> Tensor:
        """D by each logit, (N, K); of coupled outputs the part that they do not share: D = diag(c) - c c'."""
        return self.weights * self.of_rows

    def close(self, image: Tensor) -> float:
        """About the relative gap that a certificate will say; ``image`` (N, K) are the logits by the slope.

        Where rounding makes a square negative, its size is what is not known.
        """
        return abs(float((self.slope * image).sum())) / (2 * self.problem.objective.l2) / max(self.value, 1e-300)

    def step(self, image: Tensor, inverse: Inverse) -> Tensor:
        """Newton's step of the factors, (N, K)."""
        back, _ = self.taken_back(image, self.residuals.sum(0), inverse)
        return (back - self.slope) / self.problem.objective.l2

    def taken_back(self, logits: Tensor, by_intercept: Tensor, inverse: Inverse) -> tuple[Tensor, Tensor]:
        """What is to be taken from a gradient to make it l2 times Newton's step to be subtracted.

        Args:
            logits: By the gradient, (N, K).
            by_intercept: The gradient by the intercepts, (K,), which are not penalized.
            inverse: At this point.

        Returns:
            Factors of the rows (N, K), and the intercepts' step to be subtracted, (K,).
        """
        back = inverse.times(logits)
        if not self.problem.intercept:
            return back, torch.zeros_like(by_intercept)
        l2 = self.problem.objective.l2
        intercept = torch.linalg.pinv(l2 * inverse.sums, rtol=FLAT, hermitian=True) @ (by_intercept - back.sum(0))
        return back + l2 * inverse.times(intercept.expand_as(logits)), intercept


def inverse_of_gram_diagonal(squares: Tensor, seen: DualPoint) -> Inverse:
    """The inverse if no row had anything in common with another; ``squares`` (N, 1) of their norms."""
    own = seen.curvature / (seen.problem.objective.l2 + squares * seen.curvature)
    if not seen.problem.coupled:
        return Inverse(lambda logits: own * logits, torch.diag(own.sum(0)))
    shared = own / own.sum(1, keepdim=True).clamp(min=1e-300)
    return Inverse(
        lambda logits: own * logits - shared * (own * logits).sum(1, keepdim=True),
        torch.diag(own.sum(0)) - shared.T @ own,
    )


def inverse_of_gram(gram: Tensor, seen: DualPoint) -> Inverse:
    """The inverse by all inner products (N, N).

    Source:
        Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, sections 3.4 and 3.5.
    """
    sizes = seen.curvature.sqrt().T.unsqueeze(2)
    own = gram.new_empty(len(sizes), *gram.shape)
    for size, matrix in zip(sizes, own, strict=True):
        torch.mul(size * gram, size.T, out=matrix)
        matrix.diagonal().add_(seen.problem.objective.l2)
        matrix.copy_(root_of(matrix))
        if seen.problem.coupled:
            matrix.copy_(torch.cholesky_inverse(matrix).mul_(size).mul_(size.T))
    if not seen.problem.coupled:

        def times(logits: Tensor) -> Tensor:
            columns = zip(sizes, own, logits.T.unsqueeze(2), strict=True)
            return torch.cat([size * torch.cholesky_solve(size * one, root) for size, root, one in columns], dim=1)

        return Inverse(times, torch.diag(times(torch.ones_like(seen.of_rows)).sum(0)))

    root = root_of(own.sum(0))

    def joint(logits: Tensor) -> Tensor:
        by_own = own @ logits.T.unsqueeze(2)
        return (by_own - own @ torch.cholesky_solve(by_own.sum(0), root))[..., 0].T

    ones = own.sum(2).T
    return Inverse(joint, torch.diag(ones.sum(0)) - ones.T @ torch.cholesky_solve(ones, root))


def root_of(matrix: Tensor) -> Tensor:
    """The Cholesky factor (P, P); of a matrix that is a little larger where rounding made it indefinite.

    Raises:
        DivergedError: It is not finite.
    """
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    ridge = max(RIDGE * float(matrix.diagonal().max()), torch.finfo(matrix.dtype).tiny)
    for _ in range(ITERATIONS):
        if not bool(failed) and bool(root.diagonal().isfinite().all()):
            return root
        if not math.isfinite(ridge):
            break
        matrix.diagonal().add_(ridge)
        root, failed = torch.linalg.cholesky_ex(matrix)
        ridge *= 100
    raise DivergedError(
        "inner products of the rows are not finite. Standardize the features with dataset.standardize=true, or set "
        "precision=64."
    )


def best_for_gram_diagonal(span: Span, squares: Tensor) -> Tensor:
    """The best factors (N, K) if no row had anything in common with another; ``squares`` (N, 1) of their norms."""
    factors = torch.zeros_like(span.point[0])
    for _ in range(ITERATIONS):
        seen = span.see(squares * factors, factors)
        inverse = inverse_of_gram_diagonal(squares, seen)
        step = inverse.times(squares * seen.slope) - seen.slope
        step /= span.problem.objective.l2
        change = (squares * step).abs().amax(1, keepdim=True)
        factors = factors + step * (FURTHEST / change).clamp(max=1)
        if float(change.max()) <= NEAR:
            break
    return factors


class Span:
    """The problem on the span of some combinations of the rows, of which each output takes its own part."""

    def __init__(self, problem: Problem, labels: Tensor, weights: Tensor) -> None:
        """``labels`` (N,), and ``weights`` (N, 1) in the objective, float64."""
        self.problem, self._labels, self._weights = problem, labels, weights
        zeros = problem.zeros()
        k, n, self._free = len(zeros), len(labels), int(problem.intercept)
        # The intercept comes first: logits of 1, by no row.  The others' coefficients are orthonormal.
        self._factors, self._logits = zeros.new_zeros(k, n, self._free), zeros.new_ones(k, n, self._free)
        self._at = zeros.new_zeros(k, self._free)

    @property
    def point(self) -> tuple[Tensor, Tensor]:
        """Factors of the rows, (N, K), and intercepts, (K,)."""
        intercept = self._at[:, 0] if self._free else self._factors.new_zeros(len(self._at))
        return _along(self._factors, self._at), intercept

    def beyond(self, factors: Tensor) -> Tensor:
        """The part of a direction (N, K) that is orthogonal to all of the span: else logits of it lose digits.

        Zeros where the direction lies within the span but for rounding.
        """
        left = factors - _along(self._factors, self._shared(factors))
        return left.where(left.norm(dim=0) > WITHIN * factors.norm(dim=0), 0.0)

    def add(self, factors: Tensor, logits: Tensor) -> None:
        """Takes a direction: factors of the rows, and the logits by them, both (N, K)."""
        shared = self._shared(factors)  # by rounding
        factors, logits = factors - _along(self._factors, shared), logits - _along(self._logits, shared)
        size = (factors * logits).sum(0).clamp(min=0).sqrt()
        by = torch.where(size > 0, 1 / size, 0.0)
        self._factors, self._logits = (
            torch.cat([before, (new * by).T.unsqueeze(2)], dim=2)
            for before, new in ((self._factors, factors), (self._logits, logits))
        )
        self._at = torch.cat([self._at, torch.zeros_like(by).unsqueeze(1)], dim=1)

    def _shared(self, factors: Tensor) -> Tensor:
        """How far along each direction, (K, M)."""
        shared = (self._logits.mT @ factors.T.unsqueeze(2))[..., 0]
        shared[:, : self._free] = 0
        return shared

    def minimize(self) -> DualPoint:
        """Moves to the optimum on the span."""
        seen, first = self._here(self._at), 0.0
        for iteration in range(ITERATIONS if self._at.numel() else 0):
            step, gain = self._newton(seen)
            first = first if iteration else gain
            for halvings in range(ITERATIONS):
                at = self._at - step / 2**halvings
                there = self._here(at)
                if there.value <= seen.value * (1 + NOISE[torch.float64]):
                    self._at, seen = at, there
                    break
            else:
                break
            if gain <= EXACTLY * first:
                break
        return seen

    def see(self, logits: Tensor, factors: Tensor) -> DualPoint:
        """The objective without the penalty at any logits and factors, (N, K)."""
        values, residuals, curvature = self.problem.loss.evaluate(logits, self._labels)
        residuals = residuals * self._weights
        slope = residuals + self.problem.objective.l2 * factors
        return DualPoint(self.problem, float(values @ self._weights[:, 0]), self._weights, curvature, residuals, slope)

    def _here(self, at: Tensor) -> DualPoint:
        """The objective at (K, M)."""
        seen = self.see(_along(self._logits, at), _along(self._factors, at))
        penalty = self.problem.objective.l2 / 2 * float(at[:, self._free :].square().sum())
        return seen._replace(value=seen.value + penalty)

    def _newton(self, seen: DualPoint) -> tuple[Tensor, float]:
        """The step within the span to be subtracted, (K, M), and what it is worth."""
        k, m = self._at.shape
        penalty = torch.full_like(self._at, self.problem.objective.l2)
        penalty[:, : self._free] = 0
        gradient = (self._logits.mT @ seen.residuals.T.unsqueeze(2))[..., 0] + penalty * self._at
        own = self._logits.mT @ (seen.curvature.T.unsqueeze(2) * self._logits) + torch.diag_embed(penalty)
        if not self.problem.coupled:
            return newton_step_pinv(own, gradient, FLAT)
        by = (seen.of_rows.T.unsqueeze(2) * self._logits).transpose(0, 1).flatten(1)
        hessian = torch.block_diag(*own) - by.T @ (self._weights * by)
        step, gain = newton_step_pinv(hessian, gradient.flatten(), FLAT)
        return step.view(k, m), gain


def _along(directions: Tensor, at: Tensor) -> Tensor:
    """Directions (K, N, M) times how far along each, (K, M): shape (N, K)."""
    return (directions @ at.unsqueeze(2))[..., 0].T
