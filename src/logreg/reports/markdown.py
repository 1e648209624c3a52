"""Writes the text of report.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from logreg.inference.results import Checks, CoefficientTable
from logreg.reports import assumption_report
from logreg.reports.coefficient_report import (
    TESTS_IN_WORDS,
    by_class,
    coefficient_cells,
    effect_cells,
    effects_in_words,
    odds_cells,
    odds_in_words,
    scale_in_words,
    statistics_in_words,
    test_cells,
)
from logreg.reports.summary_schema import CLASSES_FILE, Summary
from logreg.reports.wording import (
    class_table,
    class_table_in_words,
    evaluation_table,
    loss_in_words,
    remarks,
    score_table,
    settings_in_words,
    threshold_in_words,
    title,
    units_in_words,
)
from logreg.terminal import counted, on_one_line


def as_markdown(summary: Summary, figures: Sequence[str]) -> str:
    """The text of report.md.

    Args:
        summary: Summary of the run.
        figures: File names of its pictures.
    """
    header, rows = score_table(summary.metrics, summary.dataset.scored_rows)
    lines = [
        f"# {title(summary)}",
        "",
        f"`{summary.command}`",
        "",
        *([f"Continues `{summary.resumed_from}`.", ""] if summary.resumed_from else []),
        f"Loss: {loss_in_words(summary)}. {settings_in_words(summary)}",
        "",
        *markdown_table(header, rows),
        "",
        *(f"- {line}" for line in [*summary.dataset.notes, *remarks(summary)]),
        "",
        *_evaluation_lines(summary),
        *token_table(summary),
        *_coefficient_lines(summary),
        *inference_lines(summary.inference),
        *_mistake_lines(summary),
        *(["## Pictures", ""] if figures else []),
        *(line for figure in figures for line in (f"![{Path(figure).stem}](figures/{figure})", "")),
        f"Commit {summary.git_commit or 'unknown'}, seed {summary.seed}, "
        + ", ".join(f"{package} {number}" for package, number in summary.versions.items())
        + ".",
        "",
    ]
    return "\n".join(map(on_one_line, lines))


def _evaluation_lines(summary: Summary) -> list[str]:
    """All scores of the last split with their intervals, beside those of the baseline."""
    evaluation = summary.evaluation
    if evaluation is None or evaluation.split == "train":
        return []
    lines = [
        f"## Scores on {evaluation.split}",
        "",
        f"{counted(evaluation.rows, 'row')}, intervals of {evaluation.confidence:.0%}; "
        "the baseline predicts the class rates of train for every row.",
        "",
        *markdown_table(*evaluation_table(evaluation)),
        "",
    ]
    if threshold := evaluation.threshold:
        lines += [f"{threshold_in_words(threshold)}.", ""]
    lines += [line for words in class_table_in_words(evaluation, CLASSES_FILE) for line in (words, "")]
    return [*lines, *markdown_table(*class_table(evaluation)), ""]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a Markdown table; the first ``left`` columns are left-aligned, the others right-aligned."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = "|" + "".join("---|" if number < left else "--:|" for number in range(len(header)))
    first, *others = ("| " + " | ".join(row) + " |" for row in cells)
    return [first, rule, *others]


def _mistake_lines(summary: Summary) -> list[str]:
    if not summary.mistakes or summary.evaluation is None:
        return []
    rows = [
        [f"{one.row:,}", one.true, one.predicted, f"{one.probability:.1%}", ", ".join(one.because)]
        for one in summary.mistakes
    ]
    header = ["row, from 1", "class", "predicted", "probability", "largest contributions"]
    if not any(one.because for one in summary.mistakes):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return [
        f"## Most confident mistakes on {summary.evaluation.split}",
        "",
        *markdown_table(header, rows, left=len(header)),
        "",
    ]


def token_table(summary: Summary) -> list[str]:
    """A section with the most telling n-grams of text of each class; empty without text."""
    if not summary.tokens:
        return []
    rows = [[name, ", ".join(tokens)] for name, tokens in summary.tokens.items()]
    return ["## Largest coefficients of text", "", *markdown_table(["class", "n-grams"], rows, left=2), ""]


def _coefficient_lines(summary: Summary) -> list[str]:
    largest = summary.largest_coefficients
    if not largest:
        return []
    per_std = any(row.coef_per_std is not None for row in largest)
    return [
        f"## Largest coefficients {units_in_words(largest)}",
        "",
        *markdown_table(
            ["feature", "class", "per unit", *(["per standard deviation"] if per_std else [])],
            [
                [
                    row.feature,
                    row.class_name,
                    f"{row.coef:.4g}",
                    *(["" if row.coef_per_std is None else f"{row.coef_per_std:.4g}"] if per_std else []),
                ]
                for row in largest
            ],
            left=2,
        ),
        "",
        "coefficients.csv has all coefficients.",
        "",
    ]


def inference_lines(table: CoefficientTable | None) -> list[str]:
    """The section on standard errors, intervals and tests of the coefficients; empty without them."""
    if table is None:
        return []
    lines = ["## Coefficients with standard errors", ""]
    for class_name, rows in by_class(table).items():
        lines += [f"{scale_in_words(table, class_name)}.", "", *markdown_table(*coefficient_cells(table, rows)), ""]
        if table.gives_odds:
            lines += [f"{odds_in_words(table, class_name)}.", "", *markdown_table(*odds_cells(rows)), ""]
    for class_name, effects in effect_cells(table).items():
        lines += [f"{effects_in_words(table, class_name)}.", "", *markdown_table(*effects), ""]
    if table.tests is not None:
        lines += [f"{TESTS_IN_WORDS}.", "", *markdown_table(*test_cells(table)), ""]
    lines += [*(f"- {line}" for line in [*statistics_in_words(table), *table.notes]), ""]
    return lines if table.checks is None else [*lines, *_check_lines(table.checks, table.fit.rows)]


def _check_lines(checks: Checks, rows: float) -> list[str]:
    lines = [f"## {assumption_report.TITLE.capitalize()}", ""]
    if checks.linearity:
        cells = markdown_table(*assumption_report.linearity_cells(checks.linearity), left=2)
        lines += [f"{assumption_report.LINEARITY_IN_WORDS}.", "", *cells, ""]
    cells = markdown_table(*assumption_report.influence_cells(checks.influence), left=2)
    lines += [f"{assumption_report.INFLUENCE_IN_WORDS}.", "", *cells, ""]
    return [*lines, *(f"- {line}" for line in assumption_report.tests_in_words(checks, rows)), ""]
