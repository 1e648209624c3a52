"""Maxima of likelihoods: where there is none, and those of Firth's penalized likelihood, whose Hessian is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, minimize_scalar
from torch import Tensor

from logreg.errors import DataError
from logreg.facts import DataFacts
from logreg.inference.design import choose_design
from logreg.inference.firth import FirthLikelihood
from logreg.inference.likelihood import Likelihood, Maximum, maximize
from logreg.inference.profile import profile_limit
from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers.fit import problem_of

DROP = 1.92072941034706
"""Half the 95 % quantile of chi-squared with 1 degree of freedom."""

THREE = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), torch.tensor([0, 0, 1])


def likelihood_of(x: Tensor, y: Tensor, kind: type[Likelihood] = Likelihood, loss: str = "bce") -> Likelihood:
    size, rows = x.shape[1], MemoryRows(x, y)
    facts = DataFacts(name="drawn", num_features=size, class_names=("no", "yes"), rows={"train": len(y)})
    arguments = problem_of(rows, Objective(loss)), rows, choose_design(facts, 1, {}, ""), 2
    return kind(*arguments, *([torch.eye(size + 1, dtype=torch.float64)] if kind is FirthLikelihood else []))


def maximum_of(likelihood: Likelihood, size: int) -> Maximum:
    return maximize(likelihood, likelihood.evaluate(torch.zeros(1, size + 1, dtype=torch.float64)))


@pytest.mark.parametrize("loss", ["bce", "probit", "cloglog", "loglog", "cauchit"])
@pytest.mark.parametrize("overlap", [False, True], ids=["complete", "quasi-complete"])
def test_separated_classes_have_no_maximum(loss: str, overlap: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=draw, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    if overlap:  # a rare level all of whose rows are of one class
        y = (torch.rand(60, generator=draw) < 0.5).long()
        x[:, 0] = torch.arange(60) < 5
        y[:5] = 1
    with pytest.raises(DataError, match="the likelihood must have a maximum"):
        maximum_of(likelihood_of(x, y, loss=loss), 2)


def penalized(intercept: float, slope: float) -> float:
    """Minus Firth's log-likelihood of three rows."""
    x, y = (part.numpy() for part in THREE)
    z = intercept + slope * x[:, 0]
    weight = np.exp(-np.logaddexp(0, z) - np.logaddexp(0, -z))
    columns = np.column_stack([np.ones(3), x[:, 0]])
    information = (columns * weight[:, None]).T @ columns
    return float(np.logaddexp(0, np.where(y == 1, -z, z)).sum() - np.linalg.slogdet(information)[1] / 2)


def profiled(slope: float) -> float:
    """The least over the intercept, from the best of a grid on."""
    grid = np.linspace(-40, 40, 801)
    best = grid[np.argmin([penalized(value, slope) for value in grid])]
    found = minimize_scalar(lambda value: penalized(value, slope), bracket=(best - 0.1, best, best + 0.1), tol=1e-12)
    return float(found.fun)


@pytest.mark.long
def test_limits_of_three_rows_are_those_of_the_penalized_likelihood() -> None:
    likelihood = likelihood_of(*THREE, FirthLikelihood)
    found = maximum_of(likelihood, 1)
    best = minimize_scalar(profiled, bracket=(0.5, 1.0, 2.0), tol=1e-12)
    assert float(found.parameters[0, 0]) == pytest.approx(best.x, rel=1e-5)
    assert found.value == pytest.approx(best.fun, abs=1e-9)
    before, slope = likelihood.passes, torch.tensor([1.0, 0.0], dtype=torch.float64)
    for sign, end in ((-1.0, -5.0), (1.0, 20.0)):
        limit = profile_limit(likelihood, found, slope, DROP, sign)
        known = brentq(lambda value: profiled(value) - best.fun - DROP, best.x, end, xtol=1e-10)
        assert limit.value == pytest.approx(known, abs=1e-6)
    assert likelihood.passes - before < 80  # two for each evaluation; 186 by Fisher scoring alone


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_limits_of_a_likelihood_that_is_not_concave_take_few_passes(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(25, 2, generator=draw, dtype=torch.float64)
    y = (x[:, 0] + 1.7 * torch.randn(25, generator=draw, dtype=torch.float64) > 0).long()
    likelihood = likelihood_of(x, y, loss="cauchit")
    found = maximum_of(likelihood, 2)
    columns, signs = np.column_stack([x.numpy(), np.ones(25)]), 2 * y.numpy() - 1

    def profiled(place: int, value: float) -> float:
        """Least negative log-likelihood over the other parameters, from several starts."""
        rest = np.delete(columns, place, axis=1)

        def negative(others: np.ndarray) -> float:
            logits = signs * (rest @ others + value * columns[:, place])
            return -float(np.log(0.5 + np.arctan(logits) / np.pi).sum())

        starts = (scale * np.delete(found.parameters[0].numpy(), place) for scale in (0.0, 1.0, 2.0, 5.0))
        return min(float(minimize(negative, start, tol=1e-10).fun) for start in starts)

    likelihood.passes = 0
    for place in range(3):
        for sign in (-1.0, 1.0):
            limit = profile_limit(likelihood, found, torch.eye(3, dtype=torch.float64)[place], DROP, sign)
            assert profiled(place, limit.value) == pytest.approx(found.value + DROP, abs=1e-6)
            best = float(found.parameters[0, place])
            inside = [best + share * (limit.value - best) for share in (0.25, 0.5, 0.75, 0.9)]
            assert max(profiled(place, value) for value in inside) < found.value + DROP
    assert likelihood.passes < 130  # up to 785 where limits were found by Fisher scoring and bisection


def test_standard_errors_of_firth_are_those_of_the_information() -> None:
    likelihood = likelihood_of(*THREE, FirthLikelihood)
    found = maximum_of(likelihood, 1)
    slope, intercept = found.parameters[0].tolist()
    weight = [math.exp(-abs(z)) / (1 + math.exp(-abs(z))) ** 2 for z in (intercept + slope * x for x in (1, 2, 4))]
    columns = torch.tensor([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], dtype=torch.float64)
    information = (columns * torch.tensor(weight, dtype=torch.float64).unsqueeze(1)).T @ columns
    torch.testing.assert_close(found.covariance, torch.linalg.inv(information), rtol=1e-6, atol=0)
