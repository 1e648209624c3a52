"""Tables in text files: CSV, TSV and other separators, also compressed, and CSV on standard input.

References:
    RFC 4180 (2005), Common format and MIME type for comma-separated values (CSV) files.
"""

from __future__ import annotations

import csv
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.data.arrow_numbers import inferred, text_array
from logreg.data.formats import arrow_errors
from logreg.data.formats.gathering import gather
from logreg.data.formats.table_errors import (
    encoding_error,
    explained_batches,
    number_error,
    ragged_error,
    unreadable_error,
)
from logreg.data.formats.text_input import TextFile, TextInput
from logreg.data.formats.text_layout import LONG_LINE_BYTES, TextLayout, TextOptions, text_layout
from logreg.errors import DataError
from logreg.hardware import usable_cores

if TYPE_CHECKING:
    import pyarrow as pa


TEXT_BLOCK_BYTES = 2**22
"""Block size, in bytes, of `open_blocks` for text.  Standard input cannot be read again with larger blocks, so 4 MiB is
also its longest line."""

PARSED_BYTES = 2**19
"""Smallest size, in bytes, of the blocks that `read_text` parses; Arrow takes many times the memory of a block."""

HEADERS_PER_BLOCK = 128
"""Size of a block relative to the header of the file, so that a block has many lines also where there are thousands of
columns: each column of a block costs some microseconds."""

MAX_RETYPED = 8
"""Largest number of columns that change their type while a file is read.  Each costs another reading; inferring the
types from all values costs about two."""

MAX_DICTIONARY_SIZE = 2**31 - 1
"""Distinct texts up to which Arrow dictionary-encodes a column; the largest int32, so that every text column is."""


def missing_words(missing_values: Sequence[str] = ()) -> list[str]:
    """Words for a missing value in a text file: those of Arrow, and those that the user named."""
    import pyarrow.csv

    return [*pyarrow.csv.ConvertOptions().null_values, *(word.strip() for word in missing_values)]


def mark_missing(column: Any, missing_values: Sequence[str] = ()) -> Any:
    """A column of a text file without the blanks around its values, and null where it has a word for a missing value.

    Args:
        column: Arrow array of text, shape (N,).
        missing_values: Words for a missing value that the user named.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column)
    is_missing = pc.is_in(column, value_set=text_array(missing_words(missing_values)))
    return pc.if_else(is_missing, pa.nulls(len(column), column.type), column)


def _text_error(file: TextInput, error: Exception, layout: TextLayout, decimal: str) -> DataError:
    """The mistake that an error of Arrow's reader is; ``decimal`` is the character before the decimals of numbers."""
    if (found := arrow_errors.invalid_number(error)) is not None:
        is_header = layout.has_unexpected_header(found.value, found.column)
        column = layout.columns.names[found.column]
        return number_error(file.name, file.key, found.value, column, decimal, is_header)
    if (position := arrow_errors.invalid_utf8_column(error)) is not None:
        return encoding_error(file, f"column {layout.columns.names[position]!r}")
    if arrow_errors.is_not_utf8(error, file.name):
        return encoding_error(file, "the text")
    if arrow_errors.is_ragged(error):
        return ragged_error(file, error)
    if arrow_errors.is_only_header(error) or arrow_errors.is_empty(error):
        return DataError(f"`{file.key}` must have rows, got only a header [in {file.name}].")
    return unreadable_error(file.name, file.key, error)


# All rows


def read_text(
    file: TextFile,
    columns: list[str],
    as_text: Collection[str],
    options: TextOptions,
    codes: Collection[str],
) -> pa.Table:
    """`read_table` for a text file; text columns are dictionary-encoded."""
    import pyarrow as pa

    layout = text_layout(file, options.separator, options.header)
    header_names = layout.header_names(columns)
    text = {name for name, column in header_names.items() if column in as_text or column in codes}
    declared = dict.fromkeys(text, pa.dictionary(pa.int32(), pa.string()))
    table = _parse_text(file, layout, list(header_names), declared, options).rename_columns(columns)
    for field in table.schema:
        if field.type in (pa.binary(), pa.dictionary(pa.int32(), pa.binary())):  # Arrow's types of text not in UTF-8
            raise encoding_error(file, f"column {field.name!r}")
    if not table.num_rows:
        return table
    typed = [
        _infer_type(column, options, name in as_text, name in codes) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(columns, table.columns, strict=True)
    ]
    return pa.table(typed, names=columns)


