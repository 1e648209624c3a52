"""Standard errors, intervals and tests for the coefficients of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from logreg.data import TensorDataModule
from logreg.errors import ConfigError, DataError, name_list
from logreg.evaluation.temperature import Calibration
from logreg.facts import Batch, DataFacts, keeping_scale
from logreg.files import shown
from logreg.inference.bootstrap import resampled_weights
from logreg.inference.coefficient_table import coefficient_rows, effect_rows, fit_statistics
from logreg.inference.covariance import ROBUST, cluster_covariance, robust_covariance
from logreg.inference.design import Design, Term, choose_design, to_source_units
from logreg.inference.effects import marginal_effects
from logreg.inference.firth import FirthLikelihood
from logreg.inference.likelihood import Likelihood, LikelihoodEvaluation, Maximum, maximize, with_expected_information
from logreg.inference.prediction import PredictionIntervals
from logreg.inference.profile import drop_term
from logreg.inference.results import LOGIT, Coefficient, CoefficientTable, FitStatistics
from logreg.losses import LOSSES, Loss
from logreg.optimality.certificate import train_problem
from logreg.optimality.separation.explain import explain_separation
from logreg.rows import RowSource, with_offset_apart
from logreg.run.bootstrapping import Replicates, bootstrap_likelihood, bootstrap_penalized, bootstrap_rows
from logreg.run.building import build_data
from logreg.run.checking import SourceRows, check_assumptions
from logreg.run.inference_request import (
    CLUSTER,
    OF_LIKELIHOOD,
    InferenceRequest,
    check_fit,
    check_gap,
    check_options,
    check_rank,
    check_replicates,
    kind_of_weights,
    penalty_as_typed,
    separated,
)
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.base import request as request_pass
from logreg.solvers.passes.moments import ColumnMoments
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.starting_point import first_point
from logreg.terminal import counted, show_status
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.module import DTYPES

FEW_CLUSTERS = 40
"""Number of clusters below which their standard errors are known to be too small (Cameron and Miller, 2015)."""

FIRTH_IN_WORDS = (
    "Firth's penalized likelihood: the gradient is 0 to float64 accuracy, and other maxima are not excluded, since it "
    "is not concave everywhere; log-likelihood and tests are those of the penalized likelihood"
)
"""What is certain of a fit of that kind."""

HIGH_VARIANCE_INFLATION = 10.0
"""Variance inflation factor from which a warning names the column (Kutner, Nachtsheim and Neter, 2004)."""


@dataclass(frozen=True)
class TrainRows:
    """The train rows of a checkpoint, as inference takes them.

    Attributes:
        data: The rows, in float64.
        source: The same, block by block.
        problem: Their objective, by features (x - mean) / std.
        design: The parameters of the model.
        mean, std: Shape (D,) each, in source units.
        weights: Weights of the rows, (N,); ``None`` without.
        kind_of_weights: "frequency" or "sampling"; ``None`` without weights.
        number: Number of rows, n; the sum of their weights where these are counts.
        clusters: Cluster of each row, (N,); ``None`` without.
        covariance: Name of the covariance.
    """

    data: TensorDataModule
    source: RowSource
    problem: Problem
    design: Design
    mean: Tensor
    std: Tensor
    weights: Tensor | None
    kind_of_weights: str | None
    number: float
    clusters: Tensor | None
    covariance: str

    @property
    def counts(self) -> bool:
        """Whether rows count by their weights, or have none."""
        return self.kind_of_weights != "sampling"


@dataclass(frozen=True)
class Estimates:
    """The estimates of a checkpoint, polished to float64 accuracy, with their covariance.

    Attributes:
        rows: The rows.
        likelihood: Their likelihood.
        found: Its maximum.
        covariance: Covariance of the parameters, (M * P, M * P).
    """

    rows: TrainRows
    likelihood: Likelihood
    found: Maximum
    covariance: Tensor


def prediction_intervals(request: InferenceRequest) -> PredictionIntervals:
    """Reads the data, polishes the fit, and prepares intervals of the probabilities that it predicts.

    Raises:
        LogregError: There are none for this fit, or the user can correct the request.
    """
    if request.trained.module.calibration != Calibration():
        raise ConfigError(
            "`interval` must go with probabilities of the fit itself, and those of this run are calibrated. "
            "Train again with calibrate=none."
        )
    rows = read_rows(request)
    of = estimate(request, rows)
    return PredictionIntervals(
        *(rows.design, request.loss, of.found.parameters, of.covariance, rows.mean, rows.std, request.confidence)
    )


def infer(request: InferenceRequest) -> CoefficientTable:
    """Reads the data, polishes the fit to float64 accuracy, and computes the table.

    Raises:
        LogregError: There is no such table for this fit, or the user can correct the request.
    """
    rows = read_rows(request)
    return _by_bootstrap(request, rows) if request.replicates else _by_covariance(request, rows)


def _by_covariance(request: InferenceRequest, rows: TrainRows) -> CoefficientTable:
    of = estimate(request, rows)
    likelihood, found, facts, design = of.likelihood, of.found, rows.data.facts, rows.design
    coefficients, limit_error = coefficient_rows(
        likelihood, found, of.covariance, rows.mean, rows.std, request.confidence, request.profile, show_status
    )
    totals = torch.bincount(rows.data.labels("train"), rows.weights, facts.num_classes).double()
    against_intercept = None
    if request.firth or facts.largest_offset is not None:
        against_intercept = drop_term(likelihood, found, Term("all", tuple(range(design.shape[1] - 1))))
    statistics = fit_statistics(likelihood, found, totals, rows.number, rows.counts, against_intercept)
    if request.firth:
        statistics = statistics.of_penalized_likelihood()
    tests = None
    if request.tests:
        tests = tuple(drop_term(likelihood, found, term) for term in design.terms if term.positions)
    effects = None
    if request.effects != "none":
        of_features = marginal_effects(likelihood, found, rows.mean, rows.std, request.effects == "mean")
        effects = effect_rows(likelihood, of_features, of.covariance, request.confidence)
    checks = None
    if request.checks:
        show_status("checking the assumptions ...")
        dependent = "" if rows.counts else "weights are sampling weights, which have no likelihood"
        dependent = "rows of one cluster are not independent" if rows.clusters is not None else dependent
        source = SourceRows(rows.data.source_row_numbers("train"), partial(_rows_at, rows.data))
        checks = check_assumptions(
            *(facts, source, likelihood, found, of.covariance, rows.mean, rows.std, rows.number, rows.counts, dependent)
        )
    polished = (
        f"polished by {counted(found.steps, 'Newton step')} in float64: no coefficient moved by more than "
        f"{found.moved:.1g} standard errors"
    )
    notes = *_inflation_in_words(statistics.variance_inflation), FIRTH_IN_WORDS if request.firth else polished
    return replace(
        _table(request, rows, "profile" if request.profile else "wald", coefficients, statistics, notes),
        tests=tests,
        limit_error=limit_error,
        effects=effects,
        effects_at=request.effects,
        checks=checks,
    )


def _by_bootstrap(request: InferenceRequest, rows: TrainRows) -> CoefficientTable:
    """The table of a bootstrap: estimates, their spread and intervals.

    Raises:
        DataError: The checkpoint is not at its optimum, or too few samples have an estimate.
    """
    facts, design, loss, objective = rows.data.facts, rows.design, request.loss, request.trained.module.objective
    weights = torch.ones(facts.rows["train"], dtype=torch.float64) if rows.weights is None else rows.weights
    samples = resampled_weights(weights, request.replicates, request.seed, rows.counts, rows.clusters)
    if objective.has_penalty:
        found = bootstrap_penalized(request.trained, rows.data, rows.problem, design, samples, request.replicates)
        check_gap(request, found.gap)
    else:
        likelihood, maximum, gap = _maximum_of(request, rows)
        to_source = to_source_units(design, rows.mean, rows.std)
        found = bootstrap_likelihood(likelihood, maximum, to_source, gap, samples, request.replicates)
    check_replicates(request, len(found.values))
    coefficients = bootstrap_rows(found, design, rows.std, request.confidence, loss.gives_log_odds)
    statistics = FitStatistics(rows.number, design.shape[0] * design.shape[1])
    return _table(request, rows, "bootstrap", coefficients, statistics, _bootstrap_in_words(request, found, rows))


def _table(
    request: InferenceRequest,
    rows: TrainRows,
    interval: str,
    coefficients: Sequence[Coefficient],
    fit: FitStatistics,
    notes: Sequence[str],
) -> CoefficientTable:
    """The table, without what is asked for besides; ``notes`` follow those on the rows and the link."""
    facts, design = rows.data.facts, rows.design
    return CoefficientTable(
        checkpoint=shown(request.checkpoint),
        data=facts.title,
        classes=facts.class_names,
        reference_class=design.reference_class,
        references=design.references,
        confidence=request.confidence,
        covariance=rows.covariance,
        firth=request.firth,
        interval=interval,
        weights=rows.kind_of_weights,
        coefficients=tuple(coefficients),
        fit=fit,
        notes=(
            *_weights_in_words(rows.kind_of_weights, rows.number, rows.weights, request.weights == "auto"),
            *_clusters_in_words(rows.clusters, rows.covariance),
            *_link_in_words(request.loss, design),
            *notes,
        ),
        link=LOGIT if request.loss.gives_log_odds else _link_of(request.loss, design).name,
    )


# Parts


def read_rows(request: InferenceRequest) -> TrainRows:
    """Checks the request, and reads the rows of the run.

    Raises:
        LogregError: There is no answer for this fit, or the user can correct the request.
    """
    trained, loss = request.trained, request.loss
    outputs = loss.num_outputs(trained.facts.num_classes)
    design = choose_design(trained.facts, outputs, request.reference, request.reference_class)
    check_fit(request, design)
    check_options(request, design)

    show_status(f"reading {request.config.dataset['name']} ...")
    data = data_in_float64(request)
    facts, weights = data.facts, data.sample_weight("train")
    kind = kind_of_weights(request, weights)
    counts = kind != "sampling"
    usual = "HC0" if not counts else "hessian" if loss.gives_log_odds else "expected"
    covariance = request.covariance or ("bootstrap" if request.replicates else usual)
    if not counts and covariance in OF_LIKELIHOOD:
        raise ConfigError(
            f"`covariance={covariance}` takes weights as counts of rows, and these are sampling weights. "
            "Set covariance=HC0, or weights=frequency where they are counts."
        )
    number = float(facts.rows["train"] if weights is None else weights.sum() if counts else (weights > 0).sum())
    clusters = clusters_of(data, covariance.removeprefix(CLUSTER)) if covariance.startswith(CLUSTER) else None

    show_status("summing the information over the rows ...")
    problem = train_problem(trained.module.objective, facts, outputs, torch.float64, torch.device("cpu"))
    source = data.row_source("train")
    problem = replace(problem, model=_standardization(problem, facts, source))
    shift, unit = facts.stored.shift[: facts.num_coef], facts.stored.unit[: facts.num_coef]
    mean, std = shift + unit * problem.model.center, unit * problem.model.scale
    return TrainRows(data, source, problem, design, mean, std, weights, kind, number, clusters, covariance)


def estimate(request: InferenceRequest, rows: TrainRows) -> Estimates:
    """Polishes the fit to float64 accuracy, and computes the covariance of its estimates.

    Raises:
        LogregError: There is none for this fit.
    """
    likelihood, found, _ = _maximum_of(request, rows)
    if rows.covariance != "hessian":
        found = with_expected_information(likelihood, found)
    if rows.clusters is not None:
        matrix = cluster_covariance(likelihood, found, rows.clusters, rows.number)
    elif rows.covariance in ROBUST:
        matrix = robust_covariance(likelihood, found, rows.covariance, rows.number, rows.counts)
    else:
        matrix = found.covariance
    return Estimates(rows, likelihood, found, matrix)


def _maximum_of(request: InferenceRequest, rows: TrainRows) -> tuple[Likelihood, Maximum, float]:
    """The likelihood, its maximum, and how far the checkpoint is below that, relative to it; 0 with Firth's penalty.

    Raises:
        DataError: The columns are dependent, there is no maximum, or the checkpoint is not near it.
    """
    facts, design = rows.data.facts, rows.design
    arguments = rows.problem, rows.source, design, facts.num_classes
    likelihood = Likelihood(*arguments)
    if request.firth:
        point = torch.zeros(design.shape, dtype=torch.float64)
        if facts.largest_offset is not None:
            point[:, -1:] = drive(first_point(rows.problem), rows.source)[:, -1:]
    else:
        point = _start(request.trained, design, facts, rows.mean, rows.std)
    start = likelihood.evaluate(point)
    check_rank(design, start, facts)
    if request.firth:
        firth = FirthLikelihood(*arguments, to_source_units(design, rows.mean, rows.std))
        return firth, _maximum(request, rows.data, firth, firth.evaluate(point)), 0.0
    found = _maximum(request, rows.data, likelihood, start)
    gap = (start.value - found.value) / found.value if found.value else 0.0
    check_gap(request, gap)
    return likelihood, found, gap


def data_in_float64(request: InferenceRequest) -> TensorDataModule:
    """The rows of the run, in float64 whatever its precision, with mean and deviation of each feature.

    Raises:
        DataError: The data has changed since.
    """
    config, theirs = request.config, request.trained.facts
    dataset = {**config.dataset, "standardize": True}
    optimizer = {"name": "newton"}
    data = build_data(replace(config, dataset=dataset, precision="64", optimizer=optimizer))
    facts = data.facts
    same = (facts.num_features, facts.feature_names, facts.class_names) == (
        *(theirs.num_features, theirs.feature_names),
        theirs.class_names,
    )
    if not same or data.fingerprint_in(DTYPES[config.precision]) != theirs.fingerprint:
        raise DataError(
            f"`ckpt_path` must be of the rows of {facts.title} as they are now, and the data has changed since: their "
            "checksum is another one. Train again."
        )
    return data


def _rows_at(data: TensorDataModule, positions: Tensor) -> Batch:
    """The train rows at some positions, (m,), with an offset apart from the features."""
    found = data.rows("train", positions)
    return found if data.facts.largest_offset is None else with_offset_apart(found)


def clusters_of(data: TensorDataModule, column: str) -> Tensor:
    """Cluster of each train row, (N,), from 0, of the clusters that train has.

    Raises:
        ConfigError: There is one cluster alone, or each class is one.
    """
    codes = data.codes("train", column, "covariance")
    clusters: Tensor = codes.unique(return_inverse=True)[1]
    if len(clusters) == 0 or int(clusters.max()) == 0:
        raise ConfigError(
            f"`covariance={CLUSTER}{column}` must name a column with several clusters, and all rows of train have one "
            "value there. Name another column, or set covariance=HC1."
        )
    labels = data.labels("train")
    values = [len(codes.unique()) for codes in (labels, clusters, labels * (clusters.max() + 1) + clusters)]
    if len(set(values)) == 1:
        raise ConfigError(
            f"`covariance={CLUSTER}{column}` must name a column by which rows depend on each other, and {column!r} has "
            "the classes. Name another column, or set covariance=HC1."
        )
    return clusters


def _maximum(
    request: InferenceRequest, data: TensorDataModule, likelihood: Likelihood, start: LikelihoodEvaluation
) -> Maximum:
    """The maximum of the likelihood.

    Raises:
        DataError: There is none; names the separation where it is one.
    """
    try:
        return maximize(likelihood, start)
    except DataError:
        if request.firth:
            raise DataError(
                "`firth=true` must find the maximum of Firth's penalized likelihood, and "
                f"{likelihood.max_steps} steps do not reach it: there are few rows for the number of parameters. "
                "Take more rows, or leave columns out, and train again."
            ) from None
        objective = request.trained.module.objective
        separation = explain_separation(
            data.feature_reader("train"),
            data.labels("train"),
            objective,
            data.facts,
            sample_weight=data.sample_weight("train"),
        )
        if separation:
            raise separated(separation, request) from None
        raise


def _standardization(problem: Problem, facts: DataFacts, rows: RowSource) -> Coordinates:
    """Mean and deviation of all features as they are stored, also of those that a fit does not standardize."""
    if not any(column.keeps_scale for column in facts.columns):
        return problem.model
    kept = keeping_scale(facts.columns)[: facts.num_coef]
    measured = drive(request_pass(ColumnMoments(problem)), rows)
    return Coordinates(*(torch.where(kept, *pair) for pair in zip(measured, problem.model, strict=True)))


def _start(trained: TrainedModel, design: Design, facts: DataFacts, mean: Tensor, std: Tensor) -> Tensor:
    """The checkpoint's parameters (M, P) by standardized features."""
    coef, intercept = trained.module.model.in_source_units()
    coef = coef[:, : facts.num_coef]
    parameters = design.of_point(torch.cat([coef, intercept.unsqueeze(1)], dim=1), facts)
    standardized: Tensor = torch.linalg.solve(to_source_units(design, mean, std), parameters.T)
    return standardized.T


