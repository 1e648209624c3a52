"""Subspace descent: the limited-memory inverse, its passes and its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.choose import uses_descent
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.methods import subspace_descent as descent
from logreg.solvers.methods.newton import newton
from logreg.solvers.methods.subspace_descent import (
    EvaluateAfterStep,
    LogitsCache,
    SubspaceHessian,
    descend,
    least_gradient_point,
)
from logreg.solvers.passes.base import Pass, PassRequests, drive, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSample, InterceptCurvature
from logreg.solvers.passes.hessian import MIN_PAIRED_PART, HessianDiagonal, SampledCurvature, adds_pairs
from logreg.solvers.paths.l2_path import fit_path
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.starting_point import start
from logreg.solvers.state import SolverState, gap_from_gradient
from logreg.solvers.steps.limited_memory import MAX_STORED_PAIRS, SMALL_PAIRS_NUMEL, LimitedMemoryInverse
from logreg.solvers.steps.preconditioner import inverse_of_blocks
from reference import correlated_rows

KINDS = {
    "softmax": (4, Objective("cross_entropy", l2=0.02)),
    "softmax, sum": (3, Objective("cross_entropy", l2=0.02, reduction="sum")),
    "binary": (2, Objective("bce", l2=0.02)),
    "one-vs-rest": (3, Objective("bce", l2=0.02)),
    "unpenalized": (3, Objective("cross_entropy")),
}


def stated(kind: str, rows: int = 90, weighted: bool = False) -> tuple[Problem, MemoryRows]:
    """A problem of one kind in float64, in three blocks."""
    classes, objective = KINDS[kind]
    features, labels = correlated_rows(rows, 5, classes, torch.float64)
    memory = MemoryRows(features, labels, torch.arange(rows).double() % 3 if weighted else None)
    memory.block_rows = rows // 3 + 1
    return problem_of(memory, objective, classes), memory


def objective_at(problem: Problem, memory: MemoryRows, point: Tensor) -> Tensor:
    """f by torch's losses and autograd alone."""
    logits = memory.features.double() @ point[:, :-1].T + point[:, -1]
    targets = one_vs_rest(memory.labels, problem.num_outputs, torch.float64)
    return problem.objective.data_term(logits, targets, memory.sample_weight) + problem.objective.penalty(point[:, :-1])


def large(classes: int = 8, features: int = 140, rows: int = 6000) -> tuple[Tensor, Tensor, Objective]:
    """A problem that is too large for a factored Hessian and has enough rows for subspace descent."""
    return *correlated_rows(rows, features, classes), Objective("cross_entropy", l2=1e-3)


def watched(
    problem: Problem, memory: MemoryRows, point: Tensor | None = None
) -> tuple[SolverState, list[str], list[float]]:
    """Descends, from where Newton's method would or from a point: where it came to, the passes, the values."""
    state = SolverState(problem, problem.zeros() if point is None else point, tolerance=1e-6)
    drive(start(state, newton), memory)
    kinds, values = [], []
    for requested in descend(state):
        run_pass(memory, requested)
        kinds.append(type(requested).__name__)
        values.append(state.value)
    return state, kinds, values


# The limited-memory inverse


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_maps_the_last_change_of_the_gradient_to_its_step(kind: str) -> None:
    problem, memory = stated(kind)
    draw = torch.Generator().manual_seed(5)
    point, *steps = torch.randn(4, problem.num_outputs, 6, generator=draw, dtype=torch.float64) / 5
    first, more = problem.penalties(problem.model)[0], torch.full((6,), 0.7, dtype=torch.float64)
    inverse = LimitedMemoryInverse(lambda gradient: gradient, problem, first)
    for step in steps:
        before = drive(request(Evaluate(problem, problem.model, point)), memory).gradient
        point = point + step
        change = drive(request(Evaluate(problem, problem.model, point)), memory).gradient - before
        inverse.update(step, change)
    torch.testing.assert_close(inverse(change), step, rtol=1e-10, atol=1e-12)
    symmetric = torch.stack([inverse(row.view_as(point)).flatten() for row in torch.eye(point.numel()).double()])
    torch.testing.assert_close(symmetric, symmetric.T, rtol=1e-9, atol=1e-10)
    assert bool((torch.linalg.eigvalsh(symmetric) > 0).all())
    inverse.change_l2(first + more)  # the same change of the loss's gradient, and that of the new penalty
    torch.testing.assert_close(inverse(change + more * step), step, rtol=1e-10, atol=1e-12)
    assert len(inverse) == 3
    inverse.update(step, -change)  # a step that met no curvature is not stored
    assert len(inverse) == 3


