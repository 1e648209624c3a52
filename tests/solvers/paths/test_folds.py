"""Cross-validated paths have the optima of separate fits, and those of glmnet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from logreg.errors import ConfigError, DataError
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.l1_model import minimize_model
from logreg.solvers.paths import folds as folds_module
from logreg.solvers.paths import small_folds, small_l1_path
from logreg.solvers.paths.batch_model import minimize_models
from logreg.solvers.paths.folds import FoldPaths, fit_folds, fit_parts, fit_strengths
from logreg.solvers.paths.l1_path import default_l1_strengths, fit_elastic_net_path, largest_slope
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.problem import Problem
from logreg.solvers.small.small_l1 import MIN_TOLERANCE

RIDGE = [Strength(l2) for l2 in (1.0, 0.1, 0.01, 1e-3)]
LASSO = [Strength(l1=l1) for l1 in (0.05, 0.02, 1e-3)]
ELASTIC_NET = [Strength(s / 2, s / 2) for s in (0.1, 0.02, 1e-3)]


def table(classes: int = 2, rows: int = 90, columns: int = 4) -> tuple[Tensor, Tensor]:
    """Rows whose classes overlap, with columns of other means and sizes."""
    draw = torch.Generator().manual_seed(classes)
    x = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    odds = x @ torch.randn(columns, classes, generator=draw, dtype=torch.float64)
    y = (odds + torch.rand(odds.shape, generator=draw, dtype=torch.float64).logit()).argmax(1)
    return x * torch.tensor([1.0, 3.0, 0.2, 1.0])[:columns] + 2, y


def folds_of(rows: int, number: int) -> Tensor:
    """Folds of unequal size: fold 0 has every row that is left over."""
    folds = torch.arange(rows) % (number + 1)
    return torch.where(folds == number, 0, folds)


def points_of(paths: FoldPaths) -> list[PathPoint]:
    """All points."""
    return [point for path in (paths.full, *paths.of_folds) for point in path]


def general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves every path to the general solvers."""
    monkeypatch.setattr(small_folds, "MAX_ROW_NUMBERS", 0)
    monkeypatch.setattr(small_l1_path, "MAX_ROW_NUMBERS", 0)


@pytest.mark.long
@pytest.mark.parametrize("strengths", [RIDGE, LASSO, ELASTIC_NET], ids=["ridge", "lasso", "elastic net"])
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
@pytest.mark.parametrize("general", [False, True])
def test_each_point_is_the_optimum_without_its_fold(
    classes: int, loss: str, strengths: Sequence[Strength], general: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if general:
        general_way(monkeypatch)
    x, y = table(classes)
    folds, tolerance = folds_of(len(y), 3), 1e-12 if strengths is RIDGE else 1e-11
    if strengths is not RIDGE and not general:
        tolerance = MIN_TOLERANCE  # of a model for several strengths
    distance = 0.0 if tolerance < MIN_TOLERANCE else 1e-4  # relative: about the root of the gap
    rows = MemoryRows(x, y)
    paths = fit_folds(problem_of(rows, Objective(loss), classes), rows, folds, strengths, tolerance)
    assert paths.strengths == strengths
    for fold, path in [(-1, paths.full), *enumerate(paths.of_folds)]:
        for strength, point in zip(strengths, path, strict=True):
            kept = folds != fold
            objective = Objective(loss, l2=strength.l2, l1=strength.l1)
            alone = fit(x[kept], y[kept], objective, classes, tolerance=tolerance)
            assert (point.l2, point.l1) == (strength.l2, strength.l1)
            assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-10)
            torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=distance, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_classes_and_the_sum_are_those_of_a_fit(reduction: str, intercept: bool) -> None:
    x, y = table()
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(len(y), generator=draw, dtype=torch.float64) * (torch.arange(len(y)) % 7 > 0)
    folds, rows = folds_of(len(y), 4), MemoryRows(x, y, weight)
    factor = float(len(y)) if reduction == "sum" else 1.0
    objective = Objective("bce", reduction)  # type: ignore[arg-type]  # one of the two
    problem = problem_of(rows, objective, 2, class_weight=(1.0, 3.0), intercept=intercept)
    strengths = [Strength(factor * one.l2, factor * one.l1) for one in (*RIDGE, *ELASTIC_NET, *LASSO)]
    paths = fit_folds(problem, rows, folds, strengths, 1e-11)
    for fold, path in enumerate(paths.of_folds):
        for strength, point in zip(strengths, path, strict=True):
            kept = folds != fold
            alone = fit(
                x[kept],
                y[kept],
                Objective("bce", objective.reduction, strength.l2, strength.l1),
                2,
                weight[kept],
                (1.0, 3.0),
                tolerance=1e-11,
                intercept=intercept,
            )
            assert point.converged
            assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-10)
            torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=0, atol=1e-5)


