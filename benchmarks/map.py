"""Times exact fits on many shapes of problem against the solvers that people would use instead: the map.

For each problem the optimum f* comes from a certified float64 fit of ours.  The tolerance of each solver is swept from
loose to tight, and the objective at its answer is computed here, in float64 over all rows.  A solver therefore counts
as within a gap if its answer is, whatever the solver itself reports.  The loosest tolerance that suffices is timed, the
solvers in turns, from arrays in memory to the answer; our time includes the certificate.  A rival is broken off where
one of its fits takes more than --cut times ours.

Rivals with l2: scikit-learn's lbfgs, newton-cg and newton-cholesky, in float32 and float64.  With l1: skglm, celer,
glum and cyanure where they are installed, and scikit-learn's liblinear and saga.

The figures are seconds to a true relative gap (f - f*) / f*.  The ratio is of our median to that of the best rival, so
below 1 ours is faster; "> 5" stands for a rival that was broken off.  The memory is the peak during one fit above the
memory before it, on Linux.  --growth prints the seconds of ours as N, D or K grows, with fitted exponents.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import math
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from common import IDLE_SECONDS, add_mnist_root, has_mnist, new_parser, positive, print_versions
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.solvers import fit as exact

if TYPE_CHECKING:
    import numpy as np

GAPS = (1e-3, 1e-6, 1e-8)
"""Relative gaps (f - f*) / f* to reach."""

OPTIMUM = 1e-11
"""Relative gap to which f* is certified."""

TOLERANCES = tuple(10 ** (-half / 2) for half in range(1, 27))
"""Tolerances to try, from loose to tight."""

SHORT_SECONDS = 0.02
"""A fit is repeated until it has taken this long, since one short fit is too noisy; a rival has at least this time."""

MAX_CHOLESKY_PARAMETERS = 3000
"""Largest number of parameters for scikit-learn's newton-cholesky, which forms the Hessian."""

BLOCK_ROWS = 10_000
"""Rows whose objective is computed at a time."""

TINY = (300, 40, 5)
"""Rows, features and classes at most with --tiny."""


@dataclass(frozen=True)
class Case:
    """A shape of problem.

    Attributes:
        rows: Makes features (N, D) and labels (N,); ``None`` if the data are not on this disk.
        l2: Strength of l2; ``None`` for 1 / N, which is scikit-learn's C = 1.
        l1: Strength of l1 as a fraction of the least strength at which all coefficients are 0; then l2 is 0.
        intercept: Whether the model has one.
    """

    rows: Callable[[argparse.Namespace], tuple[Tensor, Tensor] | None]
    l2: float | None = None
    l1: float = 0.0
    intercept: bool = True