def test_pairs_from_where_f_was_far_above_are_forgotten() -> None:
    problem, _ = stated("softmax")
    penalty = problem.penalties(problem.model)[0]
    draw = torch.Generator().manual_seed(7)
    pairs = torch.randn(5, problem.num_outputs, 6, generator=draw, dtype=torch.float64)
    values = (9.0, 4.0, 1.9, 1.5, 1.0)
    every, last = (LimitedMemoryInverse(lambda gradient: gradient, problem, penalty) for _ in range(2))
    for step, value in zip(pairs, values, strict=True):
        every.update(step, 2 * step, value)
    for step, value in zip(pairs[2:], values[2:], strict=True):
        last.update(step, 2 * step, value)
    every.forget_stale(1.0)
    assert len(every) == 3
    torch.testing.assert_close(every(pairs[0]), last(pairs[0]))
    every.forget_stale(0.0)
    assert len(every) == 1  # the last one stays
    torch.testing.assert_close(every(2 * pairs[4]), pairs[4])


def test_a_pair_that_takes_the_place_of_the_oldest_takes_its_value_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logreg.solvers.steps.limited_memory.MAX_STORED_PAIRS", 3)
    problem, _ = stated("softmax")
    inverse = LimitedMemoryInverse(lambda gradient: gradient, problem, problem.penalties(problem.model)[0])
    draw = torch.Generator().manual_seed(7)
    for step, value in zip(
        torch.randn(5, problem.num_outputs, 6, generator=draw), (9.0, 4.0, 1.9, 1.5, 1.0), strict=True
    ):
        inverse.update(step, 2 * step, value)
    inverse.forget_stale(0.8)
    assert len(inverse) == 2  # that of 1.9 is forgotten


def test_stored_pairs_take_a_fraction_of_the_data() -> None:
    features, labels, objective = large()
    problem = problem_of(MemoryRows(features, labels), objective, 8)
    inverse = LimitedMemoryInverse(lambda gradient: gradient, problem, problem.penalties(problem.model)[0])
    draw = torch.Generator().manual_seed(6)
    for _ in range(MAX_STORED_PAIRS + 5):
        step = torch.randn(8, 141, generator=draw, dtype=torch.float64)
        inverse.update(step, step)
    assert len(inverse) == MAX_STORED_PAIRS
    many = replace(problem, model=Coordinates(*torch.ones(2, 9000, dtype=torch.float64)), rows=20)
    assert LimitedMemoryInverse(lambda gradient: gradient, many, torch.zeros(9001)).max_pairs == int(
        SMALL_PAIRS_NUMEL / 2 / many.num_parameters
    )


def test_an_intercept_alone_costs_half_its_newton_decrement() -> None:
    problem, _ = stated("binary")
    state = SolverState(problem, problem.zeros())
    state.value = 0.5
    slope = problem.zeros()
    slope[0, -1] = 0.01
    state.coordinates = Coordinates(
        state.coordinates.center, state.coordinates.scale * 1e-100
    )  # no coefficient turns with it
    own = torch.tensor([0.2], dtype=torch.float64)
    found = gap_from_gradient(state, slope, InterceptCurvature(own, own))
    assert found == pytest.approx(0.01**2 / 0.2 / 2 / 0.5, rel=1e-12)


@pytest.mark.long
def test_descent_ends_at_the_point_of_least_gradient_not_of_least_f() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, replace(objective, l2=1e-5), 8)
    state = SolverState(problem, problem.zeros(), tolerance=1e-5)
    drive(start(state, newton), memory)
    slopes, ends = [], []
    for requested in descend(state):
        run_pass(memory, requested)
        if isinstance(requested, EvaluateAfterStep) and math.isfinite(state.value):
            now = requested.result()
            slopes.append(gap_from_gradient(state, now.gradient, now.curvature))
        elif isinstance(requested, Evaluate):
            now = requested.result()
            ends.append(gap_from_gradient(state, now.gradient, now.curvature))
    assert state.converged
    assert ends[-1] <= 1e-5
    assert ends[-1] < slopes[-1] / 2
    best = drive_to_optimum(problem, memory)
    assert state.bound is not None
    assert state.bound.gap >= state.bound.value - best


