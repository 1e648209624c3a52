"""Penalties on the coefficients, one class each.  A new penalty is a class in this file and a row of `PENALTIES`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor


@dataclass(frozen=True)
class Penalty(ABC):
    """A convex penalty that treats all coefficients alike; the intercept is never penalized.

    Attributes:
        strength: Factor >= 0.
        is_smooth: Whether the gradient is continuous; where it is not, solvers use the subgradient.
    """

    strength: float
    is_smooth: ClassVar[bool]

    @abstractmethod
    def value(self, coef: Tensor) -> Tensor:
        """The penalty of coefficients (K, D); scalar."""

    @abstractmethod
    def add_gradient_(self, coef: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Adds ``scale`` times the gradient, or the subgradient of smallest size, to ``gradient`` (K, D) in place."""

    @abstractmethod
    def rescaled(self, ratio: Tensor) -> Tensor:
        """Strength in coordinates in which each coefficient is divided by ``ratio`` (D,): shape (D,)."""

    @abstractmethod
    def described(self) -> str:
        """The penalty as a term of a formula, such as "0.001/2 |coef|^2"."""

    def times(self, factor: float) -> Self:
        """The same penalty, ``factor`` times as strong."""
        return replace(self, strength=factor * self.strength)


class L2Penalty(Penalty):
    """(strength / 2) * |coef|^2: ridge."""

    is_smooth = True

    def value(self, coef: Tensor) -> Tensor:
        """Half the strength times the sum of squares."""
        return self.strength / 2 * coef.square().sum()

    def add_gradient_(self, coef: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Adds strength * coef."""
        gradient.add_(coef, alpha=self.strength * scale)

    def rescaled(self, ratio: Tensor) -> Tensor:
        """The strength grows with the square of the ratio."""
        return self.strength * ratio * ratio

    def described(self) -> str:
        """The term, such as "0.001/2 |coef|^2"."""
        return f"{self.strength:g}/2 |coef|^2"


class L1Penalty(Penalty):
    """strength * |coef|_1: lasso."""

    is_smooth = False

    def value(self, coef: Tensor) -> Tensor:
        """The strength times the sum of absolute values."""
        return self.strength * coef.abs().sum()

    def add_gradient_(self, coef: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Adds strength * sign(coef), which is 0 where a coefficient is 0."""
        gradient.add_(coef.sign(), alpha=self.strength * scale)

    def rescaled(self, ratio: Tensor) -> Tensor:
        """The strength grows with the ratio."""
        return self.strength * ratio

    def described(self) -> str:
        """The term, such as "0.001 |coef|_1"."""
        return f"{self.strength:g} |coef|_1"


PENALTIES: dict[str, type[Penalty]] = {"l2": L2Penalty, "l1": L1Penalty}
"""The penalties by the name of their setting, in the order of the terms in formulas."""
