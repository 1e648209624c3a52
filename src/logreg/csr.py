"""Sparse rows: features as a sparse CSR tensor, their checks, their parts, and products with them.

A CSR (compressed sparse row) matrix has three arrays: ``values`` and ``columns`` of its non-zeros, row by row, and the
position at which each row begins.  Columns are held as int32, which halves the memory that a product reads.  X' R adds
each row's multiples to the result (SciPy, on one thread), about as fast as X W, without a transposed copy; many such
products with many columns take less time with one (`transposed`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MIN_BAG_COLUMNS = 9
"""Columns of W from which X W in float32 is a sum of embeddings: with fewer of them MKL's product takes less time."""

CHECKED_NUMEL = 2**20
"""Non-zeros that are checked at once, so that temporary copies of them stay small."""

MOST_COLUMNS = 2**27
"""Largest number of columns; an exact fit holds some ten vectors of that many float64, of 1 GiB each.

A wrong index in a file would otherwise fill the memory.
"""

MIN_NONZEROS_OF_COPY = 8
"""Non-zeros of a product, for each coefficient of an output, from which copying these in another order pays."""

NARROW_TYPES = (torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16)
"""Types whose numbers float32 holds exactly."""


def is_sparse(features: Any) -> bool:
    """Whether features are a sparse CSR tensor."""
    return isinstance(features, Tensor) and features.layout == torch.sparse_csr


def csr(begins: Tensor, columns: Tensor, values: Tensor, num_features: int) -> Tensor:
    """A CSR tensor of these arrays, which must be valid: they are neither checked nor copied.

    Args:
        begins: Position of each row's first non-zero, and the number of non-zeros, (n + 1,).
        columns: Shape (non-zeros,).
        values: Shape (non-zeros,).
        num_features: D.
    """
    shape = (len(begins) - 1, num_features)
    _warn_no_more()
    tensor: Tensor = torch.sparse_csr_tensor(begins, columns, values, shape, check_invariants=False)
    return tensor


@cache
def _warn_no_more() -> None:
    """Makes a first CSR tensor: torch warns then, once in a process, that its sparse tensors may still change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64), torch.zeros(0), (1, 1))


def as_scipy(features: Tensor) -> csr_array:
    """The same matrix for SciPy, on the same memory."""
    from scipy.sparse import csr_array

    arrays = (part.detach().cpu().numpy() for part in (features.values(), features.col_indices()))
    return csr_array((*arrays, features.crow_indices().cpu().numpy()), shape=tuple(features.shape), copy=False)


def of_scipy(matrix: Any) -> Tensor:
    """A CSR tensor of SciPy's CSR matrix, on the same memory."""
    begins, columns, values = (_tensor_of(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return csr(begins, columns, values, matrix.shape[1])


def checked_sparse(features: Any) -> Tensor:
    """Sparse features of any kind as a valid CSR tensor with sorted columns; dense tensors unchanged.

    Unsorted columns are sorted and entries of the same place are added, in a copy; zeros that are stored stay.  Numbers
    in float32 and float64 are not copied, and neither are columns in int32.

    Args:
        features: A tensor, or a sparse matrix or array of SciPy, shape (N, D).

    Raises:
        DataError: The features are no matrix of real numbers, a sparse tensor in another form than CSR, or their
            arrays do not fit together, or they have more than `MOST_COLUMNS`.
    """
    if isinstance(features, Tensor):
        if features.layout == torch.strided or features.ndim != 2 or features.is_complex():
            return features  # the check of dense features has the message
        device = features.device
    else:
        device = torch.device("cpu")
    try:
        matrix = _csr_of_tensor(features) if isinstance(features, Tensor) else _csr_of_scipy(features)
        matrix.check_format(full_check=True)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"sparse `features` must have valid CSR arrays, got: {error}. Make them with "
            "scipy.sparse.csr_array((values, (rows, columns)), shape=(N, D))."
        ) from None
    if matrix.shape[1] > MOST_COLUMNS:
        raise DataError(
            f"sparse `features` must have at most {MOST_COLUMNS:,} columns, got {matrix.shape[1]:,}: a fit needs "
            "memory for each, even where no row has it. Number those that rows have anew, or hash them into fewer."
        )
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    begins, columns, values = (_tensor_of(part).to(device) for part in (matrix.indptr, matrix.indices, matrix.data))
    return csr(begins, columns.to(torch.int32), values, matrix.shape[1])


def _csr_of_tensor(features: Tensor) -> csr_array:
    """SciPy's matrix of a sparse tensor of real numbers, in float32 or float64."""
    if features.layout != torch.sparse_csr:
        layout = str(features.layout).removeprefix("torch.")
        raise DataError(
            f"sparse `features` must be in the form CSR, got {layout}. Give features.to_sparse_csr(), or "
            "features.to_dense()."
        )
    values = features.values().detach()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32 if values.dtype in NARROW_TYPES else torch.float64)
    return as_scipy(with_values(features, values))


