"""Goodness of fit: the test of Hosmer and Lemeshow, Stukel's columns, and overdispersion over covariate patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from logreg.inference.diagnostics import RowDerivatives
from logreg.inference.profile import chi_squared_tail
from logreg.inference.results import HosmerLemeshow, Overdispersion
from logreg.inference.splines import quantiles

GROUPS = 10
"""Groups of the test of Hosmer and Lemeshow: the deciles of the probability."""

MIN_EXPECTED = 5.0
"""Rows of a class that a group should expect, for chi-squared to be a good approximation."""

MIN_PATTERN_ROWS = 2.0
"""Rows for each covariate pattern, on average, from which their spread within patterns says something."""

TIED = 12
"""Digits of a probability that tell rows apart: equal rows may differ in the last bits."""


def hosmer_lemeshow(terms: RowDerivatives, weights: Tensor | None) -> HosmerLemeshow | None:
    """The test of Hosmer and Lemeshow; rows of one probability are in one group.

    Args:
        terms: The rows.
        weights: Numbers of rows, (n,); ``None`` for all 1.

    Returns:
        ``None`` where there are fewer than three groups.

    References:
        Hosmer and Lemeshow (1980), Goodness of fit tests for the multiple logistic regression model.
        Hosmer, Hosmer, le Cessie and Lemeshow (1997), A comparison of goodness-of-fit tests for the logistic regression
        model: the choice of the groups changes the answer, and the power is small for few rows.
        Paul, Pennell and Lemeshow (2013), Standardizing the power of the Hosmer-Lemeshow goodness of fit test in large
        data sets: with many rows it rejects models for small departures.
    """
    probability = terms.probability.round(decimals=TIED)
    levels = torch.arange(GROUPS + 1, dtype=torch.float64) / GROUPS
    ends = quantiles(probability, levels, weights).unique()
    group = torch.searchsorted(ends[1:-1].contiguous(), probability)
    ones = torch.ones_like(probability) if weights is None else weights
    number = max(len(ends) - 1, 1)
    rows, right, expected = (
        torch.bincount(group, one * ones, number) for one in (torch.ones_like(ones), terms.target, terms.probability)
    )
    both = torch.stack([expected, rows - expected])
    if number < 3 or bool((both <= 0).any()):
        return None
    chi2 = float(((right - expected).square() / both).sum())
    few = int((both.amin(0) < MIN_EXPECTED).sum())
    return HosmerLemeshow(chi2, number - 2, chi_squared_tail(chi2, number - 2), number, few)


def stukel_columns(logits: Tensor) -> Tensor:
    """z^2 / 2 for logits z >= 0, and -z^2 / 2 for the others, (n, 2): a lighter or a heavier tail on each side.

    References:
        Stukel (1988), Generalized logistic models.
    """
    half = logits.square() / 2
    return torch.stack([torch.where(logits >= 0, half, 0.0), torch.where(logits < 0, -half, 0.0)], dim=1)


def overdispersion(
    terms: RowDerivatives, pattern: Tensor, weights: Tensor | None, parameters: int
) -> tuple[Overdispersion | None, str]:
    """Pearson's statistic over the covariate patterns, by rows less parameters.

    Args:
        terms: The rows.
        pattern: Equal for rows with equal features, (n,).
        weights: Numbers of rows, (n,); ``None`` for all 1.
        parameters: Number of parameters, k.

    Returns:
        The statistic, and the reason where there is none: patterns do not repeat, or do not outnumber the parameters.

    References:
        McCullagh and Nelder (1989), Generalized linear models, section 4.5.
    """
    place = pattern.unique(return_inverse=True)[1]
    ones = torch.ones_like(terms.target) if weights is None else weights
    rows, excess, variance = (
        torch.bincount(place, one * ones)
        for one in (torch.ones_like(ones), terms.target - terms.probability, terms.variance)
    )
    there = rows > 0
    patterns = int(there.sum())
    degrees, repeated = patterns - parameters, float(rows.sum()) / max(patterns, 1)
    if repeated < MIN_PATTERN_ROWS:
        return None, f"covariate patterns hardly repeat, {patterns:,} of them in {float(rows.sum()):,.10g} rows"
    if degrees < 1:
        return None, f"{patterns:,} covariate patterns are not more than the {parameters:,} parameters"
    chi2 = float((excess[there].square() / variance[there]).sum())
    return Overdispersion(chi2, degrees, chi_squared_tail(chi2, degrees), patterns), ""
