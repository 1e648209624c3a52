"""What is known about the coefficients of a fit, as plain values; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

INTERCEPT = "intercept"
"""Name of the intercept among the parameters."""

LOGIT = "logit"
"""Name of the link whose coefficients are logarithms of odds ratios."""


class TermTest(NamedTuple):
    """The likelihood-ratio test of one term."""

    term: str
    chi2: float
    """Twice the fall of the log-likelihood where the term is dropped."""
    degrees: int
    """Degrees of freedom: the number of its parameters."""
    p: float


@dataclass(frozen=True)
class Effect:
    """A coefficient in some unit of its feature, with its interval.

    For several classes the odds are those against the reference class.  Odds ratios are ``None`` where float64
    overflows, and for links other than logit, whose coefficients are no logarithms of odds.
    """

    coef: float
    std_error: float
    low: float
    high: float
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None

    @classmethod
    def of(
        cls, coef: float, std_error: float, low: float, high: float, factor: float = 1.0, has_odds: bool = True
    ) -> Effect:
        """The effect in a unit ``factor`` times as large."""
        ratios = [_exponential(factor * number) if has_odds else None for number in (coef, low, high)]
        return cls(factor * coef, factor * std_error, factor * low, factor * high, *ratios)


@dataclass(frozen=True)
class Coefficient:
    """One row of the table.

    Attributes:
        feature: Name of the feature, or "intercept".
        class_name: The class whose log-odds against the reference class, or other link, the coefficient is of.
        z: The coefficient in standard errors; ``None`` for a bootstrap, whose estimates may be biased.
        p: Two-sided p-value of z by the normal distribution; ``None`` where z is.
        per_unit: The effect of one source unit.
        per_std: The effect of one standard deviation over the train rows; ``None`` for the intercept.
    """

    feature: str
    class_name: str
    z: float | None
    p: float | None
    per_unit: Effect
    per_std: Effect | None

    @property
    def distance(self) -> float:
        """Distance of the coefficient from 0 in standard errors; 0 where both are 0."""
        return abs(self.per_unit.coef) / self.per_unit.std_error if self.per_unit.std_error else 0.0


@dataclass(frozen=True)
class MarginalEffect:
    """The change of the probability of a class with a feature.

    Attributes:
        feature: Name of the feature.
        class_name: The class.
        discrete: Whether it is the difference between 1 and 0, or between a level and its reference; else it is the
            derivative, per source unit.
        effect: The effect, as a mean over the rows or at the mean of the features.
        std_error: By the delta method.
        z: The effect in standard errors.
        p: Two-sided p-value of z by the normal distribution.
        low, high: Ends of the interval.
    """

    feature: str
    class_name: str
    discrete: bool
    effect: float
    std_error: float
    z: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class FitStatistics:
    """Statistics of the whole fit; those of the likelihood are ``None`` for sampling weights and for a bootstrap.

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
        condition_number: Of the weighted columns, centered and of one length; ``None`` for a bootstrap.
        variance_inflation: Generalized variance inflation factor by column; empty for a bootstrap.
    """

    rows: float
    parameters: int
    log_likelihood: float | None = None
    null_log_likelihood: float | None = None
    aic: float | None = None
    bic: float | None = None
    mcfadden_r2: float | None = None
    tjur_r2: float | None = None
    likelihood_ratio: TermTest | None = None
    condition_number: float | None = None
    variance_inflation: Mapping[str, float] = field(default_factory=dict)

    def of_penalized_likelihood(self) -> FitStatistics:
        """These statistics where the likelihood is penalized: criteria of the likelihood itself do not hold."""
        return replace(self, aic=None, bic=None, mcfadden_r2=None)


class ResidualBin(NamedTuple):
    """The rows of a bin of a numeric column, whose residuals sum to about 0 where the logit is linear."""

    rows: float
    value: float
    """Mean of the column, in source units."""
    residual: float
    """Mean of the label, 0 or 1, less its probability."""
    limit: float
    """Two standard errors of that mean by the model: about 95 % of the residuals lie between minus and plus this."""


class Score(NamedTuple):
    """A score test: of columns that a fit lacks, from their gradient at the fit, which is not fitted again."""

    chi2: float
    degrees: int
    p: float


@dataclass(frozen=True)
class Linearity:
    """Whether the link of the probability is linear in a numeric column.

    Attributes:
        feature: Name of the column.
        knots: Knots of the natural cubic spline that takes the place of the column, in source units, the ends included.
        score: Score test of the spline against the column.
        likelihood_ratio: Likelihood-ratio test of the same: the model with the spline is fitted; ``None`` where it was
            not, or where that fit has no finite maximum.
        bins: Binned residuals.
    """

    feature: str
    knots: tuple[float, ...]
    score: Score
    likelihood_ratio: TermTest | None
    bins: tuple[ResidualBin, ...]

    @property
    def p(self) -> float:
        """That of the likelihood ratio, or else that of the score test."""
        return self.score.p if self.likelihood_ratio is None else self.likelihood_ratio.p


class RowInfluence(NamedTuple):
    """What a row does to the fit, by the one-step approximation of the fit without the row."""

    row: int
    """Number in the source, from 1."""
    class_name: str
    probability: float
    """Of the second class."""
    leverage: float
    residual: float
    """Pearson residual, divided by sqrt(1 - leverage): about standard normal."""
    cooks_distance: float
    dfbetas: Mapping[str, float]
    """Change of each coefficient with the row, in standard errors, by name."""


class PlottedRow(NamedTuple):
    """A point of the influence plot."""

    row: int
    leverage: float
    residual: float
    cooks_distance: float


class HosmerLemeshow(NamedTuple):
    """The test of Hosmer and Lemeshow, of groups of rows of about one probability."""

    chi2: float
    degrees: int
    p: float
    groups: int
    few: int
    """Number of groups that expect fewer than 5 rows of a class, of which chi-squared is a poor approximation."""


class Overdispersion(NamedTuple):
    """Pearson's statistic over the covariate patterns: the rows with the same features."""

    chi2: float
    degrees: int
    p: float
    patterns: int

    @property
    def ratio(self) -> float:
        """About 1 where the rows of a pattern are independent, and more where they depend on each other."""
        return self.chi2 / self.degrees


