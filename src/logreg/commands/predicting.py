"""Predicts files and folders of files, block by block; several processes share the files of a folder."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.errors import ConfigError
from logreg.export.predictions import open_writer, output_name
from logreg.files import check_writable, shown
from logreg.terminal import on_one_line, terminal

if TYPE_CHECKING:
    from torch import Tensor

    from logreg.data.new_rows import NewRowsReader
    from logreg.facts import DataFacts
    from logreg.inference.prediction import PredictionIntervals
    from logreg.training.checkpoint_reading import Predictor, TrainedModel

PATIENCE = timedelta(days=30)
"""Longest time that a process waits for others, which may have a large file left."""


@dataclass(frozen=True)
class Counts:
    """What was predicted.

    Attributes:
        rows: Number of rows.
        unseen: Number of rows with a level that the model does not know, by column.
        filled: Number of rows without a value, by column of which each train row has one.
    """

    rows: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    filled: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows + other.rows, self.unseen + other.unseen, self.filled + other.filled)


@dataclass(frozen=True)
class Prediction:
    """What predicts the rows of a file.

    Attributes:
        trained: The model with its facts.
        predictor: Gives probabilities and labels of features.
        reader: Reads new rows.
        threshold: The second of two classes is predicted where its probability is greater; ``None`` for 0.5.
        intervals: Gives limits of the probabilities; ``None`` for none.
    """

    trained: TrainedModel
    predictor: Predictor
    reader: NewRowsReader
    threshold: float | None
    intervals: PredictionIntervals | None

    def file(
        self,
        source: str,
        target: str,
        is_shown: bool,
        takes_no_rows: bool = False,
        constants: Mapping[str, Any] | None = None,
    ) -> Counts:
        """Reads, predicts and writes the rows of a file; an error leaves no file.

        Args:
            source: Path of the input; "-" for standard input.
            target: Path of the output; "-" for standard output.
            is_shown: Whether a terminal shows a progress bar.
            takes_no_rows: Whether a file without rows has an output without rows; else it has none.
            constants: Values of further columns; ``None`` for none.

        Raises:
            LogregError: The input is broken, or not of the kind that the model was trained on.
        """
        import torch

        from logreg.csr import rows_at
        from logreg.rows import logit_rows

        facts, counts = self.trained.facts, Counts()
        number, blocks = self.reader.read(source, constants)
        block = next(blocks, None)
        if block is None and not takes_no_rows:
            return counts
        kept_names = list(self.reader.keep if block is None else block.kept)
        at_once = logit_rows(facts.num_classes, torch.float64)
        opened = open_writer(target, facts.class_names, kept_names, self.intervals is not None)
        with opened as writer, progress_bar(number, "rows", is_shown) as advance:
            while block is not None:
                for start in range(0, block.features.shape[0], at_once):
                    features = rows_at(block.features, slice(start, start + at_once))
                    probabilities, labels = predicted(self.predictor, features, self.threshold)
                    kept = {name: column.slice(start, at_once) for name, column in block.kept.items()}
                    writer.write(kept, labels, probabilities, *limits(facts, features, self.intervals))
                    advance(len(labels))
                counts += Counts(block.features.shape[0], Counter(block.unseen), Counter(block.filled))
                block = next(blocks, None)
        return counts


def check_folders(source: Path, target: Path) -> None:
    """Checks that files can be written to a folder, and are not read again.

    Raises:
        ConfigError: The folder is a file, in the input, or cannot be written to.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"`output` must be a folder, as `input` is, got the file {target}.")
    if Path(realpath(target)).is_relative_to(realpath(source)):
        raise ConfigError(f"`output` must be outside of the folder {source}, got {target}.")
    check_writable("output", target)


