"""Paired comparison of two models on the same rows: whether one is significantly better."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import torch

from logreg.evaluation.intervals import CONFIDENCE, draws, interval, units_of
from logreg.evaluation.measured import Measured
from logreg.evaluation.predicted import Predicted
from logreg.terminal import counted

ALPHA = 1 - CONFIDENCE
"""Significance level: probability of calling a difference significant where there is none."""

MAX_EXACT_DISCORDANT = 1000
"""Largest number of discordant rows, on which only one model is right, for the exact form of McNemar's test."""


@dataclass(frozen=True)
class Paired:
    """The result of a paired comparison; differences are B minus A.

    Attributes:
        rows: Number of rows that both predicted.
        log_loss: Difference of the log loss, with a bootstrap interval: below 0 B is better.
        accuracy: Difference of the accuracy, with a bootstrap interval: above 0 B is better.
        only_a, only_b: Number of rows on which only A, or only B, is right.
        p_value: p-value of McNemar's test of equal accuracies; ``None`` where rows have weights.
    """

    rows: int
    log_loss: Measured
    accuracy: Measured
    only_a: int
    only_b: int
    p_value: float | None

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        by_loss, by_accuracy = ("B" if self.log_loss.value < 0 else "A"), ("B" if self.accuracy.value > 0 else "A")
        loss_differs = self.log_loss.high < 0 or self.log_loss.low > 0
        if self.p_value is None:
            accuracy_differs = self.accuracy.high < 0 or self.accuracy.low > 0
        else:
            accuracy_differs = self.p_value < ALPHA
        if not loss_differs and not accuracy_differs:
            return f"no significant difference on {counted(self.rows, 'row')}"
        if by_loss != by_accuracy and self.accuracy.value and self.log_loss.value:
            of_both = loss_differs and accuracy_differs
            sure = (
                "both differences are" if of_both else f"only that in {'log loss' if loss_differs else 'accuracy'} is"
            )
            return f"{by_loss} by log loss, {by_accuracy} by accuracy; {sure} significant"
        better, worse = ("B", "A") if (by_loss if loss_differs else by_accuracy) == "B" else ("A", "B")
        if loss_differs:
            return f"{better} is better than {worse}: the interval of the difference in log loss excludes 0"
        return f"{better} is more accurate than {worse}, though its log loss may be no lower"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **vars(self),
            "log_loss": self.log_loss._asdict(),
            "accuracy": self.accuracy._asdict(),
            "verdict": self.verdict,
        }


def compare(a: Predicted, b: Predicted, seed: int = 0) -> Paired:
    """Compares two models on the same rows.

    Args:
        a: Predictions of the first model.
        b: Predictions of the second model, for the same rows in the same order.
        seed: Seed of the bootstrap.

    References:
        McNemar (1947), Note on the sampling error of the difference between correlated proportions or percentages.
    """
    assert torch.equal(a.labels, b.labels)
    rows = len(a.labels)
    a, b = a.repeated(), b.repeated()
    weight = a.weight
    right_a, right_b = a.decided == a.labels, b.decided == b.labels
    units, unit = units_of(a)
    per_row = torch.stack([torch.ones_like(weight), b.losses - a.losses, right_b.double() - right_a.double()], 1)
    sums = torch.zeros(units, 3, dtype=torch.float64).index_add_(0, unit, per_row * weight[:, None])
    total = sums.sum(0)
    sampled = torch.cat([drawn @ sums for drawn in draws(a, units, seed)])
    loss, accuracy = (
        interval(float(total[column] / total[0]), sampled[:, column] / sampled[:, 0]) for column in (1, 2)
    )
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = None if a.sample_weight is not None else mcnemar(only_a, only_b)
    return Paired(rows, loss, accuracy, only_a, only_b, p_value)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's test: each discordant row is as likely to favor A as B.

    Args:
        only_a: Number of rows on which only A is right.
        only_b: Number of rows on which only B is right.

    Example:
        >>> mcnemar(0, 0), mcnemar(5, 5)
        (1.0, 1.0)
        >>> mcnemar(0, 10)  # 2 / 2^10
        0.001953125
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n > MAX_EXACT_DISCORDANT:
        # chi-squared with one degree of freedom, with Edwards' correction
        statistic = (abs(only_a - only_b) - 1) ** 2 / n
        return float(torch.erfc(torch.tensor((statistic / 2) ** 0.5, dtype=torch.float64)))
    return min(1.0, sum(comb(n, k) for k in range(fewer + 1)) / 2 ** (n - 1)) if n else 1.0
