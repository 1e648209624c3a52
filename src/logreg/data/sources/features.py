"""Matrices of features that the user computed before, such as embeddings of a frozen model or counts of words.

The formats are in `logreg.data.formats.arrays`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.constraints import Constraint, check, one_of, text
from logreg.csr import is_sparse
from logreg.data.arrow_numbers import types_in_words
from logreg.data.base import RawData, Table
from logreg.data.encoding.labels import MISSING, class_kind, encode_labels
from logreg.data.formats.arrays import ARRAY_FORMATS, ArrayFile, explaining_errors, open_arrays
from logreg.data.formats.compression import suffix_of
from logreg.data.formats.folders import files_with
from logreg.data.formats.sparse_arrays import SVMLIGHT_SUFFIXES, SvmlightFile
from logreg.data.memory import Allocate, fits_into_memory, mapped_array, scratch_in
from logreg.errors import ConfigError, DataError, DatasetNotFoundError, did_you_mean, name_list
from logreg.facts import Split
from logreg.terminal import counted

MAPPED_SUFFIXES = (".npy", ".safetensors")
"""Suffixes of files whose features need not be copied into memory."""

USUAL_NAMES = {
    "features": ("features", "x", "embeddings", "embedding", "data"),
    "labels": ("labels", "y", "targets", "label", "target"),
}
"""Names, in lower case, by which an array is found if the user does not name it."""


@dataclass(frozen=True)
class Features:
    """A row of numbers and a label for each example, from .npz, .npy, .safetensors, .parquet or svmlight files.

    Matrices of svmlight files, and of .npz files that SciPy has written, are sparse and stay so.  A matrix keeps the
    number type that it has in the file.  Matrices in .npy and .safetensors files are memory-mapped: the system reads
    pages when they are used, and processes on one machine share them.

    Attributes:
        path: One file, or two [features, labels], of which the second is .npy; or a folder of .safetensors files, or
            two of .npy files, whose rows follow one another.  Val and test are held out of its rows.
        train_path: Rows of train, instead of ``path``.
        val_path: Rows of val, together with ``train_path``.
        test_path: Rows of test, together with ``train_path``.
        features: Name of the matrix: an array of shape (N, D), or a column of N lists of D numbers.
        labels: Name of the labels, N values of any type; rows without a label are left out.
        weight: Name of the sample weights, N numbers >= 0.
        group: Name of the groups, N values of any type; rows with equal values stay in one split.
        storage: "memory" holds features in memory; "mapped" leaves them in their file, or joins those of a folder in
            a file of ``cache``; "auto" maps what does not fit into memory.
        cache: Folder of such files.
    """

    path: str | Sequence[str] | None = None
    train_path: str | Sequence[str] | None = None
    val_path: str | Sequence[str] | None = None
    test_path: str | Sequence[str] | None = None
    features: str | None = None
    labels: str | None = None
    weight: str | None = None
    group: str | None = None
    storage: str = "auto"
    cache: str = "data/cache"
    name: str = "features"

    def __post_init__(self) -> None:
        for key in ("path", "train_path", "val_path", "test_path"):
            given = getattr(self, key)
            check(f"dataset.{key}", given, _FILES, "A table with a column per feature is read by dataset=table.")
            if self.path is not None and key != "path" and given is not None:
                raise ConfigError(f"`dataset.path` must not go with `dataset.{key}`: set `dataset.train_path` instead.")
        for role in ("features", "labels", "weight", "group"):
            check(_key_of(role), getattr(self, role), _ARRAY_NAME)
        check("dataset.storage", self.storage, one_of(("auto", "memory", "mapped")))
        check("dataset.cache", self.cache, text())

    @cached_property
    def is_mapped(self) -> bool:
        """Whether the features lie in files, not in memory.

        Raises:
            ConfigError: They must, by the user's wish, and have a format that is copied.
        """
        if self.storage == "memory":
            return False
        files = [(key, files[0]) for key, files in self._all_files()]
        for key, file in files:
            if file.suffix.lower() not in MAPPED_SUFFIXES:
                if self.storage == "auto":
                    return False
                constraint = f"end in one of {', '.join(MAPPED_SUFFIXES)} with dataset.storage=mapped"
                raise ConfigError.broken(f"dataset.{key}", constraint, str(file))
        return self.storage == "mapped" or not fits_into_memory(sum(file.stat().st_size for _, file in files))

    @cached_property
    def cache_key(self) -> list[Any] | None:
        """Plain values on which the rows depend, where those of a folder are joined in the cache; else ``None``."""
        folders = [key for key in self._keys().values() if _is_folder(getattr(self, key))]
        if not folders or not self.is_mapped:
            return None
        settings = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("storage", "cache")}
        return [settings, [[str(file), *_state(file)] for _, files in self._all_files() for file in files]]

    def _all_files(self) -> list[tuple[str, list[Path]]]:
        """The attribute that names each file, or pair of files, and these."""
        return [
            (key, files) for key in self._keys().values() for files in _files_of(f"dataset.{key}", getattr(self, key))
        ]

    def read(self) -> RawData:
        """The rows of each file; labels and groups have one encoding for all files.

        Raises:
            DatasetNotFoundError: A file is missing.
            ConfigError: No file is named; an array is missing, or must be named.
            DataError: A file is broken, its arrays break a constraint, or the files do not fit each other.
        """
        parts: dict[Split, _Part] = {}
        for split, key in self._keys().items():
            parts[split] = self._read_part(key, parts.get("train"))
        train = parts["train"]
        labels, class_names = _encode_together(
            f"dataset.labels={train.labels_name}", {split: part.labels for split, part in parts.items()}
        )
        groups = self._encode_groups(parts)
        tables: dict[Split, Table] = {}
        notes = []
        for split, part in parts.items():
            if part.features.shape[1] != train.features.shape[1]:
                raise DataError(
                    f"`dataset.{split}_path` must have the {train.features.shape[1]} features of `dataset.train_path`, "
                    f"got {part.features.shape[1]} [in {part.source}]. Make both with the same model."
                )
            has_label = labels[split] != MISSING
            missing = len(has_label) - int(has_label.sum())
            if missing == len(has_label):
                raise DataError(f"`dataset.labels={part.labels_name}` must hold labels, got none [in {part.source}].")
            if missing:
                notes.append(
                    f"left out {counted(missing, 'row')} of {part.source}, since {part.labels_name} is missing there"
                )
            rows = has_label.nonzero()[:, 0] if missing else None
            tables[split] = Table(part.features, labels[split], rows, part.weight, groups.get(split))
        if is_sparse(train.features):
            notes += _unused_note(train)
        source = " + ".join(part.source for part in parts.values())
        return RawData(
            tables,
            class_names,
            source=source,
            notes=tuple(notes),
            class_kind=class_kind(train.labels),
            first_index=train.first_index,
        )

    def _keys(self) -> dict[Split, str]:
        """The attribute that names the file of each split that has one."""
        if self.path is not None:
            return {"train": "path"}
        if self.train_path is None:
            raise ConfigError.broken("dataset.path", "name a file", None, "Set dataset.path=FILE.")
        keys: dict[Split, str] = {"train": "train_path", "val": "val_path", "test": "test_path"}
        return {split: key for split, key in keys.items() if getattr(self, key) is not None}

    def _read_part(self, key: str, train: _Part | None) -> _Part:
        """The arrays of one split, from the file or the pair of files that the attribute ``key`` names.

        A svmlight file has the features of ``train``, numbered as there.
        """
        parts, states = [], []
        for files in _files_of(f"dataset.{key}", getattr(self, key)):
            states.append([_state(file) for file in files])
            parts.append(self._read_files(key, files, train))
        if len(parts) == 1:
            return parts[0]
        part = _joined(f"dataset.{key}", parts, scratch_in(Path(self.cache)) if self.is_mapped else mapped_array)
        for files, state in zip(_files_of(f"dataset.{key}", getattr(self, key)), states, strict=True):
            for file, before in zip(files, state, strict=True):
                if _state(file) != before:
                    raise DataError(f"`dataset.{key}` must not change while it is read, and {file} did. Run again.")
        part.source = " + ".join(Path(one).name for one in _listed(getattr(self, key)))
        return part

    def _read_files(self, key: str, files: Sequence[Path], train: _Part | None) -> _Part:
        """The arrays of a file or of a pair of files."""
        features_file, columns_file = files[0], files[-1]  # the same file, unless they are a pair
        known = (None, None) if train is None else (train.first_index, train.features.shape[1])
        arrays = open_arrays(f"dataset.{key}", files, *known)
        features_name = self._array_name("features", arrays.matrices, features_file)
        with explaining_errors(f"dataset.{key}", features_file):
            features = arrays.matrix(features_name)
        _check_matrix(f"dataset.features={features_name}", features, features_file)

        def column(role: str) -> tuple[str, Any]:
            return self._read_column(role, arrays, key, columns_file, features_name, len(features))

        part = _Part(features, *column("labels"), source=features_file.name)
        if isinstance(arrays, SvmlightFile):
            part.first_index = arrays.rows.first_index
        if self.weight is not None:
            name, values = column("weight")
            part.weight = _check_weights(f"dataset.weight={name}", values, columns_file)
        if self.group is not None:
            _, part.groups = column("group")
        return part

    def _read_column(
        self, role: str, arrays: ArrayFile, key: str, file: Path, features_name: str, num_rows: int
    ) -> tuple[str, Any]:
        """Name and values of the array with this role, which must have a value for each row of the features."""
        name = self._array_name(role, arrays.columns, file)
        with explaining_errors(f"dataset.{key}", file):
            values = arrays.column(name)
        if len(values) != num_rows:
            raise DataError(
                f"`{_key_of(role)}={name}` must have a value for each of the {num_rows} rows of {features_name}, "
                f"got {len(values)} [in {file.name}]. Save both from the same rows."
            )
        return name, values

    def _array_name(self, role: str, available: Sequence[str], file: Path) -> str:
        """The array that the user named for this role, else the only one with a usual name."""
        wanted = getattr(self, role)
        if not available and role == "labels":  # of a sparse matrix of SciPy
            raise ConfigError(
                f"`dataset.path` must name a file of labels beside {file.name}, which has none. "
                f"Set dataset.path=[{file},LABELS.npy]."
            )
        if not available:
            raise ConfigError(
                f"`{_key_of(role)}` must name an array [in {file.name}], and the file has none for this purpose. "
                "Save one into it."
            )
        constraint = f"name one of {', '.join(available)} [in {file.name}]"
        if wanted is None:
            candidates = [name for name in available if name.lower() in USUAL_NAMES[role]]
            if role == "features" and len(available) == 1:
                candidates = list(available)
            if len(candidates) != 1:
                raise ConfigError.broken(_key_of(role), constraint, None, f"Set {_key_of(role)}=NAME.")
            return candidates[0]
        if wanted not in available:
            raise ConfigError.broken(_key_of(role), constraint, wanted, did_you_mean(wanted, available))
        return str(wanted)

    def _encode_groups(self, parts: Mapping[Split, _Part]) -> dict[Split, Tensor]:
        """The group of each row of each split, shape (N,), int64; empty without groups."""
        if self.group is None:
            return {}
        key = f"{_key_of('group')}={self.group}"
        groups, _ = _encode_together(key, {split: part.groups for split, part in parts.items()})
        for split, codes in groups.items():
            if len(missing := (codes == MISSING).nonzero()):
                raise DataError(
                    f"`{key}` must have a value in every row, got none in row {int(missing[0])} "
                    f"[in {parts[split].source}]. Give a row without a group its own group."
                )
        return groups


@dataclass
class _Part:
    """The arrays of one split, with N rows."""

    features: Tensor
    """Shape (N, D)."""
    labels_name: str
    labels: Any
    """Arrow array of shape (N,)."""
    source: str
    """Name of the file."""
    weight: Tensor | None = None
    """Shape (N,), float64."""
    groups: Any = None
    """Arrow array of shape (N,)."""
    first_index: int | None = None
    """Number of the first feature in a svmlight file: 0 or 1; ``None`` for other files."""


def _unused_note(train: _Part) -> list[str]:
    """A sentence on the features that no row of a sparse matrix has, numbered as in its file; none without them."""
    is_used = torch.zeros(train.features.shape[1], dtype=torch.bool)
    is_used[train.features.col_indices().long()] = True
    unused = ((~is_used).nonzero()[:, 0] + (train.first_index or 0)).tolist()
    if not unused:
        return []
    count, names = counted(len(unused), "feature"), name_list(unused)
    return [f"nothing is learned of {count} that no row of {train.source} has: {names}"]


def _listed(given: str | Sequence[str]) -> list[str]:
    """The file or files of a setting."""
    return [given] if isinstance(given, str) else list(given)


def _is_folder(given: str | Sequence[str]) -> bool:
    return Path(_listed(given)[0]).is_dir()


def _state(file: Path) -> list[int]:
    """Size and time of change of a file."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _files_of(key: str, given: str | Sequence[str]) -> list[list[Path]]:
    """Each file, or pair of files, that a setting names; of a folder all files in the order of their names.

    Raises:
        DatasetNotFoundError: A file is missing.
        DataError: A folder has no files, or two folders have different numbers of them.
    """
    places = [Path(one) for one in _listed(given)]
    if not _is_folder(given):
        for file in places:
            _check_exists(key, file)
        return [places]
    suffix = ".safetensors" if len(places) == 1 else ".npy"
    found = [[place / name for name in files_with(suffix, place)] if place.is_dir() else [] for place in places]
    for place, files in zip(places, found, strict=True):
        if not files:
            raise DataError(
                f"`{key}` must hold files that end in {suffix}, and the folder {place} has none. "
                "Name another folder, or a file."
            )
    if len(found[0]) != len(found[-1]):
        raise DataError(
            f"`{key}` must have a file of labels for each of features, got "
            f"{counted(len(found[0]), 'file')} in {places[0]} and {len(found[-1]):,} in {places[-1]}."
        )
    return [list(files) for files in zip(*found, strict=True)]


