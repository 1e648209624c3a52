"""The steps between a source and the model, in this order: split, select, check, encode, measure."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.csr import arrays_of, csr, is_sparse, place_not_finite
from logreg.data.base import RawData, Table
from logreg.data.blocks import CACHED_BLOCK_BYTES, BlockDataset
from logreg.data.encoding.columns import Columns
from logreg.data.encoding.encode import encode, unseen_note
from logreg.data.encoding.labels import boolean_of, near_twins
from logreg.data.encoding.learning import learn_encoding, learn_stored_form
from logreg.data.formats.sparse_arrays import check_numbers
from logreg.data.memory import Allocate, mapped_array
from logreg.data.selection import Selection
from logreg.data.splits import group_split, stratified_sample, stratified_split
from logreg.errors import ConfigError, DataError, as_typed, name_list, shortened
from logreg.facts import SPLITS, Column, DataFacts, Split, keeping_scale, names_of_features
from logreg.rows import offset_apart
from logreg.stored_form import Moments, StoredForm, check_mean_weight, moments, moments_of_sparse
from logreg.terminal import counted

DEFAULT_FRACTION = 0.2
"""Fraction of the train rows that is held out by default for each split that the source lacks."""

MOST_NAMES = 50
"""Number of classes that one message lists; a longer list does not help."""

Tables = dict[Split, Table]


def split_rows(
    raw: RawData, wanted: Mapping[Split, float | None], selection: Selection, seed: int, name: str
) -> Tables:
    """Takes the splits of the source, and holds the missing ones out of its train rows.

    Splitting comes first and uses the labels of the source, so that a row stays in its split whatever is selected or
    encoded later.

    Args:
        raw: The dataset as it was read.
        wanted: Fraction of the train rows for each split; ``None`` for ``DEFAULT_FRACTION`` where the source has no
            such split.
        selection: The classes to learn; each needs a row in every split.
        seed: Seed of the split.
        name: Name of the dataset, for messages.

    Raises:
        DataError: The source already has a split that was to be held out, a class has too few rows, or a split has
            no rows.
    """
    tables = dict(raw.tables)
    train = tables["train"]
    fractions: dict[Split, float] = {}
    for split, fraction in wanted.items():
        if fraction and split in tables:
            raise DataError(f"`dataset.split.{split}` must not be set: {name} already has a {split} split.")
        if fraction is None and split not in tables and not raw.splits_are_stated:
            fraction = DEFAULT_FRACTION
        if fraction:
            fractions[split] = fraction
    if fractions and train.groups is not None:
        parts = group_split(train.select(train.groups), fractions, seed)
    elif fractions:
        labels = train.select(train.labels)
        _check_sizes(labels, raw.class_names, selection, splits=1 + len(fractions))
        parts = stratified_split(labels, fractions, seed)
    else:
        parts = {}
    tables |= {split: train.subset(positions) for split, positions in parts.items()}
    _check_groups(tables)
    for split, table in tables.items():
        if not len(table):
            raise DataError(
                f"`dataset.split.{split}` must leave rows in every split, got none [in {split} of {name}]. "
                f"Raise the fraction, or hold no rows out with dataset.split.{split}=0."
            )
    return {split: tables[split] for split in SPLITS if split in tables}


def select_rows(
    raw: RawData, tables: Mapping[Split, Table], selection: Selection, limit: int | None, seed: int, name: str
) -> tuple[Tables, tuple[str, ...]]:
    """Selects the rows of the classes to learn, renumbers the classes, and limits the train rows.

    Args:
        raw: The dataset as it was read.
        tables: The rows of each split.
        selection: The classes to learn.
        limit: Largest number of train rows; a stratified sample is taken.  ``None`` for all.
        seed: Seed of the sample.
        name: Name of the dataset, for messages.

    Returns:
        The selected rows of each split, and the names of the new classes.

    Raises:
        DataError: A label is out of range, or a split has no rows of the classes.
        ConfigError: A class is unknown, or the limit is below the number of classes.
    """
    for split, table in tables.items():
        labels = table.select(table.labels)
        if int(labels.min()) < 0 or int(labels.max()) >= len(raw.class_names):
            raise DataError(
                f"`labels` must lie in [0, {len(raw.class_names)}), got {int(labels.min())} to {int(labels.max())} "
                f"[in {split} of {name}]."
            )
    selected, class_names = dict(tables), raw.class_names
    if selection != Selection():
        new, class_names = selection.apply(raw.class_names)
        relabeled: dict[int, Tensor] = {}  # splits that share their labels go on sharing them
        for split, table in tables.items():
            if id(table.labels) not in relabeled:
                relabeled[id(table.labels)] = new[table.labels]
            labels = relabeled[id(table.labels)]
            kept = (table.select(labels) >= 0).nonzero()[:, 0]
            if not len(kept):
                raise DataError(
                    f"`dataset.classes` must leave rows in every split, got none [in {split} of {name}]. "
                    f"Name classes that {split} has too, or split otherwise."
                )
            selected[split] = dataclasses.replace(table, labels=labels).subset(kept)
    train = selected["train"]
    if limit is not None and limit < len(train):
        if limit < len(class_names):
            raise ConfigError.broken("dataset.limit", f"be at least {len(class_names)}, a row of each class", limit)
        selected["train"] = train.subset(stratified_sample(train.select(train.labels), limit, seed))
    return selected, class_names


def check_labels(tables: Mapping[Split, Table], class_names: Sequence[str], name: str, raw: RawData) -> None:
    """Checks that train has at least two classes, and every class of the other splits.

    Raises:
        DataError: A class is missing.
    """
    if len(class_names) < 2:
        place = f" [in {raw.source}]" if raw.source else ""
        typed = raw.target_setting or f"dataset={name}"
        raise DataError(f"`{typed}` must hold at least 2 classes, got only {shortened(class_names[0])!r}{place}.")
    train = tables["train"]
    counts = torch.bincount(train.select(train.labels), minlength=len(class_names))
    if int((counts > 0).sum()) < 2:
        only = class_names[int(counts.argmax())]
        raise DataError(f"train of `dataset={name}` must hold at least 2 classes, got only {shortened(only)!r}.")
    for label in (counts == 0).nonzero()[:, 0].tolist():
        for split, table in tables.items():
            if bool((table.select(table.labels) == label).any()):
                advice = "leave it out with dataset.classes=[...], or split otherwise."
                raise DataError(
                    f"train of `dataset={name}` must hold every class, and {shortened(class_names[label])!r} is "
                    f"only in {split}. {_spelling_advice(class_names[label], class_names, advice)}"
                )


def _spelling_advice(given: str, known: Sequence[str], advice: str) -> str:
    """Advice on an unknown class; it names a known class with almost the same spelling first."""
    for pair in near_twins([*known, given]):
        if given in pair:
            twins = f"{pair[0]!r} and {pair[1]!r} differ only by blanks, case or a dot"
            return f"{twins}: if they are one class, spell them alike in the data. Else {advice}"
    return advice[0].upper() + advice[1:]


def adopt_classes(tables: Mapping[Split, Table], class_names: Sequence[str], known: Sequence[str], name: str) -> Tables:
    """Renumbers the labels as a model numbers its classes, by name.

    Args:
        tables: Rows of each split, with labels in the order of ``class_names``.
        class_names: Names of the classes of these rows.
        known: Names of the classes of the model.
        name: Name of the dataset, for messages.

    Raises:
        DataError: A row has a class that the model does not know.
    """
    if tuple(class_names) == tuple(known):
        return dict(tables)
    # Class names of older models may have the blanks that surrounded them in text files.
    known = [one if one in class_names else one.strip() for one in known]
    if set(known) == {"false", "true"}:
        class_names = [boolean_of(one) if boolean_of(one) in known else one for one in class_names]
    for split, table in tables.items():
        for label in table.select(table.labels).unique().tolist():
            if class_names[label] not in known:
                raise DataError(
                    f"`dataset={name}` must hold classes that the model knows, {name_list(known, MOST_NAMES)}, "
                    f"got {shortened(class_names[label])!r}{f' [in {split}]' if len(tables) > 1 else ''}. "
                    f"{_spelling_advice(class_names[label], known, 'leave those rows out.')}"
                )
    new = torch.tensor([known.index(one) if one in known else -1 for one in class_names])
    return {split: dataclasses.replace(table, labels=new[table.labels]) for split, table in tables.items()}


def numbered_as(tables: Mapping[Split, Table], first_index: int, model: DataFacts) -> Tables:
    """The rows of svmlight files with the features of a model, whose numbers and width the files may not show.

    Args:
        tables: Rows of each split, with sparse features.
        first_index: Number of the first feature as it was taken for these files.
        model: Facts of the model.

    Raises:
        DataError: A file has a feature that the model does not know.
    """
    known = first_index if model.first_index is None else model.first_index
    widened: dict[int, Tensor] = {}  # splits that share their features go on sharing them
    for split, table in tables.items():
        largest = table.matrix.shape[1] - 1 + first_index
        check_numbers("dataset.path", f"the rows of {split}", first_index, largest, known, model.num_features)
        begins, columns, values = arrays_of(table.matrix)
        offset = first_index - known
        widened.setdefault(id(table.features), csr(begins, columns + offset, values, model.num_features))
    return {split: dataclasses.replace(table, features=widened[id(table.features)]) for split, table in tables.items()}


class Encoded(NamedTuple):
    """Result of encoding columns."""

    tables: Tables
    """Rows of each split, with features."""
    columns: tuple[Column, ...] = ()
    """Encoding of each column; empty where the tables had features already."""
    stored: StoredForm | None = None
    """Stored form of the features; ``None`` where the tables had features already."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on what was learned of the columns."""
    unseen: tuple[str, ...] = ()
    """Sentences on the rows with levels that train lacks."""


