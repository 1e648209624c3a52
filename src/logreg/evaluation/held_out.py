"""Scores of predicted probabilities on rows of known class, each with a confidence interval and a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from logreg.evaluation.measured import ClassScores, Measured, RowWeights, Threshold
from logreg.evaluation.ranking import TIE_RTOL, Ranking, Steps
from logreg.losses import decided

CONFIDENCE = 0.95
"""Confidence level of every interval."""

Z = 1.959963984540054
"""The 0.975 quantile of the standard normal distribution: half the width of a 95 % interval, in standard errors."""

RESAMPLES = 1000
"""Number of bootstrap samples."""

MAX_UNITS = 10_000
"""Largest number of bootstrap units: above it the bootstrap resamples random bundles of rows instead of single rows,
which gives the same intervals in less time."""

MAX_REPEATED_CELLS = 2 * 10**7
"""Largest number of rows times classes of a table in which each row is repeated as often as its weight counts."""

MAX_KEPT_CLASSES = 20
"""Largest number of classes whose probabilities are kept for all rows, for their curves."""

MAX_KEPT_CELLS = 2**25
"""Largest number of rows times classes of more than two classes whose probabilities are kept: 256 MiB."""

ROWS_AT_ONCE = 2**16
"""Number of rows that are summed at once, so that what is computed of each row stays small."""

CLASS_SCORES_AT_ONCE = 2**22
"""Number of classes times bootstrap samples whose scores are computed at once; as float64 they take 32 MiB."""

GATHERED_RATIO = 16
"""Number of units times classes, per row, above which a sum over the rows of each class adds rows one by one: a matrix
product adds as many zeros in the time of one row."""

MAX_POISSON_DRAWS = 2 * 10**7
"""Largest number of rows times bootstrap samples in the Poisson bootstrap; bounds its time."""

DRAWS_AT_ONCE = 2**17
"""Number of units times bootstrap samples that are drawn at once; as float64 they take 1 MiB, and stay in the cache."""

ROUNDING = 1e-12
"""Distance from 1 below which the AUROC of weighted rows may be 1 but for the rounding of sums."""

BINS = 15
"""Number of bins of equal width, for the expected calibration error."""

TOP_K = 5
"""k of the top-k accuracy, which is computed where there are more than k classes."""

MIN_PROBABILITY = torch.finfo(torch.float64).tiny
"""Lower limit of a probability before its logarithm is taken."""


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


class RowSummary(NamedTuple):
    """What scores need of the probabilities that a model predicts for N rows: some numbers for each row, on the CPU."""

    decided: Tensor
    """The predicted class, (N,), int64, or int32 of many rows."""
    confidence: Tensor
    """The largest probability, (N,), float64."""
    right: Tensor
    """The probability of the right class, (N,), float64."""
    squares: Tensor
    """The sum of the squared probabilities, (N,), float64."""
    ahead: Tensor
    """The number of classes before the right one in the order of the probabilities, (N,), of the type of ``decided``;
    where they are equal, the first class comes first, as in the decision."""

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor) -> RowSummary:
        """The numbers of rows with these probabilities (N, C) and classes (N,)."""
        own = labels.unsqueeze(1)
        right = probabilities.gather(1, own)
        first = torch.arange(probabilities.shape[1], device=labels.device) < own
        ahead = ((probabilities > right) | ((probabilities == right) & first)).sum(1)
        return cls(
            decided(probabilities),
            probabilities.amax(1),
            right[:, 0],
            torch.linalg.vector_norm(probabilities, dim=1).square(),
            ahead,
        )

    @classmethod
    def empty(cls, rows: int) -> RowSummary:
        """Room for the numbers of so many rows, to be filled block by block."""
        whole, real = (torch.empty(rows, dtype=dtype) for dtype in (torch.int32, torch.float64))
        return cls(whole, real, torch.empty_like(real), torch.empty_like(real), torch.empty_like(whole))


@dataclass(frozen=True)
class Predicted:
    """Rows of known class and the probabilities that a model predicts for them.

    Attributes:
        kept: The probabilities, shape (N, C), float64, on the CPU; rows sum to 1.  ``None`` where `are_kept` says no,
            with ``summary`` in their place.
        labels: Shape (N,), int64, in [0, C).
        sample_weight: Shape (N,), float64, >= 0; ``None`` weighs all rows 1.
        groups: Group of each row, shape (N,), int64; the bootstrap draws the rows of a group together.  ``None``: the
            bootstrap draws single rows.
        counts: Whether the weights are numbers of rows: a row of weight 2 is two equal rows.  Otherwise they are
            sampling weights, and a row of any weight is one row.
        log_odds: Score by which rows of two classes are ranked, shape (N,); ``None``: the score is computed from the
            probabilities.
        summary: The summary of the probabilities; ``None``: it is computed from them.
    """

    kept: Tensor | None
    labels: Tensor
    sample_weight: Tensor | None = None
    groups: Tensor | None = None
    log_odds: Tensor | None = None
    counts: bool = False
    summary: RowSummary | None = None

    @property
    def probabilities(self) -> Tensor:
        """The probabilities, where they are kept: of few classes."""
        assert self.kept is not None
        return self.kept

    @cached_property
    def rows(self) -> RowSummary:
        """The summary of each row's probabilities."""
        return RowSummary.of(self.probabilities, self.labels) if self.summary is None else self.summary

    @property
    def weight(self) -> Tensor:
        """The weight of each row, shape (N,), float64."""
        if self.sample_weight is None:
            return torch.ones(len(self.labels), dtype=torch.float64)
        return self.sample_weight

    @property
    def effective_rows(self) -> float:
        """See `effective_rows`."""
        if self.sample_weight is None:
            return float(len(self.labels))
        return effective_rows(self.sample_weight, self.counts)

    def parts(self) -> Iterator[tuple[slice, Predicted]]:
        """The rows, some at a time, with their places."""
        for first in range(0, len(self.labels), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            of_rows = {
                name: None if (whole := getattr(self, name)) is None else whole[rows]
                for name in ("kept", "sample_weight", "groups", "log_odds")
            }
            summary = None if self.summary is None else RowSummary(*(column[rows] for column in self.summary))
            yield rows, Predicted(labels=self.labels[rows], counts=self.counts, summary=summary, **of_rows)

    def repeated(self) -> Predicted:
        """The same rows with each row repeated as often as its weight counts, and without weights.

        The rows stay as they are where weights are no counts, or where the repeated rows would be more than
        ``MAX_REPEATED_CELLS`` allows.
        """
        classes = 1 if self.kept is None else self.kept.shape[1]
        if not self.counts or float(self.weight.sum()) * classes > MAX_REPEATED_CELLS:
            return self
        times = self.weight.long()

        def repeated(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.repeat_interleave(times, 0)

        return Predicted(
            repeated(self.kept),
            self.labels.repeat_interleave(times),
            groups=repeated(self.groups),
            log_odds=repeated(self.log_odds),
            summary=RowSummary(*(part.repeat_interleave(times) for part in self.rows)),
        )

    @property
    def decided(self) -> Tensor:
        """The predicted class of each row, shape (N,)."""
        return self.rows.decided

    @property
    def positive(self) -> Tensor:
        """The probability of the second of two classes, shape (N,)."""
        return self.probabilities[:, 1]

    @property
    def scores(self) -> Tensor:
        """The score that rows of two classes are ranked by, shape (N,)."""
        if self.log_odds is not None:
            return self.log_odds
        return self.probabilities.clamp(min=MIN_PROBABILITY).log().diff(dim=1)[:, 0]

    @cached_property
    def ranking(self) -> Ranking:
        """The rows of two classes, sorted by their scores, and so by the probability of the second class."""
        return Ranking.of(self.scores)

    @property
    def losses(self) -> Tensor:
        """-log of the probability of the right class, in nats, shape (N,)."""
        return -self.rows.right.clamp(min=MIN_PROBABILITY).log()


def are_kept(rows: int, classes: int) -> bool:
    """Whether the probabilities of all rows are kept: of two classes, and of few classes of not too many rows."""
    return classes == 2 or (classes <= MAX_KEPT_CLASSES and rows * classes <= MAX_KEPT_CELLS)


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
    with ThreadPoolExecutor(1) as pool:  # many rows are sorted meanwhile
        ranked = chosen = None
        if len(class_names) == 2:
            ranked = pool.submit(_ranked, predicted)
            chosen = pool.submit(_threshold, predicted, threshold, cost_ratio)
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


def are_counts(weight: Tensor) -> bool:
    """Whether weights are numbers of rows: all of them whole, and not all of them 1."""
    return bool((weight == weight.round()).all()) and bool((weight != 1).any())


def effective_rows(weight: Tensor, counts: bool) -> float:
    """The effective number of rows: the sum of weights that are counts, else Kish's effective sample size."""
    total = float(weight.sum())
    return total if counts or not total else total**2 / float(weight.square().sum())


def _weights(predicted: Predicted) -> RowWeights | None:
    if predicted.sample_weight is None:
        return None
    return RowWeights(predicted.counts, predicted.effective_rows)


def wilson(accuracy: float, rows: float) -> Measured:
    """The accuracy on a number of rows, with Wilson's score interval.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not rows:
        return Measured(accuracy, 0.0, 1.0)
    middle = (accuracy + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(accuracy * (1 - accuracy) / rows + Z * Z / (4 * rows * rows))
    low, high = 0.0 if accuracy == 0 else middle - half, 1.0 if accuracy == 1 else middle + half
    return Measured(accuracy, max(0.0, low), min(1.0, high))


def best_threshold(predicted: Predicted, cost_ratio: float) -> float:
    """The threshold of the positive class's probability that has the lowest cost on these rows.

    Args:
        predicted: Rows of two classes.
        cost_ratio: Cost of a false negative; that of a false positive is 1.

    Returns:
        In [0, 1], halfway between two probabilities that occur.  Of several thresholds with the lowest cost, the
        nearest to 1 / (1 + cost_ratio), which is the best threshold of calibrated probabilities.
    """
    order = predicted.ranking.order.flip(0)
    edges = torch.cat([torch.zeros(1), predicted.positive[order], torch.ones(1)])
    is_one = (predicted.labels == 1)[order]
    weight = None if predicted.sample_weight is None else predicted.sample_weight[order]
    ideal = 1 / (1 + cost_ratio)
    all_alarms = float((~is_one).sum() if weight is None else weight @ (~is_one).double())

    def costs(first: int, misses: float, passed: float) -> tuple[Tensor, Tensor, Tensor, float, float]:
        """The probabilities below and above some thresholds, and their costs.

        ``misses`` and ``passed`` are the weight of class 1, and of class 0, below the first threshold; those below the
        next part of the thresholds come last.
        """
        rows = slice(first, first + ROWS_AT_ONCE)
        low, high, one = edges[:-1][rows], edges[1:][rows], is_one[rows].double()
        own = torch.ones_like(one) if weight is None else weight[rows]
        of_one = F.pad(own * one, (1, 0), value=misses).cumsum(0)
        of_zero = F.pad(own * (1 - one), (1, 0), value=passed).cumsum(0)
        # A sum that is rounded may exceed the total, and a cost below 0 would be no threshold's.
        cost = cost_ratio * of_one[: len(low)] + (all_alarms - of_zero[: len(low)]).clamp(min=0)
        # Rounding parts rows of equal logits, and no threshold does.
        cost = torch.where(high - low > TIE_RTOL * high, cost, math.inf)
        return low, high, cost, float(of_one[-1]), float(of_zero[-1])

    parts, misses, passed = list[tuple[float, int, float, float]](), 0.0, 0.0
    for first in range(0, len(order) + 1, ROWS_AT_ONCE):
        start = misses, passed
        _, _, cost, misses, passed = costs(first, *start)
        parts.append((float(cost.min()), first, *start))
    least = min(parts)[0] * (1 + 1e-12)
    best, found = math.inf, ideal
    for lowest, first, misses, passed in parts:
        if lowest > least:
            continue
        low, high, cost, *_ = costs(first, misses, passed)
        # The cost is constant between two neighboring probabilities: take the point nearest to the ideal.
        inside = low.clamp(min=ideal).minimum(high)
        places = torch.where((inside > low) & (inside < high), inside, (low + high) / 2)
        distance = (places - ideal).abs().masked_fill(cost > least, math.inf)
        nearest = int(distance.argmin())
        if float(distance[nearest]) < best:
            best, found = float(distance[nearest]), float(places[nearest])
    return found


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
        for label, measured in zip(part, zip(*map(_intervals, joined), strict=True), strict=True):
            of_classes.append(ClassScores(class_names[label], weights[label], *measured))
    of_rows = {name: torch.cat([each[name] for each in scores]) for name in scores[0]}
    return of_rows | {"balanced_accuracy": total / number}, of_classes


def _intervals(scores: Tensor) -> list[Measured]:
    """`interval` of each column of scores (1 + B, C), whose first row has the values and the others the samples."""
    tail = (1 - CONFIDENCE) / 2
    ends = torch.nanquantile(scores[1:], torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return [Measured(*each) for each in zip(scores[0].tolist(), *ends.tolist(), strict=True)]


def units_of(predicted: Predicted) -> tuple[int, Tensor]:
    """The units that the bootstrap draws: groups, or rows, or random bundles of rows where there are many.

    Returns:
        The number of units; the unit of each row, shape (N,), int64 or, of many rows, int32.
    """
    n = len(predicted.labels)
    if predicted.groups is not None:
        unit = predicted.groups.unique(return_inverse=True)[1]
    elif n > MAX_UNITS and not predicted.counts:
        unit = torch.randperm(n, generator=torch.Generator().manual_seed(0), dtype=torch.int32).remainder_(MAX_UNITS)
    else:
        unit = torch.arange(n)
    return int(unit.max()) + 1, unit


def draws(predicted: Predicted, units: int, seed: int) -> Iterator[Tensor]:
    """Multiplicity of each unit of `units_of` in each sample, at most ``RESAMPLES`` in all.

    Rows whose counts are too large for `Predicted.repeated` are drawn a Poisson number of times, with the count as
    mean (Poisson bootstrap).

    Yields:
        Some samples at a time, shape (B, units), float64.
    """
    generator = torch.Generator().manual_seed(seed)
    is_poisson, weight = predicted.counts and predicted.groups is None, predicted.weight
    samples = max(100, min(RESAMPLES, MAX_POISSON_DRAWS // units)) if is_poisson else RESAMPLES
    for size in torch.arange(samples).split(max(1, DRAWS_AT_ONCE // units)):
        if is_poisson:
            yield torch.poisson(weight.expand(len(size), -1), generator) / weight.clamp(min=1)
            continue
        drawn = torch.randint(units, (len(size), units), generator=generator)
        drawn += units * torch.arange(len(size)).unsqueeze(1)
        yield torch.bincount(drawn.flatten(), minlength=drawn.numel()).view_as(drawn).double()


def interval(value: float, sampled: Tensor) -> Measured:
    """A score with percentiles of its bootstrap samples; samples without a value are left out."""
    there = sampled[~sampled.isnan()]
    if not len(there):
        return Measured(value, math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(there, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Measured(value, low, high)


def _ranked(predicted: Predicted) -> dict[str, Measured]:
    """AUROC and average precision; empty where a class is missing."""
    weight = predicted.sample_weight
    there = predicted.labels if weight is None else predicted.labels[weight > 0]
    if not 0 < int(there.sum()) < len(there):
        return {}
    ranking = predicted.ranking
    steps = ranking.steps(predicted.labels, weight)
    by_weight = {"auroc": steps.auroc_derivatives(), "average_precision": steps.average_precision_derivatives()}
    if predicted.groups is None:
        # Two equal rows add two equal squares, and so does a row of count 2.
        sampled = None if predicted.counts else weight
        is_sampled = sampled is not None
        squares = steps if sampled is None else ranking.steps(predicted.labels, sampled.square())
        totals = [(float(total.sum()), float(square.sum())) for total, square in zip(steps, squares, strict=True)]
        positive, negative = (total**2 / square if is_sampled else total for total, square in totals)
        products = {name: _products_of_rows(squares, each) for name, each in by_weight.items()}
    else:
        group = predicted.groups.unique(return_inverse=True)[1]
        sums = torch.zeros(2, int(group.max()) + 1, dtype=torch.float64)
        sums.index_put_((predicted.labels, group), predicted.weight, accumulate=True)
        negative, positive = (effective_rows(each, counts=False) for each in sums)
        products = {name: _products_of_groups(predicted, group, ranking, each) for name, each in by_weight.items()}
    scores = {
        "auroc": (steps.auroc, min(negative, positive)),
        "average_precision": (steps.average_precision, positive),
    }
    return {
        name: ranked_interval(value, _ranked_variance(products[name], negative, positive), rows)
        for name, (value, rows) in scores.items()
    }


def _products_of_rows(squares: Steps, derivatives: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The sums of the products of the derivatives of a score by rows of class 0 and of class 1, shape (2, 2).

    Args:
        squares: The squared weights of the rows, or counts.
        derivatives: Derivatives by the weight of a row of class 1 and of class 0 in each group of ties.
    """
    products, first = torch.zeros(2, 2, dtype=torch.float64), 0
    for by_hit, by_alarm in derivatives:
        mine = slice(first, first := first + len(by_hit))
        products[0, 0] += squares.alarms[mine].double() @ by_alarm.square()
        products[1, 1] += squares.hits[mine].double() @ by_hit.square()
    return products


def _products_of_groups(
    predicted: Predicted, group: Tensor, ranking: Ranking, derivatives: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """`_products_of_rows`, where the rows of a group, shape (N,), are added up first."""
    sums = torch.zeros(2, int(group.max()) + 1, dtype=torch.float64)
    weight, sizes, first, tie = predicted.weight, ranking.sizes, 0, 0
    for by_hit, by_alarm in derivatives:
        times = sizes[tie : (tie := tie + len(by_hit))]
        rows = ranking.order[first : (first := first + int(times.sum()))]
        label = predicted.labels[rows]
        by_row = torch.where(label == 1, by_hit.repeat_interleave(times), by_alarm.repeat_interleave(times))
        sums.index_put_((label, group[rows]), by_row * weight[rows], accumulate=True)
    return sums @ sums.T


def _ranked_variance(products: Tensor, negative: float, positive: float) -> float:
    """The variance of a score of a ranking, by the infinitesimal jackknife.

    Of the AUROC it is that of DeLong, DeLong and Clarke-Pearson (1988), and with groups that of Obuchowski (1997),
    Nonparametric analysis of clustered ROC curve data.

    Args:
        products: The sums of the products of the derivatives of the score by rows, or groups, of class 0 and 1, (2, 2).
        negative: The effective number of rows, or groups, of class 0.
        positive: That of class 1.
    """
    if min(negative, positive) <= 1:
        return math.inf
    # The squares are those of deviations from estimated means: n / (n - 1), as in every sample variance.
    of_negative, of_positive, of_both = (n / (n - 1) for n in (negative, positive, negative + positive))
    return float(of_negative * products[0, 0] + of_positive * products[1, 1] + 2 * of_both * products[0, 1])


def ranked_interval(value: float, variance: float, rows: float) -> Measured:
    """AUROC or average precision with its interval: symmetric on the scale of the logit, and so within [0, 1].

    A perfect ranking, or a class with a single row, shows no variance.  The interval is then Wilson's for a fraction of
    ``rows``: the variance of an AUROC A is at most A (1 - A) / ``rows``, whatever the distributions.

    Args:
        value: The score, in [0, 1].
        variance: Its variance; infinite where unknown.
        rows: The effective number of rows of the smaller class, or of class 1 for average precision.

    References:
        Pepe (2003), The Statistical Evaluation of Medical Tests for Classification and Prediction, section 5.2.
        Boyd, Eng and Page (2013), Area under the precision-recall curve: point estimates and confidence intervals.
        Birnbaum and Klose (1957), Bounds for the variance of the Mann-Whitney statistic.
    """
    if min(value, 1 - value) < ROUNDING or not math.isfinite(variance):
        return wilson(value, rows)
    ends = torch.tensor([-Z, Z], dtype=torch.float64) * (math.sqrt(variance) / (value * (1 - value)))
    return Measured(value, *(ends + math.log(value / (1 - value))).sigmoid().tolist())


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


def _threshold(predicted: Predicted, chosen: tuple[float, str] | None, cost_ratio: float) -> Threshold:
    value, split = chosen or (best_threshold(predicted, cost_ratio), "these rows")
    return Threshold(cost_ratio, value, split, *(_cost(predicted, at, cost_ratio) for at in (value, 0.5)))


def _cost(predicted: Predicted, threshold: float, cost_ratio: float) -> float:
    cost = total = 0.0
    for _, part in predicted.parts():
        yes, weight = decided(part.probabilities, threshold) == 1, part.weight
        alarm, miss = yes & (part.labels == 0), ~yes & (part.labels == 1)
        cost += float(weight @ (alarm.double() + cost_ratio * miss.double()))
        total += float(weight.sum())
    return cost / total