GLMNET = {
    1.0: (
        (1.2825645322701, 1.1092907384788, 1.1784625592917),
        (-0.0986042226174, 2.0523276117294, 2.2539157571847, 0.1492247210778, -0.0535498579605),
    ),
    0.5: (
        (1.1935387567426, 1.1052594810674, 1.1653842898616),
        (-0.1024276337950, 1.9656305493164, 2.1652538429767, 0.1628908527630, -0.0671923574641),
    ),
    0.0: (
        (1.1480817866619, 1.1067391131428, 1.1565282090132),
        (-0.1046565268311, 1.8951660532594, 2.0933963274025, 0.1747885059151, -0.0795129367252),
    ),
}
"""alpha -> the deviances of three lambdas, and intercept and coefficients of the last one, printed in R 4.2 by

    library(glmnet); glmnet.control(fdev = 0, devmax = 1)
    i <- 0:39
    x <- cbind(sin(i), cos(3 * i), i %% 5, (i * i) %% 7)
    y <- as.integer((x[, 1] + x[, 2] + (i %% 3)) > 1)
    m <- cv.glmnet(x, y, family = "binomial", alpha = alpha, lambda = c(0.1, 0.02, 0.004), foldid = i %% 4 + 1,
                   standardize = FALSE, thresh = 1e-15)
    print(c(m$cvm, as.vector(coef(m$glmnet.fit)[, 3])), digits = 12)
"""

LAMBDAS = [0.160792128417, 0.146507798890]
"""print(glmnet(x, y, family = "binomial", standardize = FALSE)$lambda[c(1, 2)], digits = 12)"""


def glmnet_table() -> tuple[Tensor, Tensor, Tensor]:
    """The table of `GLMNET`, and its folds."""
    i = torch.arange(40)
    x = torch.stack([i.double().sin(), (3.0 * i.double()).cos(), (i % 5).double(), (i * i % 7).double()], dim=1)
    return x, (x[:, 0] + x[:, 1] + i % 3 > 1).long(), i % 4


@pytest.mark.long
@pytest.mark.parametrize("alpha", GLMNET)
def test_deviances_and_coefficients_are_those_of_glmnet(alpha: float) -> None:
    x, y, folds = glmnet_table()
    rows = MemoryRows(x, y)
    problem = problem_of(rows, Objective("bce"))
    strengths = [Strength((1 - alpha) * one, alpha * one) for one in (0.1, 0.02, 0.004)]
    paths = fit_folds(problem, rows, folds, strengths, 1e-13)
    points = torch.stack([torch.cat([one.point for one in path]) for path in paths.of_folds])[folds]
    logits = (points[..., :-1] * x.unsqueeze(1)).sum(2) + points[..., -1]  # of the fit without the row
    sign = 2.0 * y.unsqueeze(1) - 1
    deviance = -2 * torch.nn.functional.logsigmoid(sign * logits).mean(0)
    point = paths.full[2].point[0]
    deviances, coefficients = GLMNET[alpha]
    assert deviance.tolist() == pytest.approx(deviances, abs=1e-6)
    assert [float(point[-1]), *point[:-1].tolist()] == pytest.approx(coefficients, abs=2e-6)


