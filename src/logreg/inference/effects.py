"""Marginal effects: how much a probability changes with a feature, with standard errors by the delta method.

Of a number it is the derivative of the probability, of a feature of 0 and 1 the difference between the two, and of a
level the difference from the reference level; each as a mean over the rows, or at the mean of all features.

References:
    Williams (2012), Using the margins command to estimate and interpret adjusted predictions and marginal effects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from logreg.inference.design import Design
from logreg.inference.likelihood import Likelihood, Maximum
from logreg.losses import BinaryLink
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request
from logreg.solvers.passes.moments import MeanOffset


class Effects(NamedTuple):
    """Effects of the P - 1 features on the probabilities of the M + 1 classes, the reference class first."""

    values: Tensor
    """Shape (M + 1, P - 1), per source unit."""
    jacobian: Tensor
    """Derivatives by the parameters, (M + 1, P - 1, M * P)."""
    discrete: Tensor
    """Whether the effect of a feature is a difference, (P - 1,)."""


class _IsBinary(Pass[Tensor]):
    """Whether each kept feature is 0 or 1 in all rows, (P - 1,)."""

    maxima = ("_distance",)
    copies = True

    def __init__(self, likelihood: Likelihood, zero: Tensor, one: Tensor) -> None:
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._design, self._zero, self._one = likelihood.design, zero, one
        self._distance = self.zeros(len(zero))

    def accumulate(self, rows: PreparedRows) -> None:
        """Takes the largest distance from 0 and 1, relative to that between them."""
        columns = self._design.columns(rows.features, self._fold)[:, :-1]
        distance = torch.minimum((columns - self._zero).abs(), (columns - self._one).abs())
        self._distance = torch.maximum(self._distance, (distance / (self._one - self._zero)).amax(0))

    def result(self) -> Tensor:
        """The answer of all rows."""
        return self._distance < 1e-9


class EffectSums(Pass[Effects]):
    """Sums of effects over the rows."""

    sums = ("_effects", "_jacobian", "_slopes", "_bends", "_weight")
    copies = True

    def __init__(
        self, likelihood: Likelihood, found: Maximum, std: Tensor, zero: Tensor, one: Tensor, discrete: Tensor
    ) -> None:
        """Prepares the sums.

        Args:
            likelihood: The likelihood.
            found: Its maximum.
            std: Divisor of each kept feature, (P - 1,), in source units.
            zero: Value of each standardized feature where the feature is 0, (P - 1,).
            one: Its value where the feature is 1, (P - 1,).
            discrete: Whether the effect of each feature is a difference, (P - 1,).
        """
        super().__init__(likelihood.problem, likelihood.problem.model)
        design = likelihood.design
        self._design, self._parameters = design, found.parameters
        self._std, self._zero, self._one, self._discrete = std, zero, one, discrete
        self._levels = {
            position: [*term.positions]
            for term in design.terms
            if term.name in design.references
            for position in term.positions
            if design.names[position] != f"{term.name} is missing"  # no level, but the indicator of the column
        }
        m, p = design.shape
        self._effects, self._jacobian = self.zeros(m + 1, p - 1), self.zeros(m + 1, p - 1, m, p)
        # sums of first derivatives by logit a, and of second ones by logits a and b times the columns
        self._slopes, self._bends = self.zeros(m + 1, m), self.zeros(m + 1, m, m, p)
        self._weight = self.zeros()

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the effects at these rows."""
        self.add_columns(self._design.columns(rows.features, self._fold), rows.weights, rows.offset)

    def add_columns(self, columns: Tensor, weights: Tensor | None = None, offset: Tensor | None = None) -> None:
        """Adds the effects at standardized columns (n, P), with weights and offsets (n, 1)."""
        weights = columns.new_ones(len(columns), 1) if weights is None else weights
        self._weight += weights.sum()
        if not bool(self._discrete.all()):
            _, slopes, bends = self._probabilities(columns, offset)
            self._slopes += (slopes * weights.unsqueeze(2)).sum(0)
            self._bends += torch.einsum("ncab,np->cabp", bends, columns * weights)
        for feature in self._discrete.nonzero()[:, 0].tolist():
            for sign, value in ((1.0, self._one), (-1.0, self._zero)):
                changed = columns.clone()
                levels = [level for level in self._levels.get(feature, []) if level != feature]
                if feature in self._levels:
                    changed[:, levels] = self._zero[levels]
                changed[:, feature] = value[feature]
                p, slopes, _ = self._probabilities(changed, offset)
                self._effects[:, feature] += sign * (p * weights).sum(0)
                self._jacobian[:, feature] += sign * torch.einsum("nca,np->cap", slopes * weights.unsqueeze(2), changed)

    def _probabilities(self, columns: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (n, M + 1), the reference class first, and their derivatives by the logits.

        The first derivatives are (n, M + 1, M), the second ones (n, M + 1, M, M).
        """
        logits, loss = columns @ self._parameters.T, self.problem.loss
        logits = logits if offset is None else logits + offset
        if isinstance(loss, BinaryLink):
            p, slope, bend = loss.probability_terms(logits)
            slopes = torch.stack([-slope, slope], dim=1)
            return torch.cat([1 - p, p], dim=1), slopes, torch.stack([-bend, bend], dim=1).unsqueeze(3)
        p = torch.softmax(torch.nn.functional.pad(logits, (1, 0)), dim=1)
        slopes = -p.unsqueeze(2) * p[:, None, 1:]
        slopes[:, 1:] += torch.diag_embed(p[:, 1:])
        # d slope_cb / d logit_a = slope_ca (delta_cb - p_b) - p_c slope_ba
        of_class = torch.eye(p.shape[1], dtype=p.dtype)[:, 1:] - p[:, None, 1:]
        bends = slopes.unsqueeze(3) * of_class.unsqueeze(2) - p[:, :, None, None] * slopes[:, None, 1:].transpose(2, 3)
        return p, slopes, bends

    def result(self) -> Effects:
        """The means."""
        smooth = ~self._discrete
        coef = self._parameters[:, :-1]  # (M, P - 1)
        self._effects[:, smooth] = (self._slopes @ coef)[:, smooth]
        jacobian = torch.einsum("cabp,bj->cjap", self._bends, coef)  # d/dtheta_ap of sum_b slope_cb coef_bj
        place = torch.arange(coef.shape[1])
        jacobian[:, place, :, place] += self._slopes  # the coefficient itself
        self._jacobian[:, smooth] = jacobian[:, smooth]
        units = torch.where(self._discrete, 1.0, self._std).unsqueeze(0)
        values = self._effects / units / self._weight
        derivatives = self._jacobian.flatten(2) / units.unsqueeze(2) / self._weight
        if self._design.sign < 0:  # of two classes, the other one is the reference
            values, derivatives = values.flip(0), derivatives.flip(0)
        return Effects(values, derivatives, self._discrete)


def marginal_effects(likelihood: Likelihood, found: Maximum, mean: Tensor, std: Tensor, at_mean: bool) -> Effects:
    """Effects of the features on the probabilities, as a mean over the rows or at the mean of the features.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        mean: Shape (D,), in source units.
        std: Shape (D,), in source units.
        at_mean: Whether they are at the mean of the features.
    """
    design: Design = likelihood.design
    which = list(design.features)
    center, scale = mean[which], std[which]
    zero, one = -center / scale, (1 - center) / scale
    discrete = drive(request(_IsBinary(likelihood, zero, one)), likelihood.rows)
    sums = EffectSums(likelihood, found, scale, zero, one, discrete)
    if at_mean:
        columns = torch.zeros(1, len(which) + 1, dtype=torch.float64)
        columns[:, -1] = 1.0
        offset = None
        if likelihood.problem.largest_offset is not None:
            offset = drive(request(MeanOffset(likelihood.problem)), likelihood.rows)
        sums.add_columns(columns, offset=offset)
        return sums.result()
    return drive(request(sums), likelihood.rows)
