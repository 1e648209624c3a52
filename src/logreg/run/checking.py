"""Checks of the assumptions of a fit of two classes: linearity, influence, goodness of fit, overdispersion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from logreg.data import TensorDataModule
from logreg.errors import DataError, name_list
from logreg.facts import DataFacts
from logreg.inference.added_columns import AddedColumns, ScoreTests, likelihood_ratio
from logreg.inference.design import Design, columns_of, to_source_units
from logreg.inference.diagnostics import BinnedResiduals, ColumnsOfRows, RowModel, RowTerms, Survey, SurveyPass
from logreg.inference.goodness_of_fit import hosmer_lemeshow, overdispersion, stukel_columns
from logreg.inference.likelihood import Likelihood, Maximum, with_expected_information
from logreg.inference.results import Checks, Linearity, PlottedRow, ResidualBin, RowInfluence, Score, TermTest
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

MAX_REFIT_FLOP = 2e10
"""Multiplications, about, that likelihood ratios of further columns may take: some seconds."""

PASSES_OF_REFIT = 4
"""About the passes of one fit, from the maximum without the further columns."""


def check_assumptions(
    data: TensorDataModule,
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
        data: The rows.
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
    influence, plotted, high = _influence(data, likelihood, found, covariance, survey, terms, to_source, rows, counts)
    linearity: tuple[Linearity, ...] = ()
    stukel = hosmer = spread = None
    if dependent:
        left_out = dict.fromkeys(("linearity", "Hosmer-Lemeshow", "Stukel", "overdispersion"), dependent)
        return Checks(linearity, influence, high, plotted, hosmer, stukel, spread, left_out)
    if likelihood.rows.is_sparse:
        left_out |= dict.fromkeys(("linearity", "Stukel"), "the rows are sparse")
    else:
        linearity, left_out = _linearity(likelihood, found, survey, data.facts, mean, std, rows)
        stukel, why = _stukel(likelihood, found, survey)
        left_out |= {"Stukel": why} if why else {}
    hosmer = hosmer_lemeshow(terms, survey.weights)
    if hosmer is None:
        left_out["Hosmer-Lemeshow"] = "the rows have fewer than three groups of different probabilities"
    spread, repeated = overdispersion(terms, survey.pattern, survey.weights, found.parameters.numel())
    if spread is None:
        left_out["overdispersion"] = (
            f"it is of covariate patterns that repeat, and these have {repeated:.3g} rows on average"
        )
    return Checks(linearity, influence, high, plotted, hosmer, stukel, spread, left_out)


def _influence(
    data: TensorDataModule,
    likelihood: Likelihood,
    found: Maximum,
    covariance: Tensor,
    survey: Survey,
    terms: RowTerms,
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
    most, numbers = order[:MOST_INFLUENTIAL], data.source_row_numbers("train") + 1
    few = MemoryRows(*data.rows("train", most))
    columns = drive(request(ColumnsOfRows(likelihood)), few)
    scores = -(terms.residual * (as_one if counts else weights) / rest)[most].unsqueeze(1) * columns
    changes = (design.sign * model.sign) * scores @ found.covariance @ to_source.T
    errors = (to_source @ covariance @ to_source.T).diagonal().sqrt()
    named = tuple(
        RowInfluence(
            int(numbers[row]),
            data.facts.class_names[int(survey.labels[row])],
            *(float(of_rows[row]) for of_rows in (terms.probability, leverage, residual, distance)),
            dict(zip(design.names, change, strict=True)),
        )
        for row, change in zip(most.tolist(), (changes / errors).tolist(), strict=True)
    )
    step = len(order) // MAX_PLOTTED + 1
    drawn = {*order[: MAX_PLOTTED // 10].tolist(), *range(0, len(order), step)}
    plotted = tuple(
        PlottedRow(int(numbers[row]), *(float(of_rows[row]) for of_rows in (leverage, residual, distance)))
        for row in sorted(drawn)
    )
    return named, plotted, high


def _linearity(
    likelihood: Likelihood,
    found: Maximum,
    survey: Survey,
    facts: DataFacts,
    mean: Tensor,
    std: Tensor,
    rows: float,
) -> tuple[tuple[Linearity, ...], dict[str, str]]:
    """A spline in place of each numeric column, and the reason where one has none."""
    design = likelihood.design
    knots, without = {}, []
    for position in _numeric_positions(design, facts):
        sample = survey.sample[:, position]
        ends = float(survey.low[position]), float(survey.high[position])
        of_column = choose_knots(sample, survey.sample_weights, *ends)
        if len(of_column) > 2:
            knots[position] = of_column
        elif len(sample.unique()) > 2:
            without.append(design.names[position])
    left_out = {}
    if without:
        left_out[f"linearity of {name_list(without)}"] = "nearly all rows have the smallest or the largest value"
    if not knots:
        return (), left_out
    added: list[AddedColumns] = [partial(_spline_of, position, of_column) for position, of_column in knots.items()]
    sizes = [len(of_column) - 2 for of_column in knots.values()]
    scores = drive(request(ScoreTests(likelihood, found, added, sizes)), likelihood.rows)
    order = sorted(range(len(sizes)), key=lambda place: scores[place].p)
    size = found.parameters.numel() + max(sizes)
    refits = max(MIN_REFITS, int(MAX_REFIT_FLOP / (PASSES_OF_REFIT * likelihood.problem.rows * size**2)))
    ratios: dict[int, TermTest] = {}
    positions = list(knots)
    for place in order[:refits]:
        name = design.names[positions[place]]
        try:
            ratios[place] = likelihood_ratio(likelihood, found, name, added[place], sizes[place])
        except DataError:  # separated by a piece of the spline
            left_out[f"likelihood ratio of {name}"] = "its spline separates the classes; p is that of the score test"
    order.sort(key=lambda place: _p_of(scores[place], ratios.get(place)))
    binned = _binned(likelihood, found, survey, [positions[place] for place in order[:MAX_BINNED]], mean, std, rows)
    checked = []
    for number, place in enumerate(order):
        position = positions[place]
        feature = design.features[position]
        in_source_units = mean[feature] + std[feature] * knots[position]
        is_zero = in_source_units.abs() <= 1e-12 * (mean[feature].abs() + std[feature])  # but for rounding
        checked.append(
            Linearity(
                design.names[position],
                tuple(in_source_units.masked_fill(is_zero, 0.0).tolist()),
                scores[place],
                ratios.get(place),
                binned[number] if number < len(binned) else (),
            )
        )
    return tuple(checked), left_out


def _p_of(score: Score, ratio: TermTest | None) -> float:
    return score.p if ratio is None else ratio.p


def _spline_of(position: int, knots: Tensor, columns: Tensor) -> Tensor:
    return spline_columns(columns[:, position], knots)


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


def _stukel(likelihood: Likelihood, found: Maximum, survey: Survey) -> tuple[TermTest | None, str]:
    """Stukel's test, or the reason why there is none."""
    model = RowModel(likelihood, found)
    if not model.loss.gives_log_odds:
        return None, f"it is of a logit link, and this one is {model.loss.name}"
    sides = [side for side, there in enumerate((survey.logits >= 0, survey.logits < 0)) if bool(there.any())]

    def added(columns: Tensor) -> Tensor:
        return stukel_columns(model.linear_predictor(columns))[:, sides]

    try:
        return likelihood_ratio(likelihood, found, "Stukel", added, len(sides)), ""
    except DataError:
        return None, "its columns separate the classes, or are combinations of the others"
