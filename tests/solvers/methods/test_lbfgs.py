"""L-BFGS: its line search, its optimum against SciPy and scikit-learn, and what ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import Fit, bound_of, fit, problem_of
from logreg.solvers.methods.lbfgs import expected_gap, lbfgs
from logreg.solvers.passes.base import Pass, run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.state import SolverState
from logreg.solvers.steps.line_search import LineSearchPoint, next_length, satisfies_armijo, satisfies_wolfe


def solve(features: Tensor, labels: Tensor, objective: Objective, **settings: object) -> Fit:
    return fit(features, labels, objective, optimizer="lbfgs", **settings)  # type: ignore[arg-type]  # passed on unchanged


def table(rows: int, features: int, outputs: int, draw: torch.Generator, scales: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features whose sizes go from 1/scales to scales, and labels that depend on them."""
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    slopes = torch.randn(features, max(outputs, 2), generator=draw, dtype=torch.float64)
    noise = torch.rand(rows, max(outputs, 2), generator=draw, dtype=torch.float64).log().neg().log()
    labels = (x @ slopes / math.sqrt(features) - noise).argmax(1)
    size = torch.logspace(-math.log10(scales), math.log10(scales), features, dtype=torch.float64)
    return (x + 1) * size, labels


def by_scipy(features: Tensor, labels: Tensor, objective: Objective, outputs: int) -> float:
    """The optimum of a smooth objective as SciPy finds it in float64, in standardized coordinates for its sake."""
    center, scale = features.mean(0), features.std(0)
    x, targets = (features - center) / scale, one_vs_rest(labels, outputs, torch.float64)

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(flat).view(outputs, -1).requires_grad_()
        coef = point[:, :-1] / scale
        value = objective.data_term(x @ point[:, :-1].T + point[:, -1], targets) + objective.penalty(coef)
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.flatten().numpy()

    start = np.zeros(outputs * (features.shape[1] + 1))
    return float(
        minimize(value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}).fun
    )


# The line search


def searched(function: Callable[[float], tuple[float, float]], most: int = 12) -> list[LineSearchPoint]:
    """The trials of a search along a line, from 0 with a first length of 1."""
    value, slope = function(0.0)
    trials, length = [LineSearchPoint(0.0, value, slope, 0.0)], 1.0
    for _ in range(most):
        trials.append(LineSearchPoint(length, *function(length), length * slope))
        if satisfies_wolfe(trials[0], trials[-1]):
            break
        length = next_length(trials)
    return trials


@pytest.mark.parametrize("least", [1e-3, 0.02, 0.7, 1.0, 30.0, 2000.0])
@pytest.mark.parametrize(
    "curve",
    [
        lambda t: (t * t, 2 * t),
        lambda t: (t**4, 4 * t**3),
        lambda t: (math.cosh(t / 10), math.sinh(t / 10) / 10),
        lambda t: (math.sqrt(1 + 9 * t * t), 9 * t / math.sqrt(1 + 9 * t * t)),
    ],
    ids=["square", "fourth power", "cosh", "hyperbola"],
)
def test_a_search_along_a_convex_function_ends_where_the_wolfe_conditions_hold(
    curve: Callable[[float], tuple[float, float]], least: float
) -> None:
    def function(length: float) -> tuple[float, float]:
        value, slope = curve(length / least - 1)
        return value, slope / least

    first, *_, last = searched(function)
    assert last.value <= first.value + 1e-4 * last.length * first.slope
    assert abs(last.slope) <= 0.9 * abs(first.slope)
    assert 0 < last.length < 2 * least  # beyond that a symmetric function is higher than where it began


def test_a_search_takes_length_1_where_it_satisfies_wolfe_and_three_trials_for_a_parabola_otherwise() -> None:
    assert len(searched(lambda t: ((t - 1.3) ** 2, 2 * (t - 1.3)))) == 2
    trials = searched(lambda t: ((t - 0.01) ** 2, 2 * (t - 0.01)))
    assert len(trials) <= 4  # length 0, length 1, a tenth as the safeguard has it, and the minimum
    assert trials[-1].length == pytest.approx(0.01, rel=1e-6)


