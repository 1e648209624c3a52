"""The length of a step: the Wolfe conditions, and the next length to try where they fail.

References:
    Nocedal and Wright (2006), Numerical Optimization, chapters 3.1 and 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

ARMIJO_CONSTANT = 1e-4
"""c_1 of the Wolfe conditions: f must decrease by this fraction of what its slope at length 0 predicts.  The usual
value."""

CURVATURE_CONSTANT = 0.9
"""c_2 of the Wolfe conditions: the fraction of the slope that may remain.  The usual value for quasi-Newton steps."""

MAX_LINE_SEARCH_POINTS = 8
"""Largest number of points that one line search evaluates: each is a pass, and most searches take one."""


class LineSearchPoint(NamedTuple):
    """A point that a line search evaluated."""

    length: float
    value: float
    """f there."""
    slope: float
    """Derivative of f by the length."""
    linear_change: float
    """Change of f that its slope at length 0 predicts, <= 0."""


def satisfies_armijo(first: LineSearchPoint, trial: LineSearchPoint, noise: float = 0.0) -> bool:
    """Whether f decreases enough (Armijo's condition), where values of f have errors of up to ``noise``."""
    return trial.value <= first.value + ARMIJO_CONSTANT * trial.linear_change + noise


def satisfies_wolfe(first: LineSearchPoint, trial: LineSearchPoint, noise: float = 0.0) -> bool:
    """Whether f decreases enough and its slope is flat enough: the strong Wolfe conditions."""
    return satisfies_armijo(first, trial, noise) and abs(trial.slope) <= -CURVATURE_CONSTANT * first.slope


def next_length(trials: Sequence[LineSearchPoint], noise: float = 0.0) -> float:
    """The step length to try next.

    While f decreases at all trials, it lies beyond them (bracketing).  Else it lies between the longest trial at which
    f decreases and the shortest at which it does not (zoom).  Both take the minimizer of a cubic through two trials.

    Args:
        trials: So far; the first is that of length 0, and f decreases there.
        noise: Errors of the values of f.

    References:
        Nocedal and Wright (2006), Numerical Optimization, algorithms 3.5 and 3.6.
    """
    falling = sorted(trial for trial in trials if trial.slope < 0 and satisfies_armijo(trials[0], trial, noise))
    rising = [trial for trial in trials if trial not in falling]
    low = falling[-1]
    if not rising:
        return min(max(_cubic_minimizer(falling[-2], low), 2 * low.length), 10 * low.length)
    high = min(rising)
    margin = 0.1 * (high.length - low.length)
    return min(max(_cubic_minimizer(low, high), low.length + margin), high.length - margin)


def _cubic_minimizer(left: LineSearchPoint, right: LineSearchPoint) -> float:
    """The minimizer of the cubic with the values and slopes of two trials; halfway where it has none."""
    width = right.length - left.length
    d1 = left.slope + right.slope - 3 * (right.value - left.value) / width
    square = d1 * d1 - left.slope * right.slope
    d2 = math.sqrt(square) if 0 <= square < math.inf else math.nan
    denominator = right.slope - left.slope + 2 * d2
    fraction = 1 - (right.slope + d2 - d1) / denominator if denominator else math.nan
    return left.length + width * (fraction if math.isfinite(fraction) else 0.5)
