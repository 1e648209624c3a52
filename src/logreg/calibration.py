"""Temperature scaling: one number that makes a model's confidence honest, fitted on rows it did not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from logreg.functional import LossName, class_probabilities

LIMITS = (0.01, 100.0)
"""Where the temperature is looked for; rows without an error would have it at 0, rows of chance at infinity."""

AT_AN_EDGE = 1.01
"""A temperature that is within this factor of a limit is none."""


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor, loss: LossName, sample_weight: Tensor | None = None) -> float:
    """The temperature under which the rows are most probable.

    Args:
        logits: Of rows that the model was not fitted to, shape (N, K).
        labels: Shape (N,), int64, in [0, C).
        loss: That the model was fitted with.
        sample_weight: Shape (N,), >= 0; ``None`` weighs all rows 1.

    Returns:
        Within ``LIMITS``; 1, which leaves the probabilities as they are, where there is none.

    Source:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.
    """
    wide = logits.detach().to("cpu", torch.float64)
    weight = torch.ones(len(wide), dtype=torch.float64) if sample_weight is None else sample_weight.cpu().double()
    labels = labels.cpu()

    def cost(log_temperature: float) -> float:
        probabilities = class_probabilities(wide, loss, math.exp(log_temperature))
        right = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        return float(weight @ -right.clamp(min=torch.finfo(torch.float64).tiny).log())

    if bool((class_probabilities(wide, loss).argmax(1) == labels)[weight > 0].all()):
        return 1.0  # the colder the better, without end
    found = math.exp(_least(cost, *map(math.log, LIMITS)))
    return found if LIMITS[0] * AT_AN_EDGE < found < LIMITS[1] / AT_AN_EDGE else 1.0


def _least(cost: Callable[[float], float], low: float, high: float, tolerance: float = 1e-9) -> float:
    """Where a function with one valley is lowest."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": tolerance})
    return float(found.x)
