"""A softmax over few rows, in NumPy: Newton steps by conjugate gradients, and their certificate.

A product with the Hessian is two thin matrix products, and takes less time than an evaluation of f.  How many products
a step takes depends on the preconditioner.  Three are at hand, each closer to the Hessian and more expensive than the
one before:

1. Separable: the mean curvature of the rows times the features' Gram matrix, a Kronecker product.  It is the Hessian
   itself at a point of all zeros, and needs one eigendecomposition of the Gram matrix for all points.
2. Blocks: the block of each output.
3. Joint: the Hessian.

A more expensive one is made as soon as the products since the last one have taken as long as it takes to make.
Whenever the fit would have ended, it takes at most about twice as long as with the best choice.

References:
    Böhning (1992), Multinomial logistic regression algorithm, for curvature times Gram matrix.
    Karlin, Manasse, Rudolph and Sleator (1988), Competitive snoopy caching, for when to pay for a better matrix.
    Nocedal and Wright (2006), Numerical Optimization, chapter 7.1: the inexact Newton method.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound, EvaluatedPoint
from logreg.solvers.bounds.newton_bound import bound_by_newton_step
from logreg.solvers.kernels import Array, coupled_gram
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.small.small_logistic import SQUARES_MARGIN, NewtonStep

Inverse = Callable[[Array], Array]
"""An approximate inverse of the Hessian: a gradient (K, P) -> a step (K, P)."""

MAX_PRODUCTS = 100
"""Products of the Hessian with a vector for one step."""

FORCING = 0.2
"""Residual of a step relative to the gradient, in the norm of the preconditioner, far from the optimum."""

PARAMETERS_PER_PRODUCT = 6
"""Parameters of a Hessian block that take as long to form as one product: K blocks of P parameters take P / 6 products,
and a joint Hessian K P / 6."""

FACTORS_PER_PRODUCT = 4
"""Square of the parameters of a block, divided by the rows, that take as long to factor as one product."""

REMAKE = 2
"""Multiple of their cost after which blocks are made anew: those of an earlier point still serve well."""

MAX_JOINT_PARAMETERS = 1024
"""Parameters up to which the joint Hessian is a preconditioner: 8 MiB."""


class SoftmaxEvaluation(NamedTuple):
    """A point of a small problem with its derivatives; P = D + 1, or D without an intercept."""

    value: float
    """f."""
    loss: float
    """f without the penalty."""
    gradient: Array
    """Shape (K, P)."""
    probabilities: Array
    """Shape (K, n)."""


class SmallSoftmax:
    """The rows of a small problem with a softmax, standardized."""

    def __init__(self, problem: Problem, rows: Tensor, labels: Tensor, weights: Tensor, at: Coordinates) -> None:
        """The rows (n, P) are standardized, with a last column of ones if there is an intercept; weights are (n, 1)."""
        self.problem, self._coordinates = problem, at
        self._columns, self._weights = np.ascontiguousarray(rows.numpy().T), weights.numpy()[:, 0]
        self._rows = self._columns.T
        self._labels, self._own = labels, (labels.numpy(), np.arange(len(labels)))
        self._l2 = problem.penalties(at)[0].numpy()[: len(self._columns)]
        self._inverse: Inverse | None = None
        self._has_blocks, self._since_blocks, self._since_joint = False, 0, 0

    def evaluate(self, point: Array) -> SoftmaxEvaluation:
        """The objective and its derivatives at a point (K, P); residuals are precise where probabilities are near 1."""
        logits = point @ self._columns
        logits -= logits[self._own]
        largest = logits.max(0)
        probabilities = np.exp(logits - largest)
        residuals = probabilities.copy()
        residuals[self._own] = 0.0
        sums, wrong = probabilities.sum(0), residuals.sum(0)
        values = largest + np.where(largest > 0, np.log(sums), np.log1p(wrong))
        probabilities /= sums
        residuals[self._own] = -wrong
        residuals *= self._weights / sums
        loss, shrunk = float(values @ self._weights), self._l2 * point
        gradient = residuals @ self._rows + shrunk
        return SoftmaxEvaluation(loss + float(np.vdot(shrunk, point)) / 2, loss, gradient, probabilities)

    def newton_step(self, now: SoftmaxEvaluation, enough: float, max_products: int) -> NewtonStep:
        """Newton's step to be subtracted, by preconditioned conjugate gradients.

        It is precise enough where its bound of the gap is at most ``enough``, or where its residual is small and the
        decrease that it predicts is above that.
        """
        inverse, gradient, features = self._preconditioner(now), now.gradient, self.problem.num_features
        mass = now.probabilities @ self._weights
        costs = np.empty_like(gradient)  # of what is left of the gradient, by strong convexity
        costs[:, :features] = 0.5 / self._l2[:features]
        costs[:, features:] = 0.5 / np.maximum(mass, 1e-300)[:, None]
        step, moved, residual = np.zeros_like(gradient), np.zeros_like(gradient), gradient
        direction = solved = inverse(residual)
        energy = first = float(np.vdot(residual, solved))
        products, decrease, gap = 0, 0.0, float(np.vdot(gradient * costs, gradient))
        while energy > 0 and products < min(max_products, MAX_PRODUCTS):
            products += 1
            product = self._product(now, direction)
            whole = product + self._l2 * direction
            curvature = float(np.vdot(direction, whole))
            if not curvature > 0:
                break
            length = energy / curvature
            step, moved, residual = step + length * direction, moved + length * product, residual - length * whole
            left, decrease = gradient - moved, float(np.vdot(step, gradient)) / 2
            gap = float(np.vdot(step, moved)) / 2 + float(np.vdot(left * costs, left))
            solved = inverse(residual)
            before, energy = energy, float(np.vdot(residual, solved))
            if gap <= enough or (energy <= FORCING**2 * first and decrease > enough):
                break
            direction = solved + energy / before * direction
        self._since_blocks += products
        self._since_joint += products
        return NewtonStep(step, max(decrease, 0.0), max(gap, 0.0), products)

    def _product(self, now: SoftmaxEvaluation, vector: Array) -> Array:
        """The Hessian of the loss times a vector (K, P)."""
        change = vector @ self._columns
        change *= now.probabilities
        change -= now.probabilities * change.sum(0)
        change *= self._weights
        product: Array = change @ self._rows
        return product

    def _preconditioner(self, now: SoftmaxEvaluation) -> Inverse:
        """The preconditioner for a step from a point: the last one, or a new one where that pays."""
        outputs, order = now.gradient.shape
        of_blocks, of_joint = (_products_of(size, len(self._rows)) for size in (order, outputs * order))
        found = None
        if outputs * order <= MAX_JOINT_PARAMETERS and self._since_joint >= of_joint:
            self._since_joint = self._since_blocks = 0
            found = self._joint_inverse(now)
        elif self._since_blocks >= of_blocks * (REMAKE if self._has_blocks else 1):
            self._since_blocks = 0
            found = self._inverse_of_blocks(now)
        if found is not None:
            self._inverse, self._has_blocks = found, True
        return self._separable_inverse(now) if self._inverse is None else self._inverse

    @cached_property
    def _gram(self) -> tuple[Array, Array]:
        """The features' Gram matrix G relative to l2: eigenvalues (P,), and vectors V with V' l2 V = 1, (P, P).

        Standardized features are orthogonal to the ones of an intercept, whose eigenvalue is the weight of all rows.
        """
        features, order, total = self.problem.num_features, len(self._columns), self._weights.sum()
        values, vectors = np.full(order, total), np.eye(order)
        roots = 1 / np.sqrt(self._l2[:features])
        scaled = self._columns[:features] * np.sqrt(self._weights)
        values[:features], vectors[:features, :features] = np.linalg.eigh(scaled @ scaled.T * roots * roots[:, None])
        vectors[:features, :features] *= roots[:, None]
        return np.maximum(values, 0.0), vectors

    def _separable_inverse(self, now: SoftmaxEvaluation) -> Inverse:
        """The inverse of the Kronecker product of the mean curvature and the Gram matrix, plus l2."""
        values, vectors = self._gram
        weighted = now.probabilities * (self._weights / self._weights.sum())
        curvatures, classes = np.linalg.eigh(np.diag(weighted.sum(1)) - weighted @ now.probabilities.T)
        curvatures = np.maximum(curvatures, 1e-12 * curvatures[-1] + 1e-300)  # one is 0, along equal outputs
        factors = 1 / (curvatures[:, None] * values + (self._l2 > 0))

        def inverse(gradient: Array) -> Array:
            return _centered(classes @ (classes.T @ gradient @ vectors * factors) @ vectors.T)

        return inverse

    def _inverse_of_blocks(self, now: SoftmaxEvaluation) -> Inverse | None:
        """The inverse of each output's block of the Hessian; ``None`` where one is not positive definite."""
        outputs, order = now.gradient.shape
        blocks = np.empty((outputs, order, order))
        spread = now.probabilities * (1 - now.probabilities) * self._weights
        for block, roots in zip(blocks, np.sqrt(spread), strict=True):
            scaled = self._columns * roots
            np.matmul(scaled, scaled.T, out=block)  # NumPy sees that the product is symmetric
            block.reshape(-1)[:: order + 1] += self._l2
        factors, failed = torch.linalg.cholesky_ex(torch.from_numpy(blocks))
        if bool(failed.any()):
            return None
        inverses = torch.cholesky_inverse(factors).numpy()

        def inverse(gradient: Array) -> Array:
            return _centered((inverses @ gradient[:, :, None])[:, :, 0])

        return inverse

    def _joint_inverse(self, now: SoftmaxEvaluation) -> Inverse | None:
        """The inverse of the Hessian; ``None`` where it is not positive definite."""
        outputs, order = now.gradient.shape
        rows, probabilities, weights = self._tensors(now)
        blocks = coupled_gram(rows, probabilities, weights).view(outputs, order, outputs, order)
        # A softmax has no curvature along vectors that are equal for all outputs; any curvature there will do.
        own = blocks.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)
        blocks += torch.diag(own.mean(0) / outputs).view(1, order, 1, order)
        own += torch.from_numpy(self._l2)
        factor, failed = torch.linalg.cholesky_ex(blocks.view(outputs * order, -1))
        if bool(failed):
            return None

        def inverse(gradient: Array) -> Array:
            column = torch.from_numpy(gradient).reshape(-1, 1)
            return _centered(torch.cholesky_solve(column, factor).view(outputs, order).numpy())

        return inverse

    def _tensors(self, now: SoftmaxEvaluation) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (n, P), probabilities (n, K) and weights (n, 1)."""
        weights = torch.from_numpy(self._weights).unsqueeze(1)
        return torch.from_numpy(self._rows), torch.from_numpy(now.probabilities.T), weights

    def bound(self, point: Array, now: SoftmaxEvaluation, step: Array) -> Bound | None:
        """Bounds f - f* by the Newton step at a point, (K, P) each; see `bound_by_newton_step`."""
        problem, (rows, probabilities, weights) = self.problem, self._tensors(now)
        spread = probabilities * weights
        pairs = (spread.T @ probabilities).fill_diagonal_(0)
        joint = torch.diag(pairs.sum(1)) - pairs
        curvature = InterceptCurvature(joint.diagonal(), spread.sum(0), joint)
        gradient, coef = (self._padded(torch.from_numpy(part)) for part in (now.gradient, point))
        evaluation = Derivatives(now.value, gradient, curvature, now.loss)
        largest = self._padded(torch.from_numpy(np.abs(self._columns).max(1)))
        total = problem.row_sum_scale * problem.total_weight
        squares = torch.where(largest > 0, total * SQUARES_MARGIN, 0.0).double()
        at = EvaluatedPoint(problem, self._coordinates, coef, evaluation, squares, largest)
        return drive(
            bound_by_newton_step(at, rows, weights, probabilities, torch.from_numpy(step)),
            MemoryRows(rows, self._labels),
        )

    def _padded(self, values: Tensor) -> Tensor:
        """Values (..., P) with 0 for an intercept where there is none: (..., D + 1)."""
        return values if self.problem.intercept else F.pad(values, (0, 1))


def _products_of(order: int, rows: int) -> float:
    """The products that take as long as Hessian blocks of an order."""
    return order / PARAMETERS_PER_PRODUCT + order**2 / (FACTORS_PER_PRODUCT * rows)


def _centered(step: Array) -> Array:
    """A step (K, P) without its part that is equal for all outputs, which changes no probability."""
    centered: Array = step - step.mean(0)
    return centered
