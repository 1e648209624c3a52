"""A finished run as plain values: the content of summary.json."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from logreg.config import RunConfig
from logreg.data import BayesClassifier, TensorDataModule
from logreg.errors import shell_line
from logreg.evaluation.held_out import Evaluation, Predicted
from logreg.evaluation.path_selection import PathRow, path_summary
from logreg.evaluation.scores import Scores
from logreg.facts import Split
from logreg.files import shown
from logreg.invocation import command_words
from logreg.optimality.certificate import Certificate
from logreg.run_folder import CHECKPOINTS
from logreg.training.module import LogisticModule

Summary = dict[str, Any]
"""The content of summary.json."""

FEW_FEATURES = 4
"""Up to so many features the learned equation is written out."""

MISTAKES = 8
"""Rows that the model is surest of and wrong about, in report.md."""

LARGEST = 10
"""Coefficients in report.md; all of them stand in coefficients.csv."""


@dataclass(frozen=True)
class RunResult:
    """A finished run, with its objects still in memory."""

    config: RunConfig
    folder: Path
    overrides: Sequence[str]
    module: LogisticModule
    data: TensorDataModule
    scores: Mapping[Split, Scores]
    """Of the parameters at the end of training."""
    certificate: Certificate
    """Of the same parameters."""
    best: Mapping[str, float]
    """Epoch and loss/val of best.ckpt."""
    epochs: int
    resumed_from: Path | None = None
    """The checkpoint that the run went on from."""
    path: Sequence[PathRow] | None = None
    """The regularization path that l2 was chosen from."""
    predicted: Predicted | None = None
    """The last split (test, or val, or train where there is no other) as the model sees it."""
    evaluation: Evaluation | None = None
    """All scores of that split."""
    l2_reason: str = ""
    """Why l2 is what it is, where nobody said what it shall be and none was chosen."""

    @property
    def place(self) -> int:
        """Of what was chosen, in the path."""
        return [row.l2 for row in self.path or ()].index(self.module.objective.l2)

    @property
    def scored(self) -> Split:
        """The last split."""
        return self.data.splits[-1]


def summarize(result: RunResult, seconds: Mapping[str, float]) -> Summary:
    """All that is worth keeping of a run, as plain values.

    Args:
        result: The run.
        seconds: How long what took.
    """
    module, facts = result.module, result.module.facts
    summary: Summary = {
        "status": "finished",
        "folder": shown(result.folder),
        "resumed_from": shown(result.resumed_from) if result.resumed_from else None,
        "command": shell_line([*command_words("train"), *result.overrides]),
        "overrides": list(result.overrides),
        "dataset": {
            "name": facts.name,
            "source": facts.source,
            "rows": dict(facts.rows),
            "features": facts.num_features,
            "classes": list(facts.class_names),
            "class_weight": dict(zip(facts.class_names, facts.class_weight, strict=True))
            if facts.class_weight
            else None,
            "backbone": dict(facts.backbone) or None,
            "notes": list(result.data.notes),
            "leak": result.data.leaks.advice,
        },
        "majority": _majority(result),
        "largest_coefficients": largest_coefficients(module),
        "metrics": {split: dict(scores) for split, scores in result.scores.items()},
        "evaluation": None
        if result.evaluation is None
        else {
            "split": result.scored,
            "calibration": module.calibration.as_dict(),
            "calibrated": module.calibration.in_words(facts.class_names),
            **result.evaluation.as_dict(),
        },
        "mistakes": mistakes(result),
        "objective": {
            **dataclasses.asdict(module.objective),
            "train": result.scores["train"]["loss"]
            + float(module.objective.penalty(module.model.coef.detach().double())),
        },
        "optimality": result.certificate.as_dict(),
        "reason": module.reason or None,
        "l2_reason": result.l2_reason or None,
        "path": path_summary(result.path, result.config.select, result.place) if result.path else None,
        "equation": equation(module),
        "example": example(result),
        "known_answer": _against(result.data.bayes_classifier, result) if result.data.bayes_classifier else None,
        "expected": _expected(result.config.expected, result.scores),
        "best": dict(result.best) or None,
        "checkpoints": [f"{CHECKPOINTS}/best.ckpt", f"{CHECKPOINTS}/last.ckpt"],
        "epochs": result.epochs,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seed": result.config.seed,
        "config": dataclasses.asdict(result.config),
        "git_commit": _git_commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # says which CUDA it was built for, unlike the package's number
            **{package: version(package) for package in ("lightning", "torchmetrics", "numpy")},
        },
    }
    return summary


def mistakes(result: RunResult) -> list[dict[str, Any]] | None:
    """The rows that the model is wrong about and surest of, surest first.

    Returns:
        The row as it was read, counted from 1; its class, the predicted one and its probability; and, where
        features have names, the three that spoke most for the wrong class.  ``None`` where no rows were held out.
    """
    from logreg.reports.diagnostic_plots import confident_mistakes

    if result.predicted is None or result.scored == "train":
        return None
    module, data, split = result.module, result.data, result.scored
    facts, wrong = module.facts, confident_mistakes(result.predicted, MISTAKES)
    listed: list[dict[str, Any]] = []
    if not wrong:
        return listed
    features = data.rows(split, [one.position for one in wrong]).features
    row_numbers = data.source_row_numbers(split)
    coef = module.model.coef.detach().cpu().double()
    coef = torch.cat([-coef / 2, coef / 2]) if len(coef) == 1 else coef
    standardized = module.model.cpu().standardize(features.double())
    for one, source, x in zip(wrong, facts.stored.inverse_transform(features), standardized, strict=True):
        said = (coef[one.predicted] - coef[one.true]) * x
        most = said.topk(min(3, len(said))).indices.tolist() if facts.feature_names else []
        listed.append(
            {
                "row": 1 + int(row_numbers[one.position]),
                "true": facts.class_names[one.true],
                "predicted": facts.class_names[one.predicted],
                "probability": one.probability,
                "because": [f"{facts.feature_names[place]} = {float(source[place]):.4g}" for place in most],
            }
        )
    return listed


def equation(module: LogisticModule) -> str | None:
    """The fitted model in words, for two classes and few features: what it predicts, calibrated if it is.

    Returns:
        Such as "p(pass) = sigmoid(1.50 * hours - 4.08), even odds at 2.72 hours", or ``None``.
    """
    facts = module.facts
    if not facts.is_binary or facts.num_features > FEW_FEATURES or not facts.feature_names:
        return None
    slope, offset = calibrated_log_odds(module)
    terms = [(float(value), f" * {name}") for value, name in zip(slope, facts.feature_names, strict=True)]
    written = ""
    for value, name in [*terms, (offset, "")]:
        sign = "-" if value < 0 else "+"
        written += (
            f" {sign} {short(abs(value))}{name}" if written else f"{'-' if value < 0 else ''}{short(abs(value))}{name}"
        )
    text = f"p({facts.class_names[1]}) = sigmoid({written})"
    if facts.num_features == 1 and slope[0]:
        text += f", even odds at {short(-offset / float(slope[0]))} {facts.feature_names[0]}"
    return text


def short(value: float) -> str:
    """Two decimals, or three digits of a very small or large number."""
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def example(result: RunResult) -> dict[str, float] | None:
    """The first row of train, as `scripts/predict.py` takes one; ``None`` where it is not a few numbers with names."""
    facts = result.module.facts
    few = 0 < len(facts.feature_names) <= FEW_FEATURES
    if not few or tuple(column.name for column in facts.columns) not in ((), facts.feature_names):
        return None
    row = facts.stored.inverse_transform(result.data.rows("train", [0]).features)[0]
    return dict(zip(facts.feature_names, row.tolist(), strict=True))


def largest_coefficients(module: LogisticModule, most: int = LARGEST) -> list[dict[str, Any]] | None:
    """The features that say most, where they have names.

    Returns:
        Feature, class, coefficient in source units, and coefficient per standard deviation (``None`` where
        the features are not standardized), by the size of what the model multiplies; at most ``most``.
    """
    facts = module.facts
    if not facts.feature_names:
        return None
    own, (coef, _) = module.model.coef.detach().cpu().double(), module.model.in_source_units()
    names = facts.class_names if len(coef) > 1 else facts.class_names[1:]
    largest = own.abs().flatten().topk(min(most, own.numel())).indices
    return [
        {
            "feature": facts.feature_names[place % own.shape[1]],
            "class": names[place // own.shape[1]],
            "coef": float(coef.flatten()[place]),
            "coef_per_std": float(own.flatten()[place]) if facts.std else None,
        }
        for place in largest.tolist()
    ]


def _majority(result: RunResult) -> dict[str, Any]:
    """The most frequent class of train, and how often it is right in each split: what any model must beat."""
    facts, data = result.module.facts, result.data
    counts = {
        split: torch.bincount(data.labels(split), data.sample_weight(split), facts.num_classes).double()
        for split in data.splits
    }
    most = int(counts["train"].argmax())
    return {
        "class": facts.class_names[most],
        "accuracy": {split: float(count[most] / count.sum()) for split, count in counts.items()},
    }


def _log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """Slope (D,) and offset of the log-odds of class 1, in source units; with K = 2 a difference."""
    coef, intercept = module.model.in_source_units()
    if len(coef) == 1:
        return coef[0], float(intercept[0])
    return coef[1] - coef[0], float(intercept[1] - intercept[0])


def calibrated_log_odds(module: LogisticModule) -> tuple[torch.Tensor, float]:
    """The same of the probabilities as they are predicted."""
    slope, offset = _log_odds(module)
    calibration = module.calibration
    if calibration.log_weight is not None:
        offset -= float(calibration.log_weight.diff())
    return slope / calibration.temperature, offset / calibration.temperature


def _against(answer: BayesClassifier, result: RunResult) -> dict[str, Any]:
    """The learned coefficients against the best ones; error relative to the norm of the latter."""
    slope, offset = _log_odds(result.module)
    best = torch.cat([answer.coef, torch.tensor([answer.intercept], dtype=torch.float64)])
    learned = torch.cat([slope, torch.tensor([offset], dtype=torch.float64)])
    few = len(answer.coef) <= 100
    return {
        "accuracy": answer.accuracy,
        "coef": answer.coef.tolist() if few else None,
        "intercept": answer.intercept,
        "learned_coef": slope.tolist() if few else None,
        "learned_intercept": offset,
        "coef_error": float((learned - best).norm() / best.norm()) if float(best.norm()) else None,
    }


def _expected(expected: Mapping[str, Any], scores: Mapping[Split, Scores]) -> list[dict[str, Any]] | None:
    """What an experiment promised against what came out."""
    checks = []
    for metric, value in expected.items():
        if metric == "tolerance":
            continue
        name, split = metric.split("/")
        got = scores.get(split, {}).get(name)  # type: ignore[call-overload]  # any text
        tolerance = expected["tolerance"]
        reached = got is not None and abs(got - value) <= tolerance
        checks.append({"metric": metric, "value": value, "tolerance": tolerance, "got": got, "reached": reached})
    return checks or None


def _git_commit() -> str | None:
    """The commit of the code, where the code is a git checkout; with "+changes" if it is not clean."""
    here = os.fspath(Path(__file__).parent)
    try:
        commit = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
