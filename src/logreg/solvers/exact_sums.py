"""Sums of floating-point numbers without rounding errors, by error-free transformations.

The sum of two floating-point numbers a and b is not a floating-point number in general, but its rounding error is one:
a + b = fl(a + b) + e exactly.  Such pairs replace a sum that cancels by one that does not.  A certificate needs them
for intercepts, where products of coefficients and large offsets cancel, and to prove that a linear combination of
features vanishes in every row.

References:
    Ogita, Rump and Oishi (2005), Accurate sum and dot product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.solvers.problem import Coordinates


def moved_to(coordinates: Coordinates, other: Coordinates, point: Tensor) -> Tensor:
    """`Coordinates.to` with intercepts that are correct to the last digit, even where large offsets cancel.

    Args:
        coordinates: The coordinates of ``point``.
        other: The coordinates of the result.
        point: Shape (K, D + 1), float64.

    Returns:
        The same function of the features in the other coordinates, shape (K, D + 1).
    """
    coef = point[:, :-1] / coordinates.scale
    terms = [point[:, -1:]]
    for one in halves(coef):
        for center in (other.center, -coordinates.center):
            terms += [one * half for half in halves(center)]
    intercept = distilled(torch.cat(terms, dim=1)).sum(1)
    return torch.cat([coef * other.scale, intercept.unsqueeze(1)], dim=1)


def halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Splits float64 numbers into sums of two with at most 27 binary digits each."""
    high = (numbers.view(torch.int64) & ~(2**27 - 1)).view(torch.float64)
    return high, numbers - high


def distilled(terms: Tensor) -> Tensor:
    """Replaces terms (n, m) by others whose exact sums over m are the same, the first of them nearly the whole sum.

    References:
        Knuth's TwoSum, in Ogita, Rump and Oishi (2005), Accurate sum and dot product.
    """
    errors = []
    while terms.shape[1] > 1:
        left, right = terms[:, ::2], F.pad(terms[:, 1::2], (0, terms.shape[1] % 2))
        total = left + right
        part = total - left
        errors.append((left - (total - part)) + (right - part))
        terms = total
    return torch.cat([terms, *errors], dim=1)
