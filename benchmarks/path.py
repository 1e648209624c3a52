"""Times a regularization path on MNIST: 45 values of C from 1e-6 to 1e5, each certified to a relative gap.

The path starts each fit from the fits before it.  It is compared with one fit at C = 1, and with the mean of fits from
scratch at every fourth value of C, each of at most 1000 passes (fits that are not certified by then would take longer).
The figure "path / it" is the time of the whole path in units of such a fit; 45 would mean that nothing was saved.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from common import add_mnist_root, alternate, met, new_parser, positive, print_row, print_versions, spread, timed
from logreg.rows import MemoryRows
from logreg.solvers import fit as exact
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l2_path import PathPoint, fit_path
from logreg.solvers.problem import Problem as SolverProblem
from map import CASES, Problem

MOST_RATIO = 4
"""Target for the time of the path, in units of the mean fit from scratch."""

GAPS = (1e-3, 1e-6)
"""Relative gaps of each fit."""

EVERY = 4
"""A fit from scratch is made at every such value of C."""

MOST_PASSES = 1000
"""Passes allowed to a fit from scratch."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints a table for each gap; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    add_mnist_root(parser)
    parser.add_argument("--strengths", type=positive, default=45, metavar="N", help="values of C (default: 45)")
    parser.add_argument("--rows", type=positive, metavar="N", help="uses the first N rows (default: all 60,000)")
    parser.add_argument(
        "--gap", action="append", type=float, metavar="GAP", help="relative gap (again for more; default: 1e-3, 1e-6)"
    )
    parser.add_argument("--process-time", action="store_true", help="CPU time, for machines that are busy otherwise")
    parser.set_defaults(device="cpu", tiny=False)
    arguments = parser.parse_args(typed)
    print_versions()
    problem = Problem.of(CASES["mnist"], arguments)
    if problem is None:
        return 0
    if arguments.rows:
        problem = replace(problem, features=problem.features[: arguments.rows], labels=problem.labels[: arguments.rows])
    number = len(problem.labels)
    strengths = [1 / (10**power * number) for power in torch.linspace(-6, 5, arguments.strengths).tolist()]
    rows = MemoryRows(problem.features, problem.labels)
    solver_problem = exact.problem_of(rows, problem.objective)
    print(
        f"\npath: MNIST, {number:,} rows, {len(strengths)} values of C from 1e-6 to 1e5; seconds to a "
        f"certified relative gap, {'process' if arguments.process_time else 'wall'} time"
    )
    clock = time.process_time if arguments.process_time else time.perf_counter
    for gap in arguments.gap or GAPS:
        compare(problem, solver_problem, rows, strengths, gap, arguments.repeats, clock)
    return 0


def compare(
    problem: Problem,
    solver_problem: SolverProblem,
    rows: MemoryRows,
    strengths: Sequence[float],
    gap: float,
    repeats: int,
    clock: Callable[[], float],
) -> None:
    """Prints the table of one gap, in seconds by a clock."""
    points: list[PathPoint] = []
    single = "one fit, C = 1"
    arms = {
        single: partial(timed, partial(problem.fitted, gap), clock=clock),
        "the path": partial(timed, partial(_solve_path, solver_problem, rows, strengths, gap, points), clock=clock),
    }
    seconds = alternate(arms, repeats, cold=0)
    converged = 0
    of_scratch: list[float] = []
    for l2 in strengths[::EVERY]:
        start = clock()
        converged += _fit_from_scratch(problem, l2, gap).converged
        of_scratch.append(clock() - start)
    one, mean = statistics.median(seconds[single]), statistics.mean(of_scratch)
    whole = statistics.median(seconds["the path"])
    print_row(f"gap <= {gap:.0e}", "median", "min", "max", "path / it", "target")
    print_row(single, *spread(seconds[single]), f"{whole / one:.1f}")
    verdict = f"{met(whole <= MOST_RATIO * mean)}; {converged} of {len(of_scratch)} converged"
    least, most = (f"{end(of_scratch):.4f}" for end in (min, max))
    name = "one fit from scratch, mean"
    print_row(name, f"{mean:.4f}", least, most, f"{whole / mean:.1f}", f"<= {MOST_RATIO}", verdict)
    converged, passes = sum(point.converged for point in points), sum(point.passes for point in points)
    verdict = f"{converged} of {len(points)} converged, {passes} passes"
    print_row("the path", *spread(seconds["the path"]), "", "", verdict)


def _fit_from_scratch(problem: Problem, l2: float, gap: float) -> exact.Fit:
    objective = replace(problem.objective, l2=l2)
    return exact.fit(problem.features, problem.labels, objective, tolerance=gap, max_passes=MOST_PASSES)


def _solve_path(
    problem: SolverProblem, rows: MemoryRows, strengths: Sequence[float], gap: float, points: list[PathPoint]
) -> None:
    points[:] = drive(fit_path(problem, strengths, gap), rows)


if __name__ == "__main__":
    sys.exit(main())
