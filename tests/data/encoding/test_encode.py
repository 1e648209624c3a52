"""Columns become a dense matrix or sparse rows, whichever is better, with the same values."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from logreg.csr import as_scipy, is_sparse
from logreg.data.arrow_numbers import array_of
from logreg.data.encoding import encode as module
from logreg.data.encoding.columns import read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.learning import learn_encoding, learn_stored_form
from logreg.data.memory import mapped_array, release

ROWS = 40_003
"""More than a block of rows."""


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices are sparse as well."""
    monkeypatch.setattr(module, "SMALL_BYTES", 0)


def mixed_table() -> pa.Table:
    """Numbers and levels, with and without missing values, and levels that only the second half has."""
    draw = np.random.default_rng(0)
    rare = np.where(np.arange(ROWS) < ROWS // 2, draw.integers(0, 3, ROWS), draw.integers(0, 9, ROWS))
    return pa.table(
        {
            "number": pa.array(draw.normal(1e6, 1, ROWS)),
            "gaps": pa.array(np.where(draw.random(ROWS) < 0.2, np.nan, draw.integers(0, 3, ROWS))),
            "level": pa.array([f"l{code}" for code in draw.integers(0, 60, ROWS)]),
            "level gaps": pa.array([None if code < 9 else f"l{code}" for code in draw.integers(0, 90, ROWS)]),
            "rare": pa.array([f"r{code}" for code in rare]),
        }
    )


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("free", [False, True])
def test_sparse_rows_have_the_values_of_the_dense_matrix(
    dtype: torch.dtype, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Tensor, dict[str, Any]]] = []
    monkeypatch.setattr(module, "DENSE_SPEED", 1)
    for small in (0, 2**40):
        monkeypatch.setattr(module, "SMALL_BYTES", small)
        columns = read_columns(mixed_table())
        encoding, _ = learn_encoding(columns, torch.arange(ROWS // 2))
        stored, _, _ = learn_stored_form(columns, encoding, None, None, shifts=True)
        found.append(encode(columns, encoding, dtype, stored, free=free))
    (sparse, unseen), (dense, expected_unseen) = found
    assert is_sparse(sparse)
    assert not is_sparse(dense)
    assert torch.equal(sparse.to_dense(), dense)
    assert list(unseen) == list(expected_unseen) == ["rare"]
    assert torch.equal(unseen["rare"], expected_unseen["rare"])
    matrix = as_scipy(sparse)
    assert matrix.has_canonical_format
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    matrix.check_format(full_check=True)
    is_number = np.isin(matrix.indices, [0, 1])  # numbers that are 0 have an entry, so that they may be shifted later
    assert (matrix.data[~is_number] == 1).all()
    assert (np.bincount(matrix.indices)[:2] == ROWS).all()


def test_numbers_whose_sum_is_beyond_their_type_are_encoded_without_a_warning() -> None:
    given = np.tile(np.array([1e38, 2e38], np.float32), 100)
    columns = read_columns(pa.table({"whole": given, "gaps": pa.array(given, mask=given > 1.5e38)}))
    encoding, _ = learn_encoding(columns, None)
    found, _ = encode(columns, encoding, torch.float32)
    assert found[:2].tolist() == [[given[0], 0], [given[1], 1]]  # the gaps are in a constant column


@pytest.mark.usefixtures("any_size")
def test_rows_are_sparse_where_that_takes_an_eighth_of_the_bytes() -> None:
    draw = np.random.default_rng(0)

    def is_encoded_sparse(levels: int, numbers: int) -> bool:
        codes = {"level": [f"l{code % levels}" for code in range(200)]}
        columns = read_columns(pa.table(codes | {f"x{place}": draw.normal(size=200) for place in range(numbers)}))
        encoding, _ = learn_encoding(columns, None)
        return is_sparse(encode(columns, encoding, torch.float32)[0])

    # A row of float32 takes 4 (levels + numbers) bytes, and sparse 8 (1 + numbers) + 4.
    assert not is_encoded_sparse(levels=24, numbers=0)
    assert is_encoded_sparse(levels=25, numbers=0)
    assert not is_encoded_sparse(levels=53, numbers=3)
    assert not is_encoded_sparse(levels=69, numbers=3)
    assert is_encoded_sparse(levels=70, numbers=3)


def test_a_small_matrix_and_numbers_alone_are_dense() -> None:
    levels = pa.table({"level": [f"l{code % 50}" for code in range(500)]})
    numbers = pa.table({f"x{place}": np.arange(100_000) % (2 + place) == 0 for place in range(50)})
    for table in (levels, pa.table({name: numbers[name].cast(pa.int8()) for name in numbers.column_names})):
        columns = read_columns(table)
        encoding, _ = learn_encoding(columns, None)
        assert not is_sparse(encode(columns, encoding, torch.float32)[0])


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system takes back whole arrays only")
@pytest.mark.parametrize(("free", "temporary"), [(False, True), (True, True), (True, False)])
def test_numbers_are_freed_while_the_matrix_is_filled(free: bool, temporary: bool) -> None:
    """The pages of a number's column are zeros again, which only those are that the system has taken back."""
    rows = 3 * module.ENCODED_ROWS
    given = mapped_array(rows, np.float32)
    given[:] = 1 + np.arange(rows) % 7
    expected = given.copy()
    columns = read_columns(pa.table({"x": array_of(given)}), is_temporary=temporary)
    encoding, _ = learn_encoding(columns, None)
    features, _ = encode(columns, encoding, torch.float32, free=free)
    np.testing.assert_array_equal(features[:, 0].numpy(), expected)
    np.testing.assert_array_equal(given, np.zeros(rows) if free and temporary else expected)


def test_only_whole_pages_of_arrays_of_their_own_are_given_back() -> None:
    own, other = mapped_array(2**18, np.int8), np.ones(2**18, np.int8)
    own[:] = 1
    release(own, slice(100, 2**14 + 100))
    release(other, slice(0, 2**18))
    assert other.all()
    assert own[:100].all()
    assert own[2**14 + 100 :].all()
