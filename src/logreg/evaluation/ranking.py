"""What only the order of scores decides: AUROC and average precision of two classes, exact with ties."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SAME = 1e-12
"""Scores that differ by less than this part of the largest are the same.

A matrix product may give equal rows logits that differ in their last bits (1e-16 of the largest term), by the place of
the row in its block and by the kernel of the processor.  Equal inputs must be tied all the same.  Scores of different
rows are that near to each other only by chance, and then it moves the AUROC by less than its own rounding.
"""


class Ranked(NamedTuple):
    """Scores of samples of the rows: (B,) each."""

    auroc: Tensor
    average_precision: Tensor


class Ranking(NamedTuple):
    """Rows in the order of their scores, highest first."""

    order: Tensor
    """Their places, shape (N,)."""
    last: Tensor
    """Where in that order a group of tied rows ends, shape (G,)."""

    @classmethod
    def of(cls, scores: Tensor) -> Ranking:
        """By scores (N,), floating; what is not a number stands with 0."""
        values, order = scores.double().nan_to_num(0.0, torch.inf, -torch.inf).sort(descending=True, stable=True)
        largest = values[values.isfinite()].abs().max() if bool(values.isfinite().any()) else values.new_zeros(())
        ends = torch.ones(len(values), dtype=torch.bool, device=values.device)
        ends[:-1] = values[:-1] - values[1:] > SAME * largest  # of equal infinities it is nan, which is not greater
        return cls(order, ends.nonzero()[:, 0])

    def scored(self, positive: Tensor, weights: Tensor) -> Ranked:
        """The scores of samples; nan where a class is missing.

        Args:
            positive: Which rows are of the positive class in this order, shape (N,), boolean.
            weights: Of the rows in this order, shape (B, N), float64, >= 0.

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
    """Logits of two classes, (N, 1) or (N, 2) -> what the rows are ranked by, (N,)."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def area_under_roc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Probability that a row of class 1 ranks above one of class 0, where a tie counts half; both are there.

    Args:
        scores: Shape (N,).
        labels: Shape (N,), 0 or 1.
        weights: Of the rows, shape (N,); ``None`` for all 1.
    """
    ranking = Ranking.of(scores)
    weight = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
    return float(ranking.scored((labels == 1)[ranking.order], weight[ranking.order][None]).auroc)