def test_default_strengths_are_those_of_glmnet() -> None:
    x, y, _ = glmnet_table()
    rows = MemoryRows(x, y)
    problem = problem_of(rows, Objective("bce"))
    found = default_l1_strengths(problem, rows)
    assert len(found) == 100
    assert [one.l1 for one in found[:2]] == pytest.approx(LAMBDAS, rel=1e-9)
    assert found[-1].l1 == pytest.approx(1e-4 * LAMBDAS[0])
    half = default_l1_strengths(problem, rows, 0.5, number=3)
    assert [one.l1 for one in half] == pytest.approx([share * LAMBDAS[0] for share in (1, 1e-2, 1e-4)], rel=1e-9)
    assert [one.l2 for one in half] == [one.l1 for one in half]
    with pytest.raises(ConfigError, match="l1_ratio"):
        default_l1_strengths(problem, rows, 0.0)


@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
def test_all_coefficients_are_0_from_the_largest_slope_on(classes: int, loss: str) -> None:
    x, y = table(classes)
    weight = 1.0 + torch.arange(len(y)) % 3
    for intercept in (True, False):
        largest = largest_slope(
            problem_of(MemoryRows(x, y, weight), Objective(loss), classes, intercept=intercept),
            MemoryRows(x, y, weight),
        )
        for factor, expected in ((1.001, 0), (0.98, 1)):
            found = fit(
                x,
                y,
                Objective(loss, l1=factor * largest),
                classes,
                weight.double(),
                tolerance=1e-10,
                intercept=intercept,
            )
            assert int((found.coef != 0).any()) == expected


@pytest.mark.long
def test_leaving_one_row_out_gives_the_fits_without_each_row() -> None:
    x, y = table(rows=30)
    rows, folds = MemoryRows(x, y), torch.arange(30)
    for strengths in (RIDGE[1:3], ELASTIC_NET[:2]):
        paths = fit_folds(problem_of(rows, Objective("bce")), rows, folds, strengths, 1e-12, with_full=False)
        assert paths.full == []
        for fold, path in enumerate(paths.of_folds):
            for strength, point in zip(strengths, path, strict=True):
                kept = folds != fold
                alone = fit(x[kept], y[kept], Objective("bce", l2=strength.l2, l1=strength.l1), 2, tolerance=1e-12)
                torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=0, atol=2e-6)


@pytest.mark.long
@pytest.mark.parametrize("strengths", [RIDGE, LASSO], ids=["ridge", "lasso"])
def test_a_weight_of_2_is_the_row_twice(strengths: Sequence[Strength]) -> None:
    x, y = table()
    twice = torch.arange(len(y)) % 3 == 0
    folds = folds_of(len(y), 5)
    weighted = MemoryRows(x, y, 1.0 + twice)
    repeated = MemoryRows(torch.cat([x, x[twice]]), torch.cat([y, y[twice]]))
    one = fit_folds(problem_of(weighted, Objective("bce")), weighted, folds, strengths, 1e-12)
    other = fit_folds(
        problem_of(repeated, Objective("bce")), repeated, torch.cat([folds, folds[twice]]), strengths, 1e-12
    )
    for mine, theirs in zip(points_of(one), points_of(other), strict=True):
        assert mine.bound.value == pytest.approx(theirs.bound.value, rel=1e-11)
        torch.testing.assert_close(mine.point, theirs.point, rtol=0, atol=1e-5)


def value_of(problem: Problem, rows: MemoryRows, kept: Tensor, point: PathPoint) -> float:
    """f at a point, on some rows."""
    objective = Objective(problem.objective.loss, l2=point.l2, l1=point.l1)
    y = rows.labels[kept].double().unsqueeze(1)
    return float(objective.value(rows.features[kept], y, point.point[:, :-1], point.point[:, -1]))


