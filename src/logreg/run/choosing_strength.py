"""Chooses the strength of a penalty, by cross-validation or on the val split: along a path, or by a short search."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from logreg.config import EXACT, RunConfig, is_path
from logreg.data import TensorDataModule
from logreg.errors import ConfigError, DataError
from logreg.evaluation.cross_validation import FoldScores, cross_validated_rows
from logreg.evaluation.path_row import PathRow
from logreg.evaluation.path_selection import (
    SEARCH_TOLERANCE,
    best_of,
    score_path,
    search,
    search_strength,
    simplest_of,
)
from logreg.reports.json_fields import from_json, to_json
from logreg.reports.summary_schema import CrossValidationSummary
from logreg.rows import RowSource, dense_sample
from logreg.run.building import build_module
from logreg.run.cross_validating import device_for_exact, fold_with_copies, make_folds, rows_to_search, summarize_folds
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.folds import FoldPaths, fit_folds, fit_strengths
from logreg.solvers.paths.l1_path import default_l1_strengths
from logreg.solvers.paths.l2_path import PathPoint, Strength, default_strengths, fit_path
from logreg.solvers.problem import Problem
from logreg.solvers.threads import threads_for
from logreg.terminal import show_status

DEFAULT_FOLDS = 5
"""Number of folds by which the strength of a path over few rows is chosen, where no other is typed."""

MAX_DEFAULT_ROWS = 2000
"""Number of train rows from which val chooses the strength of a path, unless ``cv`` is typed.  The best strength on a
fifth of fewer rows is a matter of luck."""

MAX_KEPT_COEF = 2**18
"""Number of coefficients of all fits of a path up to which a checkpoint keeps them, for the picture of a run that
continues: 1 MiB."""

PROGRESS_INTERVAL_S = 5.0
"""Least seconds between two progress lines, where stderr is not a terminal."""


def check_select(config: RunConfig, data: TensorDataModule) -> None:
    """Checks that ``select`` can be computed on val.

    Raises:
        ConfigError: It is the AUROC, and the data, or the val split, do not have two classes.
    """
    if config.select != "auroc":
        return
    advice = "Type select=accuracy, or leave it out for log_loss."
    classes = data.facts.num_classes
    if classes != 2:
        raise ConfigError(f"`select=auroc` must have two classes, and {data.facts.name} has {classes}. {advice}")
    if alone := _only_class_of_val(data):
        raise ConfigError(f"`select=auroc` must have rows of both classes in val, and all are {alone!r}. {advice}")


def _only_class_of_val(data: TensorDataModule) -> str | None:
    """The class of all rows of val; ``None`` where they have several, or there is no val split."""
    if "val" not in data.splits:
        return None
    labels = data.labels("val").unique()
    return data.facts.class_names[int(labels[0])] if len(labels) == 1 else None


def without_choice(config: RunConfig, data: TensorDataModule) -> tuple[float | None, str]:
    """The value of ``l2=auto`` where no strength can be chosen by scores, and the reason; ``None`` where one can."""
    if config.optimizer["name"] not in EXACT:
        optimizer = config.optimizer["name"]
        return 0.0, f"l2=0 with optimizer={optimizer}: type l2 for a penalty, or optimizer=auto to have it chosen"
    if config.fixed_l1:
        return 0.0, f"l2=0 beside l1={config.fixed_l1:g}: type l2=path to have it chosen"
    if config.cv is not None:
        return None, ""
    alone = _only_class_of_val(data)
    if "val" in data.splits and alone is None:
        return None, ""
    problem = build_module(dataclasses.replace(config, l2=1.0), data.facts).problem(torch.device("cpu"))
    l2 = float(f"{problem.row_sum_scale:.3g}")
    why = f"all rows of val are {alone!r}" if alone else "there is no val split to choose it by"
    return l2, f"l2={l2:g} as scikit-learn has it (C=1), since {why}: type l2, or cv=5"


@dataclass(frozen=True)
class Chosen:
    """The strengths of the penalties of a run.

    Attributes:
        l2: The strength of l2.
        l1: The strength of l1.
        asked: The settings as typed by which the strengths were chosen, by key; empty where both are numbers.
        path: The regularization path that a strength was chosen from; ``None`` where there is none.
        points: The fitted points of that path; empty where it is that of a checkpoint.
        place: Position of the chosen one, from which training starts.
        kept_coef: The coefficients of that path in a checkpoint, (P, K, D); ``None`` where it has none.
        cross_validation: The scores over the folds: of the chosen strength, or of the recipe.
        reason: Reason for the value of l2, where it was neither typed nor chosen by scores; else empty.
    """

    l2: float
    l1: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    path: Sequence[PathRow] | None = None
    points: Sequence[PathPoint] = ()
    place: int = 0
    cross_validation: CrossValidationSummary | None = None
    reason: str = ""
    kept_coef: Tensor | None = None

    @property
    def coef(self) -> Tensor | None:
        """Coefficients of the path, (P, K, D), as the model has them; ``None`` where they are not known."""
        if not self.points:
            return self.kept_coef
        return torch.stack([point.point[:, :-1] for point in self.points]).cpu()

    @property
    def start(self) -> PathPoint | None:
        """The point from which training starts; ``None`` for the start that the config names."""
        return self.points[self.place] if self.points else None

    @property
    def rule(self) -> str:
        """The rule by which the strength was chosen from the path: best, or one_se."""
        return str(self.asked.get("cv_rule", "best"))

    def fixed(self, config: RunConfig) -> RunConfig:
        """The config with these strengths in place of the settings that have chosen them."""
        return dataclasses.replace(config, l2=self.l2, l2_path=None, l1=self.l1, l1_ratio=None, cv_rule="best")

    @property
    def for_checkpoint(self) -> dict[str, Any] | None:
        """Plain values, for a run that continues from a checkpoint; ``None`` where there is nothing to keep."""
        if not self.asked and self.cross_validation is None:
            return None
        rows = [dataclasses.asdict(row) for row in self.path or ()]
        kept = None if self.cross_validation is None else to_json(self.cross_validation)
        coef = self.coef
        coef = None if coef is None or coef.numel() > MAX_KEPT_COEF else coef.float()
        return {**self.asked, "rows": rows, "reason": self.reason, "cross_validation": kept, "coef": coef}


def asked_of(config: RunConfig) -> dict[str, Any]:
    """The settings as typed that choose a strength, by key; empty where l2 and l1 are numbers."""
    if config.l2 is not None and not config.has_path:
        return {}
    asked = {"asked": config.typed_l2, "cv": config.cv, "cv_repeats": config.cv_repeats, "cv_rule": config.cv_rule}
    return asked | ({"l1": config.l1, "l1_ratio": config.l1_ratio} if is_path(config.l1) else {})


def choose_strengths(config: RunConfig, data: TensorDataModule, folds: list[Tensor], shown: bool) -> Chosen:
    """The numbers that were typed, or the strength of a path or a search that is best.

    Args:
        config: Config of the run.
        data: The data of the run.
        folds: Fold of each train row, shape (N,), of each repetition of a cross-validation that was typed; else empty.
        shown: Whether progress is shown.

    Raises:
        ConfigError: There is no val split to choose by, and too many rows for a cross-validation by itself.
    """
    l2, reason, asked = config.l2, "", asked_of(config)
    if config.has_path:
        return along_path(config, data, folds, shown)
    if l2 is None:
        l2, reason = without_choice(config, data)
    return along_path(config, data, folds, shown) if l2 is None else Chosen(l2, config.fixed_l1, asked, reason=reason)


def strengths_of_checkpoint(config: RunConfig, held: Mapping[str, Any], same_run: bool) -> Chosen:
    """The numbers that were typed, or the strengths of the checkpoint that the run continues, with their path.

    Args:
        config: Config of the run.
        held: The checkpoint.
        same_run: Whether the run is the interrupted one itself, whose recipe is the same.

    Raises:
        ConfigError: The config has another path than the checkpoint, or another cross-validation of it.
    """
    asked, arguments = asked_of(config), held["hyper_parameters"]
    # Checkpoints of earlier versions have no path.
    before = held.get("path", {"asked": config.typed_l2}) or {}
    kept = before.get("cross_validation")
    # A recipe that continues for longer is another one, unlike a strength that was chosen.
    scores = from_json(CrossValidationSummary, kept) if kept and (before.get("rows") or same_run) else None
    if not asked:
        return Chosen(float(config.l2 or 0), config.fixed_l1, cross_validation=scores if same_run else None)
    for key in ("l1", "l1_ratio", "asked"):
        mine, its = asked.get(key), before.get(key)
        if mine not in (None, "auto", its):
            if key == "asked" and is_path(config.l1):
                constraint = f"be {its} to continue from this checkpoint, whose l1 was chosen beside it"
                raise ConfigError.broken("l2", constraint, mine, "Leave it out.")
            along = "l1" if is_path(config.l1) else "l2"
            raise ConfigError(
                f"`ckpt_path` must be of a run with the same path over {along}. Leave the path out, to continue with "
                f"{along}={float(arguments[along]):g}, which the checkpoint has."
            )
    for key, usual in (("cv", None), ("cv_repeats", 1), ("cv_rule", "best")):
        its = before.get(key, usual)
        if asked[key] != its:
            its, mine = ("null" if value is None else value for value in (its, asked[key]))
            raise ConfigError(
                f"`{key}` must be {its} to continue from this checkpoint, whose strength it has chosen, got {mine}. "
                "Leave it out, or leave ckpt_path out to train anew."
            )
    has_own_l2 = config.l2 is not None and config.l1_ratio is None
    l2 = float(config.l2 if has_own_l2 else arguments["l2"])  # type: ignore[arg-type]  # has_own_l2
    l1 = float(arguments["l1"]) if is_path(config.l1) else config.fixed_l1
    path = [PathRow(**row) for row in before.get("rows", ())]
    if (l1, l2) not in [row.order for row in path]:
        path = []
    coef, reason = before.get("coef") if path else None, before.get("reason", "")
    return Chosen(l2, l1, asked, path or None, cross_validation=scores, reason=reason, kept_coef=coef)


def _default_folds(config: RunConfig, data: TensorDataModule) -> list[Tensor]:
    """The folds by which a strength is chosen where none were typed; empty where it is chosen on val."""
    if data.facts.source_rows >= MAX_DEFAULT_ROWS:
        return []
    try:
        return make_folds(data, DEFAULT_FOLDS, 1, config.seed)
    except DataError:  # rows of a class, or groups, are too few for folds: val chooses
        return []


def strengths_along(config: RunConfig, problem: Problem, train: RowSource) -> list[Strength]:
    """The strengths of the path that a config names, from the strongest to the weakest; empty for a search."""
    if is_path(config.l1):
        ratio, l2 = config.l1_ratio or 1.0, float(config.l2 or 0.0)
        if config.l1 == "path":
            found = default_l1_strengths(problem, train, ratio)
            return found if config.l1_ratio is not None else [Strength(l2, one.l1) for one in found]
        assert isinstance(config.l1, list)
        strengths = [Strength(l2 if config.l1_ratio is None else l1 * (1 - ratio) / ratio, l1) for l1 in config.l1]
    else:
        l1, values = config.fixed_l1, config.l2_path if isinstance(config.l2_path, list) else []
        if config.l2_path == "default":
            values = default_strengths(problem, dense_sample(train))
        strengths = [Strength(float(l2), l1) for l2 in values]
    return sorted(set(strengths), key=lambda one: (one.l1, one.l2), reverse=True)


def along_path(config: RunConfig, data: TensorDataModule, folds: list[Tensor], shown: bool) -> Chosen:
    """Fits several strengths of a penalty, scores them by cross-validation or on val, and chooses one.

    With ``l2=auto`` the fits are few and rough.  In either case the final fit starts from the chosen point.  Arguments
    and errors are those of `choose_strengths`.
    """
    folds, name = folds or _default_folds(config, data), "l1" if is_path(config.l1) else "l2"
    if not folds and "val" not in data.splits:
        advice = "Set dataset.split.val=0.2" if config.takes_split else f"Type {name}=1e-3 in place of the path"
        if data.facts.source_rows >= MAX_DEFAULT_ROWS:  # of fewer rows 5 folds were tried
            advice += ", or cv=5"
        raise ConfigError(
            f"a path over {name} must have held-out rows to choose by, and there is no val split. {advice}."
        )
    if not folds and config.cv_rule != "best":
        raise ConfigError("`cv_rule` must go with a cross-validation, and val chooses here. Type cv=5.")
    data.device = device = device_for_exact(config)
    problem = build_module(dataclasses.replace(config, l2=1.0, l2_path=None, l1=0.0), data.facts).problem(device)
    train = rows_to_search(data, problem, device)
    strengths = strengths_along(config, problem, data.row_source("train", device, is_share=False))
    if shown:
        print(_announced(config, data, strengths, folds), end="", file=sys.stderr, flush=True)
    scored = _CrossValidated(config, data, problem, train, folds) if folds else None
    points: Sequence[PathPoint]
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        if not strengths:
            tolerance = max(SEARCH_TOLERANCE, config.tolerance)
            show = _progress(shown, "cross-validation" if folds else "val")
            sample = dense_sample(data.row_source("train", device, is_share=False))
            if scored is not None:
                rows, points, place = search(lambda l2: scored.fit(l2, tolerance, show), problem, sample, config.select)
            else:
                val = rows_to_search(data, problem, device, "val")
                rows, points, place = search_strength(
                    problem, train, val, config.select, tolerance, config.seed, show, sample
                )
        elif scored is not None:
            rows, points = scored.fit_path(strengths, config.tolerance)
            place = best_of(rows, config.select)
        else:
            if name == "l1":
                points = fit_strengths(problem, train, strengths, config.tolerance, config.seed)
            else:
                beside = dataclasses.replace(
                    problem, objective=dataclasses.replace(problem.objective, l1=config.fixed_l1)
                )
                of_path = fit_path(beside, [one.l2 for one in strengths], config.tolerance, config.seed)
                points = drive(of_path, train)
            rows = score_path(problem, points, rows_to_search(data, problem, device, "val"), config.select == "auroc")
            place = best_of(rows, config.select)
    if config.cv_rule == "one_se":
        place = simplest_of(rows, config.select)
    row = rows[place]
    scores = None if scored is None else scored.summary(row, config.cv is not None)
    return Chosen(row.l2, row.l1, asked_of(config), rows, points, place, scores)


def _announced(
    config: RunConfig, data: TensorDataModule, strengths: Sequence[Strength], folds: Sequence[Tensor]
) -> str:
    """The line on a path that begins, or on folds that were not typed; empty for a search on val."""
    by_default = ""
    if folds and config.cv is None:
        by_default = (
            f"{DEFAULT_FOLDS}-fold cross-validation over the {data.facts.source_rows:,} train rows, the default "
            f"below {MAX_DEFAULT_ROWS:,} (cv={DEFAULT_FOLDS})"
        )
    if not strengths:
        return f"choosing l2 by {by_default}\n" if by_default else ""
    name = "l1" if is_path(config.l1) else "l2"
    values = [getattr(one, name) for one in strengths]
    line = f"path: {len(values)} strengths of {name} from {max(values):.3g} to {min(values):.3g}"
    return f"{line}, chosen by {by_default}\n" if by_default else f"{line}\n"


def _progress(shown: bool, by: str) -> Callable[[PathRow], None]:
    """A function that shows the result of each fit of a search: as a status line, or from time to time as a line."""
    printed_s = time.monotonic()

    def show(row: PathRow) -> None:
        nonlocal printed_s
        line = f"choosing l2 by {by}: with {row.l2:g} loss {row.loss_val:.4g}"
        if by == "val":
            line = f"choosing l2 on val: with {row.l2:g} loss/val {row.loss_val:.4g}"
        if shown:
            show_status(line)
        if shown and not sys.stderr.isatty() and time.monotonic() - printed_s > PROGRESS_INTERVAL_S:
            print(line, file=sys.stderr, flush=True)
            printed_s = time.monotonic()

    return show


class _CrossValidated:
    """Fits strengths on all rows and without each fold, and scores them on the rows that they have not seen."""

    def __init__(
        self, config: RunConfig, data: TensorDataModule, problem: Problem, train: RowSource, folds: list[Tensor]
    ) -> None:
        self._config, self._problem, self._train, self._folds = config, problem, train, folds
        self._held_out = [fold_with_copies(fold, data) for fold in folds]
        self._auroc = problem.num_outputs <= 2
        self._paths: list[FoldPaths] = []
        """All points of each repetition so far, from which further fits start."""
        self._scores: dict[tuple[float, float], tuple[FoldScores, int]] = {}
        """The scores of each strength, and its position in them."""

    def fit_path(self, strengths: Sequence[Strength], tolerance: float) -> tuple[list[PathRow], Sequence[PathPoint]]:
        """The rows and the points of strengths, in their order."""
        problem, train, config = self._problem, self._train, self._config
        known: Sequence[FoldPaths | None] = self._paths or [None] * len(self._folds)
        paths = [
            fit_folds(problem, train, fold, strengths, tolerance, config.seed, not number, before)
            for number, (fold, before) in enumerate(zip(self._held_out, known, strict=True))
        ]
        self._paths = [old.joined(new) for old, new in zip(self._paths, paths, strict=True)] if self._paths else paths
        scores = FoldScores.of_paths(problem, train, self._folds, paths, self._auroc)
        rows = cross_validated_rows(problem, paths[0].full, scores, paths, config.select)
        self._scores |= {row.order: (scores, place) for place, row in enumerate(rows)}
        return rows, paths[0].full

    def fit(self, l2: float, tolerance: float, show: Callable[[PathRow], None]) -> tuple[PathRow, PathPoint]:
        """The row and the point of one strength of l2."""
        rows, points = self.fit_path([Strength(l2, self._config.fixed_l1)], tolerance)
        show(rows[0])
        return rows[0], points[0]

    def summary(self, row: PathRow, typed: bool) -> CrossValidationSummary:
        """The scores of the chosen strength over the folds."""
        scores, place = self._scores[row.order]
        return summarize_folds(scores, self._folds, place, typed)