def _joined(key: str, parts: Sequence[_Part], allocate: Allocate) -> _Part:
    """The rows of several files, one after the other.

    Args:
        key: The setting that names them.
        parts: The rows of each file.
        allocate: Makes the array of the features.

    Raises:
        DataError: The files have different numbers of features or types.
    """
    import pyarrow as pa

    first, dtype = parts[0], parts[0].features.dtype
    for part in parts:
        for what, one, other in (
            ("number of features", first.features.shape[1], part.features.shape[1]),
            ("type of features", dtype, part.features.dtype),
            ("type of labels", first.labels.type, part.labels.type),
        ):
            if one != other:
                raise DataError(
                    f"`{key}` must have one {what} in all files, and {part.source} has {other}, {first.source} {one}. "
                    "Write the files alike."
                )
    rows, width = sum(len(part.features) for part in parts), first.features.shape[1]
    # Bytes, since NumPy has no bfloat16.
    features = torch.from_numpy(allocate((rows, width * dtype.itemsize), np.uint8)).view(dtype)
    torch.cat([part.features for part in parts], out=features)
    weights = [part.weight for part in parts if part.weight is not None]
    groups = [pa.table({"group": part.groups}) for part in parts if part.groups is not None]
    return _Part(
        features,
        first.labels_name,
        pa.chunked_array([part.labels for part in parts])
        if not isinstance(first.labels, pa.ChunkedArray)
        else pa.chunked_array([chunk for part in parts for chunk in part.labels.chunks], first.labels.type),
        first.source,
        torch.cat(weights) if weights else None,
        pa.concat_tables(groups, promote_options="permissive").column(0) if groups else None,
    )


