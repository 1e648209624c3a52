from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from logreg.facts import Batch
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import subspace_descent as descent
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.kernels import _onednn, affine, sum_over_rows
from logreg.solvers.newton import newton
from logreg.solvers.passes.base import Pass, PassRequests, drive, request, run_pass
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSome
from logreg.solvers.passes.hessian import SampledCurvature
from logreg.solvers.path import fit_path
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.quasi_newton import PAIRS, PAIRS_LITTLE, LimitedMemoryInverse
from logreg.solvers.starting_point import start
from logreg.solvers.state import SolverState, by_slope
from logreg.solvers.subspace_descent import Along, Follow, Trails, descend, descends

KINDS = {
    "softmax": (4, Objective("cross_entropy", l2=0.02)),
    "softmax, sum": (3, Objective("cross_entropy", l2=0.02, reduction="sum")),
    "binary": (2, Objective("bce", l2=0.02)),
    "one-vs-rest": (3, Objective("bce", l2=0.02)),
    "unpenalized": (3, Objective("cross_entropy")),
}


def drawn(rows: int, features: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Correlated features, and labels that they tell something about."""
    draw = torch.Generator().manual_seed(rows + features)
    x = torch.randn(rows, features, generator=draw) + 2 * torch.randn(rows, 3, generator=draw) @ torch.randn(
        3, features, generator=draw
    )
    slopes = torch.randn(features, classes, generator=draw) / math.sqrt(features)
    noise = -(-torch.rand(rows, classes, generator=draw).log()).log()
    return x.to(dtype), (x @ slopes + noise).argmax(1)


def stated(kind: str, rows: int = 90, weighted: bool = False) -> tuple[Problem, MemoryRows]:
    """A problem of one kind in float64, in three blocks."""
    classes, objective = KINDS[kind]
    features, labels = drawn(rows, 5, classes, torch.float64)
    memory = MemoryRows(features, labels, torch.arange(rows).double() % 3 if weighted else None)
    memory.block_rows = rows // 3 + 1
    return problem_of(memory, objective, classes), memory


def objective_at(problem: Problem, memory: MemoryRows, point: Tensor) -> Tensor:
    """f by torch's losses and autograd alone."""
    logits = memory.features.double() @ point[:, :-1].T + point[:, -1]
    targets = one_vs_rest(memory.labels, problem.num_outputs, torch.float64)
    return problem.objective.data_term(logits, targets, memory.sample_weight) + problem.objective.penalty(point[:, :-1])


def large(classes: int = 8, features: int = 140, rows: int = 6000) -> tuple[Tensor, Tensor, Objective]:
    """A problem that is too large for a held Hessian and has rows enough to descend on."""
    return *drawn(rows, features, classes), Objective("cross_entropy", l2=1e-3)


def watched(
    problem: Problem, memory: MemoryRows, point: Tensor | None = None
) -> tuple[SolverState, list[str], list[float]]:
    """Descends, from where Newton's method would or from a point: where it came to, the passes, the values."""
    state = SolverState(problem, problem.zeros() if point is None else point, tolerance=1e-6)
    drive(start(state, newton), memory)
    kinds, values = [], []
    for question in descend(state):
        run_pass(memory, question)
        kinds.append(type(question).__name__)
        values.append(state.value)
    return state, kinds, values


# What moves teach


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_takes_each_move_for_what_it_did_to_the_gradient(kind: str) -> None:
    problem, memory = stated(kind)
    draw = torch.Generator().manual_seed(5)
    point, *moves = torch.randn(4, problem.num_outputs, 6, generator=draw, dtype=torch.float64) / 5
    first, more = problem.penalties(problem.model)[0], torch.full((6,), 0.7, dtype=torch.float64)
    learned = LimitedMemoryInverse(lambda gradient: gradient, problem, first)
    for move in moves:
        before = drive(request(Evaluate(problem, problem.model, point)), memory).gradient
        point = point + move
        change = drive(request(Evaluate(problem, problem.model, point)), memory).gradient - before
        learned.learn(move, change)
    torch.testing.assert_close(learned(change), move, rtol=1e-10, atol=1e-12)
    symmetric = torch.stack([learned(row.view_as(point)).flatten() for row in torch.eye(point.numel()).double()])
    torch.testing.assert_close(symmetric, symmetric.T, rtol=1e-9, atol=1e-10)
    assert bool((torch.linalg.eigvalsh(symmetric) > 0).all())
    learned.under(first + more)  # the loss changed as it did, and so did the gradient of the penalty
    torch.testing.assert_close(learned(change + more * move), move, rtol=1e-10, atol=1e-12)
    assert len(learned) == 3
    learned.learn(move, -change)  # a move that met no curvature teaches nothing
    assert len(learned) == 3


def test_what_is_remembered_is_a_fraction_of_the_data() -> None:
    features, labels, objective = large()
    problem = problem_of(MemoryRows(features, labels), objective, 8)
    learned = LimitedMemoryInverse(lambda gradient: gradient, problem, problem.penalties(problem.model)[0])
    draw = torch.Generator().manual_seed(6)
    for _ in range(PAIRS + 5):
        move = torch.randn(8, 141, generator=draw, dtype=torch.float64)
        learned.learn(move, move)
    assert len(learned) == PAIRS
    many = replace(problem, model=Coordinates(*torch.ones(2, 9000, dtype=torch.float64)), rows=20)
    assert LimitedMemoryInverse(lambda gradient: gradient, many, torch.zeros(9001)).most == int(
        PAIRS_LITTLE / 2 / many.num_parameters
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
    found = by_slope(state, slope, torch.tensor([[0.2]], dtype=torch.float64))
    assert found == pytest.approx(0.01**2 / 0.2 / 2 / 0.5, rel=1e-12)


def test_a_descent_ends_where_f_is_flattest_though_it_is_lower_elsewhere() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective, 8)
    state = SolverState(problem, problem.zeros(), tolerance=1e-5)
    drive(start(state, newton), memory)
    slopes, ends = [], []
    for question in descend(state):
        run_pass(memory, question)
        if isinstance(question, Follow) and math.isfinite(state.value):
            now = question.result()
            slopes.append(by_slope(state, now.gradient, now.curvature))
        elif isinstance(question, Evaluate):
            now = question.result()
            ends.append(by_slope(state, now.gradient, now.curvature))
    assert state.converged
    assert ends[-1] <= 1e-5
    assert ends[-1] < slopes[-1] / 2
    best = drive_to_optimum(problem, memory)
    assert state.bound is not None
    assert state.bound.gap >= state.bound.value - best


def drive_to_optimum(problem: Problem, memory: MemoryRows) -> float:
    """f* by Newton's method in float64."""
    state = SolverState(replace(problem, dtype=torch.float64), problem.zeros(), tolerance=1e-12)
    drive(newton(state), memory)
    assert state.converged
    return state.value


# The passes


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_curvature_on_a_span_is_that_of_autograd(kind: str, weighted: bool) -> None:
    problem, memory = stated(kind, weighted=weighted)
    draw = torch.Generator().manual_seed(1)
    k = problem.num_outputs
    at, before, direction = torch.randn(3, k, 6, generator=draw, dtype=torch.float64)
    before -= before.mean(0) if problem.coupled else 0.0
    trails: Trails = Trails()
    drive(request(Follow(problem, problem.model, at - before, trails)), memory)
    drive(request(Along(problem, problem.model, before, trails, 0)), memory)
    drive(request(Follow(problem, problem.model, at, trails, torch.ones(1, k))), memory)
    found = drive(request(Along(problem, problem.model, direction, trails, 1)), memory)

    def along(factors: Tensor) -> Tensor:
        point = at + factors[0].unsqueeze(1) * direction + factors[1].unsqueeze(1) * before
        return objective_at(problem, memory, point) - problem.objective.penalty(point[:, :-1])

    zero = torch.zeros(2, k, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(along, zero)
    torch.testing.assert_close(found, hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_move_that_is_followed_gives_what_an_evaluation_gives(kind: str) -> None:
    problem, memory = stated(kind, weighted=True)
    draw = torch.Generator().manual_seed(2)
    k = problem.num_outputs
    at, direction = torch.randn(2, k, 6, generator=draw, dtype=torch.float64)
    trails: Trails = Trails()
    drive(request(Follow(problem, problem.model, at, trails)), memory)
    last = torch.zeros_like(at)
    for factors in (torch.rand(1, k, generator=draw), torch.rand(2, k, generator=draw)):
        drive(request(Along(problem, problem.model, direction, trails, len(factors) - 1)), memory)
        last = factors[0].unsqueeze(1) * direction + factors[-1].unsqueeze(1) * last
        last = last - last.mean(0) if problem.coupled else last
        at = at + last
        followed = drive(request(Follow(problem, problem.model, at, trails, factors.double())), memory)
    evaluated = drive(request(Evaluate(problem, problem.model, at)), memory)
    assert followed.value == pytest.approx(evaluated.value, rel=1e-13)
    torch.testing.assert_close(followed.gradient, evaluated.gradient, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(followed.curvature, evaluated.curvature, rtol=1e-11, atol=1e-13)


def test_blocks_in_another_order_are_an_error_that_says_what_to_do() -> None:
    problem, memory = stated("softmax")
    trails: Trails = Trails()
    drive(request(Follow(problem, problem.model, problem.zeros(), trails)), memory)

    class Backwards(MemoryRows):
        def blocks(self) -> Iterator[Batch]:
            return reversed(list(super().blocks()))

    with pytest.raises(RuntimeError, match=r"the same blocks of rows in every pass: do not shuffle, or give the "):
        drive(
            request(Along(problem, problem.model, problem.zeros(), trails, 0)),
            Backwards(memory.features, memory.labels),
        )


# The way down


def test_the_gap_that_is_seen_is_in_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def noted(*arguments: Any) -> float:
        told.append(by_slope(*arguments))
        return told[-1]

    monkeypatch.setattr(descent, "by_slope", noted)
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, replace(objective, reduction="sum", l2=objective.l2 * len(labels)), 8)
    state = SolverState(problem, problem.zeros())
    drive(start(state, newton), memory)
    for question in islice(descend(state), 4):
        run_pass(memory, question)
        if math.isfinite(state.value):
            assert state.gap == pytest.approx(min(told[0], 1.0) * state.value)
            break
    assert told
    assert state.value > 100


def test_it_comes_as_near_to_the_optimum_as_float32_tells() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    assert descends(problem)
    state, kinds, _ = watched(problem, memory)
    optimum = fit(features, labels, objective, tolerance=1e-12, dtype=torch.float64)
    assert optimum.converged
    there = float(objective_at(problem, memory, state.solution))
    assert 0 <= there / optimum.bound.value - 1 < 1e-6
    assert kinds.count("Follow") < 30  # each is one step; a first-order method takes hundreds
    torch.testing.assert_close(state.solution.sum(0), torch.zeros(141).double(), rtol=0, atol=1e-6)


def test_it_never_leads_upwards_however_far_away_it_begins() -> None:
    features, labels, objective = large(rows=5000)
    features[::50] *= 30  # rows on which a quadratic model is soon wrong
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    far = 3 * torch.randn(8, 141, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, kinds, values = watched(problem, memory, far)
    known = [value for value in values if math.isfinite(value)]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(known))
    assert known[-1] < 0.1 * known[0]
    assert kinds.count("Follow") > kinds.count("Along") + 1  # some moves were shortened


def test_the_last_step_that_is_allowed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "STEPS", 1)
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    state, kinds, values = watched(problem, memory)
    assert kinds == ["Follow", "SampledCurvature", "Along", "Follow"]
    assert state.value < values[-1]
    assert state.value == pytest.approx(float(objective_at(problem, memory, state.solution)), rel=1e-5)


def test_without_an_intercept_there_is_none() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    state, _, _ = watched(problem_of(memory, objective, intercept=False), memory)
    assert not state.solution[:, -1].any()
    assert state.solution[:, :-1].any()


@pytest.mark.parametrize(
    ("rows", "features", "classes", "objective", "answer"),
    [
        (6000, 140, 8, Objective("cross_entropy", l2=1e-3), True),
        (6000, 2000, 2, Objective("bce", l2=1e-3), True),
        (4000, 140, 8, Objective("cross_entropy", l2=1e-3), False),  # few rows: other ways are as quick
        (6000, 140, 8, Objective("cross_entropy", l1=1e-3), False),  # l1 wants steps that keep zeros
        (6000, 20, 3, Objective("cross_entropy", l2=1e-3), False),  # its Hessian is held
        (200_000, 100, 50, Objective("cross_entropy", l2=1e-3), False),  # what is kept of the rows would be large
    ],
)
def test_it_serves_where_it_is_the_quickest_way(
    rows: int, features: int, classes: int, objective: Objective, answer: bool
) -> None:
    memory = MemoryRows(torch.zeros(1, features).expand(rows, -1), torch.arange(rows) % classes)
    assert descends(problem_of(memory, objective)) is answer


def test_a_preconditioner_serves_strengths_that_are_near_each_other() -> None:
    features, labels, objective = large()
    memory = MemoryRows(features, labels)
    problem = problem_of(memory, objective)
    asked: list[str] = []

    def counted(questions: PassRequests[object]) -> Iterator[Pass[object]]:
        for question in questions:
            asked.append(type(question).__name__)
            yield question

    for question in counted(fit_path(problem, [1e-2, 3e-3, 1e-4], tolerance=1e-3)):
        run_pass(memory, question)
    assert asked.count("SampledCurvature") == 2  # 1e-2 and 3e-3 share one


# The products it is made of


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("outputs", [1, 3, 10, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (7, 2), (4097, 1), (4096, 2), (4097, 3)])
def test_products_of_tall_matrices_are_plain_products(
    rows: int, threads: int, dtype: torch.dtype, outputs: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)  # what the rows are split by
    if onednn and torch.backends.mkldnn.is_available():
        assert _onednn() is not None
    if not onednn:  # as in a torch that has none, or calls it otherwise
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
        assert _onednn.__wrapped__() is None
        monkeypatch.setattr("logreg.solvers.kernels._onednn", _onednn.__wrapped__)
    draw = torch.Generator().manual_seed(4)
    features, residuals = torch.randn(rows, 6, generator=draw), torch.randn(rows, outputs, generator=draw)
    coef, intercept = torch.randn(outputs, 6, generator=draw), torch.randn(outputs, generator=draw)
    features, residuals, coef, intercept = (part.to(dtype) for part in (features, residuals, coef, intercept))
    exact = 1e-5 if dtype == torch.float32 else 1e-12
    assert_close = partial(torch.testing.assert_close, rtol=exact, atol=exact * math.sqrt(rows))
    assert_close(affine(features, coef, intercept), features @ coef.T + intercept)
    assert_close(sum_over_rows(residuals, features), residuals.T @ features)


@pytest.mark.parametrize(
    ("outputs", "dtype", "transposed", "used"),
    [
        (2, torch.float32, False, False),
        (3, torch.float32, False, True),
        (47, torch.float32, False, True),
        (48, torch.float32, False, False),
        (10, torch.float64, False, False),
        (10, torch.float32, True, False),
    ],
)
def test_the_product_of_onednn_is_taken_where_it_is_quicker(
    outputs: int, dtype: torch.dtype, transposed: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def linear(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
        calls.append(len(coef))
        return torch.addmm(intercept, features, coef.T)

    monkeypatch.setattr("logreg.solvers.kernels._onednn", lambda: linear)
    features = torch.ones(5, 9, dtype=dtype)
    features = torch.ones(9, 5, dtype=dtype).T if transposed else features
    assert affine(features, torch.ones(outputs, 9, dtype=dtype), torch.ones(outputs, dtype=dtype)).unique() == 10
    assert bool(calls) == used


def test_a_block_of_wide_rows_is_no_larger_than_others() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    for features, rows in [(2**18, 32), (2**23, 1), (2**24, 1), (7, 2**14), (0, 2**14)]:
        assert MemoryRows(torch.empty(3, features, device="meta"), labels).block_rows == rows  # of 32 MiB


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_which_every_row_is_drawn_are_those_of_the_hessian(kind: str) -> None:
    classes, objective = KINDS[kind]
    features, labels = drawn(900, 200, classes, torch.float64)
    memory = MemoryRows(features, labels, torch.arange(900).double() % 3)
    memory.block_rows = 400
    problem = problem_of(memory, objective, classes)
    point = torch.randn(problem.num_outputs, 201, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 50
    mass = torch.full((problem.num_outputs,), 1e-9, dtype=torch.float64)  # so that all rows are wanted
    blocks = drive(request(SampledCurvature(problem, problem.model, point, mass, 4000, 0)), memory)
    hessian = torch.autograd.functional.hessian(partial(objective_at, problem, memory), point)
    for output, block in enumerate(blocks):
        torch.testing.assert_close(block.tril(), hessian[output, :-1, output, :-1].tril(), rtol=1e-9, atol=1e-12)


def test_an_empty_block_tells_nothing() -> None:
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
    some = EvaluateSome(problem, problem.model, point, rows=40)
    run_pass(memory, some)
    first = [
        block for block, _ in zip(memory.interleaved_blocks(), range(2), strict=False)
    ]  # 30 rows each, drawn from everywhere
    weights = [block.sample_weight for block in first if block.sample_weight is not None]
    rows = Batch(
        torch.cat([block.features for block in first]),
        torch.cat([block.labels for block in first]),
        torch.cat(weights) if weights else None,
    )
    whole = Evaluate(problem.sub(rows), problem.model, point)
    whole.add(rows)
    assert some.result().value == pytest.approx(whole.result().value, rel=1e-12)
    torch.testing.assert_close(some.result().gradient, whole.result().gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rare", [False, True])
def test_a_start_from_a_sample_is_moved_by_the_slope_of_more_rows(rare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(40_000, 6, 2)
    if rare:  # a column that the sample knows next to nothing of
        features = torch.cat([features, (torch.arange(40_000) % 8000 == 0).float().unsqueeze(1)], dim=1)
    memory = MemoryRows(features, labels)
    memory.block_rows = 1000
    problem = problem_of(memory, Objective("bce", l2=1e-4))
    best = fit(features, labels, problem.objective, tolerance=1e-8).bound.value
    excess = []
    for more in (8, 10**6):
        monkeypatch.setattr("logreg.solvers.starting_point.MORE", more)
        state = SolverState(problem, problem.zeros())
        drive(start(state, newton), memory)
        excess.append(drive(request(Evaluate(problem, state.coordinates, state.point)), memory).value - best)
        assert not rare or float(state.solution[0, 6]) == 0
    assert excess[0] < excess[1] / 2


@pytest.mark.parametrize("without", ["a class", "any weight"])
def test_a_sample_that_knows_nothing_does_not_send_the_start_away(without: str) -> None:
    features, _ = drawn(40_000, 2, 2)
    number = torch.arange(len(features))
    drawn_ones = number % 20 == 0  # the first of 20 blocks
    labels = ((number % 1999 == 1) & ~drawn_ones if without == "a class" else number % 2 == 0).long()
    weights = (~drawn_ones).double() if without == "any weight" else None
    memory = MemoryRows(features, labels, weights)
    memory.block_rows = 2000
    problem = problem_of(memory, Objective("bce", l2=1e-4), 2)
    state = SolverState(problem, problem.zeros())
    drive(start(state, newton), memory)
    there = drive(request(Evaluate(problem, state.coordinates, state.point, torch.float64)), memory).value
    zero = drive(request(Evaluate(problem, problem.model, problem.zeros(), torch.float64)), memory).value
    assert there <= zero
