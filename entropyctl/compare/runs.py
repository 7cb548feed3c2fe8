"""Two runs by their metrics: entropy, reward, predicted and realised change, masking and KL, step beside step."""

from __future__ import annotations

import os
from typing import Any

from entropyctl.errors import InputError, MismatchError
from entropyctl.laws.collect import check_definitions, definition
from entropyctl.table.rows import Rows, read_rows

# What is compared, where both have it.
NUMBERS = ("entropy", "reward", "predicted_change", "realised_change", "mask_fraction", "kl")
Series = dict[int, dict[str, float | None]]


def metrics_of(path: str) -> str:
    """The metrics that a path means: those of the run in a directory, or the path itself."""
    inside = os.path.join(path, "metrics")
    return inside if os.path.isdir(inside) else path


def compare_runs(a: str, b: str, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    """Two runs side by side.

    Args:
        a: directory of a run, or its metrics.
        b: that of the other.
        allow: fields of the definition of entropy on which they may disagree.

    Returns:
        a, b (path, steps, first, last), steps: those that both have; numbers: for each of `NUMBERS` that both have `a`
        and `b`, one for each of these steps, and `end` and `mean`, at the last of them and over all: a, b, difference.

    Raises:
        MismatchError: they have no step in common, or measured entropy in different ways.
        InputError: one of them is no metrics table.
    """
    read = [read_rows(metrics_of(path), allow) for path in (a, b)]
    for rows, path in zip(read, (a, b), strict=True):
        if "step" not in rows.rows.column_names or "entropy" not in rows.rows.column_names:
            raise InputError(f"{path}: has no steps with an entropy; name a run, or what `update --metrics` wrote")
    check_definitions([pair for rows in read for pair in definition(rows)], allow, read)
    one, other = (_series(rows) for rows in read)
    steps = sorted(set(one) & set(other))
    if not steps:
        raise MismatchError(f"{b}: has no step in common with {a}; compare runs that count from the same step")
    numbers = {name: _numbers(name, one, other, steps) for name in NUMBERS}
    return {
        "kind": "runs",
        **{side: _span(path, series) for side, path, series in (("a", a, one), ("b", b, other))},
        "steps": steps,
        "numbers": {name: found for name, found in numbers.items() if found is not None},
    }


def _series(rows: Rows) -> Series:
    """Each step's numbers; of a step that is there twice the last."""
    names = [name for name in NUMBERS if name in rows.rows.column_names]
    columns = zip(*(rows.rows[name].to_pylist() for name in ("step", *names)), strict=True)
    return {int(step): dict(zip(names, values, strict=True)) for step, *values in columns if step is not None}


def _span(path: str, series: Series) -> dict[str, Any]:
    return {"path": path, "steps": len(series), "first": min(series), "last": max(series)}


def _numbers(name: str, one: Series, other: Series, steps: list[int]) -> dict[str, Any] | None:
    """A number of both runs at each step, at the end and in the mean; None where one of them never has it."""
    a, b = ([series[step].get(name) for step in steps] for series in (one, other))
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not pairs:
        return None
    mean = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    return {"a": a, "b": b, "end": _difference(*pairs[-1]), "mean": _difference(*mean)}


def _difference(a: float, b: float) -> dict[str, float]:
    return {"a": a, "b": b, "difference": b - a}
