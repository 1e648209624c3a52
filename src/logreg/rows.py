"""Sources of rows, block by block; the weight of each row in the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from logreg.csr import is_sparse, rows_at, without_last_column
from logreg.facts import Batch
from logreg.processes import Processes, share

BLOCK_BYTES = 32 * 2**20
"""Bytes of a block of features in float32: large enough that the fixed cost of a block is small."""

BLOCK_ROWS = 16_384
"""Largest number of rows in a block."""

BLOCK_NONZEROS = 2**21
"""Non-zeros of a block of sparse features, about: their copy in float64 takes 16 MiB."""

PART_BYTES = {torch.float32: 6 * 2**20, torch.float64: 3 * 2**20}
"""Bytes of features that are copied at once, or of logits that are computed at once, by floating type: they stay in the
cache of common processors."""


LOGITS_BYTES = {"cpu": 2**20, "other": 2**28}
"""Bytes of the logits that are computed at once, on a CPU and on other devices.

On a CPU they stay in the second-level cache of common processors through the operations of the loss; a GPU needs many
at once."""


def row_weights(block: Batch, class_weight: tuple[float, ...], dtype: torch.dtype) -> Tensor | None:
    """Weight of each row in the loss: sample weight times class weight, shape (n,); ``None`` if all are 1.

    Args:
        block: The rows.
        class_weight: Weight of each class, C numbers, or empty for all 1.
        dtype: Floating type of the result.
    """
    weights = None if block.sample_weight is None else block.sample_weight.to(dtype)
    if not class_weight:
        return weights
    of_class = torch.tensor(class_weight, dtype=dtype, device=block.labels.device)[block.labels]
    return of_class if weights is None else of_class * weights


def own_part(positions: range, processes: Processes | None) -> range:
    """The part of adjacent positions that this process has; all of them for one process."""
    if processes is None:
        return positions
    own = share(len(positions), processes.rank, processes.size)
    return positions[own.start : own.stop]


def batches_of_block(num_rows: int, batch_size: int, block: int, blocks: int) -> list[range]:
    """The batches that make up one block of an epoch, each as its positions in the order of the epoch.

    The blocks have whole batches, as many as each other or one more.  The batches are those of all processes.

    Args:
        num_rows: Number of rows of the split.
        batch_size: Rows of a batch; the last one may be smaller.
        block: Number of the block, from 0.
        blocks: Number of blocks.
    """
    batches = share(-(-num_rows // batch_size), block, blocks)
    return [range(batch * batch_size, min((batch + 1) * batch_size, num_rows)) for batch in batches]


def with_offset_apart(block: Batch) -> Batch:
    """A block (n, D) whose last feature is the offset, with that apart from the D - 1 others."""
    features, offset = offset_apart(block.features)
    return block._replace(features=features, offset=offset)


def offset_apart(features: Tensor) -> tuple[Tensor, Tensor]:
    """All columns of features (n, D) but the last, (n, D - 1), and the last one, (n,); views of dense features."""
    return without_last_column(features) if is_sparse(features) else (features[:, :-1], features[:, -1])


def parts(block: Batch, rows: int, dense: bool = False) -> Iterator[Batch]:
    """A block in parts of ``rows`` rows; the last part may be smaller.

    Args:
        block: The rows.
        rows: Number of rows of a part.
        dense: Whether sparse features become dense ones.
    """
    if is_sparse(block.features) and not dense and rows >= len(block.labels):
        yield block
        return
    for first in range(0, len(block.labels), max(rows, 1)):
        part = chosen_rows(block, slice(first, first + rows))
        yield part._replace(features=part.features.to_dense()) if dense else part


def chosen_rows(block: Batch, which: Tensor | slice) -> Batch:
    """The rows of a block that a mask (n,), positions (m,) or a slice choose; adjacent ones are views."""
    if isinstance(which, Tensor) and which.dtype == torch.bool:
        which = which.nonzero()[:, 0]
    chosen = rows_at(block.features, which)
    return Batch(chosen, *(None if part is None else part[which] for part in block[1:]))  # type: ignore[arg-type]  # the types of Batch


def positions_of(which: slice, num_rows: int, first: int = 0) -> Tensor:
    """The positions, (n,), that a slice chooses of ``num_rows`` adjacent ones, the first of which is ``first``."""
    start, stop, step = which.indices(num_rows)
    return torch.arange(first + start, first + stop, step)


def places_in(block: Batch, first: int = 0) -> Tensor:
    """The places of a block's rows among adjacent ones, (n,), on the CPU; ``first`` is the position of the first."""
    assert block.positions is not None
    return block.positions.cpu() - first


def joined(blocks: Sequence[Batch]) -> Batch:
    """Dense blocks as one; all of them have weights, offsets and positions, or none."""
    features, labels, *others = zip(*blocks, strict=True)
    return Batch(
        torch.cat(features), torch.cat(labels), *(None if one[0] is None else torch.cat(one) for one in others)
    )


