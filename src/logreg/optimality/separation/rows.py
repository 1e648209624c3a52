"""Rows as a search for separation sees them: signed, scaled, a block at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Kind = Literal["none", "quasi-complete", "complete", "unknown"]

TIE = 1e-11
"""A row this near to the boundary lies on it: the cosine of the angle between row and direction."""

FINE = 1e-9
"""A row this nearly orthogonal to all directions is orthogonal to them."""

BLOCK = 2**20
"""Numbers looked at at once."""


FAINT = 1e-7
"""A coefficient below this share of the largest one is 0."""

LARGEST, LARGEST_PROGRAM, MOST_NUMBERS = 2000, 300, 10**8
"""Coefficients beyond which Newton's method and the linear program take too long; numbers that fill the memory."""


class TooMuchWork(Exception):
    """Not to be decided in the time or the size there is."""


class Scaling(NamedTuple):
    """How columns are made alike, shape (D,) each."""

    shift: Tensor
    """A value of the column: so dummies stay 0 and 1, and subtracting it rounds once."""
    scale: Tensor
    """The standard deviation; 1 where a column is constant."""


class Features(Protocol):
    """Random access to the features of N rows: a tensor, or a reader that holds no more than it must."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, D)."""

    def __getitem__(self, places: Tensor | slice, /) -> Tensor:
        """The features of these rows, shape (n, D), any type."""


class SeparationRows:
    """The rows that count, read in float64 and in blocks."""

    def __init__(
        self, features: Features, labels: Tensor, num_classes: int, sample_weight: Tensor | None, deadline: float
    ) -> None:
        self.features, self.num_classes, self.deadline = features, num_classes, deadline
        self.width = 1 + features.shape[1]
        self.kept: Tensor | None = None
        self.labels = labels.to("cpu", torch.int64)
        if sample_weight is not None and bool((sample_weight == 0).any()):
            self.kept = sample_weight.nonzero().squeeze(1).cpu()
            self.labels = self.labels[self.kept]

    def raw(self, places: Tensor | slice) -> Tensor:
        """A copy of the features of these rows, shape (n, D), float64."""
        if self.kept is not None:
            places = self.kept[places]
        return self.features[places].to("cpu", torch.float64, copy=True)

    def blocks(self, places: Tensor, width: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """These rows block by block: where it lies among them, and its features; ``width``: numbers made of a row."""
        everyone = len(places) == len(self.labels)
        step = max(1, BLOCK // max(width, self.width))
        for start in range(0, len(places), step):
            part = slice(start, min(start + step, len(places)))
            yield part, self.raw(part if everyone else places[part])

    @cached_property
    def scaling(self) -> Scaling:
        """That of a sample, which is good enough to calculate with."""
        values = self.raw(evenly(torch.arange(len(self.labels)), 1000))
        scale = values.std(0, correction=0)
        return Scaling(values.median(0).values, scale.where(scale > 0, 1))

    @cached_property
    def survey(self) -> tuple[Scaling, Tensor, Tensor]:
        """All rows, looked at once: their scaling; the least and the largest of each column in each class, (C, D).

        The extremes are in standard deviations from the shift; inf and -inf where a class has no row.
        """
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

    def seconds_left(self) -> float:
        """Of those there were.

        Raises:
            TooMuchWork: There are none.
        """
        left = self.deadline - time.process_time()
        if left <= 0:
            raise TooMuchWork
        return left


def evenly(places: Tensor, number: int) -> Tensor:
    """As many of these places, if there are, from first to last."""
    number = min(number, len(places))
    return places[torch.linspace(0, len(places) - 1, number, dtype=torch.float64).long()]
