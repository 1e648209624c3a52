"""What a trained model scores, from its checkpoint alone: `scripts/evaluate.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import ROOT, TypedArguments, read_typed, run_command, say_importing
from logreg.commands.overrides import with_overrides
from logreg.config import RunConfig
from logreg.constraints import Constraint, flag, number, one_of, optional, text
from logreg.errors import ConfigError
from logreg.files import check_free, shown, write_whole
from logreg.run_folder import find_checkpoint
from logreg.terminal import show_status, terminal

if TYPE_CHECKING:
    from logreg.data import TensorDataModule
    from logreg.facts import DataFacts
    from logreg.reports.summary_schema import EvaluationSummary
    from logreg.training.checkpoint_reading import TrainedModel

HELP = """\
Scores a trained model; its checkpoint is all that it takes.

usage: python scripts/evaluate.py [ckpt_path=latest] [key=value ...]

examples
  python scripts/evaluate.py                                       the newest run, on its own splits
  python scripts/evaluate.py ckpt_path=best                        its epoch of the lowest loss on val
  python scripts/evaluate.py ckpt_path=runs/mnist/2026-11-22_10-00-00-000000 split=val
  python scripts/evaluate.py dataset.path=other.csv                rows that it has never seen, with their classes
  python scripts/evaluate.py cost_ratio=5                          a miss costs five false alarms

keys
  ckpt_path    latest    latest, best, last, a run folder or a .ckpt file
  split        null      train, val or test; null is the last that there is
  cost_ratio   1         what a miss costs, in false alarms: two classes have a best threshold for it, chosen on val
  output       null      a .json file to write everything to; it must not exist
  overwrite    false     true: it may
  json         false     true: prints everything as one JSON object

the data are those of the run, rebuilt from the checkpoint, unless something is set anew
  dataset.<key>, accelerator
               With another dataset.path (root, cache and download only say where the same rows are) all rows of it are
               scored, encoded as the model learned it from train; nothing is learned from them.

Intervals hold the true value in 95 of 100 samples of rows: bootstrap, Wilson for the accuracy.  Weights of rows that
are whole numbers are counts of rows; others are sampling weights.  The baseline gives every row the rates of the
classes in train.
"""

OWN: dict[str, tuple[Constraint, Any]] = {
    "ckpt_path": (text(), "latest"),
    "split": (optional(one_of(("train", "val", "test"))), None),
    "cost_ratio": (number(above=0), 1.0),
    "output": (optional(text()), None),
    "overwrite": (flag(), False),
    "json": (flag(), False),
}

OF_THE_RUN = ("dataset", "accelerator")
"""Keys of scripts/train.py that may be set anew."""

FILES = {f"dataset.{key}path" for key in ("", "train_", "val_", "test_")}
"""Keys that name other rows."""

OF_THE_MODEL = {
    "name",
    "standardize",
    "limit",
    "class_weight",
    "classes",
    "positive",
    "recipe",
    "max_levels",
    "missing",
    "white_level",
}
"""Keys of a dataset that another value would make another model of."""

ALL_ROWS = "all rows"
"""Instead of a split, where other rows than those of the run are scored."""

WHERE_ONLY = {"dataset.root", "dataset.cache", "dataset.download"}
"""Keys that say where the rows are, not which."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/evaluate.py``; the exit code is that of `run_command`."""
    return run_command(HELP, _work, arguments)


def _work(arguments: list[str]) -> int:
    typed = read_typed(arguments, "evaluate.py", OWN, OF_THE_RUN)
    checkpoint = find_checkpoint(typed.values["ckpt_path"], ROOT)
    output = None if typed.values["output"] is None else Path(typed.values["output"])
    if output is not None:
        check_free("output", output, typed.values["overwrite"], (".json",))
    say_importing()
    from logreg.training.fast_import import import_lightning

    import_lightning()

    from logreg.reports.json_fields import to_json
    from logreg.training.checkpoint_reading import TrainedModel

    trained = TrainedModel.load(checkpoint)
    found = evaluate(trained, typed)
    if output is not None:
        plain = json.dumps(to_json(found), indent=2, ensure_ascii=False)
        write_whole(output, lambda file: file.write((plain + "\n").encode()))
    if typed.values["json"]:
        print(json.dumps(to_json(found)))
    else:
        _show(found, terminal())
    return 0


def data_of(trained: TrainedModel, typed: TypedArguments) -> tuple[RunConfig, TensorDataModule, bool]:
    """The rows of a trained model's run, or others that were typed.

    Returns:
        The config; the data, as the model reads it; whether the rows are others than those of the run.
    """
    from logreg.run.building import build_data, check_hardware, device_of

    config = with_overrides(trained.run_config(), typed.overrides)
    others = {key for key in typed.given if key.startswith("dataset.")} - WHERE_ONLY
    if others:
        _check_others(config, others)
        config = dataclasses.replace(config, dataset=_all_rows(config.dataset, others, trained.facts))
    check_hardware(config.accelerator)
    show_status(f"reading {config.dataset['name']} ...")
    data = build_data(config, trained.facts)
    data.device = device_of(config.accelerator)
    return config, data, bool(others)


