"""Scores, predictions and calibration of a module on a split of its data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from logreg.data import TensorDataModule
from logreg.evaluation.held_out import Evaluation
from logreg.evaluation.predicted import Predicted, RowSummary, are_counts, are_kept
from logreg.evaluation.ranking import log_odds
from logreg.evaluation.scores import Scores
from logreg.evaluation.temperature import Calibration, fit_calibration
from logreg.facts import Split
from logreg.processes import share
from logreg.training.module import LogisticModule


@torch.no_grad()
def score(module: LogisticModule, data: TensorDataModule, split: Split, auroc: bool = True) -> Scores:
    """Loss, accuracy and, for two classes, AUROC of all rows of a split, of which each process scores its share.

    Without ``auroc`` the rows are not sorted: for a split that is evaluated, which sorts them; see `with_auroc`.
    """
    scorer = module.scorer(auroc)
    for block in data.blocks(split, is_share=True):
        module.to(block.features.device)
        scorer.update(
            module.model(block.features),
            block.labels,
            sample_weight=block.sample_weight,
            log_weight=module.calibration.log_weight,
        )
    return scorer.compute(data.processes)


def with_auroc(scores: Scores, evaluation: Evaluation) -> Scores:
    """Scores of a split with the AUROC that its evaluation has, for two classes that both occur."""
    found = evaluation.metrics.get("auroc")
    return scores if found is None else scores | {"auroc": found.value}


@torch.no_grad()
def predict(module: LogisticModule, data: TensorDataModule, split: Split) -> Predicted:
    """Predicted probabilities of all rows of a split, with their labels, weights and groups.

    Of several processes each predicts its share, and gets what the others have predicted.
    """
    labels, facts, processes = data.labels(split), module.facts, data.processes
    own = len(labels) if processes is None else len(share(len(labels), processes.rank, processes.size))
    are_few, first = are_kept(len(labels), facts.num_classes), 0
    kept = torch.empty(own, facts.num_classes, dtype=torch.float64) if are_few else None
    summary = None if are_few else RowSummary.empty(own)
    odds = torch.empty(own, dtype=torch.float64) if facts.is_binary else None
    for block in data.blocks(split, is_share=True):
        logits = module.to(block.features.device).model(block.features)
        probabilities = module.calibration.probabilities(logits, module.objective.loss)
        rows = slice(first, first := first + len(logits))
        if kept is not None:
            kept[rows] = probabilities
        if summary is not None:
            for all_rows, of_block in zip(summary, RowSummary.of(probabilities, block.labels), strict=True):
                all_rows[rows] = of_block
        if odds is not None:
            odds[rows] = log_odds(logits)
    if processes is not None:
        parts, summaries, all_odds = zip(*processes.gather((kept, summary, odds)), strict=True)
        kept, odds = (None if each[0] is None else torch.cat(each) for each in (parts, all_odds))
        summary = None if summary is None else RowSummary(*map(torch.cat, zip(*summaries, strict=True)))
    weight, groups = data.sample_weight(split), data.groups(split)
    return Predicted(kept, labels, weight, groups, odds, weights_are_counts(data), summary)


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
