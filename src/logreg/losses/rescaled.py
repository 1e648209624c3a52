"""Links that are another link of a multiple of the logit, so that the slope of (1 + g(z)) / 2 at 0 is 1/2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.losses.binary_link import BinaryLink, Terms
from logreg.losses.cauchit import CauchitLoss
from logreg.losses.probit import ProbitLoss


class _Logit(BinaryLink):
    name = "logit"
    max_curvature = 0.25
    lipschitz = relative_lipschitz = self_concordance = 1.0

    def probability(self, z: Any, functions: Any) -> Any:
        return (functions.tanh(z / 2) + 1) / 2

    def of_one(self, logits: Tensor) -> Terms:
        wrong = torch.sigmoid(-logits)
        return Terms(-F.logsigmoid(logits), -wrong, wrong * torch.sigmoid(logits))


class RescaledLink(BinaryLink):
    """F(factor * z) of another link F.

    Without a penalty the probabilities are those of the other link, with coefficients divided by the factor; a penalty
    weighs them otherwise.
    """

    inner: ClassVar[BinaryLink]
    factor: ClassVar[float]

    def __init_subclass__(cls) -> None:
        inner, factor = cls.inner, cls.factor
        cls.is_convex = inner.is_convex
        cls.max_curvature = factor**2 * inner.max_curvature
        cls.lipschitz = factor * inner.lipschitz
        cls.relative_lipschitz = factor * inner.relative_lipschitz
        cls.self_concordance = factor * inner.self_concordance

    def self_concordance_within(self, reach: float) -> float:
        """The constant of the other link, times the factor."""
        return self.factor * self.inner.self_concordance_within(self.factor * reach)

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return self.inner.probability(z * self.factor, functions)

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        value, slope, curvature = self.inner.of_one(self.factor * logits)
        return Terms(value, self.factor * slope, self.factor**2 * curvature)


class TanhLoss(RescaledLink):
    """F(z) = (1 + tanh(z)) / 2 = sigmoid(2 z)."""

    name = "tanh"
    formula = "(1 + tanh(z)) / 2"
    inner, factor = _Logit(), 2.0


class ErfLoss(RescaledLink):
    """F(z) = (1 + erf(sqrt(pi) z / 2)) / 2 = Phi(sqrt(pi / 2) z)."""

    name = "erf"
    formula = "(1 + erf(sqrt(pi) z / 2)) / 2"
    inner, factor = ProbitLoss(), math.sqrt(math.pi / 2)


class ArctanLoss(RescaledLink):
    """F(z) = 1/2 + arctan(pi z / 2) / pi: the cauchit link of pi z / 2."""

    name = "arctan"
    formula = "1/2 + arctan(pi z / 2) / pi"
    inner, factor = CauchitLoss(), math.pi / 2
