"""Parquet files are read in batches, and give the tables of Arrow's reader of whole files."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logreg.data.arrow_numbers import plain_values
from logreg.data.formats.tables import read_table

ROWS = 1000

COLUMNS: dict[str, Any] = {
    "float": pa.array(np.arange(ROWS) / 7, pa.float32()),
    "half": pa.array((np.arange(ROWS) / 8).astype(np.float16)),
    "double with gaps": pa.array([None if row % 5 == 2 else row / 3 for row in range(ROWS)]),
    "integer": pa.array(range(ROWS), pa.uint8() if ROWS < 256 else pa.int16()),
    "large": pa.array([2**64 - 1 - row for row in range(ROWS)], pa.uint64()),
    "integer with late gaps": pa.array([None if row > 700 else row for row in range(ROWS)]),
    "text": pa.array([f"w{row % 9}" for row in range(ROWS)]),
    "category": pa.array([f"w{row % 9}" for row in range(ROWS)]).dictionary_encode(),
    "category of numbers": pa.array([row % 9 for row in range(ROWS)]).dictionary_encode(),
    "boolean": pa.array([row % 2 == 0 for row in range(ROWS)]),
    "decimal": pa.array([Decimal(row) / 4 for row in range(ROWS)], pa.decimal128(9, 2)),
    "date": pa.array([date(2020, 1, row % 28 + 1) for row in range(ROWS)]),
    "list": pa.array([[row, 1] for row in range(ROWS)]),
    "empty": pa.nulls(ROWS),
}


@pytest.mark.parametrize("group_rows", [ROWS, 300])
def test_each_type_is_read_as_by_the_reader_of_whole_files(
    group_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logreg.data.formats.binary_tables.TABLE_BATCH_ROWS", 90)
    monkeypatch.setattr("logreg.data.formats.binary_tables.BATCH_NUMBERS", 1000)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(COLUMNS), path, row_group_size=group_rows)
    names = [*COLUMNS][::-1]
    found, expected = read_table(str(path), "k", names), pq.read_table(path).select(names)
    assert found.column_names == names
    for name in names:
        ours, theirs = found.column(name), plain_values(expected.column(name))
        assert ours.type == theirs.type, name
        if pa.types.is_floating(ours.type):
            assert ours.num_chunks == 1
            np.testing.assert_array_equal(ours.to_numpy(), theirs.to_numpy(), name)
        else:
            assert ours.to_pylist() == theirs.to_pylist(), name


def test_a_column_of_numbers_is_one_array(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(COLUMNS), path, row_group_size=90)
    table = read_table(str(path), "k", ["float", "double with gaps", "integer"])
    for column in table.columns:
        assert np.shares_memory(column.to_numpy(), column.to_numpy())
