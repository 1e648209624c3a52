"""The installed version of Arrow raises the messages that `arrow_errors` recognizes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv
import pytest

from logreg.data.formats import arrow_errors
from logreg.data.formats.arrow_errors import RaggedLine, Unconverted

NUMBERS = pyarrow.csv.ConvertOptions(column_types={"a": pa.float64()})

TEXT = pyarrow.csv.ConvertOptions(column_types={"a": pa.string(), "b": pa.string()})


def error_of(content: bytes, threads: bool, block_size: int | None = None, convert: object = None) -> Exception:
    """The exception of Arrow's CSV reader for a file."""
    options = pyarrow.csv.ReadOptions(use_threads=threads, block_size=block_size)
    with pytest.raises(pa.ArrowException) as caught:
        pyarrow.csv.read_csv(io.BytesIO(content), options, convert_options=convert)
    error: Exception = caught.value
    return error


CONTENTS: dict[str, tuple[bytes, int | None, pyarrow.csv.ConvertOptions | None]] = {
    # name: content, block size in bytes, conversion
    "ragged": (b"a,b\n1,2\n3\n", None, None),
    "not UTF-8": (b"a,b\n1,\xe9\n2,x\n", None, TEXT),
    "not a number": (b"a,b\n1,x\n?,y\n", None, NUMBERS),
    "only a header": (b"a,b", None, None),
    "empty": (b"", None, None),
    "a long line": (b"a,b\n1,2\n" + b"x" * 500 + b",3\n1,2\n", 100, None),
    "a long header": (b"a," + b"x" * 500 + b"\n1,2\n", 100, None),
}

RECOGNIZED: dict[str, tuple[Callable[[Exception], object], set[str]]] = {
    # function of arrow_errors, and the contents whose error it recognizes
    "is_ragged": (arrow_errors.is_ragged, {"ragged"}),
    "invalid_utf8_column": (arrow_errors.invalid_utf8_column, {"not UTF-8"}),
    "is_not_utf8": (lambda error: arrow_errors.is_not_utf8(error, "t.csv"), {"not UTF-8"}),
    "invalid_number": (arrow_errors.invalid_number, {"not a number"}),
    "is_empty": (arrow_errors.is_empty, {"empty", "a long header", "only a header"}),
    "is_longer_than_block": (
        arrow_errors.is_longer_than_block,
        {"a long line", "a long header", "only a header"},
    ),
    "is_straddling": (arrow_errors.is_straddling, {"a long line"}),
    "is_only_header": (arrow_errors.is_only_header, {"a long header", "only a header"}),
}


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", RECOGNIZED)
def test_each_message_of_arrow_is_recognized_and_no_other(name: str, content: str, threads: bool) -> None:
    recognize, recognized = RECOGNIZED[name]
    data, block_size, convert = CONTENTS[content]
    error = error_of(data, threads, block_size, convert)
    assert (recognize(error) not in (None, False)) == (content in recognized), error


def test_a_ragged_line_has_its_number_without_threads_only() -> None:
    content = CONTENTS["ragged"][0]
    assert arrow_errors.ragged_line(error_of(content, threads=False)) == RaggedLine(3, 2, 1, "3")
    assert arrow_errors.ragged_line(error_of(content, threads=True)) is None


@pytest.mark.parametrize("threads", [True, False])
def test_the_column_and_the_value_are_found(threads: bool) -> None:
    content, _, convert = CONTENTS["not UTF-8"]
    assert arrow_errors.invalid_utf8_column(error_of(content, threads, convert=convert)) == 1
    content, _, convert = CONTENTS["not a number"]
    assert arrow_errors.invalid_number(error_of(content, threads, convert=convert)) == Unconverted(0, "double", "?")
    whole = pyarrow.csv.ConvertOptions(column_types={"b": pa.int64()})
    error = error_of(b"a,b\n1,2\n3,4.5\n", threads, convert=whole)
    assert arrow_errors.unconverted(error) == Unconverted(1, "int64", "4.5")
    assert arrow_errors.invalid_number(error) is None


def test_the_reason_is_one_line_without_the_file() -> None:
    error = OSError("Failed to open\n local file 'UTF-8.csv'.")
    assert arrow_errors.reason_of(error, "UTF-8.csv") == "Failed to open local file"
    assert not arrow_errors.is_not_utf8(error, "UTF-8.csv")  # the name of a file is no reason
    assert arrow_errors.is_not_utf8(UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte"), "t.csv")
    assert arrow_errors.reason_of(MemoryError(), "t.csv") == "MemoryError"
