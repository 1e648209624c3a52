"""Passes in float64 for certificates: every row's terms have small relative rounding errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import is_sparse, squared
from logreg.facts import Batch
from logreg.losses import Loss
from logreg.rows import (
    chosen_rows,
    logit_rows,
    part_rows,
    parts,
    row_weights,
    sparse_part_rows,
)
from logreg.solvers.kernels import coupled_gram, sum_over_rows, total_over_rows, weighted_gram
from logreg.solvers.passes.base import Pass, PreparedRows, Result
from logreg.solvers.passes.evaluate import (
    Derivatives,
    InterceptCurvature,
    additions_of,
    diagonal_of,
    longest_sum,
    penalty_at,
    sums_joint_curvature,
)
from logreg.solvers.problem import Coordinates, Problem

UNIT_ROUNDOFF = 2.0**-53
"""Unit roundoff of float64."""

MAX_PRECISE_ROWS = 2048
"""Largest number of rows that a precise pass takes at once: several copies of their features stay in the cache."""

ROUNDINGS_OF_A_TERM = 20
"""Roundings of a row's term before it is added to those of other rows, at most: of its factors, their product and its
weight, and of what is done with the sum."""


def accumulated(rows: int, additions: float | None = None) -> float:
    """Bound on the rounding error of a sum over the rows, relative to the sum of the absolute values of its terms.

    It is gamma_n = n u / (1 - n u), with u the unit roundoff and n the largest number of roundings from a term to the
    sum.  It holds in whatever order the terms are added, also where products are added without a rounding of their own.

    Args:
        rows: Number of terms, which is the largest number of additions whatever their order.
        additions: As of `Derivatives.additions`; ``None`` where it is not known.

    References:
        Higham (2002), Accuracy and stability of numerical algorithms, sections 3.1 and 4.2.
    """
    roundings = min(rows, rows if additions is None else additions) + ROUNDINGS_OF_A_TERM
    return roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF)


class PrecisePass(Pass[Result]):
    """A pass in float64 that subtracts the center from every row, in coordinates whose scales are powers of two.

    A transformed feature then has the relative error of one subtraction, whatever its offset and unit.  Rows of weight
    0 are left out.  From sparse rows nothing is subtracted: their center is usually 0 (see `uncentered_coordinates`),
    and the center of a model without an intercept is subtracted from sums.
    """

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        super().__init__(problem, coordinates, torch.float64)
        if problem.is_sparse and self.takes_sparse:
            return
        self._shift = (coordinates.center, 1 / coordinates.scale)
        self._fold = Coordinates(torch.zeros_like(coordinates.center), torch.ones_like(coordinates.scale))

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        rows = min(
            part_rows(block.features.shape[1], self.dtype),
            logit_rows(self.problem.num_outputs, self.dtype, block.features.device),
        )
        rows, dense = min(rows, MAX_PRECISE_ROWS), not self.takes_sparse
        if is_sparse(block.features) and self.takes_sparse:
            rows = sparse_part_rows(block.features.shape[1])
        for part in parts(block, rows, dense):
            if len((weighing := weighing_rows(part, self.problem)).labels):
                self._take(weighing)


def weighing_rows(block: Batch, problem: Problem) -> Batch:
    """The rows of a block whose weight in the loss is positive."""
    weights = row_weights(block, problem.class_weight, torch.float64)
    if weights is None or bool((weights > 0).all()):
        return block
    return chosen_rows(block, weights > 0)


def centered_coordinates(problem: Problem, sample: Batch) -> Coordinates:
    """Coordinates in which a weighted sample has mean 0 and deviations between 1/2 and 1, up to rounding.

    Scales are powers of two.  Features are divided by their size before they are squared, so that no square overflows
    or underflows.
    """
    some = weighing_rows(sample, problem)
    features = (some if len(some.labels) else sample).features.double()
    weights = row_weights(some, problem.class_weight, torch.float64)
    weights = features.new_ones(len(features)) if weights is None or not len(weights) else weights / weights.max()
    weights = weights / weights.sum()
    unit = _power_of_two(features.abs().amax(0))
    features = features / unit
    center = (weights @ features).clamp(features.amin(0), features.amax(0))
    if not problem.intercept:  # a shift of the features would need an intercept
        center = problem.model.center / unit
    deviation = (weights @ (features - center).square()).sqrt()
    return Coordinates(center * unit, (unit * _power_of_two(deviation)).clamp(2.0**-1000, 2.0**1000))


def uncentered_coordinates(problem: Problem) -> Coordinates:
    """The coordinates of a precise pass over sparse rows: the units of the model, rounded to powers of two.

    The center is 0, so that no product cancels.  The intercept takes up a shift of the features; without an intercept
    the model's center stays.
    """
    center = torch.zeros_like(problem.model.center) if problem.intercept else problem.model.center
    return Coordinates(center, _power_of_two(problem.model.scale))


def _power_of_two(size: Tensor) -> Tensor:
    """The smallest power of two above each number; 1 for 0."""
    return torch.ldexp(torch.ones_like(size), torch.where(size > 0, torch.frexp(size).exponent, 0))


class PreciseDerivatives(NamedTuple):
    """The objective and its derivatives at a point, and sums that bound their rounding errors."""

    evaluation: Derivatives
    squares: Tensor
    """Weighted sum over the rows of squared features, times `Problem.row_sum_scale`, (D + 1,)."""
    largest: Tensor
    """Largest absolute value of each feature, (D + 1,)."""
    slopes: Tensor
    """Weighted sum of the absolute terms of the gradient of the loss, times `Problem.row_sum_scale`, (K, D + 1)."""
    reach: float
    """Largest sum of the absolute terms of a logit, over all rows."""
    rows: int
    """Number of rows of positive weight."""
    farthest: float
    """Largest absolute logit, over all rows."""
    coupled_terms: Tensor | None = None
    """Weighted sum of the absolute terms of the Hessian's diagonal where outputs are coupled, whose terms cancel there:
    of (p_k + p_k^2) x^2, times `Problem.row_sum_scale`, (K, D + 1)."""


class EvaluatePrecisely(PrecisePass[PreciseDerivatives]):
    """The objective, its gradient and, on request, its Hessian; every row's terms have small relative errors.

    `Loss.evaluate_precisely` computes residuals and curvatures from the smaller of two probabilities, so that saturated
    rows keep their digits.
    """

    sums = (
        "_loss",
        "_rows",
        "_additions",
        "_gradient",
        "_slopes",
        "_squares",
        "_own",
        "_mass",
        "_joint",
        "_by_intercept",
        "_least",
        "_hessian",
        "_terms",
    )
    maxima = ("_reach", "_largest", "_farthest")

    def __init__(self, problem: Problem, coordinates: Coordinates, point: Tensor, hessian: bool = False) -> None:
        self.takes_sparse = not hessian
        super().__init__(problem, coordinates)
        self.point, self._wants = point, hessian
        k, p = point.shape
        self._loss, self._rows, self._additions, self._reach, self._farthest = (self.zeros() for _ in range(5))
        self._gradient, self._slopes, self._squares = self.zeros(k, p), self.zeros(k, p), self.zeros(p)
        self._largest, self._least = self.zeros(p), self.zeros(p)
        self._own, self._mass, self._by_intercept = self.zeros(k), self.zeros(k), self.zeros(k, p)
        self._joint = self.zeros(k, k) if sums_joint_curvature(problem, self.dtype) else None
        shape = ((k, p, k, p) if problem.coupled else (k, p, p)) if hessian else (0,)
        self._hessian = self.zeros(*shape)
        self._terms = self.zeros(k, p) if hessian and problem.coupled else None

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the terms of these rows."""
        coef, features, ones = self.point, rows.features, float(self.problem.intercept)
        weights = coef.new_ones(len(rows.labels), 1) if rows.weights is None else rows.weights
        if is_sparse(features):
            logits = rows.logits(*self.linear(coef))
        else:
            features = F.pad(features, (0, 1), value=ones)
            logits = rows._replace(features=features).logits(coef, coef.new_zeros(len(coef)))
        self._rows += len(weights)
        self._additions += additions_of(len(weights))
        values, residuals, curvature = self.problem.loss.evaluate_precisely(logits, rows.labels)
        spread, residuals = curvature * weights, residuals * weights
        mass = total_over_rows(spread)
        self._mass += mass
        if self.problem.coupled:
            self._least += self._sum_over_rows(spread.amin(1, keepdim=True), features)[0]
        if self._joint is not None:
            pairs = sum_over_rows(spread, curvature).fill_diagonal_(0)
            self._joint += torch.diag(pairs.sum(1)) - pairs
        elif self.problem.coupled:
            self._own += total_over_rows(spread * (1 - curvature))
        else:
            self._own += mass
        self._loss += total_over_rows(values * weights[:, 0])
        factors = residuals if self.problem.coupled else torch.cat([residuals, spread], dim=1)
        sums = self._sum_over_rows(factors, features)
        self._gradient += sums[: len(coef)]
        if not self.problem.coupled:
            self._by_intercept += sums[len(coef) :]
        if is_sparse(features):
            of_rows = torch.cat([weights, torch.ones_like(weights)], dim=1)
            weighted, plain = F.pad(sum_over_rows(of_rows, squared(features)), (0, 1), value=ones)
            weighted[-1] *= weights.sum()
            self._squares += weighted
            self._largest = torch.maximum(self._largest, plain.sqrt())  # no number is larger than the root of the sum
            return
        # not vector_norm or aminmax, which take far longer over columns
        self._largest = torch.maximum(self._largest, torch.maximum(features.amax(0), -features.amin(0)))
        squares = features.square()
        self._squares += sum_over_rows(weights, squares)[0]
        if self._terms is not None:
            self._terms += sum_over_rows(spread * (1 + curvature), squares)
        if not self._wants:
            return
        sizes = features.abs()
        self._slopes += sum_over_rows(residuals.abs(), sizes)
        reach = sizes @ coef.abs().T
        reach = reach if rows.offset is None else reach + rows.offset.abs()
        self._reach = torch.maximum(self._reach, reach.max())
        self._farthest = torch.maximum(self._farthest, logits.abs().max())
        if self.problem.coupled:
            self._hessian += coupled_gram(features, curvature, weights).view_as(self._hessian)
        else:
            for output, hessian in enumerate(self._hessian):
                hessian += weighted_gram(features, spread[:, output : output + 1])

    def _sum_over_rows(self, factors: Tensor, features: Tensor) -> Tensor:
        """Sums over the rows of factors (n, A) times the features and the constant of the intercept, (A, D + 1)."""
        if is_sparse(features):
            return self.moments(sum_over_rows(factors, features), total_over_rows(factors))
        return sum_over_rows(factors, features)

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """`PreciseDerivatives.squares` without its factor, and `PreciseDerivatives.largest`."""
        if not (self.problem.is_sparse and self.takes_sparse):
            return self._squares, self._largest
        # Upper bounds, as if rows and center had opposite signs.
        center, scale = self._fold
        far = center.abs() * math.sqrt(self.problem.total_weight)
        squares = ((self._squares[:-1].sqrt() + far) / scale).square()
        largest = (self._largest[:-1] + center.abs()) / scale
        return torch.cat([squares, self._squares[-1:]]), torch.cat([largest, self._largest[-1:]])

    def result(self) -> PreciseDerivatives:
        """The objective with its penalties, in these coordinates."""
        problem, share = self.problem, self.problem.row_sum_scale
        l2, l1 = problem.penalties(self.coordinates)
        loss = float(self._loss) * share
        penalty = penalty_at(self.point, l2, l1)
        hessian = self._hessian * share if self._wants else None
        if hessian is not None:
            diagonal = hessian.diagonal(dim1=1, dim2=2) if not problem.coupled else diagonal_of(hessian)
            diagonal += l2
        joint = None if self._joint is None else self._joint * share
        own = self._own * share if joint is None else joint.diagonal()
        evaluation = Derivatives(
            loss + penalty,
            self._gradient * share + l2 * self.point,
            InterceptCurvature(own, self._mass * share, joint),
            loss,
            hessian,
            None if problem.coupled else self._by_intercept * share,
            of_least=self._least * share if problem.coupled else None,
            additions=longest_sum(problem) + float(self._additions),
        )
        squares, largest = self._sizes()
        return PreciseDerivatives(
            evaluation,
            squares * share,
            largest,
            self._slopes * share,
            float(self._reach),
            int(self._rows),
            float(self._farthest),
            None if self._terms is None else self._terms * share,
        )


