"""The DataModule: serves the rows that `logreg.data.preparation` prepares, in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from logreg.csr import converted, is_sparse, num_bytes
from logreg.data.augmentation import Augmentation, drawn_anew
from logreg.data.base import BayesClassifier, ColumnSource, Dataset, Table
from logreg.data.blocks import BlockDataset, FeatureReader, block_loader, run_rows
from logreg.data.encoding.columns import Columns
from logreg.data.leaks import Leaks
from logreg.data.preparation import Preparation
from logreg.data.preparation_steps import class_rates, fingerprint, mean_weight, nonzeros_of
from logreg.data.prepared import Prepared
from logreg.data.row_source import SplitRows
from logreg.data.selection import Selection
from logreg.errors import ConfigError
from logreg.facts import Batch, DataFacts, Split
from logreg.processes import Processes, share
from logreg.rows import offset_apart

CONVERTED_BYTES = 2**30
"""Size of converted features, in bytes, up to which an exact optimizer keeps them, to convert them only once."""


class TensorDataModule(pl.LightningDataModule):
    """Serves any dataset in blocks of rows; the dataset is held in memory or mapped into it.

    A split that the dataset lacks and that is not held out is absent, not empty.

    Several processes all read and prepare the dataset, in the same way; then `train_dataloader`, `val_dataloader`,
    `test_dataloader` and `row_source` serve the share of this process, and everything else is about all rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = None,
        split: Mapping[Split, float | None] | None = None,
        standardize: bool | None = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        selection: Selection = Selection(),  # noqa: B008  # frozen
        limit: int | None = None,
        class_weight: str | Mapping[Any, float] = "none",
        full_passes_from_epoch: int | None = None,
        model: DataFacts | None = None,
        shifts: bool = True,
        augment: Mapping[str, Mapping[str, float]] | None = None,
        copies: int = 0,
        processes: Processes | None = None,
    ) -> None:
        """Stores the settings; nothing is read yet.

        Args:
            dataset: The source of the rows.
            batch_size: Rows of a batch; ``None`` for all train rows.
            split: Fraction of the train rows to hold out for val and for test, stratified; ``None`` for
                ``DEFAULT_FRACTION`` where the dataset has no such split.
            standardize: Whether the facts hold mean and standard deviation of each feature over train; ``None`` for
                those of dense features alone.
            seed: Seed of the split and of the order of the rows.
            dtype: Floating type of the features.
            selection: The classes to learn.
            limit: Largest number of train rows; a stratified sample is taken.  Val and test stay as they are.
            class_weight: "none", "balanced", or weights by class name.
            full_passes_from_epoch: First epoch in which train comes in fixed blocks, each a sample of all rows, as
                exact optimizers need it; with 0 ``batch_size`` has no effect.  ``None`` for never.
            model: Facts of a trained model; the rows are then encoded as its train rows were, with its classes.
            shifts: Whether a column that lies far from zero may be stored as its deviation from its mean.  It may not
                without an intercept, unless features are standardized.
            augment: Random changes of train images, as of `logreg.sections.augmentation_of`; ``None`` for none.
            copies: Changed copies that each train row gets besides itself; 0 to draw anew in each epoch.
            processes: The processes that share the rows of each split; ``None`` for one process.
        """
        super().__init__()
        self.augmentation = Augmentation(augment or {})
        self.preparation = Preparation(
            dataset=dataset,
            fractions=dict(split or {}),
            standardize=standardize,
            seed=seed,
            dtype=dtype,
            selection=selection,
            limit=limit,
            class_weight=class_weight,
            model=model,
            shifts=shifts,
            augmentation=self.augmentation,
            copies=copies if augment else 0,
            processes=processes,
        )
        self.batch_size, self.seed, self.dtype, self.processes = batch_size, seed, dtype, processes
        self.full_passes_from_epoch = full_passes_from_epoch
        self.device: torch.device | None = None
        self._ready: Prepared | None = None

    def setup(self, stage: str | None = None) -> None:
        """Prepares the rows, and learns the facts from train; only once.

        Raises:
            LogregError: The rows cannot be learned from; or several processes read different rows.
        """
        if self._ready is None:
            self._ready = self.preparation.prepare()

    @property
    def dataset(self) -> Dataset:
        """The source of the rows."""
        return self.preparation.dataset

    @property
    def tables(self) -> Mapping[Split, Table]:
        """The encoded rows of each split, all at once; only for use inside ``data``."""
        return self._prepared.tables

    @property
    def facts(self) -> DataFacts:
        """Everything that a model may know about the data."""
        return self._prepared.facts

    @property
    def bayes_classifier(self) -> BayesClassifier | None:
        """The best classifier of generated data; ``None`` for other data."""
        return self._prepared.raw.bayes_classifier

    @property
    def plot_range(self) -> tuple[float, float] | None:
        """Range over which a single feature is plotted, in source units; ``None`` for the range of the data."""
        return self._prepared.raw.plot_range

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on how the rows were read and encoded."""
        return self._prepared.notes

    @property
    def leaks(self) -> Leaks:
        """Columns that may be the target under another name, and columns that repeat another one."""
        return self._prepared.leaks

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the data has, train first."""
        return tuple(self._prepared.tables)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Blocks of whole batches of train, shuffled in each epoch; fixed blocks from ``full_passes_from_epoch``.

        Without fixed blocks pixels stay bytes: a first-order optimizer converts them batch by batch, in the cache.
        """
        # A step of a first-order optimizer takes rows of the whole split: each process has its part of every batch.
        is_exact = self.full_passes_from_epoch == 0
        dataset, processes = (self._share("train"), None) if is_exact else (self._blocks("train"), self.processes)
        if self.full_passes_from_epoch:
            dataset = self._converted(dataset)
        elif not is_exact and self.facts.image_shape and dataset.features.dtype == torch.uint8:
            dataset = BlockDataset(
                dataset.features, dataset.labels, dataset.index, 1.0, torch.uint8, dataset.sample_weight
            )
        loader = block_loader(
            dataset,
            1 if is_exact else self.batch_size or len(dataset),
            shuffle=True,
            seed=self.seed,
            fixed_from_epoch=self.full_passes_from_epoch,
            processes=processes,
            is_mapped=self._prepared.is_mapped,
        )
        if self.facts.draws_anew:
            return drawn_anew(loader, self.facts.image_shape, self.augmentation, self.seed)
        return loader

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of val in order; empty without a val split (the Trainer then needs ``limit_val_batches=0``)."""
        return self.blocks("val", is_share=True) if "val" in self.splits else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of test in order; empty without a test split."""
        return self.blocks("test", is_share=True) if "test" in self.splits else []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a block; Lightning's way to find its tensors takes as long as a batch of a small table."""
        overlaps = device.type == "cuda"  # the others would read the copy before it is there
        return batch.to(device, non_blocking=overlaps)

    def blocks(self, split: Split, is_share: bool = False) -> DataLoader[Batch]:
        """Rows of a split in order, block by block; blocks are small enough for a number for each class.

        ``is_share``: only the rows of this process, else all rows.
        """
        dataset = self._share(split) if is_share else self._blocks(split)
        return block_loader(dataset, batch_size=1, shuffle=False, num_outputs=self.facts.num_classes)

    def row_source(self, split: Split, device: torch.device | None = None, is_share: bool = True) -> SplitRows:
        """The rows of a split for exact solvers and certificates.

        Args:
            split: One of ``splits``.
            device: The device of the blocks; the CPU when ``None``.
            is_share: Whether several processes share the passes; else each makes them over all rows.
        """
        processes = self.processes if is_share else None
        return SplitRows(
            self._share(split) if processes is self.processes else self._blocks(split),
            device or torch.device("cpu"),
            self.facts.largest_offset is not None,
            processes,
            run_rows(self._blocks(split)) if self._prepared.is_mapped else 1,
        )

    def labels(self, split: Split) -> Tensor:
        """Class of each row of a split, shape (N,), int64, on the CPU."""
        table = self.tables[split]
        return table.select(table.labels)

    def sample_weight(self, split: Split) -> Tensor | None:
        """Weight of each row of a split, shape (N,), float64, on the CPU; ``None`` for weight 1 everywhere."""
        table = self.tables[split]
        return table.select(table.sample_weight)

    def groups(self, split: Split) -> Tensor | None:
        """Group of each row of a split, shape (N,), int64; ``None`` where the dataset has no groups."""
        table = self.tables[split]
        return table.select(table.groups)

    def free_converted(self) -> None:
        """Frees the converted train rows of an exact optimizer; whoever reads them later makes them again."""
        if (rows := self._prepared.converted) is not None:
            rows.features = torch.empty(0, rows.features.shape[1])  # a loader of Lightning still has the dataset
            self._prepared.converted = None

    def codes(self, split: Split, column: str, key: str) -> Tensor:
        """Value of a column of the table in each row of a split, as codes: equal ones are equal values.

        The file is read again, so that the column may be one that nothing else uses.

        Args:
            split: One of ``splits``.
            column: Name of the column.
            key: The setting that names it, for messages.

        Returns:
            Shape (N,), int64, >= 0.

        Raises:
            ConfigError: There is no such column.
            DataError: A value is missing.
        """
        if not isinstance(self.dataset, ColumnSource):
            raise ConfigError.broken(key, "name a column of a table", column, f"dataset={self.dataset.name} has none.")
        return self.dataset.codes(column, key)[self.source_row_numbers(split)]

    def fingerprint_in(self, dtype: torch.dtype) -> int:
        """The `DataFacts.fingerprint` of these rows in a run whose arithmetic has another floating type."""
        if not self.facts.columns or dtype == self.dtype:  # only columns are encoded in the type of the arithmetic
            return self.facts.fingerprint
        features = converted(self.tables["train"].matrix, dtype)
        return fingerprint(
            {split: dataclasses.replace(table, features=features) for split, table in self.tables.items()}
        )

    def source_row_numbers(self, split: Split) -> Tensor:
        """Row number in the source of each row of a split, counted from 0, shape (N,), int64."""
        return self.tables[split].row_numbers

    def rows(self, split: Split, positions: Tensor | Sequence[int]) -> Batch:
        """Some rows of a split, on the CPU, with features as the model reads them.

        Args:
            split: One of ``splits``.
            positions: Positions in the split, counted from 0, shape (n,).
        """
        return self._blocks(split)[torch.as_tensor(positions, dtype=torch.int64)].to("cpu")

    def feature_reader(self, split: Split) -> FeatureReader:
        """Random access to the features of a split in full precision, whatever the type of the blocks; no offset."""
        table = self.tables[split]
        features = table.matrix if self.facts.largest_offset is None else offset_apart(table.matrix)[0]
        held = 0 if self._prepared.is_mapped else CONVERTED_BYTES
        return FeatureReader(features, table.index, self._prepared.to_store, held)

    def keep_columns(self) -> None:
        """Keeps the columns that are read to be encoded for a model, for `source_columns`; called before `setup`."""
        if (model := self.preparation.model) is not None and model.columns:
            _ = self.preparation.raw  # whoever has read it before the rows are prepared keeps it

    def source_columns(self, split: Split, positions: Tensor | Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        """Some rows of a table as they are in the file, column by column.

        The file is read again, since the columns are freed once they are encoded, unless they are kept for a model; see
        `keep_columns`.

        Args:
            split: One of ``splits``.
            positions: Positions in the split, counted from 0, shape (n,).

        Returns:
            The values of each column that the model learned from, shape (n,): numbers in float64, nan where missing;
            levels as text, ``None`` where missing.  Empty for a dataset without columns.
        """
        if not self.facts.columns:
            return {}
        numbers = self.source_row_numbers(split)[torch.as_tensor(positions, dtype=torch.int64)].numpy()
        read = self.preparation.raw.tables["train"].features
        assert isinstance(read, Columns)
        by_name = {series.name: series for series in read.series}
        columns: dict[str, np.ndarray[Any, Any]] = {}
        for column in self.facts.columns:
            series = by_name[column.name]
            if column.kind == "number":
                columns[column.name] = series.values[numbers].astype(np.float64)
                continue
            levels = [level.lower() if column.kind == "boolean" else level for level in series.levels]
            columns[column.name] = np.array([*levels, None], dtype=object)[series.values[numbers]]
        return columns

    def adopt_rows_of(self, other: TensorDataModule, held_out: Tensor | None = None) -> None:
        """Uses the prepared rows of a DataModule with the same dataset, split and seed; batches stay separate.

        Args:
            other: The DataModule that has read the rows.
            held_out: Whether each train row is left out, shape (N,), bool; the others stay encoded, standardized and
                weighted by class as they are, and no other split is left.  ``None`` for all rows of all splits.
        """
        self._ready = prepared = other._prepared
        if held_out is None:
            return
        train, facts = prepared.tables["train"].subset((~held_out).nonzero()[:, 0]), prepared.facts
        self._ready = dataclasses.replace(
            prepared,
            tables={"train": train},
            facts=dataclasses.replace(
                facts,
                rows={"train": len(train)},
                mean_weight=mean_weight(train, facts.class_weight),
                class_rates=class_rates(train, facts.num_classes),
                nonzeros=nonzeros_of(train),
            ),
            datasets={},
            converted=None,
        )

    @property
    def _prepared(self) -> Prepared:
        self.setup()
        assert self._ready is not None
        return self._ready

    def _converted(self, dataset: BlockDataset) -> BlockDataset:
        """The rows in the type and order of the blocks, converted once, where the result is small enough to keep."""
        is_large = self._prepared.is_mapped or len(dataset) * dataset.row_bytes > CONVERTED_BYTES
        if is_large or (dataset.index is None and dataset.is_converted):
            return dataset
        if self._prepared.converted is None:
            whole, first = dataset[slice(None)], dataset.first
            self._prepared.converted = BlockDataset(
                whole.features, whole.labels, None, 1.0, dataset.dtype, whole.sample_weight, first=first
            )
        return self._prepared.converted

    def _share(self, split: Split) -> BlockDataset:
        """The rows of a split that this process has, as they are served."""
        dataset, is_kept = self._blocks(split), split == "train" and self.full_passes_from_epoch is not None
        if is_kept and self.full_passes_from_epoch:  # before that epoch a process reads rows of all parts
            dataset, is_kept = self._converted(dataset), False
        if self.processes is not None:
            dataset = dataset.part(share(len(dataset), self.processes.rank, self.processes.size))
        return self._converted(dataset) if is_kept else dataset

    def _blocks(self, split: Split) -> BlockDataset:
        """The split as it is served; its features lie on the accelerator where there is one and they fit."""
        prepared = self._prepared
        if split not in prepared.datasets:
            mine = prepared.tables[split]
            features, labels, weights, stored = mine.matrix, mine.labels, mine.sample_weight, prepared.to_store
            # Wider types are converted once; narrower ones (float16, perhaps mapped from a file) block by block.
            is_wider = features.is_floating_point() and features.itemsize > self.dtype.itemsize
            if is_wider and not prepared.is_mapped:
                features = converted(features, self.dtype) if stored is None else stored.transform(features, self.dtype)
                stored = None
            device = self.trainer.strategy.root_device if self.trainer else self.device or torch.device("cpu")
            # Rows of a sparse matrix are gathered on the CPU, so that only blocks of it are moved.
            is_moved = device.type == "cuda" and not is_sparse(features)
            if is_moved and 2 * num_bytes(features) < torch.cuda.mem_get_info(device)[0]:
                features, labels = features.to(device), labels.to(device)
            if weights is not None:
                weights = weights.to(features.device, self.dtype)
            # Splits that share one feature matrix are set up together, so that it is converted and moved once.
            for other, table in prepared.tables.items():
                if table.features is mine.features:
                    index = None if table.index is None else table.index.to(features.device)
                    prepared.datasets[other] = BlockDataset(
                        features, labels, index, prepared.raw.scale, self.dtype, weights, stored
                    )
        return prepared.datasets[split]
