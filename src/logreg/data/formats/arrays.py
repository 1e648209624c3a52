"""Reads files of named arrays: .npz, .npy, .safetensors and .parquet, memory-mapped where the format allows it.

Sparse .npz files and svmlight files are read by `logreg.data.formats.sparse_arrays`.

Nothing is unpickled, since a pickle may run any code.

References:
    NumPy, numpy.lib.format, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html (.npy and .npz).
    Safetensors, https://huggingface.co/docs/safetensors
    Apache Parquet, file format, https://parquet.apache.org/docs/file-format/
"""

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

from logreg.data.arrow_numbers import plain_values
from logreg.data.formats.compression import MAX_EXPANSION_RATIO, max_decoded_bytes, suffix_of
from logreg.data.formats.sparse_arrays import (
    SVMLIGHT_SUFFIXES,
    SvmlightFile,
    is_sparse_npz,
    read_sparse_npz,
    sparse_blocks,
)
from logreg.errors import DataError, LogregError

LIST_BATCH_ROWS = 1024
"""Rows of a .parquet file that are decoded at once: a batch of embeddings takes little memory beside the matrix."""


class ArrayFile(Protocol):
    """A file of named arrays.  Reading a broken file raises an exception that `explaining_errors` translates."""

    @property
    def is_sparse(self) -> bool:
        """Whether the matrix is a sparse CSR tensor."""

    @property
    def matrices(self) -> Sequence[str]:
        """Names of the arrays that can be features."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the arrays that can be labels, weights or groups."""

    def matrix(self, name: str) -> Tensor:
        """An array of any shape, in the number type that it has in the file."""

    def column(self, name: str) -> Any:
        """An array of shape (N,), as an Arrow array."""

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """The matrix in blocks of at most ``rows`` rows, without holding the whole matrix in memory."""


class _NpzFile:
    """A zip archive of .npy files.

    The arrays are copied, since a zip archive does not align numbers as memory needs them.
    """

    is_sparse = False

    def __init__(self, files: Sequence[Path]) -> None:
        self.file = files[0]
        with zipfile.ZipFile(self.file) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            decompressed = sum(member.file_size for member in archive.infolist())
        if decompressed > max_decoded_bytes(self.file):
            raise DataError(
                f"{self.file} must decompress to at most {MAX_EXPANSION_RATIO} times its size, got {decompressed:,} "
                f"bytes from {self.file.stat().st_size:,}. Save it without compression: numpy.savez."
            )
        self.matrices = self.columns = [name.removesuffix(".npy") for name in members]

    def matrix(self, name: str) -> Tensor:
        return _to_tensor(name, self.array(name), self.file)

    def column(self, name: str) -> Any:
        return _to_arrow(name, self.array(name), self.file)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        with (
            _refusing_objects(name, self.file),
            zipfile.ZipFile(self.file) as archive,
            archive.open(f"{name}.npy") as member,
        ):
            num_bytes = archive.getinfo(f"{name}.npy").file_size
            yield from _npy_blocks(name, member, num_bytes, rows, self.file, lambda: self.matrix(name))

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """An array of numbers or text."""
        with _refusing_objects(name, self.file), zipfile.ZipFile(self.file) as archive:
            with archive.open(f"{name}.npy") as member:
                _read_header(name, member, archive.getinfo(f"{name}.npy").file_size)
            with archive.open(f"{name}.npy") as member:
                return np.lib.format.read_array(member, allow_pickle=False)


