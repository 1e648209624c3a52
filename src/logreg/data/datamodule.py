"""From a dataset to blocks of rows: read, split, selected, encoded, checked, served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from logreg.data.base import Dataset, KnownAnswer, RawData, Table
from logreg.data.blocks import BlockDataset, FeatureReader, block_loader
from logreg.data.encoding.columns import Columns
from logreg.data.leaks import Leaks, find_leaks
from logreg.data.prepare import (
    adopt_classes,
    check_features,
    check_labels,
    check_weights,
    class_rates,
    digit_notes,
    encode_columns,
    fingerprint,
    mean_weight,
    moments_of,
    select_rows,
    split_rows,
)
from logreg.data.selection import Selection, class_weights
from logreg.errors import DataError
from logreg.facts import Batch, DataFacts, Split
from logreg.stored_form import Moments, StoredForm, check_mean_weight, stored_form

HELD_BYTES = 2**30
"""Size up to which an exact optimizer's train rows are converted once instead of in every pass."""


@dataclass
class _Held:
    """What ``setup`` made, so that a second call changes nothing."""

    raw: RawData
    tables: dict[Split, Table]
    facts: DataFacts
    notes: tuple[str, ...]
    to_store: StoredForm | None = None
    """What brings the features of the tables into the form of the blocks; ``None`` where they have it."""
    leaks: Leaks = field(default_factory=Leaks)
    datasets: dict[Split, BlockDataset] = field(default_factory=dict)
    whole: BlockDataset | None = None
    """The train split for an exact optimizer, which reads it many times."""


