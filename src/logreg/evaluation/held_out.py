"""Scores of predicted probabilities on rows of known class, each with a confidence interval and a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.evaluation.measured import ClassScores, Measured, RowWeights, Threshold
from logreg.evaluation.ranking import Ranking
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
        confusion: Weight of the rows of class i that are predicted as class j, shape (C, C).
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


@dataclass(frozen=True)
class Predicted:
    """Rows of known class and the probabilities that a model predicts for them.

    Attributes:
        probabilities: Shape (N, C), float64, on the CPU; rows sum to 1.
        labels: Shape (N,), int64, in [0, C).
        sample_weight: Shape (N,), float64, >= 0; ``None`` weighs all rows 1.
        groups: Group of each row, shape (N,), int64; the bootstrap draws the rows of a group together.  ``None``: the
            bootstrap draws single rows.
        counts: Whether the weights are numbers of rows: a row of weight 2 is two equal rows.  Otherwise they are
            sampling weights, and a row of any weight is one row.
        log_odds: Score by which rows of two classes are ranked, shape (N,); ``None``: the score is computed from the
            probabilities.
    """

    probabilities: Tensor
    labels: Tensor
    sample_weight: Tensor | None = None
    groups: Tensor | None = None
    log_odds: Tensor | None = None
    counts: bool = False

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
        if not self.counts or float(self.weight.sum()) * self.probabilities.shape[1] > MAX_REPEATED_CELLS:
            return self
        times = self.weight.long()
        return Predicted(
            *(
                None if part is None else part.repeat_interleave(times, 0)  # type: ignore[arg-type]  # two are tensors
                for part in (self.probabilities, self.labels, None, self.groups, self.log_odds)
            )
        )

    @property
    def decided(self) -> Tensor:
        """The predicted class of each row, shape (N,)."""
        return decided(self.probabilities)

    @property
    def scores(self) -> Tensor:
        """The score that rows of two classes are ranked by, shape (N,)."""
        if self.log_odds is not None:
            return self.log_odds
        return self.probabilities.clamp(min=MIN_PROBABILITY).log().diff(dim=1)[:, 0]

    @property
    def losses(self) -> Tensor:
        """-log of the probability of the right class, in nats, shape (N,)."""
        right = self.probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        return -right.clamp(min=MIN_PROBABILITY).log()


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
    value = sums.scores(torch.ones(1, sums.units, dtype=torch.float64))
    parts = [sums.scores(drawn) for drawn in draws(predicted, sums.units, seed)]
    sampled = {name: torch.cat([part[name] for part in parts]) for name in value}
    metrics = {name: interval(float(value[name][0]), sampled[name]) for name in value if name in NAMES}
    metrics["accuracy"] = wilson(metrics["accuracy"].value, effective_rows(predicted.weight, predicted.counts))
    for name in ("ece", "ece_positive"):
        if name in metrics:
            value_of, low, high = metrics[name]
            metrics[name] = Measured(value_of, max(0.0, 2 * value_of - high), max(value_of, 2 * value_of - low))
    if sums.classes == 2:
        metrics |= _ranked(predicted)
    classes = tuple(
        ClassScores(
            name,
            float(sums.actual[:, number].sum()),
            *(interval(float(value[what][0, number]), sampled[what][:, number]) for what in OF_CLASSES),
        )
        for number, name in enumerate(class_names)
    )
    baseline = _baseline(predicted, torch.tensor(base_rates, dtype=torch.float64))
    return Evaluation(
        rows=rows,
        metrics={name: metrics[name] for name in NAMES if name in metrics},
        baseline={name: baseline[name] for name in NAMES if name in metrics},
        classes=classes,
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
    positive, order = predicted.probabilities[:, 1].sort()
    labels, weight = predicted.labels[order], predicted.weight[order]
    misses = torch.cat([torch.zeros(1, dtype=torch.float64), (weight * (labels == 1)).cumsum(0)])
    alarms = (weight * (labels == 0)).sum() - torch.cat(
        [torch.zeros(1, dtype=torch.float64), (weight * (labels == 0)).cumsum(0)]
    )
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), positive, torch.ones(1, dtype=torch.float64)])
    places = (edges[:-1] + edges[1:]) / 2  # i rows lie below threshold i
    cost = torch.where(edges[:-1] < edges[1:], cost_ratio * misses + alarms, math.inf)
    ideal = 1 / (1 + cost_ratio)
    # The cost is constant between two neighboring probabilities: take the point nearest to the ideal.
    inside = torch.minimum(torch.maximum(torch.tensor(ideal, dtype=torch.float64), edges[:-1]), edges[1:])
    places = torch.where((inside > edges[:-1]) & (inside < edges[1:]), inside, places)
    least = cost <= cost.min() * (1 + 1e-12)
    return float(places[(places - ideal).abs().masked_fill(~least, math.inf).argmin()])


class _Sums:
    """The sums that the scores of a split are computed from, one for each unit that the bootstrap draws."""

    def __init__(self, predicted: Predicted, classes: int) -> None:
        n, weight = len(predicted.labels), predicted.weight
        self.units, self.unit = units_of(predicted)
        self.classes = classes
        decided, probabilities = predicted.decided, predicted.probabilities
        confidence = probabilities.max(1).values
        hit = (decided == predicted.labels).double()
        right = probabilities.gather(1, predicted.labels.unsqueeze(1)).squeeze(1)
        brier = probabilities.square().sum(1) - 2 * right + 1
        if classes == 2:
            brier = brier / 2  # by convention, the score of two classes is that of the positive one alone
        rows = [torch.ones_like(weight), predicted.losses, hit, brier]
        if classes > TOP_K:
            # the rank of the true class; ties go to the first class, as in the decision
            ahead = (probabilities > right.unsqueeze(1)).sum(1)
            ahead += ((probabilities == right.unsqueeze(1)) & (torch.arange(classes) < predicted.labels[:, None])).sum(
                1
            )
            rows.append((ahead < TOP_K).double())
        self.means = self._added(torch.stack(rows, 1) * weight[:, None])
        column = torch.arange(n)

        def of_classes(chosen: Tensor, weights: Tensor) -> Tensor:
            table = torch.zeros(self.units, classes, dtype=torch.float64)
            return table.index_put_((self.unit[column], chosen), weights, accumulate=True)

        self.actual = of_classes(predicted.labels, weight)
        self.taken = of_classes(decided, weight)
        self.both = of_classes(predicted.labels, weight * hit)
        bin_ = (confidence * BINS).long().clamp(max=BINS - 1)
        calibration = torch.zeros(self.units, BINS, dtype=torch.float64)
        self.off = calibration.index_put_((self.unit, bin_), weight * (confidence - hit), accumulate=True)
        if classes == 2:
            positive, is_positive = probabilities[:, 1], (predicted.labels == 1).double()
            bin_ = (positive * BINS).long().clamp(max=BINS - 1)
            self.off_positive = torch.zeros_like(calibration).index_put_(
                (self.unit, bin_), weight * (positive - is_positive), accumulate=True
            )

    def _added(self, rows: Tensor) -> Tensor:
        return torch.zeros(self.units, rows.shape[1], dtype=torch.float64).index_add_(0, self.unit, rows)

    def scores(self, counts: Tensor) -> dict[str, Tensor]:
        """The scores of samples, (B, units) -> (B,) each, (B, C) those of classes."""
        means = counts @ self.means
        total = means[:, :1]
        actual, taken, both = counts @ self.actual, counts @ self.taken, counts @ self.both
        recall = torch.where(actual > 0, both / actual, math.nan)
        scores = {
            "log_loss": means[:, 1] / total[:, 0],
            "accuracy": means[:, 2] / total[:, 0],
            "brier": means[:, 3] / total[:, 0],
            "balanced_accuracy": recall.nanmean(1),
            "ece": (counts @ self.off).abs().sum(1) / total[:, 0],
            "precision": torch.where(taken > 0, both / taken, 0.0),
            "recall": recall,
            "f1": torch.where(actual + taken > 0, 2 * both / (actual + taken), 0.0),
        }
        if self.classes == 2:
            scores["ece_positive"] = (counts @ self.off_positive).abs().sum(1) / total[:, 0]
        if self.classes > TOP_K:
            scores[f"top_{TOP_K}_accuracy"] = means[:, 4] / total[:, 0]
        return scores


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
    same = Predicted(rates.expand(len(predicted.labels), -1), predicted.labels, predicted.sample_weight)
    sums = _Sums(same, len(rates))
    scores = sums.scores(torch.ones(1, sums.units, dtype=torch.float64))
    found = {name: float(scores[name][0]) for name in NAMES if name in scores}
    if len(rates) == 2:
        weight = predicted.weight
        found |= {"auroc": 0.5, "average_precision": float(weight @ (predicted.labels == 1).double() / weight.sum())}
    return found


def _confusion(predicted: Predicted, classes: int) -> Tensor:
    cells = predicted.labels * classes + predicted.decided
    return torch.bincount(cells, predicted.weight, classes * classes).view(classes, classes)


def _threshold(predicted: Predicted, chosen: tuple[float, str] | None, cost_ratio: float) -> Threshold:
    value, split = chosen or (best_threshold(predicted, cost_ratio), "these rows")
    return Threshold(cost_ratio, value, split, *(_cost(predicted, at, cost_ratio) for at in (value, 0.5)))


def _cost(predicted: Predicted, threshold: float, cost_ratio: float) -> float:
    yes, weight = decided(predicted.probabilities, threshold) == 1, predicted.weight
    alarm, miss = yes & (predicted.labels == 0), ~yes & (predicted.labels == 1)
    return float(weight @ (alarm.double() + cost_ratio * miss.double()) / weight.sum())
