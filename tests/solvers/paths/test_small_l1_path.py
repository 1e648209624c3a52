"""Several strengths of l1 from one model: the optima of separate fits, each certified."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.special import xlogy
from sklearn.linear_model import LogisticRegression

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.bounds.batch_bounds import BatchBound, bound_at_dual_points
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.l1_model import minimize_for_strengths, minimize_model
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.paths.small_l1_path import fit_small_l1_path, fits_several_at_once
from logreg.solvers.paths.strength_models import Ends, Points, StrengthModels
from logreg.solvers.small.small_l1 import clipped_dual


def table(classes: int, size: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of features in several units, with dependent columns; labels and weights, some of which are 0."""
    draw = np.random.default_rng(classes)
    x = draw.normal(size=(150, 12))
    x[:, 2] = x[:, 0] + x[:, 1]
    y = (size * x @ draw.normal(size=(12, classes)) + draw.gumbel(size=(150, classes))).argmax(1)
    weights = draw.uniform(0, 3, size=150)
    weights[:3] = 0.0
    x = x * 10 ** draw.uniform(-2, 2, size=12) + 5
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weights)


@pytest.mark.parametrize("order", ["descending", "ascending", "one"])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize(
    ("classes", "reduction", "weighted"), [(2, "mean", False), (2, "sum", True), (3, "mean", True)]
)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_each_point_is_as_near_to_its_optimum_as_its_bound(
    tolerance: float, classes: int, reduction: Literal["mean", "sum"], weighted: bool, ratio: float, order: str
) -> None:
    x, y, weights = table(classes)
    own = weights if weighted else None
    rows = MemoryRows(x, y, own)
    problem = problem_of(rows, Objective("bce", reduction=reduction), classes)
    largest = (150 if reduction == "sum" else 1) * 10.0
    values = np.geomspace(largest, largest * 1e-4, 30)
    values = {"descending": values, "ascending": values[::-1][:10], "one": values[-1:]}[order]
    strengths = [Strength((1 - ratio) * one, ratio * one) for one in values.tolist()]
    assert fits_several_at_once(problem, rows, tolerance)
    points = fit_small_l1_path(problem, rows, strengths, tolerance, problem.zeros())
    assert [Strength(point.l2, point.l1) for point in points] == strengths
    for point in points:
        assert point.converged
        assert point.bound.rigorous
    for point in points[:: max(len(points) // 4, 1)]:
        objective = Objective("bce", l1=point.l1, l2=point.l2, reduction=reduction)
        alone = fit(x, y, objective, classes, own, tolerance=1e-10)
        excess = point.bound.value - alone.bound.value
        assert -2e-10 * alone.bound.value <= excess
        assert excess <= point.bound.gap + point.bound.rounding + 1e-10 * alone.bound.value
        # The value is that of the stored point.
        solo = problem_of(rows, objective, classes)
        logits = (x - solo.model.center) / solo.model.scale @ point.point[:, :-1].T + point.point[:, -1]
        terms = solo.loss.evaluate(logits, y).value
        loss = (terms if own is None else terms * own).sum() / (1 if reduction == "sum" else solo.total_weight)
        coef = point.point[:, :-1] / solo.model.scale
        penalty = point.l1 * coef.abs().sum() + point.l2 / 2 * coef.square().sum()
        assert float(loss + penalty) == pytest.approx(point.bound.value, rel=1e-10)


@pytest.mark.long
@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_offsets_are_known_terms_of_the_logits(ratio: float) -> None:
    x, y, weights = table(2)
    offset = torch.linspace(-6, 5, len(y), dtype=torch.float64)[torch.arange(len(y)) * 7 % len(y)]
    rows = MemoryRows(x, y, weights, offset)
    problem = problem_of(rows, Objective("bce"))
    strengths = [Strength((1 - ratio) * one, ratio * one) for one in np.geomspace(10, 1e-2, 20).tolist()]
    assert fits_several_at_once(problem, rows, 1e-7)
    for point in fit_small_l1_path(problem, rows, strengths, 1e-7, problem.zeros()):
        assert point.converged
        assert point.bound.rigorous
        objective = Objective("bce", l1=point.l1, l2=point.l2)
        alone = fit(x, y, objective, 2, weights, tolerance=1e-10, offset=offset)
        excess = point.bound.value - alone.bound.value
        assert -2e-10 * alone.bound.value <= excess
        assert excess <= point.bound.gap + point.bound.rounding + 1e-10 * alone.bound.value


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_coefficients_and_objectives_are_those_of_scikit_learn_and_of_each_fit_alone(ratio: float) -> None:
    draw = np.random.default_rng(4)
    x = draw.normal(size=(120, 6)) @ (np.eye(6) + 0.3)
    y = (x[:, :3].sum(1) + 2 * draw.logistic(size=120) > 0).astype(int)
    rows = MemoryRows(torch.from_numpy(x), torch.from_numpy(y))
    problem, values = problem_of(rows, Objective("bce")), np.geomspace(0.3, 3e-3, 12)
    strengths = [Strength((1 - ratio) * one, ratio * one) for one in values.tolist()]
    points = fit_small_l1_path(problem, rows, strengths, 1e-9, problem.zeros())
    for size, point in zip(values, points, strict=True):
        objective = Objective("bce", l1=point.l1, l2=point.l2)
        theirs = LogisticRegression(C=1 / (120 * size), l1_ratio=ratio, solver="saga", tol=1e-13, max_iter=200_000)
        theirs.fit(x, y)
        coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
        value = float(objective.value(rows.features, rows.labels.double().unsqueeze(1), coef, intercept))
        assert point.bound.value == pytest.approx(value, rel=1.1e-9)
        torch.testing.assert_close(point.point[:, :-1], coef, rtol=0, atol=2e-5)
        assert torch.equal(point.point[:, :-1] == 0, coef == 0)
        alone = fit(rows.features, rows.labels, objective, tolerance=1e-9)
        assert point.bound.value == pytest.approx(alone.bound.value, rel=1e-9)
        torch.testing.assert_close(point.point[:, :-1], alone.coef, rtol=0, atol=1e-4)


def test_a_loose_tolerance_takes_few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = table(2)
    rows, models, minima = MemoryRows(x, y), [], StrengthModels.minima
    problem = problem_of(rows, Objective("bce"))

    def counted(self: StrengthModels, now: Points, center: int, which: np.ndarray) -> np.ndarray:
        models.append(len(which))
        return minima(self, now, center, which)

    monkeypatch.setattr(StrengthModels, "minima", counted)
    strengths = [Strength(l1=one) for one in np.geomspace(10, 0.1, 60).tolist()]
    numbers = {}
    for tolerance in (1e-3, 1e-8):
        models.clear()
        fit_small_l1_path(problem, rows, strengths, tolerance, problem.zeros())
        numbers[tolerance] = len(models)
    assert numbers[1e-3] <= 20
    assert numbers[1e-8] >= 2 * numbers[1e-3]


def test_a_step_that_increases_f_is_halved() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    models = StrengthModels(problem_of(rows, Objective("bce")), rows, [Strength(l1=1e-3)])
    which, passes = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    start = models.evaluate(np.zeros((1, 1, 13)))
    far = models.evaluate(100 * models.minima(start, 0, which))
    end = models.lowered(start, far, which, passes)
    value, before, beyond = (float(models.values(one, which)[0]) for one in (end, start, far))
    assert value < before < beyond
    assert passes[0] >= 1


def test_a_dual_point_that_is_nowhere_within_its_range_leaves_f_as_the_gap() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    models = StrengthModels(problem_of(rows, Objective("bce")), rows, [Strength(l1=1e-3)])
    which, start = np.zeros(1, dtype=np.int64), models.evaluate(np.zeros((1, 1, 13)))
    far = start._replace(negated=start.negated - 8)  # each probability is predicted as 1 / 2 - 8 / 4
    dual = models.gaps(start, far, which)
    assert not dual.sums.any()
    assert dual.gap.tolist() == pytest.approx(models.values(far, which).tolist())


def test_a_dual_point_that_no_move_within_its_range_balances_is_0() -> None:
    x, y, _ = table(2)
    problem, is_one = problem_of(MemoryRows(x, y), Objective("bce")), y.numpy()[None] == 1
    minus_sign, weights = np.where(is_one, -1.0, 1.0), np.full(len(y), 1 / len(y))
    q = np.where(is_one, 1.0, 0.01)  # those of 1 cannot move, and the others not far enough
    assert not clipped_dual(problem, q, minus_sign, weights).any()
    moved = clipped_dual(problem, np.where(is_one, 0.5, 0.4), minus_sign, weights)
    assert ((moved > 0) & (moved < 1)).all()
    assert np.abs((moved * minus_sign) @ weights).max() < 1e-15


def test_predicted_dual_points_are_feasible() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    strengths = [Strength(l1=one) for one in (0.1, 0.01, 0.001)]
    problem = problem_of(rows, Objective("bce"))
    models = StrengthModels(problem, rows, strengths)
    which, start = np.arange(3), models.evaluate(np.zeros((1, 1, 13)))
    new = models.evaluate(models.minima(start, 0, which))
    predicted = start.wrong + start.curvature * (new.negated - start.negated)
    assert ((predicted < 0) | (predicted > 1)).any()
    moved = clipped_dual(problem, predicted, models._minus_sign, models._weights)
    assert ((moved >= 0) & (moved <= 1)).all()
    before = models._sums(moved * models._signed)
    sums = models.gaps(start, new, which).sums
    assert (np.abs(before[..., :-1]) > models._l1[:, None, :-1]).any()
    assert (np.abs(sums[..., :-1]) <= models._l1[:, None, :-1]).all()
    # of the intercept
    assert np.abs(models._sums(np.clip(predicted, 0, 1) * models._signed)[..., -1]).max() > 1e-3
    assert np.abs(sums[..., -1]).max() < 1e-15


def test_the_gap_of_a_predicted_dual_point_is_that_of_its_definition() -> None:
    x, y, weights = table(2)
    rows = MemoryRows(x, y, weights)
    for l2 in (0.0, 0.05):
        models = StrengthModels(problem_of(rows, Objective("bce")), rows, [Strength(l2, one) for one in (0.1, 0.03)])
        which, start = np.arange(2), models.evaluate(np.zeros((1, 1, 13)))
        for _ in range(3):
            start = models.evaluate(models.minima(start, 0, which[:1]))
        new = models.evaluate(models.minima(start, 0, which))
        dual = models.gaps(start, new, which)
        bound = models.bounds([Ends.of(new, models.values(new, which), dual, 2)])
        q = start.wrong + start.curvature * (new.negated - start.negated)
        q = clipped_dual(models._problem, q, models._minus_sign, models._weights)
        scale = np.maximum(np.abs(models._sums(q * models._signed)[..., :-1] / models._l1[:, None, :-1]).max(2), 1.0)
        q = (q if l2 else q / scale[..., None])[:, 0]
        entropy = -xlogy(q, q) - xlogy(1 - q, 1 - q)
        slopes = np.abs(models._sums(q[:, None] * models._signed)[:, 0, :-1])
        beyond = np.maximum(slopes - models._l1[:, :-1], 0.0)
        conjugate = (beyond**2 / (2 * models._l2[:, :-1])).sum(1) if l2 else 0.0
        gap = models.values(new, which) - entropy @ models._weights + conjugate
        assert gap.max() > 1e-6
        assert bound.gap[:, 0].tolist() == pytest.approx(gap.tolist(), rel=1e-9, abs=1e-12)
        assert bool((bound.rounding < 1e-8 * bound.value).all())


def test_the_rounding_of_a_stored_point_counts_with_the_gradient_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # A bound by a predicted dual point differs in this alone from one by the point's own.
    x, y, _ = table(2)
    rows, pairs = MemoryRows(x, y), list[list[BatchBound]]()
    bound: Any = bound_at_dual_points

    def both(*arguments: Any, predicted: bool) -> BatchBound:
        pairs.append([bound(*arguments, predicted=of) for of in (False, predicted)])
        return pairs[-1][1]

    monkeypatch.setattr("logreg.solvers.paths.strength_models.bound_at_dual_points", both)
    problem = problem_of(rows, Objective("bce"))
    fit_small_l1_path(problem, rows, [Strength(l1=one) for one in (0.1, 0.03, 0.01)], 1e-2, problem.zeros())
    ((own, predicted),) = pairs
    assert torch.equal(own.gap, predicted.gap)
    assert bool((predicted.rounding > own.rounding).all())


def test_a_minimum_that_is_not_finite_is_none() -> None:
    h, g, u, l1 = np.full((1, 1), 1e-310), np.ones(1), np.zeros(1), np.full((2, 1), 0.5)
    assert minimize_for_strengths(h, g, u, l1) is None


def test_minima_of_one_model_for_several_strengths_are_those_of_each() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(40, 15)) + draw.normal(size=(40, 1))
    h, g, u = rows.T @ rows / 40, draw.normal(size=15), np.where(draw.random(15) < 0.5, draw.normal(size=15), 0.0)
    own = np.where(np.arange(15) == 14, 0.0, draw.uniform(0.5, 2, size=15))
    strengths = np.geomspace(1, 1e-3, 12)[:, None] * own
    found = minimize_for_strengths(h, g, u, strengths)
    assert found is not None
    for mine, l1 in zip(found, strengths, strict=True):
        np.testing.assert_allclose(mine, minimize_model(h, g, u, l1).point, atol=1e-9)
