"""Folds of small problems, which the general solvers do not reach."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

from logreg.csr import of_scipy
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.paths.folds import fit_folds
from logreg.solvers.paths.l2_path import PathFitter, Strength
from logreg.solvers.paths.ridge_folds import MAX_PRODUCTS, fit_ridge_folds, fits_in_ridge_batch
from logreg.solvers.source_units import stored_rows


@pytest.mark.long
@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("bce", 3), ("cross_entropy", 3)])
def test_features_far_from_0_are_certified_without_an_intercept(loss: str, classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    features, noise = (torch.randn(80, n, generator=draw, dtype=torch.float64) for n in (4, classes))
    labels = (features @ torch.randn(4, classes, generator=draw, dtype=torch.float64) + noise).argmax(1)
    rows, stored = stored_rows(features + 1e6, labels, None, False)
    problem = problem_of(rows, Objective(loss, l2=1.0), classes, intercept=False, stored=stored)
    strengths = [Strength(10.0**-power) for power in range(6)]
    paths = fit_folds(problem, rows, torch.arange(80) % 5, strengths)
    assert all(point.converged for path in (paths.full, *paths.of_folds) for point in path)


@pytest.mark.long
@pytest.mark.parametrize("class_weight", [(), (1.0, 3.0, 0.5)])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_softmax_paths_in_a_batch_are_the_fits_of_each_problem_alone(
    reduction: Literal["mean", "sum"], intercept: bool, class_weight: tuple[float, ...]
) -> None:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(90, 5, generator=draw, dtype=torch.float64) * torch.logspace(-1, 1, 5) + 2
    labels = (
        (features @ torch.randn(5, 3, generator=draw, dtype=torch.float64))
        .add_(2 * torch.randn(90, 3, generator=draw, dtype=torch.float64))
        .argmax(1)
    )
    weights, folds = torch.rand(90, generator=draw, dtype=torch.float64) + 0.5, torch.arange(90) % 4
    rows, objective = MemoryRows(features, labels, weights), Objective("cross_entropy", reduction, l2=1.0)
    problem = problem_of(rows, objective, 3, class_weight, intercept=intercept)
    strengths = [Strength(l2) for l2 in (10.0, 3.0, 0.3, 1e-3)]
    assert fits_in_ridge_batch(problem, rows, folds)
    found = fit_ridge_folds(problem, rows, folds, [None, 0, 1, 2, 3], strengths, 1e-11)
    for number, path in enumerate(found):
        mine = folds != number - 1
        for strength, point in zip(strengths, path, strict=True):
            alone = fit(
                features[mine],
                labels[mine],
                Objective("cross_entropy", reduction, strength.l2),
                3,
                weights[mine],
                class_weight,
                tolerance=1e-13,
                intercept=intercept,
            )
            assert point.converged
            assert (point.l2, point.bound.rigorous) == (strength.l2, True)
            room = sum(one.gap + one.rounding + one.error for one in (point.bound, alone.bound))
            assert abs(point.bound.value - alone.bound.value) <= room
            torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(point.point[:, -1], alone.intercept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "classes"), [("bce", 2), ("bce", 3), pytest.param("cross_entropy", 3, marks=pytest.mark.long)]
)
def test_sparse_paths_in_a_batch_are_the_fits_of_each_problem_alone(
    loss: str, classes: int, reduction: Literal["mean", "sum"], intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(2)
    dense = torch.randn(90, 30, generator=draw, dtype=torch.float64) + 1
    dense = torch.where(torch.rand(90, 30, generator=draw) < 0.2, dense, 0.0)
    dense[:, 3] = 0  # a column without numbers
    labels = (dense @ torch.randn(30, classes, generator=draw, dtype=torch.float64)).argmax(1)
    weights, folds = (torch.arange(90) % 5 > 0) * (1 + torch.rand(90, generator=draw).double()), torch.arange(90) % 4
    features, class_weight = of_scipy(csr_array(dense.numpy())), (1.0, 2.0, 0.5)[:classes]
    problem = problem_of(
        MemoryRows(features, labels, weights), Objective(loss, reduction), classes, class_weight, intercept=intercept
    )
    strengths = [Strength(l2) for l2 in (10.0, 0.1, 1e-4)]
    monkeypatch.setattr(PathFitter, "fit", None)  # the general solvers are not needed
    paths = fit_folds(problem, MemoryRows(features, labels, weights), folds, strengths, 1e-11)
    for fold, path in enumerate((paths.full, *paths.of_folds), -1):
        mine = folds != fold
        for strength, point in zip(strengths, path, strict=True):
            alone = fit(
                dense[mine],
                labels[mine],
                Objective(loss, reduction, strength.l2),
                classes,
                weights[mine],
                class_weight,
                tolerance=1e-13,
                intercept=intercept,
            )
            assert point.converged
            assert point.bound.rigorous
            room = sum(one.gap + one.rounding + one.error for one in (point.bound, alone.bound))
            assert abs(point.bound.value - alone.bound.value) <= room
            torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(point.point[:, -1], alone.intercept, rtol=1e-3, atol=1e-4)


def test_a_batch_of_sparse_rows_ends_where_products_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    features = (torch.arange(600).view(60, 10) % 7 % 3).double()
    rows = MemoryRows(of_scipy(csr_array(features.numpy())), (torch.arange(60) // 3) % 2)
    problem, folds = problem_of(rows, Objective("bce"), 2), torch.arange(60) % 3
    strengths = [Strength(10.0**-power) for power in range(5)]
    assert fits_in_ridge_batch(problem, rows, folds)
    monkeypatch.setitem(MAX_PRODUCTS, "diagonal", 1)
    monkeypatch.setattr("logreg.solvers.paths.ridge_folds.MAX_STEPS", 2)
    found = fit_ridge_folds(problem, rows, folds, [None, 0], strengths, 1e-9)
    assert len(found[0]) < len(strengths)
    paths = fit_folds(problem, rows, folds, strengths, 1e-9)
    assert all(point.converged for path in (paths.full, *paths.of_folds) for point in path)


@pytest.mark.long
def test_few_products_give_the_steps_of_a_softmax_path(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = load_digits(return_X_y=True)
    rows = MemoryRows(torch.from_numpy(X[:600]), torch.from_numpy(y[:600]))
    problem = problem_of(rows, Objective("cross_entropy", "sum", l2=1.0), 10)
    monkeypatch.setattr(PathFitter, "fit", None)  # the general solvers are not needed
    paths = fit_folds(problem, rows, torch.arange(600) % 5, [Strength(10 ** (2 - step / 4)) for step in range(9)])
    points = [point for path in (paths.full, *paths.of_folds) for point in path]
    assert all(point.converged for point in points)
    assert sum(point.passes for point in points) / len(points) < 20