def test_a_search_returns_from_lengths_at_which_f_is_infinite() -> None:
    def function(length: float) -> tuple[float, float]:
        return (math.inf, math.inf) if length > 0.2 else ((length - 0.1) ** 2, 2 * (length - 0.1))

    *_, last = searched(function)
    assert last.value < 0.1**2
    assert last.length <= 0.2


def test_armijos_condition_allows_for_the_error_of_the_values() -> None:
    first, trial = LineSearchPoint(0.0, 1.0, -1e-9, 0.0), LineSearchPoint(1.0, 1.0 + 1e-8, 0.0, -1e-9)
    assert not satisfies_armijo(first, trial)
    assert satisfies_armijo(first, trial, noise=3e-8)


# The optimum


def test_two_rows_have_the_optimum_that_is_computed_by_hand() -> None:
    # By symmetry the intercept is 0, and the slope of log(1 + exp(-w)) + w^2 / 4 is 0: w = 2 sigmoid(-w).
    features, labels = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.tensor([0, 1])
    found = solve(features, labels, Objective("bce", l2=0.5), tolerance=1e-12)
    w = float(found.coef)
    assert found.converged
    assert w == pytest.approx(2 / (1 + math.exp(w)), abs=1e-6)
    assert float(found.intercept) == pytest.approx(0.0, abs=1e-6)


def test_where_features_are_constant_the_intercept_is_the_log_odds() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    found = solve(torch.full((4, 2), 3.0), labels, Objective("bce", l2=0.1), tolerance=1e-10)
    assert found.converged
    assert float(found.intercept) == pytest.approx(math.log(1 / 3), abs=1e-5)
    torch.testing.assert_close(found.coef, torch.zeros(1, 2, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "outputs"), [("bce", 1), ("bce", 3), ("cross_entropy", 3)])
@pytest.mark.parametrize(("reduction", "l2"), [("mean", 1e-2), ("sum", 3.0), ("mean", 0.0)])
def test_the_objective_is_that_of_scipy_within_the_bound(
    loss: str, outputs: int, reduction: str, l2: float, dtype: torch.dtype, draw: torch.Generator
) -> None:
    features, labels = table(300, 6, outputs, draw, scales=30.0)
    features = features.float().double()
    objective = Objective(loss, reduction, l2)  # type: ignore[arg-type]  # names from the list above
    found = solve(features.to(dtype), labels, objective, tolerance=1e-8)
    theirs = by_scipy(features, labels, objective, outputs)
    assert found.converged
    assert abs(found.bound.value - theirs) <= found.bound.gap + 1e-9 * theirs


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
@pytest.mark.parametrize("l2", [1e-1, 1e-4])
def test_tables_in_source_units_have_the_optimum_that_newton_finds(
    load: Callable[..., tuple[np.ndarray, np.ndarray]], l2: float
) -> None:
    x, y = load(return_X_y=True)
    features, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    objective = Objective("bce" if y.max() == 1 else "cross_entropy", l2=l2)
    ours, newtons = (fit(features, labels, objective, optimizer=name, tolerance=1e-7) for name in ("lbfgs", "newton"))
    assert ours.converged
    assert ours.bound.value == pytest.approx(newtons.bound.value, rel=2e-7)


@pytest.mark.parametrize("scales", [1.0, 1e3])
def test_features_of_very_different_scales_take_at_most_30_passes(scales: float, draw: torch.Generator) -> None:
    features, labels = table(1000, 20, 1, draw, scales)
    found = solve(features.float(), labels, Objective("bce", l2=1e-6))
    assert found.converged
    assert found.passes <= 30  # hundreds without a preconditioner


def test_more_features_than_rows(draw: torch.Generator) -> None:
    features, labels = table(40, 120, 3, draw)
    objective = Objective("cross_entropy", l2=1e-2)
    ours, newtons = (fit(features, labels, objective, optimizer=name, tolerance=1e-8) for name in ("lbfgs", "newton"))
    assert ours.converged
    torch.testing.assert_close(ours.coef, newtons.coef, atol=1e-3, rtol=1e-3)


