"""Worker processes with a deadline for each response: killed when it passes, replaced, never asked twice."""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from entropyctl import errors
from entropyctl.children import command, environment
from entropyctl.errors import EngineError

# Seconds that a worker may take to import its grader.
START_LIMIT = 300.0
Reply = dict[str, Any]
TIMEOUT: Reply = {"grade": [0.0, "timeout", None]}


class Worker:
    """One process, idle or at work on one job; its pipes never block this process."""

    def __init__(self, spec: str, timeout: float) -> None:
        # A session of its own: Ctrl-C goes to us alone, and one kill reaches what the grader itself has started.
        self._process = subprocess.Popen(
            command("entropyctl.rewards._worker", spec, str(timeout), str(START_LIMIT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment(),
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        self.stdin, self.stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self._timeout = timeout
        self._received = b""
        self.unsent = b""
        self.ready = self.ended = False
        self.job: int | None = None
        self.deadline = time.monotonic() + START_LIMIT

    def give(self, job: int, request: str) -> None:
        """Start a job; the clock runs from here."""
        self.job, self.unsent = job, f"{request}\n".encode()
        self.deadline = time.monotonic() + self._timeout

    def rest(self) -> None:
        """Be ready for the next job; no clock runs."""
        self.ready, self.job, self.deadline = True, None, math.inf

    def send(self) -> None:
        """Write as much of the request as the pipe takes."""
        try:
            self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent = b""  # it has died, which reading will tell

    def receive(self) -> None:
        """Read what has arrived; nothing means that the process has ended."""
        data = os.read(self.stdout, 1 << 16)
        self._received += data
        self.ended = not data

    def take_lines(self) -> list[bytes]:
        """The whole lines among what has arrived."""
        *lines, self._received = self._received.split(b"\n")
        return lines

    def kill(self) -> int:
        """End the process and all that it has started; returns its status."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        return self._process.wait()


class Pool:
    """Workers of one grader, started when there is work, kept until `close`."""

    def __init__(self, spec: str, timeout: float, size: int) -> None:
        self._spec, self._timeout, self._size = spec, timeout, size
        self._workers: list[Worker] = []
        self._replies: dict[int, Reply] = {}

    def check(self) -> None:
        """Start a worker, so that a grader that cannot be imported is known before there is anything to grade.

        Raises:
            UsageError: the grader cannot be imported.
            EngineError: its process died.
        """
        self._work(lambda: any(worker.ready for worker in self._workers), 1)

    def run(self, requests: Sequence[Callable[[], str]]) -> list[Reply]:
        """The replies to all requests, in their order.

        Args:
            requests: each makes one line of JSON when its turn has come.

        Raises:
            UsageError, EngineError: as `check`.
        """
        waiting = deque(enumerate(requests))
        self._replies = {}

        def all_done() -> bool:
            for worker in self._workers:
                if worker.ready and worker.job is None and waiting:
                    job, request = waiting.popleft()
                    worker.give(job, request())
            return len(self._replies) == len(requests)

        self._work(all_done, len(requests))
        return [self._replies[job] for job in range(len(requests))]

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().kill()

    def _work(self, done: Callable[[], bool], jobs: int) -> None:
        try:
            while not done():
                while len(self._workers) < min(self._size, jobs - len(self._replies)):
                    self._workers.append(Worker(self._spec, self._timeout))
                self._turn()
        except BaseException:  # also Ctrl-C and SIGTERM: jobs are half done, and nobody will collect them
            self.close()
            raise

    def _turn(self) -> None:
        """Wait until a pipe can be read or written, or a deadline passes, and act on it."""
        poll = selectors.PollSelector()  # keeps nothing open, so one for each turn is the simplest book-keeping
        for worker in self._workers:
            poll.register(worker.stdout, selectors.EVENT_READ, worker.receive)
            if worker.unsent:
                poll.register(worker.stdin, selectors.EVENT_WRITE, worker.send)
        nearest = min(worker.deadline for worker in self._workers) - time.monotonic()
        for key, _ in poll.select(max(0.0, min(nearest, START_LIMIT))):
            key.data()
        for worker in list(self._workers):
            self._collect(worker)

    def _collect(self, worker: Worker) -> None:
        """Take what a worker has said; replace it if it is dead or late."""
        for line in worker.take_lines():
            self._answer(worker, json.loads(line))
        if not worker.ended and time.monotonic() < worker.deadline:
            return
        self._workers.remove(worker)
        status = worker.kill()
        if not worker.ready:
            reason = f"ended with status {status}" if worker.ended else f"was not ready after {START_LIMIT:.0f} s"
            raise EngineError(f"--reward {self._spec}: its process {reason} while it started; import it to see why")
        if worker.job is not None:
            died = {"grade": [0.0, "error", None], "why": f"the grading process ended with status {status}"}
            self._replies[worker.job] = died if worker.ended else TIMEOUT

    def _answer(self, worker: Worker, reply: Reply) -> None:
        if "failed" in reply:
            kind, message = reply["failed"]
            raise getattr(errors, kind)(message)
        if worker.job is not None:
            self._replies[worker.job] = reply
        worker.rest()
