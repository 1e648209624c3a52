"""Linear dependence of columns: which are combinations of which, variance inflation factors, condition number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.inference.design import Term

ALIASED_SHARE = 1e-11
"""Share of a column's (weighted) square that other columns leave unexplained, up to which it is a combination of them.

Rounding leaves about 1e-15 times the number of columns.  R drops columns at 1e-14, of an orthogonal decomposition of
the columns themselves, which has twice the digits."""

NEGLIGIBLE_SHARE = 1e-5
"""Coefficient of a combination, of columns with one length, up to which its column has no part in it."""


class Combination(NamedTuple):
    """A parameter whose column is a linear combination of those of others."""

    position: int
    others: tuple[int, ...]


def linear_combinations(gram: Tensor) -> list[Combination]:
    """The columns that are linear combinations of those before them, by a Cholesky decomposition of their Gram matrix.

    The last column, the intercept's, goes first: a constant column is a multiple of it.

    Args:
        gram: Weighted sums of products of the columns, (P, P); the Hessian of one output.
    """
    order = [len(gram) - 1, *range(len(gram) - 1)]
    unit = gram.diagonal().clamp(min=1e-300).rsqrt()
    scaled = gram * unit * unit.unsqueeze(1)
    kept: list[int] = []
    found: list[Combination] = []
    factor = scaled.new_zeros(len(gram), len(gram))
    for position in order:
        row = torch.linalg.solve_triangular(
            factor[: len(kept), : len(kept)], scaled[kept, position].unsqueeze(1), upper=False
        )[:, 0]
        left = float(scaled[position, position] - row @ row)
        if left > ALIASED_SHARE:
            factor[len(kept), : len(kept)], factor[len(kept), len(kept)] = row, left**0.5
            kept.append(position)
            continue
        parts = torch.linalg.solve_triangular(factor[: len(kept), : len(kept)].T, row.unsqueeze(1), upper=True)[
            :, 0
        ].abs()
        has_part = parts > NEGLIGIBLE_SHARE * float(parts.max()) if len(kept) else parts > 0
        found.append(Combination(position, tuple(sorted(kept[place] for place in has_part.nonzero()[:, 0]))))
    return found


def correlation(covariance: Tensor) -> Tensor:
    """The correlation matrix of a covariance matrix, (P, P)."""
    unit = covariance.diagonal().rsqrt()
    return covariance * unit * unit.unsqueeze(1)


def variance_inflation(covariance: Tensor, terms: Sequence[Term]) -> list[float]:
    """The generalized variance inflation factor of each term, to the power 1 / (its number of parameters).

    Of a term with one parameter it is the usual factor: the variance of the estimate as a multiple of that without
    the other columns.  Where the term is a category, it does not depend on the reference level.

    Args:
        covariance: Covariance of the estimates of one output without the intercept, (P - 1, P - 1).
        terms: The terms, in the order of the parameters.

    References:
        Fox and Monette (1992), Generalized collinearity diagnostics.
    """
    whole = correlation(covariance)
    total = torch.linalg.slogdet(whole).logabsdet
    factors = []
    for term in terms:
        mine = torch.zeros(len(whole), dtype=torch.bool)
        mine[list(term.positions)] = True
        parts = [torch.linalg.slogdet(whole[some][:, some]).logabsdet for some in (mine, ~mine)]
        factors.append(float(torch.exp((sum(parts) - total) / max(len(term.positions), 1))))
    return factors


def condition_number(covariance: Tensor) -> float:
    """The condition number of the weighted columns, centered and of one length: sqrt of the ratio of eigenvalues.

    It depends neither on the units nor on the origins of the columns.

    Args:
        covariance: Covariance of the estimates of one output without the intercept, (P - 1, P - 1).

    References:
        Belsley, Kuh and Welsch (1980), Regression diagnostics.
    """
    if not len(covariance):
        return 1.0
    values = torch.linalg.eigvalsh(correlation(torch.linalg.inv(covariance)))
    return float((values[-1] / values[0].clamp(min=1e-300)).sqrt())
