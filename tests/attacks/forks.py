"""Commands typed hundreds of times: a server imports everything once, and each command runs in a fork of it.

A fork has what a process of its own has: a working folder, standard streams, signals, limits, an exit code.  Only the
imports are shared, which take longer than most of the commands.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 120
"""That a command may take on a busy machine; one that takes longer hangs."""


def words(text: str, separator: str | None = None) -> tuple[str, ...]:
    """A tuple of text, written in one line."""
    return tuple(text.split(separator))


COMMANDS = ("train", "evaluate", "predict", "coefficients", "certify", "export", "sweep", "compare")

MODULES = (
    *(f"logreg.commands.{command}" for command in COMMANDS),
    *words("logreg.run.train logreg.reports.writing logreg.reports.html logreg.reports.model_card"),
    *words("logreg.reports.figures logreg.reports.diagnostic_plots logreg.export.formats logreg.export.predictions"),
    *words(
        "logreg.sweeps.grid logreg.sweeps.search logreg.evaluation.paired_comparison logreg.training.checkpoint_reading"
    ),
    *words("logreg.data.new_rows logreg.data.sources.table logreg.data.sources.features"),
    *words("logreg.data.sources.image_folder logreg.data.sources.vision"),
    *words("logreg.solvers.fit logreg.optimality.separation logreg.optimality.certificate"),
    *words("logreg.optimality.implied_penalty"),
    *words("pyarrow.csv pyarrow.parquet pyarrow.feather pyarrow.compute scipy.optimize sklearn.linear_model joblib"),
    *words("matplotlib.figure matplotlib.backends.backend_agg optuna onnx onnxruntime safetensors.torch"),
    *words("torch.utils.tensorboard rich.progress rich.table filelock torchvision.transforms.v2"),
)
"""What the commands import, some of it only when it is needed."""


def seeds(number: int) -> range:
    """Those of a whole attack; ``SEEDS=10:20`` in the environment takes these, also beyond ``number``."""
    first, _, last = os.environ.get("SEEDS", "").partition(":")
    chosen = range(int(first or 0), int(last or number))
    assert chosen, "SEEDS=10:20 takes 10 to 19"
    return chosen


class Report:
    """Counts of what happened, row by row, and what was wrong."""

    def __init__(self, columns: Sequence[str], wrong: Sequence[str]) -> None:
        self.columns, self.kinds = columns, wrong
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []
        self._log = os.environ.get("ATTACK_LOG")

    def add(self, row: str, kind: str, what: object) -> None:
        """One more of a kind; ``what`` is shown if that is wrong, and kept in the file that ATTACK_LOG names."""
        self.counts.setdefault(row, Counter()).update(("cases", kind))
        if kind in self.kinds:
            self.wrong.append(f"{row}, {kind}: {what}")
        if self._log:
            with Path(self._log).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"##### {row}, {kind}: {what}\n")

    def __str__(self) -> str:
        columns = ("cases", *self.columns, *self.kinds)
        width = max(map(len, (*self.counts, "all")))
        lines = ["", " " * width + "".join(f"{column:>{max(9, len(column) + 2)}}" for column in columns)]
        for row, counts in [*self.counts.items(), ("all", sum(self.counts.values(), Counter()))]:
            cells = "".join(f"{counts[column]:{max(9, len(column) + 2)}}" for column in columns)
            lines.append(f"{row:{width}}{cells}")
        return "\n".join([*lines, ""])


class Result(NamedTuple):
    """What became of a command."""

    typed: list[str]
    code: int
    """Minus the signal that ended it; ``HANG`` if it was ended for its time."""
    out: str
    err: str
    seconds: float
    left: list[str]
    """Files and folders that are new where it stood."""

    def __str__(self) -> str:
        return f"{self.typed} -> {self.code} in {self.seconds:.1f} s\n{self.out[-600:]}{self.err[-2500:]}"


HANG = 1000

OK, REFUSED, TRACEBACK, HANGS, LINES, LEFT = "exit 0", "exit 2", "traceback", "hang", "not one line", "left behind"


def kind_of(result: Result) -> str:
    """What is right: an end, or one line that leaves nothing; else what is wrong."""
    if result.code == HANG:
        return HANGS
    if result.code not in (0, 2) or "Traceback (most recent call last)" in result.err + result.out:
        return TRACEBACK
    if result.code == 0:
        return OK
    if result.err.count("\n") != 1 or not result.err.strip():
        return LINES
    return LEFT if result.left else REFUSED


def inside(folder: Path) -> set[str]:
    found = set()
    for path, folders, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(path, name), folder) for name in folders + files}  # noqa: PTH118  # a hundred times as quick
    return found


@dataclass
class Running:
    """A command that was started."""

    server: Server
    pid: int
    typed: list[str]
    here: Path
    streams: Path
    before: set[str]
    started: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = SECONDS) -> Result:
        """Until it ends; it is killed, with all that it started, when its time is over."""
        code = self.server.wait_for(self.pid, self.started + seconds)
        hangs = code is None
        while code is None:
            os.killpg(self.pid, signal.SIGKILL)
            code = self.server.wait_for(self.pid, time.monotonic() + 10)
        out, err = ((self.streams / name).read_text("utf-8", "replace") for name in ("out", "err"))
        shutil.rmtree(self.streams)
        new = sorted(inside(self.here) - self.before)
        return Result(self.typed, HANG if hangs else code, out, err, time.monotonic() - self.started, new)

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; `wait` says how."""
        return self.server.wait_for(self.pid, time.monotonic() + seconds, keep=True) is not None

    def send(self, signum: int) -> None:
        """A signal; one that has ended meanwhile gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)


class Server:
    """Forks of one process that has imported what the commands import."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._codes: dict[int, int] = {}
        self._held = b""

    def start(
        self,
        here: Path,
        command: str,
        *typed: str,
        stdin: Path | str = os.devnull,
        memory: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Running:
        """Runs a command in the folder ``here``.

        Args:
            here: The working folder.
            command: Such as "train".
            typed: What follows.
            stdin: What it reads from standard input.
            memory: Bytes of address space that it may take beyond what it begins with.
            environment: Further variables.
        """
        streams = Path(tempfile.mkdtemp())
        for name in ("out", "err"):  # also of a process that is killed before it has begun
            (streams / name).touch()
        before = inside(here)
        asked = {
            "here": str(here),
            "command": command,
            "typed": list(typed),
            "stdin": str(stdin),
            "streams": str(streams),
            "memory": memory,
            "environment": environment or {},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        while True:
            said = self._next(time.monotonic() + 120)
            assert said is not None, "the server is silent"
            if "pid" in said:
                return Running(self, said["pid"], [command, *typed], here, streams, before)

    def run(self, here: Path, command: str, *typed: str, seconds: float = SECONDS, **how: Any) -> Result:
        """The same, and waits for its end."""
        return self.start(here, command, *typed, **how).wait(seconds)

    def wait_for(self, pid: int, until: float, keep: bool = False) -> int | None:
        """Exit code of a fork, or ``None`` when it has not ended until then; known once, or ``keep`` it."""
        while pid not in self._codes:
            if self._next(until) is None:
                return None
        return self._codes[pid] if keep else self._codes.pop(pid)

    def _next(self, until: float) -> dict[str, int] | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._held:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            read = os.read(descriptor, 2**16)
            assert read, "the server has ended"
            self._held += read
        line, _, self._held = self._held.partition(b"\n")
        said: dict[str, int] = json.loads(line)
        if "ended" in said:
            self._codes[said["ended"]] = said["code"]
        return said

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def _run_command() -> None:
    """Reads lines of JSON from standard input, forks for each, and says on standard output what became of it."""
    from importlib import import_module

    from logreg.fast_import import import_lightning

    os.environ["HYDRA_FULL_ERROR"] = "1"
    import_lightning()
    for module in MODULES:
        import_module(module)
    os.fsync = lambda fd: None  # nobody pulls the plug here
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    running: dict[int, int] = {}
    held = b""
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for descriptor in ready:
            if descriptor:
                pid = running.pop(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                answers.write(json.dumps({"ended": pid, "code": code}) + "\n")
                continue
            read = os.read(0, 2**16)
            if not read:
                return
            held += read
            while b"\n" in held:
                line, _, held = held.partition(b"\n")
                pid = os.fork()
                if not pid:
                    for other in running:
                        os.close(other)
                    _become(**json.loads(line))
                running[os.pidfd_open(pid)] = pid
                answers.write(json.dumps({"pid": pid}) + "\n")


def _become(
    here: str,
    command: str,
    typed: Sequence[str],
    stdin: str,
    streams: str,
    memory: int | None,
    environment: dict[str, str],
) -> None:
    """The life of a fork: a process that types one command."""
    from importlib import import_module

    code = 1
    try:
        os.setsid()
        os.chdir(here)
        for number, path in enumerate((stdin, f"{streams}/out", f"{streams}/err")):
            opened = os.open(path, os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.update(environment)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # for as long as the process lives
            for number, mode in enumerate("rww")
        )
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text stream, opened above
        if memory is not None:
            now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
        sys.argv = [f"scripts/{command}.py", *typed]
        code = import_module(f"logreg.commands.{command}").main(typed)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    try:  # what an interpreter does when it ends, but to take torch apart, which takes long
        threading._shutdown()  # type: ignore[attr-defined]  # Python's own, without a public name
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = code or 120
    os._exit(code)


if __name__ == "__main__":
    _run_command()
