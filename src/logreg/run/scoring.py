"""Scores, predictions and calibration of a module on a split of its data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from logreg.data import TensorDataModule
from logreg.evaluation.held_out import MAX_KEPT_CLASSES, Predicted, RowSummary, are_counts
from logreg.evaluation.ranking import log_odds
from logreg.evaluation.scores import Scores
from logreg.evaluation.temperature import Calibration, fit_calibration
from logreg.facts import Split
from logreg.processes import share
from logreg.training.module import LogisticModule


@torch.no_grad()
def score(module: LogisticModule, data: TensorDataModule, split: Split) -> Scores:
    """Loss, accuracy and, for two classes, AUROC of all rows of a split, of which each process scores its share."""
    scorer = module.scorer(auroc=True)
    for block in data.blocks(split, is_share=True):
        module.to(block.features.device)
        scorer.update(
            module.model(block.features),
            block.labels,
            sample_weight=block.sample_weight,
            log_weight=module.calibration.log_weight,
        )
    return scorer.compute(data.processes)


@torch.no_grad()
def predict(module: LogisticModule, data: TensorDataModule, split: Split) -> Predicted:
    """Predicted probabilities of all rows of a split, with their labels, weights and groups.

    Of several processes each predicts its share, and gets what the others have predicted.
    """
    labels, facts, processes = data.labels(split), module.facts, data.processes
    own = len(labels) if processes is None else len(share(len(labels), processes.rank, processes.size))
    summary, first = RowSummary.empty(own), 0
    few = facts.num_classes <= MAX_KEPT_CLASSES
    kept = torch.empty(own, facts.num_classes if few else 0, dtype=torch.float64)
    odds = torch.empty(own, dtype=torch.float64) if facts.is_binary else None
    for block in data.blocks(
        split, is_share=True
    ):  # the numbers of the rows are small, their probabilities may be many
        logits = module.to(block.features.device).model(block.features)
        probabilities = module.calibration.probabilities(logits, module.objective.loss)
        rows = slice(first, first := first + len(logits))
        for all_rows, of_block in zip(summary, RowSummary.of(probabilities, block.labels), strict=True):
            all_rows[rows] = of_block
        if few:
            kept[rows] = probabilities
        if odds is not None:
            odds[rows] = log_odds(logits)
    if processes is not None:
        kept, *of_rows = map(torch.cat, zip(*processes.gather((kept, *summary)), strict=True))
        summary = RowSummary(*of_rows)
        odds = None if odds is None else torch.cat(processes.gather(odds))
    weight, groups = data.sample_weight(split), data.groups(split)
    return Predicted(kept if few else None, labels, weight, groups, odds, weights_are_counts(data), summary)


def weights_are_counts(data: TensorDataModule) -> bool:
    """Whether the weights of the rows are counts: those of all splits are whole numbers, and not all are 1."""
    weights = [weight for split in data.splits if (weight := data.sample_weight(split)) is not None]
    return bool(weights) and are_counts(torch.cat(weights))


@torch.no_grad()
def calibrate(module: LogisticModule, data: TensorDataModule) -> Calibration:
    """The calibration of a model: class weights are removed, then a temperature is fitted on the val split."""

    def logits() -> Iterator[Tensor]:
        for block in data.blocks("val"):
            yield module.to(block.features.device).model(block.features)

    return fit_calibration(
        logits,
        data.labels("val"),
        module.objective.loss,
        module.facts.class_names,
        module.facts.class_weight,
        data.sample_weight("val"),
        weights_are_counts(data),
    )
