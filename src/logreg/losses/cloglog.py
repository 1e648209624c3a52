"""The complementary log-log link and its mirror image, the log-log link: distributions of extreme values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import LOG_2, BinaryLink, Terms

SERIES_END = 0.1
"""Hazard below which differences are computed by their series, since they would cancel."""


class CloglogLoss(BinaryLink):
    """F(z) = 1 - exp(-exp(z)): p of an event whose hazard is exp(z).

    With u = exp(z), the loss of y = 0 is u, and that of y = 1 is -log(1 - exp(-u)), with the derivative
    -d, d = u / (exp(u) - 1), and the second derivative d (u + d - 1) > 0: both are convex.  u is at most the largest
    number of the type.

    References:
        Prentice and Gloeckler (1978), Regression analysis of grouped survival data with application to breast cancer
        data.
    """

    name = "cloglog"
    formula = "1 - exp(-exp(z))"
    ratio_in_words = (
        "exp(coef) is a ratio of hazards if a row is a time interval of a subject and hazards are proportional"
    )
    mirror = "loglog"
    even_logit = math.log(LOG_2)

    def self_concordance_within(self, reach: float) -> float:
        """1 for y = 0; for y = 1 the third derivative over the second is 1 at z -> -inf and about 2 - u for large z."""
        return math.exp(min(reach, 700.0))

    def curvature_sum(self, value: float, weight: float) -> float:
        """The second derivative is the value for y = 0 and at most 0.413 for y = 1."""
        return value + 0.42 * weight

    def residual_bound(self, value: float, weight: float) -> float:
        """The derivative is the value for y = 0 and less than 1 for y = 1."""
        return value + weight

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return -functions.exp(-functions.exp(z)) + 1

    def of_zero(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_zero`."""
        hazard = _hazard(logits)
        return Terms(hazard, hazard, hazard)

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        hazard = _hazard(logits)
        is_small = hazard < SERIES_END
        some = hazard.clamp(min=torch.finfo(logits.dtype).tiny)
        # 1 - exp(-u) = u (1 - exp(-u)) / u
        small = -(logits + (-torch.expm1(-some) / some).log())
        value = torch.where(hazard < LOG_2, small, -torch.log1p(-torch.exp(-hazard)))
        ratio = some / torch.expm1(some)
        square = hazard.square()
        series = hazard / 2 + square / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
        return Terms(value, -ratio, ratio * torch.where(is_small, series, hazard + (ratio - 1)))


class LoglogLoss(CloglogLoss):
    """F(z) = exp(-exp(-z)): the complementary log-log link with the classes, and the sign of z, exchanged."""

    name = "loglog"
    formula = "exp(-exp(-z))"
    ratio_in_words = ""
    mirror = "cloglog"
    even_logit = -math.log(LOG_2)

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return functions.exp(-functions.exp(-z))

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        return _mirrored(super().of_zero(-logits))

    def of_zero(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_zero`."""
        return _mirrored(super().of_one(-logits))


def _hazard(logits: Tensor) -> Tensor:
    """exp(z), at most the largest number of the type."""
    return logits.exp().clamp(max=torch.finfo(logits.dtype).max)


def _mirrored(terms: Terms) -> Terms:
    return Terms(terms.value, -terms.slope, terms.curvature)
