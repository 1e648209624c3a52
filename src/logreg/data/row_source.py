"""The rows of a split as a `logreg.rows.RowSource`, for exact solvers and certificates."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from logreg.data.blocks import BLOCK_BYTES, BlockDataset
from logreg.facts import Batch


class SplitRows:
    """The rows of one split, in blocks on one device."""

    is_sparse = False
    has_random_access = True
    may_be_held = True

    def __init__(self, dataset: BlockDataset, device: torch.device) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere."""
        self._dataset, self._device = dataset, device
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1]
        self.block_rows = max(1, BLOCK_BYTES // max(self.num_features * dataset.dtype.itemsize, 1))

    def blocks(self) -> Iterator[Batch]:
        """All rows in order."""
        for first in range(0, self.num_rows, self.block_rows):
            yield self._block(slice(first, min(first + self.block_rows, self.num_rows)))

    def interleaved_blocks(self) -> Iterator[Batch]:
        """Every n-th row for a block, n the number of blocks."""
        blocks = -(-self.num_rows // self.block_rows)
        for first in range(blocks):
            yield self._block(slice(first, self.num_rows, blocks))

    def _block(self, positions: slice) -> Batch:
        features, labels, weights = self._dataset[positions]
        device = self._device
        return Batch(features.to(device), labels.to(device), None if weights is None else weights.to(device))
