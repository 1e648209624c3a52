"""Cross-validated scores: of each strength of a path, and of one recipe.

References:
    Stone (1974), Cross-validatory choice and assessment of statistical predictions.
    Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent:
    means and standard errors are those of their program, cv.glmnet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logreg.config import SELECT
from logreg.evaluation.intervals import CONFIDENCE
from logreg.evaluation.measured import CrossValidated
from logreg.evaluation.path_row import PathRow
from logreg.evaluation.path_selection import HeldOutScores, path_row, score_points
from logreg.facts import Batch
from logreg.rows import RowSource, chosen_rows, first_position
from logreg.solvers.paths.folds import FoldPaths
from logreg.solvers.paths.l2_path import PathPoint
from logreg.solvers.problem import Problem


def held_out_rows(rows: RowSource, folds: Tensor, fold: int) -> Iterator[Batch]:
    """The rows of one fold, block by block.

    Args:
        rows: All rows, which several processes may share.
        folds: Fold of each of the first N rows, shape (N,); changed copies, which may follow, are not held out.
        fold: The fold.
    """
    first = first_position(rows)
    for block in rows.blocks():
        own = folds[first : (first := first + len(block.labels))] == fold
        place = own.nonzero()[:, 0].to(block.labels.device)
        if len(place):
            yield chosen_rows(block, place)


@dataclass(frozen=True)
class FoldScores:
    """Scores of P points on the held-out rows of each fold.

    Attributes:
        of_folds: The scores in each fold, one repetition after the other.
        repeats: R, the number of repetitions, each with folds of its own.
    """

    of_folds: Sequence[HeldOutScores]
    repeats: int = 1

    @classmethod
    def of_paths(
        cls, problem: Problem, rows: RowSource, folds: Sequence[Tensor], paths: Sequence[FoldPaths], auroc: bool
    ) -> FoldScores:
        """Scores the points of each fold on the rows that they have not seen.

        Args:
            problem: The minimization problem over all rows.
            rows: All rows, which several processes may share.
            folds: Fold of each row, shape (N,), of each repetition.
            paths: Fits of each repetition.
            auroc: Whether the AUROC is computed too; for two classes only.
        """
        scores = [
            score_points(
                problem, [point.point for point in points], held_out_rows(rows, fold, number), auroc, rows.processes
            )
            for fold, path in zip(folds, paths, strict=True)
            for number, points in enumerate(path.of_folds)
        ]
        return cls(scores, len(folds))

    def values(self, name: str) -> Tensor | None:
        """One score, such as "accuracy", in each fold, shape (J, P); ``None`` where it was not computed."""
        values = [getattr(scores, name) for scores in self.of_folds]
        return None if values[0] is None else torch.stack(values).cpu()

    def weights(self, name: str) -> Tensor:
        """The weight of each fold's score, shape (J,)."""
        of_loss = name in ("loss", "capped")
        weights = [scores.loss_weight if of_loss else scores.weight for scores in self.of_folds]
        return torch.tensor(weights, dtype=torch.float64)

    def mean_and_error(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean of one score over the folds, weighted by their rows, and its standard error, shape (P,) each.

        The squared standard error is the weighted variance of the folds, divided by one less than their number.  That
        of repeated folds is its mean over the repetitions, since each of them holds out the same rows.
        """
        values, weights = self.values(name), self.weights(name)
        assert values is not None
        values, weights = values.view(self.repeats, -1, values.shape[1]), weights.view(self.repeats, -1, 1)
        means = (weights * values).sum(1) / weights.sum(1)
        variances = (weights * (values - means.unsqueeze(1)).square()).sum(1) / weights.sum(1)
        return means.mean(0), (variances / (values.shape[1] - 1)).mean(0).sqrt()


def cross_validated_rows(
    problem: Problem, points: Sequence[PathPoint], scores: FoldScores, paths: Sequence[FoldPaths], select: str
) -> list[PathRow]:
    """The rows of a path: the fits on all rows, with the scores of the fits without each fold.

    Args:
        problem: The minimization problem over all rows.
        points: The fit on all rows for each strength.
        scores: The scores in each fold.
        paths: Fits of each repetition.
        select: The score whose values in each fold the rows keep.
    """
    loss, error = scores.mean_and_error("loss")
    capped, _ = scores.mean_and_error("capped")
    accuracy, accuracy_error = scores.mean_and_error("accuracy")
    has_auroc = scores.values("auroc") is not None
    auroc, auroc_error = scores.mean_and_error("auroc") if has_auroc else (loss, error)
    folds = scores.values(SELECT[select][0])
    assert folds is not None
    return [
        path_row(
            problem,
            point,
            loss_val=float(loss[place]),
            error=float(error[place]),
            accuracy_val=float(accuracy[place]),
            capped_val=float(capped[place]),
            auroc_val=float(auroc[place]) if has_auroc else None,
            accuracy_error=float(accuracy_error[place]),
            auroc_error=float(auroc_error[place]) if has_auroc else None,
            converged=point.converged and all(fold[place].converged for path in paths for fold in path.of_folds),
            folds=tuple(folds[:, place].tolist()),
        )
        for place, point in enumerate(points)
    ]


def cross_validated(scores: FoldScores, place: int = 0) -> dict[str, CrossValidated]:
    """Mean, standard error and interval of each score of one point.

    Args:
        scores: The scores in each fold.
        place: Position of the point.

    Returns:
        By name: loss, accuracy and, where it was computed, auroc.  The interval is Student's t with one degree of
        freedom less than a repetition has folds.

    References:
        Bayle, Bayle, Janson and Mackey (2020), Cross-validation confidence intervals for test error: the variance over
        held-out rows gives valid intervals for stable algorithms, as penalized ones are.
    """
    found = {}
    for name in ("loss", "accuracy", "auroc"):
        values = scores.values(name)
        if values is None:
            continue
        mean, error = (float(both[place]) for both in scores.mean_and_error(name))
        half = student_quantile(len(values) // scores.repeats - 1) * error
        most = math.inf if name == "loss" else 1.0
        found[name] = CrossValidated(
            mean, error, max(0.0, mean - half), min(most, mean + half), tuple(values[:, place].tolist())
        )
    return found


def student_quantile(degrees: int) -> float:
    """Half the width of a `CONFIDENCE` interval of Student's t, in standard errors; importing scipy would take longer.

    Args:
        degrees: Degrees of freedom, >= 1.

    References:
        Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.7.3 and 26.7.4: the probability of an
        interval, in closed form in the angle whose tangent is t / sqrt(degrees).
    """

    def probability(angle: float) -> float:
        odd, cosine = degrees % 2, math.cos(angle)
        term = total = (cosine if odd else 1.0) if degrees > 1 else 0.0
        for number in range(2 + odd, degrees - 1, 2):
            term *= cosine**2 * (number - 1) / number
            total += term
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves the interval to the last digit
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < CONFIDENCE else (low, middle)
    return math.tan(low) * math.sqrt(degrees)
