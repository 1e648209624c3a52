"""Passes that tell which linear combinations of the features are the same in all rows."""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import part_rows, parts
from logreg.solvers.exact_sums import distilled, halves
from logreg.solvers.passes.base import Pass
from logreg.solvers.passes.certifying import weighing_rows
from logreg.solvers.problem import Problem

DISTILLATIONS = 12
"""Error-free transformations of a sum, before it is taken not to vanish."""


class Vanishing(Pass[Tensor]):
    """Which linear combinations of the features are the same in all rows, in exact arithmetic.

    Without an intercept, those of the features less the model's center that are zero.
    """

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        """Checks ``combinations`` of the features in source units.

        Args:
            problem: Whose rows will be shown.
            combinations: Shape (M, D); each coefficient is 0, or of `COEFFICIENT_BITS` binary digits and at least 1.
        """
        super().__init__(problem, problem.model, torch.float64)
        self._combinations = combinations
        self._vanish = torch.ones(len(combinations), dtype=torch.bool, device=combinations.device)
        self._first = None if problem.intercept else problem.model.center.unsqueeze(0)

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, part_rows(block.features.shape[1], self.dtype)):
            features = weighing_rows(part, self.problem).features.double()
            if not len(features):
                continue
            if self._first is None:
                self._first = features[:1].clone()
            for number in self._vanish.nonzero()[:, 0].tolist():
                some = self._combinations[number].nonzero()[:, 0]
                coef = self._combinations[number, some]
                numbers: tuple[Tensor, ...] = features[:, some], -self._first[:, some]
                if bool((torch.frexp(coef).mantissa.abs() != 0.5).any()):
                    # Products with a power of two are exact, and with others those with half of a number's digits.
                    numbers = (*halves(numbers[0]), *halves(numbers[1]))
                terms = [coef * one for one in numbers]
                self._vanish[number] = _vanish(torch.cat([one.expand(len(features), -1) for one in terms], dim=1))

    def result(self) -> Tensor:
        """Shape (M,)."""
        return self._vanish


class Residue(Pass[Tensor]):
    """By how much combinations of the features differ between rows, relative to what they add up, at most."""

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        """``combinations`` (M, D) by source units."""
        super().__init__(problem, problem.model, torch.float64)
        self._combinations = combinations
        self._largest = self.zeros(len(combinations))
        self._first = None if problem.intercept else self._sums(problem.model.center.unsqueeze(0))[0]

    def _sums(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of the terms of each combination, and of their sizes, (n, M)."""
        return features @ self._combinations.T, features.abs() @ self._combinations.abs().T

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, part_rows(block.features.shape[1], self.dtype)):
            features = weighing_rows(part, self.problem).features.double()
            if not len(features):
                continue
            sums, sizes = self._sums(features)
            self._first = sums[:1] if self._first is None else self._first
            differences = (sums - self._first).abs() / (sizes + self._first.abs()).clamp(min=1e-300)
            self._largest = torch.maximum(self._largest, differences.amax(0))

    def result(self) -> Tensor:
        """Shape (M,)."""
        return self._largest


def _vanish(terms: Tensor) -> bool:
    """Whether the exact sums of terms (n, m) over m are proven to be zero."""
    for _ in range(DISTILLATIONS):
        terms = terms[:, (terms != 0).any(0)]
        if not terms.shape[1]:
            return True
        terms = distilled(terms[(terms != 0).any(1)])
    return False
