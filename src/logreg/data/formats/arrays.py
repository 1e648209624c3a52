"""Files of named arrays: .npz, .npy, .safetensors, .parquet; mapped into memory where the format allows."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from logreg.data.encoding.labels import plain_values
from logreg.data.formats.tables import MOST_GROWTH, most_bytes
from logreg.errors import DataError, LogregError


class Arrays(Protocol):
    """The named arrays of a file; a file that cannot be read raises what `whole` knows."""

    @property
    def matrices(self) -> Sequence[str]:
        """What may be features."""

    @property
    def columns(self) -> Sequence[str]:
        """What may be labels, weights or groups."""

    def matrix(self, name: str) -> Tensor:
        """Of any shape, in the file's own type of number."""

    def column(self, name: str) -> Any:
        """Of one axis, as a pyarrow array."""

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """A matrix so many rows at a time, without having all of it in memory."""


class _Npz:
    """A zip of .npy files.  Read and not mapped: in a zip numbers lie at any byte, in memory they must not."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.file = files[0]
        with zipfile.ZipFile(self.file) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most_bytes(self.file):
            raise DataError(
                f"{self.file} must grow to at most {MOST_GROWTH} times its size when it is unpacked, got {unpacked:,} "
                f"bytes out of {self.file.stat().st_size:,}. Save it unpacked: numpy.savez."
            )
        self.matrices = self.columns = [name.removesuffix(".npy") for name in members]

    def matrix(self, name: str) -> Tensor:
        return _tensor(name, self._array(name), self.file)

    def column(self, name: str) -> Any:
        return _arrow(name, self._array(name), self.file)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        with _no_objects(name, self.file), zipfile.ZipFile(self.file) as archive, archive.open(f"{name}.npy") as member:
            held = archive.getinfo(f"{name}.npy").file_size
            yield from _streamed(name, member, held, rows, self.file, lambda: self.matrix(name))

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        with _no_objects(name, self.file), zipfile.ZipFile(self.file) as archive:
            with archive.open(f"{name}.npy") as member:
                _header(name, member, archive.getinfo(f"{name}.npy").file_size)
            with archive.open(f"{name}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)


def read_npz(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of a .npz file; none is larger than the file can hold, and none is unpickled.

    Raises:
        DataError: One is no array of numbers or text, or the file grows too much.
        Exception: What `whole` knows.
    """
    archive = _Npz([file])
    return {name: archive._array(name) for name in archive.columns}


class _NpyPair:
    """Two .npy files, of the features and of the labels."""

    matrices = ("features",)
    columns = ("labels",)

    def __init__(self, files: Sequence[Path]) -> None:
        self.features, self.labels = files

    def matrix(self, name: str) -> Tensor:
        return _tensor(name, self._mapped(name, self.features), self.features)

    def column(self, name: str) -> Any:
        return _arrow(name, self._mapped(name, self.labels), self.labels)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        # Read, not mapped: what is mapped counts as the memory of a process for as long as it was looked at.
        with _no_objects(name, self.features), self.features.open("rb") as file:
            held = self.features.stat().st_size
            yield from _streamed(name, file, held, rows, self.features, lambda: self.matrix(name))

    def _mapped(self, name: str, file: Path) -> np.ndarray[Any, Any]:
        with _no_objects(name, file):
            with file.open("rb") as opened:
                _header(name, opened, file.stat().st_size)
            # "c", copy on write: torch wants memory that may be written to, and the file stays as it is
            return np.lib.format.open_memmap(file, mode="c")


