"""Chooses the strength of a penalty by the scores of its fits on held-out rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logreg.config import SELECT
from logreg.csr import is_sparse
from logreg.evaluation.path_row import PathRow, varied
from logreg.evaluation.ranking import area_under_roc, log_odds
from logreg.facts import Batch
from logreg.losses import decided
from logreg.processes import Processes
from logreg.rows import RowSource, dense_sample, logit_rows, part_rows, parts, row_weights
from logreg.solvers.kernels import logits_of
from logreg.solvers.passes.base import drive
from logreg.solvers.paths.l2_path import PathFitter, PathPoint, largest_curvature, to_two_digits
from logreg.solvers.problem import Problem

SEARCH_TOLERANCE = 1e-3
"""Relative gap of the fits of a search: enough for the first digits of the loss on val, which decide."""

SCORE_RTOL = 1e-3
"""Scores that differ by less than this fraction of the strongest penalty's score count as equal."""

MAX_ROW_LOSS = 16.0
"""Upper limit of a val row's loss when a strength is chosen, in nats, which is the loss of a probability of 1e-7:
without it, one row with a typing error, ten standard deviations off, outweighs thousands of rows."""

MAX_STALLED_DECADES = 2
"""Number of consecutive decades of l2 without a better score after which the search ends."""

MIN_DECADES_BELOW = 4
"""Number of decades of l2 below the largest curvature of the loss that a search tries at least.  A search that has
reached the penalty of scikit-learn's C = 1 may end earlier."""

MAX_DECADES_BELOW = 10
"""Number of decades of l2 below the largest curvature of the loss that a search tries at most."""

MAX_DECADES_ABOVE = 2
"""Number of decades of l2 above the largest curvature of the loss that a search tries at most, where the strongest
penalty is the best so far."""


class HeldOutScores(NamedTuple):
    """Scores of P points on the same rows, shape (P,) each, float64."""

    loss: Tensor
    """Mean of the loss over the rows, in nats."""
    capped: Tensor
    """The same, with the loss of each row limited to ``MAX_ROW_LOSS``."""
    error: Tensor
    """Standard error of ``loss``."""
    accuracy: Tensor
    """Fraction of the rows whose predicted class is right."""
    auroc: Tensor | None
    """AUROC, where it was asked for."""
    loss_weight: float
    """Sum of the weights of the rows in the loss."""
    weight: float
    """Sum of the weights of the rows in the other scores, without class weights."""


@torch.no_grad()
def score_points(
    problem: Problem,
    points: Sequence[Tensor],
    rows: Iterable[Batch],
    auroc: bool = False,
    processes: Processes | None = None,
) -> HeldOutScores:
    """Scores every point on held-out rows, all in one pass.

    Args:
        problem: The minimization problem over the train rows.
        points: Fitted points of this problem, (K, D + 1) each.
        rows: The held-out rows of this process, block by block.
        auroc: Whether the AUROC is computed too, which takes longer than the other scores; for two classes only.
        processes: The processes that share the rows; ``None`` for one process.
    """
    k, loss = problem.num_outputs, problem.loss
    coef = torch.cat([point[:, :-1] for point in points]) / problem.model.scale
    intercept = torch.cat([point[:, -1] for point in points]) - coef @ problem.model.center
    losses, hits, weights, own_weights, odds, labels = [], [], [], [], [], []
    at_once = logit_rows(len(intercept), torch.float64)
    for block in (part for whole in rows for part in parts(whole, _rows_at_once(whole, at_once))):
        logits = logits_of(block, coef, intercept).split(k, dim=1)
        losses.append(torch.stack([loss.value_at(mine, block.labels) for mine in logits]))
        predicted = torch.stack([decided(loss.class_probabilities(mine)) for mine in logits])
        hits.append((predicted == block.labels).double())
        ones = torch.ones(len(block.labels), dtype=torch.float64, device=coef.device)
        own_weights.append(ones if block.sample_weight is None else block.sample_weight.double())
        weight = row_weights(block, problem.class_weight, torch.float64)
        weights.append(ones if weight is None else weight.double())
        if auroc:
            odds.append(torch.stack([log_odds(mine) for mine in logits]))
            labels.append(block.labels)
    if processes is not None:
        of_ranks = processes.gather((losses, hits, weights, own_weights, odds, labels))
        losses, hits, weights, own_weights, odds, labels = (
            [one for parts in of_kind for one in parts] for of_kind in zip(*of_ranks, strict=True)
        )
    w, own = torch.cat(weights), torch.cat(own_weights)
    of_rows = torch.cat(losses, dim=1)
    mean = of_rows @ w / w.sum()
    return HeldOutScores(
        loss=mean,
        capped=of_rows.clamp(max=MAX_ROW_LOSS) @ w / w.sum(),
        error=((of_rows - mean.unsqueeze(1)) * w).square().sum(1).sqrt() / w.sum(),
        accuracy=torch.cat(hits, dim=1) @ own / own.sum(),
        auroc=_areas(torch.cat(odds, dim=1), torch.cat(labels), own) if auroc else None,
        loss_weight=float(w.sum()),
        weight=float(own.sum()),
    )


