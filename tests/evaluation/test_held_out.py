"""Scores with their uncertainty: against scikit-learn and torchmetrics, and that intervals hold what they promise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from logreg.evaluation import held_out, ranking
from logreg.evaluation import predicted as predicted_rows
from logreg.evaluation import threshold as decision
from logreg.evaluation.held_out import BINS, evaluate, frequent_mistakes
from logreg.evaluation.intervals import MAX_UNITS, draws, wilson
from logreg.evaluation.measured import ClassScores, Measured, RowWeights, notable_classes
from logreg.evaluation.predicted import Predicted, are_counts, effective_rows
from logreg.evaluation.ranking import Ranking
from logreg.evaluation.threshold import best_threshold


def made(rows: int, classes: int, seed: int = 0, weighted: bool = False) -> Predicted:
    """Rows whose probabilities are about right."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw)[:, 0]
    weight = torch.randint(0, 4, (rows,), generator=draw).double() if weighted else None
    return Predicted(torch.softmax(1.3 * logits, 1), labels, weight)


def scored(predicted: Predicted, **arguments: Any) -> Any:
    classes = predicted.probabilities.shape[1]
    rates = torch.bincount(predicted.labels, predicted.weight, classes).double()
    return evaluate(predicted, [f"c{k}" for k in range(classes)], (rates / rates.sum()).tolist(), **arguments)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_every_score_is_that_of_scikit_learn(classes: int, weighted: bool) -> None:
    predicted = made(400, classes, weighted=weighted)
    p, y = predicted.probabilities.numpy(), predicted.labels.numpy()
    w = predicted.weight.numpy()
    taken = p.argmax(1)
    found = scored(predicted)
    expected = {
        "log_loss": theirs.log_loss(y, p, sample_weight=w, labels=range(classes)),
        "accuracy": theirs.accuracy_score(y, taken, sample_weight=w),
        "balanced_accuracy": theirs.balanced_accuracy_score(y, taken, sample_weight=w),
    }
    if classes == 2:
        expected |= {
            "brier": theirs.brier_score_loss(y, p[:, 1], sample_weight=w),
            "auroc": theirs.roc_auc_score(y, p[:, 1], sample_weight=w),
            "average_precision": theirs.average_precision_score(y, p[:, 1], sample_weight=w),
        }
    else:
        expected["brier"] = theirs.brier_score_loss(y, p, sample_weight=w, labels=range(classes))
    if classes > 5:
        expected["top_5_accuracy"] = theirs.top_k_accuracy_score(y, p, k=5, sample_weight=w, labels=range(classes))
    assert set(found.metrics) == set(expected) | {"ece"} | ({"ece_positive"} if classes == 2 else set())
    for name, value in expected.items():
        assert found.metrics[name].value == pytest.approx(value, rel=1e-12), name
    three = theirs.precision_recall_fscore_support(y, taken, sample_weight=w, labels=range(classes), zero_division=0)
    for number, one in enumerate(found.classes):
        ours = (one.precision.value, one.recall.value, one.f1.value, one.weight)
        assert ours == pytest.approx([column[number] for column in three], rel=1e-12)
    confusion = theirs.confusion_matrix(y, taken, sample_weight=w)
    np.testing.assert_allclose(found.confusion.to_dense().numpy(), confusion)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    predicted = made(500, classes)
    p, y = predicted.probabilities, predicted.labels
    if classes == 2:
        # torchmetrics bins the probability of class 1; ours, as with more classes, that of the predicted one
        hit, sure = (predicted.decided == y).long(), p.max(1).values
        expected = binary_calibration_error(sure, hit, n_bins=BINS)
    else:
        expected = multiclass_calibration_error(p, y, classes, n_bins=BINS)
    assert scored(predicted).metrics["ece"].value == pytest.approx(float(expected), rel=1e-5)


def test_the_baseline_gives_every_row_the_rates_of_train() -> None:
    predicted = made(300, 3)
    rates = [0.5, 0.3, 0.2]
    found = evaluate(predicted, ["a", "b", "c"], rates)
    same = np.tile(rates, (300, 1))
    y = predicted.labels.numpy()
    assert found.baseline["log_loss"] == pytest.approx(theirs.log_loss(y, same, labels=range(3)))
    assert found.baseline["accuracy"] == pytest.approx(float((y == 0).mean()))
    assert found.baseline["brier"] == pytest.approx(theirs.brier_score_loss(y, same, labels=range(3)))


