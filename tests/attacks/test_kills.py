"""An attack on the life of a command: it is killed at a random moment, and then typed again.

SIGTERM ends it within seconds, neither that nor Ctrl-C leaves a temporary file, SIGKILL leaves nothing that is half
written, and what goes on ends as if nothing had happened.  Run it with ``pytest --slow -n0 -s tests/attacks -k kills``.
"""

from __future__ import annotations

import csv
import json
import operator
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
import torch
from forks import OK, REFUSED, Report, Result, Server, inside, kind_of, seeds

from logreg import files

KILLS = 66
"""Six of each command."""

SLOW_S = 3.0
"""After SIGTERM, on a machine that does other things too; two seconds are meant."""

EARLY_S = 0.1
"""Before that a command may not have begun to listen to signals."""

ENDED, WHOLE, REASON = "had ended", "went on", "said why not"

CODE, SLOW, TEMPORARY, HALF, LOST, BITS, BROKEN = (
    "exit code",
    "ended late",
    "temporary file",
    "half written",
    "not finished",
    "other bits",
    "broken after",
)

WRONG = (CODE, SLOW, TEMPORARY, HALF, LOST, BITS, BROKEN)

TEMPORARY_NAME = re.compile(rf"(^|/){files.TEMPORARY_NAME.pattern}|\.tmp$|\.part$", re.DOTALL)
"""How `logreg.files.unfinished` calls a file that is being written, and how others do."""

TABLE = ("dataset=table", "dataset.path=big.csv", "dataset.target=y")


class Victim(NamedTuple):
    """A command, what it makes, and what is typed when it was killed."""

    typed: tuple[str, ...]
    again: tuple[str, ...]
    result: Callable[[Path], Any]
    """What it made, to be compared; raises where it is half written."""
    agree: Callable[[Any, Any], bool] = operator.eq
    """Whether that of one which went on is that of one without a kill."""


def trained(here: Path) -> Any:
    """Parameters and scores of the newest run."""
    folder = here / "runs" / (here / "runs" / "latest").read_text().strip()
    summary = json.loads((folder / "summary.json").read_text())
    held = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    parameters = {key: value.tolist() for key, value in held["state_dict"].items()}
    return summary["metrics"], summary["epochs"], parameters


def optimal(one: Any, other: Any) -> bool:
    """An exact optimizer that goes on begins a new search from where it was: it ends at the same optimum."""
    losses = [{split: metrics[split]["loss"] for split in metrics} for metrics, _, _ in (one, other)]
    return losses[0] == pytest.approx(losses[1], rel=1e-4)


def swept(here: Path) -> Any:
    """Rows of a sweep that was finished."""
    (file,) = (here / "runs" / "sweeps").glob("*/results.csv")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert len({row["job"] for row in rows}) == len(rows), "a row twice"
    return sorted((row["l2"], row["loss/val"]) for row in rows)


def grid(here: Path) -> Any:
    """Rows of the newest grid."""
    file = sorted((here / "runs" / "sweeps").glob("*/results.csv"))[-1]
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    return sorted((row["l2"], row["loss/val"]) for row in rows)


def bytes_of(name: str) -> Callable[[Path], Any]:
    return lambda here: (here / name).read_bytes()


def parquet(here: Path) -> Any:
    return pyarrow.parquet.read_table(here / "p.parquet").to_pydict()


def scores(here: Path) -> Any:
    return json.loads((here / "e.json").read_text())["metrics"]


RESUME = ("train", "ckpt_path=latest")

