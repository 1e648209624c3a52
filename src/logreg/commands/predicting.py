"""Predicts files and folders of files, block by block; several processes share files and their row groups."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from os.path import realpath
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from logreg.errors import ConfigError
from logreg.export.predictions import open_writer, output_name
from logreg.files import check_writable, shown, unfinished, whole_file
from logreg.terminal import counted, on_one_line, terminal

if TYPE_CHECKING:
    from torch import Tensor

    from logreg.data.new_rows import NewRowsReader
    from logreg.facts import DataFacts
    from logreg.inference.prediction import PredictionIntervals
    from logreg.training.checkpoint_reading import Predictor, TrainedModel

PARTS_OF_EACH = 4
"""Number of parts that each process predicts, where files are large: the last one to end has a fourth more at most."""


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
class Task:
    """A file to predict, or a part of it.

    Attributes:
        source: Path of the input; "-" for standard input.
        target: Path of the output; "-" for standard output.
        size: Bytes of the input.
        constants: Values of further columns, those in the names of its folders.
        groups: Row groups of a Parquet file, of which this is a part; ``None`` for all rows.
    """

    source: str
    target: str
    size: float = 0.0
    constants: Mapping[str, Any] = field(default_factory=dict)
    groups: range | None = None


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

    def file(self, task: Task, is_shown: bool, takes_no_rows: bool = False) -> Counts:
        """Reads, predicts and writes the rows of a file; an error leaves no file.

        Args:
            task: What to predict.
            is_shown: Whether a terminal shows a progress bar.
            takes_no_rows: Whether a file without rows has an output without rows; else it has none.

        Raises:
            LogregError: The input is broken, or not of the kind that the model was trained on.
        """
        import torch

        from logreg.csr import rows_at
        from logreg.rows import logit_rows

        facts, counts = self.trained.facts, Counts()
        number, blocks = self.reader.read(task.source, task.constants, task.groups)
        block = next(blocks, None)
        if block is None and not takes_no_rows:
            return counts
        kept_names = list(self.reader.keep if block is None else block.kept)
        at_once = logit_rows(facts.num_classes, torch.float64)
        opens = whole_file if task.groups is None else _part_file
        opened = open_writer(task.target, facts.class_names, kept_names, self.intervals is not None, opens)
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
    the same command goes on where it was stopped.

    Args:
        work: What predicts a file.
        checkpoint: The file of the model.
        source: The folder with the input.
        target: The folder for the output.
        overwrite: Whether files that are there are made again.

    Raises:
        LogregError: A file is broken, or not of the kind that the model was trained on.
    """
    from logreg.processes import in_first, joined_processes

    started = time.perf_counter()
    tasks, there = in_first(joined_processes(), lambda: _tasks(work.reader, checkpoint, source, target, overwrite))
    if there:
        print(
            f"already in {shown(target)}: {counted(there, 'file')}; overwrite=true predicts all again", file=sys.stderr
        )
    counts = predict_files(work, tasks, takes_no_rows=True)
    print_counts(
        work.trained.facts, counts, f" of {counted(len(tasks), 'file')}", time.perf_counter() - started, shown(target)
    )


