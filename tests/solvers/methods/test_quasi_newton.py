"""Quasi-Newton steps of full length: which first matrix they use, where they end, and what they leave."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.methods.newton import newton
from logreg.solvers.methods.quasi_newton import RATE_STEPS, _are_slow, quasi_newton_steps
from logreg.solvers.methods.subspace_descent import least_gradient_point
from logreg.solvers.passes.base import Pass, drive, request, run_pass
from logreg.solvers.passes.evaluate import Derivatives, Evaluate
from logreg.solvers.problem import choose_coordinates
from logreg.solvers.starting_point import start
from logreg.solvers.state import SolverState, gap_from_gradient
from logreg.solvers.steps.limited_memory import STALE_VALUE_RATIO
from reference import correlated_rows


def kinds_of_passes(state: SolverState, memory: MemoryRows, rough: float = 0.0) -> list[str]:
    """The names of the passes of the steps, which move the state."""
    kinds = []
    for requested in quasi_newton_steps(state, state.problem.dtype, rough):
        kinds.append(type(requested).__name__ + ("64" if requested.dtype == torch.float64 else ""))
        run_pass(memory, requested)
    return kinds


def rows_of(correlated: bool, classes: int = 2) -> MemoryRows:
    """Rows of 60 features, independent or correlated."""
    if correlated:
        return MemoryRows(*correlated_rows(4000, 60, classes))
    draw = torch.Generator().manual_seed(0)
    features, slopes = torch.randn(4000, 60, generator=draw), torch.randn(60, classes, generator=draw) / 8
    labels = torch.multinomial((features @ slopes).softmax(1), 1, generator=draw)[:, 0]
    return MemoryRows(features, labels)


def state_of(memory: MemoryRows, l2: float, tolerance: float = 1e-6) -> SolverState:
    """The state at zero in standardized coordinates."""
    classes = int(memory.labels.max()) + 1
    problem = problem_of(memory, Objective("bce" if classes == 2 else "cross_entropy", l2=l2))
    state = SolverState(problem, problem.zeros(), tolerance)
    state.coordinates = choose_coordinates(problem, next(memory.blocks()), every_scale=True)
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_end_where_f_and_its_gradient_have_fallen_to_zero(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.solvers.choose.MAX_HELD_HESSIAN_PARAMETERS", 0)
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(60) % 2  # but only those of class 1 count: the intercept has no optimum
    memory = MemoryRows(features, labels, labels.to(dtype))
    problem = problem_of(memory, Objective("bce", l2=1e-3), 2)
    state = SolverState(problem, problem.zeros(), 1e-6)
    passes = 0
    for requested in newton(state):
        run_pass(memory, requested)
        passes += 1
    assert passes < 200  # while tens of steps move the intercept by 1 each, and none follows them
    assert state.bound is not None
    assert 0 <= state.bound.value < 1e-15
    assert state.bound.gap >= state.bound.value


def test_steps_forget_those_from_where_f_was_far_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "logreg.solvers.methods.quasi_newton._are_slow", lambda left, end, most: False
    )  # one first matrix
    rows = rows_of(correlated=False)
    memory = MemoryRows(rows.features, (rows.features[:, 0] > 0).long())  # nearly separated: f falls far
    state = state_of(memory, 1e-4)
    before = drive(request(Evaluate(state.problem, state.coordinates, state.point)), memory).value
    kinds_of_passes(state, memory)
    assert state.converged
    assert state.inverse is not None
    assert before > 4 * state.value
    assert len(state.inverse) > 5
    assert all(value <= STALE_VALUE_RATIO * state.value for value in state.inverse._values[:-1])


def test_independent_features_need_no_better_matrix_than_the_diagonal() -> None:
    for classes in (2, 5):
        memory = rows_of(correlated=False, classes=classes)
        state = state_of(memory, 1e-3)
        kinds = kinds_of_passes(state, memory)
        assert set(kinds) == {"Evaluate", "Evaluate64"}
        assert kinds.count("Evaluate64") <= 2  # the last one certifies
        assert state.converged
        assert state.bound is not None
        assert state.bound.rigorous
        exact = fit(memory.features.double(), memory.labels, state.problem.objective, tolerance=1e-10)
        assert state.bound.value - exact.bound.value <= state.bound.gap


@pytest.mark.parametrize("common", [0.0, 0.3])
def test_features_get_a_preconditioner_where_they_are_correlated_alone(
    common: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.solvers.methods.quasi_newton._are_slow", lambda left, end, most: True)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(800, 800, generator=draw) + common * torch.randn(800, 1, generator=draw)
    memory = MemoryRows(features, (features @ torch.randn(800, generator=draw) > 0).long())
    state = state_of(memory, 1e-2, 1e-3)
    drive(start(state, newton), memory)
    assert (state.correlation > 1) == (common > 0)
    assert ("CurvatureSample" in kinds_of_passes(state, memory)) == (common > 0)
    assert state.converged


def test_correlated_features_get_a_preconditioner_once_the_diagonal_is_too_slow() -> None:
    memory = rows_of(correlated=True)
    state = state_of(memory, 1e-4)
    kinds = kinds_of_passes(state, memory)
    assert kinds.index("SampledCurvature") > 5
    assert kinds.count("HessianDiagonal") == kinds.count("SampledCurvature")
    assert fit(memory.features, memory.labels, state.problem.objective).converged


@pytest.mark.parametrize("tolerance", [0.3, 0.03])
def test_a_loose_tolerance_takes_no_pass_for_a_balance_that_steps_bring_about(tolerance: float) -> None:
    memory = rows_of(correlated=False, classes=30)
    state = state_of(memory, 1e-2, tolerance)
    kinds = kinds_of_passes(state, memory)
    assert state.converged
    assert set(kinds) == {"Evaluate", "Evaluate64"}  # and no DualObjective
    assert kinds.count("Evaluate64") == 1


def test_steps_end_where_a_hessian_bounds_the_gap_sooner_than_duality_does() -> None:
    memory = rows_of(correlated=True)
    state = state_of(memory, 1e-10)
    assert "Evaluate64" not in kinds_of_passes(state, memory)
    assert state.predicted_decrease < 1e-7
    assert state.bound is None
    assert fit(memory.features, memory.labels, state.problem.objective).converged


def test_a_looser_tolerance_takes_fewer_passes() -> None:
    memory = rows_of(correlated=True, classes=4)
    passes = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        state = state_of(memory, 1e-4, tolerance)
        passes.append(len(kinds_of_passes(state, memory)))
        assert state.converged
    assert passes[0] < passes[1] < passes[2]


def test_rough_steps_end_without_a_certificate() -> None:
    memory = rows_of(correlated=False)
    state = state_of(memory, 1e-3)
    assert "Evaluate64" not in kinds_of_passes(state, memory, rough=1e-2)
    assert state.bound is None
    assert state.predicted_decrease < 1e-2


def test_the_hessian_of_a_sample_serves_as_the_first_matrix() -> None:
    features, labels = correlated_rows(60_000, 80, 2)
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, Objective("bce", l2=1e-4))
    state = SolverState(problem, problem.zeros(), 1e-8)
    for requested in start(state, newton):
        run_pass(memory, requested)
    assert state.inverse is not None
    kinds = kinds_of_passes(state, memory)
    assert state.converged
    assert len(kinds) < 12


@pytest.mark.parametrize("l2", [1e-2, 1e-5, 1e-9])
def test_a_sample_bounds_the_gap_in_few_passes_however_weak_the_penalty(l2: float) -> None:
    features, labels = correlated_rows(30_000, 60, 2)
    found = fit(features, labels, Objective("bce", l2=l2), tolerance=1e-6)
    assert found.converged
    assert found.bound.rigorous
    assert found.passes <= 6
    best = fit(features.double(), labels, Objective("bce", l2=l2), tolerance=1e-11).bound
    assert found.bound.value - best.value <= found.bound.gap + found.bound.error


@pytest.mark.parametrize("correlated", [False, True])
def test_a_sum_over_the_rows_takes_the_passes_of_their_mean(correlated: bool) -> None:
    memory = rows_of(correlated)
    features, labels = torch.cat([memory.features] * 5), torch.cat([memory.labels] * 5)
    mean = fit(features, labels, Objective("bce", l2=1e-4))
    summed = fit(features, labels, Objective("bce", "sum", l2=1e-4 * len(labels)))
    assert summed.converged
    assert summed.passes == mean.passes


def test_a_dear_hessian_is_never_formed() -> None:
    pixels, digits = load_digits(return_X_y=True)
    features, labels = torch.tensor(pixels) / 16, torch.tensor(digits)
    hessians = []

    def watch(state: SolverState, requested: Pass[object]) -> None:
        hessians.append(isinstance(requested, Evaluate) and requested._wants is not None)

    found = fit(features, labels, Objective("cross_entropy", l2=1 / len(labels)), tolerance=1e-6, watch=watch)
    assert found.converged
    assert not any(hessians)


def test_rough_steps_may_change_the_first_matrix() -> None:
    memory = rows_of(correlated=True)
    kinds = kinds_of_passes(state_of(memory, 1e-4), memory, rough=1e-4)
    assert "SampledCurvature" in kinds
    assert kinds[-1] == "Evaluate"


@pytest.mark.parametrize("l2", [1e-2, 1e-3, 1e-4])
def test_a_gap_that_is_extrapolated_is_about_the_true_one(l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, ratios = rows_of(correlated=True, classes=5), []

    def spy(state: SolverState, now: Derivatives) -> tuple[Tensor, float]:
        point, gap = least_gradient_point(state, now)
        there = drive(request(Evaluate(state.problem, state.coordinates, point, torch.float64)), memory)
        ratios.append(gap_from_gradient(state, there.gradient, there.curvature) / gap)
        return point, gap

    monkeypatch.setattr("logreg.solvers.methods.quasi_newton.least_gradient_point", spy)
    kinds = kinds_of_passes(state_of(memory, l2), memory)
    assert kinds.count("Evaluate64") == 1  # so the first certificate holds
    assert ratios == pytest.approx([1.0] * len(ratios), abs=0.2)


def test_after_a_gap_that_was_estimated_too_small_the_next_point_within_the_tolerance_is_certified() -> None:
    memory = rows_of(correlated=True)
    state = state_of(memory, 1e-2)  # Newton steps: the gradient falls by far more than any line through it tells
    kinds = kinds_of_passes(state, memory)
    assert state.converged
    assert kinds[kinds.index("Evaluate64") :] == ["Evaluate64", "Evaluate", "Evaluate64"]


def test_steps_are_not_slow_because_less_is_to_be_left_at_the_end() -> None:
    halved = [2.0**-step for step in range(RATE_STEPS + 1)]
    assert not _are_slow(halved, end=1e-2, most=16)
    assert not _are_slow(halved, end=1e-3, most=16)
    assert _are_slow(halved, end=1e-9, most=16)
