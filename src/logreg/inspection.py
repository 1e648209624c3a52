"""What stands in the data, on one screen, before anything is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Grid
from torch import Tensor

from logreg.data import Table, TensorDataModule
from logreg.data.columns import Columns, Profile, profile
from logreg.errors import LogregError

MOST_CLASSES, MOST_COLUMNS = 10, 16
"""Lines of each table; what is left over is counted."""

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
        profiles = profile(columns, tables["train"].rows)
        same = {} if fault else _same_features(data)
        console.print(_column_table(profiles, same, len(columns)))
    for note in data.notes if fault is None else raw.notes:
        say(note)
    if fault is not None:
        raise fault
    if data.facts.image_shape:
        say(f"images of {' x '.join(str(side) for side in data.facts.image_shape)}, pixels served in [0, 1]")
    for line in _rows_in_two_splits(data):
        say(line)
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
        cells = [class_names[label]]
        for split, count in counts.items():
            cells += [f"{int(count[label]):,}", f"{int(count[label]) / max(1, len(tables[split])):.1%}"]
        grid.add_row(*cells)
    if len(order) > MOST_CLASSES:
        grid.add_row(f"and {len(order) - MOST_CLASSES} more")
    grid.add_row("all", *(cell for split in counts for cell in (f"{len(tables[split]):,}", "")), style="bold")
    fewest = int(train[train > 0].min()) if bool((train > 0).any()) else 1
    grid.caption = f"most frequent / rarest in train: {int(train.max()) / fewest:.1f}"
    return grid


def _column_table(profiles: Sequence[Profile], same: Mapping[str, str], rows: int) -> Grid:
    """Each column: what it is, how much is missing, how it is encoded; those with something to say first."""
    grid = Grid()
    for name, side in (("column", "left"), ("kind", "left"), ("missing", "right"), ("features", "right")):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]  # left or right
    grid.add_column("remark", overflow="fold")
    lines = []
    for one in profiles:
        remark = _remark(one, same)
        features = len(one.column.feature_names) if one.column else 0
        missing = f"{one.missing_anywhere / max(1, rows):.1%}" if one.missing_anywhere else ""
        kind = one.series.kind if one.series.kind != "none" else one.series.typed
        lines.append((bool(remark), [one.series.name, kind, missing, str(features), remark or _levels(one)]))
    if len(lines) > MOST_COLUMNS:
        lines.sort(key=lambda line: not line[0])
    for _, cells in lines[:MOST_COLUMNS]:
        grid.add_row(*cells)
    if len(lines) > MOST_COLUMNS:
        grid.add_row(f"and {len(lines) - MOST_COLUMNS} more")
    return grid


def _remark(one: Profile, same: Mapping[str, str]) -> str:
    if one.series.problem:
        return "refused: text among numbers" if one.series.kind == "category" else "refused: no numbers, no text"
    if one.problem:
        return f"refused: {one.levels_in_train:,} levels, an id?" if one.levels_in_train else "refused: missing values"
    if one.column is None:
        return "left out: nothing but missing" if one.missing_in_train else "left out: constant in train"
    return f"the same as {same[one.series.name]}" if one.series.name in same else ""


def _levels(one: Profile) -> str:
    if one.column is None or one.column.kind == "number":
        return "as it is" + (", gaps marked" if one.column and one.column.indicator else "")
    shown = " ".join(one.column.levels[:6])
    return f"one-hot: {shown}" + (" ..." if len(one.column.levels) > 6 else "")


def _same_features(data: TensorDataModule) -> dict[str, str]:
    """Columns whose values in train are those of another one, which comes before them."""
    train = data.tables["train"]
    seen: dict[tuple[int, ...], str] = {}
    same: dict[str, str] = {}
    start = 0
    draw = torch.Generator().manual_seed(0)
    salt = torch.randint(-(2**62), 2**62, (len(train.matrix), 1), generator=draw)
    bits = torch.zeros(train.matrix.shape[1], dtype=torch.int64)
    rows = torch.arange(len(train.matrix)) if train.rows is None else train.rows
    for part in rows.split(max(1, HASH_BYTES // (8 * train.matrix.shape[1]))):
        bits += (_as_integers(train.matrix[part]) * salt[part]).sum(0)  # wraps around, the same for the same bits
    for column in data.facts.columns:
        width = len(column.feature_names)
        key = tuple(bits[start : start + width].tolist())
        if key in seen:
            same[column.name] = seen[key]
        seen.setdefault(key, column.name)
        start += width
    return same


def _rows_in_two_splits(data: TensorDataModule) -> list[str]:
    """How many rows of a split have their very features in another one too."""
    hashes = {split: _row_hashes(table) for split, table in data.tables.items()}
    lines = []
    for one, other in combinations(hashes, 2):
        both = int(torch.isin(hashes[other], hashes[one]).sum())
        if both:
            lines.append(f"{both:,} of {len(hashes[other]):,} rows of {other} stand in {one} too, feature by feature")
    return lines


def _row_hashes(table: Table) -> Tensor:
    """64 bits of each row's features: the same for equal rows, different for others but for one pair in 2**64."""
    features = table.matrix
    rows = torch.arange(len(features)) if table.rows is None else table.rows
    row_bytes = features.shape[1] * features.itemsize
    size = next(size for size in _WORDS if row_bytes % size == 0)
    width = row_bytes // size
    salt = torch.randint(-(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(0)) | 1
    parts = rows.split(max(1, HASH_BYTES // (8 * width)))
    return torch.cat([(_as_integers(features[part], size) * salt).sum(1) for part in parts])


def _as_integers(features: Tensor, size: int = 0) -> Tensor:
    """Each value, or each ``size`` bytes, as 64 bits that are all in use; 0 and -0 are the same."""
    if features.is_floating_point():
        features = features + 0.0
    bits = features.contiguous().view(torch.uint8).view(_WORDS[size or features.itemsize]).to(torch.int64)
    # The last bits of a small number are 0, and a product carries nothing downwards: shifts do.
    for factor in _ODD:
        bits = (bits ^ (bits >> 32)) * factor
    return bits ^ (bits >> 32)


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
