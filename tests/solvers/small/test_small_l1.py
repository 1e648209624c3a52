"""Small problems with l1: the same optimum as by the general solver, certified, whatever the loss and the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective, Reduction
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound, EvaluatedPoint
from logreg.solvers.bounds.duality import DualPoint, bound_at_dual_point
from logreg.solvers.bounds.logistic_bound import bound_by_dual_point
from logreg.solvers.choose import is_small
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.kernels import Array
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.evaluate import Derivatives, InterceptCurvature
from logreg.solvers.passes.precise import accumulated
from logreg.solvers.small import small_l1
from logreg.solvers.small.small_l1 import solve_small_l1
from logreg.solvers.small.small_logistic import SQUARES_MARGIN, LogisticEvaluation
from logreg.solvers.small.small_newton import padded, standardized_rows
from logreg.solvers.state import SolverState
from reference import Reference

LOSSES = [("bce", 2), ("bce", 4), ("cross_entropy", 2), ("cross_entropy", 4)]


def drawn(seed: int, rows: int = 80, features: int = 9, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Features (N, D) with a mean of 1, and labels that depend on three of them; every class has a row."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64) + 1
    noise = torch.rand(rows, classes, generator=draw, dtype=torch.float64)
    slopes = torch.randn(3, classes, generator=draw, dtype=torch.float64)
    labels = (x[:, :3] @ slopes - (-noise.log()).log()).argmax(1)
    labels[:classes] = torch.arange(classes)
    return x, labels


def solved(features: Tensor, labels: Tensor, objective: Objective, tolerance: float, **options: Any) -> SolverState:
    """The state after `solve_small_l1` alone."""
    rows = MemoryRows(features, labels, options.pop("sample_weight", None))
    problem = problem_of(rows, objective, int(labels.max()) + 1, **options)
    assert is_small(problem, rows)
    state = SolverState(problem, problem.zeros(), tolerance)
    solve_small_l1(state, rows, 1000)
    return state


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_the_optimum_is_that_of_the_general_solver(
    loss: str, classes: int, reduction: Reduction, intercept: bool, l2: float
) -> None:
    for seed, l1 in enumerate((1e-3, 1e-2, 5e-2)):
        features, labels = drawn(seed, classes=classes)
        size = 80 if reduction == "sum" else 1
        objective = Objective(loss, reduction, l1=l1 * size, l2=l2 * size)
        state = solved(features, labels, objective, 1e-8, intercept=intercept)
        other = fit(features, labels, objective, tolerance=1e-12, optimizer="newton", intercept=intercept)
        assert state.converged
        assert state.bound is not None
        assert state.bound.rigorous
        assert state.bound.value == pytest.approx(other.bound.value, rel=1e-8)
        assert torch.equal(state.solution[:, :-1] != 0, other.coef != 0)


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
def test_weights_of_rows_and_classes_count_as_in_the_general_solver(loss: str, classes: int) -> None:
    features, labels = drawn(1, classes=classes)
    weight = 3 * torch.rand(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square()
    objective, of_classes = Objective(loss, l1=0.01), [2.0] + [0.5] * (classes - 1)
    state = solved(features, labels, objective, 1e-9, sample_weight=weight, class_weight=of_classes)
    every = weight * torch.tensor(of_classes, dtype=torch.float64)[labels]
    other = fit(features, labels, objective, sample_weight=every, tolerance=1e-11, optimizer="newton")
    assert state.converged
    assert state.bound is not None
    assert state.bound.value == pytest.approx(other.bound.value, rel=2e-9)


def test_it_is_the_optimum_of_another_program() -> None:
    features, labels = drawn(3)
    objective = Objective("bce", l1=0.03)
    found = fit(features, labels, objective, tolerance=1e-10)
    least = Reference(features, labels, objective, 2).minimum
    assert found.converged
    assert found.bound.value == pytest.approx(least.value, rel=1e-9)
    torch.testing.assert_close(found.coef, torch.from_numpy(least.coef), rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6, 1e-9])
def test_the_gap_holds_at_every_tolerance(tolerance: float) -> None:
    for seed in range(10):
        features, labels = drawn(seed)
        objective = Objective("bce", l1=0.1 ** (1 + seed % 3))
        state = solved(features, labels, objective, tolerance)
        best = fit(features, labels, objective, tolerance=1e-13, optimizer="newton")
        assert state.bound is not None
        gap = state.bound.value - best.bound.value
        assert -1e-14 <= gap <= state.bound.gap + state.bound.rounding <= tolerance * state.bound.value


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_the_bound_in_numpy_is_that_of_torch(
    classes: int, intercept: bool, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = drawn(0, classes=classes)
    source = MemoryRows(features, labels, torch.rand(80, generator=torch.Generator().manual_seed(0)).double())
    problem = problem_of(source, Objective("bce", l1=1e-2, l2=l2), classes, intercept=intercept)
    rows, weights, coordinates = standardized_rows(problem, source)
    small = small_l1.LogisticL1(problem, rows, labels, weights, coordinates)
    point = np.zeros((problem.num_outputs, rows.shape[1]))
    for _ in range(3):
        before = small.evaluate(point)
        point, _ = small.model_minimum(before, point)
    now, dual = small.evaluate(point), list[Any]()

    def watched(*arguments: Any) -> Bound | None:
        dual.extend(arguments)
        return bound_by_dual_point(*arguments)

    monkeypatch.setattr(small_l1, "bound_by_dual_point", watched)
    ours = small.gap_bound(point, now, before, math.inf)
    assert ours is not None
    dual_at, sums, excess, rounding, _ = dual
    assert rounding >= accumulated(80) * now.loss  # sums over the rows cancel in the excess
    spread = torch.from_numpy(dual_at.own)
    tensors = (padded(problem, torch.from_numpy(part)) for part in (point, now.gradient, sums))
    at_point, gradient, of_dual = tensors
    evaluation = Derivatives(now.value, gradient, InterceptCurvature(spread, spread), now.loss)
    largest = padded(problem, rows.abs().amax(0))
    squares = torch.where(largest > 0, problem.row_sum_scale * problem.total_weight * SQUARES_MARGIN, 0.0).double()
    at = EvaluatedPoint(problem, coordinates, at_point, evaluation, squares, largest)
    theirs = drive(bound_at_dual_point(at, coordinates, DualPoint(of_dual, 1.0, excess, rounding)), source)
    assert ours.value == pytest.approx(theirs.value, rel=1e-13)
    assert ours.gap == pytest.approx(theirs.gap, rel=1e-9)
    assert ours.rounding == pytest.approx(theirs.rounding, rel=1e-6, abs=0)
    assert theirs.error <= ours.error <= 1.1 * theirs.error  # the penalty is one sum over all outputs
    torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_bound_holds_where_a_prediction_is_no_probability(classes: int, intercept: bool) -> None:
    clipped = 0
    for seed in range(10):
        features, labels = drawn(seed, classes=classes)
        source, objective = MemoryRows(features, labels), Objective("bce", l1=1e-4)
        problem = problem_of(source, objective, classes, intercept=intercept)
        rows, weights, coordinates = standardized_rows(problem, source)
        small = small_l1.LogisticL1(problem, rows, labels, weights, coordinates)
        least = fit(features, labels, objective, tolerance=1e-10, optimizer="newton", intercept=intercept).bound.value
        point = np.zeros((problem.num_outputs, rows.shape[1]))
        for _ in range(4):
            before = small.evaluate(point)
            point, _ = small.model_minimum(before, point)
            now = small.evaluate(point)
            q = before.wrong + before.wrong * (1 - before.wrong) * (now.negated - before.negated)
            bound = small.gap_bound(point, now, before, math.inf)
            assert bound is not None
            assert bound.gap + bound.rounding >= now.value - least - 1e-9
            if bool((q < 0).any() or (q > 1).any()):
                clipped += 1
                assert bound.rounding < 1e-7  # the sums over the rows are 0 up to rounding
    assert clipped > 10


def test_a_loose_tolerance_takes_fewer_evaluations() -> None:
    features, labels = drawn(0)
    passes = [fit(features, labels, Objective("bce", l1=1e-3), tolerance=t).passes for t in (1e-1, 1e-3, 1e-10)]
    assert passes == sorted(passes)
    assert passes[0] < passes[2]


def test_columns_of_every_kind() -> None:
    features, labels = drawn(2)
    features[:, 4] = 7.0
    features[:, 5] = features[:, 0]
    features[:, 6] = features[:, 0] + features[:, 1]
    features[:, 7] *= 1e6
    objective = Objective("bce", l1=1e-3)
    found = fit(
        features, labels, objective, tolerance=1e-8
    )  # by the general solver in the end, since rounding is large
    best = fit(features, labels, objective, tolerance=1e-11, optimizer="newton")
    assert found.converged
    assert found.bound.value == pytest.approx(best.bound.value, rel=2e-8)


def test_a_strength_at_which_all_coefficients_are_zero() -> None:
    features, labels = drawn(0)
    found = fit(features, labels, Objective("bce", l1=10.0))
    share = float(labels.double().mean())
    assert found.converged
    assert not found.coef.any()
    assert float(found.intercept) == pytest.approx(torch.tensor(share).logit().item(), rel=1e-4)


def test_without_an_intercept_all_zeros_are_certified() -> None:
    features, labels = drawn(0)
    found = fit(features, labels, Objective("bce", l1=10.0), intercept=False)
    assert found.converged
    assert not found.coef.any()
    assert found.bound.value == pytest.approx(torch.tensor(2.0).log().item())


def test_a_step_that_increases_f_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(0)
    minimum, lengths = small_l1.LogisticL1.model_minimum, []

    def beyond(self: small_l1.LogisticL1, now: LogisticEvaluation, point: Array) -> tuple[Array, float]:
        target, decrease = minimum(self, now, point)
        lengths.append(float(abs(target - point).max()))
        return point + 8 * (target - point), decrease

    monkeypatch.setattr(small_l1.LogisticL1, "model_minimum", beyond)
    state = solved(features, labels, Objective("bce", l1=1e-2), 1e-6)
    best = fit(features, labels, Objective("bce", l1=1e-2), tolerance=1e-10, optimizer="newton")
    assert len(lengths) > 1
    assert state.value == pytest.approx(best.bound.value, rel=1e-3)


@pytest.mark.parametrize("max_passes", [1, 2, 3])
def test_a_limit_of_passes_ends_a_fit(max_passes: int) -> None:
    features, labels = drawn(0)
    found = fit(features, labels, Objective("bce", l1=1e-4), tolerance=1e-9, max_passes=max_passes)
    assert found.passes == max_passes
    assert not found.converged
    assert found.bound.gap > 0


def test_what_it_cannot_end_goes_on_with_the_general_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_l1.LogisticL1, "model_minimum", lambda self, now, point: (point, 0.0))
    features, labels = drawn(0)
    kinds: list[str] = []
    found = fit(features, labels, Objective("bce", l1=1e-2), watch=lambda _, one: kinds.append(type(one).__name__))
    assert found.converged
    assert "TryStep" in kinds


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_rows_of_one_class_alone_have_no_optimum(loss: str) -> None:
    features, labels = drawn(0)
    found = fit(features, labels, Objective(loss, l1=1e-3), sample_weight=(labels == 1).double())
    assert not found.converged  # f tends to 0 as the intercept grows
    assert not found.coef.any()
    assert 0 < found.bound.value < 1e-10
    assert found.bound.gap >= found.bound.value


@pytest.mark.parametrize(("loss", "classes"), LOSSES)
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_derivatives_along_a_step_are_differences_of_f(loss: str, classes: int, l2: float, intercept: bool) -> None:
    features, labels = drawn(3, classes=classes)
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, Objective(loss, l1=0.1, l2=l2), classes, intercept=intercept)
    kind: Any = small_l1.SoftmaxL1 if problem.coupled else small_l1.LogisticL1
    standardized, weights, coordinates = standardized_rows(problem, rows)
    small = kind(problem, standardized, labels, weights, coordinates)
    draw = np.random.default_rng(0)
    start, end = draw.normal(size=(2, problem.num_outputs, standardized.shape[1]))
    end[:, 0] = start[:, 0] = 0.0
    slope, curvature = small.along(small.evaluate(start), small.evaluate(end), start, end)
    size = 1e-4
    before, here, after = (small.evaluate(end + size * sign * (end - start)).value for sign in (-1, 0, 1))
    assert slope == pytest.approx((after - before) / (2 * size), rel=1e-5)
    assert curvature == pytest.approx((after - 2 * here + before) / size**2, rel=1e-3)


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("cross_entropy", 3)])
def test_a_step_goes_on_where_the_loss_flattens(loss: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(1, rows=200, classes=classes)
    features[:, :3] *= 4  # nearly separable: the curvature falls fast
    labels = (features[:, :3] @ torch.eye(3, classes, dtype=torch.float64)).argmax(1)
    models = 0
    kind = small_l1.SoftmaxL1 if loss == "cross_entropy" else small_l1.LogisticL1
    minimum = kind.model_minimum

    def counted(self: Any, now: Any, point: Array) -> tuple[Array, float]:
        nonlocal models
        models += 1
        return minimum(self, now, point)

    monkeypatch.setattr(kind, "model_minimum", counted)
    objective = Objective(loss, l1=1e-3)
    state = solved(features, labels, objective, 1e-6)
    longer, models = models, 0
    monkeypatch.setattr(small_l1, "MIN_LONGER_DECREASE", math.inf)
    other = solved(features, labels, objective, 1e-6)
    assert state.converged
    assert other.converged
    assert state.bound is not None
    assert other.bound is not None
    assert state.bound.value == pytest.approx(other.bound.value, rel=1e-6)
    assert longer <= models - 2


@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("cross_entropy", 3)])
@pytest.mark.parametrize("further", [2.0, 1e6])
def test_a_longer_step_keeps_zeros_and_signs_and_is_not_taken_where_f_is_larger(
    further: float, loss: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = drawn(1, rows=200, classes=classes)
    kind = small_l1.SoftmaxL1 if loss == "cross_entropy" else small_l1.LogisticL1
    minimum, evaluate, targets, longer = kind.model_minimum, kind.evaluate, list[Array](), list[Array]()

    def seen(self: Any, now: Any, point: Array) -> tuple[Array, float]:
        found = minimum(self, now, point)
        targets.append(found[0])
        return found

    def along(self: Any, before: Any, now: Any, start: Array, end: Array) -> tuple[float, float]:
        longer.append(end)
        return -further, 1.0

    def next_point(self: Any, point: Array) -> Any:
        if longer and longer[-1] is targets[-1]:  # the point after `along`
            longer[-1] = point
            signs = np.sign(targets[-1][:, :-1])
            assert bool(((point[:, :-1] == 0) | (np.sign(point[:, :-1]) == signs)).all())
        return evaluate(self, point)

    objective = Objective(loss, l1=1e-2)
    plain = solved(features, labels, objective, 1e-6)
    for name, value in (("model_minimum", seen), ("along", along), ("evaluate", next_point)):
        monkeypatch.setattr(kind, name, value)
    state = solved(features, labels, objective, 1e-6)
    assert longer
    assert state.converged
    assert plain.bound is not None
    assert state.bound is not None
    assert state.bound.value == pytest.approx(plain.bound.value, rel=1e-6)
    assert len(targets) < 12
