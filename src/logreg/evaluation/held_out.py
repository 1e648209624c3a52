"""Scores of predicted probabilities on rows of known class, each with a confidence interval and a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.evaluation.measured import ClassScores, Measured, RowWeights, Threshold
from logreg.evaluation.ranking import TIE_RTOL, Ranking
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

CLASS_SCORES_AT_ONCE = 2**22
"""Number of classes times bootstrap samples whose scores are computed at once; as float64 they take 32 MiB."""

GATHERED_RATIO = 16
"""Number of units times classes, per row, above which a sum over the rows of each class adds rows one by one: a matrix
product adds as many zeros in the time of one row."""

MAX_POISSON_DRAWS = 2 * 10**7
"""Largest number of rows times bootstrap samples in the Poisson bootstrap; bounds its time."""

DRAWS_AT_ONCE = 2**20
"""Number of units times bootstrap samples that are drawn at once; as float64 they take 8 MiB."""

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
    """The predicted class, (N,), int64."""
    confidence: Tensor
    """The largest probability, (N,), float64."""
    right: Tensor
    """The probability of the right class, (N,), float64."""
    squares: Tensor
    """The sum of the squared probabilities, (N,), float64."""
    ahead: Tensor
    """The number of classes before the right one in the order of the probabilities, (N,), int64; where they are equal,
    the first class comes first, as in the decision."""

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor) -> RowSummary:
        """The numbers of rows with these probabilities (N, C) and classes (N,)."""
        own = labels.unsqueeze(1)
        right = probabilities.gather(1, own)
        ahead = (probabilities > right).sum(1)
        first = torch.arange(probabilities.shape[1], device=labels.device) < own
        ahead += ((probabilities == right) & first).sum(1)
        return cls(
            decided(probabilities),
            probabilities.max(1).values,
            right[:, 0],
            torch.linalg.vector_norm(probabilities, dim=1).square(),
            ahead,
        )

    @classmethod
    def empty(cls, rows: int) -> RowSummary:
        """Room for the numbers of so many rows, to be filled block by block."""
        whole, real = (torch.empty(rows, dtype=dtype) for dtype in (torch.int64, torch.float64))
        return cls(whole, real, torch.empty_like(real), torch.empty_like(real), torch.empty_like(whole))


@dataclass(frozen=True)
class Predicted:
    """Rows of known class and the probabilities that a model predicts for them.

    Attributes:
        kept: The probabilities, shape (N, C), float64, on the CPU; rows sum to 1.  ``None`` for more classes than
            `MAX_KEPT_CLASSES`, with ``summary`` in their place.
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

    @property
    def losses(self) -> Tensor:
        """-log of the probability of the right class, in nats, shape (N,)."""
        return -self.rows.right.clamp(min=MIN_PROBABILITY).log()


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
        cost_ratio: Cost of a missed positive row, in false alarms.
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
    sums = _Sums(predicted, len(class_names))
    scores, classes = _sampled(predicted, sums, class_names, seed)
    metrics = {name: interval(float(both[0]), both[1:]) for name, both in scores.items()}
    metrics["accuracy"] = wilson(metrics["accuracy"].value, effective_rows(predicted.weight, predicted.counts))
    for name in ("ece", "ece_positive"):
        if name in metrics:
            value_of, low, high = metrics[name]
            metrics[name] = Measured(value_of, max(0.0, 2 * value_of - high), max(value_of, 2 * value_of - low))
    if sums.classes == 2:
        metrics |= _ranked(predicted)
    baseline = _baseline(predicted, torch.tensor(base_rates, dtype=torch.float64))
    return Evaluation(
        rows=rows,
        metrics={name: metrics[name] for name in NAMES if name in metrics},
        baseline={name: baseline[name] for name in NAMES if name in metrics},
        classes=tuple(classes),
        confusion=_confusion(predicted, len(class_names)),
        threshold=_threshold(predicted, threshold, cost_ratio) if sums.classes == 2 else None,
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
    return RowWeights(predicted.counts, effective_rows(predicted.weight, predicted.counts))


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
        cost_ratio: Cost of a missed positive row, in false alarms.

    Returns:
        In [0, 1], halfway between two probabilities that occur.  Of several thresholds with the lowest cost, the
        nearest to 1 / (1 + cost_ratio), which is the best threshold of calibrated probabilities.
    """
    positive, order = predicted.positive.sort()
    labels, weight = predicted.labels[order], predicted.weight[order]
    misses = torch.cat([torch.zeros(1, dtype=torch.float64), (weight * (labels == 1)).cumsum(0)])
    alarms = (weight * (labels == 0)).sum() - torch.cat(
        [torch.zeros(1, dtype=torch.float64), (weight * (labels == 0)).cumsum(0)]
    )
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), positive, torch.ones(1, dtype=torch.float64)])
    places = (edges[:-1] + edges[1:]) / 2  # i rows lie below threshold i
    # Rounding parts rows of equal logits, and no threshold does.
    apart = edges[1:] - edges[:-1] > TIE_RTOL * edges[1:]
    cost = torch.where(apart, cost_ratio * misses + alarms, math.inf)
    ideal = 1 / (1 + cost_ratio)
    # The cost is constant between two neighboring probabilities: take the point nearest to the ideal.
    inside = torch.minimum(torch.maximum(torch.tensor(ideal, dtype=torch.float64), edges[:-1]), edges[1:])
    places = torch.where((inside > edges[:-1]) & (inside < edges[1:]), inside, places)
    least = cost <= cost.min() * (1 + 1e-12)
    return float(places[(places - ideal).abs().masked_fill(~least, math.inf).argmin()])


class _Sums:
    """The sums that the scores of a split are computed from, one for each unit that the bootstrap draws."""

    def __init__(self, predicted: Predicted, classes: int) -> None:
        self.units, self.unit = units_of(predicted)
        self.classes, self.labels, self.weight = classes, predicted.labels, predicted.weight
        self.decided, confidence, right, squares, ahead = predicted.rows
        self.hit = (self.decided == self.labels).double()
        brier = squares - 2 * right + 1
        if classes == 2:
            brier = brier / 2  # by convention, the score of two classes is that of the positive one alone
        columns = [torch.ones_like(self.weight), predicted.losses, self.hit, brier, (ahead < TOP_K).double()]
        self.means = torch.zeros(self.units, len(columns), dtype=torch.float64)
        self.means.index_add_(0, self.unit, torch.stack(columns, 1) * self.weight[:, None])
        self.off = self._binned(confidence, self.hit)
        if classes == 2:
            self.off_positive = self._binned(predicted.positive, (self.labels == 1).double())

    def _binned(self, probability: Tensor, happened: Tensor) -> Tensor:
        """The weighted sum of the errors of a probability in each bin, (units, BINS)."""
        bins = (probability * BINS).long().clamp(max=BINS - 1)
        sums = torch.zeros(self.units, BINS, dtype=torch.float64)
        return sums.index_put_((self.unit, bins), self.weight * (probability - happened), accumulate=True)

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
        actual = self._per_class(counts, part, self.labels, self.weight)
        taken = self._per_class(counts, part, self.decided, self.weight)
        both = self._per_class(counts, part, self.labels, self.weight * self.hit)
        return {
            "precision": torch.where(taken > 0, both / taken, 0.0),
            "recall": torch.where(actual > 0, both / actual, math.nan),
            "f1": torch.where(actual + taken > 0, 2 * both / (actual + taken), 0.0),
        }

    def _per_class(self, counts: Tensor, part: range, chosen: Tensor, weight: Tensor) -> Tensor:
        """The weight of the rows for which each class is chosen, in samples: (B, len(part))."""
        mine = ((chosen >= part.start) & (chosen < part.stop)).nonzero()[:, 0]
        place, unit, weight = chosen[mine] - part.start, self.unit[mine], weight[mine]
        if GATHERED_RATIO * len(mine) >= self.units * len(part):
            table = torch.zeros(self.units, len(part), dtype=torch.float64)
            return counts @ table.index_put_((unit, place), weight, accumulate=True)
        total, of_units = counts.new_zeros(len(part), len(counts)), counts.T.contiguous()
        for some in torch.arange(len(mine)).split(max(1, CLASS_SCORES_AT_ONCE // len(counts))):
            total.index_add_(0, place[some], of_units[unit[some]] * weight[some, None])
        return total.T


def _sampled(
    predicted: Predicted, sums: _Sums, class_names: Sequence[str], seed: int
) -> tuple[dict[str, Tensor], list[ClassScores]]:
    """The scores of the rows themselves and of B bootstrap samples, (1 + B,) each, and those of the classes.

    Where classes are many, the same samples are drawn again for each part of them.
    """
    ones, classes = torch.ones(1, sums.units, dtype=torch.float64), len(class_names)
    weights, at_once = torch.bincount(sums.labels, sums.weight, classes).tolist(), CLASS_SCORES_AT_ONCE // RESAMPLES
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
        The number of units; the unit of each row, shape (N,).
    """
    n = len(predicted.labels)
    if predicted.groups is not None:
        unit = predicted.groups.unique(return_inverse=True)[1]
    elif n > MAX_UNITS and not predicted.counts:
        unit = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % MAX_UNITS
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
    there = predicted.labels[predicted.weight > 0]
    if not 0 < int(there.sum()) < len(there):
        return {}
    ranking = Ranking.of(predicted.scores)
    steps, group = ranking.steps(predicted.labels, predicted.sample_weight), ranking.group
    negative, positive = _class_rows(predicted)
    scores = {
        "auroc": (steps.auroc, steps.auroc_derivatives(), min(negative, positive)),
        "average_precision": (steps.average_precision, steps.average_precision_derivatives(), positive),
    }
    return {
        name: ranked_interval(value, _ranked_variance(predicted, group, by_row, (negative, positive)), rows)
        for name, (value, by_row, rows) in scores.items()
    }


def _class_rows(predicted: Predicted) -> tuple[float, float]:
    """The effective number of rows, or of groups, that have rows of class 0 and of class 1."""
    counts = predicted.counts and predicted.groups is None
    parts = [_unit_sums(predicted, predicted.weight * (predicted.labels == label)) for label in (0, 1)]
    return effective_rows(parts[0], counts), effective_rows(parts[1], counts)


def _unit_sums(predicted: Predicted, values: Tensor) -> Tensor:
    """The sum of the rows' values (N,) in each group; the values themselves where there are no groups."""
    if predicted.groups is None:
        return values
    return torch.bincount(predicted.groups.unique(return_inverse=True)[1], values)


def _ranked_variance(
    predicted: Predicted, group: Tensor, by_row: tuple[Tensor, Tensor], rows: tuple[float, float]
) -> float:
    """The variance of a score of a ranking, by the infinitesimal jackknife.

    Of the AUROC it is that of DeLong, DeLong and Clarke-Pearson (1988), and with groups that of Obuchowski (1997),
    Nonparametric analysis of clustered ROC curve data.

    Args:
        predicted: The rows.
        group: Group of ties of each row, shape (N,).
        by_row: Derivatives of the score by the weight of a row of class 1 and of class 0 in each group of ties.
        rows: The effective number of rows of class 0 and of class 1.
    """
    if min(rows) <= 1:
        return math.inf
    positive, weight = predicted.labels == 1, predicted.weight
    if predicted.counts and predicted.groups is None:
        weight = weight.sqrt()  # a row of weight 2 adds two equal squares
    of_class = [
        _unit_sums(predicted, torch.where(is_mine, derivative[group] * weight, 0.0))
        for is_mine, derivative in zip((~positive, positive), reversed(by_row), strict=True)
    ]
    # The squares are those of deviations from estimated means: n / (n - 1), as in every sample variance.
    (of_negative, of_positive), factors = of_class, [n / (n - 1) for n in (*rows, sum(rows))]
    squares = factors[0] * of_negative @ of_negative + factors[1] * of_positive @ of_positive
    return float(squares + 2 * factors[2] * of_negative @ of_positive)


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


def _baseline(predicted: Predicted, rates: Tensor) -> dict[str, float]:
    """The scores of a model that predicts the class rates of train for every row."""
    labels, rows = predicted.labels, len(predicted.labels)
    order = torch.empty_like(rates, dtype=torch.int64)
    order[rates.argsort(descending=True, stable=True)] = torch.arange(len(rates))
    one = RowSummary.of(rates.unsqueeze(0), torch.zeros(1, dtype=torch.int64))
    same = [part.expand(rows) for part in (one.decided, one.confidence, one.squares)]
    summary = RowSummary(same[0], same[1], rates[labels], same[2], order[labels])
    kept = rates.expand(rows, -1) if len(rates) == 2 else None
    sums = _Sums(Predicted(kept, labels, predicted.sample_weight, summary=summary), len(rates))
    ones = torch.ones(1, sums.units, dtype=torch.float64)
    scores = sums.scores(ones)
    scores["balanced_accuracy"] = sums.of_classes(ones, range(len(rates)))["recall"].nanmean(1)
    found = {name: float(scores[name][0]) for name in NAMES if name in scores}
    if len(rates) == 2:
        weight = predicted.weight
        found |= {"auroc": 0.5, "average_precision": float(weight @ (labels == 1).double() / weight.sum())}
    return found


def _confusion(predicted: Predicted, classes: int) -> Tensor:
    cells = torch.stack([predicted.labels, predicted.decided])
    return torch.sparse_coo_tensor(cells, predicted.weight, (classes, classes), check_invariants=True).coalesce()


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
    yes, weight = decided(predicted.probabilities, threshold) == 1, predicted.weight
    alarm, miss = yes & (predicted.labels == 0), ~yes & (predicted.labels == 1)
    return float(weight @ (alarm.double() + cost_ratio * miss.double()) / weight.sum())
