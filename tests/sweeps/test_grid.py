"""A sweep as one thing: its folders, its table, its failures, in one process or in several."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from logreg.commands.config_files import CONF
from logreg.commands.train import main
from logreg.errors import DataError
from logreg.sweeps.grid import run_in_sweep
from logreg.sweeps.results import gather
from summaries import PLAIN, merged
from whole_runs import Answer, working_in

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"

IRIS = ("-m", "dataset=iris", "max_epochs=2")


class Sweep(NamedTuple):
    """A sweep that is over."""

    code: int
    out: str
    err: str
    folder: Path
    """Seen from where the user stood, made absolute."""

    @property
    def jobs(self) -> list[Path]:
        """Folders of the jobs, in the order of their numbers."""
        folders = [path for path in self.folder.iterdir() if path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name.partition("_")[0]))

    @property
    def results(self) -> list[dict[str, str]]:
        """The rows of results.csv."""
        with (self.folder / "results.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def table(self) -> list[list[str]]:
        """The ranked table on the terminal: its heading, then its rows, as words."""
        lines = [re.sub(r" *± *", "±", line).split() for line in self.out.splitlines()]
        start = next(number for number, words in enumerate(lines) if words[:1] == ["rank"])
        return [lines[start], *(words for words in lines[start + 1 :] if words and words[0].isdigit())]


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts a command as a user types it, and does not wait."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *arguments],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},  # wide enough that no line of the table is broken
    )


def wait(process: subprocess.Popen[str], here: Path) -> Sweep:
    """Waits for a sweep to end."""
    out, err = process.communicate(timeout=240)
    return ended(process.returncode, out, err, here)


def run(here: Path, *arguments: str) -> Sweep:
    """The same in this process, where torch is there already."""
    with working_in(here), redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return ended(code, out.getvalue(), err.getvalue(), here)


def ended(code: int, out: str, err: str, here: Path) -> Sweep:
    """A sweep, its folder found by what it said last."""
    named = re.search(r"^all jobs: (.+)/results\.csv$", out, re.MULTILINE)
    assert named is not None, err
    return Sweep(code, out, err, here / named.group(1))


@pytest.fixture(scope="module")
def two_sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Sweep]:
    """A sweep in which all goes well and one in which nothing does, at the same time in one place.

    The first in this process, where torch is there already; the other comes to its end without torch.
    """
    here = tmp_path_factory.mktemp("here")
    hopeless = start(here, *IRIS, "lr=-1,-2")
    return run(here, *IRIS, "lr=0.1,0.5", "seed=0,1"), wait(hopeless, here)


@pytest.fixture
def good(two_sweeps: tuple[Sweep, Sweep]) -> Sweep:
    """Two learning rates, two seeds."""
    return two_sweeps[0]


@pytest.fixture
def hopeless(two_sweeps: tuple[Sweep, Sweep]) -> Sweep:
    """Every job of it fails."""
    return two_sweeps[1]


@pytest.fixture
def sweep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty place to work in, in a process that is left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    root, environment, threads = logging.getLogger(), dict(os.environ), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level
    GlobalHydra.instance().clear()
    yield tmp_path
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    for handler in set(root.handlers) - set(handlers):
        handler.close()  # train.log
    root.handlers[:], root.level = handlers, level
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The first job fails, the second does not."""
    return run(tmp_path_factory.mktemp("mixed"), *IRIS, "lr=-1,0.1", "hydra.sweep.dir=runs/sweeps/mixed")


# All goes well


def test_a_sweep_ends_well(good: Sweep) -> None:
    assert good.code == 0


def test_a_folder_of_a_job_has_its_number_and_what_varies_and_no_equals_sign(good: Sweep) -> None:
    assert [job.name for job in good.jobs] == [
        "0_lr-0.1_seed-0",
        "1_lr-0.1_seed-1",
        "2_lr-0.5_seed-0",
        "3_lr-0.5_seed-1",
    ]


