"""Products with tall matrices of few columns, in the shapes in which BLAS is fast at them."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 8
"""Columns that a CPU's kernel works on at once; a few of them less take up to twice as long."""

FEW = 6
"""Columns up to which nothing is gained by filling them up."""

TALL = 512
"""Rows that each part of a split sum has at least."""


def affine(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """Features (n, D) @ coef.T + intercept, for coef (K, D) and intercept (K,): shape (n, K)."""
    outputs = len(intercept)
    missing = -outputs % LANES
    if not missing or outputs <= FEW or features.device.type != "cpu":
        return torch.addmm(intercept, features, coef.T)
    coef = torch.cat([coef, coef.new_zeros(missing, coef.shape[1])])
    intercept = torch.cat([intercept, intercept.new_zeros(missing)])
    return torch.addmm(intercept, features, coef.T)[:, :outputs]


def sum_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ right (n, B): shape (A, B), with as many parts of the rows as there are threads."""
    rows, threads = len(left), torch.get_num_threads()
    if threads == 1 or rows < TALL * threads or left.device.type != "cpu":
        return left.T @ right
    even = rows // threads * threads
    parts = (side[:even].unflatten(0, (threads, -1)) for side in (left, right))
    total = torch.bmm(next(parts).mT, next(parts)).sum(0)
    return total if even == rows else total.addmm_(left[even:].T, right[even:])
