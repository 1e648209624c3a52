"""Runs of several processes as users start them: the answer of one process, and every way out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from process_groups import free_port, typed_in_processes
from whole_runs import SCRIPT, Answer, Run, left_in, newest, train

SECONDS = 240
"""Limit of a run in seconds: one that hangs fails."""

SLOW = pytest.mark.slow


def environment(**variables: str) -> dict[str, str]:
    """The environment of a terminal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables}


def typed(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What these words do in a terminal."""
    return subprocess.run(
        words,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


RunCommand = Callable[..., Answer]

ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
"""Where processes would meet."""

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def assert_same(run: Run, alone: Run, log: str) -> None:
    """Two runs must have the same coefficients and scores, and a certificate."""
    found, expected = run.checkpoint(), alone.checkpoint()
    for name in ("model.coef", "model.intercept"):
        mine, its = found["state_dict"][name], expected["state_dict"][name]
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-9 * float(its.abs().max()), msg=log)
    assert found["optimality"]["converged"]
    mine, its = run.summary, alone.summary
    assert mine["optimality"]["passes"] == its["optimality"]["passes"]
    assert mine["dataset"] == its["dataset"]
    for part in ("metrics", "evaluation", "path"):
        close = [*zip(numbers_in(mine[part]), numbers_in(its[part]), strict=True)]
        assert close or part == "path"
        for one, other in close:
            assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


def numbers_in(plain: Any) -> Iterator[float]:
    """All numbers in plain values, in order."""
    if isinstance(plain, dict | list):
        for one in plain.values() if isinstance(plain, dict) else plain:
            yield from numbers_in(one)
    elif isinstance(plain, int | float):
        yield plain


RUNS = {
    "binary, newton": (["dataset=breast_cancer", "optimizer=newton", "l2=0.01"], 3),
    "one-vs-rest, l1": (["dataset=wine", "optimizer=newton", "loss=bce", "l1=0.01", "l2=0.001"], 2),
    "more processes than rows": (["dataset=toy", "optimizer=newton", "l2=0.1"], 5),
    "path, calibrated": (["dataset=wine", "optimizer=newton", "l2=path", "calibrate=temperature"], 2),
    "softmax, lbfgs": (["dataset=digits", "optimizer=lbfgs", "l2=0.1", "tolerance=1e-12"], 2),
    "softmax, lbfgs, torchrun": (["dataset=digits", "optimizer=lbfgs", "l2=0.1", "tolerance=1e-12"], 0),
}
"""Settings, and the number of processes; 0 for torchrun with two, whose variables the others have too."""


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if several else SLOW) for name, (_, several) in RUNS.items()]
)
def test_several_processes_give_the_answer_of_one(tmp_path: Path, name: str) -> None:
    settings, several = RUNS[name]
    settings = [*settings, "precision=64", "report=brief"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    alone = train(tmp_path / "alone", *settings)
    if several:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(several)}
        local = {"LOCAL_WORLD_SIZE": str(several), "TORCHELASTIC_RUN_ID": "none"}
        places = [{**address, **local, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(several)]
        codes, outs, errs = zip(*typed_in_processes(tmp_path / "together", places, *settings), strict=True)
        code, out, err = max(codes), "".join(outs), "".join(errs)
    else:
        answer = typed(tmp_path / "together", *TORCHRUN, "--nproc-per-node=2", str(SCRIPT), *settings)
        code, out, err = answer.returncode, answer.stdout, answer.stderr
    assert code == 0, err
    run = newest(tmp_path / "together")
    assert_same(run, alone, err)
    assert len(left_in(tmp_path / "together")) == len(left_in(tmp_path / "alone"))  # one process wrote
    assert out.count("baseline: ") == 1
    assert "Traceback" not in err


def test_tasks_of_slurm_train_together(tmp_path: Path) -> None:
    port = free_port()
    step = {
        "SLURM_JOB_ID": "7",
        "MASTER_PORT": str(port),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    tasks = [{**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    settings = ["dataset=breast_cancer", "optimizer=newton", "l2=0.01", "report=brief"]
    first, second = typed_in_processes(tmp_path, tasks, *settings)
    assert first[0] == 0
    assert "optimal to" in first[1]
    assert second == (0, "", "")
    assert newest(tmp_path).summary["optimality"]["converged"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["-m", "l2=0.1,1"], "`-m` must go with one process"),
        (["num_nodes=2"], "`num_nodes=2` must go with MASTER_ADDR in the environment"),
    ],
)
def test_what_cannot_go_with_several_processes_is_one_line(
    run_command: RunCommand, tmp_path: Path, settings: Sequence[str], line: str
) -> None:
    answer = run_command(tmp_path, "train", *settings, "optimizer=newton", "devices=2")
    assert answer.code == 2
    assert answer.err.startswith(line)
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert answer.left == []


PROGRAM = """
import os, sys, time

from logreg.commands import train
from logreg.commands.process import run_process

rank = int(os.environ.get("RANK", "-1"))


def disturbed(*_):
    {disturbance}


if {in_training}:
    from logreg.fast_import import import_lightning

    import_lightning()
    from logreg.training.callbacks import Certificates

    Certificates.on_train_epoch_end = disturbed
else:
    train._fit = disturbed
run_process(train.main)
"""
"""The command with a disturbance: at the end of the first epoch, or before torch is imported."""

IN_TRAINING = pytest.mark.parametrize("in_training", [False, pytest.param(True, marks=SLOW)])


def disturbing(folder: Path, disturbance: str, in_training: bool) -> Path:
    """A script that runs a disturbed command."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(disturbance=disturbance, in_training=in_training))
    return program


SETTINGS = ["dataset=breast_cancer", "optimizer=newton", "l2=0.01", "devices=2"]
"""A run of two processes."""


@SLOW
def test_a_mistake_that_all_processes_meet_is_one_line_once(tmp_path: Path) -> None:
    settings = ["dataset=table", "dataset.path=none.csv", "dataset.target=y", "optimizer=newton", "devices=2"]
    answer = typed(tmp_path, sys.executable, str(SCRIPT), *settings)
    assert answer.returncode == 2
    assert answer.stderr.startswith("`dataset.path` must be a file, and none.csv")
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("disturbance", "code", "said"),
    [
        ("from logreg.errors import ConfigError; raise ConfigError('a mistake of each')", 2, "a mistake of each\n"),
        ("assert rank != 1, 'a fault of process 1'; time.sleep(600)", 1, "AssertionError: a fault of process 1\n"),
        (
            "rank or os.kill(os.getpid(), 9); time.sleep(600)",
            128 + 9,
            "Stopped: the process of rank 0 was ended by SIGKILL. The system does so where memory",
        ),
    ],
    ids=["mistake", "fault", "killed"],
)
def test_the_end_of_a_process_ends_all_with_its_message_and_code(
    tmp_path: Path, disturbance: str, code: int, said: str
) -> None:
    program = disturbing(tmp_path, disturbance, in_training=False)
    ((found, out, err),) = typed_in_processes(tmp_path, [{}], *SETTINGS, script=program)
    assert found == code, err
    assert err.count(said) == 1
    assert err.count("Traceback") == (code == 1)
    assert code == 1 or err.count("\n") == 1
    assert out == ""


