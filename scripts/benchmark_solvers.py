"""The part `solvers` of the benchmark: seconds to the optimum, against scikit-learn's solvers.

For each problem f* comes from a float64 run of ours that is certified.  Each solver's own tolerance is swept from loose
to tight, and the objective at what it answers is computed here, in float64 over all rows; so a solver counts as being
within a gap where it is, whatever it says itself.  The loosest tolerance that is good enough is what is timed, the
solvers taking turns, from arrays in memory to the answer; for ours with its certificate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import benchmark_l1
from benchmark_tools import Seconds, alternate, process_peak, spread, timed
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import fit as exact
from logreg.solvers.passes.base import drive
from logreg.solvers.path import PathPoint, fit_path
from logreg.solvers.problem import Problem as Stated

if TYPE_CHECKING:
    import numpy as np

GAPS = (1e-3, 1e-5, 1e-8)
"""(f - f*) / f* that is to be reached."""

EASY = 1e-5
"""A gap that arithmetic in float32 can reach."""

OPTIMUM = 1e-12
"""To what f* is to be certified, relative to it."""

CAP = 120.0
"""Seconds that a fit may take; the iterations that lbfgs may take are counted out for it, others are broken off."""

LATE = 1.5
"""Times that, after which a fit is broken off without an answer."""

CLOSE = 1.5
"""Solvers within this ratio of the fastest, when tried once, are all timed."""

SHORT = 5.0
"""Seconds within which a fit is timed in any case: one trial of it tells little."""

HELD = 1000
"""Parameters up to which scikit-learn's newton-cholesky, which forms the Hessian, is tried."""

BLOCK = 10_000
"""Rows whose objective is computed at a time."""

PATH = 10
"""Times one fit, the mean of cold ones along it, that a path of 45 may take."""

COLD, COLD_PASSES = 4, 1000
"""Every how many of its strengths such a fit is made, and passes that it may take; what is not certified by then would
take longer."""

MEMORY = 1.25
"""What a fit may occupy at most, the data themselves counted, relative to them."""

FIT = """
import json, sys
import numpy as np, torch
from logreg.objective import Objective
from logreg.solvers.fit import fit

folder, loss, l2, fits = json.loads(sys.argv[1])
fit(torch.randn(300, 5), torch.arange(300) % 2, Objective("bce", l2=0.01))
fit(torch.randn(5000, 110), torch.arange(5000) % 10, Objective("cross_entropy", l2=0.01))
features, labels = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in ("features", "labels"))
if fits:
    assert fit(features, labels, Objective(loss, l2=l2), tolerance=1e-8).converged
"""
"""Reads the rows of a problem and, if asked for, fits them; first two small fits, as libraries load some code late."""


@dataclass(frozen=True)
class Case:
    """A row of the table: a problem, and what ours must reach on it.

    Attributes:
        what: For the title.
        rows: Reads or makes features (N, D) and labels (N,); ``None`` if they are not there.
        of_theirs: Gap -> how many times scikit-learn's best ours may take.
        of_easy: Name of an easier case -> how many times ours on that one ours may take.
        seconds: Gap -> seconds that ours may take.
    """

    what: str
    rows: Callable[[argparse.Namespace], tuple[Tensor, Tensor] | None]
    of_theirs: Mapping[float, float] = field(default_factory=dict)
    of_easy: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[float, float] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> None:
    """Runs the problems that were asked for, all of them if none was; leaves with 2 if there is no such problem."""
    for name in arguments.problem or []:
        if name not in PROBLEMS:
            print(f"`--problem` must be one of {', '.join(PROBLEMS)}, got {name!r}.", file=sys.stderr)
            sys.exit(2)
    cuda = arguments.device != "cpu"
    print(f"ours on {torch.cuda.get_device_name(arguments.device) if cuda else f'{torch.get_num_threads()} threads'}")
    for name in arguments.problem or PROBLEMS:
        PROBLEMS[name](arguments)


