"""What reaches a terminal: no control characters of names, no letters that it lacks, no passwords."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from rich.table import Table

from logreg.terminal import Letters, Screen, on_one_line, safe_terminal, show_status, terminal, without_passwords
from whole_runs import SCRIPT, Answer, train

RunCommand = Callable[..., Answer]

COLUMN, OTHER, NO, YES = "wid\x1b[31mth\nor so", "two|\u202ebars`", "no\x1b]0;owned\x07", "yes\r\n| a | b |\n\n# c"
"""Hostile names of columns and classes."""

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


HOSTILE = ("dataset=table", "dataset.path=rows\x1bc.csv", "dataset.target=y", "l2=0.1")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table that has such names, and a run on it."""
    here = tmp_path_factory.mktemp("hostile")
    header = f'"{COLUMN}","{OTHER}",y'
    rows = [f'{n % 7},{n % 11},"{YES if (n * n) % 5 < 2 else NO}"' for n in range(80)]
    (here / "rows\x1bc.csv").write_text("\n".join([header, *rows]) + "\n")
    train(here, *HOSTILE, "report=full")
    return here


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, é, 日本", "plain, é, 日本"),
        ("a\x1b[31mb\n", "a\\x1b[31mb\\n"),
        ("a\r\tb", "a\\r\tb"),
        ("\x9b31m\u202e\u2028\udce9", "\\x9b31m\\u202e\\u2028\\udce9"),
    ],
)
def test_control_characters_are_written_as_python_writes_them(text: str, expected: str) -> None:
    assert on_one_line(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("got 'mysql+x://me:hunt@er2@host/db'.", "got 'mysql+x://me:***@host/db'."),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("postgresql://me:hunt/er2@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:hu?n@t/er2@host/db?token=t@ken", "postgresql://me:***@host/db?token=***"),
        ("p://h/db?user=me&password=hunter2&x=1", "p://h/db?user=me&password=***&x=1"),
        ("sqlite:///runs/a.db at 10:30 by me@host", "sqlite:///runs/a.db at 10:30 by me@host"),
        ("http://host:80/a and b@c", "http://host:80/a and b@c"),
    ],
)
def test_passwords_of_addresses_are_hidden(text: str, expected: str) -> None:
    assert without_passwords(text) == expected


def test_a_line_that_is_written_over_may_be() -> None:
    stream = io.StringIO()
    screen: Any = Screen(stream)
    print("importing ...", end="\r", file=screen)
    screen.write("\r 50 %")
    print("two\nlines\x07", file=screen)
    print("a\rb", file=screen)
    assert stream.getvalue() == "importing ...\r\r 50 %two\nlines\\x07\na\\rb\n"


def test_rich_keeps_its_colors_and_none_of_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    table = Table()
    table.add_column("bold\x1b[5m")
    table.add_row("a\x1b]0;owned\x07", style="red")
    with safe_terminal():
        console = terminal()
        console.print(table)
        console.print("plain \x1b[31m", markup=False, highlight=False)
    shown = stream.getvalue()
    assert "\x1b[31m" in shown  # the row is red
    assert "\x1b[5m" not in shown
    assert "\x1b]" not in shown
    assert "\\x1b]0;owned\\x07" in shown
    assert "plain \\x1b[31m" in shown


def test_a_bar_moves_and_what_is_said_meanwhile_is_shown_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = io.StringIO()
    monkeypatch.setattr(there, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", there)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with safe_terminal(), Progress(console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("mnist\x1bc", total=2)
        bar.advance(task)
        bar.refresh()
        sys.stderr.write("a line\n")
        terminal(stderr=True).print("another")  # a console that is made while there is a bar
    text = there.getvalue()
    assert "\x1b[2K" in text  # the bar's own sequences do what they should
    assert "\\x1b[" not in text
    assert "\x1bc" not in text  # a name's are written out
    assert "a line\n" in text
    assert "another\n" in text


class Tty(io.StringIO):
    """A terminal that keeps what it was given."""

    def isatty(self) -> bool:
        return True


def test_what_is_being_done_is_replaced_by_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), Tty()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("COLUMNS", "20")
    show_status("nobody looks after it")
    with safe_terminal():
        show_status("reading a\x1bb ...")
        show_status("scoring what is longer than a line ...")
        sys.stdout.write("table\n")  # another stream, the same terminal
        show_status("writing ...")
    first, second, third = "reading a\\x1bb ...", "scoring what is lon", "writing ..."
    assert err.getvalue() == "".join(f"{line}\r{' ' * len(line)}\r" for line in (first, second, third))
    assert out.getvalue() == "table\n"


