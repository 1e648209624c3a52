"""Products with tall matrices are plain products, in every shape, type and number of threads."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.solvers import kernels
from logreg.solvers.kernels import (
    SUM_ROWS,
    Array,
    add_lower_triangle,
    affine,
    coupled_gram,
    empty,
    gram_of_columns,
    sum_over_cold_rows,
    sum_over_rows,
    times_vector,
    total_over_rows,
    weighted_gram,
)


@pytest.mark.parametrize("outputs", [1, 3, 10, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (7, 2), (4097, 1), (4096, 2), (4097, 3)])
@pytest.mark.parametrize("width", [6, 200, 600])
def test_products_of_tall_matrices_are_plain_products(
    width: int,
    rows: int,
    threads: int,
    dtype: torch.dtype,
    outputs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)  # what the rows are split by
    draw = torch.Generator().manual_seed(4)
    features, residuals = torch.randn(rows, width, generator=draw), torch.randn(rows, outputs, generator=draw)
    coef, intercept = torch.randn(outputs, width, generator=draw), torch.randn(outputs, generator=draw)
    features, residuals, coef, intercept = (part.to(dtype) for part in (features, residuals, coef, intercept))
    exact = 1e-5 if dtype == torch.float32 else 1e-12
    assert_close = partial(torch.testing.assert_close, rtol=exact, atol=exact * math.sqrt(max(rows, width)))
    assert_close(affine(features, coef, intercept), features @ coef.T + intercept)
    assert_close(affine(features.T.contiguous().T, coef, intercept), features @ coef.T + intercept)
    assert_close(sum_over_rows(residuals, features), residuals.T @ features)
    assert_close(sum_over_rows(residuals.T.contiguous().T, features), residuals.T @ features)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("width", "order", "streamed"),
    [(63, "C", False), (64, "C", True), (1024, "C", True), (1025, "C", False), (64, "F", False)],
)
def test_rows_of_medium_length_are_multiplied_one_after_the_other(
    width: int, order: Literal["C", "F"], streamed: bool, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, streams = np.random.default_rng(0), Mock(wraps=np.vecdot)
    rows: Array = np.asarray(draw.standard_normal((50, width)), dtype, order)
    vector: Array = draw.standard_normal(width).astype(dtype)
    out: Array = np.empty(50, dtype)
    monkeypatch.setattr(np, "vecdot", streams)
    for some, expected in ((rows, out), (rows[::2], out[::2]), (rows[10:20], out[10:20])):
        assert times_vector(some, vector, out=expected) is expected
        np.testing.assert_allclose(expected, some.astype(np.float64) @ vector, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(times_vector(some, vector), expected)
    assert streams.called == streamed


def used_numpy(features: Tensor, coef: Tensor, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether NumPy computes the logits, which are right in any case."""
    calls: list[object] = []

    def counted(array: object) -> Tensor:
        calls.append(array)
        return torch.tensor(array)

    monkeypatch.setattr(torch, "from_numpy", counted)
    logits = affine(features, coef, torch.tensor([2.0]).to(coef))
    torch.testing.assert_close(logits.double(), features.double() @ coef.double().T + 2, rtol=1e-2, atol=1e-1)
    return bool(calls)


def test_numpy_multiplies_many_features_with_one_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    features, coef = torch.randn(500, 300, generator=draw), torch.randn(1, 300, generator=draw)
    assert used_numpy(features, coef, monkeypatch)
    assert used_numpy(features.double(), coef.double(), monkeypatch)
    assert used_numpy(features.T.contiguous().T, coef, monkeypatch)
    assert not used_numpy(features[:, :20], coef[:, :20], monkeypatch)
    assert not used_numpy(features.bfloat16(), coef.bfloat16(), monkeypatch)
    learned = coef.clone().requires_grad_()
    affine(features, learned, torch.zeros(1)).sum().backward()
    torch.testing.assert_close(learned.grad, features.sum(0, keepdim=True), rtol=1e-4, atol=1e-3)


def test_logits_of_several_outputs_lie_by_columns_unless_torch_records_them() -> None:
    features, coef = torch.ones(5, 9), torch.ones(3, 9)
    assert affine(features, coef, torch.ones(3)).stride() == (1, 5)
    for recorded in (coef.clone().requires_grad_(), torch.nn.Parameter(coef, requires_grad=False)):
        assert affine(features, recorded, torch.ones(3)).stride() == (3, 1)