def compare(name: str, arguments: argparse.Namespace) -> None:
    """Prints the table of one case."""
    case = CASES[name]
    problem = Problem.of(case, arguments)
    if problem is None:
        return
    easy = {name: Problem.of(CASES[name], arguments) for name in case.of_easy}
    print(f"\nsolvers, {name}: {case.what}, l2 = {problem.objective.l2:.3g} (C = 1); seconds to a relative gap")
    print(f"f* = {problem.optimum.value:.12g}, {problem.optimum.remark}", flush=True)
    solvers: list[Solver] = [Ours(problem)]
    solvers += [Ours(other, f"ours, {name}") for name, other in easy.items() if other is not None]
    if arguments.device == "cpu" and not arguments.ours_alone:
        solvers += theirs(problem)
    gaps = sorted(arguments.gap or GAPS, reverse=True)
    trials = {solver: calibrate(solver, gaps) for solver in solvers}
    chosen = {gap: choose(trials, gap) for gap in gaps}
    arms = {setting.label: setting.run for settings in chosen.values() for setting in settings}
    seconds = alternate(arms, arguments.repeats, cold=0)  # each ran already when its tolerance was looked for
    for gap, settings in chosen.items():
        print_gap(case, gap, settings, seconds)
        for solver, tried in trials.items():
            if loosest(tried, gap) is None:
                best = min(tried, key=lambda trial: trial.gap)
                end = f"ends at {_gap(best.gap)}" if math.isfinite(best.gap) else "is still going"
                end += f" after {best.seconds:.3g} s ({best.remark})"
                print(f"not reached by {solver.name}: {end}", flush=True)
    if (last := loosest(trials[solvers[0]], gaps[-1])) is not None:
        print_passes(problem, last.tolerance)


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows in memory and the objective over them; C = 1 in scikit-learn's words."""

    features: Tensor
    """Shape (N, D)."""
    labels: Tensor
    """Shape (N,)."""
    objective: Objective

    @classmethod
    def of(cls, case: Case, arguments: argparse.Namespace) -> Problem | None:
        """That of a case, on the device that was asked for."""
        rows = case.rows(arguments)
        if rows is None:
            return None
        features, labels = (part.to(arguments.device) for part in rows)
        loss: str = "bce" if int(labels.max()) == 1 else "cross_entropy"
        return cls(features, labels, Objective(loss, l2=1 / len(labels)))

    @property
    def num_outputs(self) -> int:
        """K."""
        return 1 if self.objective.loss == "bce" else int(self.labels.max()) + 1

    @cached_property
    def optimum(self) -> Optimum:
        """From a float64 run of ours."""
        fit = exact.fit(self.features, self.labels, self.objective, tolerance=OPTIMUM, dtype=torch.float64)
        certified = fit.bound.gap / fit.bound.value
        remark = f"certified to {certified:.1e} by a float64 run of {fit.passes} passes in {fit.seconds:.3g} s"
        if not fit.bound.rigorous or certified > OPTIMUM:
            remark += f": NOT below {OPTIMUM}"
        return Optimum(self.value(fit.coef, fit.intercept), remark)

    def value(self, coef: Tensor, intercept: Tensor) -> float:
        """The objective at coef (K, D) and intercept (K,), in float64 over all rows."""
        summed, total = replace(self.objective, reduction="sum"), 0.0
        for features, labels in zip(self.features.split(BLOCK), self.labels.split(BLOCK), strict=True):
            logits = torch.addmm(intercept, features.double(), coef.T)
            total += float(summed.data_term(logits, one_vs_rest(labels, self.num_outputs, torch.float64)))
        return total / len(self.labels) + float(self.objective.penalty(coef))

    def gap(self, coef: Tensor, intercept: Tensor) -> float:
        """(f - f*) / f* there."""
        return self.value(coef, intercept) / self.optimum.value - 1


class Optimum(NamedTuple):
    """f* and how it is known."""

    value: float
    remark: str


class Answer(NamedTuple):
    """What a fit came to."""

    coef: Tensor
    """Shape (K, D), float64."""
    intercept: Tensor
    """Shape (K,)."""
    remark: str
    """What the solver says of it."""
    iterations: int = 0
    cut: bool = False
    """Whether it ran out of iterations."""


class Solver:
    """A way to fit one problem.

    Attributes:
        name: What it is.
        rival: Those of one kind compete: only the fastest of them are timed.
        setting: What its tolerance is called.
        step: Ratio between two tolerances that are about as far apart as two gaps by a factor of ten.
        tolerances: To try, from loose to tight.
    """

    name: str
    rival: str
    setting: str
    step: float
    tolerances: Sequence[float]
    problem: Problem

    def fit(self, tolerance: float) -> Answer:
        """Fits once."""
        raise NotImplementedError


