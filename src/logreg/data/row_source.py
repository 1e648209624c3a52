"""The rows of a split as a `logreg.rows.RowSource`, for exact solvers and certificates."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from logreg.csr import is_sparse
from logreg.data.blocks import BLOCK_BYTES, BlockDataset
from logreg.facts import Batch
from logreg.rows import sparse_block_rows


class SplitRows:
    """The rows of one split, in blocks on one device."""

    may_be_held = True

    def __init__(self, dataset: BlockDataset, device: torch.device) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere."""
        self._dataset, self._device = dataset, device
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1]
        self.is_sparse = is_sparse(dataset.features)
        self.has_random_access = not self.is_sparse
        self.block_rows = max(1, BLOCK_BYTES // max(dataset.row_bytes, 1))
        if self.is_sparse:
            nonzeros = dataset.features.values().shape[0]
            self.block_rows = sparse_block_rows(dataset.features.shape[0], nonzeros, self.num_features)

    def blocks(self) -> Iterator[Batch]:
        """All rows in order."""
        for first in range(0, self.num_rows, self.block_rows):
            yield self._block(slice(first, min(first + self.block_rows, self.num_rows)))

    def interleaved_blocks(self) -> Iterator[Batch]:
        """Every n-th row for a block, n the number of blocks; of sparse rows those of `blocks`."""
        if self.is_sparse:
            yield from self.blocks()
            return
        blocks = -(-self.num_rows // self.block_rows)
        for first in range(blocks):
            yield self._block(slice(first, self.num_rows, blocks))

    def _block(self, positions: slice) -> Batch:
        features, labels, weights = self._dataset[positions]
        device = self._device
        return Batch(features.to(device), labels.to(device), None if weights is None else weights.to(device))
