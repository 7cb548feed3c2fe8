"""Summaries for people and for programs: a short table, or one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any


def report(stage: str, summary: dict[str, Any], *, as_json: bool, quiet: bool, stdout_is_data: bool) -> None:
    """Print a stage's summary.

    Args:
        stage: who speaks.
        summary: names and numbers.
        as_json: one JSON object instead of text.
        quiet: print nothing (a JSON object that was asked for is printed all the same).
        stdout_is_data: stdout carries a table, so everything goes to stderr.
    """
    stream = sys.stderr if stdout_is_data else sys.stdout
    if as_json:
        print(json.dumps(summary), file=stream)
    elif not quiet:
        text = ", ".join(
            f"{name} {_short(value)}" for name, value in summary.items() if not isinstance(value, dict | list)
        )
        print(f"entropyctl {stage}: {text}", file=sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
