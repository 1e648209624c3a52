"""Sums through memory that processes share: their parts, their end, and where there is no such memory."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from logreg import shared_memory as module
from logreg.errors import LostProcessError
from logreg.shared_memory import SLOT_NUMBERS, SharedMemory, memory_file, shared_memory

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="writes are seen in their order on x86-64 alone"
)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A test in which a process waits for the other one without end fails."""

    def fail(*_: object) -> None:
        raise TimeoutError("a process waits without end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def with_another(work: Callable[[SharedMemory], object]) -> Iterator[SharedMemory]:
    """The memory of process 0 of two, while process 1 does its work and is killed."""
    file = memory_file(SharedMemory.num_bytes(2))
    ready, begins = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # those of OpenMP do not outlive a fork, and are waited for
        try:
            memory = SharedMemory(file, 1, 2)
            os.write(ready[1], b"x")
            os.read(begins[0], 1)  # whoever waits tries the locks of the others, which must have them by then
            work(memory)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready[0], 1)
    try:
        memory = SharedMemory(file, 0, 2)
        os.write(begins[1], b"x")
        yield memory
    finally:
        for end in (*ready, *begins):
            os.close(end)
        os.kill(child, signal.SIGKILL)  # it waits for this process where a test fails
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


LENGTHS = (0, 1, 2, 1001, 2 * SLOT_NUMBERS + 1)


def test_sums_of_any_length_and_type_are_those_of_all_processes() -> None:
    def add_up(memory: SharedMemory) -> None:
        for length in LENGTHS:
            memory.all_reduce([torch.arange(length, dtype=torch.float64) + 0.5])
            memory.all_reduce([torch.full((length,), 2.0**-30)])

    with with_another(add_up) as memory:
        for length in LENGTHS:
            numbers, single = torch.arange(length, dtype=torch.float64), torch.ones(length)
            memory.all_reduce([numbers])
            memory.all_reduce([single])
            assert torch.equal(numbers, 2 * torch.arange(length, dtype=torch.float64) + 0.5)
            assert single.dtype == torch.float32
            assert torch.equal(single, torch.full((length,), 1 + 2.0**-30))


def test_tensors_of_several_types_and_shapes_are_added_up_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fit into a slot travel together, and a larger one in parts."""
    monkeypatch.setattr(module, "SLOT_NUMBERS", 8)

    def tensors(rank: int) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(rank)
        shapes = ((), (0,), (2, 3), (1,), (7, 3), (8,), (2, 1, 2))
        types = (torch.float64, torch.float32, torch.float32, torch.int8, torch.float64, torch.float64, torch.float32)
        return [
            torch.randint(-9, 9, shape, generator=draw).to(dtype) for shape, dtype in zip(shapes, types, strict=True)
        ]

    def add_up(memory: SharedMemory) -> None:
        memory.all_reduce(tensors(1))
        memory.all_reduce(tensors(1), torch.amax)

    with with_another(add_up) as memory:
        sums, maxima = tensors(0), tensors(0)
        places = [tensor.data_ptr() for tensor in sums]
        memory.all_reduce(sums)
        memory.all_reduce(maxima, torch.amax)
    assert [tensor.data_ptr() for tensor in sums] == places
    for first, second, total, most in zip(tensors(0), tensors(1), sums, maxima, strict=True):
        assert total.dtype == most.dtype == first.dtype
        assert torch.equal(total, first + second)
        assert torch.equal(most, torch.maximum(first, second))


@pytest.mark.parametrize("lengths", [(0, 0), (1, 0), (64, 65), (200, 3), (3, 128)])
def test_bytes_of_any_length_are_gathered(lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot of 64 bytes takes them in parts; the second time shows that all have read the first."""
    monkeypatch.setattr(module, "SLOT_NUMBERS", 8)
    own = [bytes(range(length)) for length in lengths]

    def gather(memory: SharedMemory) -> None:
        memory.all_gather(own[1])
        memory.all_gather(own[1][::-1])

    with with_another(gather) as memory:
        assert memory.all_gather(own[0]) == own
        assert memory.all_gather(own[0][::-1]) == [one[::-1] for one in own]


def test_a_process_that_is_killed_is_noticed_before_anyone_waits_for_it() -> None:
    with with_another(lambda memory: memory.all_reduce([torch.ones(3)])) as memory:
        numbers = torch.ones(3)
        memory.all_reduce([numbers])
        assert numbers.tolist() == [2.0] * 3
        with pytest.raises(LostProcessError, match="another process has ended: that of rank 1"):
            memory.all_reduce([numbers])


def test_processes_of_several_machines_share_no_memory() -> None:
    def gather(own: Any) -> list[Any]:
        return [own, ("another machine", own[1]) if isinstance(own, tuple) else False]

    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    assert shared_memory(0, 2, gather) is None
    assert len(list(files.iterdir())) == before


def test_a_process_that_may_not_open_the_memory_of_the_first_one_has_none() -> None:
    def gather(own: Any) -> list[Any]:
        return [(own[0], "/proc/self/fd/no-such-file"), own] if isinstance(own, tuple) else [True, own]

    assert shared_memory(1, 2, gather) is None


def test_a_process_that_is_stopped_is_waited_for() -> None:
    def stopping(memory: SharedMemory) -> None:
        memory.all_reduce([torch.tensor([float(os.getpid())], dtype=torch.float64)])
        os.kill(os.getpid(), signal.SIGSTOP)
        memory.all_reduce([torch.ones(1, dtype=torch.float64)])

    with with_another(stopping) as memory:
        number = torch.zeros(1, dtype=torch.float64)
        memory.all_reduce([number])
        process = int(number)
        threading.Timer(0.2, os.kill, (process, signal.SIGCONT)).start()
        memory.all_reduce([number])
        assert number == process + 1


def test_processes_that_add_up_something_else_are_noticed() -> None:
    def other(memory: SharedMemory) -> None:
        memory.all_reduce([torch.ones(3)])

    with with_another(other) as memory, pytest.raises(RuntimeError, match=r"as many bytes each, got \[16, 12\]"):
        memory.all_reduce([torch.ones(4)])


def test_where_there_is_no_room_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    with pytest.raises(OSError, match=r"No space left|too large|Cannot allocate"):
        memory_file(2**61)
    assert len(list(files.iterdir())) == before
    monkeypatch.setattr(module, "IN_MEMORY", "/no-such-folder")
    assert shared_memory(0, 2, lambda own: [own, own]) is None
