"""The form in which features are stored, (x - shift) / unit, so that rounding costs no digits.

A floating type resolves numbers relative to their distance from zero, and within a range.  float32 resolves seconds
since 1970 to about two minutes, turns 1e-46 into 0 and 1e39 into inf, and cannot hold the square of 1e20.  Therefore a
column that lies far from zero is stored as its deviation from (about) its mean, and a column whose size would make sums
of squares overflow or underflow is stored in another unit.  Both are computed in float64, before the result is rounded
to the type of the arithmetic.  A unit is a power of two, so that dividing by it is exact; ordinary columns have shift 0
and unit 1 and keep their bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import at_nonzeros, check_finite, column_sizes, converted, is_sparse, scaled_columns, value_range
from logreg.errors import DataError

MAX_MEAN_IN_STDS = 8.0
"""Distance of a column's mean from zero, in standard deviations, up to which nothing is subtracted.

Such a distance costs three of the 24 significant bits of float32.
"""

MAX_SAMPLE_MEAN_IN_STDS = {torch.float32: 4.0, torch.float64: 64.0}
"""Distance of the mean of a sample of the rows up to which nothing is subtracted, by the type of the features: half of
`MAX_MEAN_IN_STDS` in float32, since the sample may err; one that costs six of the 53 significant bits of float64."""

PLAIN_SIZES = 2.0**-32, 2.0**32
"""Smallest and largest size of a column that is stored with unit 1.

float32, whose largest number is about 2^127, holds sums of squares of these sizes and their products with weights.
"""

SQUARABLE_SIZES = 2.0**-400, 2.0**400
"""Smallest and largest number whose squares float64 can sum without overflow or underflow."""

ALLOWED_SIZES = 2.0**-1000, 2.0**1000
"""Smallest and largest size of a column, about 1e-301 and 1e301.

Between them float64 holds a coefficient per unit and its inverse.
"""

MEAN_WEIGHTS = 2.0**-100, 2.0**100
"""Smallest and largest mean weight of a row, about 1e-30 and 1e30.

Between them float32 holds sums of weights and their products with residuals.
"""

MAX_OFFSET = 1e6
"""Largest absolute offset of a logit: beyond it a certificate is lost to the rounding of the logits."""

SAMPLE_ROWS = 1000
"""Rows of the sample from which `is_plain_by_sample` estimates mean and standard deviation."""

SAMPLE_NUMEL = 2**16
"""Numbers of that sample, where its rows are long: 512 KiB in float64, which stay in the cache."""

MIN_SAMPLE_ROWS = 64
"""Rows of that sample at least: half the distance that they must clear is several times the error of their mean."""

ORIGIN_ROWS = 1000
"""Rows whose mean is the origin of the one-pass moments: any value near the mean will do."""

CONSTANT_RTOL = 4 * torch.finfo(torch.float64).eps
"""Standard deviation relative to the mean below which a column is constant.

