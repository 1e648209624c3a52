"""Coefficients that solve another problem than the stated one: is the other one found, and what was confused?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.optimality.implied_penalty import ImpliedPenalty, find_implied_penalty, likely_cause, rounded
from logreg.rows import MemoryRows
from logreg.solvers.fit import fit, problem_of
from logreg.solvers.problem import Coordinates, Problem

SOLVED = 0.02
"""The l2 that the coefficients of every test are the optimum of, of standardized features or of raw ones."""


class Case(NamedTuple):
    problem: Problem
    point: Tensor
    rows: MemoryRows
    coordinate_systems: dict[str, Coordinates]


@cache
def solved(num_classes: int, l1: float = 0.0) -> Case:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(200, 4, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.5, 2.0]) + 1
    scores = features @ torch.randn(4, num_classes, generator=draw, dtype=torch.float64)
    labels = (scores + 2 * torch.randn(200, num_classes, generator=draw, dtype=torch.float64)).argmax(1)
    objective = Objective("bce" if num_classes == 2 else "cross_entropy", l2=SOLVED, l1=l1)
    found = fit(features, labels, objective, tolerance=1e-13)
    rows = MemoryRows(features, labels)
    problem = problem_of(rows, objective)
    standardized = Coordinates(features.mean(0), features.std(0, correction=0))
    point = torch.cat([found.coef, found.intercept.unsqueeze(1)], dim=1)
    return Case(problem, point, rows, {"raw": problem.model, "standardized": standardized})


def implied_by(case: Case, l2: float, l1: float = 0.0, point: Tensor | None = None) -> ImpliedPenalty | None:
    stated = replace(case.problem, objective=replace(case.problem.objective, l2=l2, l1=l1))
    return find_implied_penalty(
        stated, case.point if point is None else point, case.rows, case.coordinate_systems, intercept=True
    )


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("stated", [1e-4, 0.5, 0.0])
def test_the_l2_that_was_solved_is_found(num_classes: int, stated: float) -> None:
    implied = implied_by(solved(num_classes), stated)
    assert implied is not None
    assert implied.l2 == pytest.approx(SOLVED, rel=1e-5)
    assert (implied.features, implied.intercept) == ("raw", False)
    assert implied.relative_gap is not None
    assert implied.relative_gap < 1e-10


def test_the_strength_of_an_elastic_net_is_found() -> None:
    implied = implied_by(solved(2, l1=0.05), 10 * SOLVED, 0.5)
    assert implied is not None
    assert (implied.l2, implied.l1) == pytest.approx((SOLVED, 0.05), rel=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_coefficients_that_did_not_quite_converge_give_the_digits_that_their_error_allows(
    num_classes: int, size: float
) -> None:
    case, draw, within = solved(num_classes), torch.Generator().manual_seed(1), 0
    for _ in range(20):
        away = size * case.point * torch.randn(case.point.shape, generator=draw, dtype=torch.float64)
        implied = implied_by(case, 10 * SOLVED, point=case.point + away)
        assert implied is not None
        assert implied.error < 1000 * size
        within += abs(implied.l2 - SOLVED) <= implied.error * implied.l2
        assert rounded(implied.l2, max(implied.error, abs(SOLVED / implied.l2 - 1))) == "0.02"
    assert within >= 18


def test_no_more_digits_are_cut_than_the_error_allows() -> None:
    assert rounded(1.00001, 1.1e-5) == "1"
    assert rounded(1.00001, 0.9e-5) == "1.00001"
    assert rounded(0.0123456789, 0.0) == "0.0123457"
    assert rounded(123456.7, 0.01) == "123000"


def test_the_stated_penalty_is_no_other_one() -> None:
    assert implied_by(solved(2), SOLVED) is None


def test_coefficients_that_solve_nothing_are_not_said_to() -> None:
    case = solved(2)
    assert implied_by(case, SOLVED, point=case.point.flip(1)) is None
    assert implied_by(case, SOLVED, point=torch.zeros_like(case.point)) is None


def test_a_penalty_on_standardized_features_is_found() -> None:
    case = solved(2)
    standardized = case.coordinate_systems["standardized"]
    features = (case.rows.features - standardized.center) / standardized.scale
    found = fit(features, case.rows.labels, Objective("bce", l2=SOLVED), tolerance=1e-13)
    there = torch.cat([found.coef, found.intercept.unsqueeze(1)], dim=1)
    implied = implied_by(case, SOLVED, point=standardized.to(case.coordinate_systems["raw"], there))
    assert implied is not None
    assert (implied.features, implied.intercept) == ("standardized", False)
    assert implied.factor == pytest.approx(1, rel=1e-5)


CONFUSIONS = {
    "as if the penalty were not divided by the number of rows": 200.0,
    "as if the loss were summed over the rows and not averaged": 1 / 200,
    "as if |coef|^2 had no half before it": 2.0,
    "as if the penalty were halved twice, or a softmax of two classes were written as one logit": 0.5,
    "as if the penalty were not divided by the number of rows and |coef|^2 had no half before it": 400.0,
    "": 7.0,
}


@pytest.mark.parametrize("words", CONFUSIONS)
def test_a_strength_in_another_convention_is_named(words: str) -> None:
    implied = implied_by(solved(2), SOLVED / CONFUSIONS[words])
    assert implied is not None
    assert likely_cause(implied, 200.0) == words


def test_a_norm_that_was_not_squared_is_named() -> None:
    # the slope of l2/2 |w| is l2/2 w/|w|: that of l2_hat/2 |w|^2 with l2_hat = l2 / (2 |w|)
    case = solved(2)
    implied = implied_by(case, SOLVED * 2 * float(case.point[:, :-1].norm()))
    assert implied is not None
    assert likely_cause(implied, 200.0) == "as if |coef| stood for |coef|^2"
