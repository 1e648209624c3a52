"""A command as a process of its own, which ends as soon as its work is done."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

NEVER_USED = frozenset({"pandas", "boto3"})
"""Packages that no command uses, and that take long to import.  Where they are installed, Arrow imports the one for its
first array, as scikit-learn does, and TensorBoard the other to write to S3."""

WITHOUT_THEM = frozenset({"logreg", "pyarrow", "sklearn", "tensorboard"})
"""Packages that do not find them; others do, such as a sweeper of Hydra.  Arrow, which is compiled, imports in the name
of the module that calls it."""

SPINS = {"GOMP_SPINCOUNT": "1000"}
"""A variable for the threads of torch, which GNU's OpenMP reads when it is loaded.

At the end of each operation threads wait for one another.  By default they look hundreds of thousands of times whether
the others are there before they sleep: where programs share the cores, for the others to get one, most of all.  With a
thousand looks threads sleep soon, and on idle cores they still meet without sleeping.
"""

WAITING = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})
"""Variables by which users say how threads wait."""

ONE_THREAD = "OPENBLAS_NUM_THREADS"
"""The variable for NumPy's OpenBLAS, which a fit sets to one thread anyway; see `logreg.solvers.threads`."""


class _NeverUsed:
    """Finds no module, and hides the packages that are never used from those that ask for them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Fails for a package that is hidden, as if it were not installed."""
        if name in NEVER_USED and _importer() in WITHOUT_THEM:
            raise ModuleNotFoundError(f"No module named {name!r} for logreg, which never uses it", name=name)


def _importer() -> str:
    """The package of the module whose import statement runs."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _package_of(frame) == "importlib":
        frame = frame.f_back
    return "" if frame is None else _package_of(frame)


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


@contextmanager
def _without_never_used() -> Iterator[None]:
    """Hides the packages in ``NEVER_USED``, unless they are imported already."""
    finder = _NeverUsed()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def run_process(command: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its exit code.

    At its end Python frees every object of every module, which takes as long as a third of the import of torch and
    changes nothing: the operating system takes the memory anyway.  Therefore the process ends before that, but after
    all else that Python does at its end: it waits for threads, calls what was registered to be called, and flushes the
    output.  mypy ends in this way, too (``mypy.util.hard_exit``).

    Meanwhile the packages in ``NEVER_USED`` are hidden from those in ``WITHOUT_THEM``, and threads wait as ``SPINS``
    says and OpenBLAS has one, unless the user has said it; so it is in the processes that this one starts.

    Args:
        command: Returns the exit code.  An exception of it, a bug, ends the process as usual.
    """
    program, codes = sys.modules["__main__"], list[int]()

    def end() -> None:
        # where another program ran the script inside itself, that one ends now, in its own way
        for code in codes if sys.modules.get("__main__") is program else ():
            with suppress(OSError, ValueError):  # a closed output has Python's own end
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    if WAITING.isdisjoint(os.environ):
        os.environ.update(SPINS)
    os.environ.setdefault(ONE_THREAD, "1")
    atexit.register(end)  # before all others, so that it is called after them
    with _without_never_used():
        codes.append(command())
    sys.exit(codes[0])
