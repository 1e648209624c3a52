"""What is asked of a checkpoint's coefficients, and the reasons why there is no answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from logreg.config import EXACT, RunConfig
from logreg.errors import ConfigError, DataError, as_typed, name_list
from logreg.facts import DataFacts
from logreg.inference.collinearity import linear_combinations
from logreg.inference.design import Design
from logreg.inference.likelihood import LikelihoodEvaluation
from logreg.inference.results import INTERCEPT
from logreg.losses import Loss
from logreg.losses.objective import Objective
from logreg.training.checkpoint_reading import TrainedModel

CLUSTER = "cluster:"
"""Start of a covariance by clusters, before the name of the column."""

OF_LIKELIHOOD = ("hessian", "expected")
"""Covariances that take the model for true."""

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
        of_table: Whether the table of coefficients is asked for, whose settings messages may advise.
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
    of_table: bool = True

    @property
    def loss(self) -> Loss:
        """The loss of a row."""
        return self.trained.module.objective.row_loss

    @property
    def group(self) -> str | None:
        """The column by whose groups the run was split; ``None`` for none."""
        group: str | None = self.config.dataset.get("split", {}).get("group")
        return group

    @property
    def against_bootstrap(self) -> list[str]:
        """The settings that do not go with interval=bootstrap, as they are typed."""
        covariance = self.covariance or CLUSTER
        settings = {
            "firth=true": self.firth,
            "test=lrt": self.tests,
            f"effects={self.effects}": self.effects != "none",
            "checks=true": self.checks,
            f"covariance={covariance}": not covariance.startswith(CLUSTER),
        }
        return [typed for typed, is_there in settings.items() if is_there]

    @property
    def may_advise_firth(self) -> bool:
        """Whether firth=true goes with the rest of the request."""
        others = self.replicates or self.checks or self.covariance not in (None, *OF_LIKELIHOOD)
        return self.of_table and not others and self.group is None


def check_fit(request: InferenceRequest, design: Design) -> None:
    """Refuses a fit whose estimates have no standard errors of this kind, from its checkpoint alone.

    With Firth's penalty it is fitted again: then its own penalty or separation is no matter.  A bootstrap fits it again
    with its own penalty.

    Raises:
        ConfigError: It has a penalty, class weights, changed images, no intercept or separate outputs.
        DataError: It has too few rows, too many parameters, or no finite optimum.
    """
    trained, firth, bootstrap = request.trained, request.firth, request.replicates > 0
    module, facts, loss = trained.module, trained.facts, request.loss
    objective = module.objective
    rows, parameters = facts.rows["train"], design.shape[0] * design.shape[1]
    if rows <= parameters and not (bootstrap and objective.has_penalty):
        advice = "Take more rows (dataset.limit=null dataset.split.val=0 dataset.split.test=0), or leave columns out"
        if objective.has_penalty and request.of_table and not request.against_bootstrap:
            advice = f"Set interval=bootstrap, or t{advice[1:]}"
        raise DataError(
            f"`ckpt_path` must be of a fit to more rows than parameters, and {rows:,} rows of train have "
            f"{parameters:,} parameters. {advice} with dataset.drop, and train again."
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
    if objective.has_penalty and not firth and not bootstrap:
        advice = f"train again with l2=0{' l1=0' if objective.l1 else ''}"
        if request.of_table:
            if not request.against_bootstrap:
                advice = f"set interval=bootstrap for intervals of the penalized estimates, or {advice}"
            if loss.gives_log_odds and request.may_advise_firth:
                advice += ", or set firth=true, which needs no other fit"
        raise ConfigError(
            f"`ckpt_path` must be of a fit without penalty, got {penalty_as_typed(objective)}: a penalty moves the "
            f"estimates by more than their standard errors say. {advice[0].upper()}{advice[1:]}."
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
        raise separated(separation, request)


def separated(separation: str, request: InferenceRequest) -> DataError:
    """The refusal of a fit without a finite optimum, where ``separation`` says why."""
    reason = separation.partition("; ")[0].removeprefix("no finite optimum: ")
    advice = "leave columns out (of a table: dataset.drop) and train again"
    if request.replicates:
        advice = f"train again with a penalty, such as l2=1e-3, or {advice}"
    elif request.may_advise_firth:
        firth = "set firth=true" if request.loss.gives_log_odds else "train again with link=logit and set firth=true"
        advice = f"{firth} for finite estimates with standard errors, or {advice}"
    return DataError(
        f"`ckpt_path` must be of a fit that has a finite optimum, and {reason}. {advice[0].upper()}{advice[1:]}."
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
    if request.group is not None and not covariance.startswith(CLUSTER):
        others = {"firth=true": request.firth, "interval=profile": request.profile, "test=lrt": request.tests}
        without = " ".join(typed for typed, is_there in others.items() if is_there)
        raise ConfigError(
            "`covariance` must take the groups into account by which the run was split, since rows of one "
            f"{request.group} are not independent. Set 'covariance={CLUSTER}{request.group}'"
            f"{f', and leave out {without}' if without else ''}."
        )


def _check_bootstrap(request: InferenceRequest) -> None:
    """Refuses options that do not go with a bootstrap.

    Raises:
        ConfigError: One of them.
    """
    for typed in request.against_bootstrap:
        raise ConfigError(
            f"`{typed}` must not go with interval=bootstrap, which has the estimates of samples of the rows alone. "
            "Leave out one of them."
        )
    least = least_replicates(request.confidence)
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


def check_rank(design: Design, start: LikelihoodEvaluation, facts: DataFacts) -> None:
    """Refuses columns that are linear combinations of others.

    Raises:
        DataError: Names them, and those that they are combinations of.
    """
    size = design.shape[1]
    combinations = linear_combinations(start.hessian[:size, :size])
    at_bounds = any(one.position == size - 1 for one in combinations)  # all probabilities are 0 or 1: no information
    if not combinations or at_bounds:
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
        advice = f"Leave {'it' if len(left_out) == 1 else 'them'} out of the features, and train again"
    raise DataError(
        f"`ckpt_path` must be of a fit with one solution, and {'; '.join(described)}{more}, so no coefficient there "
        f"has a standard error. {advice}."
    )


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


def check_replicates(request: InferenceRequest, finite: int) -> None:
    """Refuses a bootstrap with too few samples that have an estimate for limits at the confidence.

    Raises:
        DataError: There are only ``finite`` ones.
    """
    least = least_replicates(request.confidence)
    if finite >= least:
        return
    advice = "Train again with a penalty, such as l2=1e-3, or take more rows."
    if 4 * finite > 3 * request.replicates:
        advice = f"Set replicates={2 * least}, or t{advice[1:]}"
    raise DataError(
        f"`interval=bootstrap` must have at least {least:,} samples with finite estimates, and of "
        f"{request.replicates:,} only {finite:,} have them: the classes of the others are separated, or a column is "
        f"constant there. {advice}"
    )


def least_replicates(confidence: float) -> int:
    """Number of replicates from which the limits lie between the smallest and the largest one."""
    return math.ceil(2 / (1 - confidence) - 1 - 1e-9)


def penalty_as_typed(objective: Objective) -> str:
    """The strengths of the penalties as a user types them."""
    return " ".join(f"{key}={value:g}" for key, value in (("l2", objective.l2), ("l1", objective.l1)) if value)
