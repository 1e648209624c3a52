"""Small problems with a softmax: scikit-learn's optimum, exact steps by every preconditioner, and bounds that hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.choose import is_small
from logreg.solvers.fit import Fit, fit, problem_of
from logreg.solvers.small import small_softmax
from logreg.solvers.small.small_newton import solve_small, standardized_rows
from logreg.solvers.small.small_softmax import SmallSoftmax
from logreg.solvers.state import SolverState

ROWS = 300


def drawn(seed: int, features: int = 12, classes: int = 4, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Correlated features (N, D) in float64, and labels of a softmax in which every class has a row."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, features, generator=draw, dtype=torch.float64)
    x = x @ torch.randn(features, features, generator=draw, dtype=torch.float64) + 1
    scores = x @ torch.randn(features, classes, generator=draw, dtype=torch.float64)
    gumbel = -(-torch.rand(ROWS, classes, generator=draw, dtype=torch.float64).log()).log()
    labels = (scores + noise * gumbel).argmax(1)
    labels[:classes] = torch.arange(classes)
    return x, labels


def small(features: Tensor, labels: Tensor, l2: float, **options: Any) -> tuple[SmallSoftmax, Tensor]:
    """The rows of a small problem, and a point away from its optimum, (K, P)."""
    source = MemoryRows(features, labels)
    problem = problem_of(source, Objective("cross_entropy", l2=l2), **options)
    assert is_small(problem, source)
    rows, weights, coordinates = standardized_rows(problem, source)
    point = torch.randn(problem.num_outputs, rows.shape[1], generator=torch.Generator().manual_seed(9)).double()
    return SmallSoftmax(problem, rows, labels, weights, coordinates), 0.2 * (point - point.mean(0))


def solved_alone(
    features: Tensor, labels: Tensor, objective: Objective, tolerance: float = 1e-12, start: Tensor | None = None
) -> SolverState:
    """The state after `solve_small` alone."""
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, objective)
    state = SolverState(problem, problem.zeros() if start is None else start, tolerance)
    solve_small(state, rows, 1000)
    return state


def assert_as_scikit_learn(
    features: Tensor, labels: Tensor, l2: float, weight: Tensor | None = None, rtol: float = 1e-5, **options: Any
) -> Fit:
    """Coefficients and objective are those of scikit-learn's newton-cg, after which no step decreases f further."""
    intercept, class_weight = options.get("intercept", True), options.get("class_weight")
    found = fit(features, labels, Objective("cross_entropy", l2=l2), sample_weight=weight, tolerance=1e-13, **options)
    assert found.converged
    assert found.bound.rigorous
    rows = torch.ones(len(labels)).double() if weight is None else weight
    rows = rows if class_weight is None else rows * torch.tensor(class_weight, dtype=torch.float64)[labels]
    total = float(rows.sum())
    theirs = LogisticRegression(
        C=1 / (l2 * total), solver="newton-cg", tol=1e-9, max_iter=10_000, fit_intercept=intercept
    ).fit(features.numpy(), labels.numpy(), sample_weight=rows.numpy())
    coef, offset = torch.from_numpy(theirs.coef_), torch.from_numpy(np.atleast_1d(theirs.intercept_))
    scale = float(coef.abs().max())
    torch.testing.assert_close(found.coef, coef, rtol=rtol, atol=rtol * scale)
    shift = features.abs().mean() * scale + 1
    torch.testing.assert_close(
        found.intercept - found.intercept.mean(),
        (offset - offset.mean()).expand(len(found.intercept)),
        rtol=rtol,
        atol=rtol * float(shift),
    )
    logits = features @ coef.T + offset
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    value = float((losses * rows).sum()) / total + l2 / 2 * float(coef.square().sum())
    assert found.bound.value <= value * (1 + 1e-12)
    assert found.bound.value == pytest.approx(value, rel=1e-9)
    return found


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_the_optimum_is_that_of_scikit_learn(intercept: bool, l2: float) -> None:
    assert_as_scikit_learn(*drawn(0), l2, intercept=intercept)


