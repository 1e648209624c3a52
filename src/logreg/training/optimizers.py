"""First-order optimizers: torch's own, one step per batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""The optimizers by name."""


def build_optimizer(
    optimizer: Mapping[str, Any], lr: float, coef: nn.Parameter, intercept: nn.Parameter | None
) -> torch.optim.Optimizer:
    """The optimizer that a config names.

    Args:
        optimizer: ``name`` of an optimizer, and its own arguments.
        lr: Step size in the first epoch, > 0.
        coef: Shape (K, D); adamw's weight decay acts on it alone.
        intercept: Shape (K,); never decayed.  ``None`` where the model has none.
    """
    arguments = {key: value for key, value in optimizer.items() if key != "name"}
    # The penalty is part of the objective; adamw alone has a decay outside of it.
    decay = arguments.pop("weight_decay", 0.0)
    if "beta1" in arguments:  # a list is awkward to sweep over
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    arguments |= {"lr": lr, "weight_decay": 0.0}
    rest = [] if intercept is None else [intercept]
    if decay:  # two groups only where they differ, since each takes time in every step
        groups = [{"params": [coef], "weight_decay": decay}, *([{"params": rest}] if rest else [])]
        return OPTIMIZERS[optimizer["name"]](groups, **arguments)
    return OPTIMIZERS[optimizer["name"]]([coef, *rest], **arguments)