class _Safetensors:
    """Named tensors, mapped."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.file = files[0]
        with safe_open(self.file, "pt") as tensors:
            self.matrices = self.columns = list(tensors.keys())

    def matrix(self, name: str) -> Tensor:
        with safe_open(self.file, "pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        if tensor.dtype.is_complex or (tensor.itemsize == 1 and tensor.is_floating_point()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise DataError(f"`{name}` must hold numbers, got {kind} [in {self.file.name}]. Save it as float32.")
        return tensor

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        return _mapped_blocks(self.matrix(name), rows)

    def column(self, name: str) -> Any:
        values = self.matrix(name)
        return _arrow(name, (values.float() if values.dtype == torch.bfloat16 else values).numpy(), self.file)


class _Parquet:
    """A column of lists, and columns of single values beside it."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.types as kinds
        from pyarrow.parquet import ParquetFile

        self.path = files[0]
        # By default pyarrow holds all the bytes of a column, beside the matrix that it becomes.
        self.file = ParquetFile(self.path, pre_buffer=False, buffer_size=2**20)
        self.schema = self.file.schema_arrow
        is_lists = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
        self.matrices = [field.name for field in self.schema if any(is_list(field.type) for is_list in is_lists)]
        self.columns = [field.name for field in self.schema if not kinds.is_nested(field.type)]
        held = self.file.metadata
        values = sum(
            held.row_group(group).column(column).num_values
            for group in range(held.num_row_groups)
            for column in range(held.num_columns)
        )
        if max(values, held.num_rows) > most_bytes(self.path):
            raise DataError(
                f"{self.path} must have the rows that it claims, got {held.num_rows:,} with {values:,} values in "
                f"{self.path.stat().st_size:,} bytes. Make it anew."
            )
        for field in self.schema:
            if self.schema.names.count(field.name) > 1:
                raise DataError(
                    f"{self.path} must have columns of different names, got {field.name!r} twice. Rename one."
                )
        if not self.matrices:
            raise DataError(
                f"{self.path} must have a column of lists, got {', '.join(self.schema.names)}. "
                "A table with a column per feature is read by dataset=table."
            )

    def matrix(self, name: str) -> Tensor:
        rows, start = self.file.metadata.num_rows, 0
        matrix = np.empty((rows, 0), np.float32)
        # Batch by batch into one matrix: as a table the whole column would be there twice.
        for values in self.blocks(name, BATCH_ROWS):
            if not start:
                matrix = np.empty((rows, values.shape[1]), values.numpy().dtype)
            matrix[start : start + len(values)] = values
            start += len(values)
        return torch.from_numpy(matrix)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        import pyarrow.types as kinds

        kind = self.schema.field(name).type.value_type
        if not (kinds.is_floating(kind) or kinds.is_integer(kind)):
            raise DataError(
                f"`dataset.features={name}` must hold lists of numbers, got lists of {kind} [in {self.path.name}]."
            )
        start, width = 0, None
        for batch in self.file.iter_batches(rows, columns=[name]):
            values = self._rows(name, batch.column(0), start, width)
            start, width = start + len(values), values.shape[1]
            yield torch.from_numpy(np.array(values))

    def _rows(self, name: str, lists: Any, start: int, width: int | None) -> np.ndarray[Any, Any]:
        """The lists of the rows from ``start`` as a matrix; ``width`` is the length of those before."""
        import pyarrow.compute as pc

        def refuse(bad: Any, constraint: str, got: Callable[[int], object]) -> None:
            if len(rows := np.flatnonzero(bad)):
                place = f"row {start + int(rows[0])} [in {self.path.name}]"
                raise DataError(f"`dataset.features={name}` must {constraint}, got {got(int(rows[0]))} in {place}.")

        refuse(lists.is_null(), "have a list in every row", lambda row: "none")
        lengths = pc.list_value_length(lists).to_numpy()
        width = int(lengths[0]) if width is None else width
        refuse(lengths != width, f"have lists of the same length, {width} in row 0", lambda row: lengths[row])
        values = lists.flatten()
        if values.null_count:
            missing = np.asarray(values.is_null()).reshape(len(lists), width).any(1)
            refuse(missing, "have lists without gaps", lambda row: "one")
        matrix: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
        return matrix

    def column(self, name: str) -> Any:
        import pyarrow.types as kinds

        values = plain_values(self.file.read(columns=[name]).column(0))
        return values.cast(values.type.value_type) if kinds.is_dictionary(values.type) else values


