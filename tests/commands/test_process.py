"""The end of a command's process: what is still done, and what is left out."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from logreg.commands.process import ONE_THREAD, WAITING

PROGRAM = """
import atexit, sys, threading, time
from logreg.commands.process import run_process

class Freed:
    def __del__(self):
        print("freed", flush=True)

freed = Freed()

def wait():
    time.sleep(0.2)
    print("the thread has ended")

def command():
    atexit.register(print, "registered by the command")
    threading.Thread(target=wait).start()
    print("out")
    print("err", file=sys.stderr)
    ENDS

run_process(command)
"""

DONE = ["out", "the thread has ended", "registered by the command"]


def ended(code: str, here: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {*WAITING, ONE_THREAD}} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=here, env=environment)


@pytest.mark.parametrize("code", [0, 2])
def test_all_is_done_but_to_free_every_object(tmp_path: Path, code: int) -> None:
    done = ended(PROGRAM.replace("ENDS", f"return {code}"), tmp_path)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, DONE, "err\n")


def test_a_bug_ends_as_usual(tmp_path: Path) -> None:
    done = ended(PROGRAM.replace("ENDS", "raise KeyError"), tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (1, [*DONE, "freed"])
    assert done.stderr.splitlines()[-1] == "KeyError"


def test_a_program_that_runs_a_script_inside_itself_ends_in_its_own_way(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PROGRAM.replace("ENDS", "return 3"))
    host = """
        import runpy
        try:
            runpy.run_path("script.py", run_name="__main__")
        except SystemExit as end:
            print("the script has ended with", end.code)
    """
    done = ended(textwrap.dedent(host), tmp_path)
    assert done.returncode == 0
    assert "the script has ended with 3" in done.stdout.splitlines()


def test_a_command_that_has_closed_its_output_keeps_its_exit_code(tmp_path: Path) -> None:
    code = PROGRAM.replace("ENDS", "sys.stdout.close(); return 4")
    assert ended(code, tmp_path).returncode == 4


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ({}, "1000 None 1"),
        ({"GOMP_SPINCOUNT": "5"}, "5 None 1"),
        ({"OMP_WAIT_POLICY": "active", "OPENBLAS_NUM_THREADS": "4"}, "None active 4"),
    ],
)
def test_threads_that_wait_soon_sleep(tmp_path: Path, typed: dict[str, str], found: str) -> None:
    code = """
        import os, subprocess, sys
        from logreg.commands.process import run_process

        def command():
            assert "torch" not in sys.modules
            assert "numpy" not in sys.modules
            names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")
            show = f"import os; print(*map(os.environ.get, {names}))"
            return subprocess.run([sys.executable, "-c", show]).returncode

        run_process(command)
    """
    done = ended(textwrap.dedent(code), tmp_path, **typed)
    assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr


def test_what_no_command_uses_is_not_imported_by_others(tmp_path: Path) -> None:
    for name in ("pandas", "boto3"):
        (tmp_path / f"{name}.py").write_text("print(__name__, 'is imported')")
    code = """
        import atexit, sys
        from logreg.commands.process import run_process

        def imported(module, name):
            try:
                exec("__import__(name)", {"__name__": module, "name": name})
            except ModuleNotFoundError as error:
                print(error)

        def command():
            imported("tensorboard.compat", "boto3")
            exec("import pyarrow; pyarrow.array(['a'])", {"__name__": "logreg.data"})
            imported("logreg.data", "pandas")
            imported("ax.core", "pandas")
            atexit.register(after)
            return 0

        def after():
            import boto3

        run_process(command)
    """
    done = ended(textwrap.dedent(code), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    hidden = [f"No module named {name!r} for logreg, which never uses it" for name in ("boto3", "pandas")]
    # a plugin of Hydra finds them, and so does a program that goes on
    assert done.stdout.splitlines() == [*hidden, "pandas is imported", "boto3 is imported"]
