"""The decision threshold of two classes that has the lowest cost."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from logreg.evaluation.measured import Threshold
from logreg.evaluation.predicted import ROWS_AT_ONCE, Predicted
from logreg.evaluation.ranking import TIE_RTOL
from logreg.losses import decided


def best_threshold(predicted: Predicted, cost_ratio: float) -> float:
    """The threshold of the positive class's probability that has the lowest cost on these rows.

    Args:
        predicted: Rows of two classes.
        cost_ratio: Cost of a false negative; that of a false positive is 1.

    Returns:
        In [0, 1], halfway between two probabilities that occur.  Of several thresholds with the lowest cost, the
        nearest to 1 / (1 + cost_ratio), which is the best threshold of calibrated probabilities.
    """
    order = predicted.ranking.order.flip(0)
    edges = torch.cat([torch.zeros(1), predicted.positive[order], torch.ones(1)])
    is_one = (predicted.labels == 1)[order]
    weight = None if predicted.sample_weight is None else predicted.sample_weight[order]
    ideal = 1 / (1 + cost_ratio)
    all_alarms = float((~is_one).sum() if weight is None else weight @ (~is_one).double())

    def costs(first: int, misses: float, passed: float) -> tuple[Tensor, Tensor, Tensor, float, float]:
        """The probabilities below and above some thresholds, and their costs.

        ``misses`` and ``passed`` are the weight of class 1, and of class 0, below the first threshold; those below the
        next part of the thresholds come last.
        """
        rows = slice(first, first + ROWS_AT_ONCE)
        low, high, one = edges[:-1][rows], edges[1:][rows], is_one[rows].double()
        own = torch.ones_like(one) if weight is None else weight[rows]
        of_one = F.pad(own * one, (1, 0), value=misses).cumsum(0)
        of_zero = F.pad(own * (1 - one), (1, 0), value=passed).cumsum(0)
        # A sum that is rounded may exceed the total, and a cost below 0 would be no threshold's.
        cost = cost_ratio * of_one[: len(low)] + (all_alarms - of_zero[: len(low)]).clamp(min=0)
        # Rounding parts rows of equal logits, and no threshold does.
        cost = torch.where(high - low > TIE_RTOL * high, cost, math.inf)
        return low, high, cost, float(of_one[-1]), float(of_zero[-1])

    parts, misses, passed = list[tuple[float, int, float, float]](), 0.0, 0.0
    for first in range(0, len(order) + 1, ROWS_AT_ONCE):
        start = misses, passed
        _, _, cost, misses, passed = costs(first, *start)
        parts.append((float(cost.min()), first, *start))
    least = min(parts)[0] * (1 + 1e-12)
    best, found = math.inf, ideal
    for lowest, first, misses, passed in parts:
        if lowest > least:
            continue
        low, high, cost, *_ = costs(first, misses, passed)
        # The cost is constant between two neighboring probabilities: take the point nearest to the ideal.
        inside = low.clamp(min=ideal).minimum(high)
        places = torch.where((inside > low) & (inside < high), inside, (low + high) / 2)
        distance = (places - ideal).abs().masked_fill(cost > least, math.inf)
        nearest = int(distance.argmin())
        if float(distance[nearest]) < best:
            best, found = float(distance[nearest]), float(places[nearest])
    return found


def threshold_of(predicted: Predicted, chosen: tuple[float, str] | None, cost_ratio: float) -> Threshold:
    """The threshold that was ``chosen`` and on which split, else the best one of these rows; with its cost here."""
    value, split = chosen or (best_threshold(predicted, cost_ratio), "these rows")
    return Threshold(cost_ratio, value, split, *(_cost(predicted, at, cost_ratio) for at in (value, 0.5)))


def _cost(predicted: Predicted, threshold: float, cost_ratio: float) -> float:
    cost = total = 0.0
    for _, part in predicted.parts():
        yes, weight = decided(part.probabilities, threshold) == 1, part.weight
        alarm, miss = yes & (part.labels == 0), ~yes & (part.labels == 1)
        cost += float(weight @ (alarm.double() + cost_ratio * miss.double()))
        total += float(weight.sum())
    return cost / total
