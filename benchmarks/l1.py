"""Compares l1-penalized fits with scikit-learn's liblinear and saga, skglm and celer; a path with celer and glmnet.

``--part dependent`` has tables with linearly dependent columns: two small tables in float64, seven penalties, three
losses: 42 problems.  For our newton and lbfgs the table shows whether the fit is certified, its passes and its seconds.
For liblinear and saga it shows the relative gap of their answer, of the same objective and computed here, and their
seconds.  Each problem is solved once.

``--part gaps`` has three shapes of problem, two penalties and three relative gaps, without an intercept.  Each rival
gets the loosest tolerance whose answer has that gap.  Ours ends by its own certificate, whose time counts.

``--part path`` has 100 penalties from the largest useful one down to a hundredth of it.  A rival again gets the
loosest tolerance whose answers all have the gap; its largest gap is shown.  glmnet runs in R, and is timed there.

Times are those of the process, on one thread; what is compiled at the first call does not count.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import new_parser, positive, print_versions
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import fit as exact
from logreg.solvers.paths.folds import fit_strengths
from logreg.solvers.paths.l2_path import PathPoint, Strength
from logreg.solvers.problem import Problem as Stated

STRENGTHS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Values of l1; the loss is a mean over rows."""

TOLERANCE = 1e-8
"""Relative gap at which our solvers stop."""

SKLEARN_TOL = 1e-8
"""scikit-learn's own `tol`."""

MOST_SECONDS = 10.0
"""Seconds after which a fit of ours is stopped."""

MOST_ITERATIONS = 20_000
"""Iterations allowed to scikit-learn."""

INTERCEPT_SCALING = 100.0
"""liblinear penalizes the intercept.  This scale of the intercept's column makes that penalty negligible."""

ROWS = 200


def dependent(draw: np.random.Generator, classes: int) -> tuple[Tensor, Tensor]:
    """Five columns, the last the sum of the first two."""
    x = draw.normal(size=(ROWS, 5))
    x[:, 4] = x[:, 0] + x[:, 1]
    return _labeled(draw, x, 0.5, classes)


def one_hot(draw: np.random.Generator, classes: int) -> tuple[Tensor, Tensor]:
    """A number, and all levels of two categories."""
    first, second = draw.integers(0, 4, ROWS), draw.integers(0, 3, ROWS)
    x = np.column_stack([draw.normal(size=ROWS), np.eye(4)[first], np.eye(3)[second]])
    return _labeled(draw, x, 1.0, classes)


def _labeled(draw: np.random.Generator, x: np.ndarray, size: float, classes: int) -> tuple[Tensor, Tensor]:
    logits = size * x @ draw.normal(size=(x.shape[1], classes)) + draw.gumbel(size=(len(x), classes))
    return torch.from_numpy(x), torch.from_numpy(logits.argmax(1))


