"""Scores of predicted probabilities on rows of known class, each with a confidence interval and a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.evaluation.intervals import RESAMPLES, column_intervals, draws, interval, units_of, wilson
from logreg.evaluation.measured import ClassScores, Measured, RowWeights, Threshold
from logreg.evaluation.predicted import ROWS_AT_ONCE, Predicted, RowSummary
from logreg.evaluation.ranking_scores import ranking_scores
from logreg.evaluation.threshold import threshold_of
from logreg.solvers.threads import threads_for

CLASS_SCORES_AT_ONCE = 2**22
"""Number of classes times bootstrap samples whose scores are computed at once; as float64 they take 32 MiB."""

GATHERED_RATIO = 16
"""Number of units times classes, per row, above which a sum over the rows of each class adds rows one by one: a matrix
product adds as many zeros in the time of one row."""

BINS = 15
"""Number of bins of equal width, for the expected calibration error."""

TOP_K = 5
"""k of the top-k accuracy, which is computed where there are more than k classes."""

NAMES = (
    "log_loss",
    "accuracy",
    "balanced_accuracy",
    f"top_{TOP_K}_accuracy",
    "auroc",
    "average_precision",
    "brier",
    "ece",
    "ece_positive",
)
"""The metrics in reading order."""

OF_CLASSES = ("precision", "recall", "f1")
"""The metrics of each class, in reading order."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of one split.

    Attributes:
        rows: N.
        metrics: Scores by name: log_loss, accuracy, balanced_accuracy, top_5_accuracy (more than 5 classes), brier, ece
            (of the most probable class); for two classes ece_positive (of the second class), and where both classes
            occur auroc and average_precision.
        baseline: The metrics of a model that predicts the class rates of train for every row.
        classes: Scores of each of the C classes, in the order of the classes.
        confusion: Weight of the rows of class i that are predicted as class j, shape (C, C), sparse (COO, coalesced).
        threshold: The decision threshold for two classes; else ``None``.
        weights: The meaning of the rows' weights; ``None`` where rows have none.
    """

    rows: int
    metrics: dict[str, Measured]
    baseline: dict[str, float]
    classes: tuple[ClassScores, ...]
    confusion: Tensor
    threshold: Threshold | None
    weights: RowWeights | None = None


def evaluate(
    predicted: Predicted,
    class_names: Sequence[str],
    base_rates: Sequence[float],
    threshold: tuple[float, str] | None = None,
    cost_ratio: float = 1.0,
    seed: int = 0,
) -> Evaluation:
    """Scores a split.

    Args:
        predicted: The rows of the split; at least one has a weight above 0.
        class_names: C names; of two classes the second is the positive one.
        base_rates: Fraction of each class in train, shape (C,).
        threshold: The result of `best_threshold` and the split that it was chosen on; ``None`` to choose it here.
        cost_ratio: Cost of a false negative; that of a false positive is 1.
        seed: Seed of the bootstrap.

    Returns:
        Intervals are percentiles of ``RESAMPLES`` bootstrap samples.  The accuracy has Wilson's interval.  Resampling
        biases the calibration errors upward, so their intervals are reflected at their values (basic bootstrap).  AUROC
        and average precision have intervals in closed form (`ranked_interval`).

        Weights that are counts give the intervals of the table in which rows are repeated.  Other weights are sampling
        weights: the bootstrap draws rows with their weights, and Wilson's interval is computed for Kish's effective
        sample size.

    References:
        Kish (1965), Survey Sampling.
    """
    rows, of_weights = len(predicted.labels), _weights(predicted)
    predicted = predicted.repeated()
    # Of two classes many rows are sorted meanwhile: two threads, of which each does its own operations alone.
    with threads_for(0 if len(class_names) == 2 else math.inf), ThreadPoolExecutor(1) as pool:
        ranked = chosen = None
        if len(class_names) == 2:
            ranked = pool.submit(ranking_scores, predicted)
            chosen = pool.submit(threshold_of, predicted, threshold, cost_ratio)
        sums = _Sums(predicted, len(class_names))
        scores, classes = _sampled(predicted, sums, class_names, seed)
    metrics = {name: interval(float(both[0]), both[1:]) for name, both in scores.items()}
    metrics["accuracy"] = wilson(metrics["accuracy"].value, predicted.effective_rows)
    for name in ("ece", "ece_positive"):
        if name in metrics:
            value_of, low, high = metrics[name]
            metrics[name] = Measured(value_of, max(0.0, 2 * value_of - high), max(value_of, 2 * value_of - low))
    if ranked is not None:
        metrics |= ranked.result()
    baseline = _baseline(sums.of_labels, torch.tensor(base_rates, dtype=torch.float64))
    return Evaluation(
        rows=rows,
        metrics={name: metrics[name] for name in NAMES if name in metrics},
        baseline={name: baseline[name] for name in NAMES if name in metrics},
        classes=tuple(classes),
        confusion=sums.confusion,
        threshold=None if chosen is None else chosen.result(),
        weights=of_weights,
    )


def _weights(predicted: Predicted) -> RowWeights | None:
    if predicted.sample_weight is None:
        return None
    return RowWeights(predicted.counts, predicted.effective_rows)


class _Sums:
    """The sums that the scores of a split are computed from, one for each unit that the bootstrap draws."""

    def __init__(self, predicted: Predicted, classes: int) -> None:
        self.units, self.unit = units_of(predicted)
        self.classes, self.predicted = classes, predicted
        self.means = torch.zeros(self.units, 5, dtype=torch.float64)
        self.off, self.off_positive = torch.zeros(2, self.units, BINS, dtype=torch.float64)
        self.of_labels = torch.zeros(classes, dtype=torch.float64)
        """Weight of the rows of each class, shape (C,)."""
        self.cells = list[tuple[Tensor, Tensor]]()
        """Cells of the confusion matrix, as class times C plus predicted class, and the weight of their rows."""
        self.tables = None
        """Weight of the rows of a class, of those predicted as it, and of both, in each unit, (units, C) each; of many
        classes ``None``."""
        if self.units * classes <= CLASS_SCORES_AT_ONCE:
            self.tables = torch.zeros(3, self.units, classes, dtype=torch.float64)
        for rows, part in predicted.parts():
            self._add(part, self.unit[rows].long())

    def _add(self, part: Predicted, unit: Tensor) -> None:
        """Adds some rows, whose units are given."""
        labels, weight = part.labels, part.weight
        decided_as, confidence, right, squares, ahead = part.rows
        hit = (decided_as == labels).double()
        brier = squares - 2 * right + 1
        if self.classes == 2:
            brier = brier / 2  # by convention, the score of two classes is that of the positive one alone
            _add_errors(self.off_positive, unit, part.positive, (labels == 1).double(), weight)
        columns = [torch.ones_like(weight), part.losses, hit, brier, (ahead < TOP_K).double()]
        of_rows = torch.stack(columns, 1)
        self.means.index_add_(0, unit, of_rows if part.sample_weight is None else of_rows * weight[:, None])
        _add_errors(self.off, unit, confidence, hit, weight)
        self.of_labels.index_add_(0, labels, weight)
        self.cells.append(_weights_of(labels * self.classes + decided_as, weight, self.classes**2))
        if self.tables is not None:
            chosen = (labels, weight), (decided_as.long(), weight), (labels, weight * hit)
            for table, (label, of_row) in zip(self.tables, chosen, strict=True):
                _add_at(table, unit, label, of_row)

    @property
    def confusion(self) -> Tensor:
        """See `Evaluation.confusion`."""
        cell, weight = map(torch.cat, zip(*self.cells, strict=True))
        places, shape = torch.stack([cell // self.classes, cell % self.classes]), (self.classes, self.classes)
        return torch.sparse_coo_tensor(places, weight, shape, check_invariants=True).coalesce()

    def scores(self, counts: Tensor) -> dict[str, Tensor]:
        """The scores of samples that need no single classes, (B, units) -> (B,) each."""
        means = counts @ self.means
        total = means[:, 0]
        scores = {
            "log_loss": means[:, 1] / total,
            "accuracy": means[:, 2] / total,
            "brier": means[:, 3] / total,
            "ece": (counts @ self.off).abs().sum(1) / total,
        }
        if self.classes == 2:
            scores["ece_positive"] = (counts @ self.off_positive).abs().sum(1) / total
        if self.classes > TOP_K:
            scores[f"top_{TOP_K}_accuracy"] = means[:, 4] / total
        return scores

    def of_classes(self, counts: Tensor, part: range) -> dict[str, Tensor]:
        """The scores of some classes in samples, (B, units) -> (B, len(part)) each."""
        if self.tables is not None:
            actual, taken, both = (counts @ table[:, part.start : part.stop] for table in self.tables)
        else:
            labels, decided_as, weight = self.predicted.labels, self.predicted.decided, self.predicted.weight
            actual = self._per_class(counts, part, labels, weight)
            taken = self._per_class(counts, part, decided_as, weight)
            both = self._per_class(counts, part, labels, weight * (decided_as == labels))
        return {
            "precision": torch.where(taken > 0, both / taken, 0.0),
            "recall": torch.where(actual > 0, both / actual, math.nan),
            "f1": torch.where(actual + taken > 0, 2 * both / (actual + taken), 0.0),
        }

    def _per_class(self, counts: Tensor, part: range, chosen: Tensor, weight: Tensor) -> Tensor:
        """The weight of the rows for which each class is chosen, in samples: (B, len(part))."""
        mine = ((chosen >= part.start) & (chosen < part.stop)).nonzero()[:, 0]
        place, unit, weight = chosen[mine].long() - part.start, self.unit[mine].long(), weight[mine]
        if GATHERED_RATIO * len(mine) >= self.units * len(part):
            table = torch.zeros(self.units, len(part), dtype=torch.float64)
            return counts @ table.index_put_((unit, place), weight, accumulate=True)
        total, of_units = counts.new_zeros(len(part), len(counts)), counts.T.contiguous()
        for some in torch.arange(len(mine)).split(max(1, CLASS_SCORES_AT_ONCE // len(counts))):
            total.index_add_(0, place[some], of_units[unit[some]] * weight[some, None])
        return total.T


def _add_errors(sums: Tensor, unit: Tensor, probability: Tensor, happened: Tensor, weight: Tensor) -> None:
    """Adds the weighted errors of a probability to those of each unit and bin, (units, BINS)."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    _add_at(sums, unit, bins, weight * (probability - happened))