def test_block_and_diagonal_preconditioners_lead_to_the_same_optimum(
    draw: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = table(400, 10, 4, draw)
    objective = Objective("cross_entropy", l2=1e-3)
    values = []
    for max_features in (2048, 0):
        monkeypatch.setattr("logreg.solvers.steps.preconditioner.MAX_BLOCK_FEATURES", max_features)
        found = solve(features, labels, objective, tolerance=1e-9)
        assert found.converged
        values.append(found.bound.value)
    assert values[0] == pytest.approx(values[1], rel=2e-9)


# l1


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("outputs", [1, 3])
def test_l1_gives_exact_zeros_where_scikit_learn_has_them(l2: float, outputs: int, draw: torch.Generator) -> None:
    features, labels = table(150, 8, outputs, draw)
    features, l1 = features - features.mean(0), 0.03
    loss: str = "bce" if outputs == 1 else "cross_entropy"
    found = solve(features, labels, Objective(loss, l2=l2, l1=l1), tolerance=1e-9)
    total = l1 + l2
    theirs = LogisticRegression(
        solver="saga", l1_ratio=l1 / total, C=1 / (150 * total), tol=1e-9, max_iter=100_000, random_state=0
    ).fit(features, labels)
    assert found.converged
    zero = torch.from_numpy(theirs.coef_ == 0)
    assert 0 < int(zero.sum()) < zero.numel()
    assert torch.equal(found.coef == 0, zero)
    np.testing.assert_allclose(found.coef, theirs.coef_, atol=1e-4)  # saga ends where its steps get small


def test_l1_above_the_largest_slope_at_zero_leaves_the_intercept_alone(draw: torch.Generator) -> None:
    features, labels = table(100, 5, 1, draw)
    rate = float(labels.double().mean())
    largest = float((features.T @ (rate - labels.double())).abs().max()) / 100
    empty = solve(features, labels, Objective("bce", l1=largest * 1.001))
    assert empty.converged
    assert not empty.coef.any()
    assert float(empty.intercept) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-4)
    assert solve(features, labels, Objective("bce", l1=largest * 0.99)).coef.count_nonzero() == 1


