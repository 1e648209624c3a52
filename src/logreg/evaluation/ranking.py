"""Metrics of a ranking of rows: AUROC and average precision of two classes, exact with ties."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TIE_RTOL = 1e-12
"""Scores that differ by less than this fraction of the largest one are ties.

A matrix product may give equal rows logits that differ in their last bits (1e-16 of the largest term), depending on
the position of the row in its block and on the processor's kernel.  Equal inputs must be tied all the same.  Scores of
different rows are this close only by chance, and a tie then changes the AUROC by less than its rounding error.
"""


class Ranked(NamedTuple):
    """The two metrics of B weighted samples of the rows, shape (B,) each."""

    auroc: Tensor
    average_precision: Tensor


class Ranking(NamedTuple):
    """Rows sorted by their scores, highest first."""

    order: Tensor
    """Positions of the rows, shape (N,)."""
    last: Tensor
    """Position in ``order`` of the last row of each group of ties, shape (G,)."""

    @classmethod
    def of(cls, scores: Tensor) -> Ranking:
        """Sorts by scores (N,), floating; nan counts as 0."""
        values, order = scores.double().nan_to_num(0.0, torch.inf, -torch.inf).sort(descending=True, stable=True)
        largest = values[values.isfinite()].abs().max() if bool(values.isfinite().any()) else values.new_zeros(())
        ends = torch.ones(len(values), dtype=torch.bool, device=values.device)
        ends[:-1] = values[:-1] - values[1:] > TIE_RTOL * largest  # nan, of equal infinities, is not greater
        return cls(order, ends.nonzero()[:, 0])

    def scored(self, positive: Tensor, weights: Tensor) -> Ranked:
        """The metrics of weighted samples of the rows; nan where a class is missing.

        Args:
            positive: Whether each row, in sorted order, is of the positive class, shape (N,), boolean.
            weights: Weight of each row, in sorted order, in each sample, shape (B, N), float64, >= 0.

        References:
            Fawcett (2006), An introduction to ROC analysis, Pattern Recognition Letters 27: tied rows are one step of
            the curve, whose area is that of a trapezoid.
        """
        hits = (weights * positive).cumsum(1)[:, self.last]
        alarms = (weights * ~positive).cumsum(1)[:, self.last]
        before = torch.nn.functional.pad(hits, (1, 0))[:, :-1]
        new_alarms = alarms.diff(dim=1, prepend=torch.zeros_like(alarms[:, :1]))
        all_hits, all_alarms = hits[:, -1], alarms[:, -1]
        area = ((hits + before) / 2 * new_alarms).sum(1) / (all_hits * all_alarms)
        precision = torch.where(hits > 0, hits / (hits + alarms), 0.0)
        return Ranked(area, ((hits - before) * precision).sum(1) / all_hits)


def log_odds(logits: Tensor) -> Tensor:
    """Logits of two classes, (N, 1) or (N, 2) -> log-odds of the second class, (N,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def area_under_roc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Probability that a row of class 1 ranks above one of class 0, where a tie counts half; both classes must occur.

    Args:
        scores: Shape (N,).
        labels: Shape (N,), 0 or 1.
        weights: Weight of each row, shape (N,); ``None`` for all 1.
    """
    ranking = Ranking.of(scores)
    weight = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    return float(ranking.scored((labels == 1)[ranking.order], weight[ranking.order][None]).auroc)
