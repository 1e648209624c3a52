"""Coverage of 95 % intervals over data sets that are drawn from a known model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logreg.facts import DataFacts
from logreg.inference.coefficient_table import coefficient_rows
from logreg.inference.covariance import robust_covariance
from logreg.inference.design import choose_design
from logreg.inference.likelihood import Likelihood, maximize
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of

DATA_SETS = 2000

COEF = torch.tensor([0.8, -0.5, 0.5], dtype=torch.float64)
INTERCEPT = 0.2

KINDS = ("wald", "profile", "HC0", "HC3")

TABLE = {
    50: (95.0, 93.0, 94.1, 96.5),
    200: (95.2, 94.9, 95.1, 95.6),
    1000: (94.9, 94.8, 94.8, 94.9),
}
"""Percentage of the intervals of each kind that hold the coefficient, by the number of rows: over all data sets, and
three coefficients in each.  The standard error of a percentage is about 0.3."""


def covered(features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Whether the interval of each coefficient holds it, (3,), of each kind."""
    rows, number = MemoryRows(features, labels), len(labels)
    facts = DataFacts(name="drawn", num_features=3, class_names=("no", "yes"), rows={"train": number})
    likelihood = Likelihood(problem_of(rows, Objective("bce")), rows, choose_design(facts, 1, {}, ""), 2)
    found = maximize(likelihood, likelihood.evaluate(torch.zeros(1, 4, dtype=torch.float64)))
    holds = {}
    for kind in KINDS:
        matrix = found.covariance
        if kind.startswith("HC"):
            matrix = robust_covariance(likelihood, found, kind, number, counts=True)
        zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        table, _ = coefficient_rows(likelihood, found, matrix, zero, one, 0.95, profile=kind == "profile")
        limits = torch.tensor([(row.per_unit.low, row.per_unit.high) for row in table[1:]], dtype=torch.float64)
        holds[kind] = (limits[:, 0] <= COEF) & (limits[:, 1] >= COEF)
    return holds


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 200, 1000])
def test_intervals_hold_the_coefficient_as_often_as_they_say(rows: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    held: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for _ in range(DATA_SETS):
        x = torch.randn(rows, 3, generator=draw, dtype=torch.float64)
        x[:, 2] = (x[:, 2] > 0).double()
        chance = torch.sigmoid(x @ COEF + INTERCEPT)
        y = (torch.rand(rows, generator=draw, dtype=torch.float64) < chance).long()
        for kind, holds in covered(x, y).items():
            held[kind].append(holds)
    shares = [round(100 * float(torch.stack(held[kind]).double().mean()), 1) for kind in KINDS]
    assert shares == pytest.approx(TABLE[rows], abs=0.1)
    assert min(shares) >= 93
    assert max(shares) <= 97