VICTIMS: dict[str, Victim] = {
    "sgd": Victim(("train", "max_epochs=3000", "report=brief"), RESUME, trained),
    "adam": Victim(("train", "dataset=iris", "optimizer=adam", "lr=0.05", "max_epochs=80", "seed=3"), RESUME, trained),
    "newton": Victim(("train", *TABLE, "l2=1e-3", "report=brief"), RESUME, trained, optimal),
    "polish": Victim(
        ("train", "dataset=digits", "lr=0.1", "max_epochs=6", "polish=true", "l2=1e-3", "report=brief"),
        RESUME,
        trained,
        optimal,
    ),
    "path": Victim(("train", *TABLE, "l2=path", "report=brief"), ("train", *TABLE, "l2=path", "report=brief"), trained),
    "predict csv": Victim(
        ("predict", "input=big.csv", "output=p.csv", "ckpt_path=model"),
        ("predict", "input=big.csv", "output=p.csv", "ckpt_path=model", "overwrite=true"),
        bytes_of("p.csv"),
    ),
    "predict parquet": Victim(
        ("predict", "input=big.csv", "output=p.parquet", "ckpt_path=model"),
        ("predict", "input=big.csv", "output=p.parquet", "ckpt_path=model", "overwrite=true"),
        parquet,
    ),
    "export": Victim(
        ("export", "format=json", "output=m.json", "ckpt_path=model"),
        ("export", "format=json", "output=m.json", "ckpt_path=model", "overwrite=true"),
        bytes_of("m.json"),
    ),
    "evaluate": Victim(
        ("evaluate", "ckpt_path=model", "output=e.json"),
        ("evaluate", "ckpt_path=model", "output=e.json", "overwrite=true"),
        scores,
    ),
    "sweep": Victim(
        ("sweep", "dataset=iris", "search.l2=log(1e-4,1)", "trials=4"),
        ("sweep", "dataset=iris", "search.l2=log(1e-4,1)", "trials=4"),
        swept,
    ),
    "grid": Victim(
        ("train", "-m", "dataset=iris", "l2=1,0.1,0.01"), ("train", "-m", "dataset=iris", "l2=1,0.1,0.01"), grid
    ),
}


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60,000 rows and a model of it."""
    here = tmp_path_factory.mktemp("place")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60_000, 3)).round(4)
    level = draw.integers(0, 5, 60_000)
    y = (x.sum(1) + level / 2 + draw.logistic(size=60_000) > 1).astype(int)
    lines = (f"{a},{b},{c},l{d},{'no' if not e else 'yes'}" for (a, b, c), d, e in zip(x, level, y, strict=True))
    (here / "big.csv").write_text("a,b,c,d,y\n" + "\n".join(lines) + "\n")
    assert kind_of(server.run(here, "train", *TABLE, "l2=1e-2", "report=brief", "hydra.run.dir=model")) == OK
    shutil.rmtree(here / "runs")
    return here


class Reference(NamedTuple):
    """The same without a kill."""

    result: Any
    seconds: float


@pytest.fixture(scope="module")
def references(server: Server, place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    found = {}
    for name, victim in VICTIMS.items():
        there = tmp_path_factory.mktemp("reference") / "there"
        shutil.copytree(place, there)
        result = server.run(there, *victim.typed)
        assert kind_of(result) == OK, result
        found[name] = Reference(victim.result(there), result.seconds)
    return found


def is_there(victim: Victim, here: Path, reference: Reference) -> bool:
    """Whether the result is there as a whole."""
    try:
        return victim.agree(victim.result(here), reference.result)
    except Exception:
        return False


def half_written(here: Path) -> list[str]:
    """Files that readers see and cannot read."""
    wrong = []
    for name in inside(here):
        path = here / name
        if path.is_dir() or TEMPORARY_NAME.search(name):
            continue
        try:
            if path.suffix == ".ckpt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".parquet":
                pyarrow.parquet.read_table(path)
            elif name == "p.csv":
                assert path.read_text().count("\n") == 60_001
        except Exception as error:
            wrong.append(f"{name}: {error}")
    return wrong


def attack(
    server: Server, place: Path, there: Path, references: dict[str, Reference], seed: int
) -> tuple[str, str, str]:
    """The victim, what became of it, and how that looked."""
    draw = np.random.default_rng([seed, 5])
    name = list(VICTIMS)[seed % len(VICTIMS)]
    victim, reference = VICTIMS[name], references[name]
    signum = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[int(draw.integers(3))]
    moment = float(draw.uniform(0.02, 1)) * reference.seconds
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(place, there)
    running = server.start(there, *victim.typed)
    said = f"[seed {seed}] {signum.name} {moment:.2f} s after the start of {name}"
    if running.has_ended(moment):
        return name, ENDED, f"{said}: {running.wait()}"
    sent = time.monotonic()
    running.send(signum)
    result = running.wait()
    took = time.monotonic() - sent
    said = f"{said}, {took:.2f} s to end: {result}"
    if result.code != 0:
        expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signum]
        outside = moment < EARLY_S or is_there(victim, there, reference)  # it did not listen yet, or no more
        if result.code not in {expected, *((-signum, 1) if outside else ())}:
            return name, CODE, said
        if "Traceback" in result.err and not outside:
            return name, CODE, said
        if signum == signal.SIGTERM and took > SLOW_S:
            return name, SLOW, said
        if signum != signal.SIGKILL and (left := [one for one in result.left if TEMPORARY_NAME.search(one)]):
            return name, TEMPORARY, f"{left} {said}"
    if wrong := half_written(there):
        return name, HALF, f"{wrong} {said}"
    return name, *afterwards(server, there, victim, reference, result, said)


def afterwards(
    server: Server, there: Path, victim: Victim, reference: Reference, killed: Result, said: str
) -> tuple[str, str]:
    """What became of it when it was typed again."""
    if (killed.code == 0 or is_there(victim, there, reference)) and victim.again == RESUME:
        return ENDED, said
    again = server.run(there, *victim.again)
    said = f"{said}\n  then {again}"
    kind = kind_of(again)
    if kind == REFUSED and victim.again == RESUME:
        has_checkpoint = any(name.endswith(".ckpt") and "runs/" in name for name in inside(there))
        if has_checkpoint:
            return LOST, said
        again = server.run(there, *victim.typed)
        said = f"{said}\n  then {again}"
        if kind_of(again) != OK:
            return BROKEN, said
        return (REASON if is_there(victim, there, reference) else BITS), said
    if kind != OK:
        return BROKEN, said
    if not is_there(victim, there, reference):
        return BITS, said
    if left := [one for one in inside(there) if TEMPORARY_NAME.search(one)]:
        return TEMPORARY, f"{left} of the killed one are still there: {said}"
    return WHOLE, said


@pytest.mark.slow
def test_a_command_is_killed_and_typed_again(
    server: Server,
    place: Path,
    references: dict[str, Reference],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report((ENDED, WHOLE, REASON), WRONG)
    for seed in seeds(KILLS):
        report.add(*attack(server, place, tmp_path / "there", references, seed))
    with capsys.disabled():
        sys.stdout.write(str(report))
    assert not report.wrong, "\n\n".join(report.wrong)
