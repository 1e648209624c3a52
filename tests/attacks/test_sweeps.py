"""An attack on sweeps that share: several processes begin the same new study at once, and some are killed.

All end well, no folder of another one is removed, no trial is counted twice, and there are as many as were asked for.
Run it with ``pytest --slow -n0 -s tests/attacks -k sweeps``.
"""

from __future__ import annotations

import csv
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import OK, Report, Server, kind_of, seeds

GROUPS = 50

FAILED, MISSING, TWICE, NUMBER = "one failed", "folder missing", "row twice", "other number"

WRONG = (FAILED, MISSING, TWICE, NUMBER)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def searches(server: Server, here: Path, draw: np.random.Generator) -> tuple[str, str]:
    """Tuned sweeps of one new study; in some groups one process is killed, and the command is typed once more."""
    processes, trials = int(draw.integers(2, 5)), int(draw.integers(2, 7))
    typed = ["dataset=iris", f"search.l2=log(1e-4,{draw.integers(1, 9)})", f"trials={trials}"]
    typed += ["search.l1=log(1e-6,1e-2)"] if draw.random() < 0.3 else []
    typed += ["study=shared"] if draw.random() < 0.3 else []
    apart = draw.choice([0.0, 0.0, 0.02, 0.2])
    running = []
    for _ in range(processes):
        running.append(server.start(here, "sweep", *typed))
        time.sleep(apart * draw.random())
    killed = int(draw.integers(processes)) if draw.random() < 0.3 else None
    if killed is not None:
        time.sleep(draw.uniform(0, 2))
        running[killed].send(signal.SIGKILL)
    results = [one.wait() for one in running]
    said = "\n".join(map(str, results))
    if any(kind_of(result) != OK for n, result in enumerate(results) if n != killed):
        return FAILED, said
    if killed is not None:
        again = server.run(here, "sweep", *typed)
        said += f"\nthen {again}"
        if kind_of(again) != OK:
            return FAILED, said
    folders = [path for path in (here / "runs" / "sweeps").iterdir() if path.is_dir()]
    if len(folders) != 1:
        return NUMBER, f"{folders} {said}"
    rows = rows_of(folders[0] / "results.csv")
    jobs = [row["job"] for row in rows]
    if len(set(jobs)) != len(jobs):
        return TWICE, f"{jobs} {said}"
    if len(jobs) != trials:
        return NUMBER, f"{jobs} instead of {trials} {said}"
    if lost := [job for job in jobs if not (folders[0] / job / "summary.json").is_file()]:
        return MISSING, f"{lost} {said}"
    return OK, said


def grids(server: Server, here: Path, draw: np.random.Generator) -> tuple[str, str]:
    """Grids and single runs that begin at once; each has a folder of its own."""
    processes = int(draw.integers(2, 5))
    typed = ["-m", "dataset=iris", "l2=1,0.1"] if draw.random() < 0.7 else ["dataset=iris", "l2=1", "report=brief"]
    running = [server.start(here, "train", *typed) for _ in range(processes)]
    results = [one.wait() for one in running]
    said = "\n".join(map(str, results))
    if any(kind_of(result) != OK for result in results):
        return FAILED, said
    if typed[0] != "-m":
        runs = [path for path in (here / "runs" / "iris").iterdir() if (path / "summary.json").is_file()]
        return (OK if len(runs) == processes else NUMBER), said
    files = list((here / "runs" / "sweeps").glob("*/results.csv"))
    counts = [len(rows_of(file)) for file in files]
    return (OK if counts == [2] * processes else NUMBER), f"{counts} {said}"


def attack(server: Server, there: Path, seed: int) -> tuple[str, str, str]:
    draw = np.random.default_rng([seed, 11])
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    group = grids if seed % 5 == 4 else searches
    kind, said = group(server, there, draw)
    return group.__name__, kind, f"[seed {seed}] {said}"


@pytest.mark.slow
def test_groups_of_sweeps_that_begin_at_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report((OK,), WRONG)
    for seed in seeds(GROUPS):
        report.add(*attack(server, tmp_path / "there", seed))
    with capsys.disabled():
        sys.stdout.write(str(report))
    assert not report.wrong, "\n\n".join(report.wrong)
