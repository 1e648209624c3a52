"""`scripts/predict.py`: probabilities for new rows, from a checkpoint alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import ROOT, TypedArguments, importing_libraries, parse_arguments, run_command
from logreg.commands.inference_settings import CONFIDENCE, COVARIANCE, WEIGHTS
from logreg.constraints import character, check, flag, listed, number, one_of, optional, text, whole
from logreg.errors import ConfigError
from logreg.export.predictions import MAX_PROBABILITY_COLUMNS, NUM_TOP, PREDICTED, SUFFIXES
from logreg.files import check_free
from logreg.run_folder import find_checkpoint
from logreg.settings import Setting, help_lines
from logreg.terminal import on_one_line, terminal

if TYPE_CHECKING:
    from torch import Tensor

    from logreg.data.new_rows import NewRowsReader, Rows
    from logreg.facts import DataFacts
    from logreg.inference.prediction import PredictionIntervals
    from logreg.training.checkpoint_reading import Predictor, TrainedModel

SEPARATOR = optional(character(escaped_tab=True))
"""Separator of the values of a line; a tab may be typed as a backslash and a t."""

MAX_PRINTED_CLASSES = 100
"""Largest number of classes whose probabilities are printed for a single row."""

NUM_PRINTED_CLASSES = 10
"""Number of the most probable classes that are printed where there are more."""

OWN = {
    "ckpt_path": Setting("latest", text(), "latest, best, last, a run folder or a .ckpt file"),
    "input": Setting(
        None,
        optional(text()),
        "what the model learned from: a table (.csv .tsv .parquet .arrow .feather, text also in .gz) with the columns "
        "by their names, a matrix (.npz .npy .safetensors .parquet), a folder of images or one image, a folder of .txt "
        "files, or - for a CSV on standard input",
        shown="",
    ),
    "output": Setting("-", text(), ".csv, .tsv, .parquet or .npz; - is a CSV on standard output"),
    "overwrite": Setting(False, flag(), "true: the file may exist"),
    "threshold": Setting(
        None,
        optional(number(above=0, below=1)),
        "the second of two classes is predicted where its probability is greater; null: 0.5",
    ),
    "interval": Setting(
        None,
        optional(CONFIDENCE),
        "level of an interval for each probability, such as 0.95, from the rows that the model was fitted to; the fit "
        "has no penalty, as for scripts/coefficients.py",
    ),
    "covariance": COVARIANCE,
    "weights": WEIGHTS,
    "keep": Setting([], listed(), "columns of the input to copy, before the predictions"),
    "drop": Setting([], listed(), "columns of the input to pass over, which the model's train file did not have"),
    "separator": Setting(None, SEPARATOR, "between the values of a line; null: by the file's suffix"),
    "accelerator": Setting("cpu", one_of(("cpu", "gpu", "mps", "auto")), "cpu, gpu, mps or auto"),
    "batch_size": Setting(64, whole(at_least=1), "images that go through a backbone at once"),
}
"""The keys of this command; every other key is a column of a single row."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Gives the probability of each class for new rows; it needs nothing but the checkpoint.

usage: python scripts/predict.py [ckpt_path=latest] input=FILE [output=FILE] [key=value ...]
       python scripts/predict.py [ckpt_path=latest] COLUMN=VALUE ...

examples
  python scripts/predict.py hours=3.5                                   one row
  python scripts/predict.py input=new.csv output=predictions.csv keep=[id]
  python scripts/predict.py input=pictures/ output=predictions.parquet  a folder of images
  python scripts/predict.py input=letters/ output=predictions.csv      .txt files of a folder, or one, as texts
  python scripts/predict.py input=- output=- < new.csv                  from standard input to standard output
  python scripts/predict.py input=new.csv output=flagged.csv threshold=0.2
  python scripts/predict.py hours=3.5 interval=0.95                     how sure the probability is

keys
{help_lines(OWN)}

