"""The two types that pass from data to model: `Batch` for each block of rows, `DataFacts` once.

`data` and `training` do not import each other; they share only the types of this module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from logreg.stored_form import StoredForm

Split = Literal["train", "val", "test"]
ClassKind = Literal["text", "integer", "float", "boolean"]
"""Type of the classes in the source; their names are always text."""

RARE = "(rare)"
"""Name of the level that rare levels join."""

MOST_SCALED_LEVELS = 100
"""Number of levels up to which the features of a column are standardized: with more, most levels are rare."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""The splits in their usual order; a dataset may lack val, test or both."""


class Batch(NamedTuple):
    """A block of N rows, as a DataModule yields it and a training step receives it."""

    features: Tensor
    """Stored features, (x - shift) / unit by ``DataFacts``, shape (N, D), floating; pixels lie in [0, 1].

    Pixels that a first-order optimizer trains on are bytes, which are ``DataFacts.white_byte`` times as large.
    """
    labels: Tensor
    """Class of each row, shape (N,), int64, in [0, C)."""
    sample_weight: Tensor | None = None
    """Weight of each row, shape (N,), >= 0, in the type of the features; ``None`` for weight 1 everywhere."""
    offset: Tensor | None = None
    """Known term of each row's logit, shape (N,), where it is apart from the features; ``None`` for none, and where it
    is the last of them (`logreg.rows.with_offset_apart`)."""
    positions: Tensor | None = None
    """Position of each row in its split, over all processes, shape (N,), int64; ``None`` where unknown."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The rows on a device."""
        features, labels, *others = (None if one is None else one.to(device, non_blocking=non_blocking) for one in self)
        assert features is not None
        assert labels is not None
        return Batch(features, labels, *others)


