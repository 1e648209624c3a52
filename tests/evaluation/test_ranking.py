"""AUROC and average precision with their variances: against all pairs of rows, and against scikit-learn."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from logreg.evaluation.held_out import evaluate
from logreg.evaluation.intervals import Z, wilson
from logreg.evaluation.measured import Measured
from logreg.evaluation.predicted import Predicted
from logreg.evaluation.ranking import Ranking, Steps
from logreg.evaluation.ranking_scores import ranked_interval


def made(
    rows: int, seed: int = 0, levels: int = 0, difference: float = 1.0, rate: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Normal scores, whose mean differs between the classes, and labels; with ties where there are ``levels``."""
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=draw) < rate).long()
    scores = torch.randn(rows, generator=draw, dtype=torch.float64) + difference * labels
    return ((scores * levels).round() / levels if levels else scores), labels


def weights(rows: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 3


def steps_of(scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Steps:
    return Ranking.of(scores).steps(labels, weight)


def intervals(
    scores: Tensor, labels: Tensor, weight: Tensor | None = None, groups: Tensor | None = None, counts: bool = False
) -> dict[str, Measured]:
    positive = scores.sigmoid()
    predicted = Predicted(torch.stack([1 - positive, positive], 1), labels, weight, groups, scores, counts)
    found = evaluate(predicted, ["a", "b"], [0.5, 0.5]).metrics
    return {name: found[name] for name in ("auroc", "average_precision")}


def logit_width(measured: Measured) -> float:
    """The standard error on the scale of the score that an interval has on the scale of the logit."""
    value, low, high = measured
    width = math.log(high / (1 - high)) - math.log(low / (1 - low))
    return width / (2 * Z) * value * (1 - value)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [0, 2])
def test_auroc_and_average_precision_are_those_of_scikit_learn(levels: int, weighted: bool) -> None:
    scores, labels = made(500, levels=levels)
    weight = weights(500) if weighted else None
    found = steps_of(scores, labels, weight)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weight), rel=1e-12)
    assert found.average_precision == pytest.approx(
        average_precision_score(labels, scores, sample_weight=weight), rel=1e-12
    )


@pytest.mark.parametrize("levels", [0, 2])
def test_the_variance_of_the_auroc_is_that_of_delong_over_all_pairs(levels: int) -> None:
    scores, labels = made(80, levels=levels)
    positive, negative = scores[labels == 1], scores[labels == 0]
    difference = positive[:, None] - negative
    pairs = (difference > 0).double() + (difference == 0).double() / 2
    components = pairs.mean(1), pairs.mean(0)
    variance = sum(float(each.var()) / len(each) for each in components)
    found = intervals(scores, labels)["auroc"]
    assert found.value == pytest.approx(float(pairs.mean()), rel=1e-13)
    assert logit_width(found) == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_the_variance_of_grouped_rows_is_that_of_obuchowski_over_all_pairs() -> None:
    scores, labels = made(120)
    groups = torch.arange(120) % 30
    scores += torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[groups]
    labels[:60] = torch.arange(60) % 2  # as many rows of each class in each group: no unequal groups to weigh
    labels[60:] = (torch.arange(60) + 1) % 2
    is_positive = labels == 1
    pairs = (scores[is_positive][:, None] > scores[~is_positive]).double()
    auroc, (rows, others) = float(pairs.mean()), pairs.shape
    of_group = torch.zeros(2, 30, dtype=torch.float64)
    of_group[0].index_add_(0, groups[is_positive], pairs.mean(1) - auroc)
    of_group[1].index_add_(0, groups[~is_positive], pairs.mean(0) - auroc)
    x, y = of_group[0] / rows, of_group[1] / others
    sizes = torch.stack([torch.bincount(groups[is_positive]), torch.bincount(groups[~is_positive])]).double()
    assert (sizes == 2).all()
    variance = 30 / 29 * float(x @ x + y @ y) + 2 * 60 / 59 * float(x @ y)
    assert logit_width(intervals(scores, labels, groups=groups)["auroc"]) == pytest.approx(
        math.sqrt(variance), rel=1e-9
    )


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_the_derivatives_are_those_of_finite_differences(name: str, levels: int) -> None:
    scores, labels = made(60, levels=levels)
    weight, small = weights(60), 1e-6
    found, group = steps_of(scores, labels, weight), Ranking.of(scores).group
    of_positive, of_negative = map(torch.cat, zip(*getattr(found, f"{name}_derivatives")(), strict=True))
    derivatives = torch.where(labels == 1, of_positive[group], of_negative[group])
    for row in range(60):
        moved = [
            steps_of(scores, labels, weight.index_add(0, torch.tensor([row]), torch.tensor([step]).double()))
            for step in (-small, small)
        ]
        expected = (getattr(moved[1], name) - getattr(moved[0], name)) / (2 * small)
        assert float(derivatives[row]) == pytest.approx(expected, abs=1e-8)
    assert float(derivatives @ weight) == pytest.approx(0, abs=1e-13)  # twice all weights is the same score