def test_pairs_count_as_linear_since_the_last_step_that_was_not() -> None:
    problem, _ = stated("softmax")
    inverse = LimitedMemoryInverse(lambda gradient: gradient, problem, problem.penalties(problem.model)[0])
    step = torch.ones(4, 6, dtype=torch.float64)
    counts = []
    for is_linear in (False, True, True, False, True):
        inverse.update(step, step, is_linear=is_linear)
        counts.append(inverse.linear_pairs)
    assert counts == [0, 1, 2, 0, 1]
    inverse.update(step, -step, is_linear=True)  # no curvature: it is not stored
    assert (inverse.linear_pairs, inverse.own_pairs) == (1, 5)
    inverse.change_l2(2 * problem.penalties(problem.model)[0])
    assert (inverse.linear_pairs, inverse.own_pairs) == (1, 0)
    inverse.update(step, step, is_linear=True)
    assert (inverse.linear_pairs, inverse.own_pairs) == (2, 1)
    inverse.clear()
    assert (inverse.linear_pairs, inverse.own_pairs) == (0, 0)


def test_the_point_of_least_gradient_has_its_intercepts_solved() -> None:
    features, labels, objective = large(4, 64, 500)
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    state, draw = SolverState(problem, problem.zeros()), torch.Generator().manual_seed(7)
    state.inverse = LimitedMemoryInverse(lambda gradient: gradient, problem, problem.penalties(problem.model)[0])
    before = drive(request(Evaluate(problem, problem.model, state.point)), memory)
    step = torch.randn(4, 65, generator=draw, dtype=torch.float64) / 100
    step[:, -1] = 0
    state.point = state.point + step
    now = drive(request(Evaluate(problem, problem.model, state.point)), memory)
    state.value = now.value
    state.inverse.update(step, now.gradient - before.gradient, is_linear=True)
    point, _ = least_gradient_point(state, now)
    there = drive(request(Evaluate(problem, problem.model, point)), memory)
    assert float(there.gradient[:, -1].norm()) < float(before.gradient[:, -1].norm()) / 4  # by one step
    assert float(now.gradient[:, -1].norm()) > float(before.gradient[:, -1].norm()) / 2


def drive_to_optimum(problem: Problem, memory: MemoryRows) -> float:
    """f* by Newton's method in float64."""
    state = SolverState(replace(problem, dtype=torch.float64), problem.zeros(), tolerance=1e-12)
    drive(newton(state), memory)
    assert state.converged
    return state.value


