"""Passes that find linear combinations of the features that are constant over all rows: linear dependences."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.rows import part_rows, parts
from logreg.solvers.exact_sums import distilled, halves
from logreg.solvers.passes.base import Pass
from logreg.solvers.passes.precise import weighing_rows
from logreg.solvers.problem import Problem

MAX_DISTILLATIONS = 12
"""Largest number of error-free transformations of a sum; a sum not proven to vanish by then counts as not zero."""


class _Dependence(Pass[Tensor]):
    """Compares combinations of the features of all rows of positive weight with those of one reference row.

    The reference is the first row; without an intercept, the model's center.  Each process compares its rows with
    its own first row; the first rows of all processes are compared at the end.
    """

    samples = ("_first_rows",)

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        """``combinations`` (M, D) of features in source units."""
        super().__init__(problem, problem.model, torch.float64)
        self._combinations = combinations
        self._first_rows: list[Tensor] = [] if problem.intercept else [problem.model.center.unsqueeze(0)]

    def add(self, block: Batch) -> None:
        """Takes one block of rows, features in source units."""
        for part in parts(block, part_rows(block.features.shape[1], self.dtype), dense=True):
            features = weighing_rows(part, self.problem).features.double()
            if len(features):
                self._first_rows = self._first_rows or [features[:1].clone()]
                self._compare(features, self._first_rows[0])

    @abstractmethod
    def _compare(self, features: Tensor, reference: Tensor) -> None:
        """Takes rows (n, D) and a reference row (1, D) into account."""

    def _compare_first_rows(self) -> None:
        if len(self._first_rows) > 1:
            self._compare(torch.cat(self._first_rows[1:]), self._first_rows[0])


class ExactDependence(_Dependence):
    """Tests in exact arithmetic whether each combination is the same in all rows.

    Each coefficient is 0, or at least 1 with `COEFFICIENT_BITS` binary digits.
    """

    maxima = ("_differs",)

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        super().__init__(problem, combinations)
        self._differs = torch.zeros(len(combinations), dtype=torch.int8, device=combinations.device)

    def _compare(self, features: Tensor, reference: Tensor) -> None:
        for number in (self._differs == 0).nonzero()[:, 0].tolist():
            some = self._combinations[number].nonzero()[:, 0]
            coef = self._combinations[number, some]
            numbers: tuple[Tensor, ...] = features[:, some], -reference[:, some]
            if bool((torch.frexp(coef).mantissa.abs() != 0.5).any()):
                # A product with a power of two is exact; other products are exact with half of a number's digits.
                numbers = (*halves(numbers[0]), *halves(numbers[1]))
            terms = [coef * one for one in numbers]
            vanish = _vanish(torch.cat([one.expand(len(features), -1) for one in terms], dim=1))
            self._differs[number] = int(not vanish)

    def result(self) -> Tensor:
        """Whether each combination is constant, shape (M,), boolean."""
        self._compare_first_rows()
        return self._differs == 0


class DependenceResidual(_Dependence):
    """The largest difference of each combination between rows, relative to the sum of its absolute terms."""

    maxima = ("_largest",)

    def __init__(self, problem: Problem, combinations: Tensor) -> None:
        super().__init__(problem, combinations)
        self._largest = self.zeros(len(combinations))

    def _sums(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the terms of each combination, and of their absolute values, (n, M) each."""
        return features @ self._combinations.T, features.abs() @ self._combinations.abs().T

    def _compare(self, features: Tensor, reference: Tensor) -> None:
        (sums, sizes), (first, _) = self._sums(features), self._sums(reference)
        differences = (sums - first).abs() / (sizes + first.abs()).clamp(min=1e-300)
        self._largest = torch.maximum(self._largest, differences.amax(0))

    def result(self) -> Tensor:
        """The largest relative differences, shape (M,)."""
        self._compare_first_rows()
        return self._largest


def _vanish(terms: Tensor) -> bool:
    """Whether the exact sums of terms (n, m) over m are proven to be zero."""
    for _ in range(MAX_DISTILLATIONS):
        terms = terms[:, (terms != 0).any(0)]
        if not terms.shape[1]:
            return True
        terms = distilled(terms[(terms != 0).any(1)])
    return False
