"""Products with tall matrices of few columns, in the shapes in which BLAS is fast at them."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 8
"""Columns in float32 that a CPU's kernel works on at once; a few of them less take longer."""

FEW = 6
"""Columns up to which nothing is gained by filling them up."""

TALL = 512
"""Rows that each part of a product has at least, where it is split over threads."""


def affine(features: Tensor, coef: Tensor, intercept: Tensor) -> Tensor:
    """Features (n, D) @ coef.T + intercept, for coef (K, D) and intercept (K,): shape (n, K)."""
    outputs, parts = len(intercept), _parts(features)
    if outputs == 1 and parts > 1:  # a product with a vector keeps to one thread
        even = len(features) // parts * parts
        logits = torch.baddbmm(intercept, _split(features[:even], parts), coef.T.expand(parts, -1, -1)).view(even, 1)
        rest = features[even:]
        return torch.cat([logits, torch.addmm(intercept, rest, coef.T)]) if len(rest) else logits
    missing = -outputs % LANES
    if not missing or outputs <= FEW or features.dtype != torch.float32 or features.device.type != "cpu":
        return torch.addmm(intercept, features, coef.T)
    coef = torch.cat([coef, coef.new_zeros(missing, coef.shape[1])])
    intercept = torch.cat([intercept, intercept.new_zeros(missing)])
    return torch.addmm(intercept, features, coef.T)[:, :outputs]


def sum_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """Left (n, A).T @ right (n, B): shape (A, B), with as many parts of the rows as there are threads."""
    parts = _parts(left)
    if parts == 1:
        return left.T @ right
    even = len(left) // parts * parts
    total = torch.bmm(_split(left[:even], parts).mT, _split(right[:even], parts)).sum(0)
    return total if even == len(left) else total.addmm_(left[even:].T, right[even:])


def _parts(rows: Tensor) -> int:
    threads = torch.get_num_threads()
    return threads if rows.device.type == "cpu" and len(rows) >= TALL * threads else 1


def _split(rows: Tensor, parts: int) -> Tensor:
    split: Tensor = rows.unflatten(0, (parts, -1))
    return split
