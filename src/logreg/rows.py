"""Blocks of rows: who serves them, and what each row weighs in the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from logreg.facts import Batch

BLOCK_BYTES = 32 * 2**20
"""Size of a block of features in float32: so large that what is done once for each costs little."""

BLOCK_ROWS = 16_384
"""Rows of a block at most."""

PART_BYTES = {torch.float32: 6 * 2**20, torch.float64: 3 * 2**20}
"""Size of a part of it, where features are copied: the copy stays in the cache of common processors."""


def row_weights(block: Batch, class_weight: tuple[float, ...], dtype: torch.dtype) -> Tensor | None:
    """What each row weighs in the loss, shape (n,); ``None`` for all 1."""
    weights = None if block.sample_weight is None else block.sample_weight.to(dtype)
    if not class_weight:
        return weights
    of_class = torch.tensor(class_weight, dtype=dtype, device=block.labels.device)[block.labels]
    return of_class if weights is None else of_class * weights


def parts(block: Batch, rows: int) -> Iterator[Batch]:
    """A block as several of that many rows, and one of the rest."""
    for first in range(0, len(block.labels), max(rows, 1)):
        part = slice(first, first + rows)
        weights = None if block.sample_weight is None else block.sample_weight[part]
        yield Batch(block.features[part], block.labels[part], weights)


def part_rows(features: int, dtype: torch.dtype) -> int:
    """How many rows of so many features may be copied at once."""
    return min(max(1, PART_BYTES[dtype] // max(features * dtype.itemsize, 1)), BLOCK_ROWS)


RowSource = Callable[[bool], Iterable[Batch]]
"""Begins a new pass over all rows when it is called; with ``True`` each block should be a sample of all rows."""


class MemoryRows:
    """Rows that lie in memory; calling it begins a pass over them, block by block, without a copy."""

    def __init__(self, features: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> None:
        """Features (N, D) in source units, labels (N,), weights (N,) or ``None``."""
        self.features, self.labels, self.sample_weight = features, labels, sample_weight
        row_bytes = features.shape[1] * 4
        self.block_rows = min(max(1, BLOCK_BYTES // max(row_bytes, 1)), BLOCK_ROWS)

    def __call__(self, mixed: bool) -> Iterator[Batch]:
        """The blocks in order; where ``mixed`` each has rows from everywhere."""
        number = len(self.labels)
        blocks = -(-number // self.block_rows)
        for block in range(blocks):
            first = block * self.block_rows
            part = slice(block, None, blocks) if mixed else slice(first, first + self.block_rows)
            weights = None if self.sample_weight is None else self.sample_weight[part]
            yield Batch(self.features[part], self.labels[part], weights)