class Ours(Solver):
    """`logreg.solvers.fit.fit`."""

    setting, step = "tolerance", 10
    tolerances = tuple(0.3 * 10 ** (-half / 2) for half in range(16))

    def __init__(self, problem: Problem, name: str = "ours") -> None:
        self.problem, self.name, self.rival = problem, name, name

    def fit(self, tolerance: float) -> Answer:
        """As a user would call it."""
        problem = self.problem
        fit = exact.fit(problem.features, problem.labels, problem.objective, tolerance=tolerance)
        return Answer(
            fit.coef, fit.intercept, f"certified to {fit.bound.gap / fit.bound.value:.0e}, {fit.passes} passes"
        )


class Theirs(Solver):
    """scikit-learn's LogisticRegression."""

    setting, step = "tol", math.sqrt(10)  # of the gradient, whose square is like the gap
    tolerances = tuple(10.0**-power for power in range(1, 13))

    def __init__(self, problem: Problem, features: np.ndarray, solver: str) -> None:
        self.problem, self.features, self.solver = problem, features, solver
        self.labels = problem.labels.numpy()
        self.name, self.rival = f"{solver} {features.dtype}", str(features.dtype)
        self.max_iter = 1000

    def fit(self, tolerance: float) -> Answer:
        """With iterations enough."""
        return self.fit_with(tol=tolerance, max_iter=self.max_iter)

    def fit_with(self, **arguments: Any) -> Answer:
        """With arguments of scikit-learn's; those that are not given have its defaults."""
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = LogisticRegression(solver=self.solver, **arguments).fit(self.features, self.labels)
        iterations = int(model.n_iter_[0])
        warned = ", warned" if caught else ""
        return Answer(
            torch.tensor(model.coef_, dtype=torch.float64),
            torch.tensor(model.intercept_, dtype=torch.float64),
            f"{iterations} iterations{warned}",
            iterations,
            cut=iterations >= model.max_iter,
        )


def theirs(problem: Problem) -> list[Theirs]:
    """scikit-learn's solvers of this objective that are of a size with the problem; says where its defaults end."""
    names = ["lbfgs", "newton-cg"]
    if problem.num_outputs * (problem.features.shape[1] + 1) <= HELD:
        names.append("newton-cholesky")
    solvers = []
    for dtype in (torch.float32, torch.float64):
        features = problem.features.to(dtype).numpy()
        first = Theirs(problem, features, "lbfgs")
        start = time.perf_counter()
        answer = first.fit_with()
        seconds = time.perf_counter() - start
        gap = problem.gap(answer.coef, answer.intercept)
        print(
            f"scikit-learn's default, {dtype}: ends at {_gap(gap)} after {seconds:.3g} s ({answer.remark})", flush=True
        )
        first.max_iter = max(100, int(CAP * answer.iterations / seconds))
        solvers += [first, *(Theirs(problem, features, name) for name in names[1:])]
    return solvers


class Trial(NamedTuple):
    """One fit at one tolerance."""

    tolerance: float
    gap: float
    """Relative to f*; infinite if there was no answer in time."""
    seconds: float
    remark: str
    last: bool
    """Whether a tighter tolerance would not help."""


