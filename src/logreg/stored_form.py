"""The form in which numbers are stored: (x - shift) / unit, so that neither an offset nor a unit costs digits.

A floating type holds numbers relative to zero and within a range.  float32 tells seconds since 1970 apart only from
about two minutes on, turns 1e-46 into 0 and 1e39 into inf, and cannot hold the square of 1e20.  So a column that lies
far from zero is stored as its distance from its mean, and one whose size would break sums of squares is stored in
another unit.  Both are computed in float64, before anything is rounded to the type of the arithmetic.  A unit is a
power of two, which costs no digit; ordinary columns have shift 0 and unit 1 and keep their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DataError

FAR = 8.0
"""Deviations between zero and the mean of a column from which the mean is subtracted: they cost three bits of 24."""

PLAIN = 2.0**-32, 2.0**32
"""Sizes of columns that need no unit: float32, up to 2^127, holds sums of their squares and products with weights."""

SQUARED = 2.0**-400, 2.0**400
"""Sizes of numbers whose squares float64 can add up."""

HELD = 2.0**-1000, 2.0**1000
"""Sizes of columns, about 1e-301 to 1e301, for which float64 holds a slope per unit and its inverse."""

SAMPLE_ROWS = 1000
"""Rows that show about where a column lies and how much it varies."""

NOISE = 4 * torch.finfo(torch.float64).eps
"""A deviation below this part of the mean is the rounding of a constant: dividing by it would make it a feature."""


class StoredForm(NamedTuple):
    """What is subtracted from each feature and what it is divided by; float64, on the CPU."""

    shift: Tensor
    """Shape (D,), in source units; 0 where nothing is subtracted."""
    unit: Tensor
    """Shape (D,), in source units: powers of two."""

    @classmethod
    def plain(cls, features: int) -> StoredForm:
        """Of features that are stored as they are."""
        return cls(torch.zeros(features, dtype=torch.float64), torch.ones(features, dtype=torch.float64))

    @property
    def is_plain(self) -> bool:
        """Whether all features are stored as they are."""
        return not bool(self.shift.any()) and bool((self.unit == 1).all())

    def of(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Features (N, D) in source units, of any type -> as they are stored, in a floating type."""
        if self.is_plain:
            return features.to(dtype)
        shift, unit = self.shift.to(features.device), self.unit.to(features.device)
        return features.to(torch.float64, copy=True).sub_(shift).div_(unit).to(dtype)

    def without_loss(self, features: Tensor) -> StoredForm:
        """The form that subtracts nothing where float64 would round what is left of features (N, D)."""
        far = self.shift.nonzero()[:, 0]
        some, shift = features[:, far.to(features.device)].double(), self.shift[far].to(features.device)
        exact = ((some - shift) + shift == some).all(0)
        return StoredForm(self.shift.index_put((far,), torch.where(exact, shift, 0.0).cpu()), self.unit)

    def source(self, stored: Tensor) -> Tensor:
        """Stored features (N, D) -> in source units, float64, on the CPU."""
        return stored.to("cpu", torch.float64) * self.unit + self.shift

    def source_moments(self, found: Moments) -> Moments:
        """Moments of stored features -> of features in source units."""
        return Moments(self.shift + found.mean * self.unit, torch.where(found.is_constant, 0.0, found.std * self.unit))

    def standardization(self, found: Moments) -> tuple[list[float], list[float]]:
        """Mean and divisor of each feature in source units; a constant is divided by its unit."""
        return found.mean.tolist(), torch.where(found.is_constant, self.unit, found.std).tolist()


class Moments(NamedTuple):
    """Of each column over weighted rows, in source units: (D,) each, float64."""

    mean: Tensor
    std: Tensor

    @property
    def is_constant(self) -> Tensor:
        """Where all rows hold the same number, up to the rounding of float64; shape (D,), boolean."""
        return self.std <= NOISE * self.mean.abs()

    def lacks_digits(self, dtype: torch.dtype) -> Tensor:
        """Where numbers of a floating type vary so little for their size that it tells few of them apart, (D,).

        Whole numbers from 2^53 on may differ though float64 holds the same for all.
        """
        size = self.mean.abs()
        return ((self.std > 0) | (size >= 2.0**53)) & (self.std < 100 * torch.finfo(dtype).eps * size)


Blocks = Iterable[tuple[Tensor, Tensor | None]]
"""Features (n, D) in float64 and the weights of their rows (n,), ``None`` for all 1."""


