"""A command as a process of its own, which ends as soon as its work is done."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def run_process(command: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its exit code.

    At its end Python frees every object of every module, which takes as long as a third of the import of torch and
    changes nothing: the operating system takes the memory anyway.  Therefore the process ends before that, but after
    all else that Python does at its end: it waits for threads, calls what was registered to be called, and flushes the
    output.  mypy ends in this way, too (``mypy.util.hard_exit``).

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
    codes.append(command())
    sys.exit(codes[0])
