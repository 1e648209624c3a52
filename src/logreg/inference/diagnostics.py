"""Residuals, leverages and influence of single rows of a fit of two classes, and binned residuals of its columns.

With the expected information I = sum_i w_i x_i x_i', the leverage of a row is h_i = w_i x_i' I^-1 x_i.  Its Pearson
residual r_i is (y_i - p_i) / sqrt(p_i (1 - p_i)).  Without the row, a Fisher scoring step from the estimate changes it
by -I^-1 s_i / (1 - h_i), where s_i is the score of the row; Cook's distance r_i^2 h_i / (k (1 - h_i)^2) measures that
change.

References:
    Pregibon (1981), Logistic regression diagnostics.
    Williams (1987), Generalized linear model diagnostics using the deviance and single case deletions.
    Landwehr, Pregibon and Shoemaker (1984), Graphical methods for assessing logistic regression models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from logreg.inference.likelihood import Likelihood, Maximum
from logreg.losses import LOSSES, Loss, default_loss
from logreg.solvers.passes.base import Pass, PreparedRows

MAX_SAMPLED_ROWS = 2**16
"""Rows up to which quantiles of columns are exact; of more rows they are those of as many, evenly spaced."""


class RowDerivatives(NamedTuple):
    """Derivatives of the loss of rows by the linear predictor."""

    residual: Tensor
    """Of the loss, (n,): that of the logistic loss is p - y."""
    weight: Tensor
    """Expected curvature, (n,): of the logistic loss p (1 - p)."""
    probability: Tensor
    """Of the second class, (n,)."""
    target: Tensor
    """Whether a row is of that class, (n,)."""

    @property
    def pearson(self) -> Tensor:
        """Pearson residuals, (n,)."""
        return -self.residual / self.weight.sqrt()

    @property
    def variance(self) -> Tensor:
        """That of the label, p (1 - p), (n,)."""
        return self.probability * (1 - self.probability)


class RowModel:
    """A fitted model of two classes: the logit of the second one, whatever the loss and the number of outputs."""

    def __init__(self, likelihood: Likelihood, found: Maximum) -> None:
        problem, design = likelihood.problem, likelihood.design
        self.design, self.parameters = design, found.parameters
        self.loss: Loss = LOSSES[default_loss(2)] if problem.coupled else problem.loss
        self.sign = -1.0 if problem.coupled and design.outputs == (0,) else 1.0
        """-1 where the parameters of a softmax are those of the first class."""

    def logits(self, columns: Tensor, offset: Tensor | None) -> Tensor:
        """The logits (n,) of standardized columns (n, P), with offsets (n, 1)."""
        logits = columns @ (self.sign * self.parameters[0])
        return logits if offset is None else logits + offset[:, 0]

    def terms(self, logits: Tensor, labels: Tensor) -> RowDerivatives:
        """The terms of rows with these logits and classes, (n,) each."""
        logits, target = logits.unsqueeze(1), (labels == 1).double()
        return RowDerivatives(
            self.loss.residual(logits, target.unsqueeze(1))[:, 0],
            self.loss.expected_curvature(logits)[:, 0],
            self.loss.inverse_link(logits)[:, 0],
            target,
        )


class Survey(NamedTuple):
    """Some numbers for each row, and a sample of the rows."""

    logits: Tensor
    """Shape (N,)."""
    labels: Tensor
    """Shape (N,)."""
    weights: Tensor | None
    """Shape (N,)."""
    leverage: Tensor
    """Shape (N,)."""
    pattern: Tensor
    """A checksum of features and offset, (N,), int64: equal rows have the same."""
    sample: Tensor
    """Standardized columns of some rows, (n, P - 1)."""
    sample_weights: Tensor | None
    """Shape (n,)."""
    low: Tensor
    """Smallest value of each column over all rows, (P - 1,)."""
    high: Tensor
    """Largest value."""


class SurveyPass(Pass[Survey]):
    """Surveys the rows of a fitted model."""

    samples = ("_logits", "_labels", "_weights", "_leverage", "_pattern", "_sample", "_sample_weights")
    maxima = ("_high", "_negative_low")
    copies = True

    def __init__(self, likelihood: Likelihood, found: Maximum, counts: bool) -> None:
        """Prepares the sums.

        Args:
            likelihood: The likelihood.
            found: Its maximum, with the covariance of the expected information.
            counts: Whether a row of weight 3 is three rows, each with its own leverage.
        """
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._model, self._inverse, self._counts = RowModel(likelihood, found), found.covariance, counts
        self._step, self._seen = -(-likelihood.problem.rows // MAX_SAMPLED_ROWS), 0
        size = len(found.covariance)
        self._high, self._negative_low = (torch.full((size - 1,), -torch.inf, dtype=torch.float64) for _ in "hl")
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._leverage: list[Tensor] = []
        self._pattern: list[Tensor] = []
        self._sample: list[Tensor] = []
        self._sample_weights: list[Tensor] = []
        draw = torch.Generator().manual_seed(0)
        self._multipliers = torch.randint(2**62, (size,), generator=draw) * 2 + 1

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds these rows, which follow those before in the order of the source."""
        columns = self._model.design.columns(rows.features, self._fold)
        logits = self._model.logits(columns, rows.offset)
        leverage = (columns @ self._inverse).mul_(columns).sum(1) * self._model.terms(logits, rows.labels).weight
        weights = None if rows.weights is None else rows.weights[:, 0]
        if weights is not None and not self._counts:
            leverage = leverage * weights
        chosen = slice(-self._seen % self._step, None, self._step)
        self._seen += len(logits)
        self._logits.append(logits)
        self._labels.append(rows.labels)
        self._leverage.append(leverage)
        pattern = _mixed(columns) @ self._multipliers
        if rows.offset is not None:
            pattern = pattern * self._multipliers[0] + _mixed(rows.offset)[:, 0]
        self._pattern.append(pattern)
        self._sample.append(columns[chosen, :-1].clone())
        if weights is not None:
            self._weights.append(weights)
            self._sample_weights.append(weights[chosen])
        self._high = torch.maximum(self._high, columns[:, :-1].amax(0))
        self._negative_low = torch.maximum(self._negative_low, -columns[:, :-1].amin(0))

    def result(self) -> Survey:
        """The numbers of all rows."""
        return Survey(
            torch.cat(self._logits),
            torch.cat(self._labels),
            torch.cat(self._weights) if self._weights else None,
            torch.cat(self._leverage),
            torch.cat(self._pattern),
            torch.cat(self._sample),
            torch.cat(self._sample_weights) if self._sample_weights else None,
            -self._negative_low,
            self._high,
        )


