"""The Gudermannian link: the distribution function of the hyperbolic secant distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import BinaryLink, Terms

SERIES_END = 0.1
"""Argument below which x - arctan(x) is computed by its series, since the difference would cancel."""

SERIES_TERMS = 9
"""Terms that give the digits of float64 up to `SERIES_END`."""


class GudermannianLoss(BinaryLink):
    """F(z) = (2 / pi) arctan(exp(pi z / 2)) = (1 + g(z)) / 2 with g(z) = (2 / pi) gd(pi z / 2), whose slope at 0 is 1.

    The density is sech(pi z / 2) / 2, whose logarithm is concave: so are those of F and 1 - F, and the loss is convex.
    """

    name = "gudermannian"
    formula = "(2 / pi) arctan(exp(pi z / 2))"
    max_curvature = 1.1  # 1.03 near 0
    lipschitz = math.pi / 2
    relative_lipschitz = 1.7  # 1.65 near 1; pi / 2 in the tail
    self_concordance = math.pi

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return functions.arctan(functions.exp(z * (math.pi / 2))) * (2 / math.pi)

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        rate = math.pi / 2
        small = torch.exp(-rate * logits.abs())  # exp(-pi |z| / 2), in (0, 1]
        square, some = small.square(), small.clamp(min=torch.finfo(logits.dtype).tiny)
        ratio = some.atan() / some  # arctan(x) / x
        wrong = logits < 0
        value = torch.where(wrong, rate * logits.abs() - (ratio / rate).log(), -torch.log1p(-small * ratio / rate))
        chance = torch.where(wrong, ratio / rate, 1 - small * ratio / rate)  # F, on the wrong side F / x
        slope = -torch.where(wrong, 1.0, small) / ((1 + square) * chance)
        # On the wrong side slope + l = -(pi / 2) (x^2 + x / arctan(x) - 1) / (1 + x^2).
        series = torch.zeros_like(square)
        for term in range(SERIES_TERMS, 0, -1):
            series = square * (1 / (2 * term + 1) - series)
        beyond = torch.where(small < SERIES_END, series, 1 - ratio) / ratio
        tilt = rate / (1 + square) * torch.where(wrong, -(square + beyond), square - 1)
        return Terms(value, slope, slope * torch.where(wrong, tilt, slope + tilt))
