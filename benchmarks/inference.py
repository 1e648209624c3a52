"""Times standard errors beside the fit that they belong to: 1,000,000 rows of 30 features, two classes, no penalty.

Ours is what `scripts/coefficients.py` computes from rows in memory: the maximum in float64 from that of the fit,
the covariance, the table and the statistics of the fit; and robust errors, marginal effects or checks of the
assumptions besides.  The figure "it / fit" is its processor time in units of an exact fit in float32 to a certified gap
of 1e-6.  Beside it are the fit and summary of statsmodels and of R's glm, where they are installed, on the same numbers
in float64 in memory.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import alternate, met, new_parser, positive, print_row, print_versions, spread
from logreg.facts import Batch, DataFacts
from logreg.inference.coefficient_table import coefficient_rows, fit_statistics
from logreg.inference.covariance import robust_covariance
from logreg.inference.design import choose_design
from logreg.inference.effects import marginal_effects
from logreg.inference.likelihood import Likelihood, Maximum, maximize
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.run.checking import SourceRows, check_assumptions
from logreg.solvers.fit import fit, problem_of

MOST_RATIO = 1.5
"""Target for the time of a table, in units of the fit."""

TOLERANCE = 1e-6
"""Relative gap of the fit, as of a run."""

OF_R = """
here <- commandArgs(TRUE); n <- as.integer(here[2]); d <- as.integer(here[3])
x <- as.data.frame(matrix(readBin(file.path(here[1], "x"), "double", n * d), n))
x$y <- readBin(file.path(here[1], "y"), "double", n)
took <- system.time(summary(glm(y ~ ., binomial, x)))
cat(took[["user.self"]] + took[["sys.self"]])
"""
"""A program of R that prints the processor time of a fit and its summary, of columns in a folder."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__, repeats=3)
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="rows (default: 1,000,000)")
    parser.add_argument("--features", type=positive, default=30, metavar="D", help="features (default: 30)")
    arguments = parser.parse_args(typed)
    print_versions()
    features, labels = drawn(arguments.rows, arguments.features)
    objective = Objective("bce")
    found = fit(features, labels, objective, tolerance=TOLERANCE)
    start = torch.cat([found.coef, found.intercept.unsqueeze(1)], dim=1).double()
    table = partial(infer, features, labels, objective, start)
    fitted = "the fit"
    arms: dict[str, Callable[[], object]] = {
        fitted: partial(fit, features, labels, objective, tolerance=TOLERANCE),
        "hessian": table,
        "HC1": partial(table, covariance="HC1"),
        "HC3": partial(table, covariance="HC3"),
        "average effects": partial(table, effects=True),
        "checks": partial(table, checks=True),
    }
    if importlib.util.find_spec("statsmodels"):
        arms["statsmodels"] = partial(fit_by_statsmodels, features, labels)
    timed = {name: partial(process_seconds, work) for name, work in arms.items()}
    if shutil.which("Rscript"):
        timed["R glm"] = partial(seconds_of_r, features, labels)
    seconds = alternate(timed, arguments.repeats)
    print(f"\n{arguments.rows:,} x {arguments.features}: seconds of processor time")
    print_row("", "median", "min", "max", "it / fit", "target")
    one = statistics.median(seconds[fitted])
    for name, taken in seconds.items():
        ratio = statistics.median(taken) / one
        has_target = name in ("hessian", "HC1", "HC3")
        target = (f"<= {MOST_RATIO}", met(ratio <= MOST_RATIO)) if has_target else ()
        print_row(name, *spread(taken), f"{ratio:.2f}", *target)
    return 0


def drawn(rows: int, features: int) -> tuple[Tensor, Tensor]:
    """Normal features, and labels of a logistic model."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=draw)
    coef = torch.randn(features, generator=draw) / features**0.5
    return x, (torch.rand(rows, generator=draw) < torch.sigmoid(x @ coef)).long()


def infer(
    features: Tensor,
    labels: Tensor,
    objective: Objective,
    start: Tensor,
    covariance: str = "hessian",
    effects: bool = False,
    checks: bool = False,
) -> None:
    """Everything between the rows in memory and the table that is shown."""
    rows, number, size = MemoryRows(features, labels), len(labels), features.shape[1]
    facts = DataFacts(name="drawn", num_features=size, class_names=("no", "yes"), rows={"train": number})
    design = choose_design(facts, 1, {}, "")
    likelihood = Likelihood(problem_of(rows, objective), rows, design, 2)
    found: Maximum = maximize(likelihood, likelihood.evaluate(start))
    matrix = found.covariance
    if covariance != "hessian":
        matrix = robust_covariance(likelihood, found, covariance, number, counts=True)
    mean, std = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    coefficient_rows(likelihood, found, matrix, mean, std, confidence=0.95)
    fit_statistics(likelihood, found, torch.bincount(labels).double(), number, has_likelihood=True)
    if effects:
        marginal_effects(likelihood, found, mean, std, at_mean=False)
    if checks:
        source = SourceRows(torch.arange(number), lambda places: Batch(features[places], labels[places]))
        check_assumptions(facts, source, likelihood, found, matrix, mean, std, number, counts=True)


def fit_by_statsmodels(features: Tensor, labels: Tensor) -> None:
    """The fit and the table of statsmodels."""
    import statsmodels.api as sm

    columns = sm.add_constant(features.double().numpy(), has_constant="add")
    sm.GLM(labels.double().numpy(), columns, family=sm.families.Binomial()).fit().summary()


def seconds_of_r(features: Tensor, labels: Tensor) -> list[float]:
    """Processor time of the fit and the table of R's glm, without the reading of the data."""
    with tempfile.TemporaryDirectory() as folder:
        np.asfortranarray(features.double().numpy()).T.tofile(Path(folder, "x"))  # column by column
        labels.double().numpy().tofile(Path(folder, "y"))
        command = ["Rscript", "-e", OF_R, folder, *map(str, features.shape)]
        return [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)]


def process_seconds(work: Callable[[], object]) -> list[float]:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return [time.process_time() - start]


if __name__ == "__main__":
    sys.exit(main())
