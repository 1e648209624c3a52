"""The two types that cross from data to model: `Batch` row by row, `DataFacts` once.

`data` and `module` do not know each other; whatever one needs of the other stands here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from logreg.stored_form import StoredForm

Split = Literal["train", "val", "test"]
ClassKind = Literal["text", "integer", "float", "boolean"]
"""What the classes are in the data, whose names are text."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits in reading order; a dataset may lack val, test or both."""


class Batch(NamedTuple):
    """A block of rows, as every DataModule yields it and every step receives it."""

    features: Tensor
    """Shape (N, D), floating, as they are stored: (x - shift) / unit of ``DataFacts`` (pixels: 0 to 1)."""
    labels: Tensor
    """Shape (N,), int64, in [0, C)."""
    sample_weight: Tensor | None = None
    """Weight of each row, shape (N,), >= 0, in the type of the features; ``None`` weighs all rows 1."""


@dataclass(frozen=True)
class Column:
    """How one column of a table becomes features; plain values, learned on train, kept in the checkpoint."""

    name: str
    kind: Literal["number", "boolean", "category"]
    levels: tuple[str, ...] = ()
    """Of a boolean or a category, in order: each is a feature of 0 or 1, and a level not among them is all 0."""
    fill: float | str = 0.0
    """Stands in for a missing value: the median of train, or its most frequent level."""
    indicator: bool = False
    """Whether "<name> is missing" is a feature."""
    constant: bool = False
    """Whether all values of train are equal, so that only the indicator is left."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What the column becomes: ``carat``, or ``color=D``, ``color=E``, ...; then ``carat is missing``."""
        values = (self.name,) if self.kind == "number" else tuple(f"{self.name}={level}" for level in self.levels)
        return (() if self.constant else values) + ((f"{self.name} is missing",) if self.indicator else ())

    @property
    def is_whole(self) -> bool:
        """Whether its parts are what they are said to be, wherever it comes from."""
        texts = (self.name, *self.levels)
        known = {level.strip() for level in self.levels} | set(self.levels)
        return (
            all(isinstance(one, str) for one in texts)
            and self.kind in ("number", "boolean", "category")
            and (_is_number(self.fill) if self.kind == "number" else str(self.fill) in known)
            and all(isinstance(flag, bool) for flag in (self.indicator, self.constant))
        )