def moments(begin: Callable[[], Blocks]) -> Moments:
    """Mean and standard deviation of each column.

    A row of weight 2 counts as two rows.  Numbers whose squares float64 cannot add up (1e300, 1e-300) are seen in
    another unit.

    Args:
        begin: Begins a pass over the rows when it is called: once, or three times where there are such numbers.
    """
    found = _moments(begin())
    size = torch.hypot(*found)
    odd = ~((size >= SQUARED[0]) & (size <= SQUARED[1]))  # or 0 or nan
    if bool(odd.any()):
        largest = torch.stack([features[:, odd].abs().amax(0) for features, _ in begin()]).amax(0)
        unit = torch.where(largest > 0, power_of_two(largest), 1.0)
        again = _moments((features[:, odd] / unit, weights) for features, weights in begin())
        found.mean[odd], found.std[odd] = again.mean * unit, again.std * unit
    return found


def _moments(blocks: Blocks) -> Moments:
    origin, total = torch.zeros(0), 0.0
    sums, squares = origin, origin
    for features, weights in blocks:
        if not total:
            # Seen from near the mean, the mean of the squares loses no digits to the square of the mean: one pass
            # will do.
            origin = features[:1000].mean(0)
            sums, squares = torch.zeros_like(origin), torch.zeros_like(origin)
        seen = features - origin
        weight = seen.new_ones(len(seen)) if weights is None else weights.to(seen)
        sums += weight @ seen
        squares += weight @ seen.square_()
        total += float(weight.sum())
    distance = sums / total
    std = (squares / total - distance.square()).clamp(min=0).sqrt()
    return Moments(origin + distance, std)


def stored_form(found: Moments, shifts: bool, names: Sequence[str] = ()) -> StoredForm:
    """How columns of such moments are stored.

    What is subtracted is the mean to about a deviation, a number of few binary digits: so what is left of integers, and
    of other short numbers, is exact in float32, and columns that add up to another one still do.

    Args:
        found: Over the train rows.
        shifts: Whether a mean may be subtracted; it may where the model has an intercept to take it up, or
            subtracts the mean itself.
        names: Of the columns, for messages.

    Raises:
        DataError: A column is larger or smaller than float64 can compute with.
    """
    mean, std = found
    far = (mean.abs() > FAR * std) & ~found.is_constant & shifts
    size = torch.where(far, std, torch.hypot(mean, std))
    beyond = (size > 0) & ~((size >= HELD[0]) & (size <= HELD[1]))
    if bool(beyond.any()):
        place = int(beyond.nonzero()[0])
        name = repr(names[place]) if names else str(place)
        raise DataError(
            f"feature {name} must have a size of 1e-301 to 1e301, got {float(size[place]):.2g}. "
            "Write it in another unit, or leave it out."
        )
    odd = (size > 0) & ((size < PLAIN[0]) | (size > PLAIN[1]))
    step = power_of_two(torch.where(far, std, 1.0))
    return StoredForm(torch.where(far, (mean / step).round() * step, 0.0), torch.where(odd, power_of_two(size), 1.0))


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is at most ``size`` > 0, of the same shape."""
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 1)


def is_ordinary(features: Tensor, largest: float) -> bool:
    """Whether a sample of the rows shows already that all columns (N, D) may be stored as they are.

    ``largest`` is the largest size of a feature.

    It spares a fit in memory a pass: a column is ordinary by half the distance and half the range (in powers of two)
    that `stored_form` allows.  One of which the sample sees nothing but 0 is: what is rare lies near 0 for its size.
    """
    sample = features[:: max(1, len(features) // SAMPLE_ROWS)].double()
    mean, std = sample.mean(0), sample.std(0, correction=0)
    near = (mean.abs() <= FAR / 2 * std) & ((std >= PLAIN[0] ** 0.5) | (std == 0))
    return largest <= PLAIN[1] and bool(near.all())


def check_scale(scale: Tensor, names: Sequence[str] = ()) -> None:
    """Coefficients of stored features divided by ``scale`` (D,) must have squares that float64 holds.

    Raises:
        DataError: A column that is not standardized is so large or so small that they have not.
    """
    odd = (scale < SQUARED[0]) | (scale > SQUARED[1])
    if bool(odd.any()):
        place = int(odd.nonzero()[0])
        name = repr(names[place]) if names else str(place)
        raise DataError(
            f"feature {name} must have a size of 1e-120 to 1e120 where its coefficient is one of its own units, "
            f"got about {1 / float(scale[place]):.2g}. Set dataset.standardize=true, or write it in another unit."
        )


WEIGHED = 2.0**-100, 2.0**100
"""Mean weights of rows, about 1e-30 to 1e30, whose sums and products with residuals float32 holds."""


def check_mean_weight(key: str, mean: float, where: str = "") -> None:
    """Refuses weights that are all too large or too small for the arithmetic.

    Args:
        key: What gives the rows their weights.
        mean: Of the weights.
        where: What follows the mean in the message.

    Raises:
        DataError: The mean is out of range.
    """
    if not WEIGHED[0] <= mean <= WEIGHED[1]:
        raise DataError(
            f"`{key}` must give rows a mean weight of 1e-30 to 1e30, got {mean:.2g}{where}. "
            "Multiply all weights by one number."
        )
