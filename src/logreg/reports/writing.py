"""Writes the report of a run: coefficients, path, report.md, report.html, summary.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from logreg.evaluation.held_out import OF_CLASSES, Evaluation, frequent_mistakes
from logreg.evaluation.measured import MAX_LISTED_CLASSES
from logreg.evaluation.path_selection import path_csv
from logreg.files import write_whole
from logreg.reports.html import as_html
from logreg.reports.markdown import as_markdown
from logreg.reports.summary import RunResult
from logreg.reports.summary_schema import CLASSES_FILE, CONFUSIONS_FILE, FILE, Summary
from logreg.training.module import LogisticModule
from logreg.training.tracking import HPARAMS_METRICS, RunLogger


def write_report(result: RunResult, summary: Summary, figures: Sequence[str], logger: RunLogger) -> None:
    """Writes all files of the report, summary.json last, and closes TensorBoard's file.

    Args:
        result: The run.
        summary: Summary of the run.
        figures: File names of its pictures.
        logger: Still open.
    """
    curves = logger.history
    for split, scores in result.scores.items():
        last = {f"{name}/{split}": value for name, value in scores.items()}
        if split != "test":  # train and val have curves, except for the accuracy on train of an exact optimizer
            last = {tag: value for tag, value in last.items() if tag in HPARAMS_METRICS and tag not in curves}
        if last:
            logger.log_metrics(last, result.epochs)
    if "cv" in summary.metrics:
        logger.log_metrics({f"{name}/cv": value for name, value in summary.metrics["cv"].items()}, result.epochs)
    logger.flush()
    logger.writer.close()
    if result.path:
        table = path_csv(result.path, result.module.facts.rows["train"], result.config.select)
        write_whole(result.folder / "path.csv", lambda file: file.write(table.encode()))
    if result.module.facts.feature_names:
        text = coefficients_csv(result.module)
        write_whole(result.folder / "coefficients.csv", lambda file: file.write(text.encode()))
    evaluation = result.evaluation
    if evaluation is not None and len(evaluation.classes) > MAX_LISTED_CLASSES:
        names = result.module.facts.class_names
        for name, text in (
            (CLASSES_FILE, classes_csv(evaluation)),
            (CONFUSIONS_FILE, confusions_csv(evaluation, names)),
        ):
            write_whole(result.folder / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    page = as_markdown(summary, figures)
    write_whole(result.folder / "report.md", lambda file: file.write(page.encode()))
    if result.config.report == "full":
        html = as_html(summary.folder, page, {name: result.folder / "figures" / name for name in figures})
        write_whole(result.folder / "report.html", lambda file: file.write(html.encode()))
    plain = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)
    # last, since a run that has this file is finished
    write_whole(result.folder / FILE, lambda file: file.write((plain + "\n").encode()))


def coefficients_csv(module: LogisticModule) -> str:
    """Intercept and coefficients in source units, a line per feature, a column per output."""
    facts = module.facts
    coef, intercept = module.model.in_source_units()
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["feature", *(facts.class_names if len(coef) > 1 else facts.class_names[1:])])
    writer.writerow(["intercept", *intercept.tolist()])
    writer.writerows([name, *row] for name, row in zip(facts.feature_names, coef.T.tolist(), strict=True))
    return lines.getvalue()


def classes_csv(evaluation: Evaluation) -> str:
    """The scores of each class with their intervals, a line per class."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    ends = [f"{name}{end}" for name in OF_CLASSES for end in ("", "_low", "_high")]
    writer.writerow(["class", "rows", *ends])
    for one in evaluation.classes:
        writer.writerow([one.name, f"{one.weight:.10g}", *one.precision, *one.recall, *one.f1])
    return lines.getvalue()


def confusions_csv(evaluation: Evaluation, class_names: Sequence[str]) -> str:
    """The kinds of mistakes with the number of their rows, a line for each class that is predicted as another one."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["class", "predicted", "rows"])
    for true, predicted, weight in frequent_mistakes(evaluation.confusion):
        writer.writerow([class_names[true], class_names[predicted], f"{weight:.10g}"])
    return lines.getvalue()
