"""SIGTERM: how soon a command ends, with what exit code, and what it leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logreg.commands.evaluate import main as evaluate
from logreg.commands.signals import GRACE_S
from logreg.commands.train import main
from logreg.errors import Terminated
from whole_runs import SCRIPT, Answer, newest, train

SOON_S = 2.0
"""What a user waits for at most, on a machine that has a core to spare."""

STOPPED = "Stopped. `ckpt_path=latest` continues from the last epoch that was saved.\n"


def ended(process: subprocess.Popen[str], soon: float = SOON_S) -> str:
    """Sends SIGTERM to a process that runs, waits for its end, and gives back what it said on stderr."""
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - sent < soon
    assert process.returncode == Terminated.EXIT_CODE == 143
    return said


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started(here: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(line, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


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
    process = subprocess.Popen([sys.executable, "-c", whole], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "begun").exists, process)
    time.sleep(0.1)
    ended(process, GRACE_S + SOON_S)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_training_ends_at_once_and_goes_on_from_there(tmp_path: Path) -> None:
    process = started(tmp_path, "dataset=digits", "optimizer=sgd", "max_epochs=100000", "report=brief")
    wait_until((tmp_path / "runs" / "latest").exists, process)
    assert ended(process).endswith(STOPPED)
    stopped = newest(tmp_path)
    assert not [path for path in stopped.folder.rglob(".*") if path.name != ".hydra"]
    assert not (stopped.folder / "summary.json").exists()
    epochs = stopped.checkpoint()["epoch"] + 1
    resumed = train(tmp_path, "ckpt_path=latest", f"max_epochs={epochs + 1}")
    assert list(resumed.curve("loss/train")) == [epochs + 1]


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


def test_what_a_command_changes_is_put_back() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    for command in (main, evaluate):
        assert command(["--version"]) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.set_wakeup_fd(-1) == -1


def says(words: str) -> Callable[[Path], bool]:
    return lambda here: words in (here / "said").read_text()


def has_run(here: Path) -> bool:
    return (here / "runs" / "latest").exists()


PHASES: dict[str, tuple[str, tuple[str, ...], Callable[[Path], bool], float]] = {
    "import": ("train.py", ("dataset=digits",), lambda here: True, 0.5),
    "a long pass": ("train.py", ("dataset=blobs", "dataset.rows=3000000", "batch_size=4"), lambda here: True, 6.0),
    "an exact optimizer": ("train.py", ("dataset=blobs", "dataset.rows=3000000"), lambda here: True, 5.0),
    "path": ("train.py", ("dataset=digits", "l2=path", "tolerance=1e-14"), says("path:"), 0.5),
    "after the fit": ("train.py", ("dataset=digits", "optimizer=sgd", "max_epochs=1", "report=full"), has_run, 0.5),
    "a grid": (
        "train.py",
        ("-m", "dataset=digits", "optimizer=sgd", "max_epochs=300", "seed=range(0,50)"),
        lambda here: any(here.rglob("summary.json")),
        0.5,
    ),
    "a grid in parallel": (
        "train.py",
        ("-m", "hydra/launcher=joblib", "dataset=digits", "optimizer=sgd", "max_epochs=30000", "seed=range(0,50)"),
        lambda here: any(here.rglob("last.ckpt")),
        0.5,
    ),
    "trials": (
        "sweep.py",
        ("dataset=digits", "optimizer=sgd", "search.lr=log(1e-4,1)", "trials=100", "max_epochs=500"),
        says("trial 0"),
        0.5,
    ),
}
"""What is run, when it has come to its phase, and seconds to wait after that."""


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_of_a_command_ends_soon(tmp_path: Path, phase: str) -> None:
    script, arguments, reached, seconds = PHASES[phase]
    with (tmp_path / "said").open("w") as said:
        line = [sys.executable, str(SCRIPT.with_name(script)), *arguments]
        process = subprocess.Popen(line, cwd=tmp_path, stdout=said, stderr=said, text=True)
        wait_until(lambda: reached(tmp_path), process)
        time.sleep(seconds)
        ended(process, GRACE_S + SOON_S)
    assert "Stopped." in (tmp_path / "said").read_text() or phase == "import"
    # the folder of a search keeps its lock, which other processes may wait for
    hidden = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(".*") if path.name != ".hydra"}
    assert hidden <= {"runs/sweeps/digits_lr/.lock"}