def _parse_text(
    file: TextFile,
    layout: TextLayout,
    columns: Sequence[str],
    declared: Mapping[str, pa.DataType],
    options: TextOptions,
) -> pa.Table:
    """All rows of a text file, in the types that Arrow infers from all values.

    Args:
        file: The file.
        layout: Layout of its lines.
        columns: The columns to read, by their names in the header.
        declared: Types of some of them, which are not inferred.
        options: What the user says of the values.

    Raises:
        DataError: A line has another number of values than the header, text is not in UTF-8, or the file is broken.
    """
    import pyarrow as pa
    import pyarrow.csv

    parse = pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True)

    convert = options.conversion(
        columns,
        declared,
        strings_can_be_null=True,
        auto_dict_encode=True,
        auto_dict_max_cardinality=MAX_DICTIONARY_SIZE,
    )

    def read(threads: bool, block_size: int | None = None) -> pa.Table:
        how = pyarrow.csv.ReadOptions(
            use_threads=threads,
            block_size=block_size,
            skip_rows=layout.skipped_lines,
            column_names=layout.given_names,
        )
        with file.open() as opened:
            return pyarrow.csv.read_csv(opened, how, parse, convert)

    try:
        table = _read_typed(file, layout, parse, columns, declared, options)
        if table is not None:
            return table
        try:
            return read(threads=True)
        except pa.ArrowInvalid as error:
            if not arrow_errors.is_longer_than_block(error):
                raise
            return read(threads=True, block_size=LONG_LINE_BYTES)
    except (pa.ArrowException, OSError) as error:
        if arrow_errors.is_ragged(error):
            try:
                read(threads=False)  # slower, but its error has the number of the line
            except pa.ArrowException as error_with_line:
                error = error_with_line
        raise _text_error(file, error, layout, options.decimal) from error


