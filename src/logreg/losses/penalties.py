"""Penalties on the coefficients: one class each; another one needs a class here and a row of `PENALTIES`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor


@dataclass(frozen=True)
class Penalty(ABC):
    """A convex penalty of the coefficients, the same for each of them; the intercept is never penalized.

    Attributes:
        strength: Factor >= 0.
        is_smooth: Whether the gradient is continuous; else solvers need the subgradient.
    """

    strength: float
    is_smooth: ClassVar[bool]

    @abstractmethod
    def value(self, coef: Tensor) -> Tensor:
        """Of coefficients (K, D): a scalar."""

    @abstractmethod
    def add_gradient_(self, coef: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Adds ``scale`` times the gradient, or the subgradient of smallest size, to ``gradient`` (K, D) in place."""

    @abstractmethod
    def rescaled(self, ratio: Tensor) -> Tensor:
        """Strength by coordinates in which a coefficient is ``ratio`` (D,) times as small: shape (D,)."""

    @abstractmethod
    def described(self) -> str:
        """As a term of a formula, such as "0.001/2 |coef|^2"."""

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
        """Such as "0.001/2 |coef|^2"."""
        return f"{self.strength:g}/2 |coef|^2"


class L1Penalty(Penalty):
    """strength * |coef|_1: lasso."""

    is_smooth = False

    def value(self, coef: Tensor) -> Tensor:
        """The strength times the sum of absolute values."""
        return self.strength * coef.abs().sum()

    def add_gradient_(self, coef: Tensor, gradient: Tensor, scale: float = 1.0) -> None:
        """Adds strength * sign(coef); nothing where a coefficient is 0."""
        gradient.add_(coef.sign(), alpha=self.strength * scale)

    def rescaled(self, ratio: Tensor) -> Tensor:
        """The strength grows with the ratio."""
        return self.strength * ratio

    def described(self) -> str:
        """Such as "0.001 |coef|_1"."""
        return f"{self.strength:g} |coef|_1"


PENALTIES: dict[str, type[Penalty]] = {"l2": L2Penalty, "l1": L1Penalty}
"""The penalties by the name of their setting, in the order in which formulas have them."""
