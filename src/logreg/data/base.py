"""From a dataset to blocks of rows: splits, facts of the train split, loaders."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from logreg.data.blocks import BlockDataset, block_loader
from logreg.data.splits import stratified_split
from logreg.errors import DataError
from logreg.facts import SPLITS, Batch, DataFacts, Split


@dataclass(frozen=True)
class Table:
    """Rows in memory, as a source has them."""

    features: Tensor
    """Shape (M, D); floating, or integers (pixels as bytes)."""
    labels: Tensor
    """Shape (M,), int64, in [0, C)."""
    rows: Tensor | None = None
    """Which of the M rows are meant, shape (N,); ``None`` for all of them."""

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class KnownAnswer:
    """What the best classifier of generated data is, in closed form."""

    coef: Tensor
    """Shape (D,), in source units."""
    intercept: float
    accuracy: float
    """Of the best classifier on unseen rows, in [0, 1]."""


@dataclass(frozen=True)
class RawData:
    """What a dataset reads: tables and the names of what is in them."""

    tables: Mapping[Split, Table]
    """The splits that the source itself has; at least train."""
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    scale: float = 1.0
    """Features times this are in source units (1 / 255 for pixels kept as bytes)."""
    answer: KnownAnswer | None = None
    axis: tuple[float, float] | None = None
    """Range to draw a single feature over, in source units."""


class Dataset(Protocol):
    """A source of rows: its arguments are its fields, ``read`` does the work."""

    @property
    def name(self) -> str:
        """As the person selects it."""

    def read(self) -> RawData:
        """The tables, from wherever they come.

        Raises:
            DatasetNotFoundError: Files are missing; the message says which and what to do.
        """


@dataclass
class _Held:
    """What ``setup`` made, so that a second call changes nothing."""

    raw: RawData
    tables: dict[Split, Table]
    facts: DataFacts
    datasets: dict[Split, BlockDataset] = field(default_factory=dict)


class TensorDataModule(pl.LightningDataModule):
    """Any dataset that fits into memory, split and served in blocks.

    Splits that the dataset lacks and nobody asked to hold out are absent, not empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = None,
        split: Mapping[Split, float] | None = None,
        standardize: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Nothing is read yet.

        Args:
            dataset: Where the rows come from.
            batch_size: Rows of a batch; ``None`` for all train rows at once.
            split: Fraction of the train rows to hold out for val and for test, stratified.
            standardize: Whether the facts carry mean and std of the train split.
            seed: Fixes the split and the order of the rows.
            dtype: Floating type of the features.
        """
        super().__init__()
        self.dataset, self.batch_size, self.standardize = dataset, batch_size, standardize
        self.fractions: dict[Split, float] = dict(split or {})
        self.seed, self.dtype = seed, dtype
        self._held: _Held | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads, splits and checks the rows, and takes the facts of the train split; once."""
        if self._held is not None:
            return
        raw = self.dataset.read()
        tables = dict(raw.tables)
        held_out = {split: fraction for split, fraction in self.fractions.items() if fraction > 0}
        for split in held_out:
            if split in tables:
                raise DataError(
                    f"`dataset.split.{split}` must not be set: {self.dataset.name} has a {split} split of its own."
                )
        if held_out:
            train = tables["train"]
            for split, rows in stratified_split(train.labels, held_out, self.seed).items():
                tables[split] = Table(train.features, train.labels, rows)
        tables = {split: tables[split] for split in SPLITS if split in tables}
        self._check(raw, tables)
        mean, std = self._moments(tables["train"], raw.scale) if self.standardize else ((), ())
        facts = DataFacts(
            name=self.dataset.name,
            num_features=tables["train"].features.shape[1],
            class_names=raw.class_names,
            rows={split: len(table) for split, table in tables.items()},
            feature_names=raw.feature_names,
            image_shape=raw.image_shape,
            mean=mean,
            std=std,
            fingerprint=self._fingerprint(tables["train"]),
        )
        self._held = _Held(raw, tables, facts)

    @property
    def facts(self) -> DataFacts:
        """All that a model may know of the data."""
        return self._done.facts

    @property
    def answer(self) -> KnownAnswer | None:
        """The best classifier, where it is known in closed form."""
        return self._done.raw.answer

    @property
    def axis(self) -> tuple[float, float] | None:
        """Range to draw a single feature over, where the dataset has one in mind."""
        return self._done.raw.axis

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that there are, train first."""
        return tuple(self._done.tables)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Blocks of whole batches, in an order of each epoch's own."""
        dataset = self._blocks("train")
        return block_loader(dataset, self.batch_size or len(dataset), shuffle=True, seed=self.seed)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of the val split in order; none if it has none (then give the Trainer ``limit_val_batches=0``)."""
        return self.blocks("val") if "val" in self.splits else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of the test split in order; none if it has none."""
        return self.blocks("test") if "test" in self.splits else []

    def blocks(self, split: Split) -> DataLoader[Batch]:
        """The rows of a split in order, for scoring."""
        return block_loader(self._blocks(split), batch_size=1, shuffle=False)

    @property
    def _done(self) -> _Held:
        self.setup()
        assert self._held is not None
        return self._held

    def _blocks(self, split: Split) -> BlockDataset:
        """The split as blocks, its table on the accelerator if there is one and the table fits."""
        held = self._done
        if split not in held.datasets:
            mine = held.tables[split]
            features, labels, rows = mine.features, mine.labels, mine.rows
            if features.is_floating_point():
                features = features.to(self.dtype)
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            if device.type == "cuda" and 2 * features.nbytes < torch.cuda.mem_get_info(device)[0]:
                features, labels = features.to(device), labels.to(device)
                rows = rows if rows is None else rows.to(device)
            # The splits of one table share it, so it is converted and moved once.
            for other, table in held.tables.items():
                if table.features is mine.features and other != split:
                    other_rows = table.rows if table.rows is None else table.rows.to(device)
                    held.datasets[other] = BlockDataset(features, labels, other_rows, held.raw.scale, self.dtype)
            held.datasets[split] = BlockDataset(features, labels, rows, held.raw.scale, self.dtype)
        return held.datasets[split]

    def _check(self, raw: RawData, tables: Mapping[Split, Table]) -> None:
        """Checked here at the door, trusted everywhere inside."""
        if len(raw.class_names) < 2:
            raise DataError(f"`dataset={self.dataset.name}` must have at least 2 classes, got {raw.class_names}.")
        for split, table in tables.items():
            features, labels, rows = table.features, table.labels, table.rows
            where = f"[in {split} of {self.dataset.name}]"
            chosen = labels if rows is None else labels[rows]
            if not len(chosen):
                raise DataError(f"`dataset.split.{split}` must leave rows in every split, got none {where}.")
            if int(chosen.min()) < 0 or int(chosen.max()) >= len(raw.class_names):
                raise DataError(
                    f"`labels` must lie in [0, {len(raw.class_names)}), got {int(chosen.min())} to "
                    f"{int(chosen.max())} {where}."
                )
            # The sum is one pass without a copy; it may also overflow, so only then is each value looked at.
            if features.is_floating_point() and not bool(features.sum().isfinite()):
                bad = (~features.isfinite()).any(1).nonzero()
                if len(bad):
                    raise DataError(f"`features` must be finite, got nan or inf in row {int(bad[0])} {where}.")
        train = tables["train"]
        if len(torch.unique(train.labels if train.rows is None else train.labels[train.rows])) < 2:
            raise DataError(f"train of `dataset={self.dataset.name}` must hold at least 2 classes, got 1.")

    def _fingerprint(self, train: Table) -> int:
        """CRC-32 of the table's bytes and of which rows are the train split's."""
        checksum = 0
        for tensor in (train.features, train.labels, train.rows):
            if tensor is not None:
                checksum = zlib.crc32(tensor.contiguous().numpy().data, checksum)
        return checksum

    def _moments(self, train: Table, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each feature over the train rows, summed in float64."""
        dataset = BlockDataset(train.features, train.labels, train.rows, scale, torch.float64)
        blocks = block_loader(dataset, batch_size=1, shuffle=False)
        mean = sum(block.features.sum(0) for block in blocks) / len(train)
        variance = sum((block.features - mean).square().sum(0) for block in blocks) / len(train)
        std = torch.as_tensor(variance).sqrt()
        # Rounding leaves a constant feature a tiny deviation; dividing by it would blow noise up.
        constant = std <= 1e-12 * torch.as_tensor(mean).abs().clamp(min=1e-300)
        return tuple(torch.as_tensor(mean).tolist()), tuple(std.masked_fill(constant, 1.0).tolist())
