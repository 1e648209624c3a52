"""The content of summary.json as frozen dataclasses, and the one way to read it back; needs no torch.

A field is a key, in the order of the file.  Fields with a default are those that the first versions did not write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from logreg.config import EXACT
from logreg.errors import ConfigError, LogregError
from logreg.evaluation.measured import ClassScores, CrossValidated, Measured, RowWeights, Threshold
from logreg.evaluation.path_row import PathRow
from logreg.files import shown
from logreg.inference.results import CoefficientTable
from logreg.reports.json_fields import from_json, to_json

FILE = "summary.json"
"""Name of the file in a run folder; it is written last, so a run that has it is finished."""

CLASSES_FILE, CONFUSIONS_FILE = "classes.csv", "confusions.csv"
"""Names of the files with the scores of all classes and with all kinds of mistakes, where classes are very many."""

SAME_DATA = ("name", "source", "rows", "classes")
"""Fields of `DatasetSummary` that are equal for two runs on the same rows."""

ROW_SETTINGS = (
    "path",
    "train_path",
    "val_path",
    "test_path",
    "target",
    "labels",
    "split",
    "classes",
    "positive",
    "limit",
)
"""Settings of a dataset that choose its rows, their labels and their splits; the others make features of them."""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """The data of a run.

    Attributes:
        rows: Number of rows by split.
        features: D.
        classes: C names; the first `MAX_LISTED_CLASSES` where they are more.
        class_weight: Weight of each class by name, of so many classes the smallest and the largest; ``None`` where all
            weigh 1.
        backbone: Settings of the network that made the features; ``None`` without one.
        notes: Sentences about the reading of the data.
        leak: The setting that drops columns suspected to be the target under another name; empty for none.
        num_classes: C, where ``classes`` does not name all; else ``None``.
        copies: Changed copies of each train row, which ``rows`` counts too; ``None`` where train has none.
    """

    name: str
    source: str
    rows: Mapping[str, int]
    features: int
    classes: tuple[str, ...]
    class_weight: Mapping[str, float] | None
    backbone: Mapping[str, Any] | None
    notes: tuple[str, ...]
    leak: str = ""
    num_classes: int | None = field(default=None, metadata={"omit_none": True})
    copies: int | None = field(default=None, metadata={"omit_none": True})

    @property
    def scored_rows(self) -> Mapping[str, int]:
        """Number of rows by split, and that of a cross-validation ("cv"), which scores no copies."""
        return {**self.rows, "cv": self.rows["train"] // (1 + (self.copies or 0))}

    @property
    def number_of_classes(self) -> int:
        """C."""
        return self.num_classes or len(self.classes)


@dataclass(frozen=True, kw_only=True)
class MajoritySummary:
    """The baseline of the most frequent class in train, and its accuracy by split."""

    class_name: str = field(metadata={"key": "class"})
    accuracy: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CoefficientSummary:
    """One coefficient by name.

    Attributes:
        coef: Per unit of the feature.
        coef_per_std: Per standard deviation of the feature; ``None`` where it is not standardized.
    """

    feature: str
    class_name: str = field(metadata={"key": "class"})
    coef: float
    coef_per_std: float | None

    @property
    def of_fit(self) -> float:
        """On the scale on which the model was fitted."""
        return self.coef if self.coef_per_std is None else self.coef_per_std


@dataclass(frozen=True, kw_only=True)
class CalibrationSummary:
    """The fields of `Calibration`, as plain values."""

    temperature: float = 1.0
    class_weight: tuple[float, ...] = ()
    rows: int = 0
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """All scores of one split, with intervals.

    Attributes:
        split: The split.
        calibration: Calibration of the scored probabilities.
        calibrated: Sentences on the calibration; empty without a calibration.
        rows: N.
        confidence: Confidence level of every interval.
        metrics: Scores by name, in reading order.
        baseline: The metrics of a model that predicts the class rates of train for every row.
        classes: Scores of each class, in the order of the classes; of more than `MAX_LISTED_CLASSES` those of
            `notable_classes`, and classes.csv has all.
        confusion: Weight of the rows of class i that are predicted as class j, (C, C); empty for so many classes, and
            confusions.csv has the mistakes.
        weights: The meaning of the rows' weights; ``None`` where rows have none.
        threshold: The decision threshold for two classes; else ``None``.
        num_classes: C, where ``classes`` does not have all; else ``None``.
    """

    split: str
    calibration: CalibrationSummary
    calibrated: tuple[str, ...]
    rows: int
    confidence: float
    metrics: Mapping[str, Measured]
    baseline: Mapping[str, float]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[float, ...], ...]
    weights: RowWeights | None = None
    threshold: Threshold | None
    num_classes: int | None = field(default=None, metadata={"omit_none": True})


@dataclass(frozen=True, kw_only=True)
class MistakeSummary:
    """A row whose wrong class has a high predicted probability.

    Attributes:
        row: Number of the row as it was read, from 1.
        true, predicted: Class names.
        probability: Probability of the predicted class.
        because: The features that contributed most to the predicted class, as "name = value".
    """

    row: int
    true: str
    predicted: str
    probability: float
    because: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ObjectiveSummary:
    """The minimized function, and its value on train at the end, in nats."""

    loss: str
    reduction: str
    l2: float
    l1: float
    train: float


@dataclass(frozen=True, kw_only=True)
class OptimalitySummary:
    """The certificate: the fields of `Certificate`, and the properties that it computes from them."""

    objective: str
    value: float
    gap: float
    rigorous: bool
    max_abs_gradient: float
    tolerance: float
    rows: int
    dtype: str
    passes: int
    seconds: float
    separation: str = ""
    rounding: float = 0.0
    dependent: tuple[str, ...] = ()
    draws_anew: bool | None = field(default=None, metadata={"omit_none": True})
    is_convex: bool = True
    decrement: float | None = None
    starts: int = 1
    is_stationary: bool = False
    relative_gap: float
    converged: bool
    verdict: str


@dataclass(frozen=True, kw_only=True)
class LikelihoodSummary:
    """The likelihood of the train rows at its maximum, where the fit is one of maximum likelihood.

    Attributes:
        rows: Number of rows, n; the sum of their weights where these are counts.
        parameters: Number of parameters, k; a category has one less than it has levels.
        log_likelihood: The logarithm of the likelihood, L.
        aic: 2 k - 2 L.
        bic: k log n - 2 L.
        checksum: Of the classes, the weights and the row numbers: equal where runs have the same train rows.

    References:
        Akaike (1974), A new look at the statistical model identification.
        Schwarz (1978), Estimating the dimension of a model.
    """

    rows: float
    parameters: int
    log_likelihood: float
    aic: float
    bic: float
    checksum: int


@dataclass(frozen=True, kw_only=True)
class CrossValidationSummary:
    """The scores of the held-out rows of each fold, of the recipe or of the strength that was chosen by them.

    Attributes:
        folds: Number of folds of a repetition.
        repeats: Number of repetitions.
        rows: Number of train rows, each of which is in a fold.
        metrics: Scores by name: loss, the mean over rows whatever ``reduction`` is, accuracy, and auroc of two classes.
        confidence: Confidence level of every interval.
        typed: Whether the user typed ``cv``; else it is the default of small tables.
    """

    folds: int
    repeats: int = 1
    rows: int
    metrics: Mapping[str, CrossValidated]
    confidence: float
    typed: bool = True


@dataclass(frozen=True, kw_only=True)
class PathSummary:
    """The regularization path that the strength of a penalty was chosen from.

    Attributes:
        rows: The strengths, strongest first.
        select: Name of the score by which the strength was chosen.
        rule: The rule by which it was chosen: best, or one_se.
        best: Position of the chosen strength in ``rows``.
        one_standard_error: Position of the strongest penalty whose score is within one standard error of the best.
        alarm: A sentence where the best strength lies at an end of the path; else ``None``.
    """

    rows: tuple[PathRow, ...]
    select: str = "log_loss"
    rule: str = "best"
    best: int
    one_standard_error: int
    alarm: str | None


@dataclass(frozen=True, kw_only=True)
class KnownAnswerSummary:
    """The learned log-odds beside the best ones, where the data were drawn from a known distribution.

    Attributes:
        accuracy: Accuracy of the best classifier on unseen rows.
        coef, intercept: The best, in source units; ``coef`` is ``None`` for many features, as is ``learned_coef``.
        learned_coef, learned_intercept: The coefficients and intercept of this run, in source units.
        coef_error: Distance of the two, intercept included, relative to the norm of the best.
    """

    accuracy: float
    coef: tuple[float, ...] | None
    intercept: float
    learned_coef: tuple[float, ...] | None
    learned_intercept: float
    coef_error: float | None


@dataclass(frozen=True, kw_only=True)
class ExpectationSummary:
    """A score that the config expects, such as ``accuracy/test``, and the score of this run."""

    metric: str
    value: float
    tolerance: float
    got: float | None
    reached: bool


@dataclass(frozen=True, kw_only=True)
class BestEpochSummary:
    """The epoch of best.ckpt, its loss on val and, where that is known, on train."""

    epoch: float
    loss_val: float = field(metadata={"key": "loss/val"})
    loss_train: float | None = field(default=None, metadata={"key": "loss/train", "omit_none": True})


@dataclass(frozen=True, kw_only=True)
class SecondsSummary:
    """Wall-clock time of the fit, and of the run until its results are known, in seconds."""

    fit: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished run.

    Attributes:
        folder: The run folder, relative to the folder in which the command was typed.
        resumed_from: The checkpoint that the run continued; ``None`` for none.
        command: The command that makes the run again.
        overrides: Settings as typed.
        largest_coefficients: Coefficients, largest first; ``None`` where features have no names.
        tokens: The n-grams of text with the largest coefficients for each class, largest first, by class; ``None``
            without text.
        metrics: Scores by split: ``loss``, the data term of the objective, which a calibration does not change;
            ``accuracy``; and ``auroc`` of two classes.  "cv" has the means of a cross-validation that was typed.
        evaluation: All scores of the last split with intervals, of calibrated probabilities.  Accuracy and AUROC are
            those of ``metrics``; its log loss is of calibrated probabilities and without class weights.
        mistakes: Mistakes, highest probability first; ``None`` where no rows were held out.
        reason: Reason for the solver that optimizer "auto" chose.
        l2_reason: Reason for the value of l2, where it was neither typed nor chosen by scores.
        equation: The fitted model in words, where it is short.
        example: The first row of train by feature, where features are few.
        best: ``None`` without a val split.
        likelihood: AIC and BIC; ``None`` where the fit is none of maximum likelihood.
        inference: Standard errors, intervals and tests of the coefficients; ``None`` where they were not asked for.
        checkpoints: Files, relative to the folder.
        epochs: Passes over the train rows.
        config: All settings of the run.
        git_commit: Commit of the code; ``None`` where the code is no git checkout.
        versions: Version of each package by name.
    """

    status: str = "finished"
    folder: str
    resumed_from: str | None = None
    command: str
    overrides: tuple[str, ...]
    dataset: DatasetSummary
    majority: MajoritySummary
    largest_coefficients: tuple[CoefficientSummary, ...] | None
    tokens: Mapping[str, tuple[str, ...]] | None = field(default=None, metadata={"omit_none": True})
    metrics: Mapping[str, Mapping[str, float]]
    evaluation: EvaluationSummary | None = None
    mistakes: tuple[MistakeSummary, ...] | None = None
    objective: ObjectiveSummary
    optimality: OptimalitySummary
    reason: str | None
    l2_reason: str | None = None
    path: PathSummary | None = None
    cross_validation: CrossValidationSummary | None = field(default=None, metadata={"omit_none": True})
    equation: str | None = None
    example: Mapping[str, float] | None = None
    known_answer: KnownAnswerSummary | None = None
    expected: tuple[ExpectationSummary, ...] | None = None
    best: BestEpochSummary | None = None
    likelihood: LikelihoodSummary | None = field(default=None, metadata={"omit_none": True})
    inference: CoefficientTable | None = field(default=None, metadata={"omit_none": True})
    checkpoints: tuple[str, ...] = ()
    epochs: int
    seconds: SecondsSummary
    seed: int
    config: Mapping[str, Any]
    git_commit: str | None
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in summary.json."""
        plain: dict[str, Any] = to_json(self)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The summary of a run of this version or an earlier one.

        Raises:
            LookupError: A key is missing that every version wrote.
            TypeError: A value has another type.
        """
        evaluation = plain.get("evaluation")
        if evaluation is not None and "calibration" not in evaluation:
            # The first versions knew a temperature alone, and wrote no sentences.
            temperature = evaluation.get("temperature", 1)
            sentences = [] if temperature == 1 else [f"calibrated on val: temperature {temperature:.4g}"]
            older = {"calibration": {"temperature": temperature}, "calibrated": sentences}
            plain = {**plain, "evaluation": {**older, **evaluation}}
        return from_json(cls, plain)

    @property
    def ranking_split(self) -> str:
        """Whose scores compare the run with others: "cv" where a cross-validation was typed, else val, else train."""
        return next(split for split in ("cv", "val", "train") if split in self.metrics)

    @property
    def is_exact(self) -> bool:
        """Whether the run was trained by an exact optimizer."""
        return self.config["optimizer"]["name"] in EXACT


