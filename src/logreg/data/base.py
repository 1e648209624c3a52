"""What a source of rows is, and what it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from logreg.data.encoding.columns import Columns
from logreg.facts import ClassKind, Split


@dataclass(frozen=True)
class Table:
    """Rows in memory, as a source has them."""

    features: Tensor | Columns
    """Shape (M, D); floating, or integers (pixels as bytes); or columns that are yet to be encoded."""
    labels: Tensor
    """Shape (M,), int64, in [0, C)."""
    rows: Tensor | None = None
    """Which of the M rows are meant, shape (N,); ``None`` for all of them."""
    sample_weight: Tensor | None = None
    """Weight of a row, shape (M,), float64, >= 0; ``None`` weighs all rows 1."""
    groups: Tensor | None = None
    """Group of a row, shape (M,), int64; no group is held out in part."""

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)

    @property
    def matrix(self) -> Tensor:
        """The features, which are no columns (any more), shape (M, D)."""
        assert isinstance(self.features, Tensor)
        return self.features

    def chosen(self, values: Tensor) -> Tensor:
        """Of values of all M rows those of the N that are meant."""
        return values if self.rows is None else values[self.rows]

    def narrowed(self, positions: Tensor) -> Table:
        """Of the N rows only these."""
        return dataclasses.replace(self, rows=positions if self.rows is None else self.rows[positions])


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
    """How files of images became pixels, as plain values: ``DecodingOptions.facts``; empty: they were no files."""
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
