"""The rows of a search for separation: read in float64, in blocks, with standardized columns; and limits of size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from logreg.csr import at_nonzeros, is_sparse, rows_at
from logreg.optimality.separation.work import Work

Kind = Literal["none", "quasi-complete", "complete", "unknown"]
"""The kind of separation, in the terms of Albert and Anderson (1984); "unknown" where it was not decided."""

BOUNDARY_COSINE = 1e-11
"""Cosine of the angle between a row and a direction up to which the row lies on the boundary: rounding of float64."""

ORTHOGONAL_COSINE = 1e-9
"""Length of a row's projection on a subspace, relative to the row, up to which the row is orthogonal to it.

It is larger than `BOUNDARY_COSINE`, since the basis of the subspace has rounding errors too.
"""

BLOCK_NUMEL = 2**20
"""Numbers of a block: 8 MB in float64."""

SPARSE_BLOCK_ROWS = 2**14
"""Rows of a block of sparse features."""

NEGLIGIBLE_SLOPE = 1e-7
"""Coefficient of a separating direction, relative to its largest, that counts as 0."""

MAX_HINGE_COEFFICIENTS = 2000
"""Coefficients up to which the squared hinge loss is minimized: one step takes p^3 operations."""

MAX_PROGRAM_COEFFICIENTS = 300
"""Coefficients up to which the linear program is solved, which takes longer than the squared hinge loss."""

MAX_NUMEL = 10**8
"""Largest number of entries of one matrix: 0.8 GB in float64."""


class Scaling(NamedTuple):
    """Standardization of the columns, shape (D,) each."""

    shift: Tensor
    """A value of the column, so that the levels of a dummy stay exact and a subtraction rounds once."""
    scale: Tensor
    """The standard deviation; 1 where a column is constant."""


class Features(Protocol):
    """Random access to the features of N rows: a dense tensor, or a reader that holds no more than it must."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, D)."""

    def __getitem__(self, places: Tensor | slice, /) -> Tensor:
        """The features of these rows, shape (n, D), any type, dense or sparse."""


class SparseFeatures:
    """Random access to the rows of a sparse CSR tensor."""

    def __init__(self, features: Tensor) -> None:
        """Features of shape (N, D)."""
        self._features, self.shape = features, tuple(features.shape)

    def __getitem__(self, places: Tensor | slice, /) -> Tensor:
        """The features of these rows, shape (n, D), sparse."""
        return rows_at(self._features, places)


