"""Matrix products with few columns, in the shapes in which BLAS libraries are fast.

The products of logistic regression are tall and thin: (n, D) @ (D, K) for the logits, and (n, K).T @ (n, D) for
gradients, with K of 1 to some tens.  General matrix multiplication is tuned for large K.  The functions here compute
the same products with the transposes, with the rows split over threads, or with another library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg.csr import converted, is_sparse, times, transposed_times
from logreg.facts import Batch
from logreg.solvers.threads import threads_for

Array = np.ndarray[Any, Any]

MIN_ROWS_PER_THREAD = 512
"""Rows of each part of a product that is split over threads, at least, so that a part outweighs its overhead."""

TRIANGLE_STRIP_COLUMNS = 128
"""Columns of a symmetric product that are computed at once.

Only the lower triangle is wanted; a strip computes its square on the diagonal in full, and nothing above it.
"""

MIN_SHARED_PRODUCTS = 2**30
"""Multiplications of a symmetric product from which threads share it: far more than the start of a thread takes."""

NUMPY_DEVICES = ("cpu",)
"""Types of devices whose tensors NumPy reads."""

MIN_NUMPY_FEATURES = 64
"""Features from which NumPy multiplies them with one vector: with more, its BLAS takes less time than torch's, at least
on processors of AMD."""

SUM_ROWS = 512
"""Largest number of rows whose terms are left to a library to add up in float64; sums of such parts are added up here.

A bound on the rounding error of a sum of n terms holds whatever their order, and grows with n: so it needs to know
nothing of a library's order where n is small.  Parts of this size stay in the second-level cache, too.
"""

MAX_SMALL_PRODUCT = 1_000_000
"""Multiplications of a product up to which OpenBLAS, which is NumPy's, takes its kernel for small matrices."""

MAX_STREAMED_FEATURES = 1024
"""Features up to which rows from memory are multiplied or added up faster one after the other than by BLAS, which reads
several at a time."""

MIN_ONEDNN_FEATURES, MAX_ONEDNN_OUTPUTS = 512, 48
"""Features from which, and outputs up to which, oneDNN multiplies float32 features with coefficients faster than MKL,
which is slow to read long rows from memory."""

MIN_ROWWISE_FEATURES, MAX_ROWWISE_OUTPUTS = 24, 8
"""Features from which, and outputs up to which, MKL multiplies float64 features with coefficients faster by rows
than by columns."""

MIN_TILE_FILL, TILE_OUTPUTS = 6, 12
"""Outputs from which sums over rows in float64 are padded to a whole tile of the matrix kernel, of so many, which takes
less time."""

MAX_OUTER_NUMBERS = {"cpu": 2**19, "cuda": 2**24}
"""Numbers of the products of curvatures and features that are held at once, by device: 2 MiB in float32 stay in a CPU's
cache, and 64 MiB keep a GPU busy."""


