"""Intervals of coefficients by the bootstrap: the fit of a checkpoint is made again for samples of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from logreg.data import TensorDataModule
from logreg.facts import DataFacts
from logreg.inference.bootstrap import percentile_limits
from logreg.inference.design import Design
from logreg.inference.likelihood import Likelihood, Maximum
from logreg.inference.results import Coefficient, Effect
from logreg.inference.sample_maxima import maximize_samples
from logreg.solvers.passes.base import drive, request
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.paths.folds import fit_resampled, fit_strengths
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.problem import Coordinates, Problem
from logreg.terminal import show_status
from logreg.training.checkpoint_reading import TrainedModel

FULL_TOLERANCE = 1e-10
"""Relative gap of the estimate from all rows."""

REPLICATE_GAP = 1e-4
"""Gap of the fit to a sample, in nats over all rows: an error of about a hundredth of a standard error."""

STEP_TOLERANCE = 1e-4
"""Length of a Newton step, in standard errors, after which the estimate of a sample is known: to the square of it."""


@dataclass(frozen=True)
class Replicates:
    """The estimates of a bootstrap.

    Attributes:
        estimate: The estimate from all rows, (M, P), in source units.
        values: Those of the samples that have one, (R, M, P).
        without: Number of the samples that have none: their classes are separated, or a column is constant.
        gap: How far the checkpoint is above the optimum, relative to it.
    """

    estimate: Tensor
    values: Tensor
    without: int
    gap: float


def bootstrap_penalized(
    trained: TrainedModel,
    data: TensorDataModule,
    problem: Problem,
    design: Design,
    weights: Iterator[Tensor],
    replicates: int,
) -> Replicates:
    """Fits the objective of a checkpoint, with its penalty, to samples of its rows.

    Args:
        trained: The model.
        data: The rows.
        problem: The problem of the checkpoint, by standardized features; its coordinates do not matter.
        design: The parameters.
        weights: The samples, as `resampled_weights` draws them.
        replicates: Their number.
    """
    facts, rows = data.facts, data.row_source("train")
    mean, std = _penalized_form(trained.facts)
    learned = slice(facts.num_coef)  # not that of an offset
    problem = replace(problem, model=Coordinates(*(part[learned] for part in facts.stored.of_stored(mean, std))))
    mean, std = mean[learned], std[learned]
    coef, intercept = trained.module.model.in_source_units()
    coef = coef[:, learned]
    point = torch.cat([coef * std, (intercept + coef @ mean).unsqueeze(1)], dim=1)
    at = drive(request(Evaluate(problem, problem.model, point)), rows).value
    strength = Strength(problem.objective.l2, problem.objective.l1)
    (full,) = fit_strengths(problem, rows, [strength], FULL_TOLERANCE)
    tolerance = REPLICATE_GAP / problem.total_weight
    values: list[Tensor] = []
    number, of_class = 0, functional.one_hot(data.labels("train"), facts.num_classes).double()
    for some in weights:
        there = (some @ of_class > 0).all(1)  # without a class the intercept, which has no penalty, is infinite
        found = fit_resampled(problem, rows, some[there], full, tolerance)
        values += (_in_source_units(one.point, mean, std, design, facts) for one in found)
        number += len(some)
        show_status(f"bootstrap: {number:,} of {replicates:,} samples ...")
    estimate = _in_source_units(full.point, mean, std, design, facts)
    gap = (at - full.bound.value) / full.bound.value
    return Replicates(estimate, _stacked(values, estimate), number - len(values), gap)


def _stacked(values: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(values) if values else like.new_empty(0, *like.shape)


def _penalized_form(facts: DataFacts) -> tuple[Tensor, Tensor]:
    """Mean and deviation in source units by which a fit has standardized its features; 0 and 1 where it has not."""
    if facts.mean:
        return torch.tensor(facts.mean, dtype=torch.float64), torch.tensor(facts.std, dtype=torch.float64)
    zeros = torch.zeros(facts.num_features, dtype=torch.float64)
    return zeros, torch.ones_like(zeros)


def _in_source_units(point: Tensor, mean: Tensor, std: Tensor, design: Design, facts: DataFacts) -> Tensor:
    coef = point[:, :-1] / std
    intercept = point[:, -1] - coef @ mean
    return design.of_point(torch.cat([coef, intercept.unsqueeze(1)], dim=1), facts)


def bootstrap_likelihood(
    likelihood: Likelihood,
    found: Maximum,
    to_source: Tensor,
    gap: float,
    weights: Iterator[Tensor],
    replicates: int,
) -> Replicates:
    """Maximizes the likelihood of samples of the rows.

    Args:
        likelihood: The likelihood of all rows.
        found: Its maximum.
        to_source: Takes the parameters of a class to source units, (P, P).
        gap: How far the checkpoint is above the optimum, relative to it.
        weights: The samples, as `resampled_weights` draws them.
        replicates: Their number.
    """
    values: list[Tensor] = []
    number = 0
    for some in weights:
        at, has_one = maximize_samples(likelihood, found.parameters, some, STEP_TOLERANCE)
        values += at[has_one] @ to_source.T
        number += len(some)
        show_status(f"bootstrap: {number:,} of {replicates:,} samples ...")
    estimate = found.parameters @ to_source.T
    return Replicates(estimate, _stacked(values, estimate), number - len(values), gap)


def bootstrap_rows(
    replicates: Replicates, design: Design, std: Tensor, confidence: float, has_odds: bool
) -> list[Coefficient]:
    """The rows of the table, with the spread of the replicates as standard error and without z and p.

    Args:
        replicates: The estimates.
        design: The parameters.
        std: Deviation of each feature over the rows, (D,), in source units.
        confidence: Level of the intervals, in (0, 1).
        has_odds: Whether coefficients are log-odds.
    """
    estimate, values = design.sign * replicates.estimate, design.sign * replicates.values
    errors, (low, high) = values.std(0), percentile_limits(values, estimate, confidence)
    rows, size = [], design.shape[1]
    for output, class_name in enumerate(design.classes):
        for position in (size - 1, *range(size - 1)):  # the intercept first
            coef, error, least, most = (float(part[output, position]) for part in (estimate, errors, low, high))
            per_unit, per_std = Effect.of(coef, error, least, most, has_odds=has_odds), None
            if position < size - 1:
                per_std = Effect.of(coef, error, least, most, float(std[design.features[position]]), has_odds)
            rows.append(Coefficient(design.names[position], class_name, None, None, per_unit, per_std))
    return rows