@pytest.mark.parametrize("strengths", [RIDGE, LASSO, ELASTIC_NET], ids=["ridge", "lasso", "elastic net"])
@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-4, 1e-8])
def test_a_bound_holds_against_a_tighter_fit(strengths: Sequence[Strength], tolerance: float) -> None:
    x, y = table()
    rows, folds = MemoryRows(x, y), folds_of(len(y), 3)
    problem = problem_of(rows, Objective("bce"))
    loose, tight = (fit_folds(problem, rows, folds, strengths, one) for one in (tolerance, 1e-12))
    kept = [torch.ones_like(y, dtype=torch.bool), *(folds != fold for fold in range(3))]
    for own, path, best in zip(kept, (loose.full, *loose.of_folds), (tight.full, *tight.of_folds), strict=True):
        for point, optimum in zip(path, best, strict=True):
            value = value_of(problem, rows, own, point)
            assert point.converged
            assert point.bound.rigorous
            assert point.bound.gap + point.bound.rounding <= tolerance * point.bound.value
            assert value == pytest.approx(point.bound.value, abs=1e-14 + point.bound.error)
            true_gap = value - value_of(problem, rows, own, optimum)
            assert true_gap <= point.bound.gap + point.bound.rounding + 1e-15


def test_batches_of_few_problems_give_the_same_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table()
    rows, folds = MemoryRows(x, y), folds_of(len(y), 6)
    problem = problem_of(rows, Objective("bce"))
    whole = fit_folds(problem, rows, folds, RIDGE, 1e-12)
    sizes = []
    make = small_folds._Batch.__init__

    def watched(self: small_folds._Batch, rows: small_folds.FoldedRows, without: Sequence[int], tol: float) -> None:
        sizes.append(len(without))
        make(self, rows, without, tol)

    monkeypatch.setattr(small_folds._Batch, "__init__", watched)
    monkeypatch.setattr(small_folds, "MAX_LOGITS", 400)
    few = fit_folds(problem, rows, folds, RIDGE, 1e-12)
    assert sum(sizes) == 7
    assert max(sizes) * len(y) <= 400
    for mine, theirs in zip(points_of(whole), points_of(few), strict=True):
        torch.testing.assert_close(mine.point, theirs.point, rtol=0, atol=1e-5)


def test_strengths_far_apart_and_in_any_order_are_fitted() -> None:
    x, y = table()
    rows, folds = MemoryRows(x, y), folds_of(len(y), 3)
    strengths = [Strength(1e-7), Strength(l1=1e-3), Strength(1.0), Strength(0.99), Strength(0.98), Strength(0.1, 0.01)]
    strengths.append(strengths[0])
    paths = fit_folds(problem_of(rows, Objective("bce")), rows, folds, strengths, 1e-9)
    for strength, point in zip(strengths, paths.full, strict=True):
        alone = fit(x, y, Objective("bce", l2=strength.l2, l1=strength.l1), tolerance=1e-9)
        assert point.converged
        assert point.bound.value == pytest.approx(alone.bound.value, rel=2e-9)


def test_what_a_batch_leaves_unconverged_the_general_solvers_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table()
    rows, folds = MemoryRows(x, y), folds_of(len(y), 3)
    monkeypatch.setattr(small_folds, "MAX_STEPS", 1)
    monkeypatch.setattr(small_l1_path, "MAX_STEPS", 1)
    paths = fit_folds(problem_of(rows, Objective("bce")), rows, folds, [*RIDGE, *LASSO], 1e-9)
    assert all(point.converged for point in points_of(paths))


def test_dependent_columns_are_fitted() -> None:
    x, y = table()
    x = torch.cat([x, x[:, :1] + x[:, 1:2], torch.ones(len(y), 1), x[:, :1]], dim=1)
    rows, folds = MemoryRows(x, y), folds_of(len(y), 3)
    paths = fit_folds(problem_of(rows, Objective("bce")), rows, folds, [*RIDGE, *LASSO, *ELASTIC_NET], 1e-9)
    for point in points_of(paths):
        assert point.converged
    assert paths.full[0].bound.value == pytest.approx(fit(x, y, Objective("bce", l2=1.0), tolerance=1e-9).bound.value)