def _add_at(sums: Tensor, row: Tensor, column: Tensor, values: Tensor) -> None:
    """Adds values (n,) at places of a matrix, in less time than ``index_put_``."""
    sums.view(-1).scatter_add_(0, row * sums.shape[1] + column, values)


def _weights_of(cell: Tensor, weight: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The cells of rows (n,), each once, and the weight of the rows of each; there may be more cells than rows."""
    if cells <= ROWS_AT_ONCE:
        there = torch.bincount(cell, minlength=cells).nonzero()[:, 0]
        return there, torch.bincount(cell, weight, cells)[there]
    there, place = cell.unique(return_inverse=True)
    return there, torch.bincount(place, weight)


def _sampled(
    predicted: Predicted, sums: _Sums, class_names: Sequence[str], seed: int
) -> tuple[dict[str, Tensor], list[ClassScores]]:
    """The scores of the rows themselves and of B bootstrap samples, (1 + B,) each, and those of the classes.

    Where classes are many, the same samples are drawn again for each part of them.
    """
    ones, classes = torch.ones(1, sums.units, dtype=torch.float64), len(class_names)
    weights, at_once = sums.of_labels.tolist(), CLASS_SCORES_AT_ONCE // RESAMPLES
    scores, of_classes = [sums.scores(ones)], list[ClassScores]()
    total, number = torch.zeros(()), torch.zeros(())  # of the classes that occur in each sample
    for first in range(0, classes, at_once):
        part = range(first, min(first + at_once, classes))
        of_part = [sums.of_classes(ones, part)]
        for drawn in draws(predicted, sums.units, seed):
            of_part.append(sums.of_classes(drawn, part))
            if not first:
                scores.append(sums.scores(drawn))
        joined = [torch.cat([each[name] for each in of_part]) for name in OF_CLASSES]
        recall = joined[OF_CLASSES.index("recall")]
        total, number = total + recall.nansum(1), number + recall.isfinite().sum(1)
        for label, measured in zip(part, zip(*map(column_intervals, joined), strict=True), strict=True):
            of_classes.append(ClassScores(class_names[label], weights[label], *measured))
    of_rows = {name: torch.cat([each[name] for each in scores]) for name in scores[0]}
    return of_rows | {"balanced_accuracy": total / number}, of_classes


def _baseline(weights: Tensor, rates: Tensor) -> dict[str, float]:
    """The scores of a model that predicts the class rates of train for every row, from the weight of each class."""
    classes = len(rates)
    labels, order = torch.arange(classes), torch.empty(classes, dtype=torch.int64)
    order[rates.argsort(descending=True, stable=True)] = labels
    one = RowSummary.of(rates.unsqueeze(0), torch.zeros(1, dtype=torch.int64))
    same = [part.expand(classes) for part in (one.decided, one.confidence, one.squares)]
    summary = RowSummary(same[0], same[1], rates, same[2], order)
    kept = rates.expand(classes, -1) if classes == 2 else None
    sums = _Sums(Predicted(kept, labels, weights, groups=torch.zeros_like(labels), summary=summary), classes)
    ones = torch.ones(1, 1, dtype=torch.float64)
    scores = sums.scores(ones)
    scores["balanced_accuracy"] = sums.of_classes(ones, range(classes))["recall"].nanmean(1)
    found = {name: float(scores[name][0]) for name in NAMES if name in scores}
    if classes == 2:
        found |= {"auroc": 0.5, "average_precision": float(weights[1] / weights.sum())}
    return found


def frequent_mistakes(confusion: Tensor, most: int | None = None) -> list[tuple[int, int, float]]:
    """The kinds of mistakes with the most weight, at most ``most``: right class, predicted class and weight.

    Args:
        confusion: `Evaluation.confusion`.
        most: ``None`` for all.
    """
    (true, predicted), weight = confusion.indices(), confusion.values()
    wrong = ((true != predicted) & (weight > 0)).nonzero()[:, 0]
    order = wrong[weight[wrong].argsort(descending=True, stable=True)[:most]]
    return list(zip(true[order].tolist(), predicted[order].tolist(), weight[order].tolist(), strict=True))
