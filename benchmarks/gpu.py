"""Times exact fits and an MNIST epoch on a GPU: the map, against scikit-learn's lbfgs on the same card.

The problems are those of map.py, with the rows on the GPU.  The rival is scikit-learn's LogisticRegression through the
array API on torch tensors there, in float32 and float64.  Of its solvers lbfgs alone supports the array API, and lbfgs
has no l1, so those problems have no rival.  As in map.py the tolerance of each solver is swept, and the loosest one at
whose answer the true relative gap is small enough is timed, in turns; our time includes the certificate.

The figures are seconds; the clock is read when the GPU has finished.  The ratio is of our median to the rival's, so
below 1 ours is faster.  The memory is the peak of torch's allocator during one fit above that before it.

The case "epoch" is an MNIST epoch of mnist.py, ours against the hand-written loop with all tensors on the GPU.  It
needs lightning, hydra-core and torchvision, the other cases do not.  --device cpu runs the same on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # SciPy reads it when it is imported

import torch

from common import Target, add_mnist_root, alternate, new_parser, print_ratios, print_versions
from map import CASES, GAPS, Answer, Clock, Problem, Solver, Trial, at_most, ours, peak_memory, swept

EPOCH = "epoch"
"""The case that is no exact fit."""

MIN_RIVAL_SECONDS = 2.0
"""Time that a fit of the rival has at least: on a GPU the first fits are slow, and its seconds are of interest too."""

NEEDED = ("lightning", "hydra", "torchvision")
"""Modules without which there is no epoch to time."""


class DeviceClock(Clock):
    """Wall time after all work of the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(process=False)
        self.device = device
        self.now = self._after_all_work

    def _after_all_work(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def array_api_lbfgs(problem: Problem, dtype: torch.dtype) -> Solver:
    """scikit-learn's lbfgs on torch tensors, which stay on their device."""
    features, labels = problem.features.to(dtype), problem.labels

    def fit(tolerance: float) -> Answer:
        import sklearn
        from sklearn.linear_model import LogisticRegression

        with sklearn.config_context(array_api_dispatch=True):
            model = LogisticRegression(
                C=1 / (len(labels) * problem.objective.l2),
                solver="lbfgs",
                fit_intercept=problem.intercept,
                tol=tolerance,
                max_iter=100_000,
            ).fit(features, labels)
        coef, intercept = model.coef_.double(), model.intercept_.double().reshape(-1)
        return Answer(coef, intercept.expand(len(coef)))

    return Solver(f"lbfgs {str(dtype).removeprefix('torch.')}", fit)


def peak_on(device: torch.device, work: Callable[[], object]) -> float:
    """Peak memory of the device during a call, above that before it, in MiB; of the process on the CPU."""
    if device.type != "cuda":
        return peak_memory(work)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def lines(problem: Problem, arguments: argparse.Namespace) -> Iterator[str]:
    """A line of the table for each gap."""
    device = problem.features.device
    clock, gaps = DeviceClock(device), sorted(arguments.gap or GAPS, reverse=True)
    solvers = [ours(problem)]
    if problem.objective.l2:
        solvers += [array_api_lbfgs(problem, dtype) for dtype in (torch.float32, torch.float64)]
    trials: list[list[Trial]] = []
    most = arguments.limit
    for solver in solvers:
        with contextlib.suppress(Exception), at_most(most):
            solver.fit(0.1)  # a GPU loads its kernels at their first use
        trials.append(swept(problem, solver, clock, gaps, most))
        if len(trials) == 1:
            most = max(arguments.cut * max(trial.seconds for trial in trials[0]), MIN_RIVAL_SECONDS)
    if not problem.optimum.certified:
        yield f"| f* is certified to {problem.optimum.gap:.0e} only |"
    for gap in gaps:
        reached = [next((trial for trial in tried if trial.gap <= gap), None) for tried in trials]
        yield line(solvers, reached, gap, clock, arguments)


def line(
    solvers: Sequence[Solver],
    reached: Sequence[Trial | None],
    gap: float,
    clock: DeviceClock,
    arguments: argparse.Namespace,
) -> str:
    """The times to one gap, the solvers in turns.

    Args:
        solvers: Ours first.
        reached: The trial of each that reached the gap.
        gap: The relative gap.
        clock: The clock of the device.
        arguments: Has the number of repeats.
    """
    first, *_ = reached
    if first is None or first.answer is None:
        return f"| {gap:.0e} | not reached in {arguments.limit:g} s | | | | | | | | |"
    works = {
        solver: partial(solver.fit, trial.tolerance)
        for solver, trial in zip(solvers, reached, strict=True)
        if trial is not None
    }
    seconds: dict[Solver, list[float]] = {solver: [] for solver in works}
    for _ in range(arguments.repeats):
        for solver, work in works.items():
            seconds[solver].append(clock(work))
    medians = {solver: statistics.median(taken) for solver, taken in seconds.items()}
    memory = {solver: f"{peak_on(clock.device, work):.0f}" for solver, work in works.items()}
    own, *others = works
    cells = [f"{gap:.0e}", f"{medians[own]:.4f}"]
    if others:
        best = min(others, key=lambda solver: medians[solver])
        cells += [f"{medians[best]:.4f}", best.name, f"{medians[own] / medians[best]:.2f}"]
    else:
        cells += ["", f"none within {arguments.cut:g} times" if len(solvers) > 1 else "none", ""]
    cells += [f"{max(first.gap, 0.0):.0e}", f"{first.answer.certified:.0e}", str(first.answer.passes), memory[own]]
    return f"| {' | '.join([*cells, memory[best] if others else ''])} |"


def print_epoch(arguments: argparse.Namespace) -> None:
    """Prints the seconds of an MNIST epoch, or why there are none."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"\nepoch: skipped, since {', '.join(missing)} cannot be imported")
        return
    from common import silence_lightning
    from mnist import RUN, true_or_random_mnist
    from training_loops import HandWritten, OurRun, Rows, composed

    silence_lightning()
    accelerator = "gpu" if arguments.device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        root = true_or_random_mnist(arguments.mnist_root, Path(scratch))
        rows = Rows.of_mnist(root)
        run = OurRun(composed(RUN, accelerator, root=str(root)), Path(scratch, "runs"))
        arms = {"ours": run.epochs, "hand-written loop": HandWritten(rows.to(arguments.device)).epochs}
        print_ratios(
            f"epoch: seconds of an epoch of MNIST, {rows.counts}, on {arguments.device}, ours with all that a run does",
            alternate(arms, arguments.repeats),
            {"hand-written loop": Target(0.75)},
        )


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    add_mnist_root(parser)
    names = [*CASES, EPOCH]
    parser.add_argument("--case", action="append", choices=names, help="one of the problems (again for more)")
    parser.add_argument("--gap", action="append", type=float, metavar="GAP", help="a relative gap (again for more)")
    parser.add_argument("--cut", type=float, default=5.0, help="breaks a rival off after this multiple of our time")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="breaks a fit of ours off")
    parser.add_argument("--tiny", action="store_true", help="small problems, to try the benchmark itself")
    parser.add_argument(
        "--device", type=torch.device, default="cuda", help="cpu tries it without a GPU (default: cuda)"
    )
    arguments = parser.parse_args(typed)
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch.cuda finds no GPU here. Use --device cpu to try the benchmark without one.")
    warnings.filterwarnings("ignore")
    print_versions()
    if arguments.device.type == "cuda":
        print(f"{torch.cuda.get_device_name(arguments.device)}, CUDA {torch.version.cuda}")
    chosen = arguments.case or names
    if chosen != [EPOCH]:
        print(
            "| gap | ours, s | lbfgs, s | which | ratio | true gap | certified | passes | peak, MiB | its peak, MiB |"
        )
        print("|---|--:|--:|---|--:|--:|--:|--:|--:|--:|")
    for name in chosen:
        if name == EPOCH:
            print_epoch(arguments)
            continue
        problem = Problem.of(CASES[name], arguments)
        if problem is None:
            print(f"| **{name}**: no MNIST in {arguments.mnist_root}, name its folder with --mnist-root |")
            continue
        print(f"| **{name}**: {problem.shape} | | | | | | | | | |", flush=True)
        for one in lines(problem, arguments):
            print(one, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
