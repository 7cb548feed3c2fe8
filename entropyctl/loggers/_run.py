"""A run as loggers know it, named by the directory that it writes to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

PROJECT = "entropyctl"
# Directories that are a part of a run's: its own name is that of the directory above.
PARTS = re.compile(r"policy|metrics|critic|evals?|latest|v\d+")


class Run(NamedTuple):
    """A run of a stage.

    Attributes:
        stage: `update` or `eval`; the names of its scalars begin with it.
        name: for people.
        id: the same whenever the stage works in the same directory, so that it goes on with the run.
        directory: that it works in.
        axis: what its scalars are drawn over, `update/step` or `eval/policy_version`.
        config: numbers and switches that it was told.
        project: that it belongs to, where nothing else is said.
    """

    stage: str
    name: str
    id: str
    directory: str
    axis: str
    config: Mapping[str, float] = {}
    project: str = PROJECT


class Opened(NamedTuple):
    """A logger that is open: `log(x, scalars)` logs at a place on the run's axis, `close()` waits until all is kept."""

    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


AXES = {"update": "step", "eval": "policy_version"}


def run_of(stage: str, path: str | None, options: Mapping[str, Any] | None = None) -> Run:
    """The run of a stage that works on a path.

    Args:
        stage: its name.
        path: a directory of metrics or of versions, a version, or a file; standard input is of the current directory.
        options: what it was told; numbers and switches become the run's configuration.
    """
    directory = Path.cwd() if path in (None, "-") else Path(path or "").absolute()
    if directory.suffix and not directory.is_dir():
        directory = directory.parent
    while PARTS.fullmatch(directory.name):
        directory = directory.parent
    name = f"{directory.name or 'run'}{'' if stage == 'update' else f'-{stage}'}"
    key = xxhash.xxh3_64_hexdigest(f"{stage}:{directory}".encode())
    return Run(stage, name, key, str(directory), f"{stage}/{AXES[stage]}", numbers(options or {}))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers or switches."""
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