@pytest.mark.parametrize("max_features", [2048, 0])
def test_l1_over_more_features_than_rows_is_certified(
    max_features: int, draw: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.solvers.methods.lbfgs.MAX_BLOCK_FEATURES", max_features)
    features, labels = table(60, 200, 1, draw)
    features[:, :3] = 2.0  # constant columns
    found = solve(features.float(), labels, Objective("bce", l1=0.02))
    assert found.converged
    assert found.bound.rigorous
    assert 0 < int(found.coef.count_nonzero()) <= 60
    assert not found.coef[:, :3].any()


# Stopping


@pytest.mark.parametrize(("l2", "l1"), [(0.01, 0.0), (0.01, 0.02), (0.0, 0.02)])
@pytest.mark.parametrize("share", [0.0, 0.9, 0.999])
def test_the_expected_gap_is_about_the_certified_gap(
    share: float, l2: float, l1: float, draw: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.solvers.bounds.bound.MAX_BOUND_HESSIAN_PARAMETERS", 0)  # by duality alone
    features, labels = table(200, 5, 1, draw)
    rows = MemoryRows(features, labels)
    objective = Objective("bce", l2=l2, l1=l1)
    problem = problem_of(rows, objective)
    found = solve(features, labels, objective, tolerance=1e-9)
    point = torch.cat([found.coef * share, found.intercept.unsqueeze(1)], dim=1)
    for _ in range(30):  # solves for the intercept alone
        run_pass(rows, requested := Evaluate(problem, problem.model, point, torch.float64))
        point[:, -1] -= requested.result().gradient[:, -1] / requested.result().curvature[0]
    run_pass(rows, requested := Evaluate(problem, problem.model, point, torch.float64))
    there = requested.result()
    expected = expected_gap(SolverState(problem, point), there.gradient, there.loss)
    bound = bound_of(problem, point, rows)
    assert min(expected, bound.value) == pytest.approx(bound.gap, rel=0.3 if l2 == 0 else 1e-6)


@pytest.mark.parametrize("objective", [Objective("bce", l2=1e-3), Objective("bce", l1=1e-2)])
def test_too_few_passes_end_unconverged(objective: Objective, draw: torch.Generator) -> None:
    features, labels = table(300, 10, 1, draw)
    found = solve(features, labels, objective, max_passes=4, tolerance=1e-8)
    assert not found.converged
    assert found.passes == 4
    assert found.bound.gap > 1e-8 * found.bound.value


def test_separated_classes_without_a_penalty_end_unconverged() -> None:
    features, labels = torch.linspace(-1, 1, 20).unsqueeze(1), torch.arange(20) // 10
    found = solve(features, labels, Objective("bce"), max_passes=2000)
    assert not found.converged
    assert found.passes < 300
    assert bool(found.coef.isfinite().all())


def test_a_tolerance_that_no_arithmetic_reaches_is_given_up(draw: torch.Generator) -> None:
    features, labels = table(100, 4, 1, draw)
    found = solve(features.float(), labels, Objective("bce", l2=1e-2), tolerance=1e-40, max_passes=2000)
    assert not found.converged
    assert found.passes < 300
    assert found.bound.gap < 1e-12


def test_passes_are_in_float32_at_first_and_in_float64_at_the_end(draw: torch.Generator) -> None:
    features, labels = table(500, 10, 1, draw)
    requests: list[Pass[object]] = []
    solve(
        features.float(), labels, Objective("bce", l2=1e-4), watch=lambda state, requested: requests.append(requested)
    )
    types = [requested.dtype for requested in requests if isinstance(requested, Evaluate)]
    assert types[0] == torch.float32
    assert types[-1] == torch.float64
    assert types == sorted(types, key=str)  # it never goes back


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_sum_takes_the_steps_of_the_mean(outputs: int, draw: torch.Generator) -> None:
    features, labels = table(256, 30, outputs, draw)
    loss: str = "bce" if outputs == 1 else "cross_entropy"
    mean, total = (
        solve(features, labels, objective, tolerance=1e-9)
        for objective in (Objective(loss, l2=2.0**-7), Objective(loss, l2=2.0**-7 * 256, reduction="sum"))
    )
    assert mean.converged
    assert abs(total.passes - mean.passes) <= 1
    torch.testing.assert_close(total.coef, mean.coef, rtol=1e-4, atol=1e-5)
    assert total.bound.value == pytest.approx(256 * mean.bound.value, rel=1e-9)


def test_a_separated_problem_ends_at_the_first_value_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = []

    def counted(state: SolverState, gradient: Tensor, loss: float) -> float:
        evaluated.append(loss)  # f, as there is no penalty
        return expected_gap(state, gradient, loss)

    monkeypatch.setattr("logreg.solvers.methods.lbfgs.expected_gap", counted)
    features = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    found = solve(features, (features[:, 0] > 0).long(), Objective("bce"))
    assert not found.converged
    assert len(evaluated) <= found.passes


def test_it_starts_from_the_point_of_its_state(draw: torch.Generator) -> None:
    features, labels = table(300, 10, 1, draw)
    objective = Objective("bce", l2=1e-3)
    cold = solve(features, labels, objective, tolerance=1e-10)
    rows = MemoryRows(features, labels)
    problem = replace(problem_of(rows, objective), dtype=torch.float64)
    state = SolverState(problem, torch.cat([cold.coef, cold.intercept.unsqueeze(1)], dim=1))
    passes = 0
    for requested in lbfgs(state):
        run_pass(rows, requested)
        passes += 1
    assert state.converged
    assert passes <= 4  # a sample, the objective and its certificate
    torch.testing.assert_close(state.solution[:, :-1], cold.coef)