def _csr_of_scipy(features: Any) -> csr_array:
    """A sparse matrix or array of SciPy as a CSR array in float32 or float64, on the same memory where it is one."""
    from scipy import sparse

    if not sparse.issparse(features):
        raise DataError(
            f"`features` must be a tensor or a sparse matrix of SciPy, got {type(features).__name__}. "
            "Give torch.as_tensor(features)."
        )
    if features.ndim != 2 or features.dtype.kind not in "fiub":
        raise DataError(
            f"`features` must be a matrix (N, D) of real numbers, got {features.dtype} of shape {features.shape}."
        )
    matrix = sparse.csr_array(features)
    if matrix.dtype not in ("float32", "float64"):
        matrix = matrix.astype("float32" if matrix.dtype.itemsize <= 2 else "float64")
    # A new matrix: flags of the user's own say nothing of what was changed since.
    return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)


def _tensor_of(array: Any) -> Tensor:
    """A tensor on the memory of an array, which may be a read-only one of a file; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def check_finite(features: Tensor) -> None:
    """Checks that all values of a CSR tensor are finite.

    Raises:
        DataError: One is not; the message has its place.
    """
    if (place := place_not_finite(features)) is not None:
        row, column, value = place
        raise DataError(f"features must be finite, got {value} in row {row}, column {column}.")


def place_not_finite(features: Tensor) -> tuple[int, int, float] | None:
    """Row and column of the first value of a CSR tensor that is not finite, and the value; ``None`` without one."""
    for first in range(0, features.values().shape[0], CHECKED_NUMEL):
        values = features.values()[first : first + CHECKED_NUMEL]
        finite = values.isfinite()
        if not bool(finite.all()):
            place = int((~finite).nonzero()[0])
            row = int(torch.searchsorted(features.crow_indices(), first + place, right=True)) - 1
            return row, int(features.col_indices()[first + place]), float(values[place])
    return None


def column_sizes(features: Tensor) -> Tensor:
    """Largest absolute value of each column, (D,), float64."""
    largest = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for first in range(0, features.values().shape[0], CHECKED_NUMEL):
        part = slice(first, first + CHECKED_NUMEL)
        sizes, columns = features.values()[part].abs().double(), features.col_indices()[part].long()
        largest.scatter_reduce_(0, columns, sizes, "amax")
    return largest


def value_range(features: Tensor) -> tuple[float, float]:
    """Smallest absolute value other than 0 and largest one; infinity and 0 where there is none.

    The largest one is not finite where some value is not.
    """
    least, largest = math.inf, 0.0
    for first in range(0, features.values().shape[0], CHECKED_NUMEL):
        sizes = features.values()[first : first + CHECKED_NUMEL].abs()
        low, high = (float(extreme) for extreme in sizes.aminmax())
        if not math.isfinite(high):
            return least, high
        if low == 0:
            low = float(sizes.masked_fill_(sizes == 0, math.inf).min())
        least, largest = min(least, low), max(largest, high)
    return least, largest


def some_rows(features: Tensor, first: int, end: int) -> Tensor:
    """The rows from ``first`` to before ``end``: views of the values and columns."""
    begins = features.crow_indices()[first : end + 1]
    part = slice(int(begins[0]), int(begins[-1]))
    begins = (begins - begins[0]).to(torch.int32)
    return csr(begins, features.col_indices()[part], features.values()[part], features.shape[1])


def selected_rows(features: Tensor, which: Tensor) -> Tensor:
    """The rows that a mask (n,) or positions (m,) select: a copy."""
    return of_scipy(as_scipy(features)[which.cpu().numpy()]).to(features.device)


def rows_at(features: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows of features, dense or sparse, at positions (n,) or in a slice; contiguous ones are views."""
    if is_sparse(features):
        if isinstance(rows, Tensor):
            return selected_rows(features, rows)
        first, end, step = rows.indices(features.shape[0])
        return some_rows(features, first, end) if step == 1 else selected_rows(features, torch.arange(first, end, step))
    return features[rows] if isinstance(rows, slice) else features.index_select(0, rows.to(features.device))


