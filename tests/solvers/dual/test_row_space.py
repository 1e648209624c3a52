"""Few rows of many features: the Gram matrix, the Woodbury inverse, the span of the steps, and whole fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.errors import DivergedError
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.dual import row_space
from logreg.solvers.dual.row_space import DualRows, DualSolver, WoodburyInverse
from logreg.solvers.dual.span import (
    Span,
    SpanEvaluation,
    cholesky_with_ridge,
    inverse_of_gram,
    inverse_of_gram_diagonal,
)
from logreg.solvers.fit import Fit, fit, problem_of
from logreg.solvers.kernels import Array
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import drive, request, run_pass
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState
from reference import Reference

KINDS = {
    "binary": (2, Objective("bce", l2=0.02)),
    "binary, sum": (2, Objective("bce", l2=0.02, reduction="sum")),
    "one-vs-rest": (3, Objective("bce", l2=0.02)),
    "softmax": (4, Objective("cross_entropy", l2=0.02)),
}


class Stated(NamedTuple):
    """A problem at given dual coefficients."""

    problem: Problem
    memory: MemoryRows
    rows: DualRows
    dual_coef: Tensor
    logits: Tensor
    intercept: Tensor


def stated(kind: str, weighted: bool = False, intercept: bool = True, shift: float = 0.0) -> Stated:
    """In float64, in three blocks; rows that are correlated."""
    classes, objective = KINDS[kind]
    draw = torch.Generator().manual_seed(7)
    x = (
        torch.randn(15, 70, generator=draw).double()
        + 2 * torch.randn(15, 2, generator=draw).double() @ torch.randn(2, 70, generator=draw).double()
    )
    labels = torch.randint(0, classes, (15,), generator=draw)
    memory = MemoryRows(x + shift, labels, torch.arange(15).double() % 3 if weighted else None)
    memory.block_rows = 6
    problem = problem_of(memory, objective, classes, intercept=intercept)
    center = memory.features.mean(0) if intercept else torch.zeros(70).double()
    rows = drive(request(DualRows(problem, Coordinates(center, torch.ones_like(center)))), memory)
    dual_coef = torch.randn(15, problem.num_outputs, generator=draw).double() / 400
    free = torch.randn(problem.num_outputs, generator=draw).double() if intercept else torch.zeros(problem.num_outputs)
    return Stated(problem, memory, rows, dual_coef, rows.logits(rows.combined(dual_coef)), free.double())


def dual_point_at(given: Stated) -> SpanEvaluation:
    """The objective and its derivatives there."""
    on = Span(given.problem, given.rows.labels, given.rows.weights)
    return on.evaluate(given.logits + given.intercept, given.dual_coef)


def woodbury_inverse(given: Stated) -> WoodburyInverse:
    """The inverse of the Hessian there, in the rows' coordinates."""
    solver = DualSolver(given.rows, 1e-6)
    solver.gram, solver.current = given.rows.gram_matrix(), dual_point_at(given)
    return WoodburyInverse(solver, given.rows.coordinates)


def objective_at(given: Stated, point: Tensor) -> Tensor:
    """f by torch's losses and autograd alone, at a point (K, D + 1) of the rows' coordinates."""
    center, _ = given.rows.coordinates
    logits = (given.memory.features - center) @ point[:, :-1].T + point[:, -1]
    targets = one_vs_rest(given.memory.labels, given.problem.num_outputs, torch.float64)
    objective = given.problem.objective
    return objective.data_term(logits, targets, given.memory.sample_weight) + objective.penalty(point[:, :-1])


def derivatives(given: Stated) -> tuple[Tensor, Tensor, Tensor]:
    """The point (K, D + 1), the gradient there, and the Hessian (K * (D + 1), K * (D + 1))."""
    point = torch.cat([given.rows.combined(given.dual_coef), given.intercept.unsqueeze(1)], dim=1)
    flat = point.flatten()

    def value(of: Tensor) -> Tensor:
        return objective_at(given, of.view_as(point))

    gradient = torch.autograd.functional.jacobian(value, flat)
    return point, gradient.view_as(point), torch.autograd.functional.hessian(value, flat)


