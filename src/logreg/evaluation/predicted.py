"""Rows of known class with the probabilities that a model predicts for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.evaluation.ranking import Ranking
from logreg.losses import decided

MAX_REPEATED_CELLS = 2 * 10**7
"""Largest number of rows times classes of a table in which each row is repeated as often as its weight counts."""

MAX_KEPT_CLASSES = 20
"""Largest number of classes whose probabilities are kept for all rows, for their curves."""

MAX_KEPT_CELLS = 2**25
"""Largest number of rows times classes of more than two classes whose probabilities are kept: 256 MiB."""

ROWS_AT_ONCE = 2**16
"""Number of rows that are summed at once, so that what is computed of each row stays small."""

MIN_PROBABILITY = torch.finfo(torch.float64).tiny
"""Lower limit of a probability before its logarithm is taken."""


class RowSummary(NamedTuple):
    """What scores need of the probabilities that a model predicts for N rows: some numbers for each row, on the CPU."""

    decided: Tensor
    """The predicted class, (N,), int64, or int32 of many rows."""
    confidence: Tensor
    """The largest probability, (N,), float64."""
    right: Tensor
    """The probability of the right class, (N,), float64."""
    squares: Tensor
    """The sum of the squared probabilities, (N,), float64."""
    ahead: Tensor
    """The number of classes before the right one in the order of the probabilities, (N,), of the type of ``decided``;
    where they are equal, the first class comes first, as in the decision."""

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor) -> RowSummary:
        """The numbers of rows with these probabilities (N, C) and classes (N,)."""
        own = labels.unsqueeze(1)
        right = probabilities.gather(1, own)
        first = torch.arange(probabilities.shape[1], device=labels.device) < own
        ahead = ((probabilities > right) | ((probabilities == right) & first)).sum(1)
        return cls(
            decided(probabilities),
            probabilities.amax(1),
            right[:, 0],
            torch.linalg.vector_norm(probabilities, dim=1).square(),
            ahead,
        )

    @classmethod
    def empty(cls, rows: int) -> RowSummary:
        """Room for the numbers of so many rows, to be filled block by block."""
        whole, real = (torch.empty(rows, dtype=dtype) for dtype in (torch.int32, torch.float64))
        return cls(whole, real, torch.empty_like(real), torch.empty_like(real), torch.empty_like(whole))


@dataclass(frozen=True)
class Predicted:
    """Rows of known class and the probabilities that a model predicts for them.

    Attributes:
        kept: The probabilities, shape (N, C), float64, on the CPU; rows sum to 1.  ``None`` where `are_kept` says no,
            with ``summary`` in their place.
        labels: Shape (N,), int64, in [0, C).
        sample_weight: Shape (N,), float64, >= 0; ``None`` weighs all rows 1.
        groups: Group of each row, shape (N,), int64; the bootstrap draws the rows of a group together.  ``None``: the
            bootstrap draws single rows.
        counts: Whether the weights are numbers of rows: a row of weight 2 is two equal rows.  Otherwise they are
            sampling weights, and a row of any weight is one row.
        log_odds: Score by which rows of two classes are ranked, shape (N,); ``None``: the score is computed from the
            probabilities.
        summary: The summary of the probabilities; ``None``: it is computed from them.
    """

    kept: Tensor | None
    labels: Tensor
    sample_weight: Tensor | None = None
    groups: Tensor | None = None
    log_odds: Tensor | None = None
    counts: bool = False
    summary: RowSummary | None = None

    @property
    def probabilities(self) -> Tensor:
        """The probabilities, where they are kept: of few classes."""
        assert self.kept is not None
        return self.kept

    @cached_property
    def rows(self) -> RowSummary:
        """The summary of each row's probabilities."""
        return RowSummary.of(self.probabilities, self.labels) if self.summary is None else self.summary

    @property
    def weight(self) -> Tensor:
        """The weight of each row, shape (N,), float64."""
        if self.sample_weight is None:
            return torch.ones(len(self.labels), dtype=torch.float64)
        return self.sample_weight

    @property
    def effective_rows(self) -> float:
        """See `effective_rows`."""
        if self.sample_weight is None:
            return float(len(self.labels))
        return effective_rows(self.sample_weight, self.counts)

    def parts(self) -> Iterator[tuple[slice, Predicted]]:
        """The rows, some at a time, with their places."""
        for first in range(0, len(self.labels), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            of_rows = {
                name: None if (whole := getattr(self, name)) is None else whole[rows]
                for name in ("kept", "sample_weight", "groups", "log_odds")
            }
            summary = None if self.summary is None else RowSummary(*(column[rows] for column in self.summary))
            yield rows, Predicted(labels=self.labels[rows], counts=self.counts, summary=summary, **of_rows)

    def repeated(self) -> Predicted:
        """The same rows with each row repeated as often as its weight counts, and without weights.

        The rows stay as they are where weights are no counts, or where the repeated rows would be more than
        ``MAX_REPEATED_CELLS`` allows.
        """
        classes = 1 if self.kept is None else self.kept.shape[1]
        if not self.counts or float(self.weight.sum()) * classes > MAX_REPEATED_CELLS:
            return self
        times = self.weight.long()

        def repeated(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.repeat_interleave(times, 0)

        return Predicted(
            repeated(self.kept),
            self.labels.repeat_interleave(times),
            groups=repeated(self.groups),
            log_odds=repeated(self.log_odds),
            summary=RowSummary(*(part.repeat_interleave(times) for part in self.rows)),
        )

    @property
    def decided(self) -> Tensor:
        """The predicted class of each row, shape (N,)."""
        return self.rows.decided

    @property
    def positive(self) -> Tensor:
        """The probability of the second of two classes, shape (N,)."""
        return self.probabilities[:, 1]

    @property
    def scores(self) -> Tensor:
        """The score that rows of two classes are ranked by, shape (N,)."""
        if self.log_odds is not None:
            return self.log_odds
        return self.probabilities.clamp(min=MIN_PROBABILITY).log().diff(dim=1)[:, 0]

    @cached_property
    def ranking(self) -> Ranking:
        """The rows of two classes, sorted by their scores, and so by the probability of the second class."""
        return Ranking.of(self.scores)

    @property
    def losses(self) -> Tensor:
        """-log of the probability of the right class, in nats, shape (N,)."""
        return -self.rows.right.clamp(min=MIN_PROBABILITY).log()


def are_kept(rows: int, classes: int) -> bool:
    """Whether the probabilities of all rows are kept: of two classes, and of few classes of not too many rows."""
    return classes == 2 or (classes <= MAX_KEPT_CLASSES and rows * classes <= MAX_KEPT_CELLS)


def are_counts(weight: Tensor) -> bool:
    """Whether weights are numbers of rows: all of them whole, and not all of them 1."""
    return bool((weight == weight.round()).all()) and bool((weight != 1).any())


def effective_rows(weight: Tensor, counts: bool) -> float:
    """The effective number of rows: the sum of weights that are counts, else Kish's effective sample size."""
    total = float(weight.sum())
    return total if counts or not total else total**2 / float(weight.square().sum())
