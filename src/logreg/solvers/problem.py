"""The problem that a solver solves: the objective, the shape of the data, and the coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import Loss
from logreg.losses.objective import Objective
from logreg.losses.penalties import L1Penalty, L2Penalty
from logreg.rows import row_weights
from logreg.solvers.kernels import sum_over_rows

MAX_COPIED_NUMBERS = 2**18
"""Numbers of a sample that are copied at once: 1 MiB in float32, which stays in the cache."""

MAX_MOMENTS_NUMEL = 2**19
"""About the largest amount of numbers in the rows that show the means and the deviations of the features."""


class Coordinates(NamedTuple):
    """An affine map of the features, (features - center) / scale, and the coefficients that go with it.

    A change of coordinates changes no logit.
    """

    center: Tensor
    """Shape (D,), float64, in source units."""
    scale: Tensor
    """Shape (D,), float64, > 0."""

    def to(self, other: Coordinates, point: Tensor) -> Tensor:
        """A point (K, D + 1) of these coordinates in the other ones."""
        moved = torch.empty_like(point)
        coef = torch.div(point[:, :-1], self.scale, out=moved[:, :-1])
        moved[:, -1] = point[:, -1] - coef @ self.center + coef @ other.center
        coef.mul_(other.scale)
        return moved

    def gradient_to(self, other: Coordinates, gradient: Tensor) -> Tensor:
        """A gradient (K, D + 1) by these coordinates -> by the other ones (the chain rule)."""
        moved = torch.empty_like(gradient)
        moved[:, -1] = gradient[:, -1]
        coef = torch.mul(gradient[:, :-1], self.scale, out=moved[:, :-1])
        coef.addcmul_(gradient[:, -1:], self.center - other.center).div_(other.scale)
        return moved


@dataclass(frozen=True)
class Problem:
    """The objective over the rows of one train split, without the rows.

    Attributes:
        objective: The function to minimize.
        rows: N, over all processes.
        total_weight: Sum of the weights of all rows in the loss.
        num_outputs: K.
        model: The coordinates in which coefficients are penalized and reported.
        class_weight: Weight of each class in the loss, C of them, or empty.
        dtype: Floating type of the arithmetic within a block.
        intercept: Whether the model has an intercept; else the last column of every point is 0.
        nonzeros: Number of the non-zero features of all rows, where these are sparse; ``None`` for dense rows.
        largest_offset: Largest absolute offset of a row; ``None`` where logits have no offset.
    """

    objective: Objective
    rows: int
    total_weight: float
    num_outputs: int
    model: Coordinates
    class_weight: tuple[float, ...] = ()
    dtype: torch.dtype = torch.float32
    intercept: bool = True
    nonzeros: int | None = None
    largest_offset: float | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether the features of a block are sparse."""
        return self.nonzeros is not None

    @property
    def numel(self) -> int:
        """Numbers in the features of all rows: N * D, or the non-zeros of sparse ones."""
        return self.rows * self.num_features if self.nonzeros is None else self.nonzeros

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.model.center)

    @property
    def num_parameters(self) -> int:
        """K * (D + 1)."""
        return self.num_outputs * (self.num_features + 1)

    @property
    def row_sum_scale(self) -> float:
        """Factor from a weighted sum over the rows to its term in the objective: 1 or 1 / `total_weight`."""
        return 1.0 if self.objective.reduction == "sum" else 1.0 / self.total_weight

    @property
    def loss(self) -> Loss:
        """The loss of a row."""
        return self.objective.row_loss

    @property
    def coupled(self) -> bool:
        """Whether the outputs share one loss (softmax); else the problem is K separate ones."""
        return self.loss.couples_outputs

    @property
    def hessian_order(self) -> int:
        """Order of a diagonal block of the Hessian: K * (D + 1) if the outputs are coupled, else D + 1."""
        return self.num_parameters if self.coupled else self.num_features + 1

    def zeros(self) -> Tensor:
        """The point of all zeros, (K, D + 1)."""
        return self.model.center.new_zeros(self.num_outputs, self.num_features + 1)

    def penalties(self, coordinates: Coordinates) -> tuple[Tensor, Tensor]:
        """Strengths of l2 and of l1 by each of these coordinates, (D + 1,) each; 0 for the intercept."""
        ratio = self.model.scale / coordinates.scale
        zero = ratio.new_zeros(1)
        l2, l1 = L2Penalty(self.objective.l2).rescaled(ratio), L1Penalty(self.objective.l1).rescaled(ratio)
        return torch.cat([l2, zero]), torch.cat([l1, zero])

    def sub(self, sample: Batch) -> Problem:
        """The problem over a sample of the rows."""
        weights = row_weights(sample, self.class_weight, torch.float64)
        return self.part(len(sample.labels), float(len(sample.labels) if weights is None else weights.sum()))

    def part(self, rows: int, total: float) -> Problem:
        """The problem over ``rows`` of the rows, whose weights in the loss sum to ``total``."""
        objective = self.objective
        if objective.reduction == "sum":  # the sum over a sample is smaller than that over all rows: a mean is not
            l2, l1 = objective.l2 / self.total_weight, objective.l1 / self.total_weight
            objective = replace(objective, reduction="mean", l2=l2, l1=l1)
        nonzeros = None if self.nonzeros is None else self.nonzeros * rows // self.rows
        return replace(self, objective=objective, rows=rows, total_weight=total, nonzeros=nonzeros)


