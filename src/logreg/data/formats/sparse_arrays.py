"""Reads sparse matrices: .npz files of SciPy, and svmlight (LIBSVM) files, as CSR tensors.

References:
    SciPy, scipy.sparse.save_npz (one array of the file for each array of the matrix).
    Chang and Lin (2011), LIBSVM: A library for support vector machines (the format ``label index:value ...``).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from logreg.csr import checked_sparse, some_rows
from logreg.data.formats.compression import open_binary
from logreg.errors import DataError

SVMLIGHT_SUFFIXES = (".svm", ".libsvm", ".svmlight")
"""Suffixes of svmlight files, which may be compressed: ``a.svm.gz``."""

INT32_MAX = 2**31 - 1


def is_sparse_npz(file: Path) -> bool:
    """Whether a .npz file is a matrix of ``scipy.sparse.save_npz``."""
    with zipfile.ZipFile(file) as archive:
        return {"format.npy", "shape.npy", "data.npy"} <= set(archive.namelist())


def read_sparse_npz(file: Path) -> Tensor:
    """The matrix of a file of ``scipy.sparse.save_npz``, in any of its forms, as a CSR tensor.

    Raises:
        DataError: The matrix does not hold real numbers, or its arrays do not fit each other.
        Exception: The file is broken; `explaining_errors` of `logreg.data.formats.arrays` translates the exception.
    """
    from scipy import sparse

    matrix = sparse.load_npz(file)
    try:
        if hasattr(matrix, "check_format"):  # before a conversion, which trusts the indices
            matrix.check_format(full_check=True)
    except ValueError as error:
        raise DataError(
            f"a sparse matrix must have arrays that fit each other, got: {error} [in {file.name}]. "
            "Make it again from its entries: scipy.sparse.coo_array((values, (rows, columns)), shape) "
            "refuses wrong places."
        ) from None
    if matrix.dtype.kind not in "fiub" or matrix.dtype.itemsize > 8:
        raise DataError(f"a sparse matrix must hold real numbers, got {matrix.dtype} [in {file.name}].")
    return checked_sparse(matrix)


class SvmlightRows(NamedTuple):
    """The rows of a svmlight file."""

    features: Tensor
    """A CSR tensor (N, D), float64."""
    labels: np.ndarray[Any, Any]
    """Shape (N,): int64 where all labels are whole numbers, else float64."""
    query: np.ndarray[Any, Any] | None
    """The number after ``qid:`` in each line, shape (N,), int64; ``None`` where no line has one."""
    first_index: int
    """Number of the first feature in the file: 0 or 1."""


def check_numbers(key: str, name: str, least: int, largest: int, first: int, width: int | None) -> None:
    """Checks the numbers of the features of a svmlight file against those of the file of train.

    Args:
        key: The key that the user typed to name the file.
        name: Name of the file.
        least: The smallest number in the file.
        largest: The largest one.
        first: Number of the first feature of train.
        width: Number of features of train; ``None`` for any.

    Raises:
        DataError: A number is none of train's.
    """
    if least < first:
        raise DataError(
            f"`{key}` must number its features from {first} on, as the file of train does, got {least} [in {name}]. "
            "Number both alike; 0:0 in a line of the file of train states that it begins with 0."
        )
    if width is not None and largest > width - 1 + first:
        raise DataError(
            f"`{key}` must have features that train has, {first} to {width - 1 + first}, got {largest} [in {name}]. "
            "Leave the others out of the file."
        )


class SvmlightFile:
    """A svmlight file as an `ArrayFile`: the features, their labels, and ``qid``."""

    is_sparse = True
    matrices = ("features",)

    def __init__(self, key: str, file: Path, first_index: int | None = None, num_features: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            key: The key that the user typed to name the file.
            file: The file.
            first_index: Number of the first feature; ``None`` for 0 where the file has a feature 0, else 1.
            num_features: D; ``None`` for as many as the file has.
        """
        self.key, self.file, self._first, self._width = key, file, first_index, num_features

    @cached_property
    def rows(self) -> SvmlightRows:
        """All rows.

        Raises:
            DataError: A line has another form, or names a feature that is not one of D.
        """
        from scipy import sparse
        from sklearn.datasets import load_svmlight_file

        with open_binary(self.file, self.key) as opened:
            try:
                x, labels, query = load_svmlight_file(opened, dtype=np.float64, zero_based=True, query_id=True)
            except (ValueError, OverflowError) as error:
                raise self._explained(str(error)) from error
        if not len(labels):
            raise DataError(f"`{self.key}` must have rows, got none [in {self.file.name}].")
        if len(query) not in (0, len(labels)):
            raise DataError(
                f"`{self.key}` must have qid in every line or in none, got it in {len(query):,} of {len(labels):,} "
                f"[in {self.file.name}]."
            )
        least = int(x.indices.min()) if x.nnz else 1
        first = min(least, 1) if self._first is None else self._first
        width = (int(x.indices.max()) + 1 - first) if x.nnz else 0
        check_numbers(self.key, self.file.name, least, width - 1 + first, first, self._width)
        columns = (x.indices - first).astype(np.int32)
        features = sparse.csr_array((x.data, columns, x.indptr), shape=(len(labels), self._width or width))
        is_whole = np.isfinite(labels).all() and (labels == np.rint(labels)).all()
        return SvmlightRows(
            checked_sparse(features),
            labels.astype(np.int64) if is_whole else labels,
            query if len(query) else None,
            first,
        )

    @property
    def columns(self) -> Sequence[str]:
        """Names of the arrays that can be labels or groups."""
        return ("labels",) if self.rows.query is None else ("labels", "qid")

    def matrix(self, name: str) -> Tensor:
        """The features, a CSR tensor (N, D)."""
        return self.rows.features

    def column(self, name: str) -> Any:
        """The labels, or the groups, as an Arrow array (N,)."""
        import pyarrow as pa

        return pa.array(self.rows.labels if name == "labels" else self.rows.query)

    def blocks(self, name: str, rows: int) -> Iterator[Tensor]:
        """The features in blocks of at most ``rows`` rows."""
        yield from sparse_blocks(self.rows.features, rows)

    def _explained(self, reason: str) -> DataError:
        """The error of the first line that is not of the format; ``reason`` where none is found."""
        with open_binary(self.file, self.key) as lines:
            for number, line in enumerate(lines, start=1):
                if fault := _fault(line.partition(b"#")[0].decode("utf-8", "replace").split()):
                    return DataError(
                        f"`{self.key}` must have lines such as 1 3:0.5 7:2, a class and then index:value in ascending "
                        f"order, got {fault} in line {number} [in {self.file.name}]. "
                        "sklearn.datasets.dump_svmlight_file writes such files."
                    )
        return DataError(f"`{self.key}` must be a svmlight file, and {self.file} could not be read: {reason}")


def _fault(words: Sequence[str]) -> str:
    """What is wrong with the words of a line of a svmlight file; empty where nothing is."""
    if not words:
        return ""
    label, *pairs = words
    if ":" in label:
        return f"no class before {label}"
    if "," in label:
        return f"several classes, {label},"
    try:
        float(label)
    except ValueError:
        return f"the class {label!r}, which is no number,"
    last = -1
    for pair in pairs:
        index, colon, value = pair.partition(":")
        if index == "qid" and colon:
            continue
        try:
            place, _ = int(index), float(value)
        except ValueError:
            return repr(pair)
        if place < 0:
            return f"the negative index {place}"
        if place > INT32_MAX:
            return f"the index {place} above {INT32_MAX}"
        if place <= last:
            return f"index {place} after {last}"
        last = place
    return ""


def sparse_blocks(features: Tensor, rows: int) -> Iterator[Tensor]:
    """A CSR tensor in blocks of at most ``rows`` rows, which are views."""
    for first in range(0, features.shape[0], rows):
        yield some_rows(features, first, min(first + rows, features.shape[0]))
