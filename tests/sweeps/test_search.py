"""`scripts/sweep.py`: what is tried, what is remembered, and that a killed sweep goes on as if it had not been."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import optuna
import pytest

from logreg.commands.sweep import main
from logreg.errors import ConfigError
from logreg.sweeps.search import Range, Search
from logreg.sweeps.storage import sqlite_url
from process_groups import forked
from whole_runs import Answer, train, working_in

RunCommand = Callable[..., Answer]

SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep.py"

IRIS = ("dataset=iris", "max_epochs=9", "search.lr=log(1e-3,1)", "search.l2=log(1e-6,1)")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tried(folder: Path) -> list[tuple[str, str]]:
    """What the trials that came to an end were, in their order."""
    return [(row["lr"], row["l2"]) for row in rows_of(folder) if row["status"] != "failed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(1e-4,1)", Range("lr", "log", (1e-4, 1.0))),
        (" uniform( -1 , 2.5 ) ", Range("lr", "uniform", (-1.0, 2.5))),
        ("int(8,64)", Range("lr", "int", (8, 64))),
        ("choice(sgd,adam)", Range("lr", "choice", ("sgd", "adam"))),
    ],
)
def test_a_range_as_it_is_typed(text: str, expected: Range) -> None:
    assert Range.read("lr", text) == expected


RANGE_FORMS = "be written as log(1e-4,1), uniform(0,1), int(1,100) or choice(a,b,c)"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("0.1", f"{RANGE_FORMS}, got '0.1'."),
        ("log()", f"{RANGE_FORMS}, got 'log()'."),
        ("normal(0,1)", f"{RANGE_FORMS}, got 'normal(0,1)'."),
        ("log(1,1)", "have two numbers, the smaller one first, got 'log(1,1)'."),
        ("log(1,1e-4)", "have two numbers, the smaller one first, got 'log(1,1e-4)'."),
        ("log(0,1)", "begin above 0, since it is drawn on a log scale, got 'log(0,1)'."),
        ("log(-1,1)", "begin above 0, since it is drawn on a log scale, got 'log(-1,1)'."),
        ("uniform(0,inf)", "have two numbers, the smaller one first, got 'uniform(0,inf)'."),
        ("int(1,2.5)", "have two whole numbers, the smaller one first, got 'int(1,2.5)'."),
        ("choice(a,a)", "name each choice once, got 'choice(a,a)'."),
    ],
)
def test_a_range_that_is_none_is_refused(text: str, rest: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(f'`search.lr` must {rest}')}$"):
        Range.read("lr", text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a sweep of six trials ended that nobody stopped; what it said is in ``out`` and ``err``."""
    here = tmp_path_factory.mktemp("whole")
    with (
        working_in(here),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        assert main([*IRIS, "trials=6"]) == 0
    (here / "out").write_text(out.getvalue())
    (here / "err").write_text(err.getvalue())
    return here


def test_the_folder_has_the_table_and_the_pictures(whole: Path) -> None:
    folder = whole / "runs" / "sweeps" / "iris_l2_lr"
    assert len(rows_of(folder)) == 6
    for picture in ("history", "importance"):
        assert (folder / "figures" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    out = (whole / "out").read_text()
    assert re.search(r"^best: python scripts/train.py dataset=iris max_epochs=9 lr=\S+ l2=\S+$", out, re.MULTILINE)
    assert (whole / "err").read_text().count("iris_l2_lr: ") == 6


def test_the_command_that_it_ends_with_repeats_the_best_run(whole: Path, tmp_path: Path) -> None:
    out = (whole / "out").read_text()
    typed = re.findall(r"^best: python scripts/train.py (.*)$", out, re.MULTILINE)[0].split()
    best = min(float(row["loss/val"]) for row in rows_of(whole / "runs" / "sweeps" / "iris_l2_lr") if row["loss/val"])
    assert train(tmp_path, *typed, "report=brief").summary["metrics"]["val"]["loss"] == best


@pytest.mark.parametrize(
    ("script", "typed", "said"),
    [("certify", (), r"^verdict +not optimal"), ("train", ("max_epochs=12", "report=brief"), r"\Wiris")],
)
def test_a_trial_is_a_run_like_others(
    whole: Path, tmp_path: Path, run_command: RunCommand, script: str, typed: tuple[str, ...], said: str
) -> None:
    trial = min((whole / "runs" / "sweeps" / "iris_l2_lr").glob("0_*"))
    answer = run_command(tmp_path, script, f"ckpt_path={trial}", *typed)
    assert (answer.code, "left out" in answer.err) == (0, False), answer.err
    assert re.search(said, answer.out, re.MULTILINE)


@pytest.mark.long
def test_a_part_and_the_rest_try_what_the_whole_tries(whole: Path, tmp_path: Path, run_command: RunCommand) -> None:
    assert run_command(tmp_path, "sweep", *IRIS, "trials=3").code == 0
    answer = run_command(tmp_path, "sweep", *IRIS, "trials=6")
    assert "iris_l2_lr: continuing from 3 of 6 trials\n" in answer.err
    folder = Path("runs") / "sweeps" / "iris_l2_lr"
    assert tried(tmp_path / folder) == tried(whole / folder)
    # all are done: nothing is tried again
    assert run_command(tmp_path, "sweep", *IRIS, "trials=6").code == 0
    assert tried(tmp_path / folder) == tried(whole / folder)


@pytest.mark.long
def test_a_trial_whose_process_is_gone_is_as_if_it_had_never_begun(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    search = Search("s", sqlite_url(tmp_path / "s.db"), [Range.read("lr", "log(1e-3,1)")], [], seed=0, prune=True)
    asked = search.ask(5)
    assert asked is not None
    trial, values = asked
    assert search.fail_killed_trials() == 0  # it is ours, and we are alive
    assert len(search.counted) == 1
    trial.set_user_attr("pid", gone.pid)
    assert search.fail_killed_trials() == 1
    assert search.counted == []
    again = search.ask(5)
    assert again is not None
    assert again[1] == values
    assert again[0].number != trial.number


@pytest.mark.long
def test_a_trial_that_is_killed_as_it_begins_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search("s", sqlite_url(tmp_path / "s.db"), [Range.read("lr", "log(1e-3,1)")], [], 0, True)
    with monkeypatch.context() as patched:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(optuna.trial.Trial, "__init__", killed)  # the database has it, and nobody else knows
        with pytest.raises(KeyboardInterrupt):
            search.ask(1)
    assert len(search.counted) == 1
    assert search.fail_killed_trials() == 0
    monkeypatch.setattr("logreg.sweeps.search._is_alive", lambda pid: pid != os.getpid())
    assert search.fail_killed_trials() == 1
    assert search.counted == []
    assert search.ask(1) is not None


@pytest.mark.slow
def test_killed_it_goes_on_and_tries_what_it_would_have_tried(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *IRIS, "trials=6"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if " 2/6 " in line:
            break
    time.sleep(0.1)  # somewhere in the third
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    after = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert after.returncode == 0, after.stderr
    assert re.search(r"continuing from [2-6] of 6 trials", after.stderr)
    folder = Path("runs") / "sweeps" / "iris_l2_lr"
    assert tried(tmp_path / folder) == tried(whole / folder)


@pytest.mark.slow
def test_two_processes_share_a_study_and_its_total(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *IRIS, "trials=8"]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert len(rows_of(tmp_path / "runs" / "sweeps" / "iris_l2_lr")) == 8
    assert all(" trial " in err for err in said)


def test_another_search_does_not_go_on_with_the_study(whole: Path, run_command: RunCommand) -> None:
    typed = ["dataset=iris", "max_epochs=9", "search.lr=log(1e-2,1)", "search.l2=log(1e-6,1)", "trials=6"]
    answer = run_command(whole, "sweep", *typed)
    assert answer.code == 2
    assert answer.err == (
        "`search` must continue iris_l2_lr as it began: its search lr=log(0.001,1) l2=log(1e-06,1), "
        "got lr=log(0.01,1) l2=log(1e-06,1). Type the same again, or begin another one with study=NAME.\n"
    )
    answer = run_command(whole, "sweep", *IRIS, "batch_size=8")
    assert answer.code == 2
    assert answer.err.startswith("`study` must continue iris_l2_lr as it began: its settings dataset=iris")


@pytest.mark.long
def test_what_falls_behind_is_broken_off(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=iris", "max_epochs=12", "search.lr=log(1e-5,1)", "trials=8")
    assert run_command(tmp_path, "sweep", *typed).code == 0
    rows = rows_of(tmp_path / "runs" / "sweeps" / "iris_lr")
    pruned = [row for row in rows if row["status"] == "pruned"]
    finished = [row for row in rows if row["status"] == "finished"]
    assert pruned
    assert min(float(row["loss/val"]) for row in finished) < min(float(row["loss/val"]) for row in pruned)
    study = Search("iris_lr", sqlite_url(tmp_path / "runs/sweeps/iris_lr/study.db"), *_of(typed), seed=0, prune=True)
    assert [state for state, _ in study.history].count("pruned") == len(pruned)


def _of(typed: tuple[str, ...]) -> tuple[list[Range], list[str]]:
    ranges = [
        Range.read(*argument.removeprefix("search.").split("=", 1)) for argument in typed if "search." in argument
    ]
    return ranges, [argument for argument in typed if "search." not in argument and "trials" not in argument]


@pytest.mark.long
def test_a_trial_that_fails_counts_and_stops_nobody(tmp_path: Path, run_command: RunCommand) -> None:
    # features of 1e3: with the longer steps they diverge
    typed = ("dataset=wine", "dataset.standardize=false", "max_epochs=3", "search.lr=choice(1e-9,1e300)", "trials=6")
    answer = run_command(tmp_path, "sweep", *typed)
    assert answer.code == 0, answer.err
    rows = rows_of(tmp_path / "runs" / "sweeps" / "wine_lr")
    assert len(rows) == 6
    assert {"finished", "failed"} <= {row["status"] for row in rows}
    assert "failed: runs/sweeps/wine_lr/" in answer.out


@pytest.mark.long
def test_groups_and_exact_optimizers_can_be_searched(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=iris", "search.optimizer=choice(newton,lbfgs)", "search.l2=log(1e-4,1)", "trials=3")
    assert run_command(tmp_path, "sweep", *typed).code == 0
    rows = rows_of(tmp_path / "runs" / "sweeps" / "iris_l2_optimizer")
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert all(row["optimality/converged"] == "True" for row in rows)


@pytest.mark.long
def test_trials_share_one_reading_of_the_data(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    from logreg.data.sources.bundled import Bundled

    read: list[Bundled] = []
    original = Bundled.read

    def counted(self: Bundled) -> Any:
        read.append(self)
        return original(self)

    monkeypatch.setattr(Bundled, "read", counted)
    assert run_command(tmp_path, "sweep", "dataset=iris", "search.l2=log(1e-4,1)", "trials=3").code == 0
    assert len(read) == 1


MISTAKES = {
    (): "`search.<key>` must name what to search, such as 'search.lr=log(1e-4,1)': ",
    ("search.lr=log(1,0.1)",): "`search.lr` must have two numbers, the smaller one first, got 'log(1,0.1)'.",
    ("search.lr=log(1e-3,1)", "lr=0.1"): "`lr` must be searched or set, not both.",
    ("search.lr=log(1e-3,1)", "search.lr=log(1e-3,2)"): "`search.lr` must be typed once.",
    ("search.l3=log(1e-3,1)",): "`l3` must be a key of the config, and there is none of that name.",
    ("search.l2=uniform(-1,1)", "dataset=iris"): "`l2` must be a finite number >= 0",
    ("search.seed=int(1,5)",): "`search.seed` must be a key that makes a model better or worse on the same rows.",
    ("search.max_epochs=uniform(1,5)", "dataset=iris"): "`max_epochs` must be a whole number >= 1, got 2.528",
    ("search.lr=log(1e-3,1)", "trials=0"): "`trials` must be a whole number >= 1, got 0.",
    (
        "search.lr=log(1e-3,1)",
        "ckpt_path=latest",
    ): "`ckpt_path` must not be set in a sweep. Each trial starts from scratch.",
    ("search.lr=log(1e-3,1)",): "`search` must have a val split to choose by. Choose another dataset.",
    ("search.lr=log(1e-3,1)", "dataset=iris", "storage=nosuch://x"): "`storage` must be the URL of a database",
    ("search.lr=log(1e-3,1)", "study=a/b"): "`study` must be made of letters, digits and -_., got 'a/b'.",
    ("search.lr=log(1e-3,1)", "study=.."): "`study` must begin with a letter or a digit, got '..'.",
    ("search.lr=log(1e-3,1)", "study=../../x"): "`study` must be made of letters, digits and -_., got '../../x'.",
    ("search.lr=log(1e-3,1)", "study=-x"): "`study` must begin with a letter or a digit, got '-x'.",
    ("search.l2=log(1e-3,1)", "l1=1,2"): "`l1` must be one value, or searched: search.l1=choice(a,b).",
    (
        "search.l1=log(1e-3,1)",
        "dataset=iris",
        "l2=path",
    ): "`l2` must be one number in a sweep. A path chooses for itself",
    ("search.l1=log(1e-3,1)", "dataset=iris", "l2_path=[1]"): "`l2_path` must be null in a sweep. A path chooses for ",
}


@pytest.mark.long
def test_a_mistake_that_all_trials_share_leaves_nothing(tmp_path: Path, run_command: RunCommand) -> None:
    answer = run_command(tmp_path, "sweep", "dataset=iris", "search.l2=log(1e-3,1)", "trainer.bogus=1", "trials=3")
    assert answer.code == 2
    assert answer.err.startswith("`trainer.bogus` must be an argument of Lightning's Trainer.")
    assert answer.left == []
    # and the corrected line is not held against it
    assert run_command(tmp_path, "sweep", "dataset=iris", "search.l2=log(1e-3,1)", "trials=1").code == 0


@pytest.mark.parametrize(("typed", "sentence"), MISTAKES.items())
def test_a_mistake_is_answered_in_one_line(
    typed: tuple[str, ...], sentence: str, run_command: RunCommand, tmp_path: Path
) -> None:
    answer = run_command(tmp_path, "sweep", *typed)
    assert answer.code == 2
    assert answer.err.startswith(sentence), answer.err
    assert answer.err.count("\n") == 1
    assert answer.left == []


@pytest.mark.long
def test_a_failure_is_kept_as_plain_values(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=wine", "dataset.standardize=false", "max_epochs=2", "search.lr=uniform(1e200,1e300)", "trials=1")
    answer = run_command(tmp_path, "sweep", *typed)
    assert answer.code == 1
    (file,) = (tmp_path / "runs" / "sweeps" / "wine_lr").glob("0_*/summary.json")
    plain = json.loads(file.read_text())
    assert plain["status"] == "failed"
    assert plain["error"] in answer.out


@pytest.mark.long
def test_a_password_in_the_address_of_a_database_is_not_repeated(tmp_path: Path, run_command: RunCommand) -> None:
    for address in ("nosuch://me:hunter2@host/trials", "nosuch://host/trials?user=me&password=hunter2"):
        for key in ("storage", "storag"):  # also where the key is mistyped
            answer = run_command(tmp_path, "sweep", "dataset=iris", "search.l2=log(1e-3,1)", f"{key}={address}")
            assert answer.code == 2
            assert "hunter2" not in answer.err
            assert answer.err.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.long
def test_processes_that_open_a_new_study_at_the_same_moment_share_it(tmp_path: Path) -> None:
    import optuna
    import sqlalchemy  # noqa: F401  # before the fork, so that all of them are as quick

    url = sqlite_url(tmp_path / "study.db")

    def search_to_the_end() -> None:
        search = Search("s", url, [Range.read("lr", "log(1e-3,1)")], [], seed=0, prune=True)
        while (asked := search.ask(4)) is not None:
            search.finished(asked[0], 1.0, "")

    assert forked(4, search_to_the_end) == [0, 0, 0, 0]
    states = [trial.state.name for trial in optuna.load_study(study_name="s", storage=url).trials]
    assert states.count("COMPLETE") == 4


@pytest.mark.slow
def test_groups_of_sweeps_that_start_together_share_their_study(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "dataset=iris", "search.l2=log(1e-4,1)", "trials=3"]
    for number in range(3):
        here = tmp_path / str(number)
        here.mkdir()
        processes = [subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True) for _ in "abc"]
        said = [process.communicate(timeout=240)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], said
        assert "Traceback" not in "".join(said)
        assert len(rows_of(here / "runs" / "sweeps" / "iris_l2")) == 3


@pytest.mark.long
def test_a_trial_that_was_killed_after_its_summary_is_no_row(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=iris", "search.l2=log(1e-4,1)", "trials=2")
    assert run_command(tmp_path, "sweep", *typed).code == 0
    folder = tmp_path / "runs" / "sweeps" / "iris_l2"
    before = rows_of(folder)
    assert len(before) == 2
    # tried again under another number, whose values are the same
    shutil.copytree(folder / before[0]["job"], folder / f"7{before[0]['job'][1:]}")
    assert run_command(tmp_path, "sweep", *typed).code == 0
    assert rows_of(folder) == before


@pytest.mark.long
def test_what_is_searched_never_names_a_folder_elsewhere(tmp_path: Path, run_command: RunCommand) -> None:
    for name in ("a", "b"):
        (tmp_path / name / (200 * name)).mkdir(parents=True)
        rows = "\n".join(f"{n},{'no' if n % 3 else 'yes'}" for n in range(60))
        (tmp_path / name / (200 * name) / "t.csv").write_text(f"x,y\n{rows}\n")
    choice = f"search.dataset.path=choice(a/{200 * 'a'}/t.csv,b/{200 * 'b'}/t.csv)"
    settings = ("dataset=table", "dataset.target=y", "l2=0.1", "trials=2")
    answer = run_command(tmp_path, "sweep", *settings, choice)
    assert answer.code == 0, answer.err
    (study,) = (tmp_path / "runs" / "sweeps").iterdir()
    folders = {path.parent for path in study.rglob("summary.json")}
    assert {folder.parent for folder in folders} == {study}
    assert all(len(os.fsencode(folder.name)) <= 255 for folder in folders)


@pytest.mark.long
def test_select_says_what_is_looked_for_and_which_way(tmp_path: Path, run_command: RunCommand) -> None:
    typed = ("dataset=digits", "dataset.limit=200", "search.l2=log(1e-4,100)", "trials=4", "select=accuracy")
    answer = run_command(tmp_path, "sweep", *typed)
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs" / "sweeps" / "digits_l2"
    accuracies = [float(row["accuracy/val"]) for row in rows_of(folder)]
    assert len(set(accuracies)) > 1
    assert answer.err.splitlines()[-1].endswith(f"; best accuracy/val {max(accuracies):.4f}")
    assert "by accuracy/val, " in answer.out
    best = next(row for row in rows_of(folder) if float(row["accuracy/val"]) == max(accuracies))
    assert f"select=accuracy l2={best['l2']}\n" in answer.out
    answer = run_command(tmp_path, "sweep", *typed[:-1])
    assert answer.code == 2  # another thing to look for
    assert answer.err.startswith("`study` must continue digits_l2 as it began: ")


@pytest.mark.long
def test_what_falls_behind_is_told_by_what_is_looked_for(tmp_path: Path) -> None:
    ranges = [Range.read("lr", "log(1e-3,1)")]
    for sign in (-1, 1):
        search = Search(f"s{sign}", sqlite_url(tmp_path / "s.db"), ranges, [], seed=0, prune=True, sign=sign)
        for value in (0.1, 0.2, 0.3, 0.4, 0.5):
            trial, _ = search.ask(9) or (None, None)
            assert trial is not None
            trial.report(value, 4)
            search.finished(trial, value, "")
        last, _ = search.ask(9) or (None, None)
        assert last is not None
        last.report(0.25, 4)
        assert last.should_prune() == (sign > 0)  # the median is 0.3
        assert search.best is not None
        assert search.best[0] == (0.1 if sign < 0 else 0.5)


@pytest.mark.long
def test_trials_that_name_no_strength_choose_their_own(tmp_path: Path, run_command: RunCommand) -> None:
    answer = run_command(tmp_path, "sweep", "dataset=iris", "search.loss=choice(bce,cross_entropy)", "trials=2")
    assert answer.code == 0, answer.err
    folder = tmp_path / "runs" / "sweeps" / "iris_loss"
    for file in folder.rglob("summary.json"):
        assert json.loads(file.read_text())["path"]["rows"]


def test_what_cannot_be_told_is_not_looked_for(tmp_path: Path, run_command: RunCommand) -> None:
    answer = run_command(tmp_path, "sweep", "dataset=iris", "search.l2=log(1e-4,1)", "trials=2", "select=auroc")
    assert (answer.code, answer.out, answer.left) == (2, "", [])
    assert answer.err == (
        "`select=auroc` must have two classes, and iris has 3. Type select=accuracy, or leave it out for log_loss.\n"
    )


@pytest.mark.long
def test_stopped_between_the_summary_and_the_storage_it_goes_on(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ("dataset=iris", "search.l2=log(1e-4,1)", "trials=2")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Search, "finished", stopped)
        assert run_command(tmp_path, "sweep", *typed).code == 130
    (summary,) = tmp_path.glob("runs/sweeps/iris_l2/*/summary.json")
    answer = run_command(tmp_path, "sweep", *typed)
    assert answer.code == 0, answer.err
    rows = rows_of(tmp_path / "runs" / "sweeps" / "iris_l2")
    assert len(rows) == 2
    assert json.loads(summary.read_text())["overrides"][-1].removeprefix("l2=") in {row["l2"] for row in rows}