@dataclass(frozen=True, kw_only=True)
class UnfinishedSummary:
    """A job of a sweep that failed, with the error, or was pruned, with the score it had reached."""

    status: str = ""
    overrides: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    error: str | None = None
    epochs: int | None = None


def have_same_rows(summary: Summary | UnfinishedSummary, other_summary: Summary | UnfinishedSummary) -> bool:
    """Whether two finished runs have the same rows, labels and splits, so that they can be compared row by row."""
    if not isinstance(summary, Summary) or not isinstance(other_summary, Summary):
        return False
    settings, others = (one.config.get("dataset", {}) for one in (summary, other_summary))
    return (
        all(getattr(summary.dataset, key) == getattr(other_summary.dataset, key) for key in SAME_DATA)
        and all(settings.get(key) == others.get(key) for key in ROW_SETTINGS)
        and summary.config.get("seed") == other_summary.config.get("seed")
    )


@contextmanager
def reading_summary(file: Path) -> Iterator[None]:
    """Guards code that reads a summary.json, which may have come from anywhere.

    Raises:
        ConfigError: The file lacks something, or holds something else.
    """
    try:
        yield
    except LogregError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"`{shown(file)}` must be the summary of a run, and cannot be read as that. Remove it, or train anew."
        ) from error


def read_summary(folder: Path) -> Summary | UnfinishedSummary:
    """The summary of the run in a folder.

    Raises:
        ConfigError: The file is no summary.
    """
    with reading_summary(folder / FILE):
        plain = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if plain.get("status") == "finished":
            return Summary.from_json(plain)
        return from_json(UnfinishedSummary, plain)
