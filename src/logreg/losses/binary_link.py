"""The base of losses for two classes with a link of their own: minus the logarithm of a probability F(z)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logreg.losses.base import Loss, RowTerms, divided, log_probability_slope, one_vs_rest

LOG_2 = math.log(2)


class Terms(NamedTuple):
    """A function, such as minus the logarithm of a probability, and its derivatives by the logit.

    All are in the shape of the logits.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor


class BinaryLink(Loss):
    """-log F(z) for y = 1 and -log(1 - F(z)) for y = 0, with F the inverse link: a distribution function.

    The logarithms are computed as such, and not from F: so a probability that rounds to 0 or 1 costs what it costs.

    References:
        McCullagh and Nelder (1989), Generalized linear models, section 4.3.
    """

    is_binary = True
    curvature_needs_targets = True

    def described(self, num_outputs: int) -> str:
        """Such as "binary cross-entropy of the probit link"."""
        return f"binary cross-entropy of the {self.name} link"

    def num_outputs(self, num_classes: int) -> int:
        """1; see `Loss.is_binary`."""
        return 1

    @abstractmethod
    def probability(self, z: Any, functions: Any) -> Any:
        """F(z) as a formula, for programs without this loss: not precise in the tails.

        Args:
            z: Numbers that have the arithmetic operators.
            functions: Has the elementary functions of such numbers by NumPy's names, and ``erf``.
        """

    @abstractmethod
    def of_one(self, logits: Tensor) -> Terms:
        """-log F(z) of logits z in any shape."""

    def of_zero(self, logits: Tensor) -> Terms:
        """-log(1 - F(z)) of logits z in any shape; by default of a link that is symmetric: 1 - F(z) = F(-z)."""
        terms = self.of_one(-logits)
        return Terms(terms.value, -terms.slope, terms.curvature)

    def terms(self, logits: Tensor, targets: Tensor) -> Terms:
        """The loss of each output and its derivatives at logits and targets, (N, K) each."""
        return _blended(self.of_one(logits), self.of_zero(logits), targets)

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Minus the logarithm of the probability of the target."""
        return self.terms(logits, targets).value.sum(1)

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(p - y) F'(z) / (p (1 - p)) at p = F(z)."""
        return self.terms(logits, targets).slope

    def curvature(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """The observed one; see `expected_curvature`."""
        assert targets is not None
        return self.terms(logits, targets).curvature

    def expected_curvature(self, logits: Tensor) -> Tensor:
        """F'(z)^2 / (p (1 - p)) at p = F(z)."""
        return -self.of_one(logits).slope * self.of_zero(logits).slope

    def inverse_link(self, logits: Tensor) -> Tensor:
        """F(z)."""
        return self.of_one(logits).value.neg().exp()

    def probability_terms(self, logits: Tensor) -> Terms:
        """F(z), its density F'(z) and the derivative of the density."""
        value, slope, curvature = self.of_one(logits)
        p = value.neg().exp()
        return Terms(p, -slope * p, (slope.square() - curvature) * p)

    def evaluate(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate`."""
        one, zero = self.of_one(logits), self.of_zero(logits)
        terms = _blended(one, zero, one_vs_rest(labels, logits.shape[1], logits.dtype))
        curvature = terms.curvature if self.is_convex else -one.slope * zero.slope
        return RowTerms(terms.value.sum(1), terms.slope, curvature)

    def evaluate_precisely(self, logits: Tensor, labels: Tensor) -> RowTerms:
        """See `Loss.evaluate_precisely`; the terms are precise where they are small."""
        terms = self.terms(logits, one_vs_rest(labels, logits.shape[1], logits.dtype))
        return RowTerms(terms.value.sum(1), terms.slope, terms.curvature)

    def curvature_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.curvature_at`."""
        return super().curvature_at(logits, labels) if self.is_convex else self.expected_curvature(logits)

    def class_probabilities(
        self, logits: Tensor, temperature: float | Tensor = 1.0, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Loss.class_probabilities`; computed from logarithms."""
        logits = divided(logits, temperature)
        logs = -torch.cat([self.of_zero(logits).value, self.of_one(logits).value], dim=1)
        return logs.exp() if log_weight is None else torch.softmax(logs - log_weight.to(logits) / temperature, dim=1)

    def temperature_slope(
        self, logits: Tensor, labels: Tensor, temperature: float, log_weight: Tensor | None = None
    ) -> Tensor:
        """See `Loss.temperature_slope`; in closed form."""
        return log_probability_slope(self, logits, labels, temperature, log_weight)


def _blended(one: Terms, zero: Terms, targets: Tensor) -> Terms:
    """The terms of targets y in [0, 1], (N, K): y times those of 1, plus 1 - y times those of 0."""
    return Terms(*(torch.lerp(of_zero, of_one, targets.to(of_one)) for of_one, of_zero in zip(one, zero, strict=True)))


def sloped(slope: Tensor, log_density_slope: Tensor) -> Tensor:
    """The curvature of -log F from its slope s = -F'/F and the slope l = F''/F' of log F': s (s + l)."""
    return slope * (slope + log_density_slope)


def of_tail(tail: Tensor, margins: Tensor) -> Tensor:
    """-log F at margins m of a symmetric link, from the smaller of two probabilities, F(-|m|)."""
    return torch.where(margins < 0, -tail.log(), -torch.log1p(-tail))
