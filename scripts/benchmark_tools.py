"""What the parts of the benchmark share: taking turns, and tables of medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

PEAK = """
import os, subprocess, sys

process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and prints the most memory that it had; small itself, as Linux counts in what it was started from."""

IDLE = 0.2
"""Seconds between two turns: threads of some pools wait busily for a while after their last work."""

Seconds = Mapping[str, Sequence[float]]
"""What was timed -> how long each time."""


class Target(NamedTuple):
    """What ours is held against."""

    ratio: float
    """Ours may take at most so many times the reference."""
    remark: str = ""


def alternate(arms: Mapping[str, Callable[[], list[float]]], repeats: int, cold: int = 1) -> Seconds:
    """Times several things in turns, A B A B ..., so that a slow minute slows them all.

    Args:
        arms: Name -> what runs once and returns the seconds it took, one or more times.
        repeats: Turns each takes that count.
        cold: Turns before those that do not count: the first finds cold caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(cold + repeats):
        for name, run in arms.items():
            time.sleep(IDLE)
            taken = run()
            if turn >= cold:
                seconds[name] += taken
    return seconds


def timed(work: Callable[[], object], times: int = 1) -> list[float]:
    """Seconds that some work takes, each time."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def process_peak(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall seconds of a Python process in an empty folder, and the most memory that it had, in GiB.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-c", PEAK, sys.executable, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} left with {done.returncode}:\n{done.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, int(done.stdout) * unit / 2**30


def print_ratios(title: str, seconds: Seconds, targets: Mapping[str, Target]) -> None:
    """Prints a table: the first thing is ours, the others are what it is held against."""
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
            verdict = "met" if ratio <= target.ratio else "not met"
            remark = f" ({target.remark})" if target.remark else ""
            print_row(name, *spread(taken), f"{ratio:.2f}", f"<= {target.ratio:.2f}", verdict + remark)


def print_row(
    name: str, median: str, least: str = "", most: str = "", share: str = "", target: str = "", verdict: str = ""
) -> None:
    """Prints a line of a table."""
    print(f"{name:<30}{median:>10}{least:>10}{most:>10}{share:>11}  {target:<8} {verdict}".rstrip(), flush=True)


def spread(taken: Sequence[float]) -> tuple[str, str, str]:
    """Median, least and most, as a table shows them."""
    return f"{statistics.median(taken):.4f}", f"{min(taken):.4f}", f"{max(taken):.4f}"
