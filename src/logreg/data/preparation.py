"""From a source to rows that are ready to be served, or to those that the cache has; in one process or in several."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from logreg.csr import is_sparse
from logreg.data.augmentation import Augmentation, with_copies
from logreg.data.base import Dataset, MappedSource, RawData, Table
from logreg.data.encoding.columns import Columns
from logreg.data.formats.cache import load_arrays, load_or_write_arrays
from logreg.data.leaks import Leaks, find_leaks
from logreg.data.memory import Allocate, mapped_array
from logreg.data.preparation_steps import (
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
from logreg.data.selection import Selection, class_weights
from logreg.errors import ConfigError, DataError
from logreg.facts import DataFacts, Split, names_of_features
from logreg.processes import Processes, in_each, in_turn
from logreg.stored_form import Moments, StoredForm, check_mean_weight, choose_form_of_sparse, choose_stored_form
from logreg.terminal import counted


@dataclass(kw_only=True)
class Preparation:
    """Reads, splits, selects, encodes and checks the rows of a dataset, and learns the facts from train.

    The attributes are the arguments of `logreg.data.datamodule.TensorDataModule`.
    """

    dataset: Dataset
    fractions: Mapping[Split, float | None]
    standardize: bool | None
    seed: int
    dtype: torch.dtype
    selection: Selection
    limit: int | None
    class_weight: str | Mapping[Any, float]
    model: DataFacts | None
    shifts: bool
    augmentation: Augmentation
    copies: int
    processes: Processes | None

    def prepare(self) -> Prepared:
        """The prepared rows, the same in all processes.

        Raises:
            LogregError: The rows cannot be learned from; or several processes read different rows.
        """
        is_cached = self._agree_on_storage()
        ready = (in_turn if is_cached else in_each)(self.processes, self._read)
        checksum = ready.facts.fingerprint
        checksums = [checksum] if self.processes is None else self.processes.gather(checksum)
        for rank, other in enumerate(checksums):
            if other != checksums[0]:
                raise DataError(
                    f"`dataset={self.dataset.name}` must have the same rows in each process, and those of process "
                    f"{rank} have another checksum than those of process 0. Give every machine the same files."
                )
        return ready

    @cached_property
    def raw(self) -> RawData:
        """The dataset as it was read; it is read at the first access."""
        return self.dataset.read()

    @cached_property
    def selected(self) -> tuple[Mapping[Split, Table], tuple[str, ...]]:
        """The rows of each split before they are encoded and checked, and the names of the classes."""
        tables = split_rows(self.raw, self.fractions, self.selection, self.seed, self.dataset.name)
        return select_rows(self.raw, tables, self.selection, self.limit, self.seed, self.dataset.name)

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
            return self._learn(mapped_array)
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
            lambda files: self._learn(files.allocate).content(files),
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

    def _learn(self, allocate: Allocate) -> Prepared:
        """Reads, splits, selects, encodes and checks the rows; ``allocate`` makes the arrays of the features."""
        if self.model is not None:
            return self._adopt(self.model, allocate)
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

    def _adopt(self, model: DataFacts, allocate: Allocate) -> Prepared:
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
