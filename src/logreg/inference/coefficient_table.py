"""The table of R's `summary(glm)`: estimates, standard errors, tests and intervals, and statistics of the whole fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import torch
from torch import Tensor

from logreg.inference.collinearity import condition_number, variance_inflation
from logreg.inference.design import Design, to_source_units
from logreg.inference.likelihood import Likelihood, Maximum
from logreg.inference.profile import ProfileLimit, TermTest, chi_squared_tail, profile_limit

HIGH_VARIANCE_INFLATION = 10.0
"""Variance inflation factor from which a warning names the column (Kutner, Nachtsheim and Neter, 2004)."""


@dataclass(frozen=True)
class Effect:
    """A coefficient in some unit of its feature, with its interval; odds ratios are ``None`` where float64 overflows.

    For several classes the odds are those against the reference class.
    """

    coef: float
    std_error: float
    low: float
    high: float
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None

    @classmethod
    def of(cls, coef: float, std_error: float, low: float, high: float, factor: float = 1.0) -> Effect:
        """The effect in a unit ``factor`` times as large."""
        ratios = [_exponential(factor * number) for number in (coef, low, high)]
        return cls(factor * coef, factor * std_error, factor * low, factor * high, *ratios)


@dataclass(frozen=True)
class Coefficient:
    """One row of the table.

    Attributes:
        feature: Name of the feature, or "intercept".
        class_name: The class whose log-odds against the reference class the coefficient is of.
        z: The coefficient in standard errors.
        p: Two-sided p-value of z by the normal distribution.
        per_unit: The effect of one source unit.
        per_std: The effect of one standard deviation over the train rows; ``None`` for the intercept.
    """

    feature: str
    class_name: str
    z: float
    p: float
    per_unit: Effect
    per_std: Effect | None


@dataclass(frozen=True)
class FitStatistics:
    """Statistics of the whole fit; those of the likelihood are ``None`` for sampling weights, which have none.

    Attributes:
        rows: Number of rows, n: the sum of weights that are counts.
        parameters: Number of parameters, k.
        log_likelihood: In nats.
        null_log_likelihood: That of the intercepts alone.
        aic: -2 log-likelihood + 2 k.
        bic: -2 log-likelihood + k log n.
        mcfadden_r2: 1 - log-likelihood / null log-likelihood.
        tjur_r2: Mean probability of the positive class over its rows less that over the others; of two classes.
        likelihood_ratio: Test of all coefficients together against the null model.
        condition_number: Of the weighted columns, centered and of one length.
        variance_inflation: Generalized variance inflation factor by column.
    """

    rows: float
    parameters: int
    log_likelihood: float | None
    null_log_likelihood: float | None
    aic: float | None
    bic: float | None
    mcfadden_r2: float | None
    tjur_r2: float | None
    likelihood_ratio: TermTest | None
    condition_number: float
    variance_inflation: Mapping[str, float]

    def of_penalized_likelihood(self, test: TermTest) -> FitStatistics:
        """These statistics where the likelihood is penalized: criteria of the likelihood itself do not hold.

        Args:
            test: The test of all coefficients together.
        """
        assert self.log_likelihood is not None
        null = self.log_likelihood - test.chi2 / 2
        return replace(self, null_log_likelihood=null, aic=None, bic=None, mcfadden_r2=None, likelihood_ratio=test)


@dataclass(frozen=True)
class CoefficientTable:
    """The answer of the command.

    Attributes:
        checkpoint: The checkpoint.
        data: The dataset.
        classes: Names of the classes.
        reference_class: The class that the others are compared with.
        references: Reference level of each categorical column.
        confidence: Level of the intervals.
        covariance: How the standard errors were computed, as typed.
        firth: Whether the estimates maximize Firth's penalized likelihood.
        interval: "wald" or "profile".
        weights: "frequency" or "sampling"; ``None`` without weights.
        coefficients: Intercept first, class by class.
        fit: Statistics of the whole fit.
        tests: The likelihood-ratio test of each term; ``None`` where they were not asked for.
        limit_error: Largest error of a profile limit, in standard errors; ``None`` for Wald's.
        notes: Sentences for the user.
    """

    checkpoint: str
    data: str
    classes: Sequence[str]
    reference_class: str
    references: Mapping[str, str]
    confidence: float
    covariance: str
    firth: bool
    interval: str
    weights: str | None
    coefficients: Sequence[Coefficient]
    fit: FitStatistics
    tests: Sequence[TermTest] | None = None
    limit_error: float | None = None
    notes: Sequence[str] = field(default=())


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
            per_std = None
            if position < size - 1:
                per_std = Effect.of(value, error, low, high, float(std[design.features[position]]))
            tail = math.erfc(abs(z) / math.sqrt(2))
            rows.append(Coefficient(name, class_name, z, tail, Effect.of(value, error, low, high), per_std))
    return rows, limit_error if profile else None


def fit_statistics(
    likelihood: Likelihood, found: Maximum, class_totals: Tensor, rows: float, has_likelihood: bool
) -> FitStatistics:
    """Statistics of the whole fit.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        class_totals: Weight of the rows of each class, (C,).
        rows: Number of rows, n.
        has_likelihood: Whether weights are counts, so that the weighted sum is a log-likelihood.
    """
    design = likelihood.design
    outputs, size = design.shape
    parameters, slopes = outputs * size, outputs * (size - 1)
    value, null = -found.value, float(torch.special.xlogy(class_totals, class_totals / class_totals.sum()).sum())
    # Of several classes the factors are the largest of the classes, each against the reference.
    blocks = [found.covariance[first : first + size - 1, first : first + size - 1] for first in
              range(0, parameters, size)]  # fmt: skip
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


def _exponential(number: float) -> float | None:
    try:
        return math.exp(number)
    except OverflowError:
        return None
