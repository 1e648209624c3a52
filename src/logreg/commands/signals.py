"""Signals: SIGTERM ends a command within two seconds and leaves no unfinished file; SIGINT (Ctrl-C) interrupts it."""

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
"""Seconds between SIGTERM and the end of the process, in which a command may clean up."""

_INTERRUPTED = threading.Event()
"""Whether SIGINT has come since `ending_on_sigterm` was entered."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _INTERRUPTED.set()
    raise KeyboardInterrupt


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raises KeyboardInterrupt in place of another exception that Ctrl-C has led to.

    Compiled code that calls Python may replace the exception by another one, as matplotlib does with "Invalid
    bounding box".
    """
    try:
        yield
    except Exception as error:
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt from error
        raise


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated` in the main thread, as Ctrl-C raises KeyboardInterrupt.

    At the end of the block the process exits at once after SIGTERM: a regular exit with torch loaded takes a second.
    Lightning calls this handler after its own, which only sets a flag that is read after a batch.

    Python runs a signal handler between two instructions, so a long call of compiled code delays it, and so does a pool
    of threads that finishes its work first.  Therefore a thread waits for the signal, too, at the wakeup file
    descriptor, and ends the process after ``GRACE_S`` if the block is not left by then.  (Compiled code that holds the
    interpreter lock delays both; torch, NumPy, Arrow and SciPy's linear programs release it.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, terminated = threading.Event(), False
    receiving, sending = socket.socketpair()
    sending.setblocking(False)

    def terminate(signum: int, frame: FrameType | None) -> None:
        nonlocal terminated
        if not terminated:  # a second one would interrupt the clean-up
            terminated = True
            raise Terminated

    def watch() -> None:
        with receiving:
            while received := receiving.recv(64):  # numbers of signals; empty when ``sending`` is closed
                if signal.SIGTERM in received and not left.wait(GRACE_S):
                    _exit_at_once()

    handler = signal.signal(signal.SIGTERM, terminate)
    _INTERRUPTED.clear()
    # A SIGINT that is ignored, as in the background of a shell, stays ignored.
    handles_sigint = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if handles_sigint:
        signal.signal(signal.SIGINT, _interrupt)
    wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="termination", daemon=True).start()
    try:
        yield
    finally:
        if terminated:
            with suppress(OSError, ValueError):  # the reader of the output may have closed it
                sys.stdout.flush()
            _exit_at_once()
        left.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        if handles_sigint:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sending.close()


def _exit_at_once() -> NoReturn:
    remove_unfinished()
    os._exit(Terminated.EXIT_CODE)
