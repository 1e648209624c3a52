"""The table of coefficients with their standard errors, on the terminal and in the report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from logreg.errors import name_list
from logreg.inference.results import INTERCEPT, Coefficient, CoefficientTable
from logreg.reports.assumption_report import check_lines
from logreg.reports.cells import MAX_SHOWN, Cells, aligned, number, p_value, short
from logreg.terminal import counted, on_one_line

TESTS_IN_WORDS = "likelihood-ratio test of each column"

MAX_REFERENCES = 10
"""Largest number of reference levels in a sentence."""

INTERVAL_IN_WORDS = {"wald": "Wald", "profile": "profile likelihood", "bootstrap": "bias-corrected percentiles"}

COVARIANCE_IN_WORDS = {
    "bootstrap": "of the bootstrap",
    "hessian": "of maximum likelihood",
    "expected": "of the expected information",
    "cluster": "by clusters",
}


def print_coefficients(table: CoefficientTable, console: Console) -> None:
    """Prints the table, the odds ratios, the tests, and the statistics of the fit."""
    for line in coefficient_lines(table):
        # in a terminal sentences are wrapped between words; in a pipe, and in a table, a line stays one
        is_row = "  " in line or not console.is_terminal
        console.print(line, markup=False, highlight=False, soft_wrap=is_row)


def coefficient_lines(table: CoefficientTable) -> list[str]:
    """The lines that the terminal shows; all but the last sentences fit into 100 columns."""
    lines = [f"{table.checkpoint} on {table.data}", ""]
    for class_name, rows in by_class(table).items():
        lines += [scale_in_words(table, class_name), "", *aligned(*coefficient_cells(table, rows)), ""]
        if table.gives_odds:
            lines += [odds_in_words(table, class_name), "", *aligned(*odds_cells(rows)), ""]
    for class_name, cells in effect_cells(table).items():
        lines += [effects_in_words(table, class_name), "", *aligned(*cells), ""]
    if table.tests is not None:
        lines += [TESTS_IN_WORDS, "", *aligned(*test_cells(table)), ""]
    lines += [*statistics_in_words(table), *table.notes]
    if table.checks is not None:
        lines += ["", *check_lines(table.checks, table.fit.rows)]
    return [on_one_line(line) for line in lines]


def by_class(table: CoefficientTable) -> dict[str, list[Coefficient]]:
    """The rows that are shown of each class."""
    names = dict.fromkeys(row.class_name for row in table.coefficients)
    return {name: shown_rows([row for row in table.coefficients if row.class_name == name]) for name in names}


def scale_in_words(table: CoefficientTable, class_name: str) -> str:
    """What the coefficients of a class are, and their standard errors."""
    scale = "log-odds" if table.gives_odds else f"{table.link} link of the probability"
    return f"{scale} of {class_name!r} against {table.reference_class!r}; standard errors {covariance_in_words(table)}"


def odds_in_words(table: CoefficientTable, class_name: str) -> str:
    """What the odds ratios of a class are."""
    return f"odds ratios of {class_name!r} against {table.reference_class!r}"


def shown_rows(rows: Sequence[Coefficient]) -> list[Coefficient]:
    """The rows of one class that are shown, those with the largest z, and the intercept."""
    if len(rows) <= MAX_SHOWN:
        return list(rows)
    least = sorted((row.distance for row in rows), reverse=True)[MAX_SHOWN - 1]
    return [row for row in rows if row.distance >= least or row.feature == INTERCEPT]


def covariance_in_words(table: CoefficientTable) -> str:
    """How the standard errors were computed."""
    if table.firth:
        return "of Firth's penalized likelihood"
    kind = table.covariance.partition(":")[0]
    return COVARIANCE_IN_WORDS.get(kind, f"robust ({table.covariance})")


def coefficient_cells(table: CoefficientTable, rows: Sequence[Coefficient]) -> Cells:
    """Header and cells of the table of one class."""
    level = f"{table.confidence:.6g}".removeprefix("0")
    tested = ["z", "p"] if any(row.z is not None for row in rows) else []
    header = ["", "coef", "std error", *tested, f"low {level}", f"high {level}"]
    cells = []
    for row in rows:
        one = row.per_unit
        numbers = [number(one.coef), number(one.std_error)]
        if row.z is not None and row.p is not None:
            numbers += [f"{row.z:.2f}", p_value(row.p)]
        cells.append([short(row.feature), *numbers, number(one.low), number(one.high)])
    return header, cells


def odds_cells(rows: Sequence[Coefficient]) -> Cells:
    """Header and cells of the odds ratios of one class, per unit and per standard deviation."""
    header = ["", "per unit", "low", "high", "per std", "low", "high"]
    cells = []
    for row in rows:
        if row.per_std is not None:
            ratios = [
                "inf" if ratio is None else number(ratio)
                for effect in (row.per_unit, row.per_std)
                for ratio in (effect.odds_ratio, effect.odds_ratio_low, effect.odds_ratio_high)
            ]
            cells.append([short(row.feature), *ratios])
    return header, cells


def effects_in_words(table: CoefficientTable, class_name: str) -> str:
    """What the marginal effects on the probability of a class are."""
    at = "average over the rows" if table.effects_at == "average" else "at the mean of the features"
    return f"marginal effects on the probability of {class_name!r}, {at}; (d) is a difference"


def effect_cells(table: CoefficientTable) -> dict[str, Cells]:
    """Header and cells of the marginal effects on each class, as many as `MAX_SHOWN`."""
    tables: dict[str, Cells] = {}
    level = f"{table.confidence:.6g}".removeprefix("0")
    for one in table.effects or ():
        header = ["", "effect", "std error", "z", "p", f"low {level}", f"high {level}"]
        cells = tables.setdefault(one.class_name, (header, []))[1]
        name = short(one.feature) + (" (d)" if one.discrete else "")
        numbers = [number(one.effect), number(one.std_error), f"{one.z:.2f}", p_value(one.p)]
        if len(cells) < MAX_SHOWN:
            cells.append([name, *numbers, number(one.low), number(one.high)])
    return tables


def test_cells(table: CoefficientTable) -> Cells:
    """Header and cells of the likelihood-ratio tests."""
    cells = [[short(one.term), number(one.chi2), str(one.degrees), p_value(one.p)] for one in table.tests or ()]
    return ["", "chi2", "df", "p"], cells


def statistics_in_words(table: CoefficientTable) -> list[str]:
    """Sentences on the whole fit."""
    fit = table.fit
    lines = [f"{counted(fit.rows, 'row')}, {counted(fit.parameters, 'parameter')}"]
    if fit.log_likelihood is not None and fit.likelihood_ratio is not None:
        test = fit.likelihood_ratio
        criteria = "" if fit.aic is None else f", AIC {fit.aic:.8g}, BIC {fit.bic:.8g}"
        lines.append(
            f"log-likelihood {fit.log_likelihood:.8g} (intercept alone {fit.null_log_likelihood:.8g}){criteria}"
        )
        lines.append(
            f"likelihood-ratio test against the intercept alone: chi2 {test.chi2:.6g}, df {test.degrees}, "
            f"p {p_value(test.p)}"
        )
    determination = [("McFadden", fit.mcfadden_r2), ("Tjur", fit.tjur_r2)]
    if any(value is not None for _, value in determination):
        lines.append("R^2: " + ", ".join(f"{name} {value:.4g}" for name, value in determination if value is not None))
    if fit.variance_inflation and fit.condition_number is not None:
        name, most = max(fit.variance_inflation.items(), key=lambda item: item[1])
        lines.append(
            f"condition number {fit.condition_number:.3g}, variance inflation at most {most:.3g} ({on_one_line(name)})"
        )
    if table.references:
        levels = name_list((f"{name}={level}" for name, level in table.references.items()), MAX_REFERENCES)
        lines.append(f"reference levels: {levels}")
    lines.append(f"intervals of {100 * table.confidence:.6g} %: {INTERVAL_IN_WORDS[table.interval]}")
    return lines