def test_weights_of_rows_and_classes_count_as_in_scikit_learn() -> None:
    features, labels = drawn(1)
    draw = torch.Generator().manual_seed(0)
    weight = torch.rand(ROWS, generator=draw, dtype=torch.float64) * (torch.rand(ROWS, generator=draw) < 0.7)
    weight[:4] = 1
    assert_as_scikit_learn(features, labels, 1e-3, weight)
    assert_as_scikit_learn(features, labels, 1e-3, weight, class_weight=[3.0, 0.5, 1.0, 2.0])


def test_two_classes_are_the_binary_problem_of_half_the_penalty() -> None:
    features, labels = drawn(2, classes=2)
    two = fit(features, labels, Objective("cross_entropy", l2=2e-3), tolerance=1e-13)
    one = fit(features, labels, Objective("bce", l2=1e-3), tolerance=1e-13)
    torch.testing.assert_close(two.coef[1:] - two.coef[:1], one.coef, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two.intercept[1] - two.intercept[0], one.intercept[0], rtol=1e-5, atol=1e-6)
    assert two.bound.value == pytest.approx(one.bound.value, rel=1e-12)


def test_dependent_and_constant_columns() -> None:
    features, labels = drawn(3, features=6)
    features = torch.cat([features, features[:, :2], torch.full((ROWS, 1), 7.0)], dim=1)
    found = assert_as_scikit_learn(features, labels, 1e-3)
    assert not found.coef[:, -1].any()
    torch.testing.assert_close(found.coef[:, :2], found.coef[:, 6:8])


def test_more_features_than_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    assert_as_scikit_learn(torch.randn(40, 60, generator=draw).double(), torch.arange(40) % 3, 1e-2)


def test_features_far_from_zero() -> None:
    features, labels = drawn(4)
    features = (features - features.mean(0)) / features.std(0)
    near = fit(features, labels, Objective("cross_entropy", l2=1e-3), tolerance=1e-12)
    far = fit(features + 1e6, labels, Objective("cross_entropy", l2=1e-3), tolerance=1e-12)
    assert far.converged
    torch.testing.assert_close(far.coef, near.coef, rtol=1e-6, atol=1e-6)
    assert far.bound.value == pytest.approx(near.bound.value, rel=1e-9)


def test_separated_classes_with_a_weak_penalty() -> None:
    features, labels = drawn(5, noise=0.0)
    labels = (features @ fit(features, labels, Objective("cross_entropy", l2=1e-4)).coef.T).argmax(1)
    state = solved_alone(features, labels, Objective("cross_entropy", l2=1e-7), 1e-9)
    assert state.converged
    assert state.bound is not None
    assert state.bound.value < 1e-3
    general = fit(features, labels, Objective("cross_entropy", l2=1e-7), tolerance=1e-9, optimizer="newton")
    assert state.bound.value == pytest.approx(general.bound.value, rel=2e-9)


def test_a_start_with_equal_parts_of_all_outputs_loses_them() -> None:
    features, labels = drawn(6)
    state = solved_alone(features, labels, Objective("cross_entropy", l2=1e-2), start=torch.full((4, 13), 3.0).double())
    assert state.converged
    assert state.solution.sum(0).abs().max() < 1e-10


