"""What a model's probabilities are worth on rows of known class: every score with its uncertainty, and a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.evaluation.measured import ClassScores, Measured, RowWeights, Threshold
from logreg.evaluation.ranking import Ranked, Ranking
from logreg.losses import decided

CONFIDENCE = 0.95
"""Of every interval."""

Z = 1.959963984540054
"""Standard deviations of a normal distribution on both sides of its mean that hold so much of it."""

RESAMPLES = 1000
"""Bootstrap samples."""

UNITS = 10_000
"""More rows than that are dealt at random to so many units, and the units drawn: as good, and quicker."""

SPELLED_OUT = 2 * 10**7
"""Rows times classes at most, of a table in which rows are repeated."""

DRAWN = 2 * 10**7
"""Rows times samples at most, where each row is drawn for itself."""

ORDERED = 10**8
"""Rows times samples at most, where each sample must be walked through in the order of the scores."""

BINS = 15
"""Of equal width, for the expected calibration error."""

TOP = 5
"""Classes among which the right one is looked for, where there are more than that."""

TINY = torch.finfo(torch.float64).tiny
"""Least probability that a logarithm is taken of."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of one split.

    Attributes:
        rows: N.
        metrics: By name: log_loss, accuracy, balanced_accuracy, top_5_accuracy (more than 5 classes), brier, ece
            (of the most probable class); for two classes ece_positive (of the second one), and where both are there
            auroc and average_precision.
        baseline: The same of a model that knows nothing but how frequent each class is in train.
        classes: One for each class.
        confusion: Weight of the rows of class i that were taken for class j, shape (C, C).
        threshold: Two classes only.
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
    """Rows of known class and what a model says of them.

    Attributes:
        probabilities: Shape (N, C), float64, on the CPU; rows sum to 1.
        labels: Shape (N,), int64, in [0, C).
        sample_weight: Shape (N,), float64, >= 0; ``None`` weighs all rows 1.
        groups: Shape (N,), int64: rows of one group are drawn together; ``None``: each for itself.
        counts: Whether these weights are numbers of rows: one of weight 2 is two rows that are alike.  Else they say
            how much of the population a row stands for, and a row is one row whatever its weight.
        log_odds: Of two classes, what rows are ranked by, shape (N,); made of the probabilities when ``None``.
    """

    probabilities: Tensor
    labels: Tensor
    sample_weight: Tensor | None = None
    groups: Tensor | None = None
    log_odds: Tensor | None = None
    counts: bool = False

    @property
    def weight(self) -> Tensor:
        """Of each row, shape (N,), float64."""
        if self.sample_weight is None:
            return torch.ones(len(self.labels), dtype=torch.float64)
        return self.sample_weight

    def spelled_out(self) -> Predicted:
        """The same rows without weights, where these are counts: each row as often as it counts.

        Where they would be too many, the weights stay.
        """
        if not self.counts or float(self.weight.sum()) * self.probabilities.shape[1] > SPELLED_OUT:
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
        """The class that each row is taken for, shape (N,)."""
        return decided(self.probabilities)

    @property
    def scores(self) -> Tensor:
        """What rows of two classes are ranked by, shape (N,)."""
        if self.log_odds is not None:
            return self.log_odds
        return self.probabilities.clamp(min=TINY).log().diff(dim=1)[:, 0]

    @property
    def losses(self) -> Tensor:
        """-log of the probability of the right class, in nats, shape (N,)."""
        right = self.probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        return -right.clamp(min=TINY).log()


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
        predicted: Its rows; at least one of them weighs something.
        class_names: C of them; of two the second is the positive one.
        base_rates: Part of each class in train, shape (C,).
        threshold: As `best_threshold` has it, and the split that it is from; ``None`` to choose it here.
        cost_ratio: A miss costs so many false alarms.
        seed: Of the bootstrap.

    Returns:
        Intervals are percentiles of ``RESAMPLES`` bootstrap samples; that of the accuracy is Wilson's, and those of
        the calibration errors, which resampling only makes larger, are reflected at their values.

        Weights that are counts of rows give the intervals of the table in which rows are repeated.  Other weights are
        sampling weights: the bootstrap draws rows and keeps the weight of each, and Wilson's interval is that of as
        many equal rows as would be as sure (Kish's effective sample size).

    References:
        Kish (1965), Survey Sampling.
    """
    rows, of_weights = len(predicted.labels), _weights(predicted)
    predicted = predicted.spelled_out()
    sums = _Sums(predicted, len(class_names))
    drawn = draws(predicted, sums.units, seed)
    value, sampled = sums.scores(torch.ones(1, sums.units, dtype=torch.float64)), sums.scores(drawn)
    metrics = {name: interval(float(value[name][0]), sampled[name]) for name in value if name in NAMES}
    metrics["accuracy"] = wilson(metrics["accuracy"].value, rows_worth(predicted.weight, predicted.counts))
    for name in ("ece", "ece_positive"):
        if name in metrics:
            value_of, low, high = metrics[name]
            metrics[name] = Measured(value_of, max(0.0, 2 * value_of - high), max(value_of, 2 * value_of - low))
    if sums.classes == 2:
        metrics |= _ranked(predicted, sums, drawn)
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
    f"top_{TOP}_accuracy",
    "auroc",
    "average_precision",
    "brier",
    "ece",
    "ece_positive",
)
"""The metrics in reading order."""

OF_CLASSES = ("precision", "recall", "f1")


def are_counts(weight: Tensor) -> bool:
    """Whether weights are numbers of rows: all of them whole, and not all of them 1."""
    return bool((weight == weight.round()).all()) and bool((weight != 1).any())


def rows_worth(weight: Tensor, counts: bool) -> float:
    """How many rows of equal weight say as much as these: of counts the sum, else Kish's effective sample size."""
    total = float(weight.sum())
    return total if counts or not total else total**2 / float(weight.square().sum())


def _weights(predicted: Predicted) -> RowWeights | None:
    if predicted.sample_weight is None:
        return None
    return RowWeights(predicted.counts, rows_worth(predicted.weight, predicted.counts))


def wilson(accuracy: float, rows: float) -> Measured:
    """The accuracy of so many rows with its interval.

    Source:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not rows:
        return Measured(accuracy, 0.0, 1.0)
    middle = (accuracy + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(accuracy * (1 - accuracy) / rows + Z * Z / (4 * rows * rows))
    low, high = 0.0 if accuracy == 0 else middle - half, 1.0 if accuracy == 1 else middle + half
    return Measured(accuracy, max(0.0, low), min(1.0, high))


def best_threshold(predicted: Predicted, cost_ratio: float) -> float:
    """The least probability of the positive class at which saying yes costs least on these rows.

    Args:
        predicted: Of two classes.
        cost_ratio: A miss costs so many false alarms.

    Returns:
        In [0, 1], halfway between two probabilities that occur; of equal ones that nearest to where it
        would be if the probabilities were true, 1 / (1 + cost_ratio).
    """
    positive, order = predicted.probabilities[:, 1].sort()
    labels, weight = predicted.labels[order], predicted.weight[order]
    misses = torch.cat([torch.zeros(1, dtype=torch.float64), (weight * (labels == 1)).cumsum(0)])
    alarms = (weight * (labels == 0)).sum() - torch.cat(
        [torch.zeros(1, dtype=torch.float64), (weight * (labels == 0)).cumsum(0)]
    )
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), positive, torch.ones(1, dtype=torch.float64)])
    places = (edges[:-1] + edges[1:]) / 2  # below place i lie i rows
    cost = torch.where(edges[:-1] < edges[1:], cost_ratio * misses + alarms, math.inf)
    ideal = 1 / (1 + cost_ratio)
    # Between the neighbors of a place everything costs the same: as near to the ideal as that allows.
    inside = torch.minimum(torch.maximum(torch.tensor(ideal, dtype=torch.float64), edges[:-1]), edges[1:])
    places = torch.where((inside > edges[:-1]) & (inside < edges[1:]), inside, places)
    least = cost <= cost.min() * (1 + 1e-12)
    return float(places[(places - ideal).abs().masked_fill(~least, math.inf).argmin()])


class _Sums:
    """What a split's scores are made of, added up within the units that the bootstrap draws."""

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
            brier = brier / 2  # of two classes by habit that of the positive one alone
        rows = [torch.ones_like(weight), predicted.losses, hit, brier]
        if classes > TOP:
            # a class is among the first few if few are more probable; ties go to the first, as in the decision
            ahead = (probabilities > right.unsqueeze(1)).sum(1)
            ahead += ((probabilities == right.unsqueeze(1)) & (torch.arange(classes) < predicted.labels[:, None])).sum(
                1
            )
            rows.append((ahead < TOP).double())
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
        if self.classes > TOP:
            scores[f"top_{TOP}_accuracy"] = means[:, 4] / total[:, 0]
        return scores


def units_of(predicted: Predicted) -> tuple[int, Tensor]:
    """What the bootstrap draws: groups where rows have some, else rows, or random bundles of them where they are many.

    Returns:
        How many; and that of each row, shape (N,).
    """
    n = len(predicted.labels)
    if predicted.groups is not None:
        unit = predicted.groups.unique(return_inverse=True)[1]
    elif n > UNITS and not predicted.counts:
        unit = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % UNITS
    else:
        unit = torch.arange(n)
    return int(unit.max()) + 1, unit


def draws(predicted: Predicted, units: int, seed: int) -> Tensor:
    """How often each unit of `units_of` is in each sample, shape (B, units), float64; B is ``RESAMPLES`` or fewer.

    Of counts that were too many to be spelled out each row is drawn a Poisson number of times, of which its count is
    the mean: as if each of the rows that it stands for were drawn for itself (Poisson bootstrap).
    """
    generator = torch.Generator().manual_seed(seed)
    if predicted.counts and predicted.groups is None:
        samples, weight = max(100, min(RESAMPLES, DRAWN // units)), predicted.weight
        return torch.poisson(weight.expand(samples, -1), generator) / weight.clamp(min=1)
    drawn = torch.randint(units, (RESAMPLES, units), generator=generator)
    drawn += units * torch.arange(RESAMPLES).unsqueeze(1)
    return torch.bincount(drawn.flatten(), minlength=RESAMPLES * units).view(RESAMPLES, units).double()


def interval(value: float, sampled: Tensor) -> Measured:
    """Percentiles of what the samples gave, those left out that gave nothing."""
    there = sampled[~sampled.isnan()]
    if not len(there):
        return Measured(value, math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(there, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Measured(value, low, high)


def _ranked(predicted: Predicted, sums: _Sums, drawn: Tensor) -> dict[str, Measured]:
    """The scores that only the order of the rows decides, where both classes are there."""
    weight, n = predicted.weight, len(predicted.labels)
    there = predicted.labels[weight > 0]
    if not 0 < int(there.sum()) < len(there):
        return {}
    ranking = Ranking.of(predicted.scores)
    samples = max(100, min(RESAMPLES, ORDERED // n))
    unit, is_positive = sums.unit[ranking.order], predicted.labels[ranking.order] == 1
    of_row, ones = weight[ranking.order], torch.ones(1, sums.units, dtype=torch.float64)
    found = [
        ranking.scored(is_positive, counts[:, unit] * of_row)
        for counts in (ones, *drawn[:samples].split(max(1, 2**22 // n)))
    ]
    # the first sample is the rows themselves
    both = Ranked(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return {name: interval(float(each[0]), each[1:]) for name, each in both._asdict().items()}


def _baseline(predicted: Predicted, rates: Tensor) -> dict[str, float]:
    """The scores of one who gives every row the rates of train."""
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
