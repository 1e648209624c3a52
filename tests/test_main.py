"""The command `logreg`: it lists the commands, hands a line to one of them, and names the nearest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from logreg import __version__
from logreg.__main__ import COMMANDS, main
from logreg.commands import evaluate, train
from whole_runs import newest, working_in

PROJECT = Path(__file__).parents[1]


def test_every_command_is_a_script_and_a_module() -> None:
    scripts = {path.stem for path in (PROJECT / "scripts").glob("*.py") if "logreg.commands" in path.read_text()}
    assert set(COMMANDS) == {name for name in scripts if not name.startswith("benchmark")}
    for name in COMMANDS:
        assert (PROJECT / "src" / "logreg" / "commands" / f"{name}.py").is_file()


@pytest.mark.parametrize("typed", [[], ["--help"], ["-h"]])
def test_it_lists_the_commands(typed: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 0
    out, err = capfd.readouterr()
    assert re.findall(r"^  (\w+) +\S", out, re.MULTILINE) == list(COMMANDS)
    assert err == ""


def test_the_command_has_a_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"logreg {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "near"),
    [("tran", " Did you mean train?"), ("lr=0.1", " Did you mean train?"), ("zzz", ""), ("--zzz", "")],
)
def test_another_word_is_one_line_with_the_nearest_command(
    typed: str, near: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([typed, "dataset=iris"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"`logreg` must be followed by one of {', '.join(COMMANDS)}, got {typed!r}.{near}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_commands_as_they_were_started(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/bin/logreg"])
    assert main([name, "--help"]) == 0
    out = capfd.readouterr().out
    assert f"usage: logreg {name}" in out
    assert "scripts/" not in out


def test_a_run_names_the_next_commands_as_it_was_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_in(tmp_path):
        monkeypatch.setattr(sys, "argv", ["/elsewhere/bin/logreg"])
        assert main(["train", "max_epochs=1", "report=brief"]) == 0
        out = capfd.readouterr().out
        assert "  logreg train ckpt_path=" in out or "  logreg train max_epochs" in out
        assert "scripts/" not in out
        assert newest(tmp_path).summary["command"] == "logreg train max_epochs=1 report=brief"
        assert main(["evaluate", "ckpt_path=nowhere"]) == 2
        assert capfd.readouterr().err.endswith("or train one first: logreg train.\n")


def test_a_command_gets_what_stands_behind_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "main", lambda typed: 3 if typed == ["split=val"] else 0)
    monkeypatch.setattr(train, "main", lambda typed: 4 if typed == [] else 0)
    assert main(["evaluate", "split=val"]) == 3
    assert main(["train"]) == 4


@pytest.mark.long
def test_it_can_be_run_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "logreg", "train", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: python -m logreg train [key=value ...]" in done.stdout


@pytest.mark.long
def test_no_command_imports_torch_before_it_understands_what_is_typed() -> None:
    code = (
        "import sys; from importlib import import_module\n"
        "from logreg.__main__ import COMMANDS\n"
        "for name in COMMANDS: import_module(f'logreg.commands.{name}'); assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