@dataclass(frozen=True)
class Draw:
    """How features (N, D) and labels (N,) are drawn; the labels follow a logistic model of the features."""

    rows: int
    features: int
    classes: int = 2
    factors: int = 0
    """Common factors of the features, the j-th of standard deviation 10 / j, as in embeddings."""
    informative: int = 0
    """Features with a coefficient; 0 for all."""
    rare: float = 0.0
    """Frequency of features that are 0 or 1; 0 for normal features."""
    scales: float = 0.0
    """Powers of ten that the units of the features span."""
    shift: float = 0.0
    """Added to the logits, for classes of unequal size."""
    double: bool = False

    def __call__(self, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
        """The features and the labels."""
        n, d, k = self.rows, self.features, self.classes
        if arguments.tiny:
            n, d, k = min(n, TINY[0]), min(d, TINY[1]), min(k, TINY[2])
        source = torch.Generator().manual_seed(0)
        if self.rare:
            frequency = self.rare * torch.logspace(-1, 1, d)
            features = (torch.rand(n, d, generator=source) < frequency).float()
        else:
            features = torch.randn(n, d, generator=source)
        if self.factors:
            strengths = 10 / torch.arange(1, self.factors + 1)
            loadings = torch.randn(self.factors, d, generator=source) * strengths.unsqueeze(1)
            features.mul_(0.3).addmm_(torch.randn(n, self.factors, generator=source), loadings)
            features /= features.std(0)
        coef = torch.randn(d, 1 if k == 2 else k, generator=source)
        if self.informative:
            coef[self.informative :] = 0
        logits = features @ coef
        logits *= 2 / logits.std()
        logits[:, 0] += self.shift
        noise = torch.rand(logits.shape, generator=source).clamp(1e-6, 1 - 1e-6)
        labels = (noise < logits.sigmoid())[:, 0].long() if k == 2 else (logits - (-noise.log()).log()).argmax(1)
        labels[:k] = torch.arange(k)  # every class has a row
        if self.scales:
            features *= torch.logspace(-self.scales / 2, self.scales / 2, d)
        return (features.double() if self.double else features), labels


def covertype_rows(arguments: argparse.Namespace, standardized: bool) -> tuple[Tensor, Tensor]:
    """Rows like those of the forest cover types: ten numbers of unequal units and offsets, and 44 indicators."""
    source = torch.Generator().manual_seed(0)
    n = TINY[0] if arguments.tiny else 50_000
    numbers = torch.randn(n, 10, generator=source)
    of_type = torch.randint(44, (n,), generator=source).square() // 44  # some are rare
    features = torch.cat([numbers, torch.eye(44)[of_type]], dim=1)
    logits = features @ torch.randn(54, 7, generator=source) + torch.tensor([2.0, 2.5, 0.5, -2.0, -1.0, -0.5, 0.0])
    noise = torch.rand(logits.shape, generator=source).clamp(1e-6, 1 - 1e-6)
    labels = (logits - (-noise.log()).log()).argmax(1)
    labels[:7] = torch.arange(7)
    if standardized:
        return (features - features.mean(0)) / features.std(0).clamp(min=1e-6), labels
    units = torch.tensor([280.0, 112, 7, 210, 58, 1560, 27, 20, 38, 1320])
    offsets = torch.tensor([2960.0, 155, 14, 270, 46, 2350, 212, 223, 142, 1980])
    features[:, :10] = features[:, :10] * units + offsets
    return features, labels


def bundled_rows(arguments: argparse.Namespace, name: str, standardized: bool = False) -> tuple[Tensor, Tensor]:
    """A table that comes with scikit-learn, in float64; digits in units of 16."""
    import sklearn.datasets

    features, labels = (torch.tensor(part) for part in getattr(sklearn.datasets, f"load_{name}")(return_X_y=True))
    features = features / 16 if name == "digits" else features
    return ((features - features.mean(0)) / features.std(0) if standardized else features), labels


def mnist_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor] | None:
    """MNIST's train images, from --mnist-root; pixels / 255."""
    from torchvision.datasets import MNIST

    if not has_mnist(arguments.mnist_root):
        return None
    images = MNIST(str(arguments.mnist_root), train=True)
    return images.data.flatten(1) / 255, images.targets