def test_derivatives_are_those_of_the_loss() -> None:
    features, labels = drawn(7)
    rows, point = small(features, labels, 1e-2)
    point = point.clone()
    point[0, -1] += 60  # residuals of class 0 are near 0
    now = rows.evaluate(point.numpy())
    coefficients = point.clone().requires_grad_()
    padded = torch.from_numpy(rows._columns.T.copy())
    l2 = torch.from_numpy(rows._l2)
    losses = torch.nn.functional.cross_entropy(padded @ coefficients.T, labels)
    value = losses + (l2 / 2 * coefficients.square()).sum()
    value.backward()
    assert coefficients.grad is not None
    assert now.value == pytest.approx(value.item(), rel=1e-12)
    assert now.loss == pytest.approx(losses.item(), rel=1e-12)
    np.testing.assert_allclose(now.gradient, coefficients.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_residuals_are_precise_where_all_rows_are_right() -> None:
    features, labels = torch.tensor([[-1.0], [0.0], [1.0]]).double(), torch.arange(3)
    rows, _ = small(features, labels, 1e-2)
    point = torch.tensor([[-300.0, -60.0], [0.0, 90.0], [300.0, -60.0]]).double()
    now = rows.evaluate(point.numpy())
    exact = problem_terms(rows, point, labels)
    assert 0 < now.loss < 1e-50
    assert now.loss == pytest.approx(exact[0], rel=1e-10)
    np.testing.assert_allclose(now.gradient - rows._l2 * point.numpy(), exact[1], atol=1e-10 * np.abs(exact[1]).max())


def problem_terms(rows: SmallSoftmax, point: Tensor, labels: Tensor) -> tuple[float, np.ndarray]:
    """Loss and its gradient by `Loss.evaluate_precisely`."""
    padded = torch.from_numpy(rows._columns.T.copy())
    terms = rows.problem.loss.evaluate_precisely(padded @ point.T, labels)
    return float(terms.value.mean()), (terms.residual.T @ padded / len(labels)).numpy()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["_separable_inverse", "_inverse_of_blocks", "_joint_inverse"])
def test_every_preconditioner_leads_to_newtons_step(
    kind: str, intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_softmax, "FORCING", 1e-13)
    rows, point = small(*drawn(8), 1e-2, intercept=intercept)
    now = rows.evaluate(point.numpy())
    found = getattr(rows, kind)(now)
    assert found is not None
    rows._inverse = found
    step = rows.newton_step(now, 1e-26 * now.value, small_softmax.MAX_PRODUCTS)
    product = rows._product(now, step.step) + rows._l2 * step.step
    np.testing.assert_allclose(product, now.gradient, atol=1e-9 * np.abs(now.gradient).max())
    assert step.decrease == pytest.approx(float((step.step * now.gradient).sum()) / 2)
    if kind == "_joint_inverse":
        assert step.products <= 3


@pytest.mark.parametrize("intercept", [True, False])
def test_the_separable_preconditioner_is_the_hessian_at_zero(intercept: bool) -> None:
    rows, point = small(*drawn(9), 1e-2, intercept=intercept)
    now = rows.evaluate(0 * point.numpy())
    vector = point.numpy()
    product = rows._product(now, vector) + rows._l2 * vector
    np.testing.assert_allclose(rows._separable_inverse(now)(product), vector, atol=1e-10)


def test_dearer_preconditioners_follow_where_products_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(name: str) -> Callable[[SmallSoftmax, Any], Any]:
        own = getattr(SmallSoftmax, name)

        def made_now(self: SmallSoftmax, now: Any) -> Any:
            made.append(name)
            return own(self, now)

        return made_now

    for name in ("_separable_inverse", "_inverse_of_blocks", "_joint_inverse"):
        monkeypatch.setattr(SmallSoftmax, name, counted(name))
    features, labels = drawn(10, noise=0.3)
    state = solved_alone(features, labels, Objective("cross_entropy", l2=1e-8))
    assert state.converged
    kinds = list(dict.fromkeys(made))
    assert kinds == ["_separable_inverse", "_inverse_of_blocks", "_joint_inverse"]


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6, 1e-10])
def test_the_bound_is_at_least_the_gap(tolerance: float) -> None:
    for seed in range(10):
        features, labels = drawn(seed)
        objective = Objective("cross_entropy", l2=10.0 ** -(seed % 6))
        state = solved_alone(features, labels, objective, tolerance)
        best = fit(features, labels, objective, tolerance=1e-13)
        assert state.converged
        assert state.bound is not None
        gap = state.bound.value - best.bound.value
        assert -1e-13 * best.bound.value <= gap <= state.bound.gap + state.bound.rounding
        assert state.bound.rounding <= 1e-2 * tolerance * state.bound.value


def test_products_count_as_passes() -> None:
    features, labels = drawn(11)
    objective = Objective("cross_entropy", l2=1e-4)
    for most in (1, 2, 3, 7):
        found = fit(features, labels, objective, tolerance=1e-12, max_passes=most)
        assert found.passes == most
        assert not found.converged
    assert fit(features, labels, objective, tolerance=1e-12).passes > 15