def test_wilson_is_that_of_the_textbook() -> None:
    # Agresti and Coull (1998): of 10 rows 9 right, 95 % interval 0.596 to 0.982
    found = wilson(0.9, 10)
    assert (found.low, found.high) == pytest.approx((0.596, 0.982), abs=5e-4)
    assert wilson(1.0, 10).high == 1.0


def test_how_many_rows_weights_are_worth() -> None:
    three = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert effective_rows(three, counts=True) == 6
    assert effective_rows(three, counts=False) == pytest.approx(36 / 14)  # Kish: 6^2 / (1 + 4 + 9)
    assert effective_rows(0.37 * torch.ones(10, dtype=torch.float64), counts=False) == pytest.approx(10)
    assert are_counts(three)
    assert are_counts(torch.tensor([0.0, 1.0]))
    assert not are_counts(torch.ones(3))
    assert not are_counts(three + 0.5)


def counted(rows: int, classes: int, most: int, seed: int = 0) -> tuple[Predicted, Predicted]:
    """Rows with counts from 0 to ``most``, and the same rows repeated."""
    plain = made(rows, classes, seed=seed)
    draw = torch.Generator().manual_seed(seed + 1)
    weight = torch.randint(0, most + 1, (rows,), generator=draw).double()
    groups = torch.randint(0, rows // 4, (rows,), generator=draw)
    times = torch.arange(rows).repeat_interleave(weight.long())
    weighted = dataclasses.replace(plain, sample_weight=weight, counts=True, groups=groups)
    return weighted, Predicted(plain.probabilities[times], plain.labels[times], groups=groups[times])


@pytest.mark.long
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(200, 2), (200, 7), (8_000, 3)])
def test_a_count_of_two_is_two_rows_in_every_interval(rows: int, classes: int, grouped: bool) -> None:
    weighted, repeated = counted(rows, classes, 3)
    if not grouped:
        weighted, repeated = (dataclasses.replace(each, groups=None) for each in (weighted, repeated))
    ours, theirs = scored(weighted), scored(repeated)
    assert ours.rows == rows
    assert ours.weights == RowWeights(counts=True, rows=len(repeated.labels))
    for name, one in theirs.metrics.items():
        assert ours.metrics[name] == pytest.approx(one, rel=1e-12), name
    for one, other in zip(ours.classes, theirs.classes, strict=True):
        assert (*one.precision, *one.recall, *one.f1) == pytest.approx(
            (*other.precision, *other.recall, *other.f1), rel=1e-12
        )
    # not those of as many rows as there are lines
    lines = scored(dataclasses.replace(weighted, counts=False)).metrics["accuracy"]
    assert lines.high - lines.low > 1.1 * (ours.metrics["accuracy"].high - ours.metrics["accuracy"].low)


@pytest.mark.long
def test_counts_that_are_too_many_to_repeat_have_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    weighted, repeated = (dataclasses.replace(each, groups=None) for each in counted(1500, 2, 30))
    expected = scored(repeated)
    monkeypatch.setattr("logreg.evaluation.predicted.MAX_REPEATED_CELLS", 1000)
    found = scored(weighted)
    assert found.metrics["accuracy"] == pytest.approx(expected.metrics["accuracy"], rel=1e-12)
    for name, one in expected.metrics.items():
        other = found.metrics[name]
        assert other.value == pytest.approx(one.value, rel=1e-12), name
        # the ends of 1000 samples are known to a few hundredths of the interval
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.15), name
        assert abs(other.high + other.low - one.high - one.low) < 0.2 * (one.high - one.low), name


def test_the_scale_of_sampling_weights_changes_no_interval() -> None:
    plain = made(300, 2)
    weight = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, ten = (scored(dataclasses.replace(plain, sample_weight=scale * weight)) for scale in (1.0, 10.0))
    for name, measured in one.metrics.items():
        assert ten.metrics[name] == pytest.approx(measured, rel=1e-9), name
    assert one.weights.rows == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()))


