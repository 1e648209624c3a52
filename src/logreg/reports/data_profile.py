"""A profile of the data on one screen, before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from torch import Tensor

from logreg.data import Table, TensorDataModule
from logreg.data.encoding.columns import Columns, Profile, profile
from logreg.data.leaks import Leaks, find_leaks
from logreg.data.prepare import used_rows
from logreg.errors import LogregError

WIDEST = 32
"""Largest number of letters of a name in a cell."""

MOST_CLASSES, MOST_COLUMNS = 10, 16
"""Largest numbers of lines of the two tables; the rest is counted in one line."""

_ODD = (0x5851F42D4C957F2D, 0x14057B7EF767814F)
"""Two odd numbers without a pattern in their bits."""

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}

HASH_BYTES = 4 * 2**20
"""Of the features, looked at at once."""


def print_facts(data: TensorDataModule, console: Console) -> None:
    """Prints the screen; of columns that cannot be learned from, too.

    Raises:
        LogregError: What training on this data would raise, after the screen.
    """
    raw, tables, class_names = data.raw, data.raw.tables, data.raw.class_names
    fault: LogregError | None = None
    try:
        tables, class_names = data.rows
        data.setup()
    except LogregError as error:
        fault = error
    total = sum(len(table) for table in tables.values())
    title = f"{data.dataset.name} {raw.source}".rstrip()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    say(f"{title}: {total:,} rows, {len(class_names)} classes")
    console.print(_class_table(tables, class_names))
    columns = tables["train"].features
    if isinstance(columns, Columns):
        profiles = profile(columns, tables["train"].rows, used_rows(tables))
        leaks = find_leaks(tables["train"], len(class_names))
        console.print(_column_table(profiles, leaks, total))
    for line in [*_rows_in_two_splits(tables), *(data.notes if fault is None else raw.notes)]:
        say(line)
    if fault is not None:
        raise fault
    if data.facts.image_shape:
        say(f"images of {' x '.join(str(side) for side in data.facts.image_shape)}, pixels in [0, 1]")
    held = {id(table.matrix): table.matrix for table in data.tables.values()}.values()
    kind = str(data.tables["train"].matrix.dtype).removeprefix("torch.")
    memory = _bytes(sum(matrix.nbytes for matrix in held))
    say(f"features: {data.facts.num_features:,} of {kind}, {memory} of memory")


def _class_table(tables: Mapping[Any, Table], class_names: Sequence[str]) -> Grid:
    """Rows of each class in each split; the most frequent first."""
    counts = {
        split: torch.bincount(table.chosen(table.labels), minlength=len(class_names)) for split, table in tables.items()
    }
    train = counts["train"]
    order = train.argsort(descending=True, stable=True).tolist()
    grid = Grid(title_justify="left", caption_justify="left")
    grid.add_column("class")
    for split in counts:
        grid.add_column(split, justify="right")
        grid.add_column("share", justify="right")
    for label in order[:MOST_CLASSES]:
        cells = [escape(_clipped(class_names[label]))]
        for split, count in counts.items():
            cells += [f"{int(count[label]):,}", f"{int(count[label]) / max(1, len(tables[split])):.1%}"]
        grid.add_row(*cells)
    if len(order) > MOST_CLASSES:
        grid.add_row(f"and {len(order) - MOST_CLASSES} more")
    grid.add_row("all", *(cell for split in counts for cell in (f"{len(tables[split]):,}", "")), style="bold")
    fewest = int(train[train > 0].min()) if bool((train > 0).any()) else 1
    grid.caption = f"most frequent / rarest in train: {int(train.max()) / fewest:.1f}"
    return grid


def _column_table(profiles: Sequence[Profile], leaks: Leaks, rows: int) -> Grid:
    """Kind, missing values and encoding of each column; columns with a remark first."""
    grid = Grid()
    for name, side in (("column", "left"), ("kind", "left"), ("missing", "right"), ("features", "right")):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]  # left or right
    grid.add_column("remark", overflow="fold")
    lines = []
    for one in profiles:
        remark = _remark(one, leaks)
        features = len(one.column.feature_names) if one.column else 0
        gaps = one.missing_anywhere if not one.series.problem or one.series.kind == "category" else 0
        missing = f"{gaps / max(1, rows):.1%}" if gaps else ""
        kind = one.series.kind if one.series.kind != "none" else one.series.typed
        cells = [_clipped(one.series.name), kind, missing, str(features), remark or _levels(one)]
        lines.append((bool(remark), [escape(cell) for cell in cells]))
    if len(lines) > MOST_COLUMNS:
        lines.sort(key=lambda line: not line[0])
    for _, cells in lines[:MOST_COLUMNS]:
        grid.add_row(*cells)
    if len(lines) > MOST_COLUMNS:
        grid.add_row(f"and {len(lines) - MOST_COLUMNS} more")
    return grid


def _remark(one: Profile, leaks: Leaks) -> str:
    if one.series.problem:
        return "refused: text among numbers" if one.series.kind == "category" else f"refused: {one.series.typed}"
    if one.problem:
        return f"refused: {one.levels_in_train:,} levels, an id?" if one.levels_in_train else "refused: missing values"
    if one.column is None:
        return "left out: nothing but missing" if one.missing_in_train else "left out: constant in train"
    if one.series.name in leaks.target:
        return "determines the class alone: the target under another name?"
    if one.series.name in leaks.same:
        return leaks.same[one.series.name]
    return "unique in every row: an id?" if one.counts_rows else ""


def _levels(one: Profile) -> str:
    if one.column is None or one.column.kind == "number":
        return "as it is" + (", gaps marked" if one.column and one.column.indicator else "")
    shown = " ".join(_clipped(level) for level in one.column.levels[:6])
    return f"one-hot: {shown}" + (" ..." if len(one.column.levels) > 6 else "")


def _rows_in_two_splits(tables: Mapping[Any, Table]) -> list[str]:
    """Number of rows of a split whose features, as in the source, are those of a row of another split."""
    hashes = {split: _row_hashes(table) for split, table in tables.items()}
    lines = []
    for one, other in combinations(hashes, 2):
        both = int(torch.isin(hashes[other], hashes[one]).sum())
        if both:
            lines.append(f"{both:,} of {len(hashes[other]):,} rows of {other} also occur in {one}, by their features")
    return lines


def _row_hashes(table: Table) -> Tensor:
    """64 bits of each row: the same for equal rows, different for others but for one pair in 2**64."""
    rows = _rows_of(table)
    row = _values(table.features, rows[:1])
    row_bytes = row.shape[1] * row.itemsize
    if not row_bytes:
        return torch.arange(0)
    size = next(size for size in _WORDS if row_bytes % size == 0)
    salt = torch.randint(-(2**62), 2**62, (row_bytes // size,), generator=torch.Generator().manual_seed(0)) | 1
    parts = _blocks(rows, 8 * len(salt))
    return torch.cat([(_as_integers(_values(table.features, part), size) * salt).sum(1) for part in parts])


def _values(features: Tensor | Columns, rows: Tensor) -> Tensor:
    """Some rows; of columns the numbers and the positions of levels, all in float64."""
    if isinstance(features, Tensor):
        return features[rows]
    chosen = rows.numpy()
    columns = [one.values[chosen].astype(np.float64) for one in features.series if one.kind != "none"]
    return torch.from_numpy(np.stack([np.zeros(len(rows)), *columns], axis=1))[:, 1:]


def _as_integers(values: Tensor, size: int) -> Tensor:
    """Every ``size`` bytes of a row as 64 bits that are all in use; 0 and -0 are the same, and so is every nan."""
    if values.is_floating_point():
        values = (values + 0.0).masked_fill(values.isnan(), math.nan)
    bits = values.contiguous().view(torch.uint8).view(_WORDS[size]).to(torch.int64)
    # The last bits of a small number are 0, and a product carries nothing downwards: shifts do.
    for factor in _ODD:
        bits = (bits ^ (bits >> 32)) * factor
    return bits ^ (bits >> 32)


def _rows_of(table: Table) -> Tensor:
    return torch.arange(len(table.labels)) if table.rows is None else table.rows


def _blocks(rows: Tensor, row_bytes: int) -> list[Tensor]:
    return list(rows.split(max(1, HASH_BYTES // max(1, row_bytes))))


def _clipped(text: str) -> str:
    """A name, short enough for a cell."""
    return repr(text)[1:-1] if len(text) <= WIDEST else repr(text[: WIDEST - 3])[1:-1] + "..."


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
