"""The rows of a split as a `logreg.rows.RowSource`, for exact solvers and certificates."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from logreg.csr import is_sparse
from logreg.data.blocks import CACHED_BLOCK_BYTES, BlockDataset
from logreg.facts import Batch
from logreg.processes import Processes
from logreg.rows import BlockedRows, sparse_block_rows, with_offset_apart

RUN_SPACING = 2**17
"""Rows from the start of one run of a sample to that of the next, at most: a run of `RUN_BYTES` may have as many narrow
rows as the whole sample, which then would be the first rows alone."""


class SplitRows(BlockedRows):
    """The rows of one split that this process has, in blocks on one device; an offset is apart from the features."""

    def __init__(
        self,
        dataset: BlockDataset,
        device: torch.device,
        has_offset: bool = False,
        processes: Processes | None = None,
        run_rows: int = 1,
    ) -> None:
        """Rows of ``dataset``, moved to ``device`` block by block where they lie elsewhere.

        Args:
            dataset: The rows.
            device: Device of the blocks.
            has_offset: Whether their last feature is the offset.
            processes: The processes that share the split; ``None`` where ``dataset`` has all of its rows.
            run_rows: Rows of a run that is read at once, at most, from 2 on, where the features lie in files that may
                be larger than memory; the same in all processes.
        """
        self._dataset, self._device, self._has_offset, self.processes = dataset, device, has_offset, processes
        self._run_rows, self.may_be_held, self.first = run_rows, run_rows == 1, dataset.first
        self.num_rows, self.num_features = len(dataset), dataset.features.shape[1] - has_offset
        self.is_sparse = is_sparse(dataset.features)
        self.block_rows = max(1, CACHED_BLOCK_BYTES // max(dataset.row_bytes, 1))
        if self.is_sparse:
            nonzeros = dataset.features.values().shape[0]
            self.block_rows = sparse_block_rows(dataset.features.shape[0], nonzeros, self.num_features)

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or one row or one run in ``every``; see `RowSource`."""
        if every == 1 or self._run_rows == 1:
            yield from super().blocks(every)
            return
        run = max(1, min(self._run_rows, RUN_SPACING // every))
        for start in range(self.first // (run * every) * run * every, self.first + self.num_rows, run * every):
            places = range(max(start - self.first, 0), min(start + run - self.first, self.num_rows))
            if places:
                yield self._block(slice(places.start, places.stop))

    def _block(self, places: slice) -> Batch:
        block = self._dataset[places].to(self._device)
        return with_offset_apart(block) if self._has_offset else block
