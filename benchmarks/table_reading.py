"""Times the way from a table on the disk to splits that are ready to train on: 1,000,000 rows of 30 columns.

Ours reads, splits and encodes.  It is compared with pyarrow alone: to one matrix where all columns are numbers, to one
NumPy array a column (nothing encoded) where ten columns are text and booleans.  Both are timed for Parquet and CSV.
The ratio is the cost of everything that pyarrow alone does not do.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common import (
    Target,
    alternate,
    new_parser,
    positive,
    print_ratios,
    print_versions,
    silence_lightning,
    timed,
)

COLUMNS = 30

TARGETS = {".parquet": Target(1.5), ".csv": Target(1.2)}


def main(typed: Sequence[str] | None = None) -> int:
    """Prints four tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="rows (default: 1000000)")
    arguments = parser.parse_args(typed)
    print_versions()
    silence_lightning()
    references = {"numbers": read_matrix, "numbers, text and booleans": read_columns}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, read in references.items():
            for suffix, target in TARGETS.items():
                path = Path(scratch, f"table{suffix}")
                write_table(path, arguments.rows, with_text=read is read_columns)
                reference = f"pyarrow to {'a matrix' if read is read_matrix else 'NumPy arrays'}"
                arms = {
                    "ours": partial(timed, partial(set_up, path)),
                    reference: partial(timed, partial(read, path)),
                }
                seconds = alternate(arms, arguments.repeats)
                path.unlink()
                title = (
                    f"table_reading: seconds to read, split and encode {suffix}, "
                    f"{arguments.rows:,} x {COLUMNS} ({kind})"
                )
                print_ratios(title, seconds, {reference: target})
    return 0


def write_table(path: Path, rows: int, with_text: bool) -> None:
    """Writes a table from a seed: numbers and a target; optionally with text and booleans in ten columns."""
    draw = np.random.default_rng(0)
    columns: dict[str, object] = {}
    for number in range(COLUMNS - 1):
        if with_text and number % 4 == 1:
            words = np.array([f"level {level}" for level in range(2 + number // 2)])
            columns[f"text{number}"] = words[draw.integers(0, len(words), rows)]
        elif with_text and number % 8 == 2:
            columns[f"flag{number}"] = draw.random(rows) < 0.3
        else:
            columns[f"number{number}"] = draw.standard_normal(rows).round(6)
    columns["target"] = draw.integers(0, 2, rows)
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    write(pa.table(columns), str(path))


def set_up(path: Path) -> None:
    """Ours: from a file to splits that are ready to train on."""
    from logreg.data import TensorDataModule, build_dataset

    table = build_dataset("table", {"path": str(path), "target": "target"})
    TensorDataModule(table, split={"val": 0.2, "test": 0.2}).setup()


def read_table(path: Path) -> pa.Table:
    """The file as pyarrow reads it with its defaults."""
    return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)


def read_matrix(path: Path) -> None:
    """The reference for numbers: one matrix that includes the target."""
    np.column_stack([column.to_numpy() for column in read_table(path).columns])


def read_columns(path: Path) -> None:
    """The reference for text: one array a column, without encoding."""
    for column in read_table(path).columns:
        column.to_numpy()


if __name__ == "__main__":
    sys.exit(main())