A smaller deviation comes from the rounding of the sums; dividing by it would turn noise into a feature.
"""


class StoredForm(NamedTuple):
    """Shift and unit of each feature; float64, on the CPU."""

    shift: Tensor
    """Number that is subtracted from each feature, shape (D,), in source units; 0 where nothing is subtracted."""
    unit: Tensor
    """Divisor of each feature, shape (D,), in source units: powers of two."""

    @classmethod
    def plain(cls, features: int) -> StoredForm:
        """The form of D features that are stored unchanged."""
        return cls(torch.zeros(features, dtype=torch.float64), torch.ones(features, dtype=torch.float64))

    @property
    def is_plain(self) -> bool:
        """Whether all features are stored unchanged."""
        # NumPy's operations on few numbers take less time than those of torch.
        return not self.shift.numpy().any() and bool((self.unit.numpy() == 1).all())

    def transform(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Features in source units, shape (N, D), any type -> stored features, same shape, in ``dtype``."""
        if self.is_plain:
            return converted(features, dtype)
        if is_sparse(features):  # nothing is subtracted from sparse features
            return scaled_columns(features, 1 / self.unit, dtype)
        shift, unit = self.shift.to(features.device), self.unit.to(features.device)
        return features.to(torch.float64, copy=True).sub_(shift).div_(unit).to(dtype)

    def inverse_transform(self, stored: Tensor) -> Tensor:
        """Stored features, shape (N, D) -> features in source units, same shape, dense, float64, on the CPU."""
        dense = stored.to_dense() if is_sparse(stored) else stored
        return dense.to("cpu", torch.float64) * self.unit + self.shift

    def with_exact_shifts(self, features: Tensor) -> StoredForm:
        """The form with shift 0 where subtracting the shift from features (N, D) would round in float64."""
        shifted = self.shift.nonzero()[:, 0]
        values, shift = features[:, shifted.to(features.device)].double(), self.shift[shifted].to(features.device)
        is_exact = ((values - shift) + shift == values).all(0)
        return StoredForm(self.shift.index_put((shifted,), torch.where(is_exact, shift, 0.0).cpu()), self.unit)

    def moments_in_source_units(self, found: Moments) -> Moments:
        """Moments of stored features -> moments of the features in source units."""
        return Moments(self.shift + found.mean * self.unit, torch.where(found.is_constant, 0.0, found.std * self.unit))

    def of_stored(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and divisor (D,) of features in source units -> those of the stored features."""
        return (mean - self.shift) / self.unit, std / self.unit

    def standardization(self, found: Moments) -> tuple[list[float], list[float]]:
        """Mean and divisor of each feature in source units; the divisor of a constant feature is its unit."""
        return found.mean.tolist(), torch.where(found.is_constant, self.unit, found.std).tolist()


class Moments(NamedTuple):
    """Mean and standard deviation of each column over weighted rows, shape (D,) each, float64, in source units."""

    mean: Tensor
    std: Tensor

    @property
    def is_constant(self) -> Tensor:
        """Whether all rows hold the same number, up to rounding in float64; shape (D,), boolean."""
        return self.std <= CONSTANT_RTOL * self.mean.abs()

    def lacks_digits(self, dtype: torch.dtype) -> Tensor:
        """Whether ``dtype`` resolves few different values of a column; shape (D,), boolean.

        This is so where the column varies little for its distance from zero: its standard deviation is less than 100
        spacings of the type.  Integers from 2^53 on may differ although float64 holds the same number for all of them.
        """
        size = self.mean.abs()
        return ((self.std > 0) | (size >= 2.0**53)) & (self.std < 100 * torch.finfo(dtype).eps * size)


Blocks = Iterable[tuple[Tensor, Tensor | None]]
"""Features (n, D) in float64, and the weights of their rows (n,) or ``None`` for weight 1."""


def moments(begin: Callable[[], Blocks]) -> Moments:
    """Mean and standard deviation of each column.

    A row of weight 2 counts as two rows.  Columns whose squares float64 cannot sum (1e300, 1e-300) are measured again
    in another unit.

    Args:
        begin: Begins a pass over the rows when it is called: once, or three times where there are such columns.
    """
    found = _moments(begin())
    size = torch.hypot(*found)
    odd = ~((size >= SQUARABLE_SIZES[0]) & (size <= SQUARABLE_SIZES[1]))  # also true for 0 and nan
    if bool(odd.any()):
        largest = torch.stack([features[:, odd].abs().amax(0) for features, _ in begin()]).amax(0)
        unit = torch.where(largest > 0, power_of_two(largest), 1.0)
        again = _moments((features[:, odd] / unit, weights) for features, weights in begin())
        found.mean[odd], found.std[odd] = again.mean * unit, again.std * unit
    return found


def moments_of_sparse(begin: Callable[[], Blocks]) -> Moments:
    """Mean and standard deviation of each column of sparse rows, in two passes over the non-zeros.

    The zeros of a column count by their weight: that of all rows less that of its non-zeros.  Columns whose squares
    float64 cannot sum are measured in another unit.

    Args:
        begin: Begins a pass over the rows, CSR tensors in float64 of at least one row in all.
    """
    total = weighing = 0.0
    sums = weight_of = largest = numbers = torch.zeros(0)
    for features, weights in begin():
        if not len(sums):
            sums = torch.zeros(features.shape[1], dtype=torch.float64)
            weight_of, numbers = torch.zeros_like(sums), torch.zeros_like(sums)
            largest = torch.zeros_like(sums)
        columns, of_value = _places_and_weights(features, weights)
        ones = torch.ones_like(of_value)
        total += len(features) if weights is None else float(weights.sum())
        weighing += len(features) if weights is None else int((weights > 0).sum())
        sums.index_add_(0, columns, features.values() * of_value)
        weight_of.index_add_(0, columns, of_value)
        numbers.index_add_(0, columns, ones if weights is None else (of_value > 0).double())
        largest = torch.maximum(largest, column_sizes(features))
    is_odd = (largest > 0) & ((largest < SQUARABLE_SIZES[0]) | (largest > SQUARABLE_SIZES[1]))
    unit = torch.where(is_odd, power_of_two(torch.where(is_odd, largest, 1.0)), 1.0)
    mean = sums / total / unit
    squares = torch.zeros_like(mean)
    for features, weights in begin():
        columns, of_value = _places_and_weights(features, weights)
        deviations = features.values() / unit[columns] - mean[columns]
        squares.index_add_(0, columns, deviations.square_().mul_(of_value))
    of_zeros = torch.where(numbers == weighing, 0.0, (total - weight_of).clamp(min=0))  # exactly 0 without zeros
    std = ((squares + of_zeros * mean.square()) / total).sqrt()
    return Moments(mean * unit, std * unit)


def _places_and_weights(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Column and weight of each non-zero of sparse rows, (non-zeros,) each."""
    columns, values = features.col_indices().long(), features.values()
    if weights is None:
        return columns, torch.ones_like(values)
    return columns, at_nonzeros(features, weights.to(values))


def _moments(blocks: Blocks) -> Moments:
    """Mean and standard deviation in one pass.

    The sums are taken about an origin near the mean, so that the difference of mean square and squared mean cancels no
    digits.
    """
    origin, total = torch.zeros(0), 0.0
    sums, squares = origin, origin
    for features, weights in blocks:
        if not total:
            origin = features[:ORIGIN_ROWS].mean(0)
            sums, squares = torch.zeros_like(origin), torch.zeros_like(origin)
        deviations = features - origin
        if weights is None:
            sums += deviations.sum(0)
            squares += deviations.square_().sum(0)
            total += len(deviations)
            continue
        weight = weights.to(deviations)
        sums += weight @ deviations
        squares += weight @ deviations.square_()
        total += float(weight.sum())
    offset = sums / total
    std = (squares / total - offset.square()).clamp(min=0).sqrt()
    return Moments(origin + offset, std)


def choose_stored_form(found: Moments, shifts: bool, names: Sequence[str] = ()) -> StoredForm:
    """Chooses shift and unit of each column by its moments.

    The shift is the mean, rounded to a multiple of about a standard deviation, and so a number of few binary digits.
    Differences of integers and of other short numbers are then exact in float32, and columns that sum to another column
    still do.

    Args:
        found: Moments over the train rows.
        shifts: Whether a mean may be subtracted.  It may where the model has an intercept, which absorbs the shift, or
            where features are standardized.
        names: Names of the columns, for messages.

    Raises:
        DataError: A column is larger or smaller than float64 can compute with.
    """
    mean, std = found
    is_far = (mean.abs() > MAX_MEAN_IN_STDS * std) & ~found.is_constant & shifts
    size = torch.where(is_far, std, torch.hypot(mean, std))
    beyond = (size > 0) & ~((size >= ALLOWED_SIZES[0]) & (size <= ALLOWED_SIZES[1]))
    if bool(beyond.any()):
        place = int(beyond.nonzero()[0])
        name = repr(names[place]) if names else str(place)
        raise DataError(
            f"feature {name} must have a size of 1e-301 to 1e301, got {float(size[place]):.2g}. "
            "Write it in another unit, or leave it out."
        )
    needs_unit = (size > 0) & ((size < PLAIN_SIZES[0]) | (size > PLAIN_SIZES[1]))
    step = power_of_two(torch.where(is_far, std, 1.0))
    shift = torch.where(is_far, (mean / step).round() * step, 0.0)
    return StoredForm(shift, torch.where(needs_unit, power_of_two(size), 1.0))


def choose_form_of_sparse(features: Tensor, names: Sequence[str] = ()) -> StoredForm:
    """Chooses the units of sparse features (N, D); nothing is subtracted, so that they stay sparse.

    Args:
        features: A CSR tensor.
        names: Names of the columns, for messages.

    Raises:
        DataError: A feature is not finite, or larger or smaller than float64 can compute with.
    """
    least, largest = value_range(features)
    if not math.isfinite(largest):
        check_finite(features)
    if PLAIN_SIZES[0] <= least and largest <= PLAIN_SIZES[1]:
        return StoredForm.plain(features.shape[1])
    sizes = column_sizes(features).cpu()
    return choose_stored_form(Moments(torch.zeros_like(sizes), sizes), shifts=False, names=names)


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is at most ``size`` > 0, of the same shape."""
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 1)


def is_plain_by_sample(features: Tensor, largest: float) -> bool:
    """Whether a sample of the rows is enough to see that all columns (N, D) are stored unchanged.

    A fit in memory then needs no pass for the moments.  The sample must clear `MAX_SAMPLE_MEAN_IN_STDS` and half the
    range (in powers of two) that `choose_stored_form` allows.  A column that is 0 in the whole sample passes: its rare
    values are few, so its mean lies near 0.

    Args:
        features: Shape (N, D).
        largest: Largest absolute value of all features.
    """
    rows = min(SAMPLE_ROWS, max(SAMPLE_NUMEL // features.shape[1], MIN_SAMPLE_ROWS)) if features.numel() else 1
    sample = features[:: max(1, len(features) // rows)]
    sample = sample.to(torch.promote_types(sample.dtype, torch.float32))
    share = sample.new_full((1, len(sample)), 1 / max(len(sample), 1))  # products take less time than torch's own means
    mean = share @ sample
    std = (share @ (sample - mean).square_()).sqrt_()
    return is_plain(mean, std, largest, sample.dtype)


def is_plain(mean: Tensor, std: Tensor, largest: float, dtype: torch.dtype) -> bool:
    """Whether columns are stored unchanged, by means and standard deviations that need not be those of all rows.

    Args:
        mean: Shape (D,) or (1, D).
        std: Of the same shape.
        largest: Largest absolute value of all features.
        dtype: Type of the features.
    """
    is_near = (mean.abs() <= MAX_SAMPLE_MEAN_IN_STDS[dtype] * std) & ((std >= PLAIN_SIZES[0] ** 0.5) | (std == 0))
    return largest <= PLAIN_SIZES[1] and bool(is_near.all())


def check_scale(scale: Tensor, names: Sequence[str] = (), advice: str = "Set dataset.standardize=true") -> None:
    """Checks that float64 holds the squares of coefficients in source units.

    Args:
        scale: Divisor that takes coefficients of stored features to source units, shape (D,).
        names: Names of the features, for messages.
        advice: How such a feature gets another size.

    Raises:
        DataError: A column that is not standardized is too large or too small.
    """
    odd = (scale < SQUARABLE_SIZES[0]) | (scale > SQUARABLE_SIZES[1])
    if bool(odd.any()):
        place = int(odd.nonzero()[0])
        name = repr(names[place]) if names else str(place)
        raise DataError(
            f"feature {name} must have a size of 1e-120 to 1e120 where its coefficient is in source units, "
            f"got about {1 / float(scale[place]):.2g}. {advice}, or write it in another unit."
        )


def check_mean_weight(key: str, mean: float, where: str = "") -> None:
    """Checks that weights are not too large or too small for the arithmetic.

    Args:
        key: Setting that gives the rows their weights.
        mean: Mean of the weights.
        where: Place of the weights, appended to the mean in the message.

    Raises:
        DataError: The mean is out of range.
    """
    if not MEAN_WEIGHTS[0] <= mean <= MEAN_WEIGHTS[1]:
        raise DataError(
            f"`{key}` must give rows a mean weight of 1e-30 to 1e30, got {mean:.2g}{where}. "
            "Multiply all weights by one number."
        )