@pytest.mark.long
def test_a_terminal_has_the_bar_and_says_what_is_being_done(
    tmp_path: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    err = Tty()
    monkeypatch.setattr(sys, "stderr", err)
    typed = ("dataset=iris", "optimizer=sgd", "max_epochs=3", "calibrate=temperature")
    assert run_command(tmp_path, "train", *typed).code == 0
    shown = err.getvalue()
    assert "\\x1b" not in shown
    assert "epoch 0/3" in shown
    bar = shown.rindex("\x1b[2K")  # where it is wiped away
    told = [
        "importing torch and lightning ...",
        "reading iris ...",
        "looking whether the classes are separable ...",
        "certifying how far the optimum is ...",
        "scoring train, val, test ...",
        "drawing pictures and writing the report ...",
    ]
    places = [shown.index(f"{line}\r{' ' * len(line)}\r") for line in told]
    assert places == sorted(places)
    assert places[2] < bar < places[3]
    assert shown.endswith(" \r")


def test_a_pipe_has_none_of_that(tmp_path: Path, run_command: RunCommand) -> None:
    answer = run_command(tmp_path, "train", "dataset=iris", "optimizer=sgd", "l2=1e-2", "max_epochs=2", "report=brief")
    assert [line.partition(" loss/")[0] for line in answer.err.splitlines()] == ["iris: epoch 1/2", "iris: epoch 2/2"]


def test_letters_that_a_terminal_lacks_are_written_otherwise() -> None:
    held = io.BytesIO()
    stream: Any = Letters(io.TextIOWrapper(held, encoding="ascii"))
    stream.write("0.5±0.1 of café\n")
    stream.flush()
    assert held.getvalue() == b"0.5+/-0.1 of caf\\xe9\n"


def test_whoever_puts_another_stream_there_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    with safe_terminal():
        sys.stdout.write("x\n")
        sys.stdout = other
    assert sys.stdout is other
    assert mine.getvalue() == "x\n"


def test_names_never_command_the_terminal(hostile: Path, run_command: RunCommand) -> None:
    answers = [
        run_command(hostile, "train", *HOSTILE, "facts=show", "report=brief"),
        run_command(hostile, "train", *HOSTILE, "dataset.drop=[nowhere\x1bc]"),
        run_command(hostile, "evaluate"),
        run_command(hostile, "predict", "input=rows\x1bc.csv", "output=out.csv"),
        run_command(hostile, "predict", f"{COLUMN}=1", f"{OTHER}=2"),
        run_command(hostile, "predict", "input=nowhere\x1bc.csv"),
        run_command(hostile, "predict", "no\x1b[1mthing=1"),
        run_command(hostile, "compare", "latest"),
        run_command(hostile, "certify", "ckpt_path=latest"),
        run_command(hostile, "export", "output=model.npz"),
    ]
    assert [answer.code for answer in answers if answer.code not in (0, 2)] == []
    assert answers[0].code == answers[2].code == answers[3].code == answers[4].code == 0, answers
    assert "\nor so" not in "".join(answer.out + answer.err for answer in answers)
    for answer in answers:
        assert CONTROL.findall(answer.out + answer.err) == []
    # what is written to files is the name itself
    assert NO in (hostile / "out.csv").read_bytes().decode()


def test_names_do_not_break_the_report(hostile: Path) -> None:
    (file,) = hostile.rglob("report.html")
    text = file.with_name("report.md").read_text()
    assert CONTROL.findall(text) == []
    assert "\n# c" not in text
    page = file.read_text()
    assert CONTROL.findall(page) == []
    assert "<h1>c" not in page
    for part in page.split("<table>")[1:]:  # each row has as many cells as the header
        rows = part.partition("</table>")[0].split("<tr>")[1:]
        assert len({row.count("<td") + row.count("<th") for row in rows}) == 1


@pytest.mark.long
def test_a_terminal_without_utf8_gets_readable_text(
    hostile: Path, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile / "café.csv").write_text("größe,y\n" + "".join(f"{n % 7},{'ja' if n % 3 else 'né'}\n" for n in range(60)))
    held = io.BytesIO()
    typed = ("dataset=table", "dataset.path=café.csv", "dataset.target=y", "l2=[0.1,0.01]", "report=brief")
    for script, arguments in (("train", typed), ("predict", ("größe=3",)), ("evaluate", ())):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(held, encoding="ascii", write_through=True))
        assert run_command(hostile, script, *arguments).code == 0
    shown = held.getvalue().decode("ascii")
    assert "+/-" in shown
    assert "gr\\xf6\\xdfe" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"LC_ALL": "C"}],
)
def test_processes_on_a_terminal_without_utf8_end_well(tmp_path: Path, environment: dict[str, str]) -> None:
    rows = "".join(f"{n % 7},{'ja' if n % 3 else 'né'}\n" for n in range(60))
    (tmp_path / "t.csv").write_text("größe,y\n" + rows, encoding="utf-8")
    settings = ("dataset=table", "dataset.path=t.csv", "dataset.target=y", "l2=[0.1,0.01]")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *settings],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert b"Logging error" not in done.stderr


@pytest.mark.slow
def test_predictions_on_a_terminal_are_shown_and_in_a_pipe_are_data(hostile: Path, run_command: RunCommand) -> None:
    assert run_command(hostile, "train", *HOSTILE, "report=brief").code == 0
    command = [sys.executable, str(SCRIPT.with_name("predict.py")), "input=rows\x1bc.csv"]
    piped = subprocess.run(command, cwd=hostile, capture_output=True, timeout=120, check=True)
    assert NO.encode() in piped.stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=hostile, stdout=theirs, stderr=theirs)  # as a terminal has it
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0
    assert b"\\x1b]0;owned" in shown
    assert b"\x1b" not in shown