class TensorDataModule(pl.LightningDataModule):
    """Any dataset that fits into memory (or is mapped into it), split and served in blocks.

    Splits that the dataset lacks and nobody asked to hold out are absent, not empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = None,
        split: Mapping[Split, float | None] | None = None,
        standardize: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        selection: Selection = Selection(),  # noqa: B008  # frozen
        limit: int | None = None,
        class_weight: str | Mapping[Any, float] = "none",
        full_passes_from_epoch: int | None = None,
        model: DataFacts | None = None,
        shifts: bool = True,
    ) -> None:
        """Nothing is read yet.

        Args:
            dataset: Where the rows come from.
            batch_size: Rows of a batch; ``None`` for all train rows at once.
            split: Fraction of the train rows to hold out for val and for test, stratified; ``None`` for
                ``HELD_OUT`` where the dataset has no such split of its own.
            standardize: Whether the facts carry mean and std of the train split.
            seed: Fixes the split and the order of the rows.
            dtype: Floating type of the features.
            selection: Which classes are told apart.
            limit: At most so many train rows, stratified; val and test stay as they are.
            class_weight: "none", "balanced", or a weight by class name.
            full_passes_from_epoch: Epochs after which train comes in the same blocks in every epoch, each a sample of
                all rows, as exact optimizers need it; with 0 ``batch_size`` does not matter.  ``None`` for never.
            model: The facts of a trained model that the rows are for: they are encoded as it learned, and their
                classes are its own.
            shifts: Whether a column that lies far from zero may be stored as its distance from its mean: not without
                an intercept, unless features are standardized.
        """
        super().__init__()
        self.dataset, self.batch_size, self.standardize = dataset, batch_size, standardize
        self.fractions: dict[Split, float | None] = dict(split or {})
        self.seed, self.dtype = seed, dtype
        self.selection, self.limit, self.class_weight = selection, limit, class_weight
        self.full_passes_from_epoch, self.model, self.shifts = full_passes_from_epoch, model, shifts
        self.device: torch.device | None = None
        self._held: _Held | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads, splits, selects, encodes and checks the rows, and takes the facts of the train split; once."""
        if self._held is not None:
            return
        if self.model is not None:
            self._held = self._for(self.model)
            return
        raw, (tables, class_names) = self.raw, self.selected
        check_labels(tables, class_names, self.dataset.name, raw)
        check_weights(tables)
        before = tables["train"].features
        # What comes with the library, was drawn by it, or is a picture, is what it says.
        own_data = bool(raw.source) and not raw.image_shape and not raw.backbone
        leaks = find_leaks(tables["train"], len(class_names)) if own_data else Leaks()
        there = [series.name for series in before.series] if isinstance(before, Columns) else []
        tables, columns, stored, notes = encode_columns(tables, self.dtype, shifts=self.shifts)
        if not columns:  # what was encoded from columns was checked there, by the names of the columns
            check_features(tables, self.dataset.name)
        train = tables["train"]
        names = tuple(name for column in columns for name in column.feature_names) or raw.feature_names
        to_store, found = None, None
        if stored is None:
            stored, found, notes = self._measure(train, raw.scale, names)
            to_store = None if stored.is_plain else stored
        elif self.standardize:
            found = stored.source_moments(moments_of(train))
        mean, std = ((), ()) if found is None or not self.standardize else stored.standardization(found)
        own = None if train.sample_weight is None else train.select(train.sample_weight)
        weights = class_weights(self.class_weight, train.select(train.labels), class_names, own)
        weight = mean_weight(train, weights)
        check_mean_weight("dataset.class_weight", weight)
        encoded = {column.name for column in columns}
        facts = DataFacts(
            name=self.dataset.name,
            num_features=train.matrix.shape[1],
            class_names=class_names,
            rows={split: len(table) for split, table in tables.items()},
            feature_names=names,
            image_shape=raw.image_shape,
            mean=tuple(mean),
            std=tuple(std),
            fingerprint=fingerprint(tables),
            source=raw.source,
            columns=columns,
            ignored=tuple(name for name in there if name not in encoded),
            missing_values=raw.missing_values,
            backbone=raw.backbone,
            pixels=raw.pixels,
            white_byte=round(1 / raw.scale) if raw.image_shape else 255,
            class_weight=weights,
            mean_weight=weight,
            class_rates=class_rates(train, len(class_names)),
            shift=tuple(stored.shift.tolist()) if bool(stored.shift.any()) else (),
            class_kind=raw.class_kind if set(class_names) <= set(raw.class_names) else "text",
            unit=tuple(stored.unit.tolist()) if bool((stored.unit != 1).any()) else (),
        )
        notes = (*raw.notes, *notes, *leaks.notes(len(train)))
        self._held = _Held(dataclasses.replace(raw, tables={}), tables, facts, notes, to_store, leaks)
        del self.raw, self.selected  # columns as they were read take more memory than the features made of them

    def _for(self, model: DataFacts) -> _Held:
        """The rows as a trained model reads them."""
        raw, (tables, class_names) = self.raw, self.selected
        tables = adopt_classes(tables, class_names, model.class_names, self.dataset.name)
        check_weights(tables)
        tables, _, encoded, notes = encode_columns(tables, self.dtype, model)
        if not model.columns:
            check_features(tables, self.dataset.name)
        features, shape = tables["train"].matrix.shape[1], raw.image_shape or (model.num_features,)
        if features != model.num_features or (model.image_shape and shape != model.image_shape):
            wanted, got = model.image_shape or model.num_features, shape if model.image_shape else features
            raise DataError(f"`dataset={self.dataset.name}` must have the features of the model, {wanted}, got {got}.")
        rows: dict[str, int] = {split: len(table) for split, table in tables.items()}
        facts = dataclasses.replace(model, rows=rows, fingerprint=fingerprint(tables), source=raw.source)
        to_store = None if encoded is not None or model.stored.is_plain else model.stored
        return _Held(dataclasses.replace(raw, tables={}), tables, facts, (*raw.notes, *notes), to_store)

    @cached_property
    def raw(self) -> RawData:
        """What was read; read once."""
        return self.dataset.read()

    @cached_property
    def selected(self) -> tuple[Mapping[Split, Table], tuple[str, ...]]:
        """The rows of each split, not yet encoded or checked, and the names of the classes."""
        tables = split_rows(self.raw, self.fractions, self.selection, self.seed, self.dataset.name)
        return select_rows(self.raw, tables, self.selection, self.limit, self.seed, self.dataset.name)

    @property
    def tables(self) -> Mapping[Split, Table]:
        """The rows of each split as the model reads them, all of them at once."""
        return self._done.tables

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
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the rows were read and encoded, a sentence each."""
        return self._done.notes

    @property
    def leaks(self) -> Leaks:
        """Columns that may be the target under another name, and those that say the same as another one."""
        return self._done.leaks

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that there are, train first."""
        return tuple(self._done.tables)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Blocks of whole batches, in an order of each epoch's own; or the same blocks in each."""
        dataset = self._blocks("train")
        if self.full_passes_from_epoch is not None:
            dataset = self._held_blocks(dataset)
        batch_size = 1 if self.full_passes_from_epoch == 0 else self.batch_size or len(dataset)
        return block_loader(dataset, batch_size, shuffle=True, seed=self.seed, mixed_after=self.full_passes_from_epoch)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of the val split in order; none if it has none (then give the Trainer ``limit_val_batches=0``)."""
        return self.blocks("val") if "val" in self.splits else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Blocks of the test split in order; none if it has none."""
        return self.blocks("test") if "test" in self.splits else []

    def blocks(self, split: Split) -> DataLoader[Batch]:
        """The rows of a split in order, for scoring."""
        return block_loader(self._blocks(split), batch_size=1, shuffle=False)

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

    def source_row_numbers(self, split: Split) -> Tensor:
        """Row number in the source of each row of a split, counted from 0, shape (N,), int64."""
        return self.tables[split].row_numbers

    def rows(self, split: Split, positions: Tensor | Sequence[int]) -> Batch:
        """Some rows of a split, on the CPU, with features as the model reads them.

        Args:
            split: One of ``splits``.
            positions: Positions in the split, counted from 0, shape (n,).
        """
        features, labels, weights = self._blocks(split)[torch.as_tensor(positions, dtype=torch.int64)]
        return Batch(features.cpu(), labels.cpu(), None if weights is None else weights.cpu())

    def feature_reader(self, split: Split) -> FeatureReader:
        """Random access to the features of a split in full precision, whatever the type of the blocks."""
        table = self.tables[split]
        return FeatureReader(table.matrix, table.index, self._done.to_store, HELD_BYTES)

    def source_columns(self, split: Split, positions: Tensor | Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        """Some rows of a table as they are in the file, column by column.

        The file is read again: the columns of a table are freed once they are encoded.

        Args:
            split: One of ``splits``.
            positions: Positions in the split, counted from 0, shape (n,).

        Returns:
            The values of each column that the model learned from, shape (n,): numbers in float64, nan where missing;
            levels as text, "" where missing.  Empty for a dataset without columns.
        """
        if not self.facts.columns:
            return {}
        numbers = self.source_row_numbers(split)[torch.as_tensor(positions, dtype=torch.int64)].numpy()
        read = self.raw.tables["train"].features
        assert isinstance(read, Columns)
        by_name = {series.name: series for series in read.series}
        columns: dict[str, np.ndarray[Any, Any]] = {}
        for column in self.facts.columns:
            series = by_name[column.name]
            if column.kind == "number":
                columns[column.name] = series.values[numbers].astype(np.float64)
                continue
            levels = [level.lower() if column.kind == "boolean" else level for level in series.levels]
            columns[column.name] = np.array([*levels, ""], dtype=object)[series.values[numbers]]
        return columns

    def share(self, other: TensorDataModule) -> None:
        """Takes over the rows of another one of the same dataset, split and seed; batches stay its own."""
        self._held = other._done

    @property
    def _done(self) -> _Held:
        self.setup()
        assert self._held is not None
        return self._held

    def _measure(
        self, train: Table, scale: float, names: tuple[str, ...]
    ) -> tuple[StoredForm, Moments | None, tuple[str, ...]]:
        """How a matrix is stored; its moments, where they were taken; what a user should know of it."""
        if train.matrix.dtype == torch.uint8 or scale != 1:  # pixels have no offset and no unit that could cost a digit
            found = moments_of(train, scale) if self.standardize else None
            return StoredForm.plain(train.matrix.shape[1]), found, ()
        found = moments_of(train, scale)
        is_narrow = train.matrix.is_floating_point() and train.matrix.dtype != torch.float64
        kind = torch.float32 if is_narrow else torch.float64
        # Narrower numbers are what they are: rounding their distance from the mean would not give them digits.
        form = stored_form(found, self.shifts and not is_narrow, names)
        # nor do passes over narrow numbers lose any
        return form, found, digit_notes(found, form, names, found.lacks_digits(kind), kind if is_narrow else self.dtype)

    def _held_blocks(self, dataset: BlockDataset) -> BlockDataset:
        """The same rows, converted and put in their order once, where they are few enough to be held so."""
        many = len(dataset) * dataset.features.shape[1] * dataset.dtype.itemsize > HELD_BYTES
        if many or (dataset.index is None and dataset.is_ready):
            return dataset
        if self._done.whole is None:
            features, labels, weights = dataset[slice(None)]
            self._done.whole = BlockDataset(features, labels, None, 1.0, dataset.dtype, weights)
        return self._done.whole

    def _blocks(self, split: Split) -> BlockDataset:
        """The split as blocks, its table on the accelerator if there is one and the table fits."""
        held = self._done
        if split not in held.datasets:
            mine = held.tables[split]
            features, labels, weights, stored = mine.matrix, mine.labels, mine.sample_weight, held.to_store
            # Wider than asked for is converted once; narrower (float16, perhaps mapped from a file) block by block.
            if features.is_floating_point() and features.itemsize > self.dtype.itemsize:
                features = features.to(self.dtype) if stored is None else stored.of(features, self.dtype)
                stored = None
            device = self.trainer.strategy.root_device if self.trainer else self.device or torch.device("cpu")
            if device.type == "cuda" and 2 * features.nbytes < torch.cuda.mem_get_info(device)[0]:
                features, labels = features.to(device), labels.to(device)
            if weights is not None:
                weights = weights.to(features.device, self.dtype)
            # The splits of one table share it, so it is converted and moved once.
            for other, table in held.tables.items():
                if table.features is mine.features:
                    index = None if table.index is None else table.index.to(features.device)
                    held.datasets[other] = BlockDataset(
                        features, labels, index, held.raw.scale, self.dtype, weights, stored
                    )
        return held.datasets[split]