def test_the_calibration_error_of_the_positive_class_is_that_of_bins_counted_by_hand() -> None:
    # 15 bins: 0.05 lies in the first, 0.10 and 0.12 in the second, 0.90 in the fourteenth
    positive = torch.tensor([0.05, 0.10, 0.12, 0.90, 0.90], dtype=torch.float64)
    labels, weight = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    predicted = Predicted(torch.stack([1 - positive, positive], 1), labels, weight)
    off = abs(0.05 - 0) + abs(2 * 0.10 + 0.12 - 2) + abs(4 * 0.90 - 1)
    found = scored(predicted)
    assert found.metrics["ece_positive"].value == pytest.approx(off / 8)
    # of the top label the bins are those of 0.95, of 0.90 and 0.88 together with 0.90 and 0.90
    hits = [1, 0, 1, 1, 0]
    sure = [0.95, 0.90, 0.88, 0.90, 0.90]
    bins: dict[int, float] = {}
    for one, hit, of in zip(sure, hits, weight.tolist(), strict=True):
        bins[int(one * 15)] = bins.get(int(one * 15), 0.0) + of * (one - hit)
    assert found.metrics["ece"].value == pytest.approx(sum(map(abs, bins.values())) / 8)
    assert "ece_positive" not in scored(made(50, 3)).metrics


@pytest.mark.long
def test_nineteen_of_twenty_intervals_hold_the_true_value() -> None:
    # the truth is what so many rows score that the rest is nothing
    many = made(200_000, 2, seed=1)
    p, y = many.probabilities.numpy(), many.labels.numpy()
    truth = {
        "log_loss": theirs.log_loss(y, p),
        "brier": theirs.brier_score_loss(y, p[:, 1]),
        "auroc": theirs.roc_auc_score(y, p[:, 1]),
        "average_precision": theirs.average_precision_score(y, p[:, 1]),
        "accuracy": theirs.accuracy_score(y, p.argmax(1)),
        "balanced_accuracy": theirs.balanced_accuracy_score(y, p.argmax(1)),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(50):
        found = scored(made(300, 2, seed=seed + 10))
        for name, value in truth.items():
            held[name] += found.metrics[name].low <= value <= found.metrics[name].high
    # of 50 draws with chance 0.95 fewer than 42 come up once in 500 times
    assert min(held.values()) >= 42, held


def test_more_rows_than_units_give_the_same_intervals() -> None:
    # rows dealt at random to units, and the units drawn, are as good as rows drawn
    predicted = made(3 * MAX_UNITS, 3, seed=2)
    found = scored(predicted)
    losses = predicted.losses
    half = 1.96 * float(losses.std()) / math.sqrt(len(losses))
    measured = found.metrics["log_loss"]
    assert (measured.high - measured.low) / 2 == pytest.approx(half, rel=0.1)


def test_samples_are_the_same_however_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made(200, 2, seed=3)
    for predicted in (rows, dataclasses.replace(rows, sample_weight=rows.labels + 1.0, counts=True)):
        at_once = torch.cat(list(draws(predicted, 200, seed=1)))
        monkeypatch.setattr("logreg.evaluation.intervals.DRAWS_AT_ONCE", 700)
        assert torch.equal(torch.cat(list(draws(predicted, 200, seed=1))), at_once)


def test_rows_of_one_group_are_drawn_together() -> None:
    # each row eight times says no more than once
    once = made(200, 2, seed=3)
    eight = Predicted(once.probabilities.repeat(8, 1), once.labels.repeat(8), groups=torch.arange(200).repeat(8))
    single, grouped = (scored(each).metrics["log_loss"] for each in (once, eight))
    assert grouped == pytest.approx(single)
    alone = scored(Predicted(eight.probabilities, eight.labels)).metrics["log_loss"]
    assert alone.high - alone.low < 0.5 * (single.high - single.low)


def test_the_same_seed_gives_the_same_intervals_and_another_one_others() -> None:
    predicted = made(100, 2)
    first, second, other = (
        (found.metrics, found.classes, found.baseline) for found in (scored(predicted, seed=seed) for seed in (0, 0, 1))
    )
    assert first == second != other


def test_a_weight_of_two_is_the_row_twice() -> None:
    predicted = made(150, 3)
    weight = torch.ones(150, dtype=torch.float64)
    weight[:50] = 2
    rows = torch.cat([torch.arange(150), torch.arange(50)])
    weighted = scored(Predicted(predicted.probabilities, predicted.labels, weight))
    twice = scored(Predicted(predicted.probabilities[rows], predicted.labels[rows]))
    for name, measured in weighted.metrics.items():
        assert measured.value == pytest.approx(twice.metrics[name].value, rel=1e-12)
    assert torch.equal(weighted.confusion.to_dense(), twice.confusion.to_dense())


def test_a_perfect_model_and_a_confidently_wrong_one() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    right = torch.nn.functional.one_hot(labels, 2).double()
    best, worst = scored(Predicted(right, labels)), scored(Predicted(1 - right, labels))
    assert (best.metrics["log_loss"].value, best.metrics["auroc"].value, best.metrics["brier"].value) == (0, 1, 0)
    assert worst.metrics["auroc"].value == 0
    assert worst.metrics["ece"].value == 1
    assert math.isfinite(worst.metrics["log_loss"].value)


def test_a_class_that_is_not_there_has_no_recall_and_does_not_count() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    p = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1]], dtype=torch.float64)
    found = evaluate(Predicted(p, labels), ["a", "b", "c"], [0.4, 0.4, 0.2])
    assert math.isnan(found.classes[2].recall.value)
    assert found.metrics["balanced_accuracy"].value == pytest.approx(0.75)


