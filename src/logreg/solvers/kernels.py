"""Products with tall matrices of few columns, in the shapes in which BLAS is fast at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = {torch.float32: 8, torch.float64: 12}
"""Columns that a CPU's kernel works on at once; a few of them less take longer."""

FEW, MANY = 6, 48
"""Columns up to which, and from which, nothing is gained by filling them up."""

TALL = 512
"""Rows that each part of a product has at least, where it is split over threads."""

STRIP = 128
"""Columns of a symmetric product that are computed at once; the entries above its diagonal are not wanted."""


def affine(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """Features (n, D) @ coef.T + intercept, for coef (K, D) and intercept (K,): shape (n, K)."""
    outputs, parts = len(intercept), _parts(features)
    if outputs == 1 and parts > 1:  # a product with a vector keeps to one thread
        even = len(features) // parts * parts
        logits = torch.baddbmm(intercept, _split(features[:even], parts), coef.T.expand(parts, -1, -1)).view(even, 1)
        rest = features[even:]
        return torch.cat([logits, torch.addmm(intercept, rest, coef.T)]) if len(rest) else logits
    if missing := _missing(features, outputs):
        coef = torch.cat([coef, coef.new_zeros(missing, coef.shape[1])])
        intercept = torch.cat([intercept, intercept.new_zeros(missing)])
    plain = features.dtype == torch.float32 and features.device.type == "cpu" and features.is_contiguous()
    linear = _onednn() if plain and 2 < outputs < MANY else None
    logits = torch.addmm(intercept, features, coef.T) if linear is None else linear(features, coef, intercept)
    return logits[:, :outputs]


@cache
def _onednn() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """That of oneDNN, if this torch has it: MKL's takes longer at few outputs, on AMD's processors at least.

    torch offers it to its compiler only, by a name that may change.
    """

    def linear(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
        logits: Tensor = torch.ops.mkldnn._linear_pointwise(features, coef, intercept, "none", [], "")
        return logits

    try:
        linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return linear


def sum_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ right (n, B): shape (A, B), with as many parts of the rows as there are threads."""
    parts, columns = _parts(left), left.shape[1]
    if left.dtype == torch.float64 and (missing := _missing(left, columns)):
        return sum_over_rows(F.pad(left, (0, missing)), right)[:columns]
    if parts == 1:
        return left.T @ right
    even = len(left) // parts * parts
    total = torch.bmm(_split(left[:even], parts).mT, _split(right[:even], parts)).sum(0)
    return total if even == len(left) else total.addmm_(left[even:].T, right[even:])


def add_lower_triangle(square: Tensor, rows: Tensor) -> None:
    """Adds rows (n, B) @ rows.T to ``square`` (n, n): to its lower triangle, and to what lies near the diagonal."""
    for first in range(0, len(rows), STRIP):
        end = first + STRIP
        square[first:, first:end].addmm_(rows[first:], rows[first:end].T)


def _missing(rows: Tensor, columns: int) -> int:
    lanes = LANES.get(rows.dtype, 1)
    return -columns % lanes if rows.device.type == "cpu" and FEW < columns < MANY else 0


def _parts(rows: Tensor) -> int:
    threads = torch.get_num_threads()
    return threads if rows.device.type == "cpu" and len(rows) >= TALL * threads else 1


def _split(rows: Tensor, parts: int) -> Tensor:
    split: Tensor = rows.unflatten(0, (parts, -1))
    return split
