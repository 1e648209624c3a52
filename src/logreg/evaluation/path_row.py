"""One strength of l2 along a regularization path, as plain values; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from logreg.config import SELECT


@dataclass(frozen=True)
class PathRow:
    """One strength of l2: fitted on train, scored on val.

    Attributes:
        l2: The strength.
        loss_train, loss_val: The data term, mean over rows, in nats.
        error: Standard error of ``loss_val`` as a mean over the val rows.
        accuracy_val: Fraction of the val rows whose predicted class is right.
        gap, relative_gap: Upper bound on f - f* on train, absolute and relative to f.
        converged: Whether the relative gap is within the tolerance.
        passes: Number of passes over the train rows.
        nonzero: Number of coefficients that are not zero.
        auroc_val: AUROC on val, for two classes and where ``select`` is auroc; else ``None``.
        capped_val: ``loss_val`` with the loss of each row limited to ``MAX_ROW_LOSS``.
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

    def score(self, select: str) -> float:
        """The score that the strength is chosen by; higher is better."""
        name, sign = SELECT[select]
        value = getattr(self, f"{name}_val")
        if name == "loss" and self.capped_val is not None:
            value = self.capped_val
        return -math.inf if value is None or math.isnan(value) else sign * float(value)