class _NpyPair:
    """Two .npy files, one with the features and one with the labels, memory-mapped."""

    is_sparse = False
    matrices = ("features",)
    columns: Sequence[str] = ("labels",)

    def __init__(self, files: Sequence[Path]) -> None:
        self.features, self.labels = files

    def matrix(self, name: str) -> Tensor:
        return _to_tensor(name, self._mapped(name, self.features), self.features)

    def column(self, name: str) -> Any:
        return _to_arrow(name, self._mapped(name, self.labels), self.labels)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        # Not memory-mapped: pages of a mapped file that were read count as memory of the process.
        with _refusing_objects(name, self.features), self.features.open("rb") as file:
            num_bytes = self.features.stat().st_size
            yield from _npy_blocks(name, file, num_bytes, rows, self.features, lambda: self.matrix(name))

    def _mapped(self, name: str, file: Path) -> np.ndarray[Any, Any]:
        with _refusing_objects(name, file):
            with file.open("rb") as opened:
                _read_header(name, opened, file.stat().st_size)
            # "c" is copy-on-write: torch wants writable memory, and the file does not change.
            return np.lib.format.open_memmap(file, mode="c")


class _SparseNpz(_NpyPair):
    """A sparse matrix of SciPy, and a .npy file with the labels, where there is one."""

    is_sparse = True

    def __init__(self, files: Sequence[Path]) -> None:
        _NpzFile(files)  # checks what the file decompresses to
        super().__init__([files[0], files[-1]])
        self.columns = ("labels",) if files[-1].suffix.lower() == ".npy" else ()

    def matrix(self, name: str) -> Tensor:
        return read_sparse_npz(self.features)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        return sparse_blocks(self.matrix(name), rows)