def test_samples_in_which_no_row_is_taken_for_a_class_have_a_precision_of_zero() -> None:
    sure = torch.full((10,), 0.1, dtype=torch.float64)
    sure[3] = 0.9
    labels = (sure > 0.5).long()
    found = scored(Predicted(torch.stack([1 - sure, sure], dim=1), labels)).classes[1]
    assert found.precision.value == 1
    assert (found.precision.low, found.precision.high) == (0, 1)  # a sample lacks the row with chance 0.9^10 = 0.35
    none = scored(Predicted(torch.stack([1 - sure / 9, sure / 9], dim=1), labels)).classes[1]
    assert none.precision == (0, 0, 0)


def test_rows_are_sorted_once_for_scores_threshold_and_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    made, of = list[Tensor](), Ranking.of

    def counted(scores: Tensor) -> Ranking:
        made.append(scores)
        return of(scores)

    monkeypatch.setattr(Ranking, "of", counted)
    p = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predicted = Predicted(torch.stack([1 - p, p], 1), (p > 0.4).long())
    evaluation = evaluate(predicted, ("no", "yes"), (0.5, 0.5))
    assert evaluation.threshold is not None
    assert predicted.ranking.order.tolist() == (-p).argsort().tolist()
    assert len(made) == 1


def test_one_class_alone_has_no_order() -> None:
    found = evaluate(Predicted(made(20, 2).probabilities, torch.ones(20, dtype=torch.int64)), ["a", "b"], [0.5, 0.5])
    assert "auroc" not in found.metrics
    assert "auroc" not in found.baseline


