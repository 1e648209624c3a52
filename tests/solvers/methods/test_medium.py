"""Problems of medium size: the same certified optimum as by the general solvers and by scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg.errors import DataError
from logreg.facts import Batch
from logreg.losses.objective import Objective, Reduction
from logreg.rows import MemoryRows
from logreg.solvers import fit as exact
from logreg.solvers import threads
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.bound import bound
from logreg.solvers.bounds.logistic_bound import LogisticPoint, bound_by_residuals
from logreg.solvers.bounds.newton_bound import bound_by_sample
from logreg.solvers.choose import is_medium
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.kernels import SUM_ROWS, Array, times_vector
from logreg.solvers.methods import medium, medium_rows
from logreg.solvers.methods.medium import solve_medium
from logreg.solvers.methods.medium_rows import MediumEvaluation, MediumRows, ZeroStart
from logreg.solvers.passes.base import MAX_FOLDED_MEAN, drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.sampling import thinned
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.source_units import stored_rows
from logreg.solvers.state import SolverState
from logreg.stored_form import StoredForm


def drawn(
    seed: int = 0, rows: int = 3000, features: int = 120, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Features (N, D), and labels of a logistic model; a Hessian costs more than it saves."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    logits = 2 * x @ torch.randn(features, generator=draw, dtype=torch.float64) / features**0.5 - 0.5
    labels = (torch.rand(rows, generator=draw, dtype=torch.float64) < logits.sigmoid()).long()
    return x.to(dtype), labels


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each fit by `solve_medium` was certified, as they are made."""
    found: list[bool] = []

    def watched(state: SolverState, rows: MemoryRows, max_passes: int, zero: ZeroStart | None) -> int:
        passes = solve_medium(state, rows, max_passes, zero)
        found.append(state.converged)
        return passes

    monkeypatch.setattr(exact, "solve_medium", watched)
    return found


def assert_same(solved: list[bool], features: Tensor, labels: Tensor, l2: float, **options: Any) -> None:
    """Ours is certified without the general solver, and ends where that and scikit-learn end."""
    objective = Objective("bce", l2=l2)
    one = fit(features, labels, objective, tolerance=1e-9, **options)
    assert solved == [True]
    assert one.converged
    assert one.bound.rigorous
    other = fit(features, labels, objective, tolerance=1e-12, optimizer="newton", **options)
    assert one.bound.value - other.bound.value <= 1e-9 * one.bound.value
    assert one.bound.value == pytest.approx(other.bound.value, rel=1e-9)
    sizes = features.double().std(0).clamp(min=1e-30)
    torch.testing.assert_close(one.coef * sizes, other.coef * sizes, rtol=1e-3, atol=1e-4)
    weight = np.ones(len(labels)) if options.get("sample_weight") is None else options["sample_weight"].double().numpy()
    weight = weight * np.array(options.get("class_weight") or (1.0, 1.0))[labels.numpy()]
    has_intercept = options.get("intercept", True)
    center = features.double().mean(0) * has_intercept  # scikit-learn needs features near 0
    centered = (features.double() - center).numpy()
    theirs = LogisticRegression(
        C=1 / (weight.sum() * l2), tol=1e-12, solver="newton-cholesky", fit_intercept=has_intercept
    ).fit(centered, labels.numpy(), sample_weight=weight)
    margins = (1 - 2 * labels.numpy()) * theirs.decision_function(centered)
    value = weight @ np.logaddexp(0, margins) / weight.sum() + l2 / 2 * np.square(theirs.coef_).sum()
    assert one.bound.value == pytest.approx(value, rel=2e-9)
    torch.testing.assert_close(one.coef * sizes, torch.from_numpy(theirs.coef_) * sizes, rtol=1e-3, atol=1e-4)
    at_center = torch.from_numpy(np.atleast_1d(theirs.intercept_))
    torch.testing.assert_close(one.intercept + one.coef @ center, at_center, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [1e-2, 3e-4, 1e-6])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_optimum_is_that_of_others(solved: list[bool], dtype: torch.dtype, l2: float, intercept: bool) -> None:
    assert_same(solved, *drawn(dtype=dtype), l2, intercept=intercept)


