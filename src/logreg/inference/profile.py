"""Intervals and tests from the likelihood itself: profile limits, and likelihood-ratio tests of whole terms."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import NamedTuple

import torch
from scipy.special import gammaincc
from torch import Tensor

from logreg.errors import DataError
from logreg.inference.design import Term
from logreg.inference.likelihood import Likelihood, LikelihoodEvaluation, Maximum, inverse_information, maximize
from logreg.inference.results import TermTest

LIMIT_TOLERANCE = 1e-9
"""Error of a profile limit, in standard errors, at which the search for it ends."""

MAX_CONTRACTION = 0.5
"""Ratio of two successive errors above which the profile is followed from its top: about five steps are usual."""

MAX_LIMIT_STEPS = 100
"""Points of a profile that is followed; about six are usual."""

MAX_GROWTH = 2.0
"""Factor of the distance from the estimate from one point to the next, while no point beyond the limit is known."""

MAX_DISTANCE = 1e4
"""Distance from the estimate, in standard errors, up to which a limit is looked for."""

MAX_DECREMENT = 1e-13
"""Fall of the negative log-likelihood, in nats, that a maximum over the other parameters may still lack: of a limit
that is an error of about as many standard errors."""

ROUGH = 1e-2
"""The same, relative to what is missing to the wanted value."""

HELD_CURVATURE = 1e4
"""Curvature per squared standard error of a function that is held: steps do not depend on it."""


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
    tolerance.  Where the steps do not get there soon, as with a few rows, the profile is followed from its top.

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
        while True:
            step, error = _step_to_limit(at, functional, wanted, sign)
            if error <= LIMIT_TOLERANCE:
                return ProfileLimit(float(functional @ (at.parameters.flatten() + step)), error)
            if error > MAX_CONTRACTION * before or at.observed is not None:
                break
            before = error
            at = likelihood.evaluate(at.parameters + step.view_as(at.parameters))
    except DataError:  # the information is singular where a step has gone too far
        pass
    return _followed_limit(likelihood, found, functional, drop, sign)


def _followed_limit(
    likelihood: Likelihood, found: Maximum, functional: Tensor, drop: float, sign: float
) -> ProfileLimit:
    """`profile_limit` by Newton's method for the signed root of twice the fall of the profile, in a bracket.

    The root is nearly linear in the function.  Its slope is known at each point of the profile, by the Lagrange
    multiplier, and so is the direction in which the other parameters go on.

    Raises:
        DataError: The likelihood does not fall by so much.

    References:
        Bates and Watts (1988), Nonlinear Regression Analysis and Its Applications, section 6.1: profile t functions.
    """
    deviation = math.sqrt(float(functional @ found.covariance @ functional))
    center, wanted = float(functional @ found.parameters.flatten()), math.sqrt(2 * drop)
    at, distance, inside, outside, before = found.at, wanted, 0.0, math.inf, math.inf
    for _ in range(MAX_LIMIT_STEPS):
        try:
            value = center + sign * distance * deviation
            trial, multiplier = _maximum_at(likelihood, at, functional, deviation, value, found.value + drop)
        except DataError:  # too far from the last point
            distance = (inside + distance) / 2
            continue
        at, root = trial, math.sqrt(max(2 * (trial.value - found.value), 0.0))
        slope = sign * multiplier * deviation / root if root else 1.0
        step = (wanted - root) / slope if slope > 0 else math.copysign(math.inf, wanted - root)
        if abs(step) <= LIMIT_TOLERANCE:
            return ProfileLimit(center + sign * (distance + step) * deviation, abs(step))
        inside, outside = (distance, outside) if root < wanted else (inside, distance)
        if math.isinf(outside):
            if distance >= MAX_DISTANCE:
                break
            step = min(step, (MAX_GROWTH - 1) * distance)
        elif not inside < distance + step < outside or abs(step) > before / 2:
            step = (inside + outside) / 2 - distance
        distance, before = distance + step, abs(step)
    raise DataError(
        "`interval=profile` must have limits, and the likelihood does not fall enough to have all of them. "
        "Use interval=wald."
    )


def _maximum_at(
    likelihood: Likelihood,
    at: LikelihoodEvaluation,
    functional: Tensor,
    deviation: float,
    value: float,
    wanted: float,
) -> tuple[LikelihoodEvaluation, float]:
    """The maximum of the likelihood where a linear function of the parameters has a value, and the multiplier there.

    Args:
        likelihood: The likelihood.
        at: An evaluation near it.
        functional: The function, (M * P,).
        deviation: Its standard error.
        value: Its value.
        wanted: The negative log-likelihood that is looked for: far from it, the maximum may be a rough one.
    """
    step, _ = _step_along(at, functional, deviation, value)
    at = likelihood.evaluate(at.parameters + step)
    for _ in range(likelihood.max_steps):
        step, multiplier = _step_along(at, functional, deviation, value)
        decrement = -float(step.flatten() @ at.gradient)
        if decrement <= max(MAX_DECREMENT, ROUGH * abs(wanted - at.value)):
            break
        trial = likelihood.evaluate(at.parameters + step)
        while not trial.value <= at.value - 1e-4 * decrement and decrement > MAX_DECREMENT:
            step, decrement = step / 2, decrement / 2
            trial = likelihood.evaluate(at.parameters + step)
        at = trial
    return at, multiplier


def _step_along(at: LikelihoodEvaluation, functional: Tensor, deviation: float, value: float) -> tuple[Tensor, float]:
    """The step to the maximum of the quadratic model where a linear function has a value, (M, P), and its multiplier.

    A likelihood that is not concave has such a maximum wherever it is concave in the other parameters.
    """
    inverse = None
    if at.observed is not None:
        along = functional / deviation
        with suppress(DataError):
            inverse = inverse_information(at.observed + HELD_CURVATURE * torch.outer(along, along))
    inverse = inverse_information(at.model) if inverse is None else inverse
    newton, path = inverse @ at.gradient, inverse @ functional
    missing, slope = value - float(functional @ at.parameters.flatten()), float(functional @ path)
    multiplier = float(functional @ newton) / slope
    step = (multiplier + missing / slope) * path - newton
    return step.view_as(at.parameters), multiplier


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
