"""Prints the profile of a dataset on one screen: rows, classes, columns, leaks and duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from torch import Tensor

from logreg.data import TensorDataModule
from logreg.data.encoding.learning import ColumnProfile
from logreg.data.leaks import Leaks
from logreg.data.profile import profile_data
from logreg.facts import Split
from logreg.terminal import counted, format_bytes

WIDEST = 32
"""Width of a name in a table, in characters; a longer name is cut."""

MOST_CLASSES = 10
"""Largest number of lines of the table of classes; a further line counts the classes left out."""

MOST_COLUMNS = 16
"""Largest number of lines of the table of columns; a further line counts the columns left out."""


MOST_LEVELS = 6
"""Number of levels that the remark on a column lists."""


def print_facts(data: TensorDataModule, console: Console) -> None:
    """Prints the profile, also of data that cannot be trained on.

    Raises:
        LogregError: The error that training on this data raises, after the profile is printed.
    """
    found = profile_data(data)
    total = sum(int(counts.sum()) for counts in found.class_counts.values())

    def print_line(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    print_line(f"{found.title}: {counted(total, 'row')}, {counted(len(found.class_names), 'class')}")
    console.print(_class_table(found.class_counts, found.class_names))
    if found.columns:
        console.print(_column_table(found.columns, found.leaks, total))
    for one in found.repeated:
        print_line(
            f"{one.count:,} of {one.total:,} rows of {one.split} also occur in {one.other}, with the same features"
        )
    for note in found.notes:
        print_line(note)
    if found.error is not None:
        raise found.error
    assert found.facts is not None
    if found.facts.image_shape:
        print_line(f"images of {' x '.join(str(side) for side in found.facts.image_shape)}, pixels served in [0, 1]")
    print_line(
        f"features: {found.facts.num_features:,} of {found.feature_type}, {format_bytes(found.feature_bytes)} of memory"
    )


def _class_table(counts: Mapping[Split, Tensor], class_names: Sequence[str]) -> Grid:
    """A table of the number of rows of each class in each split, the most frequent class first."""
    train = counts["train"]
    order = train.argsort(descending=True, stable=True).tolist()
    grid = Grid(title_justify="left", caption_justify="left")
    grid.add_column("class")
    for split in counts:
        grid.add_column(split, justify="right")
        grid.add_column("share", justify="right")
    for label in order[:MOST_CLASSES]:
        cells = [escape(_clipped(class_names[label]))]
        for count in counts.values():
            cells += [f"{int(count[label]):,}", f"{int(count[label]) / max(1, int(count.sum())):.1%}"]
        grid.add_row(*cells)
    if len(order) > MOST_CLASSES:
        grid.add_row(f"and {len(order) - MOST_CLASSES} more")
    grid.add_row("all", *(cell for count in counts.values() for cell in (f"{int(count.sum()):,}", "")), style="bold")
    fewest = int(train[train > 0].min()) if bool((train > 0).any()) else 1
    grid.caption = f"most frequent / rarest in train: {int(train.max()) / fewest:.1f}"
    return grid


def _column_table(profiles: Sequence[ColumnProfile], leaks: Leaks, rows: int) -> Grid:
    """A table of the columns: type, missing values, encoding and remark; columns with a remark come first."""
    grid = Grid()
    for name, side in (("column", "left"), ("kind", "left"), ("missing", "right"), ("features", "right")):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]  # left or right
    grid.add_column("remark", overflow="fold")
    lines = []
    for one in profiles:
        remark = _remark(one, leaks)
        features = one.column.num_features if one.column else 0
        count = one.missing_anywhere if not one.series.problem or one.series.kind == "category" else 0
        missing = f"{count / max(1, rows):.1%}" if count else ""
        kind = one.series.kind if one.series.kind != "none" else one.series.type_in_words
        kind = "text" if one.is_text else kind
        cells = [_clipped(one.series.name), kind, missing, str(features), remark or _encoding(one)]
        lines.append((bool(remark), [escape(cell) for cell in cells]))
    if len(lines) > MOST_COLUMNS:
        lines.sort(key=lambda line: not line[0])
    for _, cells in lines[:MOST_COLUMNS]:
        grid.add_row(*cells)
    if len(lines) > MOST_COLUMNS:
        grid.add_row(f"and {len(lines) - MOST_COLUMNS} more")
    return grid


def _remark(one: ColumnProfile, leaks: Leaks) -> str:
    """The most important remark on a column; empty for an ordinary column."""
    if one.series.problem:
        return (
            "refused: text among numbers" if one.series.kind == "category" else f"refused: {one.series.type_in_words}"
        )
    if one.problem and one.is_text:
        return "refused: text"
    if one.problem:
        return (
            f"refused: {counted(one.levels_in_train, 'level')}, an id?"
            if one.levels_in_train
            else "refused: missing values"
        )
    if one.column is None:
        constant = "constant in train" if one.levels_in_train <= 1 else "all levels rare"
        return f"left out: {'all values missing' if one.missing_in_train else constant}"
    if one.series.name in leaks.target:
        return "determines the class: the target under another name?"
    if one.series.name in leaks.duplicates:
        return leaks.duplicates[one.series.name]
    if one.may_be_id:
        return (
            f"{counted(one.levels_in_train, 'level')}, an id?" if one.levels_in_train else "unique in every row: an id?"
        )
    return ""


def _encoding(one: ColumnProfile) -> str:
    """The encoding of a column in words."""
    if one.column is None or one.column.kind == "number":
        return "unchanged" + (", missing values marked" if one.column and one.column.indicator else "")
    if one.column.kind == "text":
        return "TF-IDF of n-grams"
    levels, rare = one.column.levels, one.column.rare_levels
    if one.column.buckets:
        shown = f"{one.levels_in_train:,} levels hashed into {one.column.buckets:,} buckets, {one.collisions:,} collide"
    else:
        shown = f"one-hot: {' '.join(map(_clipped, levels[:MOST_LEVELS]))}" + " ..." * (len(levels) > MOST_LEVELS)
    return shown + (f"; {counted(rare, 'rare level')} in {counted(one.rare_rows, 'train row')}" if rare else "")


def _clipped(text: str) -> str:
    """A name, cut to ``WIDEST`` characters, with control characters escaped."""
    return repr(text)[1:-1] if len(text) <= WIDEST else repr(text[: WIDEST - 3])[1:-1] + "..."
