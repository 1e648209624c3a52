"""Natural cubic splines of a column: cubic between the knots, linear beyond the first and the last one."""

from __future__ import annotations

import torch
from torch import Tensor

SPLINE_DEGREES = 4
"""Degrees of freedom of a spline, one of which is the straight line: the knots are the ends of the column and its
quartiles, as of ``splines::ns(x, df = 4)`` in R."""


def choose_knots(values: Tensor, weights: Tensor | None, low: float, high: float) -> Tensor:
    """The knots of a column, ascending: its ends, and those of its quartiles that differ from these.

    A spline with more knots than a column has values would not be determined, so such columns have the ends alone.

    Args:
        values: The column in some rows, (n,).
        weights: Numbers of rows, (n,); ``None`` for all 1.
        low: Smallest value of all rows.
        high: Largest value.
    """
    levels = torch.arange(1, SPLINE_DEGREES, dtype=torch.float64) / SPLINE_DEGREES
    inner = quantiles(values, levels, weights).unique()
    inner = inner[(inner > low) & (inner < high)]
    if len(values.unique()) < len(inner) + 2:
        inner = inner[:0]
    return torch.cat([values.new_tensor([low]), inner, values.new_tensor([high])])


def spline_columns(values: Tensor, knots: Tensor) -> Tensor:
    """The columns that make a straight line a natural cubic spline, (n, m - 2), of m >= 3 knots.

    They are 0 up to their own knot, and linear from the last one on.  With the column itself and a constant they span
    the natural cubic splines, as the columns of ``splines::ns`` do.

    Args:
        values: The column, (n,).
        knots: Ascending, (m,).

    References:
        Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, section 5.2.1.
    """
    last = knots[-1]
    powers = (values.unsqueeze(1) - knots).clamp(min=0.0) ** 3
    slopes = (powers[:, :-1] - powers[:, -1:]) / (last - knots[:-1])
    return (slopes[:, :-1] - slopes[:, -1:]) / (last - knots[0])


def quantiles(values: Tensor, levels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Quantiles of values (n,) at levels (m,) in [0, 1], linear between order statistics as R's type 7.

    Args:
        values: Shape (n,).
        levels: Shape (m,).
        weights: Numbers of rows, (n,), >= 0: a value of weight 3 counts as three; ``None`` for all 1.
    """
    order = values.argsort()
    values = values[order]
    last = (torch.ones_like(values) if weights is None else weights[order]).cumsum(0)
    places = levels.to(last) * (last[-1] - 1).clamp(min=0.0)  # among all rows, from 0
    whole = places.floor()
    below, above = (
        values[torch.searchsorted(last, place, right=True).clamp(max=len(values) - 1)] for place in (whole, whole + 1)
    )
    return torch.where(places > whole, torch.lerp(below, above, places - whole), below)