@SLOW
def test_the_crash_of_a_process_ends_all_with_its_message(tmp_path: Path) -> None:
    program = disturbing(tmp_path, "assert rank != 1, 'a fault of process 1'", in_training=True)
    answer = typed(tmp_path, sys.executable, str(program), *SETTINGS)
    assert answer.returncode == 1
    assert answer.stderr.count("Traceback") == 1
    assert "AssertionError: a fault of process 1" in answer.stderr


@SLOW
def test_a_process_that_is_killed_ends_all(tmp_path: Path) -> None:
    program = disturbing(tmp_path, "rank or os.kill(os.getpid(), 9)", in_training=True)
    answer = typed(tmp_path, sys.executable, str(program), *SETTINGS)
    assert answer.returncode == 128 + 9
    assert "Stopped: the process of rank 0 was ended by SIGKILL. The system does so where memory" in answer.stderr
    assert "Traceback" not in answer.stderr


# tests/commands/test_restarts.py always sends SIGTERM
@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=SLOW), (signal.SIGINT, 130)])
@IN_TRAINING
def test_a_signal_ends_all(tmp_path: Path, number: signal.Signals, code: int, in_training: bool) -> None:
    disturbance = "open(f'{rank}-{os.getpid()}', 'w').close(); time.sleep(600)"
    words = [sys.executable, str(disturbing(tmp_path, disturbance, in_training)), *SETTINGS]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + SECONDS
    while len(there := [*tmp_path.glob("[01]-*")]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert said.startswith("Stopped. ")
    assert said.count("\n") == 1
    for file in there:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name[2:]), 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_other_commands_are_run_by_the_first_process(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    train(tmp_path, "max_epochs=2")
    for name, value in {**ADDRESS, "RANK": str(rank), "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    answer = run_command(tmp_path, "evaluate", "split=train")
    assert answer.code == 0
    assert answer.err.count("one process does this: the first of 2 that torchrun started\n") == 1 - rank
    assert answer.out.count("balanced accuracy") == 1 - rank
    assert not rank or not answer.err


@pytest.mark.parametrize(("rank", "code"), [(0, 2), (1, 0)])
def test_the_first_process_alone_checks_the_folder_of_the_run(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, code: int
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").touch()  # as the first process leaves it for a moment
    for name, value in {**ADDRESS, "RANK": str(rank), "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("logreg.commands.train._run_hydra", lambda *_: None)
    answer = run_command(tmp_path, "train", "hydra.run.dir=out", "optimizer=newton")
    assert answer.code == code
    assert answer.err.startswith("`hydra.run.dir` must name a new folder" if rank == 0 else "")


@SLOW
def test_two_machines_train_together(tmp_path: Path) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    settings = ["dataset=breast_cancer", "optimizer=newton", "l2=0.01", "report=brief", "num_nodes=2", "devices=1"]
    machines = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *settings],
            cwd=tmp_path,
            env=environment(**address, NODE_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [machine.communicate(timeout=SECONDS)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "optimal to" in said[0]
    assert said[1] == ""


@pytest.mark.parametrize("numbers", [{"NODE_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "2"}], ids=["by hand", "task"])
def test_a_port_in_use_is_one_line(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for name, value in {**ADDRESS, "MASTER_PORT": port, **numbers}.items():
            monkeypatch.setenv(name, value)
        by_hand = ["num_nodes=2"] if "NODE_RANK" in numbers else []
        answer = run_command(tmp_path, "train", "optimizer=newton", *by_hand)
    assert answer.code == 2
    assert answer.err.startswith(f"`MASTER_PORT` must be a free port of MASTER_ADDR=127.0.0.1, got {port}: ")
    assert answer.err.count("\n") == 1
    assert answer.left == []


@SLOW  # tests/training/test_shared_batches.py always continues fits of several processes, the test below a run
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    settings = ["dataset=digits", "optimizer=lbfgs", "l2=0.1", "report=brief", "tolerance=1e-12", "precision=64"]
    begun = train(tmp_path, *settings, "max_epochs=5")
    words = [sys.executable, str(SCRIPT), f"ckpt_path={begun.folder}", "max_epochs=1000", "devices=2"]
    answer = typed(tmp_path, *words)
    assert answer.returncode == 0, answer.stderr
    assert newest(tmp_path).summary["optimality"]["converged"]
    assert answer.stderr.count("continuing from ") == 1


@SLOW
def test_an_interrupted_run_goes_on_in_its_folder_with_another_number_of_processes(tmp_path: Path) -> None:
    settings = ["dataset=breast_cancer", "optimizer=newton", "l2=0.01", "report=brief"]
    begun = train(tmp_path, *settings)
    (begun.folder / "summary.json").unlink()  # as if it had been stopped before its report
    answer = typed(tmp_path, sys.executable, str(SCRIPT), "ckpt_path=latest", "devices=2")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("are in ") == 1
    assert newest(tmp_path).folder == begun.folder
    assert begun.summary["optimality"]["converged"]
