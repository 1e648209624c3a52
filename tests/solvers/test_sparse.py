"""Sparse rows: the fits, bounds and searches of dense rows, scikit-learn's optima, and what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logreg import rows as row_blocks
from logreg.csr import (
    as_scipy,
    checked_sparse,
    column_sizes,
    csr,
    of_scipy,
    selected_rows,
    some_rows,
    times,
    transposed_times,
    value_range,
)
from logreg.errors import DataError
from logreg.facts import Batch
from logreg.losses.objective import Objective
from logreg.optimality.separation.find import find_separation
from logreg.rows import MemoryRows
from logreg.solvers.bounds.bound import bound
from logreg.solvers.choose import is_wide
from logreg.solvers.dual import row_space, sparse_rows
from logreg.solvers.fit import Fit, bound_of, fit, problem_of
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes import columns
from logreg.solvers.passes.base import Pass, PassRequests, drive, request, run_pass
from logreg.solvers.passes.evaluate import Derivatives, Evaluate, sums_joint_curvature
from logreg.solvers.passes.hessian import CurvatureSample, HessianDiagonal
from logreg.solvers.passes.moments import ColumnMoments
from logreg.solvers.passes.precise import DualObjective, EvaluatePrecisely, uncentered_coordinates
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState, certified

SAME = 1e-9
"""How far apart the coefficients of sparse and of dense rows may be, relative to the largest."""


class Shape(NamedTuple):
    """The size of a random problem."""

    rows: int
    features: int
    classes: int = 2


def made(shape: Shape, density: float = 0.2, seed: int = 0) -> tuple[sparse.csr_array, Tensor]:
    """Random sparse rows in float64, some of them empty, and labels; feature 1 is in no row, feature 2 in all."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((shape.rows, shape.features)) * (draw.random((shape.rows, shape.features)) < density)
    dense[:: shape.rows // 5] = 0
    dense[:, 1], dense[:, 2] = 0, 1 + draw.random(shape.rows)
    logits = dense @ draw.standard_normal((shape.features, shape.classes)) + draw.gumbel(
        size=(shape.rows, shape.classes)
    )
    return sparse.csr_array(dense), torch.from_numpy(logits.argmax(1))


def dense_of(features: sparse.csr_array) -> Tensor:
    return torch.from_numpy(features.toarray())


def assert_same(ours: Fit, theirs: Fit, same: float = SAME) -> None:
    size = float(theirs.coef.abs().max())
    torch.testing.assert_close(ours.coef, theirs.coef, rtol=0, atol=same * size)
    torch.testing.assert_close(ours.intercept, theirs.intercept, rtol=0, atol=same * max(size, 1.0))
    assert ours.bound.rigorous
    assert ours.bound.value == pytest.approx(theirs.bound.value, rel=1e-12)


BCE, SOFTMAX = Objective("bce", l2=0.05), Objective("cross_entropy", l2=0.05)

CASES: dict[str, tuple[Shape, Objective, dict[str, Any]]] = {
    "binary": (Shape(200, 8), BCE, {}),
    "one-vs-rest": (Shape(200, 8, 3), BCE, {}),
    "softmax": (Shape(200, 8, 3), SOFTMAX, {}),
    "summed": (Shape(200, 8), Objective("bce", l2=3.0, reduction="sum"), {}),
    "no intercept": (Shape(200, 8, 3), SOFTMAX, {"intercept": False}),
    "class weights": (Shape(200, 8, 3), SOFTMAX, {"class_weight": (1.0, 3.0, 0.5)}),
    "weights": (Shape(200, 8), BCE, {"sample_weight": torch.arange(200) % 4 * 1.0}),
    "no penalty": (Shape(300, 5), Objective("bce"), {}),
    "l1": (Shape(200, 8), Objective("bce", l1=0.02), {}),
    "l1, softmax": (Shape(200, 8, 3), Objective("cross_entropy", l1=0.02), {}),
    "elastic net": (Shape(200, 8), Objective("bce", l1=0.02, l2=0.05), {}),
    "no Hessian": (Shape(600, 300), BCE, {}),
    "no Hessian, softmax": (Shape(400, 300, 3), SOFTMAX, {"class_weight": (1.0, 3.0, 0.5)}),
    "wide": (Shape(40, 100), BCE, {}),
    "wide, softmax": (Shape(40, 100, 3), SOFTMAX, {"sample_weight": torch.arange(40) % 4 * 1.0}),
    "wide, one-vs-rest": (Shape(40, 100, 3), BCE, {"intercept": False}),
    "wide, ten classes": (Shape(60, 150, 10), SOFTMAX, {}),
    "wide, l1": (Shape(40, 100), Objective("bce", l1=0.02), {}),
}


@pytest.mark.parametrize("optimizer", list(EXACT))
@pytest.mark.parametrize("case", CASES)
def test_sparse_and_dense_rows_have_the_same_optimum(case: str, optimizer: str) -> None:
    shape, objective, settings = CASES[case]
    features, labels = made(shape)
    # As near as float64 comes; with l1 alone the bound is of first order in the error of the coefficients.
    enough = 1e-22 if objective.l2 or not objective.l1 else 1e-13
    found, expected = (
        fit(x, labels, objective, shape.classes, optimizer=optimizer, tolerance=enough, max_passes=400, **settings)
        for x in (features, dense_of(features))
    )
    assert_same(found, expected, same=SAME if objective.l2 or not objective.l1 else 1e-7)
    assert found.bound.gap + found.bound.rounding <= 1e-10 * found.bound.value
    assert not found.coef[:, 1].any()  # of the feature in no row


@pytest.mark.parametrize("case", ["binary", "softmax", "no Hessian, softmax", "wide, softmax"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_the_bound_holds_and_the_tolerance_is_reached(case: str, tolerance: float) -> None:
    shape, objective, settings = CASES[case]
    features, labels = made(shape)
    found = fit(features, labels, objective, optimizer="newton", tolerance=tolerance, **settings)
    best = fit(dense_of(features), labels, objective, optimizer="newton", tolerance=1e-13, **settings)
    assert found.converged
    assert found.bound.rigorous
    assert found.bound.value - best.bound.value <= found.bound.gap + found.bound.rounding + best.bound.error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_problem_is_fitted_as_dense_rows_are(dtype: torch.dtype) -> None:
    features, labels = made(Shape(200, 8))
    tensor = torch.from_numpy(features.toarray()).to(dtype)
    found, expected = (fit(x, labels, BCE, tolerance=1e-12) for x in (tensor.to_sparse_csr(), tensor))
    assert found.passes == expected.passes
    assert torch.equal(found.coef, expected.coef)
    assert found.bound.gap == expected.bound.gap


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(500, 300), (100, 400)], ids=["tall", "wide"])
def test_scikit_learn_finds_the_same(shape: tuple[int, int], classes: int) -> None:
    features, labels = made(Shape(*shape, classes))
    objective = Objective("bce" if classes == 2 else "cross_entropy", l2=1 / shape[0])
    ours = fit(features, labels, objective, optimizer="newton", tolerance=1e-13)
    theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(features, labels.numpy())
    coef = torch.from_numpy(theirs.coef_)
    torch.testing.assert_close(ours.coef, coef, rtol=0, atol=1e-4 * float(coef.abs().max()))
    memory = MemoryRows(of_scipy(features), labels)
    point = torch.cat([coef, torch.from_numpy(theirs.intercept_).unsqueeze(1)], dim=1)
    judged = bound_of(problem_of(memory, objective, classes), point, memory)
    assert 0 <= judged.value - ours.bound.value <= judged.gap


@pytest.mark.long
def test_rows_whose_dense_form_would_not_fit_into_memory_are_fitted() -> None:
    rows, features = 20_000, 300_000  # 48 GB in float64
    draw = np.random.default_rng(0)
    columns = (features * draw.random((rows, 10)) ** 4).astype(np.int64)
    labels = torch.from_numpy((columns[:, 0] < features / 20).astype(np.int64))
    matrix = sparse.csr_array(
        (np.ones(columns.size), (np.repeat(np.arange(rows), 10), columns.ravel())), (rows, features)
    )
    found = fit(matrix, labels, Objective("bce", l2=1 / rows), tolerance=1e-4)
    assert found.converged
    assert found.bound.rigorous
    taken = np.zeros(features, dtype=bool)
    taken[columns] = True
    assert not found.coef[0][torch.from_numpy(~taken)].any()


@pytest.mark.parametrize("objective", [BCE, Objective("bce", l1=0.01), Objective("bce", l1=0.01, l2=0.01)])
@pytest.mark.parametrize("intercept", [True, False])
def test_standardized_sparse_rows_have_the_optimum_of_standardized_dense_rows(
    objective: Objective, intercept: bool
) -> None:
    features, labels = made(Shape(300, 150))
    dense = dense_of(features)
    std, mean = torch.std_mean(dense, 0, correction=0)
    model = Coordinates(mean, torch.where(std > 0, std, 1.0))
    found = []
    for rows in (of_scipy(features), dense):
        memory = MemoryRows(rows, labels)
        plain = problem_of(memory, objective, 2, intercept=intercept, dtype=torch.float64)
        problem = Problem(**{**plain.__dict__, "model": model})
        state = SolverState(problem, problem.zeros(), 1e-13)
        drive(EXACT["newton"](state), memory)
        assert state.bound is not None
        assert state.bound.rigorous
        assert state.bound.gap + state.bound.rounding <= 1e-10 * state.bound.value
        found.append(state.solution)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6 * float(found[1].abs().max()))
    made_dense = MemoryRows((dense - model.center) / model.scale, labels)
    same = problem_of(made_dense, objective, 2, intercept=intercept, dtype=torch.float64)
    values = [drive(request(Evaluate(same, same.model, point)), made_dense).value for point in found]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