def predict_folder(work: Prediction, checkpoint: Path, source: Path, target: Path, overwrite: bool) -> None:
    """Predicts the files of a folder, each into a file of the same name in another folder.

    Folders named ``column=value`` (hive partitions) are columns, as in training.  A file that is there stays, so that
    the same command goes on where it was stopped.  Each of several processes takes whole files, the largest first.  The
    columns of all files are checked before the first one is written.

    Args:
        work: What predicts a file.
        checkpoint: The file of the model.
        source: The folder with the input.
        target: The folder for the output.
        overwrite: Whether files that are there are made again.

    Raises:
        LogregError: A file is broken, or not of the kind that the model was trained on.
    """
    from logreg.processes import in_each, in_first, joined_processes

    started, processes = time.perf_counter(), joined_processes()
    pairs, there = in_first(processes, lambda: _pairs(work.reader, checkpoint, source, target, overwrite))
    if there:
        print(f"{there:,} files are in {shown(target)} already; overwrite=true makes them again", file=sys.stderr)
    own = pairs if processes is None else pairs[processes.rank :: processes.size]

    def check() -> None:
        for file, _, constants in own:
            work.reader.read(file, constants)

    def predict() -> Counts:
        counts = Counts()
        with progress_bar(len(own), "files", True) as advance:
            for file, output, constants in own:
                counts += work.file(file, output, is_shown=False, takes_no_rows=True, constants=constants)
                advance(1)
        return counts

    in_each(processes, check)
    counts = in_each(processes, predict)
    if processes is not None:
        counts = sum(processes.gather(counts), Counts())
    print_counts(work.trained.facts, counts, f" of {len(pairs):,} files", time.perf_counter() - started, shown(target))


def _pairs(
    reader: NewRowsReader, checkpoint: Path, source: Path, target: Path, overwrite: bool
) -> tuple[list[tuple[str, str, dict[str, Any]]], int]:
    """The files to predict, the largest first, each with its output and the columns that its folders are.

    Returns:
        The files, and the number of outputs that are there.

    Raises:
        LogregError: There is no file, two have one output, or an output is older than its input or the model.
    """
    from logreg.data.formats.shards import folder_values

    names = reader.files(source)
    values = dict(zip(names, folder_values(names), strict=True))
    inputs: dict[str, str] = {}
    for name in names:
        other = inputs.setdefault(output_name(name), name)
        if other != name:
            raise ConfigError(f"`input` must not have both {other} and {name}, whose output is {output_name(name)}.")
    pairs, there, changed = [], 0, checkpoint.stat().st_mtime_ns
    for output, name in inputs.items():
        file, made = source / name, target / output
        if made.exists() and not overwrite:
            if made.stat().st_mtime_ns < max(changed, file.stat().st_mtime_ns):
                raise ConfigError(
                    f"`output` must have no file that is older than its input or the model, got {shown(made)}. "
                    "Name another folder, or set overwrite=true."
                )
            there += 1
            continue
        pairs.append((file.stat().st_size, (str(file), str(made), values[name])))
    pairs.sort(key=lambda pair: -pair[0])
    return [pair for _, pair in pairs], there


def print_counts(facts: DataFacts, counts: Counts, of_files: str, seconds: float, output: str) -> None:
    """Prints how many rows were predicted, and how many of them have a level that the model lacks, or no value."""
    from logreg.data.encoding.encode import filled_note, unseen_note

    by_name = {column.name: column for column in facts.columns}
    for name, number in counts.unseen.items():
        print(on_one_line(unseen_note(f"{number:,} rows", by_name[name], "the model")), file=sys.stderr)
    for name, number in counts.filled.items():
        print(on_one_line(filled_note(number, by_name[name])), file=sys.stderr)
    where = "" if output == "-" else f": {output}"
    print(on_one_line(f"{counts.rows:,} rows{of_files} in {seconds:.2f} s{where}"), file=sys.stderr)


def predicted(predictor: Predictor, features: Tensor, threshold: float | None) -> tuple[Any, Any]:
    """Probabilities (n, C) and labels (n,) of stored features (n, D), as NumPy arrays."""
    import torch

    with torch.inference_mode():
        probabilities, labels = predictor(features, 0.5 if threshold is None else float(threshold))
    return probabilities.cpu().numpy(), labels.cpu().numpy()


def limits(facts: DataFacts, features: Tensor, intervals: PredictionIntervals | None) -> tuple[Any, ...]:
    """Lower and upper limits (n, C) of the probabilities of stored features (n, D), as NumPy arrays; none without."""
    if intervals is None:
        return ()
    return tuple(one.numpy() for one in intervals.limits(facts.stored.inverse_transform(features)))


@contextmanager
def progress_bar(count: int | None, unit: str, is_shown: bool) -> Iterator[Any]:
    """Yields a function that advances a progress bar on a terminal, and does nothing elsewhere.

    Args:
        count: Number of units in all; ``None`` where it is not known.
        unit: What is counted, such as "rows".
        is_shown: Whether a terminal shows the bar.
    """
    if not (is_shown and sys.stderr.isatty()):
        yield lambda number: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("predicting", total=count)
        yield lambda number: bar.update(task, advance=number)
