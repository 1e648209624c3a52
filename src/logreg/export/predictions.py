"""Writes predictions into a file (text, Parquet or arrays), block by block, whole or not at all."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from logreg.errors import ConfigError
from logreg.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]


PREDICTED = "predicted"
"""Name of the column with the label."""


LIMITS = ("low", "high")
"""Ends of the names of the columns with the limits of intervals."""

MAX_PROBABILITY_COLUMNS = 1000
"""Largest number of classes that have a column of probabilities each in a table; tables of more columns are slow to
read for most programs."""

NUM_TOP = 5
"""Number of the most probable classes of each row in a table where there are more classes."""

ROW_GROUP_BYTES = 2**25
"""Size from which on a row group of Parquet is written; many small ones are slow to write and to read."""


class Writer(Protocol):
    """Writes predictions in the order of the rows."""

    def write(self, kept: Mapping[str, Any], labels: Array, probabilities: Array, *limits: Array) -> None:
        """Writes one block: Arrow arrays by name, labels (n,) int, probabilities and limits (n, C)."""

    def close(self) -> None:
        """Ends the file."""


def column_names(class_names: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Names of the columns of probabilities: the class's name, or ``p(name)`` where another column has that name."""
    taken = {*kept, PREDICTED}
    return [f"p({name})" if name in taken else name for name in class_names]


class _Tables:
    """Writes kept columns, label and probabilities as an Arrow table."""

    def __init__(
        self, class_names: Sequence[str], kept: Sequence[str], open_: Callable[[pa.Schema], Any], has_limits: bool
    ) -> None:
        import pyarrow as pa

        from logreg.data.arrow_numbers import text_array  # with `logreg.data` come torch and Lightning

        self.class_names, self.kept = text_array(class_names), list(kept)
        self.names = column_names(class_names, kept)
        probabilities = [(name, pa.float64()) for name in self.names]
        self.is_top = len(self.class_names) > MAX_PROBABILITY_COLUMNS
        if self.is_top:
            self.names = [f"top {place}" for place in range(1, NUM_TOP + 1)]
            probabilities = [one for name in self.names for one in ((name, pa.string()), (f"p({name})", pa.float64()))]
        if has_limits:
            probabilities += [(f"{name} {end}", pa.float64()) for end in LIMITS for name in self.names]
        self.schema = pa.schema(
            [*((name, pa.string()) for name in self.kept), (PREDICTED, pa.string()), *probabilities]
        )
        self.sink = open_(self.schema)

    def write(self, kept: Mapping[str, Any], labels: Array, probabilities: Array, *limits: Array) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        from logreg.data.arrow_numbers import array_of

        def named(places: np.ndarray[Any, Any]) -> pa.Array:
            return pa.DictionaryArray.from_arrays(array_of(places.astype(np.int32)), self.class_names).cast(pa.string())

        if self.is_top:
            some = np.argpartition(-probabilities, NUM_TOP, axis=1)[:, :NUM_TOP]
            order = np.lexsort((some, -np.take_along_axis(probabilities, some, axis=1)), axis=1)
            top = np.take_along_axis(some, order, axis=1)
            values = np.take_along_axis(probabilities, top, axis=1)
            of_classes = [
                one
                for place in range(NUM_TOP)
                for one in (named(top[:, place]), array_of(np.ascontiguousarray(values[:, place], dtype=np.float64)))
            ]
        else:
            of_classes = [
                array_of(np.ascontiguousarray(column, dtype=np.float64))
                for of_kind in (probabilities, *limits)
                for column in of_kind.T
            ]
        columns = [*(pc.cast(kept[name], pa.string()) for name in self.kept), named(labels), *of_classes]
        self.sink.write_table(pa.Table.from_arrays(columns, schema=self.schema))

    def close(self) -> None:
        self.sink.close()


class _Npz:
    """Arrays ``probabilities`` (N, C), ``predicted`` (N,) positions in ``classes`` (C,), and the kept columns as text.

    Limits of the probabilities, where there are any, are in ``low`` and ``high``, (N, C).  Each array grows in a
    temporary file beside the output, since its length is known only at the end.
    """

    def __init__(
        self, class_names: Sequence[str], kept: Sequence[str], file: IO[bytes], folder: Path, has_limits: bool
    ) -> None:
        import tempfile

        self.class_names, self.file, self.rows = class_names, file, 0
        self.of_classes = ("probabilities", *(LIMITS if has_limits else ()))
        names = (*self.of_classes, PREDICTED)
        self.held = {name: tempfile.TemporaryFile(dir=folder) for name in names}  # noqa: SIM115  # `close` closes them
        self.kept: dict[str, list[str]] = {name: [] for name in kept}

    def write(self, kept: Mapping[str, Any], labels: Array, probabilities: Array, *limits: Array) -> None:
        import pyarrow.compute as pc

        for name, numbers in zip(self.of_classes, (probabilities, *limits), strict=True):
            self.held[name].write(np.ascontiguousarray(numbers, dtype="<f8").tobytes())
        self.held[PREDICTED].write(labels.astype("<i4").tobytes())
        for name, values in self.kept.items():
            values += pc.fill_null(pc.cast(kept[name], "string"), "").to_pylist()
        self.rows += len(labels)

    def close(self) -> None:
        size = (self.rows, len(self.class_names))
        shapes: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(self.of_classes, ("<f8", size))
        shapes[PREDICTED] = ("<i4", (self.rows,))
        with zipfile.ZipFile(self.file, "w", allowZip64=True) as archive:
            for name, held in self.held.items():
                kind, shape = shapes[name]
                with held, archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": kind, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    held.seek(0)
                    while part := held.read(2**22):
                        member.write(part)
            for name, values in {"classes": list(self.class_names), **self.kept}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(values, dtype=str), allow_pickle=False)


