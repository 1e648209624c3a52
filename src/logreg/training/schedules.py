"""Learning-rate schedules as plain functions of the epoch.

A schedule has no state, so a resumed run sees exactly the learning rates it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def constant(epoch: int, max_epochs: int) -> float:
    """1 throughout."""
    return 1.0


def cosine(epoch: int, max_epochs: int, floor: float = 0.0) -> float:
    """Half a cosine from 1 in the first epoch toward ``floor``, which epoch ``max_epochs`` would have.

    Example:
        >>> [round(cosine(epoch, 4), 3) for epoch in range(4)]
        [1.0, 0.854, 0.5, 0.146]

    References:
        Loshchilov and Hutter (2017), SGDR, without restarts.
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(epoch / max_epochs, 1.0))) / 2


def step(epoch: int, max_epochs: int, every: int = 10, factor: float = 0.1) -> float:
    """Multiplied by ``factor`` after each ``every`` epochs.

    Example:
        >>> [step(epoch, 4, every=2, factor=0.5) for epoch in range(4)]
        [1.0, 1.0, 0.5, 0.5]
    """
    return float(factor ** (epoch // every))


SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "cosine": cosine, "step": step}
"""The schedules by name."""


def lr_factor(schedule: Mapping[str, Any], epoch: int, max_epochs: int) -> float:
    """The factor of the learning rate in an epoch.

    Args:
        schedule: ``name`` of a schedule, and its own arguments.
        epoch: Counted from 0.
        max_epochs: Epochs of the whole run.
    """
    arguments = {key: value for key, value in schedule.items() if key != "name"}
    return SCHEDULES[schedule["name"]](epoch, max_epochs, **arguments)
