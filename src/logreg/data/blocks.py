"""Blocks of rows: a few megabytes are fetched at once, since fetching single rows is slow.

A standard DataLoader serves them: `BlockSampler` chooses the positions of a block, `BlockDataset` fetches its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from logreg.csr import converted, is_sparse, num_bytes, rows_at
from logreg.facts import Batch
from logreg.stored_form import StoredForm

BLOCK_BYTES = 6 * 2**20
"""Size of the features of a block, in bytes; such a block stays in the cache of common processors."""

LOADED_BLOCK_BYTES = 16 * 2**20
"""Size of the features of a block of a DataLoader: large enough that what Lightning does for each block, which takes
more than half a millisecond, is little beside the arithmetic, and small enough for the larger caches."""

RUN_BYTES = 2**18
"""Size of the features of a run of rows that is read from a file at once, in bytes: a disk then reads at full speed."""

WINDOW_RUNS = 2**10
"""Runs whose rows are shuffled together: 256 MiB, which stay in memory while their batches are taken."""

SEED_STEP = 0x9E3779B1
"""Distance of the generators' seeds for two seeds of a user, about 2^32 over the golden ratio: the orders of their
epochs then differ.  torch's generator on the CPU reads the lower 32 bits of its seed."""

Rows = Tensor | slice
"""Positions in a split, counted from 0: a tensor, shape (n,), or a slice."""


