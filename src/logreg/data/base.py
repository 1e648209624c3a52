"""Types of a source of rows: `Dataset` reads `RawData`, which has a `Table` for each split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

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
    """Shape (M, D), floating or integer (pixels are bytes), or a CSR tensor; or columns that are not encoded yet."""
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
        """The features as a matrix, shape (M, D), dense or sparse; columns must have been encoded."""
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
class BayesClassifier:
    """The classifier of least error on generated data, known in closed form."""

    coef: Tensor
    """Coefficients, shape (D,), in source units."""
    intercept: float
    """Intercept."""
    accuracy: float
    """Its accuracy on unseen rows, in [0, 1]."""


@dataclass(frozen=True)
class RawData:
    """Result of reading a dataset: tables, and the names of classes and features."""

    tables: Mapping[Split, Table]
    """Tables of the splits that the source has; at least train."""
    class_names: tuple[str, ...]
    """Names of the C classes."""
    feature_names: tuple[str, ...] = ()
    """Names of the D features; empty where they have none, or where the tables hold columns."""
    image_shape: tuple[int, ...] = ()
    """(height, width) or (channels, height, width) of an image; empty for other data."""
    scale: float = 1.0
    """Factor from stored features to source units (1 / 255 for pixels kept as bytes)."""
    bayes_classifier: BayesClassifier | None = None
    """The best classifier of generated data; ``None`` for other data."""
    plot_range: tuple[float, float] | None = None
    """Range over which a single feature is plotted, in source units; ``None`` for the range of the data."""
    source: str = ""
    """The file or folder that was read; empty where the name of the dataset determines it."""
    target_setting: str = ""
    """Setting that names the labels, as the user typed it: ``dataset.target=cut``; empty where there is none."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on how the data was read, such as which rows were left out, and why."""
    splits_are_stated: bool = False
    """Whether the source states the split of each row; then no further split is held out by default."""
    missing_values: tuple[str, ...] = ()
    """Words that mean a missing value in text files of a table, in addition to the usual words."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """The network that computed the features from images, as plain values; empty where none did."""
    pixels: Mapping[str, Any] = field(default_factory=dict)
    """Decoding options of image files, as plain values (``DecodingOptions.facts``); empty for other data."""
    class_kind: ClassKind = "text"
    """Type of the classes in the source."""
    first_index: int | None = None
    """Number of the first feature in a svmlight file: 0 or 1; ``None`` for other sources."""


class Dataset(Protocol):
    """A source of rows: its fields are its settings, and ``read`` does the work."""

    @property
    def name(self) -> str:
        """Name by which the user selects the dataset."""

    def read(self) -> RawData:
        """Reads the tables.

        Raises:
            DatasetNotFoundError: Files are missing; the message names them and the next step.
        """


@runtime_checkable
class ColumnSource(Protocol):
    """A dataset of tables, any column of which can be read again."""

    def codes(self, column: str, key: str) -> Tensor:
        """Value of any column in each row of all files, as codes: equal ones are equal values.

        Args:
            column: Name of the column.
            key: The setting that names it, for messages.

        Returns:
            Shape (M,), int64, >= 0.

        Raises:
            ConfigError: A file has no such column.
            DataError: A value is missing.
        """


@runtime_checkable
class MappedSource(Protocol):
    """A dataset whose rows may lie in files, because they do not fit into memory."""

    @property
    def cache(self) -> str:
        """Folder of the files in which the prepared rows are kept."""

    @property
    def is_mapped(self) -> bool:
        """Whether the features lie in files, not in memory."""

    @property
    def cache_key(self) -> list[Any] | None:
        """Plain values on which the rows depend, where they are kept in the cache; else ``None``."""