class SeparationRows:
    """The rows of positive weight, read in float64 and in blocks.

    Attributes:
        features: Shape (N, D), all rows, as they were given.
        labels: Shape (n,), of the rows of positive weight.
        num_classes: C.
        work: The work that the search may still do.
        width: 1 + D.
    """

    def __init__(
        self, features: Features, labels: Tensor, num_classes: int, sample_weight: Tensor | None, work: Work
    ) -> None:
        """``work`` is counted by those who call, other arguments as of `find_separation`."""
        self.features, self.num_classes, self.work = features, num_classes, work
        self.width = 1 + features.shape[1]
        self._positions: Tensor | None = None  # of the rows of positive weight, where some have none
        self.labels = labels.to("cpu", torch.int64)
        if sample_weight is not None and bool((sample_weight == 0).any()):
            self._positions = sample_weight.nonzero().squeeze(1).cpu()
            self.labels = self.labels[self._positions]

    def in_float64(self, places: Tensor | slice) -> Tensor:
        """A dense copy of the features of these rows, shape (n, D), float64."""
        if self._positions is not None:
            places = self._positions[places]
        features = self.features[places]
        if is_sparse(features):
            return features.to_dense().to("cpu", torch.float64)
        return features.to("cpu", torch.float64, copy=True)

    def blocks(self, places: Tensor, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """The features of these rows in blocks.

        Args:
            places: Positions of rows, shape (m,).
            width: Numbers that the caller makes of each row, where they are more than its features.

        Yields:
            The part of ``places`` that a block has, and the features of the block.
        """
        everyone = len(places) == len(self.labels)
        step = max(1, BLOCK_NUMEL // max(width, self.width))
        for start in range(0, len(places), step):
            part = slice(start, min(start + step, len(places)))
            yield part, self.in_float64(part if everyone else places[part])

    @cached_property
    def scaling(self) -> Scaling:
        """The standardization of a sample of 1000 rows, which is good enough for well-conditioned arithmetic."""
        values = self.in_float64(evenly_spaced(torch.arange(len(self.labels)), 1000))
        scale = values.std(0, correction=0)
        return Scaling(values.median(0).values, scale.where(scale > 0, 1))

    @cached_property
    def column_ranges(self) -> tuple[Scaling, Tensor, Tensor]:
        """The standardization of all rows, and the minimum and maximum of each column in each class, (C, D).

        The extremes are in standard deviations from the shift; inf and -inf where a class has no row.
        """
        if is_sparse(self.features[:1]):
            return self._ranges_of_sparse()
        everyone, shift = torch.arange(len(self.labels)), self.scaling.shift
        low = torch.full((self.num_classes, len(shift)), torch.inf, dtype=torch.float64)
        high, total, square = -low, torch.zeros_like(shift), torch.zeros_like(shift)
        for part, values in self.blocks(everyone):
            values -= shift
            labels = self.labels[part]
            counts = torch.bincount(labels, minlength=self.num_classes).tolist()
            for own, mine in enumerate(values[labels.argsort()].split(counts)):
                if len(mine):
                    low[own] = torch.minimum(low[own], mine.amin(0))
                    high[own] = torch.maximum(high[own], mine.amax(0))
            total += values.sum(0)
            square += values.square_().sum(0)
        scale = (square / len(everyone) - (total / len(everyone)).square()).sqrt()
        scale = scale.where(scale > 0, 1)
        return Scaling(shift, scale), low / scale, high / scale

    def _ranges_of_sparse(self) -> tuple[Scaling, Tensor, Tensor]:
        """`column_ranges` of sparse features, from their non-zeros, with shift 0."""
        rows, (classes, width) = len(self.labels), (self.num_classes, self.width - 1)
        low = torch.full((classes * width,), torch.inf, dtype=torch.float64)
        high, numbers = -low, torch.zeros(classes * width, dtype=torch.float64)
        total, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for first in range(0, rows, SPARSE_BLOCK_ROWS):
            part = slice(first, min(first + SPARSE_BLOCK_ROWS, rows))
            features = self.features[part if self._positions is None else self._positions[part]]
            columns, values = features.col_indices().long(), features.values().double()
            of_class = at_nonzeros(features, self.labels[part])
            places = of_class * width + columns
            low.scatter_reduce_(0, places, values, "amin")
            high.scatter_reduce_(0, places, values, "amax")
            numbers.index_add_(0, places, torch.ones_like(values))
            total.index_add_(0, columns, values)
            square.index_add_(0, columns, values.square())
        in_class = torch.bincount(self.labels, minlength=classes).unsqueeze(1)
        has_zero = numbers.view(classes, width) < in_class
        low, high = low.view(classes, width), high.view(classes, width)
        low, high = torch.where(has_zero, low.clamp(max=0), low), torch.where(has_zero, high.clamp(min=0), high)
        scale = (square / rows - (total / rows).square()).clamp(min=0).sqrt()
        scale = scale.where(scale > 0, 1)
        return Scaling(torch.zeros_like(scale), scale), low / scale, high / scale


def evenly_spaced(places: Tensor, number: int) -> Tensor:
    """``number`` of the places, or all where they are fewer, evenly spaced from the first to the last."""
    number = min(number, len(places))
    return places[torch.linspace(0, len(places) - 1, number, dtype=torch.float64).long()]
