"""Checks of the assumptions of a fit of two classes: linearity, influence, goodness of fit, overdispersion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from logreg.errors import DataError, name_list
from logreg.facts import Batch, DataFacts
from logreg.inference.added_columns import AddedColumns, ScoreTests, likelihood_ratio
from logreg.inference.design import Design, columns_of, to_source_units
from logreg.inference.diagnostics import BinnedResiduals, ColumnsOfRows, RowDerivatives, RowModel, Survey, SurveyPass
from logreg.inference.goodness_of_fit import hosmer_lemeshow, overdispersion, stukel_columns
from logreg.inference.likelihood import Likelihood, Maximum, with_expected_information
from logreg.inference.results import Checks, Linearity, PlottedRow, ResidualBin, RowInfluence, TermTest
from logreg.inference.splines import choose_knots, quantiles, spline_columns
from logreg.rows import MemoryRows
from logreg.solvers.passes.base import drive, request

MOST_INFLUENTIAL = 10
"""Number of the rows that are named, those with the largest Cook's distance."""

MAX_PLOTTED = 500
"""Number of the rows in a picture: the 50 most influential ones, and others evenly spaced."""

HIGH_LEVERAGE = 3.0
"""Leverage, as a multiple of the mean k / n, from which a row is counted (Belsley, Kuh and Welsch, 1980, take 2)."""

MAX_BINS = 40
"""Largest number of bins of a column; of fewer than 1,600 rows it is the root of their number."""

MAX_BINNED = 12
"""Number of columns with binned residuals, those with the smallest p."""

MIN_REFITS = 3
"""Number of columns, those with the smallest p by the score test, whose likelihood ratio is computed in any case."""

MAX_REFIT_FLOP = 5e9
"""Multiplications, about, that likelihood ratios of further columns may take: a second or two."""

PASSES_OF_REFIT = 3
"""About the passes of one fit, from a step of Fisher scoring."""

STUKEL = "Stukel"
"""Name of that test."""


class SourceRows(NamedTuple):
    """The rows of a fit as their source has them."""

    numbers: Tensor
    """Number of each row in the source, from 0, (N,)."""
    read: Callable[[Tensor], Batch]
    """Reads the rows at some positions among the N, (m,), with an offset apart from the features."""


def check_assumptions(
    facts: DataFacts,
    source: SourceRows,
    likelihood: Likelihood,
    found: Maximum,
    covariance: Tensor,
    mean: Tensor,
    std: Tensor,
    rows: float,
    counts: bool,
    dependent: str = "",
) -> Checks:
    """Looks at the assumptions of a fit of two classes; a pass over the rows, and some for each further fit.

    Args:
        facts: The facts of the data.
        source: The rows as their source has them.
        likelihood: The likelihood.
        found: Its maximum.
        covariance: Covariance of the parameters, (P, P): DFBETAs are in its standard errors.
        mean: Shape (D,), in source units.
        std: Shape (D,), in source units.
        rows: Number of rows, n.
        counts: Whether weights, where there are any, are counts of rows.
        dependent: Why tests, which take rows for independent and each for one row, are left out; empty for none.
    """
    found = with_expected_information(likelihood, found)
    model, design = RowModel(likelihood, found), likelihood.design
    survey = drive(request(SurveyPass(likelihood, found, counts)), likelihood.rows)
    terms = model.terms(survey.logits, survey.labels)
    left_out: dict[str, str] = {}
    to_source = to_source_units(design, mean, std)
    influence, plotted, high = _influence(
        facts, source, likelihood, found, covariance, survey, terms, to_source, rows, counts
    )
    linearity: tuple[Linearity, ...] = ()
    stukel = hosmer = spread = None
    if dependent:
        left_out = dict.fromkeys(("linearity", "Hosmer-Lemeshow", STUKEL, "overdispersion"), dependent)
        return Checks(linearity, influence, high, plotted, hosmer, stukel, spread, left_out)
    if likelihood.rows.is_sparse:
        left_out |= dict.fromkeys(("linearity", STUKEL), "the rows are sparse")
    else:
        linearity, stukel, left_out = _added_columns(likelihood, found, survey, facts, mean, std, rows)
    hosmer = hosmer_lemeshow(terms, survey.weights)
    if hosmer is None:
        left_out["Hosmer-Lemeshow"] = "the rows have fewer than three groups of different probabilities"
    spread, why = overdispersion(terms, survey.pattern, survey.weights, found.parameters.numel())
    if spread is None:
        left_out["overdispersion"] = why
    return Checks(linearity, influence, high, plotted, hosmer, stukel, spread, left_out)