# Passes and products

Made = Callable[[Problem, Tensor], Pass[Any]]

PASSES: dict[str, Made] = {
    "evaluate": lambda p, at: Evaluate(p, p.model, at, torch.float64),
    "evaluate with a Hessian": lambda p, at: Evaluate(p, p.model, at, torch.float64, torch.float64),
    "dual": lambda p, at: DualObjective(p, p.model, at, torch.full_like(at[:, 0], 0.01)),
    "diagonal": lambda p, at: HessianDiagonal(p, p.model, at),
    "sample of all rows": lambda p, at: CurvatureSample(p, p.model, at, 0.0, 10, 0),
    "moments": lambda p, at: ColumnMoments(p),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_over_sparse_rows_has_the_sums_of_dense_rows(
    name: str, classes: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = made(Shape(300, 20, classes))
    weights = torch.arange(300) % 3 * 1.0 if weighted else None
    monkeypatch.setattr(row_blocks, "BLOCK_NONZEROS", 200)  # many blocks
    results = []
    for rows in (of_scipy(features), dense_of(features)):
        memory = MemoryRows(rows, labels, None if weights is None else weights.double())
        problem = problem_of(memory, BCE if classes == 2 else SOFTMAX, classes, dtype=torch.float64)
        center = torch.linspace(-1, 1, 20, dtype=torch.float64)
        problem = Problem(**{**problem.__dict__, "model": Coordinates(center, 2 + center)})
        at = 0.1 * torch.randn(problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        requested = PASSES[name](problem, at)
        assert memory.is_sparse == problem.is_sparse
        assert not memory.is_sparse or len(list(memory.blocks())) > 3
        run_pass(memory, requested)
        results.append(requested.result())
    for mine, expected in zip(flat(results[0]), flat(results[1]), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-11)


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Derivatives):
        result = result._replace(additions=None)  # a product of sparse rows adds all rows of a block at once
    if isinstance(result, tuple):
        return [part for one in result if one is not None for part in flat(one)]
    return [torch.as_tensor(result, dtype=torch.float64)]


def test_an_estimate_sums_the_curvature_of_pairs_of_outputs_where_rows_have_many_numbers() -> None:
    features = torch.eye(40).repeat(2, 16)  # 16 of 640 numbers are not 0
    labels = torch.arange(80) % 3
    for some, expected in ((features, True), (features.to_sparse_csr(), False)):
        problem = problem_of(MemoryRows(some, labels), Objective("cross_entropy", l2=1.0))
        assert sums_joint_curvature(problem, torch.float32) == expected
        assert sums_joint_curvature(problem, torch.float64)
        assert not sums_joint_curvature(replace(problem, objective=Objective("bce", l2=1.0)), torch.float32)
        assert sums_joint_curvature(replace(problem, num_outputs=1), torch.float32)


def test_sizes_of_a_precise_pass_bound_those_of_dense_rows() -> None:
    features, labels = made(Shape(300, 20))
    memory, dense = MemoryRows(of_scipy(features), labels), MemoryRows(dense_of(features), labels)
    for intercept in (True, False):
        plain = problem_of(memory, BCE, 2, intercept=intercept)
        center = torch.linspace(-1, 1, 20, dtype=torch.float64)
        problem = Problem(**{**plain.__dict__, "model": Coordinates(center, torch.ones_like(center))})
        coordinates = uncentered_coordinates(problem)
        assert bool(coordinates.center.any()) != intercept
        at = 0.1 * torch.ones_like(problem.zeros())
        at[:, -1] *= intercept
        found = drive(request(EvaluatePrecisely(problem, coordinates, at)), memory)
        inside = Problem(**{**problem.__dict__, "nonzeros": None})
        expected = drive(request(EvaluatePrecisely(inside, coordinates, at)), dense)
        torch.testing.assert_close(found.evaluation.gradient, expected.evaluation.gradient, rtol=1e-12, atol=1e-13)
        assert found.evaluation.value == pytest.approx(expected.evaluation.value, rel=1e-14)
        assert bool((found.squares >= expected.squares * (1 - 1e-12)).all())
        assert bool((found.largest >= expected.largest * (1 - 1e-12)).all())
        assert found.rows == expected.rows


def test_a_bound_of_sparse_rows_is_that_of_dense_rows() -> None:
    features, labels = made(Shape(300, 20, 3))
    bounds = []
    for rows in (of_scipy(features), dense_of(features)):
        memory = MemoryRows(rows, labels)
        problem = problem_of(memory, SOFTMAX, 3)
        bounds.append(drive(bound(problem, 0.01 + problem.zeros()), memory))
    assert bounds[0].rigorous
    assert bounds[0].gap == pytest.approx(bounds[1].gap, rel=1e-9)
    assert bounds[0].value == pytest.approx(bounds[1].value, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 2, 12])
@pytest.mark.parametrize("has_mkl", [True, False])
def test_products_are_those_of_dense_rows(
    dtype: torch.dtype, columns: int, has_mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    features = of_scipy(made(Shape(50, 8))[0].astype(str(dtype).removeprefix("torch.")))
    dense = features.to_dense()
    draw = torch.Generator().manual_seed(0)
    by, left = (torch.randn(size, columns, generator=draw, dtype=dtype) for size in (8, 50))
    torch.testing.assert_close(times(features, by), dense @ by)
    torch.testing.assert_close(transposed_times(features, left), left.T @ dense)


def test_parts_of_rows_are_those_of_dense_rows() -> None:
    features = of_scipy(made(Shape(50, 8))[0])
    dense = features.to_dense()
    assert torch.equal(some_rows(features, 7, 31).to_dense(), dense[7:31])
    assert torch.equal(some_rows(features, 50, 50).to_dense(), dense[50:])
    mask = torch.arange(50) % 3 == 0
    assert torch.equal(selected_rows(features, mask).to_dense(), dense[mask])
    assert torch.equal(selected_rows(features, mask.nonzero()[:, 0]).to_dense(), dense[mask])
    assert torch.equal(column_sizes(features), dense.abs().amax(0))
    assert value_range(features) == (float(dense[dense != 0].abs().min()), float(dense.abs().max()))


# What is accepted

KINDS: dict[str, Callable[[sparse.csr_array], Any]] = {
    "csr_matrix": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "coo_matrix": sparse.coo_matrix,
    "lil_array": sparse.lil_array,
    "float32": lambda x: x.astype(np.float32).astype(np.float64),
    "long indices": lambda x: sparse.csr_array(
        (x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)), x.shape
    ),
    "tensor": lambda x: dense_of(x).to_sparse_csr(),
    "tensor of int32": of_scipy,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sparse_matrix_is_accepted(kind: str) -> None:
    features, _ = made(Shape(50, 8))
    checked = checked_sparse(KINDS[kind](features))
    torch.testing.assert_close(checked.to_dense(), dense_of(features), rtol=1e-7, atol=0)
    assert checked.col_indices().dtype == torch.int32


def test_read_only_arrays_are_accepted_without_a_warning() -> None:
    features, labels = made(Shape(50, 8))
    for array in (features.data, features.indices, features.indptr):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(features, labels, BCE, optimizer="newton").converged


def test_numbers_of_a_checked_matrix_are_not_copied() -> None:
    features, _ = made(Shape(50, 8))
    assert checked_sparse(features).values().data_ptr() == features.data.ctypes.data
    assert as_scipy(checked_sparse(features)).data.ctypes.data == features.data.ctypes.data


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        *((name, "float32") for name in ("bool", "int8", "uint8", "int16", "float16", "float32")),
        *((name, "float64") for name in ("int32", "int64", "float64")),
    ],
)
def test_whole_and_short_numbers_become_floating(dtype: str, wide: str) -> None:
    dense = torch.tensor([[0, 1, 0], [1, 0, 1]])
    tensor = dense.to(getattr(torch, dtype)).to_sparse_csr()
    found = [checked_sparse(tensor)]
    if dtype != "float16":  # SciPy has no such matrix
        found.append(checked_sparse(sparse.csr_array(dense.numpy().astype(dtype))))
    for one in found:
        assert one.dtype == getattr(torch, wide)
        assert torch.equal(one.to_dense(), dense.to(one.dtype))


