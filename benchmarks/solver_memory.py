"""Takes the memory of an exact fit: by how much a process that has read its rows grows when it also fits them.

Two problems of solvers.py: 1,000,000 x 30 and MNIST.  The figures are GiB: the size of the data, the peak of a process
that reads the rows, and the peak of one that also fits them.  "of data" is the memory of data and fit together,
relative to the data; the target is 1.25.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import add_mnist_root, met, new_parser, positive, print_row, print_versions, process_use
from solvers import CASES, Problem

MOST_SHARE = 1.25
"""Target for the memory of data and fit, relative to the data."""

FIT = """
import json, sys
import numpy as np, torch
from logreg.losses.objective import Objective
from logreg.solvers.fit import fit

folder, loss, l2, fits = json.loads(sys.argv[1])
fit(torch.randn(300, 5), torch.arange(300) % 2, Objective("bce", l2=0.01))
fit(torch.randn(5000, 110), torch.arange(5000) % 10, Objective("cross_entropy", l2=0.01))
features, labels = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in ("features", "labels"))
if fits:
    assert fit(features, labels, Objective(loss, l2=l2), tolerance=1e-8).converged
"""
"""Reads the rows of a problem and, on request, fits them.  Two small fits come first, as libraries load some of their
code at its first use."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    add_mnist_root(parser)
    parser.add_argument("--rows", type=positive, metavar="N", help="uses the first N rows (default: all)")
    parser.set_defaults(device="cpu")
    arguments = parser.parse_args(typed)
    print_versions()
    print("\nsolver_memory: peak GiB of a process that reads the rows, and of one that also fits them")
    print_row("", "data", "read", "fitted", "of data", "target")
    for name in ("binary", "mnist"):
        problem = Problem.of(CASES[name], arguments)
        if problem is None:
            continue
        if arguments.rows:
            # cloned: a slice would keep the memory of all rows
            features, labels = problem.features[: arguments.rows].clone(), problem.labels[: arguments.rows].clone()
            problem = replace(problem, features=features, labels=labels)
        size = (problem.features.nbytes + problem.labels.nbytes) / 2**30
        with tempfile.TemporaryDirectory() as folder:
            peaks = ([_peak(problem, Path(folder), fits) for _ in range(arguments.repeats)] for fits in (False, True))
            read, fitted = (statistics.median(peak) for peak in peaks)
        share = 1 + (fitted - read) / size
        columns = (f"{size:.3f}", f"{read:.3f}", f"{fitted:.3f}", f"{share:.2f}")
        print_row(name, *columns, f"<= {MOST_SHARE}", met(share <= MOST_SHARE))
    return 0


def _peak(problem: Problem, folder: Path, fits: bool) -> float:
    np.save(folder / "features.npy", problem.features.numpy())
    np.save(folder / "labels.npy", problem.labels.numpy())
    task = json.dumps([str(folder), problem.objective.loss, problem.objective.l2, fits])
    return process_use(["-c", FIT, task]).peak


if __name__ == "__main__":
    sys.exit(main())
