"""Grading many responses: easy cases here, the others in workers, equal ones once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any

import xxhash

from entropyctl import errors
from entropyctl.errors import EntropyctlError, UsageError
from entropyctl.rewards._grade import Grade, GradeInput, shortened
from entropyctl.rewards._pool import Pool, Reply
from entropyctl.rewards._spec import load

MOST_WORKERS = 16


class Grader:
    """A grader with its worker processes, which live until the `with` block ends.

    Attributes:
        spec: what it was made from.
        first_error: what went wrong with the first response whose outcome is `error`; None when none has.
    """

    def __init__(self, spec: str, *, timeout: float = 5.0, workers: int | None = None) -> None:
        """Find the grader.

        Args:
            spec: `exact`, `math`, `gym`, `none`, `python:PKG.MOD:FUNC`, or the name of another package's grader.
            timeout: seconds of wall-clock time for one response.
            workers: processes; one for each core, at most 16, when not given.

        Raises:
            UsageError: there is no such grader, or a number makes no sense.
        """
        if timeout <= 0:
            raise UsageError(f"--timeout {timeout}: must be above 0")
        if workers is not None and workers < 1:
            raise UsageError(f"--workers {workers}: must be at least 1")
        self.spec = spec
        self.first_error: str | None = None
        self._loaded = load(spec)
        self._pool = Pool(spec, timeout, workers or _cores())

    def grade(self, items: Sequence[GradeInput]) -> list[Grade]:
        """The grades of all responses, in their order; an empty list when the grader is `none`.

        Responses that the grader cannot tell apart are graded once, except by a `python:` function, which need not be
        pure.

        Raises:
            InputError: a problem lacks what the grader needs; names the row.
            UsageError: the grader cannot be imported.
            EngineError: its process cannot start.
        """
        if self.spec == "none":
            return []
        grades = [self._quick(item) for item in items]
        jobs: dict[bytes | int, list[int]] = {}
        for index, item in enumerate(items):
            if grades[index] is None:
                jobs.setdefault(self._identity(item, index), []).append(index)
        firsts = [items[rows[0]] for rows in jobs.values()]
        replies = self._pool.run([partial(self._request, item) for item in firsts])
        for rows, reply, item in zip(jobs.values(), replies, firsts, strict=True):
            grade = self._grade_of(reply, item)
            for index in rows:
                grades[index] = grade
        return [grade for grade in grades if grade is not None]

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> Grader:
        if self._loaded.prepare:
            self._pool.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _quick(self, item: GradeInput) -> Grade | None:
        if self._loaded.quick is None:
            return None
        try:
            grade = self._loaded.quick(item._asdict())
        except EntropyctlError as error:
            raise type(error)(_about(item, str(error))) from None
        return None if grade is None else shortened(grade)

    def _identity(self, item: GradeInput, index: int) -> bytes | int:
        return index if self.spec.startswith("python:") else xxhash.xxh3_128_digest(self._request(item).encode())

    def _request(self, item: GradeInput) -> str:
        """What the grader reads of an input, as one line of JSON; equal for inputs that it cannot tell apart."""
        given = {name: getattr(item, name) for name in self._loaded.reads}
        if self._loaded.decisive:
            given["response"] = self._loaded.decisive(item.response)
        return json.dumps(given, sort_keys=True)

    def _grade_of(self, reply: Reply, item: GradeInput) -> Grade:
        if "stop" in reply:
            kind, message = reply["stop"]
            fault: Any = getattr(errors, kind, EntropyctlError)
            raise fault(_about(item, message))
        if self.first_error is None and "why" in reply:
            self.first_error = _about(item, reply["why"])
        return Grade(*reply["grade"])


def _about(item: GradeInput, message: str) -> str:
    return f"{item.name}: {message}" if item.name else message


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_WORKERS)
