"""`scripts/train.py` shows its results as soon as they are known."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logreg.commands.train import main
from whole_runs import Answer, newest, working_in

RunCommand = Callable[..., Answer]


@pytest.mark.long
def test_the_results_are_shown_before_the_pictures_are_drawn(
    tmp_path: Path, run_command: RunCommand, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def draw(*_: object) -> list[str]:
        shown.append(capfd.readouterr().out)
        raise KeyboardInterrupt

    monkeypatch.setattr("logreg.run.train.draw", draw)
    assert run_command(tmp_path, "train", "max_epochs=2", "report=full").code == 130
    lines = shown[0].splitlines()
    assert "next:" in lines
    assert any(line.startswith("│ train ") for line in lines)
    # What was interrupted is made later.
    monkeypatch.undo()
    resumed = run_command(tmp_path, "train", "ckpt_path=latest", "max_epochs=2", "report=full")
    assert resumed.code == 0
    assert resumed.err.endswith("last.ckpt: making the report\n")
    assert (newest(tmp_path).folder / "report.html").is_file()


@pytest.mark.long
def test_a_run_imports_only_what_it_uses(tmp_path: Path) -> None:
    code = """
import sys
from logreg.commands.train import main
assert main(["dataset=breast_cancer", "report=brief"]) == 0
unused = {"matplotlib", "pandas", "scipy", "sklearn", "tensorflow", "torch._dynamo", "torchvision", "triton"}
assert not unused & {*sys.modules}, unused & {*sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


class Left(io.TextIOWrapper):
    """A pipe whose reader has left."""

    def __init__(self, when: str) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.when = when

    def write(self, text: str) -> int:
        if self.when == "write":
            raise BrokenPipeError
        return len(text)

    def flush(self) -> None:
        if self.when == "flush":
            raise BrokenPipeError


@pytest.mark.parametrize("when", ["write", "flush"])
def test_the_report_is_written_where_the_reader_of_the_output_has_left(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_in(tmp_path), monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Left(when))
        assert main(["max_epochs=1", "report=brief"]) == 0
        sys.stdout.close()  # the rest goes to nowhere
    assert newest(tmp_path).summary["epochs"] == 1
