"""What the logistic and the softmax loss share: each is minus the logarithm of a probability."""

from __future__ import annotations

from logreg.losses.base import Loss

LOGARITHM = 745.0
"""Size of the logarithm of a positive float64 at most."""


class CrossEntropy(Loss):
    """Minus the logarithm of the probability of the target, with a canonical link."""

    lipschitz = 1.0
    relative_lipschitz = 1.0
    self_concordance = 1.0

    def conjugate_slope(self, reach: float) -> float:
        """The logarithm of odds."""
        return LOGARITHM + 2 * reach

    def residual_bound(self, value: float, weight: float) -> float:
        """The loss itself: 1 - p <= -log p."""
        return value
