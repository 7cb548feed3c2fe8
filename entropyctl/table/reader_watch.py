"""Knowing at once that the reader of our output has gone, also while nothing is being written.

A process learns from a failed write that nobody reads. A stage that computes for minutes, or waits for its own input,
writes nothing: a dead neighbour would leave it there. So a thread watches the pipe and interrupts the main thread.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from typing import Any

# Ignored by default, so that one which comes too late does no harm.
SIGNAL = signal.SIGURG
# Python drops an exception that meets it in a destructor; so the signal is sent until somebody has listened.
AGAIN_SECONDS = 1.0


class ReaderGone(BaseException):
    """The reader has gone. No `except OSError` around a read may take it for a fault of the input."""


class ReaderWatch:
    """Raises ReaderGone in the main thread once the pipe at a file descriptor has no reader."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._stopped = threading.Event()
        self._wake, self._waker = os.pipe()
        self._before = signal.signal(SIGNAL, self._gone)
        self._thread = threading.Thread(target=self._watch, name="reader-watch", daemon=True)
        self._thread.start()

    def _gone(self, number: int, frame: Any) -> None:
        if not self._stopped.is_set():
            raise ReaderGone

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, 0)  # errors are reported unasked; of a pipe, that its last reader has closed it
        poll.register(self._wake, select.POLLIN)
        poll.poll()
        while not self._stopped.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
            self._stopped.wait(AGAIN_SECONDS)

    def stop(self) -> None:
        """Watch no longer; what follows is not interrupted."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        os.write(self._waker, b"x")
        self._thread.join()
        signal.signal(SIGNAL, self._before)
        os.close(self._wake)
        os.close(self._waker)


def watch_standard_output() -> ReaderWatch | None:
    """A watch over standard output, where that is a pipe; signals reach the main thread alone."""
    try:
        descriptor = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (OSError, ValueError, AttributeError):  # closed, or a test's stand-in
        return None
    if not is_pipe or threading.current_thread() is not threading.main_thread():
        return None
    return ReaderWatch(descriptor)
