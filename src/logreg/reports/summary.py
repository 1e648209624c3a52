"""Summarizes a finished run: its objects in memory become the plain values of summary.json."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from logreg.config import RunConfig
from logreg.data import BayesClassifier, TensorDataModule
from logreg.errors import shell_line
from logreg.evaluation.held_out import Evaluation
from logreg.evaluation.intervals import CONFIDENCE
from logreg.evaluation.measured import MAX_LISTED_CLASSES, notable_classes
from logreg.evaluation.path_row import PathRow
from logreg.evaluation.path_selection import alarm, simplest_of
from logreg.evaluation.predicted import Predicted
from logreg.evaluation.scores import Scores
from logreg.facts import Split, keeping_scale
from logreg.files import shown
from logreg.inference.design import choose_design
from logreg.invocation import command_words
from logreg.losses import one_logit
from logreg.optimality.certificate import Certificate
from logreg.reports.json_fields import from_json
from logreg.reports.mistakes import confident_mistakes
from logreg.reports.summary_schema import (
    BestEpochSummary,
    CalibrationSummary,
    CoefficientSummary,
    CrossValidationSummary,
    DatasetSummary,
    EvaluationSummary,
    ExpectationSummary,
    KnownAnswerSummary,
    LikelihoodSummary,
    MajoritySummary,
    MistakeSummary,
    ObjectiveSummary,
    OptimalitySummary,
    PathSummary,
    SecondsSummary,
    Summary,
)
from logreg.run_folder import CHECKPOINTS
from logreg.training.module import LogisticModule

MAX_EQUATION_FEATURES = 4
"""Largest number of features for which the fitted equation is written out."""

NUM_MISTAKES = 8
"""Number of the most confident mistakes in report.md."""

NUM_COEFFICIENTS = 10
"""Number of coefficients in report.md; coefficients.csv has all."""

NUM_TOKENS = 8
"""Number of n-grams of text that are shown for a class."""


@dataclass(frozen=True)
class RunResult:
    """A finished run, with its objects still in memory."""

    config: RunConfig
    folder: Path
    overrides: Sequence[str]
    module: LogisticModule
    data: TensorDataModule
    scores: Mapping[Split, Scores]
    """Scores of the parameters at the end of training."""
    certificate: Certificate
    """Certificate of the parameters at the end of training."""
    best: Mapping[str, float]
    """Epoch and loss/val of best.ckpt."""
    epochs: int
    resumed_from: Path | None = None
    """The checkpoint that the run continued."""
    path: Sequence[PathRow] | None = None
    """The regularization path that the strength of a penalty was chosen from."""
    path_coef: torch.Tensor | None = None
    """Coefficients of each strength of the path, (P, K, D); ``None`` where a checkpoint has not kept them."""
    path_rule: str = "best"
    """The rule by which the strength was chosen: best, or one_se."""
    cross_validation: CrossValidationSummary | None = None
    """The scores of the held-out rows of each fold."""
    predicted: Predicted | None = None
    """Predictions of the last split: test, or else val, or else train."""
    evaluation: Evaluation | None = None
    """All scores of the last split."""
    l2_reason: str = ""
    """Reason for the value of l2, where it was neither typed nor chosen by scores; else empty."""

    @property
    def place(self) -> int:
        """Position of the chosen strength in the path."""
        objective = self.module.objective
        return [row.order for row in self.path or ()].index((objective.l1, objective.l2))

    @property
    def scored(self) -> Split:
        """The last split."""
        return self.data.splits[-1]


def summarize(result: RunResult, fit_seconds: float, total_seconds: float) -> Summary:
    """The summary of a run.

    Args:
        result: The run.
        fit_seconds: Duration of the fit.
        total_seconds: Duration of the run until its results are known, from the command on.
    """
    module = result.module
    metrics: dict[str, dict[str, float]] = {split: dict(scores) for split, scores in result.scores.items()}
    if result.cross_validation is not None and result.cross_validation.typed:
        metrics["cv"] = {name: score.mean for name, score in result.cross_validation.metrics.items()}
    return Summary(
        folder=shown(result.folder),
        resumed_from=shown(result.resumed_from) if result.resumed_from else None,
        command=shell_line([*command_words("train"), *result.overrides]),
        overrides=tuple(result.overrides),
        dataset=_dataset(result),
        majority=_majority(result),
        largest_coefficients=largest_coefficients(module),
        tokens=largest_tokens(module),
        metrics=metrics,
        evaluation=None
        if result.evaluation is None
        else summarize_evaluation(result.evaluation, result.scored, module),
        mistakes=mistakes(result),
        objective=_objective(result),
        optimality=from_json(OptimalitySummary, result.certificate.as_dict()),
        reason=module.reason or None,
        l2_reason=result.l2_reason or None,
        path=_path(result),
        cross_validation=result.cross_validation,
        equation=equation(module),
        example=example(result),
        known_answer=_against(result.data.bayes_classifier, result) if result.data.bayes_classifier else None,
        expected=_expected(result.config.expected, metrics),
        best=from_json(BestEpochSummary, result.best) if result.best else None,
        likelihood=_likelihood(result),
        checkpoints=(f"{CHECKPOINTS}/best.ckpt", f"{CHECKPOINTS}/last.ckpt"),
        epochs=result.epochs,
        seconds=SecondsSummary(fit=round(fit_seconds, 3), total=round(total_seconds, 3)),
        seed=result.config.seed,
        config=dataclasses.asdict(result.config),
        git_commit=_git_commit(),
        versions=dict(_versions()),
    )


@cache
def _versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the numbers; looked up once, not for each job."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the CUDA it was built for, which the package's number lacks
        **{package: version(package) for package in ("lightning", "torchmetrics", "numpy")},
    }


def summarize_evaluation(evaluation: Evaluation, split: str, module: LogisticModule) -> EvaluationSummary:
    """The scores of one split, with the calibration of the model."""
    calibration, many = module.calibration, len(evaluation.classes) > MAX_LISTED_CLASSES
    weights = calibration.class_weight
    if many and weights:
        weights = (min(weights), max(weights))
    return EvaluationSummary(
        split=split,
        calibration=CalibrationSummary(**vars(calibration) | {"class_weight": weights}),
        calibrated=tuple(calibration.in_words(module.facts.class_names)),
        rows=evaluation.rows,
        confidence=CONFIDENCE,
        metrics=evaluation.metrics,
        baseline=evaluation.baseline,
        classes=notable_classes(evaluation.classes),
        confusion=() if many else tuple(map(tuple, evaluation.confusion.to_dense().tolist())),
        weights=evaluation.weights,
        threshold=evaluation.threshold,
        num_classes=len(evaluation.classes) if many else None,
    )


def _dataset(result: RunResult) -> DatasetSummary:
    facts, data = result.module.facts, result.data
    many = facts.num_classes > MAX_LISTED_CLASSES
    weights = sorted(zip(facts.class_names, facts.class_weight, strict=False), key=lambda one: one[1] if many else 0)
    return DatasetSummary(
        name=facts.name,
        source=facts.source,
        rows=facts.rows,
        features=facts.num_coef,
        classes=facts.class_names[:MAX_LISTED_CLASSES],
        class_weight=(dict([weights[0], weights[-1]] if many else weights) if weights else None),
        backbone=facts.backbone or None,
        notes=tuple(data.notes),
        leak=data.leaks.advice,
        num_classes=facts.num_classes if many else None,
        copies=facts.copies or None,
    )


def _objective(result: RunResult) -> ObjectiveSummary:
    objective, coef = result.module.objective, result.module.model.coef.detach().double()
    return ObjectiveSummary(
        loss=objective.loss,
        reduction=objective.reduction,
        l2=objective.l2,
        l1=objective.l1,
        train=result.scores["train"]["loss"] + float(objective.penalty(coef)),
    )


def _likelihood(result: RunResult) -> LikelihoodSummary | None:
    """AIC and BIC; ``None`` of a fit with a penalty, with other weights than counts, or short of its optimum."""
    module, facts, data, found = result.module, result.module.facts, result.data, result.certificate
    objective, weights = module.objective, data.sample_weight("train")
    loss, outputs = objective.row_loss, len(module.model.intercept)
    is_maximum = (found.converged or found.is_stationary) and not objective.has_penalty
    is_one_likelihood = loss.couples_outputs or outputs == 1
    counts_rows = weights is None or bool((weights == weights.round()).all())
    if not (is_maximum and is_one_likelihood and counts_rows) or facts.class_weight or facts.augment:
        return None
    rows = float(facts.rows["train"] if weights is None else weights.sum())
    value = -found.value * (1.0 if objective.reduction == "sum" else rows)
    classes, of_class = choose_design(facts, outputs, {}, "").shape
    parameters = classes * (of_class - (not module.has_intercept))
    checksum = 0
    for each in (data.labels("train"), data.source_row_numbers("train"), weights):
        checksum = checksum if each is None else zlib.crc32(each.contiguous().numpy().data, checksum)
    return LikelihoodSummary(
        rows=rows,
        parameters=parameters,
        log_likelihood=value,
        aic=2 * parameters - 2 * value,
        bic=parameters * math.log(rows) - 2 * value,
        checksum=checksum,
    )


def _path(result: RunResult) -> PathSummary | None:
    if not result.path:
        return None
    rows, select, chosen = tuple(result.path), result.config.select, result.place
    return PathSummary(
        rows=rows,
        select=select,
        rule=result.path_rule,
        best=chosen,
        one_standard_error=simplest_of(rows, select),
        alarm=alarm(rows, select, chosen if result.path_rule == "best" else None),
    )


def mistakes(result: RunResult) -> tuple[MistakeSummary, ...] | None:
    """The wrong predictions with the highest probabilities, highest first.

    Returns:
        At most ``NUM_MISTAKES``; where features have names, each with the three features that contributed most to the
        wrong class.  ``None`` where no rows were held out.
    """
    if result.predicted is None or result.scored == "train":
        return None
    module, data, split = result.module, result.data, result.scored
    facts, wrong = module.facts, confident_mistakes(result.predicted, NUM_MISTAKES)
    listed: list[MistakeSummary] = []
    if not wrong:
        return ()
    features = data.rows(split, [one.position for one in wrong]).features.to_dense()
    row_numbers = data.source_row_numbers(split)
    coef = module.model.coef.detach().cpu().double()
    coef = torch.cat([-coef / 2, coef / 2]) if len(coef) == 1 else coef
    standardized = module.model.cpu().standardize(features[:, : coef.shape[1]].double())
    for one, source, x in zip(wrong, facts.stored.inverse_transform(features), standardized, strict=True):
        contributions = (coef[one.predicted] - coef[one.true]) * x
        most = contributions.topk(min(3, len(contributions))).indices.tolist() if facts.feature_names else []
        listed.append(
            MistakeSummary(
                row=1 + int(row_numbers[one.position]),
                true=facts.class_names[one.true],
                predicted=facts.class_names[one.predicted],
                probability=one.probability,
                because=tuple(f"{facts.feature_names[place]} = {float(source[place]):.4g}" for place in most),
            )
        )
    return tuple(listed)


def equation(module: LogisticModule) -> str | None:
    """The fitted model as a formula, for two classes and few features; calibrated where the model is.

    Returns:
        Such as "p(pass) = sigmoid(1.50 * hours - 4.08), even odds at 2.72 hours", or ``None``.
    """
    facts = module.facts
    if not facts.is_binary or facts.num_features > MAX_EQUATION_FEATURES or not facts.feature_names:
        return None
    loss, log_weight = module.objective.row_loss, module.calibration.log_weight
    if log_weight is not None and loss.prior_shift(log_weight, len(module.model.coef)) is None:
        return None
    slope, offset = calibrated_log_odds(module)
    terms = [(float(value), f" * {name}") for value, name in zip(slope, facts.feature_names, strict=True)]
    written = ""
    for value, name in [*terms, (offset, "")]:
        sign = "-" if value < 0 else "+"
        written += (
            f" {sign} {short(abs(value))}{name}" if written else f"{'-' if value < 0 else ''}{short(abs(value))}{name}"
        )
    text = f"p({facts.class_names[1]}) = {'sigmoid' if loss.gives_log_odds else 'F'}({written})"
    if not loss.gives_log_odds:
        text += f" with F(z) = {loss.formula}"
    if facts.num_features == 1 and slope[0]:
        text += f", even odds at {short((loss.even_logit - offset) / float(slope[0]))} {facts.feature_names[0]}"
    return text


def short(value: float) -> str:
    """A number with two decimals, or with three digits where it is very small or large."""
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def example(result: RunResult) -> dict[str, float] | None:
    """The first row of train, as an example for `scripts/predict.py`; ``None`` unless it is a few named numbers."""
    facts = result.module.facts
    few = 0 < len(facts.feature_names) <= MAX_EQUATION_FEATURES
    if not few or tuple(column.name for column in facts.columns) not in ((), facts.feature_names):
        return None
    row = facts.stored.inverse_transform(result.data.rows("train", [0]).features)[0]
    return dict(zip(facts.feature_names, row.tolist(), strict=True))


def largest_coefficients(module: LogisticModule, most: int = NUM_COEFFICIENTS) -> tuple[CoefficientSummary, ...] | None:
    """The largest coefficients by name; ``None`` where features have no names.

    Returns:
        At most ``most``, by size on the scale on which the model was fitted: per standard deviation of a feature that
        is standardized.
    """
    facts = module.facts
    if not facts.feature_names:
        return None
    own, (coef, _) = module.model.coef.detach().cpu().double(), module.model.in_source_units()
    names = module.output_names
    largest = own.abs().flatten().topk(min(most, own.numel())).indices
    kept = keeping_scale(facts.columns).tolist() if facts.columns else [False] * facts.num_features
    return tuple(
        CoefficientSummary(
            feature=facts.feature_names[place % own.shape[1]],
            class_name=names[place // own.shape[1]],
            coef=float(coef.flatten()[place]),
            coef_per_std=float(own.flatten()[place]) if facts.std and not kept[place % own.shape[1]] else None,
        )
        for place in largest.tolist()
    )


def largest_tokens(module: LogisticModule) -> dict[str, tuple[str, ...]] | None:
    """The n-grams of text that speak most for each class, by the name of the class.

    Returns:
        At most `NUM_TOKENS` n-grams with a coefficient above 0, largest first, of at most `MAX_LISTED_CLASSES` classes;
        with the name of the column where there are several of text.  ``None`` without text.
    """
    facts = module.facts
    texts = [column for column in facts.columns if column.kind == "text"]
    if not texts:
        return None
    is_text = torch.cat([torch.full((column.num_features,), column.kind == "text") for column in facts.columns])
    places, coef = is_text.nonzero()[:, 0], module.model.coef.detach().cpu().double()
    coef = coef[:, places]
    coef = torch.cat([-coef, coef]) if len(coef) == 1 else coef
    start = len(texts[0].name) + 1 if len(texts) == 1 else 0
    tokens = {}
    for name, of_class in zip(facts.class_names[:MAX_LISTED_CLASSES], coef, strict=False):
        largest = of_class.topk(min(NUM_TOKENS, len(of_class)))
        found = places[largest.indices[largest.values > 0]].tolist()
        tokens[name] = tuple(facts.feature_names[place][start:] for place in found)
    return tokens


def _majority(result: RunResult) -> MajoritySummary:
    """The baseline of always predicting the most frequent class of train, and its accuracy in each split."""
    facts, data = result.module.facts, result.data
    counts = {
        split: torch.bincount(data.labels(split), data.sample_weight(split), facts.num_classes).double()
        for split in data.splits
    }
    most = int(counts["train"].argmax())
    return MajoritySummary(
        class_name=facts.class_names[most],
        accuracy={split: float(count[most] / count.sum()) for split, count in counts.items()},
    )


def _log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """Slope (D,) and offset of the log-odds of class 1, in source units; with K = 2 a difference."""
    coef, intercept = map(one_logit, module.model.in_source_units())
    return coef[0], float(intercept)


def calibrated_log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """Slope (D,) and offset of the log-odds of class 1 after calibration, in source units; of two classes."""
    slope, offset = _log_odds(module)
    calibration = module.calibration
    if calibration.log_weight is not None:
        offset -= float(calibration.log_weight.diff()) if module.objective.row_loss.gives_log_odds else 0.0
    return slope / calibration.temperature, offset / calibration.temperature


def _against(answer: BayesClassifier, result: RunResult) -> KnownAnswerSummary:
    """The learned coefficients beside the best ones."""
    slope, offset = _log_odds(result.module)
    best = torch.cat([answer.coef, torch.tensor([answer.intercept], dtype=torch.float64)])
    learned = torch.cat([slope, torch.tensor([offset], dtype=torch.float64)])
    few = len(answer.coef) <= 100
    comparable = float(best.norm()) > 0 and result.module.objective.row_loss.gives_log_odds
    return KnownAnswerSummary(
        accuracy=answer.accuracy,
        coef=tuple(answer.coef.tolist()) if few else None,
        intercept=answer.intercept,
        learned_coef=tuple(slope.tolist()) if few else None,
        learned_intercept=offset,
        coef_error=float((learned - best).norm() / best.norm()) if comparable else None,
    )


def _expected(expected: Mapping[str, Any], scores: Mapping[str, Scores]) -> tuple[ExpectationSummary, ...] | None:
    """The scores that an experiment expects, beside those of the run."""
    checks = []
    for metric, value in expected.items():
        if metric == "tolerance":
            continue
        name, split = metric.split("/")
        got = scores.get(split, {}).get(name)
        tolerance = expected["tolerance"]
        reached = got is not None and abs(got - value) <= tolerance
        checks.append(ExpectationSummary(metric=metric, value=value, tolerance=tolerance, got=got, reached=reached))
    return tuple(checks) or None


@cache  # of the code that this process has imported
def _git_commit() -> str | None:
    """The commit of the code, where the code is a git checkout; with "+changes" if it is not clean."""
    here = os.fspath(Path(__file__).parent)
    try:
        commit = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,  # seconds, for a file system that hangs; git on a busy machine ends well before
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
