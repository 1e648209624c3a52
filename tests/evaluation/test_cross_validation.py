"""Cross-validated scores: those of scikit-learn's metrics and of glmnet, and the choice by one standard error."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import Tensor

from logreg.evaluation.cross_validation import (
    FoldScores,
    cross_validated,
    cross_validated_rows,
    held_out_rows,
    student_quantile,
)
from logreg.evaluation.path_row import PathRow, varied
from logreg.evaluation.path_selection import HeldOutScores, alarm, best_of, path_csv, score_path, simplest_of
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.paths.folds import FoldPaths, fit_folds, fit_strengths
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.problem import Problem
from process_groups import shared, together

STRENGTHS = (0.1, 0.03, 0.01)


def waves() -> tuple[MemoryRows, Tensor]:
    """80 weighted rows of two classes, and 5 folds, as the command in R below makes them."""
    i = torch.arange(80, dtype=torch.float64)
    features = torch.stack([torch.sin(i * j * 1.7) for j in range(1, 5)], dim=1)
    labels = (features[:, 0] + 0.8 * torch.sin(5.3 * i) > 0.1).long()
    return MemoryRows(features, labels, 1 + i % 2), (i % 5).long()


def cross_fitted(l1_ratio: float, repeats: int = 1) -> tuple[Problem, list[FoldPaths], FoldScores]:
    """Elastic nets of `waves`, and their scores; repetitions have the folds of other rows."""
    rows, fold = waves()
    problem = problem_of(rows, Objective("bce"))
    strengths = [Strength((1 - l1_ratio) * one, l1_ratio * one) for one in STRENGTHS]
    folds = [fold.roll(shift) for shift in range(repeats)]
    paths = [fit_folds(problem, rows, one, strengths, 1e-12) for one in folds]
    return problem, paths, FoldScores.of_paths(problem, rows, folds, paths, auroc=True)


# library(glmnet)
# i <- 0:79; x <- sapply(1:4, function(j) sin(i * j * 1.7)); y <- as.integer(x[, 1] + 0.8 * sin(5.3 * i) > 0.1)
# for (alpha in c(1, 0.5, 0)) for (measure in c("deviance", "class", "auc")) {
#   f <- cv.glmnet(x, y, 1 + i %% 2, family = "binomial", alpha = alpha, lambda = c(0.1, 0.03, 0.01),
#                  foldid = i %% 5 + 1, standardize = FALSE, thresh = 1e-14, type.measure = measure)
#   print(c(alpha, measure, sprintf("%.10f", c(f$cvm, f$cvsd)), f$lambda.min, f$lambda.1se)) }     # glmnet 4.1.6
GLMNET = [
    (1.0, "loss", (0.9374817476, 0.8316470676, 0.8539195714), (0.0550893404, 0.0784280999, 0.1032883218), 0.03, 0.03),
    (1.0, "accuracy", (0.1833333333, 0.1833333333, 0.2), (0.0212459146, 0.0212459146, 0.0155902391), 0.1, 0.1),
    (1.0, "auroc", (0.9335449735, 0.9306878307, 0.9335449735), (0.0141948906, 0.0124715179, 0.0141948906), 0.1, 0.1),
    (0.5, "loss", (0.9613329054, 0.8503821833, 0.8376939787), (0.0551351792, 0.0664216841, 0.0864290182), 0.01, 0.03),
    (0.5, "accuracy", (0.1916666667, 0.2, 0.2), (0.0363241579, 0.0155902391, 0.0155902391), 0.1, 0.1),
    (0.5, "auroc", (0.9335449735, 0.9335449735, 0.9335449735), (0.0141948906, 0.0141948906, 0.0141948906), 0.1, 0.1),
    (0.0, "loss", (0.9801633781, 0.8652402922, 0.8337009871), (0.0511057308, 0.0603062173, 0.0791637315), 0.01, 0.03),
    (0.0, "accuracy", (0.2, 0.2, 0.2), (0.0242956329, 0.0155902391, 0.0155902391), 0.1, 0.1),
    (0.0, "auroc", (0.9321164021, 0.9321164021, 0.9306878307), (0.0132844278, 0.0132844278, 0.0124715179), 0.1, 0.1),
]
"""Part of l1, score, its means and standard errors (of the deviance, which is twice the log loss, and of the error
rate), and lambda.min and lambda.1se of cv.glmnet."""


@pytest.mark.parametrize(("l1_ratio", "name", "means", "errors", "best", "one_se"), GLMNET)
def test_means_errors_and_both_choices_are_those_of_glmnet(
    l1_ratio: float, name: str, means: tuple[float, ...], errors: tuple[float, ...], best: float, one_se: float
) -> None:
    problem, paths, scores = cross_fitted(l1_ratio)
    mean, error = scores.mean_and_error(name)
    theirs, of_theirs = torch.tensor(means, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)
    if name == "loss":
        theirs, of_theirs = theirs / 2, of_theirs / 2
    theirs = 1 - theirs if name == "accuracy" else theirs
    torch.testing.assert_close(mean, theirs, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(error, of_theirs, rtol=2e-6, atol=1e-9)
    select = "log_loss" if name == "loss" else name
    rows = cross_validated_rows(problem, paths[0].full, scores, paths, select)
    chosen = [rows[place] for place in (best_of(rows, select), simplest_of(rows, select))]
    if name != "auroc":  # those are equal here up to rounding
        assert [row.l1 + row.l2 for row in chosen] == pytest.approx([best, one_se])


@pytest.mark.long
def test_scores_of_a_fold_are_those_of_scikit_learn_on_rows_that_its_fit_has_not_seen() -> None:
    rows, fold = waves()
    _, paths, scores = cross_fitted(0.5)
    weight = rows.sample_weight
    assert weight is not None
    for number, of_fold in enumerate(scores.of_folds):
        out = fold == number
        for place, strength in enumerate(paths[0].strengths):
            objective = Objective("bce", l2=strength.l2, l1=strength.l1)
            alone = fit(rows.features[~out], rows.labels[~out], objective, 2, weight[~out], tolerance=1e-12)
            odds = rows.features[out] @ alone.coef[0] + alone.intercept
            labels, own = rows.labels[out].numpy(), weight[out].numpy()
            p = odds.sigmoid().numpy()
            assert float(of_fold.loss[place]) == pytest.approx(log_loss(labels, p, sample_weight=own), rel=1e-5)
            assert float(of_fold.accuracy[place]) == pytest.approx(accuracy_score(labels, p > 0.5, sample_weight=own))
            assert of_fold.auroc is not None
            assert float(of_fold.auroc[place]) == pytest.approx(roc_auc_score(labels, odds, sample_weight=own))
        assert of_fold.loss_weight == of_fold.weight == float(weight[out].sum())


def test_held_out_rows_are_those_of_the_fold_in_all_blocks() -> None:
    rows = MemoryRows(torch.arange(200.0).view(100, 2), torch.arange(100) % 3, torch.arange(100.0))
    rows.block_rows = 7
    fold = torch.arange(100) % 4
    blocks = list(held_out_rows(rows, fold, 1))
    assert torch.equal(torch.cat([block.features for block in blocks]), rows.features[1::4])
    assert torch.equal(torch.cat([block.labels for block in blocks]), rows.labels[1::4])
    weights = [block.sample_weight for block in blocks if block.sample_weight is not None]
    assert torch.equal(torch.cat(weights), torch.arange(100.0)[1::4])
    last = list(held_out_rows(rows, (torch.arange(100) >= 95).long(), 1))  # in one block alone
    assert [len(block.labels) for block in last] == [3, 2]


def made(losses: list[list[float]], weights: list[float], repeats: int = 1) -> FoldScores:
    """Scores of folds in which the accuracy is one less the loss."""
    return FoldScores(
        [
            HeldOutScores(
                loss=(loss := torch.tensor(one, dtype=torch.float64)),
                capped=loss,
                error=loss,
                accuracy=1 - loss,
                auroc=None,
                loss_weight=weight,
                weight=2 * weight,
            )
            for one, weight in zip(losses, weights, strict=True)
        ],
        repeats,
    )


def test_the_mean_is_weighted_and_its_error_computed_by_hand() -> None:
    scores = made([[0.2], [0.5], [0.8]], [1, 2, 1])
    mean, error = scores.mean_and_error("loss")
    assert float(mean) == pytest.approx(0.5)
    assert float(error) == pytest.approx(math.sqrt((0.3**2 + 0.3**2) / 4 / 2))


def test_repetitions_have_the_mean_of_means_and_the_error_of_one() -> None:
    once, other = [[0.2], [0.5], [0.8]], [[0.3], [0.4], [0.9]]
    both = made([*once, *other], [1] * 6, repeats=2)
    (one, of_one), (two, of_two) = (made(each, [1] * 3).mean_and_error("loss") for each in (once, other))
    mean, error = both.mean_and_error("loss")
    assert float(mean) == pytest.approx(float(one + two) / 2)
    assert float(error) == pytest.approx(math.sqrt(float(of_one**2 + of_two**2) / 2))
    same = made([*once, *once], [1] * 6, repeats=2).mean_and_error("loss")
    assert float(same[1]) == pytest.approx(float(of_one))  # the same folds again teach nothing


def test_the_interval_is_students_and_stays_within_what_is_possible() -> None:
    found = cross_validated(made([[0.2], [0.5], [0.8]], [1, 1, 1]))
    mean, error, low, high, folds = found["loss"]
    half = student.ppf(0.975, 2) * error
    assert (mean, high) == pytest.approx((0.5, 0.5 + half))
    assert folds == (0.2, 0.5, 0.8)
    assert half > 0.5
    assert low == 0
    assert (found["accuracy"].low, found["accuracy"].high) == (0, 1)
    assert "auroc" not in found
    twice = cross_validated(made([[0.4], [0.5], [0.6]] * 2, [1] * 6, repeats=2))["loss"]
    assert twice.high - twice.mean == pytest.approx(student.ppf(0.975, 2) * twice.error)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 99])
def test_quantiles_are_those_of_scipy(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(student.ppf(0.975, degrees), rel=1e-12)


@pytest.mark.long
def test_intervals_hold_the_score_on_new_rows_about_as_often_as_they_say() -> None:
    covered, trials = 0, 60
    for seed in range(trials):
        draw = torch.Generator().manual_seed(seed)
        features = torch.randn(2200, 3, generator=draw, dtype=torch.float64)
        labels = (torch.rand(2200, generator=draw) < (features.sum(1) / 2).sigmoid()).long()
        memory, fold = MemoryRows(features[:200], labels[:200]), torch.arange(200) % 10
        problem = problem_of(memory, Objective("bce"))
        paths = fit_folds(problem, memory, fold, [Strength(l2=0.01)], 1e-6)
        scores = FoldScores.of_paths(problem, memory, [fold], [paths], auroc=False)
        point = paths.full[0].point
        odds = features[200:] @ point[0, :-1] + point[0, -1]
        truth = float(torch.nn.functional.binary_cross_entropy_with_logits(odds, labels[200:].double()))
        found = cross_validated(scores)["loss"]
        covered += found.low <= truth <= found.high
    assert 0.85 <= covered / trials <= 1


# The choice


def row(loss: float, error: float, l2: float = 0.0, l1: float = 0.0, **more: float) -> PathRow:
    scores: dict[str, Any] = {"accuracy_val": 1 - loss, "accuracy_error": error} | more
    return PathRow(l2, 0.1, loss, error, gap=0, relative_gap=0, converged=True, passes=1, nonzero=2, l1=l1, **scores)


def test_one_standard_error_by_hand() -> None:
    rows = [row(0.60, 0.9, l1=1), row(0.549, 0.9, l1=0.1), row(0.5, 0.05, l1=0.01), row(0.52, 0.05, l1=0.001)]
    assert (best_of(rows), simplest_of(rows)) == (2, 1)  # the error is that of the best
    assert simplest_of([replace(one, error=0.12) for one in rows]) == 0
    assert simplest_of([replace(one, error=0.0) for one in rows]) == 2


def test_one_standard_error_is_of_the_score_that_selects() -> None:
    rows = [
        row(0.6, 0.3, l2=1, accuracy_val=0.80, accuracy_error=0.01),
        row(0.5, 0.3, l2=0.1, accuracy_val=0.895, accuracy_error=0.01),
        row(0.5, 0.3, l2=0.01, accuracy_val=0.90, accuracy_error=0.01),
    ]
    assert (simplest_of(rows), simplest_of(rows, "accuracy")) == (0, 1)
    assert simplest_of([replace(one, accuracy_error=None) for one in rows], "accuracy") == 2  # an error is not known


def test_the_strongest_of_an_elastic_net_is_strongest_in_both() -> None:
    rows = [row(0.5, 0.1, l2=one, l1=one) for one in STRENGTHS]
    assert (best_of(rows), varied(rows)) == (0, "l1")
    assert varied([row(0.5, 0.1, l2=one, l1=0.3) for one in STRENGTHS]) == "l2"
    assert varied([row(0.5, 0.1, l2=0.3, l1=one) for one in STRENGTHS]) == "l1"


def test_an_end_of_a_path_over_l1_raises_an_alarm_unless_no_coefficient_is_left() -> None:
    rows = [row(0.5, 0.1, l1=0.1), row(0.6, 0.1, l1=0.01)]
    assert alarm(rows) == (
        "the best l1 is the largest that was tried, so a better one may lie beyond: try l1=[0.1,1,10]"
    )
    assert alarm([replace(rows[0], nonzero=0), rows[1]]) is None


@pytest.mark.long
def test_a_path_has_a_column_for_each_fold_and_errors_of_all_scores() -> None:
    problem, paths, scores = cross_fitted(1.0, repeats=2)
    rows = cross_validated_rows(problem, paths[0].full, scores, paths, "accuracy")
    header, *lines = (line.split(",") for line in path_csv(rows, 80, "accuracy").splitlines())
    assert header[-11:] == ["nonzero", *(f"accuracy/fold {number}" for number in range(1, 11))]
    assert {"loss/cv", "accuracy/cv", "auroc/cv", "standard_error", "auroc_standard_error"} <= set(header)
    for line, one, place in zip(lines, rows, range(3), strict=True):
        cells = dict(zip(header, line, strict=True))
        folds = [float(cells[f"accuracy/fold {number}"]) for number in range(1, 11)]
        assert folds == pytest.approx([float(each.accuracy[place]) for each in scores.of_folds])
        assert float(cells["accuracy/cv"]) == pytest.approx(np.mean(folds))
        assert float(cells["C"]) == pytest.approx(1 / (80 * one.l1))


def test_a_fit_that_did_not_converge_in_one_fold_is_told() -> None:
    problem, paths, scores = cross_fitted(1.0)
    points = [list(fold) for fold in paths[0].of_folds]
    points[3][1] = replace(points[3][1], converged=False)
    rows = cross_validated_rows(
        problem, paths[0].full, scores, [FoldPaths(paths[0].strengths, paths[0].full, points)], "log_loss"
    )
    assert [each.converged for each in rows] == [True, False, True]


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 3, pytest.param(90, marks=pytest.mark.slow)])  # 90: some have no rows
@pytest.mark.parametrize("strengths", [[Strength(0.1), Strength(0.01)], [Strength(0.001, 0.03), Strength(0.001, 0.01)]])
def test_processes_that_share_the_rows_give_the_scores_of_one(processes: int, strengths: list[Strength]) -> None:
    memory, folds = waves()
    memory.block_rows = 16
    problem = problem_of(memory, Objective("bce", l2=1.0))

    def fitted(rows: MemoryRows) -> tuple[list[Tensor], FoldScores, list[PathRow]]:
        paths = fit_folds(problem, rows, folds, strengths, tolerance=1e-14)
        scores = FoldScores.of_paths(problem, rows, [folds], [paths], auroc=True)
        points = [one.point for path in (paths.full, *paths.of_folds) for one in path]
        points += [one.point for one in fit_strengths(problem, rows, strengths, tolerance=1e-14)]
        return points, scores, score_path(problem, paths.full, rows)

    ((points, scores, rows),) = together(shared(memory, 1), fitted)  # by the same solvers
    for their_points, their_scores, their_rows in together(shared(memory, processes), fitted):
        for found, expected in zip(their_points, points, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
        for name in ("loss", "accuracy", "auroc"):
            torch.testing.assert_close(their_scores.values(name), scores.values(name), rtol=1e-9, atol=0)
        assert [one.loss_val for one in their_rows] == pytest.approx([one.loss_val for one in rows], rel=1e-9)
        assert their_scores.weights("loss").tolist() == scores.weights("loss").tolist()
