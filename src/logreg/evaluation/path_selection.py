"""Which strength of l2 to take: by what its fit scores on val."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logreg.config import SELECT
from logreg.evaluation.ranking import area_under_roc, log_odds
from logreg.facts import Batch
from logreg.losses import decided, one_vs_rest
from logreg.rows import RowSource, row_weights
from logreg.solvers.passes.base import drive
from logreg.solvers.path import Fits, PathPoint, largest_curvature, to_two_digits
from logreg.solvers.problem import Problem

ROUGH = 1e-3
"""Relative gap of fits among which a strength is searched: theirs are the first digits of the loss on val."""

SAME = 1e-3
"""Differences of a score below this part of what the strongest penalty scores are none."""

CAP = 16.0
"""Nats that a row of val counts at most when a strength is chosen, those of a probability of 1e-7: else one row with a
slip of the pen in it, ten deviations off, outweighs thousands."""

PATIENCE = 2
"""Decades in a row that bring nothing, after which a search ends."""

LEAST_DECADES, MOST_DECADES, DECADES_ABOVE = 4, 10, 2
"""Below the largest curvature of the loss that a search goes at least, unless the penalty is that of C = 1 before, and
at most; and above it, where the strongest penalty is best."""


@dataclass(frozen=True)
class PathRow:
    """One strength, fitted on train and scored on val.

    Attributes:
        l2: The strength.
        loss_train, loss_val: The data term, mean over rows.
        error: Standard error of ``loss_val`` as a mean over the val rows.
        accuracy_val: Fraction of val that is right.
        gap, relative_gap: f - f* on train is at most this.
        converged: Whether that is within the tolerance.
        passes: Over the train rows.
        nonzero: Coefficients that are not zero.
        auroc_val: Of two classes, where it was wanted.
        capped_val: ``loss_val`` where no row counts more than ``CAP``.
    """

    l2: float
    loss_train: float
    loss_val: float
    error: float
    accuracy_val: float
    gap: float
    relative_gap: float
    converged: bool
    passes: int
    nonzero: int
    auroc_val: float | None = None
    capped_val: float | None = None

    def score(self, select: str) -> float:
        """By which the strength is chosen: the higher, the better."""
        name, sign = SELECT[select]
        value = getattr(self, f"{name}_val")
        if name == "loss" and self.capped_val is not None:
            value = self.capped_val
        return -math.inf if value is None or math.isnan(value) else sign * float(value)


@torch.no_grad()
def score_path(
    problem: Problem, points: Sequence[PathPoint], val: Iterable[Batch], auroc: bool = False
) -> list[PathRow]:
    """Scores every point on val, all in one pass.

    Args:
        problem: Of the train rows.
        points: Of its path.
        val: The rows of val, block by block.
        auroc: Whether that is wanted too, which takes longer than the rest; of two classes.
    """
    k, loss = problem.num_outputs, problem.loss
    coef = torch.cat([point.point[:, :-1] for point in points]) / problem.model.scale
    intercept = torch.cat([point.point[:, -1] for point in points]) - coef @ problem.model.center
    losses, hits, weights, own_weights, odds, labels = [], [], [], [], [], []
    for block in val:
        logits = torch.addmm(intercept, block.features.double(), coef.T).split(k, dim=1)
        targets = one_vs_rest(block.labels, k, torch.float64)
        losses.append(torch.stack([loss.value(mine, targets) for mine in logits]))
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
    capped = of_rows.clamp(max=CAP) @ w / w.sum()
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
    tolerance: float = ROUGH,
    seed: int = 0,
    tell: Callable[[PathRow], None] = lambda row: None,
) -> tuple[list[PathRow], list[PathPoint], int]:
    """Looks for the strength of l2 whose fit scores best on val, with few fits.

    Decade by decade from the largest curvature of the loss down, until two in a row bring nothing or one is worse; then
    half a decade to both sides of the best.

    Args:
        problem: Of the train rows; its l1 stays.
        train: Its rows.
        val: The rows of val.
        select: A name of `SELECT`.
        tolerance: Relative gap to end each fit at, about.
        seed: Fixes what is drawn.
        tell: Is called after each fit.

    Returns:
        Rows and points, from the strongest penalty to the weakest, and the place of the best: of those that are no
        different the strongest.
    """
    fits, rows = Fits(problem, tolerance, seed, rough=True), []

    def score(step: float) -> float:
        """Of the strength 10^step."""
        point = drive(fits.at(to_two_digits(10**step)), train)
        rows.extend(score_path(problem, [point], val.blocks(), select == "auroc"))
        tell(rows[-1])
        return rows[-1].score(select)

    top = math.ceil(math.log10(largest_curvature(problem, next(train.interleaved_blocks()))))
    scores = {top: score(top)}
    best, same, without = scores[top], SAME * abs(scores[top]), 0
    for step in range(top - 1, top - MOST_DECADES - 1, -1):
        scores[step] = score(step)
        # a decade that is worse is as telling as two that are no better
        without = 0 if scores[step] > best + same else without + (2 if scores[step] < best - same else 1)
        best = max(best, scores[step])
        if without >= PATIENCE and (step <= top - LEAST_DECADES or 10**step <= problem.row_sum_scale):
            break
    while scores[max(scores)] == max(scores.values()) and max(scores) < top + DECADES_ABOVE:
        step = max(scores) + 1
        scores[step] = score(step)
    place = max(scores, key=lambda step: (scores[step], step))
    for step in (place + 1, place - 1):
        if step in scores and scores[place] - scores[step] > same:
            score((place + step) / 2)
    order = sorted(range(len(rows)), key=lambda number: -rows[number].l2)
    rows = [rows[number] for number in order]
    return rows, [fits.points[number] for number in order], best_of(rows, select, same)


def best_of(rows: Sequence[PathRow], select: str = "log_loss", same: float = 0.0) -> int:
    """The place of what scores best on val; of those within ``same`` of it the strongest penalty."""
    highest = max(row.score(select) for row in rows)
    return max(
        (place for place, row in enumerate(rows) if row.score(select) >= highest - same),
        key=lambda place: rows[place].l2,
    )


def simplest_of(rows: Sequence[PathRow]) -> int:
    """The place of the strongest penalty whose loss on val is within one standard error of the lowest.

    Source:
        Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees: the 1-SE rule.
    """
    best = rows[best_of(rows)]
    enough = [place for place, row in enumerate(rows) if row.loss_val <= best.loss_val + best.error]
    return max(enough, key=lambda place: rows[place].l2)


def alarm(rows: Sequence[PathRow], select: str = "log_loss", chosen: int | None = None) -> str | None:
    """Says so where the best strength is the strongest or the weakest that was tried, and the next is worse."""
    best = rows[best_of(rows, select) if chosen is None else chosen]
    tried = [row.l2 for row in rows]
    if len(rows) > 1:
        if min(tried) < best.l2 < max(tried):
            return None
        score, near = best.score(select), min(rows, key=lambda row: (row is best, abs(math.log(row.l2 / best.l2))))
        if score - near.score(select) <= SAME * abs(score):
            return None
    edge = "only" if len(rows) == 1 else "smallest" if best.l2 == min(tried) else "largest"
    factors = {"only": (0.1, 1, 10), "smallest": (0.01, 0.1, 1), "largest": (1, 10, 100)}[edge]
    further = ",".join(f"{float(f'{best.l2 * factor:.2g}'):g}" for factor in factors)
    return f"the best l2 is the {edge} that was tried, so a better one may lie beyond: try l2=[{further}]"


def path_csv(rows: Sequence[PathRow], train_rows: int) -> str:
    """path.csv: a line for each strength; ``C`` is scikit-learn's for a mean loss over so many train rows."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    names = ["l2", "C", "loss/train", "loss/val", "standard_error", "accuracy/val", "auroc/val"]
    writer.writerow([*names, "gap", "relative_gap", "converged", "passes", "nonzero"])
    for row in rows:
        numbers = [row.l2, 1 / (train_rows * row.l2), row.loss_train, row.loss_val, row.error, row.accuracy_val]
        writer.writerow([*numbers, row.auroc_val, row.gap, row.relative_gap, row.converged, row.passes, row.nonzero])
    return lines.getvalue()


def path_summary(rows: Sequence[PathRow], select: str = "log_loss", chosen: int | None = None) -> dict[str, Any]:
    """Plain values for summary.json; ``chosen`` is the place of what was taken, `best_of` them when ``None``."""
    chosen = best_of(rows, select) if chosen is None else chosen
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "select": select,
        "best": chosen,
        "one_standard_error": simplest_of(rows),
        "alarm": alarm(rows, select, chosen),
    }
