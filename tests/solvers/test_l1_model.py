"""Quadratic models with l1: the optimality conditions at the minimum, whatever the matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from logreg.solvers.l1_model import minimize_model


def model_value(matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor, v: Tensor) -> float:
    move = v - start
    return float(gradient @ move + move @ matrix @ move / 2 + l1 @ v.abs())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rows", [15, 40, 300])
def test_the_minimum_satisfies_the_optimality_conditions(rows: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 40, generator=draw, dtype=torch.float64)
    x[:, 39] = x[:, 0] - x[:, 1]  # dependent columns, and with 15 rows many more of them
    x[:, 38] = x[:, 2]
    x[:, 37] = 0
    matrix = x.T @ x / rows
    start = torch.randn(40, generator=draw, dtype=torch.float64) * (torch.rand(40, generator=draw) < 0.5)
    target = x @ torch.randn(40, generator=draw, dtype=torch.float64)
    gradient = x.T @ (x @ start - target) / rows
    l1 = torch.full_like(start, 0.1 * float(gradient.abs().max()))
    l1[5] = 0.0
    best = minimize_model(*(part.numpy() for part in (matrix, gradient, start, l1)))
    point = torch.from_numpy(best.point)
    decrease = model_value(matrix, gradient, start, l1, start) - model_value(matrix, gradient, start, l1, point)
    assert best.decrease == pytest.approx(decrease, rel=1e-8)
    for _ in range(50):  # where columns depend on each other it may be the minimum with a proximal term
        slope = gradient + matrix @ (point - start)
        point = torch.from_numpy(minimize_model(*(part.numpy() for part in (matrix, slope, point, l1))).point)
    slope, held = gradient + matrix @ (point - start), point == 0
    assert 0 < int(held.sum()) < 40
    assert float((slope + l1 * point.sign())[~held].abs().max()) < 1e-6 * float(l1.max())
    assert float((slope.abs() - l1)[held].max()) < 1e-6 * float(l1.max())


def test_a_start_at_the_minimum_stays() -> None:
    best = minimize_model(np.eye(3), np.array([0.5, -1.0, 0.0]), np.zeros(3), np.ones(3))
    assert not best.point.any()
    assert best.decrease == 0


def test_a_matrix_that_is_not_positive_semidefinite_is_damped() -> None:
    # as rounding in float32 makes the Hessian of columns that are nearly alike
    matrix = np.array([[1.0, 1.0 + 1e-6], [1.0 + 1e-6, 1.0]])
    best = minimize_model(matrix, np.array([-1.0, -1.0]), np.zeros(2), np.array([0.1, 0.1]))
    assert best.decrease > 0.4
    assert float(best.point.sum()) == pytest.approx(0.9, rel=1e-3)
