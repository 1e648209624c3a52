"""Writes the report of a run: coefficients, path, report.md, report.html, summary.json."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from logreg.errors import ConfigError
from logreg.evaluation.held_out import OF_CLASSES, Evaluation, frequent_mistakes
from logreg.evaluation.measured import MAX_LISTED_CLASSES
from logreg.evaluation.path_selection import path_csv
from logreg.files import shown, write_text
from logreg.inference.results import INTERCEPT, CoefficientTable
from logreg.reports.drawing import write_figure
from logreg.reports.fast_matplotlib import import_matplotlib
from logreg.reports.html import as_html
from logreg.reports.markdown import as_markdown
from logreg.reports.summary import RunResult
from logreg.reports.summary_schema import CLASSES_FILE, CONFUSIONS_FILE, FILE, Summary, read_summary
from logreg.training.module import LogisticModule
from logreg.training.tracking import HPARAMS_METRICS, RunLogger

OF_TABLE = ("odds_ratios.png", "binned_residuals.png", "influence.png")
"""Files of the pictures of standard errors and checks."""

OF_INFERENCE = ("std_error", "z", "p", "low", "high")
"""Columns of coefficients.csv for each class, after its coefficient against the reference class."""

OF_LINEARITY = ("linearity: chi2", "linearity: df", "linearity: p")
"""Columns of coefficients.csv where assumptions were checked."""

MANY_NUMBERS = 50_000
"""Numbers of coefficients.csv from which on Arrow writes them: `csv` takes longer than the import of Arrow does."""

ODDS_RATIOS = ("odds_ratio", "odds_ratio_low", "odds_ratio_high")
"""Further columns of a logit link."""


def write_report(result: RunResult, summary: Summary, figures: Sequence[str], logger: RunLogger) -> None:
    """Writes all files of the report, summary.json last.

    Args:
        result: The run.
        summary: Summary of the run.
        figures: File names of its pictures.
        logger: Gets the scores of the end.
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
    if result.path:
        table = path_csv(result.path, result.module.facts.rows["train"], result.config.select)
        write_text(result.folder / "path.csv", table)
    if result.module.facts.feature_names:
        text = coefficients_csv(result.module)
        write_text(result.folder / "coefficients.csv", text)
    evaluation = result.evaluation
    if evaluation is not None and len(evaluation.classes) > MAX_LISTED_CLASSES:
        names = result.module.facts.class_names
        for name, text in (
            (CLASSES_FILE, classes_csv(evaluation)),
            (CONFUSIONS_FILE, confusions_csv(evaluation, names)),
        ):
            write_text(result.folder / name, text)
    page = as_markdown(summary, figures)
    write_text(result.folder / "report.md", page)
    if result.config.report == "full":
        html = as_html(summary.folder, page, {name: result.folder / "figures" / name for name in figures})
        write_text(result.folder / "report.html", html)
    plain = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)
    # last, since a run that has this file is finished
    write_text(result.folder / FILE, plain + "\n")


def coefficients_csv(module: LogisticModule, table: CoefficientTable | None = None) -> str:
    """Intercept and coefficients in source units, a line per feature, a column per output.

    With a table there are more columns for each class: the coefficient against the reference level and the reference
    class, its standard error, test, interval and odds ratio; they are empty for reference levels.  Where assumptions
    were checked, further columns have the test of linearity of each numeric column.
    """
    facts = module.facts
    coef, intercept = module.model.in_source_units()
    header = ["feature", *module.output_names]
    if table is None and coef.numel() >= MANY_NUMBERS:
        return _written_at_once(header, (INTERCEPT, *facts.feature_names), torch.cat([intercept[:, None], coef], dim=1))
    rows: list[list[object]] = [[INTERCEPT, *intercept.tolist()]]
    rows += ([name, *row] for name, row in zip(facts.feature_names, coef.T.tolist(), strict=True))
    for class_name in dict.fromkeys(row.class_name for row in table.coefficients) if table is not None else ():
        assert table is not None
        of_intercept, *others = (row for row in table.coefficients if row.class_name == class_name)
        mine = {row.feature: row for row in others}
        names = (*OF_INFERENCE, *(ODDS_RATIOS if table.gives_odds else ()))
        header += [f"{class_name} against {table.reference_class}", *(f"{class_name}: {name}" for name in names)]
        for place, line in enumerate(rows):
            row = of_intercept if place == 0 else mine.get(str(line[0]))
            if row is None:
                line += [""] * (1 + len(names))
            else:
                one = row.per_unit
                line += [one.coef, one.std_error, row.z, row.p, one.low, one.high]
                if table.gives_odds:
                    line += [one.odds_ratio, one.odds_ratio_low, one.odds_ratio_high]
    if table is not None and table.checks is not None:
        header += OF_LINEARITY
        tests = {one.feature: one.likelihood_ratio or one.score for one in table.checks.linearity}
        for line in rows:
            test = tests.get(str(line[0]))
            line += [""] * len(OF_LINEARITY) if test is None else [test.chi2, test.degrees, test.p]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return lines.getvalue()


