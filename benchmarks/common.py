"""Common parts of the benchmarks: the command line, timing in turns, and tables of medians.

Machines differ and are noisy.  Each benchmark therefore times the two things that it compares in turns, and reports the
ratio of their medians.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
"""The commands of the project."""

MEASURE = """
import json, os, subprocess, sys, time

start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""
"""Runs a command and prints its exit code, its wall and processor time, and its peak memory.  Linux counts the memory
of the process that started a command as the command's own, so a small process has to start it."""

IDLE_SECONDS = 0.2
"""Pause between two turns: the threads of some pools spin for a while after their last work."""

Seconds = Mapping[str, Sequence[float]]
"""Name of what was timed -> seconds of each repeat."""


class Target(NamedTuple):
    """The ratio that is aimed for."""

    ratio: float
    """Largest accepted ratio of our median to the reference's."""
    remark: str = ""


def new_parser(description: str | None, repeats: int | None = 5) -> argparse.ArgumentParser:
    """The command line of a benchmark.

    Args:
        description: The docstring of the benchmark, which ``--help`` prints.
        repeats: Default of ``--repeats``; ``None`` for a benchmark without this option.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if repeats is not None:
        parser.add_argument(
            "--repeats",
            type=positive,
            default=repeats,
            metavar="N",
            help=f"number of times that each thing is timed (default: {repeats})",
        )
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: ``text`` is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def add_mnist_root(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the folder of MNIST."""
    parser.add_argument(
        "--mnist-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder that holds MNIST/raw (default: data)",
    )


def has_mnist(root: Path) -> bool:
    """Whether MNIST lies in ``root``."""
    return (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists()


def print_versions() -> None:
    """Prints the versions of Python and of the packages that matter, and the number of cores."""
    packages = {distribution.name for distribution in distributions()}
    there = [package for package in ("torch", "lightning", "scikit-learn") if package in packages]
    versions = ", ".join(f"{package} {version(package)}" for package in there)
    print(f"python {platform.python_version()}, {versions}; {os.cpu_count()} cores", flush=True)


def silence_lightning() -> None:
    """Silences what Lightning warns of when a fit is short."""
    from logreg.fast_import import import_lightning

    warnings.filterwarnings("ignore")
    import_lightning()
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def alternate(arms: Mapping[str, Callable[[], list[float]]], repeats: int, cold: int = 1) -> Seconds:
    """Times several things in turns, A B A B ..., so that a slow minute slows all of them.

    Args:
        arms: Name -> function that runs once and returns the seconds it took, one value or more.
        repeats: Number of turns that count.
        cold: Number of turns before those; the first turn finds cold caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(cold + repeats):
        for name, run in arms.items():
            time.sleep(IDLE_SECONDS)
            taken = run()
            if turn >= cold:
                seconds[name] += taken
    return seconds


def timed(work: Callable[[], object], times: int = 1, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each of ``times`` calls of ``work``, by a clock."""
    seconds = []
    for _ in range(times):
        start = clock()
        work()
        seconds.append(clock() - start)
    return seconds


class ProcessUse(NamedTuple):
    """The use that a process made of the machine."""

    seconds: float
    """Wall time."""
    processor_seconds: float
    """Processor time of all its threads and of the processes that it started."""
    peak: float
    """Peak memory, GiB."""


def process_use(arguments: Sequence[str], folder: Path | None = None, exit_code: int = 0) -> ProcessUse:
    """Runs a Python process, which finds its modules compiled, as those of an installed package are.

    Args:
        arguments: The words after ``python``.
        folder: Its working folder; an empty one when ``None``.
        exit_code: The exit code that the process must have.

    Raises:
        RuntimeError: The process had another exit code.
    """
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-c", MEASURE, sys.executable, *arguments]
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, cwd=folder or empty, env=kept, capture_output=True, text=True, check=True)
    code, seconds, processor_seconds, peak = json.loads(done.stdout)
    if code != exit_code:
        raise RuntimeError(f"python {' '.join(arguments)} left with {code}:\n{done.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return ProcessUse(seconds, processor_seconds, peak * unit / 2**30)


def print_ratios(title: str, seconds: Seconds, targets: Mapping[str, Target]) -> None:
    """Prints a table: the first line is ours, the others are the references with the ratio of our median to theirs."""
    ours, *_ = seconds
    median = statistics.median(seconds[ours])
    print(f"\n{title}")
    print_row("", "median", "min", "max", "ours / it", "target")
    for name, taken in seconds.items():
        ratio, target = median / statistics.median(taken), targets.get(name)
        if name == ours:
            print_row(name, *spread(taken))
        elif target is None:
            print_row(name, *spread(taken), f"{ratio:.2f}", "none")
        else:
            remark = f" ({target.remark})" if target.remark else ""
            verdict = met(ratio <= target.ratio) + remark
            print_row(name, *spread(taken), f"{ratio:.2f}", f"<= {target.ratio:.2f}", verdict)


def print_row(
    name: str, median: str, least: str = "", most: str = "", share: str = "", target: str = "", verdict: str = ""
) -> None:
    """Prints a line of a table."""
    print(f"{name:<30}{median:>10}{least:>10}{most:>10}{share:>11}  {target:<8} {verdict}".rstrip(), flush=True)


def spread(taken: Sequence[float]) -> tuple[str, str, str]:
    """Median, minimum and maximum, as a table shows them."""
    return f"{statistics.median(taken):.4f}", f"{min(taken):.4f}", f"{max(taken):.4f}"


def met(reached: bool) -> str:
    """The verdict on a target."""
    return "met" if reached else "not met"
