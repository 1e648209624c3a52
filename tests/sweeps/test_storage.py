"""Studies that machines share: journal files and PostgreSQL; who runs which trial, and what a killed machine leaves."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from logreg.commands import sweep
from logreg.errors import ConfigError
from logreg.sweeps import search, storage
from logreg.sweeps.search import Range, Search
from logreg.sweeps.storage import explained
from process_groups import forked
from whole_runs import Answer

RunCommand = Callable[..., Answer]

IRIS = ("dataset=iris", "search.l2=log(1e-6,1)")

PASSWORD = "s3cret/w@rd"
"""With characters that a URL must write in another way."""

SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep.py"


def programs() -> Path | None:
    """The folder with PostgreSQL's programs, which Debian has outside of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a database of a server on this machine; the server ends with the tests."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's initdb is not on this machine")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    as_user: dict[str, Any] = {}
    here = Path(tempfile.mkdtemp(prefix="logreg-pg-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody")), None)
        if user is None:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
        shutil.chown(here, user)
        as_user = {"user": user}
    (here / "password").write_text(PASSWORD)
    (here / "password").chmod(0o644)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made: list[str | Path] = [folder / "initdb", "-D", here / "data", "-U", "me", "--auth=scram-sha-256", "--no-sync"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    server: list[str | Path] = [folder / "pg_ctl", "-D", here / "data", "-w", "-l", here / "log"]
    how: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": here, **as_user}
    try:
        subprocess.run([*made, f"--pwfile={here / 'password'}"], **how)
        subprocess.run([*server, "-o", options, "start"], **how)
        yield f"postgresql://me:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*server, "-m", "immediate", "stop"], **how | {"check": False})
        shutil.rmtree(here)


@pytest.fixture(params=["journal", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage that machines share."""
    if request.param == "journal":
        return str(tmp_path / "trials.log")
    url: str = request.getfixturevalue("postgresql")
    return url


Opened = Callable[[str, str], Search]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens a study; the connections end with the test."""
    all_ = list[Search]()

    def open_(shared: str, name: str) -> Search:
        all_.append(Search(name, shared, [Range.read("lr", "log(1e-3,1)")], [], seed=0, prune=True))
        return all_[-1]

    yield open_
    for one in all_:
        one.close()


def in_time(ask: Callable[[], Any]) -> Any:
    """The first answer that is not nothing."""
    until = time.monotonic() + 300
    while not (answer := ask()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return answer


@pytest.mark.long
def test_processes_keep_the_total_and_make_no_trial_twice(shared: str, opened: Opened) -> None:
    def work() -> None:
        one = opened(shared, "together")
        while (asked := one.ask(9)) is not None:
            one.finished(asked[0], asked[1]["lr"], "")

    assert forked(3, work) == [0, 0, 0]
    trials = opened(shared, "together").counted
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 9
    assert sorted(trial.user_attrs["place"] for trial in trials) == list(range(9))
    assert len({trial.params["lr"] for trial in trials}) == 9
    # nine random draws do not depend on who made them
    alone = opened(shared, "alone")
    values = set()
    while (asked := alone.ask(9)) is not None:
        alone.finished(asked[0], 0.0, "")
        values.add(asked[1]["lr"])
    assert {trial.params["lr"] for trial in trials} == values


def test_who_asks_at_the_same_moment_gets_another_trial(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (opened(str(tmp_path / "trials.log"), "s") for _ in "ab")
    begin, asked = one._begin, list[Any]()

    def late() -> int:
        asked.append(other.ask(2))
        return begin()

    monkeypatch.setattr(one, "_begin", late)
    asked.append(one.ask(2))
    (first, values), (second, others) = asked
    assert (first.number, second.number) == (0, 1)
    assert values != others


@pytest.mark.long
def test_a_trial_of_a_killed_machine_is_made_again(
    shared: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(search, "BEAT_S", 0.05)
    machine = search._machine()

    def work() -> None:
        search._machine = lambda: "another machine"  # this process alone
        one = opened(shared, "killed")
        trial, _ = one.ask(1) or (None, None)
        assert trial is not None
        with one.alive(trial):
            time.sleep(600)

    def beat() -> int:
        return int(here.counted[0].user_attrs.get("beat", 0))

    def beats_after(last: int) -> Callable[[], bool]:
        return lambda: beat() > last

    here = opened(shared, "killed")
    child = os.fork()
    if not child:
        work()
        os._exit(1)
    try:
        in_time(lambda: here.counted)
        for _ in range(3):  # longer together than the silence of a killed one
            assert here.ask(1) is None
            last, now = beat(), now + 0.9 * search.SILENT_S
            in_time(beats_after(last))
        assert here.ask(1) is None
        assert here.awaited(1) == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    killed = here.counted[0]
    assert here.ask(1) is None
    now += 1.1 * search.SILENT_S
    trial, values = here.ask(1) or (None, None)
    assert trial is not None
    assert (trial.number, values) == (1, killed.params)
    assert [one.number for one in here.counted] == [1]
    assert here.counted[0].user_attrs["host"] == machine


def test_a_suspended_process_learns_that_its_trial_is_lost(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SILENT_S", 0.1)
    one, other = (opened(str(tmp_path / "trials.log"), "s") for _ in "ab")
    trial, _ = one.ask(1) or (None, None)
    assert trial is not None
    in_time(lambda: other.ask(1))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        one.finished(trial, 0.0, "")
    assert [one.number for one in other.counted] == [1]


@pytest.mark.long
def test_a_sweep_waits_for_another_machine_and_takes_over(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "trials.log")
    ranges = [Range.read("l2", "log(1e-6,1)")]
    with monkeypatch.context() as patched:
        patched.setattr(search, "_machine", lambda: "another machine")
        lost = Search("iris_l2", file, ranges, ["dataset=iris"], seed=0, prune=True).ask(1)
    assert lost is not None
    monkeypatch.setattr(search, "SILENT_S", 0.5)
    monkeypatch.setattr(sweep, "POLL_S", 0.1)
    answer = run_command(tmp_path, "sweep", *IRIS, "trials=1", f"storage={file}")
    assert answer.code == 0, answer.err
    assert "iris_l2: waiting for 1 trials of other processes\n" in answer.err
    assert f"1/1 trial 1: l2={lost[1]['l2']:.4g}: loss/val " in answer.err

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    answer = run_command(elsewhere, "sweep", *IRIS, "trials=1", f"storage={file}")
    assert answer.code == 0
    assert "1 of 1 trials have their folders on other machines\nbest of all machines, loss/val " in answer.out
    assert answer.out.endswith(f" train.py dataset=iris l2={lost[1]['l2']:.4g}\n".replace(" train", "/train"))

    # another storage knows nothing of the trials in the folder
    answer = run_command(tmp_path, "sweep", *IRIS, "trials=1", f"storage={tmp_path / 'new.journal'}")
    assert answer.code == 2
    assert answer.err.startswith("`study` must be a new name, since the storage has no trial of iris_l2 and ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("trials.db", "be the URL of a database, such as postgresql://user@host/name, or a journal file, such as "),
        ("nosuch/t.log", "be in a folder that exists, got 'nosuch/t.log'. Create nosuch first."),
        ("/proc/t.log", "be a journal file that can be written to, got '/proc/t.log': "),
        ("words.log", "be a journal file of Optuna, got 'words.log'. Name another file."),
        ("numbers.log", "be a journal file of Optuna, got 'numbers.log'. Name another file."),
        ("folder.log", "be a journal file of Optuna, got 'folder.log'. Name another file."),
        ("postgresql://me:hunter2@127.0.0.1:9/x", "be the URL of a database that can be written to, got 'postgresql"),
        ("postgresql://me:hunter2@127.0.0.1:x/x", "be the URL of a database that can be written to, got 'postgresql"),
        ("postgresql+nosuch://me:hunter2@h/x", "be the URL of a database that can be written to, got 'postgresql"),
    ],
)
def test_a_storage_that_is_none_is_one_line(typed: str, sentence: str, tmp_path: Path, run_command: RunCommand) -> None:
    (tmp_path / "words.log").write_text("epoch 1\n")
    (tmp_path / "numbers.log").write_text("1\n2\n")
    (tmp_path / "folder.log").mkdir()
    answer = run_command(tmp_path, "sweep", *IRIS, f"storage={typed}")
    assert answer.code == 2
    assert answer.err.startswith(f"`storage` must {sentence}"), answer.err
    assert answer.err.count("\n") == 1
    assert "hunter2" not in answer.err
    assert (tmp_path / "words.log").read_text() == "epoch 1\n"
    assert not (tmp_path / "runs").exists()


def test_a_driver_that_is_missing_is_named_with_its_package() -> None:
    for module, package in (("psycopg", "psycopg[binary]"), ("MySQLdb", "mysqlclient"), ("oracledb", "oracledb")):
        outer = ImportError("Failed to import DB access module")
        outer.__cause__ = ModuleNotFoundError(f"No module named {module!r}", name=module)
        message = str(explained("postgresql://h/x", outer))
        assert message == f"`storage` must have the package {module}: pip install '{package}'."


@pytest.mark.long
def test_a_broken_journal_is_told_before_trials_and_amid_them(tmp_path: Path, run_command: RunCommand) -> None:
    file = tmp_path / "trials.log"
    assert run_command(tmp_path, "sweep", *IRIS, "trials=1", f"storage={file}").code == 0
    file.write_text(file.read_text() + '{"op_code":4,"wor\n{}\n')  # as after a full disk
    answer = run_command(tmp_path, "sweep", *IRIS, "trials=2", f"storage={file}")
    assert answer.code == 2
    assert answer.err.startswith("`storage` must be a journal file that can be written to, got '")
    assert answer.err.count("\n") == 1


def test_what_the_server_refuses_is_one_line_without_the_password(
    postgresql: str, tmp_path: Path, run_command: RunCommand
) -> None:
    place = postgresql.partition("@")[2]
    for url, said, advice in (
        (f"postgresql://me:wr%2Fong@{place}", "password authentication failed", "Correct the user or the password"),
        (f"{postgresql}2", 'database "postgres2" does not exist', "Create it first, with createdb."),
    ):
        answer = run_command(tmp_path, "sweep", *IRIS, f"storage={url}")
        assert answer.code == 2
        assert f"postgresql://me:***@{place}" in answer.err
        assert said in answer.err
        assert advice in answer.err
        assert answer.err.count("\n") == 1
        assert not [secret for secret in (PASSWORD, "s3cret", "wr%2Fong", "wr/ong") if secret in answer.err]


def test_a_storage_that_is_lost_amid_the_trials(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = Search.finished

    def lost(self: Search, trial: Any, score: float, folder: str) -> None:
        file = tmp_path / "trials.log"
        file.write_text(file.read_text() + "{\n{}\n")
        finished(self, trial, score, folder)

    monkeypatch.setattr(Search, "finished", lost)
    answer = run_command(tmp_path, "sweep", *IRIS, "trials=1", f"storage={tmp_path / 'trials.log'}")
    assert answer.code == 2
    assert answer.err.endswith(" The same command continues from here.\n")
    assert answer.err.count("\n") == 1


@pytest.mark.slow
def test_a_killed_sweep_on_one_machine_is_finished_on_another(shared: str, tmp_path: Path) -> None:
    typed = (*IRIS, "max_epochs=60", "optimizer=sgd", "trials=6", f"storage={shared}", "study=machines")
    processes = []
    for name in "ab":
        here = tmp_path / name
        here.mkdir()
        settings = f"search.BEAT_S, search.SILENT_S, search._machine = 0.2, 4.0, lambda: {name!r}"
        code = f"from logreg.sweeps import search; {settings}; from logreg.commands.sweep import main; main()"
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *typed],
                cwd=here,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    first, second = processes
    assert first.stderr is not None
    for line in first.stderr:
        if " trial " in line:
            break
    first.kill()
    first.communicate()
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert "machines: 6/6 " in err
    assert "trials have their folders on other machines\nbest of all machines, " in out
    ranges = [Range.read("l2", "log(1e-6,1)")]
    with closing(Search("machines", shared, ranges, [typed[0], *typed[2:4]], seed=0, prune=True)) as study:
        assert sorted(trial.user_attrs["place"] for trial in study.counted) == list(range(6))
        assert {trial.user_attrs["host"] for trial in study.counted} == {"a", "b"}


def test_the_form_is_checked_before_anything_is_read() -> None:
    for typed in ("postgresql://h/x", "trials.log", "/shared/trials.journal", "sqlite:///x.db"):
        storage.check_storage(typed)
    with pytest.raises(ConfigError, match="`storage` must be the URL of a database"):
        storage.check_storage("trials")
