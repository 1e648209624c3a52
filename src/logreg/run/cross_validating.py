"""Cross-validation of a run: makes the folds, and scores a recipe on the rows that each of its fits has not seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from logreg.config import EXACT, MAX_SEED, RunConfig
from logreg.data import TensorDataModule
from logreg.data.folds import cross_validation_folds
from logreg.data.row_source import SplitRows
from logreg.evaluation.cross_validation import FoldScores, cross_validated, held_out_rows
from logreg.evaluation.intervals import CONFIDENCE
from logreg.evaluation.path_selection import HeldOutScores, score_points
from logreg.facts import Split
from logreg.reports.summary_schema import CrossValidationSummary
from logreg.run.building import build_data, build_module, build_trainer, device_of, passes_without_optimum
from logreg.run.separability import separation_before_fit
from logreg.solvers.paths.folds import fit_folds
from logreg.solvers.paths.l2_path import Strength
from logreg.solvers.paths.small_folds import MAX_ROW_NUMBERS
from logreg.solvers.problem import Problem
from logreg.solvers.threads import threads_for
from logreg.training.checkpoints import BufferedCheckpointIO


def make_folds(data: TensorDataModule, folds: int, repeats: int, seed: int) -> list[Tensor]:
    """The fold of each train row, shape (N,), of each repetition; every repetition has a seed of its own.

    Changed copies of a row are not counted: they are in its fold, and are not scored.

    Raises:
        DataError: The rows do not allow so many folds.
    """
    rows, names = data.facts.source_rows, data.facts.class_names
    labels, groups = data.labels("train")[:rows], data.groups("train")
    groups = None if groups is None else groups[:rows]
    seeds = ((seed + repeat) % (MAX_SEED + 1) for repeat in range(repeats))
    limited = data.preparation.limit is not None
    return [cross_validation_folds(labels, groups, names, folds, each, limited) for each in seeds]


def fold_with_copies(fold: Tensor, data: TensorDataModule) -> Tensor:
    """The fold of each train row and of its copies, which stand behind the rows in the same order."""
    return fold.repeat(1 + data.facts.copies)


def summarize_folds(
    scores: FoldScores, folds: list[Tensor], place: int = 0, typed: bool = True
) -> CrossValidationSummary:
    """The scores of one point over the folds; ``place`` is its position, ``typed`` whether the user typed ``cv``."""
    return CrossValidationSummary(
        folds=len(scores.of_folds) // len(folds),
        repeats=len(folds),
        rows=len(folds[0]),
        metrics=cross_validated(scores, place),
        confidence=CONFIDENCE,
        typed=typed,
    )


def device_for_exact(config: RunConfig) -> torch.device:
    """The device of passes in float64, which Apple's GPUs lack."""
    device = device_of(config.accelerator)
    return torch.device("cpu") if device.type == "mps" else device


def rows_to_search(data: TensorDataModule, problem: Problem, device: torch.device, split: Split = "train") -> SplitRows:
    """The rows of a split over which the fits of a path or of folds are made and scored.

    Several processes share them, unless train is so small that it is solved in memory: then each of them makes all
    fits, as one process does.
    """
    is_shared = problem.rows * problem.num_features > MAX_ROW_NUMBERS
    return data.row_source(split, device, is_shared)


def cross_validate(
    config: RunConfig, data: TensorDataModule, folds: list[Tensor], status: Callable[[str], None]
) -> CrossValidationSummary:
    """Scores a recipe: fits it without the rows of each fold, and scores it on them.

    Features are encoded and standardized as over all train rows, for which no labels are used.

    Args:
        config: Config of the run, with numbers for l2 and l1.
        data: The data of the run.
        folds: Fold of each train row, shape (N,), of each repetition.
        status: Shows a line while it works.
    """
    assert config.cv is not None
    words = f"cross-validation: {len(folds) * config.cv} fits without the rows of a fold ..."
    status(words)
    auroc, module = data.facts.is_binary, build_module(config, data.facts)
    data.device = device = device_for_exact(config)
    problem = module.problem(device)
    train = rows_to_search(data, problem, device)
    strength = Strength(module.objective.l2, module.objective.l1)
    if config.optimizer["name"] in EXACT and strength != Strength():
        with threads_for(4.0 * problem.rows * problem.num_parameters):
            paths = [
                fit_folds(
                    problem,
                    train,
                    fold_with_copies(fold, data),
                    [strength],
                    config.tolerance,
                    config.seed,
                    with_full=False,
                )
                for fold in folds
            ]
        return summarize_folds(FoldScores.of_paths(problem, train, folds, paths, auroc), folds)
    scores: list[HeldOutScores] = []
    for fold in folds:
        for number in range(config.cv):
            point = _fitted_without(config, data, fold_with_copies(fold, data) == number, problem)
            scores.append(score_points(problem, [point], held_out_rows(train, fold, number), auroc, train.processes))
            status(f"{words} {len(scores)} done")
    return summarize_folds(FoldScores(scores, len(folds)), folds)


def _fitted_without(config: RunConfig, data: TensorDataModule, held_out: Tensor, problem: Problem) -> Tensor:
    """The parameters (K, D + 1) of a fit without some train rows, in the coordinates of ``problem``."""
    part = build_data(config, processes=data.processes)
    part.adopt_rows_of(data, held_out)
    module = build_module(config, part.facts)
    if module.exact:
        module.separation = separation_before_fit(module, part, lambda line: None)
    most = passes_without_optimum(config, module)
    trainer = build_trainer(config, None, BufferedCheckpointIO(), [], has_val=False, most=most)
    with threads_for(4.0 * problem.rows * problem.num_parameters):
        trainer.fit(module, datamodule=part)
    return module.point_of(problem).to(problem.model.center.device)