def encode_columns(
    tables: Mapping[Split, Table],
    dtype: torch.dtype,
    model: DataFacts | None = None,
    shifts: bool = True,
    free: bool = False,
    allocate: Allocate = mapped_array,
) -> Encoded:
    """Encodes columns as features, with an encoding that is learned on train; features pass unchanged.

    Args:
        tables: The selected rows of each split.
        dtype: Floating type of the features.
        model: Facts of a trained model, whose encoding is used; ``None`` to learn one.
        shifts: Whether a column that lies far from zero may be stored as its deviation from its mean.
        free: Whether the columns may be freed while they are encoded, where the source allows it too.
        allocate: Makes the arrays of the features.

    Raises:
        DataError: A column cannot be learned from, or does not fit the model.
    """
    train = tables["train"]
    columns = train.features
    if not isinstance(columns, Columns):
        return Encoded(dict(tables))
    if model is None:
        encoding, notes = learn_encoding(columns, train.index, used_rows(tables))
        stored, found, lost = learn_stored_form(columns, encoding, train.index, _own_weights(train), shifts)
        names = names_of_features(encoding)
        notes = (*notes, *digit_notes(found, stored, names, lost, dtype))
    else:
        encoding, stored, notes = model.columns, model.stored, ()
    features, unseen = encode(columns, encoding, dtype, stored, free and columns.is_temporary, allocate=allocate)
    by_name = {column.name: column for column in encoding}
    unknown = []
    for name, rows in unseen.items():
        for split, table in tables.items():
            mine = len(rows) if table.index is None else int(torch.isin(rows, table.index).sum())
            if mine:
                unknown.append(unseen_note(f"{counted(mine, 'row')} of {split}", by_name[name], "train"))
    encoded = {split: dataclasses.replace(table, features=features) for split, table in tables.items()}
    return Encoded(encoded, encoding, stored, notes, tuple(unknown))