@dataclass(frozen=True)
class Problem:
    """Rows and their objective."""

    name: str
    features: Tensor
    labels: Tensor
    objective: Objective
    classes: int

    def value(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """The objective at coef (K, D) and intercept (K,)."""
        outputs = 1 if self.objective.loss == "bce" and self.classes == 2 else self.classes
        targets = one_vs_rest(self.labels, outputs, torch.float64)
        return float(self.objective.value(self.features, targets, torch.from_numpy(coef), torch.from_numpy(intercept)))


def problems(strengths: Sequence[float]) -> Iterator[Problem]:
    """All problems."""
    losses: list[tuple[str, str, int]] = [
        ("binary", "bce", 2),
        ("one-vs-rest", "bce", 3),
        ("softmax", "cross_entropy", 3),
    ]
    for name, loss, classes in losses:
        for table in (dependent, one_hot):
            features, labels = table(np.random.default_rng(0), classes)
            for l1 in strengths:
                title = f"{table.__name__:<9}  {name:<11}  {l1:5.0e}"
                yield Problem(title, features, labels, Objective(loss, l1=l1), classes)


def ours(problem: Problem, optimizer: str) -> tuple[exact.Fit | None, float]:
    """The fit (``None`` where it took longer than MOST_SECONDS), and its seconds."""
    started = time.perf_counter()

    def watch(*_: object) -> None:
        if time.perf_counter() - started > MOST_SECONDS:
            raise TimeoutError

    fit = None
    with contextlib.suppress(TimeoutError):
        fit = exact.fit(
            problem.features,
            problem.labels,
            problem.objective,
            problem.classes,
            optimizer=optimizer,
            tolerance=TOLERANCE,
            watch=watch,
        )
    return fit, time.perf_counter() - started


def theirs(problem: Problem, solver: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Coefficients and intercepts of scikit-learn; ``None`` where the solver has no such loss."""
    from sklearn.linear_model import LogisticRegression

    several = problem.objective.loss == "cross_entropy"
    if several and solver == "liblinear":
        return None

    def fitted(labels: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(
            C=1 / (ROWS * problem.objective.l1),
            l1_ratio=1.0,
            solver=solver,
            tol=SKLEARN_TOL,
            max_iter=MOST_ITERATIONS,
            random_state=0,
            intercept_scaling=INTERCEPT_SCALING if solver == "liblinear" else 1.0,
        )
        return model.fit(problem.features.numpy(), labels)

    labels = problem.labels.numpy()
    one_model = problem.classes == 2 or several
    models = [fitted(labels)] if one_model else [fitted(labels == own) for own in range(problem.classes)]
    return np.vstack([model.coef_ for model in models]), np.hstack([model.intercept_ for model in models])


Array = np.ndarray
Rival = Callable[[Array, Array, float, float], Callable[[], Array]]
"""Features (N, D), labels (N,), l1 and a tolerance -> a fit, which returns coefficients (D,)."""

GAPS = (1e-3, 1e-6, 1e-8)
"""Relative gaps that a fit is asked for."""

FRACTIONS = (0.1, 0.01)
"""Values of l1, relative to the smallest one at which all coefficients are 0."""

RIVAL_TOLERANCES = tuple(10.0 ** (-step / 2) for step in range(2, 28))
"""Tolerances that are tried for a rival, the loosest one first."""

MOST_RIVAL_SECONDS = 5.0
"""Seconds of one fit after which no tighter tolerance of a rival is tried."""

PATH_LENGTH = 100
"""Penalties of a path."""


def _breast_cancer(_: bool) -> tuple[Array, Array]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y


def _normal(rows: int, features: int) -> Callable[[bool], tuple[Array, Array]]:
    def table(tiny: bool) -> tuple[Array, Array]:
        draw, n, d = np.random.default_rng(0), rows // (20 if tiny else 1), features // (20 if tiny else 1)
        x = draw.normal(size=(n, d))
        return x, (x[:, :10] @ draw.normal(size=10) + draw.logistic(size=n) > 0).astype(np.int64)

    return table


SHAPES: dict[str, Callable[[bool], tuple[Array, Array]]] = {
    "breast_cancer, standardized": _breast_cancer,
    "20,000 x 200": _normal(20_000, 200),
    "500 x 5,000": _normal(500, 5000),
}
"""The shapes of the second and the third part; the argument is whether they are made small."""


def _skglm(x: Array, y: Array, l1: float, tol: float) -> Callable[[], Array]:
    solvers, datafits, penalties = (import_module(f"skglm.{part}") for part in ("solvers", "datafits", "penalties"))
    columns, signs = np.asfortranarray(x), 2.0 * y - 1
    solver = solvers.ProxNewton(tol=tol / 10, fit_intercept=False, max_iter=100)
    return lambda: solver.solve(columns, signs, datafits.Logistic(), penalties.L1(l1))[0]


def _celer(x: Array, y: Array, l1: float, tol: float) -> Callable[[], Array]:
    columns = np.asfortranarray(x)
    model = import_module("celer").LogisticRegression(C=1 / (len(y) * l1), tol=tol, fit_intercept=False, max_iter=200)
    return lambda: model.fit(columns, y).coef_[0]


def _sklearn(solver: str) -> Rival:
    def rival(x: Array, y: Array, l1: float, tol: float) -> Callable[[], Array]:
        from sklearn.linear_model import LogisticRegression

        own = {"C": 1 / (len(y) * l1), "l1_ratio": 1.0, "solver": solver, "tol": tol, "fit_intercept": False}
        model = LogisticRegression(**own, max_iter=5000, random_state=0)
        return lambda: model.fit(x, y).coef_[0]

    return rival


RIVALS: dict[str, tuple[str, Rival]] = {
    "skglm": ("skglm", _skglm),
    "celer": ("celer", _celer),
    "liblinear": ("sklearn", _sklearn("liblinear")),
    "saga": ("sklearn", _sklearn("saga")),
}
"""The rivals: the package that each needs, and its fit."""


def _installed(wanted: Sequence[str]) -> dict[str, Rival]:
    """The wanted rivals of a fit whose package is installed; names the others."""
    found = {}
    for name, (package, rival) in RIVALS.items():
        if name not in wanted:
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{name}: skipped, since {package} is not installed")
        else:
            found[name] = rival
    return found


def _value(x: Array, y: Array, coef: Array, l1: float) -> float:
    logits = x @ coef
    return float(np.mean(np.logaddexp(0, logits) - y * logits) + l1 * np.abs(coef).sum())


def _process_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare_gaps(repeats: int, tiny: bool, wanted: Sequence[str], shapes: Sequence[str]) -> None:
    """Prints a line for each shape, penalty and gap: our time, and that of each rival."""
    rivals = _installed(wanted)
    print(
        "\nshape                          l1    gap   nonzero   ours, certified   "
        + "".join(f"{n:<20}" for n in rivals)
    )
    for name in shapes:
        x, y = SHAPES[name](tiny)
        rows = torch.from_numpy(x), torch.from_numpy(y)
        for fraction in FRACTIONS:
            l1 = fraction * float(np.abs(x.T @ (y - 0.5)).max()) / len(y)
            objective = Objective("bce", l1=l1)
            least = exact.fit(*rows, objective, 2, tolerance=1e-11, intercept=False)
            for gap in GAPS:
                ours = partial(exact.fit, *rows, objective, 2, tolerance=gap, intercept=False)
                arms: dict[str, Callable[[], object]] = {"ours": ours}
                for rival, fit in rivals.items():
                    if (found := _loosest(fit, x, y, l1, gap, least.bound.value)) is not None:
                        arms[rival] = found
                seconds: dict[str, list[float]] = {arm: [] for arm in arms}
                for turn in range(repeats + 1):
                    for arm, work in arms.items():
                        taken = _process_seconds(work)
                        seconds[arm] += [taken] if turn else []
                median = {arm: statistics.median(taken) for arm, taken in seconds.items()}
                cells = [
                    f"{1e3 * median[rival]:8.1f} ms ({median['ours'] / median[rival]:.2f})" if rival in median else "-"
                    for rival in rivals
                ]
                certified = "yes" if ours().converged else "no"
                nonzero = int((least.coef != 0).sum())
                print(
                    f"{name:<28}{fraction:5.0%}  {gap:5.0e}  {nonzero:8}",
                    f"{1e3 * median['ours']:8.1f} ms, {certified:<5}",
                    *(f"{cell:<19}" for cell in cells),
                    flush=True,
                )


def _loosest(fit: Rival, x: Array, y: Array, l1: float, gap: float, least: float) -> Callable[[], Array] | None:
    """A rival's fit with the loosest tolerance that reaches a relative gap; ``None`` where none does in time."""
    fit(x, y, l1, RIVAL_TOLERANCES[0])()  # what is compiled at the first call does not count
    for tol in RIVAL_TOLERANCES:
        work, started = fit(x, y, l1, tol), time.process_time()
        coef = work()
        if _value(x, y, coef, l1) - least <= gap * least:
            return work
        if time.process_time() - started > MOST_RIVAL_SECONDS:
            return None
    return None


def _path(memory: MemoryRows, problem: Stated, strengths: Array, gap: float) -> list[PathPoint]:
    return fit_strengths(problem, memory, [Strength(l1=one) for one in strengths.tolist()], gap)


PathOf = Callable[[Array, Array, Array, float, int], tuple[float, Array]]
"""Features (N, D), labels (N,), penalties, a tolerance and repeats -> median seconds of a path, coefficients (P, D)."""


def _celer_path(x: Array, y: Array, strengths: Array, tol: float, repeats: int) -> tuple[float, Array]:
    path, columns, signs = import_module("celer").celer_path, np.asfortranarray(x), 2.0 * y - 1
    settings = {"alphas": strengths * len(signs), "tol": tol, "use_PN": True, "max_iter": 100}
    coefs = path(columns, signs, "logreg", **settings)[1].T
    return statistics.median(
        _process_seconds(lambda: path(columns, signs, "logreg", **settings)) for _ in range(repeats)
    ), coefs


GLMNET = """
given <- commandArgs(TRUE); folder <- given[1]; n <- as.integer(given[2]); d <- as.integer(given[3])
read <- function(name, number) readBin(file.path(folder, name), "double", number)
x <- matrix(read("x", n * d), n, d); y <- factor(read("y", n)); strengths <- read("strengths", as.integer(given[4]))
library(glmnet)
glmnet.control(fdev = 0, devmax = 1, mnlam = length(strengths))
times <- c()
for (turn in seq_len(as.integer(given[6]) + 1)) {
  before <- proc.time()
  found <- glmnet(x, y, family = "binomial", lambda = strengths, thresh = as.double(given[5]), maxit = 1e8,
                  standardize = FALSE, intercept = FALSE)
  times <- c(times, sum((proc.time() - before)[1:2]))
}
writeBin(as.double(as.matrix(found$beta)), file.path(folder, "coefs"))
cat(median(times[-1]))
"""
"""A path of glmnet in R; the first turn does not count.  Its criteria for an early end of the path are switched off."""


def _glmnet_path(x: Array, y: Array, strengths: Array, tol: float, repeats: int) -> tuple[float, Array]:
    with tempfile.TemporaryDirectory() as folder:
        for name, numbers in {"x": x.T, "y": y, "strengths": strengths}.items():
            np.ascontiguousarray(numbers, dtype=np.float64).tofile(Path(folder, name))
        script = Path(folder, "path.R")
        script.write_text(GLMNET)
        given = [folder, *x.shape, len(strengths), tol, repeats]
        run = subprocess.run(["Rscript", str(script), *map(str, given)], capture_output=True, text=True, check=True)
        return float(run.stdout), np.fromfile(Path(folder, "coefs")).reshape(-1, x.shape[1])


PATH_RIVALS: dict[str, PathOf] = {"celer": _celer_path, "glmnet": _glmnet_path}
"""The rivals of a path."""


def _has_glmnet() -> bool:
    asks = ["Rscript", "-e", 'quit(status = !requireNamespace("glmnet", quietly = TRUE))']
    return shutil.which("Rscript") is not None and not subprocess.run(asks, capture_output=True, check=False).returncode


def _path_rivals(wanted: Sequence[str]) -> dict[str, PathOf]:
    """The wanted rivals of a path that are installed; names the others."""
    found = {name: path for name, path in PATH_RIVALS.items() if name in wanted}
    if "celer" in found and importlib.util.find_spec("celer") is None:
        print("celer: skipped, since celer is not installed")
        del found["celer"]
    if "glmnet" in found and not _has_glmnet():
        print("glmnet: skipped, since R with its package glmnet is not installed")
        del found["glmnet"]
    return found


def compare_paths(repeats: int, tiny: bool, wanted: Sequence[str], shapes: Sequence[str]) -> None:
    """Prints a line for each shape and gap: the time of a path of ours, and that of each rival."""
    rivals = _path_rivals(wanted)
    print(
        f"\n{PATH_LENGTH} penalties, intercept 0    gap   ours, certified   passes   "
        + "".join(f"{name:<31}" for name in rivals)
    )
    for name in shapes:
        x, y = SHAPES[name](tiny)
        memory = MemoryRows(torch.from_numpy(x), torch.from_numpy(y))
        problem = exact.problem_of(memory, Objective("bce"), 2, intercept=False)
        largest = float(np.abs(x.T @ (y - 0.5)).max()) / len(y)
        strengths = np.geomspace(largest, largest * FRACTIONS[-1], PATH_LENGTH)
        least = [point.bound.value - point.bound.gap for point in _path(memory, problem, strengths, GAPS[-1])]
        for gap in GAPS[:2]:
            ours = partial(_path, memory, problem, strengths, gap)
            points = ours()
            mine = statistics.median(_process_seconds(ours) for _ in range(repeats))
            certified = sum(point.converged for point in points)
            line = f"{name:<28}{gap:5.0e}  {1e3 * mine:8.0f} ms, {certified:3} {sum(p.passes for p in points):8}   "
            for path in rivals.values():
                found = _loosest_path(path, x, y, strengths, gap, least, repeats)
                cell = "-" if found is None else f"{1e3 * found[0]:6.0f} ms ({mine / found[0]:.2f}), {found[1]:.0e}"
                line += f"{cell:<31}"
            print(line.rstrip(), flush=True)


def _loosest_path(
    path: PathOf, x: Array, y: Array, strengths: Array, gap: float, least: Sequence[float], repeats: int
) -> tuple[float, float] | None:
    """The seconds of a rival's path with the loosest tolerance that reaches a gap everywhere, and its largest gap."""
    for tol in RIVAL_TOLERANCES:
        seconds, coefs = path(x, y, strengths, tol, 1)
        if len(coefs) == len(strengths):
            gaps = [_value(x, y, coef, l1) / value - 1 for coef, l1, value in zip(coefs, strengths, least, strict=True)]
            if max(gaps) <= gap:
                return path(x, y, strengths, tol, repeats)[0], max(gaps)
        if seconds > MOST_RIVAL_SECONDS:
            return None
    return None


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the tables of the parts; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--part", choices=("dependent", "gaps", "path"), help="one part (default: all)")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="times of a fit of the last two parts")
    parser.add_argument("--tiny", action="store_true", help="small shapes, whose figures mean nothing")
    parser.add_argument("--ours-alone", action="store_true", help="leaves scikit-learn out")
    parser.add_argument(
        "--l1", action="append", type=float, metavar="L1", help="a penalty (again for more; default: seven values)"
    )
    rivals = list(dict.fromkeys([*RIVALS, *PATH_RIVALS]))
    parser.add_argument(
        "--rival", action="append", choices=rivals, help="a rival in the last two parts (again for more; default: all)"
    )
    parser.add_argument(
        "--shape", action="append", choices=list(SHAPES), help="a shape in the same (again for more; default: all)"
    )
    arguments = parser.parse_args(typed)
    print_versions()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    settings = arguments.repeats, arguments.tiny, arguments.rival or rivals, arguments.shape or list(SHAPES)
    if arguments.part in (None, "dependent"):
        compare_dependent(arguments.l1 or STRENGTHS, arguments.ours_alone)
    if arguments.part in (None, "gaps"):
        compare_gaps(*settings)
    if arguments.part in (None, "path"):
        compare_paths(*settings)
    return 0


def compare_dependent(strengths: Sequence[float], ours_alone: bool) -> None:
    """Prints a line for each problem with linearly dependent columns, and totals."""
    print(
        f"\nl1: {ROWS} rows, float64, dependent columns, tolerance {TOLERANCE:.0e}; "
        f"scikit-learn's tol {SKLEARN_TOL:.0e}"
    )
    print("table      loss            l1   newton            lbfgs             liblinear         saga")
    ended, seconds, passes = {"newton": 0, "lbfgs": 0}, dict.fromkeys(("newton", "lbfgs", "liblinear", "saga"), 0.0), 0
    total = 0
    for problem in problems(strengths):
        total += 1
        cells: list[str] = []
        fits: dict[str, exact.Fit] = {}
        for optimizer in ("newton", "lbfgs"):
            fit, took = ours(problem, optimizer)
            seconds[optimizer] += took
            if fit is None:
                cells.append(f"no   ... {took:6.3f} s")
                continue
            fits[optimizer] = fit
            ended[optimizer] += fit.converged
            passes += fit.passes if optimizer == "newton" else 0
            cells.append(f"{'yes' if fit.converged else 'no':<3} {fit.passes:4d} {took:6.3f} s")
        least = min(fit.bound.value for fit in fits.values())
        for solver in () if ours_alone else ("liblinear", "saga"):
            started = time.perf_counter()
            answer = theirs(problem, solver)
            took = time.perf_counter() - started
            seconds[solver] += took
            gap = math.nan if answer is None else (problem.value(*answer) - least) / least
            cells.append("-" if answer is None else f"{max(gap, 0.0):7.1e} {took:6.3f} s")
        print(problem.name, *(f"{cell:<16}" for cell in cells), sep="  ", flush=True)
    print(f"certified: newton {ended['newton']} of {total} ({passes} passes), lbfgs {ended['lbfgs']} of {total}")
    print("seconds in all: " + ", ".join(f"{name} {took:.2f}" for name, took in seconds.items() if took))


if __name__ == "__main__":
    sys.exit(main())
