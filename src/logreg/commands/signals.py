"""SIGTERM ends a command within a second or two, whatever it does, and leaves no half-written file; Ctrl-C stops it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from logreg.errors import Terminated
from logreg.files import remove_unfinished

GRACE_S = 1.0
"""Seconds that a command has to end in order."""

_INTERRUPTED = threading.Event()
"""Whether SIGINT has come since `ending_on_sigterm` was opened."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _INTERRUPTED.set()
    raise KeyboardInterrupt


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """What raises something else after Ctrl-C raises KeyboardInterrupt.

    Compiled code that calls Python may put an exception of its own in the place of the one that it met, as matplotlib's
    does with "Invalid bounding box".
    """
    try:
        yield
    except Exception as error:
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt from error
        raise


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """While it is open, SIGTERM raises `Terminated` in the main thread, as Ctrl-C raises KeyboardInterrupt.

    When it is left after that, the process ends at once, since an interpreter with torch in it takes a second to close.
    Lightning calls this handler after its own, which only sets a flag that is looked at after a batch.

    Python runs a handler between two of its instructions: a long call of compiled code would put it off, and so would a
    pool of threads that finishes its work first.  So a thread hears of the signal too, by the wakeup file descriptor,
    and ends the process ``GRACE_S`` later if this block has not been left by then.  (Compiled code that does not
    release the interpreter lock holds up both; that of torch, NumPy, Arrow and SciPy's linear programs releases it.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, terminated = threading.Event(), False
    hearing, telling = socket.socketpair()
    telling.setblocking(False)

    def terminate(signum: int, frame: FrameType | None) -> None:
        nonlocal terminated
        if not terminated:  # a second one would break off the tidying up
            terminated = True
            raise Terminated

    def watch() -> None:
        with hearing:
            while heard := hearing.recv(64):  # numbers of signals; nothing when ``telling`` is closed
                if signal.SIGTERM in heard and not left.wait(GRACE_S):
                    _leave_at_once()

    handler = signal.signal(signal.SIGTERM, terminate)
    _INTERRUPTED.clear()
    # One that is ignored, as in the background of a shell, stays so.
    ours = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    wakeup = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="termination", daemon=True).start()
    try:
        yield
    finally:
        if terminated:
            with suppress(OSError, ValueError):  # whoever reads our output may have left
                sys.stdout.flush()
            _leave_at_once()
        left.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        telling.close()


def _leave_at_once() -> NoReturn:
    remove_unfinished()
    os._exit(Terminated.EXIT_CODE)
