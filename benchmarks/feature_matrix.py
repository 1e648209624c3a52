"""Takes the time and the peak memory of a run of one epoch on a large feature matrix: 1,000,000 x 768 in float16.

The run is a whole process of scripts/train.py, once for each of the formats .npy, .npz, .safetensors and .parquet.  The
matrix occupies 1.4 GiB on the disk; the target is 8 GiB of peak memory.  There is no reference.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from safetensors.numpy import save_file

from common import SCRIPTS, met, new_parser, positive, print_row, print_versions, process_use

MOST_GIB = 8
"""Target for the peak memory at the default size."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="rows (default: 1000000)")
    parser.add_argument("--width", type=positive, default=768, metavar="N", help="features (default: 768)")
    arguments = parser.parse_args(typed)
    print_versions()
    print(f"\nfeature_matrix: one epoch on {arguments.rows:,} x {arguments.width} in float16, as a whole process")
    print_row("", "seconds", "peak GiB", "", "", "target")
    with tempfile.TemporaryDirectory() as folder:
        matrix, labels = make_matrix(Path(folder), arguments.rows, arguments.width)
        for suffix, write in WRITERS.items():
            path = Path(folder, f"matrix{suffix}")
            write(path, matrix, labels)
            named = str(path) if path.exists() else f"[{folder}/features.npy,{folder}/labels.npy]"
            run = ["dataset=features", f"dataset.path={named}", "max_epochs=1", "accelerator=cpu"]
            seconds, _, peak = process_use([str(SCRIPTS / "train.py"), *run])
            path.unlink(missing_ok=True)
            print_row(suffix, f"{seconds:.1f}", f"{peak:.2f}", "", "", f"<= {MOST_GIB}", met(peak <= MOST_GIB))
    return 0


def make_matrix(folder: Path, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and labels (N,) from a seed, memory-mapped from features.npy and labels.npy in the folder."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, rows)
    np.save(folder / "labels.npy", labels)
    centers = draw.standard_normal((10, width), dtype=np.float32) / 10
    matrix = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, width))
    for start in range(0, rows, 10_000):
        some = labels[start : start + 10_000]
        matrix[start : start + len(some)] = draw.standard_normal((len(some), width), dtype=np.float32) + centers[some]
    matrix.flush()
    return matrix, labels


def write_nothing(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """The .npy files exist already."""


def write_npz(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """NumPy's archive, not compressed."""
    np.savez(path, features=matrix, labels=labels)


def write_safetensors(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """The format of the package safetensors."""
    save_file({"features": matrix, "labels": labels}, path)


def write_parquet(path: Path, matrix: np.ndarray, labels: np.ndarray) -> None:
    """A column of lists of one length."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    pyarrow.parquet.write_table(pa.table({"features": lists, "labels": labels}), str(path), row_group_size=50_000)


WRITERS = {
    ".npy": write_nothing,
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".parquet": write_parquet,
}
"""Suffix of the file -> function that writes a matrix and its labels."""


if __name__ == "__main__":
    sys.exit(main())