@dataclass(frozen=True)
class Vocabulary:
    """The n-grams of one kind that a text column is made of, learned on train; plain values."""

    analyzer: Literal["word", "char_wb"]
    """Kind of the n-grams, as scikit-learn names it: of words, or of characters within words."""
    ngram_range: tuple[int, int]
    """Smallest and largest length of an n-gram, in words or characters."""
    tokens: str
    """The n-grams in order, V >= 1 of them, separated by line breaks, which no n-gram has.

    One text is read from a checkpoint at once, where 100,000s of texts take seconds.
    """
    idf: tuple[float, ...]
    """Inverse document frequency of each n-gram, V of them: ln((1 + rows) / (1 + rows with it)) + 1."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The n-grams in order, V of them."""
        return tuple(self.tokens.split("\n"))

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The place of each n-gram, counted from 0."""
        return {name: place for place, name in enumerate(self.names)}

    @property
    def is_valid(self) -> bool:
        """Whether all fields have the declared types and fit together."""
        return (
            self.analyzer in ("word", "char_wb")
            and isinstance(self.ngram_range, tuple)
            and [type(length) for length in self.ngram_range] == [int, int]
            and 1 <= self.ngram_range[0] <= self.ngram_range[1]
            and isinstance(self.tokens, str)
            and isinstance(self.idf, tuple)
            and len(set(self.names)) == len(self.names) == len(self.idf)
            and all(map(_is_number, self.idf))
        )


@dataclass(frozen=True)
class Column:
    """Encoding of one column of a table as features; plain values, learned on train, kept in the checkpoint."""

    name: str
    """Name of the column."""
    kind: Literal["number", "boolean", "category", "text"]
    """Type of the column."""
    levels: tuple[str, ...] = ()
    """Levels of a boolean or a category, in order.

    Each level is a feature of 0 or 1 (one-hot); an unknown level has 0 in all of them, unless there are rare levels.
    """
    fill: float | str = 0.0
    """Value imputed for a missing one: the median of train, or its most frequent level."""
    indicator: bool = False
    """Whether "<name> is missing" is a feature, 1 where a value is missing."""
    constant: bool = False
    """Whether all values of train are equal; then the indicator is the only feature."""
    rare_levels: int = 0
    """Number of rare levels of train, which share the feature ``<name>=(rare)`` after those of ``levels``.

    Where there are any, unknown levels have that feature too.
    """
    buckets: int = 0
    """Number of buckets that levels are hashed into; 0 where they are not hashed.

    The buckets that train has are then the levels, named by their numbers: ``#12``.
    """
    vocabularies: tuple[Vocabulary, ...] = ()
    """The n-grams of a text, each of which is a feature; the features of one vocabulary have length 1 in a row."""
    is_offset: bool = False
    """Whether it is the known term of the logits, a number whose coefficient is 1: the last column of a table."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of its features: ``carat``, or ``color=D``, ``color=E``, ...; then ``carat is missing``.

        Those of a text are ``review:good`` of words, and ``review:'goo'`` of characters, which may be blanks.
        """
        if self.kind == "text":
            return tuple(
                f"{self.name}:{token}" if vocabulary.analyzer == "word" else f"{self.name}:'{token}'"
                for vocabulary in self.vocabularies
                for token in vocabulary.names
            )
        if self.kind == "number":
            values: tuple[str, ...] = (self.name,)
        else:
            values = tuple(f"{self.name}={level}" for level in self.all_levels)
        return (() if self.constant else values) + ((f"{self.name} is missing",) if self.indicator else ())

    @property
    def all_levels(self) -> tuple[str, ...]:
        """Names of its one-hot features: the levels, and ``(rare)`` where there are rare ones.

        A row of train has 1 in one of them, so that they add up to the intercept.
        """
        return (*self.levels, RARE) if self.rare_levels else self.levels

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The feature of each level, counted from 0, with and without blanks around the level."""
        places = {level.strip(): place for place, level in enumerate(self.levels)}
        return places | {level: place for place, level in enumerate(self.levels)}

    @property
    def other_place(self) -> int:
        """The feature of all other levels: that of rare ones, or -1 for none."""
        return len(self.levels) if self.rare_levels else -1

    @property
    def num_values(self) -> int:
        """Number of its features without the indicator: 1 for a number, or one for each level and for rare levels."""
        if self.constant:
            return 0
        if self.kind == "text":
            return sum(len(vocabulary.idf) for vocabulary in self.vocabularies)
        return 1 if self.kind == "number" else len(self.levels) + (self.rare_levels > 0)

    @property
    def num_features(self) -> int:
        """Number of its features."""
        return self.num_values + self.indicator

    @property
    def keeps_scale(self) -> bool:
        """Whether its features are never standardized: those of text and of many levels.

        Most of them are rare.  Their deviation is small, so a division by it would make them large, and the penalty on
        their coefficients small.  An offset is in the units of the logits.
        """
        return self.kind == "text" or self.is_offset or self.num_values > MOST_SCALED_LEVELS

    @property
    def is_valid(self) -> bool:
        """Whether all fields have the declared types and fit together; a checkpoint may hold anything."""
        if self.kind == "text":
            return (
                isinstance(self.name, str)
                and replace(self, vocabularies=()) == Column(self.name, "text", fill="")
                and bool(self.vocabularies)
                and all(vocabulary.is_valid for vocabulary in self.vocabularies)
            )
        return (
            all(isinstance(one, str) for one in (self.name, *self.levels))
            and self.kind in ("number", "boolean", "category")
            and (
                _is_number(self.fill)
                if self.kind == "number"
                else str(self.fill) in self.places or self.rare_levels > 0
            )
            and all(isinstance(flag, bool) for flag in (self.indicator, self.constant))
            and all(type(count) is int and count >= 0 for count in (self.rare_levels, self.buckets))
            and not self.vocabularies
            and self.is_offset in (False, True)
            and (not self.is_offset or replace(self, is_offset=False) == Column(self.name, "number"))
        )