def attempt(solver: Solver, tolerance: float) -> Trial:
    """Fits once, and says on stderr what came of it: looking for tolerances takes longer than the measurement."""
    print(f"  {solver.name}, {solver.setting}={tolerance:.0e}:", end=" ", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        with at_most(CAP * LATE):
            answer = solver.fit(tolerance)
    except TimeoutError:
        print("no answer", file=sys.stderr)
        return Trial(tolerance, math.inf, time.perf_counter() - start, f"{solver.setting}={tolerance:.0e}", last=True)
    seconds = time.perf_counter() - start
    gap = solver.problem.gap(answer.coef, answer.intercept)
    remark = f"{solver.setting}={tolerance:.0e}, {answer.remark}"
    print(f"{_gap(gap)} after {seconds:.3g} s", file=sys.stderr)
    return Trial(tolerance, gap, seconds, remark, answer.cut or seconds > CAP)


def calibrate(solver: Solver, gaps: Sequence[float]) -> list[Trial]:
    """Tries the tightest tolerance, which tells what can be reached, and then from loose to tight until it is.

    What float32 reaches in any case is not worth the longest fit of all.

    Returns:
        What was tried, from loose to tight.
    """
    trials, wanted = [], list(gaps)
    if gaps[-1] < EASY:
        trials.append(tightest := attempt(solver, solver.tolerances[-1]))
        wanted = [gap for gap in gaps if gap >= tightest.gap or not math.isfinite(tightest.gap)]
    for tolerance in solver.tolerances[:-1]:
        if not wanted:
            break
        trials.append(trial := attempt(solver, tolerance))
        if trial.gap <= wanted[-1] or trial.last:
            break
    trials.sort(key=_tightness)
    if solver.step < 10:
        found = {first.tolerance for gap in gaps if (first := loosest(trials, gap)) is not None}
        trials += [attempt(solver, tolerance * solver.step) for tolerance in found]
    return sorted(trials, key=_tightness)


def _tightness(trial: Trial) -> float:
    return -trial.tolerance


def loosest(trials: Sequence[Trial], gap: float) -> Trial | None:
    """The first that is within a gap."""
    return next((trial for trial in trials if trial.gap <= gap), None)


class Setting(NamedTuple):
    """A solver at the tolerance that it takes for a gap."""

    solver: Solver
    trial: Trial

    @property
    def label(self) -> str:
        """For a line of a table."""
        return f"{self.solver.name}, {self.solver.setting}={self.trial.tolerance:.0e}"

    def run(self) -> list[float]:
        """Seconds of a fit, as a list of one."""
        return timed(partial(self.solver.fit, self.trial.tolerance))


def choose(trials: Mapping[Solver, Sequence[Trial]], gap: float) -> list[Setting]:
    """What is to be timed: ours, and for each floating type about the fastest of theirs."""
    rivals: dict[str, list[Setting]] = defaultdict(list)
    for solver, tried in trials.items():
        if (trial := loosest(tried, gap)) is not None:
            rivals[solver.rival].append(Setting(solver, trial))
    chosen = []
    for settings in rivals.values():
        most = max(SHORT, CLOSE * min(setting.trial.seconds for setting in settings))
        chosen += [setting for setting in settings if setting.trial.seconds <= most]
    return chosen


def print_gap(case: Case, gap: float, settings: Sequence[Setting], seconds: Seconds) -> None:
    """Prints who is how fast to one gap."""
    medians = {setting.label: statistics.median(seconds[setting.label]) for setting in settings}
    of_theirs = [setting.label for setting in settings if isinstance(setting.solver, Theirs)]
    best = min(of_theirs, key=medians.__getitem__) if of_theirs else None
    ours = next((medians[setting.label] for setting in settings if setting.solver.name == "ours"), math.nan)
    print_line(f"gap <= {gap:.0e}", "median", "min", "max", "true gap", "ours / it", "target")
    for setting in settings:
        label, trial = setting.label, setting.trial
        ratio = f"{ours / medians[label]:.2f}"
        target, verdict = "", trial.remark.partition(", ")[2]
        if setting.solver.name == "ours":
            ratio = ""
            if gap in case.seconds:
                target, verdict = f"<= {case.seconds[gap]} s", f"{_met(ours <= case.seconds[gap])}; {verdict}"
        elif most := case.of_easy.get(setting.solver.name.removeprefix("ours, ")):
            target, verdict = f"<= {most:.2f}", _met(ours <= most * medians[label])
        elif label == best and gap in case.of_theirs:
            most = case.of_theirs[gap]
            target, verdict = f"<= {most:.2f}", f"{_met(ours <= most * medians[label])}; {verdict}"
        print_line(label, *spread(seconds[label]), _gap(trial.gap), ratio, target, verdict)


def print_passes(problem: Problem, tolerance: float) -> None:
    """Prints what one fit of ours spends its time on: by kinds of passes, each with the work that led to it."""
    spent: dict[str, list[float]] = defaultdict(list)
    last = start = time.perf_counter()

    def watch(progress: object, question: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[f"{type(question).__name__}, {str(question.dtype).removeprefix('torch.')}"].append(now - last)
        last = now

    exact.fit(problem.features, problem.labels, problem.objective, tolerance=tolerance, watch=watch)
    total = time.perf_counter() - start
    print_line(f"ours, tolerance={tolerance:.0e}, in passes", "seconds", "passes", "each", "of all")
    for kind, taken in sorted(spent.items(), key=lambda item: -sum(item[1])):
        each = sum(taken) / len(taken)
        print_line(f"  {kind}", f"{sum(taken):.4f}", str(len(taken)), f"{each:.4f}", f"{sum(taken) / total:.0%}")
    rest = total - (last - start)
    print_line("  after the last", f"{rest:.4f}", "", "", f"{rest / total:.0%}")


def print_line(
    name: str, median: str, least: str, most: str, gap: str, ratio: str = "", target: str = "", verdict: str = ""
) -> None:
    """Prints a line of a table."""
    print(f"{name:<40}{median:>9}{least:>9}{most:>9}{gap:>10}{ratio:>11}  {target:<8} {verdict}".rstrip(), flush=True)


def path(arguments: argparse.Namespace) -> None:
    """Prints how long a whole path on MNIST takes, against one fit to the same tolerance: of C = 1, and on average."""
    problem = Problem.of(CASES["mnist"], arguments)
    if problem is None:
        return
    number = len(problem.labels)
    strengths = [1 / (10**power * number) for power in torch.linspace(-6, 5, 45).tolist()]
    rows = MemoryRows(problem.features, problem.labels)
    stated = exact.problem_of(rows, problem.objective)
    print(f"\nsolvers, path: MNIST, {len(strengths)} values of C from 1e-6 to 1e5; seconds to a certified relative gap")
    for gap in arguments.gap or GAPS[:2]:
        points: list[PathPoint] = []
        arms = {
            "one fit, C = 1": partial(timed, partial(Ours(problem).fit, gap)),
            "the path": partial(timed, partial(_solve_path, stated, rows, strengths, gap, points)),
        }
        seconds = alternate(arms, arguments.repeats, cold=0)
        cold = [_fit_cold(problem, l2, gap) for l2 in strengths[::COLD]]
        one, mean = statistics.median(seconds["one fit, C = 1"]), statistics.mean(fit.seconds for fit in cold)
        whole = statistics.median(seconds["the path"])
        print_line(f"gap <= {gap:.0e}", "median", "min", "max", "", "path / it", "target")
        print_line("one fit, C = 1", *spread(seconds["one fit, C = 1"]), "", f"{whole / one:.1f}")
        certified = f"{_met(whole <= PATH * mean)}; {sum(fit.converged for fit in cold)} of {len(cold)} converged"
        least, most = (f"{end(fit.seconds for fit in cold):.4f}" for end in (min, max))
        every = f"one fit, mean of every {COLD}th C"
        print_line(every, f"{mean:.4f}", least, most, "", f"{whole / mean:.1f}", f"<= {PATH}", certified)
        converged, passes = sum(point.converged for point in points), sum(point.passes for point in points)
        verdict = f"{converged} of {len(points)} converged, {passes} passes"
        print_line("the path", *spread(seconds["the path"]), "", "", "", verdict)


def _fit_cold(problem: Problem, l2: float, gap: float) -> exact.Fit:
    objective = replace(problem.objective, l2=l2)
    return exact.fit(problem.features, problem.labels, objective, tolerance=gap, max_passes=COLD_PASSES)


def _solve_path(
    problem: Stated, rows: MemoryRows, strengths: Sequence[float], gap: float, points: list[PathPoint]
) -> None:
    points[:] = drive(fit_path(problem, strengths, gap), rows)


def memory(arguments: argparse.Namespace) -> None:
    """Prints by how much a process that has read its rows grows when it fits them."""
    if arguments.device != "cpu":
        return
    print("\nsolvers, memory: peak GiB of a process that reads the rows, and of one that also fits them")
    print_line("", "data", "read", "fitted", "", "of data", "target")
    for name in ("binary", "mnist"):
        problem = Problem.of(CASES[name], arguments)
        if problem is None:
            continue
        size = (problem.features.nbytes + problem.labels.nbytes) / 2**30
        with tempfile.TemporaryDirectory() as folder:
            peaks = ([_peak(problem, Path(folder), fits) for _ in range(arguments.repeats)] for fits in (False, True))
            read, fitted = (statistics.median(peak) for peak in peaks)
        share = 1 + (fitted - read) / size
        verdict = _met(share <= MEMORY)
        print_line(name, f"{size:.3f}", f"{read:.3f}", f"{fitted:.3f}", "", f"{share:.2f}", f"<= {MEMORY}", verdict)


def _peak(problem: Problem, folder: Path, fits: bool) -> float:
    import numpy as np

    np.save(folder / "features.npy", problem.features.numpy())
    np.save(folder / "labels.npy", problem.labels.numpy())
    task = json.dumps([str(folder), problem.objective.loss, problem.objective.l2, fits])
    return process_peak(["-c", FIT, task])[1]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ends what takes longer.

    Raises:
        TimeoutError: It took longer.
    """

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _gap(gap: float) -> str:
    return f"{gap:.1e}" if gap > OPTIMUM else f"< {OPTIMUM:.0e}"


def _met(met: bool) -> str:
    return "met" if met else "not met"


def mnist_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor] | None:
    """The train split, from --mnist-root."""
    from torchvision.datasets import MNIST

    root = arguments.mnist_root
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        print(f"\nNo MNIST in {root}: name its folder with --mnist-root.")
        return None
    images = MNIST(str(root), train=True)
    return images.data.flatten(1) / 255, images.targets


def binary_rows(arguments: argparse.Namespace, columns: int = 30) -> tuple[Tensor, Tensor]:
    """Standard normal features, and labels of a logistic model of them."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1_000_000, columns, generator=draw)
    coef = torch.randn(columns, generator=draw) / 3
    labels = torch.rand(1_000_000, generator=draw) < torch.sigmoid(features @ coef + 0.5)
    return features, labels.long()


def scaled_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The same in other units, and rare levels."""
    features, labels = binary_rows(arguments)
    draw = torch.Generator().manual_seed(1)
    rare = torch.rand(len(labels), 30, generator=draw) < 1e-4
    return torch.cat([features * 10 ** torch.linspace(-3, 4, 30), rare.float()], dim=1), labels


def wide_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Standard normal features, fifty of which matter."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 20_000, generator=draw)
    labels = features[:, :50].sum(1) + 3 * torch.randn(1000, generator=draw) > 0
    return features, labels.long()


def alike_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The same, and fifty factors in all of them, the strongest a hundred times the weakest."""
    features, labels = wide_rows(arguments)
    draw = torch.Generator().manual_seed(1)
    factors = torch.randn(len(features), 50, generator=draw) * torch.logspace(1, -1, 50)
    return features.addmm_(factors, torch.randn(50, features.shape[1], generator=draw)), labels


def breast_cancer_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """As scikit-learn brings it, in float64."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return torch.tensor(features), torch.tensor(labels)


CASES = {
    "mnist": Case("MNIST, 60,000 x 784, 10 classes, pixels / 255", mnist_rows, of_theirs={1e-3: 1 / 10, 1e-5: 1 / 6}),
    "binary": Case("1,000,000 x 30, well conditioned", binary_rows, of_theirs=dict.fromkeys(GAPS, 0.8)),
    "binary60": Case("1,000,000 x 60, well conditioned", partial(binary_rows, columns=60)),
    "scaled": Case(
        "the same in scales of 1e-3 to 1e4, and 30 one-hot columns of frequency 1e-4",
        scaled_rows,
        of_easy={"binary": 1.5, "binary60": 1.5},
    ),
    "wide": Case("1,000 x 20,000, binary", wide_rows, of_theirs={1e-8: 0.5}),
    "alike": Case("1,000 x 20,000, binary, rows that have much in common", alike_rows),
    "breast_cancer": Case("breast_cancer, 569 x 30, raw units", breast_cancer_rows, seconds={1e-8: 0.2}),
}
"""The table's rows by name."""

PROBLEMS: dict[str, Callable[[argparse.Namespace], None]] = {
    **{name: partial(compare, name) for name in CASES},
    "path": path,
    "memory": memory,
    "l1": benchmark_l1.run,
}
"""What --problem may name."""
