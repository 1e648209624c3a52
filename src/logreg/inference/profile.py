"""Intervals and tests from the likelihood itself: profile limits, and likelihood-ratio tests of whole terms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from scipy.special import gammaincc
from torch import Tensor

from logreg.errors import DataError
from logreg.inference.design import Term
from logreg.inference.likelihood import Likelihood, LikelihoodEvaluation, Maximum, inverse_information, maximize
from logreg.inference.results import TermTest

LIMIT_TOLERANCE = 1e-9
"""Error of a profile limit, in standard errors, at which the search for it ends."""

MAX_LIMIT_STEPS = 100
"""Steps of the search for a limit; about five are usual, and twenty with Fisher scoring."""

MAX_BRACKET_FACTOR = 1.5
"""Factor of the distance from the estimate, while the limit is being bracketed."""

MAX_DISTANCE = 1e4
"""Distance from the estimate, in standard errors, up to which a limit is looked for."""

MAX_DECREMENT = 1e-13
"""Fall of the negative log-likelihood, in nats, that a maximum over the other parameters may still lack: of a limit
that is an error of about as many standard errors."""


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
    tolerance.  Where the steps do not get there, as with a few rows, the limit is bracketed.

    Args:
        likelihood: The likelihood.
        found: Its maximum.
        functional: The function, (M * P,).
        drop: Fall of the log-likelihood in nats, half a quantile of chi-squared with 1 degree of freedom.
        sign: 1 for the upper limit, -1 for the lower one.

    Raises:
        DataError: No limit is found.

    References:
        Venzon and Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.
    """
    wanted = found.value + drop
    deviation = math.sqrt(float(functional @ found.covariance @ functional))
    path = found.covariance @ functional
    parameters = found.parameters + (sign * math.sqrt(2 * drop) / deviation * path).view_as(found.parameters)
    try:
        at = likelihood.evaluate(parameters)
        before = math.inf
        for _ in range(MAX_LIMIT_STEPS):
            step, error = _step_to_limit(at, functional, wanted, sign)
            if error <= LIMIT_TOLERANCE:
                return ProfileLimit(float(functional @ (at.parameters.flatten() + step)), error)
            if error > max(before, 1.0):
                break
            before = error
            at = likelihood.evaluate(at.parameters + step.view_as(at.parameters))
    except DataError:  # the information is singular where a step has gone too far
        pass
    return _bracketed_limit(likelihood, found, functional, drop, sign)


def _bracketed_limit(
    likelihood: Likelihood, found: Maximum, functional: Tensor, drop: float, sign: float
) -> ProfileLimit:
    """`profile_limit` by a bracket, and Brent's method inside: slower, but sure.

    Raises:
        DataError: The likelihood does not fall by so much.
    """
    deviation = math.sqrt(float(functional @ found.covariance @ functional))
    center = float(functional @ found.parameters.flatten())
    known: dict[float, LikelihoodEvaluation] = {0.0: likelihood.evaluate(found.parameters)}

    def beyond(distance: float) -> float:
        """How much more than wanted the profile has fallen at a distance in standard errors."""
        nearest = min(known, key=lambda other: abs(other - distance))
        known[distance] = _maximum_at(likelihood, known[nearest], functional, center + sign * distance * deviation)
        return known[distance].value - found.value - drop

    distance = math.sqrt(2 * drop)
    while beyond(distance) < 0:
        distance *= MAX_BRACKET_FACTOR
        if distance > MAX_DISTANCE:
            raise DataError(
                "`interval=profile` must have limits, and the likelihood does not fall enough to have all of them. "
                "Use interval=wald."
            )
    inside = max(other for other in known if other < distance)
    distance = float(brentq(beyond, inside, distance, xtol=LIMIT_TOLERANCE, rtol=1e-12))
    return ProfileLimit(center + sign * distance * deviation, LIMIT_TOLERANCE)


def _maximum_at(
    likelihood: Likelihood, at: LikelihoodEvaluation, functional: Tensor, value: float
) -> LikelihoodEvaluation:
    """The maximum of the likelihood where a linear function of the parameters has a value."""
    inverse = inverse_information(at.model)
    path = inverse @ functional
    missing = value - float(functional @ at.parameters.flatten())
    at = likelihood.evaluate(at.parameters + (missing / float(functional @ path) * path).view_as(at.parameters))
    for _ in range(likelihood.max_steps):
        inverse = inverse_information(at.model)
        newton, path = inverse @ at.gradient, inverse @ functional
        step = (float(functional @ newton) / float(functional @ path) * path - newton).view_as(at.parameters)
        decrement = -float(step.flatten() @ at.gradient)
        if decrement <= MAX_DECREMENT:
            break
        trial = likelihood.evaluate(at.parameters + step)
        while not trial.value <= at.value - 1e-4 * decrement and decrement > MAX_DECREMENT:
            step, decrement = step / 2, decrement / 2
            trial = likelihood.evaluate(at.parameters + step)
        at = trial
    return at


def _step_to_limit(at: LikelihoodEvaluation, functional: Tensor, wanted: float, sign: float) -> tuple[Tensor, float]:
    """The step to where the quadratic model at a point has its limit, and its length in standard errors."""
    inverse = inverse_information(at.model)
    newton, path = inverse @ at.gradient, inverse @ functional
    above = wanted - at.value + float(at.gradient @ newton) / 2
    multiplier = sign * math.sqrt(max(2 * above, 0.0) / float(functional @ path))
    step = multiplier * path - newton
    return step, math.sqrt(max(float(step @ at.model @ step), 0.0))


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