def column_parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """The columns of a matrix (K, D) in parts of at most `MAX_COPIED_NUMBERS` numbers, of at least one column."""
    columns = max(1, MAX_COPIED_NUMBERS // shape[0])
    return (slice(first, min(first + columns, shape[1])) for first in range(0, shape[1], columns))


def choose_coordinates(problem: Problem, sample: Batch, every_scale: bool) -> Coordinates:
    """Coordinates in which a sample has mean 0 and deviations of one size; the model's own where it standardizes.

    Without an intercept the mean stays, and the deviations are those from 0.

    Args:
        problem: The problem of the rows.
        sample: Some of the rows.
        every_scale: Whether small deviations are scaled to 1 too.  This scaling enlarges rare features, which harms
            only steps along the gradient.
    """
    model = problem.model
    if is_standardized(problem):
        return model
    weights = row_weights(sample, (), torch.float32)
    spaced = slice(None, None, max(1, sample.features.numel() // MAX_MOMENTS_NUMEL))
    features = sample.features[spaced] if weights is None else sample.features[spaced][weights[spaced] > 0]
    few = features.split(max(1, MAX_COPIED_NUMBERS // len(model.center)))  # since copies of all would be large
    number = max(len(features), 1)
    # Sums about a row of the sample, from which no feature lies farther than the root of `number` deviations: so the
    # mean square less the squared mean keeps its digits.
    origin = features[:1].to(torch.promote_types(features.dtype, torch.float32)).sum(0)
    offset, squares = torch.zeros_like(model.center), torch.zeros_like(model.center)
    for part in few:
        shifted = part - origin
        ones = shifted.new_ones(len(part), 1)
        offset += sum_over_rows(ones, shifted)[0] / number
        squares += sum_over_rows(ones, shifted.square_())[0] / number
    center, variance = origin + offset, (squares - offset.square()).clamp(min=0)
    if not problem.intercept:  # a shift of the features would need an intercept
        variance, center = variance + center.square(), torch.zeros_like(center)
    deviation = variance.sqrt()
    deviation = torch.where(deviation > 1e-9 * center.abs(), deviation, 1.0).nan_to_num(1.0)
    if every_scale:
        return Coordinates(center, deviation)
    return Coordinates(center, deviation.clamp(min=float(deviation.median())))


def is_standardized(problem: Problem) -> bool:
    """Whether the model standardizes the features; else they are in source units, as they are stored."""
    model = problem.model
    of_units = torch.frexp(model.scale).mantissa == 0.5  # powers of two
    return bool((model.center != 0).any() | ~of_units.all())
