"""Times the way to the optimum, against scikit-learn's solvers, on seven problems; takes an hour and more.

For each problem the optimum f* comes from a certified float64 fit of ours.  The tolerance of each solver is swept from
loose to tight, and the objective at its answer is computed here, in float64 over all rows.  A solver therefore counts
as within a gap if its answer is, whatever the solver itself reports.  The loosest tolerance that suffices is timed, the
solvers in turns, from arrays in memory to the answer; our time includes the certificate.

The figures are seconds to a relative gap (f - f*) / f*.  The column "ours / it" is the ratio of our median to that of
lbfgs, newton-cg or newton-cholesky, in float32 or float64; a ratio below 1 means that ours is faster.  A last table
splits our time by kinds of passes.  Progress is printed on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from common import Seconds, add_mnist_root, alternate, has_mnist, met, new_parser, print_versions, spread, timed
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.solvers import fit as exact

if TYPE_CHECKING:
    import numpy as np

GAPS = (1e-3, 1e-5, 1e-8)
"""Relative gaps (f - f*) / f* to reach."""

FLOAT32_GAP = 1e-5
"""A relative gap that float32 arithmetic can reach."""

OPTIMUM = 1e-12
"""Relative gap to which f* is certified."""

MOST_SECONDS = 120.0
"""Seconds allowed to a fit.  scikit-learn's lbfgs gets the number of iterations that take this long."""

STOP_RATIO = 1.5
"""A fit is stopped without an answer after this multiple of MOST_SECONDS."""

RIVAL_RATIO = 1.5
"""Solvers are timed if their first trial took at most this multiple of the fastest solver's."""

SHORT_SECONDS = 5.0
"""Solvers whose first trial was shorter are timed in any case: one short trial is too noisy to exclude a solver."""

MOST_PARAMETERS = 1000
"""Largest number of parameters for scikit-learn's newton-cholesky, which forms the Hessian."""

BLOCK_ROWS = 10_000
"""Rows whose objective is computed at a time."""


@dataclass(frozen=True)
class Case:
    """A problem, and the targets of ours on it.

    Attributes:
        what: Description of the problem for the title.
        rows: Reads or makes features (N, D) and labels (N,); ``None`` if the data are not on this disk.
        of_theirs: Gap -> target for the ratio of our time to that of scikit-learn's best solver.
        of_easy: Name of an easier case -> target for the ratio of our time to our time on that case.
        seconds: Gap -> target for our time, in seconds.
    """

    what: str
    rows: Callable[[argparse.Namespace], tuple[Tensor, Tensor] | None]
    of_theirs: Mapping[float, float] = field(default_factory=dict)
    of_easy: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[float, float] = field(default_factory=dict)


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables of the chosen problems; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    add_mnist_root(parser)
    parser.add_argument(
        "--problem", action="append", choices=list(CASES), help="one of the problems (again for more; default: all)"
    )
    parser.add_argument(
        "--gap",
        action="append",
        type=float,
        metavar="GAP",
        help="a relative gap to reach, such as 1e-5 (again for more)",
    )
    parser.add_argument("--ours-alone", action="store_true", help="leaves scikit-learn out")
    parser.add_argument("--device", default="cpu", help="cuda times ours alone on a GPU (default: cpu)")
    arguments = parser.parse_args(typed)
    print_versions()
    on_gpu = arguments.device != "cpu"
    print(f"ours on {torch.cuda.get_device_name(arguments.device) if on_gpu else f'{torch.get_num_threads()} threads'}")
    for name in arguments.problem or CASES:
        compare(name, arguments)
    return 0


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
    """Rows in memory and the objective over them, with scikit-learn's C = 1."""

    features: Tensor
    """Shape (N, D)."""
    labels: Tensor
    """Shape (N,)."""
    objective: Objective

    @classmethod
    def of(cls, case: Case, arguments: argparse.Namespace) -> Problem | None:
        """The problem of a case, on the chosen device; ``None`` without its data."""
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
        """f*, from a float64 fit of ours."""
        fit = exact.fit(self.features, self.labels, self.objective, tolerance=OPTIMUM, dtype=torch.float64)
        certified = fit.bound.gap / fit.bound.value
        remark = f"certified to {certified:.1e} by a float64 run of {fit.passes} passes in {fit.seconds:.3g} s"
        if not fit.bound.rigorous or certified > OPTIMUM:
            remark += f": NOT below {OPTIMUM}"
        return Optimum(self.value(fit.coef, fit.intercept), remark)

    def value(self, coef: Tensor, intercept: Tensor) -> float:
        """The objective at coef (K, D) and intercept (K,), in float64 over all rows."""
        summed, total = replace(self.objective, reduction="sum"), 0.0
        for features, labels in zip(self.features.split(BLOCK_ROWS), self.labels.split(BLOCK_ROWS), strict=True):
            logits = torch.addmm(intercept, features.double(), coef.T)
            total += float(summed.data_term(logits, one_vs_rest(labels, self.num_outputs, torch.float64)))
        return total / len(self.labels) + float(self.objective.penalty(coef))

    def gap(self, coef: Tensor, intercept: Tensor) -> float:
        """(f - f*) / f* there."""
        return self.value(coef, intercept) / self.optimum.value - 1