def _text(separator: str) -> Callable[[pa.Schema, IO[bytes]], Any]:
    def open_(schema: pa.Schema, file: IO[bytes]) -> Any:
        import csv
        import io

        import pyarrow.csv

        header = io.StringIO()  # pyarrow would quote all names
        csv.writer(header, delimiter=separator, lineterminator="\n").writerow(schema.names)
        file.write(header.getvalue().encode())
        options = pyarrow.csv.WriteOptions(include_header=False, delimiter=separator, quoting_style="needed")
        return pyarrow.csv.CSVWriter(file, schema, write_options=options)

    return open_


class _Parquet:
    """Writes tables as Parquet, several in a row group: with many classes a block has few rows."""

    def __init__(self, schema: pa.Schema, file: IO[bytes]) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        # Hardly any two probabilities are equal: a dictionary of them takes time and space.
        texts = [one.name for one in schema if pa.types.is_string(one.type)]
        self.sink, self.held = ParquetWriter(file, schema, use_dictionary=texts), list[pa.Table]()

    def write_table(self, table: pa.Table) -> None:
        """Takes a table, and writes it now or later."""
        self.held.append(table)
        if sum(one.num_rows for one in self.held) * table.num_columns * 8 >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes what is held, and ends the file."""
        self._flush()
        self.sink.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.held:
            self.sink.write_table(pa.concat_tables(self.held))
            self.held = []


TABLES: dict[str, Callable[[Any, IO[bytes]], Any]] = {".csv": _text(","), ".tsv": _text("\t"), ".parquet": _Parquet}
"""Opens a writer of tables, by the suffix of the file."""

SUFFIXES = (*TABLES, ".npz")
"""Suffixes of files that predictions can be written to."""


def output_name(name: str) -> str:
    """The name of the file with the predictions of an input file: in the same format, where it can be written.

    Example:
        >>> output_name("2026/a.csv.gz"), output_name("b.feather"), output_name("c.npy")
        ('2026/a.csv', 'b.parquet', 'c.npz')
    """
    from logreg.data.formats.binary_tables import BINARY_SUFFIXES
    from logreg.data.formats.compression import suffix_of
    from logreg.data.formats.text_layout import SEPARATORS

    suffix = suffix_of(name)
    stem = name[: name.lower().rindex(suffix)]
    if suffix in SUFFIXES:
        return stem + suffix
    if suffix in SEPARATORS:
        return f"{stem}.tsv"
    return f"{stem}.parquet" if suffix in BINARY_SUFFIXES else f"{stem}.npz"


@contextmanager
def open_writer(
    output: str,
    class_names: Sequence[str],
    kept: Sequence[str],
    has_limits: bool = False,
    opens: Callable[[Path], AbstractContextManager[IO[bytes]]] = whole_file,
) -> Iterator[Writer]:
    """A writer, by the suffix of the file; with `whole_file` an error leaves no file.

    Args:
        output: The file; "-" is standard output, in CSV.
        class_names: C of them.
        kept: Names of input columns that precede the predictions.
        has_limits: Whether lower and upper limits of the probabilities follow these.
        opens: Opens the file.

    Raises:
        ConfigError: A column of the limits has the name of another one.
    """
    names = column_names(class_names, kept)
    for name in (f"{name} {end}" for end in LIMITS for name in names) if has_limits else ():
        if name in (*kept, *names):
            raise ConfigError(
                f"`interval` must not go with a column or class {name!r}, since a limit has that name. Rename it first."
            )
    if output == "-":
        writer: Writer = _Tables(
            class_names, kept, lambda schema: TABLES[".csv"](schema, sys.stdout.buffer), has_limits
        )
        yield writer
        writer.close()
        return
    path = Path(output)
    suffix = path.suffix.lower()
    with opens(path) as file:
        if suffix == ".npz":
            writer = _Npz(class_names, kept, file, path.parent, has_limits)
        else:
            writer = _Tables(class_names, kept, lambda schema: TABLES[suffix](schema, file), has_limits)
        yield writer
        writer.close()
