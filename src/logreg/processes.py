"""The processes that share the rows: what they add up in a pass, and what they tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

MAX_SLOTS = 2**16
"""Maxima of all processes together that travel with the sums, 512 KiB: a second collective takes longer than these."""


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
    """The processes that share the rows; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, in [0, size)."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def reduce(self, own: Accumulators) -> Accumulators:
        """The accumulators of all processes combined, the same on each of them; called once for each pass."""

    def gather(self, own: Any) -> list[Any]:
        """A plain object of each process, in the order of the ranks, on each of them."""

    def barrier(self) -> None:
        """Waits until every process is here."""


def share(num_rows: int, rank: int, size: int) -> range:
    """The positions of a split that one of ``size`` processes has: adjacent ones, as many as the others, or none."""
    return range(num_rows * rank // size, num_rows * (rank + 1) // size)


class ProcessGroup:
    """The processes of torch.distributed's default group, which must exist.

    References:
        Message Passing Interface Forum (2021), MPI 4.0, section 6: all-reduce and all-gather.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def reduce(self, own: Accumulators) -> Accumulators:
        """One all-reduce in float64 for sums and maxima; the samples, where there are some, are gathered as objects.

        The maxima travel with the sums: each process has a slot for its own, which is 0 for all others.
        """
        sums, maxima = own.sums, own.maxima
        if sums or maxima:
            device = next(iter({**sums, **maxima}.values())).device
            greatest = _flat(maxima, device)
            has_slots = len(greatest) * self.size <= MAX_SLOTS
            slots = greatest.new_zeros(self.size, len(greatest) if has_slots else 0)
            if has_slots:
                slots[self.rank] = greatest
            total = torch.cat([_flat(sums, device), slots.flatten()])
            dist.all_reduce(total)
            if has_slots:
                greatest = total[len(total) - slots.numel() :].view_as(slots).amax(0)
            else:
                dist.all_reduce(greatest, dist.ReduceOp.MAX)
            sums, maxima = _like(sums, total), _like(maxima, greatest)
        samples = own.samples
        if samples:
            parts: list[dict[str, list[Any]]] = self.gather(samples)
            samples = {name: [item for part in parts for item in part[name]] for name in samples}
        return Accumulators(sums, maxima, samples)

    def gather(self, own: Any) -> list[Any]:
        """A plain object of each process, in the order of the ranks; its tensors come back on this process's device."""
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, own)
        return parts

    def barrier(self) -> None:
        """Waits until every process is here."""
        dist.barrier()


def _flat(tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """All numbers of tensors, one after another, in float64."""
    nothing = torch.zeros(0, dtype=torch.float64, device=device)
    return torch.cat([nothing, *(tensor.double().flatten() for tensor in tensors.values())])


def _like(tensors: Mapping[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    """The first of the numbers in ``flat`` in tensors of the given names, shapes and types."""
    parts = flat[: sum(tensor.numel() for tensor in tensors.values())].split([t.numel() for t in tensors.values()])
    return {name: part.view_as(tensor).to(tensor) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}
