"""The problem `l1` of the part `solvers`: l1 in float64 where columns depend on each other, against scikit-learn's.

Two small tables, seven strengths, three losses.  For ours: whether the fit is certified, its passes and its seconds;
for liblinear and saga the relative gap of what they answer on the same objective, computed here, and their seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logreg.losses import one_vs_rest
from logreg.losses.objective import Objective
from logreg.solvers import fit as exact

STRENGTHS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Of l1; the loss is a mean."""

TOLERANCE, THEIRS = 1e-8, 1e-8
"""Relative gap that ours end at, and scikit-learn's own tolerance."""

LATE, MOST_ITERATIONS = 10.0, 20_000
"""Seconds after which ours is broken off, and iterations that scikit-learn may take."""

SCALING = 100.0
"""What liblinear, which penalizes the intercept, multiplies its column with, so that this costs next to nothing."""

ROWS = 200


def dependent(draw: np.random.Generator, classes: int) -> tuple[Tensor, Tensor]:
    """Five columns, the last the sum of the first two."""
    x = draw.normal(size=(ROWS, 5))
    x[:, 4] = x[:, 0] + x[:, 1]
    return _labelled(draw, x, 0.5, classes)


def one_hot(draw: np.random.Generator, classes: int) -> tuple[Tensor, Tensor]:
    """A number, and all levels of two categories."""
    first, second = draw.integers(0, 4, ROWS), draw.integers(0, 3, ROWS)
    x = np.column_stack([draw.normal(size=ROWS), np.eye(4)[first], np.eye(3)[second]])
    return _labelled(draw, x, 1.0, classes)


def _labelled(draw: np.random.Generator, x: np.ndarray, size: float, classes: int) -> tuple[Tensor, Tensor]:
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
        """F at coefficients (K, D) and intercepts (K,)."""
        outputs = 1 if self.objective.loss == "bce" and self.classes == 2 else self.classes
        targets = one_vs_rest(self.labels, outputs, torch.float64)
        return float(self.objective.value(self.features, targets, torch.from_numpy(coef), torch.from_numpy(intercept)))


def problems() -> Iterator[Problem]:
    """All 42."""
    losses: list[tuple[str, str, int]] = [
        ("binary", "bce", 2),
        ("one-vs-rest", "bce", 3),
        ("softmax", "cross_entropy", 3),
    ]
    for name, loss, classes in losses:
        for table in (dependent, one_hot):
            features, labels = table(np.random.default_rng(0), classes)
            for l1 in STRENGTHS:
                title = f"{table.__name__:<9}  {name:<11}  {l1:5.0e}"
                yield Problem(title, features, labels, Objective(loss, l1=l1), classes)


def ours(problem: Problem, optimizer: str) -> tuple[exact.Fit | None, float]:
    """The fit, ``None`` where it took too long, and its seconds."""
    started = time.perf_counter()

    def watch(*_: object) -> None:
        if time.perf_counter() - started > LATE:
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
            tol=THEIRS,
            max_iter=MOST_ITERATIONS,
            random_state=0,
            intercept_scaling=SCALING if solver == "liblinear" else 1.0,
        )
        return model.fit(problem.features.numpy(), labels)

    labels = problem.labels.numpy()
    alone = problem.classes == 2 or several
    models = [fitted(labels)] if alone else [fitted(labels == own) for own in range(problem.classes)]
    return np.vstack([model.coef_ for model in models]), np.hstack([model.intercept_ for model in models])


def run(arguments: argparse.Namespace) -> None:
    """Prints a line for each problem, and sums."""
    warnings.filterwarnings("ignore", module="sklearn")
    print(
        f"\nsolvers, l1: {ROWS} rows, float64, dependent columns, tolerance {TOLERANCE:.0e}; "
        f"scikit-learn's tol {THEIRS:.0e}"
    )
    print("table      loss            l1   newton            lbfgs             liblinear         saga")
    ended, seconds, passes = {"newton": 0, "lbfgs": 0}, dict.fromkeys(("newton", "lbfgs", "liblinear", "saga"), 0.0), 0
    for problem in problems():
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
    total = len(list(problems()))
    print(f"certified: newton {ended['newton']} of {total} ({passes} passes), lbfgs {ended['lbfgs']} of {total}")
    print("seconds in all: " + ", ".join(f"{name} {took:.2f}" for name, took in seconds.items() if took))