@dataclass(frozen=True)
class DataFacts:
    """Everything that a model knows about its data; plain values, kept in the checkpoint."""

    name: str
    """Name by which the user selected the dataset."""
    num_features: int
    """Number of features, D."""
    class_names: tuple[str, ...]
    """Names of the C >= 2 classes; of two, the second is the positive class."""
    rows: Mapping[str, int]
    """Number of rows of each split that the dataset has, by split."""
    feature_names: tuple[str, ...] = ()
    """Names of the D features; empty where they have none (pixels)."""
    image_shape: tuple[int, ...] = ()
    """(height, width) of a gray image, (channels, height, width) of a colored one; empty for other data."""
    mean: tuple[float, ...] = ()
    """Mean of each feature over *train*, in source units; empty where features are not standardized."""
    std: tuple[float, ...] = ()
    """Standard deviation of each feature over train, in source units; its unit where a feature is constant."""
    fingerprint: int = 0
    """Checksum (CRC-32) of the rows of all splits; it changes with the data and with the split."""
    source: str = ""
    """The file or folder that was read; empty where the name of the dataset determines it."""
    columns: tuple[Column, ...] = ()
    """Encoding of the columns of a table, in order; empty where the source has features instead of columns."""
    ignored: tuple[str, ...] = ()
    """Columns of the table that carry no information: constant over train, or empty."""
    missing_values: tuple[str, ...] = ()
    """Words that mean a missing value in text files of the table, in addition to the usual words."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """The network that computes the features from images, as plain values; empty where none does."""
    pixels: Mapping[str, Any] = field(default_factory=dict)
    """Decoding options of image files, besides size and color: ``white_level`` of 16 bits, ``background``."""
    white_byte: int = 255
    """Byte value of an image that is 1 in source units."""
    class_weight: tuple[float, ...] = ()
    """Weight of each of the C classes in the loss; empty for weight 1 everywhere."""
    mean_weight: float = 1.0
    """Mean over the train rows of sample weight times class weight."""
    class_rates: tuple[float, ...] = ()
    """Fraction of the sample weight of train in each of the C classes; class weights do not count."""
    shift: tuple[float, ...] = ()
    """Shift of each feature, in source units; empty for 0 everywhere.

    Features are stored as (x - shift) / unit, computed in float64 and rounded to the floating type afterwards.
    """
    unit: tuple[float, ...] = ()
    """Unit of each feature, a power of two in source units; empty for 1 everywhere."""
    nonzeros: int | None = None
    """Number of non-zeros in the features of the train rows, where these are sparse; ``None`` for dense features."""
    first_index: int | None = None
    """Number of the first feature in the svmlight file of train, 0 or 1, as in files of new rows; ``None`` for other
    sources."""
    class_kind: ClassKind = "text"
    """Type of the classes in the source, which their names leave open: 3 or "3", True or "true"."""
    augment: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Strengths of the random changes of train images, by name; empty without changes."""
    copies: int = 0
    """Changed copies of each train row, which ``rows`` counts too; 0 with ``augment`` where each epoch draws anew."""
    largest_offset: float | None = None
    """Largest absolute offset of a train row; ``None`` without an offset, which else is the last feature."""

    @property
    def offset(self) -> str:
        """Name of the column that is the offset; empty without one."""
        return "" if self.largest_offset is None else self.feature_names[-1]

    @property
    def num_coef(self) -> int:
        """Number of coefficients that are learned for each output: D, less 1 with an offset."""
        return self.num_features - (self.largest_offset is not None)

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)

    def names_of_outputs(self, outputs: int) -> tuple[str, ...]:
        """The class of each of K outputs; of one output, the second class."""
        return self.class_names if outputs > 1 else self.class_names[1:]

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes."""
        return self.num_classes == 2

    @property
    def draws_anew(self) -> bool:
        """Whether train images are changed at random in each epoch, so that the fit minimizes no fixed objective."""
        return bool(self.augment) and not self.copies

    @property
    def source_rows(self) -> int:
        """Number of train rows without their copies."""
        return self.rows["train"] // (1 + self.copies)

    @property
    def stored(self) -> StoredForm:
        """Shift and unit of each feature."""
        plain = StoredForm.plain(self.num_features)
        return StoredForm(
            torch.tensor(self.shift, dtype=torch.float64) if self.shift else plain.shift,
            torch.tensor(self.unit, dtype=torch.float64) if self.unit else plain.unit,
        )

    def of_bytes(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored features in a floating type; pixels may come as bytes, which are `white_byte` times as large."""
        if features.dtype == torch.uint8:
            return features.to(dtype).mul_(1 / self.white_byte)
        return features.to(dtype)

    @property
    def standardization(self) -> tuple[Tensor, Tensor] | None:
        """Center and scale of the features that the coefficients multiply, (stored - center) / scale.

        These features are standardized, or else in source units.

        Returns:
            Center and scale, shape (num_coef,) each, float64; ``None`` where coefficients multiply the stored features.
        """
        stored, learned = self.stored, slice(self.num_coef)
        if self.mean:
            found = stored.of_stored(*(torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std)))
            return found[0][learned], found[1][learned]
        if not self.unit:
            return None
        return torch.zeros_like(stored.unit)[learned], 1 / stored.unit[learned]

    @property
    def title(self) -> str:
        """Name of the dataset and what was read: ``table diamonds.csv``."""
        return f"{self.name} {self.source}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        """The facts as plain dicts, lists, strings, numbers and tensors, for `from_dict`.

        Columns give the names of their features.
        """
        plain, columns = _as_dict(self), [_as_dict(column) for column in self.columns]
        if self.columns:
            del plain["feature_names"]
        for column in columns:  # a tensor is copied and read at once, as the one text of the n-grams is
            column["vocabularies"] = [
                _as_dict(one) | {"idf": torch.tensor(one.idf, dtype=torch.float64)} for one in column["vocabularies"]
            ]
        return plain | {
            "rows": dict(self.rows),
            "backbone": dict(self.backbone),
            "pixels": dict(self.pixels),
            "augment": {name: dict(strengths) for name, strengths in self.augment.items()},
            "columns": columns,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataFacts:
        """The facts from the plain values of `as_dict`.

        Raises:
            ValueError: The values do not fit together; a checkpoint may hold anything.
        """
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        arguments["columns"] = tuple(map(_column_of, plain.get("columns", ())))
        if not all(column.is_valid for column in arguments["columns"]):
            raise ValueError("columns does not fit the other facts")
        if arguments["columns"] and "feature_names" not in arguments:
            arguments["feature_names"] = names_of_features(arguments["columns"])
        facts = cls(**arguments)
        facts._check()
        return facts

    def _check(self) -> None:
        """Checks that all fields have the declared types and fit together.

        Raises:
            ValueError: Some do not.
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
        from_columns = names_of_features(self.columns)
        holds = {
            "name": isinstance(self.name, str) and isinstance(self.source, str),
            "num_features": type(per_feature) is int and per_feature >= 1,
            "names": all(isinstance(names, tuple) and all(isinstance(one, str) for one in names) for names in texts),
            "class_names": len(set(self.class_names)) == per_class >= 2,
            "feature_names": len(self.feature_names) in (0, per_feature),
            "columns": from_columns in ((), self.feature_names),
            "image_shape": all(type(side) is int and side >= 1 for side in self.image_shape),
            "rows": all(split in SPLITS and type(count) is int for split, count in self.rows.items()),
            "fingerprint": type(self.fingerprint) is int,
            "nonzeros": self.nonzeros is None or (type(self.nonzeros) is int and self.nonzeros >= 0),
            "first_index": self.first_index in (None, 0, 1),
            "white_byte": type(self.white_byte) is int and self.white_byte >= 1,
            "mean_weight": _is_number(self.mean_weight) and self.mean_weight > 0,
            "backbone": isinstance(self.backbone, Mapping) and isinstance(self.pixels, Mapping),
            "largest_offset": (self.largest_offset is not None)
            == any(column.is_offset for column in self.columns)
            == bool(self.columns and self.columns[-1].is_offset),
            "augment": isinstance(self.augment, Mapping) and type(self.copies) is int and self.copies >= 0,
            **{
                key: isinstance(values, tuple) and len(values) in (0, size) and all(map(_is_number, values))
                for key, (values, size) in numbers.items()
            },
            "scale": all(value > 0 for value in (*self.std, *self.unit)),
        }
        for key, is_so in holds.items():
            if not is_so:
                raise ValueError(f"{key} does not fit the other facts")


def _as_dict(facts: DataFacts | Column | Vocabulary) -> dict[str, Any]:
    """The fields by name, tuples as lists; `dataclasses.asdict` copies every one of thousands of numbers and names."""
    values = {one.name: getattr(facts, one.name) for one in dataclasses.fields(facts)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _column_of(plain: Mapping[str, Any]) -> Column:
    """A column from the plain values of `_as_dict`."""
    vocabularies = []
    for one in plain.get("vocabularies", ()):
        idf = one["idf"].tolist() if isinstance(one["idf"], Tensor) else one["idf"]
        vocabularies.append(Vocabulary(**{**one, "ngram_range": tuple(one["ngram_range"]), "idf": tuple(idf)}))
    return Column(**{**plain, "levels": tuple(plain["levels"]), "vocabularies": tuple(vocabularies)})


def names_of_features(columns: Sequence[Column]) -> tuple[str, ...]:
    """Names of the features of columns, in order."""
    return tuple(name for column in columns for name in column.feature_names)


def keeping_scale(columns: Sequence[Column]) -> Tensor:
    """Whether each feature of some columns is never standardized, (D,); see `Column.keeps_scale`."""
    return torch.cat([torch.full((column.num_features,), column.keeps_scale) for column in columns])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