@dataclass(frozen=True)
class DataFacts:
    """All that a model knows of its data; plain values, kept in the checkpoint."""

    name: str
    """The dataset as the user selected it."""
    num_features: int
    """D."""
    class_names: tuple[str, ...]
    """Name of each class, C >= 2 of them; with two, the second is the positive one."""
    rows: Mapping[str, int]
    """Rows of each split that the dataset has, keyed by train, val, test."""
    feature_names: tuple[str, ...] = ()
    """Name of each feature, D of them, or none (pixels)."""
    image_shape: tuple[int, ...] = ()
    """(height, width) of a grey image, (channels, height, width) of a colored one; empty otherwise."""
    mean: tuple[float, ...] = ()
    """Mean of each feature over the *train* split, in source units; empty: not standardized."""
    std: tuple[float, ...] = ()
    """Standard deviation likewise; 1 where a feature is constant."""
    fingerprint: int = 0
    """Checksum of the rows of all splits: another split or other data has another one."""
    source: str = ""
    """What was read, such as a file's name, where the dataset's name does not say it."""
    columns: tuple[Column, ...] = ()
    """How the columns of a table become the features, in order; empty: the source has features itself."""
    ignored: tuple[str, ...] = ()
    """Columns of the table that say nothing: constant over train, or empty."""
    missing_values: tuple[str, ...] = ()
    """Words for a missing value in the text files of the table, besides the usual ones."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """What turns images into the features; empty: they are the pixels."""
    pixels: Mapping[str, Any] = field(default_factory=dict)
    """How files of images become pixels, besides size and color: ``white_level`` of 16 bits, ``background``."""
    white_byte: int = 255
    """Value of a byte of an image that is 1 in source units."""
    class_weight: tuple[float, ...] = ()
    """Weight of each class in the loss, C of them; empty: all 1."""
    mean_weight: float = 1.0
    """Mean over the train rows of sample weight times class weight."""
    class_rates: tuple[float, ...] = ()
    """Part of the weight of train that each class has, C of them; class weights do not count."""
    shift: tuple[float, ...] = ()
    """Features are stored as (x - shift) / unit, rounded to the floating type afterwards; in source units; empty: 0."""
    unit: tuple[float, ...] = ()
    """Of each feature, a power of two in source units; empty: 1."""
    class_kind: ClassKind = "text"
    """What the classes are where they come from, by the names: 3 of 3, true of True."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.num_classes == 2

    @property
    def stored(self) -> StoredForm:
        """How features are stored."""
        plain = StoredForm.plain(self.num_features)
        return StoredForm(
            torch.tensor(self.shift, dtype=torch.float64) if self.shift else plain.shift,
            torch.tensor(self.unit, dtype=torch.float64) if self.unit else plain.unit,
        )

    @property
    def standardization(self) -> tuple[Tensor, Tensor] | None:
        """What coefficients belong to: (stored features - center) / scale; center and scale (D,), float64.

        These are standardized features, or else features in source units; ``None`` where they are as stored.
        """
        stored = self.stored
        if self.mean:
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
            return (mean - stored.shift) / stored.unit, std / stored.unit
        if not self.unit:
            return None
        return torch.zeros_like(stored.unit), 1 / stored.unit

    @property
    def title(self) -> str:
        """The dataset and what was read: ``table diamonds.csv``."""
        return f"{self.name} {self.source}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; `from_dict` takes it back."""
        plain = dataclasses.asdict(self)
        columns = [column | {"levels": list(column["levels"])} for column in plain["columns"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()} | {
            "rows": dict(self.rows),
            "backbone": dict(self.backbone),
            "pixels": dict(self.pixels),
            "columns": columns,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataFacts:
        """The facts that ``as_dict`` made ``plain`` of.

        Raises:
            ValueError: They are those of no model: a file may hold anything.
        """
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        arguments["columns"] = tuple(
            Column(**column | {"levels": tuple(column["levels"])}) for column in plain.get("columns", ())
        )
        facts = cls(**arguments)
        facts._check()
        return facts

    def _check(self) -> None:
        """What a model is built from fits together.

        Raises:
            ValueError: It does not.
        """
        per_feature, per_class = self.num_features, len(self.class_names)
        numbers = {
            "mean": (self.mean, per_feature),
            "std": (self.std, per_feature),
            "shift": (self.shift, per_feature),
            "unit": (self.unit, per_feature),
            "class_weight": (self.class_weight, per_class),
            "class_rates": (self.class_rates, per_class),
        }
        texts = (self.class_names, self.feature_names, self.ignored, self.missing_values)
        from_columns = tuple(name for column in self.columns for name in column.feature_names)
        holds = {
            "name": isinstance(self.name, str) and isinstance(self.source, str),
            "num_features": type(per_feature) is int and per_feature >= 1,
            "names": all(isinstance(names, tuple) and all(isinstance(one, str) for one in names) for names in texts),
            "class_names": len(set(self.class_names)) == per_class >= 2,
            "feature_names": len(self.feature_names) in (0, per_feature),
            "columns": all(column.is_whole for column in self.columns) and from_columns in ((), self.feature_names),
            "image_shape": all(type(side) is int and side >= 1 for side in self.image_shape),
            "rows": all(split in SPLITS and type(count) is int for split, count in self.rows.items()),
            "fingerprint": type(self.fingerprint) is int,
            "white_byte": type(self.white_byte) is int and self.white_byte >= 1,
            "mean_weight": _is_number(self.mean_weight) and self.mean_weight > 0,
            "backbone": isinstance(self.backbone, Mapping) and isinstance(self.pixels, Mapping),
            **{
                key: isinstance(values, tuple) and len(values) in (0, size) and all(map(_is_number, values))
                for key, (values, size) in numbers.items()
            },
            "scale": all(value > 0 for value in (*self.std, *self.unit)),
        }
        for key, is_so in holds.items():
            if not is_so:
                raise ValueError(f"{key} does not fit the other facts")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
