"""Summaries for people and for programs: a short table, or one JSON object."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO


def report(stage: str, summary: dict[str, Any], *, as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    """Print a stage's summary, at once. A reader that has gone misses it; the work that it tells of goes on.

    Args:
        stage: who speaks.
        summary: names and numbers.
        as_json: one JSON object instead of text.
        quiet: print nothing (a JSON object that was asked for is printed all the same).
        stdout_is_data: stdout carries a table, so everything goes to stderr.
    """
    stream = sys.stderr if stdout_is_data else sys.stdout
    if as_json:
        _say(json.dumps(summary), stream)
    elif not quiet:
        text = ", ".join(
            f"{name} {_short(value)}" for name, value in summary.items() if not isinstance(value, dict | list)
        )
        _say(f"entropyctl {stage}: {text}", sys.stderr)


def _say(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        mute(stream)


def mute(stream: TextIO) -> None:
    """Lead a stream whose reader has gone nowhere, so that what Python still holds for it raises no more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def silence() -> None:
    """Say nothing from now on: of several processes that do the same, one speaks."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def speak() -> None:
    """Say what there is to say, silenced or not."""
    if sys.__stdout__ is not None and sys.__stderr__ is not None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def is_silent() -> bool:
    """Whether another process speaks for this one."""
    return sys.stderr is not sys.__stderr__


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
