"""Knowing at once that the process at the other end of a pipe has gone, also while nothing is read or written.

A process learns from a failed write that nobody reads, and from the end of its input that nobody writes. A stage that
computes for minutes does neither: a dead neighbour would leave it there. So a thread watches the pipe and interrupts
the main thread.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable
from io import BufferedReader
from typing import Any, BinaryIO, cast

from entropyctl.ending import PIPE_SIGNAL, ReaderGone, WriterGone

AGAIN_SECONDS = 1.0  # the signal is sent until somebody has listened


class PipeWatch:
    """Calls a function in the main thread, time and again, once the pipe at a file descriptor has no other end."""

    def __init__(self, descriptor: int, gone: Callable[[], None]) -> None:
        """Begin to watch.

        Args:
            descriptor: an end of a pipe.
            gone: called in the main thread; raises what ends the work, or returns where it may go on.
        """
        self._descriptor, self._gone = descriptor, gone
        self._seen, self._stopped = threading.Event(), threading.Event()
        self._wake, self._waker = os.pipe()
        self._before = signal.signal(PIPE_SIGNAL, self._signalled)
        self._thread = threading.Thread(target=self._watch, name="pipe-watch", daemon=True)
        self._thread.start()

    def _signalled(self, number: int, frame: Any) -> None:
        if self._seen.is_set() and not self._stopped.is_set():
            self._gone()
        if callable(self._before):  # the watch over the other pipe
            self._before(number, frame)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, 0)  # reported unasked: that the last one at the other end has closed it
        poll.register(self._wake, select.POLLIN)
        poll.poll()
        self._seen.set()
        while not self._stopped.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, PIPE_SIGNAL)
            self._stopped.wait(AGAIN_SECONDS)

    def stop(self) -> None:
        """Watch no longer; what follows is not interrupted."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        os.write(self._waker, b"x")
        self._thread.join()
        if signal.getsignal(PIPE_SIGNAL) == self._signalled:  # else a later watch hands on to this one, which hands on
            signal.signal(PIPE_SIGNAL, self._before)
        os.close(self._wake)
        os.close(self._waker)


def watch_standard_output() -> PipeWatch | None:
    """A watch over standard output, where that is a pipe, that raises ReaderGone."""

    def gone() -> None:
        raise ReaderGone

    return _watch(sys.stdout, gone)


def watch_standard_input(raw: BinaryIO, reading: Callable[[], bool]) -> PipeWatch | None:
    """A watch over standard input, where that is a pipe, that raises WriterGone once all that came has been read.

    Args:
        raw: the stream; watched where it is standard input.
        reading: whether it is being read now, or needs to be no more: who reads, finds the end himself.
    """
    if raw is not getattr(sys.stdin, "buffer", None):
        return None
    buffered = cast(BufferedReader, raw)

    def gone() -> None:
        # The last bytes may wait to be read; perhaps they are an end in good order.
        if not reading() and not buffered.peek(1):
            raise WriterGone

    return _watch(sys.stdin, gone)


def _watch(stream: Any, gone: Callable[[], None]) -> PipeWatch | None:
    try:
        descriptor = stream.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (OSError, ValueError, AttributeError):  # closed, or a test's stand-in
        return None
    # Signals reach the main thread alone.
    if not is_pipe or threading.current_thread() is not threading.main_thread():
        return None
    return PipeWatch(descriptor, gone)
