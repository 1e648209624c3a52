"""Linear combinations, variance inflation and condition numbers, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.inference.collinearity import Combination, condition_number, linear_combinations, variance_inflation
from logreg.inference.design import Term


def columns(rows: int = 200) -> Tensor:
    """Correlated columns, the last one 1."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    x[:, 1] += 2 * x[:, 0]
    return torch.cat([x, torch.ones(rows, 1, dtype=torch.float64)], dim=1)


def covariance_of(x: Tensor) -> Tensor:
    """Of the slopes of least squares."""
    whole: Tensor = torch.linalg.inv(x.T @ x)
    return whole[:-1, :-1]


def share_left(x: Tensor, place: int) -> float:
    """1 - R^2 of the regression of one column on the others."""
    others = np.delete(x.numpy(), place, axis=1)
    target = x[:, place].numpy()
    residual = target - others @ np.linalg.lstsq(others, target, rcond=None)[0]
    return float(residual @ residual / ((target - target.mean()) ** 2).sum())


def test_variance_inflation_is_one_over_the_share_that_others_leave() -> None:
    x = columns()
    terms = [Term(str(place), (place,)) for place in range(4)]
    factors = variance_inflation(covariance_of(x), terms)
    assert factors == pytest.approx([1 / share_left(x, place) for place in range(4)], rel=1e-9)
    assert factors[0] > 3


def test_variance_inflation_of_a_category_does_not_depend_on_its_reference() -> None:
    draw = torch.Generator().manual_seed(1)
    levels = torch.randint(3, (300,), generator=draw)
    number = torch.randn(300, 1, generator=draw, dtype=torch.float64) + levels.unsqueeze(1)
    terms = [Term("number", (0,)), Term("category", (1, 2))]
    found = []
    for reference in range(3):
        dummies = torch.nn.functional.one_hot(levels, 3).double()[:, [k for k in range(3) if k != reference]]
        x = torch.cat([number, dummies, torch.ones(300, 1, dtype=torch.float64)], dim=1)
        found.append(variance_inflation(covariance_of(x), terms))
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)
    # of two terms both have the same generalized factor, here to the power 1 and 1 / 2
    assert found[0][1] == pytest.approx(found[0][0] ** 0.5, rel=1e-9)


def test_the_condition_number_is_that_of_centered_columns_of_one_length() -> None:
    x = columns()
    centered = x[:, :-1] - x[:, :-1].mean(0)
    expected = float(torch.linalg.cond(centered / centered.norm(dim=0)))
    assert condition_number(covariance_of(x)) == pytest.approx(expected, rel=1e-9)
    moved = x.clone()
    moved[:, 0] = 1e3 * moved[:, 0] + 1e4
    assert condition_number(covariance_of(moved)) == pytest.approx(expected, rel=1e-5)
    assert condition_number(torch.zeros(0, 0, dtype=torch.float64)) == 1


def test_combinations_are_found_with_their_parts_alone() -> None:
    x = columns()
    x = torch.cat([x[:, :4], (x[:, 0] - 3 * x[:, 2]).unsqueeze(1), torch.full((200, 1), 7.0).double(), x[:, 4:]], dim=1)
    assert linear_combinations(x.T @ x) == [Combination(4, (0, 2)), Combination(5, (6,))]
    assert linear_combinations(columns().T @ columns()) == []


def test_columns_that_almost_depend_on_each_other_are_kept() -> None:
    x = columns()
    x[:, 3] = x[:, 0] + 1e-4 * x[:, 3]
    assert linear_combinations(x.T @ x) == []
