"""What the bounds of f - f* share: the bound, and the point that it is of with the sizes of rounding errors there.

References:
    Higham (2002), Accuracy and stability of numerical algorithms, chapters 3 and 4: errors of sums and of products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.cross_entropy import SATURATED_LOSS
from logreg.solvers.passes.base import MAX_FOLDED_MEAN
from logreg.solvers.passes.evaluate import Derivatives, additions_of_penalty
from logreg.solvers.passes.precise import UNIT_ROUNDOFF, accumulated
from logreg.solvers.problem import Coordinates, Problem, column_parts

MAX_FEATURE_RMS = 10.0
"""Upper limit of the root mean square of a feature in an optimizer's coordinates.

The coordinates give a sample of the rows a root mean square of about 1; the factor 10 covers what the sample missed.
"""


class Bound(NamedTuple):
    """A bound of f - f* at a point, with the derivatives that it was made from."""

    value: float
    """f, in nats."""
    gap: float
    """Upper bound on f - f* without ``rounding``, in nats; an estimate of f - f* where not ``rigorous``."""
    rigorous: bool
    """Whether the gap is a bound, not an estimate."""
    gradient: Tensor
    """The gradient of f in the model's own coordinates, (K, D + 1); with l1 the subgradient of smallest norm."""
    loss: float
    """f without the penalty, in nats."""
    rounding: float = 0.0
    """Upper bound of the rounding error of the gap, in nats: of sums over the rows, and of the point as stored."""
    dependent: tuple[int, ...] = ()
    """Features that are linearly dependent to within rounding, in ascending order, where they prevent a bound."""
    error: float = 0.0
    """Upper bound of the rounding error of ``value``, in nats; the gap does not contain it."""
    decrement: float | None = None
    """Of a loss that is not convex: half the squared Newton decrement, in nats, about the distance from a local minimum
    nearby; infinite where the Hessian has a negative eigenvalue.  ``None`` where it was not computed."""
    starts: int = 1
    """Number of starts, of whose ends this is the lowest."""


@dataclass(frozen=True, eq=False)
class EvaluatedPoint:
    """A point with its derivatives in float64, and with the sizes that bound their rounding errors.

    Attributes:
        problem: The problem.
        coordinates: The coordinates of the point.
        point: Shape (K, D + 1).
        evaluation: The derivatives there, in float64.
        squares: `PreciseDerivatives.squares` or an upper bound of it, (D + 1,).
        largest: `PreciseDerivatives.largest` or an upper bound of it, (D + 1,).
    """

    problem: Problem
    coordinates: Coordinates
    point: Tensor
    evaluation: Derivatives
    squares: Tensor
    largest: Tensor

    @property
    def total(self) -> float:
        """The weight of all rows in the objective: 1 for a mean loss."""
        return self.problem.row_sum_scale * self.problem.total_weight

    @cached_property
    def penalties(self) -> tuple[Tensor, Tensor]:
        """See `Problem.penalties`."""
        return self.problem.penalties(self.coordinates)

    @cached_property
    def accumulated(self) -> float:
        """Bound on the relative rounding error of the sums over the rows at this point; see `accumulated`."""
        return accumulated(self.problem.rows, self.evaluation.additions)

    @property
    def offset(self) -> float:
        """Largest absolute offset of a row; 0 without one."""
        return self.problem.largest_offset or 0.0

    @cached_property
    def sizes(self) -> Tensor:
        """The absolute values of the point, (K, D + 1)."""
        return self.point.abs()

    @property
    def reach(self) -> Tensor:
        """Upper bound of the absolute logits of each output over the rows, (K,)."""
        return self.sizes @ self.largest + self.offset

    @cached_property
    def logits_error(self) -> Tensor:
        """Root of the weighted sum over the rows of the squared rounding errors of each output's logits, (K,)."""
        constant = self.sizes[:, -1] + self.offset
        reach = self.sizes[:, :-1] @ self.squares[:-1].sqrt() + constant * math.sqrt(self.total)
        return (self.problem.num_features + 10) * UNIT_ROUNDOFF * reach

    @cached_property
    def largest_logit_error(self) -> Tensor:
        """Largest rounding error of each output's logits over the rows, (K,)."""
        return (self.problem.num_features + 10) * UNIT_ROUNDOFF * self.reach

    @cached_property
    def curved_error(self) -> Tensor:
        """Root of the weighted sum over the rows of curvatures times squared rounding errors of the logits, (K,)."""
        loss = self.problem.loss
        if math.isfinite(loss.max_curvature):
            return self.logits_error * math.sqrt(loss.max_curvature)
        return self.largest_logit_error * math.sqrt(loss.curvature_sum(self.evaluation.loss, self.total))

    @property
    def probabilities_error(self) -> float:
        """Upper bound of the change of f by rounding of probabilities near 1, in nats, where they may be rounded."""
        is_saturated = self.evaluation.loss <= SATURATED_LOSS * self.total
        return 0.0 if is_saturated else 8 * UNIT_ROUNDOFF * self.total * self.problem.num_outputs

    @property
    def value_error(self) -> float:
        """Upper bound of the rounding error of f, in nats.

        The loss changes with its logits at most by its Lipschitz constant times their errors.  Where it is saturated,
        computed by `EvaluatePrecisely`, it changes at most by the factor exp(relative Lipschitz constant * error).
        """
        loss, evaluation = self.problem.loss, self.evaluation
        of_penalty = additions_of_penalty(self.point.shape) * UNIT_ROUNDOFF
        summed = 2 * (self.accumulated + of_penalty) * abs(evaluation.value)
        if evaluation.loss > SATURATED_LOSS * self.total or loss.relative_lipschitz == math.inf:
            if not math.isfinite(loss.max_curvature):
                slopes = loss.residual_bound(evaluation.loss, self.total)
                return float(self.largest_logit_error.sum()) * 2 * slopes + summed
            slope = loss.lipschitz * math.sqrt(self.total)
            slope = slope if math.isfinite(slope) else math.sqrt(2 * loss.max_curvature * evaluation.loss)
            return float(self.logits_error.sum()) * 2 * slope + summed
        reach = loss.relative_lipschitz * float(self.reach.max())
        return (
            evaluation.loss * math.expm1(min(2 * (self.problem.num_features + 10) * UNIT_ROUNDOFF * reach, 700.0))
            + summed
        )