class _SafetensorsFile:
    """Named tensors, memory-mapped."""

    is_sparse = False

    def __init__(self, files: Sequence[Path]) -> None:
        self.file = files[0]
        with safe_open(self.file, "pt") as tensors:
            self.matrices = self.columns = list(tensors.keys())

    def matrix(self, name: str) -> Tensor:
        with safe_open(self.file, "pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        if tensor.dtype.is_complex or (tensor.itemsize == 1 and tensor.is_floating_point()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise DataError(f"`{name}` must hold numbers, got {dtype} [in {self.file.name}]. Save it as float32.")
        return tensor

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        return iter(self.matrix(name).split(rows))

    def column(self, name: str) -> Any:
        values = self.matrix(name)
        return _to_arrow(name, (values.float() if values.dtype == torch.bfloat16 else values).numpy(), self.file)


class _ParquetLists:
    """A .parquet file with a column of lists, which is the matrix, and columns of single values."""

    is_sparse = False

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.types as types
        from pyarrow.parquet import ParquetFile

        self.path = files[0]
        # By default pyarrow holds all bytes of a column, besides the matrix that is made of them.
        self.file = ParquetFile(self.path, pre_buffer=False, buffer_size=2**20)
        self.schema = self.file.schema_arrow
        list_tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        self.matrices = [field.name for field in self.schema if any(is_list(field.type) for is_list in list_tests)]
        self.columns = [field.name for field in self.schema if not types.is_nested(field.type)]
        self._check_stated_rows()
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

    def _check_stated_rows(self) -> None:
        """Refuses a small file whose stated rows or values would not fit into memory."""
        metadata = self.file.metadata
        values = sum(
            metadata.row_group(group).column(column).num_values
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        )
        if max(values, metadata.num_rows) > max_decoded_bytes(self.path):
            raise DataError(
                f"{self.path} must have the rows that its header states, and it states {metadata.num_rows:,} rows with "
                f"{values:,} values in {self.path.stat().st_size:,} bytes. Write the file again."
            )

    def matrix(self, name: str) -> Tensor:
        rows, start = self.file.metadata.num_rows, 0
        matrix = np.empty((rows, 0), np.float32)
        # Batches are copied into one matrix: reading the column as a whole would hold all values twice.
        for values in self.blocks(name, LIST_BATCH_ROWS):
            if not start:
                matrix = np.empty((rows, values.shape[1]), values.numpy().dtype)
            matrix[start : start + len(values)] = values
            start += len(values)
        return torch.from_numpy(matrix)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        import pyarrow.types as types

        value_type = self.schema.field(name).type.value_type
        if not (types.is_floating(value_type) or types.is_integer(value_type)):
            raise DataError(
                f"`dataset.features={name}` must hold lists of numbers, got lists of {value_type} "
                f"[in {self.path.name}]."
            )
        start, width = 0, None
        for batch in self.file.iter_batches(rows, columns=[name]):
            values = self._to_matrix(name, batch.column(0), start, width)
            start, width = start + len(values), values.shape[1]
            yield torch.from_numpy(np.array(values))

    def _to_matrix(self, name: str, lists: Any, start: int, width: int | None) -> np.ndarray[Any, Any]:
        """Lists of equal length as a matrix.

        Args:
            name: Name of the column.
            lists: Arrow array of n lists.
            start: Number of the first row in the file.
            width: Length of the lists before; ``None`` for the first batch.

        Returns:
            Shape (n, width).

        Raises:
            DataError: A list is missing, is of another length or has a missing value; names the first such row.
        """
        import pyarrow.compute as pc

        def refuse(is_bad: Any, constraint: str, got: Callable[[int], object]) -> None:
            if len(bad_rows := np.flatnonzero(is_bad)):
                place = f"row {start + int(bad_rows[0])} [in {self.path.name}]"
                raise DataError(f"`dataset.features={name}` must {constraint}, got {got(int(bad_rows[0]))} in {place}.")

        refuse(lists.is_null(), "have a list in every row", lambda row: "none")
        lengths = pc.list_value_length(lists).to_numpy()
        width = int(lengths[0]) if width is None else width
        refuse(lengths != width, f"have lists of the same length, {width} in row 0", lambda row: lengths[row])
        values = lists.flatten()
        if values.null_count:
            has_missing = np.asarray(values.is_null()).reshape(len(lists), width).any(1)
            refuse(has_missing, "have lists without missing values", lambda row: "one")
        matrix: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
        return matrix

    def column(self, name: str) -> Any:
        import pyarrow.types as types

        values = plain_values(self.file.read(columns=[name]).column(0))
        return values.cast(values.type.value_type) if types.is_dictionary(values.type) else values


def read_npz(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of a .npz file by name.

    Raises:
        DataError: An array holds Python objects, or the file decompresses to more than `max_decoded_bytes`.
        Exception: The file is broken; `explaining_errors` translates the exception.
    """
    archive = _NpzFile([file])
    return {name: archive.array(name) for name in archive.columns}


@contextmanager
def explaining_errors(key: str, file: Path) -> Iterator[None]:
    """Translates what the readers raise for a broken file.

    Args:
        key: The key that the user typed to name the file.
        file: The file that is read.

    Raises:
        DataError: The file is broken; names the file and the reason.
    """
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
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"`{key}` must be a complete file, and {file} could not be read: {reason}. Write it again."
        ) from error


def _npz(files: Sequence[Path]) -> ArrayFile:
    """The reader of a .npz file, whose matrix may be sparse, and of the file of its labels."""
    if is_sparse_npz(files[0]):
        return _SparseNpz(files)
    if files[-1] != files[0]:
        raise DataError(
            f"{files[0]} must be a sparse matrix of scipy.sparse.save_npz beside a file of labels, got dense arrays. "
            "Name it alone, with the labels in it."
        )
    return _NpzFile(files)


ARRAY_FORMATS: dict[str, Callable[[Sequence[Path]], ArrayFile]] = {
    ".npz": _npz,
    ".npy": _NpyPair,
    ".safetensors": _SafetensorsFile,
    ".parquet": _ParquetLists,
}
"""The reader of each format, by the suffix of its files; it takes one file, or two, the second with the labels."""

MATRIX_SUFFIXES = (".npz", ".npy", ".safetensors", *SVMLIGHT_SUFFIXES)
"""Suffixes of files that hold a matrix without column names."""


def open_arrays(
    key: str, files: Sequence[Path], first_index: int | None = None, num_features: int | None = None
) -> ArrayFile:
    """Opens a file, or two of which the second has the labels.

    Args:
        key: The key that the user typed to name the file.
        files: The file, or two.
        first_index: Number of the first feature in svmlight files; ``None`` to see.
        num_features: Number of features, which svmlight files do not state; ``None`` to see.

    Raises:
        DataError: The file is broken.
    """
    with explaining_errors(key, files[0]):
        if suffix_of(files[0]) in SVMLIGHT_SUFFIXES:
            svmlight = SvmlightFile(key, files[0], first_index, num_features)
            svmlight.rows  # noqa: B018  # read here, where errors are explained
            return svmlight
        return ARRAY_FORMATS[files[0].suffix.lower()](files)


@contextmanager
def _refusing_objects(name: str, file: Path) -> Iterator[None]:
    """Raises a DataError for an array of Python objects, which only unpickling could read."""
    try:
        yield
    except ValueError as error:
        if "object" not in str(error).lower():
            raise
        raise DataError(
            f"`{name}` must hold numbers or text, got Python objects [in {file.name}], which are never unpickled. "
            "Save numbers with .astype(numpy.float32) and labels with .astype(str)."
        ) from error


def _to_tensor(name: str, array: np.ndarray[Any, Any], file: Path) -> Tensor:
    """A tensor that shares the array's memory, unless its bytes or axes are in another order than torch needs."""
    _check_numeric(name, array.dtype, file)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)).contiguous()


