"""Arrays of Arrow as arrays of NumPy: against the conversions of pyarrow, which import pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from logreg.data.arrow_numbers import array_of, numbers, text_array, types_in_words

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


TYPES = {
    "text": [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    "numbers": [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2)],
    "true and false": [pa.bool_()],
    "dates": [pa.date32(), pa.date64()],
    "timestamps": [pa.timestamp("ns"), pa.timestamp("us", "UTC")],
    "times of day": [pa.time32("s"), pa.time64("ns")],
    "durations": [pa.duration("s"), pa.month_day_nano_interval()],
    "lists": [pa.list_(pa.date32()), pa.large_list(pa.string()), pa.list_(pa.int8(), 2), pa.list_view(pa.int8())],
    "structs": [pa.struct({"a": pa.int8()})],
    "maps": [pa.map_(pa.string(), pa.int8())],
    "bytes": [pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()],
    "categories": [pa.dictionary(pa.int32(), pa.int64())],
    "no values": [pa.null()],
}


@pytest.mark.parametrize("words", TYPES)
def test_types_of_arrow_are_said_in_words(words: str) -> None:
    for kind in TYPES[words]:
        assert types_in_words(kind) == types_in_words(str(kind)) == [words]


def test_types_keep_their_names_where_all_have_the_same_words() -> None:
    assert types_in_words(pa.date32(), pa.string()) == ["dates", "text"]
    assert types_in_words(pa.timestamp("s"), pa.timestamp("ns")) == ["timestamp[s]", "timestamp[ns]"]
    assert types_in_words(pa.int64(), pa.int32(), pa.string()) == ["numbers", "numbers", "text"]
    assert types_in_words(pa.run_end_encoded(pa.int16(), pa.int8())) == [
        "run_end_encoded<run_ends: int16, values: int8>"
    ]
