"""Loss, accuracy and AUROC of a split, over all rows at once and never averaged over batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from logreg.evaluation.ranking import area_under_roc, log_odds
from logreg.facts import Batch
from logreg.losses import decided
from logreg.losses.objective import Objective
from logreg.processes import Accumulators, Processes
from logreg.rows import row_weights

Scores = dict[str, float]
"""Metric name (loss, accuracy, auroc) -> value."""


class SplitScorer:
    """Gathers blocks of one split, then scores the split.

    The metrics: ``loss`` is the data term under the objective's reduction; ``accuracy`` the
    fraction of rows whose predicted class is right (`losses.decided`); ``auroc`` (for two classes, where requested,
    and where both occur) the probability that a row of class 1 ranks above one of class 0.
    A row of weight 2 counts as two rows in each metric; class weights are part of the loss alone.
    """

    def __init__(self, objective: Objective, auroc: bool, class_weight: Sequence[float] = ()) -> None:
        self.objective, self.auroc, self.class_weight = objective, auroc, class_weight
        self.clear()

    def clear(self) -> None:
        """Forgets all rows."""
        self.rows = 0
        self._losses: list[Tensor | float] = []
        self._hits: list[Tensor | float] = []
        self._loss_weights: list[Tensor | float] = []
        self._weights: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        sample_weight: Tensor | None = None,
        log_weight: Tensor | None = None,
    ) -> None:
        """Takes one block.

        Args:
            logits: Shape (N, K).
            labels: Shape (N,), int64, in [0, C).
            sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.
            log_weight: Logarithms of class weights that a calibration removes from the probabilities, and so from the
                decisions (`Loss.class_probabilities`).
        """
        labels = labels.to(logits.device)
        sample_weight = None if sample_weight is None else sample_weight.to(logits.device)
        predicted = decided(self.objective.row_loss.class_probabilities(logits, log_weight=log_weight))
        self.rows += len(labels)
        losses, hits = self.objective.row_loss.value_at(logits, labels), predicted == labels
        weights = row_weights(Batch(logits, labels, sample_weight), tuple(self.class_weight), losses.dtype)
        self._losses.append(_number(losses.sum() if weights is None else losses @ weights))
        self._hits.append(_number(hits.sum() if sample_weight is None else sample_weight.double()[hits].sum()))
        if weights is not None:
            self._loss_weights.append(_number(weights.double().sum()))
        if sample_weight is not None:
            self._weights.append(sample_weight)
        if self.auroc and logits.shape[1] <= 2:
            # Ranked by logits: probabilities of logits above 37 are all 1, and sigmoids of equal logits may differ.
            self._scores.append(log_odds(logits.detach()).cpu())
            self._labels.append(labels.to("cpu", torch.uint8))

    def compute(self, processes: Processes | None = None) -> Scores:
        """The metrics of all rows since the last ``clear``; then forgets the rows.

        The metrics are nan where all rows weigh 0.

        Args:
            processes: The processes that have scored the parts of the split, each its own; all of them get the metrics
                of the whole split.  ``None`` for one process.
        """
        weights = _joined(self._weights)
        totals = [
            math.fsum(map(float, self._losses)),
            math.fsum(map(float, self._loss_weights)) if self._loss_weights else self.rows,
            math.fsum(map(float, self._hits)),
            float(weights[0].double().sum()) if weights else self.rows,
        ]
        of_rows = {"scores": _joined(self._scores), "labels": _joined(self._labels), "weights": weights}
        split = Accumulators({"totals": torch.tensor(totals, dtype=torch.float64)}, {}, of_rows if self.auroc else {})
        self.clear()
        if processes is not None:
            split = processes.reduce(split)
        loss, loss_weight, hits, weight = split.sums["totals"].tolist()
        scores = {
            "loss": loss if self.objective.reduction == "sum" else loss / loss_weight if loss_weight else math.nan,
            "accuracy": hits / weight if weight else math.nan,
        }
        if self.auroc and split.samples["labels"] and weight:
            (ranked,), (labels,), weighted = (_joined(split.samples[name]) for name in ("scores", "labels", "weights"))
            weight_of_row = weighted[0] if weighted else None
            there = labels if weight_of_row is None else labels[weight_of_row > 0]
            if 0 < int(there.sum()) < len(there):
                scores["auroc"] = area_under_roc(ranked, labels, weight_of_row)
        return scores


def _joined(parts: list[Tensor]) -> list[Tensor]:
    """The tensors as one on the CPU, or none: a copy of several, since a view would be sent with all that it is of."""
    return [(parts[0] if len(parts) == 1 else torch.cat(parts)).cpu()] if parts else []


def _number(total: Tensor) -> Tensor | float:
    """A sum of a block: a tensor on an accelerator, where a number for each block would wait for it; else a number.

    A small tensor that is kept on the CPU may hold back the memory of the large ones that were freed around it.
    """
    return float(total) if total.device.type == "cpu" else total
