"""Newton's method on hard problems: l1 with linearly dependent columns, features of any size, wrong derivatives."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import lapack
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.errors import DivergedError, LogregError
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.dual.span import cholesky_with_ridge
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.methods.newton import newton
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass, run_pass
from logreg.solvers.passes.columns import TryStep
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.state import SolverState
from logreg.solvers.steps.newton_steps import FIRST_RIDGE, factor_hessian
from reference import Reference


def dependent(classes: int) -> tuple[Tensor, Tensor]:
    """Five columns, the last the sum of two others."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 5))
    x[:, 4] = x[:, 0] + x[:, 1]
    logits = 0.5 * x @ draw.normal(size=(5, classes)) + draw.gumbel(size=(200, classes))
    return torch.from_numpy(x), torch.from_numpy(logits.argmax(1))


def one_hot(classes: int) -> tuple[Tensor, Tensor]:
    """A number and all levels of two categories."""
    draw = np.random.default_rng(1)
    x = np.column_stack(
        [draw.normal(size=200), np.eye(4)[draw.integers(0, 4, 200)], np.eye(3)[draw.integers(0, 3, 200)]]
    )
    logits = x @ draw.normal(size=(8, classes)) + draw.gumbel(size=(200, classes))
    return torch.from_numpy(x), torch.from_numpy(logits.argmax(1))