def _read_typed(
    file: TextFile,
    layout: TextLayout,
    parse: Any,
    columns: Sequence[str],
    declared: Mapping[str, pa.DataType],
    options: TextOptions,
) -> pa.Table | None:
    """All rows of a text file of several blocks, read with the types of its first block.

    Arrow infers a type by trying types in a fixed order, and takes the first that fits all values.  Where all values
    have the type of the first block, this is that type.  Arrow keeps the text of all blocks while it infers, so that
    known types take less memory and time.  A value that contradicts them changes the type of its
    column.

    The arguments are those of `_parse_text`, and Arrow's options for the lines.

    Returns:
        The table; ``None`` where the file is a single block, where values contradict the types, or where a line is
        broken or longer than a block: the reader of whole files then infers the types, or says what is wrong.
    """
    import pyarrow as pa
    import pyarrow.csv

    block_bytes = _block_bytes(layout.header)
    if not file.is_compressed and Path(file.path).stat().st_size <= block_bytes:
        return None
    how = pyarrow.csv.ReadOptions(
        block_size=block_bytes, skip_rows=layout.skipped_lines, column_names=layout.given_names
    )
    text = pa.dictionary(pa.int32(), pa.string())

    def typed(types: Mapping[str, pa.DataType], **more: Any) -> Any:
        return options.conversion(columns, types, strings_can_be_null=True, **more)

    def in_order(types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        with file.open() as opened, pyarrow.csv.open_csv(opened, how, parse, typed(types)) as reader:
            yield from reader

    def read(types: Mapping[str, pa.DataType]) -> pa.Table:
        conversions = [typed(types)]
        if all(name in declared for name, kind in types.items() if kind == text):
            # Most words for a missing value are no numbers, so that a block with one fails; those that Arrow reads as
            # nan are missing, too.  To compare each value with all words takes a sixth of the time.
            conversions.insert(0, typed(types, null_values=["", *options.missing_values]))
        try:
            with file.open() as opened:
                blocks = _line_blocks(opened, layout, block_bytes)
                return _gather_text(file.path, _parse_blocks(blocks, layout.header, parse, conversions), block_bytes)
        except _NotLineByLineError:
            return _gather_text(file.path, in_order(types), block_bytes)

    try:
        with file.open() as opened, pyarrow.csv.open_csv(opened, how, parse, typed(declared)) as reader:
            types = {one.name: text if one.type in (pa.string(), pa.binary()) else one.type for one in reader.schema}
        for _ in range(MAX_RETYPED + 1):
            try:
                return read(types)
            except pa.ArrowException as error:
                retyped = _retyped(error, types, layout.header, options)
                if not retyped:
                    return None
                types |= retyped
    except (pa.ArrowException, OSError):
        pass
    return None


def _block_bytes(header: Sequence[str]) -> int:
    """The size of the blocks of a text file with these columns, in bytes."""
    return max(PARSED_BYTES, HEADERS_PER_BLOCK * sum(len(name) + 1 for name in header))


def _gather_text(path: str, batches: Iterator[pa.RecordBatch], block_bytes: int) -> pa.Table:
    """One table of the batches of a text file; the first one, of ``block_bytes``, tells how many rows to expect."""
    first = next(batches)
    rows = int(len(first) * max(1, 1.05 * Path(path).stat().st_size / block_bytes))
    return gather(itertools.chain([first], batches), first.schema, rows)


class _NotLineByLineError(Exception):
    """A text file has quotes, so that a value may have a line break, or other ends of lines than line feeds."""


def _line_blocks(file: Any, layout: TextLayout, block_bytes: int) -> Iterator[bytes]:
    """The lines after the header in blocks of whole lines, about ``block_bytes`` each.

    Raises:
        _NotLineByLineError: Lines cannot be told apart by line feeds alone.
    """
    rest, is_first = b"", True
    while block := file.read(block_bytes):
        lines, feed, rest_of_block = block.rpartition(b"\n")
        if not feed:
            raise _NotLineByLineError
        lines, rest = rest + lines + feed, rest_of_block
        if is_first:
            is_first = False
            *before, lines = lines.split(b"\n", layout.skipped_lines + layout.has_header)
            if layout.has_header:
                line = before[-1].decode("utf-8-sig", "replace").rstrip("\r")
                if next(csv.reader([line], delimiter=layout.separator), []) != layout.header:
                    raise _NotLineByLineError
        if b'"' in lines:
            raise _NotLineByLineError
        yield lines
    if b'"' in rest:
        raise _NotLineByLineError
    yield rest


def _parse_blocks(
    blocks: Iterator[bytes], header: Sequence[str], parse: Any, conversions: Sequence[Any]
) -> Iterator[pa.RecordBatch]:
    """Blocks of lines as batches of Arrow, in order; each core parses another block.

    Arrow's reader of blocks uses one core, and its reader of whole files, which uses all, keeps the whole table.

    Args:
        blocks: Whole lines.
        header: The names in the header of the file.
        parse: Arrow's options for the lines.
        conversions: Arrow's options for the values.  The first are used up to the first block that does not suit them,
            and from there on the last.
    """
    import pyarrow as pa
    import pyarrow.csv

    usual = conversions[0]

    def converted(lines: bytes, convert: Any) -> list[pa.RecordBatch]:
        options = pyarrow.csv.ReadOptions(use_threads=False, block_size=len(lines), column_names=header)
        table = pyarrow.csv.read_csv(pa.BufferReader(lines), options, parse, convert)
        return table.to_batches()  # type: ignore[no-any-return]  # pyarrow has no types

    def parsed(lines: bytes) -> list[pa.RecordBatch]:
        nonlocal usual
        tried = usual  # another thread may change it
        try:
            return converted(lines, tried)
        except pa.ArrowInvalid:
            if tried is conversions[-1]:
                raise
            usual = conversions[-1]
            return converted(lines, usual)

    cores, waiting = usable_cores(), deque[Future[list[pa.RecordBatch]]]()
    with ThreadPoolExecutor(cores) as pool:
        for lines in blocks:
            if lines.strip():
                waiting.append(pool.submit(parsed, lines))
            if len(waiting) > cores:
                yield from waiting.popleft().result()
        for task in waiting:
            yield from task.result()


def _retyped(
    error: Exception, types: Mapping[str, pa.DataType], header: Sequence[str], options: TextOptions
) -> dict[str, pa.DataType]:
    """The name and the next type of the column with a value that contradicts its type; empty for another error.

    A column without values takes the type of its first value, and whole numbers become fractions.

    Args:
        error: The error of Arrow's reader.
        types: The type of each column so far.
        header: The names in the header of the file.
        options: What the user says of the values.
    """
    import pyarrow as pa

    found = arrow_errors.unconverted(error)
    if found is None:
        return {}
    name, of_value = header[found.column], inferred(text_array([found.value]), options.decimal).type
    if pa.types.is_null(types[name]):
        return {name: pa.dictionary(pa.int32(), pa.string()) if pa.types.is_string(of_value) else of_value}
    return {name: of_value} if pa.types.is_integer(types[name]) and pa.types.is_floating(of_value) else {}


def _infer_type(column: pa.ChunkedArray, options: TextOptions, is_text: bool, is_code: bool) -> Any:
    """A dictionary-encoded text column without the blanks around its values, in the type that its values look like.

    Args:
        column: Values as Arrow read them.
        options: What the user says of the values.
        is_text: Whether the column stays text.
        is_code: Whether the column is numbers only if the numbers, written again, give the same text.
    """
    import pyarrow as pa
    import pyarrow.csv

    encoded = column.unify_dictionaries().combine_chunks()
    trimmed = mark_missing(encoded.dictionary, options.missing_values)
    if trimmed.equals(encoded.dictionary):
        if not is_code or is_text:
            return column
    else:
        encoded = trimmed.take(encoded.indices).dictionary_encode()
    texts = encoded.dictionary
    if is_text:
        return encoded
    if not len(texts):
        return pa.nulls(len(encoded))
    values = inferred(texts, options.decimal)  # as for the other columns
    if pa.types.is_string(values.type) or (is_code and not _is_canonical(texts, values)):
        return encoded
    return values.combine_chunks().take(encoded.indices)


def _is_canonical(texts: Any, values: Any) -> bool:
    """Whether all whole numbers are written as numbers are: no leading zeros, no exponent, no digits beyond the type.

    Columns with fractions count as numbers however they are written, since codes are whole.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) and pc.all(pc.equal(pc.floor(values), values)).as_py():
        texts = pc.replace_substring_regex(texts, r"\.0*$", "")
        values = pc.cast(values, pa.decimal128(38), safe=False) if pc.max(pc.abs(values)).as_py() < 2**53 else None
    elif not pa.types.is_integer(values.type):
        return True
    return values is not None and bool(pc.all(pc.equal(pc.cast(values, pa.string()), texts)).as_py())


# Blocks


def text_blocks(
    file: TextInput, layout: TextLayout, columns: Sequence[str], numbers: Collection[str], options: TextOptions
) -> Iterator[pa.Table]:
    """`open_blocks` for text with the columns that were chosen.

    Args:
        file: The file, or standard input.
        layout: Layout of its lines.
        columns: The columns to read.
        numbers: Columns that are numbers; the others are text.
        options: What the user says of the values.
    """
    import pyarrow as pa
    import pyarrow.csv

    header_names = layout.header_names(columns)
    as_typed, as_text = _conversions(header_names, numbers, options)
    number_names = {name for name, column in header_names.items() if column in numbers}
    parse = pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True)

    def read(block_size: int, convert: Any = as_typed) -> Iterator[Any]:
        # Threads do not make reading by blocks faster, and their errors lack the number of the line.
        how = pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=block_size,
            column_names=layout.given_names,
            skip_rows=layout.skipped_lines,
        )
        with file.open() as opened, pyarrow.csv.open_csv(opened, how, parse, convert) as reader:
            yield from reader

    # Standard input is read once, so that the first block must hold the header; a letter has up to 4 bytes in UTF-8.
    block_bytes = max(TEXT_BLOCK_BYTES, 4 * sum(len(value) + 1 for value in layout.first_line))

    def batches() -> Iterator[Any]:
        rows_done = 0
        try:
            for batch in read(block_bytes):
                yield batch
                rows_done += batch.num_rows
        except pa.ArrowInvalid as error:
            # `read_table` accepts numbers with non-ASCII blanks around them and hexadecimal ones such as 0x1F; Arrow
            # does not accept them in a column that is declared as numbers.
            retry_as_text = arrow_errors.invalid_number(error) is not None
            if file.is_read_once and arrow_errors.is_straddling(error):
                raise DataError(
                    f"`{file.key}` must have lines of at most {block_bytes:,} bytes on {file.name}, "
                    "got a longer one. Write the table to a file, and name the file."
                ) from error
            if file.is_read_once or not (retry_as_text or arrow_errors.is_longer_than_block(error)):
                raise
            # The file is read again from its start, and the rows that were yielded are skipped.
            for batch in read(block_bytes, as_text) if retry_as_text else read(LONG_LINE_BYTES):
                rest = batch.slice(min(rows_done, batch.num_rows))
                rows_done = max(0, rows_done - batch.num_rows)
                yield _text_to_numbers(rest, number_names, options, file, layout) if retry_as_text else rest

    def explain(error: Exception) -> DataError:
        return _text_error(file, error, layout, options.decimal)

    for batch in explained_batches(batches(), explain):
        table = pa.Table.from_batches([batch]).select(list(header_names))
        yield table.rename_columns(list(header_names.values()))


def _conversions(header_names: Mapping[str, str], numbers: Collection[str], options: TextOptions) -> tuple[Any, Any]:
    """Arrow's options for the types of blocks: one with ``numbers`` as float64 and the rest as text, one all text.

    Args:
        header_names: The columns to read, see `TextLayout.header_names`.
        numbers: Columns that are numbers; the others are text.
        options: What the user says of the values.
    """
    import pyarrow as pa
    import pyarrow.csv

    words = missing_words(options.missing_values)
    types = {name: pa.float64() if column in numbers else pa.string() for name, column in header_names.items()}
    as_typed = options.conversion(
        [*header_names],
        types,
        strings_can_be_null=False,  # text columns may be copied to the output; `mark_missing` is for the others
        null_values=[before + word + after for word in words for before in ("", " ") for after in ("", " ")],
    )
    as_text = pyarrow.csv.ConvertOptions(
        include_columns=list(header_names), column_types=dict.fromkeys(types, pa.string()), strings_can_be_null=False
    )
    return as_typed, as_text


def _text_to_numbers(
    batch: Any, numbers: Collection[str], options: TextOptions, file: TextInput, layout: TextLayout
) -> Any:
    """A batch of text columns, with the columns ``numbers`` as float64.

    Raises:
        DataError: A value is not a number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, name in enumerate(batch.schema.names):
        if name in numbers:
            text = mark_missing(batch.column(position), options.missing_values)
            try:
                column = numbers_of(text, options.decimal)
            except pa.ArrowInvalid:
                try:
                    column = pc.cast(pc.cast(text, pa.int64()), pa.float64(), safe=False)
                except pa.ArrowInvalid as error:
                    word = word_among_numbers(text, options.decimal)
                    is_header = layout.has_unexpected_header(word, layout.header.index(name))
                    raise number_error(file.name, file.key, word, name.strip(), options.decimal, is_header) from error
            batch = batch.set_column(position, name, column)
    return batch


def numbers_of(texts: Any, decimal: str) -> Any:
    """Texts, of an Arrow array, as float64.

    Args:
        texts: The texts, without blanks around them.
        decimal: Character before the decimals.

    Raises:
        ArrowInvalid: One is not a number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if decimal != ".":  # a dot is then no part of a number, nor is a letter
        texts = pc.replace_substring(pc.replace_substring(texts, ".", "dot"), decimal, ".")
    return pc.cast(texts, pa.float64())


def word_among_numbers(texts: Any, decimal: str) -> str:
    """The first text that is not a number; or else the first hexadecimal one, which fractions must not go with."""
    import pyarrow as pa

    def fails(word: str, read: Callable[[Any], Any]) -> bool:
        try:
            read(pa.array([word]))
        except pa.ArrowInvalid:
            return True
        return False

    words = [
        word for word in texts.unique().drop_null().to_pylist() if fails(word, lambda one: numbers_of(one, decimal))
    ]
    return str(next((word for word in words if fails(word, lambda one: one.cast(pa.int64()))), words[0]))
