"""The problem that a solver is given: the objective, the shape of the data, and the coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import Loss
from logreg.losses.objective import Objective
from logreg.losses.penalties import L1Penalty, L2Penalty
from logreg.rows import row_weights

COPIED = 2**18
"""Numbers of a sample that are copied at once."""


class Coordinates(NamedTuple):
    """Coordinates for the features: (features - center) / scale; a change of coordinates changes no logit."""

    center: Tensor
    """Shape (D,), float64, in source units."""
    scale: Tensor
    """Shape (D,), float64, > 0."""

    def to(self, other: Coordinates, point: Tensor) -> Tensor:
        """The point (K, D + 1) of this coordinates as the other one has it."""
        coef = point[:, :-1] / self.scale
        intercept = point[:, -1] - coef @ self.center + coef @ other.center
        return torch.cat([coef * other.scale, intercept.unsqueeze(1)], dim=1)

    def gradient_to(self, other: Coordinates, gradient: Tensor) -> Tensor:
        """The gradient (K, D + 1) by this coordinates's coordinates -> by the other's."""
        by_intercept = gradient[:, -1:]
        coef = gradient[:, :-1] * self.scale + by_intercept * (self.center - other.center)
        return torch.cat([coef / other.scale, by_intercept], dim=1)


@dataclass(frozen=True)
class Problem:
    """The objective over the rows of one train split: all that an optimizer knows of them.

    Attributes:
        objective: What is minimized.
        rows: N.
        total_weight: Sum over the rows of what each weighs in the loss.
        num_outputs: K.
        model: The coordinates that the coefficients are penalized and reported in.
        class_weight: Weight of each class in the loss, or empty.
        dtype: Floating type of the arithmetic within a block.
        intercept: Whether there is one; else it is 0.
    """

    objective: Objective
    rows: int
    total_weight: float
    num_outputs: int
    model: Coordinates
    class_weight: tuple[float, ...] = ()
    dtype: torch.dtype = torch.float32
    intercept: bool = True

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
        """What a sum over the rows is multiplied by in the objective."""
        return 1.0 if self.objective.reduction == "sum" else 1.0 / self.total_weight

    @property
    def loss(self) -> Loss:
        """Of a row."""
        return self.objective.row_loss

    @property
    def coupled(self) -> bool:
        """Whether the outputs share one loss (a softmax); else each is a problem of its own."""
        return self.loss.couples_outputs

    @property
    def dependent(self) -> int:
        """How many parameters depend on each other through the Hessian: all, or those of one output."""
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
        """The same problem over a sample of the rows."""
        weights = row_weights(sample, self.class_weight, torch.float64)
        return self.part(len(sample.labels), float(len(sample.labels) if weights is None else weights.sum()))

    def part(self, rows: int, total: float) -> Problem:
        """The same problem over so many of the rows that weigh so much in the loss."""
        objective = self.objective
        if objective.reduction == "sum":  # the data term of a sample is smaller
            l2, l1 = objective.l2 / self.total_weight, objective.l1 / self.total_weight
            objective = replace(objective, reduction="mean", l2=l2, l1=l1)
        return replace(self, objective=objective, rows=rows, total_weight=total)


def choose_coordinates(problem: Problem, sample: Batch, every_scale: bool) -> Coordinates:
    """Coordinates in which a sample has mean 0 and deviations of one size; the model's own where it standardizes.

    Args:
        problem: Whose rows they are.
        sample: Some of its rows.
        every_scale: Whether small deviations are brought to 1 too.  That blows rare features up, which harms
            steps along the gradient and nothing else.
    """
    model = problem.model
    of_units = torch.frexp(model.scale).mantissa == 0.5  # powers of two: features in source units, as they are stored
    if bool((model.center != 0).any() | ~of_units.all()):
        return model
    weights = row_weights(sample, (), torch.float32)
    features = sample.features if weights is None else sample.features[weights > 0]
    few = features.split(max(1, COPIED // len(model.center)))  # at a time, since copies of all would be large
    number = max(len(features), 1)
    center = sum((part.sum(0, dtype=torch.float64) for part in few), start=torch.zeros_like(model.center)) / number
    near = center.to(torch.promote_types(features.dtype, torch.float32))
    squares = sum(((part - near).square_().sum(0) for part in few), start=torch.zeros_like(center))
    deviation = (squares / number).sqrt()
    if not problem.intercept:  # moving the features would need one
        center = torch.zeros_like(center)
    deviation = torch.where(deviation > 1e-9 * center.abs(), deviation, 1.0).nan_to_num(1.0)
    if every_scale:
        return Coordinates(center, deviation)
    return Coordinates(center, deviation.clamp(min=float(deviation.median())))
