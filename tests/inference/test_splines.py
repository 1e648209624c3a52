"""Quantiles, knots, and natural cubic splines."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from logreg.inference.splines import choose_knots, quantiles, spline_columns


def test_a_value_of_weight_3_counts_as_three() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(50, generator=draw, dtype=torch.float64)
    weights = torch.randint(0, 4, (50,), generator=draw)
    levels = torch.rand(20, generator=draw, dtype=torch.float64)
    repeated = torch.quantile(values.repeat_interleave(weights), levels)
    assert quantiles(values, levels, weights.double()).tolist() == pytest.approx(repeated.tolist(), rel=1e-12)
    assert quantiles(values, levels).tolist() == pytest.approx(torch.quantile(values, levels).tolist(), rel=1e-12)


def test_a_spline_is_linear_beyond_its_ends_and_smooth_between() -> None:
    # of ns(x, knots = c(0.3, 1), Boundary.knots = c(-1, 2)): two columns besides the straight line
    knots = torch.tensor([-1.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    grid = torch.linspace(-3, 5, 8001, dtype=torch.float64)
    columns = spline_columns(grid, knots)
    assert columns.shape == (8001, 2)
    assert bool((columns[grid <= -1] == 0).all())
    second = columns.diff(n=2, dim=0) / 1e-6  # at the inner points of the grid
    inner = grid[1:-1]
    assert float(second[inner > 2.002].abs().max()) < 1e-4
    assert float(second.diff(dim=0).abs().max()) < 0.02  # continuous
    third = second.diff(dim=0) / 1e-3
    for low, high in pairwise(knots):  # constant between knots
        part = third[(inner[:-1] > low + 0.01) & (inner[:-1] < high - 0.01)]
        assert (part.amax(0) - part.amin(0)).tolist() == pytest.approx([0, 0], abs=0.05)


@pytest.mark.parametrize(
    ("values", "knots"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3, 4]),
        ([0.0, 0.0, 0.0, 0.0, 7.0], [0, 7]),  # the quartiles are an end
        ([0.0, 1.0], [0, 1]),
        ([0.0, 0.0, 1.0, 2.0, 2.0], [0, 1, 2]),
    ],
)
def test_knots_are_those_that_the_values_determine(values: list[float], knots: list[float]) -> None:
    column = torch.tensor(values, dtype=torch.float64)
    assert choose_knots(column, None, min(values), max(values)).tolist() == knots
