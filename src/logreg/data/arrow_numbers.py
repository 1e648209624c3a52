"""Arrays of Arrow as arrays of NumPy and back, without copies, and the types that texts look like.

The conversions of pyarrow itself import pandas, where it is installed, which takes longer than to read a small table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A finite number in a text file."""

TYPE_WORDS = {
    "(dictionary<values=)?(large_)?string": "text",
    "u?int[0-9]|halffloat|float|double|decimal": "numbers",
    "bool": "true and false",
    "date[0-9]": "dates",
    "timestamp": "timestamps",
    "time[0-9]": "times of day",
    "duration|month_day_nano_interval": "durations",
    "(large_|fixed_size_)?list": "lists",
    "struct": "structs",
    "map": "maps",
    "(large_|fixed_size_)?binary": "bytes",
    "dictionary": "categories",
    "null": "no values",
}
"""What a column holds, by the beginning of Arrow's name of its type."""


def numbers(array: Any, missing: float | None = None) -> np.ndarray[Any, Any]:
    """The numbers of an Arrow array, chunked or not, shape (N,); a view where it has one chunk and no missing values.

    Args:
        array: Integers or floats.
        missing: The number that stands for missing ones; ``None``: nan, and there are none among integers.
    """
    import pyarrow as pa

    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    dtype = array.type.to_pandas_dtype()
    parts = [_chunk_numbers(chunk, dtype, np.nan if missing is None else missing) for chunk in chunks if len(chunk)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, dtype)])


def _chunk_numbers(chunk: Any, dtype: Any, missing: float) -> np.ndarray[Any, Any]:
    _, data = chunk.buffers()
    whole = slice(chunk.offset, chunk.offset + len(chunk))
    values = np.frombuffer(data, dtype, whole.stop)[whole]
    return np.where(is_there(chunk), values, np.asarray(missing, dtype)) if chunk.null_count else values


def is_there(chunk: pa.Array) -> np.ndarray[Any, Any]:
    """Whether each value of an Arrow array is not missing, shape (N,), boolean."""
    if not chunk.null_count:
        return np.ones(len(chunk), np.bool_)
    bits = np.unpackbits(np.frombuffer(chunk.buffers()[0], np.uint8), bitorder="little")
    return bits[chunk.offset : chunk.offset + len(chunk)].view(np.bool_)


def array_of(
    values: np.ndarray[Any, Any], kind: pa.DataType | None = None, there: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    """Numbers (N,), contiguous, as an Arrow array.

    Args:
        values: The numbers.
        kind: Its type; that of NumPy when ``None``.
        there: Whether each value is not missing, shape (N,), boolean; ``None`` where none is.
    """
    import pyarrow as pa

    kind = pa.from_numpy_dtype(values.dtype) if kind is None else kind
    validity = None if there is None else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])


def plain_values(column: Any) -> Any:
    """Casts a column to the plainest Arrow type with the same values: text, numbers, booleans, dictionaries of them.

    Args:
        column: A pyarrow array, chunked or not.

    Returns:
        The same values; the column itself where its type is plain already, or where no plain type exists.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_dictionary(kind) and kinds.is_string_view(kind.value_type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        texts = [pa.DictionaryArray.from_arrays(part.indices, pc.cast(part.dictionary, pa.string())) for part in chunks]
        return pa.chunked_array(texts, pa.dictionary(kind.index_type, pa.string()))
    if kinds.is_run_end_encoded(kind) and not kinds.is_nested(kind.value_type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        plain_type = plain_values(pa.array([], kind.value_type)).type
        return pa.chunked_array([_decoded_runs(chunk) for chunk in chunks], plain_type)
    if kinds.is_string_view(kind) or isinstance(kind, pa.JsonType):
        return pc.cast(column, pa.string())
    if isinstance(kind, pa.Bool8Type):
        return pc.cast(column, pa.bool_())
    if kinds.is_decimal32(kind) or kinds.is_decimal64(kind):
        return pc.cast(column, pa.decimal128(kind.precision, kind.scale))
    return column


def _decoded_runs(runs: Any) -> Any:
    """Decodes a run-end encoded array of any type.

    Arrow decodes runs of few types, but always those of numbers; so the positions of the values are decoded.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    places = pa.RunEndEncodedArray.from_arrays(runs.run_ends, pa.array(np.arange(len(runs.values))))
    values = plain_values(runs.values)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.take(pc.run_end_decode(places.slice(runs.offset, len(runs))))


def inferred(texts: pa.Array, decimal: str = ".") -> pa.ChunkedArray:
    """Texts in the type that Arrow's CSV reader infers from them: numbers, booleans, dates and times, or text.

    ``decimal`` is the character before the decimals of a number.
    """
    import pyarrow as pa
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table({"text": texts}), sink)
    buffer = sink.getvalue()
    return pyarrow.csv.read_csv(
        pa.BufferReader(buffer),
        pyarrow.csv.ReadOptions(block_size=max(buffer.size, 1)),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(decimal_point=decimal),
    ).column(0)


def types_in_words(*kinds: pa.DataType | str) -> list[str]:
    """What columns of these types hold, such as "dates", for a reader who does not know Arrow.

    Args:
        kinds: Types, or Arrow's names of them.  Its own names are returned where the words are all the same, although
            the types are not.
    """
    names = [str(kind) for kind in kinds]
    words = [next((word for start, word in TYPE_WORDS.items() if re.match(start, name)), name) for name in names]
    return names if len(set(words)) == 1 < len(set(names)) else words


def text_array(texts: Sequence[str]) -> pa.Array:
    """Texts as an Arrow array."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    builder.append_values(list(texts))
    return builder.finish()


def is_number(text: str, decimal: str = ".") -> bool:
    """Whether a cell of a text file is a number, with ``decimal`` before the decimals."""
    if decimal != ".":
        text = text.replace(".", "dot").replace(decimal, ".")
    return NUMBER.fullmatch(text.strip()) is not None or text.strip().lower() in ("nan", "inf", "-inf", "+inf")


def is_any_number(text: str) -> bool:
    """Whether a cell of a text file is a number, with a dot or a comma before the decimals."""
    return any(is_number(text, decimal) for decimal in ".,")


def or_other_decimal(advice: str, words: Sequence[str], decimal: str, key: str) -> str:
    """The advice, after that to set the other decimal mark where this makes numbers of all words.

    Args:
        advice: What to do else, one sentence.
        words: Words in the place of numbers.
        decimal: Character before the decimals.
        key: The key that sets it.
    """
    other = "," if decimal == "." else "."
    if words and all(is_number(word, other) for word in words):
        return f"Set {key}={other} if all columns have it before the decimals. Else {advice[0].lower()}{advice[1:]}"
    return advice
