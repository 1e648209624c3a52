"""Files that are written whole or not at all, and what killed processes leave."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import logreg
from logreg.errors import ConfigError
from logreg.files import TEMPORARY_NAME, unfinished, write_text, write_whole
from logreg.run_folder import locked_run_folder
from models import Models
from whole_runs import SCRIPT


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def of_a_killed_process(place: Path) -> str:
    """The name of the file that a process leaves which is killed while it writes."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from logreg.files import whole_file
        with whole_file(Path(sys.argv[1])) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    before = names_in(place.parent)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(place)], check=False)
    assert done.returncode == -signal.SIGKILL
    (name,) = names_in(place.parent) - before
    assert TEMPORARY_NAME.fullmatch(name)
    return name


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path: Path) -> None:
    of_a_killed_process(tmp_path / "p.csv")
    gone = max(int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit()) + 10**6
    theirs = {".logreg-notes.csv", f".logreg-{gone}.csv", f".{gone}.p.csv", f"logreg-{gone}-0.p.csv", "p.csv"}
    for name in theirs:
        (tmp_path / name).write_text("somebody's")
    (tmp_path / f".logreg-{gone}-1.folder").mkdir()
    write_whole(tmp_path / "q.csv", lambda file: file.write(b"whole"))  # another name in the same folder
    assert names_in(tmp_path) == theirs | {"q.csv", f".logreg-{gone}-1.folder"}


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.communicate()


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, living: subprocess.Popen[bytes]) -> None:
    of_another = tmp_path / f".logreg-{living.pid}-0.p.csv"
    of_another.write_text("half")
    write_whole(tmp_path / "q.csv", lambda file: file.write(b"whole"))
    assert names_in(tmp_path) == {of_another.name, "q.csv"}


def test_what_a_process_of_another_machine_writes_is_left_alone(tmp_path: Path) -> None:
    # of whose number nobody here knows anything, but who holds the file
    name = of_a_killed_process(tmp_path / "p.csv")
    with (tmp_path / name).open() as held:
        fcntl = pytest.importorskip("fcntl", reason="not on Windows, which locks files otherwise")
        fcntl.flock(held, fcntl.LOCK_EX)
        write_whole(tmp_path / "q.csv", lambda file: file.write(b"whole"))
    assert names_in(tmp_path) == {name, "q.csv"}


@pytest.mark.long
def test_a_killed_predict_leaves_nothing_for_long(tmp_path: Path, models: Models) -> None:
    code = """
        import os, signal
        from logreg.commands import predict, predicting
        predicting.predicted = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        predict.main()
    """
    typed = [f"ckpt_path={models.run('table').folder}", f"input={models('table') / 'train.csv'}"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *typed, "output=a.csv"], cwd=tmp_path, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names_in(tmp_path) if TEMPORARY_NAME.fullmatch(name)]
    script = SCRIPT.with_name("predict.py")
    subprocess.run([sys.executable, script, *typed, "output=b.csv"], cwd=tmp_path, check=True, capture_output=True)
    assert names_in(tmp_path) == {"b.csv"}


@pytest.mark.parametrize("name", [250 * "a" + ".csv", 62 * "\N{PILE OF POO}" + ".csv"])
def test_the_longest_name_that_the_disk_takes_can_be_written(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, lambda file: file.write(b"whole"))
    assert names_in(tmp_path) == {name}


def test_two_unfinished_files_of_one_process_are_two(tmp_path: Path) -> None:
    with unfinished(tmp_path / "a.csv") as one, unfinished(tmp_path / "a.csv") as other:
        assert one != other
        assert one.suffix == other.suffix == ".csv"
    assert names_in(tmp_path) == set()


def test_every_file_that_is_not_there_yet_is_written_by_the_one_mechanism() -> None:
    # what these write is of no use to another process
    scratch = {"memory.py", "shards.py"}
    for file in Path(logreg.__file__).parent.rglob("*.py"):
        if file.name in scratch:
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"NamedTemporaryFile|mkstemp|mkdtemp|TemporaryDirectory", text), file


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match=r"^`hydra.run.dir` must not be the folder of a run that is under way")
    with locked_run_folder("hydra.run.dir", tmp_path), refused, locked_run_folder("hydra.run.dir", tmp_path):
        pass
    with locked_run_folder("hydra.run.dir", tmp_path):
        pass


def test_text_is_written_in_utf8_with_its_own_ends_of_lines(tmp_path: Path) -> None:
    write_text(tmp_path / "t.csv", "Größe\r\n1\n")
    assert (tmp_path / "t.csv").read_bytes() == "Größe\r\n1\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
