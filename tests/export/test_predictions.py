"""Files of predictions: their rows, and the parts of Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from logreg.export.predictions import open_writer


@pytest.mark.long
def test_parquet_has_row_groups_of_many_rows_and_no_dictionary_of_probabilities(tmp_path: Path) -> None:
    names = [f"c{place}" for place in range(1000)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(1000), size=5000)
    labels = probabilities.argmax(1)
    with open_writer(str(tmp_path / "p.parquet"), names, ()) as writer:
        for start in range(0, 5000, 100):
            writer.write({}, labels[start : start + 100], probabilities[start : start + 100])
    with pyarrow.parquet.ParquetFile(tmp_path / "p.parquet") as file:
        found, metadata = file.read(), file.metadata
    assert found["predicted"].to_pylist() == [names[label] for label in labels]
    assert np.array_equal(np.stack([found[name].to_numpy() for name in names], axis=1), probabilities)
    assert [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)] == [4200, 800]
    assert not metadata.row_group(0).column(1).has_dictionary_page
