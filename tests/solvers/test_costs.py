"""Predicted times grow with the shape of the problem as the operations do."""

from __future__ import annotations

import pytest
import torch

from logreg.losses.objective import Objective
from logreg.solvers.costs import SECONDS_PER_PASS, blocks_seconds, hessian_seconds, pass_seconds, row_space_seconds
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


def test_the_span_of_the_rows_takes_time_in_proportion_to_their_cube_and_to_the_features_of_the_gram_matrix() -> None:
    one, eight = row_space_seconds(shaped(10_000, 20_000)), row_space_seconds(shaped(20_000, 40_000))
    assert eight == pytest.approx(8 * one, rel=0.01)
    grams = [row_space_seconds(shaped(1000, features)) for features in (10**5, 2 * 10**5, 3 * 10**5)]
    assert grams[2] - grams[1] == pytest.approx(grams[1] - grams[0])
    # each output has inverses of its own, and all of them share the Gram matrix
    two, four, six = (row_space_seconds(shaped(3000, 3000, outputs)) for outputs in (2, 4, 6))
    assert six - four == pytest.approx(four - two)
    assert four < 2 * two