# The rows


@pytest.mark.parametrize("shift", [0.0, 3.0, 1e6])
def test_rows_are_combined_and_multiplied_about_their_mean(shift: float) -> None:
    given = stated("softmax", shift=shift)
    x = given.memory.features - given.memory.features.mean(0)
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-8 if shift > 1e3 else 1e-12)
    coef = given.rows.combined(given.dual_coef)
    close(coef, given.dual_coef.T @ x)
    close(given.rows.logits(coef), x @ coef.T)
    close(given.rows.squared_norms[:, 0], x.square().sum(1))
    close(given.rows.gram_matrix(), x @ x.T)


@pytest.mark.parametrize("centers", ["zeros", "ones", "means"])
@pytest.mark.parametrize("scales", ["ones", "deviations"])
def test_rows_are_combined_and_multiplied_in_any_coordinates(centers: str, scales: str) -> None:
    given = stated("softmax")
    features = given.memory.features
    center = {"zeros": torch.zeros(70), "ones": torch.ones(70), "means": features.mean(0)}[centers].double()
    scale = features.std(0) if scales == "deviations" else torch.ones_like(center)
    rows = drive(request(DualRows(given.problem, Coordinates(center, scale))), given.memory)
    x = (features - center) / scale
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
    coef = rows.combined(given.dual_coef)
    close(coef, given.dual_coef.T @ x)
    close(rows.logits(coef), x @ coef.T)
    close(rows.squared_norms[:, 0], x.square().sum(1))
    close(rows.gram_matrix(), x @ x.T)


def test_the_gram_matrix_of_many_columns_is_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_space, "GRAM_BLOCK_BYTES", 1000)
    test_rows_are_combined_and_multiplied_about_their_mean(3.0)


def test_large_dual_coefficients_that_cancel_are_combined_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    half = torch.randn(25, 250, generator=draw) * torch.logspace(-2, 3, 250)
    labels = torch.randint(0, 2, (50,), generator=draw)
    found = fit(torch.cat([half, half]), labels, Objective("bce", l2=1e-6), tolerance=1e-2)
    assert found.converged
    assert found.passes <= 100


