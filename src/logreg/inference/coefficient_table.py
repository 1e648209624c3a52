"""Computes the table of R's `summary(glm)`: estimates, errors, tests, intervals, and statistics of the whole fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from logreg.inference.collinearity import condition_number, variance_inflation
from logreg.inference.design import Design, to_source_units
from logreg.inference.effects import Effects
from logreg.inference.likelihood import Likelihood, Maximum
from logreg.inference.profile import ProfileLimit, chi_squared_tail, profile_limit
from logreg.inference.results import Coefficient, Effect, FitStatistics, MarginalEffect, TermTest


def coefficient_rows(
    likelihood: Likelihood,
    found: Maximum,
    covariance: Tensor,
    mean: Tensor,
    std: Tensor,
    confidence: float,
    profile: bool = False,
    status: Callable[[str], None] | None = None,
) -> tuple[list[Coefficient], float | None]:
    """The rows of the table, and the largest error of a profile limit in standard errors.

    Args:
        likelihood: The likelihood, whose parameters are by features (x - mean) / std.
        found: Its maximum.
        covariance: Covariance of the parameters, (M * P, M * P).
        mean: Shape (D,), in source units.
        std: Shape (D,), in source units.
        confidence: Level of the intervals, in (0, 1).
        profile: Whether limits are those of the profile likelihood; else Wald's.
        status: Shows what is being done.
    """
    design: Design = likelihood.design
    outputs, size = design.shape
    to_source = design.sign * torch.block_diag(*[to_source_units(design, mean, std)] * outputs)
    has_odds = likelihood.problem.loss.gives_log_odds
    coef = (to_source @ found.parameters.flatten()).tolist()
    errors = (to_source @ covariance @ to_source.T).diagonal().sqrt().tolist()
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    rows, limit_error = [], 0.0
    for output, class_name in enumerate(design.classes):
        for position in (size - 1, *range(size - 1)):  # the intercept first
            place = output * size + position
            value, error, name = coef[place], errors[place], design.names[position]
            low, high = value - quantile * error, value + quantile * error
            if profile:
                if status is not None:
                    status(f"profile likelihood of {name} ...")
                limits: list[ProfileLimit] = [
                    profile_limit(likelihood, found, to_source[place], quantile**2 / 2, sign) for sign in (-1.0, 1.0)
                ]
                low, high = limits[0].value, limits[1].value
                limit_error = max(limit_error, *(limit.error for limit in limits))
            z = value / error
            per_unit, per_std = Effect.of(value, error, low, high, has_odds=has_odds), None
            if position < size - 1:
                per_std = Effect.of(value, error, low, high, float(std[design.features[position]]), has_odds)
            rows.append(Coefficient(name, class_name, z, normal_tails(z), per_unit, per_std))
    return rows, limit_error if profile else None


def effect_rows(
    likelihood: Likelihood, found: Effects, covariance: Tensor, confidence: float
) -> tuple[MarginalEffect, ...]:
    """Marginal effects with standard errors by the delta method; of two classes those on the one that is compared.

    Args:
        likelihood: The likelihood.
        found: The effects.
        covariance: Covariance of the parameters, (M * P, M * P).
        confidence: Level of the intervals, in (0, 1).
    """
    design = likelihood.design
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    variances = torch.einsum("cjq,qr,cjr->cj", found.jacobian, covariance, found.jacobian)
    rows = []
    for place, class_name in enumerate((design.reference_class, *design.classes)):
        if place == 0 and len(design.classes) == 1:
            continue
        for position, feature in enumerate(design.names[:-1]):
            value, error = float(found.values[place, position]), math.sqrt(float(variances[place, position]))
            z, discrete = value / error, bool(found.discrete[position])
            low, high = value - quantile * error, value + quantile * error
            rows.append(MarginalEffect(feature, class_name, discrete, value, error, z, normal_tails(z), low, high))
    return tuple(rows)


def normal_tails(z: float) -> float:
    """Probability that a normal variable is farther from 0 than z."""
    return math.erfc(abs(z) / math.sqrt(2))


def fit_statistics(
    likelihood: Likelihood,
    found: Maximum,
    class_totals: Tensor,
    rows: float,
    has_likelihood: bool,
    against_intercept: TermTest | None = None,
) -> FitStatistics:
    """Statistics of the whole fit.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        class_totals: Weight of the rows of each class, (C,).
        rows: Number of rows, n.
        has_likelihood: Whether weights are counts, so that the weighted sum is a log-likelihood.
        against_intercept: The test against the intercept alone, where offsets or Firth's penalty leave no closed form
            for that; else ``None``.
    """
    design = likelihood.design
    outputs, size = design.shape
    parameters, slopes = outputs * size, outputs * (size - 1)
    value, null = -found.value, float(torch.special.xlogy(class_totals, class_totals / class_totals.sum()).sum())
    if against_intercept is not None:
        null = value - against_intercept.chi2 / 2
    # Of several classes the factors are the largest of the classes, each against the reference.
    blocks = [
        found.covariance[first : first + size - 1, first : first + size - 1] for first in range(0, parameters, size)
    ]
    terms = [term for term in design.terms if term.positions]
    factors = [max(of_term) for of_term in zip(*(variance_inflation(block, terms) for block in blocks), strict=True)]
    tjur = None
    if len(class_totals) == 2:
        right = found.at.chances / class_totals
        tjur = float(right[1] - (1 - right[0]))
    chi2 = max(2 * (value - null), 0.0)
    return FitStatistics(
        rows=rows,
        parameters=parameters,
        log_likelihood=value if has_likelihood else None,
        null_log_likelihood=null if has_likelihood else None,
        aic=-2 * value + 2 * parameters if has_likelihood else None,
        bic=-2 * value + parameters * math.log(rows) if has_likelihood else None,
        mcfadden_r2=1 - value / null if has_likelihood else None,
        tjur_r2=tjur,
        likelihood_ratio=TermTest("all", chi2, slopes, chi_squared_tail(chi2, slopes)) if has_likelihood else None,
        condition_number=max(map(condition_number, blocks)),
        variance_inflation={term.name: factor for term, factor in zip(terms, factors, strict=True)},
    )