def affine(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """Features (n, D), dense or sparse, @ coef.T + intercept, for coef (K, D) and intercept (K,): shape (n, K).

    On a CPU the logits of each output lie together in memory, since a softmax over columns takes less time, too.
    """
    if is_sparse(features):
        return times(features, coef.T).add_(intercept)
    outputs, parts = len(intercept), _parts(features)
    if outputs == 1 and parts > 1:  # BLAS computes a product with one vector on one thread
        even = len(features) // parts * parts
        logits = torch.baddbmm(intercept, _split(features[:even], parts), coef.T.expand(parts, -1, -1)).view(even, 1)
        rest = features[even:]
        return torch.cat([logits, torch.addmm(intercept, rest, coef.T)]) if len(rest) else logits
    if outputs == 1 and _suits_numpy(features, coef):
        return torch.from_numpy(times_vector(features.numpy(), coef[0].numpy())).add_(intercept).unsqueeze(1)
    if outputs > 1 and features.device.type == "cpu" and not _is_recorded(features, coef):
        product = _rowwise_product(features, outputs)
        if product is not None:
            return product(features, coef, intercept).T.contiguous().T
        return torch.addmm(intercept.unsqueeze(1), coef, features.T).T
    return _plain_product(features, coef, intercept)


def times_vector(rows: Array, vector: Array, out: Array | None = None) -> Array:
    """Rows (n, D) @ a vector (D,), in ``out`` where it is given: (n,).  Rows of medium length may come from memory."""
    is_streamed = MIN_NUMPY_FEATURES <= rows.shape[1] <= MAX_STREAMED_FEATURES and rows.strides[1] == rows.itemsize
    product: Array = (np.vecdot if is_streamed else np.matmul)(rows, vector, out=out)
    return product


def _rowwise_product(features: Tensor, outputs: int) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """What computes logits that lie by rows, where that and a copy take less time than logits by columns."""
    width = features.shape[1]
    if features.dtype == torch.float32 and width >= MIN_ONEDNN_FEATURES and outputs <= MAX_ONEDNN_OUTPUTS:
        return _onednn() if features.is_contiguous() else None
    if features.dtype == torch.float64 and width >= MIN_ROWWISE_FEATURES and outputs <= MAX_ROWWISE_OUTPUTS:
        return _plain_product
    return None


def _plain_product(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    return torch.addmm(intercept, features, coef.T)


@cache
def _onednn() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """The linear layer of oneDNN, if this build of torch has it; ``None`` else.

    torch offers the operator to its compiler only, under a name that may change.
    """

    def linear(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(features, coef, intercept, "none", [], "")
        return logits

    try:
        linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return linear


def logits_of(block: Batch, coef: Tensor, intercept: Tensor) -> Tensor:
    """Logits of a block's rows in float64, (n, K), of coef (K, D) and intercept (K,) by its features."""
    logits = affine(converted(block.features, torch.float64), coef, intercept)
    return logits if block.offset is None else logits.add_(block.offset.double().unsqueeze(1))


def sum_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ right (n, B): shape (A, B); in float64 by `sum_of_parts`.  ``right`` may be sparse."""
    if is_sparse(right):
        return transposed_times(right, left)
    if left.dtype == torch.float64 or _suits_small_parts(left, right):
        return sum_of_parts(left, right)
    parts = _parts(left)
    return _product_over_rows(left, right) if parts == 1 else _sum_of_equal_parts(left, right, parts)


def sum_of_parts(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ dense right (n, B) as the sum of products over at most `SUM_ROWS` rows each: shape (A, B)."""
    number = left.shape[0]
    parts = -(-number // SUM_ROWS)
    if parts <= 1:
        return _product_over_rows(left, right)
    if not _suits_numpy_parts(left, right):
        return _sum_of_equal_parts(left, right, parts)
    length, factors, rows = number // parts, left.numpy(), right.numpy()
    even = parts * length
    some = factors[:even].reshape(parts, length, -1).transpose(0, 2, 1)
    total = np.matmul(some, rows[:even].reshape(parts, length, -1)).sum(0)
    if even < number:
        total += factors[even:].T @ rows[even:]
    return torch.from_numpy(total)


def _product_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ right (n, B) as one product."""
    if left.shape[1] == 1 and _suits_numpy(right, left):
        return torch.from_numpy(left[:, 0].numpy() @ right.numpy()).unsqueeze(0)
    return _padded_product(left, right, lambda left, right: left.T @ right)


def _sum_of_equal_parts(left: Tensor, right: Tensor, parts: int) -> Tensor:
    """Left (n, A).T @ right (n, B), with the rows in so many parts of one length, and the few that are left over."""
    even = len(left) // parts * parts
    some, others = _split(left[:even], parts), _split(right[:even], parts)
    total = _padded_product(some, others, lambda left, right: torch.bmm(left.mT, right).sum(0))
    return total if even == len(left) else total.add_(left[even:].T @ right[even:])


def _padded_product(left: Tensor, right: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A product (A, B) of left (..., A) and right, with A padded to a whole tile of torch's BLAS where that pays."""
    columns = left.shape[-1]
    if not (MIN_TILE_FILL <= columns < TILE_OUTPUTS and left.dtype == torch.float64 and left.device.type == "cpu"):
        return product(left, right)
    return product(F.pad(left.mT, (0, 0, 0, TILE_OUTPUTS - columns)).mT, right)[:columns]


def total_over_rows(numbers: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The sum of numbers (n, ...) over the rows, (...): in float64 as a sum of sums over at most `SUM_ROWS` rows each.

    Numbers of another type are added up in ``dtype``, by default their own.
    """
    rows, *shape = numbers.shape  # which takes less time than `len`
    parts = -(-rows // SUM_ROWS)
    if parts <= 1 or numbers.dtype != torch.float64:
        return numbers.sum(0, dtype=dtype)
    even = rows // parts * parts
    some = numbers if even == rows else numbers[:even]
    total = some.reshape(parts, -1, *shape).sum(1).sum(0)
    return total if even == rows else total.add_(numbers[even:].sum(0))


def sum_over_cold_rows(left: Tensor, right: Tensor) -> Tensor:
    """`sum_over_rows` for dense ``right`` (n, B) that is read from memory and not from the cache, for nothing else.

    For one column of ``left`` BLAS reads several rows at a time, einsum one after the other: in rows of medium length
    memory then delivers more.
    """
    is_one = left.shape[1] == 1 and _parts(left) == 1
    if not (is_one and right.shape[1] <= MAX_STREAMED_FEATURES and _suits_numpy(right, left)):
        return sum_over_rows(left, right)
    factors, rows = left[:, 0].numpy(), right.numpy()
    total = np.zeros_like(rows, shape=rows.shape[1])
    for first in range(0, len(rows), SUM_ROWS):
        part = slice(first, first + SUM_ROWS)
        total += np.einsum("i,ij->j", factors[part], rows[part])
    return torch.from_numpy(total).unsqueeze(0)


def empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for numbers of the type and on the device of ``like``.

    NumPy asks for huge pages on Linux, and torch does not: the first write to a large matrix meets fewer page faults.
    """
    if like.device.type not in NUMPY_DEVICES:
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, like[:0].numpy().dtype))


def add_lower_triangle(square: Tensor, rows: Tensor) -> None:
    """Adds rows (n, B) @ rows.T to the lower triangle of ``square`` (n, n).

    Entries above the diagonal are not complete afterwards: only those within a strip of the diagonal are added to.
    """
    for first in range(0, len(rows), TRIANGLE_STRIP_COLUMNS):
        end = first + TRIANGLE_STRIP_COLUMNS
        square[first:, first:end].addmm_(rows[first:], rows[first:end].T)


def _add_sum_of_parts(square: Tensor, left: Tensor, right: Tensor, sign: float = 1.0) -> None:
    """Adds ``sign`` times left (n, P).T @ right (n, P), which is symmetric, to the lower triangle as above."""
    for first in range(0, len(square), TRIANGLE_STRIP_COLUMNS):
        end = first + TRIANGLE_STRIP_COLUMNS
        square[first:, first:end].add_(sum_of_parts(left[:, first:], right[:, first:end]), alpha=sign)


def weighted_gram(features: Tensor, weights: Tensor) -> Tensor:
    """Sum over the rows of weight x x', for features (n, D) and weights (n, 1), by `sum_of_parts`: shape (D, D)."""
    weighted = features * weights
    if features.shape[1] <= TRIANGLE_STRIP_COLUMNS:
        return sum_of_parts(features, weighted)
    gram = features.new_zeros(features.shape[1], features.shape[1])
    _add_sum_of_parts(gram, features, weighted)
    return mirrored(gram)


def gram_of_columns(columns: Tensor, weights: Tensor, which: Tensor | None = None) -> Tensor:
    """Sum over the rows of weight x x', for columns (D, ...), or ``which`` of them, and weights (...) >= 0: (D, D).

    The rows may have several dimensions.  NumPy computes the product where it can: it sees that the product is
    symmetric, and computes one triangle alone.  A large product is shared among as many threads as torch has, each
    with some strips of the lower triangle.
    """
    scaled = (columns * weights.sqrt() if which is None else columns[which].mul_(weights.sqrt())).flatten(1)
    if columns.device.type not in NUMPY_DEVICES:
        return scaled @ scaled.T
    rows, gram = scaled.numpy(), scaled.new_empty(len(scaled), len(scaled))
    square, threads = gram.numpy(), torch.get_num_threads()
    if threads == 1 or len(rows) * rows.size < MIN_SHARED_PRODUCTS:
        np.matmul(rows, rows.T, out=square)
        return gram

    def strip(first: int) -> None:
        end = first + TRIANGLE_STRIP_COLUMNS
        np.matmul(rows[first:], rows[first:end].T, out=square[first:, first:end])

    with threads_for(math.inf), ThreadPoolExecutor(threads) as pool:
        list(pool.map(strip, range(0, len(rows), TRIANGLE_STRIP_COLUMNS)))
    return mirrored(gram)


def coupled_gram(features: Tensor, curvature: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over the rows of s (diag(c) - c c') x x', the Kronecker product of two matrices: shape (K * D, K * D).

    The second term is one symmetric product of the matrix with the rows sqrt(s) c x, as fast as a product can be.
    All sums are those of `sum_of_parts`.

    Args:
        features: Shape (n, D).
        curvature: The vectors c, (n, K).
        weights: The weights s, (n, 1), >= 0; ``None`` for all 1.
    """
    (n, d), k = features.shape, curvature.shape[1]
    gram, own = features.new_zeros(k * d, k * d), features.new_zeros(k * d, d)
    few = max(1, MAX_OUTER_NUMBERS.get(features.device.type, MAX_OUTER_NUMBERS["cuda"]) // (k * d))
    for first in range(0, n, few):
        x, c = features[first : first + few], curvature[first : first + few]
        x = x if weights is None else x * weights[first : first + few].sqrt()
        outer = (c.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
        _add_sum_of_parts(gram, outer, outer, sign=-1.0)
        own += sum_of_parts(outer, x)
    gram.view(k, d, k, d).diagonal(dim1=0, dim2=2).add_(own.view(k, d, d).permute(1, 2, 0))
    return mirrored(gram)


def mirrored(square: Tensor) -> Tensor:
    """The symmetric matrix with the lower triangle of a square one, in its place."""
    for first in range(0, len(square), TRIANGLE_STRIP_COLUMNS):
        end = first + TRIANGLE_STRIP_COLUMNS
        corner = square[first:end, first:end].tril(-1)
        square[first:end, first:end].tril_().add_(corner.T)
        square[first:end, end:] = square[end:, first:end].T
    return square


def _suits_numpy(features: Tensor, vector: Tensor) -> bool:
    """Whether NumPy multiplies features (n, D) with one vector, and faster than torch."""
    return features.shape[1] >= MIN_NUMPY_FEATURES and _is_plain(features, vector)


def _suits_small_parts(left: Tensor, right: Tensor) -> bool:
    """Whether the sum of small products takes less time in float32 than one product of left (n, A).T and right."""
    is_small = SUM_ROWS * left.shape[1] * right.shape[1] <= MAX_SMALL_PRODUCT
    return left.shape[1] > 1 and is_small and _suits_numpy_parts(left, right)


def _suits_numpy_parts(left: Tensor, right: Tensor) -> bool:
    """Whether NumPy multiplies parts of few rows, and faster than torch, at least on processors of AMD."""
    return torch.get_num_threads() == 1 and _is_plain(left, right)


def _is_plain(*tensors: Tensor) -> bool:
    """Whether NumPy reads the memory of dense tensors, which torch does not record."""
    return not _is_recorded(*tensors) and all(
        one.device.type in NUMPY_DEVICES and one.dtype in (torch.float32, torch.float64) for one in tensors
    )


def _is_recorded(*tensors: Tensor) -> bool:
    """Whether torch records what is done with tensors: for gradients, or to export a model, which stays plain."""
    return any(one.requires_grad or type(one) is not Tensor for one in tensors)


def _parts(rows: Tensor) -> int:
    """The number of parts that rows (n, ...) are split into: one for each CPU thread, or 1 where they are too few."""
    threads = torch.get_num_threads()
    return threads if rows.device.type == "cpu" and len(rows) >= MIN_ROWS_PER_THREAD * threads else 1


def _split(rows: Tensor, parts: int) -> Tensor:
    """A view of rows (n, ...) as (parts, n / parts, ...)."""
    split: Tensor = rows.unflatten(0, (parts, -1))
    return split
