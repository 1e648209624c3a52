"""Restarts by torchrun after a failure, and the end by a signal, of runs that share their batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from logreg.commands.restarts import JOB, MAX_RESTARTS, NO_JOB, noted_for_restarts, settings_after_restart
from logreg.errors import ConfigError
from logreg.launchers import RESTARTS
from whole_runs import SCRIPT, left_in, newest, train

SECONDS = 240
"""Limit of a run in seconds: one that hangs fails."""

PROGRAM = """
import os

from logreg.commands.process import run_process
from logreg.commands.train import main
from logreg.fast_import import import_lightning

import_lightning()

from logreg.training.callbacks import Certificates

certify = Certificates.on_train_epoch_end


def killed(self, trainer, module):
    certify(self, trainer, module)
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and trainer.current_epoch == 2:
        os.kill(os.getpid(), 9)


Certificates.on_train_epoch_end = killed
run_process(main)
"""
"""The command, whose second process is killed at the end of the third epoch."""

RUNS = {
    "sgd": (["dataset=digits", "optimizer=sgd", "lr=0.01", "batch_size=50", "max_epochs=6"], 1e-12),
    "newton": (["dataset=breast_cancer", "optimizer=newton", "l2=0.01", "tolerance=1e-12"], 1e-9),
}
"""Settings, and how far coefficients may be from those of one process that was not interrupted."""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which a job runs that would be started again twice."""
    monkeypatch.chdir(tmp_path)
    for name, value in ((JOB, "mine"), (MAX_RESTARTS, "2"), (RESTARTS, "0")):
        monkeypatch.setenv(name, value)
    folder = tmp_path / "runs" / "a,b"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


def test_a_restart_adds_the_checkpoint_or_the_folder_of_its_run(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["lr=0.1", "ckpt_path=other", "hydra.run.dir=runs/c"]
    with pytest.raises(RuntimeError), noted_for_restarts(job):
        raise RuntimeError("a failure")
    monkeypatch.setenv(RESTARTS, "1")
    assert settings_after_restart(typed) == ["lr=0.1", "ckpt_path=other", "hydra.run.dir='runs/a,b'"]
    (job / "checkpoints" / "last.ckpt").touch()
    assert settings_after_restart(typed) == ["lr=0.1", "ckpt_path='runs/a,b'"]
    (job / "summary.json").touch()
    assert settings_after_restart(typed) is None
    monkeypatch.setenv(JOB, "another")
    assert settings_after_restart(typed) == typed
    monkeypatch.setenv(JOB, "mine")
    monkeypatch.setenv(RESTARTS, "0")  # a later job of the same name begins anew, and so do its restarts
    assert settings_after_restart(typed) == typed
    monkeypatch.setenv(RESTARTS, "1")
    assert settings_after_restart(typed) == typed


@pytest.mark.parametrize("mistake", [None, ConfigError("a mistake")])
def test_no_note_is_left_where_a_restart_would_change_nothing(job: Path, mistake: Exception | None) -> None:
    try:
        with noted_for_restarts(job):
            assert [file.name for file in job.parent.iterdir() if file.is_file()] == [".restart-mine"]
            if mistake is not None:
                raise mistake
    except ConfigError:
        assert mistake is not None
    assert [*job.parent.iterdir()] == [job]


def test_jobs_without_a_name_are_told_apart_by_their_address(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB, NO_JOB)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RuntimeError), noted_for_restarts(job):
        raise RuntimeError("a failure")
    monkeypatch.setenv(RESTARTS, "1")
    assert settings_after_restart([]) == ["hydra.run.dir='runs/a,b'"]
    monkeypatch.setenv("MASTER_PORT", "2")
    assert settings_after_restart([]) == []


def test_nothing_is_noted_without_restarts(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_RESTARTS, "0")
    with noted_for_restarts(job):
        assert [*job.parent.iterdir()] == [job]


def terminal() -> dict[str, str]:
    """The environment of a terminal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


# of an exact optimizer, tests/training/test_shared_batches.py always shows that other processes continue it
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "newton"])
def test_torchrun_continues_a_run_whose_process_was_killed(tmp_path: Path, name: str) -> None:
    settings, tolerance = RUNS[name]
    settings = [*settings, "precision=64", "report=brief", "accelerator=cpu"]
    (tmp_path / "alone").mkdir()
    alone = train(tmp_path / "alone", *settings)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    answer = subprocess.run(
        [sys.executable, *launcher, str(program), *settings],
        cwd=tmp_path,
        env=terminal(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("continuing from runs/") == 1
    assert answer.stdout.count("baseline: ") == 1
    run = newest(tmp_path)
    assert len([*run.folder.parent.iterdir()]) == 1  # both attempts are one run
    assert not [file for file in left_in(tmp_path) if ".restart" in file]
    found, expected = run.checkpoint(), alone.checkpoint()
    for part in ("model.coef", "model.intercept"):
        mine, its = found["state_dict"][part], expected["state_dict"][part]
        torch.testing.assert_close(mine, its, rtol=0, atol=tolerance * float(its.abs().max()))
    assert name == "newton" or found["epoch"] == expected["epoch"]
    assert run.summary["metrics"]["test"] == pytest.approx(alone.summary["metrics"]["test"], rel=1e-6)


@pytest.mark.slow
def test_sigterm_ends_a_fit_that_shares_batches_and_one_process_continues_it(tmp_path: Path) -> None:
    settings = ["dataset=digits", "optimizer=sgd", "lr=0.01", "batch_size=50", "report=brief", "accelerator=cpu"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *settings, "devices=2", "max_epochs=1000000"],
        cwd=tmp_path,
        env=terminal(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "runs" / "latest").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # the processes are in the middle of an epoch, one of them most probably waiting for the other
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert said.endswith("Stopped. `ckpt_path=latest` continues from the last epoch that was saved.\n")
    epochs = newest(tmp_path).checkpoint()["epoch"] + 1
    continued = train(tmp_path, "ckpt_path=latest", f"max_epochs={epochs + 2}", "devices=1", "report=brief")
    assert continued.checkpoint()["epoch"] == epochs + 1
