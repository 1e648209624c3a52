"""The memory that a table takes above that of its numbers, in a process of its own."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from logreg.data import memory
from logreg.data.memory import file_array

ROWS, COLUMNS = 600_000, 20

MEASURED = """
import json, os, sys
import pyarrow.compute, pyarrow.csv, pyarrow.parquet
import torch
from logreg.data.datamodule import TensorDataModule
from logreg.data.sources.table import TableFile
from logreg.evaluation.held_out import evaluate
from logreg.evaluation.predicted import Predicted

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

def measure(path):
    before = peak()
    data = TensorDataModule(TableFile(path=path, target="y"), split={"val": None, "test": None})
    data.setup()
    found = {"read": peak() - before, "pandas": "pandas" in sys.modules}
    if path == sys.argv[1]:  # scores do not depend on the format
        score(data)
        found |= {"evaluate": peak() - before, "pandas": "pandas" in sys.modules}
    print(json.dumps(found), flush=True)

def score(data):
    labels = data.labels("test")
    positive = torch.rand(len(labels), dtype=torch.float64)
    predicted = Predicted(torch.stack([1 - positive, positive], 1), labels)
    evaluate(predicted, data.facts.class_names, data.facts.class_rates)

for path in sys.argv[1:]:
    if not (child := os.fork()):  # which has a peak of its own
        measure(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.long
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
    assert [*map(len, of_files)] == [3, 2]
    for found in of_files:
        assert not found.pop("pandas")
        assert all(peak < 3.2 * of_columns for peak in found.values()), answer.stdout


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="only Linux takes back parts of an array")
@pytest.mark.parametrize("in_file", [False, True])
def test_released_rows_become_zeros_and_take_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    files = []

    def opened(path: Path, *arguments: Any) -> Any:
        array = file_array(path, *arguments)
        files.append(os.open(path, os.O_RDONLY))
        return array

    monkeypatch.setattr(memory, "file_array", opened)
    array = (memory.scratch_in(tmp_path) if in_file else memory.mapped_array)((2**18, 2), np.float32)
    array[:] = 1
    begun = mmap.PAGESIZE // array.strides[0]  # the first page has a row that stays
    memory.release(array, slice(1, 2**17))
    assert (array[:begun] == 1).all()
    assert not array[begun : 2**17].any()
    assert (array[2**17 :] == 1).all()
    for file in files:
        assert os.fstat(file).st_blocks * 512 < 0.6 * array.nbytes  # about half; file systems round it differently
        os.close(file)
    assert len(files) == in_file
    others = np.ones((2**18, 2), np.float32)
    memory.release(others, slice(0, 2**17))
    assert (others == 1).all()