def _mixed(columns: Tensor) -> Tensor:
    """Numbers (n, P) as integers whose bits depend on all bits of the numbers (the end of SplitMix64).

    References:
        Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators.
    """
    bits = (columns + 0.0).view(torch.int64)  # 0 for -0
    bits = (bits ^ (bits >> 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27)) * -0x6B2FB644ECCEEE15
    return bits ^ (bits >> 31)


class BinnedSums(NamedTuple):
    """Sums over the rows of each bin of each column, (D, B) each."""

    rows: Tensor
    values: Tensor
    """Of the standardized column."""
    residuals: Tensor
    """Of labels less probabilities."""
    variances: Tensor
    """Of p (1 - p)."""


class BinnedResiduals(Pass[BinnedSums]):
    """Sums of residuals over bins of columns."""

    sums = ("_totals",)
    copies = True

    def __init__(self, likelihood: Likelihood, found: Maximum, positions: list[int], edges: Tensor) -> None:
        """Prepares the sums.

        Args:
            likelihood: The likelihood.
            found: Its maximum.
            positions: The columns, D of them, among the parameters.
            edges: Upper ends of all bins but the last, ascending, (D, B - 1); inf for bins without rows.
        """
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._model, self._positions, self._edges = RowModel(likelihood, found), positions, edges
        self._first = (torch.arange(len(edges)) * (edges.shape[1] + 1)).unsqueeze(1)
        self._totals = self.zeros(4, len(edges) * (edges.shape[1] + 1))

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds the residuals of these rows."""
        columns = self._model.design.columns(rows.features, self._fold)
        terms = self._model.terms(self._model.logits(columns, rows.offset), rows.labels)
        values = columns[:, self._positions].T.contiguous()
        places = (torch.searchsorted(self._edges, values) + self._first).flatten()
        ones = torch.ones_like(terms.target) if rows.weights is None else rows.weights[:, 0]
        of_rows = (ones, None, (terms.target - terms.probability) * ones, terms.variance * ones)
        for total, of_row in zip(self._totals, of_rows, strict=True):
            added = values * ones if of_row is None else of_row.expand_as(values)
            total += torch.bincount(places, added.flatten(), len(total))

    def result(self) -> BinnedSums:
        """The sums."""
        return BinnedSums(*self._totals.view(4, len(self._edges), -1))


class ColumnsOfRows(Pass[Tensor]):
    """The standardized columns of a few rows, (n, P)."""

    samples = ("_columns",)
    copies = True

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__(likelihood.problem, likelihood.problem.model)
        self._design, self._columns = likelihood.design, list[Tensor]()

    def accumulate(self, rows: PreparedRows) -> None:
        """Adds these rows."""
        self._columns.append(self._design.columns(rows.features, self._fold))

    def result(self) -> Tensor:
        """The columns."""
        return torch.cat(self._columns)
