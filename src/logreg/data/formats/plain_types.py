"""Casts columns to the plainest types of Arrow: text, numbers, booleans, dictionaries of them."""

from __future__ import annotations

from typing import Any

import numpy as np


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