@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
@pytest.mark.parametrize(
    "l1", [pytest.param(1e-5, marks=pytest.mark.slow), 1e-4, pytest.param(1e-2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("loss", "classes"), [("bce", 2), ("bce", 3), ("cross_entropy", 3)])
@pytest.mark.parametrize("table", [dependent, one_hot])
def test_l1_ends_within_any_tolerance_where_columns_depend_on_each_other(
    table: Any, loss: str, classes: int, l1: float, tolerance: float
) -> None:
    features, labels = table(classes)
    found = fit(features, labels, Objective(loss, l1=l1), tolerance=tolerance)
    assert found.converged
    assert found.bound.rigorous
    assert found.passes <= 60
    if tolerance == 1e-6:
        other = fit(features, labels, Objective(loss, l1=l1), tolerance=tolerance, optimizer="lbfgs")
        assert other.converged
        assert other.bound.value == pytest.approx(found.bound.value, rel=2e-6)


@pytest.mark.parametrize("table", [dependent, one_hot])
def test_the_objective_with_l1_is_that_of_scikit_learn(table: Any) -> None:
    features, labels = table(2)
    l1 = 1e-3
    theirs = LogisticRegression(
        C=1 / (200 * l1), l1_ratio=1.0, solver="saga", tol=1e-9, max_iter=20_000, random_state=0
    )
    theirs.fit(features.numpy(), labels.numpy())
    coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    value = Objective("bce", l1=l1).value(features, labels.double().unsqueeze(1), coef, intercept)
    found = fit(features, labels, Objective("bce", l1=l1), tolerance=1e-10)
    assert found.bound.value == pytest.approx(float(value), rel=1e-7)
    assert found.bound.value <= float(value) * (1 + 1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("offset", [1e2, 1e4, 3e4])
def test_columns_far_from_zero_without_an_intercept_and_with_l1_are_certified(offset: float, classes: int) -> None:
    # The curvature along differences of columns is 1 / offset^2 of that along their sum.
    draw = np.random.default_rng(0)
    x = draw.standard_normal((100, 8))
    y = draw.integers(0, classes, 100)
    x = x + np.abs(x).max(0) * np.geomspace(1, offset, 8)
    loss: Any = "bce" if classes == 2 else "cross_entropy"
    problem = torch.from_numpy(x), torch.from_numpy(y), Objective(loss, l1=1e-4)
    found = fit(*problem, intercept=False)
    assert found.converged
    assert found.bound.rigorous
    assert found.passes <= 40


@pytest.mark.long
def test_columns_that_are_nearly_equal_in_float64_end_within_some_passes() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 12))
    y = (x @ draw.standard_normal(12) + draw.logistic(size=200) > 0).astype(int)
    x = x + np.abs(x).max(0) * np.geomspace(1, 1e8, 12)
    found = fit(torch.from_numpy(x), torch.from_numpy(y), Objective("bce", l1=1e-4), intercept=False)
    assert found.passes <= 800  # of three ways, since the first two fail
    # With an intercept, which moves the columns to 0, the optimum is lower, and not by less than the bound.
    free = fit(torch.from_numpy(x), torch.from_numpy(y), Objective("bce", l1=1e-4))
    assert free.converged
    assert free.bound.value - free.bound.gap <= found.bound.value


def test_a_newton_step_with_l1_takes_at_most_20_factorizations(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = one_hot(2)
    number, steps, solve = [0], [0], lapack.dposv

    def counted(*args: Any, **settings: Any) -> Any:
        number[0] += 1
        return solve(*args, **settings)

    def watch(_: SolverState, requested: Pass[object]) -> None:
        steps[0] += isinstance(requested, TryStep)

    monkeypatch.setattr(lapack, "dposv", counted)
    fit(features, labels, Objective("bce", l1=1e-4), watch=watch)
    assert steps[0] < number[0] <= 20 * steps[0]


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_the_estimated_gap_never_exceeds_the_objective(l2: float) -> None:
    draw = torch.Generator().manual_seed(6)
    features = torch.randn(100, 3, generator=draw, dtype=torch.float64)
    memory = MemoryRows(features, torch.randint(2, (100,), generator=draw))
    problem = problem_of(memory, Objective("bce", l2=l2))
    state, seen = SolverState(problem, torch.tensor([[3.0, -2.0, 1.0, 1.0]]).double()), []
    for requested in newton(state):
        run_pass(memory, requested)
        if math.isfinite(state.value):
            seen.append(state.gap / state.value)
    assert state.converged
    assert len(seen) > 2
    assert max(seen) <= 1
    assert min(seen) < 1e-2


@pytest.mark.parametrize("start", [4.0, 8.0])
def test_a_step_that_increases_f_is_shortened(start: float) -> None:
    # Three of four rows agree with the sign of their feature: the optimum is the log-odds, log 3.
    features, labels = torch.tensor([[1.0], [-1.0]] * 4).double(), torch.tensor([1, 0, 1, 0, 1, 0, 0, 1])
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, Objective("bce"))
    state = SolverState(problem, torch.tensor([[start, 0.0]]).double(), tolerance=1e-12)
    values = []
    for requested in newton(state):
        run_pass(memory, requested)
        if isinstance(requested, Evaluate):
            values.append(requested.result().value)
    assert max(values[1:]) > values[0]  # the first step overshoots
    assert state.converged
    torch.testing.assert_close(state.solution, torch.tensor([[math.log(3), 0.0]]).double(), rtol=1e-6, atol=1e-9)


def test_a_hessian_whose_steps_hardly_help_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the end too, where one good step with it would do: steps by the wrong one would take 17 evaluations."""
    draw = torch.Generator().manual_seed(6)
    memory = MemoryRows(torch.randn(100, 3, generator=draw).double(), torch.randint(2, (100,), generator=draw))
    problem = problem_of(memory, Objective("bce", l2=0.1))
    optimum = SolverState(problem, problem.zeros(), tolerance=1e-14)
    for requested in newton(optimum):
        run_pass(memory, requested)
    result, with_hessian = Evaluate.result, list[bool]()

    def too_large_at_first(requested: Evaluate) -> Derivatives:
        found = result(requested)
        with_hessian.append(found.hessian is not None)
        if len(with_hessian) == 1 and found.hessian is not None:
            found = found._replace(hessian=30 * found.hessian)
        return found

    monkeypatch.setattr(Evaluate, "result", too_large_at_first)
    state = SolverState(problem, optimum.solution + 3e-3, tolerance=1e-6)
    for requested in newton(state):
        run_pass(memory, requested)
    assert state.converged
    assert with_hessian == [True, False, True, False]


@pytest.mark.parametrize("far", [1e4, 1e5])
def test_hessians_to_which_offsets_leave_no_digits_in_float32_are_computed_in_float64(far: float) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(100, 40, generator=draw) + far * torch.randn(40, generator=draw)
    labels = (torch.randn(100, generator=draw) + features[:, 0] - features[:, 0].mean() > 0).long()
    objective = Objective("bce", l2=1e-3)
    found = fit(features, labels, objective, optimizer="newton", intercept=False)  # without one, none is subtracted
    assert found.converged
    assert found.passes < 100  # and not all `MAX_EVALUATIONS`
    exact = fit(features.double(), labels, objective, intercept=False)
    assert exact.converged
    assert found.bound.value == pytest.approx(exact.bound.value, rel=2e-6)


@pytest.mark.parametrize("wrong", ["value", "curvature"])
def test_wrong_values_and_hessians_of_float32_are_computed_again_in_float64(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Evaluate.result

    def perturbed(requested: Evaluate) -> Derivatives:
        found = result(requested)
        if wrong == "value" and requested.dtype == torch.float32:
            found = found._replace(value=found.value * 0.999)
        elif wrong == "curvature" and requested._wants == torch.float32 and found.hessian is not None:
            found = found._replace(hessian=found.hessian * 1e-14)
        return found

    monkeypatch.setattr(Evaluate, "result", perturbed)
    draw = torch.Generator().manual_seed(8)
    features = torch.randn(100, 3, generator=draw)
    labels = torch.randint(2, (100,), generator=draw)
    found = fit(features, labels, Objective("bce", l2=1e-2), tolerance=1e-9)
    assert found.converged
    least = Reference(features, labels, Objective("bce", l2=1e-2)).minimum
    assert found.bound.value == pytest.approx(least.value, rel=1e-9)


@pytest.mark.long
def test_a_fit_without_a_penalty_ends_a_step_nearer_than_its_tolerance() -> None:
    # The error of coefficients goes with the square root of the gap, so a fit without a penalty ends at a smaller gap.
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        features = torch.randn(200, 2, generator=draw, dtype=torch.float64)
        labels = (features @ torch.tensor([1.0, -2.0]).double() + torch.randn(200, generator=draw) > 1).long()
        found = fit(features, labels, Objective("bce"), tolerance=1e-3)
        assert found.converged
        assert found.bound.gap <= 2e-7 * found.bound.value


@pytest.mark.long
def test_lbfgs_ends_where_all_coefficients_are_zero() -> None:
    features, labels = torch.tensor([[0.0], [-0.0875], [-0.0594], [0.0]]), torch.tensor([2, 0, 0, 2])
    for loss, least in (("bce", 2 * math.log(2)), ("cross_entropy", math.log(2))):
        for l2 in (0.0, 0.1):
            objective = Objective(loss, l1=0.03, l2=l2)
            found = fit(features.double(), labels, objective, num_classes=3, optimizer="lbfgs")
            assert found.converged
            assert found.passes < 200
            assert not found.coef.any()
            assert found.bound.value == pytest.approx(least, rel=1e-6)


# Every loop ends


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-46, 1e19, 1e30, 1e150])
@pytest.mark.parametrize("optimizer", EXACT)
def test_features_of_any_size_end_with_finite_coefficients(size: float, optimizer: str) -> None:
    draw = torch.Generator().manual_seed(0)
    features = size * torch.randn(100, 2, generator=draw, dtype=torch.float64)
    labels = torch.arange(100) % 2
    for kind in (torch.float64, torch.float32):
        if not bool(features.to(kind).isfinite().all()):
            continue
        for objective in (Objective("bce"), Objective("bce", l2=1e-3), Objective("bce", l1=1e-3)):
            with contextlib.suppress(LogregError):  # such numbers may be refused
                found = fit(features.to(kind), labels, objective, optimizer=optimizer)
                assert bool(found.coef.isfinite().all())
                assert found.bound.value <= math.log(2) * (1 + 1e-9)


def test_features_that_are_64_bit_integers_end_within_1000_passes() -> None:
    draw = np.random.default_rng(0)
    hashes = torch.from_numpy(draw.integers(-(2**63), 2**63 - 1, (200, 1)).astype(np.float64))
    for optimizer in EXACT:
        for kind in (torch.float64, torch.float32):
            found = fit(
                hashes.to(kind), torch.from_numpy(draw.integers(0, 2, 200)), Objective("bce"), optimizer=optimizer
            )
            assert found.passes < 1000


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_hessian_that_is_not_finite_raises_an_error_that_says_so(bad: float) -> None:
    problem = problem_of(MemoryRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), Objective("bce"))
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = bad
    with pytest.raises(DivergedError, match=r"not finite.*precision=64"):
        factor_hessian(problem, matrix.unsqueeze(0))
    with pytest.raises(DivergedError, match=r"not finite.*precision=64"):
        cholesky_with_ridge(matrix)


def test_an_indefinite_hessian_is_factored_with_a_larger_ridge() -> None:
    problem = problem_of(MemoryRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), Objective("bce", l2=1.0))
    matrix = torch.tensor([[1.0, 1.5, 0.0], [1.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = factor_hessian(problem, matrix.unsqueeze(0))
    assert found.ridge > FIRST_RIDGE
    assert bool(found.factors.isfinite().all())
    assert bool(cholesky_with_ridge(matrix.clone()).isfinite().all())


@pytest.mark.parametrize(("offset", "powers"), [(5, 5), (20, 5), (100, 3)])
def test_l1_of_columns_that_are_nearly_alike_is_solved_in_float32(offset: float, powers: int) -> None:
    # Of a year, its square and its cube the Hessian in float32 is not convex: its model predicted no decrease from 0.
    draw = np.random.default_rng(11)
    z = draw.normal(size=300)
    labels = torch.from_numpy((draw.random(300) < 1 / (1 + np.exp(-z))).astype(np.int64))
    columns = np.stack([(offset + z) ** power for power in range(1, powers + 1)], axis=1)
    features = torch.from_numpy((columns - columns.mean(0)) / columns.std(0)).float()
    objective = Objective("bce", l1=1e-3)
    best = fit(features.double(), labels, objective, optimizer="lbfgs", tolerance=1e-10)
    found = fit(features, labels, objective)
    assert found.converged
    assert found.bound.value == pytest.approx(best.bound.value, rel=1e-6)


@pytest.mark.parametrize("l1", [1e-4, 1e-6, 1e-8])
def test_the_rounding_of_a_bound_does_not_grow_as_l1_shrinks(l1: float) -> None:
    draw = np.random.default_rng(11)
    z = draw.normal(size=(3000, 4))
    labels = torch.from_numpy((draw.random(3000) < 1 / (1 + np.exp(z[:, 1] - z[:, 0]))).astype(np.int64))
    found = fit(torch.from_numpy(z), labels, Objective("bce", l1=l1))
    assert found.converged
    assert found.bound.rounding < 1e-7  # 1e-12 / l1 before


@pytest.mark.long
@pytest.mark.parametrize("seed", [28, 30])
def test_quasi_newton_steps_that_fail_on_heavy_tailed_rows_are_followed_by_newtons_method(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, 280, 24, generator=draw, dtype=torch.float64)
    features = normal[0] / normal[1]  # Cauchy
    coef = torch.randn(24, 8, generator=draw, dtype=torch.float64)
    labels = (features @ coef + torch.randn(280, 8, generator=draw)).argmax(1)
    labels[:8] = torch.arange(8)
    is_plain = []
    objective = Objective("cross_entropy", l2=1.0)
    found = fit(features, labels, objective, tolerance=1e-2, watch=lambda state, _: is_plain.append(state.plain))
    assert found.converged
    assert found.bound.value == pytest.approx(fit(features, labels, objective, optimizer="lbfgs").bound.value, rel=1e-2)