def used_rows(tables: Mapping[Split, Table]) -> Tensor | None:
    """Row numbers that are in any split, ascending and without repetition; ``None`` for all rows of the source."""
    is_used = torch.zeros(len(next(iter(tables.values())).labels), dtype=torch.bool)
    for table in tables.values():
        is_used[slice(None) if table.index is None else table.index] = True
    return None if bool(is_used.all()) else is_used.nonzero()[:, 0]


def digit_notes(
    found: Moments, stored: StoredForm, names: Sequence[str], lost: Tensor, dtype: torch.dtype
) -> tuple[str, ...]:
    """Sentences on the features that vary so little for their size that rounding leaves few digits.

    Args:
        found: Moments of the D features.
        stored: Their stored form.
        names: Names of the features; empty to number them from 0.
        lost: Whether a feature has few digits in the type of the source, shape (D,), boolean.
        dtype: Floating type of the stored features.
    """
    rounded = found._replace(mean=found.mean - stored.shift).lacks_digits(dtype) & ~lost
    reasons = {
        "few significant digits in the source, since they vary little for their size": lost,
        "few significant digits without an intercept, since they vary little for their size; "
        "set dataset.standardize=true, or subtract an offset": rounded,
    }
    notes = []
    for what, concerned in reasons.items():
        places = concerned.nonzero()[:, 0].tolist()
        if places:
            shown = name_list((names[place] if names else f"feature {place}" for place in places), 5)
            notes.append(f"{what}: {shown}")
    return tuple(notes)


