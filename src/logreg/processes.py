"""The processes that share the rows: what they add up in a pass, and what they tell each other."""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from logreg.errors import ConfigError, LogregError, LostProcessError
from logreg.hardware import also_on, core_numbers
from logreg.launchers import ADDRESS, RESTARTS, Placement, placement
from logreg.shared_memory import SharedMemory, shared_memory

Value = TypeVar("Value")

MAX_SLOTS = 2**16
"""Maxima of all processes together that travel with the sums, 512 KiB: a second collective takes longer than these."""

LARGE_NUMBERS = 2**19
"""Numbers of a tensor, 4 MiB in float64, from which a second collective takes less time than copies of the tensor."""

PLAIN = (torch.float32, torch.float64, torch.int64)
"""Types of the numbers of samples."""

PATIENCE = timedelta(days=1)
"""Longest time that torch lets a process wait for others: the first one may encode a table, or another one predict a
large file.  The end of a process is noticed at once."""


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
        """The accumulators of all processes combined, the same on each of them; may overwrite those of this process.

        It is called once for each pass.
        """

    def gather(self, own: Any) -> list[Any]:
        """A plain object of each process, in the order of the ranks, on each of them."""

    def barrier(self) -> None:
        """Waits until every process is here."""


def share(num_rows: int, rank: int, size: int) -> range:
    """The positions of a split that one of ``size`` processes has: adjacent ones, as many as the others, or none."""
    return range(num_rows * rank // size, num_rows * (rank + 1) // size)


def in_each(processes: Processes | None, work: Callable[[], Value]) -> Value:
    """Does the same work in each process; a mistake of the user that one of them meets is raised in all of them.

    Args:
        processes: The processes; ``None`` for one.
        work: Returns the result; it makes no pass.

    Raises:
        LogregError: That of the first process that has one; it names another machine whose files or hardware differ.
    """
    if processes is None:
        return work()
    result: Value | None = None
    mistake: LogregError | None = None
    try:
        result = work()
    except LogregError as error:
        mistake = error
    here = platform.node()
    for one in processes.gather(None if mistake is None else (type(mistake), str(mistake), here)):
        if one is not None:
            kind, words, machine = one
            is_own = machine == here or words == str(mistake)
            raise kind(words if is_own else f"{words} [on {machine}]") from mistake
    return result  # type: ignore[return-value]  # there was no mistake


def in_turn(processes: Processes | None, work: Callable[[], Value]) -> Value:
    """Does the same work in each process: in the first one of each machine, and then in the others.

    They find the files that the first one has left, such as those of a cache; a mistake is not made again.  The first
    one works on the cores of all of them, where a launcher has given each its own.

    Raises:
        LogregError: That of the first process that has one.
    """
    placed, machine = placement(), platform.node()
    is_first = placed is None or not placed.local_rank
    all_cores = [] if processes is None else processes.gather((machine, core_numbers()))
    with also_on(core for place, cores in all_cores for core in cores if is_first and place == machine):
        result = in_each(processes, work if is_first else lambda: None)
    rest = in_each(processes, work if not is_first else lambda: None)
    return result if is_first else rest  # type: ignore[return-value]  # the other one is None


def in_first(processes: Processes | None, work: Callable[[], Value]) -> Value:
    """Does work in the first process alone, and returns its result in all of them.

    Raises:
        LogregError: That of the work.
    """
    if processes is None:
        return work()
    result = in_each(processes, work if processes.rank == 0 else lambda: None)
    first: Value = processes.gather(result)[0]
    return first


class ProcessGroup:
    """The processes of torch.distributed's default group, which must exist.

    References:
        Message Passing Interface Forum (2021), MPI 4.0, section 6: all-reduce and all-gather.
    """

    def __init__(self) -> None:
        """All processes call it together."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._memory: SharedMemory | None = None
        self._memory = shared_memory(self.rank, self.size, self.gather)

    def reduce(self, own: Accumulators) -> Accumulators:
        """One all-reduce of sums and maxima; the samples, where there are some, are gathered as objects."""
        tensors = [*own.sums.values(), *own.maxima.values()]
        if self._memory is not None and all(tensor.device.type == "cpu" for tensor in tensors):
            sums, maxima = ({name: one.contiguous() for name, one in of.items()} for of in (own.sums, own.maxima))
            self._memory.all_reduce(sums.values())
            self._memory.all_reduce(maxima.values(), torch.amax)
        else:
            sums, maxima = self._reduced(own.sums, own.maxima)
        samples = own.samples
        if samples:
            own_samples = {name: [_without_rest(item) for item in items] for name, items in samples.items()}
            parts: list[dict[str, list[Any]]] = self.gather(own_samples)
            samples = {name: [item for part in parts for item in part[name]] for name in samples}
        return Accumulators(sums, maxima, samples)

    def _reduced(
        self, sums: Mapping[str, Tensor], maxima: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sums and maxima by torch.distributed.

        The maxima travel with the sums: each process has a slot for its own, which is 0 for all others.  Large sums are
        added up in their own type and place, each by an all-reduce of its own.
        """
        large = {name: tensor.contiguous() for name, tensor in sums.items() if tensor.numel() >= LARGE_NUMBERS}
        for tensor in large.values():
            _all_reduce(tensor)
        small = {name: tensor for name, tensor in sums.items() if name not in large}
        if not small and not maxima:
            return large, {}
        device = next(iter({**small, **maxima}.values())).device
        greatest = _flat(maxima, device)
        has_slots = len(greatest) * self.size <= MAX_SLOTS
        slots = greatest.new_zeros(self.size, len(greatest) if has_slots else 0)
        if has_slots:
            slots[self.rank] = greatest
        total = torch.cat([_flat(small, device), slots.flatten()])
        _all_reduce(total)
        if has_slots:
            greatest = total[len(total) - slots.numel() :].view_as(slots).amax(0)
        else:
            _all_reduce(greatest, dist.ReduceOp.MAX)
        return _like(small, total) | large, _like(maxima, greatest)

    def gather(self, own: Any) -> list[Any]:
        """A plain object of each process, in the order of the ranks; its tensors come back on this process's device."""
        if self._memory is not None:  # gloo takes several times as long, which is felt with samples of some MiB
            return _gathered(self._memory, own)
        parts: list[Any] = [None] * self.size
        with _noticing_the_lost():
            dist.all_gather_object(parts, own)
        return parts

    def barrier(self) -> None:
        """Waits until every process is here."""
        with _noticing_the_lost():
            dist.barrier()


@contextmanager
def process_group(placed: Placement, is_gpu: bool) -> Iterator[None]:
    """Makes torch.distributed's default group of the processes that a launcher started, and destroys it at the end.

    Args:
        placed: The place of this process.
        is_gpu: Whether it computes on the GPU of its local rank.

    Raises:
        ConfigError: The processes cannot meet.
    """
    if is_gpu:
        torch.cuda.set_device(placed.local_rank)
    os.environ.update(zip(ADDRESS, placed.address, strict=True))
    try:
        store, rank, size = next(rendezvous("env://", placed.rank, placed.size))
        # torchrun's store outlives a restart, with the addresses of the processes that have ended.
        store = PrefixStore(f"{RESTARTS}={os.environ.get(RESTARTS, 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if is_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except dist.DistError as error:
        raise not_met(placed.address, error) from error
    except RuntimeError as error:
        raise LostProcessError(f"another process has ended: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:  # left alone it aborts the interpreter at its end
        dist.destroy_process_group()


def not_met(address: tuple[str, str], error: dist.DistError) -> ConfigError:
    """The mistake that the processes cannot meet at an address."""
    reason = str(error).splitlines()[0].partition(". ")[0]
    host, port = ADDRESS
    return ConfigError(f"`{port}` must be a free port of {host}={address[0]}, got {address[1]}: {reason}.")


def joined_processes() -> ProcessGroup | None:
    """The processes of torch.distributed's default group; ``None`` where this process is alone."""
    is_joined = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return ProcessGroup() if is_joined else None


def _all_reduce(tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
    """Replaces a contiguous tensor by its sum, or its maximum, over all processes."""
    with _noticing_the_lost():
        dist.all_reduce(tensor, operation)


@contextmanager
def _noticing_the_lost() -> Iterator[None]:
    """Raises `LostProcessError` where a collective fails, as it does when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(f"another process has ended: {str(error).splitlines()[0]}") from error


class _Pickler(pickle.Pickler):
    """Pickles plain tensors as arrays, whose numbers travel apart: torch's own way copies them several times."""

    def reducer_override(self, obj: Any) -> Any:
        """How a plain tensor is made again; any other object is pickled as always."""
        if type(obj) is Tensor and obj.layout == torch.strided and obj.device.type == "cpu" and obj.dtype in PLAIN:
            return torch.from_numpy, (obj.detach().numpy(),)
        return NotImplemented


def _gathered(memory: SharedMemory, own: Any) -> list[Any]:
    """An object of each process: its pickle, and then its arrays one by one."""
    file, arrays = BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append).dump(own)
    pickled = [pickle.loads(part) for part in memory.all_gather(pickle.dumps((file.getvalue(), len(arrays))))]
    raw = [array.raw() for array in arrays]
    most = max(number for _, number in pickled)
    parts = [memory.all_gather(raw[place] if place < len(raw) else b"") for place in range(most)]
    return [
        pickle.loads(head, buffers=[part[rank] for part in parts[:number]])
        for rank, (head, number) in enumerate(pickled)
    ]


def _without_rest(sample: Any) -> Any:
    """A sample whose tensors are no views: pickling a view takes all that it is a view of."""
    if isinstance(sample, Tensor):
        return sample.clone()
    if isinstance(sample, tuple):
        parts = [_without_rest(part) for part in sample]
        return type(sample)(*parts) if hasattr(sample, "_fields") else tuple(parts)
    return sample


def _flat(tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """All numbers of tensors, one after another, in float64."""
    nothing = torch.zeros(0, dtype=torch.float64, device=device)
    return torch.cat([nothing, *(tensor.double().flatten() for tensor in tensors.values())])


def _like(tensors: Mapping[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    """The first of the numbers in ``flat`` in tensors of the given names, shapes and types."""
    parts = flat[: sum(tensor.numel() for tensor in tensors.values())].split([t.numel() for t in tensors.values()])
    return {name: part.view_as(tensor).to(tensor) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}
