"""AUROC and average precision of rows of two classes, with intervals in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from logreg.evaluation.intervals import Z, wilson
from logreg.evaluation.measured import Measured
from logreg.evaluation.predicted import Predicted, effective_rows
from logreg.evaluation.ranking import Ranking, Steps

ROUNDING = 1e-12
"""Distance from 1 below which the AUROC of weighted rows may be 1 but for the rounding of sums."""


def ranking_scores(predicted: Predicted) -> dict[str, Measured]:
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