def alike_rows(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Few rows of many features with fifty common factors, the strongest a hundred times the weakest."""
    features, labels = Draw(1000, 20_000, informative=50)(arguments)
    source = torch.Generator().manual_seed(1)
    factors = torch.randn(len(features), 50, generator=source) * torch.logspace(1, -1, 50)
    return features.addmm_(factors, torch.randn(50, features.shape[1], generator=source)), labels


_BREAST = partial(bundled_rows, name="breast_cancer", standardized=True)
_TALL_L1 = Draw(20_000, 200, informative=20, double=True)
_WIDE_L1 = Draw(500, 5000, informative=20, double=True)
_EMBEDDED = Draw(50_000, 768, 10, factors=100)

CASES = {
    "many-classes": Case(Draw(100_000, 20, 20)),
    "10k-900": Case(Draw(10_000, 900)),
    "20k-30-30": Case(Draw(20_000, 30, 30)),
    "40k-1000": Case(Draw(40_000, 1000)),
    "10k-300": Case(Draw(10_000, 300)),
    "10k-300-correlated": Case(Draw(10_000, 300, factors=30)),
    "breast-cancer": Case(_BREAST),
    "breast-cancer-raw": Case(partial(bundled_rows, name="breast_cancer")),
    "100-5": Case(Draw(100, 5, double=True)),
    "1000-10": Case(Draw(1000, 10, double=True)),
    "20k-50": Case(Draw(20_000, 50)),
    "20k-50-strong": Case(Draw(20_000, 50), l2=1e-2),
    "20k-50-weak": Case(Draw(20_000, 50), l2=1e-8),
    "covertype": Case(partial(covertype_rows, standardized=True)),
    "covertype-raw": Case(partial(covertype_rows, standardized=False)),
    "digits": Case(partial(bundled_rows, name="digits")),
    "one-hot": Case(Draw(20_000, 200, rare=0.02)),
    "200k-100": Case(Draw(200_000, 100)),
    "2M-20": Case(Draw(2_000_000, 20)),
    "1M-30-scaled": Case(Draw(1_000_000, 30, scales=7)),
    "imbalanced": Case(Draw(100_000, 30, shift=-5)),
    "embeddings-10": Case(_EMBEDDED),
    "embeddings-10-weak": Case(_EMBEDDED, l2=1e-8),
    "embeddings-100": Case(replace(_EMBEDDED, rows=20_000, classes=100)),
    "embeddings-1024": Case(Draw(10_000, 1024, 100, factors=100)),
    "mnist": Case(mnist_rows),
    "5k-2000": Case(Draw(5000, 2000)),
    "4k-1500-weak": Case(Draw(4000, 1500, factors=100), l2=1e-7),
    "10k-10k": Case(Draw(10_000, 10_000)),
    "genes": Case(Draw(500, 5000, informative=50)),
    "genes-5": Case(Draw(200, 50_000, 5, informative=50)),
    "alike": Case(alike_rows),
    "l1-breast-cancer-0.1": Case(_BREAST, l1=0.1, intercept=False),
    "l1-breast-cancer-0.01": Case(_BREAST, l1=0.01, intercept=False),
    "l1-20k-200-0.1": Case(_TALL_L1, l1=0.1, intercept=False),
    "l1-20k-200-0.01": Case(_TALL_L1, l1=0.01, intercept=False),
    "l1-500-5000-0.1": Case(_WIDE_L1, l1=0.1, intercept=False),
    "l1-500-5000-0.01": Case(_WIDE_L1, l1=0.01, intercept=False),
}
"""Name for --case -> problem."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows in memory and the objective over them."""

    features: Tensor
    """Shape (N, D)."""
    labels: Tensor
    """Shape (N,)."""
    objective: Objective
    intercept: bool = True

    @classmethod
    def of(cls, case: Case, arguments: argparse.Namespace) -> Problem | None:
        """The problem of a case, on the chosen device; ``None`` without its data."""
        rows = case.rows(arguments)
        if rows is None:
            return None
        features, labels = (part.to(arguments.device) for part in rows)
        loss = "bce" if int(labels.max()) == 1 else "cross_entropy"
        if not case.l1:
            return cls(features, labels, Objective(loss, l2=case.l2 or 1 / len(labels)), case.intercept)
        outputs = 1 if loss == "bce" else int(labels.max()) + 1
        targets = one_vs_rest(labels, outputs, torch.float64)
        residuals = targets - (targets.mean(0) if case.intercept else 1 / max(outputs, 2))
        largest = float((residuals.T @ features.double()).abs().max()) / len(labels)
        return cls(features, labels, Objective(loss, l1=case.l1 * largest), case.intercept)

    @property
    def num_outputs(self) -> int:
        """K."""
        return 1 if self.objective.loss == "bce" else int(self.labels.max()) + 1

    @property
    def shape(self) -> str:
        """The size and the penalty."""
        n, d = self.features.shape
        classes = max(self.num_outputs, 2)
        penalty = f"l2={self.objective.l2:.0e}" if self.objective.l2 else f"l1={self.objective.l1:.1e}"
        return f"{n:,} x {d:,}, {classes} classes, {penalty}, {str(self.features.dtype).removeprefix('torch.')}"

    @cached_property
    def optimum(self) -> Optimum:
        """f*, from a float64 fit of ours."""
        fit = self.fitted(OPTIMUM, dtype=torch.float64)
        certified = fit.bound.gap / fit.bound.value
        return Optimum(self.value(fit.coef, fit.intercept), certified, fit.bound.rigorous and certified <= OPTIMUM)

    def fitted(self, tolerance: float, **options: Any) -> exact.Fit:
        """A fit of ours."""
        return exact.fit(
            self.features, self.labels, self.objective, tolerance=tolerance, intercept=self.intercept, **options
        )

    def value(self, coef: Tensor, intercept: Tensor) -> float:
        """The objective at coef (K, D) and intercept (K,), in float64 over all rows."""
        summed, total = replace(self.objective, reduction="sum"), 0.0
        for features, labels in zip(self.features.split(BLOCK_ROWS), self.labels.split(BLOCK_ROWS), strict=True):
            logits = torch.addmm(intercept, features.double(), coef.T)
            total += float(summed.data_term(logits, one_vs_rest(labels, self.num_outputs, torch.float64)))
        return total / len(self.labels) + float(self.objective.penalty(coef))

    def gap(self, answer: Answer) -> float:
        """(f - f*) / f* there."""
        return self.value(answer.coef, answer.intercept) / self.optimum.value - 1


class Optimum(NamedTuple):
    """f*, and the relative gap to which it is certified."""

    value: float
    gap: float
    certified: bool


class Answer(NamedTuple):
    """The result of a fit."""

    coef: Tensor
    """Shape (K, D), float64."""
    intercept: Tensor
    """Shape (K,)."""
    certified: float = math.nan
    """The relative gap that ours certifies."""
    passes: int = 0


class Solver(NamedTuple):
    """A way to fit one problem: its name, and a fit to a tolerance of its own kind."""

    name: str
    fit: Callable[[float], Answer]


def ours(problem: Problem) -> Solver:
    """`logreg.solvers.fit.fit`."""

    def fit(tolerance: float) -> Answer:
        fit = problem.fitted(tolerance)
        return Answer(fit.coef, fit.intercept, fit.bound.gap / fit.bound.value, fit.passes)

    return Solver("ours", fit)


def rivals(problem: Problem) -> Iterator[Solver]:
    """The solvers that fit this kind of problem."""
    if problem.objective.l2:
        names = ["lbfgs", "newton-cg"]
        if problem.num_outputs * problem.features.shape[1] <= MAX_CHOLESKY_PARAMETERS:
            names.append("newton-cholesky")
        for dtype in (torch.float32, torch.float64):
            features = problem.features.to(dtype).numpy()
            for name in names:
                yield Solver(f"{name} {features.dtype}", partial(_scikit_learn, problem, features, name))
        return
    features = problem.features.double().numpy()
    if problem.num_outputs == 1:
        for name in L1_RIVALS:
            if importlib.util.find_spec(name):
                yield Solver(name, partial(_other_package, problem, features, name))
        yield Solver("liblinear", partial(_scikit_learn, problem, features, "liblinear"))
    yield Solver("saga", partial(_scikit_learn, problem, features, "saga"))


def _scikit_learn(problem: Problem, features: np.ndarray, solver: str, tolerance: float) -> Answer:
    from sklearn.linear_model import LogisticRegression

    l1 = problem.objective.l1
    model = LogisticRegression(
        C=1 / (len(features) * (problem.objective.l2 or l1)),
        l1_ratio=float(l1 > 0),
        solver=solver,
        fit_intercept=problem.intercept,
        tol=tolerance,
        max_iter=100_000,
    ).fit(features, problem.labels.numpy())
    return _answer(model.coef_, model.intercept_)


def _skglm(problem: Problem, tolerance: float) -> Any:
    return import_module("skglm").SparseLogisticRegression(
        problem.objective.l1, tol=tolerance, max_iter=1000, max_epochs=100_000, fit_intercept=problem.intercept
    )


def _celer(problem: Problem, tolerance: float) -> Any:
    return import_module("celer").LogisticRegression(
        C=1 / (len(problem.labels) * problem.objective.l1), tol=tolerance, max_iter=1000, max_epochs=100_000
    )


def _glum(problem: Problem, tolerance: float) -> Any:
    return import_module("glum").GeneralizedLinearRegressor(
        family="binomial",
        alpha=problem.objective.l1,
        l1_ratio=1.0,
        fit_intercept=problem.intercept,
        gradient_tol=tolerance,
        max_iter=1000,
    )


def _cyanure(problem: Problem, tolerance: float) -> Any:
    return import_module("cyanure.estimators").Classifier(
        loss="logistic",
        penalty="l1",
        lambda_1=problem.objective.l1,
        fit_intercept=problem.intercept,
        tol=tolerance,
        max_iter=10_000,
        verbose=False,
    )


L1_RIVALS = {"skglm": _skglm, "celer": _celer, "glum": _glum, "cyanure": _cyanure}
"""Package -> its estimator for a problem with l1 and a tolerance."""


def _other_package(problem: Problem, features: np.ndarray, name: str, tolerance: float) -> Answer:
    labels = problem.labels.double() if name == "glum" else problem.labels
    model = L1_RIVALS[name](problem, tolerance).fit(features, labels.numpy())
    return _answer(model.coef_, model.intercept_ if problem.intercept else 0.0)


def _answer(coef: Any, intercept: Any) -> Answer:
    coef = torch.as_tensor(coef, dtype=torch.float64)
    coef = coef.reshape(1, -1) if coef.ndim == 1 or coef.shape[1] == 1 else coef
    intercept = torch.as_tensor(intercept, dtype=torch.float64).reshape(-1)
    return Answer(coef, intercept.expand(len(coef)))


class Clock:
    """Seconds of a fit, by wall time or by process time."""

    def __init__(self, process: bool) -> None:
        self.process, self.now = process, time.process_time if process else time.perf_counter

    def __call__(self, work: Callable[[], object], times: int = 1) -> float:
        """Mean seconds of ``times`` calls."""
        start = self.now()
        for _ in range(times):
            work()
        return (self.now() - start) / times


class Trial(NamedTuple):
    """One fit at one tolerance."""

    tolerance: float
    gap: float
    """True relative gap; infinite if the fit was broken off."""
    seconds: float
    answer: Answer | None


def swept(problem: Problem, solver: Solver, clock: Clock, gaps: Sequence[float], most: float) -> list[Trial]:
    """Tries tolerances from loose to tight until all gaps are reached, or a fit takes longer than ``most`` seconds."""
    trials: list[Trial] = []
    for tolerance in TOLERANCES:
        answers: list[Answer] = []
        start = clock.now()
        try:
            with at_most(most, clock.process):
                answers.append(solver.fit(tolerance))
        except TimeoutError:
            trials.append(Trial(tolerance, math.inf, clock.now() - start, None))
            break
        except Exception as error:  # a rival that cannot fit this problem
            print(f"  {solver.name}: {type(error).__name__}: {error}", file=sys.stderr)
            break
        trial = Trial(tolerance, problem.gap(answers[0]), clock.now() - start, answers[0])
        trials.append(trial)
        if trial.gap <= gaps[-1]:
            break
    return trials


@dataclass
class Timed:
    """A solver at the tolerance that reaches a gap, and its seconds."""

    solver: Solver
    trial: Trial
    seconds: list[float]

    @property
    def median(self) -> float:
        """The median of its seconds."""
        return statistics.median(self.seconds)


def compare(
    problem: Problem, arguments: argparse.Namespace, others: Callable[[Any], Iterator[Solver]] = rivals
) -> Iterator[str]:
    """A line of the map for each gap; ``others`` are the solvers to compare with."""
    clock, gaps = Clock(arguments.process_time), sorted(arguments.gap or GAPS, reverse=True)
    own = ours(problem)
    with contextlib.suppress(TimeoutError), at_most(arguments.limit):
        own.fit(gaps[0])  # libraries load some of their code at their first use
    trials = {own: swept(problem, own, clock, gaps, arguments.limit)}
    slowest = max(trial.seconds for trial in trials[own])
    if not arguments.ours_alone:
        for rival in others(problem):
            with contextlib.suppress(Exception), at_most(arguments.limit):
                rival.fit(0.1)
            trials[rival] = swept(problem, rival, clock, gaps, max(arguments.cut * slowest, SHORT_SECONDS))
    if not problem.optimum.certified:
        yield f"| f* is certified to {problem.optimum.gap:.0e} only |"
    for gap in gaps:
        yield _line(problem, own, trials, gap, clock, arguments)


def _line(
    problem: Problem,
    own: Solver,
    trials: Mapping[Solver, Sequence[Trial]],
    gap: float,
    clock: Clock,
    arguments: argparse.Namespace,
) -> str:
    reached = {solver: next((one for one in tried if one.gap <= gap), None) for solver, tried in trials.items()}
    mine = reached.pop(own)
    if mine is None or mine.answer is None:
        return f"| {gap:.0e} | not reached in {arguments.limit:g} s | | | | | | | |"
    most = max(arguments.cut * mine.seconds, SHORT_SECONDS)
    timed = [Timed(own, mine, [])]
    timed += [Timed(solver, one, []) for solver, one in reached.items() if one is not None and one.seconds <= most]
    for _ in range(arguments.repeats):
        for one in timed:
            if not arguments.process_time:
                time.sleep(IDLE_SECONDS)
            times = max(1, int(SHORT_SECONDS / max(one.trial.seconds, 1e-4)))
            one.seconds.append(clock(partial(one.solver.fit, one.trial.tolerance), times))
    first, *others = timed
    memory = f"{peak_memory(partial(own.fit, mine.tolerance)):.0f}"
    cells = [f"{gap:.0e}", f"{first.median:.4f}"]
    if others:
        best = min(others, key=lambda one: one.median)
        cells += [f"{best.median:.4f}", best.solver.name, f"{first.median / best.median:.2f}"]
    else:
        cells += ["", "" if arguments.ours_alone else f"none within {arguments.cut:g} times", ""]
    cells += [f"{max(mine.gap, 0.0):.0e}", f"{mine.answer.certified:.0e}", str(mine.answer.passes), memory]
    return f"| {' | '.join(cells)} |"


def peak_memory(work: Callable[[], object]) -> float:
    """Peak memory during a call, above that before it, in MiB; not a number where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return math.nan

    def kib(name: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)  # else the call takes memory that earlier ones have freed, at no cost
    reset.write_text("5")  # sets the peak to the current size
    before = kib("VmRSS")
    work()
    return (kib("VmHWM") - before) / 1024


GROWTH: dict[str, list[Draw]] = {
    "N": [Draw(n, 30) for n in (1000, 10_000, 100_000, 1_000_000)],
    "D": [Draw(10_000, d) for d in (30, 100, 300, 900, 1100, 2000, 3000, 10_000)],
    "K": [Draw(20_000, 30, k) for k in (2, 3, 10, 20, 30, 33, 50, 100, 200, 500, 1000)],
}
"""What grows -> the problems, at l2 = 1 / N."""


def print_growth(arguments: argparse.Namespace) -> None:
    """Prints the seconds of ours to a tolerance of 1e-6 as one size of the problem grows."""
    clock = Clock(arguments.process_time)
    for name, draws in GROWTH.items():
        sizes = [{"N": draw.rows, "D": draw.features, "K": draw.classes}[name] for draw in draws]
        seconds, passes = [], []
        for draw in draws:
            problem = Problem.of(Case(draw), arguments)
            assert problem is not None
            fits = [problem.fitted(1e-6)]
            taken = [clock(partial(problem.fitted, 1e-6)) for _ in range(arguments.repeats)]
            seconds.append(statistics.median(taken))
            passes.append(fits[0].passes)
        print(f"\ngrowth in {name}, tolerance 1e-6")
        for size, took, number in zip(sizes, seconds, passes, strict=True):
            print(f"{size:>10,} {took:10.4f} s {number:6d} passes", flush=True)
        steps = [math.log(b[1] / a[1]) / math.log(b[0] / a[0]) for a, b in pairwise(zip(sizes, seconds, strict=True))]
        logs = torch.tensor([[math.log(size), 1.0] for size in sizes])
        slope = torch.linalg.lstsq(logs, torch.tensor(seconds).log().unsqueeze(1)).solution[0, 0]
        print(
            f"exponent {float(slope):.2f}; between neighbors {', '.join(f'{step:.2f}' for step in steps)}", flush=True
        )


@contextlib.contextmanager
def at_most(seconds: float, process: bool = False) -> Iterator[None]:
    """Stops the code inside after a time limit, of wall time or of process time.

    Raises:
        TimeoutError: The limit was reached.
    """

    def stop(*_: object) -> None:
        raise TimeoutError

    own, timer = (signal.SIGPROF, signal.ITIMER_PROF) if process else (signal.SIGALRM, signal.ITIMER_REAL)
    before = signal.signal(own, stop)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(own, before)


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the map; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    add_mnist_root(parser)
    parser.add_argument("--case", action="append", choices=list(CASES), help="one of the problems (again for more)")
    parser.add_argument("--gap", action="append", type=float, metavar="GAP", help="a relative gap (again for more)")
    parser.add_argument("--ours-alone", action="store_true", help="leaves the rivals out")
    parser.add_argument("--process-time", action="store_true", help="CPU time, for machines that are busy otherwise")
    parser.add_argument("--cut", type=float, default=5.0, help="breaks a rival off after this multiple of our time")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="breaks a fit of ours off")
    parser.add_argument("--growth", action="store_true", help="the growth of our time with N, D and K alone")
    parser.add_argument("--tiny", action="store_true", help="small problems, to try the benchmark itself")
    parser.add_argument("--threads", type=positive, help="threads of torch (default: all cores)")
    parser.add_argument("--device", default="cpu", help="cuda times ours alone on a GPU (default: cpu)")
    arguments = parser.parse_args(typed)
    arguments.ours_alone = arguments.ours_alone or arguments.device != "cpu"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    print_versions()
    print(f"{torch.get_num_threads()} threads, {'process' if arguments.process_time else 'wall'} time")
    if arguments.growth:
        print_growth(arguments)
        return 0
    print("| gap | ours, s | best rival, s | which | ratio | true gap | certified | passes | peak, MiB |")
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|")
    for name in arguments.case or CASES:
        problem = Problem.of(CASES[name], arguments)
        if problem is None:
            print(f"| **{name}**: no MNIST in {arguments.mnist_root}, name its folder with --mnist-root |")
            continue
        print(f"| **{name}**: {problem.shape} | | | | | | | | |", flush=True)
        for line in compare(problem, arguments):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
