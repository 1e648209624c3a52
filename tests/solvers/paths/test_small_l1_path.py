"""Several strengths of l1 from one model: the optima of separate fits, each certified."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.l1_model import minimize_for_strengths, minimize_model
from logreg.solvers.paths import small_l1_path
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.paths.small_l1_path import fit_small_l1_path, fits_several_at_once


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
    points = fit_small_l1_path(problem, rows, strengths, tolerance)
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


def test_a_loose_tolerance_takes_few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = table(2)
    rows, models, minima = MemoryRows(x, y), [], small_l1_path._Path._minima
    problem = problem_of(rows, Objective("bce"))

    def counted(self: small_l1_path._Path, now: small_l1_path._Points, center: int, which: np.ndarray) -> np.ndarray:
        models.append(len(which))
        return minima(self, now, center, which)

    monkeypatch.setattr(small_l1_path._Path, "_minima", counted)
    strengths = [Strength(l1=one) for one in np.geomspace(10, 0.1, 60).tolist()]
    numbers = {}
    for tolerance in (1e-3, 1e-8):
        models.clear()
        fit_small_l1_path(problem, rows, strengths, tolerance)
        numbers[tolerance] = len(models)
    assert numbers[1e-3] <= 20
    assert numbers[1e-8] >= 2 * numbers[1e-3]


def test_bounds_are_the_same_whether_computed_together_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = table(3)
    rows = MemoryRows(x, y)
    problem = problem_of(rows, Objective("bce"), 3)
    strengths = [Strength(l1=one) for one in np.geomspace(10, 0.01, 20).tolist()]
    together = fit_small_l1_path(problem, rows, strengths, 1e-6)
    monkeypatch.setattr(small_l1_path, "MAX_BOUND_NUMBERS", 1)
    for one, other in zip(together, fit_small_l1_path(problem, rows, strengths, 1e-6), strict=True):
        torch.testing.assert_close(other.point, one.point)
        assert other.bound.gap == pytest.approx(one.bound.gap, rel=1e-6, abs=1e-14)


def test_a_step_that_increases_f_is_halved() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    path = small_l1_path._Path(problem_of(rows, Objective("bce")), rows, [Strength(l1=1e-3)], 1e-6)
    which = np.zeros(1, dtype=np.int64)
    start = path._evaluate(np.zeros((1, 1, 13)))
    far = path._evaluate(100 * path._minima(start, 0, which))
    end = path._lower(start, far, which)
    value, before, beyond = (float(path._values(one.loss, one.point, which)[0]) for one in (end, start, far))
    assert value < before < beyond
    assert path.passes[0] >= 1


def test_a_dual_point_that_is_nowhere_within_its_range_leaves_f_as_the_gap() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    path = small_l1_path._Path(problem_of(rows, Objective("bce")), rows, [Strength(l1=1e-3)], 1e-6)
    which, start = np.zeros(1, dtype=np.int64), path._evaluate(np.zeros((1, 1, 13)))
    far = start._replace(negated=start.negated - 8)  # each probability is predicted as 1 / 2 - 8 / 4
    gap, dual = path._gaps(start, far, which)
    assert not dual.any()
    assert gap.tolist() == pytest.approx(path._values(far.loss, far.point, which).tolist())


def test_predicted_dual_points_are_feasible() -> None:
    x, y, _ = table(2)
    rows = MemoryRows(x, y)
    strengths = [Strength(l1=one) for one in (0.1, 0.01, 0.001)]
    path = small_l1_path._Path(problem_of(rows, Objective("bce")), rows, strengths, 1e-6)
    which, start = np.arange(3), path._evaluate(np.zeros((1, 1, 13)))
    new = path._evaluate(path._minima(start, 0, which))
    predicted = start.wrong + start.curvature * (new.negated - start.negated)
    clipped = np.clip(predicted, 0.0, 1.0)
    assert (clipped != predicted).any()
    _, dual = path._gaps(start, new, which)
    sums, before = ((one * path._signed) @ path._columns.T for one in (dual, clipped))
    assert (np.abs(sums[..., :-1]) <= path._l1[:, None, :-1] * (1 + 1e-12)).all()
    assert (np.abs(before[..., :-1]) > path._l1[:, None, :-1]).any()
    # of the intercept: what is left is of second order
    assert (np.abs(sums[..., -1]) / dual.sum(2)).max() <= (np.abs(before[..., -1]) / clipped.sum(2)).max() / 10


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