@pytest.mark.parametrize("seed", range(4))
def test_steps_in_all_dimensions_keep_their_digits_where_the_hessian_is_ill_conditioned(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    half = torch.randn(30, 400, generator=draw) * torch.logspace(-2, 4, 400)
    labels = torch.randint(0, 2, (60,), generator=draw)
    found = fit(torch.cat([half, half]), labels, Objective("bce", l2=1e-2))
    assert found.converged
    assert found.passes <= 10  # of float32 a hundred or more


# Newton's steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_woodbury_inverse_is_the_inverse_of_the_hessian(kind: str, weighted: bool, intercept: bool) -> None:
    given = stated(kind, weighted, intercept)
    point, gradient, hessian = derivatives(given)
    inverse = woodbury_inverse(given)
    if not intercept:
        free = torch.ones_like(point, dtype=torch.bool)
        free[:, -1] = False
        hessian, gradient = hessian[free.flatten()][:, free.flatten()], torch.where(free, gradient, 0.0)
        flat = torch.zeros_like(point)
        flat[free] = torch.linalg.solve(hessian, gradient[free])
    else:
        flat = (torch.linalg.pinv(hessian, rtol=1e-14, hermitian=True) @ gradient.flatten()).view_as(point)
    step = inverse(gradient)
    if given.problem.coupled:  # one number for all intercepts changes nothing
        step[:, -1] -= step[:, -1].mean()
        flat[:, -1] -= flat[:, -1].mean()
    torch.testing.assert_close(step, flat, rtol=1e-6, atol=1e-8)


def test_a_step_in_all_dimensions_of_float32_rows_is_that_of_the_same_rows_in_float64() -> None:
    # The rounding of their products is a hundred times l2 D^-1, which of rows that are nearly alike is left to invert.
    draw = torch.Generator().manual_seed(0)
    half = torch.randn(30, 400, generator=draw) * torch.logspace(-2, 4, 400)
    labels, x = torch.randint(0, 2, (60,), generator=draw), torch.cat([half, half * (1 + 1e-6)])
    dual_coef, steps = torch.randn(60, 1, generator=draw).double() * 1e-9, []
    of_rows = torch.randn(60, 1, generator=draw).double()
    for dtype in (torch.float32, torch.float64):
        memory = MemoryRows(x.to(dtype), labels)
        problem = problem_of(memory, Objective("bce", l2=1e-2), 2)
        rows = drive(request(DualRows(problem, problem.model)), memory)
        logits = rows.logits(rows.combined(dual_coef, torch.float64), torch.float64)
        given = Stated(problem, memory, rows, dual_coef, logits, torch.zeros(1).double())
        gradient = torch.cat([(of_rows.T @ x.double()), torch.zeros(1, 1).double()], dim=1)
        steps.append(woodbury_inverse(given)(gradient)[0])
    assert float((steps[0] - steps[1]).norm() / steps[1].norm()) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_newton_step_of_the_dual_coefficients_is_that_of_the_coefficients(kind: str, weighted: bool) -> None:
    given = stated(kind, weighted)
    gram, current = given.rows.gram_matrix(), dual_point_at(given)
    _, gradient, _ = derivatives(given)
    torch.testing.assert_close(given.rows.combined(current.dual_gradient), gradient[:, :-1], rtol=1e-9, atol=1e-11)
    step = current.newton_step(gram @ current.dual_gradient, inverse_of_gram(gram, current))
    expected = -woodbury_inverse(given)(gradient)[:, :-1]
    torch.testing.assert_close(given.rows.combined(step), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_for_orthogonal_rows_is_that_of_a_diagonal_gram_matrix(kind: str) -> None:
    given = stated(kind, weighted=True)
    squares, current = given.rows.squared_norms, dual_point_at(given)
    ours, theirs = inverse_of_gram_diagonal(squares, current), inverse_of_gram(torch.diag(squares[:, 0]), current)
    torch.testing.assert_close(ours.intercept_sums, theirs.intercept_sums, rtol=1e-9, atol=1e-11)
    logits = given.logits.sin()
    torch.testing.assert_close(ours.apply(logits), theirs.apply(logits), rtol=1e-9, atol=1e-11)


# The span


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intercept", [True, False])
def test_the_gradient_vanishes_along_the_span_at_its_optimum(kind: str, intercept: bool) -> None:
    given = stated(kind, weighted=True, intercept=intercept)
    on = Span(given.problem, given.rows.labels, given.rows.weights)
    directions = []
    for number in range(3):
        directions.append(on.orthogonal_part((given.dual_coef * (number + 1)).sin()))
        on.add(directions[-1], given.rows.logits(given.rows.combined(directions[-1])))
    for _ in range(5):  # each ends where another step would gain little
        current = on.minimize()
    dual_coef, free = on.point
    there = given._replace(dual_coef=dual_coef, intercept=free)
    point, gradient, _ = derivatives(there)
    assert current.value == pytest.approx(float(objective_at(there, point)), rel=1e-12)
    for direction in directions:  # each output has a factor of its own
        slopes = (given.rows.combined(direction) * gradient[:, :-1]).sum(1)
        assert float(slopes.abs().max()) < 1e-7
    assert not intercept or float(gradient[:, -1].abs().max()) < 1e-7


def test_a_direction_within_the_span_adds_nothing() -> None:
    given = stated("binary")
    on, least = Span(given.problem, given.rows.labels, given.rows.weights), []
    for _ in range(2):
        direction = on.orthogonal_part(given.dual_coef)
        on.add(direction, given.rows.logits(given.rows.combined(direction)))
        least.append(min(on.minimize().value for _ in range(5)))  # each ends where another step would gain little
    assert not direction.any()
    assert least[1] == pytest.approx(least[0], rel=1e-13, abs=0)


def test_a_direction_that_is_nearly_within_the_span_is_orthogonal_to_it() -> None:
    given = stated("binary")
    on = Span(given.problem, given.rows.labels, given.rows.weights)
    first = on.orthogonal_part(given.dual_coef)
    on.add(first, given.rows.logits(given.rows.combined(first)))
    off = torch.randn(15, 1, generator=torch.Generator().manual_seed(1)).double()
    direction = on.orthogonal_part(1e12 * given.dual_coef + off)
    inside, outside = (given.rows.combined(one) for one in (first, direction))
    assert abs(float((inside * outside).sum())) < 1e-12 * float(inside.norm() * outside.norm())
    assert abs(float(direction.sum())) < 1e-12 * float(direction.norm())  # since X' 1 = 0 but for rounding


def steps_within(on: Span, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The decreases that the steps of one call predict."""
    decreases: list[float] = []
    newton_step = Span._newton_step

    def counted(self: Span, now: Any) -> tuple[Array, float]:
        step, decrease = newton_step(self, now)
        decreases.append(decrease)
        return step, decrease

    with monkeypatch.context() as patch:
        patch.setattr(Span, "_newton_step", counted)
        on.minimize()
    return decreases


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("far", [1e-4, 0.1, 0.5])
def test_no_step_within_the_span_follows_one_that_left_a_thousandth(
    kind: str, far: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = stated(kind)
    on = Span(given.problem, given.rows.labels, given.rows.weights)
    direction = given.dual_coef.sin()
    on.add(direction, given.rows.logits(given.rows.combined(direction)))
    for _ in range(8):
        on.minimize()
    on._position = on._position + far * np.linspace(0.5, 1, len(on._position))[:, None]
    on._now = on._terms_at(on._position)
    taken, (left, *_) = steps_within(on, monkeypatch), steps_within(on, monkeypatch)
    assert left <= 3e-3 * taken[0]  # what the steps left
    assert (len(taken) == 1) == (far == 1e-4 and given.problem.num_outputs == 1)


@pytest.mark.parametrize("apart", [0.0, 1e-7])  # the second one has a Cholesky factor, whose step would be rounding
def test_directions_that_repeat_each_other_have_a_step_of_least_norm(apart: float) -> None:
    given = stated("binary")
    on = Span(given.problem, given.rows.labels, given.rows.weights)
    on.add(given.dual_coef, given.rows.logits(given.rows.combined(given.dual_coef)))
    expected, decrease = on._newton_step(on._now)
    on._logits, on._dual_coef = (np.concatenate([part, part[:, :1]], axis=1) for part in (on._logits, on._dual_coef))
    on._position, on._penalty = np.pad(on._position, ((0, 0), (0, 1))), np.pad(on._penalty, (0, 1))
    on._logits[:, -1] += apart * np.sin(np.arange(len(given.rows.labels)))
    step, same = on._newton_step(on._now)  # the intercept's direction stands there twice
    twice = np.concatenate([expected[:, :1] / 2, expected[:, 1:], expected[:, :1] / 2], axis=1)
    np.testing.assert_allclose(step, twice, rtol=1e-6, atol=10 * apart)
    assert same == pytest.approx(decrease, rel=1e-6)


# Whole fits


class Counted(NamedTuple):
    """A fit, and how often the Gram matrix, an inverse and a Cholesky factor of the Gram matrix were computed."""

    found: Fit
    grams: int
    curvatures: int
    roots: int


def counted(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Fit]) -> Counted:
    calls = dict.fromkeys(("gram_matrix", "inverse_of_gram", "_solve_at_cholesky_factor"), 0)

    def count(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def counting(*arguments: object) -> object:
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(owner, name, counting)

    count(DualRows, "gram_matrix")
    count(row_space, "inverse_of_gram")
    count(row_space, "_solve_at_cholesky_factor")
    return Counted(run(), *calls.values())


def nearly_orthogonal(rows: int, features: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Rows of noise, which are nearly orthogonal to each other in many dimensions."""
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, features, generator=draw)
    return x, (x[:, :50] @ torch.randn(50, classes, generator=draw)).argmax(1)


def correlated(rows: int, features: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Rows of noise and of 20 factors, of which the strongest is a hundred times the weakest."""
    x, labels = nearly_orthogonal(rows, features, classes)
    draw = torch.Generator().manual_seed(features)
    strengths = torch.logspace(1, -1, 20)
    return x + (torch.randn(rows, 20, generator=draw) * strengths) @ torch.randn(20, features, generator=draw), labels


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_nearly_orthogonal_rows_need_no_gram_matrix(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = nearly_orthogonal(500, 8000)
    objective = Objective(loss, l2=1e-2)
    found, grams, _, _ = counted(monkeypatch, lambda: fit(features, labels, objective, tolerance=1e-6))
    assert found.converged
    assert grams == (loss == "cross_entropy")  # with two outputs the Gram matrix is worth fewer steps


def test_nearly_orthogonal_rows_need_no_inverse_where_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_space, "MIN_INVERSE_NUMEL", 0)
    features, labels = nearly_orthogonal(600, 2400, 3)
    objective = Objective("bce", l2=1)
    found, grams, curvatures, roots = counted(monkeypatch, lambda: fit(features, labels, objective, tolerance=1e-4))
    assert found.converged
    assert (grams, curvatures, roots) == (0, 0, 0)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
def test_correlated_rows_take_newton_steps(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = correlated(400, 2400, classes)
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=1e-3)
    found, grams, curvatures, _ = counted(monkeypatch, lambda: fit(features, labels, objective, tolerance=1e-10))
    assert found.converged
    assert found.passes < 15
    assert grams == 1
    assert 0 < curvatures < 20
    double = fit(features.double(), labels, objective, tolerance=1e-10)
    assert double.converged
    assert found.bound.value == pytest.approx(double.bound.value, rel=1e-9)


@pytest.mark.long
def test_inverses_larger_than_the_data_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_space, "MIN_INVERSE_NUMEL", 0)
    features, labels = correlated(60, 250, 6)
    objective = Objective("cross_entropy", l2=1e-3)
    found, grams, curvatures, roots = counted(
        monkeypatch, lambda: fit(features, labels, objective, optimizer="newton", tolerance=1e-8)
    )
    assert found.converged
    assert (grams, curvatures, roots) == (1, 0, 1)


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "rows twice": lambda x: torch.cat([x[:30], x[:30]]),
    "all zero": torch.zeros_like,
    "one row": lambda x: x[:1].expand(60, -1),
    "offset": lambda x: x + 1e4,
    "a large constant": lambda x: torch.cat([x, torch.full_like(x[:, :1], 1e5)], dim=1),
    "tiny": lambda x: x * 1e-12,
    "rows in scales": lambda x: x * torch.logspace(-3, 1, len(x)).unsqueeze(1),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_rows_have_a_certified_optimum_too(odd: str, classes: int, dtype: torch.dtype) -> None:
    features, _ = nearly_orthogonal(60, 400)
    features = ODD[odd](features).to(dtype)
    labels = torch.randint(0, classes, (60,), generator=torch.Generator().manual_seed(3))
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=0.01)
    found = fit(features, labels, objective, classes, tolerance=1e-8)
    assert found.converged
    assert found.passes < 40


@pytest.mark.parametrize("l2", [1e-10, 1e6])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_penalty_may_be_very_weak_or_very_strong(l2: float, classes: int) -> None:
    features, labels = nearly_orthogonal(60, 400, classes)
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=l2)
    found = fit(features, labels, objective, tolerance=1e-6)
    assert found.converged
    assert found.passes < 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [1, 2])
def test_columns_of_very_different_scales_and_a_loss_of_nearly_zero_have_a_certified_optimum(
    seed: int, dtype: torch.dtype
) -> None:
    """Newton's steps lie within the span but for rounding, and f is so small that 1 - p has lost its digits."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((200, 2000)) * 10 ** draw.uniform(-2, 4, 2000)
    labels = torch.from_numpy(x @ (draw.standard_normal(2000) / x.std(0)) / 40 + draw.logistic(size=200) > 0).long()
    found = fit(torch.from_numpy(x).to(dtype), labels, Objective("bce", l2=1e-6))
    assert found.converged
    assert found.bound.value < 1e-10
    assert found.passes < 10


def test_numbers_whose_products_are_infinite_are_left_to_other_solvers() -> None:
    features, labels = nearly_orthogonal(60, 400)
    found = fit(features * 1e18, labels, Objective("bce", l2=0.01), max_passes=50)
    assert found.coef.isfinite().all()
    assert found.bound.gap >= 0


@pytest.mark.parametrize("intercept", [True, False])
def test_rows_without_weight_count_for_nothing(intercept: bool) -> None:
    features, labels = nearly_orthogonal(60, 400)
    weights = torch.arange(60).double() % 3
    objective = Objective("bce", l2=0.01)
    some = weights > 0
    whole, part = (
        fit(x, y, objective, 2, w, tolerance=1e-14, intercept=intercept)
        for x, y, w in (
            (features.double(), labels, weights),
            (features[some].double(), labels[some], weights[some]),
        )
    )
    torch.testing.assert_close(whole.coef, part.coef, rtol=1e-6, atol=1e-9)


@pytest.mark.long
def test_a_class_without_rows_and_rows_of_one_class() -> None:
    features, labels = nearly_orthogonal(60, 400, 3)
    found = fit(features, labels, Objective("cross_entropy", l2=0.01), 5, tolerance=1e-8)
    assert found.bound.gap <= 1e-4 * found.bound.value  # absent classes go to minus infinity
    reference = Reference(features.double(), labels, Objective("cross_entropy", l2=0.01), 5)
    assert found.bound.value == pytest.approx(reference.minimum.value, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("little", [row_space.MIN_INVERSE_NUMEL, 0])
@pytest.mark.parametrize("odd", ["zeros", "three factors"])
def test_dependent_rows_are_solved_with_and_without_held_inverses(
    odd: str, little: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_space, "MIN_INVERSE_NUMEL", little)
    draw = torch.Generator().manual_seed(0)
    features = 30 * torch.randn(60, 3, generator=draw) @ torch.randn(3, 250, generator=draw)
    features += 1e-3 * torch.randn(60, 250, generator=draw)  # which the Gram matrix in float32 does not resolve
    labels = torch.randint(0, 6, (60,), generator=draw)
    objective = Objective("cross_entropy", l2=0.01)
    features = features * (odd != "zeros")
    found = fit(features, labels, objective, 6, tolerance=1e-6, max_passes=200)
    assert found.converged or not little
    least = Reference(features.double(), labels, objective, 6).minimum.value
    assert 0 <= found.bound.value - least + 1e-12 <= min(found.bound.gap + 2e-12, 1e-3 * least)


@pytest.mark.long
def test_the_gram_matrix_is_computed_in_float64_where_float32_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for seed in range(6):  # float32 is enough for some, by the luck of rounding
        draw = torch.Generator().manual_seed(seed)
        features = 30 * torch.randn(60, 3, generator=draw) @ torch.randn(3, 400, generator=draw)
        features += 1e-3 * torch.randn(60, 400, generator=draw)
        labels, objective = torch.randint(0, 2, (60,), generator=draw), Objective("bce", l2=1e-2)
        memory = MemoryRows(features, labels)
        problem = problem_of(memory, objective, dtype=torch.float32)
        rows = drive(
            request(DualRows(problem, Coordinates(features.double().mean(0), torch.ones(400).double()))), memory
        )
        solver = DualSolver(rows, tolerance=1e-8)
        assert solver.run(0, held=True)
        assert solver.estimated_gaps[-1] <= 1e-8
        run = partial(fit, features, labels, objective, tolerance=1e-6, max_passes=100)
        found, grams, _, _ = counted(monkeypatch, run)
        assert found.converged
        taken.append(grams)
    assert 2 in taken


def test_a_squared_gradient_norm_that_is_negative_by_rounding_does_not_stop() -> None:
    given = stated("binary")
    current, image = dual_point_at(given), given.rows.gram_matrix() @ dual_point_at(given).dual_gradient
    assert current.estimated_gap(-image) == current.estimated_gap(image) > 0


def test_a_tolerance_out_of_reach_ends_at_rounding() -> None:
    features, labels = nearly_orthogonal(40, 300)
    found = fit(features, labels, Objective("bce", l2=0.01), tolerance=1e-300, max_passes=30)
    assert found.bound.gap <= 1e-12 * found.bound.value


def counting(monkeypatch: pytest.MonkeyPatch, name: str) -> list[DualSolver]:
    """Records the solvers whose method of this name is called."""
    calls, method = [], getattr(DualSolver, name)

    def counted(solver: DualSolver, *arguments: Tensor) -> object:
        calls.append(solver)
        return method(solver, *arguments)

    monkeypatch.setattr(DualSolver, name, counted)
    return calls


def test_steps_without_progress_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = counting(monkeypatch, "_extend")
    draw = torch.Generator().manual_seed(0)
    features = 30 * torch.randn(60, 3, generator=draw) @ torch.randn(3, 400, generator=draw)
    memory = MemoryRows(features + 1e-3 * torch.randn(60, 400, generator=draw), torch.arange(60) % 2)
    problem = problem_of(memory, Objective("bce", l2=1e-2), dtype=torch.float32)
    rows = drive(request(DualRows(problem, Coordinates(torch.zeros(400).double(), torch.ones(400).double()))), memory)
    solver = DualSolver(rows, 0.0)
    solver.gram = rows.gram_matrix()  # in float32, without the last digits
    assert not solver._use_gram()
    assert row_space.MAX_STALLED_DUAL_STEPS <= len(steps) < row_space.MAX_DUAL_NEWTON_STEPS / 2


def test_newton_steps_continue_from_a_useful_point(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = counting(monkeypatch, "_start_at_zero")
    features, labels = nearly_orthogonal(40, 300)
    memory = MemoryRows(features.double(), labels)
    problem = problem_of(memory, Objective("bce", l2=1e-4))
    rows = drive(request(DualRows(problem, Coordinates(memory.features.mean(0), torch.ones(300).double()))), memory)
    solver = DualSolver(rows, 0.0)
    assert solver.run(0, held=True)
    assert len(begun) == 1
    gaps = solver.estimated_gaps
    assert [last for last, gap in pairwise(gaps) if last == gap]  # the stages meet at one point


def test_rows_that_do_not_come_are_not_counted() -> None:
    features, labels = nearly_orthogonal(60, 300)
    problem = problem_of(MemoryRows(features, labels), Objective("bce", l2=0.01))
    state = SolverState(problem, problem.zeros())
    for requested in EXACT["newton"](state):
        run_pass(MemoryRows(features[:40], labels[:40]), requested)
    part = fit(features[:40], labels[:40], Objective("bce", l2=0.01 * 60 / 40), tolerance=1e-10)  # the mean is over 60
    torch.testing.assert_close(state.solution[:, :-1], part.coef, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("near", [False, True])
def test_a_start_elsewhere_leads_to_the_same_optimum(near: bool) -> None:
    features, labels = correlated(100, 600)
    objective = Objective("bce", l2=0.01)
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    best = fit(features, labels, objective, tolerance=1e-10)
    point = torch.cat([best.coef, best.intercept.unsqueeze(1)], dim=1) * (0.99 if near else -3)
    state, passes = SolverState(problem, point, tolerance=1e-8), 0
    for question in EXACT["newton"](state):
        run_pass(memory, question)
        passes += 1
    assert state.converged
    assert passes < 10
    torch.testing.assert_close(state.solution[:, :-1], best.coef, rtol=1e-3, atol=1e-6)


def test_a_matrix_that_is_not_finite_has_no_cholesky_factor() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        cholesky_with_ridge(torch.full((3, 3), math.nan).double())
    zero = cholesky_with_ridge(torch.zeros(3, 3).double())
    assert zero.isfinite().all()
