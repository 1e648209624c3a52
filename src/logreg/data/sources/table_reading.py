"""Which columns of which files make a table, and their reading into Arrow tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from logreg.constraints import (
    character,
    check,
    decimal_mark,
    flag,
    lengths,
    listed,
    name,
    one_of,
    optional,
    power,
    text,
    whole,
)
from logreg.data.arrow_numbers import is_any_number, is_number
from logreg.data.formats.binary_tables import BINARY_SUFFIXES
from logreg.data.formats.compression import suffix_of
from logreg.data.formats.find_shards import find_shards, is_sharded
from logreg.data.formats.shards import SHARD_SUFFIXES, Shards, TableFiles
from logreg.data.formats.table_errors import lacking_column
from logreg.data.formats.tables import (
    check_text_options,
    index_columns,
    indexes_in,
    read_header,
    read_table,
)
from logreg.data.formats.text_layout import Header, TextOptions, if_no_header
from logreg.data.memory import Allocate, fits_into_memory, mapped_array, scratch_in
from logreg.errors import ConfigError, DataError, did_you_mean, name_list
from logreg.facts import Split
from logreg.files import place_name
from logreg.launchers import placement

ROLE_KEYS = {
    "target": "dataset.target",
    "weight": "dataset.weight",
    "offset": "dataset.offset",
    "split_column": "dataset.split.column",
    "group": "dataset.split.group",
}
"""Attributes that name a column with another role than a feature, and the key that a user types for each."""

SHARED_BYTES = 2**26
"""Size of columns and features, in bytes, from which on the processes of a machine share them: a smaller table is read
within about a second."""


class Wanted(NamedTuple):
    """What is read of a table."""

    files: dict[Split, tuple[str, str]]
    """Key and path of the file of each split; a single file is the one of train."""
    features: list[str]
    """Columns of the features."""
    with_role: list[str]
    """Columns with another role."""
    unused_index: set[str]
    """Columns of train that number or name its rows, and are none of these."""

    @property
    def columns(self) -> list[str]:
        """All columns to read."""
        return [*dict.fromkeys([*self.features, *self.with_role])]


@dataclass(frozen=True)
class TableReading:
    """The files and columns of a table, from one file, or from one file for each split.

    Attributes:
        path: The file, from whose rows val and test are held out.
        train_path: File of train, instead of ``path``.
        val_path: File of val, together with ``train_path``.
        test_path: File of test, together with ``train_path``.
        target: Column of the classes.
        features: Columns of the features; ``None`` takes all columns without another role.
        drop: Columns to leave out.
        categorical: Columns that are categories although their values look like numbers.
        text: Columns of text, which are learned by their n-grams.
        word_ngrams: Smallest and largest number of words of an n-gram; ``None`` for none.
        char_ngrams: Smallest and largest number of characters of an n-gram within a word; ``None`` for none.
        min_df: Smallest number of train rows with an n-gram that is learned.
        missing: "impute" replaces missing values by the median or the most frequent level of train, and adds a feature
            that marks them; "error" refuses them.
        missing_values: Words for a missing value in text files, besides the empty word, NA, NaN and null.
        max_levels: Number of levels, >= 2, above which a column of text must not look like an id, and may be hashed.
        min_level_rows: Number of train rows, >= 1, below which a level joins the rare levels of its column.
        hash: Number of buckets that the levels of a column with more than ``max_levels`` are hashed into, also as text
            such as "2**18"; ``None`` for one feature a level.
        weight: Column of the sample weights, >= 0.
        offset: Column of the known term of the logits, whose coefficient is 1; for two classes.
        split_column: Column that states train, val or test for each row.
        group: Column of the groups; rows with equal values stay in one split.
        separator: Character between the values of a line; ``None`` for the one that the file shows, or its suffix.
        decimal: Character before the decimals of a number in text files, "." or ",".
        header: Whether text files begin with a line of names; else the columns are column_1, column_2 and so on.
        storage: "memory" holds columns and features in memory; "mapped" keeps them in files of ``cache``, of which the
            system holds as much in memory as it has room for; "auto" maps what does not fit into memory.
        cache: Folder of these files.
        model: Columns that a trained model learned from, for which the rows are read; empty for none.
    """

    path: str | None = None
    train_path: str | None = None
    val_path: str | None = None
    test_path: str | None = None
    target: str | None = None
    features: Sequence[Any] | None = None
    drop: Sequence[Any] = ()
    categorical: Sequence[Any] = ()
    text: Sequence[Any] | None = ()
    word_ngrams: Sequence[int] | None = (1, 1)
    char_ngrams: Sequence[int] | None = None
    min_df: int = 1
    missing: Literal["impute", "error"] = "impute"
    missing_values: Sequence[Any] = ()
    max_levels: int = 100
    min_level_rows: int = 1
    hash: int | str | None = None
    weight: str | None = None
    offset: str | None = None
    split_column: str | None = None
    group: str | None = None
    separator: str | None = None
    decimal: str = "."
    header: bool = True
    storage: Literal["auto", "memory", "mapped"] = "auto"
    cache: str = "data/cache"
    model: Collection[str] = ()
    name: str = "table"

    def __post_init__(self) -> None:
        for key in ("path", "train_path", "val_path", "test_path"):
            check(f"dataset.{key}", getattr(self, key), optional(text()))
            if getattr(self, key) is not None:  # the shell does not expand a ~ after =
                object.__setattr__(self, key, os.path.expanduser(getattr(self, key)))  # noqa: PTH111  # text stays text
        for key, typed in ROLE_KEYS.items():
            check(typed, getattr(self, key), optional(name()))
            if getattr(self, key) is not None:  # the name of a column may be typed as a number
                object.__setattr__(self, key, str(getattr(self, key)))
        for key in ("drop", "categorical", "missing_values"):
            check(f"dataset.{key}", getattr(self, key), listed())
        for key in ("features", "text"):
            check(f"dataset.{key}", getattr(self, key), optional(listed()))
        for key in ("word_ngrams", "char_ngrams"):
            check(f"dataset.{key}", getattr(self, key), optional(lengths()))
        check("dataset.min_df", self.min_df, whole(at_least=1))
        check("dataset.separator", self.separator, optional(character()))
        check("dataset.decimal", self.decimal, decimal_mark())
        check("dataset.header", self.header, flag())
        check("dataset.missing", self.missing, one_of(("impute", "error")))
        check("dataset.max_levels", self.max_levels, whole(at_least=2))
        check("dataset.min_level_rows", self.min_level_rows, whole(at_least=1))
        check("dataset.hash", self.hash, optional(power()))
        check("dataset.storage", self.storage, one_of(("auto", "memory", "mapped")))
        check("dataset.cache", self.cache, text())

    def wanted(self) -> Wanted:
        """The files and columns to read.

        Raises:
            DatasetNotFoundError: A file is missing.
            ConfigError: A file is not named, or a column that the user named is missing.
            DataError: A file is broken, or the files have different columns.
        """
        files = self._files()
        headers = {split: self._header(path, key) for split, (key, path) in files.items()}
        index = self._index_columns(files["train"][1], headers["train"])
        features = self._feature_columns(headers["train"], *files["train"], index)
        roles = (self.target, self.weight, self.offset, self.split_column, self.group)
        with_role = [name for name in roles if name is not None]
        for split, header in headers.items():
            known = {*headers["train"], *self._index_columns(files[split][1], header)}
            self._check_header(split, features, with_role, known, header)
        return Wanted(files, features, with_role, index - {*features, *with_role})

    @cached_property
    def cache_key(self) -> list[Any] | None:
        """Plain values on which the rows in the cache depend; ``None`` where they are not kept there."""
        if not (self.is_mapped or self._is_shared):
            return None
        not_of_rows = ("storage", "cache", "model")
        settings = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in not_of_rows}
        return [settings, [self._shards(path, key).identity for key, path in self._files().values()]]

    @cached_property
    def is_mapped(self) -> bool:
        """Whether columns and features are kept in files.

        Raises:
            ConfigError: They must be, by the user's wish, and have a format that is read as a whole.
        """
        if self.storage == "memory":
            return False
        files = self._files().values()
        for key, path in files:
            if not self._may_be_mapped(path, key):
                if self.storage == "auto":
                    return False
                raise ConfigError.broken(
                    key, f"end in one of {', '.join(SHARD_SUFFIXES)} with dataset.storage=mapped", path
                )
        return self.storage == "mapped" or not fits_into_memory(self._num_bytes)

    @cached_property
    def _is_shared(self) -> bool:
        """Whether processes of a machine share features that fit into memory: one makes them, and all map its files.

        Else each of them would read the whole table and hold it.
        """
        placed = placement()
        if placed is None or placed.local_size == 1 or self.storage != "auto":
            return False
        may_be = all(self._may_be_mapped(path, key) for key, path in self._files().values())
        return may_be and self._num_bytes >= SHARED_BYTES

    def _may_be_mapped(self, path: str, key: str) -> bool:
        """Whether a file or folder can be read in parts."""
        return isinstance(self._listed(path, key), Shards) if is_sharded(path) else suffix_of(path) in SHARD_SUFFIXES

    @cached_property
    def _num_bytes(self) -> int:
        """Bytes of columns and features in memory, about."""
        needed = 0
        for key, path in self._files().values():
            header = self._header(path, key)
            wanted = {*map(str, self.features or header)} - {*map(str, self.drop)}
            needed += self._shards(path, key).memory_bytes(wanted, header)
        return needed

    @cached_property
    def _allocate(self) -> Allocate:
        """Makes the arrays of columns."""
        return scratch_in(Path(self.cache)) if self.is_mapped else mapped_array

    @cached_property
    def _found(self) -> dict[str, TableFiles]:
        """Listings of folders, by their paths."""
        return {}

    @cached_property
    def _headers(self) -> dict[str, Header]:
        """The columns of files and folders, by their paths, as far as they were read."""
        return {}

    def _listed(self, path: str, key: str) -> TableFiles:
        """The files that a path names; they are listed once, so that a change since then is noticed."""
        if path not in self._found:
            self._found[path] = self._find(path, key)
        return self._found[path]

    def _find(self, path: str, key: str) -> TableFiles:
        """The files that a folder, a pattern or an address names."""
        return find_shards(path, key)

    def _shards(self, path: str, key: str) -> Shards:
        """The files of a path that may be mapped."""
        found = self._listed(path, key)
        assert isinstance(found, Shards)
        return found

    def _header(self, path: str, key: str) -> list[str]:
        """The columns of a file or folder, which is read once."""
        if path not in self._headers:
            is_one = not is_sharded(path)
            header = (
                read_header(path, key, self.separator, self.header)
                if is_one
                else self._listed(path, key).header(self.separator, self.header)
            )
            self._headers[path] = header
        return self._headers[path].names

    def _index_columns(self, path: str, header: Sequence[str]) -> set[str]:
        """The columns that number or name the rows."""
        if path not in self._found:
            return index_columns(path, header)
        files = self._found[path]
        return indexes_in(header, files.schema() if isinstance(files, Shards) and files.is_parquet else None)

    def _suffix(self, path: str) -> str:
        """The suffix of a file, or of the files of a folder."""
        return self._found[path].suffix if path in self._found else suffix_of(path)

    def _read_part(
        self, path: str, key: str, columns: Sequence[str], as_text: Collection[str], codes: Collection[str]
    ) -> tuple[Any, tuple[tuple[int, str], ...]]:
        """These columns of a file or folder, as an Arrow table; and the first row and the name of each file.

        ``as_text`` and ``codes`` are as of `read_table`.
        """
        options = self._text_options
        if not is_sharded(path) and self.cache_key is None:
            table = read_table(path, key, columns, as_text, options, codes)
            return table, ((0, self._file_name(path)),)
        files = self._listed(path, key)
        check_text_options(path, files.suffix in BINARY_SUFFIXES, options)
        scratch = self.cache if self.is_mapped else None
        return files.read(columns, as_text, options, codes, self._allocate, scratch)

    @property
    def _text_options(self) -> TextOptions:
        """What the user says of the values of text files."""
        return TextOptions(tuple(map(str, self.missing_values)), self.separator, self.decimal, self.header)

    def _file_name(self, path: str) -> str:
        """Name of a file or folder, for messages."""
        return self._found[path].name if path in self._found else place_name(path)

    def _files(self) -> dict[Split, tuple[str, str]]:
        """Key and path of the file of each split; a single file is the one of train."""
        paths: dict[Split, str | None] = {"train": self.train_path, "val": self.val_path, "test": self.test_path}
        if self.path is not None:
            if any(paths.values()):
                raise ConfigError(
                    "`dataset.path` must not go with `dataset.train_path`, `dataset.val_path` or `dataset.test_path`. "
                    "Set either the one file, or the files of the splits."
                )
            return {"train": ("dataset.path", self.path)}
        if self.train_path is None:
            raise ConfigError.broken(
                "dataset.path", "name a file", None, "Set dataset.path=FILE dataset.target=COLUMN."
            )
        if self.split_column:
            raise ConfigError("`dataset.split.column` must go with one file, `dataset.path`.")
        return {split: (f"dataset.{split}_path", path) for split, path in paths.items() if path is not None}

    def _feature_columns(self, header: Sequence[str], path_key: str, path: str, index: Collection[str]) -> list[str]:
        """The columns of the features, without the columns ``index`` unless the user names them.

        Raises:
            ConfigError: A column that the user named is missing, is named twice or has two roles.
            DataError: A column that a model learned from is missing.
        """
        available = f"{path} has {name_list(header)}. {self._if_no_header(path, header)}".rstrip()
        if self.target is None:
            raise ConfigError.broken("dataset.target", "name the column with the classes", None, available)
        named: dict[str, Sequence[Any]] = {typed: [getattr(self, key)] for key, typed in ROLE_KEYS.items()}
        for key in ("text", "features", "drop", "categorical"):
            named[f"dataset.{key}"] = getattr(self, key) or ()
        for column in (self.weight, self.offset):
            if column is not None and column in map(str, self.categorical):
                raise ConfigError.broken("dataset.categorical", "not name a column that has another role", column)
        if self.offset in [getattr(self, key) for key in ROLE_KEYS if key != "offset"] and self.offset is not None:
            raise ConfigError.broken("dataset.offset", "not name a column that has another role", self.offset)
        texts = [str(column) for column in self.text or ()]
        in_file = set(header)
        for key, columns in named.items():
            for column in columns:
                if column is not None and str(column) not in in_file:
                    if str(column) in self.model:  # the user may not have typed its name
                        others = [name for name in header if name not in (*self.model, self.target)]
                        raise lacking_column(path_key, str(column), path, others)
                    raise ConfigError.broken(
                        key, f"name a column of {path}", column, did_you_mean(column, header) or available
                    )
        taken = {getattr(self, key) for key in ROLE_KEYS} | {str(column) for column in (*self.drop, *self.categorical)}
        for column in texts:
            if column in taken:
                raise ConfigError.broken("dataset.text", "not name a column that has another role", column)
        no_features = {getattr(self, key) for key in ROLE_KEYS} | {str(column) for column in self.drop} | {""}
        if self.features is None:
            return [column for column in header if column not in no_features and column not in index]
        for column in self.features:
            if str(column) in no_features:
                raise ConfigError.broken("dataset.features", "not name a column that has another role", column)
        counts = Counter(str(column) for column in self.features)
        for column, count in counts.items():
            if count > 1:
                raise ConfigError.broken("dataset.features", f"name each column once, {column!r} too", list(counts))
        return list(dict.fromkeys([*counts, *texts]))

    def _if_no_header(self, path: str, header: Sequence[str]) -> str:
        """Advice where the first line of a text file may be a row."""
        return "" if self._suffix(path) in BINARY_SUFFIXES else if_no_header(header, "dataset.header")

    def _check_header(
        self, split: Split, wanted: Sequence[str], with_role: Sequence[str], known: set[str], header: Sequence[str]
    ) -> None:
        """Refuses a file that lacks a column of train, or has one that is not ``known`` where all columns are read."""
        in_file, known = set(header), {*known, *(str(drop) for drop in self.drop)}
        lacking = [column for column in (*wanted, *with_role) if column not in in_file]
        extra = [column for column in header if column not in known] if self.features is None else []
        if lacking or extra:
            fault = f"lacks {lacking[0]!r}" if lacking else f"also has {extra[0]!r}"
            raise DataError(
                f"`dataset.{split}_path` must have the columns of `dataset.train_path`, and {fault}. "
                "Fix the file, or name the columns to learn from with dataset.features=[...]."
            )

    def _read_parts(
        self, files: Mapping[Split, tuple[str, str]], columns: Sequence[str]
    ) -> tuple[list[Any], list[tuple[tuple[int, str], ...]]]:
        """These columns of each file, as Arrow tables; and the first row and the name of each of its files."""
        as_text, codes = self._kinds
        parts = [self._read_part(path, key, columns, as_text, codes) for key, path in files.values()]
        for (table, _), (_, path) in zip(parts, files.values(), strict=True):
            self._refuse_header(table, path)
        return [table for table, _ in parts], [starts for _, starts in parts]

    def _refuse_header(self, table: Any, path: str) -> None:
        """Refuses a file with a header where the user says that there is none.

        Its first row has a word in each column that no other row has, and one of a column whose other values are
        numbers.
        """
        import pyarrow.compute as pc

        if self.header:
            return
        first = [column[0].as_py() for column in table.columns]
        if not all(isinstance(word, str) and not is_any_number(word) for word in first):
            return
        others = [pc.unique(column.slice(1)).drop_null() for column in table.columns]
        # First the check that ends at the first word of a column; a list of all texts would take much memory.
        has_numbers = any(own and all(is_number(value.as_py(), self.decimal) for value in own) for own in others)
        if has_numbers and all(word not in own.to_pylist() for word, own in zip(first, others, strict=True)):
            raise ConfigError(
                f"`dataset.header=false` must go with files without a header, and the first line of {path} is one: "
                f"{name_list(first)}. Leave the setting out, and use these names of the columns."
            )

    @property
    def _kinds(self) -> tuple[set[str], set[str]]:
        """The columns that are text, and those that are codes, as of `read_table`."""
        as_text = {str(name) for name in (*self.categorical, *(self.text or ()))}
        return as_text, {name for name in (self.target, self.split_column, self.group) if name is not None}