def arrays_of(features: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that hold features: themselves, or the three arrays of a CSR tensor."""
    if is_sparse(features):
        return features.crow_indices(), features.col_indices(), features.values()
    return (features,)


def num_bytes(features: Tensor) -> int:
    """Memory that features, dense or sparse, take, in bytes."""
    return sum(part.numel() * part.element_size() for part in arrays_of(features))


def selected_columns(features: Tensor, which: Tensor) -> Tensor:
    """The columns at these positions, (W,), as a dense matrix (n, W)."""
    columns = torch.from_numpy(as_scipy(features)[:, which.cpu().numpy()].toarray())
    return columns.to(features.device)


def without_last_column(features: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix (n, D - 1) without its last column, and that column, dense, (n,)."""
    begins, columns, values = features.crow_indices(), features.col_indices(), features.values()
    last = features.shape[1] - 1
    kept = columns != last
    before = torch.cat([begins.new_zeros(1), kept.cumsum(0, dtype=begins.dtype)])[begins.long()]
    of_rows = torch.arange(len(features), device=values.device).repeat_interleave(begins.diff().long())[~kept]
    column = values.new_zeros(len(features)).index_add_(0, of_rows, values[~kept])
    return csr(before, columns[kept], values[kept], last), column


def appended_ones(features: Tensor) -> Tensor:
    """Sparse features (n, D) with a last column of ones: a copy, (n, D + 1)."""
    from scipy.sparse import csr_array, hstack

    ones = features.values().new_ones(features.shape[0], 1).numpy()
    return of_scipy(hstack([as_scipy(features), csr_array(ones)], format="csr"))


def with_values(features: Tensor, values: Tensor) -> Tensor:
    """The matrix with other values at the same places."""
    return csr(features.crow_indices(), features.col_indices(), values, features.shape[1])


def converted(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Features, dense or sparse, in a floating type; not copied where they have it."""
    if features.layout == torch.strided:
        return features.to(dtype)
    return features if features.dtype == dtype else with_values(features, features.values().to(dtype))


def scaled_columns(features: Tensor, by: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix with each column times a number, (D,), computed in float64."""
    values = features.values().double() * by.to(features.device)[features.col_indices().long()]
    return with_values(features, values.to(dtype))


def at_nonzeros(features: Tensor, of_rows: Tensor) -> Tensor:
    """A number of each row, (n,), at each of its non-zeros: shape (non-zeros,)."""
    numbers = features.crow_indices().diff().long()
    return of_rows.repeat_interleave(numbers, output_size=features.values().shape[0])


def squared(features: Tensor) -> Tensor:
    """The squares of all features, dense or sparse."""
    return features.square() if features.layout == torch.strided else with_values(features, features.values().square())


def times(features: Tensor, matrix: Tensor) -> Tensor:
    """Sparse features (n, D) @ matrix (D, K): shape (n, K)."""
    on_cpu = features.device.type == "cpu"
    if sums_embeddings(features, matrix.dtype, matrix.shape[1]):
        begins = features.crow_indices()[:-1]
        return F.embedding_bag(
            features.col_indices(),
            matrix.contiguous(),
            begins.to(features.col_indices().dtype),
            mode="sum",
            per_sample_weights=features.values(),
        )
    if on_cpu and not torch.backends.mkl.is_available():
        return torch.from_numpy(as_scipy(features) @ matrix.numpy())
    if matrix.shape[1] == 1:  # torch would copy a column of another layout
        return (features @ matrix[:, 0].contiguous()).unsqueeze(1)
    product: Tensor = features @ matrix
    return product


def transposed(features: Tensor) -> Tensor:
    """The transpose (D, n) of sparse features (n, D), again by rows: a copy."""
    return of_scipy(as_scipy(features).T.tocsr())


def sums_embeddings(where: Tensor, dtype: torch.dtype, columns: int) -> bool:
    """Whether a product with so many columns is a sum of embeddings, on the device of ``where``."""
    return where.device.type == "cpu" and dtype == torch.float32 and columns >= MIN_BAG_COLUMNS


def transposed_times(features: Tensor, left: Tensor) -> Tensor:
    """Left (n, K).T @ sparse features (n, D): shape (K, D)."""
    if features.device.type != "cpu":
        product: Tensor = (features.t() @ left).T
        return product
    return torch.from_numpy(as_scipy(features).T @ left.numpy()).T


@dataclass(frozen=True)
class StandardizedRows:
    """Sparse rows as (x - mean) / std, which are never formed: products are those of x, corrected afterwards.

    Attributes:
        rows: A CSR tensor (n, D).
        mean, std: Shape (D,) each, in the type of the rows; empty where features are not standardized.
    """

    rows: Tensor
    mean: Tensor
    std: Tensor

    def split(self, sizes: Sequence[int]) -> list[StandardizedRows]:
        """The rows in parts of so many rows each."""
        ends = accumulate(sizes, initial=0)
        parts = [some_rows(self.rows, first, end) for first, end in pairwise(ends)]
        return [StandardizedRows(part, self.mean, self.std) for part in parts]

    def affine(self, coef: Tensor, intercept: Tensor) -> Tensor:
        """Logits (n, K) of coef (K, D) and intercept (K,)."""
        if len(self.mean):
            coef = coef / self.std
            intercept = intercept - coef @ self.mean
        if len(coef) == 1 or self.rows.values().shape[0] > MIN_NONZEROS_OF_COPY * coef.shape[1]:
            return times(self.rows, coef.T).add_(intercept)
        # A product with a matrix would copy the coefficients, which takes longer than a batch.
        return torch.stack([self.rows @ of_output for of_output in coef], dim=1).add_(intercept)

    def add_sums_(self, left: Tensor, sums: Tensor) -> None:
        """Adds left (n, K).T @ rows to ``sums`` (K, D)."""
        columns, values = self.rows.col_indices(), self.rows.values()
        own = torch.zeros_like(sums) if len(self.mean) else sums
        for output in range(len(sums)):
            own[output].index_add_(0, columns, at_nonzeros(self.rows, left[:, output]).mul_(values))
        if len(self.mean):
            sums.add_(own.addr_(left.sum(0), self.mean, alpha=-1).div_(self.std))
