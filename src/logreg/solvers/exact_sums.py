"""Sums of floating-point numbers without their rounding errors (error-free transformations)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.solvers.problem import Coordinates


def moved_to(coordinates: Coordinates, other: Coordinates, point: Tensor) -> Tensor:
    """`Coordinates.to` with intercepts that are right to the last digit, also where large offsets cancel."""
    coef = point[:, :-1] / coordinates.scale
    terms = [point[:, -1:]]
    for one in halves(coef):
        for center in (other.center, -coordinates.center):
            terms += [one * half for half in halves(center)]
    intercept = distilled(torch.cat(terms, dim=1)).sum(1)
    return torch.cat([coef * other.scale, intercept.unsqueeze(1)], dim=1)


def halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in float64 as sums of two with at most 27 binary digits each."""
    high = (numbers.view(torch.int64) & ~(2**27 - 1)).view(torch.float64)
    return high, numbers - high


def distilled(terms: Tensor) -> Tensor:
    """Terms (n, m) -> others of the same exact sums over m, the first of which is nearly all.

    References:
        Knuth's TwoSum; Ogita, Rump and Oishi (2005), Accurate sum and dot product.
    """
    errors = []
    while terms.shape[1] > 1:
        left, right = terms[:, ::2], F.pad(terms[:, 1::2], (0, terms.shape[1] % 2))
        total = left + right
        part = total - left
        errors.append((left - (total - part)) + (right - part))
        terms = total
    return torch.cat([terms, *errors], dim=1)
