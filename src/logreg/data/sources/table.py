"""Tables of the user: CSV, TSV, Parquet, Arrow IPC or Feather files with a column of classes.

The formats are in `logreg.data.formats.tables`, the encoding of columns in `logreg.data.encoding.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg.constraints import whole_of
from logreg.data.arrow_numbers import is_number, types_in_words
from logreg.data.base import RawData, Table
from logreg.data.encoding.columns import Columns, finite_numbers, ngrams_of, not_a_number, read_columns
from logreg.data.encoding.labels import MISSING, class_kind, encode_labels, encode_values, near_twins
from logreg.data.formats.binary_tables import BINARY_SUFFIXES
from logreg.data.formats.shards import type_family
from logreg.data.sources.table_reading import TableReading
from logreg.errors import ConfigError, DataError, as_typed, did_you_mean, name_list
from logreg.facts import SPLITS, Split
from logreg.terminal import counted


@dataclass(frozen=True)
class TableFile(TableReading):
    """A table with a column of classes, from one file, or from one file for each split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ngrams_of(self.word_ngrams, self.char_ngrams)

    def read(self) -> RawData:
        """The columns of all files, as `Columns`: their encoding is learned from train later.

        Raises:
            DatasetNotFoundError: A file is missing.
            ConfigError: A file is not named, or a column that the user named is missing.
            DataError: A file is broken, the files do not fit each other, or a column breaks a constraint.
        """
        import pyarrow as pa

        found = self.wanted()
        files = found.files
        parts, in_parts = self._read_parts(files, found.columns)
        starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        places = [
            (start + first, name) for start, within in zip(starts, in_parts, strict=False) for first, name in within
        ]
        names = [*found.features, *([self.offset] if self.offset else ())]
        table, columns = self._join(parts, files, names, places)

        as_text = "make text of it"
        if columns.is_text:  # whose dates are text already
            as_text = f"add {columns.setting('dataset.categorical', [str(self.target)])}, which makes a class of each"
        labels, class_names = encode_labels(table.column(self.target), self._target_setting, as_text)
        unlabeled = int((labels == MISSING).sum())
        if not class_names:  # a single class is enough to score a model, though not to train one
            raise DataError(f"`{self._target_setting}` must hold at least 2 classes, got none [in {columns.source}].")
        weights = self._weights(table, columns) if self.weight else None
        groups = self._groups(table, columns) if self.group else None
        if self.split_column:
            rows = self._rows_of_stated_splits(table, columns)
        else:
            bounds = zip(files, starts[:-1], starts[1:], strict=True)
            rows = {split: torch.arange(start, end) for split, start, end in bounds}
        pa.default_memory_pool().release_unused()  # Arrow keeps the memory of the blocks that it has read
        takes_all_rows = len(rows) == 1 and not unlabeled
        notes = self._notes(files, found.unused_index, class_names, unlabeled, columns.source)
        self._headers.clear()  # the files may be other ones when they are read again
        return RawData(
            {
                split: Table(
                    columns, labels, None if takes_all_rows else mine[labels[mine] != MISSING], weights, groups
                )
                for split, mine in rows.items()
            },
            class_names=class_names,
            class_kind=class_kind(table.column(self.target)),
            source=columns.source,
            target_setting=self._target_setting,
            notes=notes,
            splits_are_stated=self.split_column is not None,
            missing_values=tuple(str(word) for word in self.missing_values),
        )

    @property
    def _target_setting(self) -> str:
        """The setting that names the classes, as the user typed it."""
        return f"dataset.target={self.target}"

    def codes(self, column: str, key: str) -> Tensor:
        """See `logreg.data.base.ColumnSource`."""
        import pyarrow as pa

        files = self._files()
        for typed, path in files.values():
            header = self._header(path, typed)
            if column not in header:
                advice = did_you_mean(column, header) or f"{path} has {name_list(header)}."
                raise ConfigError.broken(key, f"name a column of {path}", column, advice)
        parts = [self._read_part(path, typed, [column], (), {column})[0] for typed, path in files.values()]
        codes, _ = encode_values(pa.concat_tables(parts, promote_options="permissive").column(column), key)
        if bool((codes == MISSING).any()):
            row = int((codes == MISSING).nonzero()[0]) + 1
            raise DataError(
                f"`{key}` must name a column without missing values, and {column!r} lacks one in row {row:,}."
            )
        return codes

    def _join(
        self,
        parts: Sequence[Any],
        files: Mapping[Split, tuple[str, str]],
        features: Sequence[str],
        starts: Sequence[tuple[int, str]],
    ) -> tuple[Any, Columns]:
        """One Arrow table of all files, and its feature columns.

        Args:
            parts: Arrow table of each file.
            files: Key and path of each file.
            features: Names of the feature columns.
            starts: First row of each file in the joined table, and its name.
        """
        import pyarrow as pa

        options = {
            "missing": self.missing,
            "max_levels": self.max_levels,
            "text": {str(name) for name in self.text or ()},
            "ngrams": ngrams_of(self.word_ngrams, self.char_ngrams),
            "min_df": self.min_df,
            "min_level_rows": self.min_level_rows,
            "buckets": whole_of(self.hash),
            "offset": self.offset or "",
            "is_temporary": True,
            "decimal": self.decimal,
            "is_text": not any(self._suffix(path) in BINARY_SUFFIXES for _, path in files.values()),
            "allocate": self._allocate,
            "settings": {
                f"dataset.{key}": [str(name) for name in getattr(self, key) or ()]
                for key in ("features", "drop", "categorical", "text", "missing_values")
            },
        }
        self._check_types(parts, files, options)
        table = parts[0]
        if len(parts) > 1:
            table = pa.concat_tables([_encode_text(part) for part in parts], promote_options="permissive")
        categories = {str(name) for name in (*self.categorical, *(self.text or ()))}
        categories |= {field.name for part in parts for field in part.schema if _is_category(field.type)}
        names = [self._file_name(path) for _, path in files.values()]
        columns = read_columns(
            table.select(features),
            categories,
            " + ".join(names),
            starts=tuple(starts),
            **options,
        )
        return table, columns

    def _check_types(
        self, parts: Sequence[Any], files: Mapping[Split, tuple[str, str]], options: Mapping[str, Any]
    ) -> None:
        """Refuses a column that is numbers in one file and not in another.

        Args:
            parts: Arrow table of each file.
            files: Key and path of each file.
            options: The further fields of `Columns`, for the advice.
        """
        for column in parts[0].column_names if len(parts) > 1 else ():
            kinds = [part.schema.field(column).type for part in parts]
            families = [type_family(kind) for kind in kinds]
            first = next((family for family in families if family != "any"), "any")
            for (key, path), part, kind, family in zip(files.values(), parts, kinds, families, strict=True):
                if family in ("any", first):
                    continue
                if family == "text" and first == "number":
                    columns = read_columns(part.select([column]), [column], **options)
                    if (found_word := columns.series[0].first_word(columns.decimal)) is not None:
                        row, word = found_word
                        place = f"row {row + 1} [in {Path(path).name}]"
                        raise DataError(not_a_number(column, word, place, columns)[0])
                advice = as_typed("dataset.categorical", [*self.categorical, column])
                found, expected = types_in_words(kind, kinds[families.index(first)])
                raise DataError(
                    f"`{key}` must have the column types of `dataset.train_path`, and {column!r} holds {found} "
                    f"[in {path}], not {expected}. Fix the file, or set {advice}."
                )

    def _notes(
        self,
        files: Mapping[Split, tuple[str, str]],
        unused_index: set[str],
        class_names: Sequence[str],
        unlabeled: int,
        source: str,
    ) -> tuple[str, ...]:
        """Notes for the user.

        They are on separators that were found, on index columns that are left out, on classes with similar names and
        on rows without a label.
        """
        notes = []
        for _, path in files.values():
            if marks := self._headers[path].found_separators:
                line = "header" if self.header else "first line"
                where = f"the {line}" if len(marks) == 1 else f"the {line} of each file"
                shown = " or ".join(map(repr, marks))
                notes.append(f"read with {shown} between values, as in {where} of {self._file_name(path)}")
            header = self._headers[path].names
            numbers = [str(number) for number in range(len(header))]  # pandas gives such names to a matrix
            if all(map(is_number, header)) and header != numbers and self._suffix(path) not in BINARY_SUFFIXES:
                notes.append(
                    f"the first line of {self._file_name(path)} names the columns, and all its names are numbers; "
                    f"if it is a row, set dataset.header=false: its columns are then column_1 to column_{len(header)}"
                )
        if unused := sorted(unused_index - set(map(str, self.drop))):
            notes.append(
                f"left out, as an index of pandas or without a name: {name_list(map(repr, unused))}; "
                "to use one, name it in dataset.features=[...]"
            )
        notes += [
            f"classes {one!r} and {other!r} differ only by blanks, case or a dot; if they are one, fix {source}"
            for one, other in near_twins(class_names)
        ]
        if unlabeled:
            notes.append(f"left out {counted(unlabeled, 'row')}, since {self.target} is missing there")
        return tuple(notes)

    # Columns with a role

    def _weights(self, table: Any, columns: Columns) -> Tensor:
        """Sample weights, shape (N,), float64, of a table whose features are ``columns``."""
        series = read_columns(table.select([self.weight]), (), columns.source, starts=columns.starts).series[0]
        return torch.from_numpy(finite_numbers(series, f"`dataset.weight={self.weight}`", columns, at_least=0))

    def _groups(self, table: Any, columns: Columns) -> Tensor:
        """Group of each row, shape (N,), int64."""
        codes, _ = encode_values(table.column(self.group), f"dataset.split.group={self.group}")
        self._check_no_gaps("group", codes, columns)
        return codes

    def _rows_of_stated_splits(self, table: Any, columns: Columns) -> dict[Split, Tensor]:
        """Positions of the rows of each split that the split column states, shape (n,), int64."""
        codes, found = encode_values(table.column(self.split_column), f"dataset.split.column={self.split_column}")
        names = found.cast("string").to_pylist()
        self._check_no_gaps("column", codes, columns)
        for code, split_name in enumerate(names):
            if split_name not in SPLITS:
                place = columns.place(int((codes == code).nonzero()[0]))
                key = f"`dataset.split.column={self.split_column}`"
                raise DataError(f"{key} must hold train, val or test, got {split_name!r} in {place}. Fix the column.")
        if "train" not in names:
            raise DataError(f"`dataset.split.column={self.split_column}` must leave rows to train on, got none.")
        return {split: (codes == names.index(split)).nonzero()[:, 0] for split in SPLITS if split in names}

    def _check_no_gaps(self, key: str, codes: Tensor, columns: Columns) -> None:
        if bool((codes == MISSING).any()):
            row = int((codes == MISSING).nonzero()[0])
            raise DataError(
                f"`dataset.split.{key}` must name a column without missing values, got one in {columns.place(row)}."
            )


def _is_category(arrow_type: Any) -> bool:
    """Whether a type of Arrow is a dictionary of other values than text: categories that look like numbers."""
    import pyarrow.types as types

    return bool(types.is_dictionary(arrow_type)) and type_family(arrow_type) != "text"


def _encode_text(table: Any) -> Any:
    """The table with all text columns dictionary-encoded, and no other column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def encoded(column: Any) -> Any:
        if type_family(column.type) == "text":
            return pc.cast(column, pa.string()).dictionary_encode()
        return pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column

    return pa.table([encoded(column) for column in table.columns], names=table.column_names)
