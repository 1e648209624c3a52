"""Several processes in tests: threads that take their part, and real processes with torch.distributed."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import set_forkserver_preload
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from logreg.__main__ import COMMANDS
from logreg.commands import several_processes
from logreg.fast_import import import_lightning
from logreg.processes import Accumulators, ProcessGroup, share
from logreg.rows import MemoryRows

import_lightning()  # before all else in the process that the others are forked from, which saves seconds

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
"""The script that trains."""

PRELOADED = [__name__, "pytest", "hydra.main", "logreg.data", "logreg.run.train", "logreg.commands.train"]
"""What the process that all others are forked from imports, once, which takes seconds."""

LONGEST_S = 1200
"""Limit in seconds of the work of several processes: those that wait for each other without end fail."""


class Simulated:
    """One of several processes, each a thread: they meet at a barrier and add up what they bring."""

    def __init__(self, rank: int, parts: list[Any], meeting: Barrier) -> None:
        self.rank, self.size, self.parts, self.meeting = rank, len(parts), parts, meeting

    def reduce(self, own: Accumulators) -> Accumulators:
        parts: list[Accumulators] = self.gather(own)
        first = parts[0]
        return Accumulators(
            {name: torch.stack([part.sums[name] for part in parts]).sum(0) for name in first.sums},
            {name: torch.stack([part.maxima[name] for part in parts]).amax(0) for name in first.maxima},
            {name: [item for part in parts for item in part.samples[name]] for name in first.samples},
        )

    def gather(self, own: Any) -> list[Any]:
        self.parts[self.rank] = own
        self.meeting.wait()
        parts = list(self.parts)
        self.meeting.wait()
        return parts

    def barrier(self) -> None:
        self.meeting.wait()


def together(sources: Sequence[MemoryRows], work: Callable[[MemoryRows], Any]) -> list[Any]:
    """What each process returns; the control flow of one that leaves the others breaks the barrier."""
    meeting, parts = Barrier(len(sources), timeout=60), [None] * len(sources)

    def process(rank: int) -> Any:
        sources[rank].processes = Simulated(rank, parts, meeting)
        try:
            return work(sources[rank])
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(len(sources)) as pool:
        return list(pool.map(process, range(len(sources))))


def dealt(memory: MemoryRows, processes: int) -> list[MemoryRows]:
    """Parts of the rows: the second process has none, the last one all rows of class 0 that there are to deal."""
    labels = memory.labels
    number = torch.arange(len(labels)) % processes
    number[number == 1] = 0
    number[labels == 0] = processes - 1

    def of(rank: int) -> MemoryRows:
        some = number == rank
        weights = None if memory.sample_weight is None else memory.sample_weight[some]
        offset = None if memory.offset is None else memory.offset[some]
        part = MemoryRows(memory.features[some], labels[some], weights, offset, some.nonzero()[:, 0])
        part.block_rows = memory.block_rows
        return part

    parts = [of(rank) for rank in range(processes)]
    assert not parts[1].num_rows or processes == 2
    assert not bool((parts[0].labels == 0).any())
    return parts


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def started(work: Callable[..., None], arguments: tuple[Any, ...], size: int) -> None:
    """Has processes call ``work(rank, *arguments)``, and waits for their end, but not without end.

    They are forked from a process that has imported torch and Lightning once, which takes seconds.
    """
    set_forkserver_preload(PRELOADED)
    all_of_them = start_processes(work, arguments, size, join=False, start_method="forkserver")
    deadline = time.monotonic() + LONGEST_S
    while not all_of_them.join(timeout=deadline - time.monotonic()):
        if time.monotonic() > deadline:
            for process in all_of_them.processes:
                process.kill()
            raise TimeoutError("processes wait for each other without end")


def in_processes(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(processes, *arguments)`` returns in each of ``size`` real processes, in the order of the ranks.

    ``work`` must be a function of a module, since the processes import it.
    """
    with tempfile.TemporaryDirectory() as folder:
        started(_work, (size, free_port(), folder, work, arguments), size)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(size)]


def _work(rank: int, size: int, port: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo")
    try:
        torch.save(work(ProcessGroup(), *arguments), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()


def typed_in_processes(
    folder: Path, environments: Sequence[Mapping[str, str]], *typed: str, script: Path = SCRIPT
) -> list[tuple[int, str, str]]:
    """What a command answers in each of several processes that a launcher has started.

    Args:
        folder: The working folder.
        environments: What the launcher sets in each process.
        typed: The settings.
        script: What is typed after ``python``.  The command is that of its name, or ``train``; this is what a command
            that starts others starts.

    Returns:
        Exit code, output, and what was written to stderr, of each process.
    """
    with tempfile.TemporaryDirectory() as said:
        started(_type, (folder, Path(said), environments, script, typed), len(environments))
        texts = [[(Path(said) / f"{rank}-{to}").read_text() for to in range(3)] for rank in range(len(environments))]
    return [(int(code), out, err) for code, out, err in texts]


def _type(
    rank: int,
    folder: Path,
    said: Path,
    environments: Sequence[Mapping[str, str]],
    script: Path,
    typed: Sequence[str],
) -> None:
    command = script.stem if script.stem in COMMANDS else "train"
    main = import_module(f"logreg.commands.{command}").main
    several_processes.LAUNCHER_S = 0.0  # there is none that would end a process which is left
    torch.set_num_threads(1)
    sys.argv = [str(script)]
    os.environ.update(environments[rank])
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(said / f"{rank}-{number}", os.O_WRONLY | os.O_CREAT), number)
    code = main(typed)
    sys.stdout.flush()
    (said / f"{rank}-0").write_text(str(code))


def shared(memory: MemoryRows, processes: int) -> list[MemoryRows]:
    """The share of each process, in blocks of the size that the rows have."""
    parts = []
    for rank in range(processes):
        own = share(memory.num_rows, rank, processes)
        parts.append(memory.at(torch.arange(own.start, own.stop)))
        parts[-1].block_rows = memory.block_rows
    return parts


def begun(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A real process that has begun some work, a function of a module, see `in_processes`."""
    set_forkserver_preload(PRELOADED)
    process = multiprocessing.get_context("forkserver").Process(target=work, args=arguments)
    process.start()
    return process


def forked(number: int, work: Callable[[], None]) -> list[int]:
    """Exit codes of processes that begin the same work at the same moment, and use no threads of torch.

    The code of a process that a signal ended is the negative number of the signal.
    """
    ready, go = os.pipe(), os.pipe()
    children = []
    for _ in range(number):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(ready[1], b"x")
                os.close(go[1])
                os.read(go[0], 1)  # returns in all of them at once
                torch.set_num_threads(1)  # a forked process has none of the threads of the other
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    for end in (*go, *ready):
        os.close(end)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