def predict_files(work: Prediction, files: Sequence[Task], takes_no_rows: bool) -> Counts:
    """Predicts files; several processes share them, and the row groups of large ones.

    The columns of all files are checked before the first one is written.

    Args:
        work: What predicts a file.
        files: The files, the largest first.
        takes_no_rows: As of `Prediction.file`.

    Raises:
        LogregError: A file is broken, or not of the kind that the model was trained on.
    """
    from logreg.processes import in_each, in_first, joined_processes

    processes = joined_processes()
    own = list(files)
    if processes is not None:
        parts = in_first(processes, lambda: _parts(work.reader, files, processes.size))
        own = parts[processes.rank :: processes.size]

    def check() -> None:
        for task in own:
            work.reader.read(task.source, task.constants, task.groups)

    def predict(held: ExitStack) -> tuple[Counts, list[tuple[str, int, str]]]:
        """What was predicted; and of each part of a file the output, the first row group and the temporary file."""
        counts, made = Counts(), list[tuple[str, int, str]]()
        unit = "files" if all(task.groups is None for task in own) else "parts of files"
        with progress_bar(len(own), unit, True) as advance:
            for task in own:
                target = task.target
                if task.groups is not None:
                    target = str(held.enter_context(unfinished(Path(task.target))))
                    made.append((task.target, task.groups.start, target))
                counts += work.file(replace(task, target=target), False, takes_no_rows or task.groups is not None)
                advance(1)
        return counts, made

    in_each(processes, check)
    with ExitStack() as held:
        counts, made = in_each(processes, lambda: predict(held))
        if processes is None:
            return counts
        counts = sum(processes.gather(counts), Counts())
        made = sorted(part for some in processes.gather(made) for part in some)
        joined = [(target, [name for *_, name in some]) for target, some in groupby(made, itemgetter(0))]
        in_each(processes, lambda: _join(joined[processes.rank :: processes.size]))
    return counts


def _parts(reader: NewRowsReader, files: Sequence[Task], processes: int) -> list[Task]:
    """The files, of which large ones are in parts of some row groups, the largest first."""
    from logreg.processes import share

    most = sum(file.size for file in files) / (processes * PARTS_OF_EACH)
    parts = list[Task]()
    for file in files:
        groups = reader.row_groups(file.source) if file.size > most else 1
        count = min(groups, math.ceil(file.size / most)) if groups > 1 else 1
        if count == 1:
            parts.append(file)
            continue
        parts += [replace(file, size=file.size / count, groups=share(groups, part, count)) for part in range(count)]
    return sorted(parts, key=lambda task: -task.size)


def _part_file(path: Path) -> IO[bytes]:
    """An open file for a part, whose name and lock stay those of `unfinished`."""
    return path.open("wb")


def _join(outputs: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Writes outputs, each of the rows of its parts, which are Parquet files of one schema."""
    from pyarrow.parquet import ParquetFile, ParquetWriter

    for target, parts in outputs:
        with ExitStack() as opened:
            files = [opened.enter_context(ParquetFile(part)) for part in parts]
            sink = opened.enter_context(whole_file(Path(target)))
            with ParquetWriter(sink, files[0].schema_arrow) as writer:
                for file in files:
                    for batch in file.iter_batches():
                        writer.write_batch(batch)


def _tasks(
    reader: NewRowsReader, checkpoint: Path, source: Path, target: Path, overwrite: bool
) -> tuple[list[Task], int]:
    """The files to predict, the largest first.

    Returns:
        The files, and the number of outputs that are there.

    Raises:
        LogregError: There is no file, two have one output, or an output is older than its input or the model.
    """
    from logreg.data.formats.find_shards import folder_values

    names = reader.files(source)
    values = dict(zip(names, folder_values(names), strict=True))
    inputs: dict[str, str] = {}
    for name in names:
        other = inputs.setdefault(output_name(name), name)
        if other != name:
            raise ConfigError(f"`input` must not have both {other} and {name}, whose output is {output_name(name)}.")
    tasks, there, changed = [], 0, checkpoint.stat().st_mtime_ns
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
        tasks.append(Task(str(file), str(made), file.stat().st_size, values[name]))
    return sorted(tasks, key=lambda task: -task.size), there


def print_counts(facts: DataFacts, counts: Counts, of_files: str, seconds: float, output: str) -> None:
    """Prints how many rows were predicted, and how many of them have a level that the model lacks, or no value."""
    from logreg.data.encoding.encode import filled_note, unseen_note

    by_name = {column.name: column for column in facts.columns}
    for name, number in counts.unseen.items():
        print(on_one_line(unseen_note(counted(number, "row"), by_name[name], "the model")), file=sys.stderr)
    for name, number in counts.filled.items():
        print(on_one_line(filled_note(number, by_name[name])), file=sys.stderr)
    where = "" if output == "-" else f": {output}"
    print(on_one_line(f"{counted(counts.rows, 'row')}{of_files} in {seconds:.2f} s{where}"), file=sys.stderr)


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
