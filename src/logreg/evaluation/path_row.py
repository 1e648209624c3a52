"""One strength along a regularization path, as plain values; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from logreg.config import SELECT


@dataclass(frozen=True)
class PathRow:
    """One strength of the penalties: fitted on train, scored on val or by cross-validation.

    Attributes:
        l2: The strength of l2.
        loss_train: The data term, mean over rows, in nats.
        loss_val: The same on val; of a cross-validation the mean over the folds of that of the held-out rows.
        error: Standard error of ``loss_val``: as a mean over the val rows, or over the folds.
        accuracy_val: Fraction of the val rows whose predicted class is right, or the mean over the folds.
        gap, relative_gap: Upper bound on f - f* on train, absolute and relative to f.
        converged: Whether the relative gap is within the tolerance, on train and in each fold.
        passes: Number of passes over the train rows.
        nonzero: Number of coefficients that are not zero.
        auroc_val: AUROC on val, for two classes and where ``select`` is auroc, or the mean over the folds; else
            ``None``.
        capped_val: ``loss_val`` with the loss of each row limited to ``MAX_ROW_LOSS``.
        l1: The strength of l1.
        accuracy_error, auroc_error: Standard errors of the means over the folds; ``None`` on val.
        folds: Score that ``select`` names of the held-out rows of each fold, one repetition after the other; empty on
            val.
    """

    l2: float
    loss_train: float
    loss_val: float
    error: float
    accuracy_val: float
    gap: float
    relative_gap: float
    converged: bool
    passes: int
    nonzero: int
    auroc_val: float | None = None
    capped_val: float | None = None
    l1: float = 0.0
    accuracy_error: float | None = None
    auroc_error: float | None = None
    folds: tuple[float, ...] = ()

    def score(self, select: str) -> float:
        """The score that the strength is chosen by; higher is better."""
        name, sign = SELECT[select]
        value = getattr(self, f"{name}_val")
        if name == "loss" and self.capped_val is not None:
            value = self.capped_val
        return -math.inf if value is None or math.isnan(value) else sign * float(value)

    def mean_and_error(self, select: str) -> tuple[float, float]:
        """The score that ``select`` names, as it is reported, and its standard error; nan where it is not known."""
        name, _ = SELECT[select]
        value, error = getattr(self, f"{name}_val"), self.error if name == "loss" else getattr(self, f"{name}_error")
        return math.nan if value is None else value, math.nan if error is None else error

    @property
    def order(self) -> tuple[float, float]:
        """The strengths of l1 and l2: along a path, both grow or one stays."""
        return self.l1, self.l2


def varied(rows: Sequence[PathRow]) -> Literal["l1", "l2"]:
    """The penalty along whose strength a path goes; l1 where both change, as in an elastic net."""
    return "l1" if len({row.l1 for row in rows}) > 1 or not any(row.l2 for row in rows) else "l2"
