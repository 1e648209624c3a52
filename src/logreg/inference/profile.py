"""Intervals and tests from the likelihood itself: profile limits, and likelihood-ratio tests of whole terms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.special import gammaincc
from torch import Tensor

from logreg.errors import DataError
from logreg.inference.design import Term
from logreg.inference.likelihood import Evaluation, Likelihood, Maximum, inverse_information, maximize
from logreg.inference.results import TermTest

LIMIT_TOLERANCE = 1e-9
"""Error of a profile limit, in standard errors, at which the search for it ends."""


class ProfileLimit(NamedTuple):
    """One limit of a profile-likelihood interval."""

    value: float
    """In the units of the functional."""
    error: float
    """Distance from the true limit, in standard errors: an estimate from the likelihood and its gradient there."""


def profile_limit(likelihood: Likelihood, found: Maximum, functional: Tensor, drop: float, sign: float) -> ProfileLimit:
    """The value of a linear function of the parameters at which the maximum over all others has fallen by ``drop``.

    Each step minimizes the quadratic model of the negative log-likelihood along a Lagrange path, and goes to where the
    model has the wanted value.  At the end the likelihood and its gradient are those of the limit to within the
    tolerance.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        functional: The function, (M * P,).
        drop: Fall of the log-likelihood in nats, half a quantile of chi-squared with 1 degree of freedom.
        sign: 1 for the upper limit, -1 for the lower one.

    Raises:
        DataError: The search does not converge.

    References:
        Venzon and Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.
    """
    wanted = found.value + drop
    deviation = math.sqrt(float(functional @ found.covariance @ functional))
    path = found.covariance @ functional
    parameters = found.parameters + (sign * math.sqrt(2 * drop) / deviation * path).view_as(found.parameters)
    at = likelihood.evaluate(parameters)
    for _ in range(likelihood.max_steps):
        step, error = _step_to_limit(at, functional, wanted, sign, deviation)
        if error <= LIMIT_TOLERANCE:
            value = float(functional @ (at.parameters.flatten() + step))
            return ProfileLimit(value, error)
        merit = _distance(at, functional, wanted)
        trial = likelihood.evaluate(at.parameters + step.view_as(at.parameters))
        for _ in range(20):
            if math.isfinite(trial.value) and (error < 1 or _distance(trial, functional, wanted) < max(merit, 1.0)):
                break
            step = step / 2
            trial = likelihood.evaluate(at.parameters + step.view_as(at.parameters))
        at = trial
    raise DataError(
        "`interval=profile` must find each limit, and the search for one did not converge. Use interval=wald."
    )


def _step_to_limit(
    at: Evaluation, functional: Tensor, wanted: float, sign: float, deviation: float
) -> tuple[Tensor, float]:
    """The step to where the quadratic model at a point has its limit, and its length in standard errors."""
    inverse = inverse_information(at.hessian)
    newton, path = inverse @ at.gradient, inverse @ functional
    above = wanted - at.value + float(at.gradient @ newton) / 2
    multiplier = sign * math.sqrt(max(2 * above, 0.0) / float(functional @ path))
    step = multiplier * path - newton
    return step, math.sqrt(max(float(step @ at.hessian @ step), 0.0))


def _distance(at: Evaluation, functional: Tensor, wanted: float) -> float:
    """How far a point is from a limit: in the likelihood, and from the maximum over the other parameters; in nats."""
    inverse = inverse_information(at.hessian)
    newton, path = inverse @ at.gradient, inverse @ functional
    along = float(functional @ newton) ** 2 / float(functional @ path)
    return abs(at.value - wanted) + max(float(at.gradient @ newton) - along, 0.0) / 2


def drop_term(likelihood: Likelihood, found: Maximum, term: Term) -> TermTest:
    """The likelihood-ratio test of a term: the others are fitted again without it.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        term: The term; one parameter at least.
    """
    dropped = torch.zeros(likelihood.design.shape, dtype=torch.bool)
    dropped[:, list(term.positions)] = True
    held = dropped.flatten()
    # the maximum of the quadratic model where the parameters of the term are 0
    rows = found.covariance[held]
    multipliers = torch.linalg.solve(rows[:, held], found.parameters.flatten()[held])
    start = found.parameters.flatten() - rows.T @ multipliers
    start[held] = 0.0
    restricted = maximize(likelihood, likelihood.evaluate(start.view_as(found.parameters)), ~held)
    chi2 = max(2 * (restricted.value - found.value), 0.0)
    degrees = int(held.sum())
    return TermTest(term.name, chi2, degrees, chi_squared_tail(chi2, degrees))


def chi_squared_tail(chi2: float, degrees: int) -> float:
    """Probability that a chi-squared variable of these degrees of freedom is larger."""
    return float(gammaincc(degrees / 2, chi2 / 2)) if degrees else 1.0