def _key_of(role: str) -> str:
    """The key that a user types to name the array with this role."""
    return "dataset.split.group" if role == "group" else f"dataset.{role}"


def _is_files(given: object) -> bool:
    """Whether the value is ``None``, a file with several arrays, or a pair of files, the second with the labels."""
    if given is None:
        return True
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) for file in files):
        return False
    suffixes = [Path(file).suffix.lower() for file in files]
    if len(files) <= 2 and all(Path(file).is_dir() for file in files):
        return True
    if suffixes in ([".npy", ".npy"], [".npz", ".npy"]):
        return True
    known = suffixes[0] in ARRAY_FORMATS.keys() - {".npy"} or suffix_of(files[0]) in SVMLIGHT_SUFFIXES
    return isinstance(given, str) and known


_FILES = Constraint(
    "be a .npz, .safetensors, .parquet or .svm file, or two files: [FEATURES.npy,LABELS.npy] or "
    "[SPARSE.npz,LABELS.npy]; or a folder of .safetensors files, or two of .npy files",
    _is_files,
)

_ARRAY_NAME = Constraint("be the name of an array", lambda value: value is None or isinstance(value, str))


def _check_exists(key: str, file: Path) -> None:
    if file.is_file():
        return
    fault = f"and {file} is missing"
    if file.exists():
        fault = f"got the folder {file}" if file.is_dir() else f"got a pipe or a device: {file}"
    raise DatasetNotFoundError(f"`{key}` must be a file, {fault}. Relative paths start at the current folder.")


