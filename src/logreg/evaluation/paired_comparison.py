"""Two models on the same rows: is one better, or is it noise?"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import torch

from logreg.evaluation.held_out import CONFIDENCE, Predicted, draws, interval, units_of
from logreg.evaluation.measured import Measured

ALPHA = 1 - CONFIDENCE
"""Chance of calling a difference real that is none."""

EXACT_UP_TO = 1000
"""Rows on which only one is right, up to which McNemar's test is the exact one."""


@dataclass(frozen=True)
class Paired:
    """What a paired comparison found; differences are B minus A.

    Attributes:
        rows: That both were asked about.
        log_loss: Difference of the log-loss, with a bootstrap interval: below 0 B is better.
        accuracy: Difference of the accuracy, likewise: above 0 B is better.
        only_a, only_b: Rows on which only one of them is right.
        p_value: Of McNemar's test that both are right equally often; ``None`` where rows have weights.
    """

    rows: int
    log_loss: Measured
    accuracy: Measured
    only_a: int
    only_b: int
    p_value: float | None

    @property
    def verdict(self) -> str:
        """The answer in a sentence."""
        by_loss, by_accuracy = ("B" if self.log_loss.value < 0 else "A"), ("B" if self.accuracy.value > 0 else "A")
        loss_differs = self.log_loss.high < 0 or self.log_loss.low > 0
        if self.p_value is None:
            accuracy_differs = self.accuracy.high < 0 or self.accuracy.low > 0
        else:
            accuracy_differs = self.p_value < ALPHA
        if not loss_differs and not accuracy_differs:
            return f"no difference that {self.rows:,} rows could tell from noise"
        if by_loss != by_accuracy and self.accuracy.value and self.log_loss.value:
            of_both = loss_differs and accuracy_differs
            sure = (
                "both differences are" if of_both else f"only that of {'log-loss' if loss_differs else 'accuracy'} is"
            )
            return f"{by_loss} by log-loss, {by_accuracy} by accuracy; {sure} more than noise"
        better, worse = ("B", "A") if (by_loss if loss_differs else by_accuracy) == "B" else ("A", "B")
        if loss_differs:
            return f"{better} is better than {worse}: the interval of the difference of log-loss leaves 0 out"
        return f"{better} is right more often than {worse}, though its log-loss may be no lower"

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
        a: What one says of them.
        b: What the other says of the same ones, in the same order.
        seed: Of the bootstrap.

    Source:
        McNemar (1947), Note on the sampling error of the difference between correlated proportions or percentages.
    """
    assert torch.equal(a.labels, b.labels)
    rows = len(a.labels)
    a, b = a.spelled_out(), b.spelled_out()
    weight = a.weight
    right_a, right_b = a.decided == a.labels, b.decided == b.labels
    units, unit = units_of(a)
    per_row = torch.stack([torch.ones_like(weight), b.losses - a.losses, right_b.double() - right_a.double()], 1)
    sums = torch.zeros(units, 3, dtype=torch.float64).index_add_(0, unit, per_row * weight[:, None])
    total = sums.sum(0)
    sampled = draws(a, units, seed) @ sums
    loss, accuracy = (
        interval(float(total[column] / total[0]), sampled[:, column] / sampled[:, 0]) for column in (1, 2)
    )
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = None if a.sample_weight is not None else mcnemar(only_a, only_b)
    return Paired(rows, loss, accuracy, only_a, only_b, p_value)


def mcnemar(only_a: int, only_b: int) -> float:
    """Chance of so uneven a count where each row is as likely to be on one side as on the other; two-sided.

    Example:
        >>> mcnemar(0, 0), mcnemar(5, 5)
        (1.0, 1.0)
        >>> mcnemar(0, 10)  # 2 / 2^10
        0.001953125
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n > EXACT_UP_TO:
        # chi-squared with one degree of freedom, with Edwards' correction
        statistic = (abs(only_a - only_b) - 1) ** 2 / n
        return float(torch.erfc(torch.tensor((statistic / 2) ** 0.5, dtype=torch.float64)))
    return min(1.0, sum(comb(n, k) for k in range(fewer + 1)) / 2 ** (n - 1)) if n else 1.0
