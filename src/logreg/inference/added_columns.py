"""Tests of columns that are functions of those of a fit: score tests in one pass, and likelihood-ratio tests.

References:
    Rao (1948), Large sample tests of statistical hypotheses concerning several parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import converted
from logreg.facts import Batch
from logreg.inference.diagnostics import RowModel
from logreg.inference.likelihood import Likelihood, Maximum, maximize
from logreg.inference.profile import chi_squared_tail
from logreg.inference.results import Score, TermTest
from logreg.rows import RowSource
from logreg.solvers.passes.base import Pass, PreparedRows
from logreg.solvers.problem import Coordinates

RATIO_STEP_TOLERANCE = 1e-4
"""Length of a Newton step, in standard errors, after which the value of a maximum is known to about 1e-12 nats."""

AddedColumns = Callable[[Tensor, Tensor], Tensor]
"""Further columns (n, q), as a function of the standardized columns (n, P) of a design and of the logits (n,)."""


class AddedScore(NamedTuple):
    """The score test of a set of columns, and the first step of a fit with them."""

    test: Score
    step: Tensor
    """Step of Fisher scoring from the fit without the columns, (P,)."""
    coef: Tensor
    """Coefficients of the columns after that step, (q,)."""


class ScoreTests(Pass[list[AddedScore]]):
    """Score tests of several sets of further columns, each against the model without them; of two classes."""

    sums = ("_scores", "_crossed", "_squares")
    copies = True

    def __init__(
        self, likelihood: Likelihood, found: Maximum, added: Sequence[AddedColumns], sizes: Sequence[int]
    ) -> None:
        """Prepares the sums.

        Args:
            likelihood: The likelihood.
            found: Its maximum, with the covariance of the expected information.
            added: The sets.
            sizes: Number of columns of each set.
        """
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._model, self._added, self._sizes = RowModel(likelihood, found), added, sizes
        self._inverse = found.covariance
        total = sum(sizes)
        self._scores, self._crossed = self.zeros(total), self.zeros(len(self._inverse), total)
        self._squares = self.zeros(sum(size * size for size in sizes))

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds scores and information of these rows."""
        columns = self._model.design.columns(rows.features, self._fold)
        logits = self._model.logits(columns, rows.offset)
        terms = self._model.terms(logits, rows.labels)
        ones = None if rows.weights is None else rows.weights[:, 0]
        weight, residual = ((one if ones is None else one * ones) for one in (terms.weight, terms.residual))
        sets = [one(columns, logits) for one in self._added]
        together = torch.cat(sets, dim=1)
        self._scores -= residual @ together
        self._crossed += (columns * weight.unsqueeze(1)).T @ together
        self._squares += torch.cat([((one * weight.unsqueeze(1)).T @ one).flatten() for one in sets])

    def result(self) -> list[AddedScore]:
        """The tests; of columns that others determine, chi2 is 0."""
        found, crossed = [], self._crossed.split(self._sizes, dim=1)
        squares = self._squares.split([size * size for size in self._sizes])
        for score, cross, square in zip(self._scores.split(self._sizes), crossed, squares, strict=True):
            information = square.view(len(score), len(score)) - cross.T @ self._inverse @ cross
            coef = torch.linalg.pinv(information, hermitian=True) @ score
            chi2 = max(float(score @ coef), 0.0)
            test = Score(chi2, len(score), chi_squared_tail(chi2, len(score)))
            # the score is of the second class, and the parameters may be those of the first one
            sign = self._model.sign
            found.append(AddedScore(test, -sign * self._inverse @ cross @ coef, sign * coef))
        return found


class _RowsWithColumns:
    """A `RowSource` of dense rows with further columns, which are computed block by block."""

    def __init__(self, likelihood: Likelihood, found: Maximum, added: AddedColumns, size: int) -> None:
        self._likelihood, self._added, rows = likelihood, added, likelihood.rows
        self._model = RowModel(likelihood, found)
        self.num_rows, self.num_features = rows.num_rows, rows.num_features + size
        self.is_sparse, self.may_be_held = rows.is_sparse, rows.may_be_held
        self.processes = rows.processes

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or one in ``every``; see `RowSource`."""
        return map(self._with_columns, self._likelihood.rows.blocks(every))

    def _with_columns(self, block: Batch) -> Batch:
        features = converted(block.features, torch.float64)
        columns = self._likelihood.design.columns(features, self._likelihood.problem.model)
        logits = self._model.logits(columns, None if block.offset is None else block.offset.double().unsqueeze(1))
        return block._replace(features=torch.cat([features, self._added(columns, logits)], dim=1))


def likelihood_ratio(
    likelihood: Likelihood, found: Maximum, name: str, added: AddedColumns, score: AddedScore
) -> TermTest:
    """The likelihood-ratio test of further columns: the model with them is fitted by Newton's method to its maximum.

    Args:
        likelihood: The likelihood of dense rows.
        found: Its maximum.
        name: Name of the test.
        added: The columns.
        score: Their score test.

    Raises:
        DataError: The likelihood has no maximum with them.
    """
    problem, design, features = likelihood.problem, likelihood.design, likelihood.problem.num_features
    size = len(score.coef)
    center, scale = problem.model
    coordinates = Coordinates(torch.cat([center, center.new_zeros(size)]), torch.cat([scale, scale.new_ones(size)]))
    rows: RowSource = _RowsWithColumns(likelihood, found, added, size)
    more = tuple(f"{name} {number}" for number in range(1, size + 1))
    wider = replace(
        design,
        features=(*design.features, *range(features, features + size)),
        names=(*design.names[:-1], *more, design.names[-1]),
    )
    larger = Likelihood(replace(problem, model=coordinates), rows, wider, likelihood.num_classes)
    stepped = found.parameters[0] + score.step
    start = torch.cat([stepped[:-1], score.coef, stepped[-1:]]).unsqueeze(0)
    value = maximize(larger, larger.evaluate(start), tolerance=RATIO_STEP_TOLERANCE).value
    chi2 = max(2 * (found.value - value), 0.0)
    return TermTest(name, chi2, size, chi_squared_tail(chi2, size))
