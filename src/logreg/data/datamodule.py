"""The DataModule: reads, splits, selects, encodes and checks rows, and serves them in blocks."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from logreg.csr import converted, is_sparse, num_bytes
from logreg.data.augmentation import Augmentation, drawn_anew, with_copies
from logreg.data.base import BayesClassifier, ColumnSource, Dataset, MappedSource, RawData, Table
from logreg.data.blocks import BlockDataset, FeatureReader, block_loader, run_rows
from logreg.data.encoding.columns import Columns
from logreg.data.formats.cache import load_arrays, load_or_write_arrays
from logreg.data.leaks import Leaks, find_leaks
from logreg.data.memory import Allocate, mapped_array
from logreg.data.prepare import (
    Encoded,
    adopt_classes,
    check_features,
    check_labels,
    check_weights,
    class_rates,
    digit_notes,
    encode_columns,
    fingerprint,
    largest_offset,
    mean_weight,
    moments_of,
    moments_of_columns,
    nonzeros_of,
    numbered_as,
    select_rows,
    split_rows,
)
from logreg.data.prepared import PREPARED_VERSION, Prepared
from logreg.data.row_source import SplitRows
from logreg.data.selection import Selection, class_weights
from logreg.errors import ConfigError, DataError
from logreg.facts import Batch, DataFacts, Split, names_of_features
from logreg.processes import Processes, in_each, in_turn, share
from logreg.rows import offset_apart
from logreg.stored_form import Moments, StoredForm, check_mean_weight, choose_form_of_sparse, choose_stored_form
from logreg.terminal import counted

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
        self.dataset, self.batch_size, self.standardize = dataset, batch_size, standardize
        self.fractions: dict[Split, float | None] = dict(split or {})
        self.seed, self.dtype = seed, dtype
        self.selection, self.limit, self.class_weight = selection, limit, class_weight
        self.full_passes_from_epoch, self.model, self.shifts = full_passes_from_epoch, model, shifts
        self.augmentation, self.copies = Augmentation(augment or {}), copies if augment else 0
        self.processes = processes
        self.device: torch.device | None = None
        self._ready: Prepared | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads, splits, selects, encodes and checks the rows, and learns the facts from train; only once.

        Raises:
            LogregError: The rows cannot be learned from; or several processes read different rows.
        """
        if self._ready is not None:
            return
        is_cached = self._agree_on_storage()
        self._ready = ready = (in_turn if is_cached else in_each)(self.processes, self._read)
        checksums = (
            [ready.facts.fingerprint] if self.processes is None else self.processes.gather(ready.facts.fingerprint)
        )
        for rank, checksum in enumerate(checksums):
            if checksum != checksums[0]:
                raise DataError(
                    f"`dataset={self.dataset.name}` must have the same rows in each process, and those of process "
                    f"{rank} have another checksum than those of process 0. Give every machine the same files."
                )

    def _agree_on_storage(self) -> bool:
        """Whether a process keeps the prepared rows in a cache, where the others find them; the same in all processes.

        Each of them knows the memory that it has.  Where one must map the rows all do, since the order in which mapped
        rows are shuffled is another one.
        """
        dataset, processes = self.dataset, self.processes
        is_mapped = in_each(processes, lambda: isinstance(dataset, MappedSource) and dataset.is_mapped)
        if processes is not None and any(processes.gather(is_mapped)) and not is_mapped:
            self.dataset = dataclasses.replace(dataset, storage="mapped")  # type: ignore[type-var]  # all are dataclasses
        is_cached = in_each(
            processes, lambda: isinstance(self.dataset, MappedSource) and self.dataset.cache_key is not None
        )
        return is_cached if processes is None else any(processes.gather(is_cached))

    def _read(self) -> Prepared:
        """The prepared rows."""
        found = self._left_or_prepared()
        return dataclasses.replace(found, is_mapped=isinstance(self.dataset, MappedSource) and self.dataset.is_mapped)

    def _left_or_prepared(self) -> Prepared:
        """The rows in memory, or mapped from the cache, into which the first process that comes writes."""
        if not isinstance(self.dataset, MappedSource) or (key := self.dataset.cache_key) is None:
            return self._prepare(mapped_array)
        place = self.dataset.cache, self.dataset.name

        def left(standardize: bool | None) -> Prepared | None:
            """The rows as a fit has left them."""
            settings = [PREPARED_VERSION, key, self._settings(None, standardize)]
            return load_arrays(*place, settings, Prepared.of_content)

        if self.model is not None and not self.augmentation.strengths:
            # The rows that the model was trained on, as they were encoded for its fit, are encoded for the model.
            of_fit = left(self.standardize)
            if of_fit is not None and of_fit.facts == self.model:
                return dataclasses.replace(of_fit, notes=of_fit.notes_for_model, leaks=Leaks())
        if self.model is None and self.standardize and (of_fit := left(False) or left(None)) is not None:
            return of_fit.standardized()  # for a certificate, which needs the moments in any case
        return load_or_write_arrays(
            *place,
            [PREPARED_VERSION, key, self._settings(self.model, self.standardize)],
            lambda files: self._prepare(files.allocate).content(files),
            Prepared.of_content,
        )

    def _settings(self, model: DataFacts | None, standardize: bool | None) -> list[Any]:
        """Plain values of all settings on which rows prepared for a model depend, besides those of the dataset."""
        checksum = None
        if model is not None:
            buffer = io.BytesIO()
            torch.save(model.as_dict(), buffer)
            checksum = hashlib.sha256(buffer.getvalue()).hexdigest()
        weights = self.class_weight if isinstance(self.class_weight, str) else list(self.class_weight.items())
        selection = dataclasses.astuple(self.selection)
        return [
            *(self.fractions, standardize, self.seed, str(self.dtype), selection, self.limit, weights),
            *(checksum, self.shifts, self.copies, self.augmentation.strengths),
        ]

    def _prepare(self, allocate: Allocate) -> Prepared:
        """Reads, splits, selects, encodes and checks the rows; ``allocate`` makes the arrays of the features."""
        if self.model is not None:
            return self._prepare_for(self.model, allocate)
        is_alone = "raw" not in self.__dict__  # whoever has read the columns before may still need them
        raw, (tables, class_names) = self.raw, self.selected
        check_labels(tables, class_names, self.dataset.name, raw)
        check_weights(tables)
        # Leaks are looked for in files of the user only, not in bundled or generated data, nor in images.
        is_users_data = bool(raw.source) and not raw.image_shape and not raw.backbone
        leaks = find_leaks(tables["train"], len(class_names)) if is_users_data else Leaks()
        read = tables["train"].features
        column_names = [series.name for series in read.series] if isinstance(read, Columns) else []
        encoded = encode_columns(tables, self.dtype, shifts=self.shifts, free=is_alone, allocate=allocate)
        tables, columns, learned = encoded.tables, encoded.columns, encoded.notes
        if not columns:  # columns are checked when they are encoded, by name
            check_features(tables, self.dataset.name)
        checksum = fingerprint(tables)
        if self.augmentation.strengths:
            tables["train"], augment_note = self._augmented(tables["train"], raw)
            learned = (*learned, augment_note)
        train = tables["train"]
        names = names_of_features(columns) or raw.feature_names
        stored, found, digits = self._measure(train, encoded, raw.scale, names)
        mean, std = ((), ()) if found is None else stored.standardization(found)
        weights = class_weights(
            self.class_weight, train.select(train.labels), class_names, train.select(train.sample_weight)
        )
        weight = mean_weight(train, weights)
        check_mean_weight("dataset.class_weight", weight)
        used = {column.name for column in columns}
        facts = DataFacts(
            name=self.dataset.name,
            num_features=train.matrix.shape[1],
            class_names=class_names,
            rows={split: len(table) for split, table in tables.items()},
            feature_names=names,
            image_shape=raw.image_shape,
            mean=tuple(mean),
            std=tuple(std),
            fingerprint=checksum,
            source=raw.source,
            columns=columns,
            ignored=tuple(name for name in column_names if name not in used),
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
            nonzeros=nonzeros_of(train),
            first_index=raw.first_index,
            augment=self.augmentation.strengths,
            copies=self.copies,
            largest_offset=largest_offset(train) if columns and columns[-1].is_offset else None,
        )
        notes = (*raw.notes, *learned, *digits, *encoded.unseen, *leaks.notes(len(train)))
        to_store = None if encoded.stored is not None or stored.is_plain else stored
        del self.raw, self.selected  # the columns take more memory than the features
        raw = dataclasses.replace(raw, tables={})
        return Prepared(raw, tables, facts, notes, to_store, leaks, notes_for_model=(*raw.notes, *encoded.unseen))

    def _augmented(self, train: Table, raw: RawData) -> tuple[Table, str]:
        """The train rows, with their copies where there are any, and a note on the changes.

        Raises:
            ConfigError: There are no images, or they are too small for a change.
        """
        crop = raw.backbone.get("crop")
        sides = (crop, crop) if crop else raw.image_shape[-2:]
        if not sides:
            raise ConfigError(
                f"`dataset.augment` must go with images, and dataset={self.dataset.name} has none. Leave it out."
            )
        self.augmentation.check_size(*sides)
        words = self.augmentation.in_words()
        if not self.copies:
            if crop:
                raise ConfigError("`dataset.copies` must be given with a backbone, which computes features once.")
            return train, f"train is changed at random in each epoch, and scored as it is without changes: {words}"
        enlarged = with_copies(train, self.dataset, raw.image_shape, self.augmentation, self.copies, self.seed)
        copies = "a changed copy" if self.copies == 1 else f"{self.copies} changed copies"
        return (
            enlarged,
            f"train counts {counted(len(train), 'row')} and {copies} of each, {len(enlarged):,} in all: {words}",
        )

    def _prepare_for(self, model: DataFacts, allocate: Allocate) -> Prepared:
        """Prepares the rows for a trained model."""
        is_alone = "raw" not in self.__dict__
        raw, (tables, class_names) = self.raw, self.selected
        tables = adopt_classes(tables, class_names, model.class_names, self.dataset.name)
        check_weights(tables)
        tables, _, encoded, _, unseen = encode_columns(tables, self.dtype, model, free=is_alone, allocate=allocate)
        if not model.columns:
            check_features(tables, self.dataset.name)
        if raw.first_index is not None:
            tables = numbered_as(tables, raw.first_index, model)
        features, shape = tables["train"].matrix.shape[1], raw.image_shape or (model.num_features,)
        if features != model.num_features or (model.image_shape and shape != model.image_shape):
            wanted, got = model.image_shape or model.num_features, shape if model.image_shape else features
            raise DataError(f"`dataset={self.dataset.name}` must have the features of the model, {wanted}, got {got}.")
        rows: dict[str, int] = {split: len(table) for split, table in tables.items()}
        facts = dataclasses.replace(
            model,
            rows=rows,
            fingerprint=fingerprint(tables),
            source=raw.source,
            nonzeros=nonzeros_of(tables["train"]),
            augment={},
            copies=0,
        )
        to_store = None if encoded is not None or model.stored.is_plain else model.stored
        if is_alone:
            del self.raw, self.selected
        return Prepared(dataclasses.replace(raw, tables={}), tables, facts, (*raw.notes, *unseen), to_store)

    @cached_property
    def raw(self) -> RawData:
        """The dataset as it was read; it is read at the first access."""
        return self.dataset.read()

    @cached_property
    def selected(self) -> tuple[Mapping[Split, Table], tuple[str, ...]]:
        """The rows of each split before they are encoded and checked, and the names of the classes."""
        tables = split_rows(self.raw, self.fractions, self.selection, self.seed, self.dataset.name)
        return select_rows(self.raw, tables, self.selection, self.limit, self.seed, self.dataset.name)

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
        if self.model is not None and self.model.columns:
            _ = self.raw  # whoever has read it before the rows are prepared keeps it

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

    def _measure(
        self, train: Table, encoded: Encoded, scale: float, names: tuple[str, ...]
    ) -> tuple[StoredForm, Moments | None, tuple[str, ...]]:
        """Stored form of the features, their moments where they are standardized, and notes for the user."""
        standardize = not is_sparse(train.matrix) if self.standardize is None else self.standardize
        if encoded.stored is not None:
            moments = moments_of_columns(train, encoded.stored, encoded.columns) if standardize else None
            return encoded.stored, moments, ()
        if train.matrix.dtype == torch.uint8 or scale != 1:  # pixels lie near zero and in a small range
            found = moments_of(train, scale) if standardize else None
            return StoredForm.plain(train.matrix.shape[1]), found, ()
        if is_sparse(train.matrix):
            return choose_form_of_sparse(train.matrix, names), moments_of(train) if standardize else None, ()
        found = moments_of(train, scale)
        is_narrow = train.matrix.is_floating_point() and train.matrix.dtype != torch.float64
        kind = torch.float32 if is_narrow else torch.float64
        # float16 and float32 were rounded by the source: a shift does not bring digits back.
        form = choose_stored_form(found, self.shifts and not is_narrow, names)
        stored_dtype = kind if is_narrow else self.dtype
        notes = digit_notes(found, form, names, found.lacks_digits(kind), stored_dtype)
        return form, found if standardize else None, notes

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