def _link_of(loss: Loss, design: Design) -> Loss:
    """The loss of the classes in the order of the design."""
    return loss if design.sign > 0 else LOSSES[loss.mirror]


def _link_in_words(loss: Loss, design: Design) -> list[str]:
    ratio = _link_of(loss, design).ratio_in_words
    lines = [f"{ratio} (Prentice and Gloeckler, 1978)"] if ratio else []
    if not loss.is_convex:
        lines.append(
            f"the likelihood of the {loss.name} link is not concave: the estimates are a stationary point, and other "
            "maxima are not excluded"
        )
    return lines


def _bootstrap_in_words(request: InferenceRequest, found: Replicates, rows: TrainRows) -> list[str]:
    objective = request.trained.module.objective
    of_what = "rows" if rows.clusters is None else "clusters"
    how = f"bootstrap: {request.replicates:,} samples of the {of_what}, seed {request.seed}"
    if objective.has_penalty:
        how += (
            f", each fitted with {penalty_as_typed(objective)}; the intervals are those of the penalized estimates, "
            "whose bias they do not show"
        )
    without = (
        f"{found.without:,} of {request.replicates:,} samples have no finite estimate, since their classes are "
        "separated or a column is constant there; they are left out, so the intervals are too short (a fit with a "
        "penalty has finite ones)"
    )
    return [how, *([without] if found.without else [])]


