"""What a split's rows score, over all rows at once and never averaged over batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logreg.functional import LOSSES, one_vs_rest
from logreg.objective import Objective

Scores = dict[str, float]
"""Metric name (loss, accuracy, auroc) -> value."""


class SplitScorer:
    """Gathers blocks of one split, then scores the split.

    The metrics: ``loss`` is the data term under the objective's reduction; ``accuracy`` the
    fraction of rows whose most probable class is theirs; ``auroc`` (binary only, when asked for,
    and when both classes are there) the probability that a row of class 1 ranks above one of class 0.
    """

    def __init__(self, objective: Objective, auroc: bool) -> None:
        self.objective, self.auroc = objective, auroc
        self.clear()

    def clear(self) -> None:
        """Forgets all rows.  Sets: everything."""
        self.rows = 0
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._positive: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> None:
        """Takes one block.

        Args:
            logits: Shape (N, K).
            labels: Shape (N,), int64, in [0, C).
            targets: Shape (N, K), if they are made already.
        """
        binary = logits.shape[1] == 1
        if targets is None:
            targets = one_vs_rest(labels, logits.shape[1], logits.dtype)
        predicted = (logits[:, 0] > 0).long() if binary else logits.argmax(1)
        self.rows += len(labels)
        # Kept on their device and added up at the end: one wait for the accelerator, not one per block.
        self._losses.append(LOSSES[self.objective.loss].of_rows(logits, targets).sum())
        self._hits.append((predicted == labels).sum())
        if self.auroc and logits.shape[1] <= 2:
            # Probabilities, never logits: torchmetrics would guess which of the two it was given.  In float64,
            # since in float32 all logits above 17 are the same probability.
            probabilities = LOSSES[self.objective.loss].link(logits.detach().to("cpu", torch.float64))
            self._positive.append(probabilities[:, -1])
            self._labels.append(labels.cpu())

    def compute(self) -> Scores:
        """The metrics of all rows since the last ``clear``; then forgets them."""
        loss = math.fsum(torch.stack(self._losses).tolist())
        scores = {
            "loss": loss if self.objective.reduction == "sum" else loss / self.rows,
            "accuracy": sum(torch.stack(self._hits).tolist()) / self.rows,
        }
        if self._labels:
            labels = torch.cat(self._labels)
            if 0 < int(labels.sum()) < len(labels):
                from torchmetrics.functional.classification import binary_auroc

                scores["auroc"] = float(binary_auroc(torch.cat(self._positive).nan_to_num(0.5), labels))
        self.clear()
        return scores
