"""The two types that cross from data to model: `Batch` row by row, `DataFacts` once.

`data` and `module` do not know each other; whatever one needs of the other stands here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits in reading order; a dataset may lack val, test or both."""


class Batch(NamedTuple):
    """A block of rows, as every DataModule yields it and every step receives it."""

    features: Tensor
    """Shape (N, D), floating, in the units of the source (pixels: 0 to 1)."""
    labels: Tensor
    """Shape (N,), int64, in [0, C)."""


@dataclass(frozen=True)
class DataFacts:
    """All that a model knows of its data; plain values, kept in the checkpoint."""

    name: str
    """The dataset as the person selected it."""
    num_features: int
    """D."""
    class_names: tuple[str, ...]
    """Name of each class, C >= 2 of them; with two, the second is the positive one."""
    rows: Mapping[str, int]
    """Rows of each split that the dataset has, keyed by train, val, test."""
    feature_names: tuple[str, ...] = ()
    """Name of each feature, D of them, or none (pixels)."""
    image_shape: tuple[int, ...] = ()
    """(height, width) of a grey image, (channels, height, width) of a coloured one; empty otherwise."""
    mean: tuple[float, ...] = ()
    """Mean of each feature over the *train* split, in source units; empty: not standardised."""
    std: tuple[float, ...] = ()
    """Standard deviation likewise; 1 where a feature is constant."""
    fingerprint: int = 0
    """Checksum of the train rows: another split or other data has another one."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.num_classes == 2

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; `from_dict` takes it back."""
        plain = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()} | {
            "rows": dict(self.rows)
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataFacts:
        """The facts that ``as_dict`` made ``plain`` of."""
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        return cls(**arguments)