def _check_numeric(name: str, dtype: np.dtype[Any], file: Path) -> None:
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        advice = " NumPy has no bfloat16: keep it in a .safetensors file." if dtype.kind == "V" else ""
        raise DataError(f"`dataset.features={name}` must hold numbers, got {dtype} [in {file.name}].{advice}")


def _read_header(name: str, member: IO[bytes], num_bytes: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The header of an array in the .npy format.

    Args:
        name: Name of the array.
        member: The open file, which is read up to the first value.
        num_bytes: Size of the file.

    Returns:
        The shape, whether the array is in Fortran order, and its type.

    Raises:
        ValueError: The header is broken, or its shape has more values than the file can hold.
    """
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(member)
    if version not in read_header:
        raise ValueError(f"{name} has the format version {version}, which is not read")
    try:
        shape, is_fortran_order, dtype = read_header[version](member)
    except ValueError as error:
        if "allow_pickle" in str(error):  # NumPy advises to allow pickles, which would run code from the file
            raise ValueError(f"the header of {name} is too long for an array") from None
        raise
    if min(shape, default=0) < 0 or (not dtype.hasobject and math.prod(shape) * dtype.itemsize > num_bytes):
        raise ValueError(f"{name} claims the shape {shape} of {dtype}, but the file holds {num_bytes:,} bytes")
    return shape, is_fortran_order, dtype


def _npy_blocks(
    name: str, member: IO[bytes], num_bytes: int, rows: int, file: Path, read_whole: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """The array of an open file in the .npy format, in blocks of at most ``rows`` rows.

    An array in Fortran order is read as a whole by ``read_whole``, since its rows are not contiguous.
    """
    shape, is_fortran_order, dtype = _read_header(name, member, num_bytes)
    if dtype.hasobject or is_fortran_order or not shape:
        yield from read_whole().split(rows)
        return
    _check_numeric(name, dtype, file)
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        data = bytearray(member.read(count * row_bytes))
        if len(data) != count * row_bytes:
            raise EOFError(f"{name} ends after {start} rows")
        yield _to_tensor(name, np.frombuffer(data, dtype).reshape(count, *shape[1:]), file)


def _to_arrow(name: str, array: np.ndarray[Any, Any], file: Path) -> Any:
    """An array of shape (N,) as an Arrow array."""
    import pyarrow as pa

    if array.ndim != 1:
        raise DataError(f"`{name}` must have one axis, a value for each row, got shape {array.shape} [in {file.name}].")
    return pa.array(array.astype(array.dtype.newbyteorder("="), copy=False))