BATCH_ROWS = 1024
"""Rows of a .parquet file that are decoded at once."""

FORMATS: dict[str, Callable[[Sequence[Path]], Arrays]] = {
    ".npz": _Npz,
    ".npy": _NpyPair,
    ".safetensors": _Safetensors,
    ".parquet": _Parquet,
}
"""What reads a file, by its suffix."""


@contextmanager
def whole(key: str, file: Path) -> Iterator[None]:
    """Names the file that cannot be read."""
    from pyarrow import ArrowException

    broken = (
        OSError,
        ValueError,
        EOFError,
        OverflowError,
        MemoryError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
        ArrowException,
        SafetensorError,
    )
    try:
        yield
    except LogregError:
        raise
    except broken as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"`{key}` must be a whole file, and {file} could not be read: {why}. Make it anew.") from error


@contextmanager
def _no_objects(name: str, file: Path) -> Iterator[None]:
    """Tells an array that could only be unpickled, which runs whatever it says, from a broken file."""
    try:
        yield
    except ValueError as error:
        if "object" not in str(error).lower():
            raise
        raise DataError(
            f"`{name}` must hold numbers or text, got Python objects [in {file.name}], which are never unpickled. "
            "Save numbers with .astype(numpy.float32) and labels with .astype(str)."
        ) from error


def _tensor(name: str, array: np.ndarray[Any, Any], file: Path) -> Tensor:
    """The array as a tensor: the same memory, but where the order of bytes or axes is unusual."""
    _check_kind(name, array.dtype, file)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)).contiguous()


def _check_kind(name: str, dtype: np.dtype[Any], file: Path) -> None:
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        advice = " NumPy has no bfloat16: keep it in a .safetensors file." if dtype.kind == "V" else ""
        raise DataError(f"`dataset.features={name}` must hold numbers, got {dtype} [in {file.name}].{advice}")


def _header(name: str, member: IO[bytes], held: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and type of an array.

    Args:
        name: Of the array.
        member: Is read up to the first value.
        held: Bytes that there are.

    Raises:
        ValueError: The shape is none, or of more values than there are.
    """
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(member)
    if version not in read_header:
        raise ValueError(f"{name} is of version {version} of the format")
    try:
        shape, by_columns, dtype = read_header[version](member)
    except ValueError as error:
        if "allow_pickle" in str(error):  # NumPy's advice, which would run what is in there
            raise ValueError(f"the header of {name} is longer than any of an array") from None
        raise
    if min(shape, default=0) < 0 or (not dtype.hasobject and math.prod(shape) * dtype.itemsize > held):
        raise ValueError(f"{name} claims the shape {shape} of {dtype}, and {held:,} bytes are there")
    return shape, by_columns, dtype


def _streamed(
    name: str, member: IO[bytes], held_bytes: int, rows: int, file: Path, whole_matrix: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """The rows of an array as they are read; where its axes lie the other way it is read as a whole."""
    shape, by_columns, dtype = _header(name, member, held_bytes)
    if dtype.hasobject or by_columns or not shape:
        yield from _mapped_blocks(whole_matrix(), rows)
        return
    _check_kind(name, dtype, file)
    size = dtype.itemsize * math.prod(shape[1:])
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        held = bytearray(member.read(count * size))
        if len(held) != count * size:
            raise EOFError(f"{name} ends after {start} rows")
        yield _tensor(name, np.frombuffer(held, dtype).reshape(count, *shape[1:]), file)


def _mapped_blocks(matrix: Tensor, rows: int) -> Iterator[Tensor]:
    yield from matrix.split(rows)


def _arrow(name: str, array: np.ndarray[Any, Any], file: Path) -> Any:
    """The array as pyarrow has it."""
    import pyarrow as pa

    if array.ndim != 1:
        raise DataError(f"`{name}` must have one axis, a value for each row, got shape {array.shape} [in {file.name}].")
    return pa.array(array.astype(array.dtype.newbyteorder("="), copy=False))
