"""The probit link: the distribution function of the normal distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from logreg.losses.binary_link import BinaryLink, Terms

FAR = 7.0
"""Distance below 0 from which the inverse Mills ratio is a continued fraction, whose difference from |z| is precise."""

FRACTION_LEVELS = 16
"""Levels of the continued fraction that give the digits of float64 from `FAR` on."""


class ProbitLoss(BinaryLink):
    """F(z) = Phi(z), the normal distribution function.

    The derivative of -log Phi is minus the inverse Mills ratio r(z) = phi(z) / Phi(z), and its second derivative is
    r (r + z), in (0, 1): the loss is convex.  torch differentiates its own ``special.log_ndtr`` with errors of 5 % at
    z = -1000 in float32, so that nothing here relies on that.

    Example:
        >>> round(float(ProbitLoss().inverse_link(torch.tensor(1.96))), 3)
        0.975

    References:
        Sampford (1953), Some inequalities on Mill's ratio and related functions: r (r + z) is in (0, 1).
        Abramowitz and Stegun (1964), Handbook of mathematical functions, 26.2.14: the continued fraction.
    """

    name = "probit"
    formula = "Phi(z)"
    max_curvature = 1.0

    def self_concordance_within(self, reach: float) -> float:
        """The third derivative over the second, 1 / (r + z) - (z + 2 r), is about -z for large z and near 0 at -z."""
        return reach + 0.5

    def probability(self, z: Any, functions: Any) -> Any:
        """See `BinaryLink.probability`."""
        return (functions.erf(z * math.sqrt(0.5)) + 1) / 2

    def of_one(self, logits: Tensor) -> Terms:
        """See `BinaryLink.of_one`."""
        mills = math.sqrt(2 / math.pi) / torch.special.erfcx(logits * -math.sqrt(0.5))
        size = logits.clamp(max=-FAR).neg()  # r - |z| = 1 / (|z| + 2 / (|z| + 3 / ...))
        beyond = torch.zeros_like(size)
        for level in range(FRACTION_LEVELS, 0, -1):
            beyond = level / (size + beyond)
        beyond = torch.where(logits < -FAR, beyond, mills + logits)
        return Terms(-torch.special.log_ndtr(logits), -mills, mills * beyond)