def _check_matrix(key: str, features: Tensor, file: Path) -> None:
    """Refuses a matrix that does not have two axes, or has no values."""
    got = f"shape {tuple(features.shape)} [in {file.name}]"
    if features.ndim != 2:
        advice = "Flatten the other axes, or average over them, before saving."
        if features.ndim < 2:
            advice = "A single feature is a matrix of one column: reshape(-1, 1)."
        raise DataError(f"`{key}` must have two axes, rows and features, got {got}. {advice}")
    if not features.numel():
        raise DataError(f"`{key}` must have rows and features, got {got}.")


def _check_weights(key: str, values: Any, file: Path) -> Tensor:
    """Sample weights from an Arrow array, shape (N,), float64.

    Raises:
        DataError: A weight is negative, not finite or not a number.
    """
    import pyarrow as pa
    import pyarrow.types as types

    if not (types.is_floating(values.type) or types.is_integer(values.type)):
        raise DataError(f"`{key}` must hold numbers >= 0, got {types_in_words(values.type)[0]} [in {file.name}].")
    weights = np.array(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    is_bad = ~(np.isfinite(weights) & (weights >= 0))
    if is_bad.any():
        row = int(is_bad.argmax())
        raise DataError(f"`{key}` must hold finite numbers >= 0, got {weights[row]:g} in row {row} [in {file.name}].")
    return torch.from_numpy(weights)


def _encode_together(key: str, columns: Mapping[Split, Any]) -> tuple[dict[Split, Tensor], tuple[str, ...]]:
    """Encodes the values of several files as integers, equal values by the same integer.

    Args:
        key: Key and value that the user typed to name the array.
        columns: Arrow array of each split, shape (N,).

    Returns:
        Codes of each split, shape (N,), int64, `MISSING` for a missing value; the name of each code.

    Raises:
        DataError: The arrays have types that do not fit each other, or values that cannot be encoded.
    """
    import pyarrow as pa

    tables = [pa.table({key: column}) for column in columns.values()]
    try:
        joined = pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowTypeError as error:
        kinds = types_in_words(*(column.type for column in columns.values()))
        found = ", ".join(f"{kind} in {split}" for split, kind in zip(columns, kinds, strict=True))
        raise DataError(f"`{key}` must have one type in all files, got {found}. Fix the files.") from error
    codes, names = encode_labels(joined, key)
    sizes = [len(column) for column in columns.values()]
    return dict(zip(columns, codes.split(sizes), strict=True)), names
