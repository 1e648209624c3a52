"""Profile of a dataset before training: classes, columns and rows that occur in two splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from logreg.csr import at_nonzeros, is_sparse, num_bytes, selected_rows
from logreg.data.base import Table
from logreg.data.datamodule import TensorDataModule
from logreg.data.encoding.columns import Columns
from logreg.data.encoding.learning import ColumnProfile, profile_columns
from logreg.data.leaks import Leaks, find_leaks
from logreg.data.preparation_steps import used_rows
from logreg.errors import LogregError
from logreg.facts import DataFacts, Split

HASH_FACTORS = (0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Odd multipliers of the row hash; their bits have no pattern."""

HASH_BYTES = 4 * 2**20
"""Bytes of features that are hashed at once; a few megabytes stay in the cache."""

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
"""Integer type by its size in bytes."""


@dataclass(frozen=True)
class Repeated:
    """Rows of one split whose features also occur in an earlier split."""

    split: Split
    other: Split
    """The earlier split."""
    count: int
    """Number of rows of ``split`` that occur in ``other``."""
    total: int
    """Number of rows of ``split``."""


@dataclass(frozen=True)
class DataProfile:
    """Profile of a dataset, also of one that cannot be trained on."""

    title: str
    """Name of the dataset, and the file that was read."""
    class_names: tuple[str, ...]
    """Names of the C classes."""
    class_counts: Mapping[Split, Tensor]
    """Rows of each class, shape (C,), by split."""
    columns: tuple[ColumnProfile, ...]
    """Profile of each column of a table; empty for other datasets."""
    leaks: Leaks
    """Columns of a table that repeat the target or another column."""
    repeated: tuple[Repeated, ...]
    """Rows that occur in two splits."""
    notes: tuple[str, ...]
    """Sentences on how the rows were read and encoded."""
    facts: DataFacts | None
    """The facts that a model gets; ``None`` where the data cannot be trained on."""
    error: LogregError | None
    """The error that training on the data raises; ``None`` where the data can be trained on."""
    feature_type: str = ""
    """Type of the features in memory, such as ``float32``."""
    feature_bytes: int = 0
    """Memory that the features take, in bytes."""


def profile_data(data: TensorDataModule) -> DataProfile:
    """Reads the data and profiles it.

    An error of the data is kept in the result, so that the profile can show what led to it.

    Raises:
        LogregError: The data cannot be read at all.
    """
    raw, tables, class_names = data.preparation.raw, data.preparation.raw.tables, data.preparation.raw.class_names
    error: LogregError | None = None
    try:
        tables, class_names = data.preparation.selected
        data.setup()
    except LogregError as found:
        error = found
    columns: tuple[ColumnProfile, ...] = ()
    leaks = Leaks()
    features = tables["train"].features
    if isinstance(features, Columns):
        columns = tuple(profile_columns(features, tables["train"].index, used_rows(tables)))
        leaks = find_leaks(tables["train"], len(class_names))
    matrices = [] if error else list({id(table.matrix): table.matrix for table in data.tables.values()}.values())
    return DataProfile(
        title=f"{data.dataset.name} {raw.source}".rstrip(),
        class_names=class_names,
        class_counts={
            split: torch.bincount(table.select(table.labels), minlength=len(class_names))
            for split, table in tables.items()
        },
        columns=columns,
        leaks=leaks,
        repeated=_repeated_rows(tables),
        notes=raw.notes if error else data.notes,
        facts=None if error else data.facts,
        error=error,
        feature_type=str(matrices[0].dtype).removeprefix("torch.") if matrices else "",
        feature_bytes=sum(num_bytes(matrix) for matrix in matrices),
    )


def _repeated_rows(tables: Mapping[Split, Table]) -> tuple[Repeated, ...]:
    """Rows that occur in two splits, compared by their features as the source has them."""
    hashes = {split: _row_hashes(table) for split, table in tables.items()}
    found = []
    for earlier, later in combinations(hashes, 2):
        count = int(torch.isin(hashes[later], hashes[earlier]).sum())
        if count:
            found.append(Repeated(later, earlier, count, len(hashes[later])))
    return tuple(found)


def _row_hashes(table: Table) -> Tensor:
    """A 64-bit hash of the features of each row, shape (N,), int64.

    Equal rows have equal hashes; two different rows collide with probability 2**-64.
    """
    rows = table.row_numbers
    if isinstance(table.features, Tensor) and is_sparse(table.features):
        return _sparse_row_hashes(table.features, rows)
    row = _values(table.features, rows[:1])
    row_bytes = row.shape[1] * row.itemsize
    if not row_bytes:
        return torch.arange(0)
    size = next(size for size in _INTEGERS if row_bytes % size == 0)
    salt = torch.randint(-(2**62), 2**62, (row_bytes // size,), generator=torch.Generator().manual_seed(0)) | 1
    blocks = rows.split(max(1, HASH_BYTES // (8 * len(salt))))
    return torch.cat([(_mixed_bits(_values(table.features, block), size) * salt).sum(1) for block in blocks])


def _sparse_row_hashes(features: Tensor, rows: Tensor) -> Tensor:
    """`_row_hashes` of the rows of a CSR tensor at these positions: zeros add nothing to a hash."""
    salt = torch.randint(-(2**62), 2**62, (features.shape[1],), generator=torch.Generator().manual_seed(0)) | 1
    of_row = max(1, features.values().shape[0] // features.shape[0])
    hashes = []
    for block in rows.split(max(1, HASH_BYTES // (8 * of_row))):
        part = selected_rows(features, block)
        bits = _mixed_bits(part.values().unsqueeze(1), part.values().itemsize).squeeze(1)
        numbers = at_nonzeros(part, torch.arange(len(block)))
        hashes.append(torch.zeros_like(block).index_add_(0, numbers, bits * salt[part.col_indices().long()]))
    return torch.cat(hashes)


def _values(features: Tensor | Columns, rows: Tensor) -> Tensor:
    """Features of some rows, shape (n, D); of columns the numbers and the positions of levels, in float64."""
    if isinstance(features, Tensor):
        return features[rows]
    positions = rows.numpy()
    columns: Sequence[np.ndarray] = [
        one.values[positions].astype(np.float64) for one in features.series if one.kind != "none"
    ]
    return torch.from_numpy(np.stack([np.zeros(len(rows)), *columns], axis=1))[:, 1:]


def _mixed_bits(values: Tensor, size: int) -> Tensor:
    """Every ``size`` bytes of a row as 64 mixed bits; 0 and -0 give the same bits, and so do all nan."""
    if values.is_floating_point():
        values = (values + 0.0).masked_fill(values.isnan(), math.nan)
    bits = values.contiguous().view(torch.uint8).view(_INTEGERS[size]).to(torch.int64)
    # A product carries bits upwards only, and the low bits of a small float are 0: shifts carry bits downwards.
    for factor in HASH_FACTORS:
        bits = (bits ^ (bits >> 32)) * factor
    return bits ^ (bits >> 32)