def _rows_at_once(block: Batch, rows: int) -> int:
    """At most ``rows`` rows; fewer where a copy of their dense features in float64 would leave the cache."""
    return rows if is_sparse(block.features) else min(rows, part_rows(block.features.shape[1], torch.float64))


def score_path(problem: Problem, points: Sequence[PathPoint], val: RowSource, auroc: bool = False) -> list[PathRow]:
    """Scores every point of a path on val, which several processes may share; other arguments as of `score_points`."""
    scores = score_points(problem, [point.point for point in points], val.blocks(), auroc, val.processes)
    areas = [None] * len(points) if scores.auroc is None else scores.auroc.tolist()
    return [
        path_row(
            problem,
            point,
            loss_val=loss,
            error=error,
            accuracy_val=accuracy,
            auroc_val=area,
            capped_val=capped,
        )
        for point, loss, error, accuracy, area, capped in zip(
            points,
            *(part.tolist() for part in (scores.loss, scores.error, scores.accuracy)),
            areas,
            scores.capped.tolist(),
            strict=True,
        )
    ]


def path_row(problem: Problem, point: PathPoint, **scores: Any) -> PathRow:
    """The row of a fitted strength, with its scores on held-out rows."""
    scale = 1.0 if problem.objective.reduction == "mean" else problem.total_weight
    return PathRow(
        **{
            "l2": point.l2,
            "l1": point.l1,
            "loss_train": point.bound.loss / scale,
            "gap": point.bound.gap,
            "relative_gap": point.bound.gap / max(abs(point.bound.value), 1e-300),
            "converged": point.converged,
            "passes": point.passes,
            "nonzero": int((point.point[:, :-1] != 0).sum()),
            **scores,
        }
    )