@pytest.mark.parametrize("ratio", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_threshold_costs_less_than_the_best(ratio: float, weighted: bool) -> None:
    predicted = made(120, 2, seed=4, weighted=weighted)
    found = scored(predicted, cost_ratio=ratio).threshold
    p, y, w = predicted.probabilities[:, 1], predicted.labels, predicted.weight

    def cost(at: float) -> float:
        yes = p >= at
        return float(w @ ((yes & (y == 0)).double() + ratio * (~yes & (y == 1)).double()) / w.sum())

    every = [cost(at) for at in [0.0, 1.1, *p.tolist()]]
    assert found.cost == pytest.approx(cost(found.value)) == pytest.approx(min(every))
    assert found.cost_at_half == pytest.approx(cost(0.5))


def test_the_threshold_of_true_probabilities_is_where_theory_has_it() -> None:
    # with a miss at 3 false alarms it pays to say yes from 1 / 4 on
    draw = torch.Generator().manual_seed(5)
    p = torch.rand(200_000, generator=draw, dtype=torch.float64)
    labels = (torch.rand(200_000, generator=draw, dtype=torch.float64) < p).long()
    assert best_threshold(Predicted(torch.stack([1 - p, p], 1), labels), 3.0) == pytest.approx(0.25, abs=0.03)


def test_rounding_of_equal_probabilities_makes_no_threshold() -> None:
    p = torch.full((6,), 0.3, dtype=torch.float64)
    p[:3] = math.nextafter(0.3, 1.0)
    predicted = Predicted(torch.stack([1 - p, p], 1), torch.tensor([1, 1, 0, 0, 0, 0]))
    assert best_threshold(predicted, 1.0) == 0.5  # and not between the first three rows and the others


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_of_a_perfect_ranking_has_no_cost_whatever_the_rounding_of_the_weights(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    p, weight = torch.rand(2, 50, generator=draw, dtype=torch.float64)
    predicted = Predicted(torch.stack([1 - p, p], 1), (p > 0.2).long(), weight)
    least, highest = p[p > 0.2].min(), p[p <= 0.2].max()
    assert highest < best_threshold(predicted, 1.0) < least


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_are_summed_some_at_a_time_have_the_scores_of_all_at_once(
    seed: int, classes: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = made(100, classes, seed=seed, weighted=weighted)
    whole = scored(predicted, cost_ratio=3.0)
    for place in (held_out, predicted_rows, decision):
        monkeypatch.setattr(place, "ROWS_AT_ONCE", 7)  # fewer than the cells of the confusion matrix of 12 classes
    monkeypatch.setattr(ranking, "STEPS_AT_ONCE", 9)
    parts = scored(predicted, cost_ratio=3.0)
    assert torch.equal(parts.confusion.to_dense(), whole.confusion.to_dense())
    for name, found in parts.metrics.items():
        assert [*found] == pytest.approx([*whole.metrics[name]], rel=1e-9), name
    if classes == 2:
        assert parts.threshold.value == whole.threshold.value
        assert parts.threshold.cost == pytest.approx(whole.threshold.cost, rel=1e-12)


@pytest.mark.parametrize("ratio", [0, 16, 10**9])  # sums by a matrix product, by what takes less time, row by row
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_many_classes_are_those_of_few(weighted: bool, ratio: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = made(300, 30, weighted=weighted)
    expected = scored(predicted)
    monkeypatch.setattr("logreg.evaluation.held_out.CLASS_SCORES_AT_ONCE", 7000)  # 7 classes at once
    monkeypatch.setattr("logreg.evaluation.held_out.GATHERED_RATIO", ratio)
    summarized = dataclasses.replace(predicted, kept=None, summary=predicted.rows)
    rates = torch.bincount(predicted.labels, predicted.weight, 30).double()
    found = evaluate(summarized, [f"c{k}" for k in range(30)], (rates / rates.sum()).tolist())
    for name, one in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(one, rel=1e-12), name
        assert found.baseline[name] == pytest.approx(expected.baseline[name], rel=1e-12), name
    for mine, theirs_ in zip(found.classes, expected.classes, strict=True):
        assert (mine.name, mine.weight) == (theirs_.name, theirs_.weight)
        for what in ("precision", "recall", "f1"):
            assert getattr(mine, what) == pytest.approx(getattr(theirs_, what), rel=1e-12, nan_ok=True)


def test_the_baseline_is_a_model_that_predicts_the_same_for_every_row() -> None:
    predicted = made(300, 9)
    rates = torch.tensor([0.2, 0.05, 0.2, 0.1, 0.05, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    names = [f"c{k}" for k in range(9)]
    same = evaluate(Predicted(rates.expand(300, -1), predicted.labels), names, rates.tolist())
    for name, one in same.metrics.items():
        assert same.baseline[name] == pytest.approx(one.value, rel=1e-12), name


def test_the_most_frequent_mistakes_come_first() -> None:
    confusion = torch.tensor([[5, 2, 0], [7, 1, 0], [0, 2, 9]]).double().to_sparse()
    assert frequent_mistakes(confusion) == [(1, 0, 7.0), (0, 1, 2.0), (2, 1, 2.0)]
    assert frequent_mistakes(confusion, 1) == [(1, 0, 7.0)]


def test_of_very_many_classes_the_largest_and_the_worst_are_notable() -> None:
    def one(number: int) -> ClassScores:
        f1 = Measured(number / 1000, 0.0, 1.0)
        return ClassScores(str(number), float(number % 500), f1, f1, f1)

    classes = [one(number) for number in range(700)]
    assert notable_classes(classes[:100]) == tuple(classes[:100])
    names = [each.name for each in notable_classes(classes)]
    assert names == [*(str(number) for number in range(499, 489, -1)), *(str(number) for number in range(1, 11))]


@pytest.mark.long
@pytest.mark.parametrize(("classes", "threads"), [(2, 1), (3, 2)])
def test_the_two_threads_that_score_two_classes_have_one_core_each(
    monkeypatch: pytest.MonkeyPatch, classes: int, threads: int
) -> None:
    found = list[int]()

    def noted(of: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found.append(torch.get_num_threads())
            return of(*arguments)

        return call

    for name in ("ranking_scores", "draws"):  # one in each thread
        monkeypatch.setattr(held_out, name, noted(getattr(held_out, name)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scored(made(400, classes))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == [threads] * (2 if classes == 2 else 1)
