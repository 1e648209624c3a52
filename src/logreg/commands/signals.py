"""Signals: SIGTERM ends a command within two seconds and leaves no unfinished file; SIGINT (Ctrl-C) interrupts it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from logreg.errors import Terminated
from logreg.files import remove_unfinished

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

GRACE_S = 1.0
"""Seconds between SIGTERM and the end of the process, in which a command may clean up."""

AGAIN_S = 0.05
"""Seconds after which a signal is sent again whose exception was ignored: the destructor or callback in which Python
ignores it has returned by then."""

IGNORED = 128
"""Is added to the number of a signal whose exception was ignored; those of signals are smaller."""

_INTERRUPTED = threading.Event()
"""Whether SIGINT has come since `ending_on_sigterm` was entered."""

_ENTERED: set[socket.socket] = set()
"""The sockets to which the signals of this process are written while a block of `ending_on_sigterm` runs."""


def _leave_in_child() -> None:
    """Gives a forked child the usual end by SIGTERM: its signals would end the parent, whose socket it shares."""
    if _ENTERED:
        _ENTERED.clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_in_child)


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

    Where a handler runs within a destructor or the callback of a weak reference, as of SQLAlchemy's connections, Python
    ignores the exception that it raises.  The thread then sends the signal again.

    All this is of this process: a child that it forks ends by SIGTERM as usual.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, terminated, main = False, False, threading.get_ident()
    receiving, sending = socket.socketpair()
    sending.setblocking(False)

    def terminate(signum: int, frame: FrameType | None) -> None:
        nonlocal terminated
        if not terminated:  # a second one would interrupt the clean-up
            terminated = True
            raise Terminated

    def ignored(unraisable: UnraisableHookArgs) -> None:
        nonlocal terminated
        number = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(unraisable.exc_type)
        if number is None or threading.get_ident() != main:
            hook(unraisable)
            return
        terminated = terminated and number != signal.SIGTERM
        with suppress(OSError):  # full of other numbers
            sending.send(bytes([IGNORED + number]))

    def watch() -> None:
        with receiving:
            ends = None
            while True:
                receiving.settimeout(None if ends is None else max(ends - time.monotonic(), 0))
                try:
                    received = receiving.recv(64)  # numbers of signals; empty when ``sending`` is closed
                except OSError:  # the time is over
                    _exit_at_once()
                if not received:
                    return
                if signal.SIGTERM in received and ends is None:
                    ends = time.monotonic() + GRACE_S
                for number in received:
                    if number > IGNORED:
                        time.sleep(AGAIN_S)
                        if not left:
                            signal.pthread_kill(main, number - IGNORED)

    handler = signal.signal(signal.SIGTERM, terminate)
    _INTERRUPTED.clear()
    # A SIGINT that is ignored, as in the background of a shell, stays ignored.
    handles_sigint = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if handles_sigint:
        signal.signal(signal.SIGINT, _interrupt)
    _ENTERED.add(sending)
    wakeup = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    hook, sys.unraisablehook = sys.unraisablehook, ignored
    threading.Thread(target=watch, name="termination", daemon=True).start()
    try:
        yield
    finally:
        if terminated:
            with suppress(OSError, ValueError):  # the reader of the output may have closed it
                sys.stdout.flush()
            _exit_at_once()
        left, sys.unraisablehook = True, hook
        _ENTERED.discard(sending)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        if handles_sigint:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sending.close()


def _exit_at_once() -> NoReturn:
    remove_unfinished()
    os._exit(Terminated.EXIT_CODE)
