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
from logreg.processes import Processes, share
from logreg.rows import batches_of_block, own_part, positions_of
from logreg.stored_form import StoredForm

CACHED_BLOCK_BYTES = 6 * 2**20
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

Positions = Tensor | slice
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
        first: int = 0,
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
            first: The position in the split of the first of these rows.
        """
        self.features, self.labels, self.index, self.scale, self.dtype = features, labels, index, scale, dtype
        self.sample_weight, self.stored, self.first = sample_weight, stored, first

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

    def part(self, positions: range) -> BlockDataset:
        """Adjacent rows of the split, as views."""
        where = slice(positions.start, positions.stop)
        features, labels, index, weights = self.features, self.labels, self.index, self.sample_weight
        if index is None:
            features, labels = rows_at(features, where), labels[where]
            weights = None if weights is None else weights[where]
        else:
            index = index[where]
        first = self.first + positions.start
        return BlockDataset(features, labels, index, self.scale, self.dtype, weights, self.stored, first)

    def __len__(self) -> int:
        return len(self.labels) if self.index is None else len(self.index)

    def __getitem__(self, rows: Positions) -> Batch:
        """The rows at these positions, with stored features."""
        assert not isinstance(rows, int), "blocks need BlockSampler; a standard sampler draws single rows"
        positions = positions_of(rows, len(self), self.first) if isinstance(rows, slice) else self.first + rows
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
        return Batch(features, labels, sample_weight, positions=positions)


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

    def __getitem__(self, positions: Positions) -> Tensor:
        """Features as they are stored, shape (n, D), in the type of the source or float64; bytes of pixels unscaled.

        Those of sparse features are sparse.
        """
        if self.index is not None:
            positions = self.index[positions]
        values = rows_at(self.features, positions)
        return values if self.stored is None else self.stored.transform(values, torch.float64)


class BlockSampler(Sampler[Positions]):
    """Chooses the positions of each block; the order depends on the seed and the epoch only.

    Several processes have the same number of blocks, and each has its part of every batch, which may be empty.  No rows
    make one block: Lightning skips an epoch without blocks, in which the other processes have some.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        blocks: int,
        shuffle: bool,
        seed: int = 0,
        fixed_from_epoch: int | None = None,
        processes: Processes | None = None,
        run_rows: int = 1,
    ) -> None:
        """Arguments as of `block_loader`, and some of its own.

        Args:
            num_rows: Number of rows of the split.
            batch_size: See `block_loader`.
            blocks: Number of blocks.
            shuffle: See `block_loader`.
            seed: See `block_loader`.
            fixed_from_epoch: See `block_loader`.
            processes: See `block_loader`.
            run_rows: Rows of a run that is read at once, where rows are slow to read in any order.  From 2 on, runs are
                shuffled, and then the rows of a window of `WINDOW_RUNS` runs.
        """
        self.num_rows, self.batch_size, self.blocks, self.processes = num_rows, batch_size, blocks, processes
        self.run_rows, self.shuffle, self.seed, self.epoch = run_rows, shuffle, seed, 0
        self.fixed_from_epoch = math.inf if fixed_from_epoch is None else fixed_from_epoch

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; Lightning calls this before each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.blocks

    def __iter__(self) -> Iterator[Positions]:
        if self.shuffle and self.epoch < self.fixed_from_epoch:
            yield from self._shuffled()
            return
        own = own_part(range(self.num_rows), self.processes)
        for block in range(self.blocks):
            run = share(len(own), block, self.blocks)
            yield slice(own.start + run.start, own.start + run.stop)

    def _shuffled(self) -> Iterator[Tensor]:
        order = self._order()
        for block in range(self.blocks):
            batches = batches_of_block(self.num_rows, self.batch_size, block, self.blocks)
            if self.processes is None:
                yield order[batches[0].start : batches[-1].stop]
                continue
            own = [own_part(batch, self.processes) for batch in batches]
            yield torch.cat([order[part.start : part.stop] for part in own])

    def _order(self) -> Tensor:
        """The positions of all rows in the order of the epoch, (num_rows,)."""
        draw = torch.Generator().manual_seed((self.seed * SEED_STEP + self.epoch) % 2**32)
        if self.run_rows == 1:
            return torch.randperm(self.num_rows, generator=draw)
        windows = []
        for window in torch.randperm(-(-self.num_rows // self.run_rows), generator=draw).split(WINDOW_RUNS):
            rows = (window.unsqueeze(1) * self.run_rows + torch.arange(self.run_rows)).flatten()
            rows = rows[rows < self.num_rows]
            windows.append(rows[torch.randperm(len(rows), generator=draw)])
        return torch.cat(windows)


def block_loader(
    dataset: BlockDataset,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    fixed_from_epoch: int | None = None,
    num_outputs: int = 1,
    processes: Processes | None = None,
    is_mapped: bool = False,
) -> DataLoader[Batch]:
    """A DataLoader whose items are blocks of whole batches, as many as fit into ``LOADED_BLOCK_BYTES``.

    Args:
        dataset: The split.
        batch_size: Rows of a batch of all processes; a block holds at least one batch.
        shuffle: Whether each epoch has its own order.  A batch of all rows is not shuffled, since the order would only
            change the rounding.
        seed: Seed of the order.
        fixed_from_epoch: First epoch in which the blocks are the same as in every later one: the rows in order, since
            a run of rows is not copied.  ``None`` for never.
        num_outputs: Logits that are computed for each row of a block at once; they fit into ``LOADED_BLOCK_BYTES`` too.
        processes: The processes that share the split; each gets the blocks of its own part.  ``None`` for one process.
        is_mapped: Whether the features lie in files that may be larger than memory: rows are then shuffled run by run;
            see `BlockSampler`.
    """
    num_rows = len(dataset)
    batch_bytes = batch_size * max(dataset.row_bytes, num_outputs * dataset.dtype.itemsize, 1)
    size = 1 if processes is None else processes.size
    block_batches = max(1, size * LOADED_BLOCK_BYTES // batch_bytes)
    blocks = max(1, -(-num_rows // (batch_size * block_batches)))
    shuffle = shuffle and batch_size < num_rows
    run = run_rows(dataset) if is_mapped else 1
    sampler = BlockSampler(num_rows, batch_size, blocks, shuffle, seed, fixed_from_epoch, processes, run)
    return DataLoader(dataset, batch_size=None, sampler=sampler)


def run_rows(dataset: BlockDataset) -> int:
    """Rows of a run that is read at once, where they lie in files: as many as `RUN_BYTES`, and 2 at least."""
    return max(2, RUN_BYTES // max(1, dataset.row_bytes))
