"""Standard errors, intervals and tests for the coefficients of a checkpoint, or the reason why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from logreg.config import EXACT, RunConfig
from logreg.data import TensorDataModule
from logreg.errors import ConfigError, DataError, as_typed, name_list
from logreg.facts import DataFacts
from logreg.files import shown
from logreg.inference.bootstrap import resampled_weights
from logreg.inference.coefficient_table import coefficient_rows, effect_rows, fit_statistics
from logreg.inference.collinearity import linear_combinations
from logreg.inference.covariance import ROBUST, cluster_covariance, robust_covariance
from logreg.inference.design import Design, Term, choose_design, to_source_units
from logreg.inference.effects import marginal_effects
from logreg.inference.firth import FirthLikelihood
from logreg.inference.likelihood import Evaluation, Likelihood, Maximum, maximize, with_expected_information
from logreg.inference.profile import drop_term
from logreg.inference.results import INTERCEPT, LOGIT, CoefficientTable, FitStatistics
from logreg.losses import LOSSES, Loss
from logreg.losses.objective import Objective
from logreg.optimality.certificate import is_penalized, problem_of
from logreg.optimality.separation.explain import explain_separation
from logreg.rows import RowSource
from logreg.run.bootstrapping import Replicates, bootstrap_likelihood, bootstrap_penalized, bootstrap_rows
from logreg.run.building import build_data
from logreg.run.checking import SourceRows, check_assumptions
from logreg.solvers.passes.base import drive
from logreg.solvers.passes.base import request as request_pass
from logreg.solvers.passes.moments import ColumnMoments
from logreg.solvers.problem import Coordinates, Problem
from logreg.terminal import show_status
from logreg.training.checkpoint_reading import TrainedModel
from logreg.training.module import DTYPES

CLUSTER = "cluster:"
"""Start of a covariance by clusters, before the name of the column."""

FEW_CLUSTERS = 40
"""Number of clusters below which their standard errors are known to be too small (Cameron and Miller, 2015)."""

FIRTH_IN_WORDS = (
    "Firth's penalized likelihood: the gradient is 0 to float64 accuracy, and other maxima are not excluded, since it "
    "is not concave everywhere; log-likelihood and tests are those of the penalized likelihood"
)
"""What is certain of a fit of that kind."""

OF_LIKELIHOOD = ("hessian", "expected")
"""Covariances that take the model for true."""

HIGH_VARIANCE_INFLATION = 10.0
"""Variance inflation factor from which a warning names the column (Kutner, Nachtsheim and Neter, 2004)."""

MAX_PARAMETERS = 10_000
"""Largest number of parameters: their information matrix then takes 0.8 GB."""


@dataclass(frozen=True)
class InferenceRequest:
    """What is asked of a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        config: The config of its run, with the keys that were typed.
        trained: The model.
        confidence: Level of the intervals, in (0, 1).
        covariance: One of `OF_LIKELIHOOD` or `ROBUST`, or "cluster:COLUMN"; ``None`` for the one that suits the link
            and the weights.
        profile: Whether limits are those of the profile likelihood.
        tests: Whether each term is tested by a likelihood ratio.
        reference: Reference level by the name of a categorical column.
        reference_class: The class that the others are compared with; empty for the first.
        weights: "auto", "frequency" or "sampling".
        effects: "none", "average" or "mean": marginal effects on the probabilities.
        firth: Whether Firth's penalized likelihood is maximized; of the checkpoint only the data and the loss count.
        checks: Whether the assumptions are looked at.
        replicates: Number of bootstrap samples that intervals are from; 0 for none.
        seed: Seed of the samples.
    """

    checkpoint: Path
    config: RunConfig
    trained: TrainedModel
    confidence: float = 0.95
    covariance: str | None = None
    profile: bool = False
    tests: bool = False
    reference: Mapping[str, object] = field(default_factory=dict)
    reference_class: str = ""
    weights: str = "auto"
    effects: str = "none"
    firth: bool = False
    checks: bool = False
    replicates: int = 0
    seed: int = 0


def infer(request: InferenceRequest) -> CoefficientTable:
    """Reads the data, polishes the fit to float64 accuracy, and computes the table.

    Raises:
        LogregError: There is no such table for this fit, or the user can correct the request.
    """
    trained, config = request.trained, request.config
    loss = trained.module.objective.row_loss
    outputs = loss.num_outputs(trained.facts.num_classes)
    design = choose_design(trained.facts, outputs, request.reference, request.reference_class)
    check_fit(trained, design, request.firth, request.replicates > 0)
    check_options(request, design)

    show_status(f"reading {config.dataset['name']} ...")
    data = data_in_float64(request)
    facts = data.facts
    weights = data.sample_weight("train")
    kind = kind_of_weights(request, weights)
    counts = kind != "sampling"
    covariance = request.covariance or ("HC0" if not counts else "hessian" if loss.gives_log_odds else "expected")
    if request.replicates:
        covariance = request.covariance or "bootstrap"
    if not counts and covariance in OF_LIKELIHOOD:
        raise ConfigError(
            f"`covariance={covariance}` takes weights as counts of rows, and these are sampling weights. "
            "Set covariance=HC0, or weights=frequency where they are counts."
        )
    rows = float(facts.rows["train"] if weights is None else weights.sum() if counts else (weights > 0).sum())
    clusters = clusters_of(data, covariance.removeprefix(CLUSTER)) if covariance.startswith(CLUSTER) else None

    show_status("summing the information over the rows ...")
    problem = problem_of(trained.module.objective, facts, outputs, torch.float64, torch.device("cpu"))
    row_source = data.row_source("train")
    problem = replace(problem, model=_standardization(problem, facts, row_source))
    stored = facts.stored
    mean, std = stored.shift + stored.unit * problem.model.center, stored.unit * problem.model.scale
    samples = resampled_weights(
        torch.ones(facts.rows["train"], dtype=torch.float64) if weights is None else weights,
        request.replicates,
        request.seed,
        counts,
        clusters,
    )
    notes = (
        *_weights_in_words(kind, rows, weights, request.weights == "auto"),
        *_clusters_in_words(clusters, covariance),
    )
    if request.replicates and is_penalized(trained.module.objective):
        estimates = bootstrap_penalized(trained, data, problem, design, samples, request.replicates)
        return _of_bootstrap(request, facts, design, estimates, std, rows, kind, covariance, notes)
    point = torch.zeros(design.shape, dtype=torch.float64)
    point = point if request.firth else _start(trained, design, facts, mean, std)
    arguments = problem, row_source, design, facts.num_classes
    plain = Likelihood(*arguments)
    start = plain.evaluate(point)
    check_rank(design, start, facts)
    likelihood = plain
    if request.firth:
        likelihood = FirthLikelihood(*arguments, to_source_units(design, mean, std))
        start = likelihood.evaluate(point)
    found = _maximum(request, data, likelihood, start)
    if not request.firth:
        gap = (start.value - found.value) / found.value if found.value else 0.0
        check_gap(request, gap)
        if request.replicates:
            to_source = to_source_units(design, mean, std)
            estimates = bootstrap_likelihood(data, likelihood, found, to_source, gap, samples, request.replicates)
            return _of_bootstrap(request, facts, design, estimates, std, rows, kind, covariance, notes)
    if covariance != "hessian":
        found = with_expected_information(likelihood, found)

    if clusters is not None:
        matrix = cluster_covariance(likelihood, found, clusters, rows)
    elif covariance in ROBUST:
        matrix = robust_covariance(likelihood, found, covariance, rows, counts)
    else:
        matrix = found.covariance
    table, limit_error = coefficient_rows(
        likelihood, found, matrix, mean, std, request.confidence, request.profile, show_status
    )
    labels = data.labels("train")
    totals = torch.bincount(labels, weights, facts.num_classes).double()
    statistics = fit_statistics(likelihood, found, totals, rows, counts)
    if request.firth:
        everything = Term("all", tuple(range(design.shape[1] - 1)))
        statistics = statistics.of_penalized_likelihood(drop_term(likelihood, found, everything))
    tests = None
    if request.tests:
        tests = tuple(drop_term(likelihood, found, term) for term in design.terms if term.positions)
    effects = None
    if request.effects != "none":
        of_features = marginal_effects(likelihood, found, mean, std, request.effects == "mean")
        effects = effect_rows(likelihood, of_features, matrix, request.confidence)
    checks = None
    if request.checks:
        show_status("checking the assumptions ...")
        dependent = "" if counts else "weights are sampling weights, which have no likelihood"
        dependent = "rows of one cluster are not independent" if clusters is not None else dependent
        source = SourceRows(data.source_row_numbers("train"), partial(data.rows, "train"))
        checks = check_assumptions(facts, source, likelihood, found, matrix, mean, std, rows, counts, dependent)
    return CoefficientTable(
        checkpoint=shown(request.checkpoint),
        data=facts.title,
        classes=facts.class_names,
        reference_class=design.reference_class,
        references=design.references,
        confidence=request.confidence,
        covariance=covariance,
        firth=request.firth,
        interval="profile" if request.profile else "wald",
        weights=kind,
        coefficients=tuple(table),
        fit=statistics,
        tests=tests,
        limit_error=limit_error,
        effects=effects,
        effects_at=request.effects,
        notes=(
            *notes,
            *_inflation_in_words(statistics.variance_inflation),
            *_link_in_words(loss, design),
            FIRTH_IN_WORDS
            if request.firth
            else f"polished from the checkpoint by {found.steps} Newton steps in float64, {found.moved:.1g} standard "
            "errors",
        ),
        link=LOGIT if loss.gives_log_odds else _link_of(loss, design).name,
        checks=checks,
    )


def _of_bootstrap(
    request: InferenceRequest,
    facts: DataFacts,
    design: Design,
    found: Replicates,
    std: Tensor,
    rows: float,
    kind: str | None,
    covariance: str,
    notes: tuple[str, ...],
) -> CoefficientTable:
    """The table of a bootstrap: estimates, their spread and intervals.

    Raises:
        DataError: The checkpoint is not at its optimum, or too few samples have an estimate.
    """
    check_gap(request, found.gap)
    least = _least_replicates(request.confidence)
    if len(found.values) < least:
        raise DataError(
            f"`interval=bootstrap` must have at least {least} samples with finite estimates, and of "
            f"{request.replicates:,} only {len(found.values):,} have them: the classes of the others are separated, or "
            "a column is constant there. Train again with a penalty, such as l2=1e-3, or take more rows."
        )
    objective, loss = request.trained.module.objective, request.trained.module.objective.row_loss
    of_what = "clusters" if covariance.startswith(CLUSTER) else "rows"
    how = f"bootstrap: {request.replicates:,} samples of the {of_what}, seed {request.seed}"
    if is_penalized(objective):
        how += (
            f", each fitted with {_penalty_as_typed(objective)}; the intervals are those of the penalized estimates, "
            "whose bias they do not show"
        )
    without = (
        f"{found.without:,} of {request.replicates:,} samples have no finite estimate, since their classes are "
        "separated or a column is constant there; they are left out, so the intervals are too short (a fit with a "
        "penalty has finite ones)"
    )
    nothing = dict.fromkeys(
        ("log_likelihood", "null_log_likelihood", "aic", "bic", "mcfadden_r2", "tjur_r2", "likelihood_ratio")
    )
    return CoefficientTable(
        checkpoint=shown(request.checkpoint),
        data=facts.title,
        classes=facts.class_names,
        reference_class=design.reference_class,
        references=design.references,
        confidence=request.confidence,
        covariance=covariance,
        firth=False,
        interval="bootstrap",
        weights=kind,
        coefficients=tuple(bootstrap_rows(found, design, std, request.confidence, loss.gives_log_odds)),
        fit=FitStatistics(
            rows, design.shape[0] * design.shape[1], **nothing, condition_number=None, variance_inflation={}
        ),
        notes=(*notes, *_link_in_words(loss, design), how, *([without] if found.without else [])),
        link=LOGIT if loss.gives_log_odds else _link_of(loss, design).name,
    )


def _least_replicates(confidence: float) -> int:
    """Number of replicates from which the limits lie between the smallest and the largest one."""
    return math.ceil(2 / (1 - confidence) - 1 - 1e-9)


def _penalty_as_typed(objective: Objective) -> str:
    return " ".join(f"{key}={value:g}" for key, value in (("l2", objective.l2), ("l1", objective.l1)) if value)


# Refusals


def check_fit(trained: TrainedModel, design: Design, firth: bool, bootstrap: bool = False) -> None:
    """Refuses a fit whose estimates have no standard errors of this kind, from its checkpoint alone.

    Args:
        trained: The model.
        design: Its parameters.
        firth: Whether it will be fitted again, with Firth's penalty: then its own penalty or separation is no matter.
        bootstrap: Whether it will be fitted again to samples of the rows, with its own penalty.

    Raises:
        ConfigError: It has a penalty, class weights, changed images, no intercept or separate outputs.
        DataError: It has too few rows, too many parameters, or no finite optimum.
    """
    module, facts = trained.module, trained.facts
    objective, loss = module.objective, module.objective.row_loss
    rows, parameters = facts.rows["train"], design.shape[0] * design.shape[1]
    if rows <= parameters and not (bootstrap and is_penalized(objective)):
        raise DataError(
            f"`ckpt_path` must be of a fit to more rows than parameters, and {rows:,} rows of train have "
            f"{parameters:,} parameters. Take more rows (dataset.limit=null dataset.split.val=0 dataset.split.test=0), "
            "or leave columns out with dataset.drop, and train again."
        )
    if parameters > MAX_PARAMETERS:
        raise DataError(
            f"`ckpt_path` must be of a fit with at most {MAX_PARAMETERS:,} parameters, and this one has "
            f"{parameters:,}. Leave columns out, or rare words with a larger dataset.min_df, and train again."
        )
    if firth and not loss.gives_log_odds:
        raise ConfigError(
            f"`firth=true` must be of a logit link, got link={loss.name} in the run. Leave firth out, or train again "
            "with link=logit."
        )
    if is_penalized(objective) and not firth and not bootstrap:
        raise ConfigError(
            f"`ckpt_path` must be of a fit without penalty, got {_penalty_as_typed(objective)}: a penalty moves the "
            "estimates by more than their standard errors say. Set interval=bootstrap for intervals of the penalized "
            f"estimates, or train again with l2=0{' l1=0' if objective.l1 else ''}"
            f"{', or set firth=true, which needs no other fit' if loss.gives_log_odds else ''}."
        )
    if not loss.couples_outputs and loss.num_outputs(facts.num_classes) > 1:
        raise ConfigError(
            f"`ckpt_path` must be of a model with one likelihood of all classes, and loss={objective.loss} fits each "
            "class against the rest. Train again with loss=auto."
        )
    if facts.augment:
        raise ConfigError(
            "`ckpt_path` must be of a fit to independent rows, and dataset.augment learns from changed copies of them. "
            "Train again with dataset.augment=null."
        )
    if facts.class_weight:
        raise ConfigError(
            "`ckpt_path` must be of a fit without class weights, under which the estimates are not those of the "
            "likelihood. Train again with dataset.class_weight=none."
        )
    if not module.has_intercept:
        raise ConfigError(
            "`ckpt_path` must be of a model with an intercept, got intercept=false. Train again with intercept=true."
        )
    separation = (trained.optimality or {}).get("separation", "")
    if separation and not firth:
        raise _separated(separation, loss)


def _separated(separation: str, loss: Loss) -> DataError:
    reason = separation.partition("; ")[0].removeprefix("no finite optimum: ")
    firth = "Set firth=true" if loss.gives_log_odds else "Train again with link=logit and set firth=true"
    return DataError(
        f"`ckpt_path` must be of a fit that has a finite optimum, and {reason}. {firth} for "
        "finite estimates with standard errors, or leave columns out with dataset.drop and train again."
    )


def check_options(request: InferenceRequest, design: Design) -> None:
    """Refuses options that do not go together, or not with the run.

    Raises:
        ConfigError: One of them.
    """
    covariance = request.covariance or "hessian"
    if request.replicates:
        _check_bootstrap(request)
    if request.firth and covariance not in OF_LIKELIHOOD:
        raise ConfigError(
            f"`covariance={covariance}` must not go with firth=true, whose standard errors are those of the "
            "information. Leave out one of them."
        )
    if design.shape[0] > 1 and covariance in ("HC2", "HC3"):
        raise ConfigError(
            f"`covariance={covariance}` must be asked of a model of two classes: it divides by the leverage of a row, "
            f"and {len(design.classes) + 1} classes have a matrix for it. Set covariance=HC0, or HC1."
        )
    if request.checks and request.firth:
        raise ConfigError(
            "`checks=true` must be asked of a maximum of the likelihood itself, and not with firth=true. Leave out one "
            "of them."
        )
    if request.checks and len(design.classes) > 1:
        raise ConfigError(
            f"`checks=true` must be asked of a model of two classes, and this one has {len(design.classes) + 1}: "
            "binned residuals, leverage, Cook's distance, the tests of Hosmer and Lemeshow and of Stukel, and "
            "overdispersion are of one probability. Leave it out."
        )
    if covariance not in OF_LIKELIHOOD and (request.profile or request.tests):
        key = "interval=profile" if request.profile else "test=lrt"
        raise ConfigError(
            f"`{key}` must go with covariance=auto: the likelihood itself takes the model for true. "
            f"Leave out {key}, or covariance={covariance}."
        )
    group = request.config.dataset.get("split", {}).get("group")
    if group is not None and not covariance.startswith(CLUSTER):
        raise ConfigError(
            f"`covariance` must take the groups into account by which the run was split, since rows of one {group} "
            f"are not independent. Set 'covariance={CLUSTER}{group}'."
        )


def _check_bootstrap(request: InferenceRequest) -> None:
    """Refuses options that do not go with a bootstrap.

    Raises:
        ConfigError: One of them.
    """
    others = {
        "firth=true": request.firth,
        "test=lrt": request.tests,
        f"effects={request.effects}": request.effects != "none",
        "checks=true": request.checks,
        f"covariance={request.covariance}": request.covariance is not None
        and not request.covariance.startswith(CLUSTER),
    }
    for typed, is_there in others.items():
        if is_there:
            raise ConfigError(
                f"`{typed}` must not go with interval=bootstrap, which has the estimates of samples of the rows alone. "
                "Leave out one of them."
            )
    least = _least_replicates(request.confidence)
    if request.replicates < least:
        raise ConfigError(
            f"`replicates` must be at least {least:,} for confidence={request.confidence:g}, got {request.replicates}. "
            f"Set replicates={least}."
        )


def kind_of_weights(request: InferenceRequest, weights: Tensor | None) -> str | None:
    """What the weights of the rows are: "frequency" or "sampling"; ``None`` where there are none.

    Raises:
        ConfigError: What was typed does not fit the weights.
    """
    if weights is None:
        if request.weights != "auto":
            raise ConfigError(
                f"`weights={request.weights}` must go with a run with dataset.weight, and this one has none. Leave it "
                "out."
            )
        return None
    are_whole = bool((weights == weights.round()).all())
    if request.weights == "frequency" and not are_whole:
        first = float(weights[weights != weights.round()][0])
        raise ConfigError(
            f"`weights=frequency` must go with whole numbers, and a row has the weight {first:g}. Set weights=sampling."
        )
    kind = ("frequency" if are_whole else "sampling") if request.weights == "auto" else request.weights
    if kind == "sampling" and (request.profile or request.tests or request.firth):
        key = "firth=true" if request.firth else "interval=profile" if request.profile else "test=lrt"
        raise ConfigError(f"`{key}` must not go with sampling weights, which have no likelihood. Leave it out.")
    return kind


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


def clusters_of(data: TensorDataModule, column: str) -> Tensor:
    """Cluster of each train row, (N,), from 0, of the clusters that train has.

    Raises:
        ConfigError: There is one cluster alone.
    """
    codes = data.codes("train", column, "covariance")
    clusters: Tensor = codes.unique(return_inverse=True)[1]
    if len(clusters) == 0 or int(clusters.max()) == 0:
        raise ConfigError(
            f"`covariance={CLUSTER}{column}` must name a column with several clusters, and all rows of train have one "
            "value there. Name another column, or set covariance=HC1."
        )
    return clusters


def check_rank(design: Design, start: Evaluation, facts: DataFacts) -> None:
    """Refuses columns that are linear combinations of others.

    Raises:
        DataError: Names them, and those that they are combinations of.
    """
    size = design.shape[1]
    combinations = linear_combinations(start.hessian[:size, :size])
    if not combinations:
        return
    by_position = {position: term.name for term in design.terms for position in term.positions}
    described = []
    for one in combinations[:3]:
        name = design.names[one.position]
        others = [design.names[position] for position in one.others]
        if others in ([], [INTERCEPT]):
            described.append(f"{name!r} is constant")
        else:
            named = name_list((repr(other) if other != INTERCEPT else other for other in others), 5, last=" and ")
            described.append(f"{name!r} is a linear combination of {named}")
    left_out = list(dict.fromkeys(by_position[one.position] for one in combinations))
    more = f"; and {len(combinations) - 3} more" if len(combinations) > 3 else ""
    advice = f"Train again with {as_typed('dataset.drop', left_out)}"
    if not facts.columns:
        advice = "Leave it out of the file, and train again"
    raise DataError(
        f"`ckpt_path` must be of a fit with one solution, and {'; '.join(described)}{more}, so no coefficient there "
        f"has a standard error. {advice}."
    )


def _maximum(request: InferenceRequest, data: TensorDataModule, likelihood: Likelihood, start: Evaluation) -> Maximum:
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
            raise _separated(separation, objective.row_loss) from None
        raise


def check_gap(request: InferenceRequest, gap: float) -> None:
    """Refuses a checkpoint that is above the optimum by a relative ``gap`` larger than the tolerance of its run.

    Raises:
        DataError: It is.
    """
    if gap <= request.config.tolerance:
        return
    optimizer = request.config.optimizer["name"]
    stopped, advice = "", "with a larger max_epochs"
    if optimizer not in EXACT:
        stopped = f", where optimizer={optimizer} stopped"
        advice = "with optimizer=newton, and without lr, batch_size, schedule and max_epochs"
    raise DataError(
        f"`ckpt_path` must be of a fit at its optimum, and this one is {gap:.2g} of the value above it{stopped} "
        f"(tolerance={request.config.tolerance:g}). Train again {advice}."
    )


# Parts


def _standardization(problem: Problem, facts: DataFacts, rows: RowSource) -> Coordinates:
    """Mean and deviation of all features as they are stored, also of those that a fit does not standardize."""
    if not any(column.keeps_scale for column in facts.columns):
        return problem.model
    kept = torch.cat([torch.full((column.num_features,), column.keeps_scale) for column in facts.columns])
    measured = drive(request_pass(ColumnMoments(problem)), rows)
    return Coordinates(*(torch.where(kept, *pair) for pair in zip(measured, problem.model, strict=True)))


def _start(trained: TrainedModel, design: Design, facts: DataFacts, mean: Tensor, std: Tensor) -> Tensor:
    """The checkpoint's parameters (M, P) by standardized features."""
    coef, intercept = trained.module.model.in_source_units()
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
            f"the likelihood of a {loss.name} link is not concave: the estimates are a stationary point, and other "
            "maxima are not excluded"
        )
    return lines


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
    line = f"standard errors by {groups:,} clusters of {covariance.removeprefix(CLUSTER)}"
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
