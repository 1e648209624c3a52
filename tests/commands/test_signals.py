"""SIGTERM: how soon a command ends, with what exit code, and what it leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from logreg.commands.evaluate import main as evaluate
from logreg.commands.signals import GRACE_S
from logreg.commands.train import main
from logreg.errors import Terminated
from whole_runs import SCRIPT, Answer, newest, train

SOON_S = 10.0
"""Longer than a loaded machine takes to end a process, and shorter than any command here would go on."""

STOPPED = "Stopped. `ckpt_path=latest` continues from the last epoch that was saved.\n"


def ended(process: subprocess.Popen[str], soon: float = SOON_S) -> str:
    """Sends SIGTERM to a process that runs, waits for its end, and gives back what it said on stderr."""
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - sent < soon
    assert process.returncode == Terminated.EXIT_CODE == 143
    return said


@contextmanager
def running(here: Path, *line: str, out: IO[str] | int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """Python with these arguments; its stderr is for `ended`, unless ``out`` is a file, which then gets it as well."""
    err = subprocess.PIPE if isinstance(out, int) else out
    with subprocess.Popen([sys.executable, *line], cwd=here, stdout=out, stderr=err, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize(
    "deaf",
    [
        # waits for its threads when it is broken off
        "with ThreadPoolExecutor(1) as pool: pool.submit(time.sleep, 60); told(); time.sleep(60)",
        # compiled code, which comes back to Python after minutes
        "told(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
        # catches whatever is raised
        "\n".join(["told()", "while True:", "    try: time.sleep(60)", "    except BaseException: pass"]),
    ],
    ids=["pool", "compiled", "catches"],
)
def test_what_does_not_listen_is_ended_and_its_unfinished_file_removed(tmp_path: Path, deaf: str) -> None:
    code = """
        import hashlib, time
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from logreg.files import whole_file
        from logreg.commands.signals import ending_on_sigterm

        def told():
            Path("begun").touch()

        with ending_on_sigterm(), whole_file(Path("output.csv")) as file:
            file.write(b"half")
    """
    whole = textwrap.dedent(code) + textwrap.indent(deaf, " " * 4)
    with running(tmp_path, "-c", whole) as process:
        wait_until((tmp_path / "begun").exists, process)
        time.sleep(0.1)
        ended(process, GRACE_S + SOON_S)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


@pytest.mark.long
def test_a_training_ends_at_once_and_goes_on_from_there(tmp_path: Path) -> None:
    endless = ("dataset=digits", "optimizer=sgd", "max_epochs=100000000", "report=brief")
    with running(tmp_path, str(SCRIPT), *endless) as process:
        wait_until((tmp_path / "runs" / "latest").exists, process)
        assert ended(process).endswith(STOPPED)
    stopped = newest(tmp_path)
    assert not [path for path in stopped.folder.rglob(".*") if path.name != ".hydra"]
    assert not (stopped.folder / "summary.json").exists()
    epochs = stopped.checkpoint()["epoch"] + 1
    resumed = train(tmp_path, "ckpt_path=latest", f"max_epochs={epochs + 1}")
    assert list(resumed.curve("loss/train")) == [epochs + 1]


@pytest.mark.parametrize(("sent", "raised", "code"), [("TERM", "Terminated", 143), ("INT", "KeyboardInterrupt", 0)])
def test_a_signal_in_a_callback_whose_exceptions_python_ignores_still_counts(sent: str, raised: str, code: int) -> None:
    program = f"""
        import os, signal, sys, time, weakref
        from logreg.commands.signals import GRACE_S, ending_on_sigterm
        from logreg.errors import Terminated

        class Held:
            pass

        held = Held()
        reference = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIG{sent}))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with ending_on_sigterm():
            try:
                del held  # the handler runs within the callback
                time.sleep(GRACE_S / 2)
                print("ignored")
            except (Terminated, KeyboardInterrupt) as error:
                print(type(error).__name__)
            # what else Python ignores is shown as ever
            held = Held()
            reference = weakref.ref(held, lambda _: 1 / 0)
            del held
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{raised}\n", code)
    assert done.stderr.startswith("Exception ignored in: <function <lambda>")
    assert done.stderr.count("Error") == done.stderr.count("ZeroDivisionError") == 1


