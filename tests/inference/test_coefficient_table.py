"""Coverage of 95 % intervals over data sets that are drawn from a known model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from logreg.facts import DataFacts
from logreg.inference.bootstrap import percentile_limits, resampled_weights
from logreg.inference.coefficient_table import coefficient_rows
from logreg.inference.covariance import robust_covariance
from logreg.inference.design import choose_design
from logreg.inference.firth import FirthLikelihood
from logreg.inference.likelihood import Likelihood, Maximum, maximize
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of
from logreg.solvers.paths.folds import fit_resampled, fit_strengths
from logreg.solvers.paths.l2_path import Strength

DATA_SETS = 2000

COEF = torch.tensor([0.8, -0.5, 0.5], dtype=torch.float64)
INTERCEPT = 0.2

KINDS = ("wald", "profile", "HC0", "HC1", "HC2", "HC3")

TABLE = {
    50: (95.0, 93.0, 94.1, 95.0, 95.2, 96.5),
    200: (95.2, 94.9, 95.1, 95.3, 95.4, 95.6),
    1000: (94.9, 94.8, 94.8, 94.8, 94.8, 94.9),
}
"""Percentage of the intervals of each kind that hold the coefficient, by the number of rows: over all data sets, and
three coefficients in each.  The standard error of a percentage is about 0.3."""

DEAR_TABLE = {
    50: (94.8, 96.0),
    200: (95.2, 95.6),
    1000: (94.8, 94.6),
}
"""The same of the profile of Firth's penalized likelihood, and of the bootstrap with hardly a penalty, whose intervals
take many fits each."""

REPLICATES = 399


def likelihood_of(features: Tensor, labels: Tensor, firth: bool = False) -> tuple[Likelihood, Maximum]:
    rows, number = MemoryRows(features, labels), len(labels)
    facts = DataFacts(name="drawn", num_features=3, class_names=("no", "yes"), rows={"train": number})
    arguments = problem_of(rows, Objective("bce")), rows, choose_design(facts, 1, {}, ""), 2
    identity = torch.eye(4, dtype=torch.float64)
    likelihood = FirthLikelihood(*arguments, identity) if firth else Likelihood(*arguments)
    return likelihood, maximize(likelihood, likelihood.evaluate(torch.zeros(1, 4, dtype=torch.float64)))


def holds_coefficients(likelihood: Likelihood, found: Maximum, covariance: Tensor, profile: bool) -> Tensor:
    """Whether the interval of each coefficient holds it, (3,)."""
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    table, _ = coefficient_rows(likelihood, found, covariance, zero, one, 0.95, profile=profile)
    limits = torch.tensor([(row.per_unit.low, row.per_unit.high) for row in table[1:]], dtype=torch.float64)
    return (limits[:, 0] <= COEF) & (limits[:, 1] >= COEF)


def covered(features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Whether the interval of each coefficient holds it, (3,), of each kind."""
    (likelihood, found), number = likelihood_of(features, labels), len(labels)
    holds = {}
    for kind in KINDS:
        matrix = found.covariance
        if kind.startswith("HC"):
            matrix = robust_covariance(likelihood, found, kind, number, counts=True)
        holds[kind] = holds_coefficients(likelihood, found, matrix, kind == "profile")
    return holds


def covered_at_a_price(features: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
    """The same of `DEAR_TABLE`."""
    likelihood, found = likelihood_of(features, labels, firth=True)
    holds = {"firth": holds_coefficients(likelihood, found, found.covariance, profile=True)}
    rows, number = MemoryRows(features, labels), len(labels)
    problem = problem_of(rows, Objective("bce", l2=1e-6))
    (full,) = fit_strengths(problem, rows, [Strength(1e-6)], 1e-10)
    (weights,) = resampled_weights(torch.ones(number, dtype=torch.float64), REPLICATES, seed)
    values = torch.stack([one.point[0, :3] for one in fit_resampled(problem, rows, weights, full, 1e-4 / number)])
    low, high = percentile_limits(values, full.point[0, :3], 0.95)
    return holds | {"bootstrap": (low <= COEF) & (high >= COEF)}


def data_sets(rows: int, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(rows)
    for _ in range(number):
        x = torch.randn(rows, 3, generator=draw, dtype=torch.float64)
        x[:, 2] = (x[:, 2] > 0).double()
        chance = torch.sigmoid(x @ COEF + INTERCEPT)
        yield x, (torch.rand(rows, generator=draw, dtype=torch.float64) < chance).long()


def check(held: Sequence[Mapping[str, Tensor]], table: Sequence[float]) -> None:
    shares = [round(100 * float(torch.stack([one[kind] for one in held]).double().mean()), 1) for kind in held[0]]
    assert shares == pytest.approx(table, abs=0.1)
    assert min(shares) >= 93
    assert max(shares) <= 97


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 200, 1000])
def test_intervals_hold_the_coefficient_as_often_as_they_say(rows: int) -> None:
    check([covered(*drawn) for drawn in data_sets(rows, DATA_SETS)], TABLE[rows])


@pytest.mark.slow
@pytest.mark.parametrize("rows", DEAR_TABLE)
def test_intervals_of_many_fits_hold_the_coefficient_as_often(rows: int) -> None:
    drawn = enumerate(data_sets(rows, DATA_SETS))
    check([covered_at_a_price(*one, seed) for seed, one in drawn], DEAR_TABLE[rows])