@pytest.mark.parametrize("rows", [1, 128, 300])
def test_the_lower_triangle_of_a_gram_matrix_is_added(rows: int) -> None:
    some = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    square = torch.ones(rows, rows, dtype=torch.float64)
    add_lower_triangle(square, some)
    torch.testing.assert_close(square.tril(), (some @ some.T + 1).tril(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", [5, 150])  # within one strip of the triangle, and beyond
def test_a_weighted_gram_matrix_is_the_sum_of_its_terms(features: int) -> None:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(40, features, generator=draw, dtype=torch.float64)
    weights = torch.randn(40, 1, generator=draw, dtype=torch.float64)  # a loss that is not convex has negative ones
    torch.testing.assert_close(weighted_gram(x, weights), torch.einsum("ni,n,nj->ij", x, weights[:, 0], x))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("features", "outputs", "numbers"), [(3, 4, 1000), (60, 5, 1000), (60, 5, 2**19)])
def test_a_coupled_gram_matrix_is_the_sum_of_its_terms(
    features: int, outputs: int, numbers: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernels.MAX_OUTER_NUMBERS, "cpu", numbers)
    draw = torch.Generator().manual_seed(6)
    x = torch.randn(40, features, generator=draw, dtype=torch.float64)
    c = torch.randn(40, outputs, generator=draw, dtype=torch.float64).softmax(1)
    weights = torch.rand(40, 1, generator=draw, dtype=torch.float64) if weighted else None
    own = torch.diag_embed(c) - c.unsqueeze(2) * c.unsqueeze(1)
    own = own if weights is None else own * weights.unsqueeze(2)
    exact = torch.einsum("nkl,ni,nj->kilj", own, x, x).reshape(outputs * features, -1)
    torch.testing.assert_close(coupled_gram(x, c, weights), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gram_matrix_of_columns_is_the_plain_product(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    columns, weights = torch.randn(40, 300, generator=draw, dtype=dtype), torch.rand(300, generator=draw, dtype=dtype)
    before, which = columns.clone(), torch.tensor([3, 1, 20])
    torch.testing.assert_close(gram_of_columns(columns, weights), columns @ (columns * weights).T)
    some = columns[which]
    torch.testing.assert_close(gram_of_columns(columns, weights, which), some @ (some * weights).T)
    runs = columns.unflatten(1, (5, 60))[:, :, :20]  # a view, as of a sample of the rows
    flat = runs.flatten(1)
    of_rows = weights.unflatten(0, (5, 60))[:, :20]
    torch.testing.assert_close(gram_of_columns(runs, of_rows, which), flat[which] @ (flat[which] * of_rows.flatten()).T)
    assert torch.equal(columns, before)


def test_threads_that_share_a_gram_matrix_make_each_part_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MIN_SHARED_PRODUCTS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    draw = torch.Generator().manual_seed(0)
    columns, weights = torch.randn(2 * kernels.TRIANGLE_STRIP_COLUMNS + 40, 50, generator=draw), torch.ones(50)
    gram = gram_of_columns(columns, weights)
    torch.testing.assert_close(gram, columns @ columns.T)
    assert torch.equal(gram, gram.T)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_over_cold_rows_is_the_plain_product(dtype: torch.dtype, outputs: int) -> None:
    draw = torch.Generator().manual_seed(1)
    left, right = (torch.randn(70, columns, generator=draw, dtype=dtype) for columns in (outputs, 90))
    torch.testing.assert_close(sum_over_cold_rows(left, right), left.T @ right)
    torch.testing.assert_close(sum_over_cold_rows(left, right.T.contiguous().T), left.T @ right)


HUGE = 2.0**53
"""1 that is added to it is lost, so that a sum shows how many terms were added to it in sequence."""


def lost(total: Tensor, rows: int) -> float:
    """How many of ``rows`` - 1 ones were lost in sums that begin with `HUGE`."""
    return float((HUGE + (rows - 1) - total).max())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [5, 20, 90, 300])
@pytest.mark.parametrize("outputs", [1, 2, 10, 40])
def test_a_sum_over_rows_adds_few_terms_in_sequence(
    outputs: int, width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)  # what decides between libraries
    for rows in (SUM_ROWS, 3 * SUM_ROWS + 100, 32 * SUM_ROWS):
        left = torch.ones(rows, outputs, dtype=torch.float64)
        right = torch.ones(rows, width, dtype=torch.float64)
        right[0] = HUGE
        most = SUM_ROWS + rows // SUM_ROWS
        for some in (left, left.T.contiguous().T):
            assert lost(sum_over_rows(some, right), rows) <= most
        assert lost(sum_over_cold_rows(left[:, :1], right), rows) <= most
        assert lost(total_over_rows(right), rows) <= most


@pytest.mark.parametrize(("features", "outputs"), [(5, 3), (20, 3), (150, 2)])
def test_a_gram_matrix_adds_few_terms_in_sequence(features: int, outputs: int) -> None:
    rows = 20 * SUM_ROWS
    x, weights = torch.ones(rows, features, dtype=torch.float64), torch.ones(rows, 1, dtype=torch.float64)
    x[0] = HUGE**0.5
    assert lost(weighted_gram(x, weights), rows) <= SUM_ROWS + 20
    single = 2.0**24 / HUGE  # of float32
    of_float32 = weighted_gram(torch.cat([x[:1] * single**0.5, x[1:]]).float(), weights.float())
    assert float((HUGE * single + rows - 1 - of_float32.double()).max()) <= SUM_ROWS + 20
    # Of a softmax the blocks of two outputs have a sum of one sign.
    halves = torch.full((rows, outputs), 1 / 2, dtype=torch.float64)
    gram = coupled_gram(x, halves, None).view(outputs, features, outputs, features)
    assert lost(-4 * gram[0, :, 1], rows) <= SUM_ROWS + 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_over_cold_rows_adds_few_terms_in_sequence(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # more threads leave the sum to the BLAS
    left, right = torch.ones(10 * SUM_ROWS, 1, dtype=dtype), torch.ones(10 * SUM_ROWS, 90, dtype=dtype)
    right[0] = 2 / torch.finfo(dtype).eps  # 1 that is added to it is lost
    missing = right.double().sum(0) - sum_over_cold_rows(left, right)[0].double()
    assert float(missing.max()) <= SUM_ROWS


def test_empty_memory_has_the_type_of_another_tensor() -> None:
    for dtype in (torch.float32, torch.float64):
        memory = empty(torch.zeros(3, 2, dtype=dtype), 4, 5)
        assert memory.shape == (4, 5)
        assert memory.dtype == dtype