def test_counts_and_repeated_rows_have_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = made(90, levels=3)
    times = torch.arange(90) % 4
    repeated = intervals(scores.repeat_interleave(times), labels.repeat_interleave(times))
    monkeypatch.setattr("logreg.evaluation.predicted.MAX_REPEATED_CELLS", 0)
    counted = intervals(scores, labels, times.double(), counts=True)
    for name, measured in repeated.items():
        assert counted[name] == pytest.approx(measured, rel=1e-12), name


def test_a_row_of_each_group_has_the_interval_of_single_rows() -> None:
    scores, labels = made(100)
    alone, grouped = intervals(scores, labels), intervals(scores, labels, groups=torch.arange(100).flip(0) + 7)
    for name, measured in alone.items():
        assert grouped[name] == pytest.approx(measured, rel=1e-12), name


def test_a_perfect_ranking_and_a_single_row_have_wilsons_interval() -> None:
    scores = torch.arange(12, dtype=torch.float64)
    perfect = intervals(scores, (scores > 8).long(), weights(12))
    for measured in perfect.values():
        assert measured.value == measured.high == 1
        assert 0.2 < measured.low < 0.5  # three rows of class 1 of unequal weight; of equal weight 0.44
    assert intervals(scores, (scores < 5).long())["auroc"] == pytest.approx(wilson(0, 5))
    alone = intervals(scores, (scores == 6).long())
    assert alone["auroc"] == pytest.approx(wilson(6 / 11, 1))
    assert alone["average_precision"] == pytest.approx(wilson(1 / 6, 1))


def test_scores_that_are_all_equal_are_known_to_rank_nothing() -> None:
    assert intervals(torch.zeros(50), torch.arange(50) % 2)["auroc"] == pytest.approx((0.5, 0.5, 0.5))


def test_intervals_near_the_end_of_the_scale_stay_within_it() -> None:
    found = ranked_interval(1 - 1e-11, 1e-13, 3.0)
    assert 0 <= found.low < found.value <= found.high <= 1


@cache
def truth(levels: int, rate: float) -> dict[str, float]:
    """The scores of very many rows."""
    found = steps_of(*made(400_000, 1, levels, 2.0, rate))
    return {"auroc": found.auroc, "average_precision": found.average_precision}


@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "rate", "levels", "grouped"), [(40, 0.5, 0, False), (40, 0.5, 0, True), (200, 0.15, 2, False)]
)
def test_nineteen_of_twenty_intervals_hold_the_true_value(
    rows: int, rate: float, levels: int, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.evaluation.intervals.RESAMPLES", 1)  # the bootstrap is for the other scores
    true, held, samples = truth(levels, rate), np.zeros(2), 200
    for seed in range(samples):
        scores, labels = made(rows, seed + 2, levels, 2.0, rate)
        if grouped:  # every row is there three times
            scores, labels = scores.repeat(3), labels.repeat(3)
        found = intervals(scores, labels, groups=torch.arange(rows).repeat(3) if grouped else None)
        held += [found[name].low <= true[name] <= found[name].high for name in true]
    # of 200 intervals that hold with chance 0.95, 178 or fewer hold once in 2000 times, 199 or more once in 2500
    assert ((held > 178) & (held < 199)).all(), held
