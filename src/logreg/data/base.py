"""What a source of rows is, and what it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from logreg.data.encoding.columns import Columns
from logreg.facts import ClassKind, Split


@dataclass(frozen=True)
class Table:
    """The rows of one split in memory.

    Several splits may share the tensors of one source; ``index`` then holds the row numbers of this split.
    """

    features: Tensor | Columns
    """Shape (M, D), floating or integer (pixels are bytes); or columns that are not encoded yet."""
    labels: Tensor
    """Class of each row, shape (M,), int64, in [0, C)."""
    index: Tensor | None = None
    """Row numbers of this split among the M rows, shape (N,), int64; ``None`` for all M rows in order."""
    sample_weight: Tensor | None = None
    """Weight of each row, shape (M,), float64, >= 0; ``None`` for weight 1 everywhere."""
    groups: Tensor | None = None
    """Group of each row, shape (M,), int64; a group lies in one split as a whole."""

    def __len__(self) -> int:
        return len(self.labels) if self.index is None else len(self.index)

    @property
    def matrix(self) -> Tensor:
        """The features as a matrix, shape (M, D); columns must have been encoded."""
        assert isinstance(self.features, Tensor)
        return self.features

    @property
    def row_numbers(self) -> Tensor:
        """Row numbers of this split among the M rows, shape (N,), int64."""
        return torch.arange(len(self.labels)) if self.index is None else self.index

    @overload
    def select(self, values: Tensor) -> Tensor: ...
    @overload
    def select(self, values: None) -> None: ...
    def select(self, values: Tensor | None) -> Tensor | None:
        """The values of this split's N rows, out of the values of all M rows; ``None`` stays ``None``."""
        return values if self.index is None or values is None else values[self.index]

    def subset(self, positions: Tensor) -> Table:
        """The table with only the rows at these positions, which count the N rows from 0."""
        return dataclasses.replace(self, index=positions if self.index is None else self.index[positions])


@dataclass(frozen=True)
class KnownAnswer:
    """What the best classifier of generated data is, in closed form."""

    coef: Tensor
    """Shape (D,), in source units."""
    intercept: float
    accuracy: float
    """Of the best classifier on unseen rows, in [0, 1]."""


@dataclass(frozen=True)
class RawData:
    """What a dataset reads: tables and the names of what is in them."""

    tables: Mapping[Split, Table]
    """The splits that the source itself has; at least train."""
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    scale: float = 1.0
    """Features times this are in source units (1 / 255 for pixels kept as bytes)."""
    answer: KnownAnswer | None = None
    axis: tuple[float, float] | None = None
    """Range to draw a single feature over, in source units."""
    source: str = ""
    """What was read, in a word or two, where the dataset's name does not say it: a file's name."""
    labels: str = ""
    """What the user typed to name the labels, where they did: ``dataset.target=cut``."""
    notes: tuple[str, ...] = ()
    """What a user should know of the reading, a sentence each: rows left out, and why."""
    complete: bool = False
    """Whether the source says of each row which split it is in, so that nothing is held out unasked."""
    missing_values: tuple[str, ...] = ()
    """Words for a missing value in the text files of a table, besides the usual ones."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """What made the features of images, as plain values; empty: they are the pixels."""
    pixels: Mapping[str, Any] = field(default_factory=dict)
    """How files of images became pixels, as plain values: ``Decoding.plain``; empty: they were no files."""
    class_kind: ClassKind = "text"
    """What the classes are where they come from."""


class Dataset(Protocol):
    """A source of rows: its arguments are its fields, ``read`` does the work."""

    @property
    def name(self) -> str:
        """As the user selects it."""

    def read(self) -> RawData:
        """The tables, from wherever they come.

        Raises:
            DatasetNotFoundError: Files are missing; the message says which and what to do.
        """
