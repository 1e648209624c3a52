"""The rows of a split as a `logreg.rows.RowSource`, for exact solvers and certificates."""

from __future__ import annotations

import torch

from logreg.csr import is_sparse
from logreg.data.blocks import BLOCK_BYTES, BlockDataset
from logreg.facts import Batch
from logreg.processes import Processes
from logreg.rows import BlockedRows, sparse_block_rows


class SplitRows(BlockedRows):
    """The rows of one split that this process has, in blocks on one device."""

    def __init__(self, dataset: BlockDataset, device: torch.device, processes: Processes | None = None) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere.

        ``processes`` share the split; ``None`` where ``dataset`` has all of its rows.
        """
        self._dataset, self._device, self.processes = dataset, device, processes
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1]
        self.is_sparse = is_sparse(dataset.features)
        self.block_rows = max(1, BLOCK_BYTES // max(dataset.row_bytes, 1))
        if self.is_sparse:
            nonzeros = dataset.features.values().shape[0]
            self.block_rows = sparse_block_rows(dataset.features.shape[0], nonzeros, self.num_features)

    def _block(self, positions: slice) -> Batch:
        features, labels, weights = self._dataset[positions]
        device = self._device
        return Batch(features.to(device), labels.to(device), None if weights is None else weights.to(device))
