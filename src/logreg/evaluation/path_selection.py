"""Chooses the strength of l2 by the scores of its fits on val."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from logreg.evaluation.path_row import PathRow
from logreg.evaluation.ranking import area_under_roc, log_odds
from logreg.facts import Batch
from logreg.losses import decided
from logreg.rows import RowSource, logit_rows, parts, row_weights
from logreg.solvers.passes.base import drive
from logreg.solvers.path import PathFitter, PathPoint, largest_curvature, to_two_digits
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


@torch.no_grad()
def score_path(
    problem: Problem, points: Sequence[PathPoint], val: Iterable[Batch], auroc: bool = False
) -> list[PathRow]:
    """Scores every point on val, all in one pass.

    Args:
        problem: The minimization problem over the train rows.
        points: The fitted points of its regularization path.
        val: The rows of val, block by block.
        auroc: Whether the AUROC is computed too, which takes longer than the other scores; for two classes only.
    """
    k, loss = problem.num_outputs, problem.loss
    coef = torch.cat([point.point[:, :-1] for point in points]) / problem.model.scale
    intercept = torch.cat([point.point[:, -1] for point in points]) - coef @ problem.model.center
    losses, hits, weights, own_weights, odds, labels = [], [], [], [], [], []
    rows = logit_rows(len(intercept), torch.float64)
    for block in (part for whole in val for part in parts(whole, rows)):
        logits = torch.addmm(intercept, block.features.double(), coef.T).split(k, dim=1)
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
    w, own = torch.cat(weights), torch.cat(own_weights)
    of_rows = torch.cat(losses, dim=1)
    mean = of_rows @ w / w.sum()
    capped = of_rows.clamp(max=MAX_ROW_LOSS) @ w / w.sum()
    error = ((of_rows - mean.unsqueeze(1)) * w).square().sum(1).sqrt() / w.sum()
    accuracy = torch.cat(hits, dim=1) @ own / own.sum()
    areas = _areas(torch.cat(odds, dim=1), torch.cat(labels), own) if auroc else [None] * len(points)
    scale = 1.0 if problem.objective.reduction == "mean" else problem.total_weight
    return [
        PathRow(
            l2=point.l2,
            loss_train=point.bound.loss / scale,
            loss_val=float(mean[number]),
            error=float(error[number]),
            accuracy_val=float(accuracy[number]),
            gap=point.bound.gap,
            relative_gap=point.bound.gap / max(abs(point.bound.value), 1e-300),
            converged=point.converged,
            passes=point.passes,
            nonzero=int((point.point[:, :-1] != 0).sum()),
            auroc_val=areas[number],
            capped_val=float(capped[number]),
        )
        for number, point in enumerate(points)
    ]


def _areas(odds: Tensor, labels: Tensor, weights: Tensor) -> list[float]:
    """AUROC of each of several scores (P, N)."""
    return [area_under_roc(one.cpu(), labels.cpu(), weights.cpu()) for one in odds]


def search_strength(
    problem: Problem,
    train: RowSource,
    val: RowSource,
    select: str = "log_loss",
    tolerance: float = SEARCH_TOLERANCE,
    seed: int = 0,
    show: Callable[[PathRow], None] = lambda row: None,
) -> tuple[list[PathRow], list[PathPoint], int]:
    """Searches the strength of l2 whose fit scores best on val, with few fits.

    The search goes down from the largest curvature of the loss, decade by decade, until two decades in a row are no
    better or one is worse.  Then it tries half a decade above and below the best strength.

    Args:
        problem: The minimization problem over the train rows; its l1 is kept.
        train: The train rows.
        val: The rows of val.
        select: A key of `SELECT`.
        tolerance: Approximate relative gap at which each fit ends.
        seed: Seed of the fits' random draws.
        show: Function that is called with the result of each fit.

    Returns:
        Rows and points, from the strongest penalty to the weakest, and the position of the best: among equal scores,
        that of the strongest penalty.
    """
    fitter, rows = PathFitter(problem, tolerance, seed, rough=True), []

    def score(step: float) -> float:
        """The score of the strength 10^step."""
        point = drive(fitter.fit(to_two_digits(10**step)), train)
        rows.extend(score_path(problem, [point], val.blocks(), select == "auroc"))
        show(rows[-1])
        return rows[-1].score(select)

    top = math.ceil(math.log10(largest_curvature(problem, next(train.interleaved_blocks()))))
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
    order = sorted(range(len(rows)), key=lambda number: -rows[number].l2)
    rows = [rows[number] for number in order]
    return rows, [fitter.points[number] for number in order], best_of(rows, select, same)


def best_of(rows: Sequence[PathRow], select: str = "log_loss", same: float = 0.0) -> int:
    """The position of the best score on val; among scores within ``same`` of the best, of the strongest penalty."""
    highest = max(row.score(select) for row in rows)
    return max(
        (place for place, row in enumerate(rows) if row.score(select) >= highest - same),
        key=lambda place: rows[place].l2,
    )


def simplest_of(rows: Sequence[PathRow]) -> int:
    """The position of the strongest penalty whose loss on val is within one standard error of the lowest.

    References:
        Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees: the 1-SE rule.
    """
    best = rows[best_of(rows)]
    enough = [place for place, row in enumerate(rows) if row.loss_val <= best.loss_val + best.error]
    return max(enough, key=lambda place: rows[place].l2)


def alarm(rows: Sequence[PathRow], select: str = "log_loss", chosen: int | None = None) -> str | None:
    """A sentence where the best strength lies at an end of the path and its neighbor is worse; else ``None``."""
    best = rows[best_of(rows, select) if chosen is None else chosen]
    tried = [row.l2 for row in rows]
    if len(rows) > 1:
        if min(tried) < best.l2 < max(tried):
            return None
        score, near = best.score(select), min(rows, key=lambda row: (row is best, abs(math.log(row.l2 / best.l2))))
        if score - near.score(select) <= SCORE_RTOL * abs(score):
            return None
    edge = "only" if len(rows) == 1 else "smallest" if best.l2 == min(tried) else "largest"
    factors = {"only": (0.1, 1, 10), "smallest": (0.01, 0.1, 1), "largest": (1, 10, 100)}[edge]
    further = ",".join(f"{float(f'{best.l2 * factor:.2g}'):g}" for factor in factors)
    return f"the best l2 is the {edge} that was tried, so a better one may lie beyond: try l2=[{further}]"


def path_csv(rows: Sequence[PathRow], train_rows: int) -> str:
    """Content of path.csv: a line for each strength; ``C`` is scikit-learn's, for a mean over ``train_rows`` rows."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    names = ["l2", "C", "loss/train", "loss/val", "standard_error", "accuracy/val", "auroc/val"]
    writer.writerow([*names, "gap", "relative_gap", "converged", "passes", "nonzero"])
    for row in rows:
        numbers = [row.l2, 1 / (train_rows * row.l2), row.loss_train, row.loss_val, row.error, row.accuracy_val]
        writer.writerow([*numbers, row.auroc_val, row.gap, row.relative_gap, row.converged, row.passes, row.nonzero])
    return lines.getvalue()
