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
        self,
        dataset: BlockDataset,
        device: torch.device,
        has_offset: bool = False,
        processes: Processes | None = None,
        is_mapped: bool = False,
    ) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere.

        Args:
            dataset: The rows.
            device: Device of the blocks.
            has_offset: Whether their last feature is the offset.
            processes: The processes that share the split; ``None`` where ``dataset`` has all of its rows.
            is_mapped: Whether the features lie in files that may be larger than memory: they are read in order.
        """
        self._dataset, self._device, self._has_offset, self.processes = dataset, device, has_offset, processes
        self._is_mapped, self.may_be_held = is_mapped, not is_mapped
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1] - has_offset
        self.is_sparse = is_sparse(dataset.features)
        self.block_rows = max(1, BLOCK_BYTES // max(dataset.row_bytes, 1))
        if self.is_sparse:
            nonzeros = dataset.features.values().shape[0]
            self.block_rows = sparse_block_rows(dataset.features.shape[0], nonzeros, self.num_features)

    @property
    def has_random_access(self) -> bool:
        """Whether the rows are dense and in memory."""
        return not (self.is_sparse or self._is_mapped)

    def _block(self, positions: slice) -> Batch:
        block = self._dataset[positions].to(self._device)
        return with_offset_apart(block) if self._has_offset else block