# The passes of subspace descent


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_hessian_on_the_subspace_is_that_of_autograd(kind: str, weighted: bool) -> None:
    problem, memory = stated(kind, weighted=weighted)
    draw = torch.Generator().manual_seed(1)
    k = problem.num_outputs
    at, before, direction = torch.randn(3, k, 6, generator=draw, dtype=torch.float64)
    before -= before.mean(0) if problem.coupled else 0.0
    cache: LogitsCache = LogitsCache()
    drive(request(EvaluateAfterStep(problem, problem.model, at - before, cache)), memory)
    drive(request(SubspaceHessian(problem, problem.model, before, cache, 0)), memory)
    drive(request(EvaluateAfterStep(problem, problem.model, at, cache, torch.ones(1, k))), memory)
    found = drive(request(SubspaceHessian(problem, problem.model, direction, cache, 1)), memory)

    def along(factors: Tensor) -> Tensor:
        point = at + factors[0].unsqueeze(1) * direction + factors[1].unsqueeze(1) * before
        return objective_at(problem, memory, point) - problem.objective.penalty(point[:, :-1])

    zero = torch.zeros(2, k, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(along, zero)
    torch.testing.assert_close(found, hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_after_a_step_from_cached_logits_is_an_ordinary_evaluation(kind: str) -> None:
    problem, memory = stated(kind, weighted=True)
    draw = torch.Generator().manual_seed(2)
    k = problem.num_outputs
    at, direction = torch.randn(2, k, 6, generator=draw, dtype=torch.float64)
    cache: LogitsCache = LogitsCache()
    drive(request(EvaluateAfterStep(problem, problem.model, at, cache)), memory)
    last = torch.zeros_like(at)
    for factors in (torch.rand(1, k, generator=draw), torch.rand(2, k, generator=draw)):
        drive(request(SubspaceHessian(problem, problem.model, direction, cache, len(factors) - 1)), memory)
        last = factors[0].unsqueeze(1) * direction + factors[-1].unsqueeze(1) * last
        last = last - last.mean(0) if problem.coupled else last
        at = at + last
        followed = drive(request(EvaluateAfterStep(problem, problem.model, at, cache, factors.double())), memory)
    evaluated = drive(request(Evaluate(problem, problem.model, at)), memory)
    assert followed.value == pytest.approx(evaluated.value, rel=1e-13)
    torch.testing.assert_close(followed.gradient, evaluated.gradient, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(followed.curvature, evaluated.curvature, rtol=1e-11, atol=1e-13)


def test_blocks_in_another_order_raise_an_error_that_says_what_to_do() -> None:
    problem, memory = stated("softmax")
    cache: LogitsCache = LogitsCache()
    drive(request(EvaluateAfterStep(problem, problem.model, problem.zeros(), cache)), memory)

    class Backwards(MemoryRows):
        def blocks(self, every: int = 1) -> Iterator[Batch]:
            return reversed(list(super().blocks(every)))

    with pytest.raises(RuntimeError, match=r"the same blocks of rows in every pass: do not shuffle, or give the "):
        drive(
            request(SubspaceHessian(problem, problem.model, problem.zeros(), cache, 0)),
            Backwards(memory.features, memory.labels),
        )


# The descent


def test_the_estimated_gap_is_in_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = []

    def noted(*arguments: Any) -> float:
        gaps.append(gap_from_gradient(*arguments))
        return gaps[-1]

    monkeypatch.setattr(descent, "gap_from_gradient", noted)
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, replace(objective, reduction="sum", l2=objective.l2 * len(labels)), 8)
    state = SolverState(problem, problem.zeros())
    drive(start(state, newton), memory)
    for requested in islice(descend(state), 4):
        run_pass(memory, requested)
        if math.isfinite(state.value):
            assert state.gap == pytest.approx(min(gaps[0], 1.0) * state.value)
            break
    assert gaps
    assert state.value > 100


@pytest.mark.long
def test_it_comes_as_near_to_the_optimum_as_float32_tells() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    assert uses_descent(problem)
    state, kinds, _ = watched(problem, memory)
    optimum = fit(features, labels, objective, tolerance=1e-12, dtype=torch.float64)
    assert optimum.converged
    there = float(objective_at(problem, memory, state.solution))
    assert 0 <= there / optimum.bound.value - 1 < 1e-6
    assert kinds.count("EvaluateAfterStep") < 30  # each is one step; a first-order method takes hundreds
    torch.testing.assert_close(state.solution.sum(0), torch.zeros(141).double(), rtol=0, atol=1e-6)


@pytest.mark.long
def test_f_never_increases_however_far_away_descent_starts() -> None:
    features, labels, objective = large(rows=5000)
    features[::50] *= 30  # rows on which a quadratic model is soon wrong
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    far = 3 * torch.randn(8, 141, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, kinds, values = watched(problem, memory, far)
    known = [value for value in values if math.isfinite(value)]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(known))
    assert known[-1] < 0.1 * known[0]
    assert kinds.count("EvaluateAfterStep") > kinds.count("SubspaceHessian") + 1  # some steps were shortened


@pytest.mark.long
def test_descent_ends_where_f_and_its_gradient_have_fallen_to_zero() -> None:
    features, labels = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(60) % 2
    memory = MemoryRows(features, labels, labels.double())  # only class 1 counts: the intercept has no optimum
    problem = problem_of(memory, Objective("bce", l2=1e-3), 2)
    state, steps = SolverState(problem, problem.zeros()), 0
    for requested in descend(state):
        run_pass(memory, requested)
        steps += isinstance(requested, SubspaceHessian)
    assert state.value < 1e-15
    assert steps < 80  # of `MAX_SUBSPACE_STEPS`


def test_the_last_step_that_is_allowed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "MAX_SUBSPACE_STEPS", 1)
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    state, kinds, values = watched(problem, memory)
    assert kinds == [
        "EvaluateAfterStep",
        "HessianDiagonal",
        "CurvatureSample",
        "SampledCurvature",
        "SubspaceHessian",
        "EvaluateAfterStep",
    ]
    assert state.value < values[-1]
    assert state.value == pytest.approx(float(objective_at(problem, memory, state.solution)), rel=1e-5)


def test_without_an_intercept_there_is_none() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    state, _, _ = watched(problem_of(memory, objective, intercept=False), memory)
    assert not state.solution[:, -1].any()
    assert state.solution[:, :-1].any()


def test_strengths_within_a_factor_of_ten_share_a_preconditioner() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    kinds: list[str] = []

    def counted(requests: PassRequests[object]) -> Iterator[Pass[object]]:
        for requested in requests:
            kinds.append(type(requested).__name__)
            yield requested

    for requested in counted(fit_path(problem, [1e-2, 3e-3, 1e-4], tolerance=1e-3)):
        run_pass(memory, requested)
    assert kinds.count("SampledCurvature") == 2  # 1e-2 and 3e-3 share one
    assert kinds.count("CurvatureSample") == 1  # the second one is made at once, without a look at the spectrum


@pytest.mark.long
def test_each_strength_of_a_path_takes_one_pass_in_float64() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    strengths, passes = [10 ** (-power / 4) for power in range(2, 18)], []
    requests = fit_path(problem_of(memory, objective), strengths, tolerance=1e-3)
    try:
        while True:
            passes.append(next(requests))
            run_pass(memory, passes[-1])
    except StopIteration as end:
        points = end.value
    assert all(point.converged and point.bound.rigorous for point in points)
    precise = [type(one) for one in passes if one.dtype == torch.float64 and one.is_full]
    assert precise == [Evaluate] * len(strengths)  # which is that of the certificate


@pytest.mark.long
def test_steps_for_one_strength_span_the_point_of_least_gradient_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem, strengths = problem_of(memory, objective), [10 ** (-power / 4) for power in range(12, 22)]
    points = drive(fit_path(problem, strengths, tolerance=1e-3), memory)
    change_l2 = LimitedMemoryInverse.change_l2

    def changed(self: LimitedMemoryInverse, l2: Tensor) -> None:
        change_l2(self, l2)
        self.linear_pairs = 0

    monkeypatch.setattr(LimitedMemoryInverse, "change_l2", changed)
    alone = drive(fit_path(problem, strengths, tolerance=1e-3), memory)
    for point in (*points, *alone):
        assert point.converged
        assert point.bound.rigorous
    assert sum(point.passes for point in points) < sum(point.passes for point in alone)


# Passes over blocks of rows


def test_a_block_of_wide_rows_is_no_larger_than_others() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    for features, rows in [(2**18, 32), (2**23, 1), (2**24, 1), (7, 2**14), (0, 2**14)]:
        assert MemoryRows(torch.empty(3, features, device="meta"), labels).block_rows == rows  # of 32 MiB


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_which_every_row_is_drawn_are_those_of_the_hessian(kind: str) -> None:
    classes, objective = KINDS[kind]
    features, labels = correlated_rows(900, 200, classes, torch.float64)
    memory = MemoryRows(features, labels, torch.arange(900).double() % 3)
    memory.block_rows = 400
    problem = problem_of(memory, objective, classes)
    point = torch.randn(problem.num_outputs, 201, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 50
    diagonal = drive(request(HessianDiagonal(problem, problem.model, point)), memory)
    blocks, border = drive(request(SampledCurvature(problem, problem.model, point, diagonal, 900, 0)), memory)
    hessian = torch.autograd.functional.hessian(partial(objective_at, problem, memory), point)
    for output, block in enumerate(blocks):
        torch.testing.assert_close(block.tril(), hessian[output, :-1, output, :-1].tril(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(border[output], hessian[output, -1, output], rtol=1e-9, atol=1e-12)
    inverse = drive(inverse_of_blocks(problem, problem.model, point, border[:, -1], 900, 0), memory)
    gradient = torch.randn(point.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for output, step in enumerate(inverse(gradient)):
        torch.testing.assert_close(hessian[output, :, output] @ step, gradient[output], rtol=1e-3, atol=1e-5)


def test_drawn_rows_have_the_small_eigenvalues_too() -> None:
    # Two rows alone have the last feature, at which the curvature is small.
    features, labels = correlated_rows(20_000, 80, 3, torch.float64)
    features = torch.nn.functional.pad(features, (0, 1))
    features[:2, -1] = 1.0
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, Objective("cross_entropy", l2=1e-9))
    point = torch.randn(3, 82, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 10
    point[0, -2] = 9.0
    diagonal = drive(request(HessianDiagonal(problem, problem.model, point)), memory)
    every, some = (
        drive(request(SampledCurvature(problem, problem.model, point, diagonal, number, 0)), memory)[0]
        for number in (20_000, 2000)
    )
    for whole, block in zip(every, some, strict=True):
        whole, block = (one.tril() + one.tril(-1).T for one in (whole, block))
        root = torch.linalg.inv(torch.linalg.cholesky(whole))
        ratios = torch.linalg.eigvalsh(root @ block @ root.T)
        assert ratios[0] > 0.5
        assert ratios[-1] < 2


@pytest.mark.parametrize("share", [1.0, MIN_PAIRED_PART])
def test_blocks_of_many_outputs_come_from_pairs_of_few_features(share: float) -> None:
    rows, classes = 4000, 20
    features, labels = correlated_rows(rows, 5, classes, torch.float64)
    memory = MemoryRows(features, labels, 1 + torch.arange(rows).double() % 3)
    memory.block_rows = 900
    problem = problem_of(memory, Objective("cross_entropy", l2=0.02), classes)
    assert adds_pairs(problem)
    point = torch.randn(classes, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 5
    whole = drive(request(Evaluate(problem, problem.model, point, hessian=torch.float64)), memory).hessian
    assert whole is not None
    sampled = SampledCurvature(problem, problem.model, point, None, int(share * rows), 0)
    for output, (block, border) in enumerate(zip(*drive(request(sampled), memory), strict=True)):
        expected, found = whole[output, :, output], torch.zeros(6, 6, dtype=torch.float64)
        found[:-1, :-1] = block.tril() + block.tril(-1).T
        found[-1], found[:, -1] = border, border
        root = torch.linalg.inv(torch.linalg.cholesky(expected))
        ratios = torch.linalg.eigvalsh(root @ found @ root.T)
        # of a quarter of 4000 rows: within about sqrt(6 / 1000), times a few for rows that weigh more
        torch.testing.assert_close(ratios, torch.ones_like(ratios), rtol=0, atol=1e-9 if share == 1 else 0.4)
        assert share == 1 or float((ratios - 1).abs().max()) > 1e-3  # not all rows


def test_an_empty_block_changes_nothing() -> None:
    problem, memory = stated(next(iter(KINDS)))
    empty = Batch(memory.features[:0], memory.labels[:0])
    point = torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain, with_empty = (Evaluate(problem, problem.model, point, hessian=torch.float64) for _ in range(2))
    run_pass(memory, plain)
    for block in (empty, *memory.blocks(), empty):
        with_empty.add(block)
    assert with_empty.result().value == plain.result().value


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_over_some_rows_is_that_of_a_problem_of_these_rows(kind: str, weighted: bool) -> None:
    problem, memory = stated(kind, weighted=weighted)
    point = torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    some = EvaluateSample(problem, problem.model, point, every=4)
    run_pass(memory, some)
    weight = None if memory.sample_weight is None else memory.sample_weight[::4]
    rows = Batch(memory.features[::4], memory.labels[::4], weight)
    whole = Evaluate(problem.sub(rows), problem.model, point)
    whole.add(rows)
    assert some.result().value == pytest.approx(whole.result().value, rel=1e-12)
    torch.testing.assert_close(some.result().gradient, whole.result().gradient, rtol=1e-10, atol=1e-12)