def test_repeated_entries_are_added_and_columns_sorted_in_a_copy() -> None:
    values, columns, begins = torch.tensor([1.0, 2, 3, 4]), torch.tensor([2, 0, 2, 1]), torch.tensor([0, 3, 3, 4])
    features = csr(begins, columns, values, 3)
    checked = checked_sparse(features)
    assert torch.equal(checked.to_dense(), torch.tensor([[2.0, 0, 4], [0, 0, 0], [0, 4, 0]]))
    assert checked.col_indices().tolist() == [0, 2, 1]
    assert values.tolist() == [1, 2, 3, 4]
    assert columns.tolist() == [2, 0, 2, 1]
    theirs = sparse.csr_array((values.numpy(), columns.numpy(), begins.numpy()), shape=(3, 3))
    theirs.has_canonical_format = True  # which is wrong
    assert torch.equal(checked_sparse(theirs).to_dense(), checked.to_dense())


def test_stored_zeros_make_no_difference() -> None:
    features, labels = made(Shape(200, 8))
    stored = features.copy()
    stored.data[::7] = 0
    without = stored.copy()
    without.eliminate_zeros()
    assert stored.nnz > without.nnz
    found, expected = (
        fit(x, labels, BCE, optimizer="newton", tolerance=1e-18, max_passes=50) for x in (stored, without)
    )
    assert_same(found, expected)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_very_small_and_large_features_are_stored_in_other_units(unit: float) -> None:
    features, labels = made(Shape(200, 8))
    scaled = features.copy()
    scaled.data = np.where(scaled.indices == 3, scaled.data * unit, scaled.data)
    found, expected = (
        fit(x, labels, Objective("bce"), optimizer="newton", tolerance=1e-12) for x in (scaled, features)
    )
    assert found.converged
    assert found.bound.rigorous
    found.coef[0, 3] *= unit
    torch.testing.assert_close(found.coef, expected.coef, rtol=0, atol=1e-9 * float(expected.coef.abs().max()))


