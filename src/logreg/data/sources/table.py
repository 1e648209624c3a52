"""A user's own table: CSV, TSV, Parquet, Arrow or Feather."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from logreg.constraints import character, check, listed, name, one_of, optional, text, whole
from logreg.data.base import RawData, Table
from logreg.data.encoding.columns import Columns, is_number, not_a_number, read_columns
from logreg.data.encoding.encode import encode
from logreg.data.encoding.labels import MISSING, class_kind, encode_labels, encode_values, near_twins
from logreg.data.formats.tables import BINARY, column_names, read_table, row_labels, suffix_of
from logreg.errors import ConfigError, DataError, as_typed, did_you_mean, name_list
from logreg.facts import SPLITS, DataFacts, Split

NAMED = {
    "target": "dataset.target",
    "weight": "dataset.weight",
    "split_column": "dataset.split.column",
    "group": "dataset.split.group",
}
"""Arguments that name a column with another part than a feature's, and what a user types for each."""


@dataclass(frozen=True)
class TableFile:
    """One file, or one for each split.

    Attributes:
        path: The file; or else ``train_path``, with ``val_path`` and ``test_path`` or without.
        target: The column with the classes.
        features: Columns to learn from; all others but those named below when ``None``.
        drop: Columns to leave out.
        categorical: Columns that are categories though they look like numbers.
        missing: "impute" fills gaps by the median or most frequent of train and marks them; "error" refuses them.
        missing_values: Words for a missing value in text files, besides nothing, NA, NaN and null.
        max_levels: More levels than that in a column of text are refused.
        weight: Column of sample weights, >= 0.
        split_column: Column that says train, val or test.
        group: Column whose equal values are never in two splits.
        separator: Between the values of a line; by the file's suffix when ``None``.
    """

    path: str | None = None
    train_path: str | None = None
    val_path: str | None = None
    test_path: str | None = None
    target: str | None = None
    features: Sequence[Any] | None = None
    drop: Sequence[Any] = ()
    categorical: Sequence[Any] = ()
    missing: Literal["impute", "error"] = "impute"
    missing_values: Sequence[Any] = ()
    max_levels: int = 100
    weight: str | None = None
    split_column: str | None = None
    group: str | None = None
    separator: str | None = None
    name: str = "table"

    def __post_init__(self) -> None:
        for key in ("path", "train_path", "val_path", "test_path"):
            check(f"dataset.{key}", getattr(self, key), optional(text()))
            if getattr(self, key) is not None:  # the shell leaves a ~ behind an = alone
                object.__setattr__(self, key, os.path.expanduser(getattr(self, key)))  # noqa: PTH111  # text stays text
        for key, typed in NAMED.items():
            check(typed, getattr(self, key), optional(name()))
            if getattr(self, key) is not None:  # a column may be called 4
                object.__setattr__(self, key, str(getattr(self, key)))
        for key in ("drop", "categorical", "missing_values"):
            check(f"dataset.{key}", getattr(self, key), listed())
        check("dataset.features", self.features, optional(listed()))
        check("dataset.separator", self.separator, optional(character()))
        check("dataset.missing", self.missing, one_of(("impute", "error")))
        check("dataset.max_levels", self.max_levels, whole(at_least=2))

    def read(self) -> RawData:
        """The columns of all files, not yet encoded: that is learned on train.

        Raises:
            ConfigError: A column or a file that the user named is not there.
            DataError: A file is broken, files do not fit each other, or a column does not hold what it must.
        """
        import pyarrow as pa

        files = self._files()
        headers = {split: column_names(path, key, self.separator) for split, (key, path) in files.items()}
        labels_of_rows = row_labels(files["train"][1], headers["train"])
        wanted = self._choose(headers["train"], files["train"][1], labels_of_rows)
        special = [name for name in (self.target, self.weight, self.split_column, self.group) if name is not None]
        for split, header in headers.items():
            known = {*headers["train"], *row_labels(files[split][1], header)}
            self._check_same(split, wanted, special, known, header)
        columns = [*dict.fromkeys([*wanted, *special])]
        as_text = {str(name) for name in self.categorical}
        codes = {name for name in (self.target, self.split_column, self.group) if name is not None}
        parts = [
            read_table(path, key, columns, as_text, [str(word) for word in self.missing_values], self.separator, codes)
            for key, path in files.values()
        ]
        as_text |= {field.name for part in parts for field in part.schema if _is_dictionary(field.type)}
        starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        policy = {
            "missing": self.missing,
            "max_levels": self.max_levels,
            "is_text": not any(suffix_of(path) in BINARY for _, path in files.values()),
            "settings": {
                f"dataset.{key}": [str(name) for name in getattr(self, key) or ()]
                for key in ("features", "drop", "categorical", "missing_values")
            },
        }
        self._check_types(parts, files, policy)
        whole_table = parts[0]
        if len(parts) > 1:
            whole_table = pa.concat_tables([_text_encoded(part) for part in parts], promote_options="permissive")
        names = [Path(path).name for _, path in files.values()]
        read = read_columns(
            whole_table.select(wanted),
            as_text,
            " + ".join(names),
            starts=tuple(zip(starts, names, strict=False)),
            **policy,
        )

        labels, class_names = encode_labels(whole_table.column(self.target), f"dataset.target={self.target}")
        notes = []
        if unused := sorted(labels_of_rows - {*wanted, *special, *map(str, self.drop)}):
            notes.append(
                f"left out, as an index of pandas or without a name: {name_list(map(repr, unused))}; "
                "dataset.features=[...] takes what it names"
            )
        notes += [
            f"classes {one!r} and {other!r} differ only by blanks, case or a dot; if they are one, mend {read.source}"
            for one, other in near_twins(class_names)
        ]
        if unlabelled := int((labels == MISSING).sum()):
            notes.append(f"left out {unlabelled:,} rows, since {self.target} is missing there")
        if not class_names:  # one alone may be scored by a model, though none can be learned
            raise DataError(
                f"`dataset.target={self.target}` must hold at least 2 classes, got none [in {read.source}]."
            )
        weights = self._weights(whole_table, read) if self.weight else None
        groups = self._groups(whole_table, read) if self.group else None
        if self.split_column:
            rows = self._stated_splits(whole_table, read)
        else:
            rows = {
                split: torch.arange(start, end)
                for split, start, end in zip(files, starts[:-1], starts[1:], strict=True)
            }
        every = len(rows) == 1 and not unlabelled
        return RawData(
            {
                split: Table(read, labels, None if every else mine[labels[mine] != MISSING], weights, groups)
                for split, mine in rows.items()
            },
            class_names=class_names,
            class_kind=class_kind(whole_table.column(self.target)),
            source=read.source,
            target_setting=f"dataset.target={self.target}",
            notes=tuple(notes),
            splits_are_stated=self.split_column is not None,
            missing_values=tuple(str(word) for word in self.missing_values),
        )

    def _files(self) -> dict[Split, tuple[str, str]]:
        """Key and path of the file of each split; one file alone is train's."""
        paths: dict[Split, str | None] = {"train": self.train_path, "val": self.val_path, "test": self.test_path}
        if self.path is not None:
            if any(paths.values()):
                raise ConfigError("`dataset.path` must not go with `dataset.train_path` and its like: set one of them.")
            return {"train": ("dataset.path", self.path)}
        if self.train_path is None:
            raise ConfigError.broken(
                "dataset.path", "name a file", None, "Set dataset.path=FILE dataset.target=COLUMN."
            )
        if self.split_column:
            raise ConfigError("`dataset.split.column` must go with one file, `dataset.path`.")
        return {split: (f"dataset.{split}_path", path) for split in SPLITS if (path := paths[split]) is not None}

    def _choose(self, header: Sequence[str], path: str, row_labels: Collection[str]) -> list[str]:
        """The columns to learn from: without ``row_labels`` unless they are named."""
        if self.target is None:
            raise ConfigError.broken("dataset.target", "name the column with the classes", None, _has(header, path))
        named: dict[str, Sequence[Any]] = {typed: [getattr(self, key)] for key, typed in NAMED.items()}
        for key in ("features", "drop", "categorical"):
            named[f"dataset.{key}"] = getattr(self, key) or ()
        if self.weight is not None and self.weight in map(str, self.categorical):
            raise ConfigError.broken("dataset.categorical", "not name a column that has another part", self.weight)
        there = set(header)
        for key, columns in named.items():
            for column in columns:
                if column is not None and str(column) not in there:
                    near = did_you_mean(column, header) or _has(header, path)
                    raise ConfigError.broken(key, f"name a column of {path}", column, near)
        no_features = {getattr(self, key) for key in NAMED} | {str(column) for column in self.drop} | {""}
        if self.features is None:
            return [column for column in header if column not in no_features and column not in row_labels]
        for column in self.features:
            if str(column) in no_features:
                raise ConfigError.broken("dataset.features", "not name a column that has another part", column)
        chosen = Counter(str(column) for column in self.features)
        for column, count in chosen.items():
            if count > 1:
                raise ConfigError.broken("dataset.features", f"name each column once, {column!r} too", list(chosen))
        return list(chosen)

    def _check_same(
        self, split: Split, wanted: Sequence[str], special: Sequence[str], known: set[str], header: Sequence[str]
    ) -> None:
        there, known = set(header), {*known, *(str(drop) for drop in self.drop)}
        lacking = [column for column in (*wanted, *special) if column not in there]
        extra = [column for column in header if column not in known] if self.features is None else []
        if lacking or extra:
            does, column = ("lacks", lacking[0]) if lacking else ("also has", extra[0])
            raise DataError(
                f"`dataset.{split}_path` must have the columns of `dataset.train_path`, and {does} {column!r}. "
                "Mend the file, or say which columns to learn from with dataset.features=[...]."
            )

    def _check_types(
        self, parts: Sequence[Any], files: Mapping[Split, tuple[str, str]], policy: Mapping[str, Any]
    ) -> None:
        """A column must be numbers in every file or in none; ``policy`` are the further fields of `Columns`."""
        for column in parts[0].column_names if len(parts) > 1 else ():
            families = [_family(part.schema.field(column).type) for part in parts]
            first = next((family for family in families if family != "any"), "any")
            for (key, path), part, family in zip(files.values(), parts, families, strict=True):
                if family in ("any", first):
                    continue
                if family == "text" and first == "number":
                    read = read_columns(part.select([column]), [column], **policy)
                    series = read.series[0]
                    for row, code in enumerate(series.values.tolist()):
                        if code >= 0 and not is_number(series.levels[code]):
                            place = f"row {row + 1} [in {Path(path).name}]"
                            raise DataError(not_a_number(column, series.levels[code], place, read)[0])
                advice = as_typed("dataset.categorical", [*self.categorical, column])
                raise DataError(
                    f"`{key}` must have the kinds of columns of `dataset.train_path`, and {column!r} is {family} "
                    f"[in {path}], not {first}. Mend the file, or set {advice}."
                )

    def _weights(self, table: Any, read: Columns) -> Tensor:
        column = read_columns(table.select([self.weight]), (), read.source, starts=read.starts).series[0]
        key = f"`dataset.weight={self.weight}` must hold finite numbers >= 0"
        if column.kind != "number":
            for row, code in enumerate(column.values.tolist()):
                if code >= 0 and not is_number(column.levels[code]):
                    raise DataError(f"{key}, got {column.levels[code]!r} in {read.place(row)}. Mend the row.")
            raise DataError(f"{key}, got {column.file_type} [in {read.source}]. Name another column.")
        weights = column.values.astype(np.float64)
        bad = ~(np.isfinite(weights) & (weights >= 0))
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"{key}, got {weights[row]:g} in {read.place(row)}. Mend the row, or leave it out.")
        return torch.from_numpy(weights)

    def _groups(self, table: Any, read: Columns) -> Tensor:
        codes, _ = encode_values(table.column(self.group), f"dataset.split.group={self.group}")
        self._check_whole("group", codes, read)
        return codes

    def _stated_splits(self, table: Any, read: Columns) -> dict[Split, Tensor]:
        codes, found = encode_values(table.column(self.split_column), f"dataset.split.column={self.split_column}")
        self._check_whole("column", codes, read)
        for code, found_name in enumerate(found):
            if found_name not in SPLITS:
                place = read.place(int((codes == code).nonzero()[0]))
                key = f"`dataset.split.column={self.split_column}`"
                raise DataError(f"{key} must hold train, val or test, got {found_name!r} in {place}. Mend the column.")
        if "train" not in found:
            raise DataError(f"`dataset.split.column={self.split_column}` must leave rows to train on, got none.")
        return {split: (codes == found.index(split)).nonzero()[:, 0] for split in SPLITS if split in found}

    def _check_whole(self, key: str, codes: Tensor, read: Columns) -> None:
        if bool((codes == MISSING).any()):
            row = int((codes == MISSING).nonzero()[0])
            raise DataError(f"`dataset.split.{key}` must name a column without gaps, got one in {read.place(row)}.")