def fenchel_young(loss: Loss, values: Tensor, logits: Tensor, theta: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The Fenchel-Young excess of each row, and an upper bound of its rounding error, (n,) each.

    loss(z) + conjugate(theta) - z theta is at least 0, and is 0 where theta is the residual at z.

    Args:
        loss: The loss.
        values: The loss of each row, (n,).
        logits: Shape (n, K).
        theta: A point of the dual problem, (n, K).
        targets: Shape (n, K).
    """
    conjugate, product = loss.conjugate(theta, targets), logits * theta
    noise = 8 * (values + conjugate.abs() + product.abs().sum(1)) + loss.conjugate_slope(0.0) * logits.shape[1]
    return values + conjugate - product.sum(1), noise * UNIT_ROUNDOFF


class DualSums(NamedTuple):
    """The sums of `DualObjective` over the rows, times `Problem.row_sum_scale`."""

    moments: Tensor
    """Sum of theta x, (K, D + 1)."""
    excess: float
    """The excess of the rows over equality in the Fenchel-Young inequality, in nats."""
    rounding: float
    """Upper bound of its rounding error."""
    with_hub: Tensor | None
    """Sum of the product of each class's probability with that of ``hub``, (K,); ``None`` without one."""


class DualObjective(Pass[DualSums]):
    """The dual objective at a dual point theta that is computed from the residuals at a primal point.

    Since the intercept is unpenalized, a feasible theta sums to 0 over the rows for each output.  With r_i the
    residuals and J_i their derivatives by the logits, theta_i = r_i - J_i shift has a sum of 0 for the right ``shift``
    (K,).  ``scale`` in (0, 1] shrinks theta further, into the feasible set of a pure l1 penalty.
    """

    sums = ("_sums", "_ones", "_fit", "_noise", "_with_hub")
    takes_sparse = True

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        point: Tensor,
        shift: Tensor,
        scale: float = 1.0,
        hub: int | None = None,
    ) -> None:
        """``hub`` is a class of a softmax whose `DualSums.with_hub` are wanted."""
        super().__init__(problem, coordinates, torch.float64)
        self._coef, self._intercept = self.linear(point)
        self._move, self._scale = shift, scale
        k, d = problem.num_outputs, problem.num_features
        self._sums, self._ones = self.zeros(k, d), self.zeros(k)
        self._fit, self._noise = self.zeros(), self.zeros()
        self._hub, self._with_hub = hub, None if hub is None else self.zeros(k)

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds theta times the features, and the excess of each row over equality in the Fenchel-Young inequality."""
        features, targets, weights = rows.features, rows.targets, rows.weights
        logits, loss = rows.logits(self._coef, self._intercept), self.problem.loss
        values, residuals, curvature = loss.evaluate(logits, rows.labels)
        theta = (residuals - loss.curvature_product(curvature, self._move.expand_as(logits))) * self._scale
        excess, noise = fenchel_young(loss, values, logits, theta, targets)
        if self._with_hub is not None:
            of_hub = curvature[:, self._hub]
            self._with_hub += sum_over_rows(
                (of_hub if weights is None else of_hub * weights[:, 0]).unsqueeze(1), curvature
            )[0]
        if weights is not None:
            excess, noise, theta = excess * weights[:, 0], noise * weights[:, 0], theta * weights
        self._fit += total_over_rows(excess)
        self._noise += total_over_rows(noise)
        self._sums += sum_over_rows(theta, features)
        self._ones += total_over_rows(theta)

    def result(self) -> DualSums:
        """The sums, times `Problem.row_sum_scale`."""
        share = self.problem.row_sum_scale
        return DualSums(
            self.moments(self._sums, self._ones) * share,
            float(self._fit) * share,
            float(self._noise) * share,
            None if self._with_hub is None else self._with_hub * share,
        )


class RowNormBounds(NamedTuple):
    """Bounds on the norms of rows, in given units."""

    largest: float
    """Largest squared norm of a row."""
    mean: float
    """Weighted sum over the rows of squared norms, times `Problem.row_sum_scale`."""
    far: float
    """Largest square of a mean that is subtracted from sums over the rows."""
    blurred: float
    """Largest rounding error of a column whose mean is subtracted from every row, in standard deviations."""


class RowNorms(Pass[RowNormBounds]):
    """Norms of the rows in given coordinates and units, with the constant 1 of the intercept."""

    sums = ("_sum",)
    maxima = ("_largest",)
    copies = True

    def __init__(self, problem: Problem, coordinates: Coordinates, size: Tensor) -> None:
        """``size`` (D + 1,) are the units: features and the constant 1 are divided by them."""
        super().__init__(problem, coordinates)
        self._one = float(size[-1]) ** -2 if problem.intercept else 0.0
        self._origin = (-coordinates.center / (coordinates.scale * size[:-1])).to(self.dtype)
        self._invert = (1 / (coordinates.scale * size[:-1])).to(self.dtype)
        self._size = size[:-1].to(self.dtype)
        self._largest = torch.zeros((), dtype=self.dtype, device=coordinates.center.device)
        self._sum = self.zeros()
        center, scale = self._fold
        self._far = float((center / (scale * size[:-1])).square().max()) if len(center) else 0.0
        blur = torch.finfo(self.dtype).eps * (coordinates.center / coordinates.scale).abs()
        self._blurred = float(blur.max()) if self._shift is not None else 0.0

    def accumulate(self, rows: PreparedRows) -> None:
        """Updates the largest squared norm of a row of positive weight, and the weighted sum."""
        shifted = self._shift is not None
        features = rows.features / self._size if shifted else torch.addcmul(self._origin, rows.features, self._invert)
        squares = torch.linalg.vector_norm(features, dim=1).square_()
        if rows.weights is not None:
            squares = torch.where(rows.weights[:, 0] > 0, squares, 0.0)
        self._largest = torch.maximum(self._largest, squares.max())
        self._sum += (squares if rows.weights is None else squares * rows.weights[:, 0]).sum(dtype=torch.float64)

    def result(self) -> RowNormBounds:
        """The bounds, with a margin of 1e-3 for the rounding of float32."""
        share, total = self.problem.row_sum_scale, self.problem.total_weight
        mean = float(self._sum) * share + share * total * self._one
        return RowNormBounds(1.001 * float(self._largest) + self._one, 1.001 * mean, self._far, self._blurred)
