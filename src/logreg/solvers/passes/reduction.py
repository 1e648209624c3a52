"""The accumulators of a pass, and their combination over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Accumulators:
    """All accumulators of one process in a pass, by name.

    Attributes:
        sums: Tensors that are added over processes.
        maxima: Tensors whose elementwise maximum over processes is taken.
        samples: Lists of rows, blocks or matrices, which are concatenated in the order of the processes.
    """

    sums: dict[str, Tensor]
    maxima: dict[str, Tensor]
    samples: dict[str, list[Any]]


class Processes(Protocol):
    """The processes that share the rows."""

    def reduce(self, own: Accumulators) -> Accumulators:
        """The accumulators of all processes combined, the same on each of them; called once for each pass."""


def combined(parts: Sequence[Accumulators]) -> Accumulators:
    """The accumulators of all processes as one, given those of each in the order of their ranks."""
    first = parts[0]
    return Accumulators(
        {name: torch.stack([part.sums[name] for part in parts]).sum(0) for name in first.sums},
        {name: torch.stack([part.maxima[name] for part in parts]).amax(0) for name in first.maxima},
        {name: [item for part in parts for item in part.samples[name]] for name in first.samples},
    )
