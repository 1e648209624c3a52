"""Confidence intervals of scores: percentiles of bootstrap samples, and Wilson's interval of a fraction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from logreg.evaluation.measured import Measured
from logreg.evaluation.predicted import Predicted

CONFIDENCE = 0.95
"""Confidence level of every interval."""

Z = 1.959963984540054
"""The 0.975 quantile of the standard normal distribution: half the width of a 95 % interval, in standard errors."""

RESAMPLES = 1000
"""Number of bootstrap samples."""

MAX_UNITS = 10_000
"""Largest number of bootstrap units: above it the bootstrap resamples random bundles of rows instead of single rows,
which gives the same intervals in less time."""

MAX_POISSON_DRAWS = 2 * 10**7
"""Largest number of rows times bootstrap samples in the Poisson bootstrap; bounds its time."""

DRAWS_AT_ONCE = 2**17
"""Number of units times bootstrap samples that are drawn at once; as float64 they take 1 MiB, and stay in the cache."""


def units_of(predicted: Predicted) -> tuple[int, Tensor]:
    """The units that the bootstrap draws: groups, or rows, or random bundles of rows where there are many.

    Returns:
        The number of units; the unit of each row, shape (N,), int64 or, of many rows, int32.
    """
    n = len(predicted.labels)
    if predicted.groups is not None:
        unit = predicted.groups.unique(return_inverse=True)[1]
    elif n > MAX_UNITS and not predicted.counts:
        unit = torch.randperm(n, generator=torch.Generator().manual_seed(0), dtype=torch.int32).remainder_(MAX_UNITS)
    else:
        unit = torch.arange(n)
    return int(unit.max()) + 1, unit


def draws(predicted: Predicted, units: int, seed: int) -> Iterator[Tensor]:
    """Multiplicity of each unit of `units_of` in each sample, at most ``RESAMPLES`` in all.

    Rows whose counts are too large for `Predicted.repeated` are drawn a Poisson number of times, with the count as
    mean (Poisson bootstrap).

    Yields:
        Some samples at a time, shape (B, units), float64.
    """
    generator = torch.Generator().manual_seed(seed)
    is_poisson, weight = predicted.counts and predicted.groups is None, predicted.weight
    samples = max(100, min(RESAMPLES, MAX_POISSON_DRAWS // units)) if is_poisson else RESAMPLES
    for size in torch.arange(samples).split(max(1, DRAWS_AT_ONCE // units)):
        if is_poisson:
            yield torch.poisson(weight.expand(len(size), -1), generator) / weight.clamp(min=1)
            continue
        drawn = torch.randint(units, (len(size), units), generator=generator)
        drawn += units * torch.arange(len(size)).unsqueeze(1)
        yield torch.bincount(drawn.flatten(), minlength=drawn.numel()).view_as(drawn).double()


def interval(value: float, sampled: Tensor) -> Measured:
    """A score with percentiles of its bootstrap samples; samples without a value are left out."""
    there = sampled[~sampled.isnan()]
    if not len(there):
        return Measured(value, math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(there, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Measured(value, low, high)


def column_intervals(scores: Tensor) -> list[Measured]:
    """`interval` of each column of scores (1 + B, C), whose first row has the values and the others the samples."""
    tail = (1 - CONFIDENCE) / 2
    ends = torch.nanquantile(scores[1:], torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return [Measured(*each) for each in zip(scores[0].tolist(), *ends.tolist(), strict=True)]


def wilson(accuracy: float, rows: float) -> Measured:
    """The accuracy on a number of rows, with Wilson's score interval.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not rows:
        return Measured(accuracy, 0.0, 1.0)
    middle = (accuracy + Z * Z / (2 * rows)) / (1 + Z * Z / rows)
    half = Z / (1 + Z * Z / rows) * math.sqrt(accuracy * (1 - accuracy) / rows + Z * Z / (4 * rows * rows))
    low, high = 0.0 if accuracy == 0 else middle - half, 1.0 if accuracy == 1 else middle + half
    return Measured(accuracy, max(0.0, low), min(1.0, high))