@pytest.mark.parametrize("strengths", [RIDGE, LASSO, ELASTIC_NET], ids=["ridge", "lasso", "elastic net"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("in_batch", [True, False])
def test_parts_of_the_rows_are_fitted_as_each_alone(
    in_batch: bool, reduction: Any, strengths: Sequence[Strength], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_batch:
        monkeypatch.setattr("logreg.solvers.paths.folds.MAX_SINGLE_NUMBERS", 0)
    x, y = table()
    rows = MemoryRows(x, y, 1.0 + torch.arange(len(y)) % 3)
    problem = problem_of(rows, Objective("bce", reduction), class_weight=(1.0, 2.0))
    parts = [torch.arange(60), torch.arange(40, 90), torch.tensor([*range(50), 7, 7])]
    assert rows.sample_weight is not None
    for part, points in zip(parts, fit_parts(problem, rows, parts, strengths, 1e-10), strict=True):
        for strength, point in zip(strengths, points, strict=True):
            objective = Objective("bce", reduction, strength.l2, strength.l1)
            alone = fit(x[part], y[part], objective, 2, rows.sample_weight[part], (1.0, 2.0), tolerance=1e-10)
            assert (point.l2, point.l1, point.converged) == (strength.l2, strength.l1, True)
            torch.testing.assert_close(point.point[:, :-1], alone.coef, atol=1e-5, rtol=1e-4)
            assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-9)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (torch.zeros(90, dtype=torch.int64), "at least 2"),
        (torch.arange(89) % 2, "90 whole numbers"),
        (torch.arange(90) % 2.0, "90 whole numbers"),
        (torch.arange(90) % 3 - 1, "90 whole numbers"),
        (torch.arange(90) % 2 * 2, "fold 1 has none"),
    ],
)
def test_folds_that_are_not_valid_are_refused(folds: Tensor, message: str) -> None:
    rows = MemoryRows(*table())
    with pytest.raises(DataError, match=message):
        fit_folds(problem_of(rows, Objective("bce")), rows, folds, RIDGE)


def test_a_fold_with_all_rows_of_a_class_is_refused() -> None:
    x, y = table()
    rows = MemoryRows(x, y)
    with pytest.raises(DataError, match="without fold 0 no row of class 0 is left"):
        fit_folds(problem_of(rows, Objective("bce")), rows, y, RIDGE)


@pytest.mark.parametrize("strengths", [[], [Strength()], [Strength(-1.0)], [Strength(math.nan)]])
def test_strengths_without_a_penalty_are_refused(strengths: Sequence[Strength]) -> None:
    rows = MemoryRows(*table())
    with pytest.raises(ConfigError, match="strengths"):
        fit_folds(problem_of(rows, Objective("bce")), rows, folds_of(90, 3), strengths)


def test_models_are_minimized_as_each_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(20, 30, 8, generator=draw, dtype=torch.float64)
    factors[10:, :, 5] = factors[10:, :, 2]  # a repeated column
    matrices = factors.transpose(1, 2) @ factors / 30
    gradients = torch.randn(20, 8, generator=draw, dtype=torch.float64)
    gradients[10:, 5] = gradients[10:, 2]
    starts = torch.randn(20, 8, generator=draw, dtype=torch.float64).clamp(min=0)
    l1 = torch.full((8,), 0.4, dtype=torch.float64)
    l1[-1] = 0.0
    found = minimize_models(matrices.clone(), gradients, starts, l1)
    assert found is not None

    def value(number: int, point: Tensor) -> float:
        move = point - starts[number]
        return float(gradients[number] @ move + move @ matrices[number] @ move / 2 + l1 @ point.abs())

    for number in range(20):
        model = matrices[number], gradients[number], starts[number], l1
        alone = torch.from_numpy(minimize_model(*(part.numpy() for part in model)).point)
        assert value(number, found[number]) == pytest.approx(value(number, alone), abs=1e-9)
        if number < 10:
            torch.testing.assert_close(found[number], alone, rtol=0, atol=1e-9)


def test_fits_of_a_batch_that_are_not_certified_go_on_where_they_are() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(20, 20, generator=draw, dtype=torch.float64) + 3 * torch.randn(20, 1, generator=draw).double()
    x = x * torch.logspace(-6, 6, 20, dtype=torch.float64)
    y = (x[:, 10:] / x[:, 10:].std(0)).sum(1).gt(0).long()
    rows, strengths = MemoryRows(x, y), [Strength(l2) for l2 in (1e6, 1e5, 2541.0, 700.0)]
    problem = problem_of(rows, Objective("bce"), 2, intercept=False)
    paths = fit_folds(problem, rows, torch.arange(20) % 5, strengths)
    assert paths.full[-1].bound.loss < 1e-6  # so small that a batch does not certify it
    assert all(point.converged and point.passes < 100 for point in points_of(paths))


