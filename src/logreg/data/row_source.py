"""The rows of a split as a `logreg.rows.RowSource`, for exact solvers and certificates."""

from __future__ import annotations

import torch

from logreg.csr import is_sparse
from logreg.data.blocks import BLOCK_BYTES, BlockDataset
from logreg.facts import Batch
from logreg.processes import Processes
from logreg.rows import BlockedRows, sparse_block_rows, with_offset_apart


class SplitRows(BlockedRows):
    """The rows of one split that this process has, in blocks on one device; an offset is apart from the features."""

    def __init__(
        self, dataset: BlockDataset, device: torch.device, has_offset: bool, processes: Processes | None = None
    ) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere.

        ``has_offset`` is whether their last feature is the offset.  ``processes`` share the split; ``None`` where
        ``dataset`` has all of its rows.
        """
        self._dataset, self._device, self._has_offset, self.processes = dataset, device, has_offset, processes
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1] - has_offset
        self.is_sparse = is_sparse(dataset.features)
        self.block_rows = max(1, BLOCK_BYTES // max(dataset.row_bytes, 1))
        if self.is_sparse:
            nonzeros = dataset.features.values().shape[0]
            self.block_rows = sparse_block_rows(dataset.features.shape[0], nonzeros, self.num_features)

    def _block(self, positions: slice) -> Batch:
        block = self._dataset[positions].to(self._device)
        return with_offset_apart(block) if self._has_offset else block