def _areas(odds: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """AUROC of each of several scores (P, N), shape (P,)."""
    areas = [area_under_roc(one.cpu(), labels.cpu(), weights.cpu()) for one in odds]
    return torch.tensor(areas, dtype=torch.float64)


def search_strength(
    problem: Problem,
    train: RowSource,
    val: RowSource,
    select: str = "log_loss",
    tolerance: float = SEARCH_TOLERANCE,
    seed: int = 0,
    show: Callable[[PathRow], None] = lambda row: None,
    sample: Batch | None = None,
) -> tuple[list[PathRow], list[PathPoint], int]:
    """Searches the strength of l2 whose fit scores best on val, with few fits.

    The search goes down from the largest curvature of the loss, decade by decade, until two decades in a row are no
    better or one is worse.  Then it tries half a decade above and below the best strength.

    Args:
        problem: The minimization problem over the train rows; its l1 is kept.
        train: The train rows, which several processes may share.
        val: The rows of val.
        select: A key of `SELECT`.
        tolerance: Approximate relative gap at which each fit ends.
        seed: Seed of the fits' random draws.
        show: Function that is called with the result of each fit.
        sample: Some of the train rows, dense; where processes share these, the same in each of them.

    Returns:
        Rows and points, from the strongest penalty to the weakest, and the position of the best: among equal scores,
        that of the strongest penalty.
    """
    fitter = PathFitter(problem, tolerance, seed, rough=True)

    def fit(l2: float) -> tuple[PathRow, PathPoint]:
        point = drive(fitter.fit(l2), train)
        row = score_path(problem, [point], val, select == "auroc")[0]
        show(row)
        return row, point

    return search(fit, problem, dense_sample(train) if sample is None else sample, select)


def search(
    fit: Callable[[float], tuple[PathRow, PathPoint]], problem: Problem, sample: Batch, select: str
) -> tuple[list[PathRow], list[PathPoint], int]:
    """The search of `search_strength`, whatever the held-out rows are.

    Args:
        fit: Fits and scores one strength of l2.
        problem: The minimization problem over the train rows.
        sample: Some of the train rows.
        select: A key of `SELECT`.
    """
    found: list[tuple[PathRow, PathPoint]] = []

    def score(step: float) -> float:
        """The score of the strength 10^step."""
        found.append(fit(to_two_digits(10**step)))
        return found[-1][0].score(select)

    top = math.ceil(math.log10(largest_curvature(problem, sample)))
    scores = {top: score(top)}
    best, same, without = scores[top], SCORE_RTOL * abs(scores[top]), 0
    for step in range(top - 1, top - MAX_DECADES_BELOW - 1, -1):
        scores[step] = score(step)
        # one decade that is worse counts as two that are no better
        without = 0 if scores[step] > best + same else without + (2 if scores[step] < best - same else 1)
        best = max(best, scores[step])
        if without >= MAX_STALLED_DECADES and (step <= top - MIN_DECADES_BELOW or 10**step <= problem.row_sum_scale):
            break
    while scores[max(scores)] == max(scores.values()) and max(scores) < top + MAX_DECADES_ABOVE:
        step = max(scores) + 1
        scores[step] = score(step)
    place = max(scores, key=lambda step: (scores[step], step))
    for step in (place + 1, place - 1):
        if step in scores and scores[place] - scores[step] > same:
            score((place + step) / 2)
    found.sort(key=lambda one: -one[0].l2)
    rows = [row for row, _ in found]
    return rows, [point for _, point in found], best_of(rows, select, same)


def best_of(rows: Sequence[PathRow], select: str = "log_loss", same: float = 0.0) -> int:
    """The position of the best score; among scores within ``same`` of the best, of the strongest penalty."""
    highest = max(row.score(select) for row in rows)
    return max(
        (place for place, row in enumerate(rows) if row.score(select) >= highest - same),
        key=lambda place: rows[place].order,
    )


def simplest_of(rows: Sequence[PathRow], select: str = "log_loss") -> int:
    """The position of the strongest penalty whose score is within one standard error of the best.

    References:
        Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees: the 1-SE rule.
    """
    _, sign = SELECT[select]
    place = best_of(rows, select)
    best, error = rows[place].mean_and_error(select)
    enough = [place] + [
        other for other, row in enumerate(rows) if sign * (row.mean_and_error(select)[0] - best) >= -error
    ]
    return max(enough, key=lambda place: rows[place].order)


def alarm(rows: Sequence[PathRow], select: str = "log_loss", chosen: int | None = None) -> str | None:
    """A sentence where the best strength lies at an end of the path and its neighbor is worse; else ``None``."""
    best = rows[best_of(rows, select) if chosen is None else chosen]
    name = varied(rows)
    tried, chosen_one = [getattr(row, name) for row in rows], getattr(best, name)
    if len(rows) > 1:
        if min(tried) < chosen_one < max(tried):
            return None
        if name == "l1" and chosen_one == max(tried) and not best.nonzero:
            return None  # all coefficients are 0, as with any stronger penalty
        score = best.score(select)
        near = min(rows, key=lambda row: (row is best, abs(math.log(getattr(row, name) / chosen_one))))
        if score - near.score(select) <= SCORE_RTOL * abs(score):
            return None
    edge = "only" if len(rows) == 1 else "smallest" if chosen_one == min(tried) else "largest"
    factors = {"only": (0.1, 1, 10), "smallest": (0.01, 0.1, 1), "largest": (1, 10, 100)}[edge]
    further = ",".join(f"{float(f'{chosen_one * factor:.2g}'):g}" for factor in factors)
    return f"the best {name} is the {edge} that was tried, so a better one may lie beyond: try {name}=[{further}]"


def path_csv(rows: Sequence[PathRow], train_rows: int, select: str = "log_loss") -> str:
    """Content of path.csv: a line for each strength, and a column for each fold of a cross-validation.

    Args:
        rows: The path.
        train_rows: Number of train rows: ``C`` is scikit-learn's for a mean over so many rows.
        select: The score whose value in each fold the rows have.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    folds = len(rows[0].folds)
    split, name = "cv" if folds else "val", SELECT[select][0]
    names = ["l2", "l1", "C", "loss/train", f"loss/{split}", "standard_error", f"accuracy/{split}", f"auroc/{split}"]
    names += ["accuracy_standard_error", "auroc_standard_error"] if folds else []
    names += ["gap", "relative_gap", "converged", "passes", "nonzero"]
    writer.writerow([*names, *(f"{name}/fold {number}" for number in range(1, folds + 1))])
    for row in rows:
        total = row.l2 + row.l1
        cells: list[float | None] = [
            row.l2,
            row.l1,
            1 / (train_rows * total),
            row.loss_train,
            row.loss_val,
            row.error,
            row.accuracy_val,
        ]
        cells += [row.auroc_val, *([row.accuracy_error, row.auroc_error] if folds else [])]
        writer.writerow([*cells, row.gap, row.relative_gap, row.converged, row.passes, row.nonzero, *row.folds])
    return lines.getvalue()