The output has the kept columns (of images their file), `predicted`, and for each class a column of probabilities under
the class's name; of more than {MAX_PROBABILITY_COLUMNS:,} classes, a table has the {NUM_TOP} most probable ones of each
row, `top 1`, `p(top 1)` and so on.  With interval=, columns `<class> low` and `<class> high` follow.  Rows are read,
predicted and written in blocks, so a file may be larger than the memory.  A level that the model does not know counts
as none, and such rows are counted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/predict.py``; the exit code is that of `run_command`."""
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    typed = parse_arguments(arguments, "predict", OWN, takes_more=True)
    _check_combinations(typed)
    values = typed.values
    checkpoint = find_checkpoint(values["ckpt_path"], ROOT)
    if values["output"] != "-":
        check_free("output", Path(values["output"]), values["overwrite"], SUFFIXES)
    with importing_libraries():
        from logreg.data.new_rows import NewRowsReader
        from logreg.run.building import check_hardware, device_of
        from logreg.training.checkpoint_reading import Predictor, TrainedModel
        from logreg.training.module import DTYPES

    trained = TrainedModel.load(checkpoint)
    check_hardware(values["accelerator"])
    if values["threshold"] is not None and not trained.facts.is_binary:
        classes = trained.facts.num_classes
        raise ConfigError(f"`threshold` must go with two classes, and the model has {classes}. Leave it out.")
    device = device_of(values["accelerator"])
    reader = NewRowsReader(
        trained.facts,
        {} if trained.config is None else trained.config.dataset,
        DTYPES[trained.module.hparams["precision"]],
        [str(name) for name in values["keep"]],
        [str(name) for name in values["drop"]],
        _separator(trained, values["separator"]),
        device,
        values["batch_size"],
    )
    predictor = Predictor(trained.module, device)
    rows = reader.single(typed.free) if values["input"] is None else None
    intervals = None if values["interval"] is None else _intervals(checkpoint, trained, typed)
    if rows is not None:
        _print_single(trained, predictor, rows, values["threshold"], intervals)
    else:
        _predict(trained, predictor, reader, typed, intervals)
    return 0


def _intervals(checkpoint: Path, trained: TrainedModel, typed: TypedArguments) -> PredictionIntervals:
    """The intervals of the model's probabilities, from the rows of its run.

    Raises:
        LogregError: There are none for this fit.
    """
    from logreg.run.inference_request import InferenceRequest
    from logreg.run.inferring import prediction_intervals

    values, classes = typed.values, trained.facts.num_classes
    if classes > MAX_PROBABILITY_COLUMNS:
        raise ConfigError(
            f"`interval` must go with at most {MAX_PROBABILITY_COLUMNS:,} classes, and the model has {classes:,}. "
            "Leave it out."
        )
    request = InferenceRequest(
        checkpoint,
        trained.run_config(),
        trained,
        confidence=float(values["interval"]),
        covariance=None if values["covariance"] == "auto" else values["covariance"],
        weights=values["weights"],
        of_table=False,
    )
    return prediction_intervals(request)


def _check_combinations(typed: TypedArguments) -> None:
    """Checks that keys which are right alone go with each other.

    Raises:
        ConfigError: Names the key that does not.
    """
    values, cells = typed.values, typed.free
    if values["input"] is not None and cells:
        raise ConfigError(
            f"`{cells[0].partition('=')[0]}` must be a key of predict beside input=. `--help` lists the keys."
        )
    if values["input"] is None and not cells:
        raise ConfigError("`input` must be given, or a value for each column, such as hours=3.5.")
    for key in ("covariance", "weights") if values["interval"] is None else ():
        if key in typed.given:
            raise ConfigError(f"`{key}` must go with interval=. Leave it out, or set interval=0.95.")
    for key in ("output", "keep", "drop", "separator") if values["input"] is None else ():
        if key in typed.given:
            raise ConfigError(f"`{key}` must go with input=: a single row is printed. Leave it out.")
    # not Path.resolve, which raises where links form a circle
    if values["input"] not in (None, "-") and realpath(values["input"]) == realpath(values["output"]):
        raise ConfigError("`output` must be another file than `input`.")
    taken = {PREDICTED, *(("probabilities", "classes") if values["output"].endswith(".npz") else ())}
    for name in values["keep"]:
        if str(name) in taken:
            raise ConfigError(
                f"`keep` must not name {str(name)!r}, since the output has a column of that name. Rename it first."
            )


def _separator(trained: TrainedModel, typed: str | None) -> str | None:
    """The separator that was typed, or else that of the file that the model learned from."""
    if typed is None:
        own = None if trained.config is None else trained.config.dataset.get("separator")
        check("dataset.separator", own, SEPARATOR)
        return None if own is None else str(own)
    return "\t" if typed == "\\t" else typed


def _predict(
    trained: TrainedModel,
    predictor: Predictor,
    reader: NewRowsReader,
    typed: TypedArguments,
    intervals: PredictionIntervals | None,
) -> None:
    import torch

    from logreg.csr import rows_at
    from logreg.data.encoding.encode import unseen_note
    from logreg.export.predictions import open_writer
    from logreg.rows import logit_rows

    values, facts = typed.values, trained.facts
    started, rows, unseen = time.perf_counter(), 0, dict[str, int]()
    count, blocks = reader.read(values["input"])
    first = next(blocks, None)
    if first is None:
        raise ConfigError(f"`input` must have rows, got none [in {values['input']}].")
    at_once = logit_rows(facts.num_classes, torch.float64)
    # A progress bar and rows on the same terminal would overwrite each other.
    bar = _progress_bar(count, shown=not (values["output"] == "-" and sys.stdout.isatty()))
    opened = open_writer(values["output"], facts.class_names, list(first.kept), intervals is not None)
    with opened as writer, bar as advance:
        block: Rows | None = first
        while block is not None:
            for start in range(0, block.features.shape[0], at_once):
                features = rows_at(block.features, slice(start, start + at_once))
                probabilities, labels = predicted(predictor, features, values["threshold"])
                kept = {name: column.slice(start, at_once) for name, column in block.kept.items()}
                writer.write(kept, labels, probabilities, *limits(facts, features, intervals))
                rows += len(labels)
                advance(len(labels))
            for name, number_of_rows in block.unseen.items():
                unseen[name] = unseen.get(name, 0) + number_of_rows
            block = next(blocks, None)
    by_name = {column.name: column for column in facts.columns}
    for name, number_of_rows in unseen.items():
        print(on_one_line(unseen_note(f"{number_of_rows:,} rows", by_name[name], "the model")), file=sys.stderr)
    seconds = time.perf_counter() - started
    where = "" if values["output"] == "-" else f": {values['output']}"
    print(on_one_line(f"{rows:,} rows in {seconds:.2f} s{where}"), file=sys.stderr)


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


def _print_single(
    trained: TrainedModel,
    predictor: Predictor,
    rows: Rows,
    threshold: float | None,
    intervals: PredictionIntervals | None,
) -> None:
    probabilities, labels = predicted(predictor, rows.features, threshold)
    ends = limits(trained.facts, rows.features, intervals)
    names = trained.facts.class_names
    print(on_one_line(names[int(labels[0])]))
    shown = len(names) if len(names) <= MAX_PRINTED_CLASSES else NUM_PRINTED_CLASSES
    for place in probabilities[0].argsort()[::-1][:shown].tolist():
        interval = f" ({' to '.join(f'{float(end[0, place]):.4f}' for end in ends)})" if ends else ""
        print(on_one_line(f"  {float(probabilities[0, place]):.4f}{interval}  {names[place]}"))
    if shown < len(names):
        print(f"  and {len(names) - shown:,} more")


@contextmanager
def _progress_bar(count: int | None, shown: bool) -> Iterator[Any]:
    """Yields a function that advances a progress bar on a terminal, and does nothing elsewhere."""
    if not (shown and sys.stderr.isatty()):
        yield lambda rows: None
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
        TextColumn("rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("predicting", total=count)
        yield lambda rows: bar.update(task, advance=rows)
