"""A command as a process of its own, which ends as soon as its work is done."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

NEVER_USED = frozenset({"pandas", "boto3"})
"""Packages that no command uses, and that take long to import.  Where they are installed, Arrow imports the one for its
first array, and TensorBoard the other to write to S3."""


class _NotThere:
    """Finds the packages that are never used, and fails to import them, as if they were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in NEVER_USED else None  # type: ignore[arg-type]  # has what is called

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__)


@contextmanager
def _without_never_used() -> Iterator[None]:
    """Hides the packages in ``NEVER_USED``, unless they are imported already."""
    finder = _NotThere()
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

    The command does not find the packages in ``NEVER_USED``.

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

    atexit.register(end)  # before all others, so that it is called after them
    with _without_never_used():
        codes.append(command())
    sys.exit(codes[0])