class Optimum(NamedTuple):
    """f*, and how it was certified."""

    value: float
    remark: str


class Answer(NamedTuple):
    """The result of a fit."""

    coef: Tensor
    """Shape (K, D), float64."""
    intercept: Tensor
    """Shape (K,)."""
    remark: str
    """The solver's own report."""
    iterations: int = 0
    cut: bool = False
    """Whether the iterations were used up."""


class Solver:
    """A way to fit one problem.

    Attributes:
        name: For a line of a table.
        rival: Solvers with the same value compete: only the fastest of them are timed.
        setting: Name of the argument that sets the tolerance.
        step: Ratio of two tolerances whose gaps differ by about a factor of ten.
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
        """Fits with our defaults."""
        problem = self.problem
        fit = exact.fit(problem.features, problem.labels, problem.objective, tolerance=tolerance)
        return Answer(
            fit.coef, fit.intercept, f"certified to {fit.bound.gap / fit.bound.value:.0e}, {fit.passes} passes"
        )


class Theirs(Solver):
    """scikit-learn's LogisticRegression."""

    setting, step = "tol", math.sqrt(10)  # tol bounds the gradient, and the gap grows with its square
    tolerances = tuple(10.0**-power for power in range(1, 13))

    def __init__(self, problem: Problem, features: np.ndarray, solver: str) -> None:
        self.problem, self.features, self.solver = problem, features, solver
        self.labels = problem.labels.numpy()
        self.name, self.rival = f"{solver} {features.dtype}", str(features.dtype)
        self.max_iter = 1000

    def fit(self, tolerance: float) -> Answer:
        """Fits with a sufficient number of iterations."""
        return self.fit_with(tol=tolerance, max_iter=self.max_iter)

    def fit_with(self, **arguments: Any) -> Answer:
        """Fits with the given arguments of scikit-learn, and its defaults for the others."""
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
    """scikit-learn's solvers that fit a problem of this size; prints the gap that its defaults reach."""
    names = ["lbfgs", "newton-cg"]
    if problem.num_outputs * (problem.features.shape[1] + 1) <= MOST_PARAMETERS:
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
        first.max_iter = max(100, int(MOST_SECONDS * answer.iterations / seconds))
        solvers += [first, *(Theirs(problem, features, name) for name in names[1:])]
    return solvers


class Trial(NamedTuple):
    """One fit at one tolerance."""

    tolerance: float
    gap: float
    """Relative to f*; infinite if the fit was stopped."""
    seconds: float
    remark: str
    last: bool
    """Whether a tighter tolerance would not help."""


