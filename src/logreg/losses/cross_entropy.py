"""The common base of the logistic and the softmax loss: minus the logarithm of a probability."""

from __future__ import annotations

from logreg.losses.base import Loss

LOGARITHM = 745.0
"""Upper limit of |log x| over all positive float64 x, rounded up: the smallest is 2^-1074."""


class CrossEntropy(Loss):
    """Minus the logarithm of the probability of the target, with a canonical link."""

    lipschitz = 1.0
    relative_lipschitz = 1.0
    self_concordance = 1.0

    def conjugate_slope(self, reach: float) -> float:
        """Upper bound on the slope of the negative entropy, which is a log-odds."""
        return LOGARITHM + 2 * reach

    def residual_bound(self, value: float, weight: float) -> float:
        """The sum of values, since 1 - p <= -log p."""
        return value
