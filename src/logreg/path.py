"""Which point of a regularisation path to take: by the loss on val, with its uncertainty."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from logreg.facts import Batch
from logreg.losses import decided, one_vs_rest
from logreg.metrics import loss_weight
from logreg.optim.passes import Problem
from logreg.optim.path import PathPoint


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


@torch.no_grad()
def score_path(problem: Problem, points: Sequence[PathPoint], val: Iterable[Batch]) -> list[PathRow]:
    """Scores every point on val, all in one pass.

    Args:
        problem: Of the train rows.
        points: Of its path.
        val: The rows of val, block by block.
    """
    k, loss = problem.num_outputs, problem.loss
    coef = torch.cat([point.point[:, :-1] for point in points]) / problem.model.scale
    intercept = torch.cat([point.point[:, -1] for point in points]) - coef @ problem.model.center
    losses, hits, weights, own_weights = [], [], [], []
    for block in val:
        logits = torch.addmm(intercept, block.features.double(), coef.T).split(k, dim=1)
        targets = one_vs_rest(block.labels, k, torch.float64)
        losses.append(torch.stack([loss.value(mine, targets) for mine in logits]))
        predicted = torch.stack([decided(loss.class_probabilities(mine)) for mine in logits])
        hits.append((predicted == block.labels).double())
        ones = torch.ones(len(block.labels), dtype=torch.float64, device=coef.device)
        own_weights.append(ones if block.sample_weight is None else block.sample_weight.double())
        weight = loss_weight(block.labels, block.sample_weight, problem.class_weight, torch.float64)
        weights.append(ones if weight is None else weight.double())
    w, own = torch.cat(weights), torch.cat(own_weights)
    of_rows = torch.cat(losses, dim=1)
    mean = of_rows @ w / w.sum()
    error = ((of_rows - mean.unsqueeze(1)) * w).square().sum(1).sqrt() / w.sum()
    accuracy = torch.cat(hits, dim=1) @ own / own.sum()
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
        )
        for number, point in enumerate(points)
    ]


def best_of(rows: Sequence[PathRow]) -> int:
    """The place of the lowest loss on val; of equal ones the strongest penalty."""
    return min(range(len(rows)), key=lambda place: (rows[place].loss_val, -rows[place].l2))


def simplest_of(rows: Sequence[PathRow]) -> int:
    """The place of the strongest penalty whose loss on val is within one standard error of the lowest.

    Source:
        Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees: the 1-SE rule.
    """
    best = rows[best_of(rows)]
    enough = [place for place, row in enumerate(rows) if row.loss_val <= best.loss_val + best.error]
    return max(enough, key=lambda place: rows[place].l2)


def alarm(rows: Sequence[PathRow]) -> str | None:
    """Says so where the best strength is the strongest or the weakest that was tried; else ``None``."""
    best = rows[best_of(rows)]
    tried = [row.l2 for row in rows]
    if len(rows) > 1 and min(tried) < best.l2 < max(tried):
        return None
    edge = "only" if len(rows) == 1 else "smallest" if best.l2 == min(tried) else "largest"
    factors = {"only": (0.1, 1, 10), "smallest": (0.01, 0.1, 1), "largest": (1, 10, 100)}[edge]
    further = ",".join(f"{float(f'{best.l2 * factor:.2g}'):g}" for factor in factors)
    return f"the best l2 is the {edge} that was tried, so a better one may lie beyond: try l2=[{further}]"


def path_csv(rows: Sequence[PathRow], train_rows: int) -> str:
    """path.csv: a line for each strength; ``C`` is scikit-learn's for a mean loss over so many train rows."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    names = ["l2", "C", "loss/train", "loss/val", "standard_error", "accuracy/val", "gap", "relative_gap", "converged"]
    writer.writerow([*names, "passes", "nonzero"])
    for row in rows:
        numbers = [row.l2, 1 / (train_rows * row.l2), row.loss_train, row.loss_val, row.error, row.accuracy_val]
        writer.writerow([*numbers, row.gap, row.relative_gap, row.converged, row.passes, row.nonzero])
    return lines.getvalue()


def path_summary(rows: Sequence[PathRow]) -> dict[str, Any]:
    """Plain values for summary.json."""
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "best": best_of(rows),
        "one_standard_error": simplest_of(rows),
        "alarm": alarm(rows),
    }
