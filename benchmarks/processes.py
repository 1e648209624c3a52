"""Times passes in 1, 2 and 4 processes, fits a cost model to them, and predicts from it fits on many machines.

Each process has one thread.  Each of several processes is bound to a core, and each core has as many of them as the
others.  The model is that of cost_model.py.  It is fitted to some shapes of problem, and then compared with others.
Passes and numbers of processes take turns; times are medians, and their spread is the difference of the quartiles.  The
rows of all passes stay in memory, once for each number of processes.  The efficiency of 2 processes is that against 1
process, with one thread and with two, and that of 2 processes which share nothing.

Without an option everything is measured, and the predictions have the fitted constants.  With --predict and without
--measure they have those of `logreg.solvers.costs`, by which solvers choose their method.  Predictions of machines rest
on the stated memory, disk and network.  On a busy machine, --process-time leaves waiting out; the time of two threads
is then the sum of theirs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor

from common import Seconds, add_mnist_root, alternate, has_mnist, met, new_parser, positive, print_versions
from cost_model import (
    ASSUMED,
    NOT_OF_SOLVERS,
    UNITS,
    Cluster,
    Constants,
    Failures,
    Measured,
    Work,
    factor_seconds,
    fitted,
    halving_rounds,
    ring_rounds,
    scaled_units,
    seconds_of,
    slowest,
)
from logreg.csr import of_scipy
from logreg.hardware import core_numbers, usable_cores
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.processes import MAX_SLOTS, Accumulators, ProcessGroup, joined_processes, share
from logreg.rows import PART_BYTES, MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.optimizers import EXACT
from logreg.solvers.passes.base import Pass, run_pass
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.passes.sampling import RowSample
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import SolverState

FITTED = [
    Work("gradient", 4_000, 50),
    Work("gradient", 2_000_000, 40),
    Work("gradient", 1_000_000, 100),
    Work("gradient", 200_000, 500),
    Work("gradient", 400_000, 50, 10),
    Work("gradient", 60_000, 784, 10),
    Work("gradient", 500_000, 2_000, nonzeros=25),
    Work("gradient", 400_000, 5_000, nonzeros=100),
    Work("gradient", 200_000, 2_000, 10, nonzeros=75),
    Work("hessian", 400_000, 50),
    Work("hessian", 60_000, 300),
    Work("step", 1_024, 784, 10),
    Work("step", 4_096, 200, 10),
    Work("step", 16_384, 100),
    *(Work(kind, 0, numbers) for kind in ("sum", "all-reduce") for numbers in (100, 30_000, 300_000)),
]
"""The shapes that the model is fitted to."""

EFFICIENCY = Work("gradient", 2_000_000, 50)
"""The pass whose efficiency has a target."""

CHECKED = [
    EFFICIENCY,
    Work("gradient", 400_000, 200),
    Work("gradient", 300_000, 100, 10),
    Work("gradient", 300_000, 3_000, nonzeros=60),
    Work("hessian", 200_000, 100),
    Work("step", 8_192, 300, 10),
    Work("sum", 0, 100_000),
    Work("all-reduce", 0, 100_000),
]
"""The shapes that it is compared with."""

TURN = 2
"""Times that a work is repeated in a turn."""

SHORT_CALLS = 40
"""Calls of a work of less than some milliseconds that are timed as one: processes leave a barrier one by one."""

LARGEST_ERROR = 0.2
"""Largest accepted relative error of a prediction."""

TARGETS = {"1 process x 1 thread": 1.7, "1 process x 2 threads": 0.9}
"""Least accepted ratio of its time to that of 2 processes with one thread each."""

NOTHING_SHARED = "2 processes that share nothing"
"""What the machine allows: two processes that make half of a pass each, and add nothing up."""

STEP_ROWS = 2**18
"""Rows of all processes that the batches of steps are taken from, in turns."""

MNIST_L2 = 1e-4

FAR = [Work("gradient", 10**9, 100), Work("gradient", 10**11, 1000, nonzeros=75)]
"""The problems whose fits are predicted."""

WAYS = (("newton", 1e-4), ("lbfgs", 1e-4), ("newton", 0.0))
"""Optimizers and penalties of predicted fits: Newton's method estimates the Hessian from a sample, or sums it."""

BATCHES = (2**16, 2**20)
"""Rows of the batches of predicted steps."""

MACHINES = (8, 64, 1024)

