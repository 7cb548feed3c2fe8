"""What ends a process from outside, as exceptions in its main thread, and why none of them is lost.

They are no `Exception`, so that no `except Exception` around a computation takes them for a fault of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# How a pipe's watch reaches the main thread. Ignored by default, so that one which comes too late does no harm.
PIPE_SIGNAL = signal.SIGURG
AGAIN_SECONDS = 0.05


class Ended(BaseException):
    """A signal that ends the process, as an exception, so that unfinished files are taken away."""

    def __init__(self, number: int) -> None:
        self.signal = number


class ReaderGone(BaseException):
    """Nobody reads standard output any more. No `except OSError` around a read may take it for a fault of the input."""


class WriterGone(BaseException):
    """The writer of standard input has gone before it had said all."""


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise Ended, and no ending is lost."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sys.unraisablehook = _dropped


def _end(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the clearing away
    raise Ended(number)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    """Python drops, and prints, an exception that meets it in a destructor; an ending comes again instead."""
    error = what.exc_value
    if isinstance(error, ReaderGone | WriterGone):
        return  # the watch over the pipe does so
    if not isinstance(error, Ended | KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return
    number = error.signal if isinstance(error, Ended) else signal.SIGINT
    if isinstance(error, Ended):
        signal.signal(number, _end)
    main = threading.main_thread().ident or 0
    again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, number))
    again.daemon = True
    again.start()


@contextmanager
def pipes_unwatched() -> Iterator[None]:
    """Let nothing that happens to a neighbour interrupt the clearing away; it is heard of afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {PIPE_SIGNAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