def _influence(
    facts: DataFacts,
    source: SourceRows,
    likelihood: Likelihood,
    found: Maximum,
    covariance: Tensor,
    survey: Survey,
    terms: RowDerivatives,
    to_source: Tensor,
    rows: float,
    counts: bool,
) -> tuple[tuple[RowInfluence, ...], tuple[PlottedRow, ...], int]:
    """The most influential rows, rows for a picture, and the number of rows with a high leverage."""
    design, model, parameters = likelihood.design, RowModel(likelihood, found), found.parameters.numel()
    weights = torch.ones_like(terms.target) if survey.weights is None else survey.weights
    as_one = weights > 0 if counts else weights / weights.mean()  # one row of several, or one row with its weight
    leverage, rest = survey.leverage, (1 - survey.leverage).clamp(min=1e-300)
    pearson = terms.pearson * as_one**0.5
    distance = pearson.square() * leverage / (parameters * rest.square())
    residual = pearson / rest.sqrt()
    is_high = leverage > HIGH_LEVERAGE * parameters / rows
    high = int((weights if counts else torch.ones_like(weights))[is_high].sum())
    order = distance.argsort(descending=True, stable=True)
    most, numbers = order[:MOST_INFLUENTIAL], source.numbers + 1
    columns = drive(request(ColumnsOfRows(likelihood)), MemoryRows(*source.read(most)))
    scores = -(terms.residual * (as_one if counts else weights) / rest)[most].unsqueeze(1) * columns
    changes = (design.sign * model.sign) * scores @ found.covariance @ to_source.T
    errors = (to_source @ covariance @ to_source.T).diagonal().sqrt()
    named = tuple(
        RowInfluence(
            int(numbers[row]),
            facts.class_names[int(survey.labels[row])],
            float(terms.probability[row]),
            float(leverage[row]),
            float(residual[row]),
            float(distance[row]),
            dict(zip(design.names, change, strict=True)),
        )
        for row, change in zip(most.tolist(), (changes / errors).tolist(), strict=True)
    )
    step = len(order) // MAX_PLOTTED + 1
    drawn = {*order[: MAX_PLOTTED // 10].tolist(), *range(0, len(order), step)}
    plotted = tuple(
        PlottedRow(int(numbers[row]), float(leverage[row]), float(residual[row]), float(distance[row]))
        for row in sorted(drawn)
    )
    return named, plotted, high


def _added_columns(
    likelihood: Likelihood,
    found: Maximum,
    survey: Survey,
    facts: DataFacts,
    mean: Tensor,
    std: Tensor,
    rows: float,
) -> tuple[tuple[Linearity, ...], TermTest | None, dict[str, str]]:
    """A spline in place of each numeric column, Stukel's test, and the reasons for what is left out."""
    design, left_out = likelihood.design, dict[str, str]()
    knots, without = _knots(design, facts, survey)
    if without:
        left_out[f"linearity of {name_list(without)}"] = "nearly all rows have the smallest or the largest value"
    added: list[AddedColumns] = [partial(_spline_of, position, of_column) for position, of_column in knots.items()]
    sizes = [len(of_column) - 2 for of_column in knots.values()]
    loss = RowModel(likelihood, found).loss
    if loss.gives_log_odds:
        sides = [side for side, there in enumerate((survey.logits >= 0, survey.logits < 0)) if bool(there.any())]
        added.append(partial(_tails_of, sides))
        sizes.append(len(sides))
    else:
        left_out[STUKEL] = f"it is of a logit link, and this one is {loss.name}"
    if not added:
        return (), None, left_out
    scores = drive(request(ScoreTests(likelihood, found, added, sizes)), likelihood.rows)
    order = sorted(range(len(knots)), key=lambda place: scores[place].test.p)
    size = found.parameters.numel() + max(sizes)
    refits = max(MIN_REFITS, int(MAX_REFIT_FLOP / (PASSES_OF_REFIT * likelihood.problem.rows * size**2)))
    ratios: dict[int, TermTest] = {}
    for place in (*order[:refits], *range(len(knots), len(added))):
        name = design.names[list(knots)[place]] if place < len(knots) else STUKEL
        try:
            ratios[place] = likelihood_ratio(likelihood, found, name, added[place], scores[place])
        except DataError:  # separated by a piece of a spline
            what = f"likelihood ratio of {name}" if place < len(knots) else STUKEL
            left_out[what] = "its columns separate the classes, or are combinations of others"
    checked = [
        Linearity(
            design.names[position],
            tuple(_in_source_units(of_column, mean, std, design.features[position])),
            scores[place].test,
            ratios.get(place),
            (),
        )
        for place, (position, of_column) in enumerate(knots.items())
    ]
    order.sort(key=lambda place: checked[place].p)
    binned = _binned(likelihood, found, survey, [[*knots][place] for place in order[:MAX_BINNED]], mean, std, rows)
    with_bins = (replace(checked[place], bins=bins) for place, bins in zip(order, binned, strict=False))
    return (*with_bins, *(checked[place] for place in order[MAX_BINNED:])), ratios.get(len(knots)), left_out


def _knots(design: Design, facts: DataFacts, survey: Survey) -> tuple[dict[int, Tensor], list[str]]:
    """The knots of each column of numbers by its position, and the names of the columns that have none."""
    knots, without = {}, []
    for position in _numeric_positions(design, facts):
        sample = survey.sample[:, position]
        ends = float(survey.low[position]), float(survey.high[position])
        of_column = choose_knots(sample, survey.sample_weights, *ends)
        if len(of_column) > 2:
            knots[position] = of_column
        elif len(sample.unique()) > 2:
            without.append(design.names[position])
    return knots, without


def _in_source_units(values: Tensor, mean: Tensor, std: Tensor, feature: int) -> list[float]:
    """Standardized values of a feature in source units; what is 0 but for rounding is 0."""
    scaled = mean[feature] + std[feature] * values
    in_units: list[float] = scaled.masked_fill(
        scaled.abs() <= 1e-12 * (mean[feature].abs() + std[feature]), 0.0
    ).tolist()
    return in_units


def _spline_of(position: int, knots: Tensor, columns: Tensor, logits: Tensor) -> Tensor:
    return spline_columns(columns[:, position], knots)


def _tails_of(sides: list[int], columns: Tensor, logits: Tensor) -> Tensor:
    return stukel_columns(logits)[:, sides]


def _numeric_positions(design: Design, facts: DataFacts) -> list[int]:
    """The parameters of columns of numbers."""
    if not facts.columns:
        return list(range(len(design.features)))
    numbers = {first for first, column in columns_of(facts) if column.kind == "number" and not column.constant}
    return [position for position, feature in enumerate(design.features) if feature in numbers]


def _binned(
    likelihood: Likelihood,
    found: Maximum,
    survey: Survey,
    positions: Sequence[int],
    mean: Tensor,
    std: Tensor,
    rows: float,
) -> list[tuple[ResidualBin, ...]]:
    """Binned residuals of some columns, by bins of about as many rows."""
    if not positions:
        return []
    number = max(1, min(MAX_BINS, int(rows**0.5)))
    levels = torch.arange(1, number, dtype=torch.float64) / number
    edges = torch.full((len(positions), number - 1), torch.inf, dtype=torch.float64)
    for ends, position in zip(edges, positions, strict=True):
        found_ends = quantiles(survey.sample[:, position], levels, survey.sample_weights).unique()
        found_ends = found_ends[found_ends < survey.high[position]]
        ends[: len(found_ends)] = found_ends
    sums = drive(request(BinnedResiduals(likelihood, found, list(positions), edges)), likelihood.rows)
    binned = []
    for place, position in enumerate(positions):
        feature = likelihood.design.features[position]
        bins = []
        for count, value, residual, variance in zip(*(part[place].tolist() for part in sums), strict=True):
            if count > 0:
                center = float(mean[feature] + std[feature] * value / count)
                bins.append(ResidualBin(count, center, residual / count, 2 * variance**0.5 / count))
        binned.append(tuple(bins))
    return binned
