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

from collections.abc import Iterator

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


def percentile_limits(values: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Lower and upper limits of an interval by the order statistics (R + 1) a of R values.

    Args:
        values: Shape (R, ...).
        confidence: Level of the interval, in (0, 1).
    """
    ordered = values.sort(0).values
    limits = []
    for level in ((1 - confidence) / 2, (1 + confidence) / 2):
        place = min(max(level * (len(values) + 1), 1.0), float(len(values))) - 1
        below = int(place)
        limits.append(torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], place - below))
    return limits[0], limits[1]