def evaluated_point(
    problem: Problem, coordinates: Coordinates, point: Tensor, evaluation: Derivatives
) -> EvaluatedPoint:
    """A point whose sizes of features are bounded and not measured, from an optimizer's evaluation in float64.

    Args:
        problem: The problem of the point.
        coordinates: The coordinates of the optimizer.
        point: Shape (K, D + 1).
        evaluation: The derivatives there.
    """
    # `Pass` subtracts the center after multiplying with the features, unless it is too large for that.
    folded = (coordinates.center / coordinates.scale).abs()
    is_shifted = bool((folded > MAX_FOLDED_MEAN[torch.float64]).any()) and not problem.is_sparse
    folded = torch.zeros_like(folded) if is_shifted else folded
    size = F.pad(MAX_FEATURE_RMS + folded, (0, 1), value=1.0)
    squares = size.square() * problem.row_sum_scale * problem.total_weight
    return EvaluatedPoint(problem, coordinates, point, evaluation, squares, size * math.sqrt(problem.rows))


def conversion_rounding(at: EvaluatedPoint, own: Coordinates) -> float:
    """Upper bound on the change of f when the point is rounded to the model's coordinates and to source units.

    Each coefficient is rounded a few times.  The intercept is a difference of products of coefficients and offsets,
    which may be large.

    Args:
        at: The point.
        own: The coordinates in which the caller holds the point.
    """
    problem, gradient = at.problem, at.evaluation.gradient
    centers = at.coordinates.center.abs() + own.center.abs() + problem.model.center.abs()
    offsets = at.sizes[:, :-1] @ (centers / at.coordinates.scale)
    of_intercept = (problem.num_features + 5) * UNIT_ROUNDOFF * offsets + 4 * UNIT_ROUNDOFF * at.sizes[:, -1]
    of_logits = 4 * at.logits_error + of_intercept * math.sqrt(at.total)
    products = sum(float((gradient[:, some].abs() * at.sizes[:, some]).sum()) for some in column_parts(gradient.shape))
    of_slope = float(gradient[:, -1].abs() @ of_intercept) + 4 * UNIT_ROUNDOFF * products
    # To first order f changes by the gradient, which vanishes at the optimum, and to second order by the curvature.
    if not math.isfinite(problem.loss.max_curvature):
        largest = 4 * at.largest_logit_error + of_intercept
        curvature = problem.loss.curvature_sum(at.evaluation.loss, at.total)
        return of_slope + curvature * float(largest.square().sum()) / 2
    return of_slope + second_order(problem, of_logits)


def second_order(problem: Problem, of_logits: Tensor) -> float:
    """Upper bound on the change of f beyond first order, by errors of the logits whose norms over the rows are (K,)."""
    return max(problem.loss.max_curvature, 1.0) * float(of_logits.square().sum()) / 2


def gradient_error(at: EvaluatedPoint) -> Tensor:
    """Upper bound of the rounding error of the gradient, (K, D + 1)."""
    problem, evaluation = at.problem, at.evaluation
    summed = at.accumulated * problem.loss.residual_bound(evaluation.loss, at.total)
    of_logits = evaluation.curvature.own.sqrt() * at.curved_error
    of_penalty = 4 * UNIT_ROUNDOFF * (evaluation.gradient.abs() + at.penalties[0] * at.point.abs())
    return (summed + of_logits).unsqueeze(1) * at.largest + of_penalty