def part_rows(features: int, dtype: torch.dtype) -> int:
    """Number of rows with ``features`` features that are copied at once; see `PART_BYTES`."""
    return min(max(1, PART_BYTES[dtype] // max(features * dtype.itemsize, 1)), BLOCK_ROWS)


def logit_rows(outputs: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> int:
    """Number of rows whose logits, ``outputs`` for each row, are computed at once: at most `LOGITS_BYTES` of them.

    Memory then does not grow with rows times outputs.
    """
    kind = "cpu" if torch.device(device).type == "cpu" else "other"
    return max(1, LOGITS_BYTES[kind] // (outputs * dtype.itemsize))


def sparse_part_rows(num_features: int) -> int:
    """Number of rows of sparse features that are in one product, at most.

    Their logits are then no more than the coefficients, or few; the sums over a part, which have the size of the
    coefficients, cost little beside its products.
    """
    return max(BLOCK_ROWS, num_features)


def sparse_block_rows(rows: int, nonzeros: int, num_features: int) -> int:
    """Number of rows of a block of sparse features, of all ``rows`` with their ``nonzeros``."""
    of_row = max(nonzeros // max(rows, 1), 1)
    return min(max(1, BLOCK_NONZEROS // of_row), sparse_part_rows(num_features))


class RowSource(Protocol):
    """The rows of one split that this process reads, served in blocks.

    Every pass reads the same blocks in the same order, since solvers cache values of each block between passes.
    Where several processes share a split, the source of each has that process's part of the rows, which may be empty.
    """

    @property
    def num_rows(self) -> int:
        """Number of rows of this process."""

    @property
    def num_features(self) -> int:
        """D."""

    @property
    def is_sparse(self) -> bool:
        """Whether the features of a block are a sparse CSR tensor and not a dense one."""

    @property
    def may_be_held(self) -> bool:
        """Whether a solver may hold all rows in memory at once, as solvers in the span of the rows do."""

    @property
    def processes(self) -> Processes | None:
        """The processes that share the split; ``None`` for one process."""

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows of this process in order, block by block.

        Args:
            every: Only one row in so many, the same ones whichever process has them: those at positions that are
                multiples of it, or runs of rows where rows are slow to read in any order.
        """


def first_position(rows: RowSource) -> int:
    """The position in the split of the first row of this process; the processes have their rows in order."""
    return 0 if rows.processes is None else sum(rows.processes.gather(rows.num_rows)[: rows.processes.rank])


def dense_sample(rows: RowSource) -> Batch:
    """Some of the rows of one process, dense: as many as `part_rows`, evenly spaced."""
    every = max(1, -(-rows.num_rows // part_rows(rows.num_features, torch.float32)))
    return joined([made_dense(block) for block in rows.blocks(every)])


def made_dense(block: Batch) -> Batch:
    """A block with dense features."""
    return block._replace(features=block.features.to_dense()) if is_sparse(block.features) else block


class BlockedRows:
    """A `RowSource` of rows that can be read at any position, in blocks of ``block_rows`` rows.

    Attributes:
        num_rows: Number of rows.
        num_features: D.
        is_sparse: Whether the features are sparse.
        block_rows: Largest number of rows of a block.
        first: The position in the split of the first row.
        processes: The processes that share the split; ``None`` for one process.
    """

    processes: Processes | None = None
    may_be_held = True
    first = 0
    num_rows: int
    num_features: int
    is_sparse: bool
    block_rows: int

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or one in ``every``; see `RowSource`."""
        rows = self.block_rows * every
        for first in range(-self.first % every, self.num_rows, rows):
            yield self._block(slice(first, min(first + rows, self.num_rows), every))

    def _block(self, places: slice) -> Batch:
        raise NotImplementedError


class MemoryRows(BlockedRows):
    """The rows of tensors in memory; blocks are views."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
        positions: Tensor | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Features (N, D) in source units, dense or sparse, labels (N,), weights and offsets (N,) or ``None``.

        ``positions`` (N,) are those in the split, in ascending order; ``None`` for the order of the rows.
        ``processes`` share the split, of which the tensors are the rows of this process; ``None`` for one process.
        """
        self.processes = processes
        self.features, self.labels, self.sample_weight, self.offset = features, labels, sample_weight, offset
        self.positions = positions
        self.num_rows, self.num_features = len(labels), features.shape[1]
        self.is_sparse = is_sparse(features)
        self.block_rows = min(max(1, BLOCK_BYTES // max(4 * self.num_features, 1)), BLOCK_ROWS)
        if self.is_sparse:
            self.block_rows = sparse_block_rows(self.num_rows, features.values().shape[0], self.num_features)

    def at(self, places: Tensor) -> MemoryRows:
        """The rows at some places, (m,): a copy."""
        places = places.to(self.labels.device)
        some = chosen_rows(self._whole, places)
        return MemoryRows(*(some if self.positions is not None else some._replace(positions=places)))

    def blocks(self, every: int = 1) -> Iterator[Batch]:
        """The rows in order, or one in ``every``; see `RowSource`."""
        if every == 1 or self.positions is None:
            yield from super().blocks(every)
            return
        for places in (self.positions % every == 0).nonzero()[:, 0].split(self.block_rows):
            yield chosen_rows(self._whole, places)

    @property
    def _whole(self) -> Batch:
        return Batch(self.features, self.labels, self.sample_weight, self.offset, self.positions)

    def _block(self, places: slice) -> Batch:
        block = chosen_rows(self._whole, places)
        if self.positions is not None:
            return block
        return block._replace(positions=positions_of(places, self.num_rows).to(self.labels.device))