def read_features(
    path: str, facts: DataFacts, dtype: torch.dtype = torch.float32, separator: str | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of a new file, by what was learned on train: a checkpoint's facts are all that it takes.

    Args:
        path: A table with the columns that the model learned from; others are passed over.
        facts: Of the model.
        dtype: Of the features.
        separator: Between the values of a line; by the file's suffix when ``None``.

    Returns:
        Features, shape (N, D), in source units; and by name of a column, the rows whose level train did not have.

    Raises:
        LogregError: The file is missing or broken, or lacks a column.
    """
    there = set(column_names(path, "path", separator))
    for column in facts.columns:
        if column.name not in there:
            raise DataError(f"`path` must have the column {column.name!r} that the model learned from [in {path}].")
    categories = [column.name for column in facts.columns if column.kind == "category"]
    words = () if suffix_of(path) in BINARY else facts.missing_values
    table = read_table(path, "path", [column.name for column in facts.columns], categories, words, separator)
    as_category = [column.name for column in facts.columns if column.kind != "number"]
    return encode(read_columns(table, as_category, Path(path).name), facts.columns, dtype)


def _has(header: Sequence[str], path: str) -> str:
    return f"{path} has {name_list(header)}."


def _family(kind: Any) -> str:
    """What values of a type of Arrow can stand in one column with."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
        return "number"
    return (
        "any" if kinds.is_null(kind) else "text" if kinds.is_string(kind) or kinds.is_large_string(kind) else str(kind)
    )


def _is_dictionary(kind: Any) -> bool:
    """Whether a type of Arrow is a dictionary of anything but text: categories that look like numbers."""
    import pyarrow.types as kinds

    return bool(kinds.is_dictionary(kind)) and _family(kind) != "text"


def _text_encoded(table: Any) -> Any:
    """The table with its text as positions in a dictionary, whatever its file had."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def encoded(column: Any) -> Any:
        if _family(column.type) == "text":
            return pc.cast(column, pa.string()).dictionary_encode()
        return pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column

    return pa.table([encoded(column) for column in table.columns], names=table.column_names)
