"""`scripts/evaluate.py`: scores a trained model, from its checkpoint alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logreg.commands.command_line import ROOT, TypedArguments, importing_libraries, parse_arguments, run_command
from logreg.commands.rows_for_model import data_of
from logreg.constraints import flag, number, one_of, optional, text
from logreg.errors import ConfigError
from logreg.files import check_output, shown, write_text
from logreg.run_folder import CKPT_PATH, find_checkpoint
from logreg.settings import Setting, help_lines
from logreg.terminal import counted, terminal

if TYPE_CHECKING:
    from logreg.evaluation.scores import Scores
    from logreg.reports.summary_schema import EvaluationSummary
    from logreg.training.checkpoint_reading import TrainedModel

OWN = {
    "ckpt_path": CKPT_PATH,
    "split": Setting(
        None, optional(one_of(("train", "val", "test"))), "train, val or test; null is the last that there is"
    ),
    "cost_ratio": Setting(
        1,
        number(above=0),
        "what a false negative costs, in false positives: two classes have a best threshold for it, chosen on val",
    ),
    "output": Setting(None, optional(text()), "a .json file to write everything to; it must not exist"),
    "overwrite": Setting(False, flag(), "true: it may"),
    "json": Setting(False, flag(), "true: prints everything as one JSON object"),
}
"""The keys of this command alone."""

RUN_KEYS = ("dataset", "accelerator")
"""Keys of ``scripts/train.py`` that may be typed as well."""

ALL_ROWS = "all rows"
"""Shown in place of a split where other rows than those of the run are scored."""


def help_text() -> str:
    """The text of ``--help``."""
    return f"""\
Scores a trained model; it needs nothing but the checkpoint.

usage: python scripts/evaluate.py [ckpt_path=latest] [key=value ...]

examples
  python scripts/evaluate.py                                       the newest run, on its own splits
  python scripts/evaluate.py ckpt_path=best                        its epoch of the lowest loss on val
  python scripts/evaluate.py ckpt_path=runs/mnist/2026-11-22_10-00-00-000000 split=val
  python scripts/evaluate.py dataset.path=other.csv                rows that it has never seen, with their classes
  python scripts/evaluate.py cost_ratio=5                          a false negative costs five false positives

keys
{help_lines(OWN)}

the data are those of the run, rebuilt from the checkpoint, unless something is set anew
  dataset.<key>, accelerator
               With another dataset.path (root, cache and download only locate the same rows) all rows of it are
               scored, encoded as the model learned it from train; nothing is learned from them.

Intervals hold the true value in 95 of 100 samples of rows: Wilson's for the accuracy, DeLong's for AUROC and the
infinitesimal jackknife for the average precision, bootstrap for the others.  Weights of rows that are whole numbers
are counts of rows; others are sampling weights.  The baseline gives every row the rates of the classes in train.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of ``scripts/evaluate.py``; the exit code is that of `run_command`."""
    return run_command(help_text, _run, arguments)


def _run(arguments: list[str]) -> int:
    typed = parse_arguments(arguments, "evaluate", OWN, RUN_KEYS)
    checkpoint = find_checkpoint(typed.values["ckpt_path"], ROOT)
    output = None if typed.values["output"] is None else Path(typed.values["output"])
    if output is not None:
        check_output(output, typed.values["overwrite"], (".json",))
    with importing_libraries():
        from logreg.reports.json_fields import to_json
        from logreg.training.checkpoint_reading import TrainedModel

    trained = TrainedModel.load(checkpoint)
    found = evaluate(trained, typed)
    if output is not None:
        plain = json.dumps(to_json(found), indent=2, ensure_ascii=False)
        write_text(output, plain + "\n")
    if typed.values["json"]:
        print(json.dumps(to_json(found)))
    else:
        _show(found, terminal())
    return 0


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
    from logreg.evaluation.held_out import evaluate as evaluate_rows
    from logreg.evaluation.measured import MAX_LISTED_CLASSES
    from logreg.evaluation.threshold import best_threshold
    from logreg.reports.summary import summarize_evaluation
    from logreg.run.scoring import predict, score, with_auroc

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
    scores: dict[str, Scores] = {name: score(module, data, name, auroc=name != split) for name in data.splits}
    notes = list(data.notes)
    if not others and data.facts.fingerprint != facts.fingerprint:
        notes.append("these are not the rows that the model was trained with: the data has changed since")
    evaluation = evaluate_rows(predicted, facts.class_names, facts.class_rates, threshold, ratio, config.seed)
    scores[split] = with_auroc(scores[split], evaluation)
    return EvaluateOutput(
        checkpoint=shown(trained.file),
        data=data.facts.title,
        rows=data.facts.rows,
        classes=facts.class_names[:MAX_LISTED_CLASSES],
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
        class_table_in_words,
        described_loss,
        evaluation_table,
        score_table,
        threshold_in_words,
        weight_lines,
    )

    evaluation = output.evaluation
    num_classes = evaluation.num_classes or len(evaluation.classes)
    loss = described_loss(output.loss["loss"], output.loss["reduction"], num_classes)
    console.print(f"{output.checkpoint} on {output.data}: {loss}", markup=False, highlight=False, soft_wrap=True)
    header, scores = score_table(output.metrics, output.rows)
    if evaluation.split == ALL_ROWS:  # nothing was trained with them
        scores = [["all", *scores[0][1:]]]
    print_table(console, header, scores)
    line = f"{evaluation.split}: {counted(evaluation.rows, 'row')}, intervals of {evaluation.confidence:.0%}"
    line += "; log loss is the mean over rows" if output.loss["reduction"] == "sum" else ""
    console.print(line, markup=False, highlight=False)
    print_table(console, *evaluation_table(evaluation))
    for words in class_table_in_words(evaluation):
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    print_table(console, *class_table(evaluation))
    lines = [] if evaluation.threshold is None else [threshold_in_words(evaluation.threshold)]
    lines += [*weight_lines(evaluation), *evaluation.calibrated]
    if output.optimality:
        lines.append(f"at the end of training: {output.optimality['verdict']}")
    for each in [*lines, *output.notes]:
        console.print(each, markup=False, highlight=False, soft_wrap=True)
