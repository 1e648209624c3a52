"""The memory that a table takes above that of its numbers, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

ROWS, COLUMNS = 600_000, 20

MEASURED = """
import json, os, sys
import pyarrow.compute, pyarrow.csv, pyarrow.parquet
import torch
from logreg.data.datamodule import TensorDataModule
from logreg.data.sources.table import TableFile
from logreg.evaluation.held_out import Predicted, evaluate

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

def measure(path):
    before = peak()
    data = TensorDataModule(TableFile(path=path, target="y"), split={"val": None, "test": None})
    data.setup()
    read = peak() - before
    labels = data.labels("test")
    positive = torch.rand(len(labels), dtype=torch.float64)
    predicted = Predicted(torch.stack([1 - positive, positive], 1), labels)
    evaluate(predicted, data.facts.class_names, data.facts.class_rates)
    print(json.dumps({"read": read, "evaluate": peak() - before, "pandas": "pandas" in sys.modules}), flush=True)

for path in sys.argv[1:]:
    if not (child := os.fork()):  # which has a peak of its own
        measure(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_reading_and_scoring_take_little_more_memory_than_the_columns_and_no_pandas(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(ROWS, COLUMNS)).round(5)
    table = pa.table({**{f"x{k}": features[:, k] for k in range(COLUMNS)}, "y": draw.integers(2, size=ROWS)})
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    pq.write_table(table, tmp_path / "t.parquet")
    of_columns = features.nbytes / 2**20  # 92 MiB; the matrix of float32 has half, and is made while they are freed
    command = [sys.executable, "-c", MEASURED, "t.csv", "t.parquet"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # Besides the columns: labels, row numbers and the split, blocks of the file for each thread, and the code of Arrow.
    # With all rows in Arrow's memory, or probabilities of all bootstrap samples, it was 5 to 20 times.
    of_files = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(of_files) == 2
    for found in of_files:
        assert found["read"] < 3.2 * of_columns, answer.stdout
        assert found["evaluate"] < 3.2 * of_columns, answer.stdout
        assert not found["pandas"]