COUNTED_ROWS = 50_000
"""Rows of the problems whose passes to the optimum are counted."""

PICKLED_BYTES = 100
"""Bytes of a pickled number, about."""

SAMPLE_BYTES = PART_BYTES[torch.float32]
"""Bytes of the sample of rows, of which each process has those at its positions; see `sampled_rows`."""

DEVIATIONS = (0.02, 0.1, 0.3)
"""Standard deviations of the logarithm of the time of a process."""

DAY, GIB = 86_400.0, 2.0**30

Clock = Callable[[], float]


class Workers:
    """Processes with one thread each that share rows, and do the same work when they are asked to."""

    def __init__(self, size: int) -> None:
        """Starts ``size`` processes, which end with the context."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["logreg.solvers.fit"])
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self._pipes, self._all = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, there), daemon=True)
            process.start()
            there.close()  # so that the end of the process is noticed
            self._pipes.append(here)
            self._all.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, mistake: type[BaseException] | None, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._all, strict=True):
            if mistake is None:
                pipe.send(None)
            else:  # others may wait for one that has failed
                process.kill()
        for process in self._all:
            process.join()

    def ask(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Has each process call ``work(processes, *arguments)``; ``work`` is a function of a module."""
        for pipe in self._pipes:
            pipe.send((work, arguments))

    def answers(self) -> list[Any]:
        """What each process returns."""
        return [pipe.recv() for pipe in self._pipes]

    def call(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Asks, and waits for the answers."""
        self.ask(work, *arguments)
        return self.answers()

    def seconds(self, work: Work, is_busy: bool) -> list[float]:
        """Seconds of the slowest process in each repeat of a turn."""
        return slowest_of(self.call(time_work, work, is_busy))


def slowest_of(turns: Sequence[Sequence[float]]) -> list[float]:
    """The time of the slowest process in each repeat of a turn of all processes."""
    return [max(times) for times in zip(*turns, strict=True)]


def _serve(rank: int, size: int, port: int, pipe: Connection) -> None:
    set_threads(None, 1)
    if (cores := sorted(core_numbers())) and size > 1:  # else two that wait for each other may stay on one core
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    if size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    processes = joined_processes()
    try:
        while (asked := pipe.recv()) is not None:
            work, arguments = asked
            pipe.send(work(processes, *arguments))
    finally:
        if size > 1:
            dist.destroy_process_group()


def time_work(processes: ProcessGroup | None, work: Work, is_busy: bool) -> list[float]:
    """Seconds that this process takes for each repeat of a turn: processor time where the machine is busy."""
    clock = time.process_time if is_busy else time.perf_counter
    calls = SHORT_CALLS if work.is_message or work.kind == "step" else 1
    with torch.no_grad():
        run = prepared(work, processes)
        taken = []
        for _ in range(TURN + 1):  # the first one finds cold caches
            if processes is not None:
                processes.barrier()
            start = clock()
            for _ in range(calls):
                run()
            taken.append((clock() - start) / calls)
    return taken[1:]


@cache  # the rows stay for the next turn
def prepared(work: Work, processes: ProcessGroup | None) -> Callable[[], object]:
    """A function that makes a pass once, over generated rows of this process."""
    rank, size = (0, 1) if processes is None else (processes.rank, processes.size)
    if work.is_message:
        numbers = torch.zeros(work.features, dtype=torch.float64)
        own = Accumulators({"numbers": numbers}, {}, {})
        if processes is None:
            return lambda: None
        return (lambda: processes.reduce(own)) if work.kind == "sum" else (lambda: dist.all_reduce(numbers))
    if work.kind == "step":
        return prepared_step(work, processes)
    rows = MemoryRows(*generated(work, len(share(work.rows, rank, size)), rank), processes=processes)
    problem = problem_of_work(work)
    point = torch.full((work.outputs, work.features + 1), 0.01, dtype=torch.float64)
    hessian = torch.float32 if work.kind == "hessian" else None
    return lambda: run_pass(rows, Evaluate(problem, problem.model, point, hessian=hessian))


def prepared_step(work: Work, processes: ProcessGroup | None) -> Callable[[], object]:
    """A function that makes one step of stochastic gradient descent on the next batch, as `training.module` does."""
    rank, size = (0, 1) if processes is None else (processes.rank, processes.size)
    own = len(share(work.rows, rank, size))
    batches = max(1, STEP_ROWS // work.rows)
    features, labels = generated(work, own * batches, rank)
    targets = one_vs_rest(labels, work.outputs, torch.float32).T.contiguous().T
    logits, objective = torch.empty_like(targets[:own]), problem_of_work(work).objective
    coef, intercept = torch.zeros(work.outputs, work.features), torch.zeros(work.outputs)
    own_gradients = {"coef": torch.zeros_like(coef), "intercept": torch.zeros_like(intercept)}
    coef.grad, intercept.grad = own_gradients.values()
    number = 0

    def step() -> None:
        nonlocal number
        first = number % batches * own
        number += 1
        some = slice(first, first + own)
        objective.gradient_(
            features[some], targets[some], coef, intercept, 1.0, logits, of_rows=work.rows, is_penalized=rank == 0
        )
        gradients = own_gradients
        if processes is not None:
            gradients = processes.reduce(Accumulators(gradients, {}, {})).sums
        coef.sub_(gradients["coef"], alpha=0.01)
        intercept.sub_(gradients["intercept"], alpha=0.01)

    return step


def generated(work: Work, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (rows, D) of standard normal numbers, at random places where they are sparse, and labels (rows,)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(max(work.outputs, 2), (rows,), generator=draw)
    if work.nonzeros is None:
        return torch.randn(rows, work.features, generator=draw), labels
    columns = torch.randint(work.features // work.nonzeros, (rows, work.nonzeros), generator=draw)
    columns = columns * work.nonzeros + torch.arange(work.nonzeros)  # the columns of a row differ
    begins = np.arange(0, rows * work.nonzeros + 1, work.nonzeros)
    values = torch.randn(rows * work.nonzeros, generator=draw)
    matrix = sparse.csr_array(
        (values.numpy(), columns.sort().values.int().flatten().numpy(), begins), shape=(rows, work.features)
    )
    return of_scipy(matrix), labels


def problem_of_work(work: Work, l2: float = 1e-4) -> Problem:
    """The problem over all rows."""
    scale = torch.ones(work.features, dtype=torch.float64)
    return Problem(
        Objective("bce" if work.outputs == 1 else "cross_entropy", l2=l2),
        rows=work.rows,
        total_weight=float(work.rows),
        num_outputs=work.outputs,
        model=Coordinates(torch.zeros_like(scale), scale),
        nonzeros=None if work.nonzeros is None else work.rows * work.nonzeros,
    )


# ---- measured ----


def measure(workers: dict[int, Workers], works: Sequence[Work], repeats: int, is_busy: bool) -> list[Measured]:
    """The time of each pass in each number of processes; passes and numbers of processes take turns.

    Each pass so meets all states that the machine is in meanwhile, as where others use its memory.  A ring has no more
    processes than cores: else it would measure how the threads of gloo share them.
    """
    taken: dict[tuple[Work, int], list[float]] = {}
    for work in works:
        least, most = 2 if work.is_message else 1, usable_cores() if work.kind == "all-reduce" else max(workers)
        taken |= {(work, size): [] for size in workers if least <= size <= most}
    for _ in range(repeats):
        for (work, size), times in taken.items():
            times += workers[size].seconds(work, is_busy)
    measured = []
    for (work, size), times in taken.items():
        first, median, third = np.quantile(times, (0.25, 0.5, 0.75))
        measured.append(Measured(work, size, float(median), float((third - first) / median)))
    return measured


def print_model(fit_to: Sequence[Measured], checked: Sequence[Measured], cores: int) -> Constants:
    """Prints the constants and the predictions; returns the constants."""
    constants, slowdown = fitted(fit_to, cores)
    print("\n| unit | fitted, s | assumed by solvers, s |\n|---|--:|--:|")
    for unit in UNITS:
        assumed = "" if unit in NOT_OF_SOLVERS else f"{ASSUMED[unit]:.1e}"
        print(f"| {unit} | {constants[unit]:.1e} | {assumed} |")
    print(f"\neach doubling of the processes that run at once slows their work by {100 * slowdown:.0f} %")
    errors: dict[str, list[float]] = {"fitted": [], "checked": []}
    print("\n| pass | processes | measured, ms | spread | predicted, ms | error | |\n|---|--:|--:|--:|--:|--:|---|")
    for part, measured in (("fitted", fit_to), ("checked", checked)):
        for work, size, seconds, spread in measured:
            predicted = seconds_of(scaled_units(work, size, cores, slowdown), constants)
            errors[part].append(abs(predicted / seconds - 1))
            print(
                f"| {work} | {size} | {1e3 * seconds:.3f} | {100 * spread:.0f} % | {1e3 * predicted:.3f} | "
                f"{100 * (predicted / seconds - 1):+.0f} % | {part} |"
            )
    largest = max(errors["checked"])
    print(
        f"\nlargest error: {100 * largest:.0f} % of the {len(errors['checked'])} that are checked, "
        f"{100 * max(errors['fitted']):.0f} % of the {len(errors['fitted'])} that the model is fitted to; median "
        f"{100 * statistics.median(errors['checked']):.0f} % and {100 * statistics.median(errors['fitted']):.0f} %; "
        f"target {100 * LARGEST_ERROR:.0f} %: {met(largest <= LARGEST_ERROR)}"
    )
    return constants


def set_threads(_: ProcessGroup | None, number: int) -> None:
    """Sets the number of threads of a process, also that of NumPy's BLAS, which does not heed torch's."""
    threadpool_limits(number)
    torch.set_num_threads(number)


class FitSeconds(NamedTuple):
    """The time of a fit."""

    total: float
    between: float
    """That between passes, which is not shared."""
    adding_up: float
    """That of adding up over the processes, with waiting for them."""


def time_fit(processes: ProcessGroup | None, images: Tensor, labels: Tensor, is_busy: bool) -> FitSeconds:
    """Seconds of a fit of MNIST to its certified optimum, whose rows the processes share."""
    clock = time.process_time if is_busy else time.perf_counter
    everything = MemoryRows(images, labels)
    problem = problem_of(everything, Objective("cross_entropy", l2=MNIST_L2))
    rank, size = (0, 1) if processes is None else (processes.rank, processes.size)
    own = share(len(labels), rank, size)
    part = slice(own.start, own.stop)
    positions = torch.arange(own.start, own.stop)
    rows = MemoryRows(images[part], labels[part], positions=positions)  # so that samples have the same rows
    in_passes = adding_up = 0.0
    with torch.no_grad():
        state, start = SolverState(problem, problem.zeros()), clock()
        for requested in EXACT["newton"](state):
            begun = clock()
            run_pass(rows, requested)
            ended = clock()
            if processes is not None:
                requested.reduce(processes)
            in_passes += ended - begun
            adding_up += clock() - ended
    total = clock() - start
    if not state.converged:
        raise RuntimeError("the fit of MNIST has not converged")
    return FitSeconds(total, total - in_passes - adding_up, adding_up)


def print_efficiency(work: Work, mnist: Path | None, repeats: int, is_busy: bool) -> None:
    """Prints the times of 1 process with one thread and with two, against that of 2 processes.

    Two more processes share nothing, and make half of the pass each: this is what the machine allows.
    """
    with ExitStack() as stack:
        one, two, *apart = (stack.enter_context(Workers(size)) for size in (1, 2, 1, 1))
        half = work._replace(rows=work.rows // 2)

        def halves() -> list[float]:
            for some in apart:  # the rows are generated first
                some.call(prepare, half)
            for some in apart:
                some.ask(time_work, half, is_busy)
            return slowest_of([some.answers()[0] for some in apart])

        arms = efficiency_arms(one, two, lambda some: some.seconds(work, is_busy)) | {NOTHING_SHARED: halves}
        print("\n| work | 2 processes, s | against | its time, s | ratio | target |\n|---|--:|---|--:|--:|---|")
        print_against(str(work), alternate(arms, repeats, cold=0))
        if mnist is None:
            return
        from torchvision.datasets import MNIST

        images = MNIST(str(mnist), train=True)
        features, labels = (images.data.flatten(1) / 255).share_memory_(), images.targets.share_memory_()
        fits: list[FitSeconds] = []

        def fit_seconds(some: Workers) -> list[float]:
            slowest: FitSeconds = max(some.call(time_fit, features, labels, is_busy))
            if some is two:
                fits.append(slowest)
            return [slowest.total]

        print_against("the optimum of MNIST", alternate(efficiency_arms(one, two, fit_seconds), repeats, cold=0))
    _, between, adding_up = (statistics.median(times) for times in zip(*fits, strict=True))
    print(
        f"\nof the optimum of MNIST in 2 processes: {between:.4f} s between passes, which both do, and "
        f"{adding_up:.4f} s of adding up and waiting"
    )


def efficiency_arms(
    one: Workers, two: Workers, seconds: Callable[[Workers], list[float]]
) -> dict[str, Callable[[], list[float]]]:
    """What is timed in turns: 2 processes, and 1 process with each number of threads."""

    def of_one(threads: int) -> list[float]:
        one.call(set_threads, threads)
        return seconds(one)

    others = {other: partial(of_one, threads) for threads, other in enumerate(TARGETS, start=1)}
    return {"2 processes": partial(seconds, two), **others}


def print_against(name: str, taken: Seconds) -> None:
    """Prints the median time of the first, and the ratio of each other one's to it."""
    ours, *others = taken
    median = statistics.median(taken[ours])
    for other in others:
        theirs, target = statistics.median(taken[other]), TARGETS.get(other)
        verdict = "none" if target is None else f">= {target}: {met(theirs / median >= target)}"
        print(f"| {name} | {median:.4f} | {other} | {theirs:.4f} | {theirs / median:.2f} | {verdict} |", flush=True)


def prepare(processes: ProcessGroup | None, work: Work) -> None:
    """Generates the rows of a pass."""
    prepared(work, processes)


def print_reading(size: int) -> None:
    """Prints the speed of reading a mapped file, after the system was asked to forget its pages, and again."""
    forgets = hasattr(os, "posix_fadvise")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.npy"
        np.save(file, np.ones(size // 4, dtype=np.float32))
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
            if forgets:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        speeds = []
        for _ in range(2):
            numbers = torch.from_numpy(np.load(file, mmap_mode="c"))
            start = time.perf_counter()
            numbers.sum()
            speeds.append(size / (time.perf_counter() - start) / 1e9)
        del numbers
    first = "after the system was asked to forget it" if forgets else "at first"
    print(f"\nmapped file of {size / GIB:.2f} GiB: {speeds[0]:.2f} GB/s {first}, {speeds[1]:.2f} GB/s again")


# ---- predicted ----


class Passes(NamedTuple):
    """The passes of a fit to a certified optimum."""

    hessian: int
    """Those with a Hessian."""
    gradient: int
    """The others over all rows, which cost about as much as one for the gradient."""
    sample: int
    """Those that gather a sample of the rows."""


def count_passes(work: Work, optimizer: str, l2: float, rows: int) -> Passes:
    """Counts the passes of a fit of so many rows of this kind."""
    some = work._replace(rows=rows)
    features, _ = generated(some, some.rows, 0)
    draw = torch.Generator().manual_seed(1)
    coef = torch.randn(work.features, 1, generator=draw) / (work.nonzeros or work.features) ** 0.5
    labels = ((features @ coef)[:, 0] + torch.randn(some.rows, generator=draw) > 0).long()
    requested: list[Pass[object]] = []
    found = fit(
        features, labels, Objective("bce", l2=l2), optimizer=optimizer, watch=lambda _, one: requested.append(one)
    )
    if not found.converged:
        raise RuntimeError(f"{optimizer} has not converged on {some}")
    hessians = sum(isinstance(one, Evaluate) and one.copies for one in requested)
    return Passes(hessians, found.passes - hessians, sum(isinstance(one, RowSample) for one in requested))


def clusters(arguments: argparse.Namespace) -> Iterator[Cluster]:
    """The clusters of the stated machines."""
    for machines in MACHINES:
        yield cluster(arguments, machines)


def cluster(arguments: argparse.Namespace, machines: int) -> Cluster:
    """So many of the stated machines."""
    return Cluster(
        machines,
        arguments.cores,
        arguments.memory * 1e9,
        arguments.memory_bandwidth * 1e9,
        arguments.storage_bandwidth * 1e9,
        arguments.network * 1e9 / 8,
        arguments.latency * 1e-6,
    )


def print_predictions(arguments: argparse.Namespace, constants: Constants) -> None:
    """Prints predicted times of fits, steps and messages on many machines."""
    print(
        f"\nmachines of {arguments.cores} cores, {arguments.memory:g} GB, {arguments.memory_bandwidth:g} GB/s from "
        f"memory, {arguments.storage_bandwidth:g} GB/s from disk, {arguments.network:g} Gbit/s, "
        f"{arguments.latency:g} us; passes as of {COUNTED_ROWS:,} rows; all-reduce in a ring (gloo) / by halving and "
        "doubling"
    )
    print(
        "\n| rows | way | passes: with Hessian + others | machines | GB of each | work, s | all-reduces, s | sample, s "
        "| fit, s |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for work in FAR:
        for optimizer, l2 in WAYS:
            passes = count_passes(work, optimizer, l2, COUNTED_ROWS // (10 if arguments.tiny else 1))
            for one in clusters(arguments):
                print(fit_line(work, f"{optimizer}, l2={l2:g}", passes, one, constants))
    print("\n| pass or step | the all-reduce takes longer than the work from so many machines on |\n|---|--:|")
    steps = [Work("step", rows, work.features, nonzeros=work.nonzeros) for work in FAR for rows in BATCHES]
    for work in [*FAR, *(work._replace(kind="hessian") for work in FAR), *steps]:
        print(f"| {work} | {' / '.join(dominated_from(work, arguments, constants))} |")
    print_messages(arguments)


def fit_line(work: Work, way: str, passes: Passes, machines: Cluster, constants: Constants) -> str:
    """A row of the table of fits: time of the rows, of all-reduces in a ring / by halving, and of the sample."""
    with_hessian = work._replace(kind="hessian")
    kinds = ((with_hessian, passes.hessian), (work, passes.gradient))
    working = sum(number * machines.work_seconds(one, constants) for one, number in kinds)
    working += passes.hessian * factor_seconds(work)
    reducing = [
        sum(number * machines.reduce_seconds(one, rounds(machines.machines)) for one, number in kinds)
        for rounds in (ring_rounds, halving_rounds)
    ]
    sampling = passes.sample * machines.gather_seconds(SAMPLE_BYTES / machines.machines)
    size = machines.share_bytes(work)
    source = "memory" if size <= machines.memory else "disk"
    cells = (
        f"{work.rows:.0e} x {work.features:,}",
        way,
        f"{passes.hessian} + {passes.gradient}",
        f"{machines.machines:,}",
        f"{size / 1e9:,.1f}, {source}",
        f"{working:,.1f}",
        " / ".join(f"{one:,.2f}" for one in reducing),
        f"{sampling:.2f}",
        " / ".join(f"{working + one + sampling:,.1f}" for one in reducing),
    )
    return f"| {' | '.join(cells)} |"


def dominated_from(work: Work, arguments: argparse.Namespace, constants: Constants) -> Iterator[str]:
    """The number of machines, a power of two, from which the all-reduce takes longer than the work; by each way."""
    for rounds in (ring_rounds, halving_rounds):
        for machines in (2**power for power in range(1, 31)):
            one = cluster(arguments, machines)
            if one.reduce_seconds(work, rounds(machines)) > one.work_seconds(work, constants):
                yield f"{machines:,}"
                break
        else:
            yield "never"


def print_messages(arguments: argparse.Namespace) -> None:
    """Prints how the other messages of a pass grow with the number of machines; see `ProcessGroup`."""
    print(
        "\n| machines | a maximum in slots, ms | all slots, ms | an all-reduce of their own, ms | gathered numbers, ms "
        "| a sample of rows, ms |\n|--:|--:|--:|--:|--:|--:|"
    )
    for one in clusters(arguments):
        slots = (Work("sum", 0, number) for number in (one.machines, MAX_SLOTS))  # they add bytes, not rounds
        own = Work("sum", 0, MAX_SLOTS // one.machines)
        seconds = [one.reduce_seconds(few, rounds=0) for few in slots]
        seconds += [one.reduce_seconds(own, ring_rounds(one.machines))]
        seconds += [one.gather_seconds(size) for size in (PICKLED_BYTES, SAMPLE_BYTES / one.machines)]
        print(f"| {one.machines:,} | {' | '.join(f'{1e3 * some:.2f}' for some in seconds)} |")


# ---- simulated ----


def print_simulations(arguments: argparse.Namespace) -> None:
    """Prints what slow and lost machines cost."""
    print("\n| deviation of log(time) | " + " | ".join(f"slowest of {machines:,}" for machines in MACHINES) + " |")
    print("|--:|" + "--:|" * len(MACHINES))
    for deviation in DEVIATIONS:
        times = (f"{slowest(machines, deviation, passes=2000):.2f}" for machines in MACHINES)
        print(f"| {deviation:g} | {' | '.join(times)} |")
    print(
        f"\nwork of {arguments.work:g} h; a machine fails once in {arguments.mtbf:g} days; a checkpoint takes "
        f"{arguments.checkpoint:g} s, a restart {arguments.restart:g} s with reading the rows again"
    )
    print("\n| machines | hours between failures | checkpoint after, s | simulated, h | formula, h | without, h |")
    print("|--:|--:|--:|--:|--:|--:|")
    draw = np.random.default_rng(0)
    for machines in MACHINES:
        between = arguments.mtbf * DAY / machines
        run = Failures(arguments.work * 3600, arguments.checkpoint, arguments.restart, between)
        best = run.young_interval
        for interval in (best / 10, best, 10 * best):
            mean = statistics.fmean(run.simulated(interval, draw) for _ in range(arguments.runs)) / 3600
            none = run.expected(run.work) / 3600
            print(
                f"| {machines:,} | {between / 3600:.1f} | {interval:,.0f} | {mean:.2f} | "
                f"{run.expected(interval) / 3600:.2f} | {none:.2f} |"
            )


# ---- command line ----


def parsed(typed: Sequence[str] | None) -> argparse.Namespace:
    """The typed options."""
    parser = new_parser(__doc__, repeats=7)
    parser.add_argument("--efficiency", action="store_true", help="measures the efficiency of 2 processes")
    parser.add_argument("--measure", action="store_true", help="measures passes and sums, and fits the model")
    parser.add_argument("--predict", action="store_true", help="predicts fits on many machines")
    parser.add_argument("--simulate", action="store_true", help="simulates slow and lost machines")
    parser.add_argument("--processes", action="append", type=positive, metavar="P", help="default: 1, 2 and 4")
    parser.add_argument("--process-time", action="store_true", help="CPU time, for machines that are busy otherwise")
    parser.add_argument("--tiny", action="store_true", help="few rows, for a try")
    parser.add_argument("--file", type=float, default=1.0, metavar="GIB", help="size of the mapped file (default: 1)")
    for option, default, what in (
        ("--memory", 200.0, "GB of a machine that rows may take"),
        ("--memory-bandwidth", 100.0, "GB/s of a machine's memory"),
        ("--storage-bandwidth", 2.0, "GB/s of a machine's disk"),
        ("--network", 10.0, "Gbit/s between machines"),
        ("--latency", 50.0, "microseconds of a message between machines"),
        ("--mtbf", 365.0, "days between two failures of a machine"),
        ("--work", 24.0, "hours of the simulated computation"),
        ("--checkpoint", 5.0, "seconds of a checkpoint"),
        ("--restart", 300.0, "seconds of a restart"),
    ):
        parser.add_argument(option, type=float, default=default, metavar="X", help=f"{what} (default: {default:g})")
    parser.add_argument("--cores", type=positive, default=16, metavar="N", help="cores of a machine (default: 16)")
    parser.add_argument("--runs", type=positive, default=1000, metavar="N", help="simulated runs (default: 1000)")
    add_mnist_root(parser)
    arguments = parser.parse_args(typed)
    if not (arguments.efficiency or arguments.measure or arguments.predict or arguments.simulate):
        arguments.efficiency = arguments.measure = arguments.predict = arguments.simulate = True
    return arguments


def smaller(work: Work, tiny: bool) -> Work:
    """A pass over few rows."""
    if not tiny:
        return work
    nonzeros = None if work.nonzeros is None else 5
    return work._replace(rows=work.rows // 1000, features=min(work.features, 20), nonzeros=nonzeros)


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code 0, whatever the numbers are."""
    arguments, constants = parsed(typed), ASSUMED
    print_versions()
    is_busy = arguments.process_time
    if arguments.efficiency:
        mnist = arguments.mnist_root if has_mnist(arguments.mnist_root) else None
        print_efficiency(smaller(EFFICIENCY, arguments.tiny), mnist, arguments.repeats, is_busy)
    if arguments.measure:
        sizes = arguments.processes or [1, 2, 4]
        cores = max(sizes) if is_busy else usable_cores()  # a process that waits for a core takes no CPU time
        with ExitStack() as stack:
            workers = {size: stack.enter_context(Workers(size)) for size in sizes}
            fit_to = [smaller(work, arguments.tiny) for work in FITTED]
            others = [smaller(work, arguments.tiny) for work in CHECKED]
            measured = measure(workers, [*fit_to, *others], arguments.repeats, is_busy)
        fitted, checked = ([one for one in measured if one.work in works] for works in (fit_to, others))
        constants = print_model(fitted, checked, cores)
        print_reading(int(arguments.file * GIB))
    if arguments.predict:
        print_predictions(arguments, constants)
    if arguments.simulate:
        print_simulations(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
