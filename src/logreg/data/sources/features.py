"""Feature matrices of a user's own, such as frozen embeddings: files of named arrays, mapped where they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.constraints import Constraint, check
from logreg.data.base import RawData, Table
from logreg.data.encoding.labels import MISSING, class_kind, encode_labels
from logreg.data.formats.arrays import FORMATS, whole
from logreg.errors import ConfigError, DataError, DatasetNotFoundError, did_you_mean
from logreg.facts import Split

USUAL_NAMES = {
    "features": ("features", "x", "embeddings", "embedding", "data"),
    "labels": ("labels", "y", "targets", "label", "target"),
}
"""What the arrays are called, in small letters, when nobody says how."""


@dataclass(frozen=True)
class Features:
    """A row of numbers and a label for each example, from .npz, .npy, .safetensors or .parquet files.

    The matrix keeps its own type of number.  In .npy and .safetensors files it is mapped: the system
    reads what is looked at, and processes on one machine share it.

    Attributes:
        path: One file, or two .npy files [features, labels], to hold val and test out of.
        train_path: Instead of ``path``: the rows to train on.
        val_path: Beside ``train_path``: the rows to validate on.
        test_path: Beside ``train_path``: the rows to test on.
        features: Name of the matrix: an array or tensor of shape (N, D), or a column of N lists of D numbers.
        labels: Name of the labels, N values of any kind; a row without a label is left out.
        weight: Name of the sample weights, N numbers >= 0.
        group: Name of what says which rows belong together, N values of any kind.
    """

    path: str | Sequence[str] | None = None
    train_path: str | Sequence[str] | None = None
    val_path: str | Sequence[str] | None = None
    test_path: str | Sequence[str] | None = None
    features: str | None = None
    labels: str | None = None
    weight: str | None = None
    group: str | None = None
    name: str = "features"

    def __post_init__(self) -> None:
        for key in ("path", "train_path", "val_path", "test_path"):
            given = getattr(self, key)
            check(f"dataset.{key}", given, _FILES, "A table with a column per feature is read by dataset=table.")
            if self.path is not None and key != "path" and given is not None:
                raise ConfigError(f"`dataset.path` must not go with `dataset.{key}`: set `dataset.train_path` instead.")
        for role in ("features", "labels", "weight", "group"):
            check(_key(role), getattr(self, role), _NAME)

    def read(self) -> RawData:
        """The rows of each file, with labels that mean the same in all of them.

        Raises:
            DatasetNotFoundError: A file is missing.
            ConfigError: No file is named; an array is not there, or must be named.
            DataError: A file is broken, or what it holds breaks a constraint or disagrees with the other files.
        """
        parts = {split: self._part(key) for split, key in self._keys().items()}
        train = parts["train"]
        labels, class_names = _codes(
            f"dataset.labels={train.labels_name}", {split: part.labels for split, part in parts.items()}
        )
        groups = self._groups(parts)
        tables: dict[Split, Table] = {}
        notes = []
        for split, part in parts.items():
            if part.features.shape[1] != train.features.shape[1]:
                raise DataError(
                    f"`dataset.{split}_path` must have the {train.features.shape[1]} features of `dataset.train_path`, "
                    f"got {part.features.shape[1]} [in {part.source}]. Make both with the same model."
                )
            known = labels[split] != MISSING
            missing = len(known) - int(known.sum())
            if missing == len(known):
                raise DataError(f"`dataset.labels={part.labels_name}` must hold labels, got none [in {part.source}].")
            if missing:
                notes.append(f"left out {missing:,} rows of {part.source}, since {part.labels_name} is missing there")
            rows = known.nonzero()[:, 0] if missing else None
            tables[split] = Table(part.features, labels[split], rows, part.weight, groups.get(split))
        source = " + ".join(part.source for part in parts.values())
        return RawData(tables, class_names, source=source, notes=tuple(notes), class_kind=class_kind(train.labels))

    def _keys(self) -> dict[Split, str]:
        """The key that names the rows of each split that has some."""
        if self.path is not None:
            return {"train": "path"}
        if self.train_path is None:
            raise ConfigError.broken("dataset.path", "name a file", None, "Set dataset.path=FILE.")
        keys: dict[Split, str] = {"train": "train_path", "val": "val_path", "test": "test_path"}
        return {split: key for split, key in keys.items() if getattr(self, key) is not None}

    def _part(self, key: str) -> _Part:
        """What a file, or a pair of files, has to give: as many rows of each."""
        given = getattr(self, key)
        files = [Path(file) for file in ([given] if isinstance(given, str) else given)]
        for file in files:
            if not file.is_file():
                what = f"got the folder {file}" if file.is_dir() else f"and {file} is missing"
                what = f"got a pipe or a device: {file}" if file.exists() and not file.is_dir() else what
                raise DatasetNotFoundError(f"`dataset.{key}` must be a file, {what}. Paths start where you stand.")
        first, last = files[0], files[-1]  # of a pair, the features and the labels
        with whole(f"dataset.{key}", first):
            arrays = FORMATS[first.suffix.lower()](files)
        features_name = self._choose("features", arrays.matrices, first)
        with whole(f"dataset.{key}", first):
            features = arrays.matrix(features_name)
        _check_matrix(f"dataset.features={features_name}", features, first)

        def column(role: str) -> tuple[str, Any]:
            name = self._choose(role, arrays.columns, last)
            with whole(f"dataset.{key}", last):
                values = arrays.column(name)
            if len(values) != len(features):
                raise DataError(
                    f"`{_key(role)}={name}` must have a value for each of the {len(features)} rows of "
                    f"{features_name}, got {len(values)} [in {last.name}]. "
                    "Save both from the same rows."
                )
            return name, values

        part = _Part(features, *column("labels"), source=first.name)
        if self.weight is not None:
            name, values = column("weight")
            part.weight = _weights(f"dataset.weight={name}", values, last)
        if self.group is not None:
            _, part.groups = column("group")
        return part

    def _choose(self, role: str, there: Sequence[str], file: Path) -> str:
        """The array that the user named, or the only one that it can be."""
        wanted = getattr(self, role)
        constraint = f"name one of {', '.join(there) or 'no arrays'} [in {file.name}]"
        if wanted is None:
            usual = [name for name in there if name.lower() in USUAL_NAMES[role]]
            if role == "features" and len(there) == 1:
                usual = list(there)
            if len(usual) != 1:
                raise ConfigError.broken(_key(role), constraint, None, f"Set {_key(role)}=NAME.")
            return usual[0]
        if wanted not in there:
            raise ConfigError.broken(_key(role), constraint, wanted, did_you_mean(wanted, there))
        return str(wanted)

    def _groups(self, parts: Mapping[Split, _Part]) -> dict[Split, Tensor]:
        if self.group is None:
            return {}
        key = f"{_key('group')}={self.group}"
        groups, _ = _codes(key, {split: part.groups for split, part in parts.items()})
        for split, codes in groups.items():
            if len(missing := (codes == MISSING).nonzero()):
                raise DataError(
                    f"`{key}` must have a value in every row, got none in row {int(missing[0])} "
                    f"[in {parts[split].source}]. Give a row that stands alone a group of its own."
                )
        return groups


@dataclass
class _Part:
    """What one file has to give; labels and groups as pyarrow has them."""

    features: Tensor
    labels_name: str
    labels: Any
    source: str
    weight: Tensor | None = None
    groups: Any = None


def _key(role: str) -> str:
    """What a user types to name an array."""
    return "dataset.split.group" if role == "group" else f"dataset.{role}"


def _is_files(given: object) -> bool:
    """Whether it is nothing, a file with several arrays, or a pair of files with one each."""
    if given is None:
        return True
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) for file in files):
        return False
    suffixes = [Path(file).suffix.lower() for file in files]
    return suffixes == [".npy", ".npy"] or (isinstance(given, str) and suffixes[0] in FORMATS.keys() - {".npy"})


_FILES = Constraint("be a .npz, .safetensors or .parquet file, or two files [FEATURES.npy,LABELS.npy]", _is_files)

_NAME = Constraint("be the name of an array", lambda value: value is None or isinstance(value, str))


def _check_matrix(key: str, features: Tensor, file: Path) -> None:
    """Two axes, and something in them."""
    got = f"shape {tuple(features.shape)} [in {file.name}]"
    if features.ndim != 2:
        advice = "Flatten the other axes, or average over them, before saving."
        if features.ndim < 2:
            advice = "A single feature is a matrix of one column: reshape(-1, 1)."
        raise DataError(f"`{key}` must have two axes, rows and features, got {got}. {advice}")
    if not features.numel():
        raise DataError(f"`{key}` must have rows and features, got {got}.")


def _weights(key: str, values: Any, file: Path) -> Tensor:
    """Sample weights in float64."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if not (kinds.is_floating(values.type) or kinds.is_integer(values.type)):
        raise DataError(f"`{key}` must hold numbers >= 0, got {values.type} [in {file.name}].")
    weights = np.array(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"`{key}` must hold finite numbers >= 0, got {weights[row]:g} in row {row} [in {file.name}].")
    return torch.from_numpy(weights)


def _codes(key: str, columns: Mapping[Split, Any]) -> tuple[dict[Split, Tensor], tuple[str, ...]]:
    """Integers for the values of several files, the same for equal ones, and what each stands for."""
    import pyarrow as pa

    tables = [pa.table({key: column}) for column in columns.values()]
    try:
        together = pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowTypeError as error:
        found = ", ".join(f"{column.type} in {split}" for split, column in columns.items())
        raise DataError(f"`{key}` must be of one kind in all files, got {found}. Mend the files.") from error
    codes, names = encode_labels(together, key)
    sizes = [len(column) for column in columns.values()]
    return dict(zip(columns, codes.split(sizes), strict=True)), names
