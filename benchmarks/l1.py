"""Compares l1-penalized fits of tables with linearly dependent columns with scikit-learn's liblinear and saga.

Two small tables in float64, seven penalties, three losses: 42 problems.  For our newton and lbfgs the table shows
whether the fit is certified, its passes and its seconds.  For liblinear and saga it shows the relative gap of their
answer, of the same objective and computed here, and their seconds.  Each problem is solved once.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common import new_parser, print_versions
from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.solvers import fit as exact

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


def main(typed: Sequence[str] | None = None) -> int:
    """Prints a line for each problem, and totals; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=None)
    parser.add_argument("--ours-alone", action="store_true", help="leaves scikit-learn out")
    parser.add_argument(
        "--l1", action="append", type=float, metavar="L1", help="a penalty (again for more; default: seven values)"
    )
    arguments = parser.parse_args(typed)
    print_versions()
    warnings.filterwarnings("ignore", module="sklearn")
    print(
        f"\nl1: {ROWS} rows, float64, dependent columns, tolerance {TOLERANCE:.0e}; "
        f"scikit-learn's tol {SKLEARN_TOL:.0e}"
    )
    print("table      loss            l1   newton            lbfgs             liblinear         saga")
    ended, seconds, passes = {"newton": 0, "lbfgs": 0}, dict.fromkeys(("newton", "lbfgs", "liblinear", "saga"), 0.0), 0
    total = 0
    for problem in problems(arguments.l1 or STRENGTHS):
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
        for solver in () if arguments.ours_alone else ("liblinear", "saga"):
            started = time.perf_counter()
            answer = theirs(problem, solver)
            took = time.perf_counter() - started
            seconds[solver] += took
            gap = math.nan if answer is None else (problem.value(*answer) - least) / least
            cells.append("-" if answer is None else f"{max(gap, 0.0):7.1e} {took:6.3f} s")
        print(problem.name, *(f"{cell:<16}" for cell in cells), sep="  ", flush=True)
    print(f"certified: newton {ended['newton']} of {total} ({passes} passes), lbfgs {ended['lbfgs']} of {total}")
    print("seconds in all: " + ", ".join(f"{name} {took:.2f}" for name, took in seconds.items() if took))
    return 0


if __name__ == "__main__":
    sys.exit(main())