def check_weights(tables: Mapping[Split, Table]) -> None:
    """Checks the weights of the rows of each split.

    Raises:
        DataError: All rows of a split have weight 0, or the weights are too large or too small for the arithmetic.
    """
    for split, table in tables.items():
        if table.sample_weight is None:
            continue
        weights = table.select(table.sample_weight).double()
        if not bool((weights > 0).any()):
            raise DataError(f"`dataset.weight` must be > 0 somewhere in every split, got only 0 [in {split}].")
        check_mean_weight("dataset.weight", float(weights.mean()), f" [in {split}]")


def check_features(tables: Mapping[Split, Table], name: str) -> None:
    """Checks that every feature is finite; features that several splits share are checked once.

    Raises:
        DataError: A row has nan or inf; the message names the first one.
    """
    for table in {id(table.features): table for table in tables.values()}.values():
        features = table.matrix
        if not features.is_floating_point():
            continue
        if is_sparse(features):
            if (place := place_not_finite(features)) is not None:
                row, column, value = place
                raise DataError(
                    f"`features` must be finite, got {value} in row {row}, column {column}, counted from 0 "
                    f"[in {name}]. Fix the row, or leave it out."
                )
            continue
        wide = torch.promote_types(features.dtype, torch.float32)
        rows = max(1, CACHED_BLOCK_BYTES // (features.shape[1] * wide.itemsize))
        for start in range(0, len(features), rows):
            block = features[start : start + rows].to(wide)
            # The sum is finite where all values are, unless it overflows; single values are checked only if it is not.
            if not bool(block.sum().isfinite()) and len(bad := (~block.isfinite()).any(1).nonzero()):
                raise DataError(
                    f"`features` must be finite, got nan or inf in row {start + int(bad[0])}, counted from 0 "
                    f"[in {name}]. Fix the row, or leave it out."
                )


def fingerprint(tables: Mapping[Split, Table]) -> int:
    """CRC-32 of the features, labels and weights of all splits, and of the row numbers of each split."""
    checksum = 0
    seen: set[int] = set()
    for split, table in tables.items():
        checksum = zlib.crc32(split.encode(), checksum)
        for tensor in (table.matrix, table.labels, table.index, table.sample_weight):
            if tensor is not None and id(tensor) not in seen:  # splits may share it
                seen.add(id(tensor))
                for part in arrays_of(tensor):
                    checksum = zlib.crc32(part.contiguous().view(torch.uint8).numpy().data, checksum)
    return checksum


def moments_of(train: Table, scale: float = 1.0) -> Moments:
    """Weighted mean and standard deviation of each feature over the train rows, in float64.

    Args:
        train: The train rows.
        scale: Factor that multiplies the features first.
    """
    weights = None if train.sample_weight is None else train.sample_weight.double()
    dataset = BlockDataset(train.matrix, train.labels, train.index, scale, torch.float64, weights)
    rows = max(1, CACHED_BLOCK_BYTES // max(1, dataset.row_bytes))

    def blocks() -> Iterator[tuple[Tensor, Tensor | None]]:
        for first in range(0, len(dataset), rows):
            block = dataset[slice(first, first + rows)]
            yield block.features, block.sample_weight

    return (moments_of_sparse if is_sparse(train.matrix) else moments)(blocks)


def nonzeros_of(train: Table) -> int | None:
    """Number of non-zeros in the features of the train rows; ``None`` where these are dense."""
    if not is_sparse(train.matrix):
        return None
    return int(train.select(train.matrix.crow_indices().diff()).sum())


def moments_of_columns(train: Table, stored: StoredForm, columns: Sequence[Column]) -> Moments | None:
    """The moments of the stored features of columns, in source units; ``None`` where all keep their scale."""
    if all(column.keeps_scale for column in columns):
        return None
    return of_scaled_columns(stored.moments_in_source_units(moments_of(train)), columns)


def of_scaled_columns(found: Moments, columns: Sequence[Column]) -> Moments:
    """The moments of the features of columns, with mean 0 and deviation 1 where `Column.keeps_scale`."""
    kept = keeping_scale(columns)
    return found._replace(mean=found.mean.masked_fill(kept, 0.0), std=found.std.masked_fill(kept, 1.0))


def _own_weights(table: Table) -> Tensor | None:
    weights = table.select(table.sample_weight)
    return None if weights is None else weights.double()


def mean_weight(train: Table, class_weight: Sequence[float]) -> float:
    """Mean over the train rows of sample weight times class weight."""
    weights = torch.ones(len(train), dtype=torch.float64)
    if train.sample_weight is not None:
        weights = train.select(train.sample_weight).double()
    if class_weight:
        weights = weights * torch.tensor(class_weight, dtype=torch.float64)[train.select(train.labels)]
    return float(weights.mean())


def largest_offset(train: Table) -> float:
    """The largest absolute value of the last feature over the train rows."""
    return float(train.select(offset_apart(train.matrix)[1]).abs().max())


def class_rates(train: Table, classes: int) -> tuple[float, ...]:
    """Fraction of the sample weight of train in each of the C classes."""
    counts = torch.bincount(train.select(train.labels), train.select(train.sample_weight), classes).double()
    return tuple((counts / counts.sum()).tolist())


def _check_groups(tables: Mapping[Split, Table]) -> None:
    """Checks that no group is in two splits.

    Raises:
        DataError: A group is.
    """
    groups = {split: table.select(table.groups).unique() for split, table in tables.items() if table.groups is not None}
    for one, other in combinations(groups, 2):
        both = int(torch.isin(groups[one], groups[other]).sum())
        if both:
            raise DataError(
                f"`dataset.split.group` must keep each group in one split, and {one} and {other} have {both:,} in "
                "common. Fix the splits that the data has, or leave dataset.split.group out."
            )


def _check_sizes(labels: Tensor, names: Sequence[str], selection: Selection, splits: int) -> None:
    """Checks that every class to learn has enough rows for one in each split.

    Raises:
        DataError: Some have not.
    """
    new, names = selection.apply(names)
    new = new[labels]
    counts = torch.bincount(new[new >= 0], minlength=len(names))
    small = [names[label] for label in ((counts > 0) & (counts < splits)).nonzero()[:, 0].tolist()]
    if not small:
        return
    enough = [names[label] for label in (counts >= splits).nonzero()[:, 0].tolist()]
    shown = name_list((f"{name!r} ({int(counts[list(names).index(name)])})" for name in small), 5)
    kept = as_typed("dataset.classes", enough) if 2 <= len(enough) <= MOST_NAMES else "dataset.classes=[...]"
    if len(names) > MOST_NAMES and len(small) > len(names) / 2:
        raise DataError(
            f"`dataset.split` must give each class a row in each of {splits} splits, and {len(small):,} of "
            f"{len(names):,} classes have too few. These look like numbers to predict, or ids, rather than classes: "
            "name another target."
        )
    advice = "" if selection.positive else f"Leave them out with {kept}, or hold no rows out: "
    raise DataError(
        f"`dataset.split` must give each class a row in each of {splits} splits, and these have too few: {shown}. "
        f"{advice or 'Hold no rows out: '}dataset.split.val=0 dataset.split.test=0."
    )
