"""`scripts/predict.py`: probabilities for new rows, from a checkpoint alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import (
    ROOT,
    TypedArguments,
    importing_libraries,
    parse_arguments,
    print_alone,
    run_command,
)
from logreg.commands.inference_settings import CONFIDENCE, COVARIANCE, WEIGHTS
from logreg.commands.predicting import (
    Prediction,
    Task,
    check_folders,
    limits,
    predict_files,
    predict_folder,
    predicted,
    print_counts,
)
from logreg.constraints import character, check, decimal_mark, flag, listed, number, one_of, optional, text, whole
from logreg.errors import ConfigError, DatasetNotFoundError
from logreg.export.predictions import MAX_PROBABILITY_COLUMNS, NUM_TOP, PREDICTED, SUFFIXES
from logreg.files import check_output, is_there
from logreg.launchers import placement
from logreg.run_folder import CKPT_PATH, find_checkpoint
from logreg.settings import Setting, help_lines
from logreg.terminal import on_one_line

if TYPE_CHECKING:
    from logreg.data.new_rows import NewRows
    from logreg.inference.prediction import PredictionIntervals
    from logreg.training.checkpoint_reading import Predictor, TrainedModel

SEPARATOR = optional(character(escaped_tab=True))
"""Separator of the values of a line; a tab may be typed as a backslash and a t."""

MAX_PRINTED_CLASSES = 100
"""Largest number of classes whose probabilities are printed for a single row."""

NUM_PRINTED_CLASSES = 10
"""Number of the most probable classes that are printed where there are more."""

OWN = {
    "ckpt_path": CKPT_PATH,
    "input": Setting(
        None,
        optional(text()),
        "what the model learned from: a table (.csv .tsv .parquet .arrow .feather, text also compressed) with the "
        "columns by their names, a matrix (.npz .npy .safetensors .parquet), a folder of images or one image, a folder "
        "of .txt files, or - for a CSV on standard input",
        shown="",
    ),
    "output": Setting(
        "-",
        text(),
        ".csv, .tsv, .parquet or .npz; - is a CSV on standard output; for a folder of tables or matrices a folder, "
        "which gets a file for each",
    ),
    "overwrite": Setting(False, flag(), "true: the file may exist; of a folder, files that are there are made again"),
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
    "separator": Setting(None, SEPARATOR, "between the values of a line; null: as in the header"),
    "decimal": Setting(None, optional(decimal_mark()), "before the decimals of numbers; null: as in training"),
    "header": Setting(
        None, optional(flag()), "false: rows from the first line on, without names; null: as in training"
    ),
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
  python scripts/predict.py input=shards/ output=predictions/           a file for each file of a folder
  torchrun --standalone --nproc-per-node=4 scripts/predict.py input=shards/ output=predictions/
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
    return run_command(help_text, _run, arguments, shares_rows=True)


def _run(arguments: list[str]) -> int:
    typed = parse_arguments(arguments, "predict", OWN, takes_more=True)
    _check_combinations(typed)
    values = typed.values
    checkpoint = find_checkpoint(values["ckpt_path"], ROOT)
    placed, is_folder, has_groups = placement(), _has_folders(values), _has_row_groups(values)
    if is_folder:
        check_folders(Path(values["input"]), Path(values["output"]))
    elif values["output"] != "-":
        check_output(Path(values["output"]), values["overwrite"], SUFFIXES)
    if placed is not None and not (is_folder or has_groups):
        if placed.rank:
            return 0
        print_alone(placed)
        placed = None
    with importing_libraries():
        from logreg.processes import process_group
        from logreg.run.building import check_hardware, device_of

    check_hardware(values["accelerator"], 1 if placed is None else placed.local_size)
    with ExitStack() as during:
        if placed is not None:
            is_gpu = device_of(values["accelerator"]).type == "cuda"
            during.enter_context(process_group(placed, is_gpu))
        _predict_typed(checkpoint, typed, is_folder)
    return 0


def _has_folders(values: Mapping[str, Any]) -> bool:
    """Whether the input is a folder whose files have a file of predictions each, in another folder."""
    file, output = values["input"], Path(values["output"])
    return (
        file not in (None, "-") and Path(file).is_dir() and str(output) != "-" and output.suffix.lower() not in SUFFIXES
    )


def _has_row_groups(values: Mapping[str, Any]) -> bool:
    """Whether input and output are Parquet files, so that several processes can share the row groups."""
    files = [Path(values[key] or "") for key in ("input", "output")]
    return files[0].is_file() and all(file.suffix.lower() == ".parquet" for file in files)


def _predict_typed(checkpoint: Path, typed: TypedArguments, is_folder: bool) -> None:
    """Predicts what was typed: a row, a file, or the files of a folder."""
    from logreg.data.new_rows import NewRowsReader
    from logreg.processes import joined_processes
    from logreg.run.building import device_of
    from logreg.training.checkpoint_reading import Predictor, TrainedModel
    from logreg.training.module import DTYPES

    values = typed.values
    trained = TrainedModel.load(checkpoint)
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
        _decimal(trained, values["decimal"]),
        _has_header(trained, values["header"]),
        device,
        values["batch_size"],
    )
    predictor = Predictor(trained.module, device)
    rows = reader.single(typed.free) if values["input"] is None else None
    intervals = None if values["interval"] is None else _intervals(checkpoint, trained, typed)
    if rows is not None:
        _print_single(trained, predictor, rows, values["threshold"], intervals)
        return
    work = Prediction(trained, predictor, reader, values["threshold"], intervals)
    started = time.perf_counter()
    if is_folder:
        predict_folder(work, checkpoint, Path(values["input"]), Path(values["output"]), values["overwrite"])
        return
    file = Task(values["input"], values["output"])
    if joined_processes() is not None:
        counts = predict_files(work, [replace(file, size=Path(file.source).stat().st_size)], takes_no_rows=False)
    else:
        # A progress bar and rows on the same terminal would overwrite each other.
        counts = work.file(file, is_shown=not (file.target == "-" and sys.stdout.isatty()))
    if not counts.rows:
        place = "standard input" if values["input"] == "-" else values["input"]
        raise ConfigError(f"`input` must have rows, got none [in {place}].")
    print_counts(trained.facts, counts, "", time.perf_counter() - started, values["output"])


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
    for key in ("output", "keep", "drop", "separator", "decimal", "header") if values["input"] is None else ():
        if key in typed.given:
            raise ConfigError(f"`{key}` must go with input=: a single row is printed. Leave it out.")
    # not Path.resolve, which raises where links form a circle
    if values["input"] not in (None, "-") and realpath(values["input"]) == realpath(values["output"]):
        what = "folder" if Path(values["input"]).is_dir() else "file"
        raise ConfigError(f"`output` must be another {what} than `input`.")
    taken = {PREDICTED, *(("probabilities", "classes") if values["output"].endswith(".npz") else ())}
    for name in values["keep"]:
        if str(name) in taken:
            raise ConfigError(
                f"`keep` must not name {str(name)!r}, since the output has a column of that name. Rename it first."
            )
    if values["input"] not in (None, "-") and not is_there(Path(values["input"])):
        advice = "Relative paths start at the current folder."
        if "://" in values["input"]:
            advice = "Addresses are for training: copy the files to this machine."
        elif set(values["input"]) & set("*?["):
            advice = "It is no pattern: name one file, or a folder of files with output=FOLDER."
        raise DatasetNotFoundError(f"`input` must be there, and {values['input']} is missing. {advice}")


def _separator(trained: TrainedModel, typed: str | None) -> str | None:
    """The separator that was typed, or else that of the file that the model learned from."""
    if typed is None:
        own = None if trained.config is None else trained.config.dataset.get("separator")
        check("dataset.separator", own, SEPARATOR)
        return None if own is None else str(own)
    return "\t" if typed == "\\t" else typed


def _decimal(trained: TrainedModel, typed: str | None) -> str:
    """The character before decimals that was typed, or else that of the file that the model learned from."""
    own = None if trained.config is None else trained.config.dataset.get("decimal")
    check("dataset.decimal", own, optional(decimal_mark()))
    return typed or (None if own is None else str(own)) or "."


def _has_header(trained: TrainedModel, typed: bool | None) -> bool:
    """Whether text files have a header, as typed, or else as the file that the model learned from."""
    own = True if trained.config is None else trained.config.dataset.get("header", True)
    check("dataset.header", own, flag())
    return bool(own if typed is None else typed)


def _print_single(
    trained: TrainedModel,
    predictor: Predictor,
    rows: NewRows,
    threshold: float | None,
    intervals: PredictionIntervals | None,
) -> None:
    from logreg.data.encoding.encode import filled_note

    for column in trained.facts.columns:
        if column.name in rows.filled:
            print(on_one_line(filled_note(1, column)), file=sys.stderr)
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
