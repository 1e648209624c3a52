"""The common base of the logistic and the softmax loss: minus the logarithm of a probability."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from logreg.losses.base import Loss, RowTerms, log_probability_slope

LOGARITHM = 745.0
"""Upper limit of |log x| over all positive float64 x, rounded up: the smallest is 2^-1074."""

SATURATED_LOSS = 1e-6
"""Mean loss, in nats, below which rows are evaluated from the probabilities of their wrong classes.

The probability p of the right class is then so near 1 that 1 - p has lost the digits that f and its gradient need.
"""


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

    def evaluate(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate`; with all digits also where the loss is saturated."""
        terms = self.evaluate_fast(logits, labels)
        is_saturated = logits.dtype == torch.float64 and float(terms.value.sum()) <= SATURATED_LOSS * len(labels)
        return self.evaluate_precisely(logits, labels) if is_saturated else terms

    @abstractmethod
    def evaluate_fast(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """`evaluate` with small absolute errors: those of numbers near 0 may be large beside them."""

    def temperature_slope(
        self, logits: Tensor, labels: Tensor, temperature: float, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Loss.temperature_slope`; in closed form."""
        return log_probability_slope(self, logits, labels, temperature, log_weight)