def attempt(solver: Solver, tolerance: float) -> Trial:
    """Fits once, and prints the outcome on standard error, since the sweep of tolerances takes long."""
    print(f"  {solver.name}, {solver.setting}={tolerance:.0e}:", end=" ", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        with at_most(MOST_SECONDS * STOP_RATIO):
            answer = solver.fit(tolerance)
    except TimeoutError:
        print("no answer", file=sys.stderr)
        return Trial(tolerance, math.inf, time.perf_counter() - start, f"{solver.setting}={tolerance:.0e}", last=True)
    seconds = time.perf_counter() - start
    gap = solver.problem.gap(answer.coef, answer.intercept)
    remark = f"{solver.setting}={tolerance:.0e}, {answer.remark}"
    print(f"{_gap(gap)} after {seconds:.3g} s", file=sys.stderr)
    return Trial(tolerance, gap, seconds, remark, answer.cut or seconds > MOST_SECONDS)


def calibrate(solver: Solver, gaps: Sequence[float]) -> list[Trial]:
    """Tries tolerances from loose to tight until the smallest gap is reached.

    Where a gap is smaller than FLOAT32_GAP, the tightest tolerance is tried first, to see which gaps can be reached.
    Other gaps are always reached, so this longest of all fits is saved.

    Returns:
        All trials, from loose to tight.
    """
    trials, wanted = [], list(gaps)
    if gaps[-1] < FLOAT32_GAP:
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
    """The first trial that reaches a gap; ``None`` if none does."""
    return next((trial for trial in trials if trial.gap <= gap), None)


class Setting(NamedTuple):
    """A solver at the tolerance that reaches a gap."""

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
    """The solvers to time: ours, and for float32 and float64 the fastest of scikit-learn's."""
    rivals: dict[str, list[Setting]] = defaultdict(list)
    for solver, tried in trials.items():
        if (trial := loosest(tried, gap)) is not None:
            rivals[solver.rival].append(Setting(solver, trial))
    chosen = []
    for settings in rivals.values():
        most = max(SHORT_SECONDS, RIVAL_RATIO * min(setting.trial.seconds for setting in settings))
        chosen += [setting for setting in settings if setting.trial.seconds <= most]
    return chosen


def print_gap(case: Case, gap: float, settings: Sequence[Setting], seconds: Seconds) -> None:
    """Prints the seconds of each solver to one gap."""
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
                target, verdict = f"<= {case.seconds[gap]} s", f"{met(ours <= case.seconds[gap])}; {verdict}"
        elif most := case.of_easy.get(setting.solver.name.removeprefix("ours, ")):
            target, verdict = f"<= {most:.2f}", met(ours <= most * medians[label])
        elif label == best and gap in case.of_theirs:
            most = case.of_theirs[gap]
            target, verdict = f"<= {most:.2f}", f"{met(ours <= most * medians[label])}; {verdict}"
        print_line(label, *spread(seconds[label]), _gap(trial.gap), ratio, target, verdict)


def print_passes(problem: Problem, tolerance: float) -> None:
    """Prints the time of one fit of ours by kinds of passes, each with the solver's work before it."""
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


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stops the code inside after a time limit.

    Raises:
        TimeoutError: The limit was reached.
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


def mnist_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor] | None:
    """MNIST's train images, from --mnist-root."""
    from torchvision.datasets import MNIST

    root = arguments.mnist_root
    if not has_mnist(root):
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
    """The rows of `binary` in other units, and 30 rare indicator columns."""
    features, labels = binary_rows(arguments)
    draw = torch.Generator().manual_seed(1)
    rare = torch.rand(len(labels), 30, generator=draw) < 1e-4
    return torch.cat([features * 10 ** torch.linspace(-3, 4, 30), rare.float()], dim=1), labels


def wide_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Standard normal features; the label depends on fifty of them."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 20_000, generator=draw)
    labels = features[:, :50].sum(1) + 3 * torch.randn(1000, generator=draw) > 0
    return features, labels.long()


def alike_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The rows of `wide` plus fifty common factors, the strongest a hundred times the weakest."""
    features, labels = wide_rows(arguments)
    draw = torch.Generator().manual_seed(1)
    factors = torch.randn(len(features), 50, generator=draw) * torch.logspace(1, -1, 50)
    return features.addmm_(factors, torch.randn(50, features.shape[1], generator=draw)), labels


def breast_cancer_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """scikit-learn's table, in float64."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return torch.tensor(features), torch.tensor(labels)


CASES = {
    "mnist": Case("MNIST, 60,000 x 784, 10 classes, pixels / 255", mnist_rows, of_theirs={1e-3: 1 / 10, 1e-5: 1 / 6}),
    "binary": Case("1,000,000 x 30, well conditioned", binary_rows, of_theirs=dict.fromkeys(GAPS, 0.8)),
    "binary60": Case("1,000,000 x 60, well conditioned", partial(binary_rows, columns=60)),
    "scaled": Case(
        "1,000,000 x 30 in scales of 1e-3 to 1e4, and 30 one-hot columns of frequency 1e-4",
        scaled_rows,
        of_easy={"binary": 1.5, "binary60": 1.5},
    ),
    "wide": Case("1,000 x 20,000, binary", wide_rows, of_theirs={1e-8: 0.5}),
    "alike": Case("1,000 x 20,000, binary, strongly correlated rows", alike_rows),
    "breast_cancer": Case("breast_cancer, 569 x 30, raw units", breast_cancer_rows, seconds={1e-8: 0.2}),
}
"""Name for --problem -> problem."""


if __name__ == "__main__":
    sys.exit(main())
