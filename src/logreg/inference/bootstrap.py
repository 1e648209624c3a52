"""The bootstrap: samples of the rows, or of clusters of rows, with replacement, as weights of the rows.

A penalized estimate has no standard error by the likelihood: its bias is not small beside its spread.  The bootstrap
shows the spread, and the interval is one of the penalized estimate.

References:
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 6 and 13.
    Davison and Hinkley (1997), Bootstrap Methods and their Application, section 5.3.1.
    Cameron, Gelbach and Miller (2008), Bootstrap-based improvements for inference with clustered errors: clusters are
    drawn as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

MAX_DRAWN_NUMBERS = 2**22
"""Weights that are drawn at once: 32 MiB."""


def resampled_weights(
    weights: Tensor, replicates: int, seed: int, counts: bool = True, clusters: Tensor | None = None
) -> Iterator[Tensor]:
    """Weights of the rows in each sample, (B, N), some samples at a time.

    Args:
        weights: Weight of each row, (N,), float64.
        replicates: Number of samples.
        seed: Seed.
        counts: Whether a row of weight 3 is three rows, each of which is drawn by itself; else it is one row, and has
            its weight as often as it is drawn.
        clusters: Cluster of each row, (N,), from 0, each of which is drawn as a whole; ``None`` for none.
    """
    draw = np.random.default_rng(seed)
    if clusters is not None:
        drawn, chances = int(clusters.max()) + 1, torch.ones(int(clusters.max()) + 1, dtype=torch.float64)
    elif counts:
        drawn, chances = int(weights.sum()), weights
    else:
        drawn, chances = len(weights), torch.ones_like(weights)
    chances = chances / chances.sum()
    most = max(1, MAX_DRAWN_NUMBERS // len(weights))
    for first in range(0, replicates, most):
        times = torch.from_numpy(draw.multinomial(drawn, chances.numpy(), min(most, replicates - first))).double()
        if clusters is not None:
            yield times[:, clusters] * weights
        else:
            yield times if counts else times * weights


def percentile_limits(values: Tensor, estimate: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Lower and upper limits of an interval by the bias-corrected percentiles of R values.

    Where the estimate is the median of the values, the percentiles are the usual ones.  Where it is not, as with few
    rows, whose estimates are too far from 0, the levels move by twice the distance in normal quantiles.  Between order
    statistics the limits are interpolated on that scale.

    Args:
        values: Shape (R, ...).
        estimate: Shape (...).
        confidence: Level of the interval, in (0, 1).

    References:
        Efron (1981), Nonparametric standard errors and confidence intervals; BCa without acceleration.
        Davison and Hinkley (1997), equation 5.8.
    """
    number, quantile = len(values), NormalDist().inv_cdf((1 + confidence) / 2)
    ordered = values.sort(0).values.flatten(1).T.tolist()
    below = ((values < estimate).double() + (values == estimate).double() / 2).mean(0)
    shares = below.clamp(0.5 / number, 1 - 0.5 / number).flatten().tolist()
    limits = [
        [
            _order_statistic(of_one, 2 * NormalDist().inv_cdf(share) + sign * quantile)
            for of_one, share in zip(ordered, shares, strict=True)
        ]
        for sign in (-1.0, 1.0)
    ]
    low, high = (torch.tensor(of_all, dtype=torch.float64).view_as(estimate) for of_all in limits)
    return low, high


def _order_statistic(ordered: Sequence[float], z: float) -> float:
    """The order statistic R + 1 times the probability below a normal quantile z, of R ordered values."""
    normal, number = NormalDist(), len(ordered)
    place = normal.cdf(z) * (number + 1)
    whole = min(max(int(place + 1e-9), 1), number)
    if abs(place - whole) <= 1e-9 or not 1 < place < number:
        return ordered[whole - 1]
    left, right = (normal.inv_cdf(step / (number + 1)) for step in (whole, whole + 1))
    return ordered[whole - 1] + (z - left) / (right - left) * (ordered[whole] - ordered[whole - 1])