def test_weights_of_rows_count(solved: list[bool]) -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.rand(3000, generator=draw) * (torch.rand(3000, generator=draw) < 0.8)
    assert_same(solved, *drawn(), 1e-3, sample_weight=weight)


def test_weights_of_classes_count(solved: list[bool]) -> None:
    assert_same(solved, *drawn(), 1e-3, class_weight=[3.0, 0.5])


def test_a_summed_objective_has_the_optimum_of_the_mean(solved: list[bool]) -> None:
    features, labels = drawn()
    reductions: dict[Reduction, float] = {"mean": 1e-3, "sum": 3.0}
    one, other = (
        fit(features, labels, Objective("bce", name, l2=l2), tolerance=1e-9) for name, l2 in reductions.items()
    )
    assert solved == [True, True]
    assert other.bound.value == pytest.approx(3000 * one.bound.value, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_of_every_kind(solved: list[bool], dtype: torch.dtype) -> None:
    features, labels = drawn(dtype=torch.float64)
    features[:, 1] *= 1e5
    features[:, 2] = 7.0
    features[:, 3] = features[:, 4]
    features[:, 5] += 5
    features[:, 6] = (features[:, 6] > 2.5).double()
    assert_same(solved, features.to(dtype), labels, 1e-3)


def test_features_far_from_zero(solved: list[bool]) -> None:
    features, labels = drawn(dtype=torch.float64)
    features[:, 0] += 1e6  # stored shifted
    assert_same(solved, features, labels, 1e-3)


def test_narrow_features_far_from_zero_are_left_to_the_general_solver(solved: list[bool]) -> None:
    features, labels = drawn()
    features[:, 0] += 1e3
    assert fit(features, labels, Objective("bce", l2=1e-3)).converged
    assert solved == [False]


@pytest.mark.long
def test_an_unbalanced_class_and_separated_rows(solved: list[bool]) -> None:
    features, labels = drawn()
    rare = labels * (torch.arange(3000) % 20 == 0)
    assert_same(solved, features, rare, 1e-3)
    solved.clear()
    separated = (features[:, 0] > 0).long()
    assert_same(solved, features, separated, 1e-4)


def test_correlated_features_are_solved_with_the_hessian_of_a_sample(
    solved: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = drawn(rows=20_000, features=60)
    common = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(2))
    made: list[int] = []
    inverse = medium._inverse_of_sample

    def counted(problem: Problem, at: Coordinates, point: Array, sample: Batch) -> medium.Matrix | None:
        made.append(len(sample.labels))
        return inverse(problem, at, point, sample)

    monkeypatch.setattr(medium, "_inverse_of_sample", counted)
    assert_same(solved, features + 3 * common, labels, 1e-4)
    assert made


def test_correlated_features_without_enough_rows_are_left_to_the_general_solver(solved: list[bool]) -> None:
    features, labels = drawn(rows=2000, features=200)
    common = torch.randn(2000, 1, generator=torch.Generator().manual_seed(2))
    assert fit(features + 3 * common, labels, Objective("bce", l2=1e-4)).converged
    assert solved == [False]


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("l2", [1e-2, 1e-4, 1e-8])
def test_the_bound_is_at_least_the_gap(solved: list[bool], tolerance: float, l2: float) -> None:
    for seed in range(3):
        features, labels = drawn(seed)
        found = fit(features, labels, Objective("bce", l2=l2), tolerance=tolerance)
        best = fit(features, labels, Objective("bce", l2=l2), tolerance=1e-12, optimizer="newton")
        gap = found.bound.value - best.bound.value
        assert found.converged
        assert found.bound.gap <= tolerance * found.bound.value
        assert -1e-11 * best.bound.value <= gap <= found.bound.gap + found.bound.rounding
    assert all(solved)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("per_thread", [1, 2**30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_evaluation_is_that_of_a_pass(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, per_thread: int) -> None:
    monkeypatch.setattr(threads, "NUMBERS_PER_THREAD", per_thread)
    monkeypatch.setattr(medium_rows, "BLOCK_BYTES", 28_000)  # the last block is a smaller one
    features, labels = drawn()
    weight = torch.rand(3000, generator=torch.Generator().manual_seed(1))
    memory, stored = stored_rows(features + 2, labels, weight)
    problem = problem_of(memory, Objective("bce", l2=0.1), 2, (2.0, 0.7), stored=stored)
    at = Coordinates(torch.full((120,), 2.0, dtype=torch.float64), torch.linspace(0.5, 2, 120, dtype=torch.float64))
    point = torch.randn(1, 121, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = MediumRows(problem, memory, at)
    for kind in (dtype, torch.float32, torch.float64):  # what they leave in their memory does not matter
        rows.evaluate(0 * point[0].numpy(), kind)
    assert rows._space.nbytes == 24 * 3000  # for all of them
    other = drive(request(Evaluate(problem, at, point, dtype)), memory)
    rtol, atol = (1e-12, 1e-13) if dtype == torch.float64 else (1e-4, 1e-6)
    for _ in range(2):  # in both orders of the blocks
        one = rows.evaluate(point[0].numpy(), dtype)
        assert one.value == pytest.approx(other.value, rel=rtol)
        torch.testing.assert_close(torch.from_numpy(one.gradient), other.gradient[0], rtol=rtol, atol=atol)
        assert one.own == pytest.approx(float(other.curvature.own), rel=rtol)
        if dtype == torch.float64:
            assert one.derivatives is not None
            assert one.derivatives.by_intercept is not None
            torch.testing.assert_close(one.derivatives.by_intercept, other.by_intercept, rtol=rtol, atol=atol)
            assert one.derivatives.loss == pytest.approx(other.loss, rel=1e-12)


def test_a_pass_begins_with_the_blocks_that_the_last_one_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medium_rows, "BLOCK_BYTES", 500_000)
    memory = MemoryRows(*drawn())
    problem = problem_of(memory, Objective("bce", l2=1e-2))
    rows, lengths = MediumRows(problem, memory, problem.model), list[int]()

    def watched(block: Array, vector: Array, out: Array) -> None:
        lengths.append(len(block))
        times_vector(block, vector, out)

    monkeypatch.setattr(medium_rows, "times_vector", watched)
    for _ in range(2):
        rows.evaluate(np.zeros(121), torch.float32)
    assert lengths == [918, 1041, 1041, 1041, 1041, 918]  # `ZeroStart` reads forwards


class _Watched(np.ndarray[Any, Any]):
    """Features whose products with sums over the rows note how many rows they have."""

    lengths: ClassVar[list[int]] = []

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        if ufunc is np.matmul and inputs[1].ndim == 2:
            self.lengths.append(len(inputs[1]))
        return getattr(ufunc, method)(*(one.view(np.ndarray) for one in inputs), **keywords)


def test_the_sums_of_a_certificate_have_no_more_additions_than_it_counts() -> None:
    features, labels = drawn(rows=3 * SUM_ROWS + 100, dtype=torch.float64)
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, Objective("bce", l2=1e-2))
    rows = MediumRows(problem, memory, problem.model)
    rows._features = rows._features.view(_Watched)
    _Watched.lengths.clear()
    evaluated = rows.evaluate(np.zeros(121), torch.float64).derivatives
    assert evaluated is not None
    assert evaluated.additions is not None
    assert sum(_Watched.lengths) == 2 * len(labels)  # of the residuals and of the curvatures
    assert max(_Watched.lengths) + len(_Watched.lengths) // 2 <= evaluated.additions
    assert evaluated.additions < len(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_first_pass_is_that_of_zero_and_gives_the_coordinates(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, weighted: bool, intercept: bool
) -> None:
    monkeypatch.setattr(medium_rows, "BLOCK_BYTES", 28_000)  # the last block is a smaller one
    features, labels = drawn(dtype=dtype)
    features[:, 1] += 3
    features[:, 2], features[:, 3] = 7.1, 0.0
    weight = torch.rand(3000, generator=torch.Generator().manual_seed(1)) if weighted else None
    class_weight = (2.0, 0.7) if weighted else ()
    memory, stored = stored_rows(features, labels, weight)
    problem = problem_of(memory, Objective("bce", l2=0.1), 2, class_weight, intercept=intercept, stored=stored)
    zero = ZeroStart(problem, memory)
    of_rows = torch.ones(3000) if weight is None else weight * torch.tensor(class_weight, dtype=torch.float64)[labels]
    mean = (of_rows.double() @ features.double() / of_rows.double().sum()) * intercept
    deviation = (of_rows.double() @ (features.double() - mean).square() / of_rows.double().sum()).sqrt()
    deviation = torch.where(deviation > 1e-6, deviation, 1.0)
    rtol, atol = (1e-12, 1e-13) if dtype == torch.float64 else (1e-4, 1e-5)
    torch.testing.assert_close(zero.coordinates.center, mean, rtol=rtol, atol=atol)
    torch.testing.assert_close(zero.coordinates.scale, deviation, rtol=rtol, atol=atol)
    point, now = zero.evaluate()
    at = torch.from_numpy(point).unsqueeze(0)
    there = drive(request(Evaluate(problem, zero.coordinates, at, torch.float64)), memory)
    assert not at[0, :-1].any()
    assert at[0, -1] == 0 or intercept
    assert now.value == pytest.approx(there.value, rel=rtol)
    assert now.own == pytest.approx(float(there.curvature.own), rel=rtol)
    torch.testing.assert_close(torch.from_numpy(now.gradient), there.gradient[0], rtol=rtol, atol=atol)


def test_features_whose_deviation_is_lost_in_rounding_count_as_far_from_zero() -> None:
    features, labels = drawn()
    features[:, :60] = 5 + 1e-4 * features[:, :60]
    features[:, 60] = 5.0
    memory = MemoryRows(features, labels)
    with np.errstate(all="ignore"):
        at = ZeroStart(problem_of(memory, Objective("bce", l2=0.1)), memory).coordinates
    is_far = at.center.abs() > MAX_FOLDED_MEAN[torch.float32] * at.scale
    assert is_far[:60].all()
    assert not is_far[60:].any()


def test_the_first_step_saves_passes(solved: list[bool]) -> None:
    features, labels = drawn(rows=20_000, features=50)
    assert fit(features, labels, Objective("bce", l2=5e-5), tolerance=1e-3).passes <= 5  # 7 with the diagonal alone
    rare = labels * (torch.rand(20_000, generator=torch.Generator().manual_seed(4)) < 0.1)
    assert fit(features, rare, Objective("bce", l2=5e-5), tolerance=1e-3).passes <= 6  # 9 with the diagonal alone
    assert solved == [True, True]


@pytest.mark.long
def test_about_every_evaluation_in_float64_is_the_last_one(solved: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    exact_ones: list[bool] = []

    def watched(rows: MediumRows, point: Array, dtype: torch.dtype) -> MediumEvaluation:
        exact_ones.append(dtype == torch.float64)
        return evaluate(rows, point, dtype)

    evaluate = MediumRows.evaluate
    monkeypatch.setattr(MediumRows, "evaluate", watched)
    features, labels = drawn(features=400)
    for l2 in (1e-4, 1e-3, 1e-2):
        for tolerance in torch.logspace(-4, -0.5, 8).tolist():
            assert fit(features, labels, Objective("bce", l2=l2), tolerance=tolerance).converged
    assert len(solved) == 24
    assert all(solved)
    assert sum(exact_ones) <= 25


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_odd_number_among_features_of_medium_size_is_seen(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, weighted: bool
) -> None:
    features, labels = drawn(dtype=dtype)
    objective, weight = Objective("bce", l2=0.1), torch.ones(3000, dtype=torch.float64) if weighted else None
    forms: list[bool] = []

    def watched(*arguments: Any) -> tuple[MemoryRows, StoredForm]:
        memory, stored = stored_rows(*arguments)
        forms.append(stored.is_plain)
        return memory, stored

    monkeypatch.setattr(exact, "stored_rows", watched)
    for size in (1.0, 1e9, 1e12, 1e30):  # the last one has a square that float32 does not hold
        features[1234, 56] = size
        fit(features, labels, objective, sample_weight=weight, max_passes=10)
    assert forms == ([True, True, False, False] if weighted else [False, False])  # else the first pass shows it
    for odd in (math.nan, math.inf, -math.inf):
        features[1234, 56] = odd
        with pytest.raises(DataError, match=f"features must be finite, got {odd} in row 1234, column 56"):
            fit(features, labels, objective, sample_weight=weight)


@pytest.mark.long
def test_a_sample_that_bounds_the_gap_has_enough_rows_at_once(
    solved: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watched(at: LogisticPoint, sample: Batch) -> Bound | None:
        sizes.append(len(sample.labels))
        return bounded(at, sample)

    bounded = medium._bound_by_sample
    monkeypatch.setattr(medium, "_bound_by_sample", watched)
    features, labels = drawn(rows=20_000, features=50)
    tolerances = torch.logspace(-6, -3, 31).tolist()
    for tolerance in tolerances:
        assert fit(features, labels, Objective("bce", l2=1e-8), tolerance=tolerance).converged
    assert all(solved)
    assert len(tolerances) / 2 < len(sizes) <= len(tolerances)
    assert len(set(sizes)) > 10  # they are chosen for the tolerance


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("by_sample", [True, False])
def test_the_bound_is_that_of_other_methods(
    monkeypatch: pytest.MonkeyPatch, by_sample: bool, intercept: bool, weighted: bool
) -> None:
    compared: list[tuple[Bound, Bound]] = []

    def watched(steps: medium._Steps, estimate: medium._Estimate, limit: medium._Limit) -> bool:
        now, point, problem = steps.now.derivatives, steps.tensor(), steps.problem
        assert now is not None
        if by_sample:
            sample = thinned(steps.sample, 900)
            ours = medium._bound_by_sample(steps.evaluated(), sample)
            theirs = drive(bound_by_sample(problem, steps.at, point, now, sample), steps.source)
        else:
            assert now.by_intercept is not None
            moved = now.by_intercept.numpy()[:, : 120 + intercept]
            ours = bound_by_residuals(steps.evaluated(), moved)
            theirs = drive(bound(problem, point, now, 1e-9, steps.at, cheaply=True), steps.source)
        assert ours is not None
        assert theirs is not None
        compared.append((ours, theirs))
        return certifies(steps, estimate, limit)

    certifies = medium._Steps.certifies
    monkeypatch.setattr(medium._Steps, "certifies", watched)
    features, labels = drawn()
    features[:, 0] = 3 * features[:, 0] + 5
    weight = torch.rand(3000, generator=torch.Generator().manual_seed(1)) if weighted else None
    objective, class_weight = Objective("bce", l2=1e-4), (2.0, 0.7) if weighted else ()
    for tolerance in (1e-2, 1e-6):
        fit(features, labels, objective, 2, weight, class_weight, tolerance=tolerance, intercept=intercept)
    assert len(compared) >= 2
    for ours, theirs in compared:
        assert ours.rigorous
        assert ours.value == theirs.value
        assert ours.gap == pytest.approx(theirs.gap, rel=1e-9)
        assert ours.rounding == pytest.approx(theirs.rounding, rel=1e-3)
        assert theirs.error == pytest.approx(ours.error, rel=0.1)
        torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("features", [200, 400])
def test_the_point_to_be_certified_is_evaluated_once(
    solved: list[bool], monkeypatch: pytest.MonkeyPatch, features: int
) -> None:
    made: list[tuple[Array, torch.dtype]] = []
    evaluate = medium._Steps.evaluate

    def watched(steps: medium._Steps, point: Array, dtype: torch.dtype) -> MediumEvaluation:
        made.append((point, dtype))
        return evaluate(steps, point, dtype)

    monkeypatch.setattr(medium._Steps, "evaluate", watched)
    found = fit(*drawn(rows=6000, features=features), Objective("bce", l2=1 / 6000), tolerance=0.3)
    assert solved == [True]
    assert found.passes == len(made) + 1
    assert [dtype for _, dtype in made] == [torch.float32] * (len(made) - 1) + [torch.float64]
    assert len({point.tobytes() for point, _ in made}) == len(made)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_matrix_after_the_first_step_has_its_curvature(intercept: bool) -> None:
    draw = np.random.default_rng(0)
    diagonal, paths = draw.uniform(0.5, 2, 6), np.zeros((2, 6))
    paths[0, :5], paths[1, 5] = draw.standard_normal(5), float(intercept)
    of_paths = paths * diagonal
    own = of_paths @ paths.T
    root = draw.standard_normal((2, 2)) * [[1.0], [float(intercept)]]
    along = root @ root.T
    hessian = own + own @ along @ own + np.diag([0.0, 1.0 - intercept])
    whole = np.diag(diagonal) + of_paths.T @ along @ of_paths
    inverse = medium._FirstStep(np.ones(2), paths, hessian).inverse(diagonal)
    gradient = draw.standard_normal(6)
    np.testing.assert_allclose(whole @ inverse(gradient), gradient, rtol=1e-12)


def test_no_more_passes_are_made_than_the_limit(solved: list[bool]) -> None:
    features, labels = drawn()
    for most in (1, 2, 4):
        found = fit(features, labels, Objective("bce", l2=1e-4), tolerance=1e-9, max_passes=most)
        assert found.passes == most
        assert not found.converged
    assert solved == [False] * 3
    more = fit(features, labels, Objective("bce", l2=1e-4), tolerance=1e-9, max_passes=3).bound.value
    assert found.bound.value < more < 0.6931


def test_a_start_at_the_optimum_takes_one_or_two_passes(solved: list[bool]) -> None:
    features, labels = drawn()
    first = fit(features, labels, Objective("bce", l2=1e-3), tolerance=1e-10)
    again = fit(features, labels, Objective("bce", l2=1e-3), tolerance=1e-6, start=(first.coef, first.intercept))
    assert again.passes <= 2
    assert solved == [True, True]


def test_other_problems_are_not_of_medium_size() -> None:
    features, labels = drawn()
    memory = MemoryRows(features, labels)

    def medium_size(objective: Objective, classes: int = 2, rows: MemoryRows = memory) -> bool:
        return is_medium(problem_of(rows, objective, classes), rows)

    assert medium_size(Objective("bce", l2=1e-3))
    assert not medium_size(Objective("bce"))
    assert not medium_size(Objective("bce", l2=1e-3, l1=1e-3))
    assert not medium_size(Objective("bce", l2=1e-3), classes=3)
    assert not medium_size(Objective("cross_entropy", l2=1e-3))
    assert not medium_size(Objective("bce", l2=1e-3), rows=MemoryRows(features.half(), labels))
    assert not medium_size(Objective("bce", l2=1e-3), rows=MemoryRows(features, labels, None, torch.ones(3000)))
    assert not medium_size(Objective("bce", l2=1e-3), rows=MemoryRows(features[:100], labels[:100]))


@pytest.mark.long
@pytest.mark.parametrize(("coef", "intercept"), [(0.0, -800.0), (1e3, 0.0), (1e5, 1e5)])
def test_a_start_where_no_row_has_curvature(coef: float, intercept: float) -> None:
    features, labels = drawn()
    start = torch.full((1, 120), coef), torch.tensor([intercept])
    objective = Objective("bce", l2=1e-3)
    found, best = fit(features, labels, objective, start=start), fit(features, labels, objective, tolerance=1e-10)
    assert found.converged
    assert 0 <= found.bound.value - best.bound.value + 1e-10 <= 1e-6 * found.bound.value