def _check_others(config: RunConfig, typed: set[str]) -> None:
    """Keys that are set anew must mean other rows, not another model.

    Raises:
        ConfigError: One of them is the model's, or no file is named.
    """
    made = config.dataset["name"] == "blobs"
    for key in sorted(typed):
        if key.removeprefix("dataset.") in OF_THE_MODEL or not (made or FILES & typed):
            raise ConfigError(f"`{key}` must be that of the checkpoint. Other rows are named by dataset.path=FILE.")


def _all_rows(dataset: Mapping[str, Any], typed: set[str], facts: DataFacts) -> dict[str, Any]:
    """A dataset of whose rows none are held out; of a table the columns that the model learned from."""
    plain = dict(dataset)
    if facts.columns:
        names = [column.name for column in facts.columns]
        plain |= {
            "features": names,
            "drop": [],
            "categorical": [one for one in plain["categorical"] if str(one) in names],
        }
    if "dataset.path" in typed:
        plain |= {key: None for key in ("train_path", "val_path", "test_path") if key in plain}
    if not any(key.startswith("dataset.split") for key in typed):
        plain["split"] = {"val": 0, "test": 0}
    return plain | {"limit": None}


@dataclass(frozen=True, kw_only=True)
class EvaluateOutput:
    """The output of the command; fields are its keys in JSON."""

    checkpoint: str
    data: str
    rows: Mapping[str, int]
    classes: tuple[str, ...]
    loss: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    evaluation: EvaluationSummary
    optimality: Mapping[str, Any] | None
    notes: tuple[str, ...]


def evaluate(trained: TrainedModel, typed: TypedArguments) -> EvaluateOutput:
    """Scores a trained model on its own splits, or on other rows."""
    from logreg.evaluation.held_out import best_threshold
    from logreg.evaluation.held_out import evaluate as evaluate_rows
    from logreg.reports.summary import summarize_evaluation
    from logreg.run.scoring import predict, score

    module, facts = trained.module, trained.facts
    config, data, others = data_of(trained, typed)
    split = typed.values["split"] or data.splits[-1]
    if split not in data.splits:
        raise ConfigError(f"`split` must be one of {', '.join(data.splits)}, which there are, got {split!r}.")
    ratio = float(typed.values["cost_ratio"])
    predicted = predict(module, data, split)
    threshold = None
    if facts.is_binary and not others and split == "test" and "val" in data.splits:
        threshold = best_threshold(predict(module, data, "val"), ratio), "val"
    scores: dict[str, Mapping[str, float]] = {name: score(module, data, name) for name in data.splits}
    notes = list(data.notes)
    if not others and data.facts.fingerprint != facts.fingerprint:
        notes.append("these are not the rows that the model was trained with: the data has changed since")
    evaluation = evaluate_rows(predicted, facts.class_names, facts.class_rates, threshold, ratio, config.seed)
    return EvaluateOutput(
        checkpoint=shown(trained.file),
        data=data.facts.title,
        rows=data.facts.rows,
        classes=facts.class_names,
        loss=dataclasses.asdict(module.objective),
        metrics=scores,
        evaluation=summarize_evaluation(evaluation, ALL_ROWS if others and len(data.splits) == 1 else split, module),
        optimality=trained.optimality,
        notes=tuple(notes),
    )


def _show(output: EvaluateOutput, console: Any) -> None:
    from logreg.reports.console import print_table
    from logreg.reports.wording import (
        class_table,
        evaluation_table,
        score_table,
        threshold_in_words,
        weight_lines,
    )

    evaluation = output.evaluation
    console.print(f"{output.checkpoint} on {output.data}", markup=False, highlight=False, soft_wrap=True)
    header, scores = score_table(output.metrics, output.rows)
    if evaluation.split == ALL_ROWS:  # nothing was trained with them
        scores = [["all", *scores[0][1:]]]
    print_table(console, header, scores)
    line = f"{evaluation.split}: {evaluation.rows:,} rows, intervals of {evaluation.confidence:.0%}"
    console.print(line, markup=False, highlight=False)
    print_table(console, *evaluation_table(evaluation))
    print_table(console, *class_table(evaluation))
    lines = [] if evaluation.threshold is None else [threshold_in_words(evaluation.threshold)]
    lines += [*weight_lines(evaluation), *evaluation.calibrated]
    if output.optimality:
        lines.append(f"at the end of training: {output.optimality['verdict']}")
    for each in [*lines, *output.notes]:
        console.print(each, markup=False, highlight=False, soft_wrap=True)
