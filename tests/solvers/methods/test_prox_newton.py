"""Proximal Newton on working sets ends at the optimum of all features."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import PART_BYTES, MemoryRows
from logreg.solvers import l1_model
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.kernels import Array, sum_over_cold_rows
from logreg.solvers.methods import prox_newton as module
from logreg.solvers.methods.prox_newton import prox_newton
from logreg.solvers.passes import columns
from logreg.solvers.passes.base import Pass, PassRequests, drive
from logreg.solvers.state import SolverState
from reference import Reference


def sparse(rows: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows whose labels depend on four of the features, with a mean of 1."""
    draw = torch.Generator().manual_seed(seed + classes)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64) + 1
    logits = x[:, :4] @ torch.randn(4, classes, generator=draw, dtype=torch.float64)
    return x, (logits + torch.rand(logits.shape, generator=draw).logit()).argmax(1)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize(("classes", "loss"), [(2, "bce"), (3, "bce"), (3, "cross_entropy")])
@pytest.mark.parametrize("held", [True, False])
def test_the_optimum_is_that_of_all_features(
    held: bool, classes: int, loss: str, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        monkeypatch.setattr(columns, "MAX_HELD_NUMEL", 4000)
    features, labels = sparse(150, 80, classes)
    objective = Objective(loss, l1=0.02, l2=l2)
    memory = MemoryRows(features, labels)
    memory.block_rows = 64
    problem = problem_of(memory, objective, classes)
    state = SolverState(problem, problem.zeros(), tolerance=1e-9)
    drive(prox_newton(state), memory)
    least = Reference(features, labels, objective, classes).minimum
    assert state.converged
    assert state.bound is not None
    assert state.bound.value == pytest.approx(least.value, rel=2e-9)
    assert torch.equal(state.solution[:, :-1] != 0, torch.from_numpy(least.coef) != 0)


def test_a_loose_tolerance_takes_fewer_steps() -> None:
    features, labels = sparse(400, 300, 2)
    objective, steps = Objective("bce", l1=0.01), []
    least = fit(features, labels, objective, tolerance=1e-12).bound.value
    for tolerance in (1e-1, 1e-3, 1e-6, 1e-9):
        requests: list[str] = []

        def watch(_: SolverState, requested: Pass[object], names: list[str] = requests) -> None:
            names.append(type(requested).__name__)

        found = fit(features, labels, objective, tolerance=tolerance, watch=watch)
        assert found.converged
        assert found.bound.rigorous
        assert found.bound.value - least <= found.bound.gap + found.bound.rounding <= tolerance * found.bound.value
        steps.append(requests.count("TryStep"))
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


@pytest.mark.parametrize("intercept", [False, True])
def test_a_step_reads_held_columns_and_no_rows(intercept: bool) -> None:
    features, labels = sparse(300, 200, 2)
    requests: list[str] = []
    found = fit(
        features,
        labels,
        Objective("bce", l1=0.03),
        intercept=intercept,
        watch=lambda _, requested: requests.append(type(requested).__name__),
    )
    assert found.converged
    assert requests.count("TryStep") >= 3
    # labels, and for each working set its columns and the slopes of all coefficients
    assert found.passes == 1 + requests.count("GatherColumns") + requests.count("DualSlopes")
    assert requests.count("DualSlopes") <= 8


def test_a_hessian_from_a_sample_and_one_that_is_extended_lead_to_the_same_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = sparse(20_000, 100, 2)
    objective = Objective("bce", l1=1e-3)
    found = fit(features, labels, objective, tolerance=1e-8)
    monkeypatch.setattr(module, "REUSE_CONTRACTION", 0.0)
    monkeypatch.setattr(module, "MIN_SAMPLE_DIVISOR", 10**9)
    other = fit(features, labels, objective, tolerance=1e-8)
    assert found.converged
    assert other.converged
    torch.testing.assert_close(found.coef, other.coef, rtol=0, atol=1e-4)


def drawn(rows: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normal features, and labels that depend on ten of them."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    logits = x[:, :10] @ torch.randn(10, generator=draw, dtype=torch.float64)
    return x, (torch.rand(rows, generator=draw, dtype=torch.float64) < logits.sigmoid()).long()


def test_a_loose_tolerance_takes_fewer_hessians_of_samples() -> None:
    features, labels = drawn(6000, 100, 0)
    numbers = []
    for tolerance in (1e-2, 1e-3, 1e-6):
        every: list[int] = []

        def keep(_: SolverState, one: Pass[object], every: list[int] = every) -> None:
            if isinstance(one, columns.DifferentiateHeld):
                every.append(one._every)

        found = fit(features, labels, Objective("bce", l1=0.02), tolerance=tolerance, optimizer="newton", watch=keep)
        assert found.converged
        assert every[-1] == 1
        numbers.append(sum(one > 1 for one in every))
    assert numbers[0] < numbers[1] < numbers[2]


def test_coefficients_whose_slopes_are_near_l1_join_with_those_that_exceed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extend, joined = module.WorkingSet._extend, []

    def counted(self: module.WorkingSet) -> PassRequests[bool]:
        before = self.wanted
        goes_on = yield from extend(self)
        assert self.slopes is not None
        ratios, new = self.slopes[:, :-1].abs() / self._l1[:-1], self.wanted & ~before
        assert bool((ratios[new] > module.NEAR_RATIO).all())
        assert bool((ratios[new] > 1).any()) or not bool(new.any())
        joined.append(int((ratios[new] <= 1).sum()))
        return goes_on

    monkeypatch.setattr(module.WorkingSet, "_extend", counted)
    assert fit(*drawn(200, 1000, 0), Objective("bce", l1=0.02)).converged
    assert max(joined) > 0


def test_more_coefficients_than_a_model_may_have_are_left_to_lbfgs(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = sparse(150, 80, 2)
    least = fit(features, labels, Objective("bce", l1=1e-3), tolerance=1e-8)
    monkeypatch.setattr(module, "MAX_MODEL_PARAMETERS", 20)
    found = fit(features, labels, Objective("bce", l1=1e-3), tolerance=1e-8)
    assert found.converged
    assert found.bound.value == pytest.approx(least.bound.value, rel=2e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_answer_does_not_depend_on_units_and_offsets(weighted: bool) -> None:
    features, labels = sparse(300, 90, 2)
    weights = torch.arange(300).double() % 4 if weighted else None
    plain = fit(features, labels, Objective("bce", l2=0.0, l1=0.02), sample_weight=weights, tolerance=1e-9)
    moved = fit(features + 3e4, labels, Objective("bce", l1=0.02), sample_weight=weights, tolerance=1e-9)
    assert plain.converged
    assert moved.converged
    assert moved.bound.value == pytest.approx(plain.bound.value, rel=1e-8)
    torch.testing.assert_close(moved.coef, plain.coef, rtol=0, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("rows", [25, 50])
@pytest.mark.parametrize("fraction", [1e-1, 1e-2, 1e-3])
def test_few_rows_of_many_features_that_separate_the_classes_are_certified(fraction: float, rows: int) -> None:
    # models with more free coefficients than rows are singular, and pivoting alone does not end
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 10 * rows))
    y = (x[:, :10] @ draw.normal(size=10) + draw.logistic(size=rows) > 0).astype(np.int64)
    l1 = fraction * float(np.abs(x.T @ (y - 0.5)).max()) / rows
    found = fit(torch.from_numpy(x), torch.from_numpy(y), Objective("bce", l1=l1), 2, intercept=False)
    assert found.converged
    assert found.bound.rigorous
    assert 0 < int((found.coef != 0).sum()) <= rows


def test_classes_of_equal_size_leave_the_first_model_without_a_step() -> None:
    # The intercept is at its optimum at once, so its Hessian, of some of the rows, is not made anew for more columns.
    draw = torch.Generator().manual_seed(0)
    features, labels = torch.randn(300, 600, generator=draw, dtype=torch.float64), torch.arange(300) % 2
    features[:, 0] += labels
    found = fit(features, labels, Objective("bce", l1=3e-2))
    assert found.converged
    assert 0 < int((found.coef != 0).sum()) < 300


@pytest.mark.parametrize(("rows", "features"), [(2000, 1), (2000, 8), (5000, 20)])
def test_a_rare_feature_that_a_sample_of_the_rows_does_not_show(rows: int, features: int) -> None:
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
        x[:, -1] = 0
        x[torch.randperm(rows, generator=draw)[:2], -1] = 1
        labels = (x.sum(1) + torch.randn(rows, generator=draw) > 0).long()
        assert fit(x, labels, Objective("bce", l1=1e-5)).converged


@pytest.mark.long
def test_pivots_that_would_cycle_end() -> None:
    torch.manual_seed(4)
    x = torch.randn(1281, 9).double() @ torch.randn(9, 46).double() + 0.1 * torch.randn(1281, 46).double()
    labels = torch.randint(2, (1281,))
    labels[torch.rand(1281) < 0.5] = 0
    largest = float((x.T @ (labels - labels.double().mean())).abs().max()) / 1281
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8):
        found = fit(x, labels, Objective("bce", l1=0.1 * largest), tolerance=tolerance)
        assert found.converged
        assert found.passes < 50


def test_pivots_of_a_softmax_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its coefficients of a feature may be shifted together, so their signs change from pivot to pivot.
    features, labels = sparse(300, 20, 3)
    pivot, ended = l1_model._pivot, []

    def recorded(*given: Array) -> Array | None:
        found = pivot(*given)
        ended.append(found is not None)
        return found

    monkeypatch.setattr(l1_model, "_pivot", recorded)
    found = fit(features, labels, Objective("cross_entropy", l1=1e-4))
    assert found.converged
    assert False in ended
    assert (False, False) not in set(pairwise(ended))


def classified(rows: int, features: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of six classes with features of sizes 10^-spread to 10^spread."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, features))
    logits = x @ draw.standard_normal((features, 6)) + draw.standard_normal((rows, 6))
    sizes = 10 ** draw.uniform(-spread, spread, features)
    return torch.from_numpy(x * sizes), torch.from_numpy(logits.argmax(1))


@pytest.mark.parametrize("l1", [1e-6, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_whose_rounding_is_large_against_l1_are_certified(l1: float, dtype: torch.dtype) -> None:
    # A slope of the largest features has errors that are large against l1, while their part of the penalty is small.
    for seed in range(3):
        features, labels = classified(300, 20, 3.0, seed)
        features, objective = features.to(dtype), Objective("cross_entropy", l1=l1)
        found = fit(features, labels, objective, optimizer="newton")
        assert found.bound.rigorous
        assert found.bound.gap + found.bound.rounding < 1e-6 * found.bound.value
        assert found.passes < 20
        tight = fit(features, labels, objective, optimizer="newton", tolerance=1e-9)  # rounding allows no more
        assert tight.bound.gap + tight.bound.rounding < 1e-7 * tight.bound.value


def test_a_certificate_that_fails_with_less_rounding_is_tried_again_at_a_more_exact_point() -> None:
    features, labels = sparse(200, 120, 2)
    features = features + 10 ** torch.linspace(
        0, 3, 120, dtype=torch.float64
    )  # a bound of their sizes is far too large
    found = fit(features, labels, Objective("bce", l1=2e-5), optimizer="newton", tolerance=1e-9)
    assert found.bound.rigorous
    assert found.bound.gap + found.bound.rounding <= 1e-9 * found.bound.value


def test_a_coefficient_that_a_shift_of_a_softmax_moves_from_0_joins_the_working_set() -> None:
    for seed, l1 in ((5, 5e-4), (5, 1e-3)):
        features, labels = classified(300, 15, 1.0, seed)
        found = fit(features, labels, Objective("cross_entropy", l1=l1), optimizer="newton")
        assert found.converged
        assert found.passes < 14


def test_outputs_without_any_coefficient() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 100, generator=draw, dtype=torch.float64)
    labels = torch.randint(3, (200,), generator=draw)
    targets = torch.eye(3, dtype=torch.float64)[labels]
    slopes = (x.T @ (targets - 0.5)).abs().amax(0) / 200
    assert float(slopes.max()) > 1.05 * float(slopes.min())
    found = fit(x, labels, Objective("bce", l1=0.99 * float(slopes.max())), intercept=False)
    assert found.converged
    assert int((found.coef != 0).any(1).sum()) == 1


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_the_bound_of_a_fit_that_passes_end_is_that_of_its_point(optimizer: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 100, generator=draw, dtype=torch.float64)
    labels = (x[:, 0] > 0).long()
    objective = Objective("bce", l1=0.02, l2=0.01)
    for most in range(2, 8):
        found = fit(x, labels, objective, max_passes=most, optimizer=optimizer)
        value = objective.value(x, labels.double().unsqueeze(1), found.coef, found.intercept)
        assert found.bound.value == pytest.approx(float(value), rel=1e-12)


def test_features_that_are_not_in_the_cache_are_added_up_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2200, 200, generator=draw, dtype=torch.float64)  # several copied parts, and more than `PART_BYTES`
    y = (x[:, :5].sum(1) + torch.randn(2200, generator=draw) > 0).long()
    assert x.nbytes > PART_BYTES[torch.float64]
    plain = fit(x, y, Objective("bce", l1=0.02), optimizer="newton")
    calls = []

    def recorded(left: Tensor, right: Tensor) -> Tensor:
        calls.append(right.shape)
        return sum_over_cold_rows(left, right)

    monkeypatch.setattr(columns, "MIN_COLD_NUMEL", 1)
    monkeypatch.setattr(columns, "sum_over_cold_rows", recorded)
    cold = fit(x, y, Objective("bce", l1=0.02), optimizer="newton")
    assert set(calls) == {x.shape}
    assert cold.converged
    torch.testing.assert_close(cold.coef, plain.coef, rtol=0, atol=1e-9)
    calls.clear()
    single = fit(x.float(), y, Objective("bce", l1=0.02), optimizer="newton")  # its parts are converted into the cache
    assert single.converged
    assert not calls
