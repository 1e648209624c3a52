"""Rows dealt to several processes give the sums and the optimum of one process that has all of them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Barrier
from typing import Any

import pytest
import scipy.sparse
import torch
from torch import Tensor

from logreg.csr import of_scipy
from logreg.facts import DataFacts
from logreg.inference.added_columns import ScoreTests
from logreg.inference.covariance import Sandwich
from logreg.inference.design import choose_design
from logreg.inference.diagnostics import BinnedResiduals, ColumnsOfRows, SurveyPass
from logreg.inference.effects import EffectSums
from logreg.inference.likelihood import Likelihood, LikelihoodPass, Maximum, maximize
from logreg.losses.objective import Objective
from logreg.processes import Processes, share
from logreg.rows import MemoryRows
from logreg.solvers.bounds.base import Bound
from logreg.solvers.bounds.curvature import Leverage
from logreg.solvers.dual.row_space import DualRows
from logreg.solvers.fit import bound_of, problem_of
from logreg.solvers.methods.subspace_descent import EvaluateAfterStep, SubspaceHessian
from logreg.solvers.minimum_norm import TriangularFactor
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass, PreparedRows, drive, request, run_pass
from logreg.solvers.passes.columns import (
    DifferentiateHeld,
    DualSlopes,
    EvaluateHeld,
    GatherColumns,
    HeldPass,
    HeldRows,
    ReadLabels,
    SumTheta,
    TryStep,
)
from logreg.solvers.passes.dependence import DependenceResidual, ExactDependence
from logreg.solvers.passes.evaluate import Evaluate, EvaluateSample
from logreg.solvers.passes.hessian import (
    BlockCache,
    CurvatureInSpan,
    CurvatureSample,
    HessianDiagonal,
    HessianProduct,
    SampledCurvature,
    adds_pairs,
    uniform,
)
from logreg.solvers.passes.moments import ColumnMoments, MeanOffset, Means
from logreg.solvers.passes.precise import DualObjective, EvaluatePrecisely, RowNorms
from logreg.solvers.passes.sampling import RowSample, sampled_rows
from logreg.solvers.problem import Problem
from logreg.solvers.state import SolverState
from process_groups import Simulated, dealt, in_processes, shared, together


def rows_of(classes: int, weighted: bool, rows: int = 240, features: int = 5) -> MemoryRows:
    draw = torch.Generator().manual_seed(rows + classes)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64) * torch.logspace(-1, 1, features) + 3.0
    noise = torch.randn(rows, generator=draw, dtype=torch.float64)
    score = x[:, 0] / 0.1 + (x[:, 1] - 3) + noise
    labels = torch.bucketize(score, score.quantile(torch.arange(1, classes, dtype=torch.float64) / classes))
    weights = torch.rand(rows, generator=draw, dtype=torch.float64) * 2 if weighted else None
    if weights is not None:
        weights[::7] = 0
    memory = MemoryRows(x, labels, weights)
    memory.block_rows = 64
    return memory


def _after(first: Callable[[BlockCache[Any]], Pass[Any]], then: Callable[[BlockCache[Any]], Pass[Any]]) -> Any:
    """Two passes that share a cache: the second one is of interest."""
    cache: BlockCache[Any] = BlockCache()
    return first(cache), then(cache)


def _column(problem: Problem, point: Tensor) -> Tensor:
    return torch.full_like(point, 0.1)


def _held(
    problem: Problem, at: Tensor, make: Callable[[HeldRows, Tensor], tuple[Pass[Any], ...]]
) -> Iterator[Pass[Any]]:
    """Passes over held rows: what they hold comes first, and their logits are those of three coefficients."""
    rows, point = HeldRows(problem, problem.model), at[:, [5, 4, 0, 3]]
    yield from (ReadLabels(rows), GatherColumns(rows, torch.tensor([4, 0, 3])))
    yield EvaluateHeld(rows, point, 1.0)
    yield from make(rows, point)


def _free(problem: Problem, columns: Sequence[int]) -> list[Tensor]:
    return [torch.tensor(columns)] * problem.num_outputs


def _at_maximum(problem: Problem) -> tuple[Likelihood, Maximum]:
    """The likelihood of all rows of `rows_of`, and its maximum."""
    classes = max(2, problem.num_outputs)
    rows = rows_of(classes, weighted=True)
    facts = DataFacts("drawn", problem.num_features, tuple("abc"[:classes]), rows={"train": rows.num_rows})
    own = problem_of(rows, Objective(problem.objective.loss), classes)
    likelihood = Likelihood(own, rows, choose_design(facts, problem.num_outputs, {}, ""), classes)
    size = likelihood.design.shape
    return likelihood, maximize(likelihood, likelihood.evaluate(torch.zeros(size, dtype=torch.float64)))


PASSES: dict[type[Pass[Any]], Callable[[Problem, Tensor], Iterable[Pass[Any]]]] = {
    Evaluate: lambda p, at: (Evaluate(p, p.model, at, hessian=torch.float64),),
    EvaluateSample: lambda p, at: (EvaluateSample(p, p.model, at, every=3),),
    HessianProduct: lambda p, at: _after(
        lambda cache: HessianProduct(p, p.model, at, _column(p, at), cache),
        lambda cache: HessianProduct(p, p.model, at, at + 1, cache),
    ),
    SampledCurvature: lambda p, at: (
        SampledCurvature(p, p.model, at, torch.ones_like(at), p.rows, 0),  # all rows
    ),
    CurvatureInSpan: lambda p, at: (CurvatureInSpan(p, p.model, at, at[:, :-1].T),),
    HessianDiagonal: lambda p, at: (HessianDiagonal(p, p.model, at),),
    ColumnMoments: lambda p, at: (ColumnMoments(p),),
    Means: lambda p, at: (Means(p, p.model),),
    EvaluatePrecisely: lambda p, at: (EvaluatePrecisely(p, p.model, at, hessian=True),),
    DualObjective: lambda p, at: (DualObjective(p, p.model, at, 0.1 * torch.arange(1, len(at) + 1).double()),),
    RowNorms: lambda p, at: (RowNorms(p, p.model, torch.ones_like(at[0])),),
    Leverage: lambda p, at: (Leverage(p, p.model, torch.ones(len(at), at.shape[1], 1, dtype=torch.float64)),),
    TriangularFactor: lambda p, at: (TriangularFactor(p, p.model),),
    EvaluateHeld: lambda p, at: _held(p, at, lambda rows, point: (EvaluateHeld(rows, 2 * point, 0.9),)),
    DifferentiateHeld: lambda p, at: _held(
        p, at, lambda rows, _: (DifferentiateHeld(rows, _free(p, [0, 3, 1]), _free(p, [2, 1])),)
    ),
    TryStep: lambda p, at: _held(
        p,
        at,
        lambda rows, point: (
            DifferentiateHeld(rows, _free(p, [0, 1]), _free(p, [0, 1])),
            TryStep(rows, 0.1 * point),
            TryStep(rows, None, 0.5),
        ),
    ),
    SumTheta: lambda p, at: _held(p, at, lambda rows, _: (SumTheta(rows, takes_residuals=True),)),
    DualSlopes: lambda p, at: _held(p, at, lambda rows, _: (SumTheta(rows, takes_residuals=True), DualSlopes(rows))),
    EvaluateAfterStep: lambda p, at: _after(
        lambda cache: EvaluateAfterStep(p, p.model, at, cache),
        lambda cache: SubspaceHessian(p, p.model, _column(p, at), cache, 0),
    ),
    SubspaceHessian: lambda p, at: _after(
        lambda cache: EvaluateAfterStep(p, p.model, at, cache),
        lambda cache: SubspaceHessian(p, p.model, _column(p, at), cache, 0),
    ),
    LikelihoodPass: lambda p, at: (LikelihoodPass(p, p.model, at, max(2, p.num_outputs)),),
    Sandwich: lambda p, at: (Sandwich(*_at_maximum(p)),),
    EffectSums: lambda p, at: (
        EffectSums(*_at_maximum(p), at[0, 1:] * 0 + 1, at[0, 1:] * 0, at[0, 1:] * 0 + 1, torch.arange(5) < 2),
    ),
}
"""Passes whose results do not depend on who had which rows, up to rounding; made anew for each process."""

ELSEWHERE = {
    BinnedResiduals,
    MeanOffset,
    ScoreTests,
    RowSample,
    CurvatureSample,
    ExactDependence,
    DependenceResidual,
    DualRows,
}
"""Passes of offsets or of two classes alone, and those whose results depend on the order of the rows; each has a test
of its own below."""

OF_ONE_PROCESS = {SurveyPass, ColumnsOfRows}
"""Passes of the checks of assumptions, which the first process makes alone."""

WITHOUT_RESULT = {HeldPass, ReadLabels, GatherColumns}
"""Passes that store rows of their own process for others, which are tested with them."""


def comparable(result: Any) -> list[Tensor]:
    """The numbers of a result, in order."""
    if isinstance(result, Tensor):
        return [result.double()]
    if isinstance(result, bool | int | float):
        return [torch.tensor(float(result), dtype=torch.float64)]
    if isinstance(result, tuple):
        names = getattr(result, "_fields", [""] * len(result))
        parts = [part for name, part in zip(names, result, strict=True) if part is not None and name != "additions"]
        return [number for part in parts for number in comparable(part)]  # more processes add more often
    raise TypeError(type(result))


def test_every_pass_is_tested() -> None:
    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for one in kind.__subclasses__():
            yield from (one, *below(one))

    public = {one for one in below(Pass) if not one.__name__.startswith("_") and one.__module__.startswith("logreg.")}
    concrete = {one for one in public if not inspect.isabstract(one) and one.__name__ != "PrecisePass"}
    assert concrete == PASSES.keys() | ELSEWHERE | OF_ONE_PROCESS | WITHOUT_RESULT


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", PASSES)
def test_sums_over_processes_are_those_over_all_rows(kind: type[Pass[Any]], classes: int, processes: int) -> None:
    memory = rows_of(classes, weighted=True)
    problem = problem_of(memory, Objective("bce" if classes == 2 else "cross_entropy", l2=0.1), classes)
    at = 0.1 * torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def made(source: MemoryRows) -> Any:
        requested = None
        for requested in PASSES[kind](problem, at):
            run_pass(source, requested)
        assert requested is not None
        if isinstance(requested, Sandwich):  # its result has a factor on either side that magnifies rounding
            return requested._products
        return requested.result()

    alone = comparable(made(memory))
    if kind is TriangularFactor:  # the factor of a QR decomposition is unique up to signs
        alone = [alone[0].T @ alone[0]]
    for result in together(dealt(memory, processes), made):
        found = comparable(result)
        found = [found[0].T @ found[0]] if kind is TriangularFactor else found
        for mine, expected in zip(found, alone, strict=True):
            scale = float(expected.abs().max()) if expected.numel() else 0.0
            torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12 * max(scale, 1e-300))


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_largest_change_of_a_logit_is_that_over_all_processes(classes: int, processes: int) -> None:
    memory = rows_of(classes, weighted=True)
    problem = problem_of(memory, Objective("bce" if classes == 2 else "cross_entropy", l2=0.1), classes)
    at = torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def change(source: MemoryRows) -> Tensor:
        requested = Evaluate(problem, problem.model, at, since=problem.zeros())
        run_pass(source, requested)
        found = requested.result().change
        assert found is not None
        return found

    parts = dealt(memory, processes)
    assert len({float(change(part).max()) for part in parts}) > 1  # so the maximum is not that of every part
    for found in together(parts, change):
        torch.testing.assert_close(found, change(memory), rtol=1e-12, atol=0)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_checks_of_two_classes_are_those_of_all_rows(processes: int) -> None:
    memory = rows_of(2, weighted=True)
    problem = problem_of(memory, Objective("bce"))
    at, edges = _at_maximum(problem), torch.tensor([[-0.5, 0.0, 0.5]] * 2, dtype=torch.float64)

    def bins(source: MemoryRows) -> Tensor:
        requested = BinnedResiduals(*at, [0, 1], edges)
        run_pass(source, requested)
        return torch.stack(requested.result())

    def score(source: MemoryRows) -> Tensor:
        requested = ScoreTests(*at, [lambda columns, _: columns[:, :2].prod(1, keepdim=True)], [1])
        run_pass(source, requested)
        return torch.tensor(requested.result()[0].test.chi2, dtype=torch.float64)

    # chi2 is a difference of large sums, since the columns have means far from 0 here
    for made, precision in ((bins, 1e-10), (score, 1e-7)):
        expected = made(memory)
        assert expected.abs().max() > 0.01
        for found in together(dealt(memory, processes), made):
            torch.testing.assert_close(found, expected, rtol=precision, atol=precision)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_mean_of_offsets_is_that_of_all_rows(processes: int) -> None:
    memory = rows_of(2, weighted=True)
    assert memory.sample_weight is not None
    memory.offset = torch.arange(float(memory.num_rows))
    problem = problem_of(memory, Objective("bce", l2=0.1))
    expected = float((memory.sample_weight * memory.offset).sum() / memory.sample_weight.sum())

    def mean(source: MemoryRows) -> float:
        requested = MeanOffset(problem)
        run_pass(source, requested)
        return float(requested.result())

    parts = dealt(memory, processes)
    assert len({mean(part) for part in parts}) > 1
    assert together(parts, mean) == pytest.approx([expected] * processes, rel=1e-12)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_a_dependence_between_the_rows_of_two_processes_is_seen(processes: int) -> None:
    memory = rows_of(2, weighted=False)
    step = torch.arange(memory.num_rows) % 2
    x = memory.features
    x[:, 1] = 2 * x[:, 0] + 5  # in all rows
    x[:, 2] = x[:, 0] + step  # within each process below, but not over both
    memory = MemoryRows(x, step)
    problem = problem_of(memory, Objective("bce"))
    combinations = torch.tensor([[2.0, -1, 0, 0, 0], [1, 0, -1, 0, 0]], dtype=torch.float64)
    parts = [MemoryRows(x[step == rank], step[step == rank]) for rank in range(2)]
    parts += [MemoryRows(x[:0], step[:0]) for _ in range(processes - 2)]
    for kind, expected in ((ExactDependence, [True, False]), (DependenceResidual, [True, False])):

        def found(source: MemoryRows, kind: Any = kind) -> list[bool]:
            requested = kind(problem, combinations)
            run_pass(source, requested)
            result = requested.result()
            vanishes: Tensor = result if result.dtype == torch.bool else result < 1e-6
            return [bool(each) for each in vanishes]

        if kind is ExactDependence:  # rounding of 2 x + 5 is a difference in exact arithmetic
            x[:, :3] = x[:, :3].mul(2**10).round().div(2**10)
            x[:, 1], x[:, 2] = 2 * x[:, 0] + 5, x[:, 0] + step
            for rank in range(2):
                parts[rank].features = x[step == rank]
        assert together(parts, found) == [expected] * processes


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_sample_is_that_of_one_process(
    kind: str, weighted: bool, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.solvers.passes.sampling.part_rows", lambda *_: 35)
    memory = rows_of(3, weighted)
    if kind == "sparse":
        features = of_scipy(scipy.sparse.csr_array(memory.features.numpy()))
        memory = MemoryRows(features, memory.labels, memory.sample_weight)
    problem = problem_of(memory, Objective("cross_entropy"), 3)
    alone = drive(sampled_rows(problem), memory)
    assert 18 <= len(alone.labels) <= 35
    assert alone.positions is not None
    assert torch.equal(alone.features, rows_of(3, weighted).features[alone.positions])
    if weighted:
        assert alone.sample_weight is not None
        assert bool((alone.sample_weight > 0).all())
    for found in together(shared(memory, processes), lambda source: drive(sampled_rows(problem), source)):
        for mine, expected in zip(found, alone, strict=True):
            assert (mine is None) == (expected is None)
            assert mine is None or expected is None or torch.equal(mine, expected)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_rows_drawn_by_curvature_are_those_of_every_process(processes: int) -> None:
    memory = rows_of(3, weighted=True)
    problem = problem_of(memory, Objective("cross_entropy"), 3)

    def drawn(source: MemoryRows) -> tuple[Tensor, Tensor]:
        requested = CurvatureSample(problem, problem.model, problem.zeros(), 1e-9, 1000, seed=0)  # all rows
        run_pass(source, requested)
        return requested.result()

    rows, weights = drawn(memory)
    assert len(rows) == int((weights > 0).sum()) > 0
    for found, their in together(dealt(memory, processes), drawn):
        torch.testing.assert_close(found.T @ (their.unsqueeze(1) * found), rows.T @ (weights.unsqueeze(1) * rows))


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("kind", ["rows", "blocks", "pairs"])
def test_the_same_rows_are_drawn_by_curvature_whoever_has_them(kind: str, processes: int) -> None:
    classes = 20 if kind == "pairs" else 3
    memory = rows_of(classes, weighted=True)
    problem = problem_of(memory, Objective("cross_entropy", l2=0.1), classes)
    assert adds_pairs(problem) == (kind == "pairs")
    diagonal = drive(request(HessianDiagonal(problem, problem.model, problem.zeros())), memory)
    mass = diagonal[:, -1]

    def drawn(source: MemoryRows) -> tuple[Tensor, Tensor]:
        if kind == "rows":
            rows, weights = drive(
                request(CurvatureSample(problem, problem.model, problem.zeros(), float(mass.sum()), 40, seed=3)), source
            )
            return rows.T @ (weights.unsqueeze(1) * rows), weights.sum()
        sampled = SampledCurvature(problem, problem.model, problem.zeros(), diagonal, 40, seed=3)
        blocks, border = drive(request(sampled), source)
        return blocks.tril(), border

    expected = drawn(memory)
    assert not torch.allclose(expected[0], drawn(memory.at(torch.arange(memory.num_rows).flip(0)[:200]))[0])
    for found in together(dealt(memory, processes), drawn):
        torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12 * float(expected[0].abs().max()))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sum_of_least_probabilities_is_known_in_float32_too(weighted: bool) -> None:
    memory = rows_of(4, weighted)
    problem = problem_of(memory, Objective("cross_entropy", l2=0.1), 4)
    point = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 5
    short, whole = (
        drive(request(Evaluate(problem, problem.model, point, dtype)), memory).of_least
        for dtype in (torch.float32, torch.float64)
    )
    assert short is not None
    assert whole is not None
    weights = torch.ones(memory.num_rows).double() if memory.sample_weight is None else memory.sample_weight
    least = (memory.features @ point[:, :-1].T + point[:, -1]).softmax(1).amin(1)
    assert float(whole[-1]) == pytest.approx(float(least @ weights / weights.sum()), rel=1e-9)
    assert short.tolist() == pytest.approx(whole[-1:].tolist(), rel=1e-5)


def test_numbers_that_are_drawn_are_those_of_the_generator() -> None:
    positions = torch.arange(3)
    rows = PreparedRows(torch.empty(3, 0), positions, None, 1, None, positions)
    # the first three numbers of SplitMix64 for the seed 0, which many libraries have in their tests
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniform(rows, 0).tolist() == [(bits >> 11) / 2**53 for bits in known]
    positions = torch.arange(10_000)
    several = [uniform(rows._replace(positions=positions), seed) for seed in (0, 1, 2**32 - 1)]
    assert (
        torch.corrcoef(torch.stack([several[0][1:], *(one[:-1] for one in several)])).fill_diagonal_(0).abs().max()
        < 0.05
    )
    for one in several:
        torch.testing.assert_close(one.sort().values, positions / 10_000.0, rtol=0, atol=0.02, check_dtype=False)


OPTIMA = {
    "binary": (2, Objective("bce", l2=0.01), "newton", 5),
    "binary, sum": (2, Objective("bce", "sum", l2=2.0), "newton", 5),
    "softmax": (3, Objective("cross_entropy", l2=0.01), "newton", 5),
    "one-vs-rest": (3, Objective("bce", l2=0.01), "newton", 5),
    "without a penalty": (2, Objective("bce"), "newton", 5),
    "l1": (2, Objective("bce", l2=0.001, l1=0.01), "newton", 5),
    "l1, softmax": (3, Objective("cross_entropy", l2=0.001, l1=0.01), "newton", 5),
    "L-BFGS": (2, Objective("bce", l2=0.3), "lbfgs", 5),
    "L-BFGS, softmax": (3, Objective("cross_entropy", l2=0.3), "lbfgs", 5),
    "few rows of many features": (2, Objective("bce", l2=0.1), "newton", 1500),
}


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("name", OPTIMA)
def test_the_optimum_over_processes_is_that_over_all_rows(name: str, processes: int) -> None:
    classes, objective, optimizer, features = OPTIMA[name]
    memory = rows_of(classes, weighted=features == 5, features=features)
    problem = problem_of(memory, objective, classes)

    def solved(source: MemoryRows) -> SolverState:
        state = SolverState(problem, problem.zeros(), tolerance=1e-20 if optimizer == "lbfgs" else 1e-14)
        drive(EXACT[optimizer](state), source)
        return state

    alone = solved(memory)
    assert alone.converged
    for state in together(dealt(memory, processes), solved):
        assert state.converged
        assert state.bound is not None
        assert state.bound.rigorous
        assert bound_of(problem, state.solution, memory, enough=1e-12).gap <= 1e-12 * abs(state.bound.value)
        size = float(alone.solution.abs().max())
        torch.testing.assert_close(state.solution, alone.solution, rtol=1e-9, atol=1e-9 * size)


STARTS = {
    "newton, softmax, by descent": (4, "cross_entropy", "newton", 400, 5000),
    "lbfgs, one-vs-rest, by descent": (4, "bce", "lbfgs", 400, 5000),
    "newton, binary, from a sample": (2, "bce", "newton", 20, 60_000),
    "lbfgs, softmax, from a sample": (3, "cross_entropy", "lbfgs", 20, 60_000),
}
"""Fits that start from a sample of the rows: classes, loss, optimizer, features and rows."""


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", STARTS)
def test_fits_from_a_sample_end_where_one_process_does(name: str, processes: int) -> None:
    classes, loss, optimizer, features, rows = STARTS[name]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64)
    if features > 20:  # common factors, with which descent is stable
        loadings = torch.randn(20, features, generator=draw, dtype=torch.float64)
        x = torch.randn(rows, 20, generator=draw, dtype=torch.float64) @ loadings / 4 + 0.1 * x
    labels = (x[:, :classes] + torch.randn(rows, classes, generator=draw, dtype=torch.float64)).argmax(1)
    memory = MemoryRows(x, labels)
    problem = dataclasses.replace(problem_of(memory, Objective(loss, l2=0.01), classes), dtype=torch.float64)

    def solved(source: MemoryRows) -> Tensor:
        state, starts = SolverState(problem, problem.zeros(), 1e-6), []
        for requested in EXACT[optimizer](state):
            run_pass(source, requested)
            starts += [state.point] if isinstance(requested, Evaluate) else []
        assert bool(starts[0].any())
        assert state.converged
        return state.solution

    alone = solved(memory)
    for found in together(shared(memory, processes), solved):
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-9 * float(alone.abs().max()))


def _solved(processes: Processes | None, name: str) -> tuple[Tensor, Bound]:
    """The optimum of a problem of `OPTIMA` and its bound, in a real process that has its share of the rows."""
    classes, objective, optimizer, features = OPTIMA[name]
    memory = rows_of(classes, weighted=features == 5, features=features)
    problem = problem_of(memory, objective, classes)
    if processes is not None:
        own = share(memory.num_rows, processes.rank, processes.size)
        memory = memory.at(torch.arange(own.start, own.stop))
        memory.processes = processes
    state = SolverState(problem, problem.zeros(), tolerance=1e-20 if optimizer == "lbfgs" else 1e-14)
    drive(EXACT[optimizer](state), memory)
    assert state.converged
    return state.solution, bound_of(problem, state.solution, memory)


def _all_solved(processes: Processes | None) -> list[tuple[Tensor, Bound]]:
    return [_solved(processes, name) for name in OPTIMA]


# the test above has two simulated ones
@pytest.mark.long
@pytest.mark.parametrize("processes", [*(pytest.param(size, marks=pytest.mark.slow) for size in (1, 2)), 3])
def test_real_processes_find_and_certify_the_optimum_of_one(processes: int) -> None:
    of_ranks = in_processes(processes, _all_solved)
    for number, (solution, bound) in enumerate(_all_solved(None)):
        for found, certified in (solved[number] for solved in of_ranks):
            torch.testing.assert_close(found, solution, rtol=1e-9, atol=1e-9 * float(solution.abs().max()))
            assert torch.equal(found, of_ranks[0][number][0])  # bit for bit, since each rank decides by it
            assert certified.value == pytest.approx(bound.value, rel=1e-12)
            assert certified.rigorous
            assert certified.gap <= 1e-12 * bound.value


def test_a_process_that_takes_another_path_is_noticed() -> None:
    # else the tests above would not see control flow that depends on the rows of one process
    memory = rows_of(2, weighted=False)
    problem = problem_of(memory, Objective("bce", l2=0.1))

    def uneven(source: MemoryRows) -> None:
        one = source.processes
        assert isinstance(one, Simulated)
        one.meeting = one.meeting if one.rank else Barrier(2, timeout=0.2)
        run_pass(source, HessianDiagonal(problem, problem.model, problem.zeros()))

    with pytest.raises(RuntimeError):
        together(dealt(memory, 2), uneven)


MANY_OUTPUTS: dict[str, Callable[[Problem, Tensor], Pass[Any]]] = {
    "Evaluate": lambda p, at: Evaluate(p, p.model, at),
    "EvaluatePrecisely": lambda p, at: EvaluatePrecisely(p, p.model, at),
    "DualObjective": lambda p, at: DualObjective(p, p.model, at, 0.1 * torch.arange(1, len(at) + 1).double(), hub=1),
    "SampledCurvature": lambda p, at: SampledCurvature(p, p.model, at, torch.ones_like(at), p.rows, 0),
}
"""Passes that compute something else where outputs are many."""


@pytest.mark.parametrize("name", MANY_OUTPUTS)
def test_sums_of_very_many_outputs_are_those_of_few(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = rows_of(3, weighted=True)
    problem = problem_of(memory, Objective("cross_entropy", l2=0.1), 3)
    at = 0.1 * torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def made(source: MemoryRows) -> Any:
        requested = MANY_OUTPUTS[name](problem, at)
        run_pass(source, requested)
        return requested.result()

    def numbers(result: Any) -> list[Tensor]:
        if name == "SampledCurvature":
            return [result[0].tril(), result[1]]
        curvature = getattr(getattr(result, "evaluation", result), "curvature", None)
        without = result if curvature is None else (getattr(result, "evaluation", result)._replace(curvature=None))
        return comparable(without) + ([] if curvature is None else [curvature.own, curvature.mass])

    few = numbers(made(memory))
    monkeypatch.setattr("logreg.solvers.passes.evaluate.MAX_JOINT_OUTPUTS", 1)
    monkeypatch.setattr("logreg.solvers.passes.evaluate.LARGEST_JOINT_OUTPUTS", 1)
    monkeypatch.setattr("logreg.rows.LOGITS_BYTES", {"cpu": 200})
    many = made(memory)
    if "Evaluate" in name:
        assert getattr(many, "evaluation", many).curvature.joint is None
    for found in (many, *together(dealt(memory, 3), made)):
        for mine, expected in zip(numbers(found), few, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-13)


def test_curvatures_that_are_not_kept_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = rows_of(3, weighted=True)
    problem = problem_of(memory, Objective("cross_entropy", l2=0.1), 3)
    at = torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def product() -> tuple[Tensor, int]:
        cache: BlockCache[Tensor | None] = BlockCache()
        for direction in (at, at + 1):
            requested = HessianProduct(problem, problem.model, at, direction, cache)
            run_pass(memory, requested)
        cache.rewind()
        return requested.result(), sum(cache.read(block.labels) is not None for block in memory.blocks())

    kept, number = product()
    assert number == 4  # blocks
    monkeypatch.setattr("logreg.solvers.passes.hessian.MIN_CACHED_CURVATURES", 0)
    problem = dataclasses.replace(problem, rows=80)  # times 5 features: the curvatures of two blocks
    again, number = product()
    assert number == 2
    torch.testing.assert_close(again, kept, rtol=1e-13, atol=1e-14)
