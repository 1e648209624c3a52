"""Small problems: the same optimum as by the general solvers, certified, whatever the loss and the data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective, Reduction
from logreg.rows import MemoryRows
from logreg.solvers.choose import is_small
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.small import small_newton
from logreg.solvers.small.small_logistic import SQUARES_MARGIN, SmallLogistic
from logreg.solvers.small.small_newton import solve_small, standardized_rows
from logreg.solvers.state import SolverState


def drawn(seed: int, rows: int = 80, features: int = 4, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Features (N, D) in float64, and labels of a logistic model in which every class has a row."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    noise = torch.rand(rows, classes, generator=draw, dtype=torch.float64)
    labels = (x @ torch.randn(features, classes, generator=draw, dtype=torch.float64) - (-noise.log()).log()).argmax(1)
    labels[:classes] = torch.arange(classes)
    return x, labels


def assert_same(features: Tensor, labels: Tensor, objective: Objective, rtol: float = 1e-6, **options: Any) -> None:
    """Both ways end at the same certified optimum."""
    classes = options.get("num_classes") or int(labels.max()) + 1
    weight = options.get("sample_weight")
    problem = problem_of(MemoryRows(features, labels, weight), objective, classes)
    assert is_small(problem, MemoryRows(features, labels))
    one = fit(features, labels, objective, tolerance=1e-13, **options)
    other = fit(features, labels, objective, tolerance=1e-12, optimizer="newton", **options)
    assert one.converged
    assert one.bound.rigorous
    assert one.bound.value == pytest.approx(other.bound.value, rel=2e-12)
    scale = float(other.coef.abs().max())
    torch.testing.assert_close(one.coef, other.coef, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(one.intercept, other.intercept, rtol=rtol, atol=rtol * max(scale, 1.0))


LOSSES = [("bce", 2), ("bce", 4), ("cross_entropy", 2), ("cross_entropy", 4)]


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_optimum_is_that_of_newton(loss: str, classes: int, reduction: Reduction, intercept: bool) -> None:
    for seed in range(5):
        features, labels = drawn(seed, classes=classes)
        l2 = 10.0 ** (seed - 5) * (80 if reduction == "sum" else 1)
        assert_same(features, labels, Objective(loss, reduction, l2=l2), intercept=intercept)


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
def test_weights_and_absent_classes_count(loss: str, classes: int) -> None:
    features, labels = drawn(1, classes=classes)
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(80, generator=draw, dtype=torch.float64) * (torch.rand(80, generator=draw) < 0.8)
    objective = Objective(loss, l2=0.01)
    assert_same(features, labels, objective, sample_weight=weight)
    assert_same(features, labels, objective, class_weight=[3.0] + [0.5] * (classes - 1))
    if classes > 2:  # the intercept of the absent class has no optimum: it falls without bound
        found = fit(features, labels, objective, classes + 1, tolerance=1e-9)
        assert found.converged
        assert found.bound.value == pytest.approx(
            fit(features, labels, objective, tolerance=1e-9).bound.value, rel=2e-9
        )


def test_columns_of_every_kind() -> None:
    features, labels = drawn(2)
    far = features.clone()
    far[:, 0] += 1e6  # stored shifted
    far[:, 1] *= 1e9
    far[:, 2] = 7.0
    far[:, 3] = far[:, 1]
    assert_same(far, labels, Objective("bce", l2=1e-3), rtol=1e-5)
    assert_same(features.float(), labels, Objective("bce", l2=1e-3))
    assert_same(torch.zeros(80, 3, dtype=torch.float64), labels, Objective("bce", l2=1e-3))
    assert_same(drawn(0, rows=20, features=60)[0], labels[:20], Objective("bce", l2=1e-3))


def test_no_standardized_column_has_a_mean_square_above_1() -> None:
    """Also where its deviation, of a few units, is tiny beside its weighted mean."""
    x, labels = drawn(1)
    x[:, 0] = torch.where(torch.arange(80) % 2 == 0, 0.0, 4e9 + 2 * x[:, 0])
    memory = MemoryRows(x, labels, torch.where(x[:, 0] == 0, 1e-20, 1.0))
    columns, weights, at = standardized_rows(problem_of(memory, Objective("bce", l2=0.1)), memory)
    assert float((columns.square() * weights).sum(0).max()) <= SQUARES_MARGIN
    torch.testing.assert_close(columns[:, 0], (x[:, 0] - at.center[0]) / at.scale[0])


def test_separated_rows_with_a_weak_penalty() -> None:
    features = torch.linspace(-1, 1, 40, dtype=torch.float64).unsqueeze(1)
    labels = (features[:, 0] > 0).long()
    assert_same(features, labels, Objective("bce", l2=1e-7), rtol=1e-4)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6, 1e-10])
def test_the_bound_is_at_least_the_gap(tolerance: float) -> None:
    for seed in range(20):
        features, labels = drawn(seed)
        objective = Objective("bce", l2=10.0 ** -(seed % 6))
        found = fit(features, labels, objective, tolerance=tolerance)
        best = fit(features, labels, objective, tolerance=1e-13)
        gap = found.bound.value - best.bound.value
        assert found.converged
        assert -2e-15 <= gap <= found.bound.gap + found.bound.rounding


def test_a_loose_tolerance_takes_fewer_evaluations() -> None:
    features, labels = drawn(0)
    passes = [fit(features, labels, Objective("bce", l2=1e-2), tolerance=t).passes for t in (1e-1, 1e-3, 1e-12)]
    assert passes == sorted(passes)
    assert passes[0] < passes[2]


@pytest.mark.parametrize("max_passes", [1, 2, 3])
def test_a_limit_of_passes_ends_a_fit(max_passes: int) -> None:
    features, labels = drawn(0)
    found = fit(features, labels, Objective("bce", l2=1e-4), tolerance=1e-12, max_passes=max_passes)
    assert found.passes == max_passes
    assert not found.converged
    assert found.bound.gap > 0


def test_a_step_that_increases_f_is_halved() -> None:
    # Newton's steps from zero overshoot where most rows are on one side.
    features = torch.tensor([[-1.0], [0.5], [1.0], [40.0], [41.0], [-39.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 1, 1, 0])
    assert_same(features, labels, Objective("bce", l2=1e-9), rtol=1e-4)


def test_what_newton_cannot_end_goes_on_with_the_general_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallLogistic, "newton_step", lambda *_: None)
    features, labels = drawn(0)
    kinds: list[str] = []
    found = fit(features, labels, Objective("bce", l2=1e-2), watch=lambda _, one: kinds.append(type(one).__name__))
    assert found.converged
    assert found.passes == 1 + sum(kind != "RowSample" for kind in kinds)
    assert math.isfinite(found.bound.gap)


@pytest.mark.parametrize(
    "objective",
    [Objective("bce"), Objective("cross_entropy")],
)
def test_problems_without_a_penalty_are_for_the_general_solvers(objective: Objective) -> None:
    features, labels = drawn(0)
    rows = MemoryRows(features, labels)
    assert not is_small(problem_of(rows, objective), rows)


def test_a_gap_below_rounding_is_left_to_the_general_solver() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=draw, dtype=torch.float64)
    features[:, 0] += 1e6
    found = fit(features * 1e6, torch.arange(60) % 2, Objective("bce", l2=1e-6), intercept=False)
    assert found.converged
    assert found.passes < 100


def test_a_constant_column_of_any_size_has_coefficient_zero() -> None:
    features, labels = torch.full((3, 1), -44595361743.24037).double(), torch.tensor([0, 1, 0])
    found = fit(features, labels, Objective("cross_entropy", "sum", l2=5e-4), tolerance=1e-9)
    assert found.converged
    assert found.passes < 10
    assert not found.coef.any()
    assert found.bound.value == pytest.approx(3 * math.log(3) - 2 * math.log(2), rel=1e-14)


def test_steps_without_progress_end_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallLogistic, "bound", lambda *_: None)  # not certified for its rounding errors
    features, labels = torch.ones(4, 1).double(), torch.arange(4) % 2  # the optimum is the start
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, Objective("bce", l2=1.0))
    state = SolverState(problem, problem.zeros(), 1e-6)
    assert solve_small(state, rows, 1000) == small_newton.MAX_STALLED_STEPS + 1