def test_ctrl_c_in_compiled_code_that_raises_its_own_exception_is_still_ctrl_c(
    tmp_path: Path, run_command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("Invalid bounding box") from None

    monkeypatch.setattr("logreg.run.train.draw", draw)
    answer = run_command(tmp_path, "train", "max_epochs=3")
    assert (answer.code, answer.err.splitlines()[-1]) == (130, STOPPED.rstrip())
    assert "Traceback" not in answer.err
    monkeypatch.setattr("logreg.commands.predict._run", draw)
    assert run_command(tmp_path, "predict", "hours=3").code == 130
    # The next command has nothing of it.
    monkeypatch.undo()
    assert run_command(tmp_path, "predict", "hours=3").code == 0


def test_a_forked_child_ends_by_sigterm_and_its_parent_goes_on(tmp_path: Path) -> None:
    code = f"""
        import os, signal, time
        from logreg.commands.signals import ending_on_sigterm

        with ending_on_sigterm():
            reading, writing = os.pipe()
            if not (child := os.fork()):
                try:
                    os.write(writing, b"x")
                    time.sleep(60)
                finally:
                    print("the clean-up of the parent")
            os.read(reading, 1)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            time.sleep({GRACE_S} + 1)
            print(os.waitstatus_to_exitcode(status))
    """
    with running(tmp_path, "-c", textwrap.dedent(code), out=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"{-signal.SIGTERM}\n", "")


def test_what_a_command_changes_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    for command in (main, evaluate):
        assert command(["--version"]) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.set_wakeup_fd(-1) == -1


def says(words: str) -> Callable[[Path], bool]:
    return lambda here: words in (here / "said").read_text()


def has(pattern: str) -> Callable[[Path], bool]:
    return lambda here: any((here / "runs").rglob(pattern))


ENDLESS = """
import runpy, sys
from importlib import import_module
from pathlib import Path

begun, place, *sys.argv = sys.argv[1:]
module, name = place.split(":")
*outer, name = name.split(".")
owner = import_module(module)
for one in outer:
    owner = getattr(owner, one)
done = getattr(owner, name)

def again_and_again(*arguments, **settings):
    Path(begun).touch()
    while True:
        done(*arguments, **settings)

setattr(owner, name, again_and_again)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script in which one function does its work again and again, from the first call of it on."""

PHASES: dict[str, tuple[str | None, tuple[str, ...], Callable[[Path], bool]]] = {
    "import": (None, ("train.py", "dataset=digits", "optimizer=sgd", "max_epochs=100000000"), says(" torch._C\n")),
    "a long pass": (
        "logreg.training.module:LogisticModule.training_step",
        ("train.py", "dataset=blobs", "dataset.rows=300000", "batch_size=4"),
        has("begun"),
    ),
    "an exact optimizer": (
        "logreg.training.module:LogisticModule.training_step",
        ("train.py", "dataset=blobs", "dataset.rows=300000"),
        has("begun"),
    ),
    "path": ("logreg.run.choosing_strength:fit_folds", ("train.py", "dataset=digits", "l2=path"), has("begun")),
    "after the fit": (
        "logreg.run.train:draw",
        ("train.py", "dataset=digits", "optimizer=sgd", "max_epochs=1", "report=full"),
        has("begun"),
    ),
    "a grid": (
        None,
        ("train.py", "-m", "dataset=digits", "optimizer=sgd", "max_epochs=300", "seed=range(0,50)"),
        has("1_*/checkpoints/last.ckpt"),
    ),
    "a grid in parallel": (
        None,
        (
            "train.py",
            "-m",
            "hydra/launcher=joblib",
            "dataset=digits",
            "optimizer=sgd",
            "max_epochs=9999999",
            "seed=1,2",
        ),
        has("last.ckpt"),
    ),
    "trials": (
        None,
        ("sweep.py", "dataset=digits", "optimizer=sgd", "search.lr=log(1e-4,1)", "trials=100", "max_epochs=500"),
        has("1_*/checkpoints/last.ckpt"),
    ),
}
"""The function that never ends, if the phase would; what is run; and when it has come to its phase."""


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_of_a_command_ends_soon(tmp_path: Path, phase: str) -> None:
    endless, (script, *arguments), reached = PHASES[phase]
    (tmp_path / "runs").mkdir()
    line = [str(SCRIPT.with_name(script)), *arguments]
    if endless is not None:
        line = ["-c", ENDLESS, str(tmp_path / "runs" / "begun"), endless, *line]
    # each import is a line of the output, so that a phase may be one
    with (tmp_path / "said").open("w") as said, running(tmp_path, "-X", "importtime", *line, out=said) as process:
        wait_until(lambda: reached(tmp_path), process)
        ended(process, GRACE_S + SOON_S)
    assert "Stopped." in (tmp_path / "said").read_text() or phase == "import"
    # the folder of a search keeps its lock, which other processes may wait for
    hidden = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(".*") if path.name != ".hydra"}
    assert hidden <= {"runs/sweeps/digits_lr/.lock"}
