"""What the data says about the assumptions of a fit, on the terminal and in the report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from logreg.errors import name_list
from logreg.inference.results import Checks, Linearity, RowInfluence
from logreg.reports.cells import MAX_SHOWN, Cells, aligned, number, p_value, short
from logreg.terminal import counted

TITLE = "checks of the assumptions"

SMALL_P = 0.05
"""p up to which a column is named on the terminal."""

MAX_NAMED = 5
"""Largest number of columns, and of rows, on the terminal."""

MANY_ROWS = 25_000
"""Rows from which the test of Hosmer and Lemeshow finds small departures (Paul, Pennell and Lemeshow, 2013)."""

LINEARITY_IN_WORDS = "linearity: a natural cubic spline in place of the column, against the column"

INFLUENCE_IN_WORDS = "rows with the largest Cook's distance; residuals are standardized, DFBETAs in standard errors"


def check_lines(checks: Checks, rows: float) -> list[str]:
    """The lines on the terminal: what stands out.

    Args:
        checks: The checks.
        rows: Number of rows, n.
    """
    table = aligned(*influence_cells(checks.influence[:MAX_NAMED]))
    return [
        *(TITLE, "", *table, ""),
        *_linearity_in_words(checks.linearity),
        *tests_in_words(checks, rows),
        "all columns and rows: json=true, or report=true, with pictures",
    ]


def _linearity_in_words(found: Sequence[Linearity]) -> list[str]:
    if not found:
        return []
    small = [one for one in found if one.p < SMALL_P][:MAX_NAMED]
    named = [f"{short(one.feature)} (p {p_value(one.p)})" for one in small or found[:1]]
    count = counted(len(found), "numeric column")
    if not small:
        return [f"linearity: a spline improves none of {count} at p < {SMALL_P:g}; the smallest is of {named[0]}"]
    return [f"linearity: a spline improves {name_list(named, last=' and ')}, of {count}"]


def tests_in_words(checks: Checks, rows: float) -> list[str]:
    """Sentences on the whole fit, and on what is left out.

    Args:
        checks: The checks.
        rows: Number of rows, n.
    """
    lines = []
    if (test := checks.hosmer_lemeshow) is not None:
        limits = f", {test.groups} groups by probability"
        if test.few:
            limits += f"; {test.few} expect fewer than 5 rows of a class, so p is rough"
        if rows >= MANY_ROWS:
            limits += "; of so many rows it finds departures that are too small to matter"
        lines.append(f"Hosmer-Lemeshow: {_in_numbers(test.chi2, test.degrees, test.p)}{limits}")
    if checks.stukel is not None:
        one = checks.stukel
        lines.append(f"Stukel's test of the logistic curve's tails: {_in_numbers(one.chi2, one.degrees, one.p)}")
    if (spread := checks.overdispersion) is not None:
        lines.append(
            f"overdispersion: Pearson's chi2 / df {number(spread.ratio)} over {spread.patterns:,} covariate patterns, "
            f"p {p_value(spread.p)}"
        )
    if checks.influence:
        lines.append(f"leverage above three times the mean: {counted(checks.high_leverage, 'row')}")
    return [*lines, *(f"{name} left out: {why}" for name, why in checks.left_out.items())]


def _in_numbers(chi2: float, degrees: int, p: float) -> str:
    return f"chi2 {number(chi2)}, df {degrees}, p {p_value(p)}"


def linearity_cells(found: Sequence[Linearity]) -> Cells:
    """Header and cells of the tests of the numeric columns, as many as `MAX_SHOWN`."""
    cells = []
    for one in found[:MAX_SHOWN]:
        test, kind = (one.score, "score") if one.likelihood_ratio is None else (one.likelihood_ratio, "likelihood")
        knots = ", ".join(map(number, one.knots))
        cells.append([short(one.feature), kind, number(test.chi2), str(test.degrees), p_value(test.p), knots])
    return ["", "test", "chi2", "df", "p", "knots"], cells


def influence_cells(found: Sequence[RowInfluence]) -> Cells:
    """Header and cells of the most influential rows."""
    cells = []
    for one in found:
        name, change = max(one.dfbetas.items(), key=lambda item: abs(item[1]))
        numbers = [number(value) for value in (one.probability, one.leverage)]
        influence = [f"{one.residual:.2f}", number(one.cooks_distance), f"{short(name)} {change:+.2f}"]
        cells.append([f"{one.row:,}", short(one.class_name), *numbers, *influence])
    return ["row", "class", "predicted", "leverage", "residual", "Cook's D", "largest DFBETA"], cells