class BlockDataset(Dataset[Batch]):
    """The rows of one split, fetched a block at a time."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        index: Tensor | None,
        scale: float,
        dtype: torch.dtype,
        sample_weight: Tensor | None = None,
        stored: StoredForm | None = None,
    ) -> None:
        """Keeps references to the tensors of a table; nothing is copied.

        Args:
            features: Shape (M, D), any dtype, dense or sparse, on the device of the blocks.
            labels: Shape (M,), int64.
            index: Numbers of this split's rows among the M, shape (N,); ``None`` for all M rows in order.
            scale: Factor from ``features`` to source units; 1 for sparse ones.
            dtype: Floating type of the blocks.
            sample_weight: Shape (M,), in ``dtype`` and on the device of the features.
            stored: Takes features in source units to the stored form; ``None`` where they have that form.
        """
        self.features, self.labels, self.index, self.scale, self.dtype = features, labels, index, scale, dtype
        self.sample_weight, self.stored = sample_weight, stored

    @property
    def is_converted(self) -> bool:
        """Whether the features have the type and the form of the blocks already."""
        return self.features.dtype == self.dtype and self.scale == 1 and self.stored is None

    @property
    def row_bytes(self) -> int:
        """Mean size of the features of a row in a block."""
        if is_sparse(self.features):
            return -(-num_bytes(self.features) // max(len(self.labels), 1))
        return self.features.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.labels) if self.index is None else len(self.index)

    def __getitem__(self, rows: Rows) -> Batch:
        """The rows at these positions, with stored features."""
        assert not isinstance(rows, int), "blocks need BlockSampler; a standard sampler draws single rows"
        if self.index is not None:
            rows = self.index[rows]
        features = rows_at(self.features, rows)
        rows = rows if isinstance(rows, slice) else rows.to(self.labels.device)
        labels = self.labels[rows]
        sample_weight = None if self.sample_weight is None else self.sample_weight[rows]
        if self.stored is not None:
            features = self.stored.transform(features, self.dtype)
        elif is_sparse(features):
            features = converted(features, self.dtype)
        elif not self.is_converted:
            features = features.to(self.dtype, copy=True).mul_(self.scale)
        return Batch(features, labels, sample_weight)


class FeatureReader:
    """Random access to the features of a split in full precision.

    Blocks may round features to float32; a search for separation must see the numbers that the source has.
    """

    def __init__(self, features: Tensor, index: Tensor | None, stored: StoredForm | None, held_bytes: int) -> None:
        """Keeps a reference to the features; nothing is copied unless ``stored`` changes them.

        Args:
            features: Shape (M, D), any dtype, dense or sparse.
            index: Numbers of this split's rows among the M, shape (N,); ``None`` for all M rows in order.
            stored: Brings features in source units into the form of the blocks; ``None`` where they have it.
            held_bytes: Size up to which the features of the split are brought into that form once, not at each access.
        """
        rows = features.shape[0] if index is None else len(index)
        self.shape = (rows, features.shape[1])
        if (
            stored is not None
            and not is_sparse(features)
            and rows * features.shape[1] * torch.float64.itemsize <= held_bytes
        ):
            features = stored.transform(features if index is None else features[index], torch.float64)
            index, stored = None, None
        self.features, self.index, self.stored = features, index, stored

    def __getitem__(self, positions: Rows) -> Tensor:
        """Features as they are stored, shape (n, D), in the type of the source or float64; bytes of pixels unscaled.

        Those of sparse features are sparse.
        """
        if self.index is not None:
            positions = self.index[positions]
        values = rows_at(self.features, positions)
        return values if self.stored is None else self.stored.transform(values, torch.float64)


class BlockSampler(Sampler[Rows]):
    """Chooses the positions of each block; the order depends on the seed and the epoch only."""

    def __init__(
        self,
        num_rows: int,
        block_rows: int,
        shuffle: bool,
        seed: int = 0,
        interleaved_from_epoch: int | None = None,
        in_order: bool = False,
        run_rows: int = 1,
    ) -> None:
        """Arguments as of `block_loader`, and two for rows that are slow to read in any order.

        Args:
            num_rows: Number of rows of the split.
            block_rows: Largest number of rows of a block.
            shuffle: See `block_loader`.
            seed: See `block_loader`.
            interleaved_from_epoch: See `block_loader`.
            in_order: Whether the fixed blocks are runs of rows, not interleaved ones.
            run_rows: Rows of a run that is read at once.  From 2 on, runs are shuffled, and then the rows of a window
                of `WINDOW_RUNS` runs.
        """
        self.in_order, self.run_rows = in_order, run_rows
        self.num_rows, self.block_rows, self.shuffle, self.seed, self.epoch = num_rows, block_rows, shuffle, seed, 0
        self.interleaved_from_epoch = math.inf if interleaved_from_epoch is None else interleaved_from_epoch

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; Lightning calls this before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_rows // self.block_rows)

    def __iter__(self) -> Iterator[Rows]:
        starts = range(0, self.num_rows, self.block_rows)
        is_fixed = self.epoch >= self.interleaved_from_epoch
        if is_fixed and not self.in_order:
            yield from (slice(first, self.num_rows, len(self)) for first in range(len(self)))
            return
        if is_fixed or not self.shuffle:
            yield from (slice(start, min(start + self.block_rows, self.num_rows)) for start in starts)
            return
        order = torch.Generator().manual_seed((self.seed * SEED_STEP + self.epoch) % 2**32)
        if self.run_rows == 1:
            yield from torch.randperm(self.num_rows, generator=order).split(self.block_rows)
            return
        left = torch.empty(0, dtype=torch.int64)
        for window in torch.randperm(-(-self.num_rows // self.run_rows), generator=order).split(WINDOW_RUNS):
            rows = (window.unsqueeze(1) * self.run_rows + torch.arange(self.run_rows)).flatten()
            rows = rows[rows < self.num_rows]
            rows = torch.cat([left, rows[torch.randperm(len(rows), generator=order)]])
            whole = len(rows) - len(rows) % self.block_rows
            yield from rows[:whole].split(self.block_rows) if whole else ()
            left = rows[whole:]
        if len(left):
            yield left


def block_loader(
    dataset: BlockDataset,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    interleaved_from_epoch: int | None = None,
    num_outputs: int = 1,
    is_mapped: bool = False,
) -> DataLoader[Batch]:
    """A DataLoader whose items are blocks of whole batches, as many as fit into ``LOADED_BLOCK_BYTES``.

    Args:
        dataset: The split.
        batch_size: Rows of a batch; a block holds at least one batch.
        shuffle: Whether each epoch has its own order.  A batch of all rows is not shuffled, since the order would only
            change the rounding.
        seed: Seed of the order.
        interleaved_from_epoch: First epoch in which the blocks are fixed and interleaved: block b of B takes the rows
            b, b + B, b + 2B, ..., and so is a sample of all rows; blocks of sparse rows are fixed, but in order, since
            a run of rows is not copied.  ``None`` for never.
        num_outputs: Logits that are computed for each row of a block at once; they fit into ``LOADED_BLOCK_BYTES`` too.
        is_mapped: Whether the features lie in files that may be larger than memory.  Fixed blocks are then runs of
            rows, and rows are shuffled run by run; see `BlockSampler`.
    """
    num_rows = len(dataset)
    batch_bytes = batch_size * max(dataset.row_bytes, num_outputs * dataset.dtype.itemsize, 1)
    block_rows = batch_size * max(1, LOADED_BLOCK_BYTES // batch_bytes)
    shuffle = shuffle and batch_size < num_rows
    in_order = is_mapped or is_sparse(dataset.features)
    run_rows = max(2, RUN_BYTES // max(1, dataset.row_bytes)) if is_mapped else 1
    sampler = BlockSampler(num_rows, block_rows, shuffle, seed, interleaved_from_epoch, in_order, run_rows)
    return DataLoader(dataset, batch_size=None, sampler=sampler)