@dataclass(frozen=True)
class Checks:
    """What the data says about the assumptions of the fit.

    Attributes:
        linearity: The numeric columns, those with the smallest p first.
        influence: The rows with the largest Cook's distance, largest first.
        high_leverage: Number of rows with a leverage above three times the mean.
        plotted: Rows for a picture: the most influential ones, and others evenly spaced.
        hosmer_lemeshow: Goodness of fit by groups of the probability.
        stukel: Likelihood-ratio test of two further parameters of the logistic curve, one for each tail.
        overdispersion: Pearson's statistic, where covariate patterns repeat.
        left_out: Why a statistic is not there, by its name.
    """

    linearity: tuple[Linearity, ...]
    influence: tuple[RowInfluence, ...]
    high_leverage: int
    plotted: tuple[PlottedRow, ...]
    hosmer_lemeshow: HosmerLemeshow | None
    stukel: TermTest | None
    overdispersion: Overdispersion | None
    left_out: Mapping[str, str]


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
        interval: "wald", "profile" or "bootstrap".
        weights: "frequency" or "sampling"; ``None`` without weights.
        coefficients: Intercept first, class by class.
        fit: Statistics of the whole fit.
        tests: The likelihood-ratio test of each term; ``None`` where they were not asked for.
        limit_error: Largest error of a profile limit, in standard errors; ``None`` for Wald's.
        effects: Effects on the probabilities; ``None`` where they were not asked for.
        effects_at: "average" over the rows, at the "mean" of the features, or "none".
        notes: Sentences for the user.
        link: The link whose scale the coefficients are on; only those of logit have odds ratios.
        checks: What the data says about the assumptions; ``None`` where it was not asked for.
    """

    checkpoint: str
    data: str
    classes: tuple[str, ...]
    reference_class: str
    references: Mapping[str, str]
    confidence: float
    covariance: str
    firth: bool
    interval: str
    weights: str | None
    coefficients: tuple[Coefficient, ...]
    fit: FitStatistics
    tests: tuple[TermTest, ...] | None = None
    limit_error: float | None = None
    effects: tuple[MarginalEffect, ...] | None = None
    effects_at: str = "none"
    notes: tuple[str, ...] = ()
    link: str = LOGIT
    checks: Checks | None = None

    @property
    def gives_odds(self) -> bool:
        """Whether the exponential of a coefficient is a ratio of odds."""
        return self.link == LOGIT


def _exponential(number: float) -> float | None:
    try:
        return math.exp(number)
    except OverflowError:
        return None