# What is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    features, labels = made(Shape(50, 8))
    features.data[20] = bad
    row, column = (int(place) for place in np.argwhere(~np.isfinite(features.toarray()))[0])
    with pytest.raises(DataError, match=rf"^features must be finite, got {bad} in row {row}, column {column}\.$"):
        fit(features, labels, BCE)


def test_other_sparse_tensors_are_refused_with_advice_that_works() -> None:
    features, labels = made(Shape(50, 8))
    for other in (dense_of(features).to_sparse_coo(), dense_of(features).to_sparse_csc()):
        with pytest.raises(
            DataError, match=r"must be in the form CSR, got sparse_co?s?[oc]?\. Give features\.to_sparse"
        ):
            fit(other, labels, BCE)
        assert fit(other.to_sparse_csr(), labels, BCE).converged
        assert fit(other.to_dense(), labels, BCE).converged


def test_what_is_no_tensor_is_refused_with_advice_that_works() -> None:
    features, labels = made(Shape(50, 8))
    array: Any = features.toarray()
    with pytest.raises(DataError, match=r"got ndarray\. Give torch\.as_tensor\(features\)\.$"):
        fit(array, labels, BCE)
    assert fit(torch.as_tensor(array), labels, BCE).converged


@pytest.mark.parametrize(
    ("begins", "columns", "message"),
    [
        ([0, 2, 3], [0, 5, 1], "invalid|indices must be"),
        ([0, 2, 3], [0, -1, 1], "indices must be"),
        ([0, 3, 2], [0, 1, 1], "index pointer"),
        ([1, 2, 3], [0, 1, 1], "index pointer"),
        ([0, 2, 9], [0, 1, 1], "index pointer"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(begins: list[int], columns: list[int], message: str) -> None:
    features = csr(torch.tensor(begins), torch.tensor(columns), torch.ones(3), 3)
    with pytest.raises(DataError, match=r"^sparse `features` must have valid CSR arrays, got: .*") as caught:
        fit(features, torch.tensor([0, 1]), BCE)
    assert "scipy.sparse.csr_array((values, (rows, columns)), shape=(N, D))" in str(caught.value)


def test_complex_numbers_and_objects_are_refused() -> None:
    for matrix in (sparse.csr_array(np.eye(3) * 1j), sparse.csr_array(np.eye(3)).astype(np.complex64)):
        with pytest.raises(DataError, match=r"must be a matrix \(N, D\) of real numbers, got complex"):
            fit(matrix, torch.tensor([0, 1, 1]), BCE)
    with pytest.raises(DataError, match=r"must be a matrix \(N, D\) of real numbers"):
        fit((torch.eye(3) * 1j).to_sparse_csr(), torch.tensor([0, 1, 1]), BCE)
    with pytest.raises(DataError, match="must have one entry for each row of the features"):
        fit(sparse.csr_array(np.eye(3)), torch.tensor([0, 1]), BCE)


# Ways to solve


def test_few_rows_of_many_features_are_solved_in_their_span() -> None:
    features, labels = made(Shape(100, 400, 3))
    memory = MemoryRows(of_scipy(features), labels)
    assert is_wide(problem_of(memory, SOFTMAX, 3))
    tall, of_tall = made(Shape(500, 400, 3))
    assert not is_wide(problem_of(MemoryRows(of_scipy(tall), of_tall), SOFTMAX, 3))
    kinds: list[str] = []

    def watch(_: SolverState, one: Pass[object]) -> None:
        kinds.append(type(one).__name__)

    found = fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-6, watch=watch)
    assert found.converged
    assert kinds == ["ColumnMoments", "DualRows", "Evaluate"]


@pytest.mark.parametrize("outputs", [2, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_in_the_span_are_those_of_dense_rows(outputs: int, dtype: torch.dtype) -> None:
    features, labels = made(Shape(40, 100, outputs))
    dense, draw = dense_of(features), torch.Generator().manual_seed(0)
    center, scale = dense.mean(0), 1 + torch.rand(100, generator=draw, dtype=torch.float64)
    problem = problem_of(MemoryRows(of_scipy(features), labels), SOFTMAX, outputs, dtype=dtype)
    rows = row_space.DualRows(problem, Coordinates(center, scale))
    for part in (slice(0, 15), slice(15, None)):
        rows.add(Batch(of_scipy(features[part]), labels[part]))
    dual_coef = torch.randn(40, outputs, generator=draw, dtype=torch.float64)
    intercept = torch.randn(outputs, generator=draw, dtype=torch.float64)
    products, moved = sparse_rows._Products(rows, dtype), (dense - center) / scale
    rtol = 1e-4 if dtype == torch.float32 else 1e-12
    expected = moved.T @ dual_coef
    torch.testing.assert_close(products.combined(dual_coef.to(dtype)).double(), expected, rtol=rtol, atol=rtol)
    logits = products.logits(dual_coef.to(dtype), intercept.to(dtype)).double()
    torch.testing.assert_close(logits, moved @ expected + intercept, rtol=rtol, atol=100 * rtol)


def test_many_rows_and_outputs_are_not_solved_in_their_span(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(Shape(40, 100, 3))
    expected = fit(dense_of(features), labels, SOFTMAX, optimizer="newton", tolerance=1e-20, max_passes=400)
    monkeypatch.setattr("logreg.solvers.choose.MAX_COUPLED_OUTPUTS", 2)
    found = fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-20, max_passes=400)
    assert_same(found, expected)


@pytest.mark.parametrize("steps", [0, 2])
def test_other_methods_go_on_where_steps_in_the_span_do_not_suffice(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = made(Shape(40, 100, 3))
    monkeypatch.setattr(sparse_rows, "MAX_STEPS", steps)
    found = fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-8)
    assert found.converged
    assert found.passes > 3


def test_other_methods_go_on_where_the_end_in_the_span_is_not_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(Shape(100, 400, 3))
    expected = fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-6)

    def fails(*arguments: Any, **settings: Any) -> PassRequests[bool]:
        yield from certified(*arguments, **settings)
        return False

    monkeypatch.setattr(sparse_rows, "certified", fails)
    found = fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-6)
    assert expected.passes == 3 < found.passes
    assert found.converged
    assert abs(found.bound.value - expected.bound.value) <= 1e-6 * expected.bound.value


def test_the_gap_is_not_estimated_far_from_the_end_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(Shape(100, 400, 3))
    estimates: list[int] = []
    fits: list[Fit] = []
    estimate = sparse_rows._DualSteps._estimated_gap

    def counted(self: Any, now: Any) -> float:
        estimates[-1] += 1
        return estimate(self, now)

    monkeypatch.setattr(sparse_rows._DualSteps, "_estimated_gap", counted)
    for most in (math.inf, sparse_rows.MAX_CONTRACTION):
        monkeypatch.setattr(sparse_rows, "MAX_CONTRACTION", most)
        estimates.append(0)
        fits.append(fit(features, labels, SOFTMAX, optimizer="newton", tolerance=1e-6))
    assert estimates[1] < estimates[0] - 2
    assert torch.equal(fits[1].coef, fits[0].coef)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
def test_columns_that_are_not_held_are_selected_from_each_block(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(Shape(300, 60, classes))
    objective = Objective("bce" if classes == 2 else "cross_entropy", l1=0.01)
    expected = fit(features, labels, objective, optimizer="newton", tolerance=1e-11)
    monkeypatch.setattr(columns, "SMALL_HELD_NUMEL", 0)
    monkeypatch.setattr(columns, "MAX_PART_NUMEL", 100)
    found = fit(features, labels, objective, optimizer="newton", tolerance=1e-11)
    assert found.converged
    assert_same(found, expected, same=1e-7)


def test_blocks_have_about_the_non_zeros_that_they_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = made(Shape(300, 20))
    monkeypatch.setattr(row_blocks, "BLOCK_NONZEROS", 300)
    memory = MemoryRows(of_scipy(features), labels, labels.double())
    blocks = list(memory.blocks())
    assert 3 < len(blocks) < 10
    assert torch.equal(torch.cat([block.features.to_dense() for block in blocks]), dense_of(features))
    assert torch.equal(torch.cat([block.labels for block in blocks]), labels)
    assert blocks[0].features.values().data_ptr() == memory.features.values().data_ptr()
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 10)  # fewer than the features
    assert [len(block.labels) for block in MemoryRows(of_scipy(features), labels).blocks()] == [20] * 15


# Separation


def test_separation_is_found_in_sparse_rows() -> None:
    features, _ = made(Shape(200, 6))
    labels = torch.from_numpy((features.toarray()[:, 2] > 1.5).astype(np.int64))
    weights = torch.ones(200)
    weights[::3] = 0
    found = find_separation(of_scipy(features), labels, 2, "bce", weights)
    assert found == find_separation(dense_of(features), labels, 2, "bce", weights)
    assert (found.kind, found.columns) == ("complete", (2,))
    overlapping = torch.arange(200) % 2
    assert find_separation(of_scipy(features), overlapping, 2, "bce").kind == "none"


@pytest.mark.long
def test_of_very_many_sparse_features_single_ones_are_compared() -> None:
    features = sparse.random_array((50, 1_000_000), density=1e-5, rng=np.random.default_rng(0)).tocsr()
    found = find_separation(of_scipy(features), torch.arange(50) % 2, 2, "bce")
    assert found.kind == "quasi-complete"  # most features are in one row alone
    words = found.in_words([], ["no", "yes"])
    assert f"{len(found.columns)} features separate 'yes' from 'no' in some rows (quasi-complete separation)" in words


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_the_last_pass_of_few_sparse_rows_keeps_the_point(optimizer: str) -> None:
    draw = np.random.default_rng(0)
    features = sparse.random(400, 5000, density=0.01, random_state=0, format="csr", dtype=np.float32)
    labels = torch.from_numpy((features @ draw.normal(size=5000) > 0).astype(np.int64))
    objective = Objective("bce", l2=1e-3)
    full = fit(features, labels, objective, optimizer=optimizer)
    capped = fit(features, labels, objective, optimizer=optimizer, max_passes=full.passes)
    assert full.converged
    assert capped.converged
    assert torch.equal(capped.coef, full.coef)