def test_points_that_are_known_are_starts() -> None:
    x, labels = table(3)
    rows = MemoryRows(x, labels)
    problem = problem_of(rows, Objective("cross_entropy", l2=1e-3))
    folds, near, weak = torch.arange(len(labels)) % 3, Strength(1.1e-3), Strength(1e-3)
    cold = fit_folds(problem, rows, folds, [weak])
    before = fit_folds(problem, rows, folds, [near])
    warm = fit_folds(problem, rows, folds, [weak], before=before)
    for first, second in zip([cold.full, *cold.of_folds], [warm.full, *warm.of_folds], strict=True):
        assert second[0].converged
        assert second[0].passes < first[0].passes
    assert before.joined(warm).strengths == [near, weak]
    assert [one.l2 for one in before.joined(warm).of_folds[2]] == [near.l2, weak.l2]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("most_steps", [0, small_folds.MAX_STEPS])
def test_a_path_of_all_rows_has_the_optima_of_separate_fits(
    intercept: bool, most_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = table()
    rows, strengths = MemoryRows(x, y), [*LASSO, *RIDGE, *ELASTIC_NET]
    monkeypatch.setattr(small_folds, "MAX_STEPS", most_steps)
    monkeypatch.setattr(small_l1_path, "MAX_STEPS", most_steps)
    points = fit_strengths(problem_of(rows, Objective("bce"), intercept=intercept), rows, strengths, 1e-10)
    for strength, point in zip(strengths, points, strict=True):
        objective = Objective("bce", l2=strength.l2, l1=strength.l1)
        alone = fit(x, y, objective, tolerance=1e-10, intercept=intercept)
        assert (point.l2, point.l1, point.converged) == (strength.l2, strength.l1, True)
        assert point.bound.rigorous
        torch.testing.assert_close(point.point[:, :-1], alone.coef, atol=1e-5, rtol=1e-4)
        assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-9)


@pytest.mark.parametrize("strengths", [LASSO, ELASTIC_NET])
def test_a_small_softmax_with_l1_needs_no_general_solver(
    strengths: Sequence[Strength], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = table(3)
    rows = MemoryRows(x, y)
    left = Mock(wraps=fit_elastic_net_path)
    monkeypatch.setattr(folds_module, "fit_elastic_net_path", left)
    monkeypatch.setattr("logreg.solvers.choose.MAX_SMALL_NUMEL", 2**17)  # the tests of solvers set it to -1
    points = fit_strengths(problem_of(rows, Objective("cross_entropy")), rows, strengths[::-1], 1e-8)
    assert [call.args[1] for call in left.call_args_list] == [[]]
    for strength, point in zip(strengths[::-1], points, strict=True):
        objective = Objective("cross_entropy", l2=strength.l2, l1=strength.l1)
        alone = fit(x, y, objective, tolerance=1e-10, optimizer="newton")
        assert (point.l2, point.l1, point.converged) == (strength.l2, strength.l1, True)
        assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-8)


def test_strengths_that_the_small_solver_leaves_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table(3)
    rows = MemoryRows(x, y)
    monkeypatch.setattr("logreg.solvers.choose.MAX_SMALL_NUMEL", 2**17)  # the tests of solvers set it to -1
    fit_small, starts = folds_module._fit_small, list[Tensor]()

    def all_but_the_first(problem: Problem, rows: MemoryRows, start: Tensor, tolerance: float) -> PathPoint | None:
        starts.append(start)
        return None if len(starts) == 1 else fit_small(problem, rows, start, tolerance)

    monkeypatch.setattr(folds_module, "_fit_small", all_but_the_first)
    points = fit_strengths(problem_of(rows, Objective("cross_entropy")), rows, LASSO, 1e-8)
    assert [(one.l2, one.l1) for one in points] == [(one.l2, one.l1) for one in LASSO]
    assert len(starts) == len(LASSO) > 2
    ordered = sorted(points, key=lambda one: one.l1, reverse=True)
    assert torch.equal(starts[2], ordered[1].point)  # from the strength before
