"""Times standard errors beside the fit that they belong to: 1,000,000 rows of 30 features, two classes, no penalty.

Ours is what `scripts/coefficients.py` computes from rows in memory: the maximum in float64 from that of the fit,
the covariance, the table and the statistics of the fit; and robust errors, marginal effects or checks of the
assumptions besides.  The figure
"it / fit" is its processor time in units of an exact fit in float32 to a certified gap of 1e-6.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

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
    seconds = alternate({name: partial(process_seconds, work) for name, work in arms.items()}, arguments.repeats)
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


def process_seconds(work: Callable[[], object]) -> list[float]:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return [time.process_time() - start]


if __name__ == "__main__":
    sys.exit(main())
