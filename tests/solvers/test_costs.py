"""Predicted times grow with the shape of the problem as the operations do."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.solvers.costs import SECONDS_PER_PASS, blocks_seconds, hessian_seconds, pass_seconds
from logreg.solvers.problem import Coordinates, Problem


def shaped(rows: int, features: int, outputs: int = 1) -> Problem:
    """A softmax problem of a shape."""
    zeros = torch.zeros(features, dtype=torch.float64)
    return Problem(Objective("cross_entropy", l2=0.1), rows, rows, outputs, Coordinates(zeros, zeros + 1))


def test_a_pass_takes_time_in_proportion_to_the_rows_and_a_hessian_to_the_square_of_the_parameters() -> None:
    fixed = SECONDS_PER_PASS
    one, ten = pass_seconds(shaped(10**6, 50)) - fixed, pass_seconds(shaped(10**7, 50)) - fixed
    assert ten == pytest.approx(10 * one)
    one, four = (hessian_seconds(shaped(10**7, 4999, outputs)) - fixed for outputs in (2, 4))
    assert four == pytest.approx(4 * one, rel=0.01)  # factorization, and reading the features, are the rest
    assert blocks_seconds(shaped(10**6, 500), 8000) < hessian_seconds(shaped(10**6, 500))
    assert blocks_seconds(shaped(10**6, 500), 8000) > pass_seconds(shaped(10**6, 500))