def _weights_in_words(kind: str | None, rows: float, weights: Tensor | None, chosen: bool) -> list[str]:
    if kind is None or weights is None:
        return []
    if kind == "frequency":
        why = ", since all are whole numbers (weights=sampling takes them otherwise)" if chosen else ""
        return [f"weights are frequencies: {len(weights):,} rows count as {rows:,.0f}{why}"]
    why = ", since not all are whole numbers" if chosen else ""
    return [
        f"weights are sampling weights{why}: standard errors are robust, and there is no likelihood, so no AIC, BIC, "
        "R^2 of McFadden or likelihood-ratio test"
    ]


def _clusters_in_words(clusters: Tensor | None, covariance: str) -> list[str]:
    if clusters is None:
        return []
    groups = int(clusters.max()) + 1
    line = f"standard errors by {counted(groups, 'cluster')} of {covariance.removeprefix(CLUSTER)}"
    few = f": fewer than {FEW_CLUSTERS}, so they are too small, more so the fewer" if groups < FEW_CLUSTERS else ""
    return [line + few]


def _inflation_in_words(factors: Mapping[str, float]) -> list[str]:
    high = [f"{name} ({factor:.3g})" for name, factor in factors.items() if factor > HIGH_VARIANCE_INFLATION]
    if not high:
        return []
    return [
        f"variance inflation above {HIGH_VARIANCE_INFLATION:g}: {name_list(high)}; other columns nearly determine "
        "them, so their coefficients are known poorly"
    ]