def _written_at_once(header: Sequence[str], names: Sequence[str], columns: Tensor) -> str:
    """Lines as `csv` would write them, by Arrow, which takes less time; it writes 1 for 1.0, and quotes all names.

    Args:
        header: Names of the columns.
        names: The first field of each line.
        columns: The other fields (K, lines).
    """
    import pyarrow as pa
    import pyarrow.csv

    first = io.StringIO()
    csv.writer(first, lineterminator="\n").writerow(header)
    # by place, since names of classes may be equal to one another
    table = pa.table([pa.array(names), *map(pa.array, columns.numpy())], names=[*map(str, range(len(columns) + 1))])
    lines = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, lines, pyarrow.csv.WriteOptions(include_header=False))
    written: bytes = lines.getvalue().to_pybytes()
    return first.getvalue() + written.decode()


def add_inference(folder: Path, module: LogisticModule, table: CoefficientTable) -> None:
    """Adds standard errors, intervals and tests to the report of a finished run, in place of earlier ones.

    coefficients.csv gets columns, report.md and report.html a section and (of a logit link) a forest plot, summary.json
    a key; where assumptions were checked, there are pictures of residuals and of influence besides.

    Args:
        folder: The run folder.
        module: The model of the run.
        table: Its coefficients.

    Raises:
        ConfigError: The run has no report.
    """
    import_matplotlib()
    from logreg.reports.assumption_plots import binned_residuals, influence_plot
    from logreg.reports.diagnostic_plots import forest_plot
    from logreg.reports.figures import label, lettered

    summary = read_summary(folder) if (folder / FILE).is_file() else None
    if not isinstance(summary, Summary):
        raise ConfigError(
            f"`report=true` must go with the folder of a finished run, got {shown(folder)}. Leave it out."
        )
    summary = replace(summary, inference=table)
    figures = re.findall(r"\]\(figures/([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
    with lettered([table.data, *table.classes, *(row.feature for row in table.coefficients)]):
        of = label(table.data, 50)
        drawn = [forest_plot(table, f"{of}: odds ratios"), None, None]
        if table.checks is not None:
            class_name = label(table.classes[1], 24)
            drawn[1] = binned_residuals(table.checks.linearity, class_name, f"{of}: binned residuals")
            drawn[2] = influence_plot(table.checks, f"{of}: influence of single rows (areas: Cook's distances)")
        figures = [name for name in figures if name not in OF_TABLE]
        for figure, name in zip(drawn, OF_TABLE, strict=True):
            (folder / "figures" / name).unlink(missing_ok=True)
            if figure is not None:
                write_figure(figure, folder / "figures" / name)
                figures.append(name)
    page = as_markdown(summary, figures)
    texts = {"report.md": page, FILE: json.dumps(summary.to_json(), indent=2, ensure_ascii=False) + "\n"}
    if (folder / "report.html").is_file():
        texts["report.html"] = as_html(summary.folder, page, {name: folder / "figures" / name for name in figures})
    if module.facts.feature_names:
        texts["coefficients.csv"] = coefficients_csv(module, table)
    for name, text in texts.items():
        write_text(folder / name, text)


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
