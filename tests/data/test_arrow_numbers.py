"""Arrays of Arrow as arrays of NumPy: against the conversions of pyarrow, which import pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from logreg.data.arrow_numbers import array_of, numbers, text_array

ARRAYS: dict[str, Any] = {
    "doubles": pa.array([1.5, -0.0, np.inf]),
    "a missing double": pa.array([1.5, None, np.nan]),
    "halves": pa.array(np.array([1.5, 2.5], np.float16)),
    "a part": pa.array([1.0, None, 3.0, None, 5.0] * 5)[3:17],
    "bytes": pa.array([1, 2, 255], pa.uint8()),
    "chunks": pa.chunked_array([pa.array([1.5]), pa.array([], pa.float64()), pa.array([None, 3.5])]),
    "no chunks": pa.chunked_array([], pa.int16()),
    "nothing": pa.array([], pa.int64()),
    "all missing": pa.nulls(9, pa.float32()),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_numbers_are_those_of_pyarrow(name: str) -> None:
    array = ARRAYS[name]
    found, expected = numbers(array), array.to_numpy(zero_copy_only=False) if len(array) else np.empty(0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == array.type.to_pandas_dtype()


def test_missing_integers_take_the_number_given() -> None:
    assert numbers(pa.array([None, 7, None, 9])[1:], missing=5).tolist() == [7, 5, 9]
    assert numbers(pa.chunked_array([[1, None], [2]]), missing=-1).tolist() == [1, -1, 2]


def test_arrays_are_shared_and_not_copied() -> None:
    values = np.arange(6.0)[2:]
    array = array_of(values)
    assert array.type == pa.float64()
    assert array.to_pylist() == [2, 3, 4, 5]
    assert np.shares_memory(numbers(array), values)
    assert array_of(np.zeros(2, np.float16), pa.float16()).type == pa.float16()


def test_texts_are_those_of_pyarrow() -> None:
    assert text_array(["a", "", "ä"]).equals(pa.array(["a", "", "ä"]))