def test_every_job_fills_its_own_folder(good: Sweep) -> None:
    for job in good.jobs:
        there = {path.name for path in job.iterdir()}
        assert {".hydra", "checkpoints", "metrics.csv", "summary.json", "report.md", "train.log"} <= there
        assert {path.name for path in (job / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        assert len(list(job.glob("events.out.tfevents.*"))) == 1


def test_all_jobs_run_in_one_process(good: Sweep) -> None:
    # TensorBoard's file names carry the process: <name>.<time>.<host>.<process>.<number>
    processes = {next(job.glob("events.out.tfevents.*")).name.split(".")[-2] for job in good.jobs}
    assert len(processes) == 1


def test_results_csv_has_one_row_per_job(good: Sweep) -> None:
    rows = good.results
    assert [row["job"] for row in rows] == [job.name for job in good.jobs]
    assert [(row["lr"], row["seed"]) for row in rows] == [("0.1", "0"), ("0.1", "1"), ("0.5", "0"), ("0.5", "1")]
    assert {row["status"] for row in rows} == {"finished"}
    for row, job in zip(rows, good.jobs, strict=True):
        metrics = json.loads((job / "summary.json").read_text(encoding="utf-8"))["metrics"]
        for split in ("train", "val", "test"):
            for metric in ("loss", "accuracy"):
                assert float(row[f"{metric}/{split}"]) == metrics[split][metric]


def test_results_csv_says_of_each_job_how_far_it_is_from_its_optimum(good: Sweep) -> None:
    for row, job in zip(good.results, good.jobs, strict=True):
        optimality = json.loads((job / "summary.json").read_text(encoding="utf-8"))["optimality"]
        assert float(row["optimality/gap"]) == optimality["gap"]
        assert row["optimality/converged"] == str(optimality["converged"]) == "False"
        assert row["optimality/verdict"] == optimality["verdict"]


def test_the_table_ranks_by_val_loss_and_averages_over_seeds(good: Sweep) -> None:
    heading, *rows = good.table
    theirs = []
    for lr in ("0.1", "0.5"):
        cells = []
        for metric in ("loss/val", "accuracy/val", "loss/test", "accuracy/test"):
            values = [float(row[metric]) for row in good.results if row["lr"] == lr]
            assert len(values) == 2
            cells.append(f"{statistics.fmean(values):.4f}±{statistics.stdev(values):.4f}")
        theirs.append([lr, "2", *cells])
    theirs.sort(key=lambda row: float(row[2].partition("±")[0]))
    assert heading == ["rank", "lr", "runs", "loss/val", "accuracy/val", "loss/test", "accuracy/test"]
    assert rows == [[str(rank), *row] for rank, row in enumerate(theirs, start=1)]


def test_the_sweep_says_what_to_type_next(good: Sweep) -> None:
    folder = "/".join(good.folder.parts[-3:])
    assert folder.startswith("runs/sweeps/")
    said = f"all jobs: {folder}/results.csv\nnext:\n  tensorboard --logdir {folder}\n"
    first, second = (
        next(row["job"] for row in good.results if row["lr"] == line[1] and row["seed"] == "0")
        for line in good.table[1:]
    )
    assert good.out.endswith(f"{said}  python scripts/compare.py {folder}/{first} {folder}/{second}\n")
    best = re.search(r"^best: python scripts/train\.py (.*)$", good.out, re.MULTILINE)
    assert best is not None
    # the row that ranks first, as a command to copy
    assert {"dataset=iris", f"lr={good.table[1][1]}", "max_epochs=2"} <= set(best.group(1).split())


def test_each_job_is_announced_as_it_ends(good: Sweep) -> None:
    lines = good.err.splitlines()
    assert len(lines) == 4
    for line, row in zip(lines, good.results, strict=True):
        assert line.startswith("done: ")
        assert f"lr={row['lr']} seed={row['seed']}: " in line
        assert line.endswith(f"loss {float(row['loss/val']):.4f}")


def test_a_job_of_a_sweep_is_the_run_it_would_be_alone(good: Sweep, sweep_folder: Path) -> None:
    # The last job, after three others in the same process: what they did to the random numbers must not matter.
    assert main(["dataset=iris", "max_epochs=2", "lr=0.5", "seed=1", "report=brief", "hydra.run.dir=runs/alone"]) == 0
    ours = json.loads((good.jobs[3] / "summary.json").read_text(encoding="utf-8"))["metrics"]
    theirs = json.loads(Path("runs/alone/summary.json").read_text(encoding="utf-8"))["metrics"]
    assert ours == theirs


def test_another_seed_is_another_run(good: Sweep) -> None:
    # else the test above would hold whatever the seed does
    assert good.results[2]["loss/val"] != good.results[3]["loss/val"]


# A job fails


def test_two_sweeps_started_at_the_same_moment_share_no_folder(good: Sweep, hopeless: Sweep) -> None:
    assert good.folder.parent == hopeless.folder.parent
    assert good.folder != hopeless.folder
    # Microseconds are in the name, so the same second is not the same folder.
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}", good.folder.name)
    assert len(good.jobs) == 4
    assert [job.name for job in hopeless.jobs] == ["0_lr--1", "1_lr--2"]


def test_a_failed_job_is_shown_at_once_with_its_folder_and_the_others_go_on(mixed: Sweep) -> None:
    failed, why, done = mixed.err.splitlines()
    assert failed.startswith("failed: ")
    assert "lr=-1" in failed
    assert failed.endswith(" [runs/sweeps/mixed/0_lr--1]")
    assert why.strip() == "`lr` must be a finite number > 0 or null, got -1."
    assert done.startswith("done: ")
    assert (mixed.jobs[1] / "checkpoints" / "last.ckpt").is_file()
    assert mixed.code == 1


def test_a_failed_job_stands_in_results_csv_and_below_the_table(mixed: Sweep) -> None:
    failed, finished = mixed.results
    assert (failed["job"], failed["status"]) == ("0_lr--1", "failed")
    assert failed["error"] == "`lr` must be a finite number > 0 or null, got -1."
    assert failed["loss/val"] == failed["seconds"] == failed["optimality/gap"] == failed["optimality/verdict"] == ""
    assert (finished["job"], finished["status"], finished["error"]) == ("1_lr-0.1", "finished", "")
    # What failed has no rank: the table has the one job that finished.
    assert [row[:3] for row in mixed.table[1:]] == [["1", "0.1", "1"]]
    assert "\nfailed: runs/sweeps/mixed/0_lr--1: `lr` must be a finite number > 0 or null, got -1.\n" in mixed.out


def test_a_sweep_in_which_every_job_fails_has_no_table_and_still_its_results(hopeless: Sweep) -> None:
    assert hopeless.code == 1
    assert "rank" not in hopeless.out
    assert [(row["lr"], row["status"]) for row in hopeless.results] == [("-1", "failed"), ("-2", "failed")]


def test_a_sweep_may_live_wherever_the_person_says(sweep_folder: Path) -> None:
    # In a place where no run has ever been, so `runs` is not there yet.
    assert main(["-m", "max_epochs=1", "lr=0.1,0.2", "hydra.sweep.dir=out"]) == 0
    assert [row["status"] for row in Sweep(0, "", "", sweep_folder / "out").results] == ["finished", "finished"]


def test_a_mistake_that_all_jobs_share_is_answered_before_the_first(
    sweep_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "dataset=mnits", "lr=0.1,0.2"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("got 'mnits'. Did you mean mnist?\n")
    assert err.count("\n") == 1
    assert list(sweep_folder.iterdir()) == []


@pytest.mark.long
def test_hydra_composes_each_job_once_and_each_choice_once_before_the_first(
    sweep_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    compose_job = ConfigLoaderImpl.load_sweep_config

    def counted(loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        events.append("compose")
        return compose_job(loader, master_config, sweep_overrides)

    def without_result(composed: DictConfig) -> None:
        events.append("run")

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
    monkeypatch.setattr("logreg.commands.train.run_job", without_result)
    assert main(["-m", "optimizer=sgd,newton", "seed=range(0,3)", "l2=0.1"]) == 1  # since no job has a result
    assert events == ["compose"] * 2 + ["compose", "run"] * 6
    events.clear()
    # a key that one choice lacks is found before the first job
    assert main(["-m", "optimizer=sgd,newton", "seed=range(0,3)", "optimizer.momentum=0.9"]) == 2
    assert events == ["compose"] * 2
    assert capfd.readouterr().err.endswith("Set optimizer=sgd, or leave it out.\n")


def test_a_name_mistyped_in_one_job_stops_no_other(sweep_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["-m", "optimizer=sgd,sgdd", "max_epochs=1", "hydra.sweep.dir=runs/mine"])
    out, err = capfd.readouterr()
    assert "got 'sgdd'. Did you mean sgd?" in err
    # Either all is refused before it begins, or the good job runs and the other is a failed one.
    if code == 2:
        assert list(sweep_folder.iterdir()) == []
    else:
        assert code == 1
        assert [row["status"] for row in Sweep(1, out, err, sweep_folder / "runs" / "mine").results] == [
            "finished",
            "failed",
        ]


def in_a_sweep(*overrides: str) -> None:
    """Lets Hydra believe that a job of a sweep runs in this process."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=["hydra.mode=MULTIRUN", *overrides], return_hydra_config=True)
    with open_dict(composed):
        composed.hydra.runtime.output_dir = "out"
    HydraConfig.instance().set_config(composed)


def test_a_bug_in_one_job_stops_no_other_and_keeps_its_traceback(
    sweep_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> float:
        raise ZeroDivisionError("a bug of ours")

    in_a_sweep()
    job = sweep_folder / "job"
    job.mkdir()
    assert run_in_sweep(broken, job, ["lr=0.1"]) is None
    # One line on the terminal, where the other jobs must stay readable; the whole in the job's log.
    assert capfd.readouterr().err == "failed: lr=0.1 [job]\n  ZeroDivisionError: a bug of ours\n"
    assert "Traceback (most recent call last)" in (job / "train.log").read_text(encoding="utf-8")


def test_a_mistake_in_one_job_is_logged_without_a_traceback(sweep_folder: Path) -> None:
    def mistaken() -> float:
        raise DataError("`labels` must lie in [0, 2), got 0 to 2.")

    in_a_sweep()
    job = sweep_folder / "job"
    job.mkdir()
    assert run_in_sweep(mistaken, job, ["lr=0.1"]) is None
    assert (job / "train.log").read_text(encoding="utf-8") == "`labels` must lie in [0, 2), got 0 to 2.\n"
    summary: dict[str, Any] = json.loads((job / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["overrides"]) == ("failed", ["lr=0.1"])


# In parallel


@pytest.mark.long
def test_folders_of_jobs_lie_in_that_of_the_sweep_whatever_is_varied(run_train: Callable[[str], Answer]) -> None:
    paths = []
    for letter in "ab":
        folder = Path(letter, 200 * letter)
        folder.mkdir(parents=True)
        rows = "".join(f"{n % 7},{'no' if n % 3 else 'yes'}\n" for n in range(60))
        (folder / "t=1.csv").write_text("x,y\n" + rows)
        paths.append(f"'{folder.as_posix()}/t=1.csv'")
    answer = run_train(
        f"""-m dataset=table "dataset.path={",".join(paths)}" dataset.target=y l2=0.1,0.2 max_epochs=3"""
    )
    assert answer.code == 0, answer.err
    (sweep,) = Path("runs/sweeps").iterdir()
    folders = {path.parent for path in sweep.rglob("summary.json")}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {sweep}
    assert all(len(os.fsencode(folder.name)) <= 255 and "=" not in folder.name for folder in folders)


@pytest.mark.slow
def test_a_parallel_sweep_finds_the_same_losses(sweep_folder: Path) -> None:
    words = ["-m", "max_epochs=2", "lr=0.5,0.1", "init=linear"]
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    ours = wait(start(sweep_folder, *words, *parallel), sweep_folder)
    assert main([*words, "hydra.sweep.dir=runs/sweeps/theirs"]) == ours.code == 0
    theirs = Sweep(0, "", "", sweep_folder / "runs" / "sweeps" / "theirs")
    assert [job.name for job in ours.jobs] == [job.name for job in theirs.jobs] == ["0_lr-0.5", "1_lr-0.1"]
    # Two jobs, two workers: else nothing was parallel, and the next line would compare a thing with itself.
    assert len({next(job.glob("events.out.tfevents.*")).name.split(".")[-2] for job in ours.jobs}) == 2
    # Where a job runs must not show: it starts from its own seed and has its own order of rows.
    assert [row["loss/train"] for row in ours.results] == [row["loss/train"] for row in theirs.results]


@pytest.mark.parametrize(
    ("workers", "cores", "threads"),
    [
        (2, 2, 1),
        (2, 8, 4),
        (3, 8, 2),
        (16, 8, 1),  # more workers than cores: one thread each, never none
        (-1, 8, 1),  # joblib's word for as many workers as cores
    ],
)
def test_parallel_jobs_share_the_cores(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    in_a_sweep("hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}")
    torch.set_num_threads(2 if threads != 2 else 3)
    assert run_in_sweep(lambda: float(torch.get_num_threads()), sweep_folder, ["lr=0.1"]) == threads


def test_a_job_that_runs_alone_keeps_all_cores(sweep_folder: Path) -> None:
    in_a_sweep()
    torch.set_num_threads(3)
    assert run_in_sweep(lambda: float(torch.get_num_threads()), sweep_folder, ["lr=0.1"]) == 3


def a_job(folder: Path, l2: float, select: str, **val: float) -> None:
    """A job that came to an end."""
    folder.mkdir(parents=True)
    changes: dict[str, Any] = {
        "overrides": [f"l2={l2:g}"],
        "metrics": {"train": {"loss": 9.0, "accuracy": 0.0}, "val": val},
        "objective": {"l2": l2, "l1": 0.0},
        "config": {"select": select},
    }
    plain = merged(PLAIN, changes)
    plain["metrics"] = changes["metrics"]
    (folder / "summary.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("select", "order"), [("log_loss", ["2", "0", "1"]), ("accuracy", ["1", "0", "2"]), ("auroc", ["1", "2", "0"])]
)
def test_select_says_what_ranks_and_of_equals_the_stronger_penalty_is_first(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    select: str,
    order: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where no run stands beside the sweep
    strengths = {"0": 0.01, "1": 0.1, "2": 1}
    scores = {"0": (0.5, 0.9, 0.7), "1": (0.6, 0.9, 0.9), "2": (0.4, 0.8, 0.9 - 1e-4)}
    for number, (loss, accuracy, auroc) in scores.items():
        a_job(tmp_path / f"{number}_l2", strengths[number], select, loss=loss, accuracy=accuracy, auroc=auroc)
    assert gather(tmp_path) == 0
    out = capsys.readouterr().out
    name = "loss" if select == "log_loss" else select
    assert out.startswith(f"by {name}/val, ")
    best = [line.split()[1] for line in out.splitlines()[3:6]]
    assert best == [f"{strengths[number]:g}" for number in order]
    assert f"best: python scripts/train.py l2={strengths[order[0]]:g}\n" in out


@pytest.mark.long
def test_jobs_say_what_they_are_ranked_by_and_all_by_the_same(
    sweep_folder: Path, run_train: Callable[[str], Answer]
) -> None:
    answer = run_train("-m dataset=iris l2=1,0.01 select=accuracy")
    assert answer.code == 0
    assert re.search(r"^done: .*: accuracy 0\.\d{4}$", answer.err, re.MULTILINE)
    assert answer.out.startswith("by accuracy/val, ")
    answer = run_train("-m dataset=iris select=accuracy,log_loss")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "`select` must be one for all jobs, since it ranks them. Type one of its values.\n"
