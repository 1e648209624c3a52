"""Reads new rows for a trained model, block by block, so that memory is bounded whatever the length of a file.

The input is of the kind that the model was trained on: a table with columns by name, a matrix, or images.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg.csr import is_sparse, place_not_finite
from logreg.data.arrow_numbers import is_any_number, is_number
from logreg.data.blocks import CACHED_BLOCK_BYTES
from logreg.data.encoding.columns import read_columns
from logreg.data.encoding.encode import encode
from logreg.data.formats.arrays import MATRIX_SUFFIXES, explaining_errors, open_arrays
from logreg.data.formats.binary_tables import BINARY_SUFFIXES, PARQUET_SUFFIXES, row_groups
from logreg.data.formats.compression import suffix_of
from logreg.data.formats.folders import files_with, walk_files
from logreg.data.formats.images import (
    IMAGE_SUFFIXES,
    DecodingOptions,
    decode_rows,
    image_to_tensor,
    open_image,
    to_8_bits,
)
from logreg.data.formats.table_errors import WITHOUT_HEADER, lacking_column, number_error
from logreg.data.formats.tables import index_columns, open_blocks
from logreg.data.formats.text_files import TEXT_SUFFIX, read_text_file, text_files
from logreg.data.formats.text_layout import LIKELY_SEPARATORS, SEPARATORS, TextOptions, if_no_header
from logreg.data.formats.text_tables import mark_missing, numbers_of, word_among_numbers
from logreg.data.sources.features import USUAL_NAMES
from logreg.errors import ConfigError, DataError, as_typed, did_you_mean, name_list
from logreg.facts import Column, DataFacts
from logreg.rows import BLOCK_ROWS
from logreg.terminal import counted

STANDARD_INPUT = "-"
"""Path that means standard input."""

TABLE_SUFFIXES = (*SEPARATORS, *BINARY_SUFFIXES)
"""Suffixes of tables."""

FILES_AT_ONCE = 1_000
"""Text files of a folder that are read at once."""

MAX_HEADER_BYTES = 2**16
"""Bytes of the first line of a .txt file in which a header is looked for."""

MOST_NAMES = 20
"""Number of columns that one message lists."""


NO_NAMES = (
    "Without a header columns are known by their places, which must be those of training: leave the column of the "
    "classes empty, or out if it is the last."
)
"""Advice for a file without a header that lacks a column."""


@dataclass(frozen=True)
class NewRows:
    """A block of n new rows.

    Attributes:
        features: Stored features, shape (n, D), dense or sparse.
        kept: Columns to write beside the predictions, by name: Arrow arrays of n values.
        unseen: Number of rows with a level that the model does not know, by column.
        filled: Number of rows without a value, by column of which each train row has one.
    """

    features: Tensor
    kept: Mapping[str, Any] = field(default_factory=dict)
    unseen: Mapping[str, int] = field(default_factory=dict)
    filled: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NewRowsReader:
    """Reads rows that a trained model is to classify.

    Attributes:
        facts: Facts of the model.
        dataset: Section ``dataset`` of the config of its run: which columns were no features, the size of images.
        dtype: Floating type of the features.
        keep: Columns to write beside the predictions.
        drop: Further columns of the input that are ignored.
        separator: Character between the values of a line; ``None`` for the one that the file shows, or its suffix.
        decimal: Character before the decimals of a number in a text file.
        header: Whether text files begin with a line of names; else the columns are column_1, column_2 and so on.
        device: Device of a backbone.
        batch_size: Number of images in a batch of the backbone.
    """

    facts: DataFacts
    dataset: Mapping[str, Any]
    dtype: torch.dtype = torch.float32
    keep: Sequence[str] = ()
    drop: Sequence[str] = ()
    separator: str | None = None
    decimal: str = "."
    header: bool = True
    device: str | torch.device = "cpu"
    batch_size: int = 64

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the model needs; empty where its features have no names."""
        if self.facts.columns or not self.facts.feature_names or self.facts.image_shape:
            return self.facts.columns
        # Named features that were never columns have no value that fills a missing one.
        return tuple(Column(name, "number", fill=float("nan")) for name in self.facts.feature_names)

    def read(
        self, path: str, constants: Mapping[str, Any] | None = None, groups: range | None = None
    ) -> tuple[int | None, Iterator[NewRows]]:
        """Reads a file, a folder of images, or a CSV on standard input.

        Args:
            path: Path of the input; "-" for standard input.
            constants: Values of further columns of a table, such as those in the names of its folders; ``None`` for
                none.
            groups: Row groups of a table in a Parquet file; ``None`` for all rows.

        Returns:
            The number of rows, or ``None`` where it is not known beforehand; and the blocks.

        Raises:
            LogregError: The input is broken, or is not of the kind that the model was trained on.
        """
        file = Path(path)
        is_image_file = file.suffix.lower() in IMAGE_SUFFIXES
        if self.facts.image_shape or self.facts.backbone:
            if file.is_dir() or is_image_file:
                return self._images(file)
            if self.facts.backbone:
                raise ConfigError.broken("input", "be a folder of images, or one", path)
        if [column.kind for column in self.columns] == ["text"] and (file.is_dir() or self._is_one_text(file)):
            return self._text_files(file)
        if path != STANDARD_INPUT and (file.is_dir() or is_image_file):
            what = "images" if is_image_file or self.facts.image_shape else "a folder"
            advice = " A folder of such files needs output=FOLDER." if file.is_dir() else ""
            raise ConfigError(f"`input` must be {self._wanted()}, as in training, got {what}: {path}.{advice}")
        if suffix_of(file) in MATRIX_SUFFIXES or (file.suffix.lower() == ".parquet" and not self.columns):
            if self.facts.columns:
                raise ConfigError(f"`input` must be {self._wanted()}, as in training, got {path}.")
            return self._matrix(file)
        if not self.columns:
            raise ConfigError(f"`input` must be {self._wanted()}, as in training, got {path}.")
        return self._table(path, constants or {}, groups)

    def row_groups(self, path: str) -> int:
        """Number of parts in which a file can be read: the row groups of a table in a Parquet file with rows; else 1.

        Raises:
            DataError: The file is broken.
        """
        sizes = row_groups(path, "input") if self.columns and suffix_of(path) in PARQUET_SUFFIXES else []
        return len(sizes) if any(sizes) else 1

    def files(self, folder: Path) -> list[str]:
        """The tables or matrices in a folder and the folders below it, relative to ``folder``, in order.

        Raises:
            DataError: There are none.
        """
        suffixes = TABLE_SUFFIXES if self.columns else (*MATRIX_SUFFIXES, ".parquet")
        names = [name for name, _ in walk_files(folder) if suffix_of(name) in suffixes]
        if not names:
            raise DataError(
                f"`input` must have files to predict, got none in {folder} ({', '.join(suffixes)}). The predictions of "
                "a folder of images or texts are one file, such as output=predictions.csv."
            )
        return sorted(names, key=lambda name: name.split("/"))

    def single(self, typed: Sequence[str]) -> NewRows:
        """Reads one row from arguments of the command line.

        Args:
            typed: ``column=value`` for each column; the name may contain "=", and an empty value is a missing one.

        Raises:
            ConfigError: A column is absent or unknown, or a value is not a number.
        """
        import pyarrow as pa

        if not self.columns:
            raise ConfigError(f"`input` must be given: the model has features without names, {self._wanted()}.")
        names = [column.name for column in self.columns]
        cells: dict[str, str] = {}
        for argument in typed:
            name = max(
                (name for name in names if argument.startswith(f"{name}=")), key=len, default=argument.partition("=")[0]
            )
            if name in cells:
                raise ConfigError(f"`{name}` must be typed once.")
            cells[name] = argument[len(name) + 1 :]
        for cell in cells:
            if cell not in names:
                near = did_you_mean(cell, [*names, "input", "output", "ckpt_path"]) or (
                    f"It has {name_list(names, MOST_NAMES)}. Another run is named by ckpt_path=FOLDER."
                )
                raise ConfigError(
                    f"`{cell}` must be a column that the model of {self.facts.title} learned from, or a key. {near}"
                )
        if lacking := [name for name in names if name not in cells]:
            raise ConfigError(
                f"`{lacking[0]}` must be given too: the model learned from {name_list(names, MOST_NAMES)}."
            )
        values: dict[str, Any] = {}
        for column in self.columns:
            text = cells[column.name].strip()
            if column.kind == "number":
                text = text.replace(self.decimal, ".")  # the shell and Python take a dot whatever the file has
            if column.kind == "number" and text and not is_number(text):
                raise ConfigError.broken(column.name, "be a number", cells[column.name].strip())
            values[column.name] = [None if not text else float(text) if column.kind == "number" else text]
        kinds = [(column.name, pa.float64() if column.kind == "number" else pa.string()) for column in self.columns]
        rows = self._encoded(pa.table(values, schema=pa.schema(kinds)), "the command line", 0)
        for column in self.columns:
            if column.name in rows.unseen and not column.buckets and column.kind != "text":  # those may be any
                raise ConfigError.not_a_choice(column.name, column.levels, cells[column.name])
        return rows

    def _wanted(self) -> str:
        """The kind of input that the model needs, for messages."""
        facts = self.facts
        if facts.image_shape:
            return f"images of {' x '.join(map(str, facts.image_shape))}"
        if self.columns:
            return f"a table with the columns {name_list([column.name for column in self.columns], MOST_NAMES)}"
        return f"a matrix of {counted(facts.num_features, 'feature')} ({', '.join(MATRIX_SUFFIXES)})"

    def _table(
        self, path: str, constants: Mapping[str, Any], groups: range | None
    ) -> tuple[int | None, Iterator[NewRows]]:
        """Reads a table, to which columns of one value each are added that it does not have."""
        import pyarrow as pa

        source = "standard input" if path == STANDARD_INPUT else Path(path).name
        numbers = [column.name for column in self.columns if column.kind == "number"]
        words = self.facts.missing_values
        is_text = path == STANDARD_INPUT or suffix_of(path) not in BINARY_SUFFIXES
        added: list[str] = []

        def choose(names: Sequence[str]) -> list[str]:
            others = [name for name in constants if name not in names]
            chosen = self._choose([*names, *others], source, index_columns(path, names))
            added.extend(name for name in chosen if name in others)
            return [name for name in chosen if name not in others]

        count, blocks = open_blocks(
            path,
            "input",
            choose,
            {*numbers} - {*self.keep},
            TextOptions(words, self.separator, self.decimal, self.header),
            groups,
        )

        def rows() -> Iterator[NewRows]:
            start = 0 if groups is None else sum(row_groups(path, "input")[: groups.start])
            for table in blocks:
                for name in added:
                    value = constants[name]
                    if value is None:
                        column = pa.nulls(table.num_rows, pa.float64() if name in numbers else pa.string())
                    else:
                        column = pa.array([value if name in numbers else str(value)] * table.num_rows)
                    table = table.append_column(name, column)
                yield self._encoded(table, source, start, words if is_text else None)
                start += table.num_rows

        return count, rows()

    def _is_one_text(self, file: Path) -> bool:
        """Whether a file is one text: a .txt file that is no table, whose first line would name the column."""
        if file.suffix.lower() != TEXT_SUFFIX or not file.is_file():  # a pipe is read once
            return False
        try:
            with file.open("rb") as held:
                first = held.readline(MAX_HEADER_BYTES).decode("utf-8-sig", errors="replace")
        except OSError:
            return True  # its reader says what is wrong
        return self.columns[0].name not in [name.strip(' "\r\n') for name in re.split(r"[,;\t|]", first)]

    def _text_files(self, path: Path) -> tuple[int | None, Iterator[NewRows]]:
        """Reads a .txt file, or those in a folder and the folders below it."""
        import pyarrow as pa

        self._refuse_to_keep(path)
        files, folder = (text_files(path), path) if path.is_dir() else ([path], path.parent)
        if not files:
            raise DataError(f"`input` must have {TEXT_SUFFIX} files, got none in {folder}.")

        def rows() -> Iterator[NewRows]:
            for start in range(0, len(files), FILES_AT_ONCE):
                block = files[start : start + FILES_AT_ONCE]
                texts = pa.array([read_text_file(file, "input") for file in block], pa.string())
                read = self._encoded(pa.table({self.columns[0].name: texts}), path.name, start, ())
                yield replace(read, kept={"file": pa.array([file.relative_to(folder).as_posix() for file in block])})

        return len(files), rows()

    def _choose(self, header: Sequence[str], source: str, row_labels: Collection[str]) -> list[str]:
        """Chooses the columns to read; ``row_labels`` are ignored unless the model learned from them.

        Raises:
            DataError: A column is missing, or the input has a column that the train file did not have.
        """
        names = [column.name for column in self.columns]
        present, expected = set(header), {*names, *self._known(), *row_labels, *self.keep, *self.drop}
        extra = [name for name in header if name not in expected]
        for name in names:
            if name not in present:
                advice = if_no_header(header, "header") if self.header else NO_NAMES
                if self.header and self.dataset.get("header") is False:
                    advice = f"{WITHOUT_HEADER} And leave out header=true."
                if suffix_of(source) in BINARY_SUFFIXES:
                    advice = ""
                if any([part.strip() for part in name.split(mark)] == [*header] for mark in LIKELY_SEPARATORS):
                    whole = repr(SEPARATORS.get(suffix_of(source), ","))
                    advice = f"Its header was split: separator={whole} keeps it whole."
                raise lacking_column("input", name, source, [] if advice else extra, advice)
        for name in self.keep:
            if name not in header:
                raise ConfigError.broken("keep", f"name a column of {source}", name, did_you_mean(name, header))
        if extra and self.dataset.get("features") is None:  # as in `TableFile`, all columns are features
            raise DataError(
                "`input` must have the columns that the model learned from, and also has "
                f"{name_list(extra, MOST_NAMES)} [in {source}]. "
                f"Ignore: {as_typed('drop', extra)}, or copy: {as_typed('keep', extra)}."
            )
        return list(dict.fromkeys([*names, *self.keep]))

    def _known(self) -> Collection[str]:
        """Columns of the train file that are not features."""
        split = self.dataset.get("split") or {}
        named = [self.dataset.get("target"), self.dataset.get("weight"), split.get("column"), split.get("group")]
        return {
            *self.facts.ignored,
            *map(str, self.dataset.get("drop") or ()),
            *(str(name) for name in named if name),
        }

    def _encoded(self, table: Any, source: str, start: int, words: Sequence[str] | None = None) -> NewRows:
        """Encodes a block of a table.

        Args:
            table: The block, an Arrow table.
            source: Name of the file, for messages.
            start: Number of the first row in the file.
            words: Words that mean a missing value in a text file, in addition to the usual words; ``None`` for other
                files.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        kinds = {column.name: column.kind for column in self.columns}
        try:
            kept = {name: pc.cast(table.column(name).combine_chunks(), pa.string()) for name in self.keep}
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"`keep` must name columns of text or numbers [in {source}].") from error
        cells = {name: table.column(name) for name in kinds}
        for name, column in cells.items() if words is not None else ():
            if pa.types.is_string(column.type):
                cells[name] = mark_missing(column, words or ())
                if kinds[name] == "number":
                    cells[name] = self._numbers(cells[name], name, source, None if start else table.slice(0, 1))
        as_category = {name for name, kind in kinds.items() if kind != "number"}
        columns = read_columns(pa.table(cells), as_category, source, starts=((-start, source),))
        features, unseen = encode(columns, self.columns, self.dtype, self.facts.stored)
        if not self.facts.columns and bool(features.isnan().any()):
            row, place = features.isnan().nonzero()[0].tolist()
            raise DataError(
                f"column {list(kinds)[place]!r} must have no missing values, got one in {columns.place(row)}."
            )
        of_name = {series.name: series for series in columns.series}
        missing = {
            column.name: int(of_name[column.name].is_missing().sum())
            for column in self.facts.columns
            if column.kind != "text" and not column.indicator
        }
        return NewRows(
            features,
            kept,
            {name: len(rows) for name, rows in unseen.items() if len(rows)},
            {name: number for name, number in missing.items() if number},
        )

    def _numbers(self, column: Any, name: str, source: str, first_line: Any) -> Any:
        """Text as numbers; ``first_line`` is a table of the first row of the file, ``None`` where the column lacks it.

        Raises:
            DataError: Some text is not a number.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = pc.utf8_trim_whitespace(column)
        try:
            return numbers_of(texts, self.decimal)
        except pa.ArrowInvalid as error:
            word = word_among_numbers(texts, self.decimal)
            is_header = not self.header and first_line is not None and word == texts[0].as_py()
            is_header = is_header and not any(is_any_number(str(one[0])) for one in first_line.columns)
            raise number_error(source, "input", word, name, self.decimal, is_header) from error

    def _refuse_to_keep(self, path: Path) -> None:
        """Raises a ConfigError if columns are to be kept, which a matrix and images do not have."""
        if self.keep:
            raise ConfigError(f"`keep` must go with a table, and {path} has no columns by name. Leave it out.")

    def _matrix(self, file: Path) -> tuple[int | None, Iterator[NewRows]]:
        """Reads a file with a matrix."""
        self._refuse_to_keep(file)
        arrays = open_arrays("input", [file, file], self.facts.first_index, self.facts.num_features)
        names = list(arrays.matrices)
        wanted = self.dataset.get("features") if isinstance(self.dataset.get("features"), str) else None
        matches = [name for name in names if name == wanted] or [
            name for name in names if name.lower() in USUAL_NAMES["features"]
        ]
        if len(matches) != 1 and len(names) != 1:
            raise DataError(
                f"`input` must hold one matrix called features, got {name_list(names, MOST_NAMES)} [in {file.name}]."
            )
        name = matches[0] if len(matches) == 1 else names[0]
        shape = self.facts.image_shape or (self.facts.num_features,)
        block_rows = BLOCK_ROWS if arrays.is_sparse else max(1, CACHED_BLOCK_BYTES // (4 * self.facts.num_features))
        stored = self.facts.stored

        def rows() -> Iterator[NewRows]:
            start = 0
            blocks = iter(arrays.blocks(name, block_rows))
            while True:
                with explaining_errors("input", file):
                    block = next(blocks, None)
                if block is None:
                    return
                if tuple(block.shape[1:]) not in (shape, (self.facts.num_features,)):
                    raise DataError(
                        f"`input` must have rows of {' x '.join(map(str, shape))} numbers as the model, "
                        f"got {' x '.join(map(str, block.shape[1:])) or 'one'} [in {file.name}]."
                    )
                if is_sparse(block):
                    if (place := place_not_finite(block)) is not None:
                        raise DataError(
                            f"`input` must be finite, got {place[2]} in row {start + place[0]} [in {file.name}]."
                        )
                    start += block.shape[0]
                    yield NewRows(stored.transform(block, self.dtype))
                    continue
                features = stored.transform(block.flatten(1), self.dtype)
                if self.facts.image_shape and block.dtype == torch.uint8:
                    features = features / self.facts.white_byte
                elif not block.is_floating_point() and (
                    level := DecodingOptions.from_facts(self.facts.pixels).white_level
                ):
                    features = features / level
                if not bool(features.sum().isfinite()) and len(bad := (~features.isfinite()).any(1).nonzero()):
                    raise DataError(
                        f"`input` must be finite, got nan or inf in row {start + int(bad[0])} [in {file.name}]."
                    )
                start += len(features)
                yield NewRows(features)

        return None, rows()

    def _images(self, path: Path) -> tuple[int | None, Iterator[NewRows]]:
        """Reads a folder of images, or one image."""
        import pyarrow as pa

        self._refuse_to_keep(path)
        names = [path.name] if path.is_file() else files_with(IMAGE_SUFFIXES, path)
        if not names:
            raise DataError(f"`input` must have images, got none in {path} ({', '.join(IMAGE_SUFFIXES)}).")
        folder = path.parent if path.is_file() else path
        shape, backbone = self.facts.image_shape, None
        if self.facts.backbone:
            from logreg.data.sources.frozen_features import Backbone

            backbone = Backbone.from_facts(self.facts.backbone, self.device)

        grayscale = bool(self.dataset.get("grayscale")) if backbone is not None else len(shape) == 2
        decoding = DecodingOptions.from_facts(self.facts.pixels, self.dataset.get("size"), grayscale)
        # Images are decoded as in training; models without ``pixels``, of older versions, decoded whole JPEGs.
        at_least = backbone.facts["resize"] if backbone is not None and self.facts.pixels else 0

        def image_of(row: int) -> Tensor:
            image = open_image(folder / names[row], decoding, at_least)
            if backbone is not None:
                return backbone.prepare(to_8_bits(image, decoding))
            pixels = image_to_tensor(image, decoding)
            if tuple(pixels.shape) != shape:
                wanted, got = (f"{size[-1]} x {size[-2]}" for size in (shape, pixels.shape))
                raise DataError(f"`input` must hold images of {wanted} pixels as the model, got {names[row]} of {got}.")
            return pixels

        at_once = (
            self.batch_size if backbone is not None else max(1, CACHED_BLOCK_BYTES // (4 * self.facts.num_features))
        )

        def rows() -> Iterator[NewRows]:
            images: list[Tensor] = []
            for row, pixels in decode_rows(image_of, names, f"input={path}", "decoding"):
                images.append(pixels)
                if len(images) == at_once or row + 1 == len(names):
                    first = row + 1 - len(images)
                    if backbone is not None:
                        features = torch.cat(list(backbone.features(images, self.batch_size))).to(self.dtype)
                    else:
                        features = torch.stack(images).flatten(1).to(self.dtype) / decoding.white_value
                    yield NewRows(features, {"file": pa.array(names[first : row + 1])})
                    images = []

        return len(names), rows()
